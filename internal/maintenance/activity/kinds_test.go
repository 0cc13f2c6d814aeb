package activity

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// The ways in which maintenance is seen, in the words of docs/maintenance.md.
const (
	whileItRuns = "while it runs"
	inLog       = "log"
	inCatalogue = "catalogue"
)

// ways are the ways by the source that an event names.
var ways = map[string]string{"pg_stat_activity": whileItRuns, logSource: inLog, catalogueSource: inCatalogue}

// sighting is a kind of maintenance that is seen in one way, with the others
// kept from seeing it.
type sighting struct {
	kind Kind
	way  string
	// relation is what the event must name; empty is nothing.
	relation string
	// sql is the maintenance. What is to be seen while it runs finds its relation
	// locked and is not logged; what is to be seen in the log is quick and in another
	// database; what is to be seen in the catalogue is quick and not logged.
	sql string
	// does is maintenance that is more than sql, and goes on until ctx ends.
	does func(ctx context.Context, server *pgtest.Server) error
}

// sightings are all kinds in all ways.
func sightings() []sighting {
	list := []sighting{
		{kind: Rewrite, way: inCatalogue, relation: "caught", sql: "VACUUM FULL caught"},
		{kind: DisabledTrigger, way: inCatalogue, relation: "switched", sql: "ALTER TABLE switched DISABLE TRIGGER t"},
		{kind: Extension, way: inCatalogue, sql: "ALTER EXTENSION amcheck UPDATE"},
		{kind: Extension, way: inLog, sql: "CREATE EXTENSION hstore"},
		{kind: AlterSystem, way: inLog, sql: "ALTER SYSTEM SET work_mem = '5MB'"},
		{kind: AlterSystem, way: inCatalogue, sql: "SELECT pg_reload_conf()"},
		{kind: BaseBackup, way: whileItRuns, does: slowBackup},
		{kind: Copy, way: whileItRuns, relation: "on_copy", does: slowCopy},
		{kind: Dump, way: whileItRuns, does: sessionOf("pg_dump")},
		{kind: Restore, way: whileItRuns, does: sessionOf("pg_restore")},
		{kind: Repack, way: whileItRuns, does: sessionOf("pg_repack")},
	}
	for kind, sql := range map[Kind]string{
		AlterTable: "ALTER TABLE %s ADD j int", Analyze: "ANALYZE %s", Cluster: "CLUSTER %s USING %[1]s_i", CreateIndex: "CREATE INDEX ON %s (i)",
		DisabledTrigger: "ALTER TABLE %s DISABLE TRIGGER t", Drop: "DROP TABLE %s", Refresh: "REFRESH MATERIALIZED VIEW %s", Reindex: "REINDEX TABLE %s",
		Truncate: "TRUNCATE %s", Vacuum: "VACUUM %s", VacuumFull: "VACUUM FULL %s",
	} {
		relation := "on_" + string(kind)
		for _, way := range []string{whileItRuns, inLog} {
			list = append(list, sighting{kind: kind, way: way, relation: relation, sql: fmt.Sprintf(sql, relation)})
		}
	}
	return list
}

// slowBackup is a base backup that takes minutes.
func slowBackup(ctx context.Context, server *pgtest.Server) error {
	conn, err := pgconn.Connect(ctx, server.DSN("postgres")+"&replication=database")
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	command := "BASE_BACKUP (LABEL 'slow', CHECKPOINT 'fast', MAX_RATE 64)"
	if server.Install.Major < 15 {
		command = "BASE_BACKUP LABEL 'slow' FAST MAX_RATE 64"
	}
	_, err = conn.Exec(ctx, command).ReadAll()
	return err
}

