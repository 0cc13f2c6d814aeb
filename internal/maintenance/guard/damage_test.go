package guard_test

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/pgtest"
)

// TestDamage damages a page of a table: maintenance on it is refused, and
// maintenance that runs into it all the same is rolled back.
func TestDamage(t *testing.T) {
	t.Parallel()
	server := newServer(t, pgtest.Newest())
	b := newBench(t, server, "books")
	relation := server.MustRelation(t, "books", "archive")
	server.WhileDown(t, func() error { return relation.Edit(2, pgtest.Garbage) })
	for name, c := range map[string]struct {
		physical bool
		text     string
		want     guard.Outcome
		says     string
	}{
		"refused":            {true, "VACUUM FULL archive", guard.OutcomeRefused, "it is damaged already"},
		"refused as a whole": {true, "UPDATE archive SET amount = 1", guard.OutcomeRefused, "it is damaged already"},
		"hit":                {false, "UPDATE invoices SET total = 1; UPDATE archive SET amount = 1", guard.OutcomeRolledBack, "SQLSTATE XX001"},
		"not touched":        {true, "VACUUM FULL invoices", guard.OutcomeDone, "done and verified"},
	} {
		t.Run(name, func(t *testing.T) {
			o := b.sql(c.text)
			o.Settings.PhysicalChecks = c.physical
			// What cannot be read has no fingerprint and no validated constraint.
			report := guard.Run(t.Context(), o)
			var text strings.Builder
			if err := report.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			if report.Outcome != c.want || !strings.Contains(text.String(), c.says) {
				t.Errorf("it ended %s, want %s:\n%s", report.Outcome, c.want, text.String())
			}
		})
	}
}

// TestDiskFull fills a file system of its own: what is sure to need more than
// is free is refused, what runs into the end is rolled back.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	server := newServer(t, pgtest.Newest())
	directory := server.Directory + "/small"
	if err := os.Mkdir(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", directory, "tmpfs", 0, "size=6m,mode=0777"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(directory, syscall.MNT_DETACH) })
	space := directory + "/space"
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(server.DataDirectory)
	if err != nil {
		t.Fatal(err)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(space, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	server.MustExec(t, "books", "CREATE TABLESPACE small LOCATION '"+space+"'")
	server.MustExec(t, "books", "CREATE TABLE filler TABLESPACE small AS SELECT i, repeat('x', 900) AS t FROM generate_series(1, 4000) i; CHECKPOINT")
	b := newBench(t, server, "books")
	before := b.quiet()
	l := b.start()
	if report := guard.Run(t.Context(), b.sql("VACUUM FULL filler")); report.Outcome != guard.OutcomeRefused || !strings.Contains(report.Summary, "are free") {
		t.Errorf("the rewrite ended %s: %s", report.Outcome, report.Summary)
	}
	if report := guard.Run(t.Context(), b.sql("UPDATE invoices SET total = 1; UPDATE filler SET i = i + 1")); report.Outcome != guard.OutcomeRolledBack || !strings.Contains(report.Summary, "53100") {
		t.Errorf("the update ended %s: %s", report.Outcome, report.Summary)
	}
	if lost := b.lost(l); lost > 0 {
		t.Errorf("%d transfers are lost", lost)
	}
	if b.quiet() != before {
		t.Error("it is not as before")
	}
}
