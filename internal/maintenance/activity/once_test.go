package activity

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/maintenance/script"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// eyes watch a server with everything that sees maintenance: its activity, its
// catalogue and its log.
type eyes struct {
	t       *testing.T
	server  *pgtest.Server
	target  *pg.Target
	files   *state.Files
	watcher *Watcher
	touched *touchedList
}

// watch looks at a server's activity and catalogue; kept is the state of an
// earlier watcher.
func watch(t *testing.T, server *pgtest.Server, kept ...*state.Files) *eyes {
	t.Helper()
	return watchEvery(t, time.Second, server, kept...)
}

// watchEvery is watch with a time between two looks; 0 is that the test looks
// itself.
func watchEvery(t *testing.T, interval time.Duration, server *pgtest.Server, kept ...*state.Files) *eyes {
	t.Helper()
	target, err := pg.ResolveTarget(server.DSN("postgres"), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	e := &eyes{t: t, server: server, target: target, files: state.OpenFiles(t.TempDir(), target.Name()), touched: &touchedList{}}
	if len(kept) > 0 {
		e.files = kept[0]
	}
	lane := pg.NewLane(target, pg.Purpose{StatementTimeout: lookTimeout, LockTimeout: 200 * time.Millisecond})
	t.Cleanup(lane.Close)
	e.watcher = New(target, lane, e.files, e.touched, Settings{Enabled: true, Interval: interval}, slog.New(slog.DiscardHandler))
	if interval == 0 {
		return e
	}
	e.watcher.Start()
	t.Cleanup(e.watcher.Stop)
	pgtest.Await(t, "a first look", 20*time.Second, e.watcher.looked)
	return e
}

// watchAll is watch, and reads the log.
func watchAll(t *testing.T, server *pgtest.Server) *eyes {
	t.Helper()
	e := watch(t, server)
	e.read()
	return e
}

// read reads the log, from its end.
func (e *eyes) read() {
	log := pglog.NewFollower(filepath.Join(e.server.LogDirectory(), "*.csv"), pglog.Input{Format: pglog.CSVLog}, pglog.Position{}, pglog.NewLabels(nil, nil, nil))
	log.Commit = func(batch pglog.Batch) { e.watcher.Logged(batch.Statements) }
	log.Report = func(pglog.Status) {}
	ctx, stop := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	reading.Go(func() { log.Run(ctx) })
	e.t.Cleanup(func() {
		stop()
		reading.Wait()
	})
}

// TestCopyBetweenTwoLooks runs COPYs that no look sees: one that takes long by the
// log is maintenance, and checked next; a short one, and one whose time the log
// does not tell, are not.
func TestCopyBetweenTwoLooks(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.CSVLog())
		server.MustExec(t, "postgres", "CREATE TABLE bulk (i int); CREATE TABLE small (i int); CREATE TABLE untimed (i int)")
		e := watchEvery(t, 0, server)
		e.read()
		load := func(table, set string, pause time.Duration) {
			t.Helper()
			conn, err := pgconn.Connect(t.Context(), server.DSN("postgres"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			if _, err := conn.Exec(t.Context(), set).ReadAll(); err != nil {
				t.Fatal(err)
			}
			data, more := io.Pipe()
			go func() {
				_, _ = io.WriteString(more, "1\n")
				time.Sleep(pause)
				_ = more.Close()
			}()
			if _, err := conn.CopyFrom(t.Context(), data, "COPY "+table+" FROM STDIN"); err != nil {
				t.Fatal(err)
			}
		}
		const long = pglog.BulkCopy + 200*time.Millisecond // the pause begins before the COPY does
		load("small", "SET log_min_duration_statement = 0", 0)
		load("untimed", "SET log_statement = 'all'", long)
		load("bulk", "SET log_min_duration_statement = 0", long)
		pgtest.Await(t, "the COPY told", 20*time.Second, func() bool {
			if err := e.watcher.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			return e.told()["copy bulk"] == 1
		})
		if told := e.told(); len(told) != 1 || !e.touched.has("bulk") || e.touched.has("small") || e.touched.has("untimed") {
			t.Errorf("told: %v, to be checked: %v", told, e.touched.list)
		}
	})
}

// told counts the events of maintenance by kind and relation.
func (e *eyes) told() map[string]int {
	events, err := e.files.Events(time.Time{}, time.Now().Add(time.Hour))
	if err != nil {
		e.t.Fatal(err)
	}
	told := make(map[string]int)
	for _, event := range events {
		if event.Kind == state.EventMaintenance {
			told[strings.TrimSpace(event.Details["kind"]+" "+event.Relation)]++
		}
	}
	return told
}

