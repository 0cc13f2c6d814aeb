package check_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/wal"
)

// messages is what a sweep found, for failures of tests.
func messages(document check.Document) string {
	var b strings.Builder
	for _, f := range document.Findings {
		fmt.Fprintf(&b, "\n  %s %s %s: %s", f.Check, f.Severity, f.Object(), f.Message)
	}
	for _, c := range document.Checks {
		fmt.Fprintf(&b, "\n  %s %s: %s %s", c.Check, c.Database, c.Outcome, c.Reason)
	}
	return b.String()
}

func finds(document check.Document, message string) bool {
	for _, f := range document.Findings {
		if strings.Contains(f.Message, message) {
			return f.Impact != "" && f.Action != "" && f.Fingerprint != ""
		}
	}
	return false
}

// clusterDamage is damage to a file that the next start needs.
type clusterDamage struct {
	name, file string
	change     func(b []byte) []byte // nil removes the file
	found      string
}

// clusterDamages lists them, with the files of a prepared transaction and of a snapshot
// of logical decoding.
func clusterDamages(prepared, snapshot string) []clusterDamage {
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 0xff; return b }
	}
	return []clusterDamage{
		{"lock file", "postmaster.pid", nil, "postmaster.pid is missing"}, // the server looks at it after a minute
		{"control file", "global/pg_control", flip(60), "control file"},
		{"relation map", "base/1/pg_filenode.map", flip(12), "relation map base/1/pg_filenode.map is damaged"},
		{"control file of a shutdown", "global/pg_control", shutDown, "but it runs: an older file was put back"},
		{"control file, behind its contents", "global/pg_control", flip(5000), "bytes behind its contents"},
		{"relation map with more", "base/1/pg_filenode.map", func(b []byte) []byte { return append(b, 'x') }, "pg_filenode.map is damaged: it has "},
		{"version", "base/1/PG_VERSION", nil, "base/1/PG_VERSION is missing"},
		{"slot", "pg_replslot/standby/state", flip(20), "the state of the replication slot standby is damaged"},
		{"origins", "pg_logical/replorigin_checkpoint", flip(1), "how far replication origins came is damaged"},
		{"origins lost", "pg_logical/replorigin_checkpoint", nil, "how far replication origins came is missing"},
		{"prepared", prepared, flip(30), "the file " + prepared},
		{"decoding", snapshot, flip(9), "a snapshot of logical decoding is damaged"},
		{"notifications", "pg_notify", nil, "the directory pg_notify is missing"},
		{"directory", "pg_twophase", nil, "the directory pg_twophase is missing"},
		{"ALTER SYSTEM", "postgresql.auto.conf", nil, "postgresql.auto.conf is missing"},
		{"hba lost", "pg_hba.conf", nil, "pg_hba.conf cannot be read"},
		{"hba empty", "pg_hba.conf", func([]byte) []byte { return []byte("# nothing\n") }, "pg_hba.conf has no entries"},
		{"status lost", "pg_xact/0000", nil, "pg_xact/0000 is missing"},
		{"status cut", "pg_xact/0000", func(b []byte) []byte { return b[:100] }, "pg_xact/0000 has 100 bytes"},
		{"status zeroed", "pg_xact/0000", func(b []byte) []byte { clear(b); return b }, "neither as committed nor as aborted"},
		{"offsets", "pg_multixact/offsets/0000", nil, "pg_multixact/offsets/0000 is missing"},
		{"members", "pg_multixact/members/0000", nil, "pg_multixact/members/0000 is missing"},
		{"offsets zeroed", "pg_multixact/offsets/0000", func(b []byte) []byte { clear(b); return b }, "where the members of the multixacts 1 to 127 begin was lost"},
		{"offset of the oldest", "pg_multixact/offsets/0000", func(b []byte) []byte { copy(b[4:], "\xff\xff\xff\x7f"); return b }, "the members of multixact 1 begin at 2147483647, but those of the next at"},
		{"offsets garbled", "pg_multixact/offsets/0000", func(b []byte) []byte { b[403] = 0x7f; return b }, "the members of multixact 100 begin at"},
		{"members zeroed", "pg_multixact/members/0000", func(b []byte) []byte { clear(b[:8192]); return b }, "multixacts were lost, of 1 to "},
		{"member lost", "pg_multixact/members/0000", func(b []byte) []byte { clear(b[44:48]); return b }, "the members of 1 multixacts were lost"},
		{"members garbled", "pg_multixact/members/0000", func(b []byte) []byte { b[40] = 0x80; return b }, "the members of 1 multixacts were lost"},
		{"parameter", "postgresql.conf", func(b []byte) []byte { return append(b, "shared_bufers = 1\n"...) }, "shared_bufers"},
		{"value", "postgresql.conf", func(b []byte) []byte { return append(b, "work_mem = 1kB\n"...) }, "work_mem"},
		{"syntax", "postgresql.auto.conf", func(b []byte) []byte { return append(b, "x = = 1\n"...) }, "syntax error"},
		{"hba", "pg_hba.conf", func(b []byte) []byte { return append(b, "host all all 10.0.0.0/8 scram\n"...) }, "pg_hba.conf line"},
	}
}

