package state

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pglog"
)

// Target is the state of one target.
type Target struct {
	name  string
	store *Store
	files *Files

	mu      sync.Mutex // one change at a time
	unsaved bool       // an earlier write failed: the next one writes everything
	seeing  sync.Mutex // one result at a time notes its relations
	current atomic.Pointer[Snapshot]
}

// Files are what commands share with the running exporter.
func (t *Target) Files() *Files { return t.files }

// Record adds an event to the target's timeline. An event that cannot be
// written is lost; that is logged, once until the reason changes.
func (t *Target) Record(event Event) {
	if err := t.files.Record(event); err != nil {
		t.store.complain(err)
	}
}

// Snapshot is the state as last published.
func (t *Target) Snapshot() *Snapshot { return t.current.Load() }

// change makes a new snapshot, writes it and publishes it. write names what to
// write; when an earlier write failed, everything is written.
func (t *Target) change(mutate func(next *Snapshot), write ...record) {
	t.note(func(next *Snapshot) {
		mutate(next)
		next.Revision++
	}, write...)
}

// note is change for what is not part of the revision.
func (t *Target) note(mutate func(next *Snapshot), write ...record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.apply(mutate, write...)
}

func (t *Target) apply(mutate func(next *Snapshot), write ...record) {
	before := t.current.Load()
	next := before.clone()
	mutate(next)
	next.Up = t.store.usable()
	if next.Up && (t.unsaved || len(write) > 0) {
		if t.unsaved {
			write = everything(next)
		}
		if err := t.store.write(t.name, next, write); err != nil {
			t.store.complain(err)
			t.unsaved = true
			next.WriteFailures++
		} else {
			t.unsaved = false
		}
	}
	next.Up = next.Up && !t.unsaved
	t.current.Store(next)
	if slices.ContainsFunc(write, func(r record) bool { return r.kind == recordFindings }) {
		for _, event := range changedFindings(before.Findings, next.Findings, time.Now()) {
			t.Record(event)
		}
	}
}

// changedFindings tells what opened and what cleared between two snapshots. A
// doubtful finding is not open yet.
func changedFindings(before, after []Finding, now time.Time) []Event {
	open := func(findings []Finding) map[string]Finding {
		byFingerprint := make(map[string]Finding, len(findings))
		for _, f := range findings {
			if !f.Doubtful {
				byFingerprint[f.Fingerprint] = f
			}
		}
		return byFingerprint
	}
	was, is := open(before), open(after)
	var events []Event
	for _, f := range after {
		if _, known := was[f.Fingerprint]; !known && !f.Doubtful {
			events = append(events, findingEvent(EventFindingOpened, f, now))
		}
	}
	for _, f := range before {
		if _, still := is[f.Fingerprint]; !still && !f.Doubtful {
			events = append(events, findingEvent(EventFindingCleared, f, now))
		}
	}
	return events
}

func findingEvent(kind EventKind, f Finding, now time.Time) Event {
	event := Event{
		Time: now, Kind: kind, Severity: f.Severity, Database: f.Database, Schema: f.Schema, Relation: f.Relation,
		Message: f.Message, Source: "check " + f.Check,
		Details: map[string]string{"check": f.Check, "class": string(f.Class), "fingerprint": f.Fingerprint, "first_seen": f.FirstSeen.UTC().Format(time.RFC3339)},
	}
	if !f.LastGood.IsZero() {
		event.Details["last_good"] = f.LastGood.UTC().Format(time.RFC3339)
	}
	return event
}

// Limit sets how many objects have a series of their own.
func (t *Target) Limit(findings int) {
	t.change(func(next *Snapshot) { next.findingsShown = findings })
}

// Planned is one check that is to run in one database.
type Planned struct {
	Check    string
	Database string
	Interval time.Duration
}

// Plan says which checks are to run where, and which databases there are.
// Results, findings and counters of databases that are gone are dropped.
func (t *Target) Plan(databases []string, planned []Planned) {
	for _, gone := range t.Snapshot().Databases {
		if !slices.Contains(databases, gone) {
			if err := t.files.Delete(relationsKind, gone); err != nil {
				t.store.complain(err)
			}
		}
	}
	t.change(func(next *Snapshot) {
		checks := make([]CheckState, 0, len(planned))
		for _, p := range planned {
			c := CheckState{Check: p.Check, Database: p.Database}
			if known := next.check(p.Check, p.Database); known != nil {
				c = *known
			}
			if c.Planned.IsZero() {
				c.Planned = time.Now()
			}
			c.Interval = p.Interval
			checks = append(checks, c)
		}
		next.Checks = checks
		next.Databases = slices.Clone(databases)
		next.Findings = slices.DeleteFunc(next.Findings, func(f Finding) bool {
			return f.Database != "" && !slices.Contains(databases, f.Database)
		})
	}, record{kind: recordChecks}, record{kind: recordFindings})
}

