package check_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// violation is a way in which rows come to break a constraint.
type violation struct {
	name  string
	since int
	// schema makes healthy tables in a schema of their own, breaks does the rest.
	schema, breaks string
	// table is the table of the finding, message a part of its message.
	table, message string
	severity       check.Severity
}

// violations lists rows that break each kind of constraint in the ways that
// happen: triggers switched off, keys dropped and marked valid by hand,
// changed functions and catalogues, indexes that do not see a row.
func violations() []violation {
	const off = "SET session_replication_role = replica; "
	const catalog = "SET allow_system_table_mods = on; "
	return []violation{
		{name: "foreign_key", since: 13, schema: `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a); INSERT INTO a SELECT generate_series(1, 100); INSERT INTO b SELECT g, g FROM generate_series(1, 100) g; INSERT INTO b VALUES (101, NULL)`,
			breaks: off + "DELETE FROM a WHERE id = 7", table: "b", message: `foreign key "b_a_fkey" (a) is broken: what 1 row: (id)=(7), ctid (0,7) refer to does not exist in foreign_key.a`},
		{name: "triggers_off", since: 13, schema: `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (a int REFERENCES a DEFERRABLE INITIALLY DEFERRED); INSERT INTO a VALUES (1)`,
			breaks: "ALTER TABLE b DISABLE TRIGGER ALL; INSERT INTO b VALUES (1), (2); ALTER TABLE b ENABLE TRIGGER ALL", table: "b", message: "1 row: ctid (0,2)"},
		{name: "composite", since: 13, schema: `CREATE TABLE a (x int, y text, PRIMARY KEY (y, x)); CREATE TABLE b (id int, x bigint, y varchar, FOREIGN KEY (x, y) REFERENCES a (x, y)); INSERT INTO a VALUES (1, 'a'), (2, 'b'); INSERT INTO b VALUES (1, 1, 'a'), (2, NULL, 'nothing'), (3, 9, NULL)`,
			breaks: off + "INSERT INTO b VALUES (4, 1, 'b')", table: "b", message: `"b_x_y_fkey" (x, y) is broken: what 1 row`},
		{name: "match_full", since: 13, schema: `CREATE TABLE a (x int, y int, PRIMARY KEY (x, y)); CREATE TABLE b (x int, y int, FOREIGN KEY (x, y) REFERENCES a MATCH FULL); INSERT INTO b VALUES (NULL, NULL)`,
			breaks: off + "INSERT INTO b VALUES (1, NULL)", table: "b", message: `MATCH FULL foreign key "b_x_y_fkey" is broken by 1 row`},
		{name: "self_reference", since: 13, schema: `CREATE TABLE a (id int PRIMARY KEY, parent int REFERENCES a); INSERT INTO a VALUES (1, NULL), (2, 1), (3, 3)`,
			breaks: off + "UPDATE a SET parent = 42 WHERE id = 2", table: "a", message: "(id)=(2)"},
		{name: "two_references", since: 13, schema: `CREATE TABLE a (id int PRIMARY KEY, account int); CREATE TABLE p (id int PRIMARY KEY, account bigint REFERENCES a, "Other" int REFERENCES a); INSERT INTO a SELECT g, 99 FROM generate_series(1, 100) g; INSERT INTO p SELECT g, g, 101 - g FROM generate_series(1, 100) g; INSERT INTO p VALUES (101, NULL, NULL)`,
			breaks: off + `UPDATE p SET "Other" = 1000 WHERE id = 7`, table: "p", message: `foreign key "p_Other_fkey" (Other) is broken: what 1 row: (id)=(7), ctid (0,102) refer to does not exist in two_references.a`},
		{name: "hidden", since: 13, schema: `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a, v int, w int); INSERT INTO a SELECT generate_series(1, 100); INSERT INTO b SELECT g, 1, 1, 1 FROM generate_series(1, 5000) g`,
			breaks: off + catalog + "UPDATE b SET v = 10 WHERE id <= 4000; UPDATE b SET a = -1, w = 10 WHERE id = 5000; ALTER TABLE b ADD CONSTRAINT small CHECK (v < 10) NOT VALID, ADD CONSTRAINT tiny CHECK (w < 10) NOT VALID; UPDATE pg_constraint SET convalidated = true WHERE conname IN ('small', 'tiny')", table: "b", message: `CHECK constraint "tiny" is broken by 1 row: (id)=(5000)`},
		{name: "referencing_partition", since: 13, schema: `CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1); CREATE TABLE b (y int, a int REFERENCES a) PARTITION BY RANGE (y); CREATE TABLE b1 PARTITION OF b FOR VALUES FROM (1) TO (10); CREATE TABLE b2 PARTITION OF b DEFAULT; INSERT INTO b VALUES (1, 1), (20, 1)`,
			breaks: off + "INSERT INTO b VALUES (2, 99)", table: "b1", message: `"b_a_fkey" (a) is broken`},
		{name: "referenced_partition", since: 13, schema: `CREATE TABLE a (id int PRIMARY KEY) PARTITION BY HASH (id); CREATE TABLE a0 PARTITION OF a FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE a1 PARTITION OF a FOR VALUES WITH (MODULUS 2, REMAINDER 1); CREATE TABLE b (a int REFERENCES a); INSERT INTO a SELECT generate_series(1, 20); INSERT INTO b SELECT generate_series(1, 20)`,
			breaks: off + "TRUNCATE a1 CASCADE; INSERT INTO b VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9)", table: "b", message: `"b_a_fkey" (a) is broken`},
		{name: "check_constraint", since: 13, schema: `CREATE TABLE a (id int PRIMARY KEY, amount numeric CHECK (amount >= 0)); INSERT INTO a VALUES (1, 1), (2, NULL)`,
			breaks: catalog + "UPDATE pg_class SET relchecks = 0 WHERE oid = 'check_constraint.a'::regclass; INSERT INTO a VALUES (3, -5); UPDATE pg_class SET relchecks = 1 WHERE oid = 'check_constraint.a'::regclass", table: "a", message: `CHECK constraint "a_amount_check" is broken by 1 row: (id)=(3), ctid (0,3)`},
		{name: "changed_function", since: 13, schema: `CREATE FUNCTION limit_of() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 100'; CREATE FUNCTION good(a int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN a < limit_of(); END'; SET search_path = changed_function; CREATE TABLE a (v int CHECK (good(v))); INSERT INTO a VALUES (50)`,
			breaks: "CREATE OR REPLACE FUNCTION limit_of() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 10'", table: "a", message: `CHECK constraint "a_v_check" is broken by 1 row`},
		{name: "not_null", since: 13, schema: `CREATE TABLE a (id int, v text NOT NULL); INSERT INTO a VALUES (1, 'x')`,
			breaks: catalog + "UPDATE pg_attribute SET attnotnull = false WHERE attrelid = 'not_null.a'::regclass AND attname = 'v'; INSERT INTO a VALUES (2, NULL); UPDATE pg_attribute SET attnotnull = true WHERE attrelid = 'not_null.a'::regclass AND attname = 'v'", table: "a", message: `NOT NULL constraint "v" is broken by 1 row: ctid (0,2)`},
		{name: "primary_key", since: 13, schema: `CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT g, 'x' FROM generate_series(1, 1000) g`,
			breaks: catalog + "UPDATE pg_index SET indisready = false, indislive = false WHERE indrelid = 'primary_key.a'::regclass; INSERT INTO a VALUES (5, 'again'), (5, 'and again'); UPDATE pg_index SET indisready = true, indislive = true WHERE indrelid = 'primary_key.a'::regclass", table: "a", message: `primary key "a_pkey" is broken: 1 key occurs more than once: (id)=(5) in 3 rows`},
		{name: "unique_index", since: 13, schema: `CREATE TABLE a (v text, active bool); CREATE UNIQUE INDEX ON a (lower(v)) WHERE active; INSERT INTO a VALUES ('x', true), ('X', false), (NULL, true), (NULL, true)`,
			breaks: catalog + "UPDATE pg_index SET indisready = false, indislive = false WHERE indrelid = 'unique_index.a'::regclass; INSERT INTO a VALUES ('X', true); UPDATE pg_index SET indisready = true, indislive = true WHERE indrelid = 'unique_index.a'::regclass", table: "a", message: `(lower(v))=(x) in 2 rows`},
		{name: "nulls_not_distinct", since: 15, schema: `CREATE TABLE a (v text UNIQUE NULLS NOT DISTINCT); INSERT INTO a VALUES (NULL), ('x')`,
			breaks: catalog + "UPDATE pg_index SET indisready = false, indislive = false WHERE indrelid = 'nulls_not_distinct.a'::regclass; INSERT INTO a VALUES (NULL); UPDATE pg_index SET indisready = true, indislive = true WHERE indrelid = 'nulls_not_distinct.a'::regclass", table: "a", message: `(v)=(null) in 2 rows`},
		{name: "excluded_ranges", since: 13, schema: `CREATE TABLE a (id int, r int4range, EXCLUDE USING gist (r WITH &&)); INSERT INTO a VALUES (1, '[1,5)'), (2, '[5,9)'), (3, 'empty'), (4, NULL), (5, NULL)`,
			breaks: catalog + "UPDATE pg_index SET indisready = false, indislive = false WHERE indrelid = 'excluded_ranges.a'::regclass; INSERT INTO a VALUES (6, '[8,20)'); UPDATE pg_index SET indisready = true, indislive = true WHERE indrelid = 'excluded_ranges.a'::regclass", table: "a", message: `exclusion constraint "a_r_excl" is broken by at least 1 pairs`},
		{name: "excluded_boxes", since: 13, schema: `CREATE TABLE a (id int, b box, EXCLUDE USING gist (b WITH &&)); INSERT INTO a VALUES (1, '(0,0),(1,1)'), (2, '(5,5),(6,6)')`,
			breaks: catalog + "UPDATE pg_index SET indisready = false, indislive = false WHERE indrelid = 'excluded_boxes.a'::regclass; INSERT INTO a VALUES (6, '(0,0),(9,9)'); UPDATE pg_index SET indisready = true, indislive = true WHERE indrelid = 'excluded_boxes.a'::regclass", table: "a", message: `exclusion constraint "a_b_excl" is broken by at least 2 pairs`},
		{name: "partition_bound", since: 13, schema: `CREATE TABLE a (id int, y int) PARTITION BY RANGE (y); CREATE TABLE a1 PARTITION OF a FOR VALUES FROM (1) TO (10); CREATE TABLE a2 PARTITION OF a FOR VALUES FROM (10) TO (20); INSERT INTO a VALUES (1, 1), (2, 15)`,
			breaks: catalog + "UPDATE pg_class SET relispartition = false WHERE oid = 'partition_bound.a1'::regclass; INSERT INTO a1 VALUES (3, 15); UPDATE pg_class SET relispartition = true WHERE oid = 'partition_bound.a1'::regclass", table: "a1", message: `partition bound "a1" is broken by 1 row`},
		{name: "domain_check", since: 13, schema: `CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE DOMAIN small AS positive CHECK (VALUE < 1000); CREATE TABLE a (id int PRIMARY KEY, v small, many positive[]); INSERT INTO a VALUES (1, 5, '{1,2}'), (2, NULL, NULL)`,
			breaks: catalog + "CREATE TEMP TABLE kept AS SELECT * FROM pg_constraint WHERE contypid = 'domain_check.positive'::regtype; DELETE FROM pg_constraint WHERE contypid = 'domain_check.positive'::regtype; INSERT INTO a VALUES (3, -1, '{-7}'); INSERT INTO pg_constraint TABLE kept", table: "a", message: `domain domain_check.positive of column "v" is broken by 1 row: (id)=(3)`},
		{name: "domain_array", since: 13, schema: `CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TABLE a (many positive[]); INSERT INTO a VALUES ('{1,2}'), (NULL)`,
			breaks: catalog + "CREATE TEMP TABLE kept2 AS SELECT * FROM pg_constraint WHERE contypid = 'domain_array.positive'::regtype; DELETE FROM pg_constraint WHERE contypid = 'domain_array.positive'::regtype; INSERT INTO a VALUES ('{1,-7}'); INSERT INTO pg_constraint TABLE kept2", table: "a", message: `domain domain_array.positive of column "many" is broken by 1 row`},
		{name: "domain_inside", since: 13, schema: `CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE DOMAIN present AS text NOT NULL; CREATE TYPE inner_pair AS (a positive, b present); CREATE TYPE outer_pair AS (p inner_pair, q inner_pair[]); CREATE TABLE a (id int PRIMARY KEY, "%s" outer_pair); INSERT INTO a VALUES (1, ROW(ROW(1, 'x'), ARRAY[ROW(1, 'x')::inner_pair, NULL])), (2, NULL), (3, ROW(NULL, NULL)), (4, ROW(NULL, '{}'))`,
			breaks: catalog + "CREATE TEMP TABLE kept3 AS SELECT * FROM pg_constraint WHERE contypid = 'domain_inside.positive'::regtype; DELETE FROM pg_constraint WHERE contypid = 'domain_inside.positive'::regtype; INSERT INTO a VALUES (5, ROW(NULL, ARRAY[ROW(1, 'x')::inner_pair, ROW(-7, 'x')::inner_pair])); INSERT INTO pg_constraint TABLE kept3", table: "a", message: `domain domain_inside.positive of column "%s.q.a" is broken by 1 row: (id)=(5)`},
		{name: "domain_range", since: 13, schema: `CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TYPE span AS RANGE (subtype = positive); CREATE TABLE a (id int PRIMARY KEY, r span); INSERT INTO a VALUES (1, '[1,5)'), (2, '(,)'), (3, 'empty'), (4, NULL)`,
			breaks: catalog + "CREATE TEMP TABLE kept4 AS SELECT * FROM pg_constraint WHERE contypid = 'domain_range.positive'::regtype; DELETE FROM pg_constraint WHERE contypid = 'domain_range.positive'::regtype; INSERT INTO a VALUES (5, '[-7,5)'); INSERT INTO pg_constraint TABLE kept4", table: "a", message: `domain domain_range.positive of column "r.lower" is broken by 1 row: (id)=(5)`},
		{name: "not_a_number", since: 13, schema: `CREATE TABLE a (id int PRIMARY KEY, v float8 CHECK (v < 'infinity')); INSERT INTO a VALUES (1, 1), (2, '-infinity')`,
			breaks: catalog + "UPDATE pg_class SET relchecks = 0 WHERE oid = 'not_a_number.a'::regclass; INSERT INTO a VALUES (3, 'NaN'), (4, 'infinity'); UPDATE pg_class SET relchecks = 1 WHERE oid = 'not_a_number.a'::regclass", table: "a", message: `CHECK constraint "a_v_check" is broken by 2 rows`},
		{name: "other_order", since: 13, schema: `CREATE TABLE a (gone int, region text, y int) PARTITION BY LIST (region); CREATE TABLE a_eu (y int, junk text, region text, gone int) PARTITION BY RANGE (y); ALTER TABLE a_eu DROP junk; ALTER TABLE a ATTACH PARTITION a_eu FOR VALUES IN ('eu', 'uk'); ALTER TABLE a DROP gone; CREATE TABLE a_eu_1 PARTITION OF a_eu FOR VALUES FROM (1) TO (10); CREATE TABLE a_eu_rest PARTITION OF a_eu DEFAULT; INSERT INTO a VALUES ('eu', 1), ('uk', 50), ('eu', NULL)`,
			breaks: catalog + "UPDATE pg_class SET relispartition = false WHERE oid = 'other_order.a_eu_rest'::regclass; INSERT INTO a_eu_rest (region, y) VALUES ('eu', 5); UPDATE pg_class SET relispartition = true WHERE oid = 'other_order.a_eu_rest'::regclass", table: "a_eu_rest", message: `partition bound "a_eu_rest" is broken by 1 row`},
		{name: "view_key", since: 13, schema: `CREATE MATERIALIZED VIEW a AS SELECT 1 AS id; CREATE UNIQUE INDEX ON a (id)`,
			breaks: catalog + "UPDATE pg_index SET indisready = false, indislive = false WHERE indrelid = 'view_key.a'::regclass; UPDATE pg_class SET relkind = 'r' WHERE oid = 'view_key.a'::regclass; INSERT INTO a VALUES (1); UPDATE pg_class SET relkind = 'm' WHERE oid = 'view_key.a'::regclass; UPDATE pg_index SET indisready = true, indislive = true WHERE indrelid = 'view_key.a'::regclass", table: "a", message: `unique index "a_id_idx" is broken: 1 key occurs more than once: (id)=(1) in 2 rows`},
		{name: "enum_value", since: 13, schema: `CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TABLE a (id int PRIMARY KEY, m mood); INSERT INTO a VALUES (1, 'good'), (2, 'bad'), (3, NULL)`,
			breaks: catalog + "DELETE FROM pg_enum WHERE enumlabel = 'bad' AND enumtypid = 'enum_value.mood'::regtype", table: "a", message: `enum enum_value.mood of column "m" is broken by 1 row: (id)=(2)`},
		{name: "not_valid", since: 13, schema: `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (a int)`,
			breaks: "INSERT INTO b VALUES (1); ALTER TABLE b ADD FOREIGN KEY (a) REFERENCES a NOT VALID", table: "b", message: "the constraint is NOT VALID", severity: check.SeverityWarning},
		{name: "marked_valid", since: 13, schema: `CREATE TABLE a (v int)`,
			breaks: catalog + "INSERT INTO a VALUES (-1); ALTER TABLE a ADD CONSTRAINT positive CHECK (v > 0) NOT VALID; UPDATE pg_constraint SET convalidated = true WHERE conrelid = 'marked_valid.a'::regclass", table: "a", message: `CHECK constraint "positive" is broken by 1 row`},
		{name: "not_enforced", since: 18, schema: `CREATE TABLE a (v int CHECK (v > 0))`,
			breaks: "ALTER TABLE a DROP CONSTRAINT a_v_check; ALTER TABLE a ADD CHECK (v > 0) NOT ENFORCED; INSERT INTO a VALUES (-1)", table: "a", message: "the constraint is NOT ENFORCED", severity: check.SeverityWarning},
		{name: "empty_period", since: 18, schema: `CREATE TABLE a (id int4range, r int4range, PRIMARY KEY (id, r WITHOUT OVERLAPS)); INSERT INTO a VALUES ('[1,2)', '[1,5)')`,
			breaks: catalog + "UPDATE pg_index SET indisready = false, indislive = false WHERE indrelid = 'empty_period.a'::regclass; INSERT INTO a VALUES ('[1,2)', 'empty'); UPDATE pg_index SET indisready = true, indislive = true WHERE indrelid = 'empty_period.a'::regclass", table: "a", message: `key WITHOUT OVERLAPS "a_pkey" is broken by 1 row`},
		{name: "virtual_check", since: 18, schema: `CREATE TABLE a (a int, v int GENERATED ALWAYS AS (a * 2) VIRTUAL CHECK (v < 100)); INSERT INTO a VALUES (1), (NULL)`,
			breaks: catalog + "UPDATE pg_class SET relchecks = 0 WHERE oid = 'virtual_check.a'::regclass; INSERT INTO a VALUES (60); UPDATE pg_class SET relchecks = 1 WHERE oid = 'virtual_check.a'::regclass", table: "a", message: `CHECK constraint "a_v_check" is broken by 1 row`},
		{name: "without_overlaps", since: 18, schema: `CREATE TABLE a (v int4range, id int4range, r int4range, PRIMARY KEY (id, r WITHOUT OVERLAPS)); INSERT INTO a VALUES (NULL, '[1,2)', '[1,5)'), (NULL, '[2,3)', '[1,5)'), (NULL, '[1,2)', '[5,9)'); CREATE TABLE b (id int4range, r int4range, FOREIGN KEY (id, PERIOD r) REFERENCES a (id, PERIOD r)); INSERT INTO b VALUES ('[1,2)', '[2,7)')`,
			breaks: off + "INSERT INTO b VALUES ('[2,3)', '[2,7)')", table: "b", message: "foreign key \"b_id_r_fkey\" (id, r) is broken: what 1 row: ctid (0,2)"},
	}
}

