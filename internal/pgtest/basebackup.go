package pgtest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Backup says how a base backup is taken.
type Backup struct {
	// Directory is where it goes.
	Directory string
	// Tar leaves it as tar files instead of unpacking them.
	Tar bool
	// NoWAL leaves out the WAL that makes it consistent.
	NoWAL bool
	// Incremental is the directory of the backup that it builds on (17+).
	Incremental string
	// Checksums is the algorithm of the manifest; empty is CRC32C.
	Checksums string
}

// BaseBackup takes a base backup through the replication protocol, as
// pg_basebackup does, which the servers of npm do not have. Tablespaces of a
// plain backup go to DIRECTORY.tablespaces/OID.
func (s *Server) BaseBackup(t testing.TB, b Backup) {
	t.Helper()
	if err := s.TakeBackup(t.Context(), b); err != nil {
		t.Fatalf("taking a base backup: %v", err)
	}
}

// TakeBackup is BaseBackup outside of tests.
func (s *Server) TakeBackup(ctx context.Context, b Backup) error {
	conn, err := pgconn.Connect(ctx, s.DSN("postgres")+"&replication=database")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if b.Incremental != "" {
		if err := uploadManifest(conn, filepath.Join(b.Incremental, "backup_manifest")); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(b.Directory, 0o755); err != nil {
		return err
	}
	w := &backupWriter{backup: b, major: s.Install.Major}
	if err := w.receive(conn, s.backupCommand(b)); err != nil {
		return err
	}
	if err := w.close(); err != nil {
		return err
	}
	if _, err := os.Stat(b.Directory + ".tablespaces"); err == nil {
		return errors.Join(GiveAway(b.Directory), GiveAway(b.Directory+".tablespaces"))
	}
	return GiveAway(b.Directory)
}

func (s *Server) backupCommand(b Backup) string {
	checksums := b.Checksums
	if checksums == "" {
		checksums = "CRC32C"
	}
	if s.Install.Major < 15 {
		command := "BASE_BACKUP LABEL 'pgtest' FAST NOWAIT MANIFEST 'yes' MANIFEST_CHECKSUMS '" + checksums + "'"
		if !b.NoWAL {
			command += " WAL"
		}
		if b.Tar {
			command += " TABLESPACE_MAP"
		}
		return command
	}
	command := "BASE_BACKUP (LABEL 'pgtest', CHECKPOINT 'fast', WAIT 'false', TARGET 'client', MANIFEST 'yes', MANIFEST_CHECKSUMS '" + checksums + "'"
	if !b.NoWAL {
		command += ", WAL"
	}
	if b.Tar {
		command += ", TABLESPACE_MAP"
	}
	if b.Incremental != "" {
		command += ", INCREMENTAL"
	}
	return command + ")"
}

// uploadManifest sends the manifest of the backup that an incremental one
// builds on.
func uploadManifest(conn *pgconn.PgConn, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	frontend := conn.Frontend()
	frontend.Send(&pgproto3.Query{String: "UPLOAD_MANIFEST"})
	frontend.Send(&pgproto3.CopyData{Data: content})
	frontend.Send(&pgproto3.CopyDone{})
	if err := frontend.Flush(); err != nil {
		return err
	}
	for {
		message, err := frontend.Receive()
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return nil
		}
	}
}

// backupWriter writes what BASE_BACKUP sends: before version 15 one COPY for
// each tablespace and one for the manifest, from 15 on a single one whose
// messages say what they are.
type backupWriter struct {
	backup Backup
	major  int
	// oids are the tablespaces in the order in which they come; "" is the data
	// directory.
	oids []string
	copy int
	// result counts the rows' descriptions: the second is the list of tablespaces.
	result  int
	files   map[string]*bytes.Buffer
	current string
}

