package exporter_test

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pg_integrity_exporter/internal/exporter"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// TestServerEvents makes everything happen to a server that its log and its
// absence tell of: the metrics count it and the log of events has it.
func TestServerEvents(t *testing.T) {
	t.Parallel()
	major := pgtest.Newest()
	server, dsn := startServer(t, pgtest.Version(major), logOption(major), pgtest.Setting("archive_mode", "on"), pgtest.Setting("archive_command", "false"),
		pgtest.Setting("restart_after_crash", "on"), pgtest.Setting("autovacuum", "off"))
	server.MustExec(t, "erp", "CREATE TABLE crash (id int, memo text); INSERT INTO crash SELECT i, repeat('x', 200) FROM generate_series(1, 100) i; CREATE TABLE panic AS SELECT * FROM crash; DELETE FROM panic WHERE id = 5")
	crash, panicked := server.MustRelation(t, "erp", "crash"), server.MustRelation(t, "erp", "panic")
	statePath := t.TempDir()
	e := run(t, dsn, statePath, "")
	await := func(name, kind string) {
		t.Helper()
		labels := map[string]string{}
		if kind != "" {
			labels["kind"] = kind
		}
		took := pgtest.Await(t, kind+" counted", 40*time.Second, func() bool { n, _ := value(e, name, labels); return n >= 1 })
		t.Logf("%s counted after %s", kind, took)
	}
	const events = "pgintegrity_server_events_total"
	pgtest.Await(t, "reading the log", 20*time.Second, func() bool { up, _ := value(e, "pgintegrity_log_reader_up", nil); return up == 1 })

	server.MustExec(t, "erp", "SELECT pg_switch_wal()")
	await(events, "archive_failure")

	server.WhileDown(t, func() error {
		// A length that no value has, and a row that is longer than its page: reading the
		// one kills the session, vacuuming the other the server.
		return firstError(
			crash.EditValid(0, pgtest.Tuple(3, func(tuple []byte) { copy(tuple[int(tuple[22])+4:], "\x00\x00\x00\x80") })),
			panicked.EditValid(0, func(p []byte) {
				item := pgtest.Items(p)[7]
				item.Length = 30000
				pgtest.SetItem(p, 7, item)
			}),
		)
	})
	pgtest.Await(t, "the restart in the log of events", 30*time.Second, func() bool { return recorded(t, e, state.EventServerRestarted, "the server was started at") })

	if err := server.Exec(t.Context(), "erp", "SELECT sum(length(memo || 'x')) FROM crash"); err == nil {
		t.Error("the damaged value was read")
	}
	// The server may not have noticed the crash yet, and end the first try for it; of two
	// processes that die before it has started again it names one.
	pgtest.Await(t, "a panic", 40*time.Second, func() bool {
		if err := server.Exec(t.Context(), "erp", "VACUUM panic"); err == nil {
			t.Error("the damaged page was vacuumed")
		}
		server.AwaitAccepting(t)
		n, _ := value(e, events, map[string]string{"kind": "panic"})
		return n >= 1 && recorded(t, e, state.EventServerLog, "terminated by signal 6")
	})
	// The last try may have made another process die, of which the server has yet to hear.
	<-time.After(500 * time.Millisecond)
	server.AwaitAccepting(t)
	// What the kernel does when memory runs out.
	victim := 0
	release := server.Hold(t, "erp", "SELECT 'victim'")
	if err := server.Query(t.Context(), "erp", "SELECT pid FROM pg_stat_activity WHERE query LIKE '%''victim''%' AND pid <> pg_backend_pid()", &victim); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	server.AwaitAccepting(t)
	release()
	for _, kind := range []string{"server_crash", "panic", "backend_killed", "crash_recovery"} {
		await(events, kind)
	}
	for _, text := range []string{"terminated by signal 11", "terminated by signal 6", "terminated by signal 9", "automatic recovery", "archive command failed"} {
		if !recorded(t, e, state.EventServerLog, text) {
			t.Errorf("%q is not in the log of events", text)
		}
	}

	// The restart above and those after the crashes may have been seen as an absence too, which ends first.
	pgtest.Await(t, "the end of an earlier absence", 30*time.Second, func() bool { return present(t, e) })
	downs, restarts := count(t, e, state.EventServerDown), count(t, e, state.EventServerRestarted)
	more := func(kind state.EventKind, than int) func() bool {
		return func() bool { return count(t, e, kind) > than }
	}
	if err := server.Stop(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	pgtest.Await(t, "the absence in the log of events", 40*time.Second, more(state.EventServerDown, downs))
	if err := server.StartAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Await(t, "the second restart in the log of events", 30*time.Second, more(state.EventServerRestarted, restarts))
	downs, ups := count(t, e, state.EventServerDown), count(t, e, state.EventServerUp)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	pgtest.Await(t, "the silence in the log of events", 60*time.Second, more(state.EventServerDown, downs))
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	pgtest.Await(t, "the return in the log of events", 30*time.Second, more(state.EventServerUp, ups))
	if !recorded(t, e, state.EventServerDown, "does not answer") || !recorded(t, e, state.EventServerUp, "answers again") {
		t.Error("the log of events does not say in words what happened")
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// recorded says whether the log of events has an event with a text.
func recorded(t *testing.T, e *exporter.Exporter, kind state.EventKind, text string) bool {
	t.Helper()
	return slices.ContainsFunc(eventsOf(t, e, kind), func(event state.Event) bool { return strings.Contains(event.Message, text) })
}

// present says whether the newest event about the server's presence is not its
// absence.
func present(t *testing.T, e *exporter.Exporter) bool {
	t.Helper()
	last := func(kind state.EventKind) (at time.Time) {
		for _, event := range eventsOf(t, e, kind) {
			if event.Time.After(at) {
				at = event.Time
			}
		}
		return at
	}
	down := last(state.EventServerDown)
	return down.IsZero() || last(state.EventServerUp).After(down) || last(state.EventServerRestarted).After(down)
}

func count(t *testing.T, e *exporter.Exporter, kind state.EventKind) int {
	t.Helper()
	return len(eventsOf(t, e, kind))
}

func eventsOf(t *testing.T, e *exporter.Exporter, kind state.EventKind) []state.Event {
	t.Helper()
	all, err := e.Watched().Files.Events(time.Now().Add(-time.Hour), time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(event state.Event) bool { return event.Kind != kind })
}