// TestConstraint breaks every kind of constraint, each in a schema of its own.
func TestConstraint(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		server.MustExec(t, "postgres", "CREATE DATABASE erp")
		var kinds []violation
		for _, v := range violations() {
			if major < v.since {
				continue
			}
			if v.severity == "" {
				v.severity = check.SeverityCritical
			}
			kinds = append(kinds, v)
			server.MustExec(t, "erp", "CREATE SCHEMA "+v.name+"; SET search_path = "+v.name+"; "+v.schema)
		}
		constraint := named(t, "constraint")
		document := sweep(t, server, check.Options{Checks: constraint})
		if document.ExitCode() != check.ExitClean || document.Checks[0].Objects < len(kinds) || !document.Checks[0].Whole {
			t.Fatalf("healthy: findings %+v, checks %+v", document.Findings, document.Checks)
		}
		for _, v := range kinds {
			server.MustExec(t, "erp", "SET search_path = "+v.name+"; "+v.breaks)
		}
		document = sweep(t, server, check.Options{Checks: constraint})
		for _, v := range kinds {
			hit := false
			for _, f := range document.Findings {
				if f.Schema == v.name && f.Relation == v.table && strings.Contains(f.Message, v.message) {
					hit = f.Severity == v.severity && f.Class == check.ClassDataRule && f.Impact != "" && f.Action != ""
				}
			}
			if !hit {
				t.Errorf("%s was not found", v.name)
			}
		}
		expected := len(kinds) + 3 // the domain of domain_check holds for two columns, and hidden has three broken constraints
		if len(document.Findings) != expected || document.Checks[0].Reason != "" {
			t.Errorf("%d findings, %d expected; checks %+v", len(document.Findings), expected, document.Checks)
			for _, f := range document.Findings {
				t.Logf("%s.%s: %s", f.Schema, f.Relation, f.Message)
			}
		}
		for _, f := range sweep(t, server, check.Options{Checks: constraint, Rules: check.Rules{MaskKeys: true}}).Findings {
			if strings.Contains(f.Message, ")=(") && !strings.Contains(f.Message, "=(masked)") {
				t.Errorf("a key is told: %s", f.Message)
			}
		}
	})
}

