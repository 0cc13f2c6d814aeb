package guard_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/maintenance/script"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// guardArgument makes a process of this test's program a guard of its own, so
// that it can be killed.
const guardArgument = "guard"

// guardProcess runs a script or a job under guard; the arguments are the DSN,
// the state directory, "sql" or "command", and what to run.
func guardProcess(arguments []string) int {
	target, err := pg.ResolveTarget(arguments[0], os.LookupEnv)
	if err != nil {
		fmt.Println(err)
		return 9
	}
	settings := guard.Default()
	settings.MinFree, settings.PhysicalChecks = 0, false
	options := guard.Options{
		Target: target, Files: state.OpenFiles(arguments[1], target.Name()), Settings: settings, Invariants: rules,
		What: "kill", Logger: slog.New(slog.DiscardHandler),
	}
	if arguments[2] == "command" {
		options.Command = append([]string{os.Args[0], jobArgument}, arguments[3:]...)
	} else if options.Statements, err = script.Split(strings.Join(arguments[3:], ";")); err != nil {
		fmt.Println(err)
		return 9
	}
	report := guard.Run(context.Background(), options)
	return report.ExitCode
}

// TestKill kills the guard at random moments, and holds that resume always
// finds out what happened: everything is there, or nothing.
func TestKill(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		if testing.Short() && major != pgtest.Newest() {
			t.Skip("one version is enough")
		}
		server := newServer(t, major)
		rounds := 3
		if testing.Short() || major != pgtest.Newest() {
			rounds = 1
		}
		for round := range rounds {
			killOnce(t, server, round, "sql", "UPDATE invoices SET total = total + 1", "SELECT pg_sleep(0.2)", "UPDATE invoices SET total = total + 1")
			killOnce(t, server, round, "sql", "CREATE INDEX CONCURRENTLY killed ON entries (amount)")
			killOnce(t, server, round, "command", "UPDATE invoices SET total = total + 2", "DELETE FROM archive_lines WHERE archive < 1000", "SELECT pg_sleep(1.5)", "SELECT 1/0")
		}
	})
}

// TestKillWhileTakingBack kills the guard when it has put the rows of a command
// back and before it has proved that: resume must not put them back once more.
func TestKillWhileTakingBack(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		if testing.Short() && major != pgtest.Newest() {
			t.Skip("one version is enough")
		}
		server := newServer(t, major)
		for range 10 { // it may be faster
			b := newBench(t, server, "books")
			before, directory := b.quiet(), t.TempDir()
			cmd := exec.Command(os.Args[0], guardArgument, server.DSN("books"), directory, "command", "UPDATE invoices SET total = total + 2", "DELETE FROM archive_lines WHERE archive < 1000", "SELECT 1/0")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			killed := false
			for deadline := time.Now().Add(20 * time.Second); !killed && time.Now().Before(deadline) && len(ended) == 0; {
				killed = server.Query(t.Context(), "books", "SELECT true FROM pgintegrity_guard.undone LIMIT 1", &killed) == nil && killed
			}
			_ = cmd.Process.Kill() // it may have ended
			<-ended
			files := state.OpenFiles(directory, b.target.Name())
			runs, err := guard.Runs(files)
			if err != nil || len(runs) != 1 {
				t.Fatalf("%d runs (%v)", len(runs), err)
			}
			if runs[0].Outcome != guard.OutcomeInterrupted {
				continue
			}
			o := b.options()
			o.Files = files
			report, err := guard.Resume(t.Context(), o, runs[0])
			if err != nil || report.Outcome != guard.OutcomeRolledBack || b.quiet() != before {
				t.Errorf("resumed, it ended %s: %s (%v); as before: %t", report.Outcome, report.Summary, err, b.quiet() == before)
			}
			return
		}
		t.Error("the guard was never killed at that moment")
	})
}

