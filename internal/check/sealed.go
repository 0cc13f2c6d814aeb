package check

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// sealedCheck compares data that must never change, such as closed months and
// audit logs, with the fingerprints taken when it was sealed.
func sealedCheck() Check {
	return Check{
		Name:     "sealed",
		Question: "Is the data that must not change as it was when it was sealed?",
		Kinds:    []Kind{{ClassDataRule, SeverityCritical}, {ClassDataRule, SeverityWarning}, {ClassDataRule, SeverityInfo}},
		Interval: 15 * time.Minute,
		Needs:    "SELECT on the sealed tables and USAGE on their schemas (pg_read_all_data, 14+); BYPASSRLS where row security applies",
		Locks:    "ACCESS SHARE on one table at a time; one snapshot for each table",
		idle: func(scope Scope, database string) string {
			if !slices.ContainsFunc(scope.Rules.Sealed, func(d Sealed) bool { return matchesAny(d.Databases, database) }) {
				return "no sealed data is configured for this database (sealed: in the configuration file)"
			}
			return ""
		},
		Standby: true,
		run:     runSealed,
	}
}

func runSealed(ctx context.Context, s *session) error {
	schemas, relations := s.wanted()
	tables, err := s.list(ctx, userTablesSQL, schemas, relations)
	if err != nil {
		return err
	}
	s.result.TotalBytes = 0
	verify, err := s.verifier(ctx)
	if err != nil {
		return err
	}
	// There are few ranges, which the planner cannot know: sorting all rows by them takes several times as long.
	if err := s.set(ctx, logicalSettings+"; SET enable_sort = off; "+textSettings); err != nil {
		return err
	}
	book := s.rulebook(ctx)
	for _, d := range s.scope.Rules.Sealed {
		if !matchesAny(d.Databases, s.database) {
			continue
		}
		look := func() error { return s.sealed(ctx, d, tables, verify) }
		if len(s.scope.Relations) > 0 {
			err = book.part(d.Name, look)
		} else {
			err = book.run(ctx, d.Name, d.Interval, look)
		}
		if err != nil {
			return err
		}
	}
	return book.close(ctx)
}

// seal is what is kept of one table of sealed data. It belongs to the contents
// and not to the cluster: a restored copy must have the same.
type seal struct {
	Sealed time.Time `json:"sealed"`
	// Columns are those that the fingerprints are of: one that is added later
	// does not change them.
	Columns []string `json:"columns"`
	Where   string   `json:"where,omitempty"`
	Range   string   `json:"range,omitempty"`
	// SystemIdentifier and NextXID tell which rows were written since.
	SystemIdentifier int64            `json:"system_identifier"`
	NextXID          string           `json:"next_xid"`
	Ranges           map[string]print `json:"ranges"`
}

// print is the fingerprint of a range of rows.
type print struct {
	Rows int64  `json:"rows"`
	Sum  string `json:"sum"`
}

// sealed looks at the tables of one entry of the configuration.
func (s *session) sealed(ctx context.Context, d Sealed, all []table, verify function) error {
	var known []string
	if _, err := s.recallSeal(d.Name, "tables", &known); err != nil {
		return err
	}
	leaves, err := s.leaves(ctx, d.Table)
	if err != nil {
		return err
	}
	var names []string
	for _, t := range all {
		if !slices.Contains(leaves, t.OID) {
			continue
		}
		names = append(names, t.Name.String())
		s.result.TotalBytes += int64(t.Pages) * int64(s.conn.Facts.BlockSize)
		if damaged, err := s.leaveAlone(ctx, t, verify); err != nil || damaged {
			if err != nil {
				return &placeError{"in " + t.Name.String(), err}
			}
			continue
		}
		if err := s.sealedTable(ctx, d, t); err != nil {
			if gone(err) {
				continue
			}
			return &placeError{"in " + t.Name.String(), err}
		}
	}
	if len(s.scope.Relations) > 0 {
		return nil // the others were not looked for
	}
	if len(names) == 0 && len(known) == 0 {
		return fmt.Errorf("no table is called %s", d.Table)
	}
	for _, name := range known {
		if !slices.Contains(names, name) && !s.accepts(d) {
			s.foundSealed(d, RelationName{}, "gone "+name, fmt.Sprintf("sealed data %q: the table %s does not exist any more", d.Name, name))
			names = append(names, name) // until somebody accepts it
		}
	}
	slices.Sort(names)
	return s.rememberSeal(d.Name, "tables", names)
}

