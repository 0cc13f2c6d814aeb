package offline_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/offline"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/wal"
)

const segmentSize = 1 << 20 // of the servers of pgtest

// contents has something of everything that a cluster keeps in files.
const contents = `
CREATE TABLE accounts (id int PRIMARY KEY, name text);
INSERT INTO accounts SELECT i, md5(i::text) FROM generate_series(1, 20000) i;
CREATE INDEX accounts_name_idx ON accounts (name);
CREATE TABLE postings (id int PRIMARY KEY, account int REFERENCES accounts);
INSERT INTO postings SELECT i, i FROM generate_series(1, 1000) i;
SELECT pg_create_physical_replication_slot('standby', true);
`

// prepared leaves a prepared transaction, and multixacts.
const prepared = `
BEGIN; SELECT * FROM accounts WHERE id < 100 FOR SHARE; INSERT INTO postings VALUES (100000, 1); PREPARE TRANSACTION 'payment';
`

func look(t *testing.T, directory string, only ...string) check.Document {
	t.Helper()
	return lookWith(t, offline.Options{Directory: directory, Only: only})
}

func lookWith(t *testing.T, options offline.Options) check.Document {
	t.Helper()
	options.Logger = slog.New(slog.DiscardHandler)
	document, err := offline.Run(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return document
}

func text(t *testing.T, document check.Document) string {
	t.Helper()
	var b strings.Builder
	if err := document.WriteText(&b, false, 0); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// clone copies a data directory; linked, its files are the same ones, so that
// none may be changed in place.
func clone(t *testing.T, from, to string, linked bool) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	how := "--reflink=auto"
	if linked {
		how = "--link"
	}
	if out, err := exec.Command("cp", "--archive", how, from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// accident is one way to break a data directory whose server is down.
type accident struct {
	name string
	do   func(d string) error
	// found is a part of the message of the finding.
	found string
	since int // first version in which it is one
	until int // last version; 0 is none
	// root says that only root can do it.
	root bool
	// stops says that the server does not start.
	stops bool
}

// tried are accidents of which a real start must prove the verdict; it proves
// all of them when the environment variable PGTEST_STARTS is set. They are all
// that a short test looks at.
var tried = []string{
	"nothing", "PG_VERSION lost", "control file flipped", "pg_notify lost", "pg_tblspc lost", "pg_logical lost", "pg_xact/0000 cut", "shared relation map flipped",
	"slot garbled", "prepared transaction garbled", "backup_label left", "parameter of another version", "no such unit", "too few slots",
	"hba valid lines", "hba short", "stale lock file", "ssl without a certificate",
}

func remove(name string) func(string) error {
	return func(d string) error { return os.RemoveAll(filepath.Join(d, name)) }
}

// directory puts one in the place of a file.
func directory(name string) func(string) error {
	return func(d string) error {
		path := filepath.Join(d, name)
		return errors.Join(os.Remove(path), os.Mkdir(path, 0o700), exec.Command("chown", "--reference="+filepath.Join(d, "global"), path).Run())
	}
}

func write(name, content string) func(string) error {
	return func(d string) error { return writeAs(d, filepath.Join(d, name), []byte(content)) }
}

// writeAs writes a file with the owner of the data directory.
func writeAs(d, name string, content []byte) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(name, content, 0o600); err != nil {
		return err
	}
	return exec.Command("chown", "--reference="+filepath.Join(d, "global"), name).Run()
}

func appendTo(name, content string) func(string) error {
	return func(d string) error {
		before, err := os.ReadFile(filepath.Join(d, name))
		if err != nil {
			return err
		}
		return writeAs(d, filepath.Join(d, name), append(before, content...))
	}
}

// edit changes the bytes of the first file that matches a pattern.
func edit(pattern string, change func(b []byte) []byte) func(string) error {
	return func(d string) error {
		files, err := filepath.Glob(filepath.Join(d, pattern))
		if err != nil || len(files) == 0 {
			return fmt.Errorf("no file %s: %w", pattern, err)
		}
		content, err := os.ReadFile(files[0])
		if err != nil {
			return err
		}
		return writeAs(d, files[0], change(content))
	}
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte { b[at] ^= 0xff; return b }
}

func cut(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }

func zero(b []byte) []byte { clear(b); return b }

// lastWAL is the segment that holds the last checkpoint.
func lastWAL(d string) (string, cluster.Control) {
	content, err := os.ReadFile(filepath.Join(d, cluster.ControlFile))
	if err != nil {
		return "", cluster.Control{}
	}
	control, err := cluster.DecodeControl(content)
	if err != nil {
		return "", control
	}
	return filepath.Join(d, "pg_wal", wal.SegmentAt(control.Timeline, control.Redo, segmentSize).Name(segmentSize)), control
}

func accidents() []accident {
	return []accident{
		{name: "nothing", do: func(string) error { return nil }},
		{name: "mode", do: func(d string) error { return os.Chmod(d, 0o755) }, found: "has the mode 0755", stops: true},
		{name: "PG_VERSION lost", do: remove("PG_VERSION"), found: "PG_VERSION is missing", stops: true},
		{name: "PG_VERSION a directory", do: directory("PG_VERSION"), found: "PG_VERSION cannot be read", stops: true},
		{name: "PG_VERSION with more", do: appendTo("PG_VERSION", "more\n"), found: "holds more than the version"},
		{name: "pg_xact/0000 a directory", do: directory("pg_xact/0000"), found: "pg_xact/0000 cannot be read", stops: true},
		{name: "slot a directory", do: directory("pg_replslot/audit/state"), found: "state cannot be read", stops: true},
		{name: "shared relation map a directory", do: directory("global/pg_filenode.map"), found: "pg_filenode.map cannot be read", stops: true},
		{name: "PG_VERSION garbled", do: write("PG_VERSION", "\x00\x00"), found: "instead of a version", stops: true},
		{name: "PG_VERSION of a database lost", do: remove("base/1/PG_VERSION"), found: "base/1/PG_VERSION is missing"},
		{name: "PG_VERSION of a database of another version", do: write("base/1/PG_VERSION", "12\n"), found: "files of two servers"},
		{name: "control file lost", do: remove("global/pg_control"), found: "global/pg_control is missing", stops: true},
		{name: "control file flipped", do: edit("global/pg_control", flip(100)), found: "the CRC of the control file", stops: true},
		{name: "control file zeroed", do: edit("global/pg_control", zero), found: "version 0", stops: true},
		{name: "control file cut", do: edit("global/pg_control", cut(100)), found: "has 100 bytes", stops: true},
		{name: "base lost", do: remove("base"), found: "base is missing", stops: true},
		{name: "pg_notify lost", do: remove("pg_notify"), found: "pg_notify is missing", stops: true},
		{name: "pg_replslot lost", do: remove("pg_replslot"), found: "pg_replslot is missing", stops: true},
		{name: "pg_tblspc lost", do: remove("pg_tblspc"), found: "pg_tblspc is missing"},
		{name: "pg_twophase lost", do: remove("pg_twophase"), found: "pg_twophase is missing", stops: true},
		{name: "pg_snapshots lost", do: remove("pg_snapshots"), found: "pg_snapshots is missing"},
		{name: "pg_subtrans lost", do: remove("pg_subtrans"), found: "pg_subtrans is missing"},
		{name: "pg_serial lost", do: remove("pg_serial"), found: "pg_serial is missing"},
		{name: "pg_commit_ts lost", do: remove("pg_commit_ts"), found: "pg_commit_ts is missing", stops: true},
		{name: "pg_dynshmem lost", do: remove("pg_dynshmem"), found: "pg_dynshmem is missing"},
		{name: "pg_logical lost", do: remove("pg_logical"), found: "pg_logical is missing"},
		{name: "pg_logical/snapshots lost", do: remove("pg_logical/snapshots"), found: "pg_logical/snapshots is missing"},
		{name: "pg_logical/mappings lost", do: remove("pg_logical/mappings"), found: "pg_logical/mappings is missing"},
		{name: "pg_stat lost", do: remove("pg_stat"), found: "pg_stat is missing"},
		{name: "pg_stat_tmp lost", do: remove("pg_stat_tmp"), found: "pg_stat_tmp is missing"},
		{name: "pg_wal lost", do: remove("pg_wal"), found: "pg_wal is missing", stops: true},
		{name: "pg_xact lost", do: remove("pg_xact"), found: "pg_xact is missing", stops: true},
		{name: "pg_xact/0000 lost", do: remove("pg_xact/0000"), found: "pg_xact/0000 is missing", stops: true},
		{name: "pg_xact/0000 cut", do: edit("pg_xact/0000", cut(0)), found: "pg_xact/0000 has 0 bytes", stops: true},
		{name: "pg_xact/0000 zeroed", do: edit("pg_xact/0000", zero), found: "marked neither as committed nor as aborted"},
		{name: "pg_multixact/offsets lost", do: remove("pg_multixact/offsets/0000"), found: "pg_multixact/offsets/0000 is missing", stops: true},
		{name: "pg_multixact/members lost", do: remove("pg_multixact/members/0000"), found: "pg_multixact/members/0000 is missing", stops: true},
		{name: "multixact offsets garbled", do: edit("pg_multixact/offsets/0000", func(b []byte) []byte { b[11] = 0x70; return b }), found: "the members of multixact 2 begin at"},
		{name: "multixact member garbled", do: edit("pg_multixact/members/0000", func(b []byte) []byte { b[1] = 0x77; return b }), found: "the members of 1 multixacts were lost"},
		{name: "shared relation map flipped", do: edit("global/pg_filenode.map", flip(20)), found: "global/pg_filenode.map is damaged", stops: true},
		{name: "shared relation map lost", do: remove("global/pg_filenode.map"), found: "global/pg_filenode.map is missing", stops: true},
		{name: "relation map of a database flipped", do: edit("base/1/pg_filenode.map", flip(20)), found: "base/1/pg_filenode.map is damaged"},
		{name: "pg_database lost", do: remove("global/1262"), found: "global/1262 of the system catalogue", stops: true},
		{name: "pg_class lost", do: remove("base/1/1259"), found: "base/1/1259 of the system catalogue"},
		{name: "slot garbled", do: edit("pg_replslot/standby/state", flip(30)), found: "the replication slot standby is damaged", stops: true},
		{name: "slot lost", do: remove("pg_replslot/audit/state"), found: "the replication slot audit has no state", stops: true},
		{name: "slot of another version", do: edit("pg_replslot/audit/state", flip(8)), found: "its format has the version", stops: true},
		{name: "prepared transaction garbled", do: edit("pg_twophase/*", flip(40)), found: "the prepared transaction", stops: true},
		{name: "prepared transaction cut", do: edit("pg_twophase/*", cut(100)), found: "the prepared transaction", stops: true},
		{name: "origins garbled", do: write("pg_logical/replorigin_checkpoint", "garbage!"), found: "the progress of subscriptions", stops: true},
		{name: "snapshot garbled", do: write("pg_logical/snapshots/0-1000000.snap", "garbage and more garbage"), found: "of logical decoding is damaged"},
		{name: "history garbled", do: write("pg_wal/00000002.history", "one\n"), found: "00000002.history is damaged"},
		{name: "no WAL", do: func(d string) error { name, _ := lastWAL(d); return os.Remove(name) }, found: "the last checkpoint cannot be read", stops: true},
		{name: "WAL garbled at the checkpoint", do: func(d string) error {
			name, control := lastWAL(d)
			return edit(strings.TrimPrefix(name, d), flip(int(control.Checkpoint%segmentSize)+30))(d)
		}, found: "the last checkpoint cannot be read", stops: true},
		{name: "backup_label left", do: write("backup_label", "START WAL LOCATION: 0/1000028 (file 000000010000000000000001)\nCHECKPOINT LOCATION: 0/1000060\nBACKUP METHOD: pg_start_backup\nBACKUP FROM: primary\nSTART TIMELINE: 1\n"), found: "the checkpoint that backup_label names", stops: true},
		{name: "backup_label garbled", do: write("backup_label", "garbage\n"), found: "backup_label is damaged", stops: true},
		{name: "recovery.conf", do: write("recovery.conf", "restore_command = 'true'\n"), found: "recovery.conf", stops: true},
		{name: "recovery.signal without a command", do: write("recovery.signal", ""), found: "there is no restore_command", stops: true},
		{name: "unknown parameter", do: appendTo("postgresql.conf", "shared_bufers = 1GB\n"), found: `no parameter "shared_bufers"`, stops: true},
		{name: "parameter of another version", do: appendTo("postgresql.conf", "stats_temp_directory = 'pg_stat_tmp'\n"), found: "stats_temp_directory", since: 15, stops: true},
		{name: "parameter that is to come", do: appendTo("postgresql.conf", "io_method = sync\n"), found: "it came with 18", until: 17, stops: true},
		{name: "value out of range", do: appendTo("postgresql.conf", "work_mem = 1kB\n"), found: "must be between", stops: true},
		{name: "no such unit", do: appendTo("postgresql.conf", "work_mem = 1Gb\n"), found: "no unit", stops: true},
		{name: "not a Boolean", do: appendTo("postgresql.auto.conf", "fsync = 'maybe'\n"), found: "must be on or off", stops: true},
		{name: "syntax", do: appendTo("postgresql.conf", "work_mem = '4MB\n"), found: "no closing quote", stops: true},
		{name: "two words", do: appendTo("postgresql.conf", "log_line_prefix = %m [%p]\n"), found: "syntax error", stops: true},
		{name: "include lost", do: appendTo("postgresql.conf", "include = 'tuning.conf'\n"), found: "tuning.conf", stops: true},
		{name: "include_if_exists", do: appendTo("postgresql.conf", "include_if_exists = 'tuning.conf'\n")},
		{name: "summary of WAL garbled", do: edit("pg_wal/summaries/*.summary", flip(9)), found: "a summary of WAL is damaged", since: 17},
		{name: "wal_level below what slots need", do: appendTo("postgresql.conf", "wal_level = replica\n"), found: "needs wal_level = logical", stops: true},
		{name: "wal_level minimal", do: appendTo("postgresql.conf", "wal_level = minimal\n"), found: "max_wal_senders is not 0", stops: true},
		{name: "too few slots", do: appendTo("postgresql.conf", "max_replication_slots = 1\n"), found: "max_replication_slots is 1", stops: true},
		{name: "no prepared transactions", do: appendTo("postgresql.conf", "max_prepared_transactions = 0\n"), found: "max_prepared_transactions is 0", stops: true},
		{name: "reserved connections", do: appendTo("postgresql.conf", "superuser_reserved_connections = 30\n"), found: "30 connections are reserved", stops: true},
		{name: "hba lost", do: remove("pg_hba.conf"), found: "pg_hba.conf", stops: true},
		{name: "hba method", do: appendTo("pg_hba.conf", "host all all 10.0.0.0/8 scram-sha256\n"), found: "not an authentication method", stops: true},
		{name: "hba type", do: appendTo("pg_hba.conf", "hosts all all 10.0.0.0/8 md5\n"), found: "not a connection type", stops: true},
		{name: "hba mask", do: appendTo("pg_hba.conf", "host all all 10.0.0.0/33 md5\n"), found: "not a range of addresses", stops: true},
		{name: "hba without mask", do: appendTo("pg_hba.conf", "host all all 10.0.0.1 md5\n"), found: "not a mask", stops: true},
		{name: "hba short", do: appendTo("pg_hba.conf", "host all all\n"), found: "the line ends before", stops: true},
		{name: "hba peer over TCP", do: appendTo("pg_hba.conf", "host all all all peer\n"), found: "only for local", stops: true},
		{name: "hba valid lines", do: appendTo("pg_hba.conf", "host \"all\" +group,\"x y\" samenet reject # no\nlocal replication all trust\nhost all all .example.com scram-sha-256\nhost all all ::1/128 md5\nhost all all 10.0.0.1 255.255.255.0 ident map=m\n")},
		{name: "hba empty", do: write("pg_hba.conf", "# nothing\n"), found: "has no entries", stops: true},
		{name: "ident", do: appendTo("pg_ident.conf", "one two\n"), found: "needs a map"},
		{name: "ssl without a certificate", do: appendTo("postgresql.conf", "ssl = on\n"), found: "server.crt", stops: true},
		{name: "stale lock file", do: func(d string) error {
			return write("postmaster.pid", "999999\n"+d+"\n1700000000\n5432\n/tmp\nlocalhost\n  0 0\n")(d)
		}},
		{name: "garbled lock file", do: write("postmaster.pid", "\x00\x00\x00"), found: "postmaster.pid does not begin", stops: true},
		{name: "file of root", do: func(d string) error {
			return errors.Join(write("pg_hba.conf", "local all all trust\n")(d), os.Chown(filepath.Join(d, "pg_hba.conf"), 0, 0))
		}, found: "do not belong to the owner", stops: true, root: true},
		{name: "table's file lost", do: func(d string) error { return os.Remove(relationFile(d, "accounts")) }, found: "is missing"},
		{name: "page zeroed in its second half", do: changePage("accounts", 3, false, func(p []byte) { clear(p[20:]) }), found: "page"},
		{name: "index page garbled", do: changePage("accounts_name_idx", 3, true, func(p []byte) { p[19] = 9 }), found: "the page header says"},
		{name: "page from the future", do: changePage("accounts", 3, true, func(p []byte) { p[0] = 7 }), found: "behind the end of the WAL"},
		{name: "file ends in a page", do: func(d string) error {
			return edit(strings.TrimPrefix(relationFile(d, "accounts"), d), cut(page.Size*3+100))(d)
		}, found: "ends in the middle of a page"},
		{name: "database directory lost", do: func(d string) error { return os.RemoveAll(filepath.Dir(relationFile(d, "accounts"))) }, found: "of the database erp is missing"},
	}
}

// paths are where the relations of the test are, by the data directory.
var paths sync.Map

func relationFile(d, name string) string {
	of, _ := paths.Load(d)
	return filepath.Join(d, of.(map[string]string)[name]) //nolint:forcetypeassert // only such maps are stored
}

// changePage changes one page of a relation in a copy of its file.
func changePage(name string, block uint32, valid bool, change func(p []byte)) func(string) error {
	return func(d string) error {
		file := relationFile(d, name)
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := writeAs(d, file, content); err != nil {
			return err
		}
		if valid {
			return pgtest.Relation{Path: file}.EditValid(block, change)
		}
		return pgtest.Relation{Path: file}.Edit(block, change)
	}
}

// TestAccidents breaks data directories, and holds that the verdict is what a
// real start does.
func TestAccidents(t *testing.T) {
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server, whole := everything(t, major)
		for n, a := range accidents() {
			// What is the same in every version is looked at in one.
			same := a.since == 0 && a.until == 0 && !pgtest.Turn(n, major)
			if (testing.Short() || same) && !slices.Contains(tried, a.name) || a.root && os.Geteuid() != 0 || major < a.since || a.until != 0 && major > a.until {
				continue
			}
			t.Run(a.name, func(t *testing.T) { testAccident(t, server, whole, a) })
		}
	})
}

