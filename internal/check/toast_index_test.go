package check_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
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

// TestZeroInLongText puts a byte of zero into a text in the TOAST table: whoever
// reads it gets what is before. Bytes may have such.
func TestZeroInLongText(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major), pgtest.Checksums())
		relations := make(map[string]pgtest.Relation)
		for name, typeName := range map[string]string{"t": "text", "v": "varchar", "c": "char(9000)", "b": "bytea"} {
			server.MustExec(t, "erp", fmt.Sprintf(`CREATE TABLE %s (id int, v %s) WITH (autovacuum_enabled = off); ALTER TABLE %[1]s ALTER v SET STORAGE EXTERNAL;
				INSERT INTO %[1]s SELECT g, repeat('abcdefghij' || g, 800)::%[2]s FROM generate_series(1, 5) g`, name, typeName))
			var toast string
			if err := server.Query(t.Context(), "erp", fmt.Sprintf("SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = '%s'::regclass", name), &toast); err != nil {
				t.Fatal(err)
			}
			relations[name] = server.MustRelation(t, "erp", toast)
		}
		server.MustExec(t, "erp", "CHECKPOINT")
		options := check.Options{Checks: named(t, "page", "toast")}
		if healthy := sweep(t, server, options); len(healthy.Findings) > 0 {
			t.Errorf("healthy: %+v", healthy.Findings)
		}
		server.WhileDown(t, func() error {
			var errs []error
			for _, relation := range relations {
				errs = append(errs, exchange(relation, hex.EncodeToString([]byte("defgh")), hex.EncodeToString([]byte("de\x00gh"))))
			}
			return errors.Join(errs...)
		})
		var told []string
		for _, f := range sweep(t, server, options).Findings {
			told = append(told, f.Check+" "+f.Relation)
		}
		slices.Sort(told)
		if want := []string{"toast c", "toast t", "toast v"}; !slices.Equal(told, want) {
			t.Errorf("found %q, want %q", told, want)
		}
	})
}

// TestLabelLost takes a label of an enum away: the rows of all pages that have it
// cannot be read, for one reason, which is told once.
func TestLabelLost(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		if major < 14 {
			t.Skip("before 14 values are read when the check page has seen the files")
		}
		server := start(t, pgtest.Version(major))
		server.MustExec(t, "erp", `CREATE TYPE state AS ENUM ('open', 'paid'); CREATE TABLE bills (id int PRIMARY KEY, state state, memo text);
			INSERT INTO bills SELECT g, 'paid', repeat('x', 200) FROM generate_series(1, 1000) g; SET allow_system_table_mods = on; DELETE FROM pg_enum WHERE enumlabel = 'paid'`)
		document := sweep(t, server, check.Options{Checks: named(t, "heap", "toast", "constraint")})
		var told []string
		for _, f := range document.Findings {
			told = append(told, f.Check+" "+f.Relation+": "+f.Message)
		}
		for _, want := range []string{`toast bills: the value of column "state" (state) in row (0,1) cannot be read`, `constraint bills: enum public.state of column "state" is broken by at least 1000 rows`} {
			if !slices.ContainsFunc(told, func(message string) bool { return strings.HasPrefix(message, want) }) {
				t.Errorf("not found: %s", want)
			}
		}
		if len(told) != 2 {
			t.Errorf("found %q", told)
		}
	})
}
