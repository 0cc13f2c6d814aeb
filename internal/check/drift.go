package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/pg"
)

// driftCheck compares schema, settings, roles and grants with the baseline that
// somebody accepted.
func driftCheck() Check {
	return Check{
		Name:       "drift",
		Question:   "Are schema, settings, roles and grants as they were accepted?",
		Kinds:      []Kind{{ClassDrift, SeverityCritical}, {ClassDrift, SeverityWarning}, {ClassDrift, SeverityInfo}},
		Interval:   15 * time.Minute,
		Needs:      "nothing; SELECT on pg_hba_file_rules and pg_file_settings and EXECUTE on their functions for those files",
		Locks:      "ACCESS SHARE on catalogues",
		Afterwards: true,
		idle: func(scope Scope, database string) string {
			switch {
			case len(scope.Relations) > 0:
				return "the schema is compared as a whole"
			case scope.Accept != nil:
				return ""
			}
			if _, found, err := AcceptedBaseline(scope.Memory, database); err != nil || found {
				return ""
			}
			return "no baseline was accepted, so there is nothing to compare with: pg_integrity_exporter baseline accept keeps one under --state.path"
		},
		run: runDrift,
	}
}

// Baseline is what a database was accepted to look like.
type Baseline struct {
	Acceptance

	Facts facts `json:"facts"`
}

// acceptedKey and factsKey are the keys of Memory for a database's baseline: who
// accepted it, and what.
func acceptedKey(database string) string { return "drift/" + database + "/accepted" }
func factsKey(database string) string    { return "drift/" + database + "/baseline" }

// acceptance is what is kept under acceptedKey.
type acceptance struct {
	Acceptance

	SystemIdentifier int64 `json:"system_identifier"`
	// Noticed is when each difference was first seen, by object.
	Noticed map[string]time.Time `json:"noticed,omitempty"`
	// Same is the sum of facts that were last seen not to differ, and Objects how
	// many objects they were of.
	Same    string `json:"same,omitempty"`
	Objects int    `json:"objects,omitempty"`
}

// AcceptedBaseline says who accepted the baseline of a database and when.
func AcceptedBaseline(memory Memory, database string) (accepted Acceptance, found bool, err error) {
	if memory == nil {
		return Acceptance{}, false, nil
	}
	var kept acceptance
	found, err = memory.Recall(acceptedKey(database), &kept)
	return kept.Acceptance, found, err
}

// ReadBaseline reads the baseline of a database.
func ReadBaseline(memory Memory, database string) (Baseline, bool, error) {
	accepted, found, err := AcceptedBaseline(memory, database)
	if err != nil || !found {
		return Baseline{}, false, err
	}
	b := Baseline{Acceptance: accepted}
	found, err = memory.Recall(factsKey(database), &b.Facts)
	return b, found, err
}

func runDrift(ctx context.Context, s *session) error {
	if s.scope.Accept != nil {
		return s.acceptBaseline(ctx)
	}
	differences, err := s.differences(ctx)
	if err != nil {
		return err
	}
	for n, d := range differences {
		if n == maxDifferences {
			s.foundDrift(Difference{Severity: SeverityWarning}, fmt.Sprintf("%d more objects differ from the baseline (pg_integrity_exporter baseline diff shows all)", len(differences)-n))
			break
		}
		s.foundDrift(d, d.describe())
	}
	return nil
}

// maxDifferences bounds the objects that have a finding of their own.
const maxDifferences = 100

// acceptBaseline keeps the facts of now.
func (s *session) acceptBaseline(ctx context.Context) error {
	if s.scope.Memory == nil {
		return errors.New("there is no place to keep a baseline; give --state.path")
	}
	now, sum, err := s.facts(ctx)
	if err != nil {
		return err
	}
	identifier, err := s.systemIdentifier(ctx)
	if err != nil {
		return err
	}
	s.result.Objects = len(now)
	if err := s.scope.Memory.Remember(factsKey(s.database), now); err != nil {
		return err
	}
	return s.scope.Memory.Remember(acceptedKey(s.database), acceptance{Acceptance: *s.scope.Accept, SystemIdentifier: identifier, Same: sum, Objects: len(now)})
}

