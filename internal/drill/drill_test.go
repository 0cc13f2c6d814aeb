package drill_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/drill"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/recovery"
)

// bank is a living server with an archive and a base backup, and WAL behind it.
type bank struct {
	server  *pgtest.Server
	root    string
	archive string
	backup  string
	scratch string
}

// accounts is a small ledger whose balances add up to 0.
const accounts = `CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL, note text);
	INSERT INTO accounts SELECT i, CASE i % 2 WHEN 0 THEN i ELSE -(i + 1) END, repeat('n', 50) FROM generate_series(1, 20000) i;
	CREATE INDEX ON accounts (balance)`

func newBank(t *testing.T, major int, options ...pgtest.Option) *bank {
	t.Helper()
	b := &bank{root: pgtest.SharedDirectory(t), archive: pgtest.SharedDirectory(t), scratch: pgtest.SharedDirectory(t)}
	// Autovacuum would write whole pages into the WAL, and recovery would mend with them what a test damages in the backup.
	options = append([]pgtest.Option{pgtest.Version(major), pgtest.Checksums(), pgtest.Archiving(b.archive), pgtest.Setting("autovacuum", "off")}, options...)
	b.server = pgtest.Start(t, options...)
	b.server.MustExec(t, "postgres", accounts)
	b.backup = filepath.Join(b.root, "base")
	b.server.BaseBackup(t, pgtest.Backup{Directory: b.backup})
	b.server.MustExec(t, "postgres", "SELECT pg_create_restore_point('before'); INSERT INTO accounts SELECT i, 0, repeat('l', 200) FROM generate_series(20001, 40000) i")
	b.server.AwaitArchived(t, b.archive)
	return b
}

// patience is the time limit of drills that are not about it: long enough for a
// busy machine.
const patience = 10 * time.Minute

// options are those of a drill of the bank.
func (b *bank) options(t testing.TB) drill.Options {
	t.Helper()
	primary, err := pg.ResolveTarget(b.server.DSN("postgres"), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return drill.Options{
		Watched: recovery.Watched{Repository: recovery.Repository{Name: "bank", Type: recovery.TypeDirectory, Path: b.root, WAL: b.archive}},
		Scratch: b.scratch, BinDirectories: []string{b.server.Install.BinDir}, User: pgtest.User(), Timeout: patience,
		Settings:    map[string]string{"fsync": "off"}, // only for the speed of the tests
		CompareRows: 1000, Primary: primary, Logger: slog.New(slog.DiscardHandler),
		Queries: []drill.Query{{Name: "balances", Database: "postgres", SQL: "SELECT sum(balance) FROM accounts", Expect: "0"}},
	}
}

// proved holds that a drill proves the backup.
func proved(t *testing.T, options drill.Options) *recovery.Report {
	t.Helper()
	report := drill.Run(t.Context(), options)
	if !report.Proved() {
		t.Errorf("not proved: %s", dump(report))
	}
	nothingLeft(t, options.Scratch)
	return report
}

// failed holds that a drill does not prove the backup, for a reason.
func failed(t *testing.T, name string, options drill.Options, want string) *recovery.Report {
	t.Helper()
	report := drill.Run(t.Context(), options)
	if report.Proved() || !strings.Contains(report.Reason, want) {
		t.Errorf("%s: %s, %q does not contain %q", name, report.Outcome, report.Reason, want)
	}
	nothingLeft(t, options.Scratch)
	return report
}

func dump(report *recovery.Report) string {
	text, err := json.MarshalIndent(report, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// nothingLeft holds that the scratch directory is empty.
func nothingLeft(t *testing.T, scratch string) {
	t.Helper()
	entries, err := os.ReadDir(scratch)
	if err != nil || len(entries) != 0 {
		t.Errorf("left in %s: %v, %v", scratch, entries, err)
	}
}

// TestDrill proves healthy backups of every version, to every kind of target.
func TestDrill(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		b := newBank(t, major)
		report := proved(t, b.options(t))
		if report.ServerVersion/10000 != major || report.Verified == nil || report.Verified.Read < 900 || report.RecoverySeconds <= 0 || report.RecoveryPoint == nil || report.Position == "" {
			t.Errorf("%s", dump(report))
		}
		if !slices.ContainsFunc(report.Checks, func(c check.Result) bool { return c.Check == "heap" && c.Outcome == check.OutcomeOK }) && major > 13 {
			t.Errorf("checks %+v", report.Checks)
		}
		if c := report.Comparison; c == nil || c.Rows < 100 || c.Different != 0 || c.Reason != "" {
			t.Errorf("comparison %+v", c)
		}
	})
}

// TestRateLimit holds that a backup is copied no faster than it may be.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	b := newBank(t, pgtest.Newest())
	options := b.options(t)
	options.RateLimit = 25 << 20
	report := proved(t, options)
	i := slices.IndexFunc(report.Phases, func(p recovery.PhaseReport) bool { return p.Phase == recovery.PhaseRestore })
	if i < 0 || report.Verified == nil {
		t.Fatal(dump(report))
	}
	if took, least := report.Phases[i].Seconds, float64(report.Verified.Bytes)/float64(options.RateLimit); took < 0.95*least || least < 0.5 {
		t.Errorf("%d bytes were copied in %.2f s, and must take %.2f s", report.Verified.Bytes, took, least)
	}
}

