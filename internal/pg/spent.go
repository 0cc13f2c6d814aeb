package pg

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// Spent is what one purpose has cost the server since the target was made.
type Spent struct {
	// Purpose is Purpose.Name, or that of Lane.As; "scrape" for the scrape.
	Purpose string
	// Opened counts connections, Open those that are open now. The connection of a
	// lane counts for the purpose of the lane.
	Opened, Open int64
	// Statements counts statements, LockTimeouts those that gave up because another
	// session held a lock.
	Statements, LockTimeouts int64
	// Sent and Received are bytes on the wire, with TLS.
	Sent, Received int64
	// Waited is the time for which the server was waited for: its work, locks
	// and the way there and back.
	Waited time.Duration
}

// spending adds up what one purpose costs.
type spending struct {
	opened, open, statements, lockTimeouts, sent, received, waited atomic.Int64
}

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
			Purpose: purpose, Opened: s.opened.Load(), Open: s.open.Load(), Statements: s.statements.Load(), LockTimeouts: s.lockTimeouts.Load(),
			Sent: s.sent.Load(), Received: s.received.Load(), Waited: time.Duration(s.waited.Load()),
		})
	}
	slices.SortFunc(all, func(a, b Spent) int { return strings.Compare(a.Purpose, b.Purpose) })
	return all
}

// account is what one session costs. It is charged to the purpose that uses the
// session now.
type account struct {
	target  *Target
	place   *place
	current atomic.Pointer[spending]
	// began is when the last statement did, in nanoseconds since 1970; waited is for
	// how long the session waited for the server, in nanoseconds.
	began, waited atomic.Int64
}

func newAccount(target *Target, purpose Purpose) *account {
	a := &account{target: target, place: purpose.place}
	a.charge(purpose.Name)
	return a
}

// charge names the purpose that pays from now on.
func (a *account) charge(purpose string) { a.current.Store(a.target.spent.of(purpose)) }

// asked counts a statement.
func (a *account) asked() {
	a.current.Load().statements.Add(1)
	a.began.Store(time.Now().UnixNano())
}

// answered counts a statement that gave up because of a lock.
func (a *account) answered(err error) {
	if SQLState(err) == "55P03" {
		a.current.Load().lockTimeouts.Add(1)
	}
}

// TraceQueryStart is pgx.QueryTracer.
func (a *account) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	a.asked()
	return ctx
}

// TraceQueryEnd is pgx.QueryTracer.
func (a *account) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	a.answered(data.Err)
}

// counted makes connections whose cost is added up.
func (a *account) counted(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		opener := a.current.Load()
		opener.opened.Add(1)
		opener.open.Add(1)
		return &countedConn{Conn: conn, account: a, opener: opener, place: a.place.take()}, nil
	}
}
