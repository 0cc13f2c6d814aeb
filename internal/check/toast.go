package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// toastCheck reads every value, those in TOAST tables too, and lets the server
// write it down: what cannot be put together, decompressed or understood raises an
// error then. It reads only tables whose tuples were found sane, because a damaged
// length kills the process that reads the value.
func toastCheck() Check {
	return Check{
		Name:     "toast",
		Question: "Can every value be read, and is it one of its type?",
		Kinds:    []Kind{{ClassCorruption, SeverityCritical}, {ClassCorruption, SeverityWarning}},
		Interval: 7 * 24 * time.Hour,
		Needs:    "SELECT on the tables; EXECUTE on verify_heapam (14+), or the check page in the same run, which prove a table sane",
		Locks:    "ACCESS SHARE on one table and its TOAST table at a time",
		run:      runToast,
	}
}

// readPagesWhole is how many pages of a table and its TOAST table (16 MB) are
// read without --deep: all of a smaller table, a sample of a larger one.
const readPagesWhole = 2048

// valued is a table whose values are read.
type valued struct {
	table

	Readable bool
	// TOAST is its TOAST table; OID 0 is none.
	TOAST      table
	TOASTReads bool
	// Dropped says that it has dropped columns, whose values may still be there.
	Dropped bool
	Columns []valueColumn
}

// valueColumn is a column that has values which may be no value of its type.
type valueColumn struct {
	Name string
	// Type is the type's name in pg_type, below a domain.
	Type string
	// Long says that values may be kept in the TOAST table.
	Long bool
	// Enum says that values are read through pg_enum.
	Enum bool
}

// valuedSQL lists tables and materialised views with those of their columns that
// not every pattern of bytes is a value of. ACCESS SHARE on catalogues only.
const valuedSQL = `SELECT c.oid, n.nspname::text, c.relname::text, greatest(c.relpages, 0),
	has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
	coalesce(t.oid, 0), coalesce(tn.nspname::text, ''), coalesce(t.relname::text, ''), coalesce(greatest(t.relpages, 0), 0),
	t.oid IS NOT NULL AND has_schema_privilege(tn.oid, 'USAGE') AND has_table_privilege(t.oid, 'SELECT'),
	EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attisdropped AND a.attlen = -1),
	coalesce((SELECT json_agg(json_build_object('Name', a.attname, 'Type', coalesce(base.typname, y.typname), 'Long', a.attlen = -1, 'Enum', coalesce(base.typtype, y.typtype) = 'e') ORDER BY a.attnum)
		FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid LEFT JOIN pg_type base ON y.typtype = 'd' AND base.oid = y.typbasetype
		WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		AND coalesce(base.typname, y.typname) NOT IN ('int2', 'int4', 'int8', 'float4', 'float8', 'bool', 'oid', 'xid', 'xid8', 'cid', 'tid', 'uuid', 'char',
			'money', 'interval', 'pg_lsn', 'macaddr', 'macaddr8', 'point', 'box', 'line', 'lseg', 'circle', 'int2vector', 'oidvector')), '[]')
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am am ON am.oid = c.relam
	LEFT JOIN pg_class t ON t.oid = nullif(c.reltoastrelid, 0) LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
	WHERE c.relkind IN ('r', 'm') AND am.amname = 'heap'
	AND c.relpersistence <> 't' AND (c.relpersistence = 'p' OR NOT pg_is_in_recovery())
	AND ($1::text[] IS NULL OR EXISTS (
		SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		JOIN pg_namespace wn ON wn.nspname = wanted.schemaname
		JOIN pg_class w ON w.relnamespace = wn.oid AND w.relname = wanted.relname
		LEFT JOIN pg_index i ON i.indexrelid = w.oid
		WHERE c.oid IN (w.oid, i.indrelid) OR t.oid IN (w.oid, i.indrelid)))
	ORDER BY n.nspname, c.relname`

