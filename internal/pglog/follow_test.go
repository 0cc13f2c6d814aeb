package pglog

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
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
	logged   []Statement
	status   Status
	input    Input
	samples  []Sample
	old      bool
	// dated says that messages are as old as they say; others count at any age.
	dated bool
}

func newReader() *reader { return &reader{counts: make(map[Counter]uint64)} }

// follow runs a follower from the kept position until the returned function is
// called.
func (r *reader) follow(pattern string) (stop func()) {
	r.mu.Lock()
	f := NewFollower(pattern, r.input, r.position, NewLabels(nil, nil, nil))
	if !r.dated {
		f.counts.since = time.Time{}
	}
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
	r.position, r.old = b.Position, b.Old
	r.events = append(r.events, b.Events...)
	r.logged = append(r.logged, b.Statements...)
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

// TestRealLogs makes known errors on real servers, across rotations, and reads
// them in every format that the server writes at once.
func TestRealLogs(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		const prefix = "%m [%p] %e %b %q%d %-12u %a "
		destination := "stderr,csvlog"
		if major >= 15 {
			destination += ",jsonlog"
		}
		server := pgtest.Start(t, pgtest.Version(major), pgtest.CSVLog(), pgtest.Setting("log_destination", destination),
			pgtest.Setting("log_rotation_size", "64kB"), pgtest.Setting("log_filename", "server-%Y-%m-%d_%H%M%S.log"),
			pgtest.Setting("log_line_prefix", prefix), pgtest.Setting("log_error_verbosity", "verbose"))
		server.MustExec(t, "postgres", "CREATE DATABASE erp; ")
		readers := make(map[string]*reader)
		for _, extension := range []string{"log", "csv", "json"} {
			if extension == "json" && major < 15 {
				continue
			}
			r := newReader()
			r.input = stderrInput(t, prefix)
			readers[extension] = r
			defer r.follow(filepath.Join(server.LogDirectory(), "*."+extension))()
		}
		rounds, each := 4, 20
		for range rounds {
			// Each round is longer than a file may be, with what is hard to parse in it.
			for range each {
				if err := server.Exec(t.Context(), "erp", "/* \"quotes\", \n lines {\"and\": \"braces\"}\nERROR:  no message "+strings.Repeat("é,\\", 1500)+" */ SELECT 1/0"); err == nil {
					t.Fatal("no error")
				}
			}
			if err := server.Exec(t.Context(), "erp", "SELECT nothing FROM nowhere"); err == nil {
				t.Fatal("no error")
			}
			raised := "DO $$BEGIN RAISE EXCEPTION 'invalid page in block 3 of relation base/16384/16390' USING ERRCODE = 'XX001'; END$$"
			if err := server.Exec(t.Context(), "erp", raised); err == nil {
				t.Fatal("no error")
			}
			<-time.After(1100 * time.Millisecond) // a file of its own
		}
		for extension, r := range readers {
			await(t, "all counted in "+extension, func() bool {
				return r.errors("42P01") == uint64(rounds) && r.errors(division) >= uint64(rounds*each) && r.errors("XX001") == uint64(rounds)
			})
			r.mu.Lock()
			if got := r.counts[Counter{Kind: CountErrors, Database: "erp", SQLState: division}]; got != uint64(rounds*each) {
				t.Errorf("%s: %d of %d errors counted in erp", extension, got, rounds*each)
			}
			if r.status.ParseFailures != 0 || r.counts[Counter{Kind: CountLostBytes}] != 0 || slices.ContainsFunc(r.events, func(e Event) bool { return e.Kind != Suspect }) {
				t.Errorf("%s: %d parse failures, %d bytes lost, events %v", extension, r.status.ParseFailures, r.counts[Counter{Kind: CountLostBytes}], r.events)
			}
			for counter := range r.counts {
				if counter.Kind == CountErrors && !slices.Contains([]string{"erp", NoDatabase, OtherDatabases, "postgres"}, counter.Database) {
					t.Errorf("%s: errors of database %q", extension, counter.Database)
				}
			}
			if len(r.samples) == 0 || !slices.ContainsFunc(r.samples, func(s Sample) bool { return s.Text == "division by zero" }) {
				t.Errorf("%s: samples %+v", extension, r.samples)
			}
			r.mu.Unlock()
		}
		if files := server.LogFiles(); len(files) < rounds {
			t.Errorf("the log was not rotated: %v", files)
		}
	})
}

