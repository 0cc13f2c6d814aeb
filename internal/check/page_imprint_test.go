package check_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// settle leaves nothing in memory, and no WAL of what was before.
const settle = "CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT"

// imprinted makes tables, and looks at pages again and again with one memory.
func imprinted(t *testing.T, server *pgtest.Server) (look func(on *pgtest.Server) check.Document) {
	t.Helper()
	for _, name := range []string{"kept", "older", "busy"} {
		server.MustExec(t, "postgres", fmt.Sprintf("CREATE TABLE %[1]s (id int, v text) WITH (autovacuum_enabled = off); INSERT INTO %[1]s SELECT g, md5(g::text) FROM generate_series(1, 5000) g", name))
	}
	server.MustExec(t, "postgres", `CREATE TABLE long (v text) WITH (autovacuum_enabled = off); ALTER TABLE long ALTER v SET STORAGE EXTERNAL;
		INSERT INTO long SELECT repeat(md5(g::text), 300) FROM generate_series(1, 20) g`)
	memory := state.OpenFiles(t.TempDir(), "target").Memory()
	return func(on *pgtest.Server) check.Document {
		return sweep(t, on, check.Options{Databases: []string{"postgres"}, Checks: named(t, "page"), Memory: memory})
	}
}

// inText changes a letter of the text in the row of imprinted's tables with a number.
func inText(n int) func(p []byte) {
	return pgtest.Tuple(n, func(tuple []byte) { tuple[30] = 'z' })
}

// TestImprint changes values, and puts a page back as it was when nothing in the WAL
// tells of it any more, with data checksums and without; the checksums always fit. A
// server that is used, and that crashes, changes its pages too.
func TestImprint(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		for _, options := range [][]pgtest.Option{{pgtest.Version(major)}, {pgtest.Version(major), pgtest.Checksums()}} {
			server := pgtest.Start(t, options...)
			look := imprinted(t, server)
			server.MustExec(t, "postgres", "CREATE INDEX older_v ON older USING gin (string_to_array(v, 'a')) WITH (fastupdate = off); CREATE SEQUENCE numbers; SELECT nextval('numbers'); CHECKPOINT")
			olds := make(map[string][]byte)
			for _, name := range []string{"older", "older_v", "numbers"} {
				content, err := server.MustRelation(t, "postgres", name).Copy()
				if err != nil {
					t.Fatal(err)
				}
				olds[name] = content
			}
			server.MustExec(t, "postgres", "UPDATE older SET v = 'updated' WHERE id = 100; SELECT nextval('numbers') FROM generate_series(1, 100)")
			server.MustExec(t, "postgres", "VACUUM older")
			server.MustExec(t, "postgres", settle)
			healthy := func(when string) {
				t.Helper()
				if document := look(server); document.ExitCode() != check.ExitClean {
					t.Fatalf("%s: %s", when, messages(document))
				}
			}
			healthy("first")
			// Hint bits, locks, pruning, freezing, new versions, aborted ones.
			server.MustExec(t, "postgres", "SELECT count(*) FROM kept; SELECT count(*) FROM busy; UPDATE busy SET v = 'x' WHERE id % 500 = 0; DELETE FROM busy WHERE id % 700 = 0; SELECT count(*) FROM busy")
			server.MustExec(t, "postgres", "BEGIN; SELECT FROM busy WHERE id % 300 = 0 FOR UPDATE; UPDATE busy SET id = 0 WHERE id % 1100 = 0; ROLLBACK")
			healthy("used")
			for _, sql := range []string{"SELECT count(*) FROM busy", "VACUUM busy", "VACUUM FREEZE older", "INSERT INTO busy SELECT g FROM generate_series(1, 3000) g; CHECKPOINT"} {
				server.MustExec(t, "postgres", sql)
			}
			healthy("vacuumed")
			server.MustExec(t, "postgres", "UPDATE busy SET v = 'y' WHERE id % 50 = 0")
			if err := server.Stop(pgtest.Immediate); err != nil {
				t.Fatal(err)
			}
			if err := server.StartAgain(t.Context()); err != nil {
				t.Fatal(err)
			}
			healthy("crashed")
			server.MustExec(t, "postgres", "SELECT count(*) FROM busy; "+settle)
			healthy("settled")

			toast := ""
			if err := server.Query(t.Context(), "postgres", "SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 'long'", &toast); err != nil {
				t.Fatal(err)
			}
			kept, older, long := server.MustRelation(t, "postgres", "kept"), server.MustRelation(t, "postgres", "older"), server.MustRelation(t, "postgres", toast)
			numbers, index := server.MustRelation(t, "postgres", "numbers"), server.MustRelation(t, "postgres", "older_v")
			whole, err := kept.Copy()
			if err != nil {
				t.Fatal(err)
			}
			indexed, err := index.Copy()
			if err != nil {
				t.Fatal(err)
			}
			server.WhileDown(t, func() error {
				if err := kept.EditValid(3, inText(7)); err != nil {
					return err
				}
				if err := long.EditValid(2, pgtest.Tuple(1, func(tuple []byte) { tuple[1000] ^= 1 })); err != nil {
					return err
				}
				return errors.Join(older.RestorePage(0, olds["older"]), numbers.RestorePage(0, olds["numbers"]), index.RestorePage(changed(olds["older_v"], indexed), olds["older_v"]))
			})
			for _, when := range []string{"damaged", "again"} {
				document := look(server)
				if len(document.Findings) != 5 || !finds(document, "the page was changed, but not by the server: ") || !finds(document, "the page is another than it was when it was read at ") {
					t.Errorf("%s: %s", when, messages(document))
				}
				for _, f := range document.Findings {
					if f.Relation == "kept" && *f.Block != 3 {
						t.Errorf("block %d of kept", *f.Block)
					}
				}
				server.MustExec(t, "postgres", "INSERT INTO busy VALUES (0, 'later'); "+settle)
			}
			server.WhileDown(t, func() error { return kept.RestorePage(3, whole) })
			server.MustExec(t, "postgres", "TRUNCATE long; SELECT setval('numbers', 1000); CHECKPOINT")
			server.MustExec(t, "postgres", "TRUNCATE older")
			healthy("mended")
		}
	})
}

