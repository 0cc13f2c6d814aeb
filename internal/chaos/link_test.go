package chaos

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// weather is what a link does to what passes.
type weather int

const (
	fair    weather = iota
	refused         // nobody listens
	hung            // connections are accepted, and nothing passes
	slow            // byte by byte
	silent          // connections that are open lose everything from now on; new ones are fair
	cut             // connections that are open are reset; new ones are fair
	garbled         // bytes of the server are changed
	lossy           // packets are lost and sent again, now and then too often
	deaf            // what the server says is lost, what it is asked arrives
)

// link is a way to a server whose weather can change.
type link struct {
	t       *testing.T
	address string // where it listens
	server  string

	mu       sync.Mutex
	weather  weather
	listener net.Listener
	open     map[*wire]bool
}

// wire is one connection through a link.
type wire struct {
	client, server net.Conn
	silent         bool // guarded by the link
}

func newLink(t *testing.T, server string) *link {
	t.Helper()
	l := &link{t: t, server: server, open: make(map[*wire]bool)}
	l.listen("127.0.0.1:0")
	l.address = l.listener.Addr().String()
	t.Cleanup(func() {
		l.set(refused)
		l.reset()
	})
	return l
}

func (l *link) listen(address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		l.t.Error(err)
		return
	}
	l.listener = listener
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // it was closed
			}
			go l.carry(client)
		}
	}()
}

// set changes the weather.
func (l *link) set(w weather) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case w == refused && l.weather != refused:
		l.listener.Close()
	case w != refused && l.weather == refused:
		l.listen(l.address)
	}
	l.weather = w
	if w == silent {
		for open := range l.open {
			open.silent = true
		}
	}
}

// reset ends all connections without a goodbye.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for open := range l.open {
		for _, end := range []net.Conn{open.client, open.server} {
			if tcp, ok := end.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // a reset is what is wanted
			}
			end.Close()
		}
	}
}

func (l *link) carry(client net.Conn) {
	server, err := net.Dial("tcp", l.server)
	if err != nil {
		client.Close()
		return
	}
	w := &wire{client: client, server: server}
	l.mu.Lock()
	l.open[w] = true
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.pass(w, server, client, false) })
	both.Go(func() { l.pass(w, client, server, true) })
	both.Wait()
	l.mu.Lock()
	delete(l.open, w)
	l.mu.Unlock()
}

// pass carries bytes one way until an end closes.
func (l *link) pass(w *wire, to io.WriteCloser, from io.Reader, answers bool) {
	defer to.Close()
	buffer := make([]byte, 4096)
	for n := 0; ; n++ {
		got, err := from.Read(buffer)
		if err != nil {
			return
		}
		l.mu.Lock()
		weather, lost := l.weather, w.silent
		l.mu.Unlock()
		bytes := buffer[:got]
		switch {
		case lost || weather == hung || weather == deaf && answers:
			continue
		case weather == lossy && rand.IntN(4) == 0:
			// TCP sends again after 0.2 s, then after twice as long each time.
			time.Sleep(200 * time.Millisecond << rand.IntN(4))
		case weather == garbled && answers:
			for i := n % 7; i < len(bytes); i += 13 {
				bytes[i] ^= 0x55
			}
		case weather == slow:
			for i := range bytes {
				time.Sleep(5 * time.Millisecond)
				if _, err := to.Write(bytes[i : i+1]); err != nil {
					return
				}
			}
			continue
		}
		if _, err := to.Write(bytes); err != nil {
			return
		}
	}
}
