package recovery_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/recovery"
)

// directoryOf reads a repository of base backups.
func directoryOf(t *testing.T, path, archive string) *recovery.Inventory {
	t.Helper()
	inventory := recovery.ReadRepository(t.Context(), recovery.Repository{Name: "r", Type: recovery.TypeDirectory, Path: path, WAL: archive})
	if inventory.Err != nil {
		t.Fatal(inventory.Err)
	}
	return inventory
}

func mustFind(t *testing.T, i *recovery.Inventory, label string) recovery.Backup {
	t.Helper()
	b, err := i.Find(label)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func edit(t *testing.T, path string, change func(b []byte) []byte) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestBaseBackups takes real backups of every version and damages copies.
func TestBaseBackups(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		repository, archive := pgtest.SharedDirectory(t), pgtest.SharedDirectory(t)
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Archiving(archive))
		server.MustExec(t, "postgres", "CREATE TABLE t AS SELECT i, repeat('x', 100) AS pad FROM generate_series(1, 20000) i")
		plain := pgtest.Backup{Directory: filepath.Join(repository, "plain")}
		server.BaseBackup(t, plain)
		server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(repository, "tar"), Tar: true, Checksums: "SHA256"})
		server.MustExec(t, "postgres", "INSERT INTO t SELECT i, 'y' FROM generate_series(1, 40000) i")
		server.AwaitArchived(t, archive)
		i := directoryOf(t, repository, archive)
		if len(i.Backups) != 2 || len(i.AllProblems()) != 0 {
			t.Fatalf("%d backups, problems %v", len(i.Backups), i.AllProblems())
		}
		for _, b := range i.Backups {
			if b.Major != major || b.Start == 0 || b.End <= b.Start || b.Size < 20<<20 || b.Timeline != 1 || !b.WALIncluded && !b.Tar || b.Finished.IsZero() {
				t.Errorf("%+v", b)
			}
			result, err := recovery.Verify(t.Context(), i, b, recovery.VerifyOptions{})
			if err != nil || len(result.Problems) != 0 || result.Read < 900 || result.Bytes < 20<<20 {
				t.Errorf("%s: %+v, %v", b.Label, result, err)
			}
		}
		_, latest, ok := i.Points()
		if !ok || latest.Position < i.Backups[0].End || time.Since(latest.Time) > time.Minute {
			t.Errorf("latest %+v", latest)
		}
		if problem := i.Archive; problem.Major != major || problem.System == 0 || problem.SegmentSize != 1<<20 {
			t.Errorf("archive %+v", problem)
		}
		for _, s := range i.Archive.Segments {
			if problem, err := i.Archive.VerifySegment(t.Context(), s); problem != "" || err != nil {
				t.Errorf("%s: %s, %v", s.Path, problem, err)
			}
		}
		if testing.Short() && major != pgtest.Newest() {
			return
		}
		damageBackup(t, repository, plain.Directory)
		damageArchive(t, repository, archive)
	})
}

