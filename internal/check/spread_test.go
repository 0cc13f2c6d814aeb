package check_test

import (
	"slices"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// TestSpread looks at several relations at a time, which finds what one after the
// other finds: rows that the table lost, whose index holds all that are left, and a
// damaged tuple.
func TestSpread(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major))
		server.MustExec(t, "erp", `CREATE TABLE lost AS SELECT g AS id FROM generate_series(1, 20000) g; CREATE INDEX lost_id ON lost (id);
			CREATE TABLE broken AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 20000) g; CREATE INDEX ON broken (v)`)
		pgtest.Await(t, "vacuumed", 20*time.Second, func() (visible bool) {
			server.MustExec(t, "erp", "VACUUM ANALYZE")
			if err := server.Query(t.Context(), "erp", "SELECT relallvisible = relpages FROM pg_class WHERE relname = 'lost'", &visible); err != nil {
				t.Fatal(err)
			}
			return visible
		})
		look := func(jobs int) (document check.Document, sessions int) {
			before := sessionsOf(t, server)
			document = sweep(t, server, check.Options{Checks: named(t, "heap", "btree", "visibility", "index", "toast"), Deep: true, Jobs: jobs})
			return document, sessionsOf(t, server) - before
		}
		if document, _ := look(3); len(document.Findings) > 0 || major > 13 && document.ExitCode() != check.ExitClean {
			t.Errorf("healthy: %s", messages(document))
		}
		lost, broken := server.MustRelation(t, "erp", "lost"), server.MustRelation(t, "erp", "broken")
		server.WhileDown(t, func() error {
			if err := broken.Edit(5, func(p []byte) { p[14] = 1; p[15] = 0 }); err != nil { // pd_upper
				return err
			}
			return lost.Edit(3, func(p []byte) { clear(p[24+4*6:][:4]) }) // line pointer 7 is unused
		})
		one, single := look(1)
		three, several := look(3)
		if got, want := fingerprints(three), fingerprints(one); !slices.Equal(got, want) {
			t.Errorf("three at a time: %s\none at a time: %s", messages(three), messages(one))
		}
		if !slices.ContainsFunc(one.Findings, func(f check.Finding) bool { return f.Check == "index" && f.Relation == "lost" }) && major > 13 {
			t.Errorf("the lost row: %s", messages(one))
		}
		if !slices.ContainsFunc(one.Findings, func(f check.Finding) bool { return f.Relation == "broken" }) {
			t.Errorf("the broken page: %s", messages(one))
		}
		if major >= 14 && several <= single {
			t.Errorf("%d sessions for three at a time, %d for one", several, single)
		}
		for i := range one.Checks {
			if a, b := one.Checks[i], three.Checks[i]; a.Objects != b.Objects || a.Outcome != b.Outcome || a.Bytes != b.Bytes {
				t.Errorf("%s: one at a time %d relations, %d bytes, %s; three %d, %d, %s", a.Check, a.Objects, a.Bytes, a.Outcome, b.Objects, b.Bytes, b.Outcome)
			}
		}
	})
}

// sessionsOf is how many sessions the database erp has had (14+).
func sessionsOf(t *testing.T, server *pgtest.Server) (n int) {
	t.Helper()
	if server.Install.Major >= 14 {
		if err := server.Query(t.Context(), "postgres", "SELECT sessions FROM pg_stat_database WHERE datname = 'erp'", &n); err != nil {
			t.Fatal(err)
		}
	}
	return n
}
