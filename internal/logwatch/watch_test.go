package logwatch_test

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/logwatch"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/schedule"
	"pg_integrity_exporter/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watch watches the log of a server until the returned function is called.
func watch(t *testing.T, dsn string, results *state.Target, change func(c *config.Log)) (stop func()) {
	t.Helper()
	target, err := pg.ResolveTarget(dsn, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	c := config.Default().Get().Log
	change(&c)
	logger := slog.New(slog.DiscardHandler)
	lane := pg.NewLane(target, pg.Purpose{StatementTimeout: 10 * time.Second, LockTimeout: time.Second})
	scheduler := schedule.New(target, lane, results, schedule.Settings{}, logger)
	w := logwatch.New(target, lane, results, scheduler, c, nil, logger)
	w.Start()
	return func() {
		w.Stop()
		lane.Close()
	}
}

func inMemory(t *testing.T) *state.Target {
	t.Helper()
	results, err := state.InMemory(slog.New(slog.DiscardHandler)).Target("test")
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func divisions(results *state.Target) (n uint64) {
	for counter, count := range results.Snapshot().Counters {
		if counter.Kind == pglog.CountErrors && counter.SQLState == "22xxx" {
			n += count
		}
	}
	return n
}

func blind(results *state.Target, reason string) bool {
	return slices.ContainsFunc(results.Snapshot().LogBlindness, func(b pglog.Blindness) bool { return b.Reason == reason })
}

func fail(t *testing.T, server *pgtest.Server, times int) {
	t.Helper()
	for range times {
		if err := server.Exec(t.Context(), "postgres", "SELECT 1/0"); err == nil {
			t.Fatal("no error")
		}
	}
}

func awaitDivisions(t *testing.T, results *state.Target, want uint64) time.Duration {
	t.Helper()
	return pgtest.Await(t, fmt.Sprintf("%d errors counted", want), 40*time.Second, func() bool { return divisions(results) >= want })
}

// TestThroughTheServer reads the log with nothing but a connection, and says
// which grant is missing before. The destination changes meanwhile, and nothing
// counts twice.
func TestThroughTheServer(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.CSVLog(), pgtest.Setting("log_line_prefix", "%m [%p] %e "))
		role, err := server.Monitor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		results := inMemory(t)
		stop := watch(t, server.DSN("postgres", role), results, func(c *config.Log) { c.Via = config.ViaSQL })
		defer stop()
		pgtest.Await(t, "the missing grant told", 20*time.Second, func() bool {
			return !results.Snapshot().Log.Up && results.Snapshot().Log.Problem != "" && blind(results, pglog.BlindUnread)
		})
		if err := server.GrantLog(t.Context(), "postgres", role); err != nil {
			t.Fatal(err)
		}
		pgtest.Await(t, "reading", 20*time.Second, func() bool { return results.Snapshot().Log.Up })
		before := divisions(results)
		fail(t, server, 10)
		t.Logf("counted through the server after %s", awaitDivisions(t, results, before+10))
		for _, denied := range []string{"../PG_VERSION", "/etc/passwd", ".."} {
			var content []byte
			if err := server.Query(t.Context(), "postgres", "SELECT pgintegrity.read_log($1, 0, 100)", &content, denied); err != nil || content != nil {
				t.Errorf("read_log(%q) gives %q (%v)", denied, content, err)
			}
		}
		server.MustExec(t, "postgres", "ALTER SYSTEM SET log_destination = 'stderr'; ")
		server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
		<-time.After(500 * time.Millisecond)
		fail(t, server, 10)
		awaitDivisions(t, results, before+20)
		<-time.After(2 * time.Second)
		if got := divisions(results); got != before+20 {
			t.Errorf("%d errors counted of %d", got-before, 20)
		}
		pgtest.Await(t, "the missing %d and %a told", 20*time.Second, func() bool {
			return blind(results, pglog.BlindDatabase) && blind(results, pglog.BlindApplication) && !blind(results, pglog.BlindSQLState)
		})
	})
}

// TestWithoutCollector reads where the server's standard error goes, and tells
// of settings that hide errors.
func TestWithoutCollector(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	results := inMemory(t)
	stop := watch(t, server.DSN("postgres"), results, func(*config.Log) {})
	defer stop()
	if os.Geteuid() == 0 {
		pgtest.Await(t, "reading", 20*time.Second, func() bool { return results.Snapshot().Log.Up })
		fail(t, server, 10)
		pgtest.Await(t, "errors without SQLSTATE counted", 20*time.Second, func() bool {
			return results.Snapshot().Counters[pglog.Counter{Kind: pglog.CountErrors, Database: pglog.NoDatabase, SQLState: pglog.UnknownState}] >= 10
		})
		if !blind(results, pglog.BlindSQLState) {
			t.Errorf("not told: %+v", results.Snapshot().LogBlindness)
		}
	}
	server.MustExec(t, "postgres", "ALTER SYSTEM SET log_min_messages = 'fatal'")
	server.MustExec(t, "postgres", "ALTER ROLE postgres SET log_min_error_statement = 'panic'")
	server.MustExec(t, "postgres", "ALTER DATABASE postgres SET log_error_verbosity = 'terse'")
	server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
	for _, reason := range []string{pglog.BlindErrors, pglog.BlindStatement, pglog.BlindContext} {
		pgtest.Await(t, reason+" told", 40*time.Second, func() bool { return blind(results, reason) })
	}
}
