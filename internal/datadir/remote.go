package datadir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pg_integrity_exporter/internal/pg"
)

// remote reads through a session: pg_read_binary_file and pg_stat_file,
// for superusers and whoever was granted them. They take no lock and
// go past shared buffers.
type remote struct {
	conn *pg.Conn
}

// OpenRemote reads the data directory through a session of a role that may call
// the file functions.
func OpenRemote(conn *pg.Conn) Directory { return &remote{conn: conn} }

func (r *remote) Local() bool { return false }

func (r *remote) Close() {}

func (r *remote) ReadAt(ctx context.Context, name string, p []byte, offset int64) (int, error) {
	var content []byte
	err := r.conn.QueryRow(ctx, "SELECT pg_catalog.pg_read_binary_file($1, $2, $3, false)", name, offset, int64(len(p))).Scan(&content)
	if err != nil {
		return 0, missing(name, err)
	}
	return copy(p, content), nil
}

func (r *remote) Size(ctx context.Context, name string) (int64, error) {
	entry, err := r.Stat(ctx, name)
	if err == nil {
		err = entry.noFile(name)
	}
	return entry.Size, err
}

func (r *remote) Stat(ctx context.Context, name string) (Entry, error) {
	entry := Entry{Name: name[strings.LastIndex(name, "/")+1:]}
	err := r.conn.QueryRow(ctx, "SELECT size, modification, isdir FROM pg_catalog.pg_stat_file($1, false)", name).Scan(&entry.Size, &entry.Modified, &entry.Directory)
	return entry, missing(name, err)
}

func (r *remote) Each(ctx context.Context, name string, tell func(Entry)) error {
	// Files that go between the two functions have no size.
	const sql = `SELECT f, size, modification, isdir FROM pg_catalog.pg_ls_dir($1, false, false) AS f,
		pg_catalog.pg_stat_file($1 || '/' || f, true) WHERE size IS NOT NULL`
	rows, err := r.conn.Query(ctx, sql, name)
	if err != nil {
		return missing(name, err)
	}
	var e Entry
	_, err = pgx.ForEachRow(rows, []any{&e.Name, &e.Size, &e.Modified, &e.Directory}, func() error {
		tell(e)
		return nil
	})
	return missing(name, err)
}

// missing makes fs.ErrNotExist of the server's 58P01.
func missing(name string, err error) error {
	if pgError, ok := errors.AsType[*pgconn.PgError](err); ok && pgError.Code == "58P01" {
		return fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return err
}