// change edits a file and gives a function that puts it back.
func change(t *testing.T, path string, edit func(b []byte) []byte) (undo func()) {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	after := edit(slices.Clone(before))
	if after == nil {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, after, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.WriteFile(path, before, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func gone([]byte) []byte { return nil }

// TestDrillCatches holds that a drill catches every way in which a backup can
// be worthless.
func TestDrillCatches(t *testing.T) {
	t.Parallel()
	b := newBank(t, pgtest.Newest())
	table := b.server.MustRelation(t, "postgres", "accounts")
	inBackup := filepath.Join(b.backup, strings.TrimPrefix(table.Path, b.server.DataDirectory))
	flip := func(content []byte) []byte {
		for i := range 8 {
			content[len(content)/2+i] ^= 0x10
		}
		return content
	}
	segment := lastFull(t, b.archive)

	undo := change(t, inBackup, flip)
	failed(t, "damaged page", b.options(t), "does not match: the contents changed after the backup was taken")
	undoManifest := change(t, filepath.Join(b.backup, recovery.ManifestName), gone)
	failed(t, "damaged page without a manifest", b.options(t), "accounts")
	undo()
	report := proved(t, b.options(t))
	if len(report.Notes) == 0 || !strings.Contains(report.Notes[0], "no manifest") {
		t.Errorf("notes %q", report.Notes)
	}
	undoManifest()

	undo = change(t, segment, gone)
	failed(t, "missing segment", b.options(t), filepath.Base(segment)+": is missing in the archive")
	undo()
	undo = change(t, segment, flip)
	failed(t, "damaged segment", b.options(t), filepath.Base(segment)+": its records cannot be replayed")
	undo()
	undo = change(t, segment, func(content []byte) []byte { return content[:len(content)/3] })
	failed(t, "cut segment", b.options(t), filepath.Base(segment))
	undo()
	undo = change(t, filepath.Join(b.backup, "PG_VERSION"), func([]byte) []byte { return []byte("12\n") })
	if report := failed(t, "wrong version", b.options(t), "PostgreSQL 12 is needed to restore this backup, found here is"); report.Outcome != recovery.OutcomeRefused {
		t.Errorf("outcome %s", report.Outcome)
	}
	undo()
	undo = change(t, filepath.Join(b.backup, "global", "pg_control"), gone)
	failed(t, "missing control file", b.options(t), "pg_control")
	undo()
	undo = change(t, filepath.Join(b.backup, "backup_label"), gone)
	failed(t, "no label", b.options(t), "has no backup_label")
	undo()

	options := b.options(t)
	options.Queries = append(options.Queries, drill.Query{Name: "lost", Database: "postgres", SQL: "SELECT 1 FROM accounts WHERE id = 20000 AND balance <> 20000", Expect: "rows"})
	failed(t, "query without its row", options, "the query lost: no rows")
	options = b.options(t)
	options.Queries = []drill.Query{{Name: "writes", Database: "postgres", SQL: "DELETE FROM accounts"}}
	failed(t, "query that writes", options, "read-only transaction")
	options = b.options(t)
	options.Watched.WAL = pgtest.SharedDirectory(t)
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(b.backup, recovery.ManifestName), old, old); err != nil {
		t.Fatal(err)
	}
	failed(t, "backup with its WAL, empty archive", options, "is not in the archive: base brings the WAL that it needs itself")
	options = b.options(t)
	options.Timeout = 300 * time.Millisecond
	failed(t, "time limit", options, "took longer than 300ms")
	options = b.options(t)
	options.MinFree = 1 << 60
	failed(t, "no room", options, "MB free, the drill needs")
	options = b.options(t)
	options.Role = "nobody"
	proved(t, options)
}

// TestInvariants holds the rules of the configuration against what was restored:
// a server that starts and answers, and whose pages are all sound, is not proved
// when the business cannot live with its data.
func TestInvariants(t *testing.T) {
	t.Parallel()
	b := newBank(t, pgtest.Newest())
	rule := check.Invariant{
		Name: "balances", Databases: []string{"postgres"}, SQL: "SELECT coalesce(sum(balance), 0) FROM accounts",
		Expect: check.Expectation{Min: "0", Max: "0"}, Severity: check.SeverityCritical, Interval: time.Hour, Timeout: time.Minute,
	}
	options := b.options(t)
	options.Queries, options.Rules.Invariants = nil, []check.Invariant{rule}
	report := proved(t, options)
	if !slices.ContainsFunc(report.Checks, func(c check.Result) bool {
		return c.Check == "invariant" && c.Database == "postgres" && c.Outcome == check.OutcomeOK
	}) {
		t.Errorf("the invariant was not looked at: %+v", report.Checks)
	}
	b.server.MustExec(t, "postgres", "UPDATE accounts SET balance = balance + 7 WHERE id = 5")
	b.server.AwaitArchived(t, b.archive)
	report = failed(t, "violated invariant", options, `invariant "balances" does not hold: it is 7 and must be at most 0`)
	if len(report.Findings) != 1 || len(report.Problems) != 0 {
		t.Errorf("findings %+v, problems %v", report.Findings, report.Problems)
	}
	options.Target = drill.Target{Name: "before"}
	proved(t, options)
	options.Rules.Invariants[0].SQL = "SELECT sum(balance) FROM accounts_of_tomorrow"
	failed(t, "rule about what is not there", options, `relation "accounts_of_tomorrow" does not exist`)
	options.Rules.Invariants[0] = rule
	options.Rules.Invariants[0].Databases = []string{"erp"}
	failed(t, "database lost", options, `invariant "balances" (databases: erp) matches no database`)
}

// lastFull is the newest segment of an archive that is full of records and has
// others behind it.
func lastFull(t *testing.T, archive string) string {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(archive, "0*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Backward(segments[:len(segments)-1]) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(filepath.Base(path)) == 24 && !slices.Equal(content[len(content)-8000:], make([]byte, 8000)) {
			return path
		}
	}
	t.Fatal("no segment is full")
	return ""
}

// long skips a test that takes many drills when only a few seconds are wanted.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("many drills")
	}
}

