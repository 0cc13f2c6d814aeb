package guard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/state"
)

// obstacle is one reason not to begin.
type obstacle struct {
	name string
	// make makes it so, and gives what takes it away again.
	make func(t *testing.T, b *bench, o *guard.Options) (undo func())
	// check and says are in the answer that refuses; every other one must be good.
	check, says string
	// allow is what lets the run go on all the same; empty is nothing.
	allow string
}

// only makes an obstacle of options alone.
func only(change func(o *guard.Options)) func(*testing.T, *bench, *guard.Options) func() {
	return func(_ *testing.T, _ *bench, o *guard.Options) func() {
		change(o)
		return func() {}
	}
}

// drilled notes a drill of the repository that ended some time ago.
func drilled(outcome recovery.Outcome, ago time.Duration) func(*testing.T, *bench, *guard.Options) func() {
	return func(t *testing.T, b *bench, _ *guard.Options) func() {
		t.Helper()
		save := func(outcome recovery.Outcome, ago time.Duration) {
			report := recovery.Report{Repository: "nightly", Outcome: outcome, Reason: "it does not start", Finished: time.Now().Add(-ago)}
			if err := recovery.SaveReport(b.files, &report); err != nil {
				t.Fatal(err)
			}
		}
		save(outcome, ago)
		return func() { save(recovery.OutcomeProved, time.Minute) }
	}
}

