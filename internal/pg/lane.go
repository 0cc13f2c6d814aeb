package pg

import (
	"context"
	"sync"
	"time"
)

// Lane is one kept connection to a target. It opens the connection when first
// needed and again after it broke. At most one connection attempt is ever
// under way: callers wait for it up to their own deadline, and an attempt
// that outlives its callers is not abandoned but used when it succeeds, so a
// server whose catalogue is locked does not fill up with half-started
// backends.
type Lane struct {
	*line

	payer string // whom the work is charged to
}

// line is the connection that a lane and those made of it with As share.
type line struct {
	target  *Target
	purpose Purpose
	turn    chan struct{} // holds one token; whoever has it may use conn

	mu      sync.Mutex
	conn    *Conn
	attempt *attempt
	closed  bool
	gone    chan struct{} // closed when the server has ended the session before; nil is that there was none

	stop    context.CancelCauseFunc
	stopped context.Context //nolint:containedctx // the life of the lane, not of a call
	running sync.WaitGroup
}

type attempt struct {
	done chan struct{}
	conn *Conn
	err  error
}

// NewLane makes a lane to the target's own database. It does not connect yet.
// Close ends it.
func NewLane(target *Target, purpose Purpose) *Lane {
	stopped, stop := context.WithCancelCause(context.Background())
	l := &line{target: target, purpose: purpose, turn: make(chan struct{}, 1), stopped: stopped, stop: stop}
	l.turn <- struct{}{}
	return &Lane{line: l, payer: purpose.Name}
}

// As is the same lane for other work, which is charged to its own name. Its
// statements must be as short as those of the lane, whose limits they have.
func (l *Lane) As(payer string) *Lane { return &Lane{line: l.line, payer: payer} }

// Own is Do for what needs a session of the server of its own: behind a
// connection pooler its error is a *PooledError.
func (l *Lane) Own(ctx context.Context, use func(ctx context.Context, conn *Conn) error) error {
	return l.Do(ctx, func(ctx context.Context, conn *Conn) error {
		if conn.Facts.Pooled {
			return &PooledError{Target: l.target.Name()}
		}
		return use(ctx, conn)
	})
}

// Do calls use with the lane's connection; calls follow one another. When a
// connection that was kept from an earlier call turns out to be broken, use is
// called once more with a new one. The error is the context's when its time
// ran out first, a connection error (see FailureReason), or what use returned.
func (l *Lane) Do(ctx context.Context, use func(ctx context.Context, conn *Conn) error) error {
	select {
	case <-l.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { l.turn <- struct{}{} }()

	conn, kept, err := l.connection(ctx)
	if err != nil {
		return err
	}
	conn.spent.charge(l.payer)
	err = use(ctx, conn)
	if err == nil || !conn.IsClosed() {
		return err
	}
	l.drop()
	if !kept || ctx.Err() != nil {
		return err
	}
	if conn, _, err = l.connection(ctx); err != nil {
		return err
	}
	conn.spent.charge(l.payer)
	if err = use(ctx, conn); err != nil && conn.IsClosed() {
		l.drop()
	}
	return err
}

// Close ends the connection and any attempt to make one.
func (l *line) Close() {
	l.stop(context.Canceled)
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.running.Wait()
	l.drop()
}

// drop closes the kept connection, if any.
func (l *line) drop() {
	l.mu.Lock()
	conn := l.conn
	l.conn = nil
	l.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// connection returns the kept connection, or waits for a new one. kept says
// that it has been used before.
func (l *line) connection(ctx context.Context) (conn *Conn, kept bool, err error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, false, context.Canceled
	}
	if l.conn != nil && l.target.unusable.lookup(l.conn.Facts.Database) != nil {
		l.conn.Close()
		l.conn = nil
	}
	if l.conn != nil {
		conn = l.conn
		l.mu.Unlock()
		return conn, true, nil
	}
	if l.attempt == nil {
		l.attempt = &attempt{done: make(chan struct{})}
		l.running.Add(1)
		go l.connect(l.attempt)
	}
	current := l.attempt
	l.mu.Unlock()

	select {
	case <-current.done:
		return current.conn, false, current.err
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// goneLimit is how long the server has to end a session of a lane before it gets
// the next one.
const goneLimit = 5 * time.Second

// connect carries one attempt to its end, however long its callers wait.
func (l *line) connect(a *attempt) {
	defer l.running.Done()
	conn, err := l.target.any(usable, func(database string) (*Conn, error) {
		if l.gone != nil {
			select {
			case <-l.gone:
			case <-time.After(goneLimit):
			case <-l.stopped.Done():
			}
		}
		gone := make(chan struct{})
		l.gone = gone
		return l.target.sessionAt(l.stopped, newPlace(func() { close(gone) }), database, l.purpose)
	})
	l.mu.Lock()
	a.conn, a.err = conn, err
	l.conn = conn
	l.attempt = nil
	l.mu.Unlock()
	close(a.done)
}
