package check

import (
	"context"
	"slices"
	"sync"
	"time"
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
	// Reads says that the check reads all of a relation, so that it can disprove
	// what the log told of it.
	Reads bool
	// Server says that the check looks at the whole server: it runs once, through
	// whatever database can be connected to, and its results and findings name no
	// database unless the finding does.
	Server bool
	// Afterwards says that the check looks at the database as a whole, and runs once
	// more when maintenance has ended.
	Afterwards bool
	// Standby says that the check asks what rows say, which a standby knows as well.
	Standby bool
	// idle says why the check has nothing to do in a database; nil is never.
	idle func(scope Scope, database string) string
	// run looks at the database of the session and reports.
	run func(ctx context.Context, s *session) error
}

// Idle says why the check has nothing to do in a database of this scope, for
// example because nothing is configured for it; empty is that it has.
func (c Check) Idle(scope Scope, database string) string {
	if c.idle == nil {
		return ""
	}
	return c.idle(scope, database)
}

// OnStandby names the checks that may run on a standby instead of its primary.
func OnStandby() []string {
	var names []string
	for _, c := range All() {
		if c.Standby {
			names = append(names, c.Name)
		}
	}
	return names
}

// All lists the checks in the order in which they must run: what is safe to
// do with damaged data first, because what comes later reads more deeply and
// leaves alone what was found damaged before.
func All() []Check {
	return []Check{settingCheck(), leftoverCheck(), clusterCheck(), filesCheck(), pageCheck(), checksumCheck(), heapCheck(), btreeCheck(), catalogCheck(), collationCheck(),
		visibilityCheck(), indexCheck(), constraintCheck(), generatedCheck(), sequenceCheck(), invariantCheck(), sealedCheck(), matviewCheck(), driftCheck(),
		rowsCheck(), toastCheck()}
}

// Reads says whether the check of a name reads all of a relation.
func Reads(name string) bool {
	return slices.ContainsFunc(All(), func(c Check) bool { return c.Name == name && c.Reads })
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
	// Share is the share of the time for which the check may keep the server busy,
	// beyond the first five seconds of a run; 0 is no limit.
	Share float64
	// Jobs is how many relations a check may look at in parallel, each with a session
	// of its own; 0 is one, and so is a run that can be resumed.
	Jobs int
	// Heaps is what is known of the tables of the database, shared by the checks
	// of one sweep; nil is nothing.
	Heaps *Heaps
	// Reported is which check of a sweep has reported which page, so that a person
	// who reads the sweep's result is told once; nil lets every check report.
	Reported *Reported
	// Memory is what checks remember of earlier runs; nil is nothing.
	Memory Memory
	// Resume asks to go on where an earlier run was stopped, when Memory knows.
	Resume bool
	// Keep is given, now and then, what a long run has found so far; nil is
	// nobody. It is called before Memory is told how far the run came.
	Keep func(Result)
	// Progress is told about once a second how far a run has come; nil is nobody.
	Progress func(Result)
	// Pace is called between two reads and returns when the server can bear the
	// next one; nil is at once.
	Pace func(ctx context.Context)
	// GiveWay is called when the session of the check is needed for something
	// short; nil is that the check does not give way.
	GiveWay func()
	// Rules are what the configuration says of the data.
	Rules Rules
	// Scheduled says that the exporter asks and not a person: rules that have an
	// interval of their own are evaluated when they are due.
	Scheduled bool
	// Accept makes what is found now the baseline of later runs.
	Accept *Acceptance
}

// Acceptance is somebody's word that things are as they should be.
type Acceptance struct {
	Time   time.Time `json:"time"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	// Sealed names the sealed data that is accepted as it is; data that was never
	// sealed is sealed in any case.
	Sealed []string `json:"sealed,omitempty"`
}

// RelationName names a relation; Schema is never empty.
type RelationName struct {
	Schema string
	Name   string
}

// String is the name as SQL has it when no quotes are needed.
func (r RelationName) String() string { return r.Schema + "." + r.Name }

// Result is how one check ended in one database, as the contract's JSON has
// it, with the findings beside it.
type Result struct {
	Check    string  `json:"check"`
	Database string  `json:"database,omitempty"`
	Outcome  Outcome `json:"outcome"`
	// Reason says what could not be looked at, why, and what to do.
	Reason string `json:"reason"`
	// Objects is how many relations were looked at completely.
	Objects int `json:"objects"`
	// Bytes is how many bytes of relations were looked at.
	Bytes int64 `json:"bytes"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds"`
	// On is the standby whose answer it is; empty is the target's own.
	On string `json:"-"`

	Started  time.Time `json:"-"`
	Finished time.Time `json:"-"`
	// TotalBytes is about the size of everything in the check's scope; Bytes
	// divided by it is the coverage.
	TotalBytes int64     `json:"-"`
	Findings   []Finding `json:"-"`
	// Verified lists what was looked at completely, so that older findings about
	// it can be cleared. Whole says that it is the whole database.
	Verified []RelationName `json:"-"`
	Whole    bool           `json:"-"`
	// Partly says that some of it was left for another run on purpose.
	Partly bool `json:"-"`
	// Reads is that of the check.
	Reads bool `json:"-"`
}

