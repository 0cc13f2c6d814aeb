package guard_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/maintenance/script"
	"pg_integrity_exporter/internal/pgtest"
)

func sql(text string) func(*bench) guard.Options {
	return func(b *bench) guard.Options { return b.sql(text) }
}

func with(prepare func(*bench) guard.Options, change func(*guard.Settings)) func(*bench) guard.Options {
	return func(b *bench) guard.Options {
		o := prepare(b)
		change(&o.Settings)
		return o
	}
}

func command(text string) func(*bench) guard.Options {
	return func(b *bench) guard.Options { return b.command(text) }
}

func allow(kinds ...string) func(*guard.Settings) {
	return func(s *guard.Settings) { s.Allow = kinds }
}

func expectRows(n int64) func(*guard.Settings) {
	return func(s *guard.Settings) { s.ExpectRows = &script.Range{Min: n, Max: n} }
}

func protect(names ...string) func(*guard.Settings) {
	return func(s *guard.Settings) {
		for _, name := range names {
			s.Protect = append(s.Protect, script.Name{Schema: "public", Name: name})
		}
	}
}

// awaitSleep waits for a session that sleeps for so many seconds, and gives its
// process.
func (b *bench) awaitSleep(seconds int) (pid int) {
	pgtest.Await(b.t, "the maintenance under way", 20*time.Second, func() bool {
		return b.server.Query(b.t.Context(), b.database, "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep' AND query LIKE $1", &pid, fmt.Sprintf("%%pg_sleep(%d)%%", seconds)) == nil
	})
	return pid
}

// killJob kills the job that has a statement among its arguments, with SIGKILL.
func (b *bench) killJob(statement string) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		b.t.Error(err)
	}
	for _, file := range files {
		arguments, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(arguments, []byte("\x00"+jobArgument+"\x00")) || !bytes.Contains(arguments, []byte(statement)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
			b.t.Errorf("the job of process %d cannot be killed (%v)", pid, err)
		}
		return
	}
	b.t.Error("the job is not found")
}

