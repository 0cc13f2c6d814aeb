package check_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// TestUnusable breaks databases so that no session can be opened in them. The check
// catalog tells so, the other databases are looked at, and a server that restarts
// at each attempt restarts once.
func TestUnusable(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		// A worker of autovacuum dies of the same pages, and loops in the trap.
		server := start(t, pgtest.Version(major), pgtest.Setting("restart_after_crash", "on"), pgtest.Setting("autovacuum", "off"))
		server.MustExec(t, "postgres", "CREATE DATABASE older")
		version := filepath.Join(filepath.Dir(server.MustRelation(t, "older", "pg_catalog.pg_class").Path), "PG_VERSION")
		broken := map[string]string{"no_class": "pg_class", "no_columns": "pg_attribute", "no_types": "pg_type"}
		files := make(map[string]string)
		for database, catalogue := range broken {
			server.MustExec(t, "postgres", "CREATE DATABASE "+database)
			files[database] = server.MustRelation(t, database, "pg_catalog."+catalogue).Path
		}
		// A session can be opened in these, but hardly used.
		for database, index := range map[string]string{"no_names": "pg_class_relname_nsp_index", "no_indexes": "pg_index_indrelid_index"} {
			server.MustExec(t, "postgres", "CREATE DATABASE "+database)
			files[database] = server.MustRelation(t, database, "pg_catalog."+index).Path
		}
		// Who looks something up in this one does not come back, and takes memory.
		server.MustExec(t, "postgres", "CREATE DATABASE trap")
		tree := server.MustRelation(t, "trap", "pg_catalog.pg_class_relname_nsp_index")
		// Who looks something up in this one dies, and all others with it.
		server.MustExec(t, "postgres", "CREATE DATABASE wild")
		lists := server.MustRelation(t, "wild", "pg_catalog.pg_proc_oid_index")
		pages, err := lists.Copy()
		if err != nil {
			t.Fatal(err)
		}
		server.MustExec(t, "postgres", "CREATE DATABASE no_files")
		directory := filepath.Dir(server.MustRelation(t, "no_files", "pg_catalog.pg_class").Path)
		server.WhileDown(t, func() error {
			for _, file := range files {
				if err := os.Truncate(file, 0); err != nil {
					return err
				}
			}
			if err := tree.EditValid(tree.Blocks-1, func(p []byte) { clear(p[4096:]) }); err != nil {
				return err
			}
			for block := uint32(1); block < lists.Blocks; block++ {
				if !page.DecodeBtree(pages[block*page.Size:][:page.Size]).Leaf {
					continue
				}
				if err := lists.EditValid(block, farLists); err != nil {
					return err
				}
			}
			return errors.Join(os.RemoveAll(directory), os.WriteFile(version, []byte("9\n"), 0o600))
		})
		for _, home := range []string{"erp", "no_class", "no_names", "trap", "wild", "older"} {
			before := restarts(t, server)
			target := target(t, server.DSN(home))
			for range 2 {
				document, err := check.Sweep(t.Context(), target, check.Options{Checks: named(t, "catalog", "sequence", "collation"), Jobs: 1, Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				found := make(map[string]string)
				for _, f := range document.Findings {
					found[f.Database] += fmt.Sprintf("%s %s %s %s: %s\n", f.Check, f.Class, f.SQLState, f.Relation, f.Message)
				}
				for _, database := range []string{"no_class", "no_columns", "no_types", "no_files", "no_names", "no_indexes", "trap", "wild", "older"} {
					if !strings.Contains(found[database], "catalog corruption") {
						t.Errorf("%s: nothing found: %+v", database, document)
					}
				}
				for _, c := range document.Checks {
					if (c.Database == "erp" || c.Database == "postgres") && c.Outcome != check.OutcomeOK {
						t.Errorf("%+v", c)
					}
				}
				for database, name := range map[string]string{"no_names": "pg_class_relname_nsp_index", "no_indexes": "pg_index_indrelid_index", "trap": "pg_class_relname_nsp_index", "wild": "pg_proc_oid_index"} {
					if !strings.Contains(found[database], name) {
						t.Errorf("%s: %s is not named: %s", database, name, found[database])
					}
				}
				if found["erp"]+found["postgres"] != "" {
					t.Errorf("a false alarm: %v", found)
				}
			}
			server.AwaitAccepting(t)
			limit := 0
			if home == "wild" || home == "no_class" {
				limit = 1 // before it is known
			}
			if n := restarts(t, server) - before; n > limit {
				t.Errorf("%s: the server restarted %d times", home, n)
			}
		}
	})
}