// leavesSQL lists the tables that hold the rows of the relations of a schema
// whose names are given.
const leavesSQL = `SELECT c.oid, n.nspname || '.' || c.relname, ARRAY(SELECT t.relid::oid FROM pg_partition_tree(c.oid) AS t WHERE t.isleaf)
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'`

// leaves gives the OIDs of the tables that a name or pattern stands for, with
// the partitions of those that are partitioned.
func (s *session) leaves(ctx context.Context, pattern string) ([]uint32, error) {
	rows, err := s.conn.Query(ctx, leavesSQL)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		OID    uint32
		Name   string
		Leaves []uint32
	}])
	var oids []uint32
	for _, r := range list {
		if matched, err := path.Match(pattern, r.Name); r.Name == pattern || err == nil && matched {
			oids = append(append(oids, r.OID), r.Leaves...)
		}
	}
	return oids, err
}

func (s *session) sealKey(name, what string) string {
	return "sealed/" + s.database + "/" + name + "/" + what
}

func (s *session) recallSeal(name, what string, into any) (bool, error) {
	if s.scope.Memory == nil {
		return false, nil
	}
	return s.scope.Memory.Recall(s.sealKey(name, what), into)
}

func (s *session) rememberSeal(name, what string, value any) error {
	if s.scope.Memory == nil {
		return nil
	}
	return s.scope.Memory.Remember(s.sealKey(name, what), value)
}