// Heaps is what is known of the tables of one database. A table that is
// damaged must not be read deeply: that could crash the server.
type Heaps struct {
	mu   sync.Mutex
	sane map[uint32]opinion
	// lostBy are the checks whose server process died, by the name of what it read.
	lostBy map[string]string
	// hung is why no session could be opened in time, and hungAt when.
	hung   error
	hungAt time.Time

	// whole says that the check page has read the whole database.
	whole bool

	// trees is what was seen of the indexes of the database's catalogues.
	treesMu sync.Mutex
	trees   treesSeen
}

// opinion is what was found out about a table or an index, and when.
type opinion struct {
	sane bool
	when time.Time
	// complete says that an index was proved to lead to every row of its table.
	complete bool
}

// opinionAge is how long a table is believed to be sane.
const opinionAge = 12 * time.Hour

// NewHeaps knows nothing yet.
func NewHeaps() *Heaps {
	return &Heaps{sane: make(map[uint32]opinion), lostBy: make(map[string]string)}
}

// noteRead keeps that all pages of the database were read.
func (h *Heaps) noteRead() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.whole = true
}

// read says that all pages of the database were read.
func (h *Heaps) read() bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.whole
}

// note keeps what was found out about a table. What one check found damaged
// stays so until Forget.
func (h *Heaps) note(oid uint32, sane bool) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if known, ok := h.sane[oid]; ok && !known.sane {
		return
	}
	h.sane[oid] = opinion{sane: sane, when: time.Now()}
}

// noteComplete keeps that an index is sane and was proved to lead to every row of
// its table.
func (h *Heaps) noteComplete(oid uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known, ok := h.sane[oid]; !ok || known.sane {
		h.sane[oid] = opinion{sane: true, when: time.Now(), complete: true}
	}
}

// complete says that an index was proved to lead to every row of its table.
func (h *Heaps) complete(oid uint32) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.sane[oid]
	return o.complete && time.Since(o.when) <= opinionAge
}

// Forget drops what is known of all tables, before the checks look anew or
// after the server crashed.
func (h *Heaps) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.sane)
	clear(h.lostBy)
}

// lose notes that a check's server process died while it read something
// (wholeDatabase: its catalogues).
func (h *Heaps) lose(check, name string) {
	if h != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.lostBy[name] = check
	}
}

// lost is the check whose server process died over something, "" is none.
func (h *Heaps) lost(name string) string {
	if h == nil {
		return ""
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lostBy[name]
}

// hungAge is how long no other check waits where one has waited in vain.
const hungAge = time.Minute

// hang notes that no session could be opened in time.
func (h *Heaps) hang(err error) {
	if h != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.hung, h.hungAt = err, time.Now()
	}
}

// hangs is why a check need not wait for a session now; nil is that it may.
func (h *Heaps) hangs() error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.hungAt) > hungAge {
		return nil
	}
	return h.hung
}

// damaged says that a check has found a relation damaged.
func (h *Heaps) damaged(oid uint32) bool {
	sane, known := h.lookup(oid)
	return known && !sane
}

func (h *Heaps) lookup(oid uint32) (sane, known bool) {
	if h == nil {
		return false, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	o, known := h.sane[oid]
	if o.sane && time.Since(o.when) > opinionAge {
		return false, false
	}
	return o.sane, known
}

// Reported is which check has reported which page.
type Reported struct {
	mu sync.Mutex
	by map[place]string
	// labels are the tables whose rows have labels that their enums do not have.
	labels map[RelationName]bool
}

// place is a page of a relation.
type place struct {
	relation RelationName
	block    uint32
}

// NewReported knows of no page yet.
func NewReported() *Reported {
	return &Reported{by: make(map[place]string), labels: make(map[RelationName]bool)}
}

// noteLabel keeps that it was told of a table that its rows have labels which their
// enums do not have.
func (r *Reported) noteLabel(table RelationName) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.labels[table] = true
}

// label says that this was told.
func (r *Reported) label(table RelationName) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.labels[table]
}

// first says which check has reported a page before; a page that no other check
// has reported is name's from now on.
func (r *Reported) first(name string, p place) (by string) {
	if r == nil {
		return name
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if by, known := r.by[p]; known {
		return by
	}
	r.by[p] = name
	return name
}

// damaged says that a check has reported a page of a relation.
func (r *Reported) damaged(relation RelationName) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.by {
		if p.relation == relation {
			return true
		}
	}
	return false
}
