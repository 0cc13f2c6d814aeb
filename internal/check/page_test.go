package check_test

import (
	"context"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
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