// TestConstraintSample breaks a twentieth of the rows of a table, in its last
// part: a sample of all pages tells of them in the run that looks at the first
// part, and says how sure it is without a finding.
func TestConstraintSample(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		server.MustExec(t, "postgres", "CREATE DATABASE erp")
		server.MustExec(t, "erp", `CREATE TABLE accounts (id int PRIMARY KEY); INSERT INTO accounts VALUES (1);
			CREATE TABLE postings (id int PRIMARY KEY, account int CONSTRAINT of_account REFERENCES accounts, amount int CONSTRAINT nonzero CHECK (amount <> 0), memo text, twice int GENERATED ALWAYS AS (2 * amount) STORED);
			ALTER TABLE postings ALTER memo SET STORAGE PLAIN;
			INSERT INTO postings SELECT g, 1, g, repeat('x', 5000) FROM generate_series(1, 7000) g; ANALYZE postings`)
		all, rules := named(t, "constraint", "generated"), check.Rules{LargeTable: 1 << 20, Parts: 4}
		document := sweep(t, server, check.Options{Checks: all, Rules: rules})
		for _, c := range document.Checks {
			for _, want := range []string{"part 1 of 4", "3000 pages chosen at random", "with 95 % confidence fewer than 0.1 % of its pages"} {
				if !strings.Contains(c.Reason, want) {
					t.Errorf("%s: the reason does not say %q: %s", c.Check, want, c.Reason)
				}
			}
		}
		if len(document.Findings) > 0 {
			t.Fatalf("%+v", document.Findings)
		}
		server.MustExec(t, "erp", `ALTER TABLE postings DROP CONSTRAINT nonzero, DROP CONSTRAINT of_account; UPDATE postings SET account = 2, amount = 0 WHERE id > 6650;
			ALTER TABLE postings ADD CONSTRAINT nonzero CHECK (amount <> 0) NOT VALID, ADD CONSTRAINT of_account FOREIGN KEY (account) REFERENCES accounts NOT VALID`)
		server.MustExec(t, "erp", "VACUUM FULL postings")
		document = sweep(t, server, check.Options{Checks: all, Rules: rules})
		for _, want := range []string{`CHECK constraint "nonzero" is broken`, `foreign key "of_account" (account) is broken`} {
			if !slices.ContainsFunc(document.Findings, func(f check.Finding) bool { return strings.Contains(f.Message, want) }) {
				t.Errorf("not found: %s", want)
			}
		}
		if len(document.Findings) != 2 {
			t.Errorf("%+v", document.Findings)
		}
	})
}

