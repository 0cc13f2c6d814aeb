package datadir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

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

func (r *remote) Stat(ctx context.Context, name string) (Entry, error) {
	var e Entry
	err := r.conn.QueryRow(ctx, "SELECT size, isdir FROM pg_catalog.pg_stat_file($1, false)", name).Scan(&e.Size, &e.Directory)
	return e, missing(name, err)
}

// missing makes fs.ErrNotExist of the server's 58P01, and fs.ErrPermission of a
// file that the server itself may not open.
func missing(name string, err error) error {
	var pgError *pgconn.PgError
	if !errors.As(err, &pgError) {
		return err
	}
	switch {
	case pgError.Code == "58P01":
		return fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	case pgError.Code == "42501" && pgError.Message != "" && pgError.Message[0] == 'c': // could not open file ...
		return fmt.Errorf("%s: %w", name, fs.ErrPermission)
	}
	return err
}