// accidents are maintenance that goes wrong.
func accidents() []scenario {
	return []scenario{
		{name: "wrong where", short: true, prepare: with(sql("UPDATE invoices SET total = 0 WHERE no > 10"), expectRows(10)), want: guard.OutcomeRolledBack, says: "490 rows were changed, 10 were expected"},
		{name: "wrong where in a comment", prepare: sql("-- expect-rows: 1\nUPDATE accounts SET region = 'south' WHERE id > 1"), want: guard.OutcomeRolledBack, says: "expects 1"},
		{name: "one sided correction", short: true, prepare: sql("INSERT INTO entries (transfer, account, amount) VALUES (-9, 3, 100); UPDATE accounts SET balance = balance + 100 WHERE id = 3"), want: guard.OutcomeRolledBack, says: "debits equal credits"},
		{name: "balance without entry", prepare: sql("UPDATE accounts SET balance = balance + 1 WHERE id = 5"), want: guard.OutcomeRolledBack, says: "balances equal entries"},
		{name: "trigger left off", short: true, prepare: sql("ALTER TABLE accounts DISABLE TRIGGER note; UPDATE accounts SET region = 'south' WHERE id < 10"), want: guard.OutcomeRolledBack, says: "is disabled"},
		{name: "constraint not put back", prepare: sql("ALTER TABLE entries DROP CONSTRAINT amount_not_zero; UPDATE archive SET amount = amount WHERE id = 1"), want: guard.OutcomeRolledBack, says: "amount_not_zero: is gone"},
		{name: "foreign key put back without validation", prepare: sql("ALTER TABLE archive_lines DROP CONSTRAINT archive_lines_archive_fkey; DELETE FROM archive WHERE id = 1; ALTER TABLE archive_lines ADD CONSTRAINT archive_lines_archive_fkey FOREIGN KEY (archive) REFERENCES archive ON DELETE CASCADE NOT VALID"), want: guard.OutcomeRolledBack, says: "archive_lines_archive_fkey"},
		{name: "rows that the foreign key forbids", prepare: sql("SET session_replication_role = replica; DELETE FROM archive WHERE id = 4"), want: guard.OutcomeRolledBack, says: "rows break it"},
		{name: "not null taken away", prepare: sql("ALTER TABLE accounts ALTER COLUMN name DROP NOT NULL"), want: guard.OutcomeRolledBack, says: "NOT NULL any more"},
		{name: "sequence reset", prepare: sql("SELECT setval('numbers', 1); UPDATE invoices SET total = total WHERE no = 1"), want: guard.OutcomeRolledBack, says: "stood at 5000"},
		{name: "truncate cascade", prepare: sql("TRUNCATE archive CASCADE"), want: guard.OutcomeRolledBack, says: "emptied without being named"},
		{name: "drop cascade", alone: true, prepare: func(b *bench) guard.Options {
			b.server.MustExec(b.t, b.database, "CREATE VIEW totals AS SELECT sum(total) FROM invoices")
			return b.sql("DROP TABLE invoices CASCADE")
		}, want: guard.OutcomeRolledBack, says: "totals: was dropped without being named"},
		{name: "delete without where", prepare: sql("DELETE FROM invoices"), want: guard.OutcomeRefused, says: "DELETE without WHERE"},
		{name: "error in the last statement", prepare: sql("UPDATE invoices SET total = 1; INSERT INTO invoices VALUES (1, 1)"), want: guard.OutcomeRolledBack, says: "SQLSTATE 23505"},
		{name: "unlogged left", prepare: sql("ALTER TABLE invoices SET UNLOGGED"), want: guard.OutcomeRolledBack, says: "a crash empties it"},
		{name: "setting left in the database", prepare: func(b *bench) guard.Options {
			return b.sql("ALTER DATABASE " + b.database + " SET synchronous_commit = off; UPDATE invoices SET total = total")
		}, want: guard.OutcomeRolledBack, says: "is now set to"},
		{name: "invalid index left", alone: true, prepare: func(b *bench) guard.Options {
			b.server.MustExec(b.t, b.database, "UPDATE archive SET text = 'same' WHERE id < 10")
			return b.sql("CREATE UNIQUE INDEX CONCURRENTLY archive_unique ON archive (text)")
		}, want: guard.OutcomeRolledBack, says: "DROP INDEX CONCURRENTLY"},
		{name: "column whose values change", prepare: with(sql("ALTER TABLE archive ALTER COLUMN amount TYPE int USING 0"), func(s *guard.Settings) { s.Expect = []string{"SELECT sum(amount) > 1000 FROM archive"} }), want: guard.OutcomeRolledBack, says: "expectation"},
		{name: "expectation that commits", prepare: with(sql("UPDATE invoices SET total = 0 WHERE no = 1"), func(s *guard.Settings) { s.Expect = []string{"COMMIT"} }), want: guard.OutcomeRolledBack, says: "cannot be evaluated"},
		{name: "expectation that writes", prepare: with(sql("UPDATE invoices SET total = 0 WHERE no = 1"), func(s *guard.Settings) {
			s.Expect = []string{"WITH gone AS (DELETE FROM archive RETURNING 1) SELECT count(*) > 0 FROM gone"}
		}), want: guard.OutcomeRolledBack, says: "must not contain data-modifying statements"},
		{name: "unchanged table changed", prepare: with(sql("UPDATE invoices SET total = total + 1 WHERE no = 7"), func(s *guard.Settings) {
			s.Unchanged = []script.Name{{Schema: "public", Name: "invoices"}}
		}), want: guard.OutcomeRolledBack, says: "the rows are not what they were"},
		{name: "lock that nobody gives", prepare: func(b *bench) guard.Options {
			b.server.Hold(b.t, b.database, "LOCK TABLE invoices IN ACCESS SHARE MODE")
			o := b.sql("ALTER TABLE invoices ADD COLUMN note text")
			o.Settings.LockRetries = 3
			return o
		}, want: guard.OutcomeRolledBack, says: "SQLSTATE 55P03"},
		{name: "lock storm", short: true, prepare: with(sql("LOCK TABLE accounts; SELECT pg_sleep(60)"), func(s *guard.Settings) { s.MaxBlocked = time.Second }), want: guard.OutcomeRolledBack, says: "sessions wait for it"},
		{name: "too long", prepare: with(sql("UPDATE invoices SET total = 1; SELECT pg_sleep(60)"), func(s *guard.Settings) { s.MaxDuration = 2 * time.Second }), want: guard.OutcomeRolledBack, says: "max_duration"},
		{name: "old transaction", prepare: func(b *bench) guard.Options {
			b.server.Hold(b.t, b.database, "SELECT txid_current()")
			time.Sleep(1100 * time.Millisecond)
			o := b.sql("VACUUM FULL archive")
			o.Settings.MaxTransactionAge = time.Second
			return o
		}, want: guard.OutcomeRefused, says: "has had a transaction open"},
		{name: "violated before", alone: true, prepare: func(b *bench) guard.Options {
			b.server.MustExec(b.t, b.database, "UPDATE accounts SET balance = balance + 1 WHERE id = 199")
			return b.sql("VACUUM FULL archive")
		}, want: guard.OutcomeRefused, says: "is violated already"},
		{name: "disk of a size", prepare: with(sql("VACUUM FULL archive"), func(s *guard.Settings) { s.MinFree = 1 << 60 }), want: guard.OutcomeRefused, says: "must stay free"},
		{name: "session of the job ended", prepare: sql("UPDATE invoices SET total = 1; SELECT pg_terminate_backend(pg_backend_pid())"), want: guard.OutcomeRolledBack, says: "SQLSTATE 57P01"},
		{name: "command that fails half way", short: true, prepare: command("UPDATE invoices SET total = 1 WHERE no <= 100;\nDELETE FROM invoices WHERE no > 400;\nINSERT INTO invoices VALUES (1, 1);\n"), want: guard.OutcomeRolledBack, says: "the command's rows in 1 protected tables"},
		{name: "command with a wrong correction", prepare: command("INSERT INTO entries (transfer, account, amount) VALUES (-9, 3, 100)"), want: guard.OutcomeRolledBack, says: "debits equal credits"},
		{name: "command that breaks what is busy", alone: true, prepare: command("UPDATE accounts SET balance = balance + 1, region = 'x';\nSELECT pg_sleep(1)"), want: guard.OutcomeNotRolledBack, says: "changed by others"},
		{name: "command that leaves a trigger off", prepare: command("ALTER TABLE accounts DISABLE TRIGGER note"), want: guard.OutcomeRolledBack, says: "ENABLE TRIGGER"},
		{name: "command that drops an index and a key", prepare: command("ALTER TABLE invoices DROP CONSTRAINT invoices_no_key;\nDROP INDEX archive_text;\nSELECT 1/0;\n"), want: guard.OutcomeRolledBack, says: "ADD CONSTRAINT"},
		{name: "command that nobody can take back", alone: true, prepare: command("UPDATE archive SET amount = amount + 1"), want: guard.OutcomeDone, changes: true},
		{name: "command that changed unprotected rows", alone: true, prepare: with(command("UPDATE archive SET amount = amount + 1;\nSELECT 1/0;\n"), func(s *guard.Settings) { s.NoProtection = true }), want: guard.OutcomeNotRolledBack, says: "recovery_target_name"},
		{name: "command that swaps a table", alone: true, prepare: command("CREATE TABLE new (LIKE invoices INCLUDING ALL);\nINSERT INTO new SELECT no, 0 FROM invoices;\nALTER TABLE invoices RENAME TO old;\nALTER TABLE new RENAME TO invoices;\nSELECT 1/0;\n"), want: guard.OutcomeRolledBack, says: `ALTER TABLE "public"."old" RENAME TO "invoices"`},
		{name: "command that swaps a table that is busy", alone: true, prepare: command("CREATE TABLE new AS TABLE accounts;\nALTER TABLE accounts RENAME TO old;\nALTER TABLE new RENAME TO accounts;\nSELECT pg_sleep(1);\nSELECT 1/0;\n"), want: guard.OutcomeNotRolledBack, says: "others have written to it since"},
		{name: "command that makes tables", prepare: command("CREATE TABLE made (i int PRIMARY KEY);\nINSERT INTO made VALUES (1);\nSELECT * INTO made_too FROM invoices;\nSELECT 1/0;\n"), want: guard.OutcomeRolledBack, says: "DROP TABLE"},
		{name: "command that truncates", prepare: command("TRUNCATE archive CASCADE;\nSELECT 1/0;\n"), want: guard.OutcomeRolledBack, says: "protected tables"},
		{name: "program that must keep rows loses some", alone: true, prepare: func(b *bench) guard.Options {
			return b.named("pg_repack", "CREATE TABLE copy AS SELECT * FROM archive WHERE id > 5", "TRUNCATE archive CASCADE", "INSERT INTO archive SELECT * FROM copy", "DROP TABLE copy")
		}, want: guard.OutcomeNotRolledBack, says: "the rows are not what they were"},
		{name: "kill -9 of the job", prepare: command("UPDATE invoices SET total = 1 WHERE no <= 100;\nSELECT pg_sleep(601);\n"), meanwhile: func(b *bench) {
			b.awaitSleep(601)
			b.killJob("pg_sleep(601)")
		}, want: guard.OutcomeRolledBack, says: "protected tables"},
		{name: "rewrite interrupted", prepare: sql("ALTER TABLE archive ALTER COLUMN id TYPE bigint; SELECT pg_sleep(602)"), meanwhile: func(b *bench) {
			b.server.MustExec(b.t, b.database, fmt.Sprintf("SELECT pg_terminate_backend(%d)", b.awaitSleep(602)))
		}, want: guard.OutcomeRolledBack, says: "SQLSTATE 57P01"},
	}
}

