package check_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// drifts are changes and what the difference must say.
var drifts = []struct {
	sql, object, change string
	severity            check.Severity
	since               int
}{
	{"ALTER TABLE s.b DROP CONSTRAINT b_a_fkey", "table s.b", "constraint b_a_fkey removed: FOREIGN KEY (a) REFERENCES s.a(id)", check.SeverityCritical, 13},
	{"ALTER TABLE s.c DISABLE TRIGGER t", "table s.c", "(DISABLED)", check.SeverityCritical, 13},
	{"ALTER TABLE s.d DISABLE TRIGGER ALL", "table s.d", "constraint triggers added: ", check.SeverityCritical, 13},
	{"DROP TRIGGER t ON s.e", "table s.e", "trigger t removed", check.SeverityCritical, 13},
	{"ALTER TABLE s.f SET UNLOGGED", "table s.f", "persistence: permanent -> UNLOGGED", check.SeverityCritical, 13},
	{"ALTER TABLE s.g ALTER v TYPE bigint, ALTER w SET DEFAULT 5", "table s.g", "column v: integer -> bigint", check.SeverityWarning, 13},
	{"ALTER TABLE s.h ALTER v DROP NOT NULL", "table s.h", "column v: integer NOT NULL -> integer", check.SeverityCritical, 13},
	{"ALTER TABLE s.i DISABLE ROW LEVEL SECURITY", "table s.i", "row security: on -> off", check.SeverityCritical, 13},
	{"ALTER POLICY p ON s.j USING (true)", "table s.j", "policy p: PERMISSIVE FOR * TO public USING", check.SeverityWarning, 13},
	{"DROP INDEX s.k_v_idx", "table s.k", "index k_v_idx removed: CREATE UNIQUE INDEX", check.SeverityCritical, 13},
	{"DROP TABLE s.l", "table s.l", "", check.SeverityCritical, 13},
	{"CREATE TABLE s.new (i int)", "table s.new", "", check.SeverityInfo, 13},
	{"ALTER TABLE s.m REPLICA IDENTITY FULL", "table s.m", "replica identity: default -> full", check.SeverityWarning, 13},
	{"ALTER TABLE s.n SET (autovacuum_enabled = off)", "table s.n", "storage options added: autovacuum_enabled=off", check.SeverityInfo, 13},
	{"ALTER TABLE s.o ALTER v SET STATISTICS 7", "table s.o", "STATISTICS 7", check.SeverityWarning, 13},
	{"ALTER TABLE s.parent DETACH PARTITION s.part", "table s.part", "partition removed: s.parent FOR VALUES", check.SeverityWarning, 13},
	{"CREATE OR REPLACE FUNCTION s.fn(int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT $1 + 2'", "function s.fn(integer)", "definition: ", check.SeverityWarning, 13},
	{"ALTER SEQUENCE s.q INCREMENT 5", "sequence s.q", "numbers: ", check.SeverityWarning, 13},
	{"ALTER TYPE s.mood ADD VALUE 'meh'", "type s.mood", "labels: good, bad -> good, bad, meh", check.SeverityWarning, 13},
	{"GRANT SELECT ON s.r TO app", "table s.r", "grants: default -> ", check.SeverityWarning, 13},
	{"ALTER VIEW s.v OWNER TO app", "view s.v", "owner: postgres -> app", check.SeverityWarning, 13},
	{"CREATE OR REPLACE VIEW s.w AS SELECT 2 AS one", "view s.w", "definition: SELECT 1 AS one; -> SELECT 2 AS one;", check.SeverityWarning, 13},
	{"ALTER DATABASE erp SET session_replication_role = replica", "database", "setting session_replication_role added: replica", check.SeverityCritical, 13},
	{"ALTER ROLE app IN DATABASE erp SET work_mem = '5MB'", "database", "setting of role app work_mem added: 5MB", check.SeverityWarning, 13},
	{"ALTER ROLE app SUPERUSER", "role app", "attributes: LOGIN -> SUPERUSER LOGIN", check.SeverityCritical, 13},
	{"ALTER ROLE app SET application_name = 'password=hunter2'", "role app", "setting application_name added: password=***", check.SeverityWarning, 13},
	{"CREATE ROLE other; GRANT app TO other", "role other", "member of added: app", check.SeverityInfo, 13},
	{"ALTER DOMAIN s.positive DROP CONSTRAINT positive_check", "domain s.positive", "constraint positive_check removed: CHECK ((VALUE > 0))", check.SeverityCritical, 13},
	{"CREATE OR REPLACE AGGREGATE s.total (int) (sfunc = int4mul, stype = int, initcond = '1')", "function s.total(integer)", "definition: AGGREGATE int4pl integer -> AGGREGATE int4mul integer INITIAL 1", check.SeverityWarning, 13},
	{"ALTER SEQUENCE s.owned OWNED BY NONE", "sequence s.owned", "owned by removed: s.r.v", check.SeverityWarning, 13},
	{"ALTER STATISTICS s.st SET STATISTICS 77", "table s.g", "STATISTICS 77", check.SeverityWarning, 13},
	{"ALTER TABLE s.child NO INHERIT s.k", "table s.child", "inherits removed: s.k", check.SeverityWarning, 13},
	{"GRANT USAGE ON TYPE s.mood TO app", "type s.mood", "grants added: ", check.SeverityInfo, 13},
	{"REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC", "language plpgsql", "grants: default TRUSTED -> ", check.SeverityWarning, 13},
	{"CREATE CAST (s.pair AS s.mood) WITH INOUT AS IMPLICIT", "cast", "s.pair AS s.mood added: WITH INOUT AS IMPLICIT", check.SeverityInfo, 13},
	{"DROP OPERATOR s.=== (int, int)", "operator s.=== (integer, integer)", "definition removed: int4eq(integer,integer)", check.SeverityWarning, 13},
	{"DROP OPERATOR CLASS s.rev USING btree", "operator class s.rev USING btree", "definition removed: integer 1 >(integer,integer), 3 =(integer,integer) 1 btint4cmp(integer,integer)", check.SeverityWarning, 13},
	{"DROP COLLATION s.letters", "collation s.letters", "definition removed: ", check.SeverityWarning, 13},
	{"GRANT SET ON PARAMETER session_replication_role TO app", "server", "grants on setting session_replication_role added: ", check.SeverityCritical, 15},
	{"ALTER TABLE s.u DROP CONSTRAINT u_v_check; ALTER TABLE s.u ADD CHECK (v > 0) NOT ENFORCED", "table s.u", "NOT ENFORCED", check.SeverityCritical, 18},
}

