package pg

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// OldestVersion is the first server version that is supported, as in
// server_version_num.
const OldestVersion = 130000

// NewestMajor is the newest major version whose files and catalogues are known.
// Newer servers are watched, but nothing is judged by how these are laid out.
const NewestMajor = 18

// Facts are what a session learnt about its server when it connected. They
// stay true for the life of the connection, except InRecovery, which a
// promotion changes.
type Facts struct {
	// VersionNum is server_version_num, for example 150018.
	VersionNum int
	// Version is server_version, for example "15.18".
	Version string
	// InRecovery is pg_is_in_recovery().
	InRecovery bool
	// DataChecksums is whether data checksums are on (setting data_checksums).
	DataChecksums bool
	// BlockSize is the size of a page in bytes (setting block_size).
	BlockSize int
	// Superuser is whether the session's role is one.
	Superuser bool
	// User is the session's role (session_user).
	User string
	// Database is the database of the session (current_database()).
	Database string
	// Pooled is whether the connection ends at a connection pooler: the process
	// that answers is not the one that the connection was made to. Such a
	// connection may get another session of the server for each transaction.
	Pooled bool
}

// Major is the major version, for example 15.
func (f Facts) Major() int { return f.VersionNum / 10000 }

// UnknownLayout says why files and catalogues of the server are not judged; "" is
// that they are known.
func (f Facts) UnknownLayout() string {
	if f.Major() <= NewestMajor {
		return ""
	}
	return fmt.Sprintf("PostgreSQL %s is newer than this version of pg_integrity_exporter, which knows how %d to %d lay out their files and catalogues: get a newer one", f.Version, OldestVersion/10000, NewestMajor)
}

// factsSQL reads settings and session functions only: no table is touched
// and no privilege is needed.
const factsSQL = `SELECT current_setting('server_version_num')::int,
	current_setting('server_version'),
	pg_is_in_recovery(),
	current_setting('data_checksums') = 'on',
	current_setting('block_size')::int,
	current_setting('is_superuser') = 'on',
	session_user::text,
	current_database()::text,
	pg_backend_pid()`

func readFacts(ctx context.Context, conn *pgx.Conn) (Facts, error) {
	var f Facts
	var process uint32
	err := conn.QueryRow(ctx, factsSQL).Scan(&f.VersionNum, &f.Version, &f.InRecovery,
		&f.DataChecksums, &f.BlockSize, &f.Superuser, &f.User, &f.Database, &process)
	if err != nil {
		return Facts{}, fmt.Errorf("reading the server's version and role: %w", err)
	}
	f.Pooled = process != conn.PgConn().PID()
	if f.VersionNum < OldestVersion {
		return Facts{}, &UnsupportedVersionError{Version: f.Version}
	}
	return f, nil
}

// Refresh asks a standby whether it still is one: a promotion does not end
// sessions. It asks nothing of a primary, which cannot become a standby without
// ending them.
func (c *Conn) Refresh(ctx context.Context) error {
	if !c.Facts.InRecovery {
		return nil
	}
	if err := c.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&c.Facts.InRecovery); err != nil {
		return fmt.Errorf("asking whether the server is a standby: %w", err)
	}
	return nil
}

// UnsupportedVersionError says that the server is older than OldestVersion.
type UnsupportedVersionError struct {
	// Version is the server's own server_version.
	Version string
}

// Error names the version found and the oldest one supported.
func (e *UnsupportedVersionError) Error() string {
	return fmt.Sprintf("PostgreSQL %s is not supported: version %d or newer is needed", e.Version, OldestVersion/10000)
}

// Database is one row of pg_database.
type Database struct {
	// OID is pg_database.oid.
	OID uint32
	// Name is pg_database.datname.
	Name string
	// Connectable is whether the session's role may connect to it.
	Connectable bool
	// Lost says that pg_database does not have it, although the session is in it.
	Lost bool `db:"-"`
}

// databasesSQL needs no privilege and takes ACCESS SHARE on pg_database.
// datconnlimit -2 marks a database whose DROP DATABASE was interrupted.
const databasesSQL = `SELECT oid, datname::text,
	datallowconn AND datconnlimit <> -2 AND has_database_privilege(oid, 'CONNECT')
	FROM pg_database ORDER BY datname`

// Databases lists the databases of the server, by name. The session's own is one of
// them even when pg_database has lost it.
func (c *Conn) Databases(ctx context.Context) ([]Database, error) {
	rows, err := c.Query(ctx, databasesSQL)
	if err != nil {
		return nil, fmt.Errorf("listing databases: %w", err)
	}
	databases, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Database])
	if err != nil {
		return nil, fmt.Errorf("listing databases: %w", err)
	}
	own := c.Config().Database
	if own != "" && !slices.ContainsFunc(databases, func(d Database) bool { return d.Name == own }) {
		databases = append(databases, Database{Name: own, Connectable: true, Lost: true})
	}
	return databases, nil
}
