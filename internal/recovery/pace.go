package recovery

import (
	"context"
	"sync/atomic"
	"time"
)

// Pace keeps several readers or writers together below a number of bytes per
// second. Nil keeps nobody.
type Pace struct {
	rate    int64
	started time.Time
	bytes   atomic.Int64
}

// NewPace begins now; a rate of 0 is no limit.
func NewPace(rate int64) *Pace {
	if rate <= 0 {
		return nil
	}
	return &Pace{rate: rate, started: time.Now()}
}

// Took waits until so many bytes more may have been read or written.
func (p *Pace) Took(ctx context.Context, bytes int64) {
	if p == nil {
		return
	}
	due := time.Duration(float64(p.bytes.Add(bytes)) / float64(p.rate) * float64(time.Second))
	if wait := due - time.Since(p.started); wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}
