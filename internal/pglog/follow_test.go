package pglog

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pg_integrity_exporter/internal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reader keeps what a follower commits, as the state does.
type reader struct {
	mu       sync.Mutex
	position Position
	counts   map[Counter]uint64
	events   []Event
	status   Status
	input    Input
	samples  []Sample
}

func newReader() *reader { return &reader{counts: make(map[Counter]uint64)} }

// follow runs a follower from the kept position until the returned function is
// called.
func (r *reader) follow(pattern string) (stop func()) {
	r.mu.Lock()
	f := NewFollower(pattern, r.input, r.position, NewLabels(nil, nil, nil))
	r.mu.Unlock()
	f.Commit, f.Report = r.commit, r.report
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { f.Run(ctx) })
	return func() {
		cancel()
		done.Wait()
	}
}

func (r *reader) commit(b Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.position = b.Position
	r.events = append(r.events, b.Events...)
	r.samples = MergeSamples(r.samples, b.Samples)
	for counter, n := range b.Counts {
		r.counts[counter] += n
	}
}

func (r *reader) report(s Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = s
}

// lost is how many bytes were lost.
func (r *reader) lost() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[Counter{Kind: CountLostBytes}]
}

// errors counts the errors with one SQLSTATE.
func (r *reader) errors(sqlstate string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var sum uint64
	for counter, n := range r.counts {
		if counter.Kind == CountErrors && counter.SQLState == sqlstate {
			sum += n
		}
	}
	return sum
}

func (r *reader) is(condition func(s Status) bool) func() bool {
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return condition(r.status)
	}
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	pgtest.Await(t, what, 20*time.Second, condition)
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// division is the label of division_by_zero, which is counted by its class.
const division = "22xxx"

func divisionError() []byte {
	return jsonLine("ERROR", "22012", "client backend", "division by zero", "")
}

// TestExactlyOnce writes a log in pieces of any size, rotates it, and stops and
// starts the follower all the time: every error counts once.
func TestExactlyOnce(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	directory := t.TempDir()
	pattern := filepath.Join(directory, "*.json")
	r := newReader()
	written := uint64(0)
	for file := range 4 {
		path := filepath.Join(directory, fmt.Sprintf("server-%d.json", file))
		var content []byte
		for range 300 {
			content = append(content, divisionError()...)
			written++
		}
		for len(content) > 0 {
			n := min(len(content), 1+random.IntN(20_000))
			stop := r.follow(pattern)
			write(t, path, content[:n])
			content = content[n:]
			<-time.After(time.Duration(random.IntN(60)) * time.Millisecond)
			stop()
		}
		// The next file of a server is younger.
		<-time.After(20 * time.Millisecond)
	}
	stop := r.follow(pattern)
	await(t, "everything read", func() bool { return r.errors(division) >= written })
	<-time.After(2 * pollInterval)
	stop()
	if got := r.errors(division); got != written {
		t.Errorf("%d errors counted, %d written", got, written)
	}
	if r.counts[Counter{Kind: CountLostBytes}] != 0 || r.status.ParseFailures != 0 {
		t.Errorf("%d bytes lost, %d parse failures", r.counts[Counter{Kind: CountLostBytes}], r.status.ParseFailures)
	}
}

