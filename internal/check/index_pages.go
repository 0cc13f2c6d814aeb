package check

import (
	"context"
	"fmt"
)

// mayLoop says that nobody knows whether the pages of a GIN index are sane, and
// gin_index_check does not look at them first. A server that goes through a
// damaged one can loop for ever, deaf to a cancel and to statement_timeout (seen
// on 13 with a page of zeroes).
func (s *session) mayLoop(i compared, gin function) bool {
	_, known := s.scope.Heaps.lookup(i.OID)
	return i.Method == "gin" && gin.Name == "" && !known
}

// lookAtPages looks at the pages of indexes that may make the server loop as the
// check page does, which may not have run. Where the files cannot be read they
// stay unknown.
func (s *session) lookAtPages(ctx context.Context, tables [][]compared, gin function) error {
	unknown := make(map[uint32]bool)
	for _, indexes := range tables {
		for _, i := range indexes {
			if s.mayLoop(i, gin) {
				unknown[i.OID] = true
			}
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	skipped := s.skipped
	r, err := s.reader(ctx)
	if err != nil {
		return err
	}
	if r == nil {
		s.partlyf("%d GIN indexes are not compared with their tables, because a damaged one can make the server loop and their pages cannot be looked at before: %s", len(unknown), s.skipped)
		s.skipped = skipped
		return nil
	}
	defer r.files.Close()
	forks, err := r.forks(ctx)
	if err != nil {
		return err
	}
	for i := range forks {
		if f := &forks[i]; unknown[f.OID] {
			if err := r.columns(ctx, forks, i); err != nil {
				return err
			}
			if err := r.pagesOf(ctx, f); err != nil {
				return fmt.Errorf("looking at the pages of %s: %w", f.Name, err)
			}
		}
	}
	return nil
}

// pagesOf looks at all pages of an index and notes whether they are sane.
func (r *reader) pagesOf(ctx context.Context, f *fork) error {
	before := len(r.result.Findings)
	segments, err := r.segments(ctx, f)
	if err != nil || segments == nil {
		return err
	}
	r.begin(f, segments)
	whole, err := r.walk(ctx, f, segments, 0, func(uint32) {})
	if err != nil {
		return err
	}
	if whole {
		err = r.conclude(ctx, f)
	}
	if err == nil && (whole || len(r.result.Findings) > before) {
		r.scope.Heaps.note(f.OID, len(r.result.Findings) == before)
	}
	return err
}
