package check_test

import (
	"regexp"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
)

// TestGrantsAreExact runs what the reasons say, word for word, for a role that
// may nothing and has a difficult name, until every check can look at
// everything.
func TestGrantsAreExact(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("runs all checks several times")
	}
	server := start(t)
	const role = `wh"o is, this`
	server.MustExec(t, "postgres", `CREATE ROLE "wh""o is, this" LOGIN`)
	// One more schema, and a sequence, that only their owner may see.
	server.MustExec(t, "erp", `CREATE SCHEMA "se;cret"; CREATE TABLE "se;cret"."t;x" (id serial PRIMARY KEY, of int REFERENCES "se;cret"."t;x"); INSERT INTO "se;cret"."t;x" DEFAULT VALUES`)
	statement := regexp.MustCompile(`(?:GRANT [A-Za-z_ ]+(?: ON [^:]*?)? TO "wh""o is, this")|CREATE EXTENSION \w+`)
	done := make(map[string]bool)
	var missing []string
	for range 8 {
		missing = nil
		fresh := false
		for _, c := range sweepAs(t, server, role, check.Options{}).Checks {
			if c.Outcome != check.OutcomeOK {
				missing = append(missing, c.Check+": "+c.Reason)
			}
			for _, sql := range statement.FindAllString(c.Reason, -1) {
				if done[sql] {
					continue
				}
				done[sql], fresh = true, true
				if err := server.Exec(t.Context(), "erp", sql); err != nil && pg.SQLState(err) != "42710" {
					t.Errorf("%s says %q: %v", c.Check, sql, err)
				}
			}
		}
		if !fresh {
			break
		}
	}
	if len(missing) > 0 || len(done) == 0 {
		t.Errorf("after %v:\n%s", done, strings.Join(missing, "\n"))
	}
}
