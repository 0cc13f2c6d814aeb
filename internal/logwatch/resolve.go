package logwatch

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/schedule"
	"pg_integrity_exporter/internal/state"
)

const (
	// nameFor is how long it is tried to name what an event is about, when the
	// server did not answer: damage can make it restart.
	nameFor = 10 * time.Minute
	// maxNameless bounds the events that wait for that.
	maxNameless = 100
)

// nameless is an event whose object could not be asked for.
type nameless struct {
	event pglog.Event
	since time.Time
	old   bool // as pglog.Batch.Old
}

// nameAgain tries to name what could not be named yet.
func (w *Watcher) nameAgain(ctx context.Context) {
	w.mu.Lock()
	waiting := w.nameless
	w.nameless = nil
	w.mu.Unlock()
	if len(waiting) == 0 {
		return
	}
	findings, suspects := w.name(ctx, waiting)
	w.state.Report(findings)
	w.scheduler.Suspect(suspects...)
}

// name finds the relations that events are about. An event that names none makes
// the tables of its statement suspects; one for which the server could not be
// asked waits.
func (w *Watcher) name(ctx context.Context, events []nameless) (findings []state.Finding, suspects []schedule.Suspect) {
	type told struct {
		fingerprint string
		old         bool
	}
	known := make(map[told]bool)
	resolver := &resolver{target: w.target, failed: make(map[string]error), found: make(map[pglog.Object]object)}
	defer resolver.close()
	for _, e := range events {
		object, err := resolver.resolve(ctx, e.event)
		if err != nil {
			w.postpone(e, err)
			continue
		}
		if object.relation.Name == "" {
			for _, table := range object.mentioned {
				suspects = append(suspects, schedule.Suspect{Database: object.database, Relation: table})
			}
			continue
		}
		finding := check.LogFinding(e.event, object.database, object.relation)
		this := told{finding.Fingerprint, e.old}
		if known[this] {
			continue
		}
		known[this] = true
		suspects = append(suspects, schedule.Suspect{Database: object.database, Relation: object.table})
		if !e.event.Kind.Corruption() {
			continue // it may have another cause: the checks will tell
		}
		findings = append(findings, state.Finding{Finding: finding, FirstSeen: e.since, LastSeen: e.since, Doubtful: e.old})
	}
	return findings, suspects
}

