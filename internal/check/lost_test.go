package check_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// TestLostDatabases empties the file of pg_database under a server that still has its
// page in memory: a session can be opened, but there seem to be no databases.
func TestLostDatabases(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major))
		for _, databases := range [][]string{nil, {"erp"}} {
			exchanged(t, server.MustRelation(t, "postgres", "pg_database").Path, func(path string) error { return os.Truncate(path, 0) }, func() {
				document := sweep(t, server, check.Options{Checks: named(t, "cluster"), Databases: databases})
				if !slices.ContainsFunc(document.Findings, func(f check.Finding) bool { return f.Relation == "pg_database" }) {
					t.Errorf("%v: %s", databases, messages(document))
				}
			})
		}
	})
}

// TestControlPipe puts a pipe in the place of the control file: a server process that
// opens it waits for ever.
func TestControlPipe(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major))
		pipe := func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return syscall.Mkfifo(path, 0o666)
		}
		exchanged(t, filepath.Join(server.DataDirectory, "global", "pg_control"), pipe, func() {
			document := sweep(t, server, check.Options{Checks: named(t, "cluster")})
			if len(document.Findings) != 1 || !strings.Contains(document.Findings[0].Message, "no file") {
				t.Errorf("%s", messages(document))
			}
		})
	})
}

// exchanged does something while a file is damaged, and puts it back.
func exchanged(t *testing.T, path string, damage func(path string) error, do func()) {
	t.Helper()
	kept := path + ".kept"
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(kept, int(stat.Uid), int(stat.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := damage(path); err != nil {
		t.Fatal(err)
	}
	do()
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() { // the server may have it open
		err = os.WriteFile(path, content, 0o600)
		if err != nil {
			t.Fatal(err)
		}
	} else if err := os.Rename(kept, path); err != nil {
		t.Fatal(err)
	}
}

// TestLostLabel takes a label out of pg_enum that many rows have: that is told of once,
// and the table is not left alone, because its rows are as they were written.
func TestLostLabel(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major))
		server.MustExec(t, "erp", `CREATE TYPE signal AS ENUM ('red', 'green', 'amber'); CREATE TABLE signals (id int PRIMARY KEY, s signal) WITH (autovacuum_enabled = off);
			INSERT INTO signals SELECT g, CASE WHEN g % 2 = 0 THEN 'green' ELSE 'red' END::signal FROM generate_series(1, 20000) g;
			SET allow_system_table_mods = on; DELETE FROM pg_enum WHERE enumlabel = 'green'`)
		server.MustExec(t, "erp", "CHECKPOINT")
		document := sweep(t, server, check.Options{Checks: named(t, "page", "heap", "constraint", "toast")})
		by := make(map[string]int)
		for _, f := range document.Findings {
			by[f.Check]++
		}
		if by["page"] != 1 || by["constraint"] != 1 || by["toast"] != 0 {
			t.Errorf("%v: %s", by, messages(document))
		}
	})
}
