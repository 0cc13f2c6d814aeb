package check_test

import (
	"bytes"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/page"
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
		server.MustExec(t, "postgres", `CREATE TABLE places (id int, p point, a int[]) WITH (autovacuum_enabled = off); INSERT INTO places SELECT g, point(g, g), ARRAY[g] FROM generate_series(1, 5000) g;
			CREATE INDEX of_gin ON places USING gin (a) WITH (fastupdate = off); CREATE INDEX of_gist ON places USING gist (p) WITH (fillfactor = 50); CREATE INDEX of_spgist ON places USING spgist (p); CREATE INDEX of_brin ON places USING brin (id); CREATE INDEX of_hash ON places USING hash (id);
			INSERT INTO places VALUES (0, point(0, 0), ARRAY[0])`)
		server.MustExec(t, "postgres", "CHECKPOINT")
		names := []string{"updated", "deleted", "grown", "numbers", "key", "of_gin", "of_gist", "of_spgist", "of_brin", "of_hash"}
		relations, old := make(map[string]pgtest.Relation), make(map[string][]byte)
		for _, name := range names {
			relations[name] = server.MustRelation(t, "postgres", name)
			content, err := relations[name].Copy()
			if err != nil {
				t.Fatal(err)
			}
			old[name] = content
		}
		server.MustExec(t, "postgres", "UPDATE updated SET v = 'after ' WHERE id = 100; DELETE FROM deleted WHERE id = 100; INSERT INTO grown VALUES (0, 'after'); SELECT nextval('numbers') FROM generate_series(1, 100); UPDATE keyed SET id = -1 WHERE id = 100; INSERT INTO places VALUES (-1, point(0, 0), ARRAY[-1])")
		server.MustExec(t, "postgres", "CHECKPOINT")
		look := func() check.Document {
			return sweep(t, server, check.Options{Databases: []string{"postgres"}, Checks: named(t, "page")})
		}
		if document := look(); document.ExitCode() != check.ExitClean {
			t.Fatalf("healthy: %s", messages(document))
		}
		for _, name := range names {
			now, err := relations[name].Copy()
			if err != nil {
				t.Fatal(err)
			}
			block := changed(old[name], now)
			if err := relations[name].RestorePage(block, old[name]); err != nil {
				t.Fatal(err)
			}
			document := look()
			if !finds(document, "the page is older than it must be: the WAL changed it at ") || len(document.Findings) != 1 || document.Findings[0].Relation != name || *document.Findings[0].Block != block {
				t.Errorf("%s: %s", name, messages(document))
			}
			if err := relations[name].RestorePage(block, now); err != nil {
				t.Fatal(err)
			}
		}
		if document := look(); document.ExitCode() != check.ExitClean {
			t.Errorf("mended: %s", messages(document))
		}
	})
}

// changed is the first page of a file that has another LSN than before.
func changed(before, now []byte) (block uint32) {
	for bytes.Equal(before[block*page.Size:][:8], now[block*page.Size:][:8]) {
		block++
	}
	return block
}
