package pgtest

import (
	"bufio"
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
func (s *Server) Pgbench(b *testing.B, database string, duration time.Duration, meanwhile func()) float64 {
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
	return percentile95(b, command.Dir)
}

// percentile95 reads the logs that pgbench wrote in a directory.
func percentile95(b *testing.B, directory string) float64 {
	b.Helper()
	logs, err := filepath.Glob(filepath.Join(directory, "pgbench_log.*"))
	if err != nil || len(logs) == 0 {
		b.Fatalf("pgbench wrote no log: %v", err)
	}
	var latencies []float64
	for _, path := range logs {
		file, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if fields := strings.Fields(lines.Text()); len(fields) > 2 {
				if microseconds, err := strconv.ParseFloat(fields[2], 64); err == nil {
					latencies = append(latencies, microseconds/1000)
				}
			}
		}
		if err := file.Close(); err != nil {
			b.Fatal(err)
		}
	}
	if len(latencies) == 0 {
		b.Fatal("pgbench did no transaction")
	}
	slices.Sort(latencies)
	return latencies[len(latencies)*95/100]
}