// TestTargets recovers to a restore point, a place, a time and the end of the
// backup.
func TestTargets(t *testing.T) {
	t.Parallel()
	long(t)
	b := newBank(t, pgtest.Newest())
	var between time.Time
	var lsn string
	ask := func(sql string, into any) {
		t.Helper()
		if err := b.server.Query(t.Context(), "postgres", sql, into); err != nil {
			t.Fatal(err)
		}
	}
	ask("SELECT pg_current_wal_lsn()::text", &lsn)
	ask("SELECT clock_timestamp()", &between)
	b.server.MustExec(t, "postgres", "SELECT pg_sleep(0.1); INSERT INTO accounts VALUES (50000, 0, 'last')")
	b.server.AwaitArchived(t, b.archive)
	for _, c := range []struct {
		target drill.Target
		rows   string
	}{
		{drill.Target{}, "40001"},
		{drill.Target{Name: "before"}, "20000"},
		{drill.Target{LSN: lsn}, "40000"},
		{drill.Target{Time: between.Format(time.RFC3339Nano)}, "40000"},
		{drill.Target{Immediate: true}, "20000"},
	} {
		options := b.options(t)
		options.Target = c.target
		options.Queries = append(options.Queries, drill.Query{Name: "rows", Database: "postgres", SQL: "SELECT count(*) FROM accounts", Expect: c.rows})
		proved(t, options)
	}
	options := b.options(t)
	options.Target = drill.Target{Time: "2001-01-01T00:00:00Z"}
	failed(t, "time before every backup", options, "no backup was finished before")
	options.Target = drill.Target{Name: "never"}
	failed(t, "unknown restore point", options, "recovery ended before configured recovery target was reached")
	options.Target = drill.Target{Time: "noon"}
	failed(t, "no time", options, "is not a time")
}

