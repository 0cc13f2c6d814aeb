package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

// btreeCheck runs bt_index_check on every B-tree index: its order and links,
// and, where the table is known to be sane, that every row of the table is in
// it (heapallindexed) and that unique keys are unique (checkunique, 17+).
func btreeCheck() Check {
	return Check{
		Name:     "btree",
		Question: "Is every B-tree index in order, and does it hold every row of its table?",
		Kinds:    []Kind{{ClassCorruption, SeverityCritical}, {ClassCorruption, SeverityWarning}},
		Interval: 24 * time.Hour,
		Needs:    "extension amcheck and EXECUTE on bt_index_check; EXECUTE on verify_heapam (14+) for heapallindexed",
		Locks:    "ACCESS SHARE on one index and its table at a time",
		Reads:    true,
		run:      runBtree,
	}
}

// index is a B-tree index and its table.
type index struct {
	OID   uint32
	Name  RelationName
	Pages int32
	Valid bool
	Table table
}

// indexesSQL lists the B-tree indexes. It takes ACCESS SHARE on catalogues only.
// An index that is being built or rebuilt concurrently is not valid yet, and is
// listed by pg_stat_progress_create_index.
const indexesSQL = `SELECT c.oid, n.nspname::text, c.relname::text, greatest(c.relpages, 0), i.indisvalid AND i.indisready,
	t.oid, tn.nspname::text, t.relname::text, greatest(t.relpages, 0)
	FROM pg_index i
	JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
	JOIN pg_am am ON am.oid = c.relam
	WHERE am.amname = 'btree' AND c.relkind = 'i' AND i.indislive
	AND c.relpersistence <> 't' AND (c.relpersistence = 'p' OR NOT pg_is_in_recovery())
	AND (i.indisvalid AND i.indisready OR NOT EXISTS (
		SELECT FROM pg_stat_progress_create_index p WHERE p.datname = current_database() AND p.relid = i.indrelid))
	AND ($1::text[] IS NULL OR EXISTS (
		SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		WHERE (wanted.schemaname, wanted.relname) IN ((n.nspname, c.relname), (tn.nspname, t.relname))
		OR t.oid IN (SELECT w.reltoastrelid FROM pg_class w JOIN pg_namespace wn ON wn.oid = w.relnamespace
			WHERE wn.nspname = wanted.schemaname AND w.relname = wanted.relname)))
	ORDER BY n.nspname, c.relname`

func (s *session) indexes(ctx context.Context) ([]index, error) {
	schemas, names := s.wanted()
	rows, err := s.conn.Query(ctx, indexesSQL, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("listing indexes: %w", err)
	}
	indexes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (i index, err error) {
		err = row.Scan(&i.OID, &i.Name.Schema, &i.Name.Name, &i.Pages, &i.Valid,
			&i.Table.OID, &i.Table.Name.Schema, &i.Table.Name.Name, &i.Table.Pages)
		return i, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing indexes: %w", err)
	}
	return indexes, nil
}

func runBtree(ctx context.Context, s *session) error {
	check, ok, err := s.amcheck(ctx, "bt_index_check")
	if err != nil || !ok {
		return err
	}
	var verify function
	if s.conn.Facts.VersionNum >= 140000 {
		if verify, _, err = s.amcheck(ctx, "verify_heapam"); err != nil {
			return err
		}
		s.skipped = "" // without it the light check is done
	}
	if s.scope.Heaps == nil {
		s.scope.Heaps = NewHeaps()
	}
	indexes, err := s.indexes(ctx)
	if err != nil {
		return err
	}
	parent, err := s.parentCheck(ctx)
	if err != nil {
		return err
	}
	for _, i := range indexes {
		s.result.TotalBytes += int64(i.Pages) * int64(s.conn.Facts.BlockSize)
	}
	return s.spread(ctx, len(indexes), func(s *session, n int) error {
		if !indexes[n].Valid {
			return nil // the check leftover tells of it
		}
		return s.btree(ctx, indexes[n], check, parent, verify)
	}, func(n int) string { return indexes[n].Name.String() }, func(n int) int32 { return indexes[n].Pages }, "")
}

