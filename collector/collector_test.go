package collector_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"

	"pg_integrity_exporter/collector"
	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/exposition"
	"pg_integrity_exporter/internal/maintenance/activity"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/state"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watch makes the set of all collectors of a server, as the exporter does.
func watch(t testing.TB, dsn string) (*collector.Set, *state.Target) {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	target, err := pg.ResolveTarget(dsn, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	results, err := state.InMemory(logger).Target(target.Name())
	if err != nil {
		t.Fatal(err)
	}
	lane := pg.NewLane(target, collector.ScrapePurpose())
	t.Cleanup(lane.Close)
	sources := collector.Sources{
		Snapshot: results.Snapshot, Accumulate: results.Accumulate,
		Reloaded: func() (bool, time.Time) { return true, time.Unix(1, 0) },
		Recovery: oneRepository(t), Maintenance: func() activity.Status {
			return activity.Status{Disks: []activity.Disk{{Place: "data"}, {Place: "wal"}}}
		},
	}
	return collector.NewSet(lane, sources, collector.All(sources), logger), results
}

// oneRepository is a repository without backups.
func oneRepository(t testing.TB) func() []recovery.Status {
	repository := recovery.Repository{Name: "nightly", Type: recovery.TypeDirectory, Path: t.TempDir()}
	status := recovery.Status{
		Watched:   recovery.Watched{Repository: repository, VerifyInterval: time.Hour},
		Inventory: recovery.ReadRepository(t.Context(), repository),
	}
	return func() []recovery.Status { return []recovery.Status{status} }
}

// scrape collects once within a time limit.
func scrape(t testing.TB, set *collector.Set, limit time.Duration) samples {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	page := set.Scrape(ctx)
	if took := time.Since(began); took > limit+500*time.Millisecond {
		t.Errorf("the scrape took %s, its limit was %s", took, limit)
	}
	return read(t, page)
}

// read reads a page back, and holds that no series is there twice.
func read(t testing.TB, page *exposition.Page) samples {
	t.Helper()
	families, err := page.Families()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(string(page.Text())) {
		series := line[:strings.LastIndexByte(line, ' ')]
		if line[0] != '#' && seen[series] {
			t.Errorf("%s is there twice", series)
		}
		seen[series] = true
	}
	return samples(families)
}

// samples finds values on a page.
type samples []*dto.MetricFamily

// get is the value of a series, written as the exposition format does.
func (s samples) get(series string) (float64, bool) {
	for _, family := range s {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", label.GetName(), label.GetValue()))
			}
			name := family.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			if name == series {
				return metric.GetGauge().GetValue() + metric.GetCounter().GetValue(), true
			}
		}
	}
	return 0, false
}

func (s samples) want(t testing.TB, series string, value float64) {
	t.Helper()
	if got, ok := s.get(series); !ok || got != value {
		t.Errorf("%s is %v (present: %v), want %v", series, got, ok, value)
	}
}

func (s samples) count() int {
	n := 0
	for _, family := range s {
		n += len(family.GetMetric())
	}
	return n
}

func (s samples) text(t testing.TB) string {
	t.Helper()
	var out bytes.Buffer
	for _, family := range s {
		if _, err := expfmt.MetricFamilyToText(&out, family); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

var (
	values     = regexp.MustCompile(`(?m)^([^#].*) \S+$`)
	identifier = regexp.MustCompile(`system_identifier="\d+"`)
)

// TestGolden compares the whole page, but for the values, with what every
// version is known to give.
func TestGolden(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Checksums(), pgtest.Setting("fsync", "on"), pgtest.Setting("max_slot_wal_keep_size", "1GB"))
		monitor, err := server.Monitor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		server.MustExec(t, "postgres", "CREATE DATABASE erp")
		server.MustExec(t, "postgres", "SELECT pg_create_physical_replication_slot('standby', true)")
		server.MustExec(t, "erp", "CREATE SUBSCRIPTION warehouse CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)")
		set, results := watch(t, server.DSN("postgres", monitor))
		results.Plan([]string{"erp", "postgres"}, []state.Planned{
			{Check: "btree", Database: "erp", Interval: time.Hour}, {Check: "heap", Database: "erp", Interval: time.Hour},
		})
		page := scrape(t, set, 5*time.Second)
		page.want(t, "pgintegrity_up", 1)
		text := page.text(t)

		problems, err := promlint.New(strings.NewReader(text)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range problems {
			t.Errorf("promlint: %s: %s", problem.Metric, problem.Text)
		}

		text = strings.ReplaceAll(values.ReplaceAllString(text, "$1"), server.Install.Version, "VERSION")
		text = identifier.ReplaceAllString(text, `system_identifier="IDENTIFIER"`)
		file := filepath.Join("testdata", fmt.Sprintf("pg%d.prom", major))
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.Split(string(golden), "\n"), strings.Split(text, "\n")); diff != "" {
			t.Errorf("the page changed (go test ./collector -update writes it anew):\n%s", diff)
		}
	})
}

