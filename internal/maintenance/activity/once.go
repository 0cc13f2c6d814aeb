package activity

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/secret"
	"pg_integrity_exporter/internal/state"
)

// One maintenance may be seen in three ways: while it runs, in the server's log,
// and by what it changed in the catalogue; and the guard tells of its runs
// itself. It is told once: what comes from the log or the catalogue, and the end
// of a run of the guard, is held for holdLooks looks, in which the others come
// in.
const (
	holdLooks = 2
	// rememberFor is how long what was told is remembered.
	rememberFor = 10 * time.Minute
	// sameMoment is how much the log and pg_stat_activity may differ in when a
	// statement began: log_line_prefix may have whole seconds. unknownMoment is for
	// a log that does not tell in a way that can be read.
	sameMoment    = 1500 * time.Millisecond
	unknownMoment = 15 * time.Second
	// maxLogged bounds what the log tells between two looks.
	maxLogged = 100
)

// held is an operation that may turn out to be known already, or one that was
// told.
type held struct {
	Operation

	ended time.Time
	since time.Time // when it was held or told
	near  time.Duration
}

// logSource is the source of what the server's log tells.
const logSource = "the server's log"

// Logged takes statements of the server's log.
func (w *Watcher) Logged(statements []pglog.Statement) {
	if !w.settings.Enabled {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range statements {
		if strings.HasPrefix(s.Application, pg.GuardApplicationName) {
			continue
		}
		kind, relation := recognise(s.Text, s.Application, s.Took >= pglog.BulkCopy)
		switch {
		case kind == "":
			continue
		case len(w.logged) >= maxLogged:
			w.seen[kind]++
			continue
		}
		h := held{near: sameMoment, Operation: Operation{
			Kind: kind, Database: s.Database, Relation: relation, By: strings.TrimSpace(s.Role + " " + s.Application), Statement: secret.Mask(s.Text),
			Started: s.Began, Fraction: -1, pid: s.PID, source: logSource,
		}}
		if h.Started.IsZero() {
			h.Started, h.near = time.Now(), unknownMoment
		}
		h.ended = h.Started.Add(s.Took)
		w.logged = append(w.logged, h)
	}
}

// hold keeps an operation until settle.
func (w *Watcher) hold(h held) {
	h.since = time.Now()
	w.held = append(w.held, h)
}

// settle gives what was held long enough and is not known in another way: it is
// to be told.
func (w *Watcher) settle() (due []held) {
	now := time.Now()
	old := func(h held) bool { return now.Sub(h.since) > rememberFor }
	w.told = slices.DeleteFunc(w.told, old)
	maps.DeleteFunc(w.runs, func(_ string, h held) bool { return old(h) })
	maps.DeleteFunc(w.guards, func(_ int, seen time.Time) bool { return now.Sub(seen) > rememberFor })
	w.mu.Lock()
	running := slices.Collect(maps.Values(w.running))
	w.mu.Unlock()
	// The end of a run of the guard tells what it touched.
	guarding := make(map[string]bool)
	for _, h := range w.held {
		guarding[h.Database] = guarding[h.Database] || h.Kind == Guarded
	}
	for _, o := range running {
		guarding[o.Database] = guarding[o.Database] || o.Kind == Guarded
	}
	runs := sync.OnceValue(w.guardEvents)
	waiting := w.held
	w.held = nil
	// The log knows more of a statement than what it changed.
	slices.SortStableFunc(waiting, func(a, b held) int { return strings.Compare(b.source, a.source) })
	for _, h := range waiting {
		seen := func(other held) bool { return same(h, other) }
		switch {
		case h.Kind != Guarded && guarding[h.Database]:
			w.held = append(w.held, h)
		case h.Kind == Guarded && w.guarded(h, runs()):
			w.runs[h.run] = h
		case h.Kind != Guarded && (w.ofGuard(h) || slices.ContainsFunc(w.told, seen) || slices.ContainsFunc(due, seen) ||
			h.source == catalogueSource && slices.ContainsFunc(waiting, seen) ||
			slices.ContainsFunc(running, func(o Operation) bool { return seen(held{Operation: o, ended: now}) }) || w.guarded(h, runs())):
		case now.Sub(h.since) < holdLooks*w.settings.Interval:
			w.held = append(w.held, h)
		default:
			due = append(due, h)
		}
	}
	return due
}

// toldFromLog says whether the log was faster, because looks failed.
func (w *Watcher) toldFromLog(o Operation) bool {
	return slices.ContainsFunc(w.told, func(t held) bool { return t.source == logSource && same(t, held{Operation: o}) })
}

// ofGuard says whether a session of the guard logged a statement; the log need
// not tell its application_name.
func (w *Watcher) ofGuard(h held) bool {
	_, ok := w.guards[h.pid]
	return ok && h.source == logSource
}

// guardEvents are the runs of the guard of the last day.
func (w *Watcher) guardEvents() []state.Event {
	now := time.Now()
	events, err := w.files.Events(now.Add(-24*time.Hour), now.Add(time.Minute))
	if err != nil {
		w.logger.Warn("the runs of the guard cannot be read", "err", err)
	}
	return slices.DeleteFunc(events, func(e state.Event) bool { return e.Kind != state.EventGuard })
}

// guarded says whether the guard told of the run that an operation belongs to.
func (w *Watcher) guarded(h held, runs []state.Event) bool {
	slack := holdLooks * w.settings.Interval
	return slices.ContainsFunc(runs, func(e state.Event) bool {
		switch {
		case h.Kind == Guarded:
			return e.Details["run"] == h.run
		case e.Database != h.Database || h.Started.Before(e.Time.Add(-slack)) || h.Started.After(e.Ended.Add(slack)):
			return false
		}
		return h.Relation.Name == "" || slices.ContainsFunc(strings.Split(e.Details["relations"], ", "), func(name string) bool {
			return strings.Trim(name[strings.LastIndex(name, ".")+1:], `"`) == h.Relation.Name
		})
	})
}

// causes are the kinds that change the files of what they work on.
var causes = []Kind{AlterTable, Cluster, Refresh, Reindex, Repack, Restore, Truncate, VacuumFull}

// ofPrograms are the kinds whose statements are not operations of their own.
var ofPrograms = slices.Compact(slices.Sorted(maps.Values(programs)))

// same says whether an operation of the log or of the catalogue is another one,
// seen in another way.
func same(h, other held) bool {
	switch {
	case h.Database != other.Database && h.Kind != AlterSystem, h.source == catalogueSource && other.source == catalogueSource:
		return false
	case h.source == catalogueSource && other.Kind == Guarded: // of a guard that tells nothing here
		return !other.ended.Before(h.Started.Add(-rememberFor))
	case h.source == catalogueSource:
		return explains(other, h)
	case other.source == catalogueSource:
		return explains(h, other)
	case h.Kind == other.Kind && slices.Contains(ofPrograms, h.Kind):
		return !h.Started.Before(other.Started.Add(-changeWithin)) && !h.Started.After(other.ended.Add(changeWithin))
	case h.Kind != other.Kind || h.pid != 0 && other.pid != 0 && h.pid != other.pid || h.Started.Sub(other.Started).Abs() > h.near:
		return false
	}
	a, b := firstLine(h.Statement), firstLine(other.Statement)
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}

// changeWithin is how long before it shows in the catalogue something may have
// ended, because looks fail, and how much the clocks may differ.
const changeWithin = time.Minute

// explains says whether an operation is what changed the catalogue. One that
// names nothing works on the whole database.
func explains(o, change held) bool {
	kind := o.Kind == change.Kind || change.Kind == Rewrite && slices.Contains(causes, o.Kind)
	relation := o.Relation.Name == "" || o.Relation.Name == change.Relation.Name
	return kind && relation && !o.ended.Before(change.Started.Add(-changeWithin)) && o.Started.Before(change.Started.Add(changeWithin))
}

// again finds a run of the guard that had ended, as far as one could see, and
// goes on.
func (w *Watcher) again(run string) (Operation, bool) {
	for i, h := range w.held {
		if h.Kind == Guarded && h.run == run {
			w.held = slices.Delete(w.held, i, i+1)
			return h.Operation, true
		}
	}
	h, ok := w.runs[run]
	return h.Operation, ok
}

// take holds what the log told since the last look, with whole names.
func (w *Watcher) take(ctx context.Context) {
	w.mu.Lock()
	logged := w.logged
	w.logged = nil
	w.mu.Unlock()
	conns := make(map[string]*pg.Conn)
	for _, h := range logged {
		if h.Relation.Name != "" {
			conn, tried := conns[h.Database]
			if !tried {
				conn = w.connect(ctx, h.Database)
				conns[h.Database] = conn
			}
			if conn != nil {
				h.Relation = w.resolve(ctx, conn, h.Operation)
			}
		}
		w.hold(h)
	}
	for _, conn := range conns {
		if conn != nil {
			conn.Close()
		}
	}
}

// tellHeld tells what settle gives.
func (w *Watcher) tellHeld() {
	for _, h := range w.settle() {
		if h.Kind == Guarded {
			w.runs[h.run] = h // counted when it began
		} else {
			w.mu.Lock()
			w.seen[h.Kind]++
			w.mu.Unlock()
		}
		w.tell(h.Operation, h.ended)
	}
}

// runOf is the id of the run in the application_name of a session of the guard.
func runOf(application string) string {
	run, _, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(application, pg.GuardApplicationName)), " ")
	return run
}

// remember reads what an earlier process told, whose statements the log may
// still be about to tell.
func (w *Watcher) remember() {
	now := time.Now()
	events, err := w.files.Events(now.Add(-rememberFor), now)
	if err != nil {
		w.logger.Warn("what was told of maintenance cannot be read", "err", err)
	}
	for _, e := range events {
		if e.Kind != state.EventMaintenance {
			continue
		}
		pid, _ := strconv.Atoi(e.Details["pid"])
		w.told = append(w.told, held{ended: e.Ended, since: now, Operation: Operation{
			Kind: Kind(e.Details["kind"]), Database: e.Database, Relation: check.RelationName{Schema: e.Schema, Name: e.Relation}, Statement: e.Details["statement"],
			Started: e.Time, pid: pid, run: e.Details["run"], source: e.Source,
		}})
	}
}
