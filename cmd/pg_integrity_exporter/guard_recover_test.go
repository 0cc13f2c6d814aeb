package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pgtest"
)

// jobArgument makes a process of this test's program a job that runs a statement
// and fails then.
const jobArgument = "job"

func job(sql string) int {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, "sslmode=disable")
	if err == nil {
		_, err = conn.Exec(ctx, sql)
	}
	fmt.Println("this job always fails", err)
	return 1
}

// TestGuardRecover lets a run end not rolled back, and recovers to its restore
// point: by itself, after a yes, and not where something is already. What is
// recovered holds what was there before, with its tablespaces and settings, and
// the damaged server goes on.
func TestGuardRecover(t *testing.T) {
	t.Parallel()
	archive, root, space := pgtest.SharedDirectory(t), pgtest.SharedDirectory(t), pgtest.SharedDirectory(t)
	server := pgtest.Start(t, pgtest.Checksums(), pgtest.Archiving(archive))
	server.MustExec(t, "postgres", "CREATE TABLESPACE fast LOCATION '"+space+"'")
	server.MustExec(t, "postgres", "CREATE TABLE money TABLESPACE fast AS SELECT i, 10 AS amount FROM generate_series(1, 1000) i; CREATE TABLE other (i int)")
	server.MustExec(t, "postgres", "ALTER SYSTEM SET work_mem = '5MB'")
	server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(root, "base")})
	server.MustExec(t, "postgres", "UPDATE money SET amount = 11 WHERE i <= 500; SELECT pg_switch_wal()")
	directory, into := t.TempDir(), pgtest.SharedDirectory(t)
	config := filepath.Join(directory, "config.yml")
	text := fmt.Sprintf(`
guard: {min_free: 0B, recover: {directory: %s, unattended: true}}
recovery:
  repositories: [{name: nightly, type: directory, path: %s, wal: %s, max_drill_age: 0s}]
  drill: {bin_directories: [%s], user: "%s", min_free: 0B}
`, into, root, archive, server.Install.BinDir, pgtest.User())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	common := []string{"--dsn=" + server.DSN("postgres"), "--state.path=" + directory, "--config.file=" + config, "guard"}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr, exit := run(t, append(common, "--output=json", "--protect=none", "--no-physical-checks", "--", self, jobArgument, "UPDATE money SET amount = 0")...)
	var report struct {
		ID       string
		Outcome  string
		Recovery struct {
			Directory, Reason string
			Proved            bool
		}
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || exit != 3 || report.Outcome != "not_rolled_back" || !report.Recovery.Proved {
		t.Fatalf("exit %d, %+v (%v)\n%s%s", exit, report, err, stdout, stderr)
	}
	server.MustExec(t, "postgres", "INSERT INTO other VALUES (1)")
	recovered := pgtest.Adopt(t, server.Install, report.Recovery.Directory)
	for sql, want := range map[string]string{
		"SELECT sum(amount) FROM money": "10500", "SELECT count(*) FROM other": "0", "SHOW work_mem": "5MB", "SELECT pg_is_in_recovery()": "false",
		"SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'": report.Recovery.Directory + ".tablespaces/",
	} {
		var got string
		if err := recovered.Query(t.Context(), "postgres", "SELECT ("+sql+")::text", &got); sql == "SHOW work_mem" {
			err = recovered.Query(t.Context(), "postgres", sql, &got)
			if err != nil || got != want {
				t.Errorf("%s: %s (%v), want %s", sql, got, err, want)
			}
		} else if err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s (%v), want %s", sql, got, err, want)
		}
	}
	for _, c := range []struct {
		args []string
		exit int
		says string
	}{
		{[]string{"recover"}, 2, "not confirmed"},
		{[]string{"recover", "--yes"}, 2, "exists already"},
		{[]string{"recover", "--yes", "--into=" + into + "/again", "--backup=none"}, 2, "none"},
		{[]string{"recover", "--yes", "--into=" + into + "/again", "nowhere"}, 2, "there is no run nowhere"},
		{[]string{"recover", "--yes", "--into=" + into + "/again", report.ID}, 0, "it holds what was there before run " + report.ID},
		{[]string{"status"}, 3, "not rolled back"},
		{[]string{"settle", report.ID}, 2, "--how"},
		{[]string{"settle", "--how=the recovered cluster took its place", "nowhere"}, 2, "there is no run nowhere"},
		{[]string{"settle", "--how=the recovered cluster took its place", report.ID}, 0, "is settled"},
		{[]string{"status"}, 0, "the recovered cluster took its place"},
		{[]string{"settle", "--how=again", report.ID}, 2, "nothing to settle"},
	} {
		stdout, stderr, exit := run(t, append(slices.Clip(common), c.args...)...)
		if exit != c.exit || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%v: exit %d, want %d with %q\n%s%s", c.args, exit, c.exit, c.says, stdout, stderr)
		}
	}
}
