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
	server, err := p.take(probeKey{address: "127.0.0.1:1", database: "postgres"})
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
	if idle := p.idle(later); len(idle) != 1 || len(p.known) != 0 {
		t.Errorf("%d servers let go, %d known", len(idle), len(p.known))
	}
}

// TestBusy holds that one server has a bounded number of probes under way, and that
// others may be probed meanwhile.
func TestBusy(t *testing.T) {
	t.Parallel()
	p := newProbes(config.Default().Get().Fleet, Options{Logger: slog.New(slog.DiscardHandler)})
	defer p.close()
	hung := probeKey{address: "127.0.0.1:1", database: "postgres"}
	for n := range maxBusy {
		if _, err := p.take(hung); err != nil {
			t.Fatalf("probe %d: %v", n, err)
		}
	}
	if _, err := p.take(hung); err == nil {
		t.Error("one probe too many")
	}
	for n := range 1000 {
		if _, err := p.take(probeKey{address: fmt.Sprintf("127.0.0.1:%d", n+2), database: "postgres"}); err != nil {
			t.Fatalf("server %d: %v", n, err)
		}
	}
}