// TestShare holds that a run keeps to its share of the time beyond its first five
// seconds of work: what takes the server six, at half of the time, is followed by a
// second of rest.
func TestShare(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE TABLE slow (id int); INSERT INTO slow SELECT generate_series(1, 600); ALTER TABLE slow ADD CHECK (pg_sleep(0.01) IS NOT NULL) NOT VALID; ANALYZE slow")
	one, constraint := target(t, server.DSN("postgres")), named(t, "constraint")[0]
	took := func(share float64) time.Duration {
		started := time.Now()
		if result := check.Run(t.Context(), one, "postgres", constraint, check.Scope{Share: share}, discard); result.Outcome != check.OutcomeOK {
			t.Fatalf("%+v", result)
		}
		return time.Since(started)
	}
	if free, bound := took(0), took(0.5); bound-free < time.Second-100*time.Millisecond {
		t.Errorf("without a bound it took %s, with it %s", free, bound)
	}
}

// TestConstraintContradiction makes the catalogues contradict themselves about one
// table, so that the server cannot tell its partition bound: the others are looked at.
func TestConstraintContradiction(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		server.MustExec(t, "postgres", "CREATE DATABASE erp")
		server.MustExec(t, "erp", `CREATE TABLE a (i int); INSERT INTO a VALUES (0); ALTER TABLE a ADD CONSTRAINT positive CHECK (i > 0) NOT VALID; CREATE TABLE z (i int); INSERT INTO z VALUES (0); ALTER TABLE z ADD CONSTRAINT positive CHECK (i > 0) NOT VALID;
			CREATE TABLE p (k int) PARTITION BY LIST (k); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); SET allow_system_table_mods = on; DELETE FROM pg_inherits WHERE inhrelid = 'p1'::regclass`)
		document := sweep(t, server, check.Options{Checks: named(t, "constraint")})
		var told []string
		for _, f := range document.Findings {
			told = append(told, f.Relation)
		}
		if !slices.Equal(told, []string{"a", "z"}) || !strings.Contains(document.Checks[0].Reason, "public.p1: listing rules of rows") {
			t.Errorf("found in %q; reason %s", told, document.Checks[0].Reason)
		}
	})
}

