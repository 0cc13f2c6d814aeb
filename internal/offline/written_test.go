package offline_test

import (
	"strings"
	"testing"

	"pg_integrity_exporter/internal/pgtest"
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
