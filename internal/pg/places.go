package pg

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// placePatience is how long a session waits for a place before those that can
// give way are asked to.
const placePatience = time.Second

// places bounds the sessions that come and go. Without Bound there is no bound.
type places struct {
	taken chan struct{} // one token for each place that is taken

	mu      sync.Mutex
	giveWay map[*place]func()
}

// place is the place of one session. It is free when its owner and each of the
// connections that were made for it have left: a session goes on in the server for
// a moment, or longer, when its client has closed it (see countedConn.Close).
type place struct {
	taken atomic.Int32
	free  func()
}

func newPlace(free func()) *place {
	p := &place{free: free}
	p.taken.Store(1)
	return p
}

// take gives what must leave in the end; nil is nothing, for a session without a
// place and for a place that is free: what connects then asks the server to cancel
// something, and is no session.
func (p *place) take() *place {
	if p == nil {
		return nil
	}
	for taken := p.taken.Load(); taken > 0; taken = p.taken.Load() {
		if p.taken.CompareAndSwap(taken, taken+1) {
			return p
		}
	}
	return nil
}

func (p *place) leave() {
	if p != nil && p.taken.Add(-1) == 0 {
		p.free()
	}
}

// Bound lets at most n sessions of Connect be open at once; others wait for a
// place as long as their context lets them. The session of a Lane has its own.
// It is called before the first session is opened.
func (t *Target) Bound(n int) {
	t.places.taken = make(chan struct{}, n)
	t.places.giveWay = make(map[*place]func())
}

// enter takes a place.
func (p *places) enter(ctx context.Context, purpose Purpose) (*place, error) {
	if p.taken == nil {
		return nil, nil //nolint:nilnil // no place is needed
	}
	if err := p.wait(ctx, purpose.Patient); err != nil {
		return nil, err
	}
	var taken *place
	taken = newPlace(func() {
		p.mu.Lock()
		delete(p.giveWay, taken)
		p.mu.Unlock()
		<-p.taken
	})
	if purpose.GiveWay != nil {
		p.mu.Lock()
		p.giveWay[taken] = purpose.GiveWay
		p.mu.Unlock()
	}
	return taken, nil
}

func (p *places) wait(ctx context.Context, patient bool) error {
	select {
	case p.taken <- struct{}{}:
		return nil
	default:
	}
	impatient := make(<-chan time.Time)
	if !patient {
		timer := time.NewTimer(placePatience)
		defer timer.Stop()
		impatient = timer.C
	}
	for {
		select {
		case p.taken <- struct{}{}:
			return nil
		case <-impatient:
			p.ask()
		case <-ctx.Done():
			return fmt.Errorf("all %d sessions that the exporter allows itself are in use: %w", cap(p.taken), ctx.Err())
		}
	}
}

// ask tells the sessions that can give way that others wait.
func (p *places) ask() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, giveWay := range p.giveWay {
		giveWay()
	}
}
