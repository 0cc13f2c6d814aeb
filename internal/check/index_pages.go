package check

import (
	"context"
	"fmt"
	"slices"
)

// dangerous says that nobody knows whether the pages of an index are sane, and
// that going through a damaged one of its access method can harm the server: a
// process loops for ever in a hash index or a GIN index, deaf to a cancel and to
// statement_timeout (seen on 13 with a page of zeroes), or dies in an SP-GiST
// index, and all others with it (seen on 18 with a chain that leads nowhere).
// gin_index_check looks at the pages itself.
func (s *session) dangerous(i compared, gin function) bool {
	_, known := s.scope.Heaps.lookup(i.OID)
	switch i.Method {
	case "gin":
		return gin.Name == "" && !known
	case "hash", "spgist":
		return !known
	default:
		return false
	}
}

// lookAtPages looks at the pages of indexes that can harm the server as the check
// page does, which may not have run. Where the files cannot be read they
// stay unknown.
func (s *session) lookAtPages(ctx context.Context, tables [][]compared, gin function) error {
	unknown := make(map[uint32]bool)
	for _, indexes := range tables {
		for _, i := range indexes {
			if s.dangerous(i, gin) {
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
		s.partlyf("%d hash, GIN and SP-GiST indexes are not compared with their tables, because a damaged one can make the server loop or crash, and their pages cannot be looked at before: %s", len(unknown), s.skipped)
		s.skipped = skipped
		return nil
	}
	defer r.files.Close()
	forks, err := r.forks(ctx)
	if err != nil {
		return err
	}
	forks.places = slices.DeleteFunc(forks.places, func(p forkPlace) bool { return !unknown[p.OID] })
	for i := range forks.places {
		f, err := forks.at(ctx, i)
		if err == nil && f != nil {
			err = r.pagesOf(ctx, f)
		}
		if err != nil {
			return fmt.Errorf("looking at the pages of %s: %w", forks.places[i].Name, err)
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
