package pglog

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pgtest"
)

// TestStatementAt tells maintenance from what a log is full of.
func TestStatementAt(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"statement: TRUNCATE a":                                           "TRUNCATE a",
		"statement: \n\t vacuum (full) a":                                 "\n\t vacuum (full) a",
		`statement: \n\tREINDEX TABLE a`:                                  `\n\tREINDEX TABLE a`,
		"duration: 12.345 ms  statement: CLUSTER a":                       "CLUSTER a",
		"duration: 12.345 ms  execute <unnamed>: ALTER TABLE a ADD b int": "ALTER TABLE a ADD b int",
		"Dauer: 12.345 ms  Anweisung: REFRESH MATERIALIZED VIEW a":        "REFRESH MATERIALIZED VIEW a",
		"statement: /* job */ DROP TABLE a":                               "/* job */ DROP TABLE a",
		"statement: SELECT 'x: TRUNCATE a'":                               "",
		"00000: statement: TRUNCATE a":                                    "TRUNCATE a",
		"statement: BEGIN; TRUNCATE a; COMMIT":                            "BEGIN; TRUNCATE a; COMMIT",
		"duration: 1234.567 ms  statement: COPY a FROM STDIN":             "COPY a FROM STDIN",
		"statement: BEGIN":                                                "",
		"statement: SELECT truncate_all()":                                "",
		"duration: 12.345 ms":                                             "",
		"automatic vacuum of table \"a.b.c\": index scans: 0":             "",
		"automatic analyze of table \"a.b.c\" system usage: CPU: user":    "",
		"checkpoint starting: time":                                       "",
		"":                                                                "",
	} {
		got := ""
		if at := statementAt([]byte(text)); at >= 0 {
			got = text[at:]
		}
		if got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

// TestStatements logs statements on real servers, as log_statement and
// log_min_duration_statement write them, in every format at once: maintenance is
// told with its session and its time, and nothing else is, autovacuum neither.
func TestStatements(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		const prefix = "%m [%p] %q%d %u %a "
		destination, extensions := "stderr,csvlog", []string{"log", "csv"}
		if major >= 15 {
			destination, extensions = destination+",jsonlog", append(extensions, "json")
		}
		server := pgtest.Start(t, pgtest.Version(major), pgtest.CSVLog(), pgtest.Setting("log_destination", destination), pgtest.Setting("log_line_prefix", prefix),
			pgtest.Setting("log_autovacuum_min_duration", "0"), pgtest.Setting("autovacuum_naptime", "1s"), pgtest.Setting("autovacuum_vacuum_threshold", "0"))
		readers := make(map[string]*reader)
		for _, extension := range extensions {
			r := newReader()
			r.input = stderrInput(t, prefix)
			readers[extension] = r
			defer r.follow(filepath.Join(server.LogDirectory(), "*."+extension))()
		}
		server.MustExec(t, "postgres", "CREATE TABLE a AS SELECT generate_series(1, 1000) i; DELETE FROM a")
		conn, err := pgx.Connect(t.Context(), server.DSN("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		began := time.Now()
		for _, sql := range []string{
			"SET log_statement = 'mod'", "TRUNCATE a", "/* nightly */\n\tALTER TABLE a ADD j int", "SELECT 'VACUUM a'", "SET log_statement = 'none'",
			"SET log_min_duration_statement = 0", "VACUUM a", "SELECT 'statement: VACUUM a'", "DO $$BEGIN RAISE LOG 'statement: VACUUM a'; END$$", "SET log_min_duration_statement = -1",
			"SET application_name = '" + ownApplication + " check'", "SET log_statement = 'ddl'", "DROP TABLE a",
		} {
			if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := conn.Exec(t.Context(), "SET application_name = 'psql'; SET log_min_duration_statement = 0; CREATE TABLE b (i int)", pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "ANALYZE b"); err != nil { // with parse, bind and execute
			t.Fatal(err)
		}
		for extension, r := range readers {
			await(t, "the last statement in "+extension, r.is(func(Status) bool {
				return slices.ContainsFunc(r.logged, func(s Statement) bool { return s.Text == "ANALYZE b" })
			}))
			r.mu.Lock()
			defer r.mu.Unlock()
			var texts []string
			for _, s := range r.logged {
				if !slices.Contains(texts, s.Text) {
					texts = append(texts, s.Text)
				}
				if s.PID != int(conn.PgConn().PID()) || s.Database != "postgres" || s.Began.Before(began.Add(-time.Second)) || s.Began.After(time.Now()) {
					t.Errorf("%s: %+v", extension, s)
				}
				if s.Text == "VACUUM a" && s.Took <= 0 {
					t.Errorf("%s: took %s", extension, s.Took)
				}
			}
			if got, want := strings.Join(texts, "; "), "TRUNCATE a; /* nightly */\n\tALTER TABLE a ADD j int; VACUUM a; ANALYZE b"; got != want {
				t.Errorf("%s: %q, want %q", extension, got, want)
			}
		}
	})
}