func TestFollower(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(t *testing.T, path string, r *reader){
		"an unfinished record waits for its end": func(t *testing.T, path string, r *reader) {
			line := divisionError()
			write(t, path, line[:40])
			<-time.After(2 * pollInterval)
			if r.errors(division) != 0 {
				t.Error("half a record was counted")
			}
			write(t, path, line[40:])
			await(t, "counted", func() bool { return r.errors(division) == 1 })
		},
		"a truncated file is read from its start": func(t *testing.T, path string, r *reader) {
			write(t, path, bytes.Repeat(divisionError(), 10))
			await(t, "counted", func() bool { return r.errors(division) == 10 })
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
			write(t, path, divisionError())
			await(t, "counted again", func() bool { return r.errors(division) == 11 })
		},
		"a file overwritten with a longer one is read from its start": func(t *testing.T, path string, r *reader) {
			write(t, path, divisionError())
			await(t, "counted", func() bool { return r.errors(division) == 1 })
			other := jsonLine("ERROR", "40001", "client backend", "could not serialize access", "")
			if err := os.WriteFile(path, bytes.Repeat(other, 5), 0o644); err != nil {
				t.Fatal(err)
			}
			await(t, "counted", func() bool { return r.errors("40001") == 5 })
		},
		"a record longer than the buffer counts once": func(t *testing.T, path string, r *reader) {
			long := jsonLine("ERROR", "22012", "client backend", strings.Repeat("x", 5*bufferSize), "")
			write(t, path, append(append(divisionError(), long...), divisionError()...))
			await(t, "counted", func() bool { return r.errors(division) == 3 })
		},
		"what is no record is told and read over": func(t *testing.T, path string, r *reader) {
			write(t, path, append([]byte("{\"x\": 1}\nnonsense\n"), divisionError()...))
			await(t, "counted", func() bool { return r.errors(division) == 1 })
			await(t, "told", r.is(func(s Status) bool { return s.ParseFailures == 2 }))
		},
		"a file that goes away unread is told": func(t *testing.T, path string, r *reader) {
			write(t, path, divisionError())
			await(t, "counted", func() bool { return r.errors(division) == 1 })
			r.mu.Lock()
			r.position.Size += 1000 // as if more had been there at the last look
			r.mu.Unlock()
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			<-time.After(20 * time.Millisecond)
			write(t, path, divisionError())
			stop := r.follow(path)
			defer stop()
			await(t, "told", func() bool { return r.lost() == 1000 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "server.json")
			write(t, path, nil)
			r := newReader()
			stop := r.follow(filepath.Join(filepath.Dir(path), "*.json"))
			defer stop()
			test(t, path, r)
		})
	}
}

func TestUnreadableLog(t *testing.T) {
	t.Parallel()
	r := newReader()
	stop := r.follow(filepath.Join(t.TempDir(), "*.json"))
	defer stop()
	await(t, "the missing file is told", r.is(func(s Status) bool {
		return !s.Up && strings.Contains(s.Problem, "no log file matches")
	}))
	if os.Geteuid() == 0 {
		return // root may read everything
	}
	path := filepath.Join(t.TempDir(), "server.json")
	write(t, path, divisionError())
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	denied := newReader()
	stopDenied := denied.follow(path)
	defer stopDenied()
	await(t, "the missing permission is told", denied.is(func(s Status) bool {
		return !s.Up && strings.Contains(s.Problem, "log_file_mode")
	}))
}

// TestRealLogs makes known errors on real servers, across rotations.
func TestRealLogs(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		option, extension := pgtest.CSVLog(), "csv"
		if major >= 15 {
			option, extension = pgtest.JSONLog(), "json"
		}
		server := pgtest.Start(t, pgtest.Version(major), option, pgtest.Setting("log_rotation_size", "64kB"),
			pgtest.Setting("log_filename", "server-%Y-%m-%d_%H%M%S.log"))
		server.MustExec(t, "postgres", "CREATE DATABASE erp; ")
		r := newReader()
		stop := r.follow(filepath.Join(server.LogDirectory(), "*."+extension))
		defer stop()
		const rounds = 6
		for range rounds {
			// Each round is longer than a file may be, with what is hard to parse in it.
			for range 20 {
				if err := server.Exec(t.Context(), "erp", "/* \"quotes\", \n lines {\"and\": \"braces\"} "+strings.Repeat("é,\\", 1500)+" */ SELECT 1/0"); err == nil {
					t.Fatal("no error")
				}
			}
			if err := server.Exec(t.Context(), "erp", "SELECT nothing FROM nowhere"); err == nil {
				t.Fatal("no error")
			}
			<-time.After(1100 * time.Millisecond) // a file of its own
		}
		await(t, "all counted", func() bool { return r.errors("42P01") == rounds && r.errors(division) >= 20*rounds })
		if got := r.errors(division); got != 20*rounds {
			t.Errorf("%d of %d errors counted", got, 20*rounds)
		}
		if files := server.LogFiles(); len(files) < 3 {
			t.Errorf("the log was not rotated: %v", files)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.status.ParseFailures != 0 || r.counts[Counter{Kind: CountLostBytes}] != 0 || len(r.events) != 0 {
			t.Errorf("%d parse failures, %d bytes lost, events %v", r.status.ParseFailures, r.counts[Counter{Kind: CountLostBytes}], r.events)
		}
		for counter := range r.counts {
			if counter.Kind == CountErrors && counter.Database != "erp" && counter.Database != NoDatabase && counter.Database != OtherDatabases && counter.Database != "postgres" {
				t.Errorf("errors of database %q", counter.Database)
			}
		}
	})
}
