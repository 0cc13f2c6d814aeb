package check

import (
	"context"
	"log/slog"
	"time"

	"pg_integrity_exporter/internal/pg"
)

// Outcome says how a check ended in one database. The values are the closed
// list of the label outcome and of the field "outcome" of `check
// --output=json`.
type Outcome string

// The outcomes of a check. Findings says that something is wrong, whatever
// else happened; Failed that nothing was found but something could not be
// looked at; Skipped that the check does not apply or may not run here, for
// the reason given; OK that everything was looked at and is well.
const (
	OutcomeFailed   Outcome = "failed"
	OutcomeFindings Outcome = "findings"
	OutcomeOK       Outcome = "ok"
	OutcomeSkipped  Outcome = "skipped"
)

// Outcomes lists every Outcome, in the order in which they are exported.
func Outcomes() []Outcome {
	return []Outcome{OutcomeFailed, OutcomeFindings, OutcomeOK, OutcomeSkipped}
}

// Kind is a class and a severity that a check may report; the metric
// pgintegrity_check_findings exists at 0 for each.
type Kind struct {
	Class    Class
	Severity Severity
}

// Check is one integrity check of one database.
type Check struct {
	// Name is the check's file, page, flag and label.
	Name string
	// Question is what the check answers, in one line.
	Question string
	// Kinds are the classes and severities of what it may report.
	Kinds []Kind
	// Interval is how often it runs unless configured otherwise.
	Interval time.Duration
	// Needs is the privilege and extension it needs, for the documentation.
	Needs string
	// Locks are the locks it takes, for the documentation.
	Locks string
	// run looks at the database of the session and reports.
	run func(ctx context.Context, s *Session) error
}

// All lists the checks in the order in which they must run: what is safe to
// do with damaged data first, because what comes later reads more deeply and
// leaves alone what was found damaged before.
func All() []Check {
	return []Check{heapCheck(), btreeCheck()}
}

// Scope says which part of a database a check shall look at, and how hard.
type Scope struct {
	// Relations limits the check to these relations and what belongs to them
	// (a table's indexes and TOAST table); empty is all.
	Relations []RelationName
	// Deep asks for everything, ignoring sampling and intervals.
	Deep bool
	// RateLimit is how many bytes per second the check may read; 0 is no limit.
	RateLimit int64
	// Damaged is shared by the checks of one sweep: relations found damaged, which
	// later checks must not read deeply.
	Damaged *Damaged
}

// RelationName names a relation; Schema is never empty.
type RelationName struct {
	Schema string
	Name   string
}

// Result is how one check ended in one database, as the contract's JSON has
// it, with the findings beside it.
type Result struct {
	Check    string  `json:"check"`
	Database string  `json:"database,omitempty"`
	Outcome  Outcome `json:"outcome"`
	// Reason says why it failed or was skipped, and what to do.
	Reason string `json:"reason"`
	// Objects is how many relations were looked at completely.
	Objects int `json:"objects"`
	// Bytes is how many bytes of relations were looked at.
	Bytes int64 `json:"bytes"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds"`

	Started  time.Time `json:"-"`
	Finished time.Time `json:"-"`
	// TotalBytes is the size of everything in the check's scope; Bytes divided
	// by it is the coverage.
	TotalBytes int64     `json:"-"`
	Findings   []Finding `json:"-"`
	// Verified lists what was looked at completely and is well, so that older
	// findings about it can be cleared. Whole says that it is everything.
	Verified []RelationName `json:"-"`
	Whole    bool           `json:"-"`
}

// Session is what a running check sees.
type Session struct {
	Conn   *pg.Conn
	Scope  Scope
	Logger *slog.Logger

	result *Result
}
