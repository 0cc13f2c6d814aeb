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
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := newServer(t, major)
		b := newBench(t, server, "books")
		relation := server.MustRelation(t, "books", "archive")
		server.WhileDown(t, func() error { return relation.Edit(2, pgtest.Garbage) })
		b.judged(map[string]judged{
			"refused":            {true, "VACUUM FULL archive", guard.OutcomeRefused, "it is damaged already"},
			"refused as a whole": {true, "UPDATE archive SET amount = 1", guard.OutcomeRefused, "it is damaged already"},
			"hit":                {false, "UPDATE invoices SET total = 1; UPDATE archive SET amount = 1", guard.OutcomeRolledBack, "SQLSTATE XX001"},
			"not touched":        {true, "VACUUM FULL invoices", guard.OutcomeDone, "done and verified"},
		})
	})
}

// judged is a script with how it must end, and what the report must say.
type judged struct {
	physical bool
	text     string
	want     guard.Outcome
	says     string
}

// judged runs scripts one by one.
func (b *bench) judged(cases map[string]judged) {
	b.t.Helper()
	for name, c := range cases {
		o := b.sql(c.text)
		o.Settings.PhysicalChecks = c.physical
		// What cannot be read has no fingerprint and no validated constraint.
		report := guard.Run(b.t.Context(), o)
		var text strings.Builder
		if err := report.WriteText(&text); err != nil {
			b.t.Fatal(err)
		}
		if report.Outcome != c.want || !strings.Contains(text.String(), c.says) {
			b.t.Errorf("%s: it ended %s, want %s:\n%s", name, report.Outcome, c.want, text.String())
		}
	}
}

// resort gives an index and its column another collation than the one that the
// index was built under, which is what a restore onto a system with another
// library of collations does.
const resort = `UPDATE pg_index SET indcollation = '950' WHERE indexrelid = 'words_word'::regclass;
	UPDATE pg_attribute SET attcollation = 950 WHERE attrelid IN ('words'::regclass, 'words_word'::regclass) AND attname = 'word'`

// TestCollation holds that maintenance on a table whose index is in the order of
// another collation is refused, and that a restore which leaves one so is taken
// back.
func TestCollation(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := newServer(t, major)
		server.MustExec(t, "books", `CREATE TABLE words (word text COLLATE "und-x-icu", n int); CREATE INDEX words_word ON words (word);
			INSERT INTO words SELECT CASE i % 2 WHEN 0 THEN lower(md5(i::text)) ELSE upper(md5(i::text)) END, i FROM generate_series(1, 2000) i`)
		b := newBench(t, server, "books")
		b.judged(map[string]judged{
			"restore in another order": {false, "INSERT INTO words VALUES ('new', 1); " + resort, guard.OutcomeRolledBack, "words_word"},
		})
		var collation uint32
		if err := server.Query(t.Context(), "books", "SELECT attcollation FROM pg_attribute WHERE attrelid = 'words'::regclass AND attname = 'word'", &collation); err != nil || collation == 950 {
			t.Errorf("the collation is %d (%v)", collation, err)
		}
		server.MustExec(t, "books", resort)
		b.judged(map[string]judged{
			"restored before": {true, "UPDATE words SET n = n + 1", guard.OutcomeRefused, "it is damaged already"},
		})
		server.MustExec(t, "books", "REINDEX INDEX words_word")
		b.judged(map[string]judged{
			"built anew": {true, "UPDATE words SET n = n + 1", guard.OutcomeDone, "done and verified"},
		})
	})
}

// TestDiskFull fills a file system of its own: what is sure to need more than
// is free is refused, what runs into the end is rolled back.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := newServer(t, major)
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
	})
}
