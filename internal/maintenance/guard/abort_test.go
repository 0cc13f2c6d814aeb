package guard_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/pgtest"
)

// TestAborts holds that what runs is stopped, and taken back, when a standby falls
// behind, when others' transactions fail, and when the disk of the WAL fills up;
// max_blocked and max_duration are scenarios.
func TestAborts(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		if testing.Short() && major != pgtest.Newest() {
			t.Skip("one version is enough")
		}
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Setting("max_wal_size", "1GB"))
		server.MustExec(t, "postgres", "CREATE DATABASE books")
		server.MustExec(t, "books", books)
		standby := server.Standby(t)
		b := newBench(t, server, "books")
		before := b.quiet()
		stopped := func(what, says, text string, change func(s *guard.Settings), meanwhile func(ctx context.Context)) {
			t.Helper()
			o := b.sql(text)
			change(&o.Settings)
			ctx, cancel := context.WithCancel(t.Context())
			var others sync.WaitGroup
			others.Go(func() { meanwhile(ctx) })
			report := guard.Run(t.Context(), o)
			cancel()
			others.Wait()
			if report.Outcome != guard.OutcomeRolledBack || !strings.Contains(report.Summary, says) || b.quiet() != before {
				t.Errorf("%s: it ended %s: %s", what, report.Outcome, report.Summary)
			}
		}
		const writes = "SELECT pg_sleep(1); CREATE TABLE much AS SELECT repeat(md5(i::text), 30) FROM generate_series(1, 150000) i; SELECT pg_sleep(60)"
		nothing := func(context.Context) {}

		standby.MustExec(t, "postgres", "SELECT pg_wal_replay_pause()")
		stopped("a standby", "a standby is", writes, func(s *guard.Settings) { s.MaxReplicationLag = 20 << 20 }, nothing)
		standby.MustExec(t, "postgres", "SELECT pg_wal_replay_resume()")

		stopped("errors of others", "transactions a second fail", "UPDATE invoices SET total = 1; SELECT pg_sleep(60)", func(s *guard.Settings) { s.MaxErrorRate = 5 }, func(ctx context.Context) {
			for b.awaitSleep(60); ctx.Err() == nil; {
				_ = server.Exec(ctx, "books", "SELECT 1/0")
			}
		})

		smallWAL(t, server)
		stopped("the disk of the WAL", "are free on the disk of pg_wal", writes, func(s *guard.Settings) { s.MinFree = 230 << 20 }, nothing)
	})
}

// smallWAL moves pg_wal to a file system of its own, of 300 MB.
func smallWAL(t *testing.T, server *pgtest.Server) {
	t.Helper()
	directory, wal := server.Directory+"/wal", filepath.Join(server.DataDirectory, "pg_wal")
	if err := os.Mkdir(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", directory, "tmpfs", 0, "size=300m,mode=0777"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(directory, syscall.MNT_DETACH) })
	server.WhileDown(t, func() error {
		move := fmt.Sprintf("cp -a %[1]s %[2]s/pg_wal && rm -r %[1]s && ln -s %[2]s/pg_wal %[1]s", wal, directory)
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", move).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}
