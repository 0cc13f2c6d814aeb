package drill_test

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// TestEncryptedWithoutKey drills an encrypted repository of the real pgBackRest
// where nobody has the key: as good as no backup, and told so.
func TestEncryptedWithoutKey(t *testing.T) {
	t.Parallel()
	long(t)
	tool := pgtest.Tool(t, "pgbackrest")
	root := pgtest.SharedDirectory(t)
	server := pgtest.Start(t, pgtest.Version(pgtest.DebianVersion()), pgtest.Setting("archive_mode", "on"))
	with := filepath.Join(root, "with-key.conf")
	lines := []string{"[global]", "repo1-path=" + root + "/repo", "repo1-cipher-type=aes-256-cbc", "repo1-cipher-pass=secret", "lock-path=" + root + "/lock", "log-level-file=off",
		"[bank]", "pg1-path=" + server.DataDirectory, "pg1-socket-path=" + server.Directory, "pg1-port=" + strconv.Itoa(server.Port), "pg1-user=postgres"}
	if err := os.WriteFile(with, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	server.MustExec(t, "postgres", "ALTER SYSTEM SET archive_command = '"+tool+" --config="+with+" --stanza=bank archive-push %p'")
	server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
	for _, command := range []string{"stanza-create", "backup"} {
		if err := pgtest.Run(tool, "--config="+with, "--stanza=bank", command); err != nil {
			t.Fatal(err)
		}
	}
	info := filepath.Join(root, "info.json")
	out, err := exec.Command(tool, "--config="+with, "--stanza=bank", "info", "--output=json").Output()
	if err != nil || os.WriteFile(info, out, 0o644) != nil {
		t.Fatal(err)
	}
	repository := recovery.Repository{Name: "bank", Type: recovery.TypePgBackRest, Path: filepath.Join(root, "repo"), Stanza: "bank"}
	options := drill.Options{
		Watched: recovery.Watched{Repository: repository}, Scratch: pgtest.SharedDirectory(t), BinDirectories: []string{server.Install.BinDir},
		User: pgtest.User(), Timeout: patience, Settings: map[string]string{"fsync": "off"}, Logger: slog.New(slog.DiscardHandler),
	}
	failed(t, "nothing known of the repository", options, "crypt")
	options.Watched.InfoFile, options.ConfigFile = info, with
	proved(t, options)
	options.ConfigFile = ""
	failed(t, "key absent", options, "the repository is encrypted, and the drill has not its key")
}

// barman is the real Barman with one server.
type barman struct {
	t                     *testing.T
	server                *pgtest.Server
	program, root, config string
	repository            recovery.Repository
}

func newBarman(t *testing.T) *barman {
	t.Helper()
	m := &barman{t: t, program: pgtest.Tool(t, "barman"), root: pgtest.SharedDirectory(t)}
	home := filepath.Join(m.root, "home", "bank")
	m.repository = recovery.Repository{Name: "bank", Type: recovery.TypeBarman, Path: home}
	incoming := filepath.Join(home, "incoming")
	m.server = pgtest.Start(t, pgtest.Version(pgtest.DebianVersion()), pgtest.Checksums(), pgtest.Setting("archive_mode", "on"),
		pgtest.Setting("archive_command", "test -d "+incoming+" && cp %p "+incoming+"/.%f && mv "+incoming+"/.%f "+incoming+"/%f"))
	m.config = filepath.Join(m.root, "barman.conf")
	m.configure("backup_method = postgres")
	_ = m.run("check", "bank") // makes the directories; no WAL has arrived yet
	return m
}

// configure writes the configuration anew, with some settings of the server.
func (m *barman) configure(settings ...string) {
	m.t.Helper()
	user := pgtest.User()
	if user == "" {
		user = os.Getenv("USER")
	}
	dsn := "host=127.0.0.1 user=postgres dbname=postgres port=" + strconv.Itoa(m.server.Port)
	lines := append([]string{
		"[barman]", "barman_user = " + user, "barman_home = " + filepath.Join(m.root, "home"), "barman_lock_directory = " + m.root,
		"log_file = " + filepath.Join(m.root, "barman.log"), "[bank]", "description = bank", "archiver = on", "immediate_checkpoint = true",
		"conninfo = " + dsn, "streaming_conninfo = " + dsn,
	}, settings...)
	if err := os.WriteFile(m.config, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *barman) run(args ...string) error {
	return pgtest.Run(m.program, append([]string{"--config=" + m.config}, args...)...)
}

func (m *barman) must(args ...string) {
	m.t.Helper()
	if err := m.run(args...); err != nil {
		m.t.Fatal(err)
	}
}

// archive brings everything that was committed into the archive.
func (m *barman) archive() {
	m.t.Helper()
	m.must("switch-wal", "--force", "--archive", "bank")
}

func (m *barman) read() *recovery.Inventory {
	m.t.Helper()
	i := recovery.ReadRepository(m.t.Context(), m.repository)
	if i.Err != nil {
		m.t.Fatal(i.Err)
	}
	return i
}

// TestBarman reads, drills and damages a repository that the real Barman made,
// in each way in which it copies and compresses.
func TestBarman(t *testing.T) {
	t.Parallel()
	long(t)
	m := newBarman(t)
	m.server.MustExec(t, "postgres", accounts)
	m.archive()
	options := drill.Options{
		Watched: recovery.Watched{Repository: m.repository}, Scratch: pgtest.SharedDirectory(t), BinDirectories: []string{m.server.Install.BinDir},
		User: pgtest.User(), Timeout: patience, Settings: map[string]string{"fsync": "off"}, Logger: slog.New(slog.DiscardHandler),
	}
	rows := 20000
	for n, method := range [][]string{
		{"backup_method = postgres"},
		{"backup_method = postgres", "compression = gzip", "backup_compression = gzip"},
		{"backup_method = local-rsync", "reuse_backup = link", "compression = bzip2"},
	} {
		m.configure(method...)
		m.must("backup", "--wait", "bank")
		m.server.MustExec(t, "postgres", "INSERT INTO accounts SELECT i, 0, 'later' FROM generate_series("+strconv.Itoa(rows+1)+", "+strconv.Itoa(rows+5000)+") i")
		rows += 5000
		m.archive()
		i := m.read()
		if len(i.Backups) != n+1 || len(i.AllProblems()) != 0 {
			t.Fatalf("%v: %d backups, %v", method, len(i.Backups), i.AllProblems())
		}
		b := i.Backups[n]
		if b.Kind != recovery.KindFull || b.Major != m.server.Install.Major || b.System == 0 || b.Timeline != 1 || b.End <= b.Start || b.Size < 20<<20 || b.Stored < 2<<20 ||
			time.Since(b.Finished) > time.Minute || b.Finished.Before(b.Started) || b.Tar != (n == 1) {
			t.Errorf("%v: %+v", method, b)
		}
		if a := i.Archive; a.SegmentSize != 1<<20 || a.System != b.System || a.Major != b.Major || len(a.Cut) != 0 {
			t.Errorf("%v: segments of %d bytes, system %d, version %d, %v", method, a.SegmentSize, a.System, a.Major, a.Cut)
		}
		if _, latest, ok := i.Points(); !ok || latest.Position <= b.End {
			t.Errorf("%v: nothing behind the backup can be brought back: %+v", method, latest)
		}
		for _, s := range i.Archive.Segments {
			if problem, err := i.Archive.VerifySegment(t.Context(), s); problem != "" || err != nil {
				t.Errorf("%v: %s: %s, %v", method, s.Path, problem, err)
			}
		}
		options.Queries = []drill.Query{{Name: "rows", Database: "postgres", SQL: "SELECT count(*) FROM accounts", Expect: strconv.Itoa(rows)}}
		proved(t, options)
	}
	for _, program := range []string{"lz4", "zstd"} {
		m.configure("backup_method = postgres", "compression = custom", "custom_compression_filter = "+program+" -q -c", "custom_decompression_filter = "+program+" -q -dc")
		m.server.MustExec(t, "postgres", "INSERT INTO accounts SELECT i, 0, 'later' FROM generate_series("+strconv.Itoa(rows+1)+", "+strconv.Itoa(rows+5000)+") i")
		rows += 5000
		m.archive()
	}
	i := m.read()
	kinds := make(map[string]bool)
	for _, s := range i.Archive.Segments {
		kinds[s.Compression] = true
		if problem, err := i.Archive.VerifySegment(t.Context(), s); problem != "" || err != nil {
			t.Errorf("%s: %s, %v", s.Path, problem, err)
		}
	}
	if len(kinds) != 5 {
		t.Errorf("WAL of the kinds %v", kinds)
	}
	options.Queries = []drill.Query{{Name: "rows", Database: "postgres", SQL: "SELECT count(*) FROM accounts", Expect: strconv.Itoa(rows)}}
	options.Backup = i.Backups[0].Label // through WAL of five kinds
	proved(t, options)
	options.Backup = ""
	m.fails(options)
}

// fails takes a backup, another that fails, and damages what is there.
func (m *barman) fails(options drill.Options) {
	t := m.t
	t.Helper()
	// While Barman takes a backup it is no failure, and the newest is the one before.
	m.configure("backup_method = postgres", "bandwidth_limit = 8192")
	newest := m.read().Backups[2].Label
	ended := make(chan error, 1)
	go func() { ended <- m.run("backup", "--wait", "bank") }()
	pgtest.Await(t, "begun", time.Minute, func() bool { return len(m.read().Backups) == 4 })
	i := m.read()
	if b, err := i.Newest(); err != nil || b.Label != newest || !i.LastFailure().IsZero() {
		t.Errorf("while a backup is taken: newest %s, %v, failed at %s", b.Label, err, i.LastFailure())
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	fourth, err := m.read().Newest()
	if err != nil || fourth.Label == newest {
		t.Errorf("newest %s, %v", fourth.Label, err)
	}

	// A file that the server may not read makes the backup fail.
	secret := filepath.Join(m.server.DataDirectory, "secret")
	if err := errors.Join(os.WriteFile(secret, []byte("x"), 0o600), os.Chmod(secret, 0)); err != nil {
		t.Fatal(err)
	}
	m.configure("backup_method = postgres")
	if err := m.run("backup", "bank"); err == nil {
		t.Error("the backup of what cannot be read did not fail")
	}
	i = m.read()
	failure := i.Backups[slices.IndexFunc(i.Backups, func(b recovery.Backup) bool { return b.Label > fourth.Label })]
	if len(i.Backups) != 5 || failure.Usable() || failure.Problems[0].Kind != recovery.ProblemFailed || !strings.Contains(failure.Problems[0].Message, "failed: ") || i.LastFailure().IsZero() {
		t.Errorf("the failed backup: %+v, failed at %s", failure, i.LastFailure())
	}

	// What is damaged.
	last := m.read().Archive.Segments
	segment := last[len(last)-3]
	undo := change(t, segment.Path, func(content []byte) []byte { return content[:len(content)/2] })
	if problem, err := m.read().Archive.VerifySegment(t.Context(), segment); problem == "" || err != nil {
		t.Errorf("cut compressed segment: %q, %v", problem, err)
	}
	undo()
	table := strings.TrimPrefix(m.server.MustRelation(t, "postgres", "accounts").Path, m.server.DataDirectory)
	undo = change(t, filepath.Join(fourth.Path, table), func(content []byte) []byte { content[5000] ^= 1; return content })
	failed(t, "damaged backup", options, "does not match: the contents changed after the backup was taken")
	undo()
	if err := os.RemoveAll(fourth.Path); err != nil {
		t.Fatal(err)
	}
	failed(t, "backup without data", options, "its data directory is missing")
}
