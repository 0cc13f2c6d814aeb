package schedule

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// TestStandby runs checks on a real standby while it keeps up, and holds that what
// is found there is told of the primary only when it is so there.
func TestStandby(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		server.MustExec(t, "postgres", "CREATE TABLE t (v int CONSTRAINT small CHECK (v < 200000000)); INSERT INTO t VALUES (123456789); CREATE TABLE u (v int)")
		standby, other := server.Standby(t), pgtest.Start(t, pgtest.Version(major))
		to := func(s *pgtest.Server) *pg.Target {
			target, err := pg.ResolveTarget(s.DSN("postgres"), pg.NoEnvironment)
			if err != nil {
				t.Fatal(err)
			}
			return target
		}
		target, logger := to(server), slog.New(slog.DiscardHandler)
		lane := pg.NewLane(target, pg.Purpose{StatementTimeout: 10 * time.Second, LockTimeout: time.Second})
		defer lane.Close()
		results, err := state.InMemory(logger).Target(target.Name())
		if err != nil {
			t.Fatal(err)
		}
		settings := Settings{Standby: Standby{Target: to(standby), Checks: []string{"constraint"}}}
		s := New(target, lane, results, settings, logger)
		if err := standby.AwaitReplay(t.Context(), server); err != nil {
			t.Fatal(err)
		}
		if s.standby(t.Context(), "page") != nil || s.standby(t.Context(), "constraint") != settings.Standby.Target {
			t.Fatalf("constraint is not to run on the standby, or page is: %q", s.standbyProblem)
		}
		constraint := check.All()[places()["constraint"]]
		messages := func() string {
			result := s.runOn(t.Context(), constraint, "postgres", check.Scope{Heaps: check.NewHeaps()})
			var all []string
			for _, f := range result.Findings {
				all = append(all, f.Message)
			}
			if there := result.On == settings.Standby.Target.Name(); there != (result.Outcome == check.OutcomeOK) {
				t.Errorf("%s is said to be the answer of %q", result.Outcome, result.On)
			}
			return string(result.Outcome) + " " + strings.Join(all, "; ")
		}
		if got := messages(); got != "ok " {
			t.Errorf("healthy: %s", got)
		}

		relation := standby.MustRelation(t, "postgres", "t")
		standby.WhileDown(t, func() error {
			return relation.Edit(0, func(p []byte) {
				copy(p, bytes.Replace(p, []byte{0x15, 0xcd, 0x5b, 0x07}, []byte{0xff, 0xff, 0xff, 0x7f}, 1))
			})
		})
		if got := messages(); !strings.HasPrefix(got, "findings on the standby ") || !strings.Contains(got, `not on this server: CHECK constraint "small" is broken by 1 row`) {
			t.Errorf("damaged on the standby: %s", got)
		}
		server.MustExec(t, "postgres", "ALTER TABLE t DROP CONSTRAINT small; INSERT INTO t VALUES (300000000); ALTER TABLE t ADD CONSTRAINT small CHECK (v < 200000000) NOT VALID")
		if err := standby.AwaitReplay(t.Context(), server); err != nil {
			t.Fatal(err)
		}
		if got := messages(); !strings.HasPrefix(got, `findings CHECK constraint "small" is broken by 1 row`) {
			t.Errorf("damaged on both: %s", got)
		}

		settings.Bounds.ReplicationLag = time.Second
		s.Configure(settings)
		standby.MustExec(t, "postgres", "SELECT pg_wal_replay_pause()")
		server.MustExec(t, "postgres", "SET synchronous_commit = on; INSERT INTO u VALUES (1)")
		time.Sleep(1500 * time.Millisecond)
		if s.standby(t.Context(), "constraint") != nil || !strings.Contains(s.standbyProblem, "behind") {
			t.Errorf("a standby that does not keep up: %q", s.standbyProblem)
		}
		standby.MustExec(t, "postgres", "SELECT pg_wal_replay_resume()")
		settings.Standby.Target = to(other)
		s.Configure(settings)
		if s.standby(t.Context(), "constraint") != nil || !strings.Contains(s.standbyProblem, "no standby of this server") {
			t.Errorf("another server: %q", s.standbyProblem)
		}
	})
}
