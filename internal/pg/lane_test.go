package pg_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

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
