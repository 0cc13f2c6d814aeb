package pg

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Spent is what the sessions of one purpose have cost since the target was made.
type Spent struct {
	// Purpose is Purpose.Name, and "scrape" for the scrape.
	Purpose string
	// Opened counts connections, Open those that are open now.
	Opened, Open int64
	// Sent and Received are bytes on the wire, with TLS.
	Sent, Received int64
	// Waited is the time for which the server was waited for: its work, locks
	// and the way there and back.
	Waited time.Duration
}

// spending adds up what one purpose costs.
type spending struct{ opened, open, sent, received, waited atomic.Int64 }

// budget is what all purposes of a target cost.
type budget struct {
	mu sync.Mutex
	by map[string]*spending
}

func (b *budget) of(purpose string) *spending {
	if purpose == "" {
		purpose = "scrape"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by == nil {
		b.by = make(map[string]*spending)
	}
	if b.by[purpose] == nil {
		b.by[purpose] = new(spending)
	}
	return b.by[purpose]
}

// Spent lists what was spent on the server, by purpose.
func (t *Target) Spent() []Spent {
	t.spent.mu.Lock()
	defer t.spent.mu.Unlock()
	var all []Spent
	for purpose, s := range t.spent.by {
		all = append(all, Spent{
			Purpose: purpose, Opened: s.opened.Load(), Open: s.open.Load(), Sent: s.sent.Load(), Received: s.received.Load(),
			Waited: time.Duration(s.waited.Load()),
		})
	}
	slices.SortFunc(all, func(a, b Spent) int { return strings.Compare(a.Purpose, b.Purpose) })
	return all
}

// counted makes connections whose cost is added up.
func (s *spending) counted(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		s.opened.Add(1)
		s.open.Add(1)
		return &countedConn{Conn: conn, spending: s}, nil
	}
}

type countedConn struct {
	net.Conn

	spending *spending
	closed   atomic.Bool
}

func (c *countedConn) Read(p []byte) (int, error) {
	began := time.Now()
	n, err := c.Conn.Read(p)
	c.spending.waited.Add(int64(time.Since(began)))
	c.spending.received.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.spending.sent.Add(int64(n))
	return n, err
}

func (c *countedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.spending.open.Add(-1)
	}
	return c.Conn.Close()
}
