package pgtest

import (
	"bufio"
	"cmp"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Pgbench runs PostgreSQL's own benchmark in a database at a moderate rate for a
// time, or while something else is done, and gives the 95th percentile of its
// latencies in milliseconds.
func (s *Server) Pgbench(b testing.TB, database string, duration time.Duration, meanwhile func()) float64 {
	b.Helper()
	all := s.pgbench(b, database, duration, meanwhile)
	return percentile95(b, all)
}

const (
	// pauseAfter is for how long something is done before it pauses for pauseFor.
	pauseAfter, pauseFor = time.Minute, 15 * time.Second
	// pauseAround is the pause before and after it.
	pauseAround = 30 * time.Second
)

// PgbenchBeside is Pgbench while something is done and while it pauses, in turn, so
// that what else changes falls on both sides: do calls pause again and again.
func (s *Server) PgbenchBeside(b testing.TB, database string, do func(pause func(ctx context.Context))) (with, without float64) {
	b.Helper()
	type span struct{ from, to time.Time }
	var silent []span
	silence := func(ctx context.Context, duration time.Duration) {
		from := time.Now()
		select {
		case <-time.After(duration):
		case <-ctx.Done():
		}
		silent = append(silent, span{from, time.Now()})
	}
	var last time.Time
	all := s.pgbench(b, database, 12*time.Hour, func() {
		silence(b.Context(), pauseAround)
		last = time.Now()
		do(func(ctx context.Context) {
			if time.Since(last) > pauseAfter {
				silence(ctx, pauseFor)
				last = time.Now()
			}
		})
		silence(b.Context(), pauseAround)
	})
	during := make([]transaction, 0, len(all))
	var beside []transaction
	for _, t := range all {
		if slices.ContainsFunc(silent, func(s span) bool { return t.at.After(s.from) && t.at.Before(s.to) }) {
			beside = append(beside, t)
		} else {
			during = append(during, t)
		}
	}
	return percentile95(b, during), percentile95(b, beside)
}

// transaction is one of pgbench: when it ended, and how many milliseconds it took.
type transaction struct {
	at      time.Time
	latency float64
}

func (s *Server) pgbench(b testing.TB, database string, duration time.Duration, meanwhile func()) []transaction {
	b.Helper()
	program, err := exec.LookPath("pgbench")
	if err != nil {
		if program, err = exec.LookPath(filepath.Join(s.Install.BinDir, "pgbench")); err != nil {
			b.Skip("pgbench is not installed")
		}
	}
	var present bool
	if err := s.Query(b.Context(), database, "SELECT to_regclass('pgbench_accounts') IS NOT NULL", &present); err != nil {
		b.Fatal(err)
	}
	if !present {
		if out, err := exec.CommandContext(b.Context(), program, "-q", "-i", "-s", "20", s.DSN(database)).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	command := exec.CommandContext(ctx, program, "-n", "-c", "4", "-R", "100", "-T", strconv.Itoa(int(duration.Seconds())), "-l", s.DSN(database))
	command.Dir = b.TempDir()
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	if meanwhile != nil {
		meanwhile()
		cancel()
	}
	_ = command.Wait() // an interrupt ends it with an error
	return transactions(b, command.Dir)
}

// transactions reads the logs that pgbench wrote in a directory.
func transactions(b testing.TB, directory string) []transaction {
	b.Helper()
	logs, err := filepath.Glob(filepath.Join(directory, "pgbench_log.*"))
	if err != nil || len(logs) == 0 {
		b.Fatalf("pgbench wrote no log: %v", err)
	}
	var all []transaction
	for _, path := range logs {
		file, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			fields := strings.Fields(lines.Text()) // client, transaction, microseconds, script, time of its end in seconds and microseconds
			if len(fields) < 6 {
				continue
			}
			latency, err1 := strconv.ParseFloat(fields[2], 64)
			seconds, err2 := strconv.ParseInt(fields[4], 10, 64)
			microseconds, err3 := strconv.ParseInt(fields[5], 10, 64)
			if err1 == nil && err2 == nil && err3 == nil {
				all = append(all, transaction{time.Unix(seconds, microseconds*1000), latency / 1000})
			}
		}
		if err := file.Close(); err != nil {
			b.Fatal(err)
		}
	}
	return all
}

func percentile95(b testing.TB, all []transaction) float64 {
	b.Helper()
	if len(all) == 0 {
		b.Fatal("pgbench did no transaction")
	}
	slices.SortFunc(all, func(a, b transaction) int { return cmp.Compare(a.latency, b.latency) })
	return all[len(all)*95/100].latency
}
