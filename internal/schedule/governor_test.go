package schedule

import (
	"log/slog"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// TestGovernor holds checks up while a real server is slow to answer or its
// standby lags, counts for how long, and lets go afterwards.
func TestGovernor(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	standby := server.Standby(t)
	target, err := pg.ResolveTarget(server.DSN("postgres"), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	lane := pg.NewLane(target, pg.Purpose{StatementTimeout: 10 * time.Second, LockTimeout: time.Second})
	defer lane.Close()
	var bounds Bounds
	held := make(map[state.Pressure]time.Duration)
	g := governor{
		lane: lane, bounds: func() Bounds { return bounds }, logger: slog.New(slog.DiscardHandler),
		paused: func(p state.Pressure, d time.Duration) { held[p] += d },
	}
	pressure := func() state.Pressure {
		g.felt = time.Time{}
		return g.feel(t.Context())
	}

	bounds = Bounds{Latency: 200 * time.Millisecond, ReplicationLag: time.Second}
	if p := pressure(); p != "" {
		t.Fatalf("a server without load is under pressure: %s", p)
	}
	started := time.Now()
	if g.pace(t.Context()); time.Since(started) > 500*time.Millisecond || len(held) != 0 {
		t.Errorf("held up for %s without pressure: %v", time.Since(started), held)
	}

	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(time.Second, func() {
		if err := server.Resume(); err != nil {
			t.Error(err)
		}
	})
	if p := pressure(); p != state.PressureLatency {
		t.Errorf("a server that answers after a second: %q", p)
	}
	g.pace(t.Context())
	if held[state.PressureLatency] < feelInterval {
		t.Errorf("held up for %v", held)
	}

	standby.MustExec(t, "postgres", "SELECT pg_wal_replay_pause()")
	server.MustExec(t, "postgres", "CREATE TABLE t AS SELECT 1")
	pgtest.Await(t, "the lag", 20*time.Second, func() bool {
		server.MustExec(t, "postgres", "INSERT INTO t VALUES (1)")
		return pressure() == state.PressureReplicationLag
	})
	standby.MustExec(t, "postgres", "SELECT pg_wal_replay_resume()")
	pgtest.Await(t, "the end of the lag", 20*time.Second, func() bool {
		server.MustExec(t, "postgres", "INSERT INTO t VALUES (1)")
		return pressure() == ""
	})
}

// TestOrder runs what the log reported before what maintenance touched before
// what may have been mended, the checks of a database together, and a database
// that was written to before one that was not.
func TestOrder(t *testing.T) {
	t.Parallel()
	logger := slog.New(slog.DiscardHandler)
	target, err := pg.ResolveTarget("host=127.0.0.1 port=1", func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	results, err := state.InMemory(logger).Target(target.Name())
	if err != nil {
		t.Fatal(err)
	}
	lane := pg.NewLane(target, pg.Purpose{})
	defer lane.Close()
	s := New(target, lane, results, Settings{Checks: map[string]time.Duration{"heap": time.Hour, "btree": time.Hour}}, logger)

	suspect := func(name string) Suspect { return Suspect{Database: name} }
	s.enqueue(reopened, []Suspect{suspect("a"), suspect("b")})
	s.Touched(suspect("c"), suspect("b"))
	s.Suspect(suspect("d"), suspect("c"))
	var queue string
	for {
		next, ok := s.takeSuspect()
		if !ok {
			break
		}
		queue += next.Database
	}
	if queue != "cdba" {
		t.Errorf("the queue is %q", queue)
	}

	var planned []state.Planned
	for _, database := range []string{"idle", "busy"} {
		for _, name := range []string{"btree", "heap"} {
			planned = append(planned, state.Planned{Check: name, Database: database, Interval: time.Hour})
		}
	}
	results.Plan([]string{"busy", "idle"}, planned)
	s.changes["idle"] = changes{now: 5, checked: 5}
	s.changes["busy"] = changes{now: 6, checked: 5}
	var ran []string
	for range planned {
		next, ok := s.next(time.Now().Add(-time.Hour))
		if !ok {
			t.Fatal("nothing is due")
		}
		ran = append(ran, next.Database+" "+next.Check)
		s.last = next.Database
		for i, p := range planned {
			if p.Check == next.Check && p.Database == next.Database {
				planned = append(planned[:i:i], planned[i+1:]...)
				break
			}
		}
		results.Plan([]string{"busy", "idle"}, planned)
	}
	want := []string{"busy heap", "busy btree", "idle heap", "idle btree"}
	for i := range want {
		if len(ran) <= i || ran[i] != want[i] {
			t.Fatalf("ran %q, want %q", ran, want)
		}
	}
}