func runToast(ctx context.Context, s *session) error {
	verify, err := s.tupleVerifier(ctx)
	if err != nil {
		return err
	}
	if s.scope.Heaps == nil {
		s.scope.Heaps = NewHeaps()
	}
	schemas, names := s.wanted()
	rows, err := s.conn.Query(ctx, valuedSQL, schemas, names)
	if err != nil {
		return fmt.Errorf("listing tables: %w", err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t valued, err error) {
		err = row.Scan(&t.OID, &t.Name.Schema, &t.Name.Name, &t.Pages, &t.Readable, &t.TOAST.OID, &t.TOAST.Name.Schema, &t.TOAST.Name.Name, &t.TOAST.Pages, &t.TOASTReads, &t.Dropped, &t.Columns)
		return t, err
	})
	if err != nil {
		return fmt.Errorf("listing tables: %w", err)
	}
	var unreadable []string
	tables = slices.DeleteFunc(tables, func(t valued) bool {
		if !t.Readable && t.Name.Schema != "pg_catalog" {
			unreadable = append(unreadable, t.Name.String())
		}
		return !t.Readable
	})
	s.notReadable(unreadable)
	for _, t := range tables {
		s.result.TotalBytes += int64(t.Pages+t.TOAST.Pages) * int64(s.conn.Facts.BlockSize)
	}
	return s.spread(ctx, len(tables), func(s *session, n int) error { return s.values(ctx, tables[n], verify) },
		func(n int) string { return tables[n].Name.String() }, func(n int) int32 { return tables[n].Pages + tables[n].TOAST.Pages }, "")
}

// values reads the values of one table.
func (s *session) values(ctx context.Context, t valued, verify function) error {
	for _, one := range []table{t.table, t.TOAST} {
		if one.OID == 0 || one.Pages == 0 && one.OID == t.TOAST.OID {
			continue
		}
		sane, err := s.sane(ctx, one, verify)
		if err != nil {
			return err
		}
		if !sane {
			if _, known := s.scope.Heaps.lookup(one.OID); known {
				return errors.New("its values are not read: the table is damaged")
			}
			return errors.New("its values are not read: the tables were not proved sane (verify_heapam of amcheck, 14+, or the check page in the same run)")
		}
	}
	started := time.Now()
	if _, err := s.conn.Exec(ctx, noIndexes+"; SET row_security = off; SET constraint_exclusion = off"); err != nil {
		return err
	}
	if s.scope.Reported.label(t.Name) {
		t.Columns = slices.DeleteFunc(t.Columns, func(c valueColumn) bool { return c.Enum })
	}
	if err := s.readValues(ctx, t); err != nil {
		return err
	}
	if t.TOASTReads {
		if err := s.chunks(ctx, t); err != nil {
			return err
		}
	}
	s.throttle(ctx, started, int64(t.Pages+t.TOAST.Pages)*int64(s.conn.Facts.BlockSize))
	s.looked(t.Name)
	return nil
}

// toastSQL lists tables with their TOAST table and its index, 0 when it has none.
// ACCESS SHARE on catalogues only.
const toastSQL = `SELECT c.oid, c.reltoastrelid, coalesce(i.indexrelid, 0) FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.reltoastrelid WHERE c.reltoastrelid <> 0`

// toastOf is the TOAST table of a table. While its index is built anew, there is
// more than one.
type toastOf struct {
	table   uint32
	indexes []uint32
}

// noteTOAST notes the tables as damaged of which the TOAST table or its index is:
// whoever fetches a value through that may never come back.
func (s *session) noteTOAST(ctx context.Context) error {
	if err := s.listTOAST(ctx); err != nil {
		return err
	}
	for table, of := range s.toasts {
		if s.scope.Heaps.damaged(of.table) || slices.ContainsFunc(of.indexes, s.scope.Heaps.damaged) {
			s.scope.Heaps.note(table, false)
		}
	}
	return nil
}

// indexOfTOASTSane says whether values of a table may be fetched from its TOAST
// table, and whether that is known. In an index whose pages lead in a ring the
// server process that fetches one never comes back, deaf to a cancel and to
// statement_timeout, and takes more and more memory. Where no check has looked at
// the index, bt_index_check does. ACCESS SHARE on the index and the TOAST table.
func (s *session) indexOfTOASTSane(ctx context.Context, table uint32) (sane, known bool, err error) {
	if err := s.listTOAST(ctx); err != nil {
		return false, false, err
	}
	for _, oid := range s.toasts[table].indexes {
		if sane, known, err = s.treeSane(ctx, oid); !sane || err != nil {
			return false, known, err
		}
	}
	return true, true, nil
}