// everything starts a cluster that has something of each kind, stops it and gives
// it with a copy of its data directory.
func everything(t *testing.T, major int) (server *pgtest.Server, whole string) {
	t.Helper()
	options := []pgtest.Option{pgtest.Version(major), pgtest.Checksums(), pgtest.Setting("wal_level", "logical"), pgtest.Setting("max_prepared_transactions", "5")}
	if major >= 17 {
		options = append(options, pgtest.Setting("summarize_wal", "on"))
	}
	server = pgtest.Start(t, options...)
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	server.MustExec(t, "erp", contents)
	server.MustExec(t, "erp", "SELECT pg_create_logical_replication_slot('audit', 'pgoutput')")
	server.MustExec(t, "erp", "CREATE PUBLICATION books; CHECKPOINT")
	server.MustExec(t, "erp", "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('audit', NULL, NULL, 'proto_version', '1', 'publication_names', 'books')")
	if files, err := filepath.Glob(filepath.Join(server.DataDirectory, "pg_logical", "snapshots", "*.snap")); err != nil || len(files) == 0 {
		t.Fatal("decoding left no snapshot", err)
	}
	server.MustExec(t, "erp", prepared)
	multixacts(t, server)
	of := make(map[string]string)
	for _, name := range []string{"accounts", "accounts_name_idx"} {
		of[name] = strings.TrimPrefix(server.MustRelation(t, "erp", name).Path, server.DataDirectory+"/")
	}
	paths.Store(server.DataDirectory, of)
	if err := server.Stop(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	whole = filepath.Join(server.Directory, "whole")
	clone(t, server.DataDirectory, whole, false)
	return server, whole
}

// multixacts makes some: a second transaction locks what the prepared one has locked.
func multixacts(t *testing.T, server *pgtest.Server) {
	t.Helper()
	server.MustExec(t, "erp", "DO $$ BEGIN FOR i IN 1..20 LOOP PERFORM FROM accounts WHERE id = i FOR KEY SHARE; COMMIT; END LOOP; END $$")
	server.MustExec(t, "erp", "CHECKPOINT")
	var made bool
	if err := server.Query(t.Context(), "postgres", "SELECT next_multixact_id::text::int > 10 FROM pg_control_checkpoint()", &made); err != nil || !made {
		t.Fatal("no multixacts were made", err)
	}
}

func testAccident(t *testing.T, server *pgtest.Server, whole string, a accident) {
	try := slices.Contains(tried, a.name) && server.Install.Major == pgtest.Newest() && !testing.Short() || os.Getenv("PGTEST_STARTS") != ""
	clone(t, whole, server.DataDirectory, !try)
	if err := a.do(server.DataDirectory); err != nil {
		t.Fatal(err)
	}
	document := look(t, server.DataDirectory)
	report := text(t, document)
	hit := a.found == ""
	for _, f := range document.Findings {
		hit = hit || strings.Contains(f.Message, a.found)
		if f.Message == "" || f.Impact == "" || f.Action == "" || f.Fingerprint == "" || strings.Contains(f.Message, server.DataDirectory+"/base") {
			t.Errorf("incomplete finding: %+v", f)
		}
	}
	if !hit || a.found == "" && document.ExitCode() != check.ExitClean || a.found != "" && document.ExitCode() != check.ExitFindings {
		t.Errorf("exit code %d:\n%s", document.ExitCode(), report)
	}
	if stops := strings.HasPrefix(document.Conclusion, "The server will not start"); stops != a.stops {
		t.Errorf("the verdict is wrong: %s", document.Conclusion)
	}
	if !try {
		return
	}
	err := server.StartAgain(t.Context())
	if a.stops != (err != nil) {
		t.Errorf("the start says otherwise: %v", err)
	}
	if err := server.Stop(pgtest.Immediate); err != nil {
		t.Fatal(err)
	}
}