// TestEncodings makes errors in databases of many encodings, with names and texts
// that are not valid UTF-8 in the log: each is counted with its SQLSTATE and
// database.
func TestEncodings(t *testing.T) {
	t.Parallel()
	const prefix = "%m [%p] %e %b %q%d %u %a "
	server := pgtest.Start(t, pgtest.Version(max(15, pgtest.Newest())), pgtest.CSVLog(), pgtest.Setting("log_destination", "stderr,csvlog,jsonlog"), pgtest.Setting("log_line_prefix", prefix))
	readers := make(map[string]*reader)
	for _, extension := range []string{"log", "csv", "json"} {
		r := newReader()
		r.input = stderrInput(t, prefix)
		readers[extension] = r
		defer r.follow(filepath.Join(server.LogDirectory(), "*."+extension))()
	}
	encodings := map[string]string{"LATIN1": "é»ß", "LATIN9": "€é", "KOI8R": "Ошибка", "EUC_JP": "致命的な", "EUC_KR": "오류", "EUC_CN": "错误", "WIN1251": "ОШИБКА", "SQL_ASCII": "é", "UTF8": "错误"}
	for encoding, words := range encodings {
		database := strings.ToLower(encoding)
		server.MustExec(t, "postgres", "CREATE DATABASE "+database+" ENCODING '"+encoding+"' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0; ")
		conn, err := pgx.Connect(t.Context(), server.DSN(database)+"&client_encoding=UTF8")
		if err != nil {
			t.Fatal(err)
		}
		for _, statement := range []string{"SELECT 1/0 /* %s */", `SELECT * FROM "no %s"`, "SELECT '%s\n\tERROR:  no'::int", "SELECT 'base/%s'::regclass"} {
			if _, err := conn.PgConn().Exec(t.Context(), fmt.Sprintf(statement, words)).ReadAll(); err == nil {
				t.Fatal("no error")
			}
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for extension, r := range readers {
		for encoding := range encodings {
			for sqlstate, want := range map[string]uint64{division: 2, "42P01": 2} {
				counter := Counter{Kind: CountErrors, Database: strings.ToLower(encoding), SQLState: sqlstate}
				await(t, fmt.Sprintf("%s in %s: %d of %s", extension, encoding, want, sqlstate), func() bool {
					r.mu.Lock()
					defer r.mu.Unlock()
					return r.counts[counter] == want
				})
			}
		}
		r.mu.Lock()
		if len(r.events) > 0 || r.status.ParseFailures > 0 || r.counts[Counter{Kind: CountLostBytes}] > 0 {
			t.Errorf("%s: %d parse failures, events %+v", extension, r.status.ParseFailures, r.events)
		}
		r.mu.Unlock()
	}
}

// TestRotations moves, copies, compresses and removes a log under the follower,
// which runs all the time or comes back afterwards: nothing is lost that is
// still somewhere, and nothing counts twice.
func TestRotations(t *testing.T) {
	t.Parallel()
	step := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func(t *testing.T, path string) []byte {
		t.Helper()
		content, err := os.ReadFile(path)
		step(t, err)
		return content
	}
	for name, c := range map[string]struct {
		pattern string
		rotate  func(t *testing.T, path string)
		lost    bool
	}{
		"renamed":                    {"*.json", func(t *testing.T, path string) { step(t, os.Rename(path, path+".1")) }, false},
		"renamed within the pattern": {"server*", func(t *testing.T, path string) { step(t, os.Rename(path, path+".1")) }, false},
		"copied and truncated": {"*.json", func(t *testing.T, path string) {
			step(t, os.WriteFile(path+".1", read(t, path), 0o600))
			step(t, os.Truncate(path, 0))
		}, false},
		"copied within the pattern and truncated": {"server*", func(t *testing.T, path string) {
			step(t, os.WriteFile(path+".1", read(t, path), 0o600))
			<-time.After(300 * time.Millisecond)
			step(t, os.Truncate(path, 0))
		}, false},
		"compressed": {"server*", func(t *testing.T, path string) {
			var zipped bytes.Buffer
			writer := gzip.NewWriter(&zipped)
			_, err := writer.Write(read(t, path))
			step(t, errors.Join(err, writer.Close()))
			step(t, os.WriteFile(path+".1.gz", zipped.Bytes(), 0o600))
			step(t, os.Remove(path))
		}, false},
		"removed": {"*.json", func(t *testing.T, path string) { step(t, os.Remove(path)) }, true},
	} {
		for _, away := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, away=%v", name, away), func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "server.json")
				pattern := filepath.Join(filepath.Dir(path), c.pattern)
				r := newReader()
				write(t, path, bytes.Repeat(divisionError(), 10))
				stop := r.follow(pattern)
				await(t, "counted", func() bool { return r.errors(division) == 10 })
				want := uint64(20)
				if away {
					// It sees that there is more, and is stopped before it reads that.
					stop()
					write(t, path, bytes.Repeat(divisionError(), 5))
					if want += 5; c.lost {
						want -= 5
						r.position.Size += 5 * r.position.Size / 10
					}
				}
				c.rotate(t, path)
				// More than was there before: a file that is as long as it was counts as one
				// that nobody has touched, until it grows.
				write(t, path, bytes.Repeat(jsonLine("ERROR", "22012", "client backend", "division by zero", "SELECT 1 / 0"), 10))
				if away {
					stop = r.follow(pattern)
				}
				await(t, "all counted", func() bool { return r.errors(division) >= want })
				<-time.After(3 * pollInterval)
				stop()
				if got := r.errors(division); got != want {
					t.Errorf("%d errors counted, %d written", got, want)
				}
				if lost := r.lost(); (lost > 0) != (c.lost && away) {
					t.Errorf("%d bytes lost", lost)
				}
			})
		}
	}
}