// slowCopy is a COPY whose data does not come.
func slowCopy(ctx context.Context, server *pgtest.Server) error {
	conn, err := pgconn.Connect(ctx, server.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	data, more := io.Pipe()
	defer context.AfterFunc(ctx, func() { _ = more.CloseWithError(ctx.Err()) })()
	go func() { _, _ = io.WriteString(more, "1\n") }()
	_, err = conn.CopyFrom(ctx, data, "COPY on_copy FROM STDIN")
	return err
}

// sessionOf is a session by the name of a program, in the other database, as
// new files would be laid to it; TestProgramsAreSeen has the programs themselves.
func sessionOf(program string) func(context.Context, *pgtest.Server) error {
	return func(ctx context.Context, server *pgtest.Server) error {
		return server.Exec(ctx, "other", "SET application_name = '"+program+"'; SELECT pg_sleep(600)")
	}
}

// saw gives the event that tells of a sighting.
func (e *eyes) saw(s sighting) (state.Event, bool) {
	e.t.Helper()
	events, err := e.files.Events(time.Time{}, time.Now().Add(time.Hour))
	if err != nil {
		e.t.Fatal(err)
	}
	i := slices.IndexFunc(events, func(x state.Event) bool {
		return x.Kind == state.EventMaintenance && x.Details["kind"] == string(s.kind) && x.Relation == s.relation && ways[x.Source] == s.way
	})
	if i < 0 {
		return state.Event{}, false
	}
	return events[i], true
}

// runs says whether the maintenance of a sighting is seen while it runs.
func (e *eyes) runs(kind Kind) bool {
	return slices.ContainsFunc(e.watcher.Status().Running, func(o Operation) bool { return o.Kind == kind })
}

// prepareKinds makes what the sightings work on.
func prepareKinds(t *testing.T, server *pgtest.Server) {
	t.Helper()
	server.MustExec(t, "postgres", "CREATE DATABASE other")
	const trigger = "CREATE TRIGGER t BEFORE UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();"
	server.MustExec(t, "postgres", "CREATE EXTENSION amcheck VERSION '1.0'; CREATE TABLE caught AS SELECT 1 i; CREATE TABLE on_copy (i int); CREATE TABLE switched (i int);"+
		fmt.Sprintf(trigger, "switched"))
	for _, s := range sightings() {
		if s.sql == "" || !strings.HasPrefix(s.relation, "on_") || s.way != whileItRuns {
			continue
		}
		for _, database := range []string{"postgres", "other"} {
			if s.kind == Refresh {
				server.MustExec(t, database, "CREATE MATERIALIZED VIEW "+s.relation+" AS SELECT 1 i")
				continue
			}
			server.MustExec(t, database, fmt.Sprintf("CREATE TABLE %s AS SELECT generate_series(1, 1000) i; CREATE INDEX %[1]s_i ON %[1]s (i);", s.relation)+
				fmt.Sprintf(trigger, s.relation))
		}
	}
}

// holds says what an event of a sighting lacks.
func (s sighting) holds(t *testing.T, event state.Event) {
	t.Helper()
	if s.way != inCatalogue && !strings.HasPrefix(event.Details["by"], "postgres") {
		t.Errorf("%s, %s: done by %q", s.kind, s.way, event.Details["by"])
	}
	if took := event.Ended.Sub(event.Time); s.way == whileItRuns && took <= 0 || took < 0 || time.Since(event.Time) > 10*time.Minute {
		t.Errorf("%s, %s: from %s to %s", s.kind, s.way, event.Time, event.Ended)
	}
	if n := event.Details["blocked_sessions"]; (n == "1") != (s.kind == AlterTable && s.way == whileItRuns) {
		t.Errorf("%s, %s: %s sessions waited for it", s.kind, s.way, n)
	}
}

// TestEveryKindIsSeen does maintenance of every kind on a real server, once for
// each way in which docs/maintenance.md says that it is seen, and holds that it
// is told with its object, who did it, when, and who waited for it.
func TestEveryKindIsSeen(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.CSVLog(), pgtest.Setting("autovacuum", "off"))
		prepareKinds(t, server)
		all, blind := watchAll(t, server), watch(t, server) // the second does not see the log

		ctx, cancel := context.WithCancel(t.Context())
		var going sync.WaitGroup
		defer going.Wait()
		defer cancel()
		var releases []func()
		for _, s := range sightings() {
			switch {
			case s.does != nil:
				going.Go(func() {
					if err := s.does(ctx, server); ctx.Err() == nil {
						t.Errorf("%s: %v", s.kind, err)
					}
				})
			case s.way == whileItRuns:
				lock := "LOCK TABLE " + s.relation
				if s.kind == Refresh { // LOCK does not take materialized views
					lock = "SELECT FROM " + s.relation
				}
				releases = append(releases, server.Hold(t, "postgres", lock))
				going.Go(func() {
					if err := server.Exec(t.Context(), "postgres", s.sql); err != nil {
						t.Errorf("%s: %v", s.sql, err)
					}
				})
			}
		}
		await := func(how string, s sighting, ok func() bool) {
			t.Helper()
			pgtest.Await(t, fmt.Sprintf("%s %s, %s", s.kind, how, s.way), 20*time.Second, ok)
		}
		for _, s := range sightings() {
			if s.way == whileItRuns {
				await("runs", s, func() bool { return all.runs(s.kind) })
			}
		}
		going.Go(func() { _ = server.Exec(t.Context(), "postgres", "SELECT FROM on_alter_table") })
		pgtest.Await(t, "who waits for it", 20*time.Second, func() bool {
			return slices.ContainsFunc(all.watcher.Status().Running, func(o Operation) bool { return o.Kind == AlterTable && o.Blocked == 1 })
		})
		for _, release := range releases {
			release()
		}
		cancel()
		quick := func(way, database, before string) {
			t.Helper()
			conn, err := pgx.Connect(t.Context(), server.DSN(database))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			for _, s := range append([]sighting{{sql: before}}, sightings()...) {
				if s.way != way && s.way != "" || s.sql == "" {
					continue
				}
				if _, err := conn.Exec(t.Context(), s.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
					t.Fatalf("%s: %v", s.sql, err)
				}
			}
		}
		quick(inLog, "other", "SET log_statement = 'all'")
		quick(inCatalogue, "postgres", "")
		for _, s := range sightings() {
			eyes := all
			if s.way == inCatalogue {
				eyes = blind
			}
			var event state.Event
			await("is told", s, func() (ok bool) {
				event, ok = eyes.saw(s)
				return ok
			})
			s.holds(t, event)
		}
	})
}

