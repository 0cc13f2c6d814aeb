package pglog

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pg_integrity_exporter/internal/pgtest"
)

// TestStreams sends logs over a socket of each kind, several at once.
func TestStreams(t *testing.T) {
	t.Parallel()
	tcp, err := pgtest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	for network, place := range map[string]string{"tcp": tcp.String(), "unix": filepath.Join(t.TempDir(), "log.sock")} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			r := newReader()
			stream := NewStream(stderrInput(t, "%m [%p] %e "), NewLabels(nil, nil, nil))
			stream.Commit, stream.Report = r.commit, r.report
			listening := func() (stop func()) {
				ctx, cancel := context.WithCancel(context.Background())
				var done sync.WaitGroup
				done.Go(func() { stream.Listen(ctx, network+"://"+place) })
				await(t, "listening", r.is(func(s Status) bool { return s.Up }))
				return func() {
					cancel()
					done.Wait()
				}
			}
			stop := listening()
			connect := func() net.Conn {
				var dialer net.Dialer
				conn, err := dialer.DialContext(t.Context(), network, place)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				return conn
			}
			sent := uint64(0)
			for _, log := range wrapped() {
				conn := connect()
				if _, err := conn.Write([]byte(log)); err != nil {
					t.Fatal(err)
				}
				sent++
				// The last message waits for nothing but time.
				await(t, "counted", func() bool { return r.errors(division) == sent && r.errors("XX001") == sent })
			}
			half := connect()
			if _, err := half.Write([]byte("2026-11-25 09:00:00.123 UTC [1] 22012 ERROR:  no end")); err != nil {
				t.Fatal(err)
			}
			if err := half.Close(); err != nil {
				t.Fatal(err)
			}
			await(t, "counted", func() bool { return r.errors(division) == sent+1 })
			stop()
			listening()() // a socket that is left behind is taken over
		})
	}
}

// TestStdin reads a log from standard input, and tells when that ends.
func TestStdin(t *testing.T) {
	read, written, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	before := os.Stdin
	os.Stdin = read
	defer func() { os.Stdin = before }()
	defer read.Close()
	r := newReader()
	stream := NewStream(stderrInput(t, "%m [%p] %e "), NewLabels(nil, nil, nil))
	stream.Commit, stream.Report = r.commit, r.report
	var done sync.WaitGroup
	done.Go(func() { stream.Stdin(t.Context()) })
	await(t, "reading", r.is(func(s Status) bool { return s.Up }))
	for n, log := range []string{stderrLog, "2026-11-25 09:00:00.123 UTC [1] 22012 ERROR:  one more\n"} {
		if _, err := written.WriteString(log); err != nil {
			t.Fatal(err)
		}
		await(t, "counted", func() bool { return r.errors(division) == uint64(n+1) && r.errors("XX001") == 1 })
	}
	if err := written.Close(); err != nil {
		t.Fatal(err)
	}
	done.Wait()
	if r.status.Up || !strings.Contains(r.status.Problem, "standard input has ended") {
		t.Errorf("the end is not told: %+v", r.status)
	}
}

// TestNormalise holds that no literal is left of a message.
func TestNormalise(t *testing.T) {
	for text, want := range map[string]string{
		`duplicate key value violates unique constraint "accounts_pkey"`:          `duplicate key value violates unique constraint ?`,
		`invalid input syntax for type integer: "4111 1111 1111 1111"`:            `invalid input syntax for type integer: ?`,
		`relation »x« has joe@example.com and 17 of a3b, don't know`:              `relation ? has ? and ? of ?, don't know`,
		"one\nline 'with \"a\" text' more":                                        `one line ? more`,
		`unterminated "quote with a secret`:                                       `unterminated ?`,
		strings.Repeat("a ", 1000):                                                strings.Repeat("a ", 100),
		`could not read block 3 in file "base/5/6": read only 0 of 8192 bytes`:    `could not read block ? in file ?: read only ? of ? bytes`,
		`invalid page in block 33 of relation base/16384/16390 (key=(secret123))`: `invalid page in block ? of relation ? (key=(?))`,
	} {
		if got := normalise(text); got != want {
			t.Errorf("%q gives %q, want %q", text, got, want)
		}
	}
}

// TestMergeSamples holds that the number of samples is bounded and that the
// frequent ones stay.
func TestMergeSamples(t *testing.T) {
	var kept []Sample
	for i := range 1000 {
		kept = MergeSamples(kept, []Sample{{Text: "frequent", Count: 3}, {Text: strings.Repeat("x", i), Count: 1}})
	}
	if len(kept) != keepSamples || kept[0].Text != "frequent" || kept[0].Count != 3000 {
		t.Errorf("%d samples, the first is %+v", len(kept), kept[0])
	}
}
