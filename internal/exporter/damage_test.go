package exporter_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// TestEveryDamageIsNamed damages a server that an exporter has found well, and
// lets a statement run into each damage: the log names what is damaged, and the
// checks that it asks for look at it at once.
func TestEveryDamageIsNamed(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, logOption(pgtest.Newest()), pgtest.Checksums(), pgtest.Setting("autovacuum", "off"))
	// Of these the message names nothing: the checks of the statement's tables must
	// tell. They come first, because the checks take one table after the other.
	nameless := []string{"xact", "pglz", "jsonb"}
	var ruins []pgtest.Ruin
	for _, r := range server.Ruined(t) {
		switch {
		case slices.Contains(nameless, r.Name):
			ruins = slices.Insert(ruins, 0, r)
		case !slices.Contains([]string{"future", "beyond_eof", "brin_map", "catalog_type", "catalog_toast", "multixact", "pglz_length"}, r.Name):
			ruins = append(ruins, r) // the others stop every write, need a quiet server, or name nothing either
		}
	}
	e := run(t, server.DSN("postgres"), t.TempDir(), "")
	watched := func() *state.Snapshot { return e.Watched().Snapshot }
	pgtest.Await(t, "every check has run", 120*time.Second, func() bool {
		checks := watched().Checks
		return len(checks) > 0 && !slices.ContainsFunc(checks, func(c state.CheckState) bool { return c.LastRun.IsZero() })
	})
	server.Harm(t, ruins)
	for _, r := range ruins {
		for _, statement := range r.Statements() {
			_ = server.Exec(context.WithoutCancel(t.Context()), pgtest.RuinsDatabase, statement)
		}
	}
	missing := func() (list []string) {
		for _, r := range ruins {
			unnamed := slices.Contains(nameless, r.Name)
			found := slices.ContainsFunc(watched().Findings, func(f state.Finding) bool {
				return (f.Check == state.CheckLog) != unnamed && f.Class == check.ClassCorruption && slices.Contains([]string{r.Damaged, r.Name}, f.Relation)
			})
			if !found {
				list = append(list, r.Name)
			}
		}
		return list
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("not named: %s", missing())
		}
	})
	took := pgtest.Await(t, "named", 2*time.Minute, func() bool { return len(missing()) == 0 })
	t.Logf("%d damages named after %s", len(ruins), took)
	told, err := e.Watched().Files.Events(time.Now().Add(-time.Hour), time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []state.EventKind{state.EventCorruption, state.EventExporterStarted} {
		if !slices.ContainsFunc(told, func(e state.Event) bool { return e.Kind == kind }) {
			t.Errorf("no event %s in %+v", kind, told)
		}
	}
}
