package check

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// spread is each with several relations at a time, the largest first, where the
// scope asks for it: each with a session of its own, which look is given. prepare
// are the settings of those sessions; size gives the pages of a relation.
func (s *session) spread(ctx context.Context, n int, look func(s *session, i int) error, name func(i int) string, size func(i int) int32, prepare string) error {
	if prepare != "" {
		if _, err := s.conn.Exec(ctx, prepare); err != nil {
			return err
		}
	}
	jobs := min(s.scope.Jobs, n)
	if jobs < 2 || s.scope.Resume {
		return s.each(ctx, n, func(i int) error { return look(s, i) }, name)
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(size(b), size(a)) })
	others := s.beside(ctx, jobs-1, prepare)
	taken := make([]atomic.Int32, n)
	work := func(s *session, worker int32) error {
		return s.each(ctx, n, func(i int) error {
			if !taken[i].CompareAndSwap(0, worker) && taken[i].Load() != worker {
				return nil
			}
			return look(s, order[i])
		}, func(i int) string { return name(order[i]) })
	}
	failed := make([]error, len(others)+1)
	var running sync.WaitGroup
	for k, other := range others {
		running.Go(func() {
			defer other.conn.Close()
			failed[k] = work(other, int32(k+2))
		})
	}
	failed[len(others)] = work(s, 1)
	running.Wait()
	for _, other := range others {
		s.merge(other)
	}
	slices.SortStableFunc(s.result.Findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Schema, b.Schema), strings.Compare(a.Relation, b.Relation))
	})
	return errors.Join(failed...)
}

// beside opens up to so many sessions beside this one, which share its limits and
// its progress.
func (s *session) beside(ctx context.Context, n int, prepare string) []*session {
	var others []*session
	for range n {
		conn, err := s.target.Connect(ctx, s.database, s.purpose())
		if err == nil && prepare != "" {
			if _, err = conn.Exec(ctx, prepare); err != nil {
				conn.Close()
			}
		}
		if err != nil {
			s.logger.Debug("fewer relations are looked at in parallel than asked for", "err", err)
			break
		}
		other := *s
		other.conn, other.result = conn, &Result{Check: s.result.Check, Database: s.result.Database, Started: s.result.Started}
		other.waited = conn.Waited()
		other.problems, other.parts, other.lostAt = nil, nil, maps.Clone(s.lostAt)
		other.ofRelation, other.seen = make(map[RelationName]int), make(map[string]bool)
		others = append(others, &other)
	}
	all := append([]*session{s}, others...)
	var mu sync.Mutex
	told := make([]Result, len(all))
	before := *s.result
	rate, progress := s.scope.RateLimit, s.scope.Progress
	for k, one := range all {
		if rate > 0 {
			one.scope.RateLimit = max(1, rate/int64(len(all)))
		}
		one.scope.Share /= float64(len(all))
		if progress == nil {
			continue
		}
		one.scope.Progress = func(part Result) {
			mu.Lock()
			defer mu.Unlock()
			told[k] = part
			whole := before
			whole.Seconds = part.Seconds
			for _, p := range told {
				whole.Objects, whole.Bytes = whole.Objects+p.Objects, whole.Bytes+p.Bytes
			}
			progress(whole)
		}
	}
	return others
}

// merge takes over what another session of the same run has seen.
func (s *session) merge(other *session) {
	r := other.result
	s.result.Objects += r.Objects
	s.result.Bytes += r.Bytes
	s.result.Verified = append(s.result.Verified, r.Verified...)
	for _, h := range other.problems {
		if !slices.Contains(s.problems, h) {
			s.problems = append(s.problems, h)
		}
	}
	s.parts = append(s.parts, other.parts...)
	for _, f := range r.Findings {
		if !s.seen[f.Fingerprint] {
			s.seen[f.Fingerprint] = true
			s.result.Findings = append(s.result.Findings, f)
		}
	}
}
