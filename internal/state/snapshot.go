package state

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pglog"
)

// CheckLog is the name under which damage is reported that a statement ran
// into and the log told of.
const CheckLog = "log"

// Snapshot is everything that is known about one target at one moment. It is
// never changed after it was published.
type Snapshot struct {
	// Revision is another one when anything has changed but Up, WriteFailures, Log,
	// Samples and what is not exported.
	Revision uint64
	// Up is whether the state is kept on disk.
	Up bool
	// WriteFailures counts writes that the disk refused.
	WriteFailures uint64
	// Counters are the counters of the log reader, by Counter.
	Counters map[pglog.Counter]uint64
	// Log is how the log reader fares.
	Log pglog.Status
	// LogBlindness lists what keeps the log from telling everything.
	LogBlindness []pglog.Blindness
	// LogApplications and LogRoles are those whose errors are counted by name.
	LogApplications, LogRoles []string
	// Samples are the most frequent messages of the log without their literals,
	// the most frequent first.
	Samples []pglog.Sample
	// Databases are the databases of the server, by name, as last seen.
	Databases []string
	// Checks are the planned checks with their last results, by check and
	// database.
	Checks []CheckState
	// Runs counts runs by check and outcome.
	Runs map[RunKey]uint64
	// MissedSlots counts due times that found the check still waiting, by check.
	MissedSlots map[string]uint64
	// Held is for how long checks held back since the exporter started, by reason.
	Held map[Pressure]time.Duration
	// Findings are the open findings, the gravest first.
	Findings []Finding

	findingsShown int
	accumulators  map[string]accumulator
	positions     map[string]pglog.Position
}

// RunKey is the key of Snapshot.Runs.
type RunKey struct {
	Check   string
	Outcome check.Outcome
}

// CheckState is one check in one database.
type CheckState struct {
	Check    string        `json:"check"`
	Database string        `json:"database"`
	Interval time.Duration `json:"interval"`
	// Planned is since when it is to run in the database; zero is that an older
	// program planned it.
	Planned time.Time `json:"planned,omitzero"`
	// Outcome and Reason are those of the last whole run; empty before it.
	Outcome check.Outcome `json:"outcome,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	// On is the standby on which it was; empty is the target itself.
	On string `json:"on,omitempty"`
	// LastRun is when the last whole run ended, LastSuccess when one last looked
	// at everything; zero is never.
	LastRun     time.Time     `json:"last_run,omitzero"`
	LastSuccess time.Time     `json:"last_success,omitzero"`
	Duration    time.Duration `json:"duration,omitempty"`
	// Objects is how many relations the last whole run looked at.
	Objects int `json:"objects,omitempty"`
	// Coverage is the share of the database's bytes that it looked at.
	Coverage float64 `json:"coverage,omitempty"`
	// CheckedBytes is what all runs together have looked at.
	CheckedBytes uint64 `json:"checked_bytes,omitempty"`
	// History are the last whole runs, the newest first.
	History []Run `json:"history,omitempty"`
}

// WaitingSince is since when the check has been planned and has not once looked at
// everything; zero is that it has.
func (c *CheckState) WaitingSince() time.Time {
	if !c.LastSuccess.IsZero() {
		return time.Time{}
	}
	return c.Planned
}

// historyLength is how many whole runs of a check are kept.
const historyLength = 10

// Run is how one whole run of a check ended.
type Run struct {
	Finished time.Time     `json:"finished"`
	Duration time.Duration `json:"duration"`
	Outcome  check.Outcome `json:"outcome"`
	// Findings is how many findings the run reported.
	Findings int `json:"findings,omitempty"`
}

// Finding is a finding with its history.
type Finding struct {
	check.Finding

	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
	// LastGood is when a check had last looked at everything in the database
	// without this finding: damage is younger. Zero is never.
	LastGood time.Time `json:"last_good,omitzero"`
	// Doubtful says that the log told of it before anybody followed it: it may
	// have been mended long ago. It is shown when no check can look.
	Doubtful bool `json:"doubtful,omitempty"`
}

// lastGood is when a check had last proved that a database does not have a new
// finding of a check: that check itself, or for what the log told of any check
// that reads everything.
func (s *Snapshot) lastGood(f Finding) time.Time {
	var last time.Time
	for _, c := range s.Checks {
		if c.Database == f.Database && (c.Check == f.Check || f.Check == CheckLog && check.Reads(c.Check)) && c.LastSuccess.After(last) {
			last = c.LastSuccess
		}
	}
	return last
}

// Object is a relation with findings of one check.
type Object struct {
	Check    string
	Database string
	Schema   string
	Relation string
	Severity check.Severity
}

// CountFindings counts the open findings of a check in a database that are of
// this class and severity.
func (s *Snapshot) CountFindings(checkName, database string, kind check.Kind) int {
	count := 0
	for _, f := range s.Findings {
		if f.Check == checkName && f.Database == database && f.Class == kind.Class && f.Severity == kind.Severity {
			count++
		}
	}
	return count
}

// Objects lists the objects with findings, the gravest first, up to the
// configured number, and how many more there are.
func (s *Snapshot) Objects() (objects []Object, truncated int) {
	worst := make(map[Object]check.Severity)
	var order []Object
	for _, f := range s.Findings {
		if f.Doubtful {
			continue
		}
		key := Object{Check: f.Check, Database: f.Database, Schema: f.Schema, Relation: f.Relation}
		if _, known := worst[key]; !known {
			worst[key] = f.Severity // the findings are in order: the first is the gravest
			order = append(order, key)
		}
	}
	if len(order) > s.findingsShown {
		truncated = len(order) - s.findingsShown
		order = order[:s.findingsShown]
	}
	for _, key := range order {
		severity := worst[key]
		key.Severity = severity
		objects = append(objects, key)
	}
	return objects, truncated
}

// clone copies what a change may touch.
func (s *Snapshot) clone() *Snapshot {
	next := *s
	next.Counters = maps.Clone(s.Counters)
	next.Checks = slices.Clone(s.Checks)
	next.Runs = maps.Clone(s.Runs)
	next.MissedSlots = maps.Clone(s.MissedSlots)
	next.Held = maps.Clone(s.Held)
	next.Findings = slices.Clone(s.Findings)
	next.accumulators = maps.Clone(s.accumulators)
	next.positions = maps.Clone(s.positions)
	return &next
}

// check finds the state of a check in a database, or nil.
func (s *Snapshot) check(name, database string) *CheckState {
	for i := range s.Checks {
		if s.Checks[i].Check == name && s.Checks[i].Database == database {
			return &s.Checks[i]
		}
	}
	return nil
}

func (s *Snapshot) sortFindings() {
	rank := map[check.Severity]int{check.SeverityCritical: 0, check.SeverityWarning: 1, check.SeverityInfo: 2}
	slices.SortFunc(s.Findings, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(rank[a.Severity], rank[b.Severity]),
			cmp.Compare(a.Check, b.Check),
			cmp.Compare(a.Database, b.Database),
			cmp.Compare(a.Schema, b.Schema),
			cmp.Compare(a.Relation, b.Relation),
			cmp.Compare(a.Fingerprint, b.Fingerprint),
		)
	})
}

// accumulator makes a rising counter out of one that is set back.
type accumulator struct {
	// Base is what was counted before the last time it was set back.
	Base float64 `json:"base"`
	// Raw is the server's last value.
	Raw float64 `json:"raw"`
}

func (a accumulator) total() float64 { return a.Base + a.Raw }
