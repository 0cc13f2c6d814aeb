package pg_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func lane(t *testing.T, server *pgtest.Server) *pg.Lane {
	t.Helper()
	target, err := pg.ResolveTarget(server.DSN("postgres"), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	l := pg.NewLane(target, pg.Purpose{Name: "test", StatementTimeout: 5 * time.Second, LockTimeout: time.Second})
	t.Cleanup(l.Close)
	return l
}

func use(ctx context.Context, l *pg.Lane, sql string) (answer string, err error) {
	err = l.Do(ctx, func(ctx context.Context, conn *pg.Conn) error {
		return conn.QueryRow(ctx, sql).Scan(&answer)
	})
	return answer, err
}

// TestLane holds that a lane keeps one connection, and never has more than one
// on its way to a server that does not answer.
func TestLane(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	l := lane(t, server)
	first, err := use(t.Context(), l, "SELECT pg_backend_pid()::text")
	if err != nil {
		t.Fatal(err)
	}
	if second, err := use(t.Context(), l, "SELECT pg_backend_pid()::text"); err != nil || second != first {
		t.Errorf("another connection: %s and %s (%v)", first, second, err)
	}
	for setting, want := range map[string]string{"default_transaction_read_only": "on", "lock_timeout": "1s", "statement_timeout": "5s"} {
		if got, err := use(t.Context(), l, "SELECT current_setting('"+setting+"')"); err != nil || got != want {
			t.Errorf("%s is %q (%v)", setting, got, err)
		}
	}
	if err := l.Do(t.Context(), func(ctx context.Context, conn *pg.Conn) error {
		_, err := conn.Exec(ctx, "CREATE TABLE written (i int)")
		return err
	}); pg.SQLState(err) != "25006" {
		t.Errorf("a session may write: %v", err)
	}

	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	hung := lane(t, server)
	var waiting sync.WaitGroup
	for range 20 {
		waiting.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			began := time.Now()
			if _, err := use(ctx, hung, "SELECT 'x'"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a hung server gives %v", err)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	waiting.Wait()
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	if _, err := use(t.Context(), hung, "SELECT 'x'"); err != nil {
		t.Errorf("not usable after the server woke up: %v", err)
	}
	var sessions int
	if err := server.Query(t.Context(), "postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg_integrity_exporter%'", &sessions); err != nil || sessions > 2 {
		t.Errorf("%d sessions of two lanes (%v)", sessions, err)
	}
}

// TestAgain holds that what a session asks again is prepared once.
func TestAgain(t *testing.T) {
	t.Parallel()
	l := lane(t, pgtest.Start(t))
	const question = "SELECT count(*)::text || $1 FROM pg_prepared_statements"
	for range 3 {
		var answer string
		err := l.Do(t.Context(), func(ctx context.Context, conn *pg.Conn) error {
			rows, err := conn.Again(ctx, question, " prepared")
			if err != nil {
				return err
			}
			answer, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
			return err
		})
		if err != nil || answer != "1 prepared" {
			t.Errorf("%s (%v)", answer, err)
		}
	}
}

// TestLaneOver holds that the session that follows a hung one waits until that has
// ended, but not for ever.
func TestLaneOver(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	l := lane(t, server)
	const question = "SELECT pg_backend_pid() || ' ' || count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg_integrity_exporter%'"
	for _, wakes := range []bool{true, false} {
		answer, err := use(t.Context(), l, question)
		var pid, n int
		if _, scanErr := fmt.Sscan(answer, &pid, &n); err != nil || scanErr != nil || n != 1 {
			t.Fatalf("%q (%v)", answer, err)
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		began := time.Now()
		if _, err := use(ctx, l, question); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a hung session gives %v", err)
		}
		cancel()
		if took := time.Since(began); took > time.Second {
			t.Errorf("a caller with 0.2 seconds was kept for %s", took)
		}
		stopped := pid
		wake := func() { _ = syscall.Kill(stopped, syscall.SIGCONT) }
		if wakes {
			time.AfterFunc(time.Second, wake)
		}
		answer, err = use(t.Context(), l, question)
		want := map[bool]int{true: 1, false: 2}[wakes]
		if _, scanErr := fmt.Sscan(answer, &pid, &n); err != nil || scanErr != nil || n != want {
			t.Errorf("wakes %v: %q (%v), want %d sessions", wakes, answer, err, want)
		}
		wake()
	}
}
