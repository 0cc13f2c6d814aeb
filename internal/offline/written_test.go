package offline_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/offline"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// TestLostWrite puts an older page back while the server is down, after a shutdown and
// after a crash: nothing but the WAL tells of it.
func TestLostWrite(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		for _, how := range []pgtest.Shutdown{pgtest.Fast, pgtest.Immediate} {
			server := pgtest.Start(t, pgtest.Version(major))
			server.MustExec(t, "postgres", "CREATE TABLE t (id int, v text); INSERT INTO t SELECT g, 'before' FROM generate_series(1, 1000) g")
			server.MustExec(t, "postgres", "CHECKPOINT")
			relation := server.MustRelation(t, "postgres", "t")
			old, err := relation.Copy()
			if err != nil {
				t.Fatal(err)
			}
			server.MustExec(t, "postgres", "UPDATE t SET v = 'after ' WHERE id = 100")
			server.MustExec(t, "postgres", "CHECKPOINT")
			server.MustExec(t, "postgres", "INSERT INTO t VALUES (0, 'later')") // on another page
			if err := server.Stop(how); err != nil {
				t.Fatal(err)
			}
			if document := look(t, server.DataDirectory, "page"); len(document.Findings) != 0 {
				t.Errorf("healthy: %s", text(t, document))
			}
			if err := relation.RestorePage(0, old); err != nil {
				t.Fatal(err)
			}
			document := look(t, server.DataDirectory, "page")
			if len(document.Findings) != 1 || document.Findings[0].Relation != "t" || !strings.Contains(document.Findings[0].Message, "the page is older than it must be") {
				t.Errorf("an older page: %s", text(t, document))
			}
		}
	})
}

// TestImprints changes a value while the server is down that an exporter has looked at,
// after a shutdown and after a crash.
func TestImprints(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		for _, how := range []pgtest.Shutdown{pgtest.Fast, pgtest.Immediate} {
			server := pgtest.Start(t, pgtest.Version(major))
			server.MustExec(t, "postgres", "CREATE TABLE t (id int, v text); INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 5000) g; CHECKPOINT")
			target, err := pg.ResolveTarget(server.DSN("postgres"), func(string) (string, bool) { return "", false })
			if err != nil {
				t.Fatal(err)
			}
			directory := t.TempDir()
			checks := slices.DeleteFunc(check.All(), func(c check.Check) bool { return c.Name != "page" })
			options := check.Options{Checks: checks, Databases: []string{"postgres"}, Memory: state.OpenFiles(directory, "target").Memory(), Logger: slog.New(slog.DiscardHandler)}
			if document, err := check.Sweep(t.Context(), target, options); err != nil || document.ExitCode() != check.ExitClean {
				t.Fatalf("%v, %+v", err, document)
			}
			server.MustExec(t, "postgres", "UPDATE t SET v = 'later' WHERE id = 4000; CREATE TABLE u AS SELECT * FROM t")
			relation := server.MustRelation(t, "postgres", "t")
			server.MustExec(t, "postgres", "UPDATE t SET v = 'even later' WHERE id = 4500")
			if err := server.Stop(how); err != nil {
				t.Fatal(err)
			}
			compare := func() check.Document {
				return lookWith(t, offline.Options{Directory: server.DataDirectory, Imprints: state.ImprintDirectories(directory), Only: []string{"page"}})
			}
			if document := compare(); len(document.Findings) != 0 {
				t.Errorf("healthy: %s", text(t, document))
			}
			if err := relation.EditValid(2, pgtest.Tuple(3, func(tuple []byte) { tuple[30] = 'z' })); err != nil {
				t.Fatal(err)
			}
			if document := compare(); len(document.Findings) != 1 || document.Findings[0].Relation != "t" || !strings.Contains(document.Findings[0].Message, "the page was changed, but not by the server") {
				t.Errorf("changed: %s", text(t, document))
			}
		}
	})
}