// settled waits until nothing is held any more: a last maintenance was told.
func (e *eyes) settled(database string) {
	e.t.Helper()
	before := e.told()["truncate last"]
	e.server.MustExec(e.t, database, "CREATE TABLE IF NOT EXISTS last (i int)")
	conn, err := pgx.Connect(e.t.Context(), e.server.DSN(database))
	if err != nil {
		e.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range []string{"SET log_statement = 'all'", "TRUNCATE last"} {
		if _, err := conn.Exec(e.t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			e.t.Fatal(err)
		}
	}
	pgtest.Await(e.t, "the last maintenance told", 20*time.Second, func() bool { return e.told()["truncate last"] > before })
}

func describe(told map[string]int) string {
	var list []string
	for _, what := range slices.Sorted(maps.Keys(told)) {
		list = append(list, fmt.Sprintf("%s: %d", what, told[what]))
	}
	return strings.Join(list, ", ")
}

// TestMaintenanceIsToldOnce does maintenance that is seen in one, two or all
// three ways, in and outside of the database that is looked at: each is told
// once, and autovacuum never.
func TestMaintenanceIsToldOnce(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.CSVLog(), pgtest.Setting("log_autovacuum_min_duration", "0"),
			pgtest.Setting("autovacuum_naptime", "1s"), pgtest.Setting("autovacuum_vacuum_threshold", "0"), pgtest.Setting("log_min_duration_statement", "-1"))
		for _, database := range []string{"postgres", "other"} {
			if database == "other" {
				server.MustExec(t, "postgres", "CREATE DATABASE other")
			}
			for _, name := range []string{"emptied", "rewritten", "rebuilt", "altered", "waited", "slow", "one", "two", "prepared"} {
				server.MustExec(t, database, "CREATE TABLE "+name+" AS SELECT generate_series(1, 1000) i; CREATE INDEX ON "+name+" (i); DELETE FROM "+name+" WHERE i < 100")
			}
			server.MustExec(t, database, "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER t BEFORE INSERT ON altered FOR EACH ROW EXECUTE FUNCTION f()")
		}
		e := watchAll(t, server)
		want := make(map[string]int)
		for _, database := range []string{"postgres", "other"} {
			conn, err := pgx.Connect(t.Context(), server.DSN(database))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			do := func(sql string) {
				t.Helper()
				if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
					t.Fatal(err)
				}
			}
			do("SET log_statement = 'all'")
			for sql, what := range map[string]string{
				"TRUNCATE emptied": "truncate emptied", "VACUUM FULL rewritten": "vacuum_full rewritten", "REINDEX INDEX rebuilt_i_idx": "reindex rebuilt",
				"ALTER TABLE altered DISABLE TRIGGER t": "disabled_trigger altered", "ANALYZE one": "analyze one",
				"BEGIN; TRUNCATE one; COMMIT": "truncate one", "TRUNCATE two": "truncate two", "DROP INDEX two_i_idx": "drop two_i_idx",
			} {
				do(sql)
				want[what]++
			}
			// It waits, so that it is seen while it runs.
			release := server.Hold(t, database, "LOCK TABLE waited")
			waiting := make(chan error, 1)
			go func() {
				waiting <- server.Exec(t.Context(), database, "SET log_statement = 'all'; ALTER TABLE waited ADD j int")
			}()
			pgtest.Await(t, "seen while it waits", 20*time.Second, func() bool {
				return slices.ContainsFunc(e.watcher.Status().Running, func(o Operation) bool { return o.Relation.Name == "waited" && o.Database == database })
			})
			release()
			if err := <-waiting; err != nil {
				t.Fatal(err)
			}
			want["alter_table waited"]++
			// Logged at its end, long after it began.
			do("SET log_statement = 'none'; SET log_min_duration_statement = 0")
			do("SET vacuum_cost_delay = '20ms'; SET vacuum_cost_limit = 1")
			do("VACUUM slow")
			want["vacuum slow"]++
			if _, err := conn.Exec(t.Context(), "ANALYZE prepared"); err != nil {
				t.Fatal(err)
			}
			want["analyze prepared"]++
			if database == "other" { // it is for all of them
				do("SET log_statement = 'all'")
				do("ALTER SYSTEM SET work_mem = '5MB'")
				do("SELECT pg_reload_conf()")
				want["alter_system"]++
			}
			e.settled(database)
			want["truncate last"]++
		}
		if got := describe(e.told()); got != describe(want) {
			t.Errorf("told %s; want %s", got, describe(want))
		}
		for kind, n := range e.watcher.Status().Seen {
			sum := 0
			for what, count := range want {
				if word, _, _ := strings.Cut(what, " "); word == string(kind) {
					sum += count
				}
			}
			if n != uint64(sum) {
				t.Errorf("%d of kind %s are counted, want %d", n, kind, sum)
			}
		}
		if !e.touched.has("emptied") || e.touched.has("f") {
			t.Error("what was emptied is not checked next")
		}
	})
}

// TestGuardIsToldOnce runs the guard beside the watcher, with a log that does not
// tell the names of applications and one that does: a run is one operation, one
// event, and one line of the review.
func TestGuardIsToldOnce(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.CSVLog(), pgtest.Setting("log_statement", "all"))
		server.MustExec(t, "postgres", "CREATE EXTENSION amcheck; CREATE TABLE guarded AS SELECT generate_series(1, 1000) i; CREATE TABLE emptied AS SELECT 1 i; CREATE TABLE alone AS SELECT 1 i")
		e := watchAll(t, server)
		statements, err := script.Split("ALTER TABLE guarded ALTER i TYPE bigint; SELECT pg_sleep(2.5); CREATE INDEX guarded_i ON guarded (i); TRUNCATE emptied")
		if err != nil {
			t.Fatal(err)
		}
		settings := guard.Default()
		settings.MinFree = 0
		report := guard.Run(t.Context(), guard.Options{
			Target: e.target, Database: "postgres", Files: e.files, Settings: settings, Statements: statements, What: "nightly.sql", Logger: slog.New(slog.DiscardHandler),
		})
		if report.Outcome != guard.OutcomeDone {
			t.Fatalf("the run ended %s: %s", report.Outcome, report.Summary)
		}
		server.MustExec(t, "postgres", "TRUNCATE alone")
		e.settled("postgres")
		if got := describe(e.told()); got != "truncate alone: 1, truncate last: 1" {
			t.Errorf("beside the guard's own event there are %s", got)
		}
		if n := e.watcher.Status().Seen[Guarded]; n != 1 {
			t.Errorf("%d operations of the guard are counted", n)
		}
		reviewed, err := Review(e.files, nil, time.Time{}, time.Now().Add(time.Hour))
		if err != nil || len(reviewed) != 3 {
			t.Errorf("the review has %d lines: %+v (%v)", len(reviewed), reviewed, err)
		}
	})
}