// TestImprintHistory looks at a server that was put back to an earlier moment and went
// another way from there, at a standby, and at a relation alone. What both histories
// have is still compared.
func TestImprintHistory(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	look := imprinted(t, server)
	server.MustExec(t, "postgres", settle)
	earlier := filepath.Join(pgtest.SharedDirectory(t), "earlier")
	server.WhileDown(t, func() error { return pgtest.Run("cp", "-a", server.DataDirectory, earlier) })
	change := func(what string) {
		server.MustExec(t, "postgres", fmt.Sprintf("UPDATE busy SET v = '%s' WHERE id %% 2 = 0; INSERT INTO busy SELECT g, '%[1]s' FROM generate_series(1, 2000) g; ", what)+settle)
	}
	change("one")
	if document := look(server); document.ExitCode() != check.ExitClean {
		t.Fatalf("first: %s", messages(document))
	}
	standby := server.Standby(t)
	if err := standby.AwaitReplay(t.Context(), server); err != nil {
		t.Fatal(err)
	}
	if document := look(standby); document.ExitCode() != check.ExitClean {
		t.Fatalf("standby: %s", messages(document))
	}
	server.WhileDown(t, func() error {
		if err := os.RemoveAll(server.DataDirectory); err != nil {
			return err
		}
		return pgtest.Run("cp", "-a", earlier, server.DataDirectory)
	})
	change("two")
	change("three")
	kept := server.MustRelation(t, "postgres", "kept")
	server.WhileDown(t, func() error { return kept.EditValid(1, inText(2)) })
	for _, when := range []string{"restored", "again"} {
		if document := look(server); len(document.Findings) != 1 || document.Findings[0].Relation != "kept" {
			t.Errorf("%s: %s", when, messages(document))
		}
	}
}