// postpone keeps an event for nameAgain.
func (w *Watcher) postpone(e nameless, err error) {
	if time.Since(e.since) > nameFor {
		w.logger.Warn("damaged object cannot be named", "path", e.event.Object.Path, "err", err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.nameless) < maxNameless && !slices.ContainsFunc(w.nameless, func(other nameless) bool { return other.same(e) }) {
		w.nameless = append(w.nameless, e)
	}
}

// same says whether another event tells the same of the same object. One of the
// log from before does not stand for a new one.
func (e nameless) same(other nameless) bool {
	a, b := e.event, other.event
	return e.old == other.old && a.Kind == b.Kind && a.Database == b.Database && a.Object.Path == b.Object.Path && a.Object.Name == b.Object.Name &&
		slices.Equal(a.Mentioned, b.Mentioned)
}

// resolver finds what events are about. It keeps one session within a batch.
type resolver struct {
	target   *pg.Target
	conn     *pg.Conn
	database string
	failed   map[string]error // databases that could not be asked in this batch
	found    map[pglog.Object]object
}

// object is what an event is about.
type object struct {
	database string
	// relation is what is damaged, table the table that it belongs to.
	relation, table check.RelationName
	// mentioned are the tables of the statement that ran into it, when nothing
	// else is known.
	mentioned []check.RelationName
}

func (r *resolver) close() {
	if r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
}

// resolve finds what an event is about, once for all events of a batch about
// the same file or name.
func (r *resolver) resolve(ctx context.Context, event pglog.Event) (object, error) {
	key := event.Object
	key.Block = nil
	named := len(event.Mentioned) == 0
	if found, ok := r.found[key]; ok && named && (key.Path != "" || found.database == event.Database) {
		return found, nil
	}
	found, err := r.ask(ctx, event)
	if err == nil && named {
		r.found[key] = found
	}
	return found, err
}

// ask finds the relation of an event by the number of its file, or by its name
// when that is unambiguous.
func (r *resolver) ask(ctx context.Context, event pglog.Event) (object, error) {
	found := object{database: event.Database}
	if event.Object.Path == "" && event.Object.Name == "" && event.Object.OID == 0 && len(event.Mentioned) == 0 {
		return found, nil
	}
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	if event.Object.Database != 0 {
		name, err := r.databaseName(ctx, event.Object.Database)
		if err != nil {
			return found, err
		}
		found.database = name
	}
	conn, err := r.connect(ctx, found.database)
	if err != nil {
		return found, err
	}
	rows, err := conn.Query(ctx, relationSQL, event.Object.Tablespace, event.Object.Filenode, event.Object.Name, event.Object.OID, event.Object.Schema)
	if err != nil {
		return found, fmt.Errorf("looking for the relation: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Schema, Name, TableSchema, TableName string }])
	if err != nil {
		return found, fmt.Errorf("looking for the relation: %w", err)
	}
	if len(names) == 0 && len(event.Mentioned) > 0 {
		found.mentioned, err = r.tables(ctx, conn, event.Mentioned)
		return found, err
	}
	if len(names) == 1 {
		found.relation = check.RelationName{Schema: names[0].Schema, Name: names[0].Name}
		found.table = check.RelationName{Schema: names[0].TableSchema, Name: names[0].TableName}
	}
	return found, nil
}

// relationSQL finds a relation by file, number or name, and the table that an index
// or a TOAST table belongs to. ACCESS SHARE on the catalogues; no privilege.
const relationSQL = `SELECT n.nspname::text, c.relname::text, tn.nspname::text, t.relname::text
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_index i ON i.indexrelid = c.oid
	LEFT JOIN pg_class toast ON toast.reltoastrelid = coalesce(i.indrelid, c.oid)
	JOIN pg_class t ON t.oid = coalesce(toast.oid, i.indrelid, c.oid)
	JOIN pg_namespace tn ON tn.oid = t.relnamespace
	WHERE CASE WHEN $2::oid <> 0 THEN c.oid = pg_filenode_relation($1::oid, $2::oid)
		WHEN $4::oid <> 0 THEN c.oid = $4::oid
		ELSE c.relname = $3 AND c.relkind IN ('r', 'i', 'm', 't', 'S') AND $5::text IN ('', n.nspname::text) END
	LIMIT 2`

// tablesSQL finds which of some names are tables or indexes, and gives the tables;
// of a partitioned one those that hold the rows. ACCESS SHARE on the catalogues; no
// privilege.
const tablesSQL = `SELECT DISTINCT n.nspname::text, t.relname::text
	FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
	CROSS JOIN LATERAL (SELECT coalesce(i.indrelid, c.oid) WHERE c.relkind <> 'p'
		UNION ALL SELECT p.relid FROM pg_partition_tree(c.oid) p WHERE c.relkind = 'p' AND p.isleaf) AS leaf(oid)
	JOIN pg_class t ON t.oid = leaf.oid
	JOIN pg_namespace n ON n.oid = t.relnamespace
	WHERE c.relname = ANY ($1) AND c.relkind IN ('r', 'i', 'm', 'p') AND t.relkind IN ('r', 'm', 't')
	AND n.nspname NOT IN ('pg_catalog', 'information_schema')
	LIMIT $2`

// maxTables bounds the tables of one statement that become suspects.
const maxTables = 10

func (r *resolver) tables(ctx context.Context, conn *pg.Conn, names []string) ([]check.RelationName, error) {
	rows, err := conn.Query(ctx, tablesSQL, names, maxTables)
	if err != nil {
		return nil, fmt.Errorf("looking for the tables of a statement: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[check.RelationName])
	if err != nil {
		return nil, fmt.Errorf("looking for the tables of a statement: %w", err)
	}
	return tables, nil
}

// databaseName finds the database of a file.
func (r *resolver) databaseName(ctx context.Context, oid uint32) (string, error) {
	conn, err := r.connect(ctx, r.database)
	if err != nil {
		return "", err
	}
	var name string
	if err := conn.QueryRow(ctx, "SELECT datname::text FROM pg_database WHERE oid = $1", oid).Scan(&name); err != nil {
		return "", fmt.Errorf("looking for the database: %w", err)
	}
	return name, nil
}

// connect gives the session for a database; "" is the target's own.
func (r *resolver) connect(ctx context.Context, database string) (*pg.Conn, error) {
	if r.conn != nil && r.database == database && !r.conn.IsClosed() {
		return r.conn, nil
	}
	if err := r.failed[database]; err != nil {
		return nil, err
	}
	r.close()
	conn, err := r.target.Connect(ctx, database, purpose())
	if err != nil {
		r.failed[database] = err
		return nil, err
	}
	r.conn, r.database = conn, database
	return conn, nil
}