// sealedTable compares one table with its seal, or seals it.
func (s *session) sealedTable(ctx context.Context, d Sealed, t table) error {
	var kept seal
	found, err := s.recallSeal(d.Name, t.Name.String(), &kept)
	if err != nil {
		return err
	}
	rows, err := s.conn.Query(ctx, columnsSQL, t.OID)
	if err != nil {
		return err
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	if err != nil {
		return err
	}
	begin := !found || s.accepts(d)
	if !begin {
		if kept.Where != d.Where || (d.Range != "" && kept.Range != d.Range) {
			return errors.New("its where or range was changed in the configuration since it was sealed: run baseline accept to seal it anew")
		}
		var missing []string
		for _, name := range kept.Columns {
			if !slices.ContainsFunc(columns, func(c column) bool { return c.Name == name }) {
				missing = append(missing, quote(name))
			}
		}
		if len(missing) > 0 {
			s.foundSealed(d, t.Name, "columns", fmt.Sprintf("sealed data %q: %s has lost the columns %s since it was sealed", d.Name, t.Name, strings.Join(missing, ", ")))
			return nil
		}
		columns = slices.DeleteFunc(columns, func(c column) bool { return !slices.Contains(kept.Columns, c.Name) })
	}
	now := seal{Sealed: time.Now().UTC(), Where: d.Where, Range: kept.Range}
	for _, c := range columns {
		now.Columns = append(now.Columns, c.Name)
	}
	if begin {
		kept.Ranges = nil
		if now.Range, err = s.rangeOf(ctx, d, t); err != nil {
			return err
		}
	}
	if err := s.prints(ctx, t, columns, kept.Ranges, &now); err != nil {
		return err
	}
	if begin {
		if !found {
			s.partlyf("sealed data %q: %s was sealed just now, there is nothing to compare it with yet", d.Name, t.Name)
		}
		return s.rememberSeal(d.Name, t.Name.String(), now)
	}
	return s.compareSeal(ctx, d, t, kept, now)
}

// accepts says that somebody accepts this data as it is.
func (s *session) accepts(d Sealed) bool {
	return s.scope.Accept != nil && slices.Contains(s.scope.Accept.Sealed, d.Name)
}

// sealRanges is about how many ranges a table with an integer key is divided
// into.
const sealRanges = 200

// rangeOf is the expression by which the rows are divided: the configured one,
// or steps of an integer key, so that a finding can say where the change is.
func (s *session) rangeOf(ctx context.Context, d Sealed, t table) (string, error) {
	if d.Range != "" {
		return d.Range, nil
	}
	var key string
	err := s.conn.QueryRow(ctx, `SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
		WHERE i.indrelid = $1 AND i.indisprimary AND i.indnkeyatts = 1 AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)`, t.OID).Scan(&key)
	if errors.Is(err, pgx.ErrNoRows) {
		return wholeRange, nil
	}
	if err != nil {
		return "", err
	}
	var low, high *int64
	if err := s.conn.QueryRow(ctx, fmt.Sprintf("SELECT min(%[1]s), max(%[1]s) FROM ONLY %[2]s", quote(key), t.Name.sql())).Scan(&low, &high); err != nil {
		return "", err
	}
	if low == nil {
		return wholeRange, nil
	}
	step := max(1, (*high-*low)/sealRanges)
	return fmt.Sprintf("%[1]s::bigint / %[2]d * %[2]d", quote(key), step), nil
}

// prints computes the fingerprints of a table's ranges in one snapshot. Those
// that are kept are compared as a whole first: dividing the rows costs as much
// as a third of all, and most times nothing has changed. ACCESS SHARE on the
// table until it ends.
func (s *session) prints(ctx context.Context, t table, columns []column, kept map[string]print, into *seal) error {
	tx, err := s.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Commit(ctx) }() // it wrote nothing; a rollback would count as a failure of the user's
	if err := tx.QueryRow(ctx, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text").Scan(&into.NextXID); err != nil {
		return err
	}
	if into.SystemIdentifier, err = s.systemIdentifier(ctx); err != nil {
		return err
	}
	if kept != nil && into.Range != wholeRange {
		total := new(tally)
		for _, p := range kept {
			if err := total.add(p.Rows, p.Sum); err != nil {
				return err
			}
		}
		now, err := s.fingerprints(ctx, tx, t, columns, into.Where, wholeRange)
		if err != nil {
			return err
		}
		if len(kept) > 0 && now[wholeRange] == total.print() {
			into.Ranges = kept
			return tx.Commit(ctx)
		}
	}
	if into.Ranges, err = s.fingerprints(ctx, tx, t, columns, into.Where, into.Range); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// wholeRange is the expression of a table that is not divided.
const wholeRange = "1"

// tally is a fingerprint that is being added up.
type tally struct {
	rows int64
	sum  big.Int
}

func (f *tally) add(rows int64, sum string) error {
	part, ok := new(big.Int).SetString(sum, 10)
	if !ok {
		return fmt.Errorf("%q is no fingerprint", sum)
	}
	f.rows += rows
	f.sum.Add(&f.sum, part)
	return nil
}

func (f *tally) print() print { return print{Rows: f.rows, Sum: f.sum.String()} }

// fingerprints reads a table's rows, a piece of the table at a time, and adds up
// the fingerprints of the ranges that an expression divides them into.
func (s *session) fingerprints(ctx context.Context, tx pgx.Tx, t table, columns []column, where, expression string) (map[string]print, error) {
	blocks, err := s.blocks(ctx, t)
	if err != nil {
		return nil, err
	}
	if where != "" {
		where = " AND (" + where + ")"
	}
	grouped := " GROUP BY 1"
	if expression == wholeRange {
		grouped = " HAVING count(*) > 0" // an aggregate of all rows, without a group to look up for each
	}
	sums := make(map[string]*tally)
	for _, piece := range s.split(blockRange{End: blocks, whole: true}, rangeBlocks) {
		started := time.Now()
		rows, err := tx.Query(ctx, fmt.Sprintf("SELECT (r.range)::text, r.rows, r.sum::text FROM (SELECT %s AS range, count(*) AS rows, sum(%s) AS sum FROM ONLY %s WHERE %s%s%s) AS r",
			expression, hashOf(quote(t.Name.Name), columns), t.Name.sql(), piece.condition(""), where, grouped))
		if err != nil {
			return nil, err
		}
		list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			Range *string
			Rows  int64
			Sum   string
		}])
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			name := "null"
			if r.Range != nil {
				name = *r.Range
			}
			if sums[name] == nil {
				sums[name] = new(tally)
			}
			if err := sums[name].add(r.Rows, r.Sum); err != nil {
				return nil, err
			}
		}
		s.throttle(ctx, started, int64(min(piece.End, blocks)-piece.Start)*int64(s.conn.Facts.BlockSize))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	ranges := make(map[string]print, len(sums))
	for name, sum := range sums {
		ranges[name] = sum.print()
	}
	return ranges, nil
}