// damageBackup damages a backup in every way and expects each to be told.
func damageBackup(t *testing.T, repository, directory string) {
	t.Helper()
	path := func(name string) string { return filepath.Join(directory, name) }
	for _, c := range []struct {
		name, want string
		damage     func()
	}{
		{"one bit", "base/1/1255: its CRC32C does not match", func() {
			edit(t, path("base/1/1255"), func(b []byte) []byte { b[5000] ^= 1; return b })
		}},
		{"missing", "global/pg_control: is missing", func() {
			if err := os.Remove(path("global/pg_control")); err != nil {
				t.Fatal(err)
			}
		}},
		{"cut", "base/1/1249: has 8192 bytes instead of", func() {
			edit(t, path("base/1/1249"), func(b []byte) []byte { return b[:8192] })
		}},
		{"extra", "base/1/stray: is in the backup but not", func() {
			if err := os.WriteFile(path("base/1/stray"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		before := snapshotTree(t, directory)
		c.damage()
		i := directoryOf(t, repository, "")
		result, err := recovery.Verify(t.Context(), i, mustFind(t, i, "plain"), recovery.VerifyOptions{})
		if err != nil || len(result.Problems) != 1 || !strings.HasPrefix(result.Problems[0].String(), c.want) {
			t.Errorf("%s: %v, %v", c.name, result.Problems, err)
		}
		before()
	}
	for _, c := range []struct {
		name, file string
		change     func(b []byte) []byte
		want       recovery.ProblemKind
	}{
		{"manifest edited", recovery.ManifestName, func(b []byte) []byte { b[200] ^= 1; return b }, recovery.ProblemDamaged},
		{"manifest cut", recovery.ManifestName, func(b []byte) []byte { return b[:len(b)/2] }, recovery.ProblemDamaged},
		{"label gone", "backup_label", nil, recovery.ProblemIncomplete},
	} {
		before := snapshotTree(t, directory)
		if c.change == nil {
			if err := os.Remove(path(c.file)); err != nil {
				t.Fatal(err)
			}
		} else {
			edit(t, path(c.file), c.change)
		}
		b := mustFind(t, directoryOf(t, repository, ""), "plain")
		if b.Usable() || b.Problems[0].Kind != c.want {
			t.Errorf("%s: %v", c.name, b.Problems)
		}
		before()
	}
}

// TestUnderWay holds that a backup that the real pg_basebackup is taking is
// usable at no moment before it is finished, and no failure either, and that one
// that nobody writes to any more is.
func TestUnderWay(t *testing.T) {
	t.Parallel()
	tool := pgtest.Tool(t, "pg_basebackup")
	server := pgtest.Start(t, pgtest.Version(pgtest.DebianVersion()), pgtest.Setting("wal_keep_size", "256MB"), pgtest.Setting("max_wal_senders", "20"))
	for name, options := range map[string][]string{
		"streamed": {"--wal-method=stream"}, "fetched": {"--wal-method=fetch"}, "tar": {"--format=tar"}, "gzip": {"--format=tar", "--gzip"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repository := pgtest.SharedDirectory(t)
			directory := filepath.Join(repository, "b")
			args := append([]string{"--dbname=" + server.DSN("postgres"), "--pgdata=" + directory, "--checkpoint=fast", "--max-rate=8M"}, options...)
			taking := exec.Command(tool, args...)
			if err := taking.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- taking.Wait() }()
			looks := lookOften(t, repository, ended)
			b := mustFind(t, directoryOf(t, repository, ""), "b")
			if !b.Usable() || looks < 10 {
				t.Errorf("the finished backup: %v, after %d looks", b.Problems, looks)
			}
		})
	}
}

// lookOften reads a repository until its only backup is finished.
func lookOften(t *testing.T, repository string, ended <-chan error) (looks int) {
	t.Helper()
	for {
		i := directoryOf(t, repository, "")
		if !i.LastFailure().IsZero() {
			t.Fatalf("a backup that is being taken has failed: %v", i.AllProblems())
		}
		for _, b := range i.Backups {
			looks++
			if _, err := os.Stat(filepath.Join(b.Path, recovery.ManifestName)); b.Usable() && err != nil {
				t.Fatalf("usable although its manifest is not there (look %d): %+v", looks, b)
			}
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			return looks
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestUnfinished holds that what a backup lacks whose taking was stopped is told,
// whether a manifest was asked for or not, and that backups without a manifest
// are no less usable than others.
func TestUnfinished(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	cut := func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/3)
	}
	for _, c := range []struct {
		name, want string
		tar, gzip  bool
		stop       func(directory string) error
	}{
		{"data", "neither a manifest nor global/pg_control", false, false, func(d string) error { return os.Remove(filepath.Join(d, "global", "pg_control")) }},
		{"WAL", "is not whole", false, false, func(d string) error {
			segments, err := filepath.Glob(filepath.Join(d, "pg_wal", "0*"))
			if err != nil || len(segments) == 0 {
				return fmt.Errorf("%v, %w", segments, err)
			}
			return cut(segments[0])
		}},
		{"manifest", "its manifest is not finished", false, false, func(d string) error {
			return os.WriteFile(filepath.Join(d, recovery.ManifestName+".tmp"), nil, 0o600)
		}},
		{"tar", "base.tar: it was cut", true, false, func(d string) error { return cut(filepath.Join(d, "base.tar")) }},
		{"end of tar", "the end of the tar file is missing", true, false, func(d string) error {
			path := filepath.Join(d, "base.tar")
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.Truncate(path, info.Size()-1024)
		}},
		{"gzip", "base.tar.gz: unexpected EOF", true, true, func(d string) error { return cut(filepath.Join(d, "base.tar.gz")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			repository := pgtest.SharedDirectory(t)
			directory := filepath.Join(repository, "b")
			server.BaseBackup(t, pgtest.Backup{Directory: directory, Tar: c.tar})
			if c.gzip {
				zip(t, filepath.Join(directory, "base.tar"))
			}
			if err := os.Remove(filepath.Join(directory, recovery.ManifestName)); err != nil {
				t.Fatal(err)
			}
			look := func() (*recovery.Inventory, recovery.Backup) {
				i := directoryOf(t, repository, "")
				return i, mustFind(t, i, "b")
			}
			if i, b := look(); b.Usable() || !i.LastFailure().IsZero() {
				t.Errorf("written to a moment ago: %v, failed at %s", b.Problems, i.LastFailure())
			}
			age(t, repository)
			if _, b := look(); !b.Usable() {
				t.Errorf("without a manifest: %v", b.Problems)
			}
			if err := c.stop(directory); err != nil {
				t.Fatal(err)
			}
			if i, b := look(); b.Usable() || b.Problems[0].Kind != recovery.ProblemIncomplete || !i.LastFailure().IsZero() {
				t.Errorf("%v, failed at %s", b.Problems, i.LastFailure())
			}
			age(t, repository)
			if i, b := look(); b.Usable() || !strings.Contains(b.Problems[0].Message, c.want) || i.LastFailure().IsZero() {
				t.Errorf("nobody writes to it any more: %v, failed at %s", b.Problems, i.LastFailure())
			}
		})
	}
}

// age makes everything below a directory an hour old.
func age(t *testing.T, directory string) {
	t.Helper()
	long := time.Now().Add(-time.Hour)
	if err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(path, long, long)
	}); err != nil {
		t.Fatal(err)
	}
}

// zip compresses a file with gzip.
func zip(t *testing.T, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), os.WriteFile(path+".gz", zipped.Bytes(), 0o600), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
}

// snapshotTree copies a tree aside and gives a function that puts it back.
func snapshotTree(t *testing.T, directory string) (restore func()) {
	t.Helper()
	saved := filepath.Join(t.TempDir(), "saved")
	if err := os.CopyFS(saved, os.DirFS(directory)); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.RemoveAll(directory); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(saved, directory); err != nil {
			t.Fatal(err)
		}
	}
}