// parentCheck is bt_index_parent_check, where everything is asked for and it can
// run: it takes a ShareLock, which a standby does not give.
func (s *session) parentCheck(ctx context.Context) (function, error) {
	if !s.scope.Deep || s.conn.Facts.InRecovery {
		return function{}, nil
	}
	f, err := s.optional(ctx, "bt_index_parent_check", pg.OldestVersion)
	if err == nil && f.Name == "" {
		s.problem("", errors.New("the links between the levels of B-trees were not checked: the role may not call bt_index_parent_check of the extension amcheck"))
	}
	return f, err
}

// parentTimeout bounds how long bt_index_parent_check keeps writers from a table.
const parentTimeout = 5 * time.Minute

// parents calls bt_index_parent_check with everything it can do. SHARE on the
// index and its table: writers wait as long as it takes; it waits for them no
// longer than the session's lock_timeout.
func (s *session) parents(ctx context.Context, i index, f function, allIndexed bool) error {
	call := "SELECT " + f.call() + "($1::oid::regclass, $2, true)"
	if f.Arguments == 4 {
		call = "SELECT " + f.call() + "($1::oid::regclass, $2, true, $2)"
	}
	if err := s.limit(ctx, parentTimeout); err != nil {
		return err
	}
	_, err := s.conn.Exec(ctx, call, i.OID, allIndexed)
	return errors.Join(err, s.limit(ctx, statementTimeout))
}

// btree looks at one index.
func (s *session) btree(ctx context.Context, i index, f, parent, verify function) error {
	if s.scope.Heaps.damaged(i.OID) {
		return errors.New("not looked at further: the index is damaged, as another check has reported, and reading it could crash the server")
	}
	allIndexed, err := s.sane(ctx, i.Table, verify)
	if err != nil {
		return err
	}
	started := time.Now()
	look, first, missed := s.lookAtIndex(ctx, i, f, parent, allIndexed)
	if first != nil {
		if err := s.confirmIndex(ctx, i, look, first); err != nil {
			return err
		}
	}
	if missed != nil {
		return missed
	}
	pages := int64(i.Pages)
	if allIndexed {
		pages += int64(i.Table.Pages)
	}
	if first == nil && parent.Name != "" && allIndexed {
		s.scope.Heaps.noteComplete(i.OID)
	}
	s.throttle(ctx, started, pages*int64(s.conn.Facts.BlockSize))
	s.looked(i.Name)
	return nil
}

// lookAtIndex calls bt_index_parent_check, which does all that bt_index_check does
// and more. Without it, or when it is kept from its lock or takes too long, it
// calls bt_index_check, and says what was missed.
func (s *session) lookAtIndex(ctx context.Context, i index, f, parent function, allIndexed bool) (look func() error, first, missed error) {
	if parent.Name != "" {
		look = func() error { return s.parents(ctx, i, parent, allIndexed) }
		first = look()
		if state := sqlstate(first); state != "55P03" && state != "57014" {
			return look, first, nil
		}
		missed = first
	}
	look = func() error { return s.indexCheck(ctx, i, f, allIndexed) }
	return look, look(), missed
}

// indexCheck calls bt_index_check. ACCESS SHARE on the index and its table;
// EXECUTE on the function, no right on the table. What the function reads of
// the table it reads without a snapshot of its own, so the oldest transaction is
// held back for the time of the call.
func (s *session) indexCheck(ctx context.Context, i index, f function, allIndexed bool) error {
	sql := "SELECT " + f.call() + "($1::oid::regclass, $2)"
	arguments := []any{i.OID, allIndexed}
	switch f.Arguments {
	case 1:
		sql, arguments = "SELECT "+f.call()+"($1::oid::regclass)", arguments[:1]
	case 3:
		sql = "SELECT " + f.call() + "($1::oid::regclass, $2, $2)"
	}
	_, err := s.conn.Exec(ctx, sql, arguments...)
	return err
}