// TestDrillOfDamagedCluster drills a backup that was taken, without complaint,
// of a cluster that was damaged already.
func TestDrillOfDamagedCluster(t *testing.T) {
	t.Parallel()
	long(t)
	b := newBank(t, pgtest.Newest())
	table := b.server.MustRelation(t, "postgres", "accounts")
	b.server.MustExec(t, "postgres", "CREATE EXTENSION amcheck") // without it columns of variable length are not read there
	bit := func(p []byte) { p[page.Size-40] ^= 0x01 }            // in the note of the first row
	if b.server.Install.Major == 13 {                            // verify_heapam is from 14 on: in its balance, where the note is short or long
		bit = func(p []byte) { p[page.Size-64] ^= 0x01; p[page.Size-216] ^= 0x01 }
	}

	// The living server loses a bit that its checksums do not show: the backup
	// tells, because rows never change in place.
	b.server.WhileDown(t, func() error {
		for block := range table.Blocks {
			if err := table.EditValid(block, bit); err != nil {
				return err
			}
		}
		return nil
	})
	report := failed(t, "damaged living server", b.options(t), "is not the same in the backup and in the living server")
	if c := report.Comparison; c == nil || c.Different == 0 {
		t.Errorf("comparison %+v", c)
	}
	b.server.WhileDown(t, func() error { return table.EditValid(3, pgtest.Garbage) })
	damaged := filepath.Join(b.root, "damaged")
	b.server.BaseBackup(t, pgtest.Backup{Directory: damaged})
	options := b.options(t)
	options.Backup = "damaged"
	failed(t, "backup of a damaged cluster", options, "accounts")
}

// TestForms restores tar backups and tablespaces, and catches what only they can
// lack, such as the library of an extension.
func TestForms(t *testing.T) {
	t.Parallel()
	long(t)
	space := pgtest.SharedDirectory(t)
	b := newBank(t, pgtest.Newest())
	b.server.MustExec(t, "postgres", "CREATE TABLESPACE fast LOCATION '"+space+"'")
	b.server.MustExec(t, "postgres", "CREATE TABLE ledger TABLESPACE fast AS SELECT id, balance FROM accounts")
	for _, form := range []struct {
		name string
		tar  bool
	}{{"spaces", false}, {"tar", true}} {
		b.server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(b.root, form.name), Tar: form.tar})
		options := b.options(t)
		options.Backup = form.name
		options.Queries = append(options.Queries, drill.Query{Name: "ledger", Database: "postgres", SQL: "SELECT count(*) FROM ledger", Expect: "40000"})
		proved(t, options)
	}
	options := b.options(t)
	options.Backup = "spaces"
	if err := os.RemoveAll(filepath.Join(b.root, "spaces.tablespaces")); err != nil {
		t.Fatal(err)
	}
	failed(t, "missing tablespace", options, "is not where the link in pg_tblspc points")
	link := filepath.Join(b.root, "spaces", "pg_tblspc")
	entries, err := os.ReadDir(link)
	if err != nil {
		t.Fatal(err)
	}
	link = filepath.Join(link, entries[0].Name())
	if err := errors.Join(os.Remove(link), os.Symlink(space, link)); err != nil {
		t.Fatal(err)
	}
	failed(t, "tablespace of the living server", options, "where the living server has it")
	b.server.MustExec(t, "postgres", "DROP TABLE ledger; CREATE EXTENSION amcheck; UPDATE pg_proc SET probin = '$libdir/gone' WHERE proname = 'bt_index_check'")
	b.server.MustExec(t, "postgres", "DROP TABLESPACE fast")
	b.server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(b.root, "library")})
	options.Backup = "library"
	failed(t, "missing library", options, "the library $libdir/gone of extension amcheck is not installed")
	bare := filepath.Join(pgtest.SharedDirectory(t), "bare")
	b.server.BaseBackup(t, pgtest.Backup{Directory: bare, NoWAL: true})
	options = b.options(t)
	options.Watched.Path, options.Watched.WAL = bare, pgtest.SharedDirectory(t)
	failed(t, "empty archive", options, "which is not in the archive")
	options.Watched.WAL = ""
	failed(t, "no WAL at all", options, "does not start")
}

