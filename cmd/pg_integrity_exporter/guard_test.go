package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/pgtest"
)

// TestGuardCommand holds the exit codes of the contract, what is printed, and
// that a bad command line says what to do.
func TestGuardCommand(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE TABLE money AS SELECT i, 10 AS amount FROM generate_series(1, 100) i")
	directory := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := file("config.yml", "guard:\n  min_free: 0B\ninvariants:\n  - {name: total, databases: [postgres], sql: SELECT sum(amount) FROM money, expect: {min: \"1000\", max: \"1000\"}}\n")
	good := file("good.sql", "UPDATE money SET amount = amount WHERE i < 11;")
	wrong := file("wrong.sql", "UPDATE money SET amount = amount + 1 WHERE i < 11;")
	everything := file("everything.sql", "DELETE FROM money;")
	common := []string{"--dsn=" + server.DSN("postgres"), "--state.path=" + directory, "--config.file=" + config}
	for _, c := range []struct {
		args []string
		exit int
		says string
	}{
		{[]string{"guard", "--sql=" + good}, 0, "done and verified"},
		{[]string{"guard", "--dry-run", "--sql=" + wrong}, 0, "it would run as planned"},
		{[]string{"guard", "--sql=" + wrong}, 1, "invariant total: is violated"},
		{[]string{"guard", "--expect-rows=3", "--sql=" + good}, 1, "10 rows were changed, 3 were expected"},
		{[]string{"guard", "--sql=" + everything}, 2, "DELETE without WHERE"},
		{[]string{"guard", "--", "/bin/false"}, 1, "everything is as it was before"},
		{[]string{"guard", "--", "/bin/true"}, 0, "done and verified"},
		{[]string{"guard", "--", "/nowhere"}, 2, "no such file"},
		{[]string{"guard", "--sql=/nowhere.sql"}, 2, "reading the script"},
		{[]string{"guard"}, 2, "give either --sql=FILE or a command behind --"},
		{[]string{"guard", "--expect-rows=x", "--sql=" + good}, 2, "not a number of rows"},
		{[]string{"guard", "--database=none", "--sql=" + good}, 2, "does not exist"},
		{[]string{"guard", "resume"}, 0, "no run was interrupted"},
		{[]string{"guard", "status"}, 0, "wrong.sql"},
		{[]string{"guard", "review"}, 0, "it failed and was rolled back"},
		{[]string{"window", "close"}, 1, "no window is open"},
		{[]string{"window", "open", "--for=1h"}, 2, "reason"},
		{[]string{"window", "open", "--for=1h", "--reason=test"}, 0, "is open until"},
		{[]string{"window", "list"}, 0, "active"},
		{[]string{"window", "close"}, 0, "is closed"},
	} {
		stdout, stderr, exit := run(t, append(append([]string{}, common...), c.args...)...)
		if exit != c.exit || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%v: exit %d, want %d with %q\n%s%s", c.args, exit, c.exit, c.says, stdout, stderr)
		}
	}
	stdout, _, exit := run(t, append(append([]string{}, common...), "guard", "--output=json", "--sql="+wrong)...)
	var report struct {
		Outcome  string
		ExitCode int `json:"exit_code"`
		Plan     []struct{ Command string }
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || exit != 1 || report.ExitCode != 1 || report.Outcome != "rolled_back" || len(report.Plan) != 1 || report.Plan[0].Command != "UPDATE" {
		t.Errorf("exit %d, report %+v (%v)\n%s", exit, report, err, stdout)
	}
}
