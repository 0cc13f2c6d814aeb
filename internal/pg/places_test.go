package pg_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
)

// TestBound holds that no more sessions are open at once than there are places,
// that a session which can give way is asked to when something short waits, and
// that a patient one waits without asking.
func TestBound(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	target, err := pg.ResolveTarget(server.DSN("postgres"), pg.NoEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	target.Bound(1)
	asked := make(chan struct{}, 10)
	long, err := target.Connect(t.Context(), "", pg.Purpose{Name: "long", GiveWay: func() { asked <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	for _, patient := range []bool{true, false} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err := target.Connect(ctx, "", pg.Purpose{Name: "short", Patient: patient})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a second session: %v", err)
		}
		if got := len(asked) > 0; got == patient {
			t.Errorf("patient %v: asked to give way: %v", patient, got)
		}
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		<-asked
		<-asked // of the session that follows
		long.Close()
		long.Close() // gives the place back once only
	}()
	short, err := target.Connect(t.Context(), "", pg.Purpose{Name: "short", ConnectTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	<-closed
	short.Close()
	spent := target.Spent()
	if len(spent) != 2 || spent[0].Opened != 1 || spent[0].Open != 0 || spent[1].Opened != 1 || spent[1].Statements != 1 {
		t.Errorf("spent: %+v", spent)
	}
}

// TestSpent holds that the work on a lane is charged to whom it is done for, and
// that statements which gave up because of a lock are counted.
func TestSpent(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE TABLE locked (i int)")
	target, err := pg.ResolveTarget(server.DSN("postgres"), pg.NoEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	l := pg.NewLane(target, pg.Purpose{LockTimeout: 50 * time.Millisecond})
	defer l.Close()
	if _, err := use(t.Context(), l, "SELECT 'x'"); err != nil {
		t.Fatal(err)
	}
	release := server.Hold(t, "postgres", "LOCK TABLE locked")
	if _, err := use(t.Context(), l.As("log"), "SELECT i::text FROM public.locked"); pg.SQLState(err) != "55P03" {
		t.Fatalf("error %v", err)
	}
	release()
	by := make(map[string]pg.Spent)
	for _, s := range target.Spent() {
		by[s.Purpose] = s
	}
	scrape, log := by["scrape"], by["log"]
	if scrape.Opened != 1 || scrape.Open != 1 || scrape.Statements < 1 || scrape.LockTimeouts != 0 {
		t.Errorf("scrape: %+v", scrape)
	}
	if log.Opened != 0 || log.Statements != 1 || log.LockTimeouts != 1 || log.Waited <= 0 || log.Sent == 0 || log.Received == 0 {
		t.Errorf("log: %+v", log)
	}
}

// TestOver holds that a session counts until its process in the server is gone: the
// next one finds none before it, and waits for one that does not end.
func TestOver(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	target, err := pg.ResolveTarget(server.DSN("postgres"), pg.NoEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	target.Bound(1)
	sessions := func(conn *pg.Conn) (pid, n int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "SELECT pg_backend_pid(), count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg_integrity_exporter%'").Scan(&pid, &n); err != nil {
			t.Fatal(err)
		}
		return pid, n
	}
	connect := func(limit time.Duration) (*pg.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return target.Connect(ctx, "", pg.Purpose{})
	}
	for range 50 {
		conn, err := connect(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, n := sessions(conn); n != 1 {
			t.Fatalf("%d sessions at once", n)
		}
		conn.Close()
	}
	// One that is cut off in a statement.
	conn, err := connect(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := conn.Exec(ctx, "SELECT pg_sleep(10)"); err == nil {
		t.Fatal("the statement was not cut off")
	}
	conn.Close()
	if conn, err = connect(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	pid, n := sessions(conn)
	if n != 1 {
		t.Errorf("%d sessions after one was cut off", n)
	}
	// One that does not end.
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := connect(2 * time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a session beside one that has not ended: %v", err)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if conn, err = connect(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if _, n := sessions(conn); n != 1 {
		t.Errorf("%d sessions after one ended late", n)
	}
	conn.Close()
}
