package check

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// Class says what kind of trouble a finding is. The values are the closed list
// of the label class and of the field "class" of `check --output=json`.
type Class string

// The classes of findings.
const (
	ClassCorruption     Class = "corruption"
	ClassDataRule       Class = "data_rule"
	ClassDrift          Class = "drift"
	ClassLeftover       Class = "leftover"
	ClassRecoverability Class = "recoverability"
	ClassUnsafeSetting  Class = "unsafe_setting"
)

// Severity says how soon somebody must act. The values are the closed list of
// the label severity and of the field "severity" of `check --output=json`.
type Severity string

// The severities of findings: critical wakes somebody, warning is a ticket,
// info is context.
const (
	SeverityCritical Severity = "critical"
	SeverityInfo     Severity = "info"
	SeverityWarning  Severity = "warning"
)

// Finding is one thing that is wrong, as the contract's JSON has it. Facts
// that are not known are left out.
type Finding struct {
	// Check is the name of the check that found it, and that must pass on the
	// object before the finding clears.
	Check string `json:"check"`
	// Class is what kind of trouble it is.
	Class Class `json:"class"`
	// Severity is how soon somebody must act.
	Severity Severity `json:"severity"`
	// Database is the database of the object; empty for the whole cluster.
	Database string `json:"database,omitempty"`
	// Schema is the schema of the relation.
	Schema string `json:"schema,omitempty"`
	// Relation is the name of the table or index, without its schema.
	Relation string `json:"relation,omitempty"`
	// Block is the number of the damaged page within the relation, from 0.
	Block *uint32 `json:"block,omitempty"`
	// SQLState is the SQLSTATE that the server gave with the evidence.
	SQLState string `json:"sqlstate,omitempty"`
	// Message is what is wrong, with the evidence.
	Message string `json:"message"`
	// Impact is what that means for whoever uses the data.
	Impact string `json:"impact"`
	// Action is the first safe thing to do.
	Action string `json:"action"`
	// Fingerprint is the same for the same finding in two runs.
	Fingerprint string `json:"fingerprint"`
}

// Object is the finding's object for people: "database: schema.relation block
// n", as far as it is known.
func (f Finding) Object() string {
	var b strings.Builder
	b.WriteString(f.Database)
	if f.Relation != "" {
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		if f.Schema != "" {
			b.WriteString(f.Schema + ".")
		}
		b.WriteString(f.Relation)
	}
	if f.Block != nil {
		b.WriteString(" block " + strconv.FormatUint(uint64(*f.Block), 10))
	}
	if b.Len() == 0 {
		return "cluster"
	}
	return b.String()
}

// Identified is the finding with its fingerprint. kind is a word for the kind of
// damage that is the same in every run.
func (f Finding) Identified(kind string) Finding {
	f.Message = oneLine(f.Message)
	f.Fingerprint = fingerprint(f, kind)
	return f
}

// fingerprint is a stable identity made of what does not change between two
// runs: the check, the object, and a word for the kind of damage. Texts with
// counts or offsets in them do not belong in it.
func fingerprint(f Finding, kind string) string {
	block := ""
	if f.Block != nil {
		block = strconv.FormatUint(uint64(*f.Block), 10)
	}
	sum := sha256.Sum256([]byte(strings.Join(
		[]string{f.Check, string(f.Class), f.Database, f.Schema, f.Relation, block, kind}, "\x00")))
	return hex.EncodeToString(sum[:8])
}
