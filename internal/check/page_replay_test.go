package check_test

import (
	"strings"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// TestReplayed tears pages of a standby that crashes, as a machine does that loses its
// power: what it has replayed since its last restartpoint is whole in memory and in the
// WAL, and is no finding. A page that nobody has changed is one.
func TestReplayed(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Checksums())
		server.MustExec(t, "postgres", "CREATE TABLE torn (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off); INSERT INTO torn SELECT g, md5(g::text) FROM generate_series(1, 5000) g; CREATE TABLE kept AS SELECT * FROM torn")
		standby := server.Standby(t)
		replay := func() {
			t.Helper()
			if err := standby.AwaitReplay(t.Context(), server); err != nil {
				t.Fatal(err)
			}
		}
		relations := make(map[string]pgtest.Relation)
		for _, name := range []string{"torn", "torn_pkey", "kept"} {
			r := server.MustRelation(t, "postgres", name)
			r.Path = strings.Replace(r.Path, server.DataDirectory, standby.DataDirectory, 1)
			relations[name] = r
		}
		replay()
		standby.MustExec(t, "postgres", "CHECKPOINT")
		server.MustExec(t, "postgres", "UPDATE torn SET v = 'later' WHERE id % 100 = 0")
		replay()
		if err := standby.Stop(pgtest.Immediate); err != nil {
			t.Fatal(err)
		}
		for name, block := range map[string]uint32{"torn": 1, "torn_pkey": 2} {
			if err := relations[name].Edit(block, pgtest.Sector); err != nil {
				t.Fatal(err)
			}
		}
		if err := standby.StartAgain(t.Context()); err != nil {
			t.Fatal(err)
		}
		replay()
		look := func() check.Document {
			return sweep(t, standby, check.Options{Databases: []string{"postgres"}, Checks: named(t, "checksum", "page")})
		}
		if document := look(); document.ExitCode() != check.ExitClean {
			t.Errorf("torn: %s", messages(document))
		}
		if err := relations["kept"].Edit(1, pgtest.Sector); err != nil {
			t.Fatal(err)
		}
		if document := look(); len(document.Findings) != 1 || document.Findings[0].Relation != "kept" {
			t.Errorf("damaged: %s", messages(document))
		}
		server.MustExec(t, "postgres", "CHECKPOINT")
		replay()
		standby.MustExec(t, "postgres", "CHECKPOINT")
		if document := look(); len(document.Findings) != 1 || document.Findings[0].Relation != "kept" {
			t.Errorf("after the restartpoint: %s", messages(document))
		}
	})
}
