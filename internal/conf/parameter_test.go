package conf

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/pgtest"
)

var update = flag.Bool("update", false, "write parameters.tsv from the servers of every version")

// sameInEveryBuild are the enumerations whose values do not depend on how the
// server was built.
var sameInEveryBuild = []string{
	"archive_mode", "bytea_output", "client_min_messages", "constraint_exclusion", "default_transaction_isolation", "huge_pages",
	"intervalstyle", "log_error_verbosity", "log_min_error_statement", "log_min_messages", "log_statement",
	"password_encryption", "plan_cache_mode", "recovery_prefetch", "recovery_target_action", "session_replication_role", "synchronous_commit",
	"track_functions", "wal_level", "xmlbinary", "xmloption",
}

// readParameters makes the table from pg_settings of real servers.
func readParameters(t *testing.T) string {
	t.Helper()
	type line struct{ name, rest string }
	versions := make(map[line][]int)
	for _, major := range pgtest.Versions() {
		server := pgtest.Start(t, pgtest.Version(major))
		var all string
		const sql = `SELECT string_agg(concat_ws(E'\t', lower(name), vartype, coalesce(unit, ''), coalesce(min_val, ''), coalesce(max_val, ''),
			CASE WHEN vartype = 'enum' AND lower(name) = ANY ($1) THEN array_to_string(enumvals, ',') ELSE '' END), E'\n')
			FROM pg_settings WHERE name !~ '\.'`
		if err := server.Query(t.Context(), "postgres", sql, &all, sameInEveryBuild); err != nil {
			t.Fatal(err)
		}
		for text := range strings.SplitSeq(all, "\n") {
			name, rest, _ := strings.Cut(text, "\t")
			versions[line{name, rest}] = append(versions[line{name, rest}], major)
		}
	}
	var lines []string
	for l, majors := range versions {
		if majors[len(majors)-1]-majors[0]+1 != len(majors) {
			t.Errorf("%s comes and goes: %v", l.name, majors)
		}
		lines = append(lines, fmt.Sprintf("%s\t%d\t%d\t%s", l.name, majors[0], majors[len(majors)-1], l.rest))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// TestParametersOfServers compares the table with real servers, and asks them
// whether they take the values that they have.
func TestParametersOfServers(t *testing.T) {
	if *update {
		if err := os.WriteFile("parameters.tsv", []byte(readParameters(t)), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		var all string
		const sql = `SELECT string_agg(name || E'\t' || current_setting(name), E'\n') FROM pg_settings WHERE name !~ '\.' AND current_setting(name) !~ E'\n'`
		if err := server.Query(t.Context(), "postgres", sql, &all); err != nil {
			t.Fatal(err)
		}
		count := 0
		for text := range strings.SplitSeq(all, "\n") {
			name, value, _ := strings.Cut(text, "\t")
			if problem := CheckParameter(name, value, major); problem != "" {
				t.Errorf("%d: %s = %q: %s", major, name, value, problem)
			}
			count++
		}
		if count < 300 {
			t.Errorf("only %d parameters", count)
		}
	})
}
