package check_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// TestWidth holds that a terminal's lines are not longer than it is wide, and that a
// command can be copied from one of them.
func TestWidth(t *testing.T) {
	t.Parallel()
	const command = "pg_integrity_exporter check --deep --relation=public.t"
	text := strings.Repeat("damage ", 30)
	document := check.Document{Target: "here", Checks: []check.Result{
		{Check: "page", Database: "erp", Outcome: check.OutcomeFindings, Findings: []check.Finding{{Message: text, Action: text + command + ". " + text}}},
		{Check: "heap", Database: "erp", Outcome: check.OutcomeSkipped, Reason: text}, {Check: "btree", Database: "erp", Outcome: check.OutcomeSkipped, Reason: text},
	}}
	document.Findings = document.Checks[0].Findings
	var b strings.Builder
	if err := document.WriteText(&b, false, 80); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if len(line) > 81 {
			t.Errorf("too wide: %s", line)
		}
	}
	if !strings.Contains(b.String(), command) || !strings.Contains(b.String(), "Not all looked at: heap in erp, btree in erp: damage") {
		t.Error(b.String())
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var discard = slog.New(slog.DiscardHandler)

// ledger is what the tests damage.
const ledger = `
CREATE EXTENSION amcheck;
CREATE SCHEMA ledger;
CREATE TABLE ledger.postings (id int PRIMARY KEY, account int NOT NULL, memo text NOT NULL);
INSERT INTO ledger.postings SELECT i, i % 100, repeat(md5(i::text), 5) FROM generate_series(1, 10000) i;
CREATE INDEX postings_account_idx ON ledger.postings (account);
CREATE TABLE ledger.documents (id int PRIMARY KEY, body text NOT NULL);
ALTER TABLE ledger.documents ALTER body SET STORAGE EXTERNAL;
INSERT INTO ledger.documents SELECT i, repeat(md5(i::text), 400) FROM generate_series(1, 50) i;
VACUUM ANALYZE;
`

func start(t *testing.T, options ...pgtest.Option) *pgtest.Server {
	t.Helper()
	server := pgtest.Start(t, options...)
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	// VACUUM cannot run in the implicit transaction of several statements.
	for statement := range strings.SplitSeq(strings.TrimSpace(ledger), ";\n") {
		server.MustExec(t, "erp", statement)
	}
	// A session that is just ending can keep VACUUM from calling pages all-visible.
	pgtest.Await(t, "vacuumed", 20*time.Second, func() bool {
		var visible bool
		const sql = "SELECT bool_and(relallvisible = relpages) FROM pg_class WHERE oid IN ('ledger.postings'::regclass, (SELECT reltoastrelid FROM pg_class WHERE oid = 'ledger.documents'::regclass))"
		if err := server.Query(t.Context(), "erp", sql, &visible); err != nil {
			t.Fatal(err)
		}
		if !visible {
			server.MustExec(t, "erp", "VACUUM")
		}
		return visible
	})
	return server
}

func target(t testing.TB, dsn string) *pg.Target {
	t.Helper()
	target, err := pg.ResolveTarget(dsn, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// sweep runs all checks on the database erp as the superuser, without setting:
// the servers of tests run with fsync off.
func sweep(t *testing.T, server *pgtest.Server, options check.Options) check.Document {
	t.Helper()
	return sweepAs(t, server, "postgres", options)
}

func sweepAs(t *testing.T, server *pgtest.Server, user string, options check.Options) check.Document {
	t.Helper()
	if options.Checks == nil {
		options.Checks = slices.DeleteFunc(check.All(), func(c check.Check) bool { return c.Name == "setting" })
	}
	if options.Databases == nil {
		options.Databases = []string{"erp"}
	}
	options.Logger = slog.New(slog.DiscardHandler)
	document, err := check.Sweep(t.Context(), target(t, server.DSN("postgres", user)), options)
	if err != nil {
		t.Fatal(err)
	}
	return document
}

// keepWAL is so that much of it can be held against the pages.
var keepWAL = pgtest.Setting("wal_keep_size", "64MB")

func TestHealthy(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major), pgtest.Checksums(), keepWAL)
		before := rollbacks(t, server)
		document := sweep(t, server, check.Options{})
		if after := rollbacks(t, server); after != before {
			t.Errorf("the checks rolled back %d transactions, which the server counts as failures", after-before)
		}
		if len(document.Findings) != 0 || document.ExitCode() != check.ExitClean {
			t.Errorf("exit code %d, findings %+v, checks %+v", document.ExitCode(), document.Findings, document.Checks)
		}
		for _, c := range document.Checks {
			if c.Outcome != check.OutcomeOK || c.Reads && (c.Objects < 50 || c.Bytes == 0) || !c.Whole {
				t.Errorf("%s: %+v", c.Check, c)
			}
		}
	})
}

