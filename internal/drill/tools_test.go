package drill_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/drill"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/recovery"
)

// TestPgBackRest reads and restores a repository that the real pgBackRest made,
// and what is left of it after damage.
func TestPgBackRest(t *testing.T) {
	t.Parallel()
	long(t)
	tool := pgtest.Tool(t, "pgbackrest")
	root := pgtest.SharedDirectory(t)
	major := pgtest.DebianVersion()
	common := "--no-config --stanza=bank --lock-path=" + root + "/lock --log-level-file=off --repo1-path=" + root + "/repo"
	server := pgtest.Start(t, pgtest.Version(major), pgtest.Checksums(), pgtest.Setting("archive_mode", "on"))
	run := func(args ...string) {
		t.Helper()
		line := append(strings.Fields(common), "--pg1-path="+server.DataDirectory, "--pg1-socket-path="+server.Directory,
			"--pg1-port="+strconv.Itoa(server.Port), "--pg1-user=postgres")
		if err := pgtest.Run(tool, append(line, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	server.MustExec(t, "postgres", "ALTER SYSTEM SET archive_command = '"+tool+" "+common+" --pg1-path="+server.DataDirectory+" archive-push %p'")
	server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
	server.MustExec(t, "postgres", accounts)
	run("stanza-create")
	run("backup", "--type=full", "--start-fast")
	server.MustExec(t, "postgres", "UPDATE accounts SET note = 'changed' WHERE id < 100")
	run("backup", "--type=incr", "--start-fast")
	server.MustExec(t, "postgres", "INSERT INTO accounts SELECT i, 0, 'later' FROM generate_series(20001, 30000) i")
	server.MustExec(t, "postgres", "SELECT pg_switch_wal()")
	repository := recovery.Repository{Name: "bank", Type: recovery.TypePgBackRest, Path: filepath.Join(root, "repo")}
	pgtest.Await(t, "archived", time.Minute, func() bool {
		var waiting int
		if err := server.Query(t.Context(), "postgres", "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'", &waiting); err != nil {
			t.Fatal(err)
		}
		return waiting == 0
	})
	inventory := recovery.ReadRepository(t.Context(), repository)
	if inventory.Err != nil || len(inventory.Backups) != 2 || len(inventory.AllProblems()) != 0 {
		t.Fatalf("%v, %d backups, %v", inventory.Err, len(inventory.Backups), inventory.AllProblems())
	}
	newest := inventory.Backups[1]
	if newest.Kind != recovery.KindIncremental || newest.Parent != inventory.Backups[0].Label || newest.Major != major || newest.System == 0 || newest.End <= newest.Start || newest.Size < 20<<20 {
		t.Errorf("%+v", newest)
	}
	if a := inventory.Archive; a.SegmentSize != 1<<20 || a.System != newest.System || len(a.Segments) < 3 {
		t.Errorf("archive of %d segments, %d bytes each, system %d", len(a.Segments), a.SegmentSize, a.System)
	}
	options := drill.Options{
		Watched: recovery.Watched{Repository: repository}, Scratch: pgtest.SharedDirectory(t), BinDirectories: []string{server.Install.BinDir},
		User: pgtest.User(), Timeout: patience, Settings: map[string]string{"fsync": "off"}, Logger: slog.New(slog.DiscardHandler),
		Queries: []drill.Query{{Name: "rows", Database: "postgres", SQL: "SELECT count(*) FROM accounts", Expect: "30000"}},
	}
	proved(t, options)

	edit := func(path string) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		content[len(content)/2] ^= 1
		if err := os.WriteFile(path, content, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(root, "repo", "backup", "bank", inventory.Backups[0].Label)); err != nil {
		t.Fatal(err)
	}
	failed(t, "lost base", options, "whose backup.manifest is missing")
	edit(filepath.Join(root, "repo", "backup", "bank", "backup.info"))
	if again := recovery.ReadRepository(t.Context(), repository); again.Err != nil {
		t.Errorf("the copy of a damaged backup.info was not read: %v", again.Err)
	}
	edit(filepath.Join(root, "repo", "backup", "bank", "backup.info.copy"))
	if again := recovery.ReadRepository(t.Context(), repository); again.Err == nil || !strings.Contains(again.Err.Error(), "checksum") {
		t.Errorf("damaged backup.info: %v", again.Err)
	}
}
