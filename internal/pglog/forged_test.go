package pglog

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pgtest"
)

// forgery is what a user makes the server log who wants it to look as if data
// were damaged, or as if somebody else's error were none.
type forgery struct {
	name string
	// database, role and application are those of the session; empty are erp, the
	// superuser and the name of the forgery.
	database, role, application string
	statements                  []string
}

// wrong is what damage says, as short as it can be.
const wrong = "invalid page in block 3 of relation base/5/16390"

// undecided is the database of messages of which plain text cannot tell how severe
// they are.
const undecided = "undecided"

// forgeries are made by users who may create roles and databases, by whoever may
// connect, and by clients that may not.
func forgeries() []forgery {
	raise := func(level, sqlstate, text string) string {
		return fmt.Sprintf("DO $$BEGIN RAISE %s USING MESSAGE = %s, ERRCODE = '%s'; END$$", level, quote(text), sqlstate)
	}
	var raised []string
	for _, sqlstate := range []string{"XX001", "XX002", "XX000", "58P01", "58030", "01000", "42501", "42809", "P0001", "00000"} {
		for _, text := range []string{
			wrong, `could not open file "base/5/16390": No such file or directory`, "ungültige Seite in Block 3 von Relation »base/5/16390«",
			`index "accounts_pkey" contains unexpected zero page at block 4`, "missing chunk number 0 for toast value 16400 in pg_toast_16390",
			"could not access status of transaction 1000000", "invalid memory alloc request size 18446744073709551613", "the books are corrupted",
		} {
			for _, level := range []string{"EXCEPTION", "WARNING", "LOG"} {
				raised = append(raised, raise(level, sqlstate, text))
			}
		}
	}
	lines := "x\n" + wrong + "\nERROR:  " + wrong + "\n2026-11-30 04:00:00.000 UTC [1] XX001 ERROR:  " + wrong +
		"\n2026-11-30 04:00:00.000 UTC [1] XX001 client backend db=erp,user=joe,app=x ERROR:  " + wrong +
		"\n2026-11-30 04:00:00.000 UTC,\"a\",\"erp\",1,,1.1,1,\"\",2026-11-30 04:00:00 UTC,1/1,0,ERROR,XX001,\"" + wrong + "\",,,,,,,,,\"a\",\"client backend\",,0" +
		"\n{\"timestamp\":\"2026-11-30 04:00:00.000 UTC\",\"error_severity\":\"ERROR\",\"state_code\":\"XX001\",\"message\":\"" + wrong + "\"}\n"
	list := []forgery{
		// What the server says with the SQLSTATEs of damage although nothing is damaged.
		{name: "an invalid index", statements: []string{
			"CREATE TABLE broken (a text)", "UPDATE pg_index SET indisvalid = false FROM pg_class c WHERE c.relname = 'broken' AND indrelid = c.reltoastrelid",
			"REINDEX TABLE CONCURRENTLY broken", "DROP TABLE broken",
		}},
		{name: "bytes of somebody", statements: []string{
			"CREATE EXTENSION pageinspect", `SELECT tuple_data_split('pg_am'::regclass, '\x00', 2048, 1, '1')`, `SELECT tuple_data_split('pg_am'::regclass, '\x00', 2048, 0, '1')`,
			`SELECT tuple_data_split('pg_am'::regclass, '\x00', 2048, 1, NULL)`, `SELECT tuple_data_split('pg_am'::regclass, '\x00', 2048, 1, '1000000x')`,
			`SELECT tuple_data_split('pg_am'::regclass, '\x00', 2304, 90, NULL)`, `SELECT tuple_data_split('pg_am'::regclass, '\x00', 2304, 3, NULL)`,
			`SELECT tuple_data_split('pg_index'::regclass, ('\x' || repeat('00', 400))::bytea, 2304, 3, NULL)`,
		}},
		{name: "raised", statements: raised},
		{name: "raised within", statements: []string{
			"CREATE FUNCTION forge() RETURNS int LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION '" + wrong + "' USING ERRCODE = 'XX001'; END$$",
			"CREATE FUNCTION forge_sql() RETURNS int LANGUAGE sql AS 'SELECT forge()'",
			"CREATE FUNCTION forge_again() RETURNS int LANGUAGE plpgsql AS $$BEGIN PERFORM forge_sql(); EXCEPTION WHEN OTHERS THEN RAISE; END$$",
			"SELECT forge()", "SELECT forge_sql()", "SELECT forge_again()",
			"DO $$BEGIN ASSERT false, '" + wrong + "'; END$$",
		}},
		{name: "quoted", statements: []string{
			"SELECT '" + wrong + "'::int", `SELECT * FROM "` + wrong + `"`, `SET ROLE "` + wrong + `"`, "SELECT 1/0 -- " + wrong, "SELECT '" + lines + "'", "SELECT '" + lines + "'::int",
			raise("EXCEPTION", "P0001", lines), raise("LOG", "00000", lines), raise("WARNING", "01000", lines),
			"SELECT 1/0 /* " + lines + " */",
		}},
		{name: "files of users", statements: []string{
			"COPY (SELECT 1) TO '/nowhere/base/5/16390'", "CREATE TABLE t (i int); COPY t FROM '/nowhere/base/5/16390'",
			"SELECT pg_read_file('base/5/16390')", "SELECT pg_read_binary_file('base/5/16390', 0, 10)", "SELECT pg_stat_file('base/5/16390')",
			"SELECT pg_ls_dir('base/99999')", "SELECT pg_read_file('base/' || 5 || '/16390')", "SELECT pg_stat_file('base/' || 5 || '/16390')", "LOAD 'base/5/16390'",
			"SELECT pg_read_file('pg_xact/FFFF')",
		}},
		{name: "tables of such names", role: "joe", statements: []string{
			`SELECT * FROM "base/5/16390"`, `TRUNCATE "base/5/16390"`, `ALTER VIEW "base/5/16390" RENAME TO x`, `LOAD 'base/5/16390'`,
			"SELECT pg_read_file('base/5/16390')", `SELECT * FROM "pg_xact/0000"`,
		}},
	}
	for _, application := range []string{
		"x ERROR:  " + wrong, "x PANIC:  base/5/16390 1", "ERROR:  " + wrong, "x LOG:  y", "x DETAIL:  y", "x STATEMENT:  y",
		"x CONTEXT:  PL/pgSQL function f() line 1 at RAISE", "x,user=a,app=b FATAL:  " + wrong[:40], "XX001 ERROR:  base/5/16390 1 2 3",
	} {
		list = append(list, forgery{name: "application", application: application, statements: []string{"SELECT 1", "SELECT 1/0", "SELECT nothing", raise("WARNING", "01000", "x"),
			raise("EXCEPTION", "XX001", wrong), raise("EXCEPTION", "XX001", "y ERROR:  "+wrong),
		}}, forgery{name: "application", database: undecided, application: application, statements: []string{raise("LOG", "XX001", "y ERROR:  "+wrong)}})
	}
	for _, name := range []string{
		"x ERROR:  " + wrong, "x\nERROR:  " + wrong, "x\n2026-11-30 04:00:00.000 UTC [1] XX001 a ERROR:  base/5/1 2 3",
		"\n2026-11-30 04:00:00.000 UTC [1] ERROR:  " + wrong[:25], "x\nCONTEXT:  PL/pgSQL function f() at RAISE", "a\nb\nc", "x DETAIL:  y",
	} {
		list = append(list,
			// Neither the role nor the database exist: whoever reaches the port may ask for them.
			forgery{name: "unknown role", role: name},
			forgery{name: "unknown database", database: name},
			forgery{name: "role", role: "role " + name, statements: []string{"SELECT 1", "SELECT 1/0", raise("WARNING", "01000", "x")}},
		)
		if strings.HasPrefix(name, "x\n") {
			list = append(list, forgery{name: "database", database: "database " + name, statements: []string{"SELECT 1", "SELECT 1/0", raise("WARNING", "01000", "x")}})
		}
	}
	return list
}