// Difference is one object that differs from the baseline.
type Difference struct {
	Database string    `json:"database"`
	Object   string    `json:"object"`
	Severity Severity  `json:"severity"`
	Noticed  time.Time `json:"noticed"`
	Changes  []Change  `json:"changes"`
}

// Change is one attribute that differs. Before or After is empty for one that
// was not there.
type Change struct {
	Attribute string   `json:"attribute"`
	Before    string   `json:"before,omitempty"`
	After     string   `json:"after,omitempty"`
	Severity  Severity `json:"severity"`
}

// Differences compares a database with its baseline.
func Differences(ctx context.Context, target *pg.Target, database string, memory Memory, logger *slog.Logger) ([]Difference, error) {
	var differences []Difference
	var failed error
	result := Run(ctx, target, database, Check{Name: "drift", run: func(ctx context.Context, s *session) error {
		differences, failed = s.differences(ctx)
		return failed
	}}, Scope{Memory: memory}, logger)
	if failed == nil && result.Outcome == OutcomeFailed {
		failed = errors.New(result.Reason)
	}
	return differences, failed
}

var errNoBaseline = errors.New("no baseline was accepted: run baseline accept")

// facts reads all facts, and their sum.
func (s *session) facts(ctx context.Context) (facts, string, error) {
	all := make(facts)
	var sum factSum
	err := s.readFacts(ctx, func(object, attribute, value string) {
		all.add(object, attribute, value)
		sum.add(object, attribute, value)
	})
	return all, sum.String(), err
}

// differences compares the facts of now with the baseline, the gravest first.
func (s *session) differences(ctx context.Context) ([]Difference, error) {
	var kept acceptance
	if s.scope.Memory == nil {
		return nil, errNoBaseline
	}
	found, err := s.scope.Memory.Recall(acceptedKey(s.database), &kept)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errNoBaseline
	}
	identifier, err := s.systemIdentifier(ctx)
	if err != nil {
		return nil, err
	}
	if kept.SystemIdentifier != identifier {
		return nil, errors.New("the baseline is of another cluster that had the same address: look at baseline show, then run baseline accept")
	}
	if kept.Same != "" {
		var sum factSum
		if err := s.readFacts(ctx, sum.add); err != nil {
			return nil, err
		}
		if sum.String() == kept.Same {
			s.result.Objects = kept.Objects
			return nil, nil
		}
	}
	var before facts
	if found, err = s.scope.Memory.Recall(factsKey(s.database), &before); err != nil || !found {
		return nil, cmp.Or(err, errNoBaseline)
	}
	now, sum, err := s.facts(ctx)
	if err != nil {
		return nil, err
	}
	s.result.Objects = len(now)
	differences := compareFacts(before, now)
	same := ""
	if len(differences) == 0 {
		same = sum
	}
	noticed := make(map[string]time.Time)
	for i := range differences {
		d := &differences[i]
		d.Database = s.database
		if d.Noticed = kept.Noticed[d.Object]; d.Noticed.IsZero() {
			d.Noticed = time.Now().UTC().Truncate(time.Second)
		}
		noticed[d.Object] = d.Noticed
	}
	if !maps.Equal(noticed, kept.Noticed) || same != kept.Same {
		kept.Noticed, kept.Same, kept.Objects = noticed, same, len(now)
		if err := s.scope.Memory.Remember(acceptedKey(s.database), kept); err != nil {
			return nil, err
		}
	}
	return differences, nil
}

