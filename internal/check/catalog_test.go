package check_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// TestCatalog damages the catalogues through SQL, one database for each kind,
// as a superuser's mistake or a tool's bug does.
func TestCatalog(t *testing.T) {
	t.Parallel()
	const schema = `
		CREATE TABLE accounts (id int PRIMARY KEY, name text CHECK (name <> ''));
		CREATE TABLE postings (id int PRIMARY KEY, account int REFERENCES accounts, amount numeric);
		CREATE TABLE years (id int, y int) PARTITION BY RANGE (y);
		CREATE TABLE y2026 PARTITION OF years FOR VALUES FROM (2026) TO (2027);
		CREATE VIEW totals AS SELECT sum(amount) FROM postings;
		CREATE TYPE mood AS ENUM ('good', 'bad');
		CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'`
	damages := []struct {
		name, sql       string
		since           int
		found, relation string // a part of the message, and the relation it is about
	}{
		{"indexes switched off", "UPDATE pg_class SET relhasindex = false WHERE relname = 'postings'", 13, "relhasindex", "postings"},
		{"triggers switched off", "UPDATE pg_class SET relhastriggers = false WHERE relname = 'accounts'", 13, "relhastriggers", "accounts"},
		{"children hidden", "UPDATE pg_class SET relhassubclass = false WHERE relname = 'years'", 13, "relhassubclass", "years"},
		{"CHECK switched off", "UPDATE pg_class SET relchecks = 0 WHERE relname = 'accounts'", 13, "relchecks", "accounts"},
		{"lost column", "DELETE FROM pg_attribute WHERE attname = 'amount' AND attrelid = 'postings'::regclass", 13, "relnatts", "postings"},
		{"foreign key without its trigger", "DELETE FROM pg_trigger WHERE oid = (SELECT min(oid) FROM pg_trigger WHERE tgrelid = 'postings'::regclass)", 13, "foreign key postings_account_fkey", "postings"},
		{"relfrozenxid in the future", "UPDATE pg_class SET relfrozenxid = (txid_current() + 1000000)::text::xid WHERE relname = 'postings'", 13, "in the future", "postings"},
		{"table without its schema", "UPDATE pg_class SET relnamespace = 4242 WHERE relname = 'y2026'", 13, "pg_class (relnamespace) refers to 4242 (of y2026), which", "pg_class"},
		{"column without its type", "UPDATE pg_attribute SET atttypid = 4242 WHERE attname = 'amount'", 13, "pg_attribute (atttypid) refers to 4242 (of public.postings.amount), which", "pg_attribute"},
		{"lost enum", "DELETE FROM pg_type WHERE typname = 'mood'", 13, "pg_enum (enumtypid) refers to", "pg_enum"},
		{"two default operator classes", "UPDATE pg_opclass SET opcdefault = true WHERE opcname = 'text_pattern_ops' AND opcmethod = 403", 13, "fails here, and not in another database", "pg_class"},
		{"builtin function lost", "DELETE FROM pg_proc WHERE proname = 'hashint8extended'", 13, "it is missing here", "pg_proc"},
		{"index of no partition", "ALTER TABLE years ADD PRIMARY KEY (y); UPDATE pg_class SET relispartition = false WHERE relname = 'y2026_pkey'", 13, "whether the index public.y2026_pkey belongs", "pg_class"},
		{"bound of a list", "CREATE TABLE z (i int) PARTITION BY LIST (i); CREATE TABLE z1 PARTITION OF z FOR VALUES IN (1); UPDATE pg_class SET relpartbound = (SELECT relpartbound FROM pg_class WHERE relname = 'z1') WHERE relname = 'y2026'", 13, "a bound for the partition public.y2026 that", "pg_class"},
		{"option that nobody can set", "UPDATE pg_class SET reloptions = '{fillfactor=500}', relfrozenxid = '700' WHERE relname = 'accounts_pkey'", 13, "has an option for public.accounts_pkey (fillfactor=500)", "pg_class"},
		{"function of nobody", "UPDATE pg_proc SET proowner = 4242 WHERE proname = 'one'", 13, "pg_proc (proowner) refers to 4242", "pg_proc"},
	}
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		server.MustExec(t, "postgres", "CREATE DATABASE erp")
		server.MustExec(t, "erp", schema)
		for i, d := range damages {
			if major < d.since {
				continue
			}
			database := fmt.Sprintf("damage%d", i)
			server.MustExec(t, "postgres", "CREATE DATABASE "+database+" TEMPLATE erp")
			server.MustExec(t, database, "SET allow_system_table_mods = on; "+d.sql)
			document := sweep(t, server, check.Options{Databases: []string{database}, Checks: named(t, "catalog")})
			hit := false
			for _, f := range document.Findings {
				hit = hit || f.Relation == d.relation && strings.Contains(f.Message, d.found)
			}
			if !hit || document.ExitCode() != check.ExitFindings {
				t.Errorf("%s: exit code %d, findings %+v, %+v", d.name, document.ExitCode(), document.Findings, document.Checks)
			}
		}
		document := sweep(t, server, check.Options{Checks: named(t, "catalog")})
		if document.ExitCode() != check.ExitClean {
			t.Errorf("healthy: findings %+v, checks %+v", document.Findings, document.Checks)
		}
	})
}