// rollbacks is how many transactions of all databases were rolled back, once no
// session is left that has not told yet.
func rollbacks(t *testing.T, server *pgtest.Server) int64 {
	t.Helper()
	pgtest.Await(t, "all sessions ended", 10*time.Second, func() bool {
		var others int
		err := server.Query(t.Context(), "postgres", "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()", &others)
		return err == nil && others == 0
	})
	var count int64
	if err := server.Query(t.Context(), "postgres", "SELECT sum(xact_rollback)::bigint FROM pg_stat_database", &count); err != nil {
		t.Fatal(err)
	}
	return count
}

// damage is one way to damage the ledger and what must be found then.
type damage struct {
	name      string
	checksums bool
	since     int // first version whose checks can see it
	relation  string
	block     uint32
	valid     bool // give the page a valid checksum
	toast     bool // damage the TOAST table of the relation
	change    func(p []byte)
	file      func(r pgtest.Relation) error
	// found is the finding's relation and the check that must find it.
	found, by string
	// page says that the finding must name the page.
	page bool

	database string
}

func damages() []damage {
	lostTuple := func(p []byte) { clear(p[len(p)-200:]) }
	return []damage{
		{name: "garbage page", checksums: true, since: 13, relation: "ledger.postings", block: 7, change: pgtest.Garbage, found: "postings", by: "heap", page: true},
		{name: "lost sector", checksums: true, since: 13, relation: "ledger.postings", block: 7, change: pgtest.Sector, found: "postings", by: "heap", page: true},
		{name: "lost sector without checksums", since: 14, relation: "ledger.postings", block: 7, change: pgtest.Sector, found: "postings", by: "heap", page: true},
		{name: "lost sector with a valid checksum", checksums: true, since: 14, relation: "ledger.postings", block: 7, valid: true, change: pgtest.Sector, found: "postings", by: "heap", page: true},
		{name: "zeroed tuple header without checksums", since: 14, relation: "ledger.postings", block: 3, change: lostTuple, found: "postings", by: "heap", page: true},
		{name: "garbage in index", checksums: true, since: 13, relation: "ledger.postings_account_idx", block: 2, change: pgtest.Garbage, found: "postings_account_idx", by: "btree"},
		{name: "lost sector of index without checksums", since: 13, relation: "ledger.postings_pkey", block: 5, change: pgtest.Sector, found: "postings_pkey", by: "btree"},
		{name: "zero page of index", since: 13, relation: "ledger.postings_pkey", block: 3, change: pgtest.Zero, found: "postings_pkey", by: "btree"},
		{name: "zero page of table", since: 13, relation: "ledger.postings", block: 7, change: pgtest.Zero, found: "postings", by: "page", page: true},
		{name: "zero page of TOAST table", checksums: true, since: 13, relation: "ledger.documents", toast: true, block: 2, change: pgtest.Zero, found: "pg_toast_", by: "page", page: true},
		{name: "header says another size", since: 13, relation: "ledger.postings", block: 9, change: func(p []byte) { p[19] = 0x10 }, found: "postings", by: "page", page: true},
		{name: "overlapping tuples without checksums", since: 13, relation: "ledger.postings", block: 4, change: func(p []byte) { copy(p[28:32], p[24:28]) }, found: "postings", by: "page", page: true},
		{name: "LSN beyond the WAL with a valid checksum", checksums: true, valid: true, since: 13, relation: "ledger.postings", block: 5, change: func(p []byte) { p[1] = 0x7f }, found: "postings", by: "page", page: true},
		{name: "table page in an index", checksums: true, valid: true, since: 13, relation: "ledger.postings_account_idx", block: 3, change: func(p []byte) { p[17] = 0x20 }, found: "postings_account_idx", by: "page", page: true},
		{name: "page without its flag all-visible", checksums: true, valid: true, since: 13, relation: "ledger.postings", block: 6, change: func(p []byte) { p[10] &^= 4 }, found: "postings", by: "page", page: true},
		{name: "ragged end", since: 13, relation: "ledger.postings", file: func(r pgtest.Relation) error { return os.Truncate(r.Path, int64(r.Blocks)*8192-100) }, found: "postings", by: "page"},
		{name: "missing file", since: 13, relation: "ledger.postings", file: func(r pgtest.Relation) error { return r.Remove() }, found: "postings", by: "heap"},
		{name: "missing index file", since: 13, relation: "ledger.postings_pkey", file: func(r pgtest.Relation) error { return r.Remove() }, found: "postings_pkey", by: "btree"},
	}
}

