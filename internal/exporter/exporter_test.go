package exporter_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/exporter"
	"pg_integrity_exporter/internal/exposition"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run starts an exporter on a server with a state directory.
func run(t *testing.T, dsn, statePath, configFile string) *exporter.Exporter {
	t.Helper()
	return runLogging(t, dsn, statePath, configFile, testWriter{t})
}

func runLogging(t *testing.T, dsn, statePath, configFile string, log io.Writer) *exporter.Exporter {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(log, nil))
	store, err := state.Open(statePath, logger)
	if err != nil {
		t.Fatal(err)
	}
	e, err := exporter.New(exporter.Options{
		DSN: dsn, Environment: func(string) (string, bool) { return "", false }, ConfigFile: configFile,
		Store: store, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := func() {
		e.Stop()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return e
}

// testWriter sends the exporter's log to the test's.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// value sums the samples of a metric whose labels hold all the given values.
func value(e *exporter.Exporter, name string, labels map[string]string) (sum float64, found bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return sumOf(e.Scrape(ctx), name, labels)
}

// sumOf sums the samples of a metric of one scrape; found says that there is one.
func sumOf(page *exposition.Page, name string, labels map[string]string) (sum float64, found bool) {
	families, err := page.Families()
	if err != nil {
		panic(err) // no client could read it
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			if holds(metric, labels) {
				sum += metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
				found = true
			}
		}
	}
	return sum, found
}

func holds(metric *dto.Metric, labels map[string]string) bool {
	matched := 0
	for _, label := range metric.GetLabel() {
		if want, ok := labels[label.GetName()]; ok && want == label.GetValue() {
			matched++
		}
	}
	return matched == len(labels)
}

const schema = `
CREATE SCHEMA ledger;
CREATE TABLE ledger.postings (id int PRIMARY KEY, memo text NOT NULL);
INSERT INTO ledger.postings SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 20000) i;
`

func startServer(t *testing.T, options ...pgtest.Option) (server *pgtest.Server, dsn string) {
	t.Helper()
	server = pgtest.Start(t, append(options, pgtest.Checksums())...)
	monitor, err := server.Monitor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	server.MustExec(t, "erp", schema)
	if err := server.GrantChecks(t.Context(), "erp", monitor); err != nil {
		t.Fatal(err)
	}
	return server, server.DSN("postgres", monitor)
}

func logOption(major int) pgtest.Option {
	if major >= 15 {
		return pgtest.JSONLog()
	}
	return pgtest.CSVLog()
}

// TestDamageIsKnownWithinSeconds damages a table on disk and lets a statement
// run into it: the exporter names the table by its log, and its own check
// confirms the page.
func TestDamageIsKnownWithinSeconds(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server, dsn := startServer(t, pgtest.Version(major), logOption(major))
		relation := server.MustRelation(t, "erp", "ledger.postings")
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		e := run(t, dsn, t.TempDir(), "")
		pgtest.Await(t, "reading the log", 10*time.Second, func() bool {
			up, _ := value(e, "pgintegrity_log_reader_up", nil)
			return up == 1
		})
		if err := relation.Edit(33, pgtest.Garbage); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := server.Query(t.Context(), "erp", "SELECT count(*) FROM ledger.postings", &n); err == nil {
			t.Fatal("the damaged table can be read")
		}
		object := map[string]string{"datname": "erp", "schemaname": "ledger", "relname": "postings", "severity": "critical"}
		took := pgtest.Await(t, "naming the table", 10*time.Second, func() bool {
			_, found := value(e, "pgintegrity_finding_info", object)
			return found
		})
		t.Logf("the table was named %s after the statement failed", took)
		for name, labels := range map[string]map[string]string{
			"pgintegrity_corruption_events_total": {"kind": "invalid_page"},
			"pgintegrity_errors_total":            {"datname": "erp", "sqlstate": "XX001", "condition_name": "data_corrupted"},
			"pgintegrity_log_messages_total":      {"datname": "erp", "severity": "ERROR", "sqlstate_class": "XX"},
		} {
			if got, _ := value(e, name, labels); got != 1 {
				t.Errorf("%s%v is %v, want 1", name, labels, got)
			}
		}
		// The server tells of it when the session's statistics are written.
		pgtest.Await(t, "counted by the server", 10*time.Second, func() bool {
			failures, _ := value(e, "pgintegrity_checksum_failures_total", map[string]string{"datname": "erp"})
			return failures >= 1
		})
		if major < 14 {
			return // the role may not read the table
		}
		object["check"] = "heap"
		pgtest.Await(t, "confirmed by the check", 20*time.Second, func() bool {
			_, found := value(e, "pgintegrity_finding_info", object)
			return found
		})
	})
}

