package exporter_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// touchedConfig has no log to read, so that only maintenance can be why something
// is looked at, and rules that are not due again while the test runs.
const touchedConfig = `
maintenance: {interval: 1s}
log: {enabled: false}
invariants:
  - {name: total, databases: [postgres], sql: SELECT sum(amount) FROM money, expect: {min: "5000", max: "5000"}, interval: 12h}
sealed:
  - {name: closed, databases: [postgres], table: public.closed, interval: 12h}
`

// TestWhatMaintenanceTouchedIsLookedAtFirst does maintenance that goes wrong and
// that nobody announces. What it touched is checked at once, physically and against
// what is known of its rows, and the database as a whole behind it; what is as
// badly damaged and was not touched is not found yet.
func TestWhatMaintenanceTouchedIsLookedAtFirst(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		if testing.Short() && major != pgtest.Newest() {
			t.Skip("one version is enough")
		}
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Checksums(), pgtest.Setting("autovacuum", "off"))
		server.MustExec(t, "postgres", `CREATE EXTENSION amcheck;
			CREATE TABLE touched AS SELECT i, 10 AS amount FROM generate_series(1, 5000) i; CREATE TABLE spared AS TABLE touched;
			CREATE TABLE closed AS TABLE touched; CREATE TABLE money AS SELECT i, 10 AS amount FROM generate_series(1, 500) i;
			CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TRIGGER stamp BEFORE UPDATE ON money FOR EACH ROW EXECUTE FUNCTION f()`)
		config := filepath.Join(t.TempDir(), "exporter.yml")
		if err := os.WriteFile(config, []byte(touchedConfig), 0o600); err != nil {
			t.Fatal(err)
		}
		e := run(t, server.DSN("postgres"), t.TempDir(), config)
		snapshot := func() *state.Snapshot { return e.Watched().Snapshot }
		pgtest.Await(t, "every check has run", 2*time.Minute, func() bool {
			checks := snapshot().Checks
			return len(checks) > 0 && !slices.ContainsFunc(checks, func(c state.CheckState) bool { return c.LastRun.IsZero() })
		})
		if findings := snapshot().Findings; slices.ContainsFunc(findings, func(f state.Finding) bool { return f.Class != check.ClassUnsafeSetting }) {
			t.Fatalf("before: %+v", findings)
		}
		whole := func(name string) time.Time {
			checks := snapshot().Checks
			return checks[slices.IndexFunc(checks, func(c state.CheckState) bool { return c.Check == name && c.Database == "postgres" })].LastRun
		}
		heap, rows := whole("heap"), whole("rows")

		for _, name := range []string{"touched", "spared"} {
			relation := server.MustRelation(t, "postgres", name)
			server.WhileDown(t, func() error { return relation.Edit(3, pgtest.Garbage) })
		}
		// One that waits for a lock and so can be seen, one that changes what is
		// sealed, and one that changes what an invariant is about.
		release := server.Hold(t, "postgres", "LOCK TABLE touched IN ROW EXCLUSIVE MODE")
		done := make(chan error, 1)
		go func() { done <- server.Exec(t.Context(), "postgres", "ALTER TABLE touched ADD COLUMN note text") }()
		pgtest.Await(t, "the ALTER TABLE is seen", time.Minute, func() bool { return len(e.Watched().Maintenance.Running) > 0 })
		release()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{
			"ALTER TABLE closed ALTER COLUMN amount TYPE bigint USING amount + 1", "ALTER TABLE money DISABLE TRIGGER stamp",
			"ALTER TABLE money ALTER COLUMN amount TYPE bigint USING amount + 1",
		} {
			server.MustExec(t, "postgres", sql)
		}
		found := func(name, relation string) bool {
			return slices.ContainsFunc(snapshot().Findings, func(f state.Finding) bool { return f.Check == name && (relation == "" || f.Relation == relation) })
		}
		took := pgtest.Await(t, "found", time.Minute, func() bool {
			return found("page", "touched") && found("heap", "touched") && found("sealed", "closed") && found("invariant", "") && found("leftover", "money")
		})
		t.Logf("found after %s", took)
		if found("page", "spared") || found("heap", "spared") || whole("heap") != heap {
			t.Error("what nobody touched was checked too: the test proves nothing")
		}
		pgtest.Await(t, "the numbers of rows are compared with those before", 20*time.Second, func() bool { return whole("rows").After(rows) })
	})
}
