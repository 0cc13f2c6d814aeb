package pg_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
)

func resolve(t *testing.T, dsn string) *pg.Target {
	t.Helper()
	target, err := pg.ResolveTarget(dsn, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// scrapePurpose is one that can do without a session of its own.
var scrapePurpose = pg.Purpose{StatementTimeout: 2 * time.Second, LockTimeout: 200 * time.Millisecond, Pooler: true}

// ask sends statements in one pipeline and gives the first column of each
// answer, or its error.
func ask(t *testing.T, conn *pg.Conn, statements ...string) (answers []string) {
	t.Helper()
	pipeline := conn.Pipeline(t.Context(), false)
	for _, sql := range statements {
		pipeline.Send(sql)
	}
	if err := pipeline.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, sql := range statements {
		var answer string
		err := pipeline.Receive(sql, func(rows *pgconn.ResultReader) error {
			_, err := pgx.ForEachRow(pgx.RowsFromResultReader(conn.TypeMap(), rows), []any{&answer}, func() error { return nil })
			return err
		})
		if err != nil {
			answer = pg.SQLState(err)
		}
		answers = append(answers, answer)
	}
	if err := pipeline.Close(); err != nil {
		t.Fatal(err)
	}
	return answers
}

const (
	limitsSQL   = "SELECT current_setting('lock_timeout') || ' ' || current_setting('statement_timeout') || ' ' || current_setting('transaction_read_only')"
	preparedSQL = "SELECT count(*)::text FROM pg_prepared_statements WHERE name LIKE 'pgintegrity%'"
)

// TestPipeline holds that statements are prepared once, and that one which fails
// leaves the others and is tried again.
func TestPipeline(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	conn, err := resolve(t, server.DSN("postgres")).Connect(t.Context(), "", scrapePurpose)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.Facts.Pooled {
		t.Error("a server is taken for a pooler")
	}
	for round := range 3 {
		got := ask(t, conn, limitsSQL, "SELECT nosuch::text", "SELECT (1/(count(*)-count(*)))::text FROM pg_class", preparedSQL)
		if want := "200ms 2s on"; got[0] != want || got[1] != "42703" || got[2] != "22012" {
			t.Errorf("round %d: %q", round, got)
		}
	}
	server.MustExec(t, "postgres", "CREATE TABLE late (id text); INSERT INTO late VALUES ('here')")
	if got := ask(t, conn, "SELECT id FROM public.late", limitsSQL); got[0] != "here" {
		t.Errorf("%q", got)
	}
	server.MustExec(t, "postgres", "ALTER TABLE late ALTER id TYPE varchar(10); ALTER TABLE late ADD more int")
	ask(t, conn, "SELECT id FROM public.late") // may fail once: the prepared plan does not fit any more
	if got := ask(t, conn, "SELECT id FROM public.late"); got[0] != "here" {
		t.Errorf("after the column changed: %q", got)
	}
}

// TestTogether holds that statements together are one transaction, that none is run
// behind one that fails, and that the server is not left with more prepared
// statements each time.
func TestTogether(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	conn, err := resolve(t, server.DSN("postgres")).Connect(t.Context(), "", scrapePurpose)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const first, second = "SELECT now()::text", "SELECT now()::text AS second"
	together := func(statements ...string) (answers []string) {
		pipeline := conn.Pipeline(t.Context(), true)
		for _, sql := range statements {
			pipeline.Send(sql)
		}
		if err := pipeline.Flush(); err != nil {
			t.Fatal(err)
		}
		for _, sql := range statements {
			answer := ""
			err := pipeline.Receive(sql, func(rows *pgconn.ResultReader) error {
				_, err := pgx.ForEachRow(pgx.RowsFromResultReader(conn.TypeMap(), rows), []any{&answer}, func() error { return nil })
				return err
			})
			if err != nil {
				answers = append(answers, pg.SQLState(err))
				break
			}
			answers = append(answers, answer)
		}
		if err := pipeline.Close(); err != nil && pg.SQLState(err) == "" {
			t.Fatal(err)
		}
		return answers
	}
	for round := range 5 {
		if got := together(first, second); len(got) != 2 || got[0] != got[1] {
			t.Errorf("round %d: %q are of two transactions", round, got)
		}
		for _, failing := range []string{"SELECT nosuch::text", "SELECT (1/(count(*)-count(*)))::text FROM pg_class"} {
			sql := fmt.Sprintf("SELECT 'new in round %d'::text", round)
			if got := together(first, failing, sql); len(got) != 2 || len(got[1]) != 5 {
				t.Errorf("round %d: %q", round, got)
			}
		}
	}
	if got := together(preparedSQL); got[0] != "4" {
		t.Errorf("%s prepared statements", got[0])
	}
}

// TestPooler holds what happens behind a real PgBouncer in each of its modes:
// limits are in force for the exporter's own statements, nothing of them stays
// in the server's sessions, and nobody who needs a session gets one.
func TestPooler(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	role, err := server.Monitor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ mode, line string }{
		"transaction":       {"transaction", ""},
		"session":           {"session", ""},
		"ignoring settings": {"transaction", "ignore_startup_parameters = lock_timeout, statement_timeout, search_path, default_transaction_read_only, idle_in_transaction_session_timeout, max_parallel_workers_per_gather"},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := pgtest.StartPooler(t, server, c.mode, role, c.line)
			target := resolve(t, dsn("postgres"))
			for range 2 {
				conn, err := target.Connect(t.Context(), "", scrapePurpose)
				if err != nil {
					t.Fatal(err)
				}
				if !conn.Facts.Pooled {
					t.Error("the pooler is not noticed")
				}
				got := ask(t, conn, limitsSQL, "SELECT nosuch::text", limitsSQL)
				if want := "200ms 2s on"; got[0] != want || got[1] != "42703" || got[2] != want {
					t.Errorf("limits are %q", got)
				}
				conn.Close()
			}
			application, err := pgx.Connect(t.Context(), dsn("postgres")+"&default_query_exec_mode=simple_protocol")
			if err != nil {
				t.Fatal(err)
			}
			var left string
			err = application.QueryRow(t.Context(), limitsSQL).Scan(&left)
			if closeErr := application.Close(t.Context()); err != nil || closeErr != nil {
				t.Fatal(err, closeErr)
			}
			if left != "0 0 off" {
				t.Errorf("an application gets a session with %q", left)
			}
			_, err = target.Connect(t.Context(), "", pg.Purpose{Name: "check"})
			if _, ok := errors.AsType[*pg.PooledError](err); !ok || !strings.Contains(err.Error(), "connection pooler") {
				t.Errorf("a check got %v", err)
			}
		})
	}
}