// TestDamage damages one database for each kind of damage, all on one server.
func TestDamage(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		for _, checksums := range []bool{false, true} {
			t.Run(fmt.Sprintf("checksums=%v", checksums), func(t *testing.T) {
				t.Parallel()
				testDamages(t, major, checksums)
			})
		}
	})
}

func testDamages(t *testing.T, major int, checksums bool) {
	options := []pgtest.Option{pgtest.Version(major)}
	if checksums {
		options = append(options, pgtest.Checksums())
	}
	server := start(t, options...)
	var kinds []damage
	relations := make(map[string]pgtest.Relation)
	for _, d := range damages() {
		if major < d.since || d.checksums != checksums {
			continue
		}
		d.database = fmt.Sprintf("damage%d", len(kinds))
		kinds = append(kinds, d)
		server.MustExec(t, "postgres", "CREATE DATABASE "+d.database+" TEMPLATE erp")
		relation := d.relation
		if d.toast {
			if err := server.Query(t.Context(), d.database, "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = $1::regclass", &relation, d.relation); err != nil {
				t.Fatal(err)
			}
		}
		relations[d.database] = server.MustRelation(t, d.database, relation)
	}
	server.WhileDown(t, func() error {
		for _, d := range kinds {
			if err := d.do(relations[d.database]); err != nil {
				return err
			}
		}
		return nil
	})
	for _, d := range kinds {
		t.Run(d.name, func(t *testing.T) {
			document := sweep(t, server, check.Options{Databases: []string{d.database}})
			requireFinding(t, document, d)
			again := sweep(t, server, check.Options{Databases: []string{d.database}})
			if a, b := fingerprints(document), fingerprints(again); !slices.Equal(a, b) {
				t.Errorf("fingerprints change between two runs: %v and %v", a, b)
			}
		})
	}
}

func (d damage) do(r pgtest.Relation) error {
	switch {
	case d.file != nil:
		return d.file(r)
	case d.valid:
		return r.EditValid(d.block, d.change)
	}
	return r.Edit(d.block, d.change)
}

func requireFinding(t *testing.T, document check.Document, d damage) {
	t.Helper()
	if document.ExitCode() != check.ExitFindings {
		t.Errorf("exit code %d", document.ExitCode())
	}
	hit := false
	for _, f := range document.Findings {
		ours := f.Relation == d.found && f.Schema == "ledger" || d.toast && strings.HasPrefix(f.Relation, d.found)
		if d.toast && f.Relation == "documents" {
			continue // its values are damaged, too
		}
		if !ours || f.Check != d.by && f.Check != "page" || f.Database != d.database || f.Class != check.ClassCorruption || f.Severity != check.SeverityCritical {
			t.Errorf("finding that is not the damage: %+v", f)
			continue
		}
		if d.page && (f.Block == nil || *f.Block != d.block) {
			t.Errorf("finding on another page than %d: %+v", d.block, f)
		}
		if f.Message == "" || f.Impact == "" || f.Action == "" || f.Fingerprint == "" || strings.Contains(f.Message, "\n") {
			t.Errorf("incomplete finding: %+v", f)
		}
		hit = true
	}
	if !hit {
		var b strings.Builder
		if err := document.WriteText(&b, false, 0); err != nil {
			t.Fatal(err)
		}
		t.Errorf("damage to %s was not found:\n%s", d.found, b.String())
	}
}