// TestIncremental combines a chain of incremental backups (17+).
func TestIncremental(t *testing.T) {
	t.Parallel()
	long(t)
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		if major < 17 {
			t.Skip("incremental backups are from PostgreSQL 17 on")
		}
		b := newBank(t, major, pgtest.Setting("summarize_wal", "on"))
		full := b.backup
		for _, name := range []string{"inc1", "inc2"} {
			b.server.MustExec(t, "postgres", "UPDATE accounts SET note = '"+name+"' WHERE id % 100 = 0; CREATE TABLE "+name+" AS SELECT id, note FROM accounts LIMIT 5000")
			directory := filepath.Join(b.root, name)
			b.server.BaseBackup(t, pgtest.Backup{Directory: directory, Incremental: full})
			full = directory
		}
		b.server.MustExec(t, "postgres", "DELETE FROM accounts WHERE id > 39000")
		b.server.AwaitArchived(t, b.archive)
		options := b.options(t)
		options.Queries = append(options.Queries, drill.Query{Name: "rows", Database: "postgres", SQL: "SELECT count(*) FILTER (WHERE note = 'inc2') || ' of ' || count(*) FROM accounts", Expect: "390 of 39000"})
		if report := proved(t, options); report.Backup != "inc2" || report.Kind != recovery.KindIncremental {
			t.Errorf("restored %s, %s", report.Backup, report.Kind)
		}
		if err := os.RemoveAll(filepath.Join(b.root, "inc1")); err != nil {
			t.Fatal(err)
		}
		failed(t, "broken chain", options, "builds on a backup that began at")
	})
}

// childOptions is the environment variable that makes this test program a drill.
const childOptions = "DRILL_TEST_OPTIONS"

func TestMain(m *testing.M) {
	if text := os.Getenv(childOptions); text != "" {
		var options drill.Options
		if err := json.Unmarshal([]byte(text), &options); err != nil {
			panic(err)
		}
		options.Logger = slog.New(slog.DiscardHandler)
		if err := drill.Yield(10); err != nil { // as the program does
			panic(err)
		}
		if !drill.Run(context.Background(), options).Proved() {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestKill kills drills at moments spread over their time. What is left is
// marked, and the next drill removes it, with its server.
func TestKill(t *testing.T) {
	t.Parallel()
	long(t)
	b := newBank(t, pgtest.Newest())
	options := b.options(t)
	options.Primary, options.Logger = nil, nil
	text, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childOptions+"="+string(text))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	began := time.Now()
	if err := start().Wait(); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(began)
	const kills = 8
	stranger := filepath.Join(b.scratch, "pgintegrity-drill-of-somebody")
	if err := os.MkdirAll(filepath.Join(stranger, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	leftovers := 0
	for n := range kills {
		cmd := start()
		<-time.After(whole * time.Duration(2*n+1) / time.Duration(2*kills))
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		removed, err := drill.Clean(b.scratch)
		if err != nil {
			t.Error(err)
		}
		leftovers += len(removed)
		entries, err := os.ReadDir(b.scratch)
		if err != nil || len(entries) != 1 {
			t.Errorf("after kill %d: %v, %v", n, entries, err)
		}
		if pids := processesIn(t, b.scratch); len(pids) > 0 {
			t.Errorf("after kill %d: processes %v", n, pids)
		}
	}
	if leftovers < kills/2 {
		t.Errorf("only %d of %d killed drills left something: they were killed too late", leftovers, kills)
	}
	if err := os.RemoveAll(stranger); err != nil {
		t.Fatal(err)
	}
	// A drill that is running is not a leftover.
	cmd := start()
	pgtest.Await(t, "begun", 10*time.Second, func() bool {
		entries, err := os.ReadDir(b.scratch)
		return err == nil && len(entries) == 1
	})
	if removed, err := drill.Clean(b.scratch); err != nil || len(removed) != 0 {
		t.Errorf("removed a running drill: %v, %v", removed, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the running drill: %v", err)
	}
}

// processesIn lists the processes that work in a directory.
func processesIn(t *testing.T, directory string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, link := range all {
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, directory) {
			pids = append(pids, link)
		}
	}
	return pids
}

// TestFullDisk restores to a file system that is too small.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	long(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	b := newBank(t, pgtest.Newest())
	mount := func(size string) string {
		small := pgtest.SharedDirectory(t)
		if err := syscall.Mount("none", small, "tmpfs", 0, "mode=755,size="+size); err != nil {
			t.Skipf("no small file system can be mounted here: %v", err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(small, 0); err != nil {
				t.Error(err)
			}
		})
		return small
	}
	options := b.options(t)
	options.Scratch = mount("8m")
	if report := failed(t, "too small", options, "has 7 MB free, the drill needs"); report.Outcome != recovery.OutcomeRefused {
		t.Errorf("outcome %s", report.Outcome)
	}
	// The backup fits, but recovery does not.
	options.Scratch = mount("34m")
	failed(t, "full while it recovers", options, "the scratch file system is full")
	// There is room enough, but the drill may not use all of it.
	size := int64(0)
	if err := filepath.WalkDir(b.backup, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	const room = 128 << 20
	options.Scratch = mount("128m")
	options.MinFree = room - size - 4<<20
	failed(t, "kept free", options, "the scratch file system is full: ")
}
