package check_test

import (
	"fmt"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// TestCopied puts a page, and a whole file, in the place of those of a relation of the
// same shape, where every checksum fits.
func TestCopied(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Checksums())
		for _, name := range []string{"wrong", "right", "whole", "other"} {
			server.MustExec(t, "postgres", fmt.Sprintf(`CREATE TABLE %q (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off); CREATE SEQUENCE %[1]s_numbers;
				INSERT INTO %[1]q SELECT g, md5('%[1]s' || g) FROM generate_series(1, 2000) g; SELECT nextval('%[1]s_numbers')`, name))
		}
		look := func() check.Document {
			return sweep(t, server, check.Options{Databases: []string{"postgres"}, Checks: named(t, "page")})
		}
		server.MustExec(t, "postgres", "CHECKPOINT")
		if document := look(); document.ExitCode() != check.ExitClean {
			t.Fatalf("healthy: %s", messages(document))
		}
		instead := func(from, to string, blocks ...uint32) {
			t.Helper()
			source, target := server.MustRelation(t, "postgres", from), server.MustRelation(t, "postgres", to)
			content, err := source.Copy()
			if err != nil {
				t.Fatal(err)
			}
			server.WhileDown(t, func() error {
				for _, block := range blocks {
					if err := target.Edit(block, func(p []byte) { copy(p, content[int(block)*page.Size:]) }); err != nil {
						return err
					}
				}
				return nil
			})
		}
		told := func(document check.Document) map[string]int {
			of := make(map[string]int)
			for _, f := range document.Findings {
				if finds(document, "the page is the same as page ") && f.Block != nil {
					of[f.Relation]++
				}
			}
			return of
		}
		instead("right", "wrong", 1)
		if of := told(look()); of["wrong"] != 1 || of["right"] != 1 {
			t.Errorf("a page: %v", of)
		}
		instead("other", "whole", 0, 1, 2, 3)
		instead("other_numbers", "whole_numbers", 0)
		if of := told(look()); of["whole"] < 2 || of["other"] < 2 || of["whole_numbers"] != 1 || of["other_numbers"] != 1 {
			t.Errorf("files: %v: %s", of, messages(look()))
		}
	})
}
