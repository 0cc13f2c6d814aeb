package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pgtest"
)

// repository is where a server's backups go, and how.
type repository struct {
	// options are those of the server, settings what is set when it runs.
	options  []pgtest.Option
	settings func(server *pgtest.Server) string
	backup   func(server *pgtest.Server)
	// config is the entry in the configuration file.
	config string
}

// plain is a base backup beside an archive that cp fills.
func plain(t *testing.T) repository {
	archive, root := pgtest.SharedDirectory(t), pgtest.SharedDirectory(t)
	return repository{
		options: []pgtest.Option{pgtest.Archiving(archive)},
		backup: func(server *pgtest.Server) {
			server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(root, "base")})
		},
		config: fmt.Sprintf("{name: nightly, type: directory, path: %s, wal: %s, max_drill_age: 0s}", root, archive),
	}
}

// pgBackRest is a repository of the real pgBackRest.
func pgBackRest(t *testing.T) repository {
	tool, root := pgtest.Tool(t, "pgbackrest"), pgtest.SharedDirectory(t)
	arguments := func(server *pgtest.Server) string {
		return "--no-config --stanza=bank --log-level-file=off --lock-path=" + root + "/lock --repo1-path=" + root + "/repo --pg1-path=" + server.DataDirectory
	}
	return repository{
		options: []pgtest.Option{pgtest.Version(pgtest.DebianVersion()), pgtest.Setting("archive_mode", "on")},
		settings: func(server *pgtest.Server) string {
			return "ALTER SYSTEM SET archive_command = '" + tool + " " + arguments(server) + " archive-push %p'"
		},
		backup: func(server *pgtest.Server) {
			line := append(strings.Fields(arguments(server)), "--pg1-socket-path="+server.Directory, "--pg1-port="+strconv.Itoa(server.Port), "--pg1-user=postgres")
			for _, command := range [][]string{{"stanza-create"}, {"backup", "--start-fast"}} {
				if err := pgtest.Run(tool, append(line, command...)...); err != nil {
					t.Fatal(err)
				}
			}
		},
		config: fmt.Sprintf("{name: nightly, type: pgbackrest, path: %s/repo, stanza: bank, max_drill_age: 0s}", root),
	}
}

// TestGuardReplace recovers to the restore point of a run into the same data
// directory, by itself and when asked, from a plain base backup and from
// pgBackRest: it holds what was there before the run, and the damaged cluster is
// kept with what others have committed since.
func TestGuardReplace(t *testing.T) {
	t.Parallel()
	for name, prepared := range map[string]func(*testing.T) repository{"base backup": plain, "pgBackRest": pgBackRest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && name != "base backup" {
				t.Skip("needs pgBackRest")
			}
			replaced(t, prepared(t), false)
			replaced(t, prepared(t), true)
		})
	}
}

func replaced(t *testing.T, r repository, unattended bool) {
	t.Helper()
	server := pgtest.Start(t, append(r.options, pgtest.Checksums())...)
	if r.settings != nil {
		server.MustExec(t, "postgres", r.settings(server))
		server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
	}
	server.MustExec(t, "postgres", "CREATE TABLE money AS SELECT i, 10 AS amount FROM generate_series(1, 1000) i; CREATE TABLE other (i int)")
	r.backup(server)
	server.MustExec(t, "postgres", "UPDATE money SET amount = 11 WHERE i <= 500; SELECT pg_switch_wal()")
	directory := t.TempDir()
	config, started := filepath.Join(directory, "config.yml"), filepath.Join(directory, "started")
	by := ""
	if unattended {
		by = fmt.Sprintf(", recover: {replace: %s, start_command: touch %s, unattended: true}", server.DataDirectory, started)
	}
	text := fmt.Sprintf("guard: {min_free: 0B%s}\nrecovery:\n  repositories: [%s]\n  drill: {bin_directories: [%s], user: %q, min_free: 0B}\n", by, r.config, server.Install.BinDir, pgtest.User())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	common := []string{"--dsn=" + server.DSN("postgres"), "--state.path=" + directory, "--config.file=" + config, "guard"}
	stdout, stderr, exit := run(t, append(common, "--output=json", "--protect=none", "--no-physical-checks", "--", self, jobArgument, "UPDATE money SET amount = 0")...)
	var report struct {
		ID       string
		Recovery struct{ Directory, Damaged, Reason string }
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || exit != 3 {
		t.Fatalf("exit %d, %+v (%v)\n%s%s", exit, report, err, stdout, stderr)
	}
	others := 0
	if !unattended {
		others = 1
		server.MustExec(t, "postgres", "INSERT INTO other VALUES (1)") // after the run, by others
		elsewhere := t.TempDir()
		for _, c := range []struct {
			arguments []string
			exit      int
			says      string
		}{
			{[]string{"recover", "--replace=" + server.DataDirectory}, 2, "is STOPPED"},
			{[]string{"recover", "--yes", "--replace=" + elsewhere}, 2, "is no data directory"},
			{[]string{"recover", "--yes", "--replace=" + server.DataDirectory, "--into=" + elsewhere + "/new"}, 2, "exclude each other"},
			{[]string{"recover", "--yes", "--replace=" + server.DataDirectory}, 0, "the damaged cluster is kept in " + server.DataDirectory + ".damaged-" + report.ID},
		} {
			stdout, stderr, exit := run(t, append(append([]string{}, common...), c.arguments...)...)
			if exit != c.exit || !strings.Contains(stdout+stderr, c.says) {
				t.Fatalf("%v: exit %d, want %d with %q\n%s%s", c.arguments, exit, c.exit, c.says, stdout, stderr)
			}
		}
	} else if _, err := os.Stat(started); err != nil || report.Recovery.Directory != server.DataDirectory || report.Recovery.Reason != "" {
		t.Errorf("the recovery ended %+v (%v)", report.Recovery, err)
	}
	if err := server.StartAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	damaged := pgtest.Adopt(t, server.Install, server.DataDirectory+".damaged-"+report.ID)
	holds := func(server *pgtest.Server, what string, sum, rows int) {
		t.Helper()
		pgtest.Await(t, what+" answers", 20*time.Second, func() bool { return server.Exec(t.Context(), "postgres", "SELECT 1") == nil })
		var gotSum, gotRows int
		if err := server.Query(t.Context(), "postgres", "SELECT (SELECT sum(amount)::int FROM money) * 10 + (SELECT count(*)::int FROM other)", &gotSum); err != nil {
			t.Fatal(err)
		}
		if gotSum, gotRows = gotSum/10, gotSum%10; gotSum != sum || gotRows != rows {
			t.Errorf("%s: the sum is %d, want %d; others committed %d rows, want %d", what, gotSum, sum, gotRows, rows)
		}
	}
	holds(server, "the recovered cluster", 10500, 0)
	holds(damaged, "the damaged cluster", 0, others)
}
