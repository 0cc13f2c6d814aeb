package check_test

import (
	"context"
	"flag"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

var tornFor = flag.Duration("torn.for", 0, "verify the pages of a server under pgbench for so long")

// TestTorn verifies all pages of a server again and again while pgbench changes them
// and a small cache makes the server write them all the time: a page that is read in
// the middle of being written is no finding. `make torn` runs it for hours.
func TestTorn(t *testing.T) {
	if *tornFor == 0 {
		t.Skip("for hours: make torn")
	}
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Checksums(), pgtest.Setting("shared_buffers", "4MB"), pgtest.Setting("checkpoint_timeout", "30s"),
			pgtest.Setting("bgwriter_delay", "10ms"), pgtest.Setting("autovacuum_naptime", "10s"))
		one := target(t, server.DSN("postgres"))
		server.Pgbench(t, "postgres", 5*time.Second, nil)
		var torn tornCounter
		loops, bytes, began := 0, int64(0), time.Now()
		server.Pgbench(t, "postgres", *tornFor+time.Minute, func() {
			for time.Since(began) < *tornFor && !t.Failed() {
				turn := time.Now()
				document, err := check.Sweep(t.Context(), one, check.Options{Checks: named(t, "checksum", "page"), Databases: []string{"postgres"}, Logger: slog.New(&torn)})
				if err != nil || document.ExitCode() != check.ExitClean {
					t.Errorf("after %d loops: %v, %s", loops, err, messages(document))
				}
				loops++
				for _, c := range document.Checks {
					bytes += c.Bytes
				}
				time.Sleep(2 * time.Since(turn)) // a machine has other work
			}
		})
		t.Logf("%d loops in %s, %d pages verified, %d of them first read while they were being written, no finding", loops, time.Since(began).Round(time.Second), bytes/8192, torn.n.Load())
	})
}

// tornCounter counts the pages that a second look found in order.
type tornCounter struct{ n atomic.Int64 }

func (c *tornCounter) Enabled(context.Context, slog.Level) bool { return true }

func (c *tornCounter) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "being written") {
		c.n.Add(1)
	}
	return nil
}

func (c *tornCounter) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c *tornCounter) WithGroup(string) slog.Handler      { return c }
