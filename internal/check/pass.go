package check

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// passKey is the key of Memory under which a check keeps how far it came.
	passKey = "pass"
	// keepInterval is how often a run keeps how far it came and what it found; a
	// kill loses no more.
	keepInterval = 10 * time.Second
	// maxPassAge is how old a run may be that another one goes on with.
	maxPassAge = 24 * time.Hour
)

// pass is how far a run came through the relations of a database, so that a
// run that was stopped goes on there, also in the middle of a relation.
type pass struct {
	// Started is when the first of the runs began.
	Started time.Time `json:"started"`
	// After is the last relation that was dealt with, in the order of the check.
	After string `json:"after,omitempty"`
	// Locked are the relations before it that are to be tried again.
	Locked []string `json:"locked,omitempty"`
	// At is the relation that is being looked at, and Block its first page that
	// was not. Found says that something was found in the pages before.
	At    string `json:"at,omitempty"`
	Block uint32 `json:"block,omitempty"`
	Found bool   `json:"found,omitempty"`
	// Problems, Objects and Bytes are what the result had by then.
	Problems []hindrance `json:"problems,omitempty"`
	Objects  int         `json:"objects"`
	Bytes    int64       `json:"bytes"`
}

// resume recalls what earlier runs left behind, and takes up the pass of a run
// that was stopped when the scope asks for it.
func (s *session) resume(ctx context.Context) error {
	s.kept = time.Now()
	if err := s.recallLost(ctx); err != nil {
		return err
	}
	if !s.scope.Resume || len(s.scope.Relations) > 0 {
		return nil
	}
	s.pass.Started = s.result.Started
	var earlier pass
	found, err := s.recall(ctx, passKey, &earlier)
	if err != nil || !found || earlier.After == "" && earlier.At == "" || time.Since(earlier.Started) > maxPassAge {
		return err
	}
	s.pass, s.resumed = earlier, true
	s.result.Started = earlier.Started
	s.result.Objects, s.result.Bytes = earlier.Objects, earlier.Bytes
	s.problems = slices.Clone(earlier.Problems)
	s.logger.Info("going on where an earlier run was stopped", "after", earlier.After, "at", earlier.At, "block", earlier.Block)
	return nil
}

const (
	// lostKey is the key of Memory under which a check keeps where its server
	// process died.
	lostKey = "lost"
	// wholeDatabase stands there for its catalogues, which every check reads.
	wholeDatabase = ""
	// statisticOID is pg_statistic.
	statisticOID = 2619
	// lostAge is how long a relation is left alone after that.
	lostAge = 24 * time.Hour
)

// recallLost reads at which relations the server process of this check died
// lately: it must not be the exporter that crashes a server again and again.
func (s *session) recallLost(ctx context.Context) error {
	if _, err := s.recall(ctx, lostKey, &s.lostAt); err != nil {
		return err
	}
	maps.DeleteFunc(s.lostAt, func(_ string, when time.Time) bool { return time.Since(when) > lostAge })
	if when, lost := s.lostAt[wholeDatabase]; lost {
		return s.leftAlone(when)
	}
	return nil
}

// leftAlone is why something is not looked at now.
func (s *session) leftAlone(when time.Time) error {
	return fmt.Errorf("left alone: at %s the server process that was reading it died, which damaged data can cause; look at the server's log, and check it alone on a copy or a standby",
		when.UTC().Format(time.RFC3339))
}

// blame remembers what was being read when the server process died. A server that
// is stopped, or whose other process crashed, says so before it ends a session; a
// process that dies itself says nothing.
func (s *session) blame(ctx context.Context, name string, err error) {
	if ctx.Err() != nil || sqlstate(err) != "" || s.conn.Evicted() || s.blamed {
		return
	}
	s.blamed = true
	asking, cancel := context.WithTimeout(ctx, connectTimeout)
	died, known := s.target.Restarted(asking, s.conn.Began(), s.purpose())
	cancel()
	if known && !died {
		return // the session ended, but not because of its last statement
	}
	if s.scope.Heaps.damaged(statisticOID) {
		// Damaged statistics kill whoever plans a statement, of any table.
		s.scope.Heaps.lose(s.name, wholeDatabase)
	}
	s.scope.Heaps.lose(s.name, name)
	if s.lostAt == nil {
		s.lostAt = make(map[string]time.Time)
	}
	s.lostAt[name] = time.Now()
	if died {
		s.tellDied(name)
	}
	if err := s.remember(ctx, lostKey, s.lostAt); err != nil {
		s.logger.Warn("where the session was lost is not remembered", "object", name, "err", err)
	}
}