// compareFacts lists what differs, the gravest first.
func compareFacts(before, now facts) []Difference {
	objects := make(map[string]bool)
	for object := range before {
		objects[object] = true
	}
	for object := range now {
		objects[object] = true
	}
	var differences []Difference
	for object := range objects {
		if _, hidden := before[object][unreadable]; hidden {
			continue
		}
		if _, hidden := now[object][unreadable]; hidden {
			continue
		}
		d := Difference{Object: object, Severity: SeverityInfo}
		attributes := maps.Clone(before[object])
		if attributes == nil {
			attributes = make(map[string]string)
		}
		maps.Copy(attributes, now[object])
		for _, attribute := range slices.Sorted(maps.Keys(attributes)) {
			old, current := before[object][attribute], now[object][attribute]
			if old != current {
				c := Change{Attribute: attribute, Before: old, After: current}
				c.Severity = danger(object, c, before[object] != nil, now[object] != nil)
				d.Changes = append(d.Changes, c)
				d.Severity = worse(d.Severity, c.Severity)
			}
		}
		if len(d.Changes) > 0 {
			slices.SortStableFunc(d.Changes, func(a, b Change) int { return severityRank[a.Severity] - severityRank[b.Severity] })
			differences = append(differences, d)
		}
	}
	slices.SortFunc(differences, func(a, b Difference) int {
		if a.Severity != b.Severity {
			return severityRank[a.Severity] - severityRank[b.Severity]
		}
		return strings.Compare(a.Object, b.Object)
	})
	return differences
}

var severityRank = map[Severity]int{SeverityCritical: 0, SeverityWarning: 1, SeverityInfo: 2}

func worse(a, b Severity) Severity {
	if severityRank[b] < severityRank[a] {
		return b
	}
	return a
}

// safeguards are attributes whose loss lets wrong data in, or people.
var safeguards = []string{"constraint ", "trigger ", "policy "}

// dangerousSettings are settings with a value that lets data be lost or rules be
// passed by.
var dangerousSettings = regexp.MustCompile(`^setting (of role \S+ )?(fsync|full_page_writes|zero_damaged_pages|ignore_checksum_failure|session_replication_role|allow_system_table_mods|ignore_system_indexes|synchronous_commit|row_security|archive_mode|archive_command|wal_level|autovacuum)$`)

// danger says how dangerous a change is: critical for one that takes a safeguard
// away, info for what is only new, warning for everything else.
func danger(object string, c Change, existed, exists bool) Severity { //nolint:gocyclo // one case for each rule
	kind, _, _ := strings.Cut(object, " ")
	switch {
	case existed && !exists && (kind == "table" || kind == "event"):
		return SeverityCritical
	case strings.Contains(c.After, "(DISABLED)") || strings.Contains(c.After, "(REPLICA)"):
		return SeverityCritical
	case strings.Contains(c.After, "NOT VALID") && !strings.Contains(c.Before, "NOT VALID"), strings.Contains(c.After, "NOT ENFORCED") && !strings.Contains(c.Before, "NOT ENFORCED"):
		return SeverityCritical
	case c.After == "" && existed && exists && slices.ContainsFunc(safeguards, func(s string) bool { return strings.HasPrefix(c.Attribute, s) }):
		return SeverityCritical
	case c.Attribute == "persistence" && c.After == "UNLOGGED", c.Attribute == "row security" && c.After == "off" && existed:
		return SeverityCritical
	case strings.HasPrefix(c.Attribute, "index ") && strings.HasPrefix(c.Before, "CREATE UNIQUE") && (c.After == "" || strings.Contains(c.After, "(INVALID)")) && exists:
		return SeverityCritical
	case strings.HasPrefix(c.Attribute, "column ") && strings.Contains(c.Before, "NOT NULL") && c.After != "" && !strings.Contains(c.After, "NOT NULL"):
		return SeverityCritical
	case dangerousSettings.MatchString(c.Attribute):
		return SeverityCritical
	case strings.HasPrefix(c.Attribute, "grants on setting ") && dangerousSettings.MatchString("setting "+strings.TrimPrefix(c.Attribute, "grants on setting ")) && c.After != "":
		return SeverityCritical
	case kind == "role" && c.Attribute == "attributes" && gained(c, "SUPERUSER", "REPLICATION", "BYPASSRLS"):
		return SeverityCritical
	case kind == "pg_hba.conf" && c.After != "" && strings.Contains(c.Attribute, " trust"):
		return SeverityCritical
	case c.Before == "" && (!existed || !strings.HasPrefix(c.Attribute, "setting")):
		return SeverityInfo
	}
	return SeverityWarning
}

