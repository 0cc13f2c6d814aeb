package check_test

import (
	"strings"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// TestTOASTIndexInARing damages the index of a TOAST table so that its root leads
// to itself: whoever fetches a value through it never comes back, deaf to a cancel
// and to statement_timeout, and takes more and more memory. No check may try.
func TestTOASTIndexInARing(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major))
		server.MustExec(t, "erp", `CREATE TABLE docs (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off); ALTER TABLE docs ALTER v SET STORAGE EXTERNAL;
			INSERT INTO docs SELECT g, repeat(md5(g::text), 200) FROM generate_series(1, 40) g`)
		server.MustExec(t, "erp", "CHECKPOINT")
		var name string
		if err := server.Query(t.Context(), "erp", "SELECT i.indexrelid::regclass::text FROM pg_class c JOIN pg_index i ON i.indrelid = c.reltoastrelid WHERE c.relname = 'docs'", &name); err != nil {
			t.Fatal(err)
		}
		index := server.MustRelation(t, "erp", name)
		server.WhileDown(t, func() error {
			return index.EditValid(1, func(p []byte) { clear(p[page.Size-16:]) })
		})
		// Without the check page nothing is known of the files.
		document := sweep(t, server, check.Options{Checks: named(t, "heap", "toast", "index", "constraint", "generated", "visibility", "btree")})
		var found bool
		for _, f := range document.Findings {
			found = found || f.Check == "btree" && "pg_toast."+f.Relation == name
		}
		if !found {
			t.Errorf("findings %+v", document.Findings)
		}
		for _, c := range document.Checks {
			if c.Check == "heap" && major >= 14 && !strings.Contains(c.Reason, "public.docs: its values in the TOAST table were not looked at") {
				t.Errorf("reason %q", c.Reason)
			}
		}
	})
}