// TestFindingClearsWhenProvedGood mends the damage; the finding goes when the
// check has read the table again, and not before.
func TestFindingClearsWhenProvedGood(t *testing.T) {
	t.Parallel()
	server, dsn := startServer(t, pgtest.JSONLog())
	relation := server.MustRelation(t, "erp", "ledger.postings")
	index := server.MustRelation(t, "erp", "ledger.postings_pkey")
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := index.Edit(20, pgtest.Garbage); err != nil {
		t.Fatal(err)
	}
	page := make(chan []byte, 1)
	if err := relation.Edit(5, func(p []byte) {
		page <- append([]byte(nil), p...)
		pgtest.Garbage(p)
	}); err != nil {
		t.Fatal(err)
	}
	e := run(t, dsn, t.TempDir(), "")
	open := func() bool {
		n, _ := value(e, "pgintegrity_check_findings", map[string]string{"datname": "erp", "check": "heap"})
		return n > 0
	}
	pgtest.Await(t, "found by the first run of the check", 60*time.Second, open)
	original := <-page
	if err := relation.Edit(5, func(p []byte) { copy(p, original) }); err != nil {
		t.Fatal(err)
	}
	if !open() {
		t.Error("the finding went before the check ran again")
	}
	// A statement that runs into the damaged index makes its table a suspect.
	if err := server.Exec(t.Context(), "erp", "SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM ledger.postings WHERE id > 0"); err == nil {
		t.Fatal("the index was not read")
	}
	pgtest.Await(t, "cleared by the check", 30*time.Second, func() bool {
		_, found := value(e, "pgintegrity_finding_info", map[string]string{"datname": "erp", "relname": "postings"})
		return !open() && !found
	})
	pgtest.Await(t, "the finding of the index, which is damaged still", 10*time.Second, func() bool {
		_, found := value(e, "pgintegrity_finding_info", map[string]string{"datname": "erp", "relname": "postings_pkey"})
		return found
	})
}

// TestMendedDamageInTheLogIsNoAlarm starts the first exporter on a server whose
// log tells of damage that was mended since.
func TestMendedDamageInTheLogIsNoAlarm(t *testing.T) {
	t.Parallel()
	server, dsn := startServer(t, pgtest.JSONLog())
	relation := server.MustRelation(t, "erp", "ledger.postings")
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	var original []byte
	if err := relation.Edit(5, func(p []byte) {
		original = append(original, p...)
		pgtest.Garbage(p)
	}); err != nil {
		t.Fatal(err)
	}
	if err := server.Exec(t.Context(), "erp", "SELECT count(memo) FROM ledger.postings"); err == nil {
		t.Fatal("the damaged page was not read")
	}
	if err := relation.Edit(5, func(p []byte) { copy(p, original) }); err != nil {
		t.Fatal(err)
	}
	e := run(t, dsn, t.TempDir(), "")
	damaged := func() bool {
		_, found := value(e, "pgintegrity_finding_info", map[string]string{"datname": "erp"})
		return found
	}
	pgtest.Await(t, "the old message counted and the table checked", 60*time.Second, func() bool {
		if damaged() {
			t.Fatal("a false alarm")
		}
		events, _ := value(e, "pgintegrity_corruption_events_total", nil)
		success, _ := value(e, "pgintegrity_check_last_success_timestamp_seconds", map[string]string{"check": "heap", "datname": "erp"})
		return events > 0 && success > 0
	})
	if damaged() {
		t.Error("a false alarm")
	}
}

