package schedule

import (
	"context"
	"log/slog"
	"os"
	"strings"
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

// TestRefusedSessions holds that damage which lets no session be opened in any
// database is a finding within seconds, of an exporter that had looked at the server
// before and of one that has not.
func TestRefusedSessions(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	logger := slog.New(slog.DiscardHandler)
	watch := func() *state.Target {
		target, err := pg.ResolveTarget(server.DSN("erp"), func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		lane := pg.NewLane(target, pg.Purpose{StatementTimeout: 10 * time.Second, LockTimeout: time.Second})
		t.Cleanup(lane.Close)
		results, err := state.InMemory(logger).Target(target.Name())
		if err != nil {
			t.Fatal(err)
		}
		s := New(target, lane, results, Settings{
			Checks: map[string]time.Duration{"catalog": 24 * time.Hour}, Selects: func(name string) bool { return name == "erp" },
		}, logger)
		s.Start()
		t.Cleanup(s.Stop)
		go func() { // what a scrape does
			for t.Context().Err() == nil {
				_ = lane.Do(t.Context(), func(ctx context.Context, conn *pg.Conn) error { _, err := conn.Databases(ctx); return err })
				time.Sleep(time.Second)
			}
		}()
		return results
	}
	before := watch()
	outcome := func(results *state.Target) check.Outcome {
		for _, c := range results.Snapshot().Checks {
			return c.Outcome
		}
		return ""
	}
	pgtest.Await(t, "looked at", 30*time.Second, func() bool { return outcome(before) == check.OutcomeOK })
	roles := server.MustRelation(t, "erp", "pg_catalog.pg_authid_rolname_index")
	server.WhileDown(t, func() error { return os.Truncate(roles.Path, 8192) })
	after := watch()
	for _, results := range []*state.Target{before, after} {
		pgtest.Await(t, "found", 30*time.Second, func() bool {
			findings := results.Snapshot().Findings
			return outcome(results) == check.OutcomeFindings && len(findings) == 1 && strings.Contains(findings[0].Message, "no session can be opened")
		})
	}
}
