package collector

import (
	"context"
	"sync"
	"time"

	"pg_integrity_exporter/internal/exposition"
)

const (
	// maxScrapers is how many Prometheus servers may each have a rhythm of their own.
	maxScrapers = 3
	// aheadShare is the part of the interval between scrapes (one in so many) by
	// which the server is asked ahead at most.
	aheadShare = 4
)

// ahead asks the server shortly before a scrape that comes regularly, so that the
// scrape need not wait for it.
type ahead struct {
	limit time.Duration
	ask   func(ctx context.Context, e *early)

	mu       sync.Mutex
	arrivals []time.Time // of the last scrapes
	timer    *time.Timer
	early    *early
	closed   bool
	running  sync.WaitGroup
}

// early is what was collected for the next scrape, and for no other.
type early struct {
	lead   time.Duration // how long before the scrape
	cancel context.CancelFunc
	done   chan struct{}

	// When it is done:
	answers  answers
	page     *exposition.Kept // made of the answers
	revision uint64           // of what else the page shows
	leads    bool
}

// Ahead has the server asked up to limit before a scrape that comes in the rhythm of
// those before it, and a quarter of their interval at most. The answers are given
// to that scrape alone. A scrape that comes at another time, or when the
// server did not answer, asks itself. It must be called before the first scrape;
// without it, or with 0, every scrape asks itself.
func (s *Set) Ahead(limit time.Duration) {
	s.ahead.limit = limit
	s.ahead.ask = func(ctx context.Context, e *early) {
		e.answers = s.ask(ctx, func() {})
		if e.answers.err != nil {
			return
		}
		e.leads, e.revision = s.sources.leads(), s.sources.Snapshot().Revision
		page := s.assemble(e.answers)
		e.page = page.Kept.With(page.Fresh)
		page.Free()
	}
}

// Close ends what is under way ahead of a scrape. No scrape may come after it.
func (s *Set) Close() {
	a := &s.ahead
	a.mu.Lock()
	a.closed = true
	a.drop()
	a.mu.Unlock()
	a.running.Wait()
}

// arrive takes what was collected for the scrape that has come now, waits for it if
// it is under way, and plans for the next. It is nil when there is nothing that is
// true of now.
func (a *ahead) arrive(ctx context.Context, now time.Time) *early {
	if a.limit == 0 {
		return nil
	}
	a.mu.Lock()
	e := a.early
	a.early = nil
	a.plan(ctx, now)
	a.mu.Unlock()
	if e == nil {
		return nil
	}
	select {
	case <-e.done:
		if e.answers.err != nil || now.Sub(e.answers.at) > 2*e.lead {
			e.answers.free()
			return nil
		}
	default:
		stop := context.AfterFunc(ctx, e.cancel)
		defer stop()
		<-e.done
	}
	return e
}

// plan has the server asked ahead of the next scrape, if it is known when that comes.
func (a *ahead) plan(ctx context.Context, now time.Time) {
	a.drop()
	a.arrivals = append(a.arrivals, now)
	a.arrivals = a.arrivals[max(0, len(a.arrivals)-2*maxScrapers-1):]
	next, lead := predict(a.arrivals, a.limit)
	wait := next.Add(-lead).Sub(now)
	if wait <= 0 || a.closed {
		return
	}
	patience := time.Minute
	if deadline, ok := ctx.Deadline(); ok {
		patience = deadline.Sub(now)
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		a.mu.Lock()
		if a.timer != timer {
			a.mu.Unlock()
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), lead+patience)
		defer cancel()
		e := &early{lead: lead, cancel: cancel, done: make(chan struct{})}
		a.early = e
		a.running.Add(1)
		a.mu.Unlock()
		defer a.running.Done()
		defer close(e.done)
		a.ask(ctx, e)
	})
	a.timer = timer
}

// drop forgets what was planned, and ends what is under way.
func (a *ahead) drop() {
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	if a.early != nil {
		a.early.cancel()
		a.early = nil
	}
}

// predict says when the next scrape comes and how long before it the server may be
// asked. The zero time is that nobody knows: the scrapes of the last two rounds of
// one or more scrapers did not come regularly.
func predict(arrivals []time.Time, limit time.Duration) (next time.Time, lead time.Duration) {
	last := len(arrivals) - 1
	for scrapers := 1; scrapers <= maxScrapers && 2*scrapers <= last; scrapers++ {
		interval := arrivals[last].Sub(arrivals[last-scrapers])
		lead = min(limit, interval/aheadShare)
		regular := true
		for i := last - scrapers; i < last; i++ {
			regular = regular && (interval-arrivals[i].Sub(arrivals[i-scrapers])).Abs() <= lead/2
		}
		if regular {
			return arrivals[last-scrapers+1].Add(interval), lead
		}
	}
	return time.Time{}, 0
}