// gained says that a role has a power that it had not.
func gained(c Change, powers ...string) bool {
	return slices.ContainsFunc(powers, func(power string) bool {
		return slices.Contains(strings.Fields(c.After), power) && !slices.Contains(strings.Fields(c.Before), power)
	})
}

// Action says what happened to the object.
func (d Difference) Action() string {
	added, removed := true, true
	for _, c := range d.Changes {
		added = added && c.Before == ""
		removed = removed && c.After == ""
	}
	owned := slices.ContainsFunc(d.Changes, func(c Change) bool { return c.Attribute == "owner" })
	switch {
	case added && owned:
		return "was added"
	case removed && owned:
		return "was dropped"
	}
	return "changed"
}

// String is the change in one line.
func (c Change) String() string {
	const shown = 200
	cut := func(text string) string {
		text = oneLine(text)
		if runes := []rune(text); len(runes) > shown {
			return string(runes[:shown]) + "..."
		}
		return text
	}
	switch {
	case c.Before == "":
		return c.Attribute + " added: " + cut(c.After)
	case c.After == "":
		return c.Attribute + " removed: " + cut(c.Before)
	}
	before, after := oneLine(c.Before), oneLine(c.After)
	return c.Attribute + ": " + cut(around(before, after)) + " -> " + cut(around(after, before))
}

// around is the part of a long text that differs from another.
func around(text, other string) string {
	const before = 60
	at := 0
	for at < len(text) && at < len(other) && text[at] == other[at] {
		at++
	}
	if len(text) < 200 || at < 2*before {
		return text
	}
	return "..." + strings.ToValidUTF8(text[at-before:], "")
}

// describe tells of the difference in one message.
func (d Difference) describe() string {
	if action := d.Action(); action != "changed" {
		return fmt.Sprintf("%s %s since the baseline was accepted (noticed %s)", d.Object, action, d.Noticed.Format(time.RFC3339))
	}
	var changes []string
	for _, c := range d.Changes[:min(rowsShown, len(d.Changes))] {
		changes = append(changes, c.String())
	}
	if len(d.Changes) > rowsShown {
		changes = append(changes, fmt.Sprintf("and %d more", len(d.Changes)-rowsShown))
	}
	return fmt.Sprintf("%s differs from the baseline (noticed %s): %s", d.Object, d.Noticed.Format(time.RFC3339), strings.Join(changes, "; "))
}

// relationKinds are the kinds of objects that are relations.
var relationKinds = regexp.MustCompile(`^(?:table|view|materialized view|sequence|foreign table) ([^.]+)\.(.+)$`)

func (s *session) foundDrift(d Difference, message string) {
	f := Finding{
		Class: ClassDrift, Severity: d.Severity, Message: message,
		Impact: "What was changed is not what was reviewed and tested.",
		Action: "If a deployment did it, approve it with pg_integrity_exporter baseline accept (it shows nothing then); if not, find out who did and put it back.",
	}
	if d.Severity == SeverityCritical {
		f.Impact = "A safeguard of the data is gone: rows that break the rules, or people who should not be there, can come in from now on, and nobody is told."
		f.Action = "Put it back at once unless it is meant, then run the check constraint on the object: rows may have come in meanwhile. pg_integrity_exporter baseline diff shows everything that changed."
	}
	if match := relationKinds.FindStringSubmatch(d.Object); match != nil {
		f.Schema, f.Relation = match[1], match[2]
	}
	s.found(f, "drift "+d.Object)
}
