package check

import (
	"context"
	"fmt"
	"slices"
)

// unchecked are the GIN indexes that gin_index_check does not look at first. A
// server that goes through a damaged one can loop for ever, deaf to a cancel and
// to statement_timeout (seen on 13 with a page of zeroes), so their pages must be
// known to be sane before.
func (s *session) unchecked(tables [][]compared, gin function) []uint32 {
	var oids []uint32
	for _, indexes := range tables {
		for _, i := range indexes {
			if _, known := s.scope.Heaps.lookup(i.OID); i.Method == "gin" && gin.Name == "" && !known {
				oids = append(oids, i.OID)
			}
		}
	}
	return oids
}

// lookAtPages looks at the pages of indexes as the check page does, which may
// not have run. Where the files cannot be read the indexes stay unknown.
func (s *session) lookAtPages(ctx context.Context, oids []uint32) error {
	if len(oids) == 0 {
		return nil
	}
	skipped := s.skipped
	r, err := s.reader(ctx)
	if err != nil {
		return err
	}
	if r == nil {
		s.partlyf("%d GIN indexes are not compared with their tables, because a damaged one can make the server loop and their pages cannot be looked at before: %s", len(oids), s.skipped)
		s.skipped = skipped
		return nil
	}
	defer r.files.Close()
	forks, err := r.forks(ctx)
	if err != nil {
		return err
	}
	for i := range forks {
		if f := &forks[i]; slices.Contains(oids, f.OID) {
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
	for number, blocks := range segments {
		if err := r.segment(ctx, f, uint32(number), 0, blocks, func(uint32) {}); err != nil {
			return err
		}
	}
	if err := r.conclude(ctx, f); err != nil {
		return err
	}
	r.scope.Heaps.note(f.OID, len(r.result.Findings) == before)
	return nil
}