// RecordResult keeps the result of a check. whole says that it looked at the
// whole database and not at a few relations. A finding clears when the check
// that found it has looked at its relation again and did not find it; what
// the log told of clears when a check has read the relation since.
func (t *Target) RecordResult(result check.Result, whole bool) {
	t.change(func(next *Snapshot) {
		found := next.dated(result)
		next.Runs[RunKey{result.Check, result.Outcome}]++
		if c := next.check(result.Check, result.Database); c != nil {
			c.CheckedBytes += uint64(max(result.Bytes, 0))
			if whole {
				c.record(result)
			}
		}
		next.clear(result, whole)
		if result.Reads && (result.Outcome == check.OutcomeSkipped || result.Outcome == check.OutcomeFailed) {
			next.trust(result.Database)
		}
		next.reportAll(found)
	}, record{kind: recordChecks}, record{kind: recordFindings}, record{kind: recordRuns})
	t.see(result)
}

// see remembers which relations were looked at.
func (t *Target) see(result check.Result) {
	t.seeing.Lock()
	defer t.seeing.Unlock()
	if err := seeRelations(t.files, result); err != nil {
		t.store.complain(err)
	}
}

// RecordPart keeps what a run has found that goes on: the findings, and what
// they are no longer true of. The run itself is recorded when it ends.
func (t *Target) RecordPart(result check.Result) {
	t.change(func(next *Snapshot) {
		found := next.dated(result)
		next.clear(result, false)
		next.reportAll(found)
	}, record{kind: recordFindings})
}

// dated are the findings of a result with what is known of their time, before
// the result itself counts.
func (s *Snapshot) dated(result check.Result) []Finding {
	found := make([]Finding, 0, len(result.Findings))
	for _, f := range result.Findings {
		dated := Finding{Finding: f, FirstSeen: result.Finished, LastSeen: result.Finished}
		dated.LastGood = s.lastGood(dated)
		for _, known := range s.Findings {
			if known.Fingerprint == f.Fingerprint {
				dated.FirstSeen, dated.LastGood = known.FirstSeen, known.LastGood
			}
		}
		found = append(found, dated)
	}
	return found
}

// told are findings that the log told of, with when the object was last known to
// be good.
func (s *Snapshot) told(findings []Finding) []Finding {
	findings = slices.Clone(findings)
	for i := range findings {
		findings[i].LastGood = s.lastGood(findings[i])
	}
	return findings
}

func (c *CheckState) record(result check.Result) {
	c.Outcome, c.Reason, c.On = result.Outcome, result.Reason, result.On
	c.LastRun = result.Finished
	c.Duration = result.Finished.Sub(result.Started)
	c.Objects = result.Objects
	c.Coverage = 0
	switch {
	case result.Whole:
		c.Coverage = 1
		c.LastSuccess = result.Finished
	case result.Partly && result.TotalBytes > 0:
		c.Coverage = min(float64(result.Bytes)/float64(result.TotalBytes), 1)
		c.LastSuccess = result.Finished
	case result.TotalBytes > 0:
		c.Coverage = min(float64(result.Bytes)/float64(result.TotalBytes), 1)
	}
	run := Run{Finished: result.Finished, Duration: c.Duration, Outcome: result.Outcome, Findings: len(result.Findings)}
	c.History = append([]Run{run}, c.History[:min(len(c.History), historyLength-1)]...)
}

// clear takes away the findings that result proves to be over.
func (s *Snapshot) clear(result check.Result, whole bool) {
	verified := make(map[check.RelationName]bool) // of those that have findings: there are tens of thousands of others
	for _, f := range s.Findings {
		verified[check.RelationName{Schema: f.Schema, Name: f.Relation}] = false
	}
	for _, r := range result.Verified {
		if _, has := verified[r]; has {
			verified[r] = true
		}
	}
	s.Findings = slices.DeleteFunc(s.Findings, func(f Finding) bool {
		if f.Database != result.Database || !f.LastSeen.Before(result.Started) {
			return false
		}
		if f.Check != result.Check && (f.Check != CheckLog || !result.Reads) {
			return false
		}
		if whole && result.Whole && f.Check == result.Check {
			return true // everything was looked at; what is still wrong is reported again
		}
		return verified[check.RelationName{Schema: f.Schema, Name: f.Relation}]
	})
}

