package alerts_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/incident"
	"pg_integrity_exporter/internal/maintenance/window"
	"pg_integrity_exporter/internal/pgtest"
)

// liveDamage are the alerts of TestLiveDamage, with the thresholds that let the
// condition be a small one.
var liveDamage = map[string]map[string]float64{
	"BusinessTransactionsFailing":          nil,
	"BusinessTransactionsStopped":          nil,
	"PostgresArchivingBehind":              {"segments": 0, "seconds": 0},
	"PostgresArchivingFailing":             nil,
	"PostgresBackupNever":                  nil,
	"PostgresBackupOverdue":                nil,
	"PostgresCheckCoverageLow":             {"ratio": 0.9999},
	"PostgresCheckNeverSucceeded":          {"intervals": 0, "seconds": 0},
	"PostgresCollectorFailing":             nil,
	"PostgresCorruptionDetected":           nil,
	"PostgresDataRuleBroken/critical":      nil,
	"PostgresDataRuleBroken/warning":       nil,
	"PostgresDeadlocks":                    {"deadlocks": 0},
	"PostgresDrillNever":                   nil,
	"PostgresFindingsTruncated":            nil,
	"PostgresIncidentUpdateDue":            nil,
	"PostgresInternalErrors":               nil,
	"PostgresLeftover":                     nil,
	"PostgresLogReaderDown":                nil,
	"PostgresLoginFailures":                {"failures": 0},
	"PostgresMaintenanceBlocks":            {"seconds": 0},
	"PostgresMaintenanceWindow":            nil,
	"PostgresMaintenanceWindowOverrun":     nil,
	"PostgresRecoverabilityAtRisk":         nil,
	"PostgresRecoveryPointOld":             nil,
	"PostgresRepositoryUnreadable":         nil,
	"PostgresResourceErrors":               {"errors": 0},
	"PostgresServerCrashed":                nil,
	"PostgresSlotLost":                     nil,
	"PostgresUnsafeConfiguration/critical": nil,
	"PostgresUnsafeConfiguration/warning":  nil,
}

// damagedConfig watches three repositories (one that is gone, one that is empty,
// one that is too old) and two kinds of business transactions (one that fails,
// one that cannot be counted).
const damagedConfig = `
recovery:
  interval: 10s
  repositories:
    - {name: gone, type: directory, path: %[1]s/gone}
    - {name: empty, type: directory, path: %[1]s/empty, max_drill_age: 1h}
    - {name: old, type: directory, path: %[1]s/old, max_backup_age: 1s, max_recovery_point_age: 1s}
maintenance: {interval: 1s}
limits: {findings: 1}
invariants:
  - {name: nobody, databases: [postgres], sql: SELECT 1, severity: warning}
transactions:
  - {name: payments, database: postgres, sql: "SELECT 'failed', 9, now()", interval: 5s}
  - {name: payroll, database: postgres, sql: "SELECT 1/0", interval: 5s}
`

// damagedSchema is data that breaks a foreign key, an index that a failed CREATE
// INDEX left, and tables for what comes later.
var damagedSchema = []string{
	"CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int REFERENCES parent)",
	"SET session_replication_role = replica; INSERT INTO child VALUES (1)",
	"CREATE TABLE twice AS SELECT 1 AS i FROM generate_series(1, 2)",
	"CREATE TABLE victim AS SELECT generate_series(1, 1000) AS i",
	"CREATE TABLE locked AS SELECT generate_series(1, 10000) AS i",
	"CREATE TABLE more (i int)",
	"CREATE TABLE rewritten AS SELECT generate_series(1, 1000) AS i",
	"SELECT pg_create_physical_replication_slot('lost', true)",
	"CREATE ROLE powerless LOGIN; CREATE ROLE nobody_more LOGIN CONNECTION LIMIT 0",
	"CHECKPOINT",
}