// TestDeathBeforeTheEnd takes the end out of the journals of commands that ended
// well, were rolled back, and were not, as when the guard dies between removing
// what recorded their changes and writing down the end: resume must say the same.
func TestDeathBeforeTheEnd(t *testing.T) {
	t.Parallel()
	server := newServer(t, pgtest.Newest())
	for _, c := range []struct {
		text string
		want guard.Outcome
	}{
		{"UPDATE invoices SET total = total + 1 WHERE no = 1", guard.OutcomeDone},
		{"DELETE FROM archive_lines WHERE archive < 100;\nSELECT 1/0;\n", guard.OutcomeRolledBack},
		{"CREATE VIEW left_behind AS SELECT 1;\nSELECT 1/0;\n", guard.OutcomeNotRolledBack},
	} {
		b := newBench(t, server, "books")
		l := b.start() // others go on
		first := guard.Run(t.Context(), b.command(c.text))
		after := b.quiet()
		journals, err := filepath.Glob(filepath.Join(b.files.Directory(), "guard", "*.jsonl"))
		if err != nil || len(journals) != 1 {
			t.Fatalf("%v (%v)", journals, err)
		}
		content, err := os.ReadFile(journals[0])
		if err != nil {
			t.Fatal(err)
		}
		before, _, found := strings.Cut(string(content), "\"event\":\"end\"")
		if !found {
			t.Fatalf("the journal has no end:\n%s", content)
		}
		if err := os.WriteFile(journals[0], []byte(before[:strings.LastIndexByte(before, '\n')+1]), 0o600); err != nil {
			t.Fatal(err)
		}
		runs, err := guard.Runs(b.files)
		if err != nil || len(runs) != 1 || runs[0].Outcome != guard.OutcomeInterrupted {
			t.Fatalf("%+v (%v)", runs, err)
		}
		again, err := guard.Resume(t.Context(), b.options(), runs[0])
		if err != nil || first.Outcome != c.want || again.Outcome != c.want || again.Summary != first.Summary || b.quiet() != after {
			t.Errorf("%q ended %s: %s; resumed, it ended %s: %s (%v)", c.text, first.Outcome, first.Summary, again.Outcome, again.Summary, err)
		}
		if lost := b.lost(l); lost > 0 {
			t.Errorf("%d transfers are lost", lost)
		}
	}
}

