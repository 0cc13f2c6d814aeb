package check

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
)

// passTest is a check of four relations that does to each what it is told.
type passTest struct {
	target *pg.Target
	memory kept
	parts  []Result
	looked []string
}

func (p *passTest) run(ctx context.Context, look func(s *session, name string) error) Result {
	p.looked = nil
	names := []string{"public.a", "public.b", "public.c", "public.d"}
	c := Check{Name: "passing", run: func(ctx context.Context, s *session) error {
		return s.each(ctx, len(names), func(i int) error {
			p.looked = append(p.looked, names[i])
			return look(s, names[i])
		}, func(i int) string { return names[i] })
	}}
	scope := Scope{Memory: p.memory, Resume: true, Keep: func(r Result) { p.parts = append(p.parts, r) }}
	return Run(ctx, p.target, "postgres", c, scope, slog.New(slog.DiscardHandler))
}

func newPassTest(t *testing.T) (*passTest, *pgtest.Server) {
	t.Helper()
	server := pgtest.Start(t)
	target, err := pg.ResolveTarget(server.DSN("postgres"), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return &passTest{target: target, memory: kept{}}, server
}

// TestResume stops a run in the middle of a relation. The next one goes on
// there, knows what could not be looked at before, and lasts from the start of
// the first; what was found by then was kept.
func TestResume(t *testing.T) {
	t.Parallel()
	p, _ := newPassTest(t)
	ctx, stop := context.WithCancel(t.Context())
	first := p.run(ctx, func(s *session, name string) error {
		switch name {
		case "public.a":
			return errors.New("a cannot be looked at")
		case "public.b":
			s.found(Finding{Class: ClassCorruption, Severity: SeverityCritical, Schema: "public", Relation: "b", Message: "damaged"}, "x")
		case "public.c":
			s.reached(ctx, name, 7, true)
			stop()
			return ctx.Err()
		}
		return nil
	})
	if len(p.parts) != 1 || len(p.parts[0].Findings) != 1 || first.Whole {
		t.Fatalf("kept %+v of the stopped run, whole %v", p.parts, first.Whole)
	}
	var block uint32
	var clean bool
	second := p.run(t.Context(), func(s *session, name string) error {
		if name == "public.c" {
			block, clean = s.startAt(name)
		}
		return nil
	})
	if !slices.Equal(p.looked, []string{"public.c", "public.d"}) || block != 7 || clean {
		t.Errorf("went on with %q at block %d, clean %v", p.looked, block, clean)
	}
	if !second.Started.Equal(first.Started) || second.Whole || !strings.Contains(second.Reason, "a cannot be looked at") {
		t.Errorf("the second run started %s, not %s; whole %v, reason %q", second.Started, first.Started, second.Whole, second.Reason)
	}
	third := p.run(t.Context(), func(*session, string) error { return nil })
	if len(p.looked) != 4 || !third.Whole {
		t.Errorf("after a pass that came to its end the next looks at %q, whole %v", p.looked, third.Whole)
	}
}

// TestMistake holds that a mistake in this program at one relation does not keep a
// check from the others.
func TestMistake(t *testing.T) {
	t.Parallel()
	p, _ := newPassTest(t)
	result := p.run(t.Context(), func(_ *session, name string) error {
		var pages []byte
		if name == "public.b" {
			pages[0] = 1
		}
		return nil
	})
	if len(p.looked) != 4 || result.Outcome != OutcomeFailed || !strings.Contains(result.Reason, "public.b: a mistake in this program") {
		t.Errorf("looked at %q: %s %s", p.looked, result.Outcome, result.Reason)
	}
}

// TestLostSession leaves a relation alone for a day at which the server process
// of the check died by itself, and no relation when the server was stopped.
func TestLostSession(t *testing.T) {
	t.Parallel()
	p, server := newPassTest(t)
	end := func(sql string) func(*session, string) error {
		return func(s *session, name string) error {
			if name != "public.b" {
				return nil
			}
			_, err := s.conn.Exec(t.Context(), sql)
			return err
		}
	}
	p.run(t.Context(), end("SELECT pg_terminate_backend(pg_backend_pid())"))
	p.run(t.Context(), func(*session, string) error { return nil })
	if !slices.Contains(p.looked, "public.b") {
		t.Errorf("left alone after the session was terminated: looked at %q", p.looked)
	}

	crash := func(s *session, name string) error {
		if name != "public.b" {
			return nil
		}
		return killOwn(t.Context(), s)
	}
	p.run(t.Context(), crash)
	pgtest.Await(t, "the server after its crash", 20*time.Second, func() bool {
		return server.Exec(t.Context(), "postgres", "SELECT") == nil
	})
	result := p.run(t.Context(), func(*session, string) error { return nil })
	if slices.Contains(p.looked, "public.b") || !slices.Contains(p.looked, "public.d") || !strings.Contains(result.Reason, "left alone") {
		t.Errorf("after the crash: looked at %q, reason %q", p.looked, result.Reason)
	}
}

// TestOtherProcessDied blames nothing when the server ends the session because
// another process died.
func TestOtherProcessDied(t *testing.T) {
	t.Parallel()
	p, server := newPassTest(t)
	release := server.Hold(t, "postgres", "SELECT 'victim'")
	defer release()
	result := p.run(t.Context(), func(s *session, name string) error {
		if name != "public.b" {
			return nil
		}
		var victim int
		if err := s.conn.QueryRow(t.Context(), "SELECT pid FROM pg_stat_activity WHERE query LIKE '%''victim''%' AND pid <> pg_backend_pid()").Scan(&victim); err != nil {
			return err
		}
		if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
			return err
		}
		pgtest.Await(t, "the crash", 20*time.Second, func() bool {
			content, err := os.ReadFile(filepath.Join(server.Directory, "output.log"))
			return err == nil && bytes.Contains(content, []byte("was terminated by signal"))
		})
		server.AwaitAccepting(t) // all sessions have been ended then
		_, err := s.conn.Exec(t.Context(), "SELECT pg_sleep(5)")
		return err
	})
	if !strings.Contains(result.Reason, "the session was lost at public.b") || len(result.Findings) > 0 {
		t.Errorf("reason %q, findings %+v", result.Reason, result.Findings)
	}
	if result := p.run(t.Context(), func(*session, string) error { return nil }); result.Reason != "" {
		t.Errorf("afterwards: %q", result.Reason)
	}
}

