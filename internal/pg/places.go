package pg

import (
	"context"
	"fmt"
	"sync"
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

// place is the place of one session.
type place struct{ leave func() }

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
		return &place{func() {}}, nil
	}
	if err := p.wait(ctx, purpose.Patient); err != nil {
		return nil, err
	}
	taken := new(place)
	taken.leave = sync.OnceFunc(func() {
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