// TestCountersSurviveRestarts stops and starts the exporter while errors come:
// each is counted once.
func TestCountersSurviveRestarts(t *testing.T) {
	t.Parallel()
	server, dsn := startServer(t, pgtest.JSONLog())
	statePath := t.TempDir()
	labels := map[string]string{"datname": "erp", "sqlstate": "22xxx"}
	for round := 1; round <= 3; round++ {
		t.Run(fmt.Sprintf("round%d", round), func(t *testing.T) {
			for range 10 {
				if err := server.Exec(t.Context(), "erp", "SELECT 1/0"); err == nil {
					t.Fatal("a division by zero did not fail")
				}
			}
			e := run(t, dsn, statePath, "")
			pgtest.Await(t, "all errors counted", 10*time.Second, func() bool {
				n, _ := value(e, "pgintegrity_errors_total", labels)
				return n >= float64(10*round)
			})
			if n, _ := value(e, "pgintegrity_errors_total", labels); n != float64(10*round) {
				t.Errorf("%v errors counted, %d happened", n, 10*round)
			}
		})
	}
}

// TestReload keeps the old configuration when the new one is not valid.
// TestWatched holds that the page is given what is known of backups and
// maintenance. No server need be there.
func TestWatched(t *testing.T) {
	t.Parallel()
	repository := t.TempDir()
	file := filepath.Join(t.TempDir(), "config.yml")
	text := fmt.Sprintf("recovery: {repositories: [{name: nightly, type: directory, path: %q}]}\n", repository)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e := run(t, "postgresql://u@127.0.0.1:1/x", t.TempDir(), file)
	pgtest.Await(t, "the repository read", 10*time.Second, func() bool {
		known := e.Watched().Recovery
		return len(known) == 1 && known[0].Watched.Name == "nightly"
	})
	if e.Watched().Maintenance.Seen == nil {
		t.Error("the page is not told of maintenance")
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	_, dsn := startServer(t)
	file := filepath.Join(t.TempDir(), "config.yml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("checks:\n  heap: {interval: 2h}\n")
	e := run(t, dsn, t.TempDir(), file)
	interval := func(want float64) func() bool {
		return func() bool {
			got, found := value(e, "pgintegrity_check_interval_seconds", map[string]string{"check": "heap", "datname": "erp"})
			return found && got == want
		}
	}
	pgtest.Await(t, "planned every 2h", 10*time.Second, interval(7200))
	write("checks:\n  heap: {interval: nonsense}\n")
	if err := e.Reload(); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error %v", err)
	}
	if ok, _ := value(e, "pgintegrity_config_last_reload_successful", nil); ok != 0 {
		t.Error("the failed reload is not told")
	}
	if !interval(7200)() {
		t.Error("the old configuration is not in force any more")
	}
	write("checks:\n  heap: {interval: 3h}\n")
	if err := e.Reload(); err != nil {
		t.Fatal(err)
	}
	pgtest.Await(t, "planned every 3h", 10*time.Second, interval(10800))
	if ok, _ := value(e, "pgintegrity_config_last_reload_successful", nil); ok != 1 {
		t.Error("the reload is not told")
	}
}

// monitored starts a server with a role that has only pg_monitor.
func monitored(t *testing.T) (server *pgtest.Server, role string) {
	t.Helper()
	server = pgtest.Start(t)
	role, err := server.Monitor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return server, role
}

// TestBehindPooler holds that metrics are collected through a connection pooler
// and that every check says why it cannot run.
func TestBehindPooler(t *testing.T) {
	t.Parallel()
	server, role := monitored(t)
	e := run(t, pgtest.StartPooler(t, server, "transaction", role)("postgres"), t.TempDir(), "")
	pooled, _ := value(e, "pgintegrity_connection_pooled", nil)
	failed := 0
	for _, c := range []string{"activity", "archiver", "database", "locks", "server", "slots"} {
		if ok, _ := value(e, "pgintegrity_scrape_collector_success", map[string]string{"collector": c}); ok != 1 {
			t.Errorf("collector %s fails", c)
			failed++
		}
	}
	if up, _ := value(e, "pgintegrity_up", nil); up != 1 || pooled != 1 || failed > 0 {
		t.Fatalf("up %v, pooled %v", up, pooled)
	}
	pgtest.Await(t, "saying why checks do not run", 30*time.Second, func() bool {
		ran := slices.DeleteFunc(slices.Clone(e.Watched().Snapshot.Checks), func(c state.CheckState) bool { return c.LastRun.IsZero() })
		for _, c := range ran {
			if c.Outcome != check.OutcomeSkipped || !strings.Contains(c.Reason, "connection pooler") {
				t.Fatalf("%s of %q: %s, %s", c.Check, c.Database, c.Outcome, c.Reason)
			}
		}
		return len(ran) >= 3
	})
}

// TestLeaderBehindPooler holds that nobody leads through a connection pooler,
// and that the log says why in one line.
func TestLeaderBehindPooler(t *testing.T) {
	t.Parallel()
	server, role := monitored(t)
	file := filepath.Join(t.TempDir(), "config.yml")
	writeFile(t, file, "leader: {enabled: true}\n")
	told := make(chan struct{}, 1000)
	e := runLogging(t, pgtest.StartPooler(t, server, "transaction", role)("postgres"), t.TempDir(), file, writerFunc(func(line []byte) {
		if strings.Contains(string(line), "set leader.enabled to false") && strings.Count(string(line), "\n") == 1 {
			told <- struct{}{}
		}
	}))
	<-told
	if leads, found := value(e, "pgintegrity_leader", nil); leads != 0 || !found {
		t.Error("it leads")
	}
}

// TestLeader holds that of two exporters one leads, never both, and that the
// other one takes over when the first stops. The command's TestLeader kills it.
func TestLeader(t *testing.T) {
	t.Parallel()
	server, role := monitored(t)
	file := filepath.Join(t.TempDir(), "config.yml")
	writeFile(t, file, "leader: {enabled: true}\n")
	both := []*exporter.Exporter{run(t, server.DSN("postgres", role), t.TempDir(), file), run(t, server.DSN("postgres", role), t.TempDir(), file)}
	leads := func() (leaders []int) {
		for i, e := range both {
			leading, _ := value(e, "pgintegrity_leader", nil)
			_, checks := value(e, "pgintegrity_check_held_seconds_total", map[string]string{"reason": "latency"})
			// It may have begun or ended to lead in between.
			if after, _ := value(e, "pgintegrity_leader", nil); after == leading && checks != (leading == 1) {
				t.Errorf("leads: %v, has series of checks: %v", leading, checks)
			}
			if leading == 1 {
				leaders = append(leaders, i)
			}
		}
		if len(leaders) > 1 {
			t.Fatal("both lead")
		}
		return leaders
	}
	var first []int
	pgtest.Await(t, "led by one", 15*time.Second, func() bool { first = leads(); return len(first) == 1 })
	both[first[0]].Stop()
	both = slices.Delete(both, first[0], first[0]+1)
	pgtest.Await(t, "taken over", 15*time.Second, func() bool { return len(leads()) == 1 })
}

// writerFunc takes lines of a log.
type writerFunc func(line []byte)

func (f writerFunc) Write(line []byte) (int, error) {
	f(line)
	return len(line), nil
}