// TestMonitorSeesEverything wants success of every collector with pg_monitor
// alone, on a primary and on a standby.
func TestMonitorSeesEverything(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		primary := pgtest.Start(t, pgtest.Version(major))
		monitor, err := primary.Monitor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		primary.MustExec(t, "postgres", "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)")
		standby := primary.Standby(t)
		if err := standby.AwaitReplay(t.Context(), primary); err != nil {
			t.Fatal(err)
		}
		for name, server := range map[string]*pgtest.Server{"primary": primary, "standby": standby} {
			set, _ := watch(t, server.DSN("postgres", monitor))
			page := scrape(t, set, 5*time.Second)
			for _, c := range collector.All(collector.Sources{}) {
				page.want(t, fmt.Sprintf("pgintegrity_scrape_collector_success{collector=%q}", c.Name), 1)
			}
			recovery := 0.0
			if name == "standby" {
				recovery = 1
			}
			page.want(t, "pgintegrity_in_recovery", recovery)
			page.want(t, `pgintegrity_scrape_collector_applicable{collector="database_conflicts"}`, recovery)
			// A standby has the subscriptions of its primary, and no workers for them.
			const worker = `pgintegrity_subscription_worker_up{datname="postgres",subname="s"}`
			if _, there := page.get(worker); there == (name == "standby") {
				t.Errorf("%s: %s is there: %t", name, worker, there)
			}
			if name == "standby" {
				if err := standby.Promote(t.Context()); err != nil {
					t.Fatal(err)
				}
				promoted := scrape(t, set, 5*time.Second)
				promoted.want(t, "pgintegrity_in_recovery", 0)
				promoted.want(t, `pgintegrity_scrape_collector_applicable{collector="database_conflicts"}`, 0)
				promoted.want(t, worker, 0)
			}
		}
	})
}

// TestStandbyOnPurpose wants to know of a standby that is kept behind, and what
// comes and goes by its nature is not counted as a standby.
func TestStandbyOnPurpose(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		primary := pgtest.Start(t, pgtest.Version(major))
		standby := primary.Standby(t)
		standby.MustExec(t, "postgres", "ALTER SYSTEM SET recovery_min_apply_delay = '90min'")
		standby.MustExec(t, "postgres", "SELECT pg_reload_conf()")
		behind, _ := watch(t, standby.DSN("postgres"))
		pgtest.Await(t, "the delay is known", 10*time.Second, func() bool {
			delay, _ := scrape(t, behind, 5*time.Second).get("pgintegrity_replication_apply_delay_seconds")
			return delay == 5400
		})
		var position string
		if err := primary.Query(t.Context(), "postgres", "SELECT pg_current_wal_flush_lsn()::text", &position); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"pg_basebackup", "pg_16384_sync_16385_7123456789012345678"} {
			conn, err := pgconn.Connect(t.Context(), primary.DSN("postgres")+"&replication=true&application_name="+name)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
			conn.Frontend().SendQuery(&pgproto3.Query{String: "START_REPLICATION " + position})
			if err := conn.Frontend().Flush(); err != nil {
				t.Fatal(err)
			}
		}
		set, _ := watch(t, primary.DSN("postgres"))
		pgtest.Await(t, "three receivers are told apart", 10*time.Second, func() bool {
			page := scrape(t, set, 5*time.Second)
			var got []float64
			for _, state := range []string{"streaming", "backup", "catchup", "startup"} {
				n, _ := page.get(fmt.Sprintf("pgintegrity_replication_standbys{state=%q}", state))
				got = append(got, n)
			}
			return slices.Equal(got, []float64{1, 1, 1, 0})
		})
		// What it is to replay later it has, and only what it does not have is missing. A
		// commit is what it waits at.
		primary.MustExec(t, "postgres", "CREATE TABLE waited_at ()")
		primary.MustExec(t, "postgres", "CREATE TABLE t AS SELECT generate_series(1, 100000)")
		pgtest.Await(t, "all is received and not replayed", 10*time.Second, func() bool {
			page := scrape(t, set, 5*time.Second)
			lag, _ := page.get(`pgintegrity_replication_lag_bytes{application_name="walreceiver"}`)
			unflushed, known := page.get(`pgintegrity_replication_unflushed_bytes{application_name="walreceiver"}`)
			return lag > 1e6 && known && unflushed < 1e5
		})
	})
}