func fingerprints(document check.Document) []string {
	var all []string
	for _, f := range document.Findings {
		all = append(all, f.Fingerprint)
	}
	slices.Sort(all)
	return all
}

// TestOneBadPageHidesNoOther damages several pages of one table.
func TestOneBadPageHidesNoOther(t *testing.T) {
	t.Parallel()
	server := start(t, pgtest.Checksums())
	relation := server.MustRelation(t, "erp", "ledger.postings")
	damaged := []uint32{0, 5, 6, 100, relation.Blocks - 1}
	server.WhileDown(t, func() error {
		for _, block := range damaged {
			if err := relation.Edit(block, pgtest.Garbage); err != nil {
				return err
			}
		}
		return nil
	})
	document := sweep(t, server, check.Options{})
	var blocks []uint32
	for _, f := range document.Findings {
		if f.Relation == "postings" && f.Block != nil {
			blocks = append(blocks, *f.Block)
		}
	}
	if !slices.Equal(blocks, damaged) {
		t.Errorf("findings on pages %v, damaged are %v", blocks, damaged)
	}
}

// TestLockedTable must end although somebody holds the strongest lock, and say
// what it could not look at.
func TestLockedTable(t *testing.T) {
	t.Parallel()
	server := start(t)
	release := server.Hold(t, "erp", "LOCK TABLE ledger.postings IN ACCESS EXCLUSIVE MODE")
	defer release()
	began := time.Now()
	document := sweep(t, server, check.Options{Checks: named(t, "heap", "btree")})
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the sweep took %s behind a lock", took)
	}
	if document.ExitCode() != check.ExitIncomplete {
		t.Errorf("exit code %d", document.ExitCode())
	}
	for _, c := range document.Checks {
		if c.Outcome != check.OutcomeFailed || !strings.Contains(c.Reason, "ledger.postings") || !strings.Contains(c.Reason, "lock") {
			t.Errorf("%s: outcome %s, reason %q", c.Check, c.Outcome, c.Reason)
		}
		if c.Objects < 50 {
			t.Errorf("%s: only %d other relations were looked at", c.Check, c.Objects)
		}
	}
}

func TestPrivileges(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		if major < 14 {
			t.Skip("heap needs SELECT on 13")
		}
		server := start(t, pgtest.Version(major))
		monitor, err := server.Monitor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		run := func(names ...string) check.Document {
			document, err := check.Sweep(t.Context(), target(t, server.DSN("erp", monitor)), check.Options{
				Checks: named(t, names...), Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			return document
		}
		for _, c := range run("page", "heap", "btree", "catalog").Checks {
			if c.Check == "catalog" || c.Check == "page" { // the tests may read the data directory
				if c.Outcome != check.OutcomeOK {
					t.Errorf("%s in %s needs no grant: outcome %s, reason %q", c.Check, c.Database, c.Outcome, c.Reason)
				}
				continue
			}
			want := "CREATE EXTENSION amcheck in database"
			if c.Database == "erp" {
				want = "GRANT EXECUTE ON FUNCTION"
			}
			if c.Outcome != check.OutcomeSkipped || !strings.Contains(c.Reason, want) {
				t.Errorf("%s in %s: outcome %s, reason %q, want %q in it", c.Check, c.Database, c.Outcome, c.Reason, want)
			}
		}
		if err := server.GrantChecks(t.Context(), "erp", monitor); err != nil {
			t.Fatal(err)
		}
		for _, c := range run("page", "heap", "btree", "catalog", "cluster", "leftover").Checks {
			if (c.Database == "erp" || c.Database == "") && c.Outcome != check.OutcomeOK {
				t.Errorf("%s: outcome %s, reason %q after docs/grants/grants.sql", c.Check, c.Outcome, c.Reason)
			}
		}
	})
}