// TestLiveDamage makes the conditions of alerts about damage, recovery,
// maintenance and errors on a real server, and sees them arrive as TestLive does.
func TestLiveDamage(t *testing.T) {
	tool(t, "PROMETHEUS")
	alertmanager := startAlertmanager(t, &pager{pages: make(map[string][]string)})
	server := pgtest.Start(t, pgtest.JSONLog(), pgtest.Setting("full_page_writes", "off"), pgtest.Setting("archive_mode", "on"),
		pgtest.Setting("archive_command", "false"), pgtest.Setting("wal_level", "replica"), pgtest.Setting("min_wal_size", "32MB"),
		pgtest.Setting("max_wal_size", "32MB"), pgtest.Setting("max_slot_wal_keep_size", "1MB"), pgtest.Setting("deadlock_timeout", "100ms"), pgtest.Setting("autovacuum", "off"))
	for _, sql := range damagedSchema {
		server.MustExec(t, "postgres", sql)
	}
	if server.Exec(t.Context(), "postgres", "CREATE UNIQUE INDEX CONCURRENTLY half ON twice (i)") == nil {
		t.Fatal("a unique index on what is not unique")
	}
	victim, err := server.Relation(t.Context(), "postgres", "victim")
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Edit(0, pgtest.Garbage); err != nil {
		t.Fatal(err)
	}
	for range 4 { // the slot needs more WAL than it may keep
		server.MustExec(t, "postgres", "SELECT pg_switch_wal()")
		server.MustExec(t, "postgres", "INSERT INTO more VALUES (1); CHECKPOINT")
	}
	directory := t.TempDir()
	server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(directory, "old", "base")})
	if err := os.Mkdir(filepath.Join(directory, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(directory, "exporter.yml")
	appendTo(t, config, fmt.Sprintf(damagedConfig, directory))
	server.Hold(t, "postgres", "LOCK TABLE locked") // no check looks at it

	first, e := serveExporter(t, server.DSN("postgres"), config)
	second, blind := serveExporter(t, server.DSN("postgres", "powerless"), "")
	now := time.Now()
	if _, err := window.Open(e.Watched().Files, now, time.Hour, "faster", "anna", "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := window.Open(blind.Watched().Files, now.Add(-time.Hour), time.Minute, "forgotten", "anna", "test"); err != nil {
		t.Fatal(err)
	}
	change := incident.Change{Phase: incident.Investigating, Title: "payments fail", NextUpdate: time.Second}
	if _, err := incident.Apply(e.Watched().Files, change, now.Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	startPrometheus(t, alertmanager, []string{first, second}, "")
	seen := newArrivals(alertmanager)
	// Rates are of what comes after the first scrapes.
	seen.await(t, "BusinessTransactionsFailing", "BusinessTransactionsStopped", "PostgresMaintenanceWindow", "PostgresLogReaderDown")

	server.MustExec(t, "postgres", "SELECT pg_switch_wal()")
	server.Hold(t, "postgres", "LOCK TABLE rewritten IN ACCESS SHARE MODE")
	inBackground(t, server, "VACUUM FULL rewritten")
	inBackground(t, server, "SELECT count(*) FROM rewritten")
	deadlock(t, server)
	for _, role := range []string{"nobody_more", "not_there"} {
		if conn, err := pgx.Connect(t.Context(), server.DSN("postgres", role)); err == nil {
			t.Errorf("%s may log in", role)
			_ = conn.Close(t.Context())
		}
	}
	if server.Exec(t.Context(), "postgres", "DO $$ BEGIN RAISE 'impossible' USING ERRCODE = 'XX000'; END $$") == nil {
		t.Error("no error")
	}
	seen.await(t, without(liveDamage, "PostgresServerCrashed")...)

	var backend int
	if err := server.Query(t.Context(), "postgres", "SELECT pid FROM pg_stat_activity WHERE query LIKE 'VACUUM FULL rewritten%'", &backend); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(backend, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	seen.await(t, "PostgresServerCrashed")
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// inBackground runs a statement that ends with the server.
func inBackground(t *testing.T, server *pgtest.Server, sql string) {
	t.Helper()
	go func() { _ = server.Exec(t.Context(), "postgres", sql) }()
	pgtest.Await(t, "it waits: "+sql, 20*time.Second, func() bool {
		var waits bool
		err := server.Query(t.Context(), "postgres", "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '"+sql+"%')", &waits)
		return err == nil && waits
	})
}

// deadlock makes two transactions wait for each other.
func deadlock(t *testing.T, server *pgtest.Server) {
	t.Helper()
	connect := func(first int) *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), server.DSN("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), fmt.Sprintf("BEGIN; SELECT pg_advisory_xact_lock(%d)", first), pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	a, b := connect(1), connect(2)
	done := make(chan error, 1)
	go func() {
		_, err := a.Exec(t.Context(), "SELECT pg_advisory_xact_lock(2)")
		done <- err
	}()
	_, err := b.Exec(t.Context(), "SELECT pg_advisory_xact_lock(1)")
	if other := <-done; err == nil && other == nil {
		t.Error("no deadlock")
	}
	for _, conn := range []*pgx.Conn{a, b} {
		if err := conn.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}
}