// TestPoolerGoes holds that settings are in force again when the address leads
// to the server itself.
func TestPoolerGoes(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	role, err := server.Monitor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pooler := resolve(t, pgtest.StartPooler(t, server, "transaction", role)("postgres")).Name()
	var leadsTo atomic.Pointer[string]
	leadsTo.Store(&pooler)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go forward(t.Context(), listener, func() string { return *leadsTo.Load() })

	target := resolve(t, "postgresql://"+role+"@"+listener.Addr().String()+"/postgres?sslmode=disable")
	check := pg.Purpose{Name: "check", LockTimeout: time.Second}
	if _, err := target.Connect(t.Context(), "", check); err == nil {
		t.Error("a check got a session of the pooler")
	}
	direct := resolve(t, server.DSN("postgres")).Name()
	leadsTo.Store(&direct)
	conn, err := target.Connect(t.Context(), "", check)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var lockTimeout string
	if err := conn.QueryRow(t.Context(), "SHOW lock_timeout").Scan(&lockTimeout); err != nil || lockTimeout != "1s" {
		t.Errorf("lock_timeout is %q, %v", lockTimeout, err)
	}
}

// forward carries connections to an address that may change.
func forward(ctx context.Context, listener net.Listener, to func() string) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := new(net.Dialer).DialContext(ctx, "tcp", to())
		if err != nil {
			_ = client.Close()
			continue
		}
		go carry(client, server)
		go carry(server, client)
	}
}

func carry(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
}