// treeSane says whether a B-tree is sane, and whether that is known.
func (s *session) treeSane(ctx context.Context, oid uint32) (sane, known bool, err error) {
	if sane, known := s.scope.Heaps.lookup(oid); known {
		return sane, true, nil
	}
	f, err := s.optional(ctx, "bt_index_check", 0)
	if err != nil || f.Name == "" {
		return false, false, err
	}
	err = s.indexCheck(ctx, index{OID: oid}, f, false)
	if ctx.Err() != nil || s.conn.IsClosed() {
		return false, false, err
	}
	return err == nil, err == nil || judge(err) != inconclusive, nil
}

// listTOAST makes sure that the TOAST tables are known.
func (s *session) listTOAST(ctx context.Context) error {
	if s.toasts != nil {
		return nil
	}
	rows, err := s.conn.Query(ctx, toastSQL)
	if err != nil {
		return fmt.Errorf("listing TOAST tables: %w", err)
	}
	toasts := make(map[uint32]toastOf)
	var table, toast, oid uint32
	if _, err := pgx.ForEachRow(rows, []any{&table, &toast, &oid}, func() error {
		of := toastOf{toast, toasts[table].indexes}
		if oid != 0 {
			of.indexes = append(of.indexes, oid)
		}
		toasts[table] = of
		return nil
	}); err != nil {
		return fmt.Errorf("listing TOAST tables: %w", err)
	}
	s.toasts = toasts
	return nil
}

// read is an expression that fails when the value cannot be read or is none of
// its type. The output function is called through format(): a cast to text could
// be somebody's own function. Values of more than 64 MB are left out: written down
// they may not fit into the server's memory.
func (c valueColumn) read() string {
	value := quote(c.Name)
	if c.Long {
		value = "CASE WHEN pg_column_size(" + value + ") < 67108864 THEN " + value + " END"
	}
	if c.Type == "bytea" {
		return "md5(" + value + ")"
	}
	return "convert_to(format('%s', " + value + "), getdatabaseencoding()::name)"
}

// impossible is a condition that no value of the type satisfies and that writing
// it down does not show; "" is none.
func (c valueColumn) impossible() string {
	name := quote(c.Name)
	written := "nullif(format('%s', " + name + "), '')" // format writes nothing for NULL
	switch c.Type {
	case "date":
		return "isfinite(" + name + ") AND " + name + " NOT BETWEEN '4713-01-01 BC' AND '5874897-12-31'"
	case "time":
		return name + " NOT BETWEEN '00:00' AND '24:00'"
	case "numeric":
		return written + "::numeric IS DISTINCT FROM " + name
	case "text", "varchar", "bpchar", "bytea":
		// What the pointer to a long value says, and what the value has. A text that is
		// written down ends at a byte of zero, which no text can have.
		has := "format('%s', " + name + ")"
		if c.Type == "bytea" {
			has = name + " || ''::bytea"
		}
		return "octet_length(" + name + ") BETWEEN 2000 AND 67108864 AND octet_length(" + name + ") <> octet_length(" + has + ")"
	case "json":
		return written + "::json IS NULL AND " + name + " IS NOT NULL"
	}
	return ""
}

// readValues reads the values of a table, and when that fails goes on behind
// each page with a value that cannot be read.
func (s *session) readValues(ctx context.Context, t valued) error {
	if len(t.Columns) == 0 {
		return nil
	}
	sample := ""
	if pages := t.Pages + t.TOAST.Pages; pages > readPagesWhole && !s.scope.Deep {
		sample = fmt.Sprintf(" TABLESAMPLE system (%.6f)", 100*float64(readPagesWhole)/float64(pages))
	}
	first := s.readRange(ctx, t, sample, 0, 0)
	if first == nil || gone(first) || judge(first) == inconclusive {
		return first
	}
	blocks, err := s.blocks(ctx, t.table)
	if err != nil {
		return err
	}
	for start := uint32(0); start < blocks && !s.full(t.Name) && len(t.Columns) > 0; {
		bad, found, err := s.firstBad(ctx, t, start, blocks)
		if err != nil {
			return err
		}
		if !found {
			return nil
		}
		if err := s.rowsOfPage(ctx, &t, bad); err != nil {
			return err
		}
		start = bad + 1
	}
	return nil
}

