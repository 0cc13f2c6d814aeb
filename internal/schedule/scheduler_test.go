package schedule

import (
	"log/slog"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// TestOpenFindingsAreLookedAtAgain holds that a finding goes when its relation
// is well again or was dropped, and stays while it is damaged, without anybody
// asking and long before the check's next slot.
func TestOpenFindingsAreLookedAtAgain(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Checksums())
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	server.MustExec(t, "erp", `CREATE EXTENSION amcheck;
		CREATE TABLE mended AS SELECT generate_series(1, 1000) i;
		CREATE TABLE damaged AS SELECT generate_series(1, 1000) i`)
	relation := server.MustRelation(t, "erp", "damaged")
	server.WhileDown(t, func() error { return relation.Edit(1, pgtest.Garbage) })

	target, err := pg.ResolveTarget(server.DSN("postgres"), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	lane := pg.NewLane(target, pg.Purpose{StatementTimeout: 10 * time.Second, LockTimeout: time.Second})
	defer lane.Close()
	results, err := state.InMemory(logger).Target(target.Name())
	if err != nil {
		t.Fatal(err)
	}
	s := New(target, lane, results, Settings{
		Checks: map[string]time.Duration{"heap": 24 * time.Hour}, Selects: func(name string) bool { return name == "erp" },
	}, logger)
	s.findingInterval = 100 * time.Millisecond
	var findings []state.Finding
	hourAgo := time.Now().Add(-time.Hour)
	for _, name := range []string{"mended", "damaged", "dropped"} {
		f := check.LogFinding(pglog.Event{Kind: pglog.InvalidPage, SQLState: "XX001"}, "erp", check.RelationName{Schema: "public", Name: name})
		findings = append(findings, state.Finding{Finding: f, FirstSeen: hourAgo, LastSeen: hourAgo})
	}
	results.Report(findings)
	s.Start()
	defer s.Stop()
	open := func() map[string]bool {
		names := make(map[string]bool)
		for _, f := range results.Snapshot().Findings {
			names[f.Check+" "+f.Relation] = true
		}
		return names
	}
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(50 * time.Millisecond) {
		names := open()
		if names["heap damaged"] && !names["log mended"] && !names["log dropped"] {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("open findings: %v", names)
		}
	}
}
