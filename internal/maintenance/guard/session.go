package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pg_integrity_exporter/internal/maintenance/script"
	"pg_integrity_exporter/internal/pg"
)

// connectTimeout bounds the connections of the guard.
const connectTimeout = 30 * time.Second

// session is a connection of the guard.
type session struct {
	*pg.Conn
}

// open opens a session that may write. Its application_name has the run's id.
func (r *run) open(ctx context.Context, name string) (session, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := r.options.Target.Connect(ctx, r.options.Database, pg.Purpose{
		Name: strings.TrimSpace(r.report.ID + " " + name), Maintenance: true, CancelOnServer: true, LockTimeout: r.settings().LockTimeout,
		OnNotice: func(severity, message string) { r.sayf("%s: %s", severity, message) },
	})
	if err != nil {
		return session{}, err
	}
	if conn.Facts.Major() >= 14 {
		// A server whose guard was killed stops its statement soon.
		if _, err := conn.Exec(ctx, "SET client_connection_check_interval = '2s'"); err != nil {
			r.options.Logger.Debug("the server does not watch its client", "err", err)
		}
	}
	return session{conn}, nil
}

// exec runs statements of the guard's own.
func (s session) exec(ctx context.Context, sql string) error {
	_, err := s.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// aside runs something within a savepoint (or a transaction of its own) that is
// rolled back, with settings that only count there.
func (s session) aside(ctx context.Context, settings string, use func() error) error {
	begin, end := "SAVEPOINT "+asidePoint, "ROLLBACK TO SAVEPOINT "+asidePoint+"; RELEASE SAVEPOINT "+asidePoint
	if s.PgConn().TxStatus() == 'I' {
		begin, end = "BEGIN ISOLATION LEVEL REPEATABLE READ", "ROLLBACK"
	}
	if err := s.exec(ctx, begin); err != nil {
		return err
	}
	err := s.exec(ctx, settings)
	if err == nil {
		err = use()
	}
	return errors.Join(err, s.exec(context.WithoutCancel(ctx), end))
}

// The savepoints of the guard: around each statement, and around what it looks
// at.
const (
	statementPoint = "pgintegrity_statement"
	asidePoint     = "pgintegrity_aside"
)

// command runs one statement of the script and gives the number of rows that
// it changed. What it selects is not kept.
func (s session) command(ctx context.Context, statement script.Statement) (rows int64, err error) {
	if statement.Class.CopyIn {
		tag, err := s.PgConn().CopyFrom(ctx, strings.NewReader(statement.Data), statement.Text)
		return tag.RowsAffected(), err
	}
	// The extended protocol takes one statement only: what the server reads as
	// several, a COMMIT among them, is refused.
	reader := s.PgConn().ExecParams(ctx, statement.Text, nil, nil, nil, nil)
	for reader.NextRow() { // the rows of the script are nobody's
	}
	tag, err := reader.Close()
	if tag.Select() {
		return 0, err
	}
	return tag.RowsAffected(), err
}

// ask gives the first rows of a query of the user's, within a transaction. A
// cursor takes one query that changes nothing, and nothing else.
func (s session) ask(ctx context.Context, query string) (pgx.Rows, error) {
	declared, err := s.Query(ctx, "DECLARE pgintegrity_question NO SCROLL CURSOR FOR "+trimQuery(query))
	if err != nil {
		return nil, err
	}
	declared.Close()
	if err := declared.Err(); err != nil {
		return nil, err
	}
	return s.Query(ctx, "FETCH 2 FROM pgintegrity_question")
}

// tablesSQL finds the tables behind names: an index stands for its table.
const tablesSQL = `SELECT c.oid, n.nspname::text, c.relname::text, pg_total_relation_size(c.oid), c.reltuples::float8, c.relkind::text
	FROM pg_class named JOIN pg_class c ON c.oid = coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = named.oid), named.oid)
	JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE named.oid = to_regclass($1) AND c.relkind IN ('r', 'p', 'm')`

// find finds the table that a name of the script means.
func (s session) find(ctx context.Context, name script.Name) (table, bool, error) {
	rows, err := s.Query(ctx, tablesSQL, name.String())
	if err != nil {
		return table{}, false, fmt.Errorf("looking for %s: %w", name, err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[table])
	if err != nil {
		return table{}, false, fmt.Errorf("looking for %s: %w", name, err)
	}
	if len(tables) == 0 {
		return table{}, false, nil
	}
	return tables[0], true, nil
}

// allTablesSQL lists the tables of the user, the smallest first.
const allTablesSQL = `SELECT c.oid, n.nspname::text, c.relname::text, pg_table_size(c.oid), c.reltuples::float8, c.relkind::text
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.relispopulated AND ` + userSchemas + ` ORDER BY 4, 1`

func (s session) tables(ctx context.Context) ([]table, error) {
	rows, err := s.Query(ctx, allTablesSQL)
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[table])
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	return tables, nil
}

// touchedSQL lists the tables that the transaction has locked for more than
// reading, with what it changed in them so far. The counters are the session's
// own, of transactions that it has not reported yet.
const touchedSQL = `SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, array_agg(DISTINCT l.mode),
		pg_stat_get_xact_tuples_inserted(c.oid), pg_stat_get_xact_tuples_updated(c.oid), pg_stat_get_xact_tuples_deleted(c.oid),
		coalesce(pg_relation_filenode(c.oid), 0), pg_table_size(c.oid)
	FROM pg_locks l JOIN pg_class i ON i.oid = l.relation
	JOIN pg_class c ON c.oid = coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = i.oid), i.oid)
	JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
		AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND c.relkind IN ('r', 'p', 'm') AND ` + userSchemas + ` GROUP BY c.oid, n.nspname, c.relname, c.relkind ORDER BY 2, 3`

// touchedTable is a table that the open transaction touches.
type touchedTable struct {
	table

	lock     string
	own      writes
	filenode uint32
}

// lockWords are the modes of pg_locks in the words of the documentation.
var lockWords = map[string]script.Lock{
	"RowExclusiveLock": script.RowExclusive, "ShareUpdateExclusiveLock": script.ShareUpdateExclusive, "ShareLock": script.Share,
	"ShareRowExclusiveLock": script.ShareRowExclusive, "ExclusiveLock": script.Exclusive, "AccessExclusiveLock": script.AccessExclusive,
}

func (s session) touched(ctx context.Context) ([]touchedTable, error) {
	rows, err := s.Query(ctx, touchedSQL)
	if err != nil {
		return nil, fmt.Errorf("looking at what was touched: %w", err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (touchedTable, error) {
		var t touchedTable
		var modes []string
		err := row.Scan(&t.OID, &t.Schema, &t.Name, &t.Kind, &modes, &t.own.Inserted, &t.own.Updated, &t.own.Deleted, &t.filenode, &t.Bytes)
		strongest := script.NoLock
		for _, mode := range modes {
			if l := lockWords[mode]; l.Strength() > strongest.Strength() {
				strongest = l
			}
		}
		t.lock = string(strongest)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("looking at what was touched: %w", err)
	}
	return tables, nil
}

// retryable says that a statement may succeed when it is tried again: it waited
// too long for a lock, or was the victim of a deadlock.
func retryable(err error) bool {
	return slices.Contains([]string{"55P03", "40P01"}, pg.SQLState(err))
}

// lostConnection says that the session is gone, so that nobody knows yet how a
// statement ended.
func lostConnection(err error) bool {
	if err == nil {
		return false
	}
	pgError, ok := errors.AsType[*pgconn.PgError](err)
	return !ok || slices.Contains([]string{"57P01", "57P02", "57P03", "08006", "08003"}, pgError.Code)
}