// TestLostPosition reads a log of which the position was lost: what happened
// before counts no more, for it would page again; what it is about is told, to be
// checked. What is minutes old counts, and all that comes.
func TestLostPosition(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "server.json")
	damage := func(when string, block int) []byte {
		return fmt.Appendf(nil, `{"timestamp":%q,"dbname":"erp","error_severity":"ERROR","state_code":"XX001","message":"invalid page in block %d of relation \"base/5/16384\"","backend_type":"client backend"}`+"\n", when, block)
	}
	const stamp = "2006-01-02 15:04:05.999 MST"
	now := time.Now().UTC()
	write(t, path, damage(now.Add(-24*time.Hour).Format(stamp), 1))
	write(t, path, damage("2006-01-02 15:04:05 XYZ", 2)) // nobody knows when
	r := newReader()
	r.dated = true
	stop := r.follow(path)
	await(t, "read", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.events) == 1 })
	stop()
	if got := r.errors("XX001"); got != 0 || !r.old {
		t.Errorf("%d errors of yesterday counted, told as old: %t", got, r.old)
	}
	write(t, path, damage(now.Add(-24*time.Hour).Format(stamp), 3))
	stop = r.follow(path)
	await(t, "what comes counts, whatever its time", func() bool { return r.errors("XX001") == 1 })
	stop()
	fresh := newReader()
	fresh.dated = true
	write(t, path, damage(now.Add(-time.Minute).Format(stamp), 4))
	write(t, path, damage("2006-01-02 15:04:05 XYZ", 5))
	stop = fresh.follow(path)
	await(t, "what is a minute old counts, and what is behind it", func() bool { return fresh.errors("XX001") == 2 })
	stop()
	if got := fresh.counts[Counter{Kind: CountEvents, Event: InvalidPage}]; got != 2 {
		t.Errorf("%d events counted", got)
	}
}