// TestConstraintParts looks at a table in parts whose key has a type that cannot
// be hashed: every part then looks at all of its keys.
func TestConstraintParts(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	server.MustExec(t, "erp", `CREATE TABLE a (id int PRIMARY KEY, m money UNIQUE); INSERT INTO a SELECT g, g FROM generate_series(1, 10000) g; ANALYZE a;
		SET allow_system_table_mods = on; UPDATE pg_index SET indisready = false, indislive = false WHERE indexrelid = 'a_m_key'::regclass`)
	server.MustExec(t, "erp", `INSERT INTO a VALUES (0, 5); SET allow_system_table_mods = on; UPDATE pg_index SET indisready = true, indislive = true WHERE indexrelid = 'a_m_key'::regclass`)
	rules := check.Rules{LargeTable: 1, Parts: 4}
	document := sweep(t, server, check.Options{Checks: named(t, "constraint"), Rules: rules})
	if len(document.Findings) != 1 || !strings.Contains(document.Findings[0].Message, `unique constraint "a_m_key" is broken: 1 key occurs more than once`) {
		t.Errorf("%+v", document)
	}
	if reason := document.Checks[0].Reason; !strings.Contains(reason, "part 1 of 4") || strings.Contains(reason, "hash") {
		t.Errorf("reason: %s", reason)
	}
}

