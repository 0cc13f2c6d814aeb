package recovery

import (
	"slices"
	"sync"
	"time"

	"pg_integrity_exporter/internal/wal"
)

// Sample is where the WAL of the primary was at one moment.
type Sample struct {
	Time time.Time `json:"time"`
	// Position is how far the WAL was written.
	Position wal.Position `json:"position"`
	// Snapshot is pg_current_snapshot(): while it stays the same, nothing was
	// committed.
	Snapshot string `json:"snapshot"`
	// System is the system identifier.
	System uint64 `json:"system"`
}

const (
	// sampleSpacing is the least time between two samples that are kept.
	sampleSpacing = 10 * time.Second
	// maxSamples bounds them; then every second one is dropped.
	maxSamples = 4000
)

// positions remembers where the WAL was, so that "the archive reaches up to
// this place" can be told as a time.
type positions struct {
	mu      sync.Mutex
	samples []Sample
}

// observe adds a sample.
func (p *positions) observe(s Sample) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.samples) - 1
	switch {
	case last >= 0 && (s.Position < p.samples[last].Position || s.System != p.samples[last].System):
		p.samples = []Sample{s} // another server, or one that was restored
	case last >= 1 && p.samples[last].Time.Sub(p.samples[last-1].Time) < sampleSpacing && p.samples[last].Position != p.samples[last-1].Position:
		p.samples[last] = s
	case last >= 1 && s.Position == p.samples[last].Position && s.Snapshot == p.samples[last].Snapshot && p.samples[last-1].Position == s.Position:
		p.samples[last] = s // it stands still
	default:
		p.samples = append(p.samples, s)
	}
	if len(p.samples) > maxSamples {
		thinned := p.samples[:0]
		for i, sample := range p.samples {
			if i%2 == 0 || i == len(p.samples)-1 {
				thinned = append(thinned, sample)
			}
		}
		p.samples = thinned
	}
}

// all copies the samples.
func (p *positions) all() []Sample {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Sample(nil), p.samples...)
}

// restore puts back samples of an earlier process, before any new one.
func (p *positions) restore(samples []Sample) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.samples = samples
}

// loss says what would be lost if the primary were gone now and everything up
// to reached could be brought back: the last moment of which nothing would be
// lost, and how many bytes of WAL are behind it. When nothing was committed
// behind reached, that moment is now and the bytes are 0. known is false when
// no sample is old enough to tell.
func (p *positions) loss(reached wal.Position) (point time.Time, bytes int64, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.samples) == 0 {
		return time.Time{}, 0, false
	}
	now := p.samples[len(p.samples)-1]
	if now.Position <= reached {
		return now.Time, 0, true
	}
	bytes = int64(now.Position - reached)
	for _, s := range slices.Backward(p.samples) {
		if s.Position > reached {
			continue
		}
		if s.Snapshot == now.Snapshot {
			return now.Time, 0, true
		}
		return s.Time, bytes, true
	}
	return time.Time{}, bytes, false
}