// readRange reads the values of a range of pages, or of a sample when the range
// is empty. ACCESS SHARE; SELECT on the table.
func (s *session) readRange(ctx context.Context, t valued, sample string, start, end uint32) error {
	where := ""
	if end > 0 {
		where = fmt.Sprintf(" WHERE ctid >= '(%d,0)' AND ctid < '(%d,0)'", start, end)
	}
	reads := make([]string, 0, 2*len(t.Columns))
	for _, c := range t.Columns {
		reads = append(reads, "count("+c.read()+")")
		if condition := c.impossible(); condition != "" {
			reads = append(reads, "count(*) FILTER (WHERE "+condition+")")
		}
	}
	rows, err := s.conn.Query(ctx, "SELECT "+strings.Join(reads, ", ")+" FROM ONLY "+t.sql()+sample+where)
	if err != nil {
		return err
	}
	counts, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
	if err != nil {
		return err
	}
	n := 0
	for _, c := range t.Columns {
		n++
		if c.impossible() == "" {
			continue
		}
		if many, ok := counts[n].(int64); ok && many > 0 {
			return errImpossible
		}
		n++
	}
	return nil
}

// errImpossible is a value that can be read but is none of its type. It is judged
// as an error of the server about a value is.
var errImpossible = &pgconn.PgError{Code: "22000", Message: "the value is outside of the range of its type, or of another length than it says, or a text with bytes of zero"}

// firstBad finds the first page in a range with a value that cannot be read.
func (s *session) firstBad(ctx context.Context, t valued, start, end uint32) (block uint32, found bool, err error) {
	bad := func(start, end uint32) (bool, error) {
		err := s.readRange(ctx, t, "", start, end)
		if err != nil && (gone(err) || judge(err) == inconclusive) {
			return false, err
		}
		return err != nil, nil
	}
	is, err := bad(start, end)
	if err != nil || !is {
		return 0, false, err
	}
	for end-start > 1 {
		middle := start + (end-start)/2
		is, err := bad(start, middle)
		if err != nil {
			return 0, false, err
		}
		if is {
			end = middle
		} else {
			start = middle
		}
	}
	return start, true, nil
}

// lostLabelAction is what to do about a label that an enum does not have.
const lostLabelAction = "If the type has lost this label (the check constraint tells), put its row back into pg_enum with its OID, from a backup; do not drop or change the type. If it never had it, the page is damaged: " + heapAction

// rowsOfPage reports the values of a page that cannot be read, row by row and
// column by column, when a second look agrees.
func (s *session) rowsOfPage(ctx context.Context, t *valued, block uint32) error {
	var ids []string
	rows, err := s.conn.Query(ctx, fmt.Sprintf("SELECT ctid::text FROM ONLY %s WHERE ctid >= '(%d,0)' AND ctid < '(%d,0)'", t.sql(), block, block+1))
	if err == nil {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return err
	}
	for n := 0; n < len(t.Columns); n++ {
		c := t.Columns[n]
		bad, err := s.badValues(ctx, t, c, ids)
		if err != nil {
			return err
		}
		if len(bad) > 0 {
			pauseToConfirm(ctx)
			if bad, err = s.badValues(ctx, t, c, bad); err != nil {
				return err
			}
		}
		if len(bad) == 0 {
			continue
		}
		first := s.readValue(ctx, t, c, bad[0])
		if first == nil || gone(first) || judge(first) == inconclusive {
			return first
		}
		message := fmt.Sprintf("the value of column %s (%s) in row %s cannot be read: %s", quote(c.Name), c.Type, bad[0], text(first))
		if len(bad) > 1 {
			message += fmt.Sprintf("; and %d more rows of this page", len(bad)-1)
		}
		action := heapAction
		if c.Enum { // a label that is gone is gone for every page
			message += "; values of this column on later pages were not read"
			action = lostLabelAction
			t.Columns = slices.Delete(t.Columns, n, n+1)
			n--
		}
		s.found(Finding{
			Class: ClassCorruption, Severity: SeverityCritical, Schema: t.Name.Schema, Relation: t.Name.Name, Block: &block,
			SQLState: sqlstate(first), Message: message,
			Impact: "Statements that read this value fail or give wrong data, and so do dumps of the table.",
			Action: action,
		}, c.Name+" "+sqlstate(first))
	}
	return nil
}