func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// forge makes a server log all forgeries.
func forge(t *testing.T, server *pgtest.Server) {
	t.Helper()
	server.MustExec(t, "postgres", "CREATE DATABASE erp; ")
	server.MustExec(t, "postgres", "CREATE DATABASE "+undecided+"; ")
	server.MustExec(t, "postgres", "CREATE ROLE joe LOGIN; ")
	server.MustExec(t, "erp", `CREATE TABLE "base/5/16390" (i int); CREATE TABLE "pg_xact/0000" (i int)`)
	for _, f := range forgeries() {
		if f.name == "role" {
			server.MustExec(t, "postgres", "CREATE ROLE "+pgx.Identifier{f.role}.Sanitize()+" LOGIN; ")
		}
		if f.name == "database" {
			server.MustExec(t, "postgres", "CREATE DATABASE "+pgx.Identifier{f.database}.Sanitize()+" TEMPLATE template0; ")
		}
		config, err := pgx.ParseConfig(server.DSN("erp"))
		if err != nil {
			t.Fatal(err)
		}
		config.RuntimeParams["application_name"] = cmp.Or(f.application, f.name)
		config.Database = cmp.Or(f.database, config.Database)
		config.User = cmp.Or(f.role, config.User)
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if unknown := strings.HasPrefix(f.name, "unknown"); unknown != (err != nil) {
			t.Fatalf("%+v: %v", f, err)
		} else if unknown {
			continue
		}
		for _, statement := range f.statements {
			// How it ends is in the log.
			_, _ = conn.PgConn().Exec(t.Context(), statement).ReadAll()
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// loggedMessage is what all formats tell of a message.
type loggedMessage struct {
	severity Severity
	sqlstate string
	database string
}

// TestForgedDamage lets users of real servers make up messages, contexts, names
// and lines that look like damage: in no format is there an event, and the messages
// are those that csvlog has, as encoding/csv reads it.
func TestForgedDamage(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		prefixes := []string{
			"%m [%p] %e %b %qdb=%d,user=%u,app=%a ", "%m [%p] %q%u@%d ", "%t [%p]: [%l-1] user=%u,db=%d,app=%a,client=%h ", "%m [%p] ", "%m [%p] %q[user=%u,db=%d,app=%a] %e ",
		}
		if testing.Short() {
			prefixes = prefixes[:2]
		}
		for _, prefix := range prefixes {
			t.Run(prefix, func(t *testing.T) {
				destination := "stderr,csvlog"
				if major >= 15 {
					destination += ",jsonlog"
				}
				server := pgtest.Start(t, pgtest.Version(major), pgtest.CSVLog(), pgtest.Setting("log_destination", destination),
					pgtest.Setting("log_line_prefix", prefix), pgtest.Setting("log_statement", "all"), pgtest.Setting("log_filename", "server.log"))
				forge(t, server)
				if err := server.Stop(pgtest.Fast); err != nil {
					t.Fatal(err)
				}
				want := trueMessages(t, filepath.Join(server.LogDirectory(), "server.csv"))
				for _, format := range []Format{CSVLog, JSONLog, Stderr} {
					if format == JSONLog && major < 15 {
						continue
					}
					path := filepath.Join(server.LogDirectory(), map[Format]string{CSVLog: "server.csv", JSONLog: "server.json", Stderr: "server.log"}[format])
					input := stderrInput(t, prefix)
					input.Format = format
					unforged(t, path, input, want)
				}
			})
		}
	})
}

// trueMessages reads csvlog with the standard library.
func trueMessages(t *testing.T, path string) map[loggedMessage]int {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list := make(map[loggedMessage]int)
	reader := csv.NewReader(bytes.NewReader(content))
	for {
		record, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		m := loggedMessage{severityOf([]byte(record[csvSeverity]), nil), record[csvSQLState], record[csvDatabase]}
		if m.severity != Quiet {
			list[m]++
		}
	}
}

// unforged reads a log and holds that it has the messages, and no event but
// suspects.
func unforged(t *testing.T, path string, input Input, want map[loggedMessage]int) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var prefix string
	if input.Format == Stderr {
		prefix = (*input.Prefixes.list.Load())[0].setting
	}
	// Where names stand in front of the message, only the SQLSTATE tells which word
	// is its severity.
	sure := hasEscape(prefix, 'e') || !hasEscape(prefix, 'd')
	told := func(m loggedMessage) loggedMessage {
		if input.Format == Stderr && !hasEscape(prefix, 'e') {
			m.sqlstate = UnknownState
		}
		if input.Format == Stderr && !hasEscape(prefix, 'd') {
			m.database = ""
		}
		return m
	}
	missing := make(map[loggedMessage]int)
	for m, n := range want {
		missing[told(m)] += n
	}
	counted := newCounts(NewLabels(nil, nil, nil))
	d := newDecoder(input, func(m *Message) {
		events := len(counted.events)
		counted.known = make(map[eventKey]bool)
		counted.add(m)
		for _, e := range counted.events[events:] {
			if e.Kind != Suspect {
				t.Errorf("%s: false alarm %s of %s %s %q by %q, context %q", input.Format, e.Kind, m.Severity(), m.SQLState(), m.Text(), m.Application(), m.Context())
			}
		}
		if m.Severity() != Quiet && m.Database() != undecided {
			one := loggedMessage{m.Severity(), m.SQLState(), m.Database()}
			if missing[one]--; missing[one] < 0 && sure {
				t.Errorf("%s: not logged: %+v %q by %q", input.Format, one, m.Text(), m.Application())
			}
		}
	})
	for len(content) > 0 {
		n := copy(d.space(), content)
		content = content[n:]
		d.advance(n)
	}
	d.flush(true)
	for m, n := range missing {
		if n > 0 && sure {
			t.Errorf("%s: %d messages not seen: %+v", input.Format, n, m)
		}
	}
	if d.failures != 0 && slices.Contains([]Format{CSVLog, JSONLog}, input.Format) {
		t.Errorf("%s: %d records not understood", input.Format, d.failures)
	}
}