// TestWraparound wants to know when the server itself means to free ids.
func TestWraparound(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Setting("autovacuum_freeze_max_age", "1000000000"))
		set, _ := watch(t, server.DSN("postgres"))
		page := scrape(t, set, 5*time.Second)
		for kind, want := range map[string]float64{"xid": 0.466, "multixact": 0.186} {
			if got, _ := page.get(fmt.Sprintf("pgintegrity_wraparound_forced_ratio{kind=%q}", kind)); math.Abs(got-want) > 0.001 {
				t.Errorf("%s: %v, want %v", kind, got, want)
			}
		}
	})
}

func TestTransactions(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	set, _ := watch(t, server.DSN("postgres"))
	const rollbacks = `pgintegrity_transactions_total{datname="erp",outcome="rollback"}`
	before, _ := scrape(t, set, 5*time.Second).get(rollbacks)
	for range 5 {
		if err := server.Exec(t.Context(), "erp", "SELECT 1/0"); err == nil {
			t.Fatal("a division by zero did not fail")
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		after, _ := scrape(t, set, 5*time.Second).get(rollbacks)
		if after == before+5 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v rollbacks before and %v after five", before, after)
		}
		<-time.After(50 * time.Millisecond) // statistics arrive when sessions end
	}
}

// TestServerDown wants the truth when nothing listens, and recovery without a
// restart of the exporter.
func TestServerDown(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	set, _ := watch(t, server.DSN("postgres"))
	scrape(t, set, 5*time.Second).want(t, "pgintegrity_up", 1)
	if err := server.Stop(pgtest.Immediate); err != nil {
		t.Fatal(err)
	}
	page := scrape(t, set, 5*time.Second)
	page.want(t, "pgintegrity_up", 0)
	page.want(t, `pgintegrity_connection_failure{reason="refused"}`, 1)
	page.want(t, `pgintegrity_connection_failure{reason="timeout"}`, 0)
	page.want(t, `pgintegrity_scrape_collector_success{collector="server"}`, 0)
	page.want(t, `pgintegrity_scrape_collector_success{collector="database"}`, 0)
	page.want(t, `pgintegrity_scrape_collector_success{collector="log"}`, 1)
	if err := server.StartAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	scrape(t, set, 5*time.Second).want(t, "pgintegrity_up", 1)
	// A restart between two scrapes breaks the kept connection; that is no outage.
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	scrape(t, set, 5*time.Second).want(t, "pgintegrity_up", 1)
}