// farLists makes the entries of a leaf page lists of rows that begin far behind it.
func farLists(p []byte) {
	for _, item := range pgtest.Items(p) {
		tuple := p[item.Offset:]
		binary.LittleEndian.PutUint32(tuple, 0x47474747)
		binary.LittleEndian.PutUint16(tuple[4:], 0x2000|860)
		tuple[7] |= 0x20
	}
}

// TestUnusableServer breaks a catalogue that all databases share.
func TestUnusableServer(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major))
		roles := server.MustRelation(t, "erp", "pg_catalog.pg_authid_rolname_index")
		whole, err := roles.Copy()
		if err != nil {
			t.Fatal(err)
		}
		server.WhileDown(t, func() error { return os.Truncate(roles.Path, page.Size) })
		document := sweep(t, server, check.Options{Checks: named(t, "cluster", "catalog", "page"), Memory: notes{}})
		if !finds(document, "no session can be opened") || document.ExitCode() != check.ExitFindings || len(document.Findings) != 1 || len(document.Checks) != 3 {
			t.Errorf("%s", messages(document))
		}
		server.WhileDown(t, func() error { return roles.Restore(whole) })
		if document := sweep(t, server, check.Options{Checks: named(t, "catalog")}); document.ExitCode() != check.ExitClean {
			t.Errorf("mended: %s", messages(document))
		}
	})
}

// TestHungDatabase makes sessions hang at their opening: a sweep ends all the same,
// and what another database can tell is told.
func TestHungDatabase(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		if !pgtest.Turn(1, major) && major != pgtest.Newest() {
			t.Skip("the waiting is the same in every version")
		}
		server := start(t, pgtest.Version(major))
		version := filepath.Join(filepath.Dir(server.MustRelation(t, "erp", "pg_catalog.pg_class").Path), "PG_VERSION")
		if err := errors.Join(os.Remove(version), syscall.Mkfifo(version, 0o600), pgtest.GiveAway(version)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		document, err := check.Sweep(t.Context(), target(t, server.DSN("erp")), check.Options{Checks: check.All(), Databases: []string{"erp"}, Jobs: 1, Memory: notes{}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("it took %s", took)
		}
		if !finds(document, "PG_VERSION cannot be read: it is no file") || document.ExitCode() != check.ExitFindings {
			t.Errorf("%s", messages(document))
		}
		// Who hangs there is woken, so that the server can be stopped.
		if pipe, err := os.OpenFile(version, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			_ = pipe.Close()
		}
	})
}

// TestControlFileLost takes the control file away from a running server: one check
// says so, and the others do what they can without it.
func TestControlFileLost(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major))
		server.MustExec(t, "erp", "CREATE TABLE bad AS SELECT g AS i FROM generate_series(1, 1000) g")
		bad := server.MustRelation(t, "erp", "bad")
		server.MustExec(t, "erp", "CHECKPOINT")
		if err := bad.EditValid(1, func(p []byte) { p[19] = 9 }); err != nil {
			t.Fatal(err)
		}
		control := filepath.Join(server.DataDirectory, "global", "pg_control")
		if err := os.Rename(control, control+".away"); err != nil {
			t.Fatal(err)
		}
		document := sweep(t, server, check.Options{Databases: []string{"erp"}, Memory: notes{}})
		if err := os.Rename(control+".away", control); err != nil {
			t.Fatal(err)
		}
		if !finds(document, "the server cannot read its control file") || !finds(document, "the page header says") {
			t.Error("not found")
		}
		for _, f := range document.Findings {
			if f.Class == check.ClassCorruption && f.Relation != "bad" && f.Relation != "global/pg_control" {
				t.Errorf("false alarm: %+v", f)
			}
		}
		for _, c := range document.Checks {
			if c.Outcome == check.OutcomeFailed && c.Check != "cluster" && !strings.Contains(c.Reason, "public.bad: its ") {
				t.Errorf("%s: %s", c.Check, c.Reason)
			}
		}
	})
}

// restarts counts how often the server restarted because of a crash; it says so
// before it accepts sessions again.
func restarts(t *testing.T, server *pgtest.Server) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(server.Directory, "output.log"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(content), "was terminated by signal")
}