func TestRelation(t *testing.T) {
	t.Parallel()
	server := start(t)
	document := sweep(t, server, check.Options{Checks: named(t, "heap", "btree"), Relations: []check.RelationName{{Schema: "ledger", Name: "documents"}}})
	for _, c := range document.Checks {
		// The table and its TOAST table; the index of each.
		if c.Outcome != check.OutcomeOK || c.Objects != 2 || c.Whole {
			t.Errorf("%s: %+v", c.Check, c)
		}
	}
	_, err := check.Sweep(t.Context(), target(t, server.DSN("postgres")), check.Options{
		Checks: check.All(), Relations: []check.RelationName{{Schema: "public", Name: "posting"}}, Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil || !strings.Contains(err.Error(), "there is no relation public.posting; did you mean ledger.postings") {
		t.Errorf("error %v", err)
	}
}

// TestSelects looks at the databases that a configuration leaves, and says so
// when it leaves none.
func TestSelects(t *testing.T) {
	t.Parallel()
	server := start(t)
	options := check.Options{Checks: named(t, "setting", "leftover"), Selects: func(datname string) bool { return datname == "postgres" }, Logger: discard}
	var databases []string
	document, err := check.Sweep(t.Context(), target(t, server.DSN("erp")), options)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range document.Checks {
		databases = append(databases, c.Check+" "+c.Database)
	}
	if want := []string{"setting ", "leftover postgres"}; !slices.Equal(databases, want) {
		t.Errorf("looked at %q, want %q", databases, want)
	}
	options.Selects = func(string) bool { return false }
	if _, err := check.Sweep(t.Context(), target(t, server.DSN("postgres")), options); err == nil || !strings.Contains(err.Error(), "no database that databases.include") {
		t.Errorf("error: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	document, err := check.Sweep(t.Context(), target(t, "postgresql://127.0.0.1:1/x?sslmode=disable"), check.Options{
		Checks: check.All(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if document.ExitCode() != check.ExitIncomplete || len(document.Checks) != len(check.All()) {
		t.Errorf("exit code %d: %+v", document.ExitCode(), document)
	}
	for _, c := range document.Checks {
		if c.Outcome != check.OutcomeFailed || !strings.Contains(c.Reason, "listening at this address") {
			t.Errorf("%+v", c)
		}
	}
}

func TestInvalidIndexIsALeftover(t *testing.T) {
	t.Parallel()
	server := start(t)
	err := server.Exec(t.Context(), "erp", "CREATE UNIQUE INDEX CONCURRENTLY postings_bad ON ledger.postings (account)")
	if err == nil {
		t.Fatal("a unique index on a column with duplicates was built")
	}
	document := sweep(t, server, check.Options{})
	if len(document.Findings) != 1 {
		t.Fatalf("findings %+v", document.Findings)
	}
	f := document.Findings[0]
	if f.Class != check.ClassLeftover || f.Severity != check.SeverityWarning || f.Relation != "postings_bad" {
		t.Errorf("%+v", f)
	}
}

// TestBusy runs sweeps while a healthy server is as busy as it can be: nothing
// may be found.
func TestBusy(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major), pgtest.Checksums(), keepWAL)
		for i := range 3 {
			server.MustExec(t, "erp", fmt.Sprintf("CREATE TABLE busy%d (id int PRIMARY KEY, v text); INSERT INTO busy%d SELECT g, md5(g::text) FROM generate_series(1, 2000) g", i, i))
		}
		server.MustExec(t, "erp", `CREATE TABLE busy3 (id int, tags int[], span int4range, path text);
			INSERT INTO busy3 SELECT g, ARRAY[g % 50, g], int4range(g, g + 5), 'a/' || g FROM generate_series(1, 2000) g;
			CREATE INDEX ON busy3 USING hash (id); CREATE INDEX ON busy3 USING gin (tags); CREATE INDEX ON busy3 USING gist (span);
			CREATE INDEX ON busy3 USING spgist (path); CREATE INDEX ON busy3 USING brin (id) WITH (pages_per_range = 2); CREATE INDEX ON busy3 (path) WHERE id % 2 = 0`)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan struct{})
		var workers int
		for _, work := range []string{
			"UPDATE ledger.postings SET memo = memo || 'x' WHERE id % 50 = (random() * 50)::int",
			"DELETE FROM busy0 WHERE id % 7 = 1; INSERT INTO busy0 SELECT g, repeat(md5(g::text), 200) FROM generate_series(1, 2000) g WHERE g % 7 = 1 ON CONFLICT DO NOTHING",
			"VACUUM FULL busy1",
			"UPDATE busy3 SET tags = ARRAY[id, (random() * 50)::int], span = int4range(id, id + 1 + (random() * 9)::int), path = path || 'x' WHERE id % 20 = (random() * 20)::int",
			"DELETE FROM busy3 WHERE id % 11 = 3; INSERT INTO busy3 SELECT g, ARRAY[g], int4range(g, g + 3), 'b/' || g FROM generate_series(3, 2000, 11) g",
			"VACUUM busy3",
			"REINDEX INDEX CONCURRENTLY busy3_tags_idx",
			"VACUUM ledger.postings",
			"TRUNCATE busy2; INSERT INTO busy2 SELECT g, 'again' FROM generate_series(1, 1000) g",
			"REINDEX INDEX CONCURRENTLY ledger.postings_account_idx",
			"CREATE TABLE coming (i int PRIMARY KEY, t text); INSERT INTO coming SELECT g, g FROM generate_series(1, 500) g; DROP TABLE coming",
			"CLUSTER busy1 USING busy1_pkey",
			"CREATE INDEX CONCURRENTLY coming_idx ON ledger.postings (memo)",
			"DROP INDEX CONCURRENTLY IF EXISTS ledger.coming_idx",
			"CREATE SCHEMA passing; CREATE TYPE passing.mood AS ENUM ('a', 'b'); CREATE TABLE passing.t (i int PRIMARY KEY, m passing.mood CHECK (m <> 'b'), p int REFERENCES ledger.postings); CREATE VIEW passing.v AS SELECT * FROM passing.t; DROP SCHEMA passing CASCADE",
			"CREATE TABLE years (y int) PARTITION BY RANGE (y); CREATE TABLE y1 PARTITION OF years FOR VALUES FROM (1) TO (2); ALTER TABLE years DETACH PARTITION y1; DROP TABLE years, y1",
			"ALTER TABLE busy1 ADD c int DEFAULT 1; ALTER TABLE busy1 DROP c",
			"CREATE FUNCTION passing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER passing BEFORE INSERT ON busy2 FOR EACH ROW EXECUTE FUNCTION passing(); DROP FUNCTION passing CASCADE",
			"CREATE ROLE passing; GRANT SELECT ON busy0 TO passing; DROP OWNED BY passing; DROP ROLE passing",
			"CHECKPOINT",
		} {
			workers++
			go func() {
				defer func() { done <- struct{}{} }()
				for ctx.Err() == nil {
					// Deadlocks and conflicts between the workers are part of it.
					_ = server.Exec(ctx, "erp", work)
				}
			}()
		}
		seconds := 20
		if testing.Short() {
			seconds = 5
		}
		sweeps := 0
		remembering := check.Options{Checks: named(t, "page"), Memory: state.OpenFiles(t.TempDir(), "target").Memory()}
		for began := time.Now(); time.Since(began) < time.Duration(seconds)*time.Second; sweeps++ {
			for _, f := range slices.Concat(sweep(t, server, check.Options{}).Findings, sweep(t, server, remembering).Findings) {
				t.Errorf("false alarm: %+v", f)
			}
		}
		cancel()
		for range workers {
			<-done
		}
		t.Logf("%d sweeps of a busy server", sweeps)
	})
}

// TestCrash sweeps a server again and again after it crashed under load: what
// a crash leaves on disk is no damage.
func TestCrash(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major), pgtest.Checksums(), keepWAL)
		remembering := check.Options{Checks: named(t, "page"), Memory: state.OpenFiles(t.TempDir(), "target").Memory()}
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			for _, work := range []string{
				"INSERT INTO ledger.postings SELECT max(id) + g, 1, repeat('x', 300) FROM ledger.postings, generate_series(1, 500) g GROUP BY g",
				"DELETE FROM ledger.postings WHERE id % 10 = (random() * 10)::int",
				"VACUUM ledger.postings",
			} {
				go func() {
					defer func() { done <- struct{}{} }()
					for ctx.Err() == nil {
						_ = server.Exec(ctx, "erp", work) // the crash ends it
					}
				}()
			}
			<-time.After(time.Second)
			if err := server.Stop(pgtest.Immediate); err != nil {
				t.Fatal(err)
			}
			cancel()
			for range 3 {
				<-done
			}
			if err := server.StartAgain(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, f := range slices.Concat(sweep(t, server, check.Options{}).Findings, sweep(t, server, remembering).Findings) {
				t.Errorf("false alarm: %+v", f)
			}
		}
	})
}
