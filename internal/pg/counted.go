package pg

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// farewell is how long Close waits for the server to end a session.
	farewell = 500 * time.Millisecond
	// lastWords bounds what a session may still say after Close, in bytes; one that
	// says more is in the middle of something, and ends when nobody listens.
	lastWords = 64 << 10
	// endLimit is how long a session counts after Close when the server does not end it.
	endLimit = time.Minute
)

// countedConn is a connection whose cost is added up, and which has a place until
// the server has ended it.
type countedConn struct {
	net.Conn

	account *account
	opener  *spending
	place   *place
	reading sync.Mutex
	closed  atomic.Bool
	over    bool // the server has ended it; guarded by reading
}

func (c *countedConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	began := time.Now()
	n, err := c.Conn.Read(p)
	payer, waited := c.account.current.Load(), int64(time.Since(began))
	payer.waited.Add(waited)
	c.account.waited.Add(waited)
	payer.received.Add(int64(n))
	c.over = err != nil && !os.IsTimeout(err)
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.account.current.Load().sent.Add(int64(n))
	return n, err
}

// Close ends the connection and waits a little until the server has, too: a process
// of the server keeps its side open until it is gone, so that a client can know (see
// socket_close in the server's pqcomm.c). Else a session that follows could be one
// too many. Whoever is in Read is sent away first. Where the server takes longer, the
// connection and its place are kept for up to endLimit.
func (c *countedConn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // one that is broken is over
	}
	_ = c.SetReadDeadline(time.Unix(1, 0)) // as above
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.reading.Lock()
		defer c.reading.Unlock()
		if !c.over {
			c.awaitEnd()
		}
		_ = c.Conn.Close() // nothing is lost
		c.opener.open.Add(-1)
		c.place.leave()
	}()
	select {
	case <-ended:
	case <-time.After(farewell):
	}
	return nil
}

// awaitEnd reads until the server ends the connection.
func (c *countedConn) awaitEnd() {
	limit := time.AfterFunc(endLimit, func() { _ = c.Conn.Close() })
	defer limit.Stop()
	for left := int64(lastWords); left > 0; {
		_ = c.SetReadDeadline(time.Time{}) // the driver may have set one
		n, err := io.CopyN(io.Discard, c.Conn, left)
		if left -= n; !os.IsTimeout(err) {
			return
		}
	}
}
