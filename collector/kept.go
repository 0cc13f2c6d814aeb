package collector

import (
	"slices"

	"pg_integrity_exporter/internal/exposition"
	"pg_integrity_exporter/internal/state"
)

// kept is what collectors made of a snapshot, for as long as its revision is the
// same. It is compressed: as text it would be most of the memory of a fleet.
type kept struct {
	revision uint64
	leads    bool
	again    int // how often it was the same again
	page     *exposition.Kept
	// shared are the lines of families that another collector adds to, by
	// collector: they have to stand together with those.
	shared map[int]map[*Family][]byte
	errs   map[int]error
}

// addTo adds the lines that a collector shares with others to its sink.
func (k *kept) addTo(sink *Sink, i int) {
	for family, lines := range k.shared[i] {
		n := slices.Index(sink.families, family)
		sink.lines[n] = append(sink.lines[n], lines...)
	}
}

// keep gives what is kept of a snapshot, made anew when it has changed.
func (s *Set) keep(snapshot *state.Snapshot, leads bool) *kept {
	s.mu.Lock()
	k := s.kept
	same := k != nil && k.revision == snapshot.Revision && k.leads == leads
	if same {
		k.again++
	}
	dense := same && k.again == denseAfter && k.page != nil
	s.mu.Unlock()
	if dense {
		better := *k
		better.page = k.page.Dense()
		k = &better
		s.mu.Lock()
		s.kept = k
		s.mu.Unlock()
	}
	if same {
		return k
	}
	k = &kept{revision: snapshot.Revision, leads: leads, shared: make(map[int]map[*Family][]byte), errs: make(map[int]error)}
	var whole []*Sink
	shared := s.shared()
	for i, c := range s.collectors {
		if c.Kept == nil || c.Leader && !leads {
			continue
		}
		sink := emit(c, c.Kept, snapshot)
		if err := sink.finish(); err != nil {
			k.errs[i] = err
			continue
		}
		k.shared[i] = sink.take(shared)
		whole = append(whole, sink)
	}
	page := exposition.NewPage()
	defer page.Free()
	if page.Fresh = write(page.Fresh, whole); len(page.Fresh) > 0 {
		k.page = exposition.Keep(page.Fresh)
	}
	for _, sink := range whole {
		sink.free()
	}
	s.mu.Lock()
	s.kept = k
	s.mu.Unlock()
	return k
}

// denseAfter is how often a page must have been the same again before it is worth
// better compression.
const denseAfter = 3

// shared are the families that several collectors add to.
func (s *Set) shared() map[*Family]bool {
	collectors := make(map[*Family]int)
	for _, c := range s.collectors {
		for _, family := range c.Families {
			collectors[family]++
		}
	}
	shared := make(map[*Family]bool)
	for family, n := range collectors {
		if n > 1 {
			shared[family] = true
		}
	}
	return shared
}