// shutDown makes the control file say that the server was shut down.
func shutDown(b []byte) []byte {
	end := 200 // its contents end where the CRC fits
	for ; end < 400 && wal.CRC32C(b[:end]) != binary.LittleEndian.Uint32(b[end:]); end += 4 {
	}
	binary.LittleEndian.PutUint32(b[16:], uint32(cluster.ShutDown))
	copy(b[40:48], b[32:40]) // the last checkpoint is one of a shutdown
	binary.LittleEndian.PutUint32(b[end:], wal.CRC32C(b[:end]))
	return b
}

// summaryDamages damage a summary of WAL.
func summaryDamages(t *testing.T, server *pgtest.Server) []clusterDamage {
	t.Helper()
	var file string
	pgtest.Await(t, "a summary of WAL", time.Minute, func() bool {
		files, err := filepath.Glob(filepath.Join(server.DataDirectory, cluster.SummariesDirectory, "*.summary"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) > 0 {
			file = cluster.SummariesDirectory + "/" + filepath.Base(files[0])
		}
		return file != ""
	})
	return []clusterDamage{
		{"summary", file, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "a summary of WAL is damaged: the file " + file + ": its CRC"},
		{"summary cut", file, func(b []byte) []byte { return b[:20] }, "it has only 20 bytes"},
		{"summary of another kind", file, func(b []byte) []byte { b[0] ^= 1; return b }, "instead of 652B137B"},
	}
}

// TestCluster damages the files of a running server that only the next start
// would look at, and puts them back.
func TestCluster(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		options := []pgtest.Option{pgtest.Version(major), pgtest.Setting("wal_level", "logical"), pgtest.Setting("max_prepared_transactions", "5"), pgtest.Setting("track_commit_timestamp", "on")}
		if major >= 17 {
			options = append(options, pgtest.Setting("summarize_wal", "on"))
		}
		server := pgtest.Start(t, options...)
		server.MustExec(t, "postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
		server.MustExec(t, "postgres", "SELECT pg_create_physical_replication_slot('standby', true)")
		server.MustExec(t, "postgres", "CREATE PUBLICATION books")
		server.MustExec(t, "postgres", "SELECT pg_create_logical_replication_slot('audit', 'pgoutput')")
		server.MustExec(t, "postgres", "CHECKPOINT")
		server.MustExec(t, "postgres", "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('audit', NULL, NULL, 'proto_version', '1', 'publication_names', 'books')")
		server.MustExec(t, "postgres", "BEGIN; SELECT * FROM t WHERE i < 10 FOR SHARE; PREPARE TRANSACTION 'payment'")
		server.MustExec(t, "postgres", "DO $$ BEGIN FOR n IN 1..300 LOOP PERFORM FROM t WHERE i = 1 FOR KEY SHARE; COMMIT; END LOOP; END $$")
		server.MustExec(t, "postgres", "CHECKPOINT")
		server.MustExec(t, "postgres", "CREATE TABLE u AS SELECT i, repeat(md5(i::text), 20) AS x FROM generate_series(1, 5000) i; SET synchronous_commit = on; CREATE TABLE v ()")
		server.MustExec(t, "postgres", "ALTER SYSTEM SET log_lock_waits = on")
		server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
		files, err := filepath.Glob(filepath.Join(server.DataDirectory, "pg_twophase", "*"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		prepared := "pg_twophase/" + filepath.Base(files[0])
		snapshots, err := filepath.Glob(filepath.Join(server.DataDirectory, "pg_logical", "snapshots", "*.snap"))
		if err != nil || len(snapshots) == 0 {
			t.Fatal(snapshots, err)
		}
		look := func() check.Document {
			return sweep(t, server, check.Options{Databases: []string{"postgres"}, Checks: named(t, "cluster")})
		}
		if document := look(); document.ExitCode() != check.ExitClean || len(document.Checks) != 1 || document.Checks[0].Database != "" || document.Checks[0].Objects < 15 {
			t.Fatalf("healthy: %s", messages(document))
		}
		damages := clusterDamages(prepared, "pg_logical/snapshots/"+filepath.Base(snapshots[0]))
		if major >= 17 {
			damages = append(damages, summaryDamages(t, server)...)
		}
		xid, ok := cluster.TwoPhaseXID(filepath.Base(prepared))
		if !ok {
			t.Fatal(prepared)
		}
		damages = append(damages, clusterDamage{"prepared, committed", "pg_xact/0000", func(b []byte) []byte { b[xid/4] |= 1 << (xid % 4 * 2); return b }, fmt.Sprintf("the transaction %d is committed, but it is prepared", xid)})
		for _, d := range damages {
			path := filepath.Join(server.DataDirectory, d.file)
			var whole []byte
			var err error
			if d.change == nil {
				err = os.Rename(path, path+".away")
			} else if whole, err = os.ReadFile(path); err == nil {
				err = os.WriteFile(path, d.change([]byte(string(whole))), 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			document := look()
			if !finds(document, d.found) || document.ExitCode() != check.ExitFindings {
				t.Errorf("%s: %s", d.name, messages(document))
			}
			if d.change == nil {
				err = os.Rename(path+".away", path)
			} else {
				err = os.WriteFile(path, whole, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for name, found := range map[string]string{"standby.signal": "standby.signal is in the data directory of a primary", "backup_label": "backup_label is in the data directory of a primary"} {
			if name == "backup_label" && major < 15 {
				continue
			}
			path := filepath.Join(server.DataDirectory, name)
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if document := look(); !finds(document, found) {
				t.Errorf("%s: %s", name, messages(document))
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if document := look(); document.ExitCode() != check.ExitClean {
			t.Errorf("mended: %s", messages(document))
		}
		testDamagedWAL(t, server, look)
	})
}

// testDamagedWAL takes away and damages what a slot and a crash would need.
func testDamagedWAL(t *testing.T, server *pgtest.Server, look func() check.Document) {
	t.Helper()
	// A segment before the last checkpoint, which the slots keep.
	server.MustExec(t, "postgres", "CHECKPOINT")
	server.MustExec(t, "postgres", "CREATE TABLE w AS SELECT i, repeat(md5(i::text), 20) AS x FROM generate_series(1, 5000) i")
	kept, err := filepath.Glob(filepath.Join(server.DataDirectory, "pg_wal", "0*"))
	if err != nil || len(kept) < 3 {
		t.Fatal(kept, err)
	}
	if err := os.Rename(kept[0], kept[0]+".away"); err != nil {
		t.Fatal(err)
	}
	if document := look(); !finds(document, "is missing, which a replication slot needs") {
		t.Errorf("WAL of a slot: %s", messages(document))
	}
	if err := os.Rename(kept[0]+".away", kept[0]); err != nil {
		t.Fatal(err)
	}
	// In the segment where the WAL behind the last checkpoint begins.
	var name string
	var offset int64
	const sql = "SELECT pg_walfile_name(redo_lsn) FROM pg_control_checkpoint()"
	if err := server.Query(t.Context(), "postgres", sql, &name); err != nil {
		t.Fatal(err)
	}
	if err := server.Query(t.Context(), "postgres", "SELECT (pg_walfile_name_offset(redo_lsn)).file_offset::bigint + 5000 FROM pg_control_checkpoint()", &offset); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(server.DataDirectory, "pg_wal", name)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteAt([]byte("damage"), offset%(1<<20))
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	if document := look(); !finds(document, "the WAL cannot be read at") {
		t.Errorf("damaged WAL: %s", messages(document))
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if document := look(); !finds(document, "the WAL segment "+name[8:]+" is missing") {
		t.Errorf("missing WAL: %s", messages(document))
	}
}

// TestSetting switches dangerous settings on, everywhere one can.
func TestSetting(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Setting("fsync", "on"))
		server.MustExec(t, "postgres", "CREATE DATABASE erp")
		look := func() check.Document { return sweep(t, server, check.Options{Checks: named(t, "setting")}) }
		if document := look(); document.ExitCode() != check.ExitClean || document.Checks[0].Outcome == check.OutcomeFailed {
			t.Fatalf("healthy: %s", messages(document))
		} else if !finds(document, "logging_collector is off and log_destination is stderr") || !finds(document, `without %e: the SQLSTATE of errors is not logged; without %d`) {
			t.Errorf("a log that tells little: %s", messages(document))
		}
		server.MustExec(t, "postgres", "CREATE ROLE loader; ALTER ROLE loader SET session_replication_role = replica; ALTER DATABASE erp SET zero_damaged_pages = 1")
		server.MustExec(t, "postgres", "ALTER SYSTEM SET ignore_checksum_failure = on")
		server.MustExec(t, "postgres", "ALTER SYSTEM SET autovacuum = off")
		server.MustExec(t, "postgres", "ALTER SYSTEM SET log_min_messages = fatal")
		server.MustExec(t, "postgres", "ALTER DATABASE erp SET log_error_verbosity = terse")
		server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
		server.MustExec(t, "postgres", "ALTER SYSTEM SET fsync = off")
		wanted := []string{
			"session_replication_role is replica for every session of role loader", "zero_damaged_pages is 1 for every session of database erp",
			"ignore_checksum_failure is on on this server", "autovacuum is off on this server", "log_min_messages is fatal on this server",
			"fsync is off in ", "log_error_verbosity is terse for every session of database erp",
		}
		pgtest.Await(t, "reloaded", 20e9, func() bool { return finds(look(), wanted[3]) })
		document := look()
		for _, message := range wanted {
			if !finds(document, message) {
				t.Errorf("%s: not in %s", message, messages(document))
			}
		}
	})
}

// TestSettingOfTheLog collects a log and lets it be destroyed.
func TestSettingOfTheLog(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.CSVLog(), pgtest.Setting("log_filename", "server.log"), pgtest.Setting("log_truncate_on_rotation", "on"))
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	look := func() check.Document { return sweep(t, server, check.Options{Checks: named(t, "setting")}) }
	if document := look(); !finds(document, "each rotation destroys what was not read yet") || document.ExitCode() != check.ExitFindings || finds(document, "log_line_prefix") {
		t.Errorf("truncated: %s", messages(document))
	}
	server.MustExec(t, "postgres", "ALTER SYSTEM SET log_truncate_on_rotation = off")
	server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
	pgtest.Await(t, "silent", 20e9, func() bool { return !finds(look(), "rotation") })
	server.MustExec(t, "postgres", "ALTER SYSTEM SET log_rotation_age = 0")
	server.MustExec(t, "postgres", "ALTER SYSTEM SET log_rotation_size = 0")
	server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
	pgtest.Await(t, "never rotated", 20e9, func() bool { return finds(look(), "the log is never rotated") })
}

// TestLeftover leaves things behind.
func TestLeftover(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		server.MustExec(t, "postgres", "CREATE DATABASE erp")
		server.MustExec(t, "erp", `
			CREATE TABLE accounts (id int PRIMARY KEY, name text, mail text);
			CREATE TABLE postings (id int PRIMARY KEY, account int REFERENCES accounts, amount int);
			INSERT INTO accounts VALUES (1, 'a', 'x'), (2, 'a', 'x');
			CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TRIGGER history BEFORE UPDATE ON postings FOR EACH ROW EXECUTE FUNCTION f();
			CREATE RULE quiet AS ON DELETE TO postings WHERE false DO INSTEAD NOTHING;
			CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
			CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION e();
			CREATE INDEX accounts_name_idx ON accounts (name)`)
		look := func() check.Document { return sweep(t, server, check.Options{Checks: named(t, "leftover")}) }
		if document := look(); len(document.Findings) != 0 || document.ExitCode() != check.ExitClean {
			t.Fatalf("healthy: %s", messages(document))
		}
		if err := server.Exec(t.Context(), "erp", "CREATE UNIQUE INDEX CONCURRENTLY accounts_mail_key ON accounts (mail)"); err == nil {
			t.Fatal("duplicates were let into a unique index")
		}
		server.MustExec(t, "erp", `
			ALTER TABLE postings ADD CHECK (amount > 0) NOT VALID;
			ALTER TABLE postings DISABLE TRIGGER history;
			ALTER TABLE accounts DISABLE TRIGGER ALL;
			ALTER TABLE postings DISABLE RULE quiet;
			ALTER EVENT TRIGGER watch DISABLE;
			CREATE UNLOGGED TABLE fast (i int);
			ALTER FUNCTION f() SET session_replication_role = replica`)
		wanted := []string{
			"the index is not valid", "was never validated", "the trigger history is switched off", "triggers of foreign keys of the table are switched off",
			"the rule quiet is switched off", "the event trigger watch is switched off", "UNLOGGED", "sets session_replication_role=replica",
		}
		if major >= 18 {
			// A key of its own: one that is not enforced has no triggers to switch off.
			server.MustExec(t, "erp", "CREATE TABLE notes (account int REFERENCES accounts NOT ENFORCED)")
			wanted = append(wanted, "NOT ENFORCED")
		}
		document := look()
		for _, message := range wanted {
			if !finds(document, message) {
				t.Errorf("%s: not in %s", message, messages(document))
			}
		}
	})
}

// TestCollation changes the sort rules of an index under its feet, as an upgrade
// of the operating system does.
func TestCollation(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		server.MustExec(t, "postgres", "CREATE DATABASE erp")
		var collation *string
		const sql = `SELECT min(collname) FROM pg_collation WHERE collprovider = 'i' AND collname IN ('und-x-icu', 'en-x-icu')`
		if err := server.Query(t.Context(), "erp", sql, &collation); err != nil {
			t.Fatal(err)
		}
		if collation == nil {
			t.Skip("the server has no ICU")
		}
		server.MustExec(t, "erp", fmt.Sprintf(`CREATE TABLE t AS SELECT chr(65 + i %% 26 + 32 * (i %% 2)) || md5(i::text) AS name FROM generate_series(1, 8000) i;
			CREATE INDEX healthy ON t (name COLLATE %[1]q DESC);
			CREATE INDEX part ON t (lower(name) COLLATE %[1]q) WHERE name > 'b';
			ANALYZE t`, *collation))
		look := func() check.Document { return sweep(t, server, check.Options{Checks: named(t, "collation")}) }
		if document := look(); document.ExitCode() != check.ExitClean || document.Checks[0].Objects < 2 {
			t.Fatalf("healthy: %s", messages(document))
		}
		server.MustExec(t, "erp", fmt.Sprintf(`CREATE INDEX damaged ON t (name COLLATE "C");
			SET allow_system_table_mods = on;
			UPDATE pg_index SET indcollation = (SELECT oid::text FROM pg_collation WHERE collname = '%[1]s')::oidvector WHERE indexrelid = 'damaged'::regclass;
			UPDATE pg_attribute SET attcollation = (SELECT oid FROM pg_collation WHERE collname = '%[1]s') WHERE attrelid = 'damaged'::regclass;
			UPDATE pg_collation SET collversion = '0.1' WHERE collname = '%[1]s'`, *collation))
		document := look()
		if !finds(document, "are not in order by the sort rules of today") || !finds(document, "has the version 0.1") {
			t.Errorf("changed: %s", messages(document))
		}
		for _, f := range document.Findings {
			if f.Class == check.ClassCorruption && f.Relation != "damaged" {
				t.Errorf("false alarm: %+v", f)
			}
		}
	})
}