// TestCatalogRules breaks in one database what holds for every row of a catalogue.
func TestCatalogRules(t *testing.T) {
	t.Parallel()
	const schema = `
		CREATE TABLE a (id int PRIMARY KEY, name text DEFAULT 'x', n int, body text);
		CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a, CHECK (id > 0));
		CREATE TABLE c (id int, v text); CREATE TABLE d (id int, v text); CREATE TABLE e (id int UNIQUE, v text); CREATE TABLE f (id int);
		CREATE TABLE g (id int); CREATE INDEX g_id ON g (id); CREATE TABLE h (id int); CREATE INDEX h_id ON h (id);
		CREATE TABLE i (id int); CREATE INDEX i_id ON i (id);
		CREATE TABLE years (id int, y int) PARTITION BY RANGE (y); CREATE TABLE y2026 PARTITION OF years FOR VALUES FROM (2026) TO (2027);
		CREATE TABLE j (id int REFERENCES a, v text, CHECK (id > 5)); CREATE TABLE years2 (id int, y int) PARTITION BY RANGE (y);
		CREATE STATISTICS kinds ON id, v FROM j; CREATE STATISTICS target ON id, v FROM j;
		CREATE FUNCTION ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER ddl ON sql_drop EXECUTE FUNCTION ddl();
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER note BEFORE INSERT ON j FOR EACH ROW EXECUTE FUNCTION note();
		CREATE VIEW seen AS SELECT 1; CREATE SEQUENCE numbers; CREATE SEQUENCE lost; CREATE TYPE pair AS (x int, y int); CREATE RULE nothing AS ON INSERT TO f DO INSTEAD NOTHING; CREATE FOREIGN DATA WRAPPER elsewhere; CREATE SERVER there FOREIGN DATA WRAPPER elsewhere; CREATE FOREIGN TABLE away (id int) SERVER there; CREATE FUNCTION one(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
		CREATE TABLE k (id int PRIMARY KEY, l int REFERENCES a ON DELETE CASCADE, m int, t text); ALTER TABLE k ADD later int DEFAULT 4; COMMENT ON COLUMN k.l IS 'of a';
		CREATE INDEX k_m ON k (m); CREATE INDEX k_l ON k (l); CREATE INDEX k_t ON k (t); CREATE INDEX k_twice ON k (m, l); CREATE TABLE l (id int); CREATE TABLE m (id int); CREATE TYPE triple AS (x int, y int);
		CREATE ROLE keeper; CREATE TABLE owned (id int); ALTER TABLE owned OWNER TO keeper; CREATE FUNCTION series() RETURNS SETOF int LANGUAGE sql AS 'SELECT 1'; CREATE POLICY adding ON c FOR INSERT WITH CHECK (true);
		CREATE TABLE n (id int PRIMARY KEY, parent int REFERENCES n, d int GENERATED ALWAYS AS (id * 2) STORED, e int GENERATED BY DEFAULT AS IDENTITY, t text DEFAULT 'x', u text DEFAULT 'y', v int);
		CREATE TABLE o (id int PRIMARY KEY, CHECK (id > 6)); CREATE SCHEMA books; CREATE TABLE books.page (id int); CREATE FUNCTION books.two() RETURNS int LANGUAGE sql AS 'SELECT 2';
		CREATE TABLE p (k int, v text) PARTITION BY RANGE (k); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE pd PARTITION OF p DEFAULT; ALTER TABLE p ADD PRIMARY KEY (k);
		CREATE TABLE q (k int) PARTITION BY RANGE (k); CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (10); CREATE TABLE q2 (v text); CREATE INDEX q2_v ON q2 (v);
		CREATE TYPE reals AS RANGE (subtype = float8); CREATE TYPE tone AS ENUM ('low', 'high'); CREATE DOMAIN small AS int DEFAULT 5;
		CREATE TRIGGER told BEFORE INSERT ON n FOR EACH ROW EXECUTE FUNCTION note('a', 'b');
		CREATE VIEW shown AS SELECT 1; CREATE SEQUENCE little AS smallint; CREATE TYPE mood AS ENUM ('sad'); CREATE TYPE floats AS RANGE (subtype = float8)`
	damages := []struct{ sql, found string }{
		{"UPDATE pg_attribute SET attname = 'w' WHERE attrelid = 'p1'::regclass AND attname = 'v'", "does not have the column public.p1.v as its table's parent"},
		{"UPDATE pg_partitioned_table SET partdefid = 0 WHERE partrelid = 'p'::regclass", "another default partition of public.p "},
		{"UPDATE pg_partitioned_table SET partcollation = '100' WHERE partrelid = 'q'::regclass", "in the partition key of public.q that"},
		{"UPDATE pg_index SET indclass = (SELECT oid::text FROM pg_opclass WHERE opcname = 'int4_ops' AND opcmethod = 403)::oidvector WHERE indexrelid = 'q2_v'::regclass", "a column of the index public.q2_v that"},
		{"UPDATE pg_range SET rngcollation = 100 WHERE rngtypid = 'reals'::regtype", "for the range type public.reals that its subtype"},
		{"UPDATE pg_enum SET enumsortorder = 'NaN' WHERE enumlabel = 'high'", "for the label 'high' of public.tone"},
		{"UPDATE pg_type SET typdefaultbin = NULL WHERE typname = 'small'", "about the type small (OID"},
		{"UPDATE pg_constraint SET conparentid = 0 WHERE conname = 'p1_pkey'", "the constraint p1_pkey of public.p1 as a part"},
		{"DELETE FROM pg_depend WHERE objid = 'q1'::regclass", "that public.q1 is a child of public.q,"},
		{"UPDATE pg_constraint SET conpfeqop = '{98}' WHERE conname = 'n_parent_fkey'", "foreign key n_parent_fkey of public.n with an operator"},
		{"UPDATE pg_constraint SET conislocal = false WHERE conname = 'o_id_check'", "o_id_check of public.o neither local nor inherited"},
		{"UPDATE pg_constraint SET conname = 'other' WHERE conname = 'o_pkey'", "or its index has another name"},
		{"UPDATE pg_constraint SET confmatchtype = 'p' WHERE conname = 'n_parent_fkey'", `confmatchtype has the value "p" (of n_parent_fkey)`},
		{"UPDATE pg_attribute SET attgenerated = '' WHERE attrelid = 'n'::regclass AND attname = 'd'", "the default of the column public.n.d is"},
		{"UPDATE pg_attrdef SET adbin = (SELECT adbin FROM pg_attrdef WHERE adrelid = 'k'::regclass) WHERE adrelid = 'n'::regclass AND adnum = 6", "the default of the column public.n.u is of another type"},
		{"UPDATE pg_attribute SET attidentity = '' WHERE attrelid = 'n'::regclass AND attname = 'e'", "whether the column public.n.e is an identity"},
		{"UPDATE pg_attribute SET atttypmod = 7 WHERE attrelid = 'n'::regclass AND attname = 'v'", "gives the column public.n.v a modifier"},
		{"UPDATE pg_trigger SET tgnargs = 3 WHERE tgname = 'told'", "number of arguments than it says, or another index than its constraint, for told of public.n"},
		{"UPDATE pg_depend SET deptype = 'n' WHERE objid = 'n_pkey'::regclass AND deptype = 'i'", "the index of the constraint n_pkey of public.n belongs"},
		{"DELETE FROM pg_depend WHERE objid = 'books.page'::regclass AND refobjid = 'books'::regnamespace", "that books.page is in the schema books"},
		{"DELETE FROM pg_depend WHERE objid = 'books.two'::regproc AND refobjid = 'books'::regnamespace", "the function two is in the schema books"},
		{"DELETE FROM pg_depend WHERE objid = (SELECT reltype FROM pg_class WHERE relname = 'o')", "the row type of public.o belongs"},
		{"UPDATE pg_proc SET proconfig = '{nosuch}' WHERE proname = 'two'", "a setting that does not go with the function two"},
		{"UPDATE pg_attribute SET attnotnull = false WHERE attrelid = 'k'::regclass AND attname = 'id'", "lets the column public.k.id be NULL"},
		{"UPDATE pg_attribute SET atthasmissing = false WHERE attrelid = 'k'::regclass AND attname = 'later'", "the column public.k.later (missing value"},
		{"UPDATE pg_attribute SET attnum = 7 WHERE attrelid = 'triple'::regclass AND attname = 'y'", "does not number the columns of public.triple"},
		{"UPDATE pg_attribute SET attcollation = 950 WHERE attrelid = 'k_t'::regclass", "a column of the index public.k_t another type or collation"},
		{"UPDATE pg_class SET relispopulated = false WHERE relname = 'l'", "about public.l (populated"},
		{"UPDATE pg_class SET relowner = (SELECT oid FROM pg_roles WHERE rolname = 'keeper') WHERE relname = 'k_m'", "table public.k_m another owner"},
		{"UPDATE pg_type SET typname = 'otherwise' WHERE typrelid = 'm'::regclass", "the name, owner or schema of public.m"},
		{"UPDATE pg_constraint SET confkey = '{2}' WHERE conname = 'k_l_fkey'", "the deferral of the constraint k_l_fkey of public.k"},
		{"UPDATE pg_index SET indoption = '7' WHERE indexrelid = 'k_l'::regclass", "a column of the index public.k_l"},
		{"UPDATE pg_depend SET refobjsubid = 1 WHERE objid = 'k_twice'::regclass AND refobjsubid = 2", "the index public.k_twice depends on a column"},
		{"DELETE FROM pg_shdepend WHERE objid = 'owned'::regclass", "who owns the relation public.owned"},
		{"UPDATE pg_description SET objsubid = 77 WHERE objoid = 'k'::regclass", "column 77 of OID"},
		{"UPDATE pg_inherits SET inhseqno = 2 WHERE inhrelid = 'y2026'::regclass", "gives the partition public.y2026 a place"},
		{"UPDATE pg_language SET lanispl = false WHERE lanname = 'plpgsql'", "the language plpgsql (its handler)"},
		{"UPDATE pg_opclass SET opcdefault = true WHERE opcname = 'bpchar_pattern_ops' AND opcmethod = 403", "several default operator classes"},
		{"UPDATE pg_amop SET amoplefttype = 23 WHERE amopopr = '<(macaddr8,macaddr8)'::regoperator", "pg_amop and pg_operator or pg_opfamily"},
		{"UPDATE pg_proc SET proretset = false WHERE proname = 'series'", "about the function series"},
		{"UPDATE pg_operator SET oprcanhash = true WHERE oprname = '|/'", "operator |/ (OID"},
		{"UPDATE pg_policy SET polqual = polwithcheck WHERE polname = 'adding'", "the policy adding of public.c"},
		{"UPDATE pg_rewrite SET is_instead = false WHERE ev_class = 'shown'::regclass", "of public.shown"},
		{"UPDATE pg_sequence SET seqmax = 99999 WHERE seqrelid = 'little'::regclass", "lets the sequence public.little go beyond"},
		{"UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'POSIX'", "the collation POSIX not deterministic"},
		{"UPDATE pg_extension SET extversion = '' WHERE extname = 'plpgsql'", "the extension plpgsql"},
		{"UPDATE pg_database SET datconnlimit = -7 WHERE datname = 'erp'", "horizon for the database erp"},
		{"UPDATE pg_type SET typcategory = 'Z' WHERE typname = 'mood'", "the type mood (OID"},
		{"UPDATE pg_trigger SET tgtype = 9 WHERE tgrelid = 'k'::regclass AND tgfoid = 1644", "as its constraint needs it"},
		{"UPDATE pg_constraint SET condeferrable = true WHERE conname = 'b_a_fkey'", "of public.b as its constraint needs it"},
		{"UPDATE pg_ts_config_map SET mapseqno = 2 WHERE mapcfg = 'simple'::regconfig AND maptokentype = 1", "not numbered from 1 on, in the configuration"},
		{"UPDATE pg_range SET rngsubdiff = 'now'::regproc WHERE rngtypid = 'floats'::regtype", "pg_range.rngsubdiff names the function now"},
		{"UPDATE pg_amproc SET amprocnum = 12 WHERE oid = (SELECT max(oid) FROM pg_amproc WHERE oid < 12000 AND amprocnum = 5)", "the builtin row of pg_amproc"},
		{"DELETE FROM pg_cast WHERE castsource = 'int8'::regtype AND casttarget = 'int2'::regtype", "it is missing here"},
		{"UPDATE pg_attribute SET attlen = 8 WHERE attrelid = 'a'::regclass AND attname = 'n'", "does not store the column public.a.n as its type"},
		{"UPDATE pg_attribute SET attalign = 'Z' WHERE attrelid = 'c'::regclass AND attname = 'id'", `attalign has the value "Z" (of public.c.id), which`},
		{"UPDATE pg_attribute SET attcollation = 0 WHERE attrelid = 'c'::regclass AND attname = 'v'", "no collation for the column public.c.v"},
		{"UPDATE pg_attribute SET atttypmod = -7 WHERE attrelid = 'd'::regclass AND attname = 'v'", "contradicts itself about the column public.d.v"},
		{"DELETE FROM pg_attribute WHERE attrelid = 'd'::regclass AND attnum = -1", "system columns of public.d"},
		{"UPDATE pg_attribute SET atthasdef = false WHERE attrelid = 'a'::regclass AND attname = 'name'", "whether the column public.a.name has a default"},
		{"UPDATE pg_class SET relfilenode = (SELECT relfilenode FROM pg_class WHERE relname = 'e') WHERE relname = 'f'", "same file to several relations"},
		{"UPDATE pg_class SET relpersistence = 'u' WHERE relname = 'g'", "gives public.g_id another persistence"},
		{"UPDATE pg_class SET reltype = 0 WHERE relname = 'g'", "row type of public.g"},
		{"UPDATE pg_class SET reltoastrelid = 0 WHERE relname = 'a'", "to no table, or to several"},
		{"UPDATE pg_class SET relpartbound = NULL WHERE relname = 'y2026'", "whether public.y2026 is a partition"},
		{"DELETE FROM pg_rewrite WHERE ev_class = 'seen'::regclass", "the view public.seen"},
		{"DELETE FROM pg_sequence WHERE seqrelid = 'lost'::regclass", "the sequence public.lost"},
		{"UPDATE pg_sequence SET seqincrement = 0 WHERE seqrelid = 'numbers'::regclass", "impossible bounds for the sequence public.numbers"},
		{"UPDATE pg_constraint SET conbin = NULL WHERE conname = 'b_id_check'", "b_id_check of public.b"},
		{"UPDATE pg_constraint SET conffeqop = NULL WHERE conname = 'b_a_fkey'", "b_a_fkey of public.b"},
		{"UPDATE pg_index SET indisunique = false WHERE indexrelid = 'e_id_key'::regclass", "about the key e_id_key"},
		{"UPDATE pg_index SET indisready = false WHERE indexrelid = 'h_id'::regclass", "about the index public.h_id"},
		{"UPDATE pg_index SET indimmediate = false WHERE indexrelid = 'k_twice'::regclass", "about the index public.k_twice"},
		{"UPDATE pg_index SET indkey = '9' WHERE indexrelid = 'i_id'::regclass", "a column that the table does not have, in the index public.i_id"},
		{"DELETE FROM pg_depend WHERE objid = 'i_id'::regclass", "what the index public.i_id depends on"},
		{"UPDATE pg_proc SET pronargs = 3 WHERE proname = 'one'", "pg_proc contradicts itself"},
		{"DELETE FROM pg_amproc WHERE amprocfamily = (SELECT oid FROM pg_opfamily WHERE opfname = 'macaddr8_ops' AND opfmethod = 403) AND amprocnum = 1", "the operator class macaddr8_ops"},
		{"UPDATE pg_conversion SET conforencoding = 99 WHERE conname = 'big5_to_utf8'", "impossible encoding for big5_to_utf8"},
		{"UPDATE pg_attribute SET attndims = -1 WHERE attrelid = 'b'::regclass AND attname = 'a'", "contradicts itself about the column public.b.a"},
		{"DELETE FROM pg_foreign_table WHERE ftrelid = 'away'::regclass", "the foreign table public.away"},
		{"UPDATE pg_index SET indisreplident = true WHERE indexrelid = 'b_pkey'::regclass", "calls public.b_pkey the replica identity"},
		{"UPDATE pg_aggregate SET aggmtranstype = 0 WHERE aggfnoid = 'sum(int4)'::regprocedure", "contradicts itself about the aggregate with OID"},
		{"UPDATE pg_class SET relminmxid = '4000000000' WHERE relname = 'f'", "older than the oldest of the database"},
		{"DELETE FROM pg_rewrite WHERE rulename = 'nothing'", "pg_rewrite does not have the object with OID"},
		{"DELETE FROM pg_conversion WHERE conname = 'euc_kr_to_utf8'", "pg_conversion does not have the object with OID"},
		{"DELETE FROM pg_attribute WHERE attrelid = 'a'::regclass AND attname = 'id'", "does not have the column 1 of public.a"},
		{"UPDATE pg_class SET relpages = -5 WHERE relname = 'h'", "impossible numbers for public.h"},
		{"UPDATE pg_proc SET proname = '' WHERE proname = 'macaddr8_lt'", "pg_proc has no name for"},
		{"UPDATE pg_depend SET refobjid = 0 WHERE objid = 'g_id'::regclass", "a dependency on nothing"},
		{"UPDATE pg_language SET oid = 0 WHERE lanname = 'plpgsql'", "pg_language has a row without an OID"},
		{"UPDATE pg_type SET typlen = 3, typbyval = true WHERE typname = 'macaddr8'", "pg_type contradicts itself about the type macaddr8"},
		{"UPDATE pg_constraint SET conindid = 0 WHERE conname = 'j_id_fkey'", "about the constraint j_id_fkey of public.j"},
		{"UPDATE pg_constraint SET coninhcount = 1 WHERE conname = 'j_id_check'", "about the constraint j_id_check of public.j"},
		{"UPDATE pg_partitioned_table SET partnatts = 2 WHERE partrelid = 'years2'::regclass", "in the partition key of public.years2"},
		{"UPDATE pg_statistic_ext SET stxkind = '{Z}' WHERE stxname = 'kinds'", "kind of statistics for kinds"},
		{"UPDATE pg_statistic_ext SET stxstattarget = -5 WHERE stxname = 'target'", "target of statistics for target"},
		{"UPDATE pg_attribute SET attstattarget = -5 WHERE attrelid = 'j'::regclass AND attname = 'v'", "target of statistics for the column public.j.v"},
		{"UPDATE pg_attribute SET attinhcount = 1 WHERE attrelid = 'j'::regclass AND attname = 'id'", "the column public.j.id was inherited"},
		{"UPDATE pg_event_trigger SET evtevent = 'other'", "an event that does not exist for ddl"},
		{"UPDATE pg_trigger SET tgdeferrable = true WHERE tgname = 'note'", "about the trigger note of public.j"},
		{"UPDATE pg_operator SET oprresult = 0 WHERE oprcode = 'macaddr8_gt'::regproc", "a function or a result of the operator >"},
		{"UPDATE pg_init_privs SET objoid = 0 WHERE ctid = (SELECT max(ctid) FROM pg_init_privs)", "privileges on nothing"},
	}
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		server.MustExec(t, "postgres", "CREATE DATABASE erp")
		server.MustExec(t, "erp", schema)
		var script strings.Builder
		script.WriteString("SET allow_system_table_mods = on")
		for _, d := range damages {
			script.WriteString("; " + d.sql)
		}
		server.MustExec(t, "erp", script.String())
		document := sweep(t, server, check.Options{Databases: []string{"erp"}, Checks: named(t, "catalog")})
		for _, d := range damages {
			if !slices.ContainsFunc(document.Findings, func(f check.Finding) bool { return strings.Contains(f.Message, d.found) }) {
				t.Errorf("%s: not found", d.found)
			}
		}
		if t.Failed() {
			for _, f := range document.Findings {
				t.Log(f.Message)
			}
			t.Log(document.Checks)
		}
	})
}