const driftSchema = `CREATE ROLE app LOGIN; CREATE SCHEMA s;
	CREATE TABLE s.a (id int PRIMARY KEY); CREATE TABLE s.b (a int REFERENCES s.a);
	CREATE FUNCTION s.trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
	CREATE FUNCTION s.fn(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
	CREATE TABLE s.c (v int); CREATE TRIGGER t BEFORE INSERT ON s.c FOR EACH ROW EXECUTE FUNCTION s.trg();
	CREATE TABLE s.d (a int REFERENCES s.a); CREATE TABLE s.e (v int); CREATE TRIGGER t BEFORE INSERT ON s.e FOR EACH ROW EXECUTE FUNCTION s.trg();
	CREATE TABLE s.f (v int); CREATE TABLE s.g (v int, w int); CREATE TABLE s.h (v int NOT NULL);
	CREATE TABLE s.i (v int); ALTER TABLE s.i ENABLE ROW LEVEL SECURITY; CREATE TABLE s.j (v int); CREATE POLICY p ON s.j USING (v > 0);
	CREATE TABLE s.k (v int); CREATE UNIQUE INDEX ON s.k (v); CREATE TABLE s.l (v int); CREATE TABLE s.m (v int); CREATE TABLE s.n (v int); CREATE TABLE s.o (v int);
	CREATE TABLE s.parent (y int) PARTITION BY RANGE (y); CREATE TABLE s.part PARTITION OF s.parent FOR VALUES FROM (1) TO (2);
	CREATE SEQUENCE s.q; CREATE TYPE s.mood AS ENUM ('good', 'bad'); CREATE TABLE s.r (v int); CREATE VIEW s.v AS SELECT 1 AS one; CREATE VIEW s.w AS SELECT 1 AS one;
	CREATE TABLE s.u (v int CHECK (v > 0)); CREATE DOMAIN s.positive AS int CHECK (VALUE > 0); CREATE AGGREGATE s.total (int) (sfunc = int4pl, stype = int);
	CREATE MATERIALIZED VIEW s.mv AS SELECT 1 AS one; CREATE STATISTICS s.st ON v, w FROM s.g; CREATE PUBLICATION pub FOR TABLE s.a;
	CREATE SEQUENCE s.owned OWNED BY s.r.v; CREATE TABLE s.child () INHERITS (s.k); CREATE TYPE s.pair AS (x int, y int); CREATE COLLATION s.letters FROM "C";
	CREATE OPERATOR s.=== (leftarg = int, rightarg = int, function = int4eq); CREATE OPERATOR CLASS s.rev FOR TYPE int USING btree AS OPERATOR 1 >, OPERATOR 3 =, FUNCTION 1 btint4cmp(int, int)`

