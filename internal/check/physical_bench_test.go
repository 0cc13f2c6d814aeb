package check_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/pgtest"
)

// physical are the checks of pages, files, indexes and cluster state.
var physical = []string{"files", "page", "heap", "btree", "catalog", "visibility", "index", "toast"}

// BenchmarkThrottled holds the latencies of pgbench while the physical checks run
// under the default limits of the configuration, again and again, against those
// without them, in turn, so that what else changes falls on both sides.
func BenchmarkThrottled(b *testing.B) {
	const turns, turn = 4, 25 * time.Second
	server := pgtest.Start(b, pgtest.Version(15), pgtest.Checksums(), pgtest.Setting("shared_buffers", "512MB"), pgtest.Setting("max_wal_size", "8GB"), pgtest.Setting("checkpoint_timeout", "1d"))
	server.MustExec(b, "postgres", "CREATE EXTENSION amcheck; CREATE EXTENSION pg_visibility; "+sweepTables)
	server.MustExec(b, "postgres", "VACUUM ANALYZE")
	one, limits := target(b, server.DSN("postgres")), config.Default().Get().Limits
	sweep := func(ctx context.Context) {
		for ctx.Err() == nil {
			if _, err := check.Sweep(ctx, one, check.Options{Checks: named(b, physical...), Databases: []string{"postgres"}, Jobs: 1, RateLimit: int64(limits.CheckRate), Share: limits.CheckShare, Logger: discard}); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		server.Pgbench(b, "postgres", 5*time.Second, nil)
		var without, with float64
		for range turns {
			without += server.Pgbench(b, "postgres", turn, nil)
			with += server.Pgbench(b, "postgres", time.Hour, func() {
				ctx, cancel := context.WithTimeout(b.Context(), turn)
				defer cancel()
				sweep(ctx)
			})
		}
		b.ReportMetric(without/turns, "p95-without-ms")
		b.ReportMetric(with/turns, "p95-with-ms")
		b.ReportMetric(with/without, "with/without")
	}
}

// BenchmarkManyRelations looks at 100,000 relations with the physical checks of the
// program, each for up to half a minute, and reports the most memory that it had.
func BenchmarkManyRelations(b *testing.B) {
	binary := filepath.Join(b.TempDir(), "pg_integrity_exporter")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", binary, "../../cmd/pg_integrity_exporter").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	server := pgtest.Start(b, pgtest.Version(15), pgtest.Setting("autovacuum", "off"), pgtest.Setting("max_wal_size", "8GB"))
	server.MustExec(b, "postgres", "CREATE EXTENSION amcheck; CREATE EXTENSION pg_visibility")
	server.MustExec(b, "postgres", `DO $$ BEGIN FOR n IN 1..50000 LOOP
		EXECUTE format('CREATE TABLE t%s AS SELECT %s AS id', n, n); EXECUTE format('CREATE INDEX ON t%s (id)', n); IF n % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$`)
	server.MustExec(b, "postgres", "CHECKPOINT")
	for b.Loop() {
		for _, name := range physical {
			started := time.Now()
			ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
			command := exec.CommandContext(ctx, binary, "check", "--check="+name, "--dsn="+server.DSN("postgres"), "--database=postgres", "--state.path="+b.TempDir())
			command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
			out, err := command.CombinedOutput()
			if err != nil && ctx.Err() == nil {
				b.Errorf("%s: %v %.300s", name, err, out)
			}
			cancel()
			usage, ok := command.ProcessState.SysUsage().(*syscall.Rusage)
			if !ok {
				b.Skip("the system does not tell how much memory a process had")
			}
			b.ReportMetric(float64(usage.Maxrss)/1024, name+"-MiB")
			b.ReportMetric(time.Since(started).Seconds(), name+"-s")
		}
	}
}
