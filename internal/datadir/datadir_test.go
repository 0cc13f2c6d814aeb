package datadir_test

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
)

func connect(t *testing.T, dsn string) *pg.Conn {
	t.Helper()
	target, err := pg.ResolveTarget(dsn, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	conn, err := target.Connect(t.Context(), "", pg.Purpose{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// TestBothWaysReadTheSame compares reading directly with reading through the
// server, as a role that was granted the file functions.
func TestBothWaysReadTheSame(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		relation := server.MustRelation(t, "postgres", "pg_proc")
		if relation.Blocks == 0 {
			t.Fatal("pg_proc is empty")
		}
		monitor, err := server.Monitor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := server.GrantFiles(t.Context(), "postgres", monitor); err != nil {
			t.Fatal(err)
		}
		conn := connect(t, server.DSN("postgres", monitor))
		local, err := datadir.Open(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		defer local.Close()
		if !local.Local() {
			t.Error("a data directory on this machine is read through the server")
		}
		remote := datadir.OpenRemote(conn)
		for _, name := range []string{"PG_VERSION", "global/pg_control", relation.Path[len(server.DataDirectory)+1:]} {
			a, err := datadir.ReadFile(t.Context(), local, name, 1<<16)
			if err != nil {
				t.Fatal(err)
			}
			b, err := datadir.ReadFile(t.Context(), remote, name, 1<<16)
			if err != nil {
				t.Fatal(err)
			}
			if len(a) == 0 || !bytes.Equal(a, b) {
				t.Errorf("%s: %d bytes directly, %d through the server", name, len(a), len(b))
			}
		}
		for way, d := range map[string]datadir.Directory{"local": local, "remote": remote} {
			if _, err := d.Size(t.Context(), "base/1/0"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: Size of a missing file: %v", way, err)
			}
			if _, err := d.ReadAt(t.Context(), "base/1/0", make([]byte, 10), 0); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: ReadAt of a missing file: %v", way, err)
			}
		}
	})
}

// TestNoAccess holds that a role without rights is told which ones it needs.
func TestNoAccess(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE ROLE nobody LOGIN")
	_, err := datadir.Open(t.Context(), connect(t, server.DSN("postgres", "nobody")))
	denied, ok := errors.AsType[*datadir.NoAccessError](err)
	if !ok || denied.Role != "nobody" {
		t.Errorf("error %v", err)
	}
}
