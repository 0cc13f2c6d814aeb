package exporter_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pgtest"
)

// census counts the sessions of a role until it is asked for the result.
func census(t *testing.T, server *pgtest.Server, role string) (most func() (sessions, checks int)) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var counting sync.WaitGroup
	var sessions, checks int
	conn, err := pgx.Connect(t.Context(), server.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	counting.Go(func() {
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		for ctx.Err() == nil {
			var all, checking int
			err := conn.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE application_name = 'pg_integrity_exporter check')
				FROM pg_stat_activity WHERE usename = $1`, role).Scan(&all, &checking)
			if err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			sessions, checks = max(sessions, all), max(checks, checking)
			time.Sleep(2 * time.Millisecond)
		}
	})
	return func() (int, int) {
		stop()
		counting.Wait()
		return sessions, checks
	}
}

// TestThreeSessions keeps everything that asks the server busy at once: a check
// in its slot, one out of turn, the log read through the server, maintenance,
// business transactions, the lock of the leader, scrapes. There are never more
// than three sessions, and nothing starves.
func TestThreeSessions(t *testing.T) {
	t.Parallel()
	server, dsn := startServer(t, pgtest.JSONLog())
	role := "monitor"
	for _, err := range []error{server.GrantLog(t.Context(), "postgres", role), server.GrantData(t.Context(), "erp", role)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	server.MustExec(t, "erp", "CREATE TABLE big AS SELECT i, repeat('x', 500) AS filler FROM generate_series(1, 20000) i")
	relation := server.MustRelation(t, "erp", "ledger.postings")
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.yml")
	writeFile(t, file, `
log: {via: sql}
leader: {enabled: true}
maintenance: {interval: 1s}
limits: {check_rate: 1MiB, latency: 10s}
transactions:
- {name: posting, database: erp, interval: 5s, sql: "SELECT 'done', count(*) FROM ledger.postings WHERE id < 10"}
`)
	e := run(t, dsn, t.TempDir(), file)
	pgtest.Await(t, "leading", 20*time.Second, func() bool { leads, _ := value(e, "pgintegrity_leader", nil); return leads == 1 })
	most := census(t, server, role)
	pgtest.Await(t, "reading the log", 20*time.Second, func() bool { up, _ := value(e, "pgintegrity_log_reader_up", nil); return up == 1 })
	pgtest.Await(t, "checks under way", 20*time.Second, func() bool {
		held, _ := value(e, "pgintegrity_cost_open_connections", map[string]string{"purpose": "check"})
		return held >= 1
	})
	if err := relation.Edit(33, pgtest.Garbage); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := server.Query(t.Context(), "erp", "SELECT count(*) FROM ledger.postings", &n); err == nil {
		t.Fatal("the damaged table can be read")
	}
	named := pgtest.Await(t, "naming the table", 15*time.Second, func() bool {
		_, found := value(e, "pgintegrity_finding_info", map[string]string{"datname": "erp", "relname": "postings", "check": "log"})
		return found
	})
	t.Logf("named after %s", named)
	pgtest.Await(t, "a check in its slot and one out of turn", 20*time.Second, func() bool {
		held, _ := value(e, "pgintegrity_cost_open_connections", map[string]string{"purpose": "check"})
		return held == 2
	})
	server.MustExec(t, "erp", "VACUUM big")
	// Both take minutes at this rate; what is short gets its turn.
	for range 2 {
		before, _ := value(e, "pgintegrity_business_transaction_last_success_timestamp_seconds", map[string]string{"transaction": "posting"})
		pgtest.Await(t, "business transactions counted", 20*time.Second, func() bool {
			now, _ := value(e, "pgintegrity_business_transaction_last_success_timestamp_seconds", map[string]string{"transaction": "posting"})
			return now > before
		})
	}
	sessions, checks := most()
	if sessions != 3 || checks != 2 {
		t.Errorf("at most %d sessions, %d of them of checks; want 3 and 2", sessions, checks)
	}
	if up, _ := value(e, "pgintegrity_up", nil); up != 1 {
		t.Error("the server counts as down")
	}
}
