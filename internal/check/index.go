package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// indexCheck asks the same question of an index and of its table under one
// snapshot, for indexes of every access method, and compares the answers. What
// amcheck proves for B-trees only in one direction, and for most other methods
// not at all, shows in the answers: rows that an index does not find, entries for
// rows that the table no longer has, rows given twice, and wrong ones.
func indexCheck() Check {
	return Check{
		Name:     "index",
		Question: "Does every index of every access method answer what its table holds?",
		Kinds:    []Kind{{ClassCorruption, SeverityCritical}, {ClassCorruption, SeverityWarning}},
		Interval: 24 * time.Hour,
		Needs:    "SELECT on the tables; EXECUTE on verify_heapam (14+) to compare values and not only numbers of rows; EXECUTE on gin_index_check (18+)",
		Locks:    "ACCESS SHARE on one table and its indexes at a time, while its answers are compared",
		run:      runIndex,
	}
}

const (
	// wholePages is the size of a table or index (128 MB) up to which every entry
	// is looked at without --deep.
	wholePages = 16384
	// wholeRows is how many rows of a table are looked up by the equality of their
	// key without --deep, and wholeLookups how many by another operator, which takes
	// longer; of a larger table it is a sample.
	wholeRows    = 50_000
	wholeLookups = 5000
	// wholeParts is how many elements or lexemes of a table are looked up in a GIN
	// index without --deep; of more it is a sample of the keys.
	wholeParts = 300_000
	// sampleRows is how many rows of a larger table are looked up.
	sampleRows = 2000
	// questionRows bounds the rows that are compared with sample values.
	questionRows = 2_000_000
	// compareTimeout bounds one statement without --deep.
	compareTimeout = 60 * time.Second
)

// compared is an index that is compared with its table.
type compared struct {
	OID    uint32
	Name   RelationName
	Method string
	Pages  int32
	// Predicate is that of a partial index.
	Predicate string
	// Range is pages_per_range of a BRIN index.
	Range int
	// Tuples says that the access method can give rows one by one, not only as a
	// bitmap.
	Tuples bool
	// Trusted says that expressions and predicate call no function of a role that
	// is not a superuser: they would run with the rights of this session.
	Trusted bool
	Columns []indexColumn
	Table   comparedTable
}

// comparedTable is the table of compared indexes.
type comparedTable struct {
	table

	Kind     string
	Readable bool
}

// indexColumn is a column of an index.
type indexColumn struct {
	Expression string
	// Plain says that it is a column of the table and no expression.
	Plain bool
	// Key says that it is no INCLUDE column.
	Key       bool
	Collation string
	// Order, AtLeast and AtMost are the order of a B-tree and its operators >= and
	// <=.
	Order     string
	AtLeast   string
	AtMost    string
	Operators []operator
	// Geometric says that values may hold NaN, for which a tree of boxes and the operators
	// themselves have different answers.
	Geometric bool
	// Parts says what a GIN index has a key for each of: array (its elements) or
	// tsvector (its lexemes); "" is something else.
	Parts string
}

// operator is one that the index can answer.
type operator struct {
	Name string
	SQL  string
	// Right is the type of the right operand when it is not that of the column.
	Right string
	// Equality says that it is the equality that GROUP BY uses.
	Equality bool
}