// TestServerHung stops all processes of the server: sockets accept, nobody
// answers.
func TestServerHung(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	kept, _ := watch(t, server.DSN("postgres"))
	scrape(t, kept, 5*time.Second).want(t, "pgintegrity_up", 1)
	fresh, _ := watch(t, server.DSN("postgres"))
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	for _, set := range []*collector.Set{kept, fresh, kept, fresh} {
		page := scrape(t, set, time.Second)
		page.want(t, "pgintegrity_up", 0)
		page.want(t, `pgintegrity_connection_failure{reason="timeout"}`, 1)
		page.want(t, `pgintegrity_scrape_collector_success{collector="server"}`, 0)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	for _, set := range []*collector.Set{kept, fresh} {
		scrape(t, set, 5*time.Second).want(t, "pgintegrity_up", 1)
	}
}

// TestLocks holds ACCESS EXCLUSIVE on a catalogue and on a user table: the page
// comes in time, and backends do not pile up.
func TestLocks(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE TABLE t (i int)")
	set, _ := watch(t, server.DSN("postgres"))
	scrape(t, set, 5*time.Second).want(t, "pgintegrity_up", 1)

	release := server.Hold(t, "postgres", "LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
	page := scrape(t, set, 2*time.Second)
	for _, c := range collector.All(collector.Sources{}) {
		page.want(t, fmt.Sprintf("pgintegrity_scrape_collector_success{collector=%q}", c.Name), 1)
	}
	release()

	defer server.Hold(t, "postgres", "LOCK TABLE pg_class, pg_database IN ACCESS EXCLUSIVE MODE")()
	before := len(server.Processes())
	for range 5 {
		scrape(t, set, 2*time.Second).want(t, "pgintegrity_up", 1)
	}
	fresh, _ := watch(t, server.DSN("postgres"))
	for range 5 {
		scrape(t, fresh, time.Second)
	}
	if after := len(server.Processes()); after > before+1 {
		t.Errorf("%d processes of the server before and %d after ten scrapes behind a lock", before, after)
	}
}

// TestOutOfConnections takes every connection there is.
func TestOutOfConnections(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Setting("max_connections", "8"))
	monitor, err := server.Monitor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kept, _ := watch(t, server.DSN("postgres", monitor))
	scrape(t, kept, 5*time.Second).want(t, "pgintegrity_up", 1)
	for range 7 {
		server.Hold(t, "postgres", "SELECT 1")
	}
	scrape(t, kept, 5*time.Second).want(t, "pgintegrity_up", 1)
	fresh, _ := watch(t, server.DSN("postgres", monitor))
	page := scrape(t, fresh, 5*time.Second)
	page.want(t, "pgintegrity_up", 0)
	page.want(t, `pgintegrity_connection_failure{reason="too_many_connections"}`, 1)
	page.want(t, `pgintegrity_scrape_collector_success{collector="server"}`, 0)
}

func TestWrongLogin(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	for user, want := range map[string]string{"nobody": "authentication"} {
		set, _ := watch(t, server.DSN("postgres", user))
		scrape(t, set, 5*time.Second).want(t, fmt.Sprintf("pgintegrity_connection_failure{reason=%q}", want), 1)
	}
	set, _ := watch(t, server.DSN("nowhere"))
	scrape(t, set, 5*time.Second).want(t, `pgintegrity_connection_failure{reason="database_missing"}`, 1)
	set, _ = watch(t, "postgresql://no-such-host.invalid/x")
	scrape(t, set, 5*time.Second).want(t, `pgintegrity_connection_failure{reason="unknown_host"}`, 1)
}

// TestCardinality keeps the page of a server with 50 databases and 10,000
// tables under its bound.
func TestCardinality(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("makes 50 databases")
	}
	server := pgtest.Start(t)
	databases := []string{"postgres", "template1", "template0"}
	var planned []state.Planned
	for i := range 50 {
		name := fmt.Sprintf("db%d", i)
		server.MustExec(t, "postgres", "CREATE DATABASE "+name+" STRATEGY file_copy")
		databases = append(databases, name)
	}
	server.MustExec(t, "db0", "DO $$ BEGIN FOR i IN 1..10000 LOOP EXECUTE format('CREATE TABLE t%s (i int)', i); IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$")
	for _, database := range databases {
		for _, c := range check.All() {
			if !c.Server {
				planned = append(planned, state.Planned{Check: c.Name, Database: database, Interval: time.Hour})
			}
		}
	}
	for _, c := range check.All() {
		if c.Server {
			planned = append(planned, state.Planned{Check: c.Name, Interval: time.Hour})
		}
	}
	set, results := watch(t, server.DSN("postgres"))
	results.Plan(databases, planned)
	look := func(when string) {
		t.Helper()
		page := scrape(t, set, 10*time.Second)
		page.want(t, "pgintegrity_up", 1)
		if n := page.count(); n > 5000-ofProcess {
			t.Errorf("%s: %d series for 50 databases", when, n)
		} else {
			t.Logf("%s: %d series for 50 databases and 10,000 tables", when, n)
		}
	}
	look("before the first checks")
	for _, p := range planned {
		now := time.Now()
		results.RecordResult(check.Result{Check: p.Check, Database: p.Database, Outcome: check.OutcomeOK, Started: now, Finished: now, Whole: true}, true)
	}
	look("after them")
}

// ofProcess is how many series the page has besides, of the process itself.
const ofProcess = 150

