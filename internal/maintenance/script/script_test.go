package script

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"nothing":              {text: " ;; -- only a comment\n ; ", want: nil},
		"strings":              {text: `SELECT ';'; SELECT E'\';'; SELECT 'it''s;'; SELECT ';'`, want: []string{`SELECT ';'`, `SELECT E'\';'`, `SELECT 'it''s;'`, `SELECT ';'`}},
		"backslash in strings": {text: `SELECT '\'; SELECT 2`, want: []string{`SELECT '\'`, `SELECT 2`}},
		"names":                {text: `SELECT ";"; SELECT """;"`, want: []string{`SELECT ";"`, `SELECT """;"`}},
		"dollars":              {text: `DO $$ BEGIN; END $$; SELECT $a$ $$ ; $a$; SELECT $1, a$b; SELECT 1`, want: []string{`DO $$ BEGIN; END $$`, `SELECT $a$ $$ ; $a$`, `SELECT $1, a$b`, `SELECT 1`}},
		"comments":             {text: "/* ; /* ; */ ; */ SELECT 1 -- ;\n; SELECT 2", want: []string{"SELECT 1", "SELECT 2"}},
		"rules":                {text: "CREATE RULE r AS ON DELETE TO t DO (DELETE FROM a; DELETE FROM b); SELECT 1", want: []string{"CREATE RULE r AS ON DELETE TO t DO (DELETE FROM a; DELETE FROM b)", "SELECT 1"}},
		"bodies":               {text: "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3", want: []string{"CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END", "SELECT 3"}},
		"a column called end":  {text: "SELECT begin, end FROM t; SELECT 1", want: []string{"SELECT begin, end FROM t", "SELECT 1"}},
		"byte order mark":      {text: "\ufeffSELECT 1", want: []string{"SELECT 1"}},
		"copy":                 {text: "COPY t FROM STDIN;\n1;\\N\n\\.\nSELECT 1;", want: []string{"COPY t FROM STDIN", "SELECT 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			statements, err := Split(c.text)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range statements {
				got = append(got, s.Text)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSplitSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"SELECT 1;\n\\copy t from 'x'":         "line 2: \\copy is a command of psql",
		"SELECT 'abc":                          "the string does not end",
		"SELECT \"abc":                         "the quoted name does not end",
		"DO $x$ BEGIN":                         "begins with $x$ does not end",
		"/* /* */":                             "the comment does not end",
		"COPY t FROM STDIN":                    "has no data",
		"COPY t FROM STDIN;\n1\n2":             "do not end with a line",
		"COPY t TO STDOUT":                     "nowhere to go",
		"-- expect-rows: many\nUPDATE t SET a": "not a number of rows",
	} {
		if _, err := Split(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Class{
		"VACUUM (FULL, ANALYZE) a.b, c":  {Command: "VACUUM FULL", NonTransactional: true, Lock: AccessExclusive, Rewrites: true, KeepsRows: true, Relations: []Name{{"a", "b"}, {"", "c"}}},
		"VACUUM (FULL false) c":          {Command: "VACUUM", NonTransactional: true, Lock: ShareUpdateExclusive, KeepsRows: true, Relations: []Name{{"", "c"}}},
		"vacuum":                         {Command: "VACUUM", NonTransactional: true, Lock: ShareUpdateExclusive, KeepsRows: true, Whole: true},
		"CLUSTER i ON t":                 {Command: "CLUSTER", Lock: AccessExclusive, Rewrites: true, KeepsRows: true, Relations: []Name{{"", "t"}}},
		"REINDEX INDEX CONCURRENTLY s.i": {Command: "REINDEX CONCURRENTLY", NonTransactional: true, Lock: ShareUpdateExclusive, Rewrites: true, KeepsRows: true, Relations: []Name{{"s", "i"}}},
		"REINDEX (CONCURRENTLY) TABLE t": {Command: "REINDEX CONCURRENTLY", NonTransactional: true, Lock: ShareUpdateExclusive, Rewrites: true, KeepsRows: true, Relations: []Name{{"", "t"}}},
		"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON s.t (a)":             {Command: "CREATE UNIQUE INDEX CONCURRENTLY", NonTransactional: true, Lock: ShareUpdateExclusive, KeepsRows: true, Relations: []Name{{"s", "t"}}, Created: Name{"s", "i"}},
		"UPDATE ONLY t SET a = (SELECT 1 WHERE true)":                             {Command: "UPDATE", Lock: RowExclusive, ChangesRows: true, Relations: []Name{{"", "t"}}, NoWhere: true},
		"DELETE FROM \"T\" USING u WHERE u.a = 1":                                 {Command: "DELETE", Lock: RowExclusive, ChangesRows: true, Relations: []Name{{"", "T"}}},
		"WITH x AS (SELECT 1 FOR UPDATE) DELETE FROM t":                           {Command: "DELETE", Lock: RowExclusive, ChangesRows: true, Relations: []Name{{"", "t"}}},
		"INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 1":                {Command: "INSERT", Lock: RowExclusive, ChangesRows: true, Relations: []Name{{"", "t"}}},
		"TRUNCATE a, b CASCADE":                                                   {Command: "TRUNCATE", Lock: AccessExclusive, ChangesRows: true, Rewrites: true, Cascades: true, Relations: []Name{{"", "a"}, {"", "b"}}},
		"ALTER TABLE t VALIDATE CONSTRAINT c":                                     {Command: "ALTER TABLE", Lock: ShareUpdateExclusive, KeepsRows: true, Relations: []Name{{"", "t"}}},
		"ALTER TABLE IF EXISTS t SET (fillfactor = 70), ALTER a SET STATISTICS 5": {Command: "ALTER TABLE", Lock: ShareUpdateExclusive, KeepsRows: true, Relations: []Name{{"", "t"}}},
		"ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES s.u (b)":       {Command: "ALTER TABLE", Lock: ShareRowExclusive, KeepsRows: true, Relations: []Name{{"", "t"}, {"s", "u"}}},
		"ALTER TABLE t ALTER COLUMN a TYPE bigint":                                {Command: "ALTER TABLE", Lock: AccessExclusive, MayRewrite: true, Relations: []Name{{"", "t"}}},
		"ALTER TABLE t SET TABLESPACE x":                                          {Command: "ALTER TABLE", Lock: AccessExclusive, Rewrites: true, KeepsRows: true, Relations: []Name{{"", "t"}}},
		"ALTER TABLE t DISABLE TRIGGER ALL":                                       {Command: "ALTER TABLE", Lock: ShareRowExclusive, KeepsRows: true, Relations: []Name{{"", "t"}}},
		"ALTER TABLE p DETACH PARTITION q CONCURRENTLY":                           {Command: "ALTER TABLE DETACH PARTITION CONCURRENTLY", NonTransactional: true, Lock: ShareUpdateExclusive, Relations: []Name{{"", "p"}, {"", "q"}}},
		"ALTER SYSTEM SET work_mem = '1GB'":                                       {Command: "ALTER SYSTEM", NonTransactional: true, Setting: "work_mem"},
		"DROP DATABASE IF EXISTS x":                                               {Command: "DROP DATABASE", Lock: AccessExclusive, Drops: true, NonTransactional: true, NoUndo: true, Created: Name{"", "x"}},
		"ROLLBACK TO SAVEPOINT a":                                                 {Command: "ROLLBACK TO", Control: Savepoint},
		"COMMIT":                                                                  {Command: "COMMIT", Control: Commit},
		"DO $$ BEGIN END $$":                                                      {Command: "DO", Opaque: true},
	} {
		statements, err := Split(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, statements[0].Class); diff != "" {
			t.Errorf("%s:\n%s", text, diff)
		}
	}
}

func TestParseName(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Name{"a": {"", "a"}, "A.b": {"a", "b"}, `"A b"."c.d"`: {"A b", "c.d"}, "*": {"", "*"}} {
		if got, err := ParseName(text); err != nil || got != want {
			t.Errorf("%s is %+v (%v)", text, got, err)
		}
	}
	for _, text := range []string{"", "a b", "a;b", "1", `"a`} {
		if got, err := ParseName(text); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, text := range []string{"SELECT 1; SELECT $a$;$a$", "COPY t FROM STDIN;\n1\n\\.\n", "/* */ E'\\'", "ALTER TABLE a.b ADD c int, DROP d"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		statements, err := Split(text)
		if err != nil {
			return
		}
		for _, s := range statements {
			if s.Text == "" || !strings.Contains(text, s.Text) {
				t.Errorf("%q gives %q", text, s.Text)
			}
		}
	})
}