// healthy is maintenance that must pass without a false alarm.
func healthy() []scenario {
	done := func(name, text string, changes bool) scenario {
		return scenario{name: name, prepare: sql(text), want: guard.OutcomeDone, says: "done and verified", changes: changes, short: name == "vacuum full" || name == "migration"}
	}
	return []scenario{
		done("vacuum full", "VACUUM FULL archive", false),
		done("vacuum full of what is busy", "VACUUM (FULL, ANALYZE) entries; VACUUM FULL accounts", false),
		done("vacuum", "VACUUM (ANALYZE) accounts, entries", false),
		done("analyze", "ANALYZE accounts", false),
		done("cluster", "CLUSTER archive USING archive_pkey; CLUSTER entries USING entries_pkey", false),
		done("reindex", "REINDEX TABLE entries; REINDEX INDEX archive_text", false),
		done("reindex concurrently", "REINDEX TABLE CONCURRENTLY entries", false),
		done("create index", "CREATE INDEX archive_amount ON archive (amount)", true),
		done("create index concurrently", "SET maintenance_work_mem = '32MB'; CREATE INDEX CONCURRENTLY entries_amount ON entries (amount)", true),
		done("drop index", "DROP INDEX CONCURRENTLY archive_text", true),
		done("migration", "BEGIN; ALTER TABLE accounts ADD COLUMN email text, ADD COLUMN seen timestamptz DEFAULT clock_timestamp(); UPDATE accounts SET email = name || '@example.org'; ALTER TABLE accounts ALTER COLUMN email SET NOT NULL; CREATE TABLE settings (k text PRIMARY KEY, v text); COMMIT", true),
		done("foreign key without validation first", "ALTER TABLE entries ADD CONSTRAINT later FOREIGN KEY (account) REFERENCES accounts NOT VALID; ALTER TABLE entries VALIDATE CONSTRAINT later", true),
		done("constraint replaced", "ALTER TABLE entries DROP CONSTRAINT amount_not_zero; ALTER TABLE entries ADD CONSTRAINT amount_set CHECK (amount <> 0 AND amount < 1000000)", true),
		done("mass update", "ALTER TABLE accounts DISABLE TRIGGER note; UPDATE accounts SET region = 'south' WHERE id % 2 = 0; ALTER TABLE accounts ENABLE TRIGGER note", true),
		done("two sided correction", "-- expect-rows: 2\nINSERT INTO entries (transfer, account, amount) VALUES (-9, 3, 100), (-9, 4, -100);\n-- expect-rows: 1\nUPDATE accounts SET balance = balance + 100 WHERE id = 3; UPDATE accounts SET balance = balance - 100 WHERE id = 4", true),
		done("change of type", "ALTER TABLE archive ALTER COLUMN id TYPE bigint", true),
		done("partial delete", "DELETE FROM archive WHERE id > 2900", true),
		done("copy", "COPY invoices (no, total) FROM STDIN;\n901\t5\n902\t6\n\\.\nANALYZE invoices;", true),
		done("function and view", "CREATE FUNCTION total() RETURNS numeric LANGUAGE sql AS $$ SELECT sum(total) FROM invoices; $$; CREATE VIEW totals AS SELECT total()", false),
		done("do block", "DO $$ BEGIN FOR i IN 1..10 LOOP UPDATE invoices SET total = total + 1 WHERE no = i; END LOOP; END $$", true),
		done("refresh", "CREATE MATERIALIZED VIEW sums AS SELECT account, sum(amount) FROM entries GROUP BY 1; REFRESH MATERIALIZED VIEW sums", true),
		{name: "drop constraint that is meant", alone: true, prepare: with(sql("ALTER TABLE entries DROP CONSTRAINT amount_not_zero"), allow("constraint")), want: guard.OutcomeDone, changes: true},
		{name: "table swapped", prepare: with(sql("CREATE TABLE new (LIKE invoices INCLUDING ALL); INSERT INTO new SELECT * FROM invoices; DROP TABLE invoices; ALTER TABLE new RENAME TO invoices"), allow("constraint")), want: guard.OutcomeDone, changes: true},
		{name: "vacuumdb", short: true, prepare: func(b *bench) guard.Options {
			return b.named("vacuumdb", "VACUUM FULL archive", "VACUUM FULL entries")
		}, want: guard.OutcomeDone},
		{name: "reindexdb", prepare: func(b *bench) guard.Options {
			return b.named("reindexdb", "REINDEX TABLE CONCURRENTLY accounts")
		}, want: guard.OutcomeDone},
		{name: "job in a transaction", prepare: with(command("BEGIN;\nUPDATE invoices SET total = total + 1 WHERE no <= 5;\nCOMMIT;\n"), protect("invoices")), want: guard.OutcomeDone, changes: true},
		{name: "rewrite behind a short lock", prepare: func(b *bench) guard.Options {
			release := b.server.Hold(b.t, b.database, "LOCK TABLE invoices IN ACCESS SHARE MODE")
			time.AfterFunc(1500*time.Millisecond, release)
			return b.sql("ALTER TABLE invoices ADD COLUMN note text")
		}, want: guard.OutcomeDone, changes: true},
	}
}