// TestFamilies keeps names, labels and help texts to the conventions.
func TestFamilies(t *testing.T) {
	t.Parallel()
	for _, family := range collector.Families() {
		if !strings.HasPrefix(family.Name, collector.Namespace) {
			t.Errorf("%s: wrong prefix", family.Name)
		}
		if strings.HasSuffix(family.Name, "_total") != (family.Type == collector.Counter) {
			t.Errorf("%s: counters end in _total, and nothing else does", family.Name)
		}
		if !strings.HasSuffix(family.Help, ".") || strings.ToUpper(family.Help[:1]) != family.Help[:1] {
			t.Errorf("%s: HELP is not a sentence: %q", family.Name, family.Help)
		}
		if strings.ContainsAny(family.Help, "\\\n") {
			t.Errorf("%s: HELP has what must be escaped: %q", family.Name, family.Help)
		}
		if family.Source == "" {
			t.Errorf("%s: no source", family.Name)
		}
	}
}

// BenchmarkScrape is one scrape of a server beside the usual way: a connection
// for each scrape and one statement after the other.
func BenchmarkScrape(b *testing.B) {
	server := pgtest.Start(b)
	b.Run("ours", func(b *testing.B) {
		set, _ := watch(b, server.DSN("postgres"))
		for b.Loop() {
			if up, _ := read(b, set.Scrape(b.Context())).get("pgintegrity_up"); up != 1 {
				b.Fatal("the server is down")
			}
		}
	})
	b.Run("usual", func(b *testing.B) {
		target, err := pg.ResolveTarget(server.DSN("postgres"), func(string) (string, bool) { return "", false })
		if err != nil {
			b.Fatal(err)
		}
		statements := collector.All(collector.Sources{})
		for b.Loop() {
			conn, err := target.Connect(b.Context(), "", collector.ScrapePurpose())
			if err != nil {
				b.Fatal(err)
			}
			for _, c := range statements {
				if c.SQL == nil {
					continue
				}
				rows, err := conn.Query(b.Context(), c.SQL(conn.Facts))
				if err != nil {
					b.Fatal(err)
				}
				rows.Close()
			}
			conn.Close()
		}
	})
}

// TestTogether holds that the statements of a scrape are one transaction, and that
// one which fails takes no other with it.
func TestTogether(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	target, err := pg.ResolveTarget(server.DSN("postgres"), pg.NoEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	results, err := state.InMemory(slog.New(slog.DiscardHandler)).Target(target.Name())
	if err != nil {
		t.Fatal(err)
	}
	lane := pg.NewLane(target, collector.ScrapePurpose())
	t.Cleanup(lane.Close)
	began := func(name, sql string) collector.Collector {
		family := &collector.Family{Name: "test_" + name, Help: "When the transaction began."}
		return collector.Collector{
			Name: name, Families: []*collector.Family{family}, SQL: func(pg.Facts) string { return sql },
			Scan: func(rows pgx.Rows, sink *collector.Sink) error {
				var value float64
				_, err := pgx.ForEachRow(rows, []any{&value}, func() error {
					sink.Add(family, value)
					return nil
				})
				return err
			},
		}
	}
	const sql = "SELECT extract(epoch FROM now())::float8"
	set := collector.NewSet(lane, collector.Sources{Snapshot: results.Snapshot}, []collector.Collector{
		began("first", sql), began("wanting", "SELECT id::float8 FROM public.wanting"), began("last", sql),
	}, slog.New(slog.DiscardHandler))
	look := func(works float64, together bool) {
		t.Helper()
		page := scrape(t, set, 5*time.Second)
		first, found := page.get("test_first")
		last, lastFound := page.get("test_last")
		if !found || !lastFound || (first == last) != together {
			t.Errorf("%v and %v, together: %v", first, last, together)
		}
		for name, want := range map[string]float64{"first": 1, "wanting": works, "last": 1} {
			if got, _ := page.get(`pgintegrity_scrape_collector_success{collector="` + name + `"}`); got != want {
				t.Errorf("success of %s is %v, not %v", name, got, want)
			}
		}
	}
	for range 3 {
		look(0, false)
	}
	server.MustExec(t, "postgres", "CREATE TABLE wanting AS SELECT 1 AS id")
	look(1, false) // as it was not before
	look(1, true)
	release := server.Hold(t, "postgres", "LOCK TABLE wanting IN ACCESS EXCLUSIVE MODE")
	look(0, false)
	release()
	look(1, false)
	look(1, true)
}
