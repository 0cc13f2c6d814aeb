package check_test

import (
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strconv"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// sweepTables are tables with the usual columns and indexes, some 250 MB.
const sweepTables = `CREATE TABLE accounts (id int PRIMARY KEY, name text, opened date);
	INSERT INTO accounts SELECT g, md5(g::text), '2020-01-01'::date + g % 2000 FROM generate_series(1, 100000) g; CREATE INDEX ON accounts (name);
	CREATE TABLE postings (id bigint PRIMARY KEY, account int NOT NULL REFERENCES accounts, amount numeric(12, 2) NOT NULL, at timestamptz, memo text);
	INSERT INTO postings SELECT g, 1 + g % 100000, g * 1.25 % 10000, '2026-01-01'::timestamptz + g * interval '1 min', repeat(md5(g::text), 2) FROM generate_series(1, 900000) g;
	CREATE INDEX ON postings (account, at); CREATE INDEX ON postings (amount)`

// BenchmarkSweep looks at a database with pg_amcheck of PostgreSQL 15, and with
// what this program has for the same and for everything physical, with one job
// each, and with two. Light is without, full with the options that compare tables with indexes
// (--heapallindexed, --parent-check, --rootdescend; --deep).
func BenchmarkSweep(b *testing.B) {
	server := pgtest.Start(b, pgtest.Version(15), pgtest.Checksums(), pgtest.Setting("maintenance_work_mem", "64MB"))
	server.MustExec(b, "postgres", "CREATE EXTENSION amcheck; CREATE EXTENSION pg_visibility; "+sweepTables)
	server.MustExec(b, "postgres", "VACUUM ANALYZE")
	server.MustExec(b, "postgres", "CHECKPOINT")
	var size int64
	if err := server.Query(b.Context(), "postgres", "SELECT pg_database_size('postgres')", &size); err != nil {
		b.Fatal(err)
	}
	one := target(b, server.DSN("postgres"))
	sweep := func(name string, jobs int, deep bool, checks ...string) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				document, err := check.Sweep(b.Context(), one, check.Options{Checks: named(b, checks...), Databases: []string{"postgres"}, Deep: deep, Jobs: jobs, Logger: slog.New(slog.DiscardHandler)})
				if err != nil || slices.ContainsFunc(document.Checks, func(r check.Result) bool { return r.Outcome != check.OutcomeOK }) {
					b.Fatal(err, document.Checks)
				}
			}
		})
	}
	program, err := exec.LookPath("pg_amcheck")
	if err != nil {
		program = "/usr/lib/postgresql/15/bin/pg_amcheck"
	}
	amcheck := func(name string, jobs int, options ...string) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if out, err := exec.CommandContext(b.Context(), program, append(options, "--jobs="+strconv.Itoa(jobs), server.DSN("postgres"))...).CombinedOutput(); err != nil {
					b.Skipf("pg_amcheck: %v %s", err, out)
				}
			}
		})
	}
	amcheck("light/pg_amcheck", 1)
	sweep("light/heap and btree", 1, false, "heap", "btree")
	sweep("light/page, heap and btree", 1, false, "page", "heap", "btree")
	for _, jobs := range []int{1, 2} {
		full := fmt.Sprintf("full, jobs %d/", jobs)
		amcheck(full+"pg_amcheck", jobs, "--heapallindexed", "--parent-check", "--rootdescend")
		sweep(full+"heap and btree", jobs, true, "heap", "btree")
		sweep(full+"all physical checks", jobs, true, physical...)
	}
}