// TestKindsAreDocumented holds the table of docs/maintenance.md against the
// kinds and the tests of their recognition.
func TestKindsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "maintenance.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[Kind]string{Guarded: "| while it runs, its own events | TestGuardIsToldOnce |", Upgrade: "| version of the server | TestUpgradeIsSeen |"}
	for _, kind := range Kinds() {
		var seen []string
		for _, way := range []string{whileItRuns, inLog, inCatalogue} {
			if slices.ContainsFunc(sightings(), func(s sighting) bool { return s.kind == kind && s.way == way }) {
				seen = append(seen, way)
			}
		}
		row := tests[kind]
		if row == "" && len(seen) > 0 {
			row = "| " + strings.Join(seen, ", ") + " | TestEveryKindIsSeen"
		}
		switch {
		case row == "":
			t.Errorf("no test sees %s", kind)
		case !strings.Contains(string(page), "\n| "+string(kind)+" "+row):
			t.Errorf("docs/maintenance.md has no line that begins | %s %s", kind, row)
		}
	}
}

// TestUpgradeIsSeen keeps the state while the server is replaced by one of the
// next version, as pg_upgrade does.
func TestUpgradeIsSeen(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		if _, err := pgtest.Find(major - 1); err != nil {
			t.Skip(err)
		}
		before := watch(t, pgtest.Start(t, pgtest.Version(major-1)))
		before.watcher.Stop()
		after := watch(t, pgtest.Start(t, pgtest.Version(major)), before.files)
		upgrade := sighting{kind: Upgrade}
		pgtest.Await(t, "the upgrade told", 20*time.Second, func() bool { _, ok := after.saw(upgrade); return ok })
		after.watcher.Stop()
		again := watch(t, after.server, before.files)
		if told := again.told(); told["upgrade"] != 1 || len(told) != 1 {
			t.Errorf("told %s", describe(told))
		}
	})
}