// tellDied reports that the server process died that was reading a relation.
func (s *session) tellDied(name string) {
	relation := RelationName{"pg_catalog", "pg_class"}
	if name != wholeDatabase {
		relation.Schema, relation.Name, _ = strings.Cut(name, ".")
	}
	s.found(Finding{
		Class: ClassCorruption, Severity: SeverityWarning, Schema: relation.Schema, Relation: relation.Name,
		Message: "the server process that was reading it died without a word, and the server ended all sessions to start again: damaged data does that, and so does a lack of memory",
		Impact:  "Every statement that reads the damaged part can make the server restart, which ends all sessions and empties unlogged tables.",
		Action:  "Read the server's log of this moment (signal 11 means damage, signal 9 the operating system's out-of-memory killer). Keep statements, VACUUM and dumps away from the relation, take a copy of the data directory, and look at the relation there.",
	}, "died")
}

// stopped keeps how far a run came that ends early.
func (s *session) stopped(ctx context.Context) {
	s.kept = time.Time{}
	s.keep(context.WithoutCancel(ctx))
}

// finishPass forgets the pass of a run that came to its end.
func (s *session) finishPass(ctx context.Context) error {
	if !s.scope.Resume || len(s.scope.Relations) > 0 {
		return nil
	}
	return s.remember(ctx, passKey, pass{})
}

// keep writes down, now and then, how far the run came. What was found by then
// is kept first: a later run does not look there again.
func (s *session) keep(ctx context.Context) {
	if !s.scope.Resume || len(s.scope.Relations) > 0 || time.Since(s.kept) < keepInterval {
		return
	}
	s.kept = time.Now()
	if s.scope.Keep != nil {
		part := *s.result
		part.Finished = s.kept
		s.scope.Keep(part)
	}
	s.pass.Objects, s.pass.Bytes = s.result.Objects, s.result.Bytes
	s.pass.Problems = s.problems
	if err := s.remember(ctx, passKey, s.pass); err != nil {
		s.logger.Debug("how far the check came is not kept", "err", err)
	}
}

// startAt is the page at which to start with a relation, which is not 0 when an
// earlier run was stopped in the middle of it, and whether nothing was found in
// the pages before.
func (s *session) startAt(name string) (block uint32, clean bool) {
	if s.resumed && s.pass.At == name {
		return s.pass.Block, !s.pass.Found
	}
	return 0, true
}

// reached notes that a relation was looked at up to a page.
func (s *session) reached(ctx context.Context, name string, block uint32, found bool) {
	s.pass.At, s.pass.Block, s.pass.Found = name, block, found
	s.keep(ctx)
}

// each looks at n relations, those that could not be locked once more at the
// end. It ends early only when the session is lost. An order that is the same
// in every run lets a later run go on where this one is stopped.
func (s *session) each(ctx context.Context, n int, look func(i int) error, name func(i int) string) error {
	try := func(i int) error { return guarded(func() error { return look(i) }) }
	locked, first := s.left(n, name)
	for i := first; i < n; i++ {
		if when, lost := s.lostAt[name(i)]; lost {
			s.problem(name(i), s.leftAlone(when))
			continue
		}
		if by := s.scope.Heaps.lost(name(i)); by != "" {
			s.problem(name(i), fmt.Errorf("left alone: the server process of the check %s died while it read it", by))
			continue
		}
		err := try(i)
		switch {
		case err == nil, gone(err):
		case ctx.Err() != nil || s.conn.IsClosed():
			s.blame(ctx, name(i), err)
			return fmt.Errorf("the session was lost at %s: %w", name(i), err)
		case sqlstate(err) == "55P03", sqlstate(err) == "40001":
			locked = append(locked, i)
			s.pass.Locked = append(s.pass.Locked, name(i))
		default:
			s.problem(name(i), err)
		}
		s.pass.After, s.pass.At, s.pass.Block, s.pass.Found = name(i), "", 0, false
		s.keep(ctx)
	}
	for _, i := range locked {
		err := try(i)
		switch {
		case err == nil, gone(err):
		case ctx.Err() != nil || s.conn.IsClosed():
			s.blame(ctx, name(i), err)
			return fmt.Errorf("the session was lost at %s: %w", name(i), err)
		case sqlstate(err) == "55P03":
			s.problem(name(i), errors.New("somebody holds a lock on it (see pg_locks), and a check does not wait"))
		default:
			s.problem(name(i), err)
		}
	}
	return nil
}

// left says where to go on: the relations that are to be tried again, and the
// first that was not looked at. Everything is left when the relation that was
// last is gone.
func (s *session) left(n int, name func(i int) string) (locked []int, first int) {
	if s.pass.After == "" {
		return nil, 0
	}
	again := make(map[string]bool, len(s.pass.Locked))
	for _, known := range s.pass.Locked {
		again[known] = true
	}
	for i := range n {
		if name(i) == s.pass.After {
			return locked, i + 1
		}
		if again[name(i)] {
			locked = append(locked, i)
		}
	}
	s.pass.Locked = nil
	return nil, 0
}
