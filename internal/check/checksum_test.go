package check_test

import (
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// TestChecksum finds pages that are not as the server wrote them: by the files, and by
// a base backup for a role that may not read them. A server that writes and
// checkpoints all the time gives no false alarm.
func TestChecksum(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major), pgtest.Checksums())
		server.MustExec(t, "erp", "CREATE TABLE books AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 20000) g")
		server.MustExec(t, "erp", "CREATE TABLE busy AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 20000) g")
		server.MustExec(t, "erp", "CREATE ROLE backup LOGIN REPLICATION")
		verify := func(dsn string) check.Document {
			document, err := check.Sweep(t.Context(), target(t, dsn), check.Options{Checks: named(t, "checksum"), Databases: []string{"erp"}, Logger: discard})
			if err != nil {
				t.Fatal(err)
			}
			return document
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 20 {
				if err := server.Exec(t.Context(), "erp", "UPDATE busy SET v = md5(v); CHECKPOINT"); err != nil {
					t.Error(err)
				}
			}
		}()
		for running := true; running; {
			select {
			case <-done:
				running = false
			case <-time.After(10 * time.Millisecond):
			}
			if document := verify(server.DSN("erp")); document.ExitCode() != check.ExitClean || document.Checks[0].Objects < 50 {
				t.Errorf("healthy: %s", messages(document))
			}
		}
		books := server.MustRelation(t, "erp", "books")
		server.WhileDown(t, func() error { return books.Edit(3, func(p []byte) { p[5000] ^= 1 }) })
		for _, dsn := range []string{server.DSN("erp"), server.DSN("erp", "backup")} {
			document := verify(dsn)
			switch {
			case major < 15 && dsn != server.DSN("erp"):
				if document.ExitCode() != check.ExitIncomplete {
					t.Errorf("%s", messages(document))
				}
			case len(document.Findings) != 1 || document.Findings[0].Relation != "books" || document.Findings[0].Block == nil || *document.Findings[0].Block != 3:
				t.Errorf("%+v", document)
			}
		}
	})
}