// named gives some of the checks.
func named(t testing.TB, names ...string) []check.Check {
	t.Helper()
	var list []check.Check
	for _, c := range check.All() {
		if slices.Contains(names, c.Name) {
			list = append(list, c)
		}
	}
	if len(list) != len(names) {
		t.Fatalf("not all of %v are checks", names)
	}
	return list
}

// TestCatalogDuplicate doubles a row of a catalogue, which needs an index that
// does not see it.
func TestCatalogDuplicate(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	server.MustExec(t, "erp", `SET allow_system_table_mods = on;
		CREATE TABLE accounts (id int);
		UPDATE pg_index SET indisready = false, indisvalid = false, indislive = false WHERE indrelid = 'pg_attrdef'::regclass;
		ALTER TABLE accounts ALTER id SET DEFAULT 1`)
	server.MustExec(t, "erp", `SET allow_system_table_mods = on; INSERT INTO pg_attrdef TABLE pg_attrdef`)
	server.MustExec(t, "erp", "UPDATE pg_index SET indisready = true, indisvalid = true, indislive = true WHERE indrelid = 'pg_attrdef'::regclass")
	document := sweep(t, server, check.Options{Checks: named(t, "catalog")})
	for _, f := range document.Findings {
		if f.Relation == "pg_attrdef" && strings.Contains(f.Message, "pg_attrdef has several rows for the key (oid)") {
			return
		}
	}
	t.Errorf("findings %+v, checks %+v", document.Findings, document.Checks)
}

