package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// runbookBlocks are the commands of docs/recovery.md that restore, in their order.
func runbookBlocks(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile("../../docs/recovery.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(content), "## Restoring for real")
	if !found {
		t.Fatal("docs/recovery.md has no section about restoring")
	}
	var blocks []string
	for n, part := range strings.Split(text, "```") {
		if code, ok := strings.CutPrefix(part, "sh\n"); ok && n%2 == 1 {
			indent := code[:len(code)-len(strings.TrimLeft(code, " "))]
			blocks = append(blocks, strings.ReplaceAll("\n"+code, "\n"+indent, "\n"))
		}
	}
	if len(blocks) != 5 {
		t.Fatalf("docs/recovery.md has %d blocks of commands", len(blocks))
	}
	return blocks
}

// TestRunbook damages a table and goes through the runbooks as they are written:
// the moment to recover to, its proof, the restore of everything, and of the one
// table into the living server.
func TestRunbook(t *testing.T) {
	t.Parallel()
	install, err := pgtest.FindWith("pg_ctl", "psql")
	if err != nil {
		t.Skip(err)
	}
	blocks := runbookBlocks(t)
	archive, root := pgtest.SharedDirectory(t), pgtest.SharedDirectory(t)
	server := pgtest.Start(t, pgtest.From(install), pgtest.Checksums(), pgtest.Archiving(archive))
	server.MustExec(t, "postgres", "CREATE TABLE money (id int PRIMARY KEY, amount int NOT NULL); INSERT INTO money SELECT i, 10 FROM generate_series(1, 1000) i; CREATE EXTENSION amcheck")
	backup := filepath.Join(root, "base")
	server.BaseBackup(t, pgtest.Backup{Directory: backup})
	server.MustExec(t, "postgres", "UPDATE money SET amount = 11 WHERE id <= 500")
	<-time.After(2 * time.Second)
	good := time.Now().UTC().Truncate(time.Second)
	<-time.After(2 * time.Second)
	server.MustExec(t, "postgres", "UPDATE money SET amount = 0")
	server.AwaitArchived(t, archive)

	// What the exporter would have noted of the damage.
	directory := t.TempDir()
	target, err := pg.ResolveTarget(server.DSN("postgres"), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	files := state.OpenFiles(directory, target.Name())
	if err := files.Record(state.Event{
		Time: time.Now(), Kind: state.EventFindingOpened, Severity: check.SeverityCritical, Database: "postgres", Schema: "public", Relation: "money", Message: "damaged", Source: "check heap",
		Details: map[string]string{"check": "heap", "class": "corruption", "fingerprint": "f", "last_good": good.Format(time.RFC3339)},
	}); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(directory, "config.yml")
	text := fmt.Sprintf("recovery:\n  repositories: [{name: nightly, type: directory, path: %s, wal: %s}]\n  drill: {bin_directories: [%s], user: %q, min_free: 0B, scratch: %s, queries: [{name: sum, database: postgres, sql: SELECT sum(amount) FROM money, expect: \"10500\"}]}\n",
		root, archive, install.BinDir, pgtest.User(), pgtest.SharedDirectory(t))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	common := []string{"--dsn=" + server.DSN("postgres"), "--state.path=" + directory, "--config.file=" + config, "drill", "--repository=nightly"}
	stdout, stderr, exit := run(t, append(common, "--list")...)
	moment := good.Format("2006-01-02 15:04:05+00")
	if want := "Recommended: recover to " + moment + ", when they were all proved good, from the backup base."; exit != 0 || !strings.Contains(stdout, want) || !strings.Contains(stdout, "public.money") {
		t.Fatalf("exit %d, not %q\n%s%s", exit, want, stdout, stderr)
	}
	if stdout, stderr, exit := run(t, append(common, "--no-compare", "--recovery-target-time="+moment)...); exit != 0 {
		t.Fatalf("exit %d\n%s%s", exit, stdout, stderr)
	}

	space := filepath.Join(pgtest.SharedDirectory(t), "new")
	free, err := pgtest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	listening := fmt.Sprintf("--options=\"-c port=%d -c archive_mode=off\" --wait start", free.Port)
	recovered := strings.Replace(server.DSN("postgres"), fmt.Sprint(server.Port), fmt.Sprint(free.Port), 1)
	sh := func(block string) {
		t.Helper()
		for name, value := range map[string]string{
			"BACKUP": backup, "WAL": archive, "NEW": space, "TARGET": moment, "LIVING": server.DSN("postgres"), "RECOVERED": recovered, "TABLE": "public.money",
			"PATH": install.BinDir + ":$PATH",
		} {
			block = name + "=\"" + value + "\"\n" + block
		}
		// The block of one table ends with a check, which is done below.
		block, _, _ = strings.Cut(block, "pg_integrity_exporter check")
		if err := pgtest.Run("sh", "-e", "-c", block); err != nil {
			log, _ := os.ReadFile(filepath.Join(space, "start.log")) // there may be none
			t.Fatalf("%s\n%v\n%s", block, err, log)
		}
	}
	ask := func(dsn, want string) {
		t.Helper()
		if err := pgtest.Run("sh", "-c", fmt.Sprintf("test \"$(%s/psql --dbname='%s' -Atc 'SELECT sum(amount) FROM money')\" = %s", install.BinDir, dsn, want)); err != nil {
			t.Errorf("%s: not %s", dsn, want)
		}
	}
	if !strings.Contains(blocks[1], "--wait start") {
		t.Fatalf("the second block does not start the server: %s", blocks[1])
	}
	t.Cleanup(func() {
		_ = pgtest.Run(filepath.Join(install.BinDir, "pg_ctl"), "--pgdata="+space, "--mode=immediate", "stop")
	})
	sh(strings.Replace(blocks[1], "--wait start", listening, 1))
	ask(recovered, "10500")
	sh(blocks[2])
	ask(recovered, "10500")
	table := server.MustRelation(t, "postgres", "money")
	server.WhileDown(t, func() error { return table.Edit(1, pgtest.Garbage) })
	sh(blocks[3])
	sh(blocks[4])
	ask(server.DSN("postgres"), "10500")
	if stdout, stderr, exit := run(t, "check", "--dsn="+server.DSN("postgres"), "--relation=public.money"); exit == 1 {
		t.Errorf("exit %d\n%s%s", exit, stdout, stderr)
	}
}