// badValues gives those of the rows whose value cannot be read.
func (s *session) badValues(ctx context.Context, t *valued, c valueColumn, ids []string) (bad []string, err error) {
	for _, id := range ids {
		err := s.readValue(ctx, t, c, id)
		if err != nil && (gone(err) || judge(err) == inconclusive) {
			return nil, err
		}
		if err != nil {
			bad = append(bad, id)
		}
	}
	return bad, nil
}

// readValue reads one value.
func (s *session) readValue(ctx context.Context, t *valued, c valueColumn, id string) error {
	impossible := "false"
	if condition := c.impossible(); condition != "" {
		impossible = condition
	}
	var length *int
	var wrong *bool
	err := s.conn.QueryRow(ctx, "SELECT length("+c.read()+"::text), "+impossible+" FROM ONLY "+t.sql()+" WHERE ctid = $1::text::tid", id).Scan(&length, &wrong)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err == nil && wrong != nil && *wrong:
		return errImpossible
	}
	return err
}

// chunks looks at the chunks of long values by themselves: none may be missing or
// doubled, and all but the last are full. With --deep from 17 on, every value must
// belong to a row. ACCESS SHARE; SELECT on the TOAST table, which only a superuser
// has.
func (s *session) chunks(ctx context.Context, t valued) error {
	const full = 1996 // TOAST_MAX_CHUNK_SIZE for pages of 8 kB
	if s.conn.Facts.BlockSize != 8192 || t.TOAST.Pages > readPagesWhole && !s.scope.Deep {
		return nil
	}
	broken := fmt.Sprintf(`SELECT chunk_id::bigint FROM ONLY %s GROUP BY chunk_id
		HAVING min(chunk_seq) <> 0 OR max(chunk_seq) <> count(*) - 1 OR count(DISTINCT chunk_seq) <> count(*)
		OR count(*) FILTER (WHERE octet_length(chunk_data) <> %d) > 1 OR max(octet_length(chunk_data)) > %d LIMIT 1000`, t.TOAST.sql(), full, full)
	n, err := s.confirmed(ctx, broken)
	if err != nil {
		return err
	}
	if n > 0 {
		s.found(Finding{
			Class: ClassCorruption, Severity: SeverityCritical, Schema: t.TOAST.Name.Schema, Relation: t.TOAST.Name.Name, SQLState: "XX001",
			Message: fmt.Sprintf("%d long values of %s have chunks that are missing, doubled or of a wrong length", n, t.Name),
			Impact:  heapImpact(t.TOAST), Action: heapAction,
		}, "chunks")
	}
	if !s.scope.Deep || s.conn.Facts.VersionNum < 170000 || t.Dropped {
		return nil
	}
	var pointers []string
	for _, c := range t.Columns {
		if c.Long {
			pointers = append(pointers, "pg_column_toast_chunk_id("+quote(c.Name)+")")
		}
	}
	orphans := fmt.Sprintf(`SELECT DISTINCT chunk_id::bigint FROM ONLY %s EXCEPT SELECT unnest(ARRAY[%s])::bigint FROM ONLY %s LIMIT 1000`,
		t.TOAST.sql(), strings.Join(append(pointers, "NULL::oid"), ", "), t.sql())
	if n, err = s.confirmed(ctx, orphans); err != nil || n == 0 {
		return err
	}
	s.found(Finding{
		Class: ClassCorruption, Severity: SeverityWarning, Schema: t.Name.Schema, Relation: t.Name.Name,
		Message: fmt.Sprintf("%d long values in its TOAST table belong to no row: the rows that they belonged to are gone", n),
		Impact:  "Rows of the table were lost without their long values, or an older copy of the table was put back.",
		Action:  heapAction,
	}, "orphans")
	return nil
}

// confirmed asks a question twice and says how many answers both had.
func (s *session) confirmed(ctx context.Context, sql string) (int, error) {
	look := func() ([]int64, error) {
		rows, err := s.conn.Query(ctx, sql)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[int64])
	}
	first, err := look()
	if err != nil || len(first) == 0 {
		return 0, err
	}
	pauseToConfirm(ctx)
	second, err := look()
	return len(slices.DeleteFunc(second, func(id int64) bool { return !slices.Contains(first, id) })), err
}