func obstacles(standby *pg.Target, archive string) []obstacle {
	sql := func(begin, end string) func(*testing.T, *bench, *guard.Options) func() {
		return func(t *testing.T, b *bench, _ *guard.Options) func() {
			t.Helper()
			b.server.MustExec(t, "books", begin)
			return func() { b.server.MustExec(t, "books", end) }
		}
	}
	repository := func(change func(w *recovery.Watched)) func(*testing.T, *bench, *guard.Options) func() {
		return only(func(o *guard.Options) {
			o.Repositories = slices.Clone(o.Repositories)
			change(&o.Repositories[0])
		})
	}
	return []obstacle{
		{"a standby", only(func(o *guard.Options) { o.Target = standby }), "server", "it is a standby", ""},
		{"read only", sql("ALTER DATABASE books SET default_transaction_read_only = on", "SET transaction_read_only = off; ALTER DATABASE books RESET default_transaction_read_only"), "server", "is read only", ""},
		{"a command that is not there", only(func(o *guard.Options) { o.Statements, o.Command = nil, []string{"/nowhere/program"} }), "command", "no such file", ""},
		{"no policy permits it", only(func(o *guard.Options) { o.Policies = []guard.Policy{{Name: "routine", Commands: []string{"UPDATE"}}} }), "policy", "no policy permits VACUUM FULL", ""},
		{"a long transaction", func(t *testing.T, b *bench, o *guard.Options) func() {
			t.Helper()
			release := b.server.Hold(t, "books", "SELECT txid_current()")
			time.Sleep(1100 * time.Millisecond)
			o.Settings.MaxTransactionAge = time.Second
			return release
		}, "transactions", "has had a transaction open", "busy"},
		{"a prepared transaction", func(t *testing.T, b *bench, o *guard.Options) func() {
			t.Helper()
			b.server.MustExec(t, "books", "BEGIN; UPDATE invoices SET total = total WHERE no = 1; PREPARE TRANSACTION 'left'")
			time.Sleep(1100 * time.Millisecond)
			o.Settings.MaxTransactionAge = time.Second
			return func() { b.server.MustExec(t, "books", "ROLLBACK PREPARED 'left'") }
		}, "transactions", "prepared transaction of", "busy"},
		{"a lock queue", func(t *testing.T, b *bench, _ *guard.Options) func() {
			t.Helper()
			release := b.server.Hold(t, "books", "LOCK TABLE archive IN ROW EXCLUSIVE MODE")
			done := make(chan error, 1)
			go func() {
				done <- b.server.Exec(t.Context(), "books", "BEGIN; LOCK TABLE archive IN SHARE MODE; ROLLBACK")
			}()
			pgtest.Await(t, "somebody waits", 20*time.Second, func() bool {
				var waits bool
				return b.server.Query(t.Context(), "books", "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'archive'::regclass AND NOT granted)", &waits) == nil && waits
			})
			return func() {
				release()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}, "locks", "1 sessions wait for a lock on it", "busy"},
		{"a lock that blocks everything", func(t *testing.T, b *bench, _ *guard.Options) func() {
			t.Helper()
			return b.server.Hold(t, "books", "LOCK TABLE archive")
		}, "locks", "holds ACCESS EXCLUSIVE on it or waits", ""},
		{"a standby that is behind", func(t *testing.T, b *bench, o *guard.Options) func() {
			t.Helper()
			pause := func(what string) {
				conn, err := standby.Connect(t.Context(), "postgres", pg.Purpose{Name: "test", StatementTimeout: time.Minute, LockTimeout: time.Minute})
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				var nothing string
				if err := conn.QueryRow(t.Context(), "SELECT pg_wal_replay_"+what+"()::text").Scan(&nothing); err != nil {
					t.Fatal(err)
				}
			}
			pause("pause")
			b.server.MustExec(t, "books", "CREATE TABLE written AS SELECT repeat('x', 1000) FROM generate_series(1, 3000); DROP TABLE written")
			o.Settings.MaxReplicationLag = 1 << 20
			return func() { pause("resume") }
		}, "replication", "a standby is", "busy"},
		{"archiving fails", func(t *testing.T, b *bench, _ *guard.Options) func() {
			t.Helper()
			b.server.MustExec(t, "postgres", "ALTER SYSTEM SET archive_command = 'false'")
			b.server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
			b.server.MustExec(t, "postgres", "SELECT pg_create_restore_point('x'); SELECT pg_switch_wal()")
			archiving := func(fails bool) {
				pgtest.Await(t, fmt.Sprintf("archiving fails: %t", fails), time.Minute, func() bool {
					var failed bool
					return b.server.Query(t.Context(), "postgres", "SELECT coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) FROM pg_stat_archiver", &failed) == nil && failed == fails
				})
			}
			archiving(true)
			return func() {
				b.server.MustExec(t, "postgres", "ALTER SYSTEM RESET archive_command")
				b.server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
				b.server.MustExec(t, "postgres", "SELECT pg_create_restore_point('y')") // so that there is something to archive
				b.server.AwaitArchived(t, archive)
				archiving(false)
			}
		}, "archive", "could not be archived", ""},
		{"the archive is old", only(func(o *guard.Options) { o.Settings.MaxArchiveAge = time.Nanosecond }), "archive", "no WAL segment was archived within 1ns", ""},
		{"no backup", repository(func(w *recovery.Watched) { w.Path = w.WAL }), "backup", "it holds no usable backup", "unproven"},
		{"a repository that is not there", repository(func(w *recovery.Watched) { w.Path = "/nowhere" }), "backup", "no such file", "unproven"},
		{"a backup that is old", repository(func(w *recovery.Watched) { w.Objectives.BackupAge = time.Nanosecond }), "backup", "(max_backup_age is 1ns)", "unproven"},
		{"the WAL behind the backup is lost", func(t *testing.T, b *bench, o *guard.Options) func() {
			t.Helper()
			return b.loseWAL(t, o.Repositories[0])
		}, "backup", "is missing in the archive", "unproven"},
		{"dumps only", func(t *testing.T, _ *bench, o *guard.Options) func() {
			t.Helper()
			directory := t.TempDir()
			dump := "--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 15.1\nSELECT 1;\n--\n-- PostgreSQL database dump complete\n--\n\n"
			if err := os.WriteFile(filepath.Join(directory, "books.sql"), []byte(dump), 0o600); err != nil {
				t.Fatal(err)
			}
			o.Repositories = []recovery.Watched{{Repository: recovery.Repository{Name: "dumps", Type: recovery.TypeDump, Path: directory}}}
			return func() {}
		}, "backup", "it holds dumps only", "unproven"},
		{"a drill that is overdue", drilled(recovery.OutcomeProved, 36*24*time.Hour), "backup", "(max_drill_age is 840h0m0s)", "unproven"},
		{"a drill that failed", drilled(recovery.OutcomeFailed, time.Hour), "backup", "its last drill did not prove it: it does not start", "unproven"},
		{"a backup that was never drilled", repository(func(w *recovery.Watched) { w.Name = "other" }), "backup", "no drill has ever proved", "unproven"},
		{"a small disk", only(func(o *guard.Options) { o.Settings.MinFree = 1 << 60 }), "disk", "must stay free (min_free)", ""},
		{"a violated invariant", sql("UPDATE accounts SET balance = balance + 1 WHERE id = 199", "UPDATE accounts SET balance = balance - 1 WHERE id = 199"), "invariant", "is violated already", "violated"},
		{"a violated constraint", sql("SET session_replication_role = replica; INSERT INTO archive_lines VALUES (-5, 'orphan')", "DELETE FROM archive_lines WHERE archive = -5"), "constraint", "rows break it", "violated"},
		{"damage that the exporter knows of", func(t *testing.T, b *bench, o *guard.Options) func() {
			t.Helper()
			o.Statements, o.Command = nil, []string{"/bin/true"}
			record := func(kind state.EventKind) {
				if err := b.files.Record(state.Event{Time: time.Now(), Kind: kind, Database: "books", Schema: "public", Relation: "audit", Details: map[string]string{
					"check": "page", "class": string(check.ClassCorruption), "fingerprint": "f", "first_seen": time.Now().Format(time.RFC3339),
				}}); err != nil {
					t.Fatal(err)
				}
			}
			record(state.EventFindingOpened)
			return func() { record(state.EventFindingCleared) }
		}, "known damage", "the check page has found damage since", "damaged"},
		{"damage", func(t *testing.T, b *bench, _ *guard.Options) func() {
			t.Helper()
			relation := b.server.MustRelation(t, "books", "archive")
			good, err := relation.Copy()
			if err != nil {
				t.Fatal(err)
			}
			b.server.WhileDown(t, func() error { return relation.Edit(2, pgtest.Garbage) })
			return func() { b.server.WhileDown(t, func() error { return relation.Restore(good) }) }
		}, "physical", "it is damaged already", ""},
	}
}

// loseWAL takes a segment out of the archive of a repository that is needed to
// come from its backup to now.
func (b *bench) loseWAL(t *testing.T, w recovery.Watched) (undo func()) {
	t.Helper()
	inventory := recovery.ReadRepository(t.Context(), w.Repository)
	newest, ok := inventory.LastSuccess()
	segments := inventory.Archive.Segments
	i := slices.IndexFunc(segments, func(s recovery.ArchivedSegment) bool { return s.Name(inventory.Archive.SegmentSize) > newest.Label })
	if !ok || len(segments) < 4 || i < 0 {
		i = len(segments) - 2
	}
	lost := segments[i].Path
	if err := os.Rename(lost, lost+".lost"); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour) // what is archived out of order comes within minutes
	for _, s := range segments[i+1:] {
		if err := os.Chtimes(s.Path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Rename(lost+".lost", lost); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPreflight holds that a good moment is a good moment, and that each reason
// not to begin is told for itself, and none of them twice.
func TestPreflight(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		if testing.Short() && major != pgtest.Newest() {
			t.Skip("one version is enough")
		}
		archive, root := pgtest.SharedDirectory(t), pgtest.SharedDirectory(t)
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Checksums(), pgtest.Archiving(archive), pgtest.Setting("max_prepared_transactions", "5"))
		server.MustExec(t, "postgres", "CREATE DATABASE books")
		server.MustExec(t, "books", books)
		standby, err := pg.ResolveTarget(server.Standby(t).DSN("books"), func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(root, "base")})
		for range 4 {
			server.MustExec(t, "books", "INSERT INTO audit (account) VALUES (1)")
			server.MustExec(t, "books", "SELECT pg_switch_wal()")
		}
		server.AwaitArchived(t, archive)
		b := newBench(t, server, "books")
		drilled(recovery.OutcomeProved, time.Minute)(t, b, nil)
		options := func() guard.Options {
			o := b.sql("VACUUM FULL archive; UPDATE invoices SET total = total WHERE no = 3")
			o.DryRun, o.Settings.PhysicalChecks, o.Settings.MaxArchiveAge = true, true, time.Hour
			o.Repositories = []recovery.Watched{{
				Repository: recovery.Repository{Name: "nightly", Type: recovery.TypeDirectory, Path: root, WAL: archive},
				Objectives: recovery.Objectives{BackupAge: time.Hour, DrillAge: 35 * 24 * time.Hour},
			}}
			return o
		}
		healthy := guard.Run(t.Context(), options())
		b.planned(t, healthy)
		for _, check := range []string{"server", "transactions", "locks", "replication", "archive", "backup", "disk", "physical", "constraints", "invariant"} {
			if !slices.ContainsFunc(healthy.Preflight, func(a guard.Answer) bool { return a.Check == check && a.State == guard.OK }) {
				t.Errorf("nothing good is told of %s", check)
			}
		}
		o := options()
		o.Statements = b.sql("REINDEX TABLE archive; REINDEX TABLE CONCURRENTLY archive; VACUUM FULL archive; CREATE INDEX CONCURRENTLY archive_amount ON archive (amount); ALTER TABLE archive ADD COLUMN note text DEFAULT 'x'; TRUNCATE archive CASCADE").Statements
		var rewrites []string
		var sizes []int64
		for _, p := range guard.Run(t.Context(), o).Plan {
			rewrites, sizes = append(rewrites, p.Rewrites), append(sizes, p.Bytes)
		}
		if got := strings.Join(rewrites, ", "); got != "writes new files, writes new files, writes new files, writes a new index, may write new files, writes new files" || sizes[0] >= sizes[2] || sizes[1] != sizes[0] || sizes[0] == 0 {
			t.Errorf("planned: %s; %d bytes", got, sizes)
		}
		for _, c := range obstacles(standby, archive) {
			t.Run(c.name, func(t *testing.T) { c.hinders(t, b, options()) })
		}
		if again := guard.Run(t.Context(), options()); again.Outcome != guard.OutcomeDone {
			t.Errorf("when nothing is in the way any more: %s", again.Summary)
		}
	})
}