// TestCopies copies a log slowly within the pattern, and while nobody looks: nothing
// counts twice and nothing is missed.
func TestCopies(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(t *testing.T, path string, r *reader, errors []byte){
		"a copy that takes a while": func(t *testing.T, path string, r *reader, errors []byte) {
			defer r.follow(path + "*")()
			write(t, path, errors)
			await(t, "counted", func() bool { return r.errors(division) == 30 })
			for _, part := range [][]byte{nil, errors[:1000], errors[1000:2010], errors[2010:]} {
				write(t, path+".1", part)
				<-time.After(2 * pollInterval)
			}
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
			write(t, path, divisionError())
			await(t, "all counted", func() bool { return r.errors(division) >= 31 })
		},
		"an empty file is written, copied and truncated while away": func(t *testing.T, path string, r *reader, errors []byte) {
			write(t, path, nil)
			write(t, path+".0", divisionError()) // from before
			hourAgo := time.Now().Add(-time.Hour)
			if err := os.Chtimes(path+".0", hourAgo, hourAgo); err != nil {
				t.Fatal(err)
			}
			stop := r.follow(path + "*")
			await(t, "reading", r.is(func(s Status) bool { return s.Up }))
			stop()
			<-time.After(20 * time.Millisecond) // the time of a change has no more precision
			write(t, path+".1", errors[:len(errors)/2])
			<-time.After(20 * time.Millisecond)
			write(t, path+".2", errors[len(errors)/2:])
			<-time.After(20 * time.Millisecond)
			write(t, path, divisionError())
			defer r.follow(path + "*")()
			await(t, "all counted", func() bool { return r.errors(division) >= 31 })
		},
		"an empty file is written, copied out of the pattern and truncated, twice, while away": func(t *testing.T, path string, r *reader, errors []byte) {
			write(t, path, nil)
			write(t, path+".9", divisionError()) // from before
			hourAgo := time.Now().Add(-time.Hour)
			if err := os.Chtimes(path+".9", hourAgo, hourAgo); err != nil {
				t.Fatal(err)
			}
			stop := r.follow(path)
			await(t, "reading", r.is(func(s Status) bool { return s.Up }))
			stop()
			<-time.After(20 * time.Millisecond)
			var zipped bytes.Buffer
			zip := gzip.NewWriter(&zipped)
			if _, err := zip.Write(errors[:len(errors)/2]); err != nil || zip.Close() != nil {
				t.Fatal(err)
			}
			write(t, path+".2.gz", zipped.Bytes())
			<-time.After(20 * time.Millisecond)
			write(t, path+".1", errors[len(errors)/2:])
			<-time.After(20 * time.Millisecond)
			write(t, path, divisionError())
			defer r.follow(path)()
			await(t, "all counted", func() bool { return r.errors(division) >= 31 })
		},
		"a copy by hand of a file that was empty, while away": func(t *testing.T, path string, r *reader, errors []byte) {
			write(t, path, nil)
			stop := r.follow(path)
			await(t, "reading", r.is(func(s Status) bool { return s.Up }))
			stop()
			<-time.After(20 * time.Millisecond)
			write(t, path, errors)
			write(t, path, divisionError())
			write(t, path+".bak", errors)
			defer r.follow(path)()
			await(t, "all counted", func() bool { return r.errors(division) >= 31 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var errors []byte
			for range 30 {
				errors = append(errors, divisionError()...)
			}
			r := newReader()
			test(t, filepath.Join(t.TempDir(), "server.json"), r, errors)
			<-time.After(3 * pollInterval)
			if got := r.errors(division); got != 31 || r.lost() != 0 {
				t.Errorf("%d errors counted, 31 written; %d bytes lost", got, r.lost())
			}
		})
	}
}

// TestClockJumps holds that a file is followed that the clock makes older than
// the one before.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	r := newReader()
	write(t, filepath.Join(directory, "1.json"), divisionError())
	stop := r.follow(filepath.Join(directory, "*.json"))
	defer func() { stop() }()
	await(t, "counted", func() bool { return r.errors(division) == 1 })
	next := filepath.Join(directory, "0.json")
	write(t, next, divisionError())
	hourAgo := time.Now().Add(-time.Hour)
	if err := os.Chtimes(next, hourAgo, hourAgo); err != nil {
		t.Fatal(err)
	}
	await(t, "counted", func() bool { return r.errors(division) == 2 })

	// The clock was put back while nobody looked: the server goes on in a file that is
	// older than the one before.
	stop()
	tomorrow := time.Now().Add(24 * time.Hour)
	if err := os.Chtimes(next, tomorrow, tomorrow); err != nil {
		t.Fatal(err)
	}
	after := filepath.Join(directory, "2.json")
	write(t, after, divisionError())
	stop = r.follow(filepath.Join(directory, "*.json"))
	<-time.After(3 * pollInterval)
	write(t, after, divisionError())
	await(t, "counted", func() bool { return r.errors(division) == 4 })
}

// TestHostileLog reads what no server should write: zeros, binary, a message of
// many megabytes in every format, with little memory. Nothing runs beside it, whose
// memory would count too.
func TestHostileLog(t *testing.T) {
	megabytes := 100
	if testing.Short() {
		megabytes = 5
	}
	long := strings.Repeat("x, \t", megabytes<<18)
	escaped := strings.ReplaceAll(long, "\t", `\t`)
	for name, log := range map[string]string{
		"json":   `{"error_severity":"ERROR","state_code":"22012","message":"` + escaped + "\"}\n" + string(divisionError()),
		"csv":    `2026-11-25 09:00:00.123 UTC,"u","erp",1,"h",s,1,"c",t,v,0,ERROR,22012,"` + long + "\n\"\"\",,,,,,,,,\"psql\",\"client backend\"\n" + "2026-11-25 09:00:00.123 UTC,,,1,,s,1,,t,,0,ERROR,22012,\"x\",,,,,,,,,,\n",
		"stderr": "[1] 22012 ERROR:  " + long + "\n\t" + long + "\n[1] 22012 STATEMENT:  y\n[1] 22012 ERROR:  x\n",
		"zeros":  strings.Repeat("\x00", megabytes<<20) + string(divisionError()) + string(divisionError()),
		"binary": "[1] 22012 ERROR:  x\n" + strings.Repeat("\xff\x00\xfe\n", 1000) + "[1] 22012 ERROR:  x\n",
	} {
		t.Run(name, func(t *testing.T) {
			counted := newCounts(NewLabels(nil, nil, nil))
			d := newDecoder(stderrInput(t, "[%p] %e "), counted.add)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for rest := log; rest != ""; {
				n := copy(d.space(), rest)
				d.advance(n)
				rest = rest[n:]
			}
			d.flush(true)
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
				t.Errorf("%d bytes allocated", used)
			}
			counted.settle()
			var errors uint64
			for counter, n := range counted.delta {
				if counter.Kind == CountErrors && counter.SQLState == division {
					errors += n
				}
			}
			if errors != 2 {
				t.Errorf("%d errors", errors)
			}
		})
	}
}