// TestCatalogOfEverything holds that the check is silent about a database with
// every extension there is and an object of most kinds.
func TestCatalogOfEverything(t *testing.T) {
	t.Parallel()
	const extensions = `DO $$ DECLARE extension text; BEGIN
		FOR extension IN SELECT name FROM pg_available_extensions LOOP
			BEGIN EXECUTE format('CREATE EXTENSION IF NOT EXISTS %I CASCADE', extension);
			EXCEPTION WHEN OTHERS THEN RAISE NOTICE '%', SQLERRM; END;
		END LOOP; END $$`
	const objects = `
		CREATE TABLE a (id int PRIMARY KEY, b int UNIQUE DEFERRABLE, c int GENERATED ALWAYS AS (b + 1) STORED, d int REFERENCES a);
		CREATE TABLE p (id int, x int, PRIMARY KEY (id, x)) PARTITION BY RANGE (id);
		CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (100);
		CREATE TABLE p2 PARTITION OF p DEFAULT;
		CREATE TABLE f (id int, x int, FOREIGN KEY (id, x) REFERENCES p);
		ALTER TABLE f ADD FOREIGN KEY (x) REFERENCES a NOT VALID;
		CREATE TABLE f2 (id int REFERENCES a) PARTITION BY HASH (id);
		CREATE TABLE f20 PARTITION OF f2 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
		CREATE TABLE heir () INHERITS (a);
		DROP TABLE heir;
		CREATE TABLE elder (i int NOT NULL CHECK (i > 0), v text);
		CREATE TABLE younger (w text) INHERITS (elder);
		CREATE TABLE youngest (i int, CHECK (i < 100)) INHERITS (younger);
		ALTER TABLE elder ADD z int DEFAULT 3;
		ALTER TABLE younger NO INHERIT elder;
		CREATE TABLE l (id int NOT NULL CHECK (id > 0), x text COLLATE "C") PARTITION BY LIST (x);
		CREATE TABLE l1 PARTITION OF l FOR VALUES IN ('a') PARTITION BY RANGE (id, (id % 7));
		CREATE TABLE l11 PARTITION OF l1 FOR VALUES FROM (1, 0) TO (50, 0);
		CREATE TABLE l2 PARTITION OF l FOR VALUES IN ('b');
		ALTER TABLE l DETACH PARTITION l2;
		CREATE TYPE pair AS (a int, b text);
		CREATE TABLE typed OF pair;
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE CONSTRAINT TRIGGER late AFTER INSERT ON elder DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
		CREATE TRIGGER changes AFTER UPDATE ON elder REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION note();
		CREATE TRIGGER first BEFORE INSERT ON l FOR EACH ROW WHEN (false) EXECUTE FUNCTION note();
		CREATE VIEW seen AS SELECT * FROM elder;
		CREATE TRIGGER instead INSTEAD OF UPDATE ON seen FOR EACH ROW EXECUTE FUNCTION note();
		CREATE TABLE apart (r int4range, EXCLUDE USING gist (r WITH &&) DEFERRABLE INITIALLY DEFERRED);
		CREATE FUNCTION ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
		CREATE EVENT TRIGGER dropped ON sql_drop EXECUTE FUNCTION ddl();
		CREATE OPERATOR ~== (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int, COMMUTATOR = ==~);
		CREATE STATISTICS kinds (ndistinct, mcv) ON i, z FROM elder;
		ALTER STATISTICS kinds SET STATISTICS 0;
		ALTER TABLE elder ALTER i SET STATISTICS 0;
		ALTER TABLE a DROP COLUMN c;
		CREATE RULE r AS ON INSERT TO a WHERE false DO INSTEAD NOTHING;
		DROP RULE r ON a;
		CREATE STATISTICS s ON b, d FROM a;
		CREATE POLICY own ON a USING (true);
		CREATE PUBLICATION everything FOR ALL TABLES;
		CREATE DOMAIN positive AS int CHECK (VALUE > 0);
		CREATE COLLATION plain FROM "C";
		CREATE ROLE reader;
		ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reader;
		GRANT SELECT ON a TO reader;
		COMMENT ON TABLE a IS 'commented';
		CREATE UNLOGGED TABLE fast (i int);
		CREATE SEQUENCE numbers;
		CREATE AGGREGATE total (int) (sfunc = int4pl, stype = int);
		CREATE OPERATOR === (leftarg = int, rightarg = int, function = int4eq);
		CREATE DOMAIN tags AS varchar(9)[][] NOT NULL DEFAULT '{}';
		CREATE DOMAIN deeper AS tags;
		CREATE TABLE boxes (b box[], t tags, d deeper, n numeric(5, 2)[]);
		CREATE TABLE actions (i int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, j int REFERENCES a ON DELETE CASCADE ON UPDATE SET NULL, k int REFERENCES a ON DELETE SET DEFAULT ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
			l int REFERENCES a ON DELETE RESTRICT ON UPDATE RESTRICT DEFERRABLE, m int REFERENCES actions ON DELETE SET NULL);
		ALTER TABLE actions ALTER CONSTRAINT actions_j_fkey DEFERRABLE;
		ALTER TABLE actions ADD later int NOT NULL DEFAULT 5, ADD again text DEFAULT 'x';
		ALTER TABLE actions ALTER later TYPE bigint;
		CREATE UNIQUE INDEX actions_key ON actions (later) INCLUDE (again);
		ALTER TABLE actions ADD CONSTRAINT actions_later UNIQUE USING INDEX actions_key;
		CREATE INDEX actions_by ON actions (lower(again), later DESC NULLS LAST) WHERE j > 0;
		CREATE INDEX actions_twice ON actions (i, i);
		REINDEX INDEX CONCURRENTLY actions_by;
		CREATE TABLE copied (LIKE actions INCLUDING ALL);
		ALTER TABLE copied RENAME TO moved;
		ALTER TABLE moved DROP COLUMN again;
		CREATE SCHEMA aside;
		CREATE ROLE keeper;
		GRANT CREATE ON SCHEMA aside TO keeper;
		ALTER TABLE moved SET SCHEMA aside;
		ALTER TABLE aside.moved OWNER TO keeper;
		CREATE TABLE aside.owned (i serial PRIMARY KEY, t text);
		ALTER TABLE aside.owned OWNER TO keeper;
		CREATE VIEW aside.view AS SELECT i FROM aside.owned;
		ALTER VIEW aside.view OWNER TO keeper;
		ALTER VIEW aside.view RENAME TO renamed;
		CREATE MATERIALIZED VIEW aside.empty AS SELECT 1 AS i WITH NO DATA;
		CREATE MATERIALIZED VIEW aside.full AS SELECT i, t FROM aside.owned;
		CREATE UNIQUE INDEX ON aside.full (i);
		REFRESH MATERIALIZED VIEW CONCURRENTLY aside.full;
		CREATE TABLE expressions (a int, b int, EXCLUDE USING btree ((a + b) WITH =, b WITH =));
		CREATE FUNCTION several(a int, OUT b int, INOUT c text, VARIADIC d int[] DEFAULT '{}') LANGUAGE sql AS 'SELECT 1, c';
		CREATE FUNCTION rows(a int DEFAULT 1, b text DEFAULT '') RETURNS TABLE (x int, y text) LANGUAGE sql ROWS 7 AS 'SELECT a, b';
		CREATE FUNCTION many() RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
		CREATE PROCEDURE perform(a int, INOUT b int) LANGUAGE plpgsql AS 'BEGIN END';
		CREATE FUNCTION nearer(float8, float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 - $2';
		CREATE TYPE floats AS RANGE (subtype = float8, subtype_diff = nearer);
		CREATE CAST (pair AS text) WITH INOUT;
		CREATE TYPE mood AS ENUM ('sad', 'glad');
		ALTER TYPE mood ADD VALUE 'calm' BEFORE 'glad';
		CREATE FUNCTION number_of(mood) RETURNS int LANGUAGE sql AS 'SELECT 1';
		CREATE CAST (mood AS int) WITH FUNCTION number_of(mood);
		CREATE AGGREGATE middle (float8 ORDER BY anyelement) (sfunc = ordered_set_transition, stype = internal, finalfunc = percentile_disc_final, finalfunc_extra);
		CREATE AGGREGATE moving (int) (sfunc = int4pl, stype = int, msfunc = int4pl, minvfunc = int4mi, mstype = int, combinefunc = int4pl, parallel = safe);
		CREATE TEXT SEARCH CONFIGURATION words (COPY = english);
		ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING FOR asciiword, word WITH simple, english_stem;
		ALTER TEXT SEARCH CONFIGURATION words DROP MAPPING FOR url;
		CREATE OPERATOR FAMILY numbers USING btree;
		CREATE OPERATOR CLASS odd FOR TYPE int USING btree FAMILY numbers AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int);
		ALTER TABLE elder REPLICA IDENTITY FULL;
		CREATE UNIQUE INDEX elder_i ON elder (i);
		ALTER TABLE elder REPLICA IDENTITY USING INDEX elder_i;
		COMMENT ON COLUMN actions.j IS 'of a';
		COMMENT ON CONSTRAINT actions_later ON actions IS 'later';
		CREATE POLICY adding ON actions FOR INSERT WITH CHECK (true);
		CREATE POLICY reading ON actions FOR SELECT TO reader USING (true);
		CREATE POLICY changing ON actions FOR UPDATE USING (i > 0) WITH CHECK (i > 1);
		CREATE RULE also AS ON UPDATE TO actions WHERE false DO ALSO NOTHING;
		CREATE SEQUENCE little AS smallint CYCLE MINVALUE -5;
		CREATE TABLE keyed (id int NOT NULL, x int) PARTITION BY RANGE (id);
		CREATE TABLE keyed1 (x int, dropped int, id int NOT NULL);
		ALTER TABLE keyed1 DROP dropped;
		ALTER TABLE keyed ATTACH PARTITION keyed1 FOR VALUES FROM (0) TO (10);
		CREATE FOREIGN DATA WRAPPER nothing;
		CREATE SERVER far FOREIGN DATA WRAPPER nothing;
		CREATE FOREIGN TABLE keyed2 PARTITION OF keyed FOR VALUES FROM (10) TO (20) SERVER far;
		ALTER TABLE keyed ADD y text NOT NULL DEFAULT 'y';
		CREATE TRIGGER first BEFORE INSERT ON keyed FOR EACH ROW EXECUTE FUNCTION note();
		CREATE INDEX p_x ON ONLY p (x);
		CREATE INDEX p1_x ON p1 (x);
		ALTER INDEX p_x ATTACH PARTITION p1_x;
		CREATE TABLE refers (id int, x int, FOREIGN KEY (id, x) REFERENCES p ON DELETE CASCADE) PARTITION BY LIST (id);
		CREATE TABLE refers1 PARTITION OF refers FOR VALUES IN (1, 2);
		CREATE TABLE refers2 PARTITION OF refers DEFAULT;
		ALTER TABLE refers DETACH PARTITION refers2;
		SELECT lo_create(0);
		ANALYZE elder, actions, a`
	// later are objects that not all versions have.
	later := map[int]string{
		14: `CREATE TYPE reals AS RANGE (subtype = float8, multirange_type_name = many_reals);
			CREATE STATISTICS expressions_of ON (a + b), b FROM expressions;
			CREATE TABLE concurrent (i int) PARTITION BY RANGE (i);
			CREATE TABLE concurrent1 PARTITION OF concurrent FOR VALUES FROM (0) TO (1);
			ALTER TABLE concurrent DETACH PARTITION concurrent1 CONCURRENTLY;
			CREATE PROCEDURE giving(a int, OUT b int) LANGUAGE plpgsql AS 'BEGIN END'`,
		15: `CREATE PUBLICATION columns FOR TABLE actions (i, j) WHERE (i > 0);
			CREATE PUBLICATION schemas FOR TABLES IN SCHEMA aside;
			CREATE TABLE equal (i int UNIQUE NULLS NOT DISTINCT);
			CREATE TABLE forgetting (i int, j int, FOREIGN KEY (i, j) REFERENCES p ON DELETE SET NULL (j))`,
		17: `CREATE TABLE numbered (i int GENERATED BY DEFAULT AS IDENTITY, j int) PARTITION BY RANGE (j);
			CREATE TABLE numbered1 PARTITION OF numbered FOR VALUES FROM (0) TO (1)`,
		18: `CREATE TABLE virtual (i int, j int GENERATED ALWAYS AS (i + 1) VIRTUAL);
			CREATE TABLE lax (i int REFERENCES a NOT ENFORCED, CHECK (i > 0) NOT ENFORCED);
			ALTER TABLE lax ADD CONSTRAINT not_null NOT NULL i NOT VALID;
			CREATE TABLE times (i int4range, at tstzrange, PRIMARY KEY (i, at WITHOUT OVERLAPS));
			CREATE TABLE timed (i int4range, at tstzrange, FOREIGN KEY (i, PERIOD at) REFERENCES times (i, PERIOD at))`,
	}
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Setting("wal_level", "logical"))
		server.MustExec(t, "postgres", "CREATE DATABASE erp")
		server.MustExec(t, "erp", extensions)
		statements := objects
		for _, since := range slices.Sorted(maps.Keys(later)) {
			if since <= major {
				statements += ";\n" + later[since]
			}
		}
		for statement := range strings.SplitSeq(statements, ";\n") {
			server.MustExec(t, "erp", statement)
		}
		document := sweep(t, server, check.Options{Checks: named(t, "catalog")})
		if document.ExitCode() != check.ExitClean || document.Checks[0].Objects < 60 {
			t.Errorf("findings %+v, checks %+v", document.Findings, document.Checks)
		}
	})
}
