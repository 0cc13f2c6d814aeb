package activity

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/maintenance/window"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/schedule"
	"pg_integrity_exporter/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// touchedList keeps what is to be checked next.
type touchedList struct {
	mu   sync.Mutex
	list []schedule.Suspect
}

func (l *touchedList) Touched(suspects ...schedule.Suspect) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, suspects...)
}

func (l *touchedList) has(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.list, schedule.Suspect{Database: "postgres", Relation: check.RelationName{Schema: "public", Name: name}})
}

// TestMaintenanceIsSeen does maintenance of many kinds on a real server and
// holds that each is told, and that what it touched is checked next; and that
// a role that has only pg_monitor is enough.
func TestMaintenanceIsSeen(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		server.MustExec(t, "postgres", `CREATE TABLE rewritten AS SELECT generate_series(1, 1000) i; CREATE TABLE emptied AS SELECT 1 i; CREATE TABLE rebuilt (i int PRIMARY KEY);
			CREATE TABLE locked (i int); CREATE TABLE quiet AS SELECT generate_series(1, 100) i;
			CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER t BEFORE INSERT ON rebuilt FOR EACH ROW EXECUTE FUNCTION f()`)
		server.MustExec(t, "postgres", "CREATE TABLESPACE fast LOCATION '"+pgtest.SharedDirectory(t)+"'")
		monitor, err := server.Monitor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		target, err := pg.ResolveTarget(server.DSN("postgres", monitor), func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		files := state.OpenFiles("", target.Name())
		touched := &touchedList{}
		lane := pg.NewLane(target, pg.Purpose{StatementTimeout: lookTimeout, LockTimeout: 200 * time.Millisecond})
		defer lane.Close()
		w := New(target, lane, files, touched, Settings{Enabled: true, Interval: 200 * time.Millisecond, Marker: "maintenance", MarkerLimit: time.Hour}, slog.New(slog.DiscardHandler))
		w.Start()
		defer w.Stop()
		eventually := func(what string, ok func() bool) {
			t.Helper()
			pgtest.Await(t, "seen: "+what, 20*time.Second, ok)
		}
		told := func(kind Kind, relation string) bool {
			events, err := files.Events(time.Time{}, time.Now().Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(events, func(e state.Event) bool { return e.Details["kind"] == string(kind) && e.Relation == relation })
		}
		eventually("a first look", func() bool { return w.looked() })
		eventually("the disks", func() bool {
			disks := w.Status().Disks
			return len(disks) == 3 && disks[0].Place == "data" && disks[1].Place == "wal" && disks[2].Place == "fast" &&
				!slices.ContainsFunc(disks, func(d Disk) bool { return d.Free <= 0 || d.Size < d.Free })
		})

		// What is too quick to be seen while it runs.
		server.MustExec(t, "postgres", "VACUUM FULL rewritten; ")
		server.MustExec(t, "postgres", "TRUNCATE emptied")
		server.MustExec(t, "postgres", "REINDEX TABLE rebuilt")
		server.MustExec(t, "postgres", "ALTER TABLE rebuilt DISABLE TRIGGER t")
		server.MustExec(t, "postgres", "ALTER SYSTEM SET work_mem = '5MB'")
		server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
		for _, name := range []string{"rewritten", "emptied", "rebuilt"} {
			eventually("new files of "+name, func() bool { return touched.has(name) })
		}
		eventually("the disabled trigger", func() bool { return told(DisabledTrigger, "rebuilt") })
		// On a busy machine even these are seen while they run.
		eventually("the rewrite told", func() bool { return told(Rewrite, "emptied") || told(Truncate, "emptied") })

		// What runs for a while, and makes others wait.
		release := server.Hold(t, "postgres", "SET application_name = 'night maintenance'; LOCK TABLE locked")
		done := make(chan error, 1)
		go func() { done <- server.Exec(t.Context(), "postgres", "ALTER TABLE locked ADD COLUMN j int") }()
		eventually("the running ALTER TABLE", func() bool {
			return slices.ContainsFunc(w.Status().Running, func(o Operation) bool { return o.Kind == AlterTable && o.Relation.Name == "locked" })
		})
		eventually("the window of the marker", func() bool { return w.Status().Window.Active })
		release()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		eventually("the end of the ALTER TABLE", func() bool { return told(AlterTable, "locked") && touched.has("locked") })
		eventually("the end of the window", func() bool { return !w.Status().Window.Open })
		if touched.has("quiet") {
			t.Error("a table that nobody touched is to be checked")
		}
	})
}

func (w *Watcher) looked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ready
}

func TestRecognise(t *testing.T) {
	t.Parallel()
	for statement, want := range map[string]Kind{
		"VACUUM (FULL) a": VacuumFull, "vacuum a": Vacuum, "REINDEX TABLE CONCURRENTLY a": Reindex, "CREATE INDEX CONCURRENTLY ON a (b)": CreateIndex,
		"ALTER EXTENSION x UPDATE": Extension, "TRUNCATE a": Truncate, "REFRESH MATERIALIZED VIEW a": Refresh, "CLUSTER a": Cluster,
		"SELECT 'VACUUM FULL'": "", "UPDATE a SET b = 1 WHERE c = 2": "", "COPY a FROM STDIN": Copy, "COPY (SELECT " + strings.Repeat("x", 100): Copy,
		"BASE_BACKUP ( LABEL 'x' )": BaseBackup,
	} {
		if got, _ := recognise(statement, "psql", strings.HasPrefix(statement, "COPY")); got != want {
			t.Errorf("%s is %q, want %q", statement, got, want)
		}
	}
	if kind, _ := recognise("COPY a TO stdout", "pg_dump", false); kind != Dump {
		t.Errorf("pg_dump is %q", kind)
	}
}

func TestWindows(t *testing.T) {
	t.Parallel()
	files := state.OpenFiles(t.TempDir(), "server")
	now := time.Date(2026, 3, 14, 23, 0, 0, 0, time.UTC)
	opened, err := window.Open(files, now, time.Hour, "upgrade", "ann", "command")
	if err != nil {
		t.Fatal(err)
	}
	look := func(at time.Time, schedules ...window.Schedule) window.Status {
		t.Helper()
		s, err := window.Look(files, schedules, at)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := look(now.Add(time.Minute)); !s.Active || !s.Open {
		t.Errorf("in the window: %+v", s)
	}
	if s := look(now.Add(time.Hour)); s.Active || !s.Open {
		t.Errorf("behind the announced end: %+v", s)
	}
	if _, err := window.Close(files, now.Add(2*time.Hour), opened.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if s := look(now.Add(2 * time.Hour)); s.Open {
		t.Errorf("closed: %+v", s)
	}
	if _, err := window.Close(files, now, "", "ann"); err == nil {
		t.Error("a closed window can be closed again")
	}
	night := window.Schedule{From: 22 * time.Hour, To: 5 * time.Hour, Days: []time.Weekday{time.Saturday}, Location: time.UTC}
	for hour, want := range map[int]bool{21: false, 22: true, 23: true, 24: true, 28: true, 29: false, 46: false} {
		at := time.Date(2026, 3, 14, hour, 0, 0, 0, time.UTC) // a Saturday
		if s := look(at, night); s.Active != want {
			t.Errorf("%s: active %t", at, s.Active)
		}
	}
	if _, err := window.Open(files, now, 0, "", "", "command"); err == nil {
		t.Error("a window of no length can be opened")
	}
}
