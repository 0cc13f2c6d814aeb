package logwatch_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// withLogerrors skips a test where the extension logerrors is not installed in the
// server that is tested; PG_BINDIR_<major> may name one that has it.
func withLogerrors(t *testing.T, major int) {
	t.Helper()
	install, err := pgtest.Find(major)
	if err != nil {
		t.Skip(err)
	}
	directory, err := exec.Command(filepath.Join(install.BinDir, "pg_config"), "--sharedir").Output()
	if err == nil {
		_, err = os.Stat(filepath.Join(strings.TrimSpace(string(directory)), "extension", "logerrors.control"))
	}
	if err != nil {
		t.Skipf("PostgreSQL %d has no extension logerrors: %v", major, err)
	}
}

func counted(results *state.Target, sqlstate, database string) uint64 {
	return results.Snapshot().Counters[pglog.Counter{Kind: pglog.CountErrors, Database: database, SQLState: sqlstate}]
}

func total(results *state.Target) (n uint64) {
	for counter, count := range results.Snapshot().Counters {
		if counter.Kind == pglog.CountErrors {
			n += count
		}
	}
	return n
}

// TestExtension counts by the extension logerrors while the log cannot be read:
// across resets and crashes of the server, and nothing twice when the log can be
// read, and cannot be read again.
func TestExtension(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		withLogerrors(t, major)
		server := pgtest.Start(t, pgtest.Version(major), pgtest.CSVLog(), pgtest.Setting("shared_preload_libraries", "logerrors"), pgtest.Setting("logerrors.interval", "1s"))
		role, err := server.Monitor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		server.MustExec(t, "postgres", "CREATE SCHEMA stats")
		server.MustExec(t, "postgres", "CREATE EXTENSION logerrors SCHEMA stats")
		server.MustExec(t, "postgres", "GRANT USAGE ON SCHEMA stats TO "+role)
		fail(t, server, 3) // before anybody looks
		results := inMemory(t)
		start := func() func() {
			stop := watch(t, server.DSN("postgres", role), results, func(c *config.Log) { c.Via, c.Roles = config.ViaSQL, []string{"postgres"} })
			pgtest.Await(t, "reading", 20*time.Second, func() bool { return results.Snapshot().Log.Up })
			return stop
		}
		stop := start()
		defer func() { stop() }()
		if !blind(results, pglog.BlindText) || !slices.ContainsFunc(results.Snapshot().Findings, func(f state.Finding) bool { return f.Check == state.CheckLog }) {
			t.Errorf("what the counts leave out is not told: %+v", results.Snapshot().LogBlindness)
		}
		fail(t, server, 7)
		t.Logf("counted by the extension after %s", awaitDivisions(t, results, 7))
		exactly := func(want uint64) {
			t.Helper()
			pgtest.Await(t, fmt.Sprintf("%d errors", want), 20*time.Second, func() bool { return total(results) >= want })
			<-time.After(4 * time.Second)
			if got := total(results); got != want {
				t.Fatalf("%d errors counted, not %d: %v", got, want, results.Snapshot().Counters)
			}
		}
		exactly(7)
		if got := counted(results, "22xxx", "postgres"); got != 7 {
			t.Errorf("%d divisions of 7 have SQLSTATE and database", got)
		}
		if got := results.Snapshot().Counters[pglog.Counter{Kind: pglog.CountRoles, Name: "postgres", Category: pglog.ClientMistake}]; got != 7 {
			t.Errorf("%d errors of the role", got)
		}
		// More than an interval holds: how many is still right.
		server.MustExec(t, "postgres", "DO $$BEGIN FOR i IN 1..3000 LOOP RAISE WARNING 'w'; END LOOP; END$$")
		warnings := func() (n uint64) {
			for counter, count := range results.Snapshot().Counters {
				if counter.Kind == pglog.CountMessages && counter.Severity == pglog.Warning {
					n += count
				}
			}
			return n
		}
		pgtest.Await(t, "warnings", 20*time.Second, func() bool { return warnings() >= 3000 })
		// Damage that only a function made up, perhaps.
		if err := server.Exec(t.Context(), "postgres", "DO $$BEGIN RAISE 'x' USING ERRCODE = 'XX001'; END$$"); err == nil {
			t.Fatal("no error")
		}
		exactly(8)
		if got := warnings(); got != 3000 {
			t.Errorf("%d warnings", got)
		}
		for counter, count := range results.Snapshot().Counters {
			if counter.Kind == pglog.CountEvents && counter.Event.Corruption() && count > 0 {
				t.Errorf("%d %s", count, counter.Event)
			}
		}
		// While nobody looks.
		stop()
		fail(t, server, 5)
		stop = start()
		exactly(13)
		// Somebody resets the counts, then the server crashes.
		server.MustExec(t, "postgres", "SELECT stats.pg_log_errors_reset()")
		fail(t, server, 4)
		exactly(17)
		if err := errors.Join(server.Stop(pgtest.Immediate), server.StartAgain(t.Context())); err != nil {
			t.Fatal(err)
		}
		fail(t, server, 2)
		pgtest.Await(t, "errors after the crash", 20*time.Second, func() bool { return total(results) >= 19 })
		<-time.After(3 * time.Second)
		after := total(results) // what a crash ends may be errors, too
		t.Logf("%d errors after the crash", after-17)

		// The log can be read: it has all of this again, and is not counted again.
		fail(t, server, 6)
		pgtest.Await(t, "the last six", 20*time.Second, func() bool { return total(results) >= after+6 })
		if err := server.GrantLog(t.Context(), "postgres", role); err != nil {
			t.Fatal(err)
		}
		pgtest.Await(t, "reading the log itself", 40*time.Second, func() bool { return !blind(results, pglog.BlindText) })
		fail(t, server, 3)
		exactly(after + 9)
		// And cannot be read any longer. What it had before the extension was looked at
		// again counts when it can be read.
		server.MustExec(t, "postgres", "REVOKE EXECUTE ON FUNCTION pgintegrity.read_log(text, bigint, bigint) FROM "+role)
		fail(t, server, 1)
		pgtest.Await(t, "the extension again", 40*time.Second, func() bool { return blind(results, pglog.BlindText) && results.Snapshot().Log.Up })
		fail(t, server, 4)
		exactly(after + 9 + 4)
		if err := server.GrantLog(t.Context(), "postgres", role); err != nil {
			t.Fatal(err)
		}
		pgtest.Await(t, "reading the log itself", 40*time.Second, func() bool { return !blind(results, pglog.BlindText) })
		fail(t, server, 3)
		exactly(after + 9 + 4 + 1 + 3)
	})
}