// TestLostCatalogues tells when the server process died that was reading the
// catalogues, and leaves the database alone for a day.
func TestLostCatalogues(t *testing.T) {
	t.Parallel()
	p, server := newPassTest(t)
	heaps := NewHeaps()
	run := func(die bool) Result {
		c := Check{Name: "listing", run: func(ctx context.Context, s *session) error {
			if !die {
				return nil
			}
			return killOwn(ctx, s)
		}}
		return Run(t.Context(), p.target, "postgres", c, Scope{Memory: p.memory, Heaps: heaps}, slog.New(slog.DiscardHandler))
	}
	if result := run(true); len(result.Findings) != 1 || result.Findings[0].Schema != "pg_catalog" {
		t.Errorf("findings %+v, reason %q", result.Findings, result.Reason)
	}
	server.AwaitAccepting(t)
	if result := run(false); !strings.Contains(result.Reason, "of the check listing died") {
		t.Errorf("in the same sweep: %q", result.Reason)
	}
	heaps.Forget()
	if result := run(false); !strings.Contains(result.Reason, "left alone: at ") {
		t.Errorf("in the next one: %q", result.Reason)
	}
}

// TestLostForOthers leaves a relation alone over which the server process of
// another check of the same sweep died, and everything when the statistics that
// every statement is planned with are damaged.
func TestLostForOthers(t *testing.T) {
	t.Parallel()
	p, server := newPassTest(t)
	heaps := NewHeaps()
	names := []string{"public.a", "public.b"}
	run := func(check string, die bool) (looked []string, result Result) {
		c := Check{Name: check, run: func(ctx context.Context, s *session) error {
			return s.each(ctx, len(names), func(i int) error {
				if looked = append(looked, names[i]); !die {
					return nil
				}
				return killOwn(ctx, s)
			}, func(i int) string { return names[i] })
		}}
		result = Run(t.Context(), p.target, "postgres", c, Scope{Memory: p.memory, Heaps: heaps}, slog.New(slog.DiscardHandler))
		server.AwaitAccepting(t)
		return looked, result
	}
	run("first", true)
	if looked, result := run("second", false); !slices.Equal(looked, names[1:]) || !strings.Contains(result.Reason, "of the check first died") {
		t.Errorf("looked at %q, reason %q", looked, result.Reason)
	}
	heaps.Forget()
	heaps.note(statisticOID, false)
	run("third", true)
	if looked, result := run("fourth", false); len(looked) > 0 || !strings.Contains(result.Reason, "of the check third died") {
		t.Errorf("looked at %q, reason %q", looked, result.Reason)
	}
}

// killOwn kills the server process of a check's session, and reads the error that
// it leaves.
func killOwn(ctx context.Context, s *session) error {
	var pid int
	if err := s.conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	_, err := s.conn.Exec(ctx, "SELECT pg_sleep(5)")
	return err
}