// fullSegment is a segment behind the backups that is full of records and has
// others behind it.
func fullSegment(t *testing.T, a *recovery.Archive) recovery.ArchivedSegment {
	t.Helper()
	for _, s := range slices.Backward(a.Segments[:len(a.Segments)-1]) {
		content, err := os.ReadFile(s.Path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(content[len(content)-8000:], make([]byte, 8000)) {
			return s
		}
	}
	t.Fatal("no segment is full")
	return recovery.ArchivedSegment{}
}

// damageArchive takes away, cuts and damages segments.
func damageArchive(t *testing.T, repository, archive string) {
	t.Helper()
	i := directoryOf(t, repository, archive)
	middle := fullSegment(t, i.Archive)
	old := time.Now().Add(-time.Hour)
	for _, s := range i.Archive.Segments {
		if err := os.Chtimes(s.Path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	edit(t, middle.Path, func(b []byte) []byte {
		for i := range 8 { // more than the padding between two records
			b[len(b)/2+i] ^= 0x10
		}
		return b
	})
	if problem, err := i.Archive.VerifySegment(t.Context(), middle); problem == "" || err != nil {
		t.Errorf("a damaged segment: %q, %v", problem, err)
	}
	if err := os.Chtimes(middle.Path, old, old); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		damage func() error
	}{
		{"cut", func() error { return os.Truncate(middle.Path, 1000) }},
		{"empty", func() error { return os.Truncate(middle.Path, 0) }},
		{"gone", func() error { return os.Remove(middle.Path) }},
	} {
		if err := c.damage(); err != nil {
			t.Fatal(err)
		}
		problems := directoryOf(t, repository, archive).Problems
		found := false
		for _, p := range problems {
			found = found || p.Kind == recovery.ProblemWALGap && p.Object == middle.Name(i.Archive.SegmentSize)
		}
		if !found {
			t.Errorf("%s: %v", c.name, problems)
		}
	}
}