// planned holds that the plan of the healthy run says what it will do.
func (b *bench) planned(t *testing.T, report guard.Report) {
	t.Helper()
	if report.Outcome != guard.OutcomeDone || len(report.Plan) != 2 {
		t.Fatalf("the healthy run would end %s: %s", report.Outcome, report.Summary)
	}
	full, update := report.Plan[0], report.Plan[1]
	if full.Command != "VACUUM FULL" || full.Lock != "ACCESS EXCLUSIVE" || full.Blocks == "" || full.Rewrites != "writes new files" || full.Transactional ||
		!slices.Equal(full.Relations, []string{"public.archive"}) || full.Bytes < 100<<10 || full.Seconds <= 0 || full.Undo == "" {
		t.Errorf("VACUUM FULL is planned as %+v", full)
	}
	if update.Command != "UPDATE" || update.Lock != "ROW EXCLUSIVE" || update.Rewrites != "" || !update.Transactional || update.Undo != "the transaction is rolled back" {
		t.Errorf("UPDATE is planned as %+v", update)
	}
}

// hinders holds that the obstacle refuses the run, and nothing else does.
func (c obstacle) hinders(t *testing.T, b *bench, o guard.Options) {
	undo := c.make(t, b, &o)
	defer undo()
	report := guard.Run(t.Context(), o)
	var failed []guard.Answer
	for _, a := range report.Preflight {
		if a.State == guard.Failed {
			failed = append(failed, a)
		}
	}
	if report.Outcome != guard.OutcomeRefused || report.ExitCode != 2 || len(failed) == 0 {
		t.Fatalf("it ended %s: %s", report.Outcome, report.Summary)
	}
	for _, a := range failed {
		if !strings.HasPrefix(a.Check, c.check) || !strings.Contains(a.Message, c.says) {
			t.Errorf("it is refused because of %s %s: %s", a.Check, a.Object, a.Message)
		}
	}
	if c.allow == "" {
		return
	}
	o.Settings.Allow = []string{c.allow}
	if report := guard.Run(t.Context(), o); report.Outcome != guard.OutcomeDone {
		t.Errorf("allowed, it ended %s: %s", report.Outcome, report.Summary)
	}
}