// sane says whether the columns of a table may be read: a table whose tuples
// are damaged can crash whoever reads them. It looks at the table when nobody
// has in this sweep. One of which a small piece takes longer than verifyLimit is
// not proved sane. On 13, which has no verify_heapam, nothing is known.
func (s *session) sane(ctx context.Context, t table, verify function) (bool, error) {
	if sane, known := s.scope.Heaps.lookup(t.OID); known {
		return sane, nil
	}
	sane, known, err := s.indexOfTOASTSane(ctx, t.OID)
	switch {
	case err != nil:
		return false, err
	case known && !sane:
		s.scope.Heaps.note(t.OID, false)
		return false, nil
	case !known || verify.Name == "":
		return false, nil
	}
	if err := s.limit(ctx, verifyLimit); err != nil {
		return false, err
	}
	sane, err = s.prove(ctx, t, &verification{function: verify})
	if err == nil {
		s.scope.Heaps.note(t.OID, sane)
	}
	return sane, errors.Join(err, s.limit(ctx, statementTimeout))
}

// prove looks at the tuples of a table until the first that is damaged, also at a
// second look.
func (s *session) prove(ctx context.Context, t table, verify *verification) (sane bool, err error) {
	blocks, err := s.blocks(ctx, t)
	if err != nil {
		return false, err
	}
	again := false
	for start := uint32(0); start < blocks; {
		started := time.Now()
		end := min(start+pieceBlocks, blocks) - 1
		tuples, err := s.verify(ctx, t, verify, &start, &end)
		slow := sqlstate(err) == "57014" && ctx.Err() == nil
		switch {
		case sqlstate(err) == "22023":
			return true, nil // the table became shorter
		case err != nil && !slow && judge(err) == inconclusive:
			return false, err
		case slow || again && (err != nil || len(tuples) > 0):
			return false, nil //nolint:nilerr // an error that is evidence of damage answers the question
		case err != nil || len(tuples) > 0:
			again = true
			pauseToConfirm(ctx)
			continue
		}
		s.throttle(ctx, started, 0)
		start, again = start+pieceBlocks, false
	}
	return true, nil
}

// confirmIndex reports an error of bt_index_check that comes a second time. An
// error about the table's file is the table's damage and not the index's.
func (s *session) confirmIndex(ctx context.Context, i index, look func() error, first error) error {
	if gone(first) || judge(first) == inconclusive {
		return first
	}
	pauseToConfirm(ctx)
	second := look()
	if second == nil || gone(second) {
		return second
	}
	if judge(second) == inconclusive || sqlstate(second) != sqlstate(first) {
		return second
	}
	ofTable, _, err := s.namesFile(ctx, i.Table.OID, second)
	if err != nil {
		return err
	}
	if ofTable || strings.HasPrefix(text(second), "failed to find parent tuple for heap-only tuple") {
		if !s.scope.Heaps.damaged(i.Table.OID) {
			s.foundInHeap(i.Table, blockIn(text(second)), sqlstate(second), text(second), sqlstate(second))
		}
		return errors.New("not compared with its table, which is damaged")
	}
	s.scope.Heaps.note(i.OID, false)
	s.found(Finding{
		Class: ClassCorruption, Severity: SeverityCritical, Schema: i.Name.Schema, Relation: i.Name.Name,
		Block: blockIn(text(second)), SQLState: sqlstate(second), Message: text(second),
		Impact: fmt.Sprintf("Statements that use this index of %s can miss rows, return wrong ones or fail, and a unique index can let duplicates in; the table itself may be intact.", i.Table.Name),
		Action: fmt.Sprintf("Check the table %s for damage first (check --relation=%s). If it is sane, keep a copy of the index's file and rebuild it with REINDEX INDEX CONCURRENTLY; look for duplicates before that if the index is unique.", i.Table.Name, i.Table.Name),
	}, kindOf(text(second)))
	return nil
}

// namesFile says whether an error is about a file of a relation or its TOAST
// table, and whether it names a file at all.
func (s *session) namesFile(ctx context.Context, oid uint32, err error) (own, any bool, failed error) {
	path := dataFile.FindString(text(err))
	if path == "" {
		return false, false, nil
	}
	query := "SELECT coalesce($2 IN (pg_relation_filepath(oid), pg_relation_filepath(nullif(reltoastrelid, 0))), false) FROM pg_class WHERE oid = $1"
	if err := s.conn.QueryRow(ctx, query, oid, path).Scan(&own); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return false, true, err
	}
	return own, true, nil
}

// namesOtherFile says whether an error is about the file of another relation.
func (s *session) namesOtherFile(ctx context.Context, oid uint32, err error) (bool, error) {
	own, any, failed := s.namesFile(ctx, oid, err)
	return any && !own, failed
}