// TestProgressIsShown holds that maintenance that takes its time shows how far it
// is, and an end that is about right.
func TestProgressIsShown(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Setting("autovacuum", "off"), pgtest.Setting("vacuum_cost_delay", "20ms"), pgtest.Setting("vacuum_cost_limit", "50"), pgtest.Setting("vacuum_cost_page_hit", "20"))
		server.MustExec(t, "postgres", "CREATE TABLE slow AS SELECT i, repeat('x', 1000) x FROM generate_series(1, 4000) i; DELETE FROM slow WHERE i % 2 = 0")
		e := watch(t, server)
		done := make(chan error, 1)
		go func() { done <- server.Exec(t.Context(), "postgres", "VACUUM slow") }()
		var estimates []time.Time
		for {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				end := time.Now()
				if len(estimates) == 0 {
					t.Fatal("no end was estimated")
				}
				if off := estimates[len(estimates)-1].Sub(end).Abs(); off > 5*time.Second {
					t.Errorf("the last estimate is off by %s", off)
				}
				return
			case <-time.After(100 * time.Millisecond):
				for _, o := range e.watcher.Status().Running {
					if end := o.EstimatedEnd(time.Now()); o.Kind == Vacuum && !end.IsZero() {
						estimates = append(estimates, end)
					}
				}
			}
		}
	})
}

// TestProgramsAreSeen runs the programs of PostgreSQL, and pg_repack, where they
// are installed: each is told once, with all its sessions and statements, and
// what it wrote is checked next.
func TestProgramsAreSeen(t *testing.T) {
	t.Parallel()
	archive := filepath.Join(pgtest.SharedDirectory(t), "archive")
	for _, p := range []struct {
		kind    Kind
		program string
		args    []string
		// lock makes it wait, so that it is seen.
		lock    string
		touches bool
	}{
		{Dump, "pg_dump", []string{"--format=custom", "--file=" + archive, "postgres"}, "LOCK TABLE worked", false},
		{Restore, "pg_restore", []string{"--clean", "--if-exists", "--dbname=postgres", archive}, "LOCK TABLE worked IN ACCESS SHARE MODE", true},
		{Repack, "pg_repack", []string{"--table=worked", "--no-kill-backend", "postgres"}, "LOCK TABLE worked IN ACCESS SHARE MODE", true},
		{BaseBackup, "pg_basebackup", []string{"--pgdata=" + archive + ".base", "--max-rate=8M", "--checkpoint=fast"}, "SELECT", false},
	} {
		t.Run(p.program, func(t *testing.T) {
			install, err := pgtest.FindWith("pg_dump", p.program)
			if err != nil {
				t.Skip(err)
			}
			server := pgtest.Start(t, pgtest.From(install), pgtest.CSVLog(), pgtest.Setting("autovacuum", "off"))
			server.MustExec(t, "postgres", "CREATE TABLE worked AS SELECT i, repeat('x', 100) x FROM generate_series(1, 20000) i; ALTER TABLE worked ADD PRIMARY KEY (i); CREATE INDEX ON worked (x)")
			if p.kind == Repack {
				server.MustExec(t, "postgres", "CREATE EXTENSION pg_repack")
			}
			run := func(program string, args ...string) error {
				return pgtest.Run(filepath.Join(install.BinDir, program), append([]string{"--host=127.0.0.1", "--port=" + strconv.Itoa(server.Port), "--username=postgres"}, args...)...)
			}
			if p.kind == Restore {
				if err := run("pg_dump", "--format=custom", "--file="+archive, "postgres"); err != nil {
					t.Fatal(err)
				}
			}
			server.MustExec(t, "postgres", "ALTER DATABASE postgres SET log_statement = 'all'")
			e := watchAll(t, server)
			release := server.Hold(t, "postgres", p.lock)
			done := make(chan error, 1)
			go func() { done <- run(p.program, p.args...) }()
			pgtest.Await(t, "seen while it runs", 20*time.Second, func() bool { return e.runs(p.kind) })
			release()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			e.settled("postgres")
			if got, want := describe(e.told()), string(p.kind)+": 1, truncate last: 1"; got != want {
				t.Errorf("told %s; want %s", got, want)
			}
			if n := e.watcher.Status().Seen[p.kind]; n != 1 {
				t.Errorf("%d are counted", n)
			}
			if e.touched.has("worked") != p.touches {
				t.Errorf("what it worked on is checked next: %t", !p.touches)
			}
		})
	}
}