// comparedSQL lists the indexes that are in use. Operators are those of the
// operator class that a row's own value can be asked with. ACCESS SHARE on
// catalogues only.
const comparedSQL = `SELECT c.oid, n.nspname::text, c.relname::text, am.amname::text, greatest(c.relpages, 0),
	coalesce(pg_get_expr(i.indpred, i.indrelid), ''),
	coalesce((SELECT option_value::int FROM pg_options_to_table(c.reloptions) WHERE option_name = 'pages_per_range'), 128),
	pg_index_has_property(c.oid, 'index_scan'),
	NOT EXISTS (SELECT FROM pg_depend d LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
		JOIN pg_proc p ON p.oid = CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode::oid END
		JOIN pg_roles r ON r.oid = p.proowner
		WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND NOT r.rolsuper),
	t.oid, tn.nspname::text, t.relname::text, greatest(t.relpages, 0), t.relkind::text, has_schema_privilege(tn.oid, 'USAGE') AND has_table_privilege(t.oid, 'SELECT'),
	(SELECT json_agg(json_build_object(
		'Expression', CASE WHEN k.attnum = 0 THEN '(' || pg_get_indexdef(c.oid, k.n::int, false) || ')' ELSE pg_get_indexdef(c.oid, k.n::int, false) END,
		'Plain', k.attnum <> 0,
		'Key', k.n <= i.indnkeyatts,
		'Order', (SELECT ' USING OPERATOR(' || quote_ident(bn.nspname) || '.' || b.oprname || ') NULLS ' ||
				CASE WHEN pg_index_column_has_property(c.oid, k.n::int, 'nulls_first') THEN 'FIRST' ELSE 'LAST' END
			FROM pg_amop ba JOIN pg_operator b ON b.oid = ba.amopopr JOIN pg_namespace bn ON bn.oid = b.oprnamespace
			WHERE am.amname = 'btree' AND ba.amopfamily = oc.opcfamily AND ba.amoplefttype = oc.opcintype AND ba.amoprighttype = oc.opcintype
			AND ba.amopstrategy = CASE WHEN pg_index_column_has_property(c.oid, k.n::int, 'desc') THEN 5 ELSE 1 END),
		'AtLeast', (SELECT 'OPERATOR(' || quote_ident(bn.nspname) || '.' || b.oprname || ')'
			FROM pg_amop ba JOIN pg_operator b ON b.oid = ba.amopopr JOIN pg_namespace bn ON bn.oid = b.oprnamespace
			WHERE am.amname = 'btree' AND ba.amopfamily = oc.opcfamily AND ba.amoplefttype = oc.opcintype AND ba.amoprighttype = oc.opcintype AND ba.amopstrategy = 4),
		'AtMost', (SELECT 'OPERATOR(' || quote_ident(bn.nspname) || '.' || b.oprname || ')'
			FROM pg_amop ba JOIN pg_operator b ON b.oid = ba.amopopr JOIN pg_namespace bn ON bn.oid = b.oprnamespace
			WHERE am.amname = 'btree' AND ba.amopfamily = oc.opcfamily AND ba.amoplefttype = oc.opcintype AND ba.amoprighttype = oc.opcintype AND ba.amopstrategy = 2),
		'Geometric', coalesce((SELECT ty.typcategory = 'G' OR ty.typname IN ('cube', 'seg') FROM pg_type ty WHERE ty.oid = oc.opcintype), false),
		'Parts', CASE WHEN am.amname <> 'gin' THEN '' WHEN oc.opcintype = 'tsvector'::regtype THEN 'tsvector'
			WHEN oc.opcintype = 'anyarray'::regtype OR EXISTS (SELECT FROM pg_type e WHERE e.typarray = oc.opcintype) THEN 'array' ELSE '' END,
		'Collation', coalesce((SELECT ' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
			FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = i.indcollation[k.n - 1]), ''),
		'Operators', (SELECT json_agg(json_build_object(
				'Name', o.oprname, 'SQL', 'OPERATOR(' || quote_ident(opn.nspname) || '.' || o.oprname || ')',
				'Right', CASE WHEN ao.amoprighttype = ao.amoplefttype THEN '' ELSE format_type(ao.amoprighttype, NULL) END,
				'Equality', EXISTS (SELECT FROM pg_opclass d JOIN pg_am dam ON dam.oid = d.opcmethod
					JOIN pg_amop da ON da.amopfamily = d.opcfamily AND da.amopopr = o.oid
					WHERE d.opcdefault AND d.opcintype = oc.opcintype AND (dam.amname, da.amopstrategy) IN (('btree', 3), ('hash', 1)))) ORDER BY ao.amopstrategy)
			FROM pg_amop ao JOIN pg_operator o ON o.oid = ao.amopopr JOIN pg_namespace opn ON opn.oid = o.oprnamespace
			WHERE ao.amopfamily = oc.opcfamily AND ao.amoppurpose = 's' AND ao.amoplefttype = oc.opcintype
			AND (ao.amoprighttype = ao.amoplefttype OR ao.amoprighttype = 'tsquery'::regtype)
			AND o.oprname IN ('=', '~=', '@>', '&&', '<@', '@@', '~~'))
		) ORDER BY k.n)
	 FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n) LEFT JOIN pg_opclass oc ON oc.oid = i.indclass[k.n - 1])
	FROM pg_index i
	JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
	JOIN pg_am am ON am.oid = c.relam
	WHERE c.relkind = 'i' AND i.indislive AND i.indisvalid AND i.indisready
	AND c.relpersistence <> 't' AND (c.relpersistence = 'p' OR NOT pg_is_in_recovery())
	AND ($1::text[] IS NULL OR EXISTS (
		SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		WHERE (wanted.schemaname, wanted.relname) IN ((n.nspname, c.relname), (tn.nspname, t.relname))
		OR t.oid IN (SELECT w.reltoastrelid FROM pg_class w JOIN pg_namespace wn ON wn.oid = w.relnamespace
			WHERE wn.nspname = wanted.schemaname AND w.relname = wanted.relname)))
	ORDER BY tn.nspname, t.relname, c.relname`

