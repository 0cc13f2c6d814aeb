package check_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// notes is a Memory.
type notes map[string][]byte

func (n notes) Recall(key string, into any) (bool, error) {
	content, found := n[key]
	if !found {
		return false, nil
	}
	return true, json.Unmarshal(content, into)
}

func (n notes) Remember(key string, value any) error {
	content, err := json.Marshal(value)
	n[key] = content
	return err
}

func (n notes) Directory() string { return "" }

// TestFiles puts files where they do not belong and takes segments away.
func TestFiles(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Checksums())
		server.MustExec(t, "postgres", "CREATE DATABASE erp")
		server.MustExec(t, "erp", `CREATE TABLE gap AS SELECT 1 AS i; CREATE TABLE foreign_owner AS SELECT 1 AS i; CREATE TABLE emptied AS SELECT 1 AS i;
			CREATE UNLOGGED TABLE unlogged (i int PRIMARY KEY); CREATE TABLE big AS SELECT g FROM generate_series(1, 5000) g`)
		memory := notes{}
		files := func() check.Document {
			return sweep(t, server, check.Options{Checks: named(t, "files"), Memory: memory})
		}
		expect := func(document check.Document, texts ...string) {
			t.Helper()
			for _, text := range texts {
				hits := 0
				for _, f := range document.Findings {
					if strings.Contains(f.Relation+": "+f.Message, text) {
						hits++
					}
				}
				if hits != 1 {
					t.Errorf("%d findings %q", hits, text)
				}
			}
			if len(document.Findings) != len(texts) {
				t.Errorf("%d findings instead of %d: %+v", len(document.Findings), len(texts), document.Findings)
			}
		}
		// What is being made, and what was just dropped, is no orphan.
		server.Hold(t, "erp", "CREATE TABLE coming AS SELECT g FROM generate_series(1, 5000) g; CREATE INDEX ON coming (g)")
		server.MustExec(t, "erp", "TRUNCATE big; DROP TABLE big")
		expect(files())
		server.MustExec(t, "erp", "CHECKPOINT")
		expect(files())

		directory := filepath.Dir(server.MustRelation(t, "erp", "gap").Path)
		relation := func(name string) string { return server.MustRelation(t, "erp", name).Path }
		gap, foreign, emptied := relation("gap"), relation("foreign_owner"), relation("emptied")
		server.WhileDown(t, func() error {
			for _, path := range []string{filepath.Join(directory, "99901"), filepath.Join(directory, "99901.1"), gap + ".2", emptied + "_init", gap + ".bak"} {
				if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
					return err
				}
				before := time.Now().Add(-time.Second) // of the start
				if err := errors.Join(pgtest.GiveAway(path), os.Chtimes(path, before, before)); err != nil {
					return err
				}
			}
			return errors.Join(os.Chmod(foreign, 0), os.Mkdir(gap+"_vm", 0o700), pgtest.GiveAway(gap+"_vm"))
		})
		found := []string{
			"/99901 belongs to no relation (2 files", "gap: the file base", ".bak is in a directory",
			"emptied: the file", "foreign_owner: the server may not open", "_vm is a directory instead of a file",
		}
		expect(files(), found...)

		// A file that comes while the server runs counts when it was seen before, and
		// a checkpoint began since.
		late := filepath.Join(directory, "99902")
		if err := os.WriteFile(late, make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := pgtest.GiveAway(late); err != nil {
			t.Fatal(err)
		}
		expect(files(), found...)
		expect(files(), found...)
		// It writes WAL, so that the checkpoint begins behind the first sighting.
		server.MustExec(t, "erp", "CREATE TABLE since (i int)")
		server.MustExec(t, "erp", "CHECKPOINT")
		expect(files(), append(found, "/99902 belongs to no relation (1 files")...)
	})
}

// TestFilesThroughTheServer lists directories through a session, as a role that
// was granted the file functions, and says what is missing without.
func TestFilesThroughTheServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	monitor, err := server.Monitor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	run := func(want check.Outcome, reason string) {
		t.Helper()
		document := sweepAs(t, server, monitor, check.Options{Checks: named(t, "files", "page"), Databases: []string{"postgres"}})
		for _, c := range document.Checks {
			if c.Outcome != want || !strings.Contains(c.Reason, reason) {
				t.Errorf("%s: outcome %s, reason %q", c.Check, c.Outcome, c.Reason)
			}
		}
	}
	// The directory cannot be recognised without this file: another machine may have one of the same name.
	pid := filepath.Join(server.DataDirectory, "postmaster.pid")
	content, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(content), "\n")
	lines[3] = "1"
	if err := os.WriteFile(pid, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	run(check.OutcomeSkipped, "GRANT EXECUTE ON FUNCTION")
	if err := server.GrantFiles(t.Context(), "postgres", monitor); err != nil {
		t.Fatal(err)
	}
	run(check.OutcomeOK, "")
	if err := os.WriteFile(filepath.Join(server.DataDirectory, "base", "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var directory string
	if err := server.Query(t.Context(), "postgres", "SELECT 'base/' || oid FROM pg_database WHERE datname = 'postgres'", &directory); err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(server.DataDirectory, directory, fmt.Sprintf("%d.copy", 1259))
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	document := sweepAs(t, server, monitor, check.Options{Checks: named(t, "files"), Databases: []string{"postgres"}})
	if len(document.Findings) != 1 || !strings.Contains(document.Findings[0].Message, "1259.copy") {
		t.Errorf("%+v", document.Findings)
	}
}
