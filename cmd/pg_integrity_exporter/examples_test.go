package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/pgtest"
)

// exampleBooks is the ledger of the examples.
const exampleBooks = `CREATE EXTENSION pg_repack; CREATE EXTENSION amcheck; CREATE SCHEMA ledger;
CREATE TABLE ledger.accounts (id int PRIMARY KEY, balance numeric NOT NULL DEFAULT 0, region text NOT NULL DEFAULT 'north');
CREATE TABLE ledger.entries (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int NOT NULL REFERENCES ledger.accounts, amount numeric NOT NULL CONSTRAINT amount_not_zero CHECK (amount <> 0));
CREATE INDEX entries_account ON ledger.entries (account);
INSERT INTO ledger.accounts SELECT i, 0, CASE WHEN i <= 70 THEN 'north' ELSE 'south' END FROM generate_series(1, 200) i;
INSERT INTO ledger.entries (account, amount) SELECT 1 + i % 200, 1 + i % 7 FROM generate_series(1, 20000) i;
UPDATE ledger.accounts SET balance = (SELECT sum(amount) FROM ledger.entries WHERE account = accounts.id);
ANALYZE`

var (
	block  = regexp.MustCompile("(?s)```(sh|yaml)\n(.*?)```")
	ending = regexp.MustCompile(`\n# exit code (\d): (.*)\n$`)
)

// TestGuardExamples runs the examples of docs/guard.md as they stand there, one
// after the other, and holds that each ends as its comment says.
func TestGuardExamples(t *testing.T) {
	t.Parallel()
	install, err := pgtest.FindWith("psql", "pg_repack")
	if err != nil {
		t.Skip(err)
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "guard.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, examples, ok := strings.Cut(string(page), "\n## Examples\n")
	blocks := block.FindAllStringSubmatch(examples, -1)
	if !ok || len(blocks) < 10 || blocks[0][1] != "yaml" {
		t.Fatalf("docs/guard.md has %d examples", len(blocks))
	}
	server := pgtest.Start(t, pgtest.From(install), pgtest.Checksums())
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	server.MustExec(t, "erp", exampleBooks)
	directory := t.TempDir()
	config := filepath.Join(directory, "config.yml")
	if err := os.WriteFile(config, []byte(blocks[0][2]+"guard: {min_free: 0B}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks[1:] {
		want := ending.FindStringSubmatch(b[2])
		if want == nil {
			t.Errorf("an example does not say how it ends:\n%s", b[2])
			continue
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", b[2])
		cmd.Dir = directory
		cmd.Env = []string{
			"PATH=" + filepath.Dir(program) + ":" + install.BinDir + ":" + os.Getenv("PATH"), "HOME=/nonexistent",
			"PG_INTEGRITY_EXPORTER_DSN=" + server.DSN("erp"), "PG_INTEGRITY_EXPORTER_CONFIG_FILE=" + config, "PG_INTEGRITY_EXPORTER_STATE_PATH=" + filepath.Join(directory, "state"),
		}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if exit := cmd.ProcessState.ExitCode(); string(rune('0'+exit)) != want[1] || !strings.Contains(string(out), want[2]) {
			t.Errorf("it ended with %d and does not say %q:\n%s\n%s", exit, want[2], b[2], out)
		}
	}
}