// TestDrift changes every kind of object after a baseline was accepted.
func TestDrift(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		server.MustExec(t, "postgres", "CREATE DATABASE erp")
		server.MustExec(t, "erp", driftSchema)
		home := target(t, server.DSN("erp"))
		memory := state.OpenFiles(t.TempDir(), "x").Memory()
		options := check.Options{Checks: named(t, "drift"), Databases: []string{"erp"}, Memory: memory, Logger: discard}
		sweep := func() check.Document {
			document, err := check.Sweep(t.Context(), home, options)
			if err != nil {
				t.Fatal(err)
			}
			return document
		}
		if document := sweep(); len(document.Checks) != 0 || document.ExitCode() != check.ExitClean || document.Idle["drift"] == "" {
			t.Errorf("without a baseline: %+v", document)
		}
		accept := func() {
			options.Accept = &check.Acceptance{Time: time.Now(), By: "ci", Reason: "deploy"}
			if document := sweep(); document.ExitCode() != check.ExitClean || document.Checks[0].Objects < 30 {
				t.Fatalf("not accepted: %+v", document.Checks)
			}
			options.Accept = nil
		}
		accept()
		// Columns that newer servers make anew have another version in their options.
		server.MustExec(t, "erp", `INSERT INTO s.a VALUES (1); ANALYZE; CREATE TEMP TABLE passing (i int); SET allow_system_table_mods = on;
			UPDATE pg_attribute SET attoptions = array_append(ARRAY(SELECT o FROM unnest(attoptions) AS o WHERE o NOT LIKE 'pg\_attver=%'), 'pg_attver=12345678') WHERE attrelid = 's.a'::regclass AND attnum > 0`)
		expectFindings(t, sweep())
		for _, d := range drifts {
			if major >= d.since {
				server.MustExec(t, "erp", d.sql)
			}
		}
		differences, err := check.Differences(t.Context(), home, "erp", memory, discard)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range drifts {
			if major < d.since {
				continue
			}
			hit := false
			var seen []string
			for _, found := range differences {
				if found.Object != d.object {
					continue
				}
				hit = d.change == "" && found.Severity == d.severity
				for _, c := range found.Changes {
					hit = hit || d.change != "" && strings.Contains(c.String(), d.change) && c.Severity == d.severity
				}
				seen = append(seen, fmt.Sprintf("%s %s", found.Severity, found.Changes))
			}
			if !hit {
				t.Errorf("%s: not told as %s %q: %q", d.sql, d.severity, d.change, seen)
			}
		}
		document := sweep()
		if len(document.Findings) != len(differences) || document.ExitCode() != check.ExitFindings || document.Findings[0].Class != check.ClassDrift {
			t.Errorf("%d findings of %d differences: %+v", len(document.Findings), len(differences), document.Checks)
		}
		accept()
		expectFindings(t, sweep())
	})
}

