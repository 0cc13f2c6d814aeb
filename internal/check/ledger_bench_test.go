package check_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/pgtest"
)

// ledgerRows is about how many postings a gigabyte holds.
const ledgerRows = 7_300_000

// validateLedger is what PostgreSQL itself does to hold the rows of the ledger
// against its constraints.
const validateLedger = `SET max_parallel_workers_per_gather = 0; SET max_parallel_maintenance_workers = 0; SET work_mem = '64MB'; SET maintenance_work_mem = '64MB'; SET jit = off;
	ALTER TABLE postings VALIDATE CONSTRAINT amount_is_some, VALIDATE CONSTRAINT currency_is_known, VALIDATE CONSTRAINT of_account, VALIDATE CONSTRAINT of_journal;
	ALTER TABLE postings ALTER id SET NOT NULL, ALTER account SET NOT NULL, ALTER journal SET NOT NULL, ALTER booked SET NOT NULL, ALTER amount SET NOT NULL, ALTER currency SET NOT NULL;
	CREATE UNIQUE INDEX again ON postings (id); CREATE UNIQUE INDEX journals_again ON journals (id); CREATE UNIQUE INDEX accounts_again ON accounts (id)`

// BenchmarkLedger holds all constraints of a ledger of PG_INTEGRITY_BENCH_GB
// gigabytes (0.25) against its rows: as fast as it goes beside what PostgreSQL
// does to validate them, and under the default limits of the configuration while
// pgbench runs, whose latencies with it are compared with those before, after and
// while it pauses for 15 seconds of each 75. No checkpoint begins by itself, so that none falls on one side only.
func BenchmarkLedger(b *testing.B) {
	gigabytes := 0.25
	if text := os.Getenv("PG_INTEGRITY_BENCH_GB"); text != "" {
		var err error
		if gigabytes, err = strconv.ParseFloat(text, 64); err != nil {
			b.Fatal(err)
		}
	}
	server := pgtest.Start(b, pgtest.Setting("shared_buffers", "512MB"), pgtest.Setting("wal_level", "minimal"), pgtest.Setting("max_wal_senders", "0"), pgtest.Setting("max_wal_size", "8GB"), pgtest.Setting("checkpoint_timeout", "1d"))
	server.MustExec(b, "postgres", "CREATE DATABASE erp")
	rows := int(gigabytes * ledgerRows)
	server.MustExec(b, "erp", fmt.Sprintf(`
		CREATE TABLE accounts AS SELECT g AS id, 'account ' || g AS name FROM generate_series(1, 10000) g;
		CREATE TABLE journals AS SELECT g::bigint AS id, 'journal ' || g AS memo FROM generate_series(1, %[2]d) g;
		CREATE TABLE postings (id bigint, account int, journal bigint, booked timestamptz, amount numeric(12,2), currency char(3), memo text);
		INSERT INTO postings SELECT g, 1 + g %% 10000, 1 + g %% %[2]d, now() - g * interval '1 s', 1 + (g %% 100000) / 100.0, 'EUR', md5(g::text) FROM generate_series(1, %[1]d) g;
		CREATE UNIQUE INDEX journals_key ON journals (id); CREATE UNIQUE INDEX accounts_key ON accounts (id);
		ALTER TABLE journals ADD PRIMARY KEY USING INDEX journals_key; ALTER TABLE accounts ADD PRIMARY KEY USING INDEX accounts_key;
		ALTER TABLE postings ADD CONSTRAINT amount_is_some CHECK (amount <> 0) NOT VALID, ADD CONSTRAINT currency_is_known CHECK (currency IN ('EUR', 'USD')) NOT VALID,
			ADD CONSTRAINT of_account FOREIGN KEY (account) REFERENCES accounts NOT VALID, ADD CONSTRAINT of_journal FOREIGN KEY (journal) REFERENCES journals NOT VALID`, rows, rows/5+1))
	server.MustExec(b, "erp", "VACUUM (FREEZE, ANALYZE)")
	size := benchSize(b, server, "postings") + benchSize(b, server, "journals") + benchSize(b, server, "accounts")
	home := target(b, server.DSN("erp"))
	took := func(do func()) time.Duration { started := time.Now(); do(); return time.Since(started) }
	verify := func(scope check.Scope) {
		scope.Deep = true
		if result := check.Run(b.Context(), home, "erp", named(b, "constraint")[0], scope, discard); result.Outcome != check.OutcomeOK {
			b.Fatalf("%+v", result)
		}
	}
	b.ResetTimer()
	for b.Loop() {
		server.MustExec(b, "erp", "DROP INDEX IF EXISTS again, journals_again, accounts_again CASCADE")
		validated := took(func() { server.MustExec(b, "erp", validateLedger) })
		server.MustExec(b, "erp", "ALTER TABLE postings ADD CONSTRAINT key PRIMARY KEY USING INDEX again; DROP INDEX journals_again, accounts_again")
		verified := took(func() { verify(check.Scope{}) })
		b.ReportMetric(float64(size)/1e9, "GB")
		b.ReportMetric(validated.Seconds(), "validate-s")
		b.ReportMetric(verified.Seconds(), "check-s")
		b.ReportMetric(validated.Seconds()/verified.Seconds(), "validate/check")

		server.MustExec(b, "erp", "CHECKPOINT")
		limits := config.Default().Get().Limits
		var limited time.Duration
		with, without := server.PgbenchBeside(b, "erp", func(pause func(ctx context.Context)) {
			limited = took(func() { verify(check.Scope{RateLimit: int64(limits.CheckRate), Share: limits.CheckShare, Pace: pause}) })
		})
		b.ReportMetric(limited.Seconds(), "limited-check-s")
		b.ReportMetric(without, "p95-without-ms")
		b.ReportMetric(with, "p95-with-ms")
		b.ReportMetric(with/without, "with/without")
		server.MustExec(b, "erp", "ALTER TABLE postings DROP CONSTRAINT key; ALTER TABLE postings ALTER id DROP NOT NULL, ALTER account DROP NOT NULL, ALTER journal DROP NOT NULL")
	}
}