// comparedIndexes lists the indexes by table.
func (s *session) comparedIndexes(ctx context.Context) ([][]compared, error) {
	schemas, names := s.wanted()
	rows, err := s.conn.Query(ctx, comparedSQL, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("listing indexes: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (i compared, err error) {
		err = row.Scan(&i.OID, &i.Name.Schema, &i.Name.Name, &i.Method, &i.Pages, &i.Predicate, &i.Range, &i.Tuples, &i.Trusted,
			&i.Table.OID, &i.Table.Name.Schema, &i.Table.Name.Name, &i.Table.Pages, &i.Table.Kind, &i.Table.Readable, &i.Columns)
		return i, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing indexes: %w", err)
	}
	var tables [][]compared
	for n, i := range all {
		if n == 0 || all[n-1].Table.OID != i.Table.OID {
			tables = append(tables, nil)
		}
		tables[len(tables)-1] = append(tables[len(tables)-1], i)
		s.result.TotalBytes += int64(i.Pages) * int64(s.conn.Facts.BlockSize)
	}
	return tables, nil
}

func runIndex(ctx context.Context, s *session) error {
	tables, err := s.comparedIndexes(ctx)
	if err != nil {
		return err
	}
	readable := tables[:0]
	var unreadable []string
	for _, indexes := range tables {
		switch t := indexes[0].Table; {
		case t.Readable:
			readable = append(readable, indexes)
		case t.Name.Schema != "pg_catalog" && t.Name.Schema != "pg_toast":
			unreadable = append(unreadable, t.Name.String())
		}
	}
	s.notReadable(unreadable)
	verify, err := s.tupleVerifier(ctx)
	if err != nil {
		return err
	}
	gin, err := s.ginCheck(ctx)
	if err != nil {
		return err
	}
	if s.scope.Heaps == nil {
		s.scope.Heaps = NewHeaps()
	}
	if err := s.lookAtPages(ctx, readable, gin); err != nil {
		return err
	}
	return s.spread(ctx, len(readable), func(s *session, n int) error { return s.compareTable(ctx, readable[n], verify, gin) },
		func(n int) string { return readable[n][0].Table.Name.String() }, func(n int) int32 { return readable[n][0].Table.Pages }, "")
}

// few names the first few of many.
func few(names []string) string {
	const shown = 3
	text := strings.Join(names[:min(shown, len(names))], ", ")
	if more := len(names) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// tupleVerifier is verify_heapam, or nothing where it is missing or may not be
// called.
func (s *session) tupleVerifier(ctx context.Context) (function, error) {
	return s.optional(ctx, "verify_heapam", 140000)
}

// ginCheck is gin_index_check, or nothing.
func (s *session) ginCheck(ctx context.Context) (function, error) {
	return s.optional(ctx, "gin_index_check", 180000)
}

// optional is a function of amcheck without which the check does less.
func (s *session) optional(ctx context.Context, name string, since int) (function, error) {
	if s.conn.Facts.VersionNum < since {
		return function{}, nil
	}
	skipped := s.skipped
	f, _, err := s.amcheck(ctx, name)
	s.skipped = skipped
	return f, err
}

// difference is what an index and its table do not agree about.
type difference struct {
	kind     string // missing, extra, wrong or an SQLSTATE
	message  string
	sqlstate string
	block    *uint32
	// rows and entries are the numbers of rows by either way; both are -1 when only
	// single rows were asked for.
	rows, entries int64
}

// compareTable compares the indexes of one table, and those that differ once
// more: what concurrent writes could explain does not stay.
func (s *session) compareTable(ctx context.Context, indexes []compared, verify, gin function) error {
	t := indexes[0].Table
	values, err := s.sane(ctx, t.table, verify)
	if err != nil {
		return err
	}
	if s.scope.Heaps.damaged(t.OID) {
		return errors.New("its indexes are not compared with the table, which is damaged")
	}
	indexes, err = s.present(ctx, indexes, gin)
	if err != nil || len(indexes) == 0 {
		return err
	}
	c := comparison{session: s, gin: gin, values: values, seed: time.Now().UnixNano() % 1000}
	started := time.Now()
	first, err := c.all(ctx, indexes)
	if err != nil {
		return err
	}
	c.throttle(ctx, started, c.bytes)
	var suspects []compared
	for _, i := range indexes {
		if len(first[i.OID]) > 0 || len(first[t.OID]) > 0 {
			suspects = append(suspects, i)
		}
	}
	if len(suspects) > 0 {
		pauseToConfirm(ctx)
		if suspects, err = s.present(ctx, suspects, gin); err != nil {
			return err
		}
		second, err := c.all(ctx, suspects)
		if err != nil {
			return err
		}
		for oid := range first {
			first[oid] = inBoth(first[oid], second[oid])
		}
		s.tellDifferences(t, indexes, first)
	}
	for _, i := range indexes {
		if !c.failed[i.OID] {
			s.looked(i.Name)
		}
	}
	return nil
}

// present are those of the indexes that still exist, that no check of this sweep
// has found damaged, and that can be gone through without danger. They may be
// dropped or rebuilt later, too; a statement that meets that is refused by the
// server or planned without them.
func (s *session) present(ctx context.Context, indexes []compared, gin function) ([]compared, error) {
	var left []compared
	for _, i := range indexes {
		if s.scope.Heaps.damaged(i.OID) {
			s.problem(i.Name.String(), errors.New("not compared with its table: the index is damaged, as another check has reported"))
			continue
		}
		if s.dangerous(i, gin) {
			continue
		}
		left = append(left, i)
	}
	oids := make([]uint32, len(left))
	for n, i := range left {
		oids[n] = i.OID
	}
	rows, err := s.conn.Query(ctx, "SELECT indexrelid FROM pg_index WHERE indexrelid = ANY($1::oid[]) AND indisvalid AND indislive", oids)
	if err != nil {
		return nil, err
	}
	existing, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return nil, err
	}
	is := make(map[uint32]bool)
	for _, oid := range existing {
		is[oid] = true
	}
	still := left[:0]
	for _, i := range left {
		if is[i.OID] {
			still = append(still, i)
		}
	}
	return still, nil
}

// inBoth keeps the differences whose kind both looks saw.
func inBoth(first, second []difference) []difference {
	var both []difference
	for _, d := range first {
		for _, again := range second {
			if again.kind == d.kind {
				both = append(both, again)
				break
			}
		}
	}
	return both
}

// tellDifferences reports what was seen twice. When every index that counts all
// rows has the same number more than the table, the table lost them.
func (s *session) tellDifferences(t comparedTable, indexes []compared, differences map[uint32][]difference) {
	lost, agree := s.lostRows(indexes, differences)
	if agree > 0 {
		s.found(Finding{
			Class: ClassCorruption, Severity: SeverityCritical, Schema: t.Name.Schema, Relation: t.Name.Name,
			Message: lost + ": the table has lost rows, or its visibility map calls deleted rows visible",
			Impact:  "Rows that the indexes still know are gone from the table: statements that answer from an index alone count them, others do not see them.",
			Action:  heapAction,
		}, "lost rows")
	}
	for _, d := range differences[t.OID] {
		s.foundInHeap(t.table, d.block, d.sqlstate, d.message+": an index of the table leads there", d.sqlstate)
	}
	for _, i := range indexes {
		for _, d := range differences[i.OID] {
			if d.kind == "extra" && agree > 0 && i.Predicate == "" {
				continue
			}
			s.scope.Heaps.note(i.OID, false)
			s.found(Finding{
				Class: ClassCorruption, Severity: SeverityCritical, Schema: i.Name.Schema, Relation: i.Name.Name, SQLState: d.sqlstate, Block: d.block,
				Message: fmt.Sprintf("%s (%s index of %s)", d.message, i.Method, t.Name),
				Impact:  fmt.Sprintf("Statements that use this index of %s miss rows, return wrong ones or fail, and a unique or exclusion constraint on it can let duplicates in; the table itself may be intact.", t.Name),
				Action:  fmt.Sprintf("Check the table %s for damage first (check --relation=%s). If it is sane, keep a copy of the index's file and rebuild it with REINDEX INDEX CONCURRENTLY; look for duplicates before that if the index is unique.", t.Name, t.Name),
			}, d.kind)
		}
	}
}

// lostRows says how many indexes witness that the table has fewer rows than all
// of them know, and in words what they say. One that agrees with the table is a
// witness against it.
func (s *session) lostRows(indexes []compared, differences map[uint32][]difference) (text string, agree int) {
	more := int64(0)
	for _, i := range indexes {
		if i.Predicate != "" || !i.Tuples || i.Method == "hash" {
			continue
		}
		found := false
		for _, d := range differences[i.OID] {
			if d.kind != "extra" || d.entries < 0 || more != 0 && d.entries-d.rows != more {
				continue
			}
			found, more = true, d.entries-d.rows
			agree++
			text = fmt.Sprintf("the index %s has entries for %d rows, a sequential scan gives %d", i.Name, d.entries, d.rows)
			break
		}
		if !found {
			return "", 0
		}
	}
	if agree > 1 {
		text += fmt.Sprintf("; %d indexes agree", agree)
	}
	return text, agree
}