// TestConstraintPieces looks for doubles in a table that is read in several pieces,
// while rows move from one to another.
func TestConstraintPieces(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		server.MustExec(t, "postgres", `CREATE DATABASE erp`)
		server.MustExec(t, "erp", `CREATE TABLE big (id int PRIMARY KEY, a int, b text, n text, pad text DEFAULT repeat('x', 1900), UNIQUE (a, b));
			CREATE UNIQUE INDEX named ON big (lower(n)) WHERE n <> 'none'; ALTER TABLE big ALTER pad SET STORAGE PLAIN;
			INSERT INTO big SELECT g, g / 2, 'b' || g % 2, CASE WHEN g % 3 = 0 THEN 'none' WHEN g % 3 = 1 THEN 'n' || g END FROM generate_series(1, 40000) g; ANALYZE big`)
		one, constraint := target(t, server.DSN("erp")), named(t, "constraint")[0]
		look := func() check.Result {
			return check.Run(t.Context(), one, "erp", constraint, check.Scope{Heaps: check.NewHeaps(), RateLimit: 1 << 40}, discard)
		}
		stop, moved := make(chan struct{}), make(chan error)
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					moved <- nil
					return
				default:
				}
				if err := server.Exec(t.Context(), "erp", fmt.Sprintf("UPDATE big SET pad = pad || 'y' WHERE id %% 200 = %d", n%200)); err != nil {
					moved <- err
					return
				}
			}
		}()
		for range 5 {
			if result := look(); result.Outcome != check.OutcomeOK {
				t.Errorf("while rows move: %+v", result)
			}
		}
		close(stop)
		if err := <-moved; err != nil {
			t.Fatal(err)
		}
		const keys = "SET allow_system_table_mods = on; UPDATE pg_index SET indisready = %[1]s, indislive = %[1]s WHERE indrelid = 'big'::regclass"
		server.MustExec(t, "erp", fmt.Sprintf(keys, "false"))
		server.MustExec(t, "erp", "INSERT INTO big VALUES (5, -1, 'x', NULL), (5, -2, 'x', 'none'), (50001, 2500, 'b1', NULL), (50002, -3, 'x', 'N31'), (50003, NULL, 'x', NULL), (50004, NULL, 'x', 'none')")
		server.MustExec(t, "erp", fmt.Sprintf(keys, "true"))
		result := look()
		for _, want := range []string{
			`primary key "big_pkey" is broken: 1 key occurs more than once: (id)=(5) in 3 rows`,
			`unique constraint "big_a_b_key" is broken: 1 key occurs more than once: (a, b)=(2500, b1) in 2 rows`,
			`unique index "named" is broken: 1 key occurs more than once: (lower(n))=(n31) in 2 rows`,
		} {
			if !slices.ContainsFunc(result.Findings, func(f check.Finding) bool { return f.Message == want }) {
				t.Errorf("not found: %s", want)
			}
		}
		if len(result.Findings) != 3 {
			t.Errorf("%+v", result)
		}
	})
}
