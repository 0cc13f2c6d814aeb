package exporter

import (
	"context"
	"sync"
	"time"
)

// repeating is something that is done again and again until it is stopped.
type repeating struct {
	stop context.CancelFunc
	done sync.WaitGroup
}

// begin does it now and at every interval.
func (r *repeating) begin(interval time.Duration, do func(ctx context.Context)) {
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.done.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			do(ctx)
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// Stop ends it, and waits until it has ended.
func (r *repeating) Stop() {
	r.stop()
	r.done.Wait()
}
