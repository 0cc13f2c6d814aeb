package check_test

import (
	"fmt"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// benchLedger is a ledger of some 100 MB with every common constraint.
const benchLedger = `
CREATE TABLE accounts (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO accounts SELECT g, 'account ' || g FROM generate_series(1, 10000) g;
CREATE TABLE postings (id bigint PRIMARY KEY, account int NOT NULL CONSTRAINT fk REFERENCES accounts, booked timestamptz NOT NULL, amount numeric(12,2) NOT NULL,
	currency char(3) NOT NULL, memo text, CONSTRAINT c1 CHECK (amount <> 0), CONSTRAINT c2 CHECK (currency IN ('EUR', 'USD')));
INSERT INTO postings SELECT g, 1 + g % 10000, now() - g * interval '1 min', 1 + (g % 100000) / 100.0, 'EUR', md5(g::text) FROM generate_series(1, 1000000) g`

func bench(b *testing.B, schema string) *pgtest.Server {
	b.Helper()
	server := pgtest.Start(b, pgtest.Setting("shared_buffers", "256MB"), pgtest.Setting("autovacuum", "off"), pgtest.Setting("max_locks_per_transaction", "1000"))
	server.MustExec(b, "postgres", "CREATE DATABASE erp")
	server.MustExec(b, "erp", schema)
	server.MustExec(b, "erp", "VACUUM ANALYZE")
	return server
}

func benchSize(b *testing.B, server *pgtest.Server, table string) int64 {
	b.Helper()
	var size int64
	if err := server.Query(b.Context(), "erp", "SELECT pg_relation_size($1::regclass)", &size, table); err != nil {
		b.Fatal(err)
	}
	return size
}

func benchCheck(b *testing.B, server *pgtest.Server, name string, scope check.Scope) {
	b.Helper()
	home := target(b, server.DSN("erp"))
	for b.Loop() {
		if result := check.Run(b.Context(), home, "erp", named(b, name)[0], scope, discard); result.Outcome != check.OutcomeOK {
			b.Fatalf("%+v", result)
		}
	}
}

// BenchmarkConstraints holds all constraints of a ledger against its rows; beside
// it what PostgreSQL does to validate the same constraints.
func BenchmarkConstraints(b *testing.B) {
	server := bench(b, benchLedger)
	size := benchSize(b, server, "postings")
	b.Run("check", func(b *testing.B) {
		b.SetBytes(size)
		benchCheck(b, server, "constraint", check.Scope{})
	})
	b.Run("validate", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			server.MustExec(b, "erp", `SET max_parallel_workers_per_gather = 0; SET max_parallel_maintenance_workers = 0; SET allow_system_table_mods = on;
				UPDATE pg_constraint SET convalidated = false WHERE conrelid = 'postings'::regclass AND contype IN ('c', 'f');
				ALTER TABLE postings ALTER account DROP NOT NULL, ALTER booked DROP NOT NULL, ALTER amount DROP NOT NULL, ALTER currency DROP NOT NULL`)
			server.MustExec(b, "erp", `SET max_parallel_maintenance_workers = 0;
				ALTER TABLE postings ALTER account SET NOT NULL, ALTER booked SET NOT NULL, ALTER amount SET NOT NULL, ALTER currency SET NOT NULL;
				ALTER TABLE postings VALIDATE CONSTRAINT c1; ALTER TABLE postings VALIDATE CONSTRAINT c2; ALTER TABLE postings VALIDATE CONSTRAINT fk;
				CREATE UNIQUE INDEX again ON postings (id); DROP INDEX again;
				SELECT count(*) FROM accounts WHERE id IS NULL OR name IS NULL; CREATE UNIQUE INDEX again ON accounts (id); DROP INDEX again`)
		}
	})
}

// BenchmarkFingerprint compares sealed data with its seal; beside it the
// fingerprint that people write by hand.
func BenchmarkFingerprint(b *testing.B) {
	server := bench(b, benchLedger)
	size := benchSize(b, server, "postings")
	b.Run("sealed", func(b *testing.B) {
		b.SetBytes(size)
		scope := check.Scope{
			Memory: state.OpenFiles(b.TempDir(), "x").Memory(),
			Rules:  check.Rules{Sealed: []check.Sealed{{Name: "all", Databases: []string{"erp"}, Table: "public.postings", Interval: time.Hour}}},
		}
		benchCheck(b, server, "sealed", scope)
	})
	b.Run("hashtext", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			server.MustExec(b, "erp", "SET jit = off; SET max_parallel_workers_per_gather = 0; SELECT sum(hashtext(t::text)) FROM postings t")
		}
	})
}

// BenchmarkDrift reads the facts of a schema of 10,000 tables and compares them
// with the baseline.
func BenchmarkDrift(b *testing.B) {
	server := bench(b, "SELECT 1")
	for part := range 20 {
		server.MustExec(b, "erp", fmt.Sprintf(`DO $$ BEGIN FOR i IN %d..%d LOOP
			EXECUTE format('CREATE TABLE t%%s (id int PRIMARY KEY, a int NOT NULL DEFAULT 1, b text, c numeric(10,2) CHECK (c > 0), d timestamptz)', i);
			END LOOP; END $$`, part*500, part*500+499))
	}
	scope := check.Scope{Memory: state.OpenFiles(b.TempDir(), "x").Memory(), Accept: &check.Acceptance{}}
	home := target(b, server.DSN("erp"))
	if result := check.Run(b.Context(), home, "erp", named(b, "drift")[0], scope, discard); result.Outcome != check.OutcomeOK {
		b.Fatalf("%+v", result)
	}
	scope.Accept = nil
	benchCheck(b, server, "drift", scope)
}