func killOnce(t *testing.T, server *pgtest.Server, round int, mode string, statements ...string) {
	t.Helper()
	b := newBench(t, server, "books")
	before := b.quiet()
	var sum int64
	total := func() int64 {
		var s int64
		if err := server.Query(t.Context(), "books", "SELECT sum(total)::bigint FROM invoices", &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	sum = total()
	l := b.start()
	directory := t.TempDir()
	cmd := exec.Command(os.Args[0], append([]string{guardArgument, server.DSN("books"), directory, mode}, statements...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The first run is killed once it has begun to change something, the others
	// anywhere.
	files := state.OpenFiles(directory, b.target.Name())
	if round == 0 {
		pgtest.Await(t, "begun", 20*time.Second, func() bool {
			runs, err := guard.Runs(files)
			return err == nil && len(runs) == 1 && (runs[0].Ready || runs[0].Outcome != "")
		})
		time.Sleep(100 * time.Millisecond)
	} else {
		time.Sleep(time.Duration(rand.IntN(4000)) * time.Millisecond)
	}
	_ = cmd.Process.Kill() // it may have ended
	_ = cmd.Wait()
	runs, err := guard.Runs(files)
	if err != nil {
		t.Fatal(err)
	}
	outcome := guard.Outcome("not begun")
	if len(runs) == 1 {
		outcome = runs[0].Outcome
	}
	how := "by itself"
	if outcome == guard.OutcomeInterrupted {
		how = "by resume"
		o := b.options()
		o.Files = files
		report, err := guard.Resume(t.Context(), o, runs[0])
		if err != nil {
			t.Fatal(err)
		}
		outcome = report.Outcome
		if outcome != guard.OutcomeDone && outcome != guard.OutcomeRolledBack {
			t.Errorf("%s %v: %s", mode, statements, report.Summary)
		}
		if again, err := guard.Runs(files); err != nil || again[0].Outcome != outcome {
			t.Errorf("the journal does not tell how it ended: %+v (%v)", again, err)
		}
	}
	if lost := b.lost(l); lost > 0 {
		t.Errorf("%d transfers are lost", lost)
	}
	t.Logf("%s %.40s: %s %s", mode, statements[0], outcome, how)
	changed := total() - sum
	switch {
	case mode == "sql" && strings.HasPrefix(statements[0], "UPDATE") && outcome == guard.OutcomeDone:
		if changed != 2*500 {
			t.Errorf("it is done, but the rows changed by %d", changed)
		}
	case outcome == guard.OutcomeDone:
		server.MustExec(t, "books", "DROP INDEX IF EXISTS killed")
	default:
		if changed != 0 || b.quiet() != before {
			t.Errorf("it was taken back, but the rows changed by %d", changed)
		}
	}
}

// TestServerDies kills the server while maintenance is under way, in its
// statements and at random moments: the guard waits for it and says how it ended.
func TestServerDies(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("kills a server")
	}
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := newServer(t, major)
		server.MustExec(t, "postgres", "ALTER SYSTEM SET synchronous_commit = on") // what is committed stays
		server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
		die := func(what string, o func(b *bench) guard.Options, kill func(ctx context.Context) error, wants ...guard.Outcome) {
			b := newBench(t, server, "books")
			before := b.quiet()
			l := b.start()
			died := make(chan error, 1)
			go func() { died <- kill(t.Context()) }()
			report := guard.Run(t.Context(), o(b))
			if err := <-died; err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(wants, report.Outcome) {
				t.Errorf("%s: it ended %s: %s", what, report.Outcome, report.Summary)
			}
			if changed := b.quiet() != before; changed != (report.Outcome == guard.OutcomeDone) {
				t.Errorf("%s: it ended %s, and changed %t", what, report.Outcome, changed)
			}
			if lost := b.lost(l); lost > 0 {
				t.Errorf("%s: %d transfers are lost", what, lost)
			}
			t.Logf("%s: %s", what, report.Outcome)
		}
		die("in a statement", func(b *bench) guard.Options { return b.sql("UPDATE invoices SET total = 0; SELECT pg_sleep(20)") },
			func(ctx context.Context) error { return dieDuring(ctx, server, "pg_sleep(20)") }, guard.OutcomeRolledBack)
		for n := range 4 {
			after := time.Duration(rand.IntN(4000)) * time.Millisecond
			script := fmt.Sprintf("UPDATE invoices SET total = %d; SELECT pg_sleep(0.3)", n)
			what := fmt.Sprintf("a script after %s", after)
			maintenance := func(b *bench) guard.Options { return b.sql(script) }
			if n%2 == 1 {
				what = fmt.Sprintf("a command after %s", after)
				maintenance = func(b *bench) guard.Options { return b.command(strings.ReplaceAll(script, "; ", "\n")) }
			}
			die(what, maintenance, func(ctx context.Context) error { return dieAfter(ctx, server, after) }, guard.OutcomeDone, guard.OutcomeRolledBack, guard.OutcomeRefused)
		}
	})
}

// dieAfter kills the server at a moment, and starts it again.
func dieAfter(ctx context.Context, server *pgtest.Server, after time.Duration) error {
	time.Sleep(after)
	if err := server.Kill(); err != nil {
		return err
	}
	time.Sleep(time.Second)
	return server.StartAgain(ctx)
}

// dieDuring kills the server once a statement runs, and starts it again.
func dieDuring(ctx context.Context, server *pgtest.Server, statement string) error {
	running := "SELECT count(*)::int FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%" + statement + "%'"
	var sessions int
	for sessions == 0 {
		if err := server.Query(ctx, "postgres", running, &sessions); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return dieAfter(ctx, server, 0)
}