// TestDriftOfFiles looks at pg_hba.conf with and without the right to read it.
func TestDriftOfFiles(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	monitor, err := server.Monitor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	home := target(t, server.DSN("postgres", monitor))
	options := check.Options{Checks: named(t, "drift"), Databases: []string{"postgres"}, Memory: state.OpenFiles(t.TempDir(), "x").Memory(), Logger: discard}
	sweep := func() check.Document {
		document, err := check.Sweep(t.Context(), home, options)
		if err != nil {
			t.Fatal(err)
		}
		return document
	}
	accept := func() check.Document {
		options.Accept = &check.Acceptance{}
		defer func() { options.Accept = nil }()
		return sweep()
	}
	if reason := accept().Checks[0].Reason; !strings.Contains(reason, "pg_hba.conf") {
		t.Errorf("it does not say that pg_hba.conf is left out: %q", reason)
	}
	server.MustExec(t, "postgres", "GRANT SELECT ON pg_hba_file_rules, pg_file_settings TO monitor; GRANT EXECUTE ON FUNCTION pg_hba_file_rules(), pg_show_all_file_settings() TO monitor")
	for _, f := range sweep().Findings {
		if strings.Contains(f.Message, "pg_hba.conf") {
			t.Errorf("what could not be read is no difference: %s", f.Message)
		}
	}
	accept()
	file, err := os.OpenFile(filepath.Join(server.DataDirectory, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString("host all all 0.0.0.0/0 trust\n")
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	document := sweep()
	if len(document.Findings) != 1 || document.Findings[0].Severity != check.SeverityCritical || !strings.Contains(document.Findings[0].Message, "host all all 0.0.0.0 0.0.0.0 trust added") {
		t.Errorf("%+v", document.Findings)
	}
}

// TestRows deletes, truncates and doubles rows of tables that were quiet, and of
// one that is emptied all the time.
func TestRows(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Setting("autovacuum", "off"))
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	for _, table := range []string{"quiet", "half", "gone", "twice", "month", "young", "staging", "rebuilt"} {
		server.MustExec(t, "erp", "CREATE TABLE "+table+" AS SELECT g AS id, 'x' AS v FROM generate_series(1, 20000) g")
	}
	memory := state.OpenFiles(t.TempDir(), "x").Memory()
	options := check.Options{Checks: named(t, "rows"), Memory: memory}
	look := func() check.Document {
		t.Helper()
		// The statistics of a session arrive when it has ended; before 15 what is
		// read of them may be half a second old.
		if server.Install.Major < 15 {
			time.Sleep(800 * time.Millisecond)
		}
		time.Sleep(300 * time.Millisecond)
		return sweep(t, server, options)
	}
	expectFindings(t, look())
	for range 3 {
		server.MustExec(t, "erp", "TRUNCATE staging")
		look()
		server.MustExec(t, "erp", "INSERT INTO staging SELECT g, 'x' FROM generate_series(1, 20000) g; INSERT INTO quiet SELECT g, 'y' FROM generate_series(1, 50) g; DELETE FROM quiet WHERE id < 10")
		look()
	}
	expectFindings(t, look())
	age(t, memory, server, "month")
	server.MustExec(t, "erp", "DELETE FROM half WHERE id <= 10000; TRUNCATE gone; INSERT INTO twice TABLE twice; DELETE FROM month WHERE id <= 700; DELETE FROM young WHERE id <= 700; TRUNCATE staging")
	server.MustExec(t, "erp", "VACUUM FULL rebuilt")
	server.MustExec(t, "erp", "BEGIN; DELETE FROM quiet; ROLLBACK")
	wanted := []string{
		"rows half: the table suddenly lost rows: about 20000 before, 10000 counted",
		"rows gone: the table suddenly lost rows: about 20000 before, 0 counted",
		"rows twice: the table suddenly has more rows: about 20000 before, 40000 counted",
		"rows month: the table suddenly lost rows: about 20000 before, 19300 counted",
	}
	expectFindings(t, look(), wanted...)
	expectFindings(t, look(), wanted...)
	server.MustExec(t, "erp", "INSERT INTO half SELECT g, 'x' FROM generate_series(1, 10000) g")
	expectFindings(t, look(), wanted[1:]...)
	options.Accept = &check.Acceptance{}
	look()
	options.Accept = nil
	expectFindings(t, look())
}

// age makes the history of a table 15 days old.
func age(t *testing.T, memory check.Memory, server *pgtest.Server, table string) {
	t.Helper()
	var oid string
	if err := server.Query(t.Context(), "erp", "SELECT $1::regclass::oid::text", &oid, table); err != nil {
		t.Fatal(err)
	}
	changeHistory(t, memory, func(h histories) { h[oid]["since"] = time.Now().Add(-15 * 24 * time.Hour) })
}