// compareSeal reports the ranges that changed since they were sealed, and seals
// ranges that are new behind all others when they are divided by the user's own
// expression: a month that was closed meanwhile.
func (s *session) compareSeal(ctx context.Context, d Sealed, t table, kept, now seal) error {
	last := ""
	for name := range kept.Ranges {
		last = max(last, name)
	}
	var changed []string
	grown := false
	for _, name := range slices.Sorted(maps.Keys(now.Ranges)) {
		before, known := kept.Ranges[name]
		switch {
		case known && before != now.Ranges[name], !known && (d.Range == "" || name <= last):
			changed = append(changed, name)
		case !known:
			kept.Ranges[name] = now.Ranges[name]
			grown = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(kept.Ranges)) {
		if _, still := now.Ranges[name]; !still {
			changed = append(changed, name)
		}
	}
	if len(changed) > 0 {
		evidence, err := s.whoWrote(ctx, d, t, kept, now, changed)
		if err != nil {
			return err
		}
		var parts []string
		for _, name := range changed[:min(rowsShown, len(changed))] {
			parts = append(parts, describeChange(kept.Ranges[name], now.Ranges[name], name, kept.Range))
		}
		if len(changed) > rowsShown {
			parts = append(parts, fmt.Sprintf("and %d more", len(changed)-rowsShown))
		}
		s.foundSealed(d, t.Name, "contents", fmt.Sprintf("sealed data %q: %s changed since it was sealed on %s: %s%s",
			d.Name, t.Name, kept.Sealed.Format(time.RFC3339), strings.Join(parts, "; "), evidence))
	}
	if grown {
		return s.rememberSeal(d.Name, t.Name.String(), kept)
	}
	return nil
}

func describeChange(before, now print, name, expression string) string {
	what := "range " + name + " of " + expression
	if expression == wholeRange {
		what = "the table"
	}
	switch {
	case now.Rows < before.Rows:
		return fmt.Sprintf("%s had %d rows and has %d", what, before.Rows, now.Rows)
	case now.Rows > before.Rows:
		return fmt.Sprintf("%s had %d rows and has %d", what, before.Rows, now.Rows)
	}
	return fmt.Sprintf("%s has %d rows as before, with other contents", what, now.Rows)
}

// whoWrote names rows of the changed ranges that a transaction has written since
// they were sealed. When there are as many rows as before, and no transaction
// wrote one of them, the change did not come through SQL.
func (s *session) whoWrote(ctx context.Context, d Sealed, t table, kept, now seal, changed []string) (string, error) {
	if kept.SystemIdentifier != now.SystemIdentifier {
		return "; the server is another one than when it was sealed", nil
	}
	primary, err := s.primaryKeys(ctx, []table{t})
	if err != nil {
		return "", err
	}
	key := s.keyText("", primary[t.OID])
	if d.MaskKeys {
		key = "''"
	}
	where := "true"
	if kept.Where != "" {
		where = kept.Where
	}
	rows, err := s.conn.Query(ctx, fmt.Sprintf("SELECT ctid::text, %s FROM ONLY %s WHERE (%s) AND coalesce((%s)::text, 'null') = ANY ($1) AND age(xmin) < age($2::xid8::xid) ORDER BY age(xmin) LIMIT %d",
		key, t.Name.sql(), where, kept.Range, rowLimit), changed, kept.NextXID)
	if err != nil {
		return "", err
	}
	written, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return "", err
	}
	if len(written) > 0 {
		return "; written by transactions since: " + describeRows(written), nil
	}
	for _, name := range changed {
		if now.Ranges[name].Rows < kept.Ranges[name].Rows {
			return "", nil
		}
	}
	return "; no transaction wrote a row of it since: the change did not come through SQL, which means damage or a file that was put back", nil
}

func (s *session) foundSealed(d Sealed, about RelationName, kind, message string) {
	s.found(Finding{
		Class: ClassDataRule, Severity: d.Severity, Schema: about.Schema, Relation: about.Name, Message: message,
		Impact: "Data that must never change is not what it was: closed books, audit trails and reports that were handed in do not agree with the database any more.",
		Action: fmt.Sprintf("Compare the range with a backup from before, or with a standby. If the change is legitimate, approve it with pg_integrity_exporter baseline accept --sealed=%s --reason=...; if not, find out who wrote it and restore the rows.", d.Name),
	}, "sealed "+d.Name+" "+kind)
}