func (w *backupWriter) receive(conn *pgconn.PgConn, command string) error {
	w.files = make(map[string]*bytes.Buffer)
	frontend := conn.Frontend()
	frontend.Send(&pgproto3.Query{String: command})
	if err := frontend.Flush(); err != nil {
		return err
	}
	var failed error
	for {
		message, err := frontend.Receive()
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.ErrorResponse:
			failed = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.RowDescription:
			w.result++
		case *pgproto3.DataRow:
			if w.result == 2 {
				w.oids = append(w.oids, string(m.Values[0]))
			}
		case *pgproto3.CopyOutResponse:
			w.begin()
		case *pgproto3.CopyData:
			w.data(m.Data)
		case *pgproto3.ReadyForQuery:
			return failed
		}
	}
}

// begin is the start of a COPY: before version 15 that of the next file.
func (w *backupWriter) begin() {
	w.current = "backup_manifest"
	if w.copy < len(w.oids) {
		w.current = tarNameOf(w.oids[w.copy])
	}
	w.copy++
}

func tarNameOf(oid string) string {
	if oid == "" {
		return "base.tar"
	}
	return oid + ".tar"
}

func (w *backupWriter) data(data []byte) {
	if w.copy == 1 && len(data) > 0 && (w.files["\x00framed"] != nil || data[0] == 'n') {
		w.files["\x00framed"] = new(bytes.Buffer)
		switch data[0] {
		case 'n':
			w.current = string(data[1 : 1+bytes.IndexByte(data[1:], 0)])
			return
		case 'm':
			w.current = "backup_manifest"
			return
		case 'd':
			data = data[1:]
		default:
			return
		}
	}
	if w.files[w.current] == nil {
		w.files[w.current] = new(bytes.Buffer)
	}
	w.files[w.current].Write(data)
}

// close writes the files.
func (w *backupWriter) close() error {
	delete(w.files, "\x00framed")
	for name, content := range w.files {
		oid, isTar := strings.CutSuffix(name, ".tar")
		if isTar && w.major < 15 { // the server leaves the end to the client
			content.Write(make([]byte, 1024))
		}
		var err error
		switch {
		case !isTar || w.backup.Tar:
			err = os.WriteFile(filepath.Join(w.backup.Directory, name), content.Bytes(), 0o600)
		case oid == "base":
			err = w.unpack(content, w.backup.Directory)
		default:
			err = w.unpack(content, w.tablespace(oid))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *backupWriter) tablespace(oid string) string {
	return filepath.Join(w.backup.Directory+".tablespaces", oid)
}

func (w *backupWriter) unpack(content io.Reader, directory string) error {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	archive := tar.NewReader(content)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(directory, header.Name)
		switch header.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o700)
		case tar.TypeSymlink:
			err = os.Symlink(w.tablespace(filepath.Base(path)), path)
		default:
			err = writeMember(path, archive)
		}
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", header.Name, err)
		}
	}
}

func writeMember(path string, from io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	content, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// SharedDirectory is a temporary directory that servers can write to; that of
// a test is hidden from users other than the test's own.
func SharedDirectory(t testing.TB) string {
	t.Helper()
	directory, err := os.MkdirTemp("", "pgtest-shared-") //nolint:usetesting // t.TempDir is hidden from the servers' user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(directory); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(os.Chmod(directory, 0o755), GiveAway(directory)); err != nil {
		t.Fatal(err)
	}
	return directory
}

// Archiving is the settings of a server that copies its WAL to a directory.
func Archiving(directory string) Option {
	return func(c *Config) {
		c.Settings["archive_mode"] = "on"
		c.Settings["archive_command"] = "cp %p " + directory + "/.new && mv " + directory + "/.new " + directory + "/%f"
	}
}

// AwaitArchived fills the current WAL segment and waits until it is archived.
func (s *Server) AwaitArchived(t testing.TB, directory string) {
	t.Helper()
	var name string
	if err := s.Query(t.Context(), "postgres", "SELECT pg_walfile_name(pg_switch_wal())", &name); err != nil {
		t.Fatal(err)
	}
	Await(t, "archived: "+name, startTimeout, func() bool {
		_, err := os.Stat(filepath.Join(directory, name))
		return err == nil
	})
}
