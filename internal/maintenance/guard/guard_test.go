package guard_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/maintenance/script"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == jobArgument {
		os.Exit(job(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == guardArgument {
		os.Exit(guardProcess(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// books is a small ledger: accounts whose balance is the sum of their entries,
// entries that sum up to zero, an audit trail written by a trigger, and tables
// that nobody writes to.
const books = `
CREATE EXTENSION amcheck;
CREATE TABLE accounts (id int PRIMARY KEY, name text NOT NULL, balance numeric NOT NULL DEFAULT 0, region text NOT NULL DEFAULT 'north');
CREATE TABLE entries (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, transfer bigint NOT NULL, account int NOT NULL REFERENCES accounts, amount numeric NOT NULL CONSTRAINT amount_not_zero CHECK (amount <> 0));
CREATE INDEX entries_transfer ON entries (transfer);
CREATE INDEX entries_account ON entries (account);
CREATE TABLE audit (at timestamptz NOT NULL DEFAULT now(), account int, old numeric, new numeric);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.audit (account, old, new) VALUES (NEW.id, OLD.balance, NEW.balance); RETURN NULL; END $$;
CREATE TRIGGER note AFTER UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION note();
CREATE TABLE archive (id int PRIMARY KEY, text text, amount numeric);
CREATE INDEX archive_text ON archive (text);
CREATE TABLE archive_lines (archive int REFERENCES archive ON DELETE CASCADE, line text);
CREATE TABLE invoices (no int UNIQUE, total numeric);
CREATE SEQUENCE numbers;
INSERT INTO accounts SELECT i, 'account ' || i FROM generate_series(1, 200) i;
INSERT INTO entries (transfer, account, amount) SELECT -i, 1 + i % 200, CASE WHEN i % 2 = 0 THEN 5 ELSE -5 END FROM generate_series(1, 2000) i;
UPDATE accounts SET balance = (SELECT coalesce(sum(amount), 0) FROM entries WHERE account = accounts.id);
INSERT INTO archive SELECT i, md5(i::text) || repeat('x', i % 300), i FROM generate_series(1, 3000) i;
INSERT INTO archive_lines SELECT i, 'line' FROM generate_series(1, 3000) i;
INSERT INTO invoices SELECT i, i * 10 FROM generate_series(1, 500) i;
SELECT setval('numbers', 5000);
DELETE FROM archive WHERE id % 3 = 0;
ANALYZE`

// rules are the invariants of the ledger.
var rules = []guard.Invariant{
	{Name: "debits equal credits", Query: "SELECT sum(amount) FROM public.entries HAVING sum(amount) <> 0"},
	{Name: "balances equal entries", Query: "SELECT a.id FROM public.accounts a LEFT JOIN public.entries e ON e.account = a.id GROUP BY a.id, a.balance HAVING a.balance <> coalesce(sum(e.amount), 0)"},
}

// bench is one database on a shared server.
type bench struct {
	t        *testing.T
	server   *pgtest.Server
	database string
	target   *pg.Target
	files    *state.Files
}

// load moves money around until stop is called, which says what was committed.
type load struct {
	mu        sync.Mutex
	committed []int64
	failures  int
	stop      func()
}

// transfers counts the transfers of all loads.
var transfers atomic.Int64

// start starts a load of two writers, one of them slow.
func (b *bench) start() *load {
	ctx, cancel := context.WithCancel(b.t.Context())
	l := &load{}
	var running sync.WaitGroup
	for writer := range 2 {
		running.Go(func() {
			for ctx.Err() == nil {
				conn, err := pgx.Connect(ctx, b.server.DSN(b.database))
				if err != nil {
					time.Sleep(50 * time.Millisecond)
					continue
				}
				for ctx.Err() == nil && !conn.IsClosed() {
					id := transfers.Add(1)
					err := transfer(ctx, conn, id, writer)
					l.mu.Lock()
					if err == nil {
						l.committed = append(l.committed, id)
					} else {
						l.failures++
					}
					l.mu.Unlock()
					time.Sleep(time.Duration(4+6*writer) * time.Millisecond)
				}
				_ = conn.Close(context.Background())
			}
		})
	}
	l.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	b.t.Cleanup(l.stop)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		l.mu.Lock()
		begun := len(l.committed) > 0
		l.mu.Unlock()
		if begun {
			break
		}
	}
	return l
}

func transfer(ctx context.Context, conn *pgx.Conn, id int64, writer int) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.Background()) // after a commit there is nothing to roll back
	from, to := 1+id%97, 101+id%89
	if writer == 1 {
		time.Sleep(2 * time.Millisecond)
	}
	for _, sql := range []string{
		fmt.Sprintf("INSERT INTO entries (transfer, account, amount) VALUES (%d, %d, -7), (%d, %d, 7)", id, from, id, to),
		fmt.Sprintf("UPDATE accounts SET balance = balance - 7 WHERE id = %d", from),
		fmt.Sprintf("UPDATE accounts SET balance = balance + 7 WHERE id = %d", to),
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return tx.Commit(ctx)
}

// lost counts transfers that were committed and are not there whole.
func (b *bench) lost(l *load) int {
	b.t.Helper()
	l.stop()
	var lost int
	if err := b.server.Query(b.t.Context(), b.database, `SELECT count(*)::int FROM unnest($1::bigint[]) c(id)
		WHERE (SELECT count(*) FROM entries WHERE transfer = c.id AND abs(amount) = 7) <> 2`, &lost, l.committed); err != nil {
		b.t.Fatal(err)
	}
	return lost
}

// quiet is the content of everything that the load does not write to, and the
// definitions of everything, computed in another way than the guard does.
const quiet = `SELECT md5(concat_ws('|',
	(SELECT string_agg(x::text, ',' ORDER BY id) FROM archive x), (SELECT string_agg(x::text, ',' ORDER BY archive, line) FROM archive_lines x),
	(SELECT string_agg(x::text, ',' ORDER BY no) FROM invoices x), (SELECT string_agg(id || name || region, ',' ORDER BY id) FROM accounts),
	(SELECT string_agg(transfer || ':' || account || ':' || amount, ',' ORDER BY id) FROM entries WHERE transfer < 0),
	(SELECT string_agg(tgrelid::regclass::text || tgname || tgenabled::text, ',' ORDER BY tgrelid::regclass::text, tgname) FROM pg_trigger WHERE NOT tgisinternal),
	(SELECT string_agg(conrelid::regclass::text || conname || pg_get_constraintdef(oid) || convalidated::text, ',' ORDER BY conrelid::regclass::text, conname) FROM pg_constraint WHERE conrelid <> 0),
	(SELECT string_agg(indexrelid::regclass::text || pg_get_indexdef(indexrelid) || indisvalid::text, ',' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid > 16384),
	(SELECT string_agg(attrelid::regclass::text || attname || atttypid::text || attnotnull::text, ',' ORDER BY attrelid::regclass::text, attname) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE attnum > 0 AND NOT attisdropped AND c.relkind = 'r' AND c.oid > 16384),
	(SELECT string_agg(setrole::text || setdatabase::text || setconfig::text, ',' ORDER BY setrole, setdatabase) FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE d.datname = current_database()),
	(SELECT last_value FROM numbers)))`

func (b *bench) quiet() string {
	b.t.Helper()
	var sum string
	if err := b.server.Query(b.t.Context(), b.database, quiet, &sum); err != nil {
		b.t.Fatal(err)
	}
	return sum
}

// sql prepares a run of a script.
func (b *bench) sql(text string) guard.Options {
	b.t.Helper()
	statements, err := script.Split(text)
	if err != nil {
		b.t.Fatal(err)
	}
	o := b.options()
	o.Statements, o.What = statements, "script"
	return o
}

// command prepares a run of a job that runs statements one by one, each line
// in a transaction of its own, and fails at the first error.
func (b *bench) command(text string) guard.Options {
	b.t.Helper()
	return b.named("job", strings.Split(strings.TrimSpace(text), "\n")...)
}

// named is command with a name for the program.
func (b *bench) named(name string, statements ...string) guard.Options {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	program := filepath.Join(b.t.TempDir(), name)
	if err := os.Symlink(self, program); err != nil {
		b.t.Fatal(err)
	}
	o := b.options()
	o.Command, o.What = append([]string{program, jobArgument}, statements...), name
	return o
}

// jobArgument makes a process of this test's program a job.
const jobArgument = "job"

// job is the command that the guard runs: it finds the server in the PG*
// variables and runs each argument.
func job(statements []string) int {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, "sslmode=disable")
	if err != nil {
		fmt.Println(err)
		return 3
	}
	defer conn.Close(ctx)
	for _, sql := range statements {
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			fmt.Println(err)
			return 3
		}
	}
	return 0
}

func (b *bench) options() guard.Options {
	settings := guard.Default()
	settings.MinFree = 0
	settings.PhysicalChecks = false // TestDamage is about them
	settings.LockTimeout = 300 * time.Millisecond
	return guard.Options{
		Target: b.target, Database: b.database, Files: b.files, Settings: settings, Invariants: rules, Logger: slog.New(slog.DiscardHandler),
	}
}

// newServer starts the server that the cases of one version share.
func newServer(t *testing.T, major int) *pgtest.Server {
	t.Helper()
	server := pgtest.Start(t, pgtest.Version(major), pgtest.Checksums(), pgtest.Setting("max_prepared_transactions", "5"), pgtest.Setting("autovacuum_naptime", "1s"))
	server.MustExec(t, "postgres", "CREATE DATABASE books")
	server.MustExec(t, "books", books)
	server.MustExec(t, "postgres", "CREATE DATABASE untouched TEMPLATE books")
	return server
}

// newBench gives a case its database, and a state of its own.
func newBench(t *testing.T, server *pgtest.Server, database string) *bench {
	t.Helper()
	target, err := pg.ResolveTarget(server.DSN(database), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, server: server, database: database, target: target, files: state.OpenFiles(t.TempDir(), target.Name())}
}

// scenario is one maintenance with its end.
type scenario struct {
	name string
	// prepare makes the run, and may damage the database.
	prepare func(b *bench) guard.Options
	// meanwhile happens while it runs; nil is nothing.
	meanwhile func(b *bench)
	want      guard.Outcome
	// says must be in the summary or in an answer.
	says string
	// changes says that the run is meant to change what is quiet otherwise.
	changes bool
	// alone gives it a database of its own, because of what it leaves.
	alone bool
	// short runs it on every version and in short tests too.
	short bool
}

// run runs a scenario under load, and holds that it ended as it must, that
// everything is as before when it was taken back, and that nothing is lost that
// others committed.
func (s scenario) run(t *testing.T, server *pgtest.Server) {
	b := newBench(t, server, "books")
	if s.alone {
		server.MustExec(t, "postgres", "CREATE DATABASE another TEMPLATE untouched")
		defer server.MustExec(t, "postgres", "DROP DATABASE another (FORCE)")
		b = newBench(t, server, "another")
	}
	options := s.prepare(b)
	before := b.quiet()
	l := b.start()
	done := make(chan struct{})
	if s.meanwhile != nil {
		go func() {
			defer close(done)
			s.meanwhile(b)
		}()
	} else {
		close(done)
	}
	report := guard.Run(t.Context(), options)
	<-done
	var text strings.Builder
	if err := report.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if lost := b.lost(l); lost > 0 {
		t.Errorf("%d of %d transfers that others committed are lost", lost, len(l.committed))
	}
	if len(l.committed) == 0 {
		t.Error("the load did nothing")
	}
	if report.Outcome != s.want {
		t.Errorf("it ended %s, want %s", report.Outcome, s.want)
	}
	if !strings.Contains(text.String(), s.says) {
		t.Errorf("the report does not say %q", s.says)
	}
	if after := b.quiet(); (after != before) != s.changes && report.Outcome != guard.OutcomeNotRolledBack {
		t.Errorf("what nobody else writes to: changed %t, want %t", after != before, s.changes)
	}
	var left int
	if err := server.Query(t.Context(), b.database, "SELECT count(*)::int FROM pg_namespace WHERE nspname = 'pgintegrity_guard'", &left); err != nil || left > 0 && report.Outcome != guard.OutcomeNotRolledBack {
		t.Errorf("the guard left its schema behind (%v)", err)
	}
	if t.Failed() {
		t.Log(text.String())
	}
	runs, err := guard.Runs(b.files)
	if err != nil || len(runs) != 1 || runs[0].Outcome != report.Outcome {
		t.Errorf("the journal tells %+v (%v)", runs, err)
	}
	b.settles(runs[0])
}

// settles holds that what could not be rolled back is owed until somebody has
// settled it, and that nothing else can be.
func (b *bench) settles(run guard.RunState) {
	b.t.Helper()
	counter := guard.NewCounter(b.files)
	owed := func() int {
		_, n, err := counter.Counts()
		if err != nil {
			b.t.Fatal(err)
		}
		return n
	}
	bad := run.Outcome == guard.OutcomeNotRolledBack
	if (owed() == 1) != bad || run.Owed() != bad {
		b.t.Errorf("%d runs are owed", owed())
	}
	if err := guard.Settle(run, "restored by hand"); (err == nil) != bad {
		b.t.Errorf("settled: %v", err)
	}
	runs, err := guard.Runs(b.files)
	if err != nil || owed() != 0 || runs[0].Outcome != run.Outcome || bad && !strings.Contains(runs[0].Summary, "restored by hand") {
		b.t.Errorf("afterwards %d are owed, the journal tells %+v (%v)", owed(), runs, err)
	}
	if guard.Settle(runs[0], "again") == nil {
		b.t.Error("settled twice")
	}
}

// TestScenarios runs accidents and healthy maintenance under two writers: each
// ends verified, or rolled back to what was there before, with what others
// committed kept.
func TestScenarios(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := newServer(t, major)
		for n, s := range append(accidents(), healthy()...) {
			if !s.short && (testing.Short() || !pgtest.Turn(n, major)) {
				continue
			}
			t.Run(s.name, func(t *testing.T) { s.run(t, server) })
		}
	})
}
