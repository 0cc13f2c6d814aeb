package check_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// TestPageShrinking sweeps while tables lose and regain their tails: a page
// that was just added is all zeroes on disk, and the visibility map there may
// still tell of the page that stood in its place before.
func TestPageShrinking(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major), pgtest.Checksums())
		server.MustExec(t, "erp", "CREATE TABLE shrinking (id int, v text); INSERT INTO shrinking SELECT g, repeat('x', 500) FROM generate_series(1, 3000) g")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				for _, statement := range []string{
					"VACUUM shrinking", "CHECKPOINT", "DELETE FROM shrinking WHERE id > 1000", "VACUUM shrinking",
					"INSERT INTO shrinking SELECT g, repeat('x', 500) FROM generate_series(1001, 3000) g", "SELECT pg_sleep(0.4)",
				} {
					_ = server.Exec(ctx, "erp", statement) // the end of the test cancels it
				}
			}
		}()
		for began := time.Now(); time.Since(began) < 8*time.Second; {
			for _, f := range sweep(t, server, check.Options{Checks: named(t, "page")}).Findings {
				t.Errorf("false alarm: %+v", f)
			}
		}
		cancel()
		<-done
	})
}

// TestPageInMemory damages files of a running server that has the pages in memory:
// its statements see no damage.
func TestPageInMemory(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major))
		server.MustExec(t, "erp", "CREATE TABLE young AS SELECT g FROM generate_series(1, 10) g; CREATE TABLE seen AS SELECT g FROM generate_series(1, 10) g; CREATE TABLE grown AS SELECT g FROM generate_series(1, 10) g")
		// A session that is just ending can keep VACUUM from doing what is wanted.
		vacuum := func(table, done string) {
			pgtest.Await(t, "vacuumed", 20*time.Second, func() (is bool) {
				server.MustExec(t, "erp", "VACUUM "+table)
				if err := server.Query(t.Context(), "erp", "SELECT "+done+" FROM pg_class WHERE oid = '"+table+"'::regclass", &is); err != nil {
					t.Fatal(err)
				}
				return is
			})
		}
		vacuum("seen", "relallvisible = 1")
		young, seen, grown := server.MustRelation(t, "erp", "young"), server.MustRelation(t, "erp", "seen"), server.MustRelation(t, "erp", "grown")
		server.MustExec(t, "erp", "CHECKPOINT")
		server.MustExec(t, "erp", "INSERT INTO young SELECT g FROM generate_series(1, 10) g; DELETE FROM grown")
		vacuum("grown", "pg_relation_size(oid) = 0")
		server.MustExec(t, "erp", "INSERT INTO grown SELECT g FROM generate_series(1, 10) g")
		if content, err := grown.Copy(); err != nil || !page.IsNew(content) {
			t.Fatal("no page of zeroes", err)
		}
		look := func() check.Document {
			return sweep(t, server, check.Options{Databases: []string{"erp"}, Checks: named(t, "page")})
		}
		if document := look(); document.ExitCode() != check.ExitClean {
			t.Fatalf("healthy: %s", messages(document))
		}
		if err := errors.Join(young.Edit(0, pgtest.Zero), os.Remove(seen.Path+"_vm")); err != nil {
			t.Fatal(err)
		}
		document := look()
		if len(document.Findings) != 2 || !finds(document, "has rows of it in memory") || !finds(document, "the visibility map is lost") {
			t.Errorf("%s", messages(document))
		}
	})
}

// TestPageOfEveryIndex sweeps a healthy server that has every kind of index.
func TestPageOfEveryIndex(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major), pgtest.Checksums())
		server.MustExec(t, "erp", `CREATE TABLE shapes (id int, p point, tags int[], b box, t text);
			CREATE INDEX ON shapes USING hash (id); CREATE INDEX ON shapes USING gist (b); CREATE INDEX ON shapes USING gin (tags);
			CREATE INDEX ON shapes USING spgist (p); CREATE INDEX ON shapes USING brin (id); CREATE INDEX ON shapes USING spgist (t);
			INSERT INTO shapes SELECT g, point(g % 97, g), ARRAY[g, g % 50], box(point(g, g), point(g + 1, g)), md5(g::text) FROM generate_series(1, 20000) g;
			DELETE FROM shapes WHERE id % 3 = 0;
			CREATE SEQUENCE numbers`)
		server.MustExec(t, "erp", "VACUUM shapes")
		server.MustExec(t, "erp", "INSERT INTO shapes SELECT g, point(g % 97, g), ARRAY[g, g % 50], box(point(g, g), point(g + 1, g)), md5(g::text) FROM generate_series(1, 20000) g")
		server.MustExec(t, "erp", "CHECKPOINT")
		document := sweep(t, server, check.Options{Checks: named(t, "page"), Relations: []check.RelationName{{Schema: "public", Name: "shapes"}, {Schema: "public", Name: "numbers"}}})
		for _, c := range document.Checks {
			// The table, its TOAST table and that one's index, six indexes, the sequence.
			if c.Outcome != check.OutcomeOK || c.Objects != 10 {
				t.Errorf("%+v", c)
			}
		}
	})
}