// report adds a finding, or notes that a known one is still there.
func (s *Snapshot) report(f Finding) {
	for i := range s.Findings {
		known := &s.Findings[i]
		if known.Fingerprint == f.Fingerprint {
			known.Finding = f.Finding
			known.LastSeen = f.LastSeen
			known.Doubtful = known.Doubtful && f.Doubtful
			return
		}
	}
	s.Findings = append(s.Findings, f)
}

// trust believes what the log told of a database, because a check could not
// look.
func (s *Snapshot) trust(database string) {
	for i := range s.Findings {
		if s.Findings[i].Database == database {
			s.Findings[i].Doubtful = false
		}
	}
}

// MissedSlot counts a due time of a check that could not be kept.
func (t *Target) MissedSlot(name string) {
	t.change(func(next *Snapshot) { next.MissedSlots[name]++ }, record{kind: recordRuns})
}

// LogPosition is where the reader of a source of the log is to go on; the zero
// position is the beginning of everything.
func (t *Target) LogPosition(source string) pglog.Position {
	positions := t.Snapshot().positions
	if position, known := positions[source]; known {
		return position
	}
	return positions[anySource]
}

// CommitLog keeps what a log reader has read and found since the last call,
// together with the position behind it.
func (t *Target) CommitLog(batch pglog.Batch, findings []Finding) {
	var write []record
	if batch.Source != "" {
		write = append(write, record{kind: recordPositions})
	}
	for counter := range batch.Counts {
		write = append(write, record{kind: recordCounter, counter: counter})
	}
	if len(batch.Samples) > 0 {
		write = append(write, record{kind: recordSamples})
	}
	if len(findings) > 0 {
		write = append(write, record{kind: recordFindings})
	}
	keep := t.change
	if len(batch.Counts) == 0 && len(findings) == 0 {
		keep = t.note
	}
	keep(func(next *Snapshot) {
		if batch.Source != "" {
			delete(next.positions, anySource)
			next.positions[batch.Source] = batch.Position
		}
		for counter, n := range batch.Counts {
			next.Counters[counter] += n
		}
		if len(batch.Samples) > 0 {
			next.Samples = pglog.MergeSamples(next.Samples, batch.Samples)
		}
		next.reportAll(next.told(findings))
	}, write...)
}

// Report keeps findings that became known after their messages were committed.
func (t *Target) Report(findings []Finding) {
	if len(findings) == 0 {
		return
	}
	t.change(func(next *Snapshot) { next.reportAll(next.told(findings)) }, record{kind: recordFindings})
}

func (s *Snapshot) reportAll(findings []Finding) {
	for _, f := range findings {
		s.report(f)
	}
	s.sortFindings()
}

// LogStatus publishes how the log reader fares.
func (t *Target) LogStatus(status pglog.Status) {
	if t.Snapshot().Log == status {
		return
	}
	t.note(func(next *Snapshot) { next.Log = status })
}

// LogNames publishes whose errors are counted by name.
func (t *Target) LogNames(applications, roles []string) {
	t.change(func(next *Snapshot) { next.LogApplications, next.LogRoles = applications, roles })
}

// LogBlindness publishes what keeps the log from telling everything; unread are
// the findings of a log that is not read now.
func (t *Target) LogBlindness(blindness []pglog.Blindness, unread []check.Finding) {
	ofLog := func(f Finding) bool { return f.Check == CheckLog && f.Class == check.ClassUnsafeSetting }
	var write []record
	if len(unread) > 0 || slices.ContainsFunc(t.Snapshot().Findings, ofLog) {
		write = append(write, record{kind: recordFindings})
	}
	now := time.Now()
	t.change(func(next *Snapshot) {
		next.LogBlindness = blindness
		next.Findings = slices.DeleteFunc(next.Findings, func(known Finding) bool {
			return ofLog(known) && !slices.ContainsFunc(unread, func(f check.Finding) bool { return f.Fingerprint == known.Fingerprint })
		})
		for _, f := range unread {
			next.reportAll([]Finding{{Finding: f, FirstSeen: now, LastSeen: now}})
		}
	}, write...)
}

// Accumulate turns a counter of the server that may be set back into one that
// only rises. It writes only when the value changed.
func (t *Target) Accumulate(counter string, raw float64) float64 {
	if known, ok := t.Snapshot().accumulators[counter]; ok && known.Raw == raw {
		return known.total()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.Snapshot().accumulators[counter]
	if ok && known.Raw == raw {
		return known.total()
	}
	if raw < known.Raw {
		known.Base += known.Raw
	}
	known.Raw = raw
	t.apply(func(next *Snapshot) { next.accumulators[counter] = known }, record{kind: recordAccumulators})
	return known.total()
}
