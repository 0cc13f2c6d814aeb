package alerts_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/alerts"
	"pg_integrity_exporter/internal/pgtest"
)

// soak is how long TestSoak takes; 0 leaves it out.
var soak = flag.Duration("soak.for", 0, "watch a healthy and busy server for so long")

// soakConfig makes the checks run again and again.
const soakConfig = `
checks: {setting: {enabled: false}, %s} # other settings are those of a server for tests
maintenance: {interval: 5s}
limits: {latency: 5s}
`

// soakFires are the alerts that fire rightly: the watchdog always does, and the
// clients of this test lock rows in any order.
var soakFires = []string{"PostgresDeadlocks", "PostgresWatchdog"}

// soakStatements are what applications and administrators do all day. Some fail, as
// some do everywhere.
var soakStatements = []string{
	"INSERT INTO account (owner) SELECT 'o' || i FROM generate_series(1, 20) i",
	"INSERT INTO posting (account, amount, note) SELECT id, id % 100, repeat(md5(id::text), 1 + (id % 100)::int) FROM account ORDER BY random() LIMIT 50",
	"UPDATE posting SET amount = amount + 1 WHERE id % 50 = (random() * 50)::int",
	"DELETE FROM posting WHERE id IN (SELECT id FROM posting ORDER BY id LIMIT 40)",
	"DELETE FROM account a WHERE id < (SELECT max(id) - 2000 FROM account) AND NOT EXISTS (SELECT FROM posting p WHERE p.account = a.id)",
	"CREATE TEMP TABLE report ON COMMIT DROP AS SELECT account, sum(amount) FROM posting GROUP BY 1",
	"CREATE TABLE night AS SELECT * FROM posting LIMIT 1000",
	"DROP TABLE IF EXISTS night",
	"VACUUM posting",
	"ANALYZE",
	"REINDEX TABLE CONCURRENTLY posting",
	"CHECKPOINT",
	"SELECT pg_switch_wal()",
	"INSERT INTO posting (account, amount) VALUES (-1, 1)",
}

// work has clients work until stop is closed.
func work(t *testing.T, server *pgtest.Server, stop chan struct{}) *sync.WaitGroup {
	t.Helper()
	server.MustExec(t, "postgres", `CREATE TABLE account (id bigserial PRIMARY KEY, owner text NOT NULL, opened timestamptz DEFAULT now());
		CREATE TABLE posting (id bigserial PRIMARY KEY, account bigint NOT NULL REFERENCES account, amount numeric NOT NULL CHECK (amount >= 0), note text);
		CREATE INDEX ON posting (account); CREATE INDEX ON posting USING hash (note); CREATE INDEX ON posting USING brin (id);
		CREATE VIEW balance AS SELECT account, sum(amount) FROM posting GROUP BY 1`)
	var working sync.WaitGroup
	for range 3 {
		conn, err := pgx.Connect(t.Context(), server.DSN("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		working.Go(func() {
			defer func() { _ = conn.Close(t.Context()) }() // the server goes with the test
			for {
				select {
				case <-stop:
					return
				case <-time.After(rand.N(time.Second)):
				}
				_, _ = conn.Exec(t.Context(), soakStatements[rand.IntN(len(soakStatements))]) // one of them always fails
			}
		})
	}
	return &working
}

// ask asks Prometheus for a vector, by the value of a label.
func ask(t *testing.T, address, label, query string) map[string]float64 {
	t.Helper()
	response, err := http.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, series := range answer.Data.Result {
		text, _ := series.Value[1].(string)
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		values[series.Metric[label]] = n
	}
	return values
}

// TestSoak watches a server that is healthy and busy, with all checks again and
// again and the shipped rules in a real Prometheus. Nothing may be called damaged, no
// alert may fire, and the exporter may not grow: `make soak`.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("-soak.for says how long")
	}
	server := pgtest.Start(t, pgtest.JSONLog(), pgtest.Checksums(), pgtest.Setting("max_wal_size", "256MB"), pgtest.Setting("fsync", "on"), pgtest.Setting("full_page_writes", "on"))
	stop := make(chan struct{})
	working := work(t, server, stop)
	defer working.Wait()
	defer close(stop)
	server.MustExec(t, "postgres", "CREATE EXTENSION amcheck")
	directory := pgtest.SharedDirectory(t)
	program := built{path: filepath.Join(directory, "program"), dsn: server.DSN("postgres"), config: filepath.Join(directory, "exporter.yml"), state: filepath.Join(directory, "state")}
	program.build(t)
	var intervals []string
	for _, name := range []string{"leftover", "cluster", "files", "page", "heap", "btree", "catalog", "collation", "visibility", "index", "constraint", "generated", "sequence", "matview", "rows", "toast"} {
		intervals = append(intervals, name+": {interval: 2m}")
	}
	appendTo(t, program.config, fmt.Sprintf(soakConfig, strings.Join(intervals, ", ")))
	free, err := pgtest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	program.serve(t, free.String())
	prometheus := evaluate(t, alerts.DefaultValues(), 5*time.Second, "", []string{free.String()}, "")
	time.Sleep(*soak)

	span := fmt.Sprintf("[%ds]", int(soak.Seconds()))
	for name, times := range ask(t, prometheus, "alertname", `sum by (alertname) (count_over_time(ALERTS{alertstate="firing"}`+span+`))`) {
		if !slices.Contains(soakFires, name) {
			t.Errorf("%s fired, for %v evaluations", name, times)
		}
	}
	for check, n := range ask(t, prometheus, "check", `max by (check) (max_over_time(pgintegrity_check_findings{class=~"corruption|data_rule"}`+span+`))`) {
		if n > 0 {
			t.Errorf("%s found %v times damage", check, n)
		}
	}
	for kind, n := range ask(t, prometheus, "kind", `max by (kind) (max_over_time(pgintegrity_corruption_events_total`+span+`))`) {
		if n > 0 {
			t.Errorf("%v events of %s in the log", n, kind)
		}
	}
	runs := ask(t, prometheus, "outcome", `sum by (outcome) (pgintegrity_check_runs_total)`)
	t.Logf("runs of checks by outcome: %v", runs)
	if runs["ok"] == 0 {
		t.Error("no check has run to its end")
	}
	if up := ask(t, prometheus, "job", `min_over_time(pgintegrity_up`+span+`)`); up["pg_integrity_exporter"] != 1 {
		t.Error("the server counted as down")
	}
	third := int(soak.Seconds() / 3)
	for metric, room := range map[string]float64{"process_resident_memory_bytes": 8 << 20, "go_memstats_alloc_bytes": 4 << 20, "go_goroutines": 10, "process_open_fds": 16} {
		before := ask(t, prometheus, "job", fmt.Sprintf("max_over_time(%s[%ds] offset %ds)", metric, third, third))["pg_integrity_exporter"]
		after := ask(t, prometheus, "job", fmt.Sprintf("max_over_time(%s[%ds])", metric, third))["pg_integrity_exporter"]
		t.Logf("%s: at most %v in the second third and %v in the last", metric, before, after)
		if after > before+room {
			t.Errorf("%s grows: %v, then %v", metric, before, after)
		}
	}
}
