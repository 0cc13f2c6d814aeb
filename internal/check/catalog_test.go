package check_test

import (
	"fmt"
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
		{"table without its schema", "UPDATE pg_class SET relnamespace = 4242 WHERE relname = 'y2026'", 14, "pg_class (relnamespace) refers to 4242", "pg_class"},
		{"column without its type", "UPDATE pg_attribute SET atttypid = 4242 WHERE attname = 'amount'", 14, "pg_attribute (atttypid) refers to 4242", "pg_attribute"},
		{"lost enum", "DELETE FROM pg_type WHERE typname = 'mood'", 14, "pg_enum (enumtypid) refers to", "pg_enum"},
		{"function of nobody", "UPDATE pg_proc SET proowner = 4242 WHERE proname = 'one'", 14, "pg_proc (proowner) refers to 4242", "pg_proc"},
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

// named gives some of the checks.
func named(t *testing.T, names ...string) []check.Check {
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
