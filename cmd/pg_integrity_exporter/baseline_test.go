package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/pgtest"
)

// TestBaseline accepts a schema, also while an exporter has the same state, and
// tells what was changed, by command, check and metric.
func TestBaseline(t *testing.T) { //nolint:gocyclo // one story, told in order
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (a int REFERENCES a); INSERT INTO a SELECT generate_series(1, 10)")
	configuration := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(configuration, []byte("sealed: [{name: keys, databases: [postgres], table: public.a}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	statePath := t.TempDir()
	arguments := func(more ...string) []string {
		return append([]string{"--dsn=" + server.DSN("postgres"), "--state.path=" + statePath, "--config.file=" + configuration}, more...)
	}
	if stdout, stderr, exit := run(t, arguments("baseline", "diff")...); exit != 2 || stdout != "" || !strings.Contains(stderr, "run baseline accept") {
		t.Errorf("diff without a baseline: exit %d, %q, %q", exit, stdout, stderr)
	}
	serve(t, arguments()...)
	if stdout, stderr, exit := run(t, arguments("baseline", "accept", "--reason=release 42", "--by=ci")...); exit != 0 || !strings.Contains(stdout, "postgres: drift: ") {
		t.Fatalf("accept: exit %d, %q, %q", exit, stdout, stderr)
	}
	if stdout, _, exit := run(t, arguments("baseline", "show")...); exit != 0 || !strings.Contains(stdout, "by ci release 42") || !strings.Contains(stdout, "constraint b_a_fkey: FOREIGN KEY (a) REFERENCES public.a(id)") {
		t.Errorf("show: exit %d\n%s", exit, stdout)
	}
	if stdout, stderr, exit := run(t, arguments("baseline", "diff")...); exit != 0 || !strings.Contains(stdout, "Nothing differs") {
		t.Errorf("diff of nothing: exit %d, %q, %q", exit, stdout, stderr)
	}

	server.MustExec(t, "postgres", "ALTER TABLE b DROP CONSTRAINT b_a_fkey; DELETE FROM a WHERE id = 3")
	if stdout, _, exit := run(t, arguments("baseline", "diff")...); exit != 1 || !strings.Contains(stdout, "CRITICAL  postgres: table public.b changed") || !strings.Contains(stdout, "- constraint b_a_fkey: FOREIGN KEY") {
		t.Errorf("diff: exit %d\n%s", exit, stdout)
	}
	stdout, _, exit := run(t, arguments("baseline", "diff", "--output=json")...)
	var differences []struct{ Object, Severity string }
	if err := json.Unmarshal([]byte(stdout), &differences); err != nil || exit != 1 || len(differences) != 1 || differences[0].Object != "table public.b" || differences[0].Severity != "critical" {
		t.Errorf("diff as JSON: exit %d, %v\n%s", exit, err, stdout)
	}
	if stdout, _, exit := run(t, arguments("check", "--check=drift", "--check=sealed")...); exit != 1 || !strings.Contains(stdout, "constraint b_a_fkey removed") || !strings.Contains(stdout, "had 1 rows and has 0") {
		t.Errorf("check: exit %d\n%s", exit, stdout)
	}

	if _, stderr, exit := run(t, arguments("baseline", "accept", "--sealed=values")...); exit != 2 || !strings.Contains(stderr, "the configuration has: keys") {
		t.Errorf("unknown sealed data: exit %d, %q", exit, stderr)
	}
	if stdout, _, exit := run(t, arguments("baseline", "accept")...); exit != 0 || !strings.Contains(stdout, "sealed: still open") {
		t.Errorf("sealed data must be named: exit %d\n%s", exit, stdout)
	}
	if stdout, _, exit := run(t, arguments("baseline", "accept", "--sealed=keys", "--reason=corrected")...); exit != 0 {
		t.Errorf("accept: exit %d\n%s", exit, stdout)
	}
	if stdout, _, exit := run(t, arguments("check", "--check=drift", "--check=sealed")...); exit != 0 {
		t.Errorf("check after it was accepted: exit %d\n%s", exit, stdout)
	}
	events, err := filepath.Glob(filepath.Join(statePath, "targets", "*", "events", "*"))
	if err != nil || len(events) == 0 {
		t.Fatalf("no events: %v", err)
	}
	log, err := os.ReadFile(events[0])
	if err != nil || !strings.Contains(string(log), "release 42") || !strings.Contains(string(log), "with changes of the sealed data keys") {
		t.Errorf("event log: %v\n%s", err, log)
	}
}
