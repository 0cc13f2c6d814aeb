package exporter

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"pg_integrity_exporter/internal/config"
)

// TestIdle holds that a server is let go when nobody asks for it, and not while
// it is probed.
func TestIdle(t *testing.T) {
	t.Parallel()
	fleet := config.Default().Get().Fleet
	p := newProbes(fleet, Options{Logger: slog.New(slog.DiscardHandler)})
	defer p.close()
	server, err := p.take(serverKey("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(2 * time.Duration(fleet.Probe.Idle))
	if idle := p.idle(later); len(idle) != 0 {
		t.Error("a server was let go while it was probed")
	}
	p.release(server)
	if idle := p.idle(time.Now()); len(idle) != 0 {
		t.Error("a server was let go at once")
	}
	other := serverKey("127.0.0.1:1")
	other.module = "other"
	with, err := p.take(other)
	if err != nil || with.session != server.session {
		t.Fatalf("another module does not share the session (%v)", err)
	}
	for left, module := range []*probed{with, server} { // the other module is probed at first
		idle := p.idle(later)
		if len(idle) != 1 || idle[0] == module {
			t.Fatalf("%d servers let go", len(idle))
		}
		p.letGo(idle[0])
		if kept := 1 - left; len(p.sessions) != kept {
			t.Errorf("%d sessions, not %d", len(p.sessions), kept)
		}
		if left == 0 {
			p.release(with)
		}
	}
}

// serverKey is what a probe of a server asks for that names only its address.
func serverKey(address string) probeKey {
	return probeKey{sessionKey: sessionKey{address: address, database: "postgres"}}
}

// TestBusy holds that one server has a bounded number of probes under way, and that
// others may be probed meanwhile.
func TestBusy(t *testing.T) {
	t.Parallel()
	p := newProbes(config.Default().Get().Fleet, Options{Logger: slog.New(slog.DiscardHandler)})
	defer p.close()
	hung := serverKey("127.0.0.1:1")
	for n := range maxBusy {
		if _, err := p.take(hung); err != nil {
			t.Fatalf("probe %d: %v", n, err)
		}
	}
	if _, err := p.take(hung); err == nil {
		t.Error("one probe too many")
	}
	for n := range 1000 {
		if _, err := p.take(serverKey(fmt.Sprintf("127.0.0.1:%d", n+2))); err != nil {
			t.Fatalf("server %d: %v", n, err)
		}
	}
}
