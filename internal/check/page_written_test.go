package check_test

import (
	"strings"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// TestLostWrite puts single older pages back, of which nothing but the WAL tells.
func TestLostWrite(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		keep := pgtest.Setting("wal_keep_size", "64MB")
		server := pgtest.Start(t, pgtest.Version(major), keep)
		const fill = " (id int, v text) WITH (autovacuum_enabled = off); INSERT INTO %s SELECT g, 'before' FROM generate_series(1, 5000) g; "
		for _, name := range []string{"updated", "deleted", "grown", "same"} {
			server.MustExec(t, "postgres", "CREATE TABLE "+name+strings.ReplaceAll(fill, "%s", name))
		}
		server.MustExec(t, "postgres", "CREATE SEQUENCE numbers; SELECT nextval('numbers'); CREATE TABLE keyed"+strings.ReplaceAll(fill, "%s", "keyed")+"CREATE INDEX key ON keyed (id)")
		server.MustExec(t, "postgres", "CHECKPOINT")
		names := []string{"updated", "deleted", "grown", "numbers", "key"}
		relations, old := make(map[string]pgtest.Relation), make(map[string][]byte)
		for _, name := range names {
			relations[name] = server.MustRelation(t, "postgres", name)
			content, err := relations[name].Copy()
			if err != nil {
				t.Fatal(err)
			}
			old[name] = content
		}
		server.MustExec(t, "postgres", "UPDATE updated SET v = 'after ' WHERE id = 100; DELETE FROM deleted WHERE id = 100; INSERT INTO grown VALUES (0, 'after'); SELECT nextval('numbers') FROM generate_series(1, 100); UPDATE keyed SET id = -1 WHERE id = 100")
		server.MustExec(t, "postgres", "CHECKPOINT")
		look := func() check.Document {
			return sweep(t, server, check.Options{Databases: []string{"postgres"}, Checks: named(t, "page")})
		}
		if document := look(); document.ExitCode() != check.ExitClean {
			t.Fatalf("healthy: %s", messages(document))
		}
		blocks := map[string]uint32{"grown": relations["grown"].Blocks - 1, "key": 1}
		for _, name := range names {
			now, err := relations[name].Copy()
			if err != nil {
				t.Fatal(err)
			}
			if err := relations[name].RestorePage(blocks[name], old[name]); err != nil {
				t.Fatal(err)
			}
			document := look()
			if !finds(document, "the page is older than it must be: the WAL changed it at ") || len(document.Findings) != 1 || document.Findings[0].Relation != name || *document.Findings[0].Block != blocks[name] {
				t.Errorf("%s: %s", name, messages(document))
			}
			if err := relations[name].RestorePage(blocks[name], now); err != nil {
				t.Fatal(err)
			}
		}
		if document := look(); document.ExitCode() != check.ExitClean {
			t.Errorf("mended: %s", messages(document))
		}
	})
}
