package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// rowRule is a rule that each row obeys or breaks by itself.
type rowRule struct {
	Table uint32
	Kind  string // what it is, in the words of the documentation
	Name  string // the constraint's name, or the column's
	Wrong string // an SQL condition that is true for a row that breaks it
	// Status is NOT VALID or NOT ENFORCED; empty is valid.
	Status string

	// reference is the foreign key whose rule it is; nil is none.
	reference *foreignKey
}

// rowRulesSQL makes the conditions of all rules. Conditions must not be ones
// that the planner can answer from the constraint itself: num_nulls is a
// function like any other to it, IS NULL is not. Unqualified column names and
// whole rows under the table's name are how pg_get_expr writes expressions.
// An enum value is compared by its hash, which is that of its OID, because its
// text cannot be asked for when pg_enum does not have it. The types of columns
// are followed into domains, arrays, composite types and ranges: value is the
// expression for what is inside, and wrong the condition around that which is
// to be asked of it, with chr(1) in its place. A composite value or bound that
// is not there breaks nothing.
const rowRulesSQL = `WITH RECURSIVE columns AS (
	SELECT a.attrelid, a.attnum, a.attname, a.attnotnull, a.atttypid, a.attgenerated
	FROM pg_attribute a WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
), types AS (
	SELECT attrelid, attname::text COLLATE "C" AS path, atttypid AS typid, quote_ident(attname) COLLATE "C" AS value, chr(1) COLLATE "C" AS wrong, 0 AS depth FROM columns
	UNION ALL
	SELECT t.attrelid, i.path COLLATE "C", i.typid, i.value COLLATE "C", i.wrong COLLATE "C", t.depth + 1 FROM types t JOIN pg_type y ON y.oid = t.typid CROSS JOIN LATERAL (
		SELECT t.path, y.typbasetype, t.value, t.wrong WHERE y.typtype = 'd'
		UNION ALL
		SELECT t.path, y.typelem, 'e' || t.depth, replace(t.wrong, chr(1), format('EXISTS (SELECT FROM unnest(%s) AS e%s WHERE %s)', t.value, t.depth, chr(1)))
			WHERE y.typtype = 'b' AND y.typcategory = 'A' AND y.typelem <> 0
		UNION ALL
		SELECT t.path || '.' || a.attname, a.atttypid, format('(%s).%I', t.value, a.attname), replace(t.wrong, chr(1), format('(NOT (%s) IS NULL AND %s)', t.value, chr(1)))
			FROM pg_attribute a WHERE y.typtype = 'c' AND a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped
		UNION ALL
		SELECT t.path || '.' || bound, r.rngsubtype, format('%s(%s)', bound, t.value), replace(t.wrong, chr(1), format('(num_nulls(%s(%s)) = 0 AND %s)', bound, t.value, chr(1)))
			FROM pg_range r CROSS JOIN (VALUES ('lower'), ('upper')) AS b(bound) WHERE r.rngtypid = y.oid
		UNION ALL
		SELECT t.path, r.rngtypid, 'e' || t.depth, replace(t.wrong, chr(1), format('EXISTS (SELECT FROM unnest(%s) AS e%s WHERE %s)', t.value, t.depth, chr(1)))
			FROM pg_range r WHERE y.typtype = 'm' AND (to_jsonb(r) ->> 'rngmultitypid')::oid = y.oid
	) AS i(path, typid, value, wrong) WHERE t.depth < 10
), base AS (
	SELECT y.oid, CASE WHEN y.typtype = 'd' THEN (
		WITH RECURSIVE down AS (SELECT y.typbasetype AS oid, y.typtypmod AS typmod UNION ALL
			SELECT b.typbasetype, b.typtypmod FROM down JOIN pg_type b ON b.oid = down.oid WHERE b.typtype = 'd')
		SELECT format_type(down.oid, down.typmod) FROM down JOIN pg_type b ON b.oid = down.oid WHERE b.typtype <> 'd') END AS name
	FROM pg_type y WHERE y.typtype = 'd'
), keys AS (
	SELECT i.indrelid, k.attnum FROM pg_index i CROSS JOIN unnest(i.indkey) AS k(attnum) WHERE i.indisprimary AND i.indrelid = ANY ($1)
), constraints AS (
	SELECT k.*, CASE WHEN to_jsonb(k) ->> 'conenforced' = 'false' THEN 'NOT ENFORCED' WHEN NOT k.convalidated THEN 'NOT VALID' ELSE '' END AS status
	FROM pg_constraint k WHERE k.conrelid = ANY ($1) OR k.contypid <> 0
)
SELECT c.attrelid, 'NOT NULL constraint', c.attname::text, format('num_nulls(%I) > 0', c.attname), coalesce(k.status, '')
	FROM columns c LEFT JOIN constraints k ON k.conrelid = c.attrelid AND k.contype = 'n' AND k.conkey[1] = c.attnum
	WHERE c.attnotnull OR (c.attrelid, c.attnum) IN (SELECT indrelid, attnum FROM keys)
UNION ALL
SELECT k.conrelid, 'CHECK constraint', k.conname::text, format('(%s) IS FALSE', pg_get_expr(k.conbin, k.conrelid)), k.status
	FROM constraints k WHERE k.contype = 'c' AND k.conrelid = ANY ($1)
UNION ALL
SELECT t.attrelid, 'domain ' || format_type(t.typid, NULL) || ' of column', t.path,
	replace(t.wrong, chr(1), format('(SELECT (%s) FROM (SELECT (%s)::%s AS value) AS d) IS FALSE', pg_get_expr(k.conbin, 0), t.value, b.name)), k.status
	FROM types t JOIN base b ON b.oid = t.typid JOIN constraints k ON k.contypid = t.typid AND k.contype = 'c'
UNION ALL
SELECT t.attrelid, 'domain ' || format_type(t.typid, NULL) || ' of column', t.path, replace(t.wrong, chr(1), format('num_nulls(%s) > 0', t.value)), ''
	FROM types t JOIN pg_type y ON y.oid = t.typid WHERE y.typtype = 'd' AND y.typnotnull
UNION ALL
SELECT t.attrelid, 'enum ' || format_type(t.typid, NULL) || ' of column', t.path,
	replace(t.wrong, chr(1), format('hashenum(%s) <> ALL (ARRAY(SELECT hashoid(oid) FROM pg_enum WHERE enumtypid = %s))', t.value, t.typid)), ''
	FROM types t JOIN pg_type y ON y.oid = t.typid WHERE y.typtype = 'e'
UNION ALL
SELECT k.conrelid, 'key WITHOUT OVERLAPS', k.conname::text, format('isempty(%I)', a.attname), ''
	FROM constraints k JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[cardinality(k.conkey)]
	WHERE k.contype IN ('p', 'u') AND to_jsonb(k) ->> 'conperiod' = 'true'
UNION ALL
SELECT c.oid, 'partition bound', c.relname::text, format('(%s) IS FALSE', pg_get_partition_constraintdef(c.oid)), ''
	FROM pg_class c WHERE c.oid = ANY ($1) AND c.relispartition AND pg_get_partition_constraintdef(c.oid) IS NOT NULL
UNION ALL
SELECT k.conrelid, 'MATCH FULL foreign key', k.conname::text, format('num_nulls(%s) BETWEEN 1 AND %s', (
		SELECT string_agg(quote_ident(a.attname), ', ') FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)), cardinality(k.conkey) - 1), k.status
	FROM constraints k WHERE k.contype = 'f' AND k.confmatchtype = 'f' AND cardinality(k.conkey) > 1 AND k.conrelid = ANY ($1)
ORDER BY 1, 2, 3`

// blockRange is a range of pages of a table, End is not in it, or a sample of
// all pages.
type blockRange struct {
	Start, End uint32
	whole      bool
	// sampled is how many percent of the pages are looked at, chosen at random.
	sampled float64
}

// pieces are the pages of a part of a table that are read at once, before them
// the sample of a table that is looked at in parts.
func (s *session) pieces(p part, size, blocks uint32) []blockRange {
	pieces := s.split(p.of(size), blocks)
	if p.Of > 1 {
		pieces = append([]blockRange{p.sample(size)}, pieces...)
	}
	return pieces
}

// pages is how many pages are read, in a table of this many.
func (r blockRange) pages(size uint32) uint32 {
	if r.sampled > 0 {
		return uint32(float64(size) * r.sampled / 100)
	}
	return min(r.End, max(size, r.Start)) - r.Start
}

// from is the range as an item of FROM, which condition goes with.
func (r blockRange) from(t table, alias string) string {
	item := "ONLY " + t.Name.sql()
	if alias != "" {
		item += " AS " + alias
	}
	if r.sampled > 0 {
		item += fmt.Sprintf(" TABLESAMPLE SYSTEM (%f)", r.sampled)
	}
	return item
}

// split divides a range into pieces that are read at once, so that a rate
// limit can be kept between them. Before 14 the server reads the whole table
// for each range, so there is one piece.
func (s *session) split(r blockRange, blocks uint32) []blockRange {
	if r.End-r.Start <= blocks || s.conn.Facts.VersionNum < 140000 {
		return []blockRange{r}
	}
	var pieces []blockRange
	for start := r.Start; start < r.End; start += blocks {
		end := r.End
		if r.End-start > blocks {
			end = start + blocks
		}
		pieces = append(pieces, blockRange{Start: start, End: end})
	}
	if r.whole {
		pieces[len(pieces)-1].End = 1<<32 - 1 // with what was added meanwhile
	}
	return pieces
}

// condition is the range as an SQL condition. ctid stands for prefix's.
func (r blockRange) condition(prefix string) string {
	if r.whole || r.sampled > 0 {
		return "true"
	}
	return fmt.Sprintf("%[1]sctid >= '(%[2]d,0)'::tid AND %[1]sctid < '(%[3]d,0)'::tid", prefix, r.Start, r.End)
}

// rowRules looks at the rows in a part of a table of this many pages, with one
// sequential scan for all rules, and gives the foreign keys among them that all rows
// obey.
func (s *session) rowRules(ctx context.Context, t table, rules []rowRule, primary []string, p part, size uint32) (obeyed []*foreignKey, err error) {
	if len(rules) == 0 {
		return nil, nil
	}
	scan := &rowScan{table: t, key: s.keyText("", primary), rules: rules, wrong: make([][]row, len(rules)), failed: make([]bool, len(rules))}
	for _, piece := range s.pieces(p, size, rangeBlocks) {
		started := time.Now()
		err := s.scanRows(ctx, scan, piece)
		if err != nil && scan.withoutReferences() && ctx.Err() == nil && !s.conn.IsClosed() {
			err = s.scanRows(ctx, scan, piece) // the table may be well, and one referred to may not
		}
		if err != nil {
			return nil, err
		}
		s.throttle(ctx, started, int64(piece.pages(size))*int64(s.conn.Facts.BlockSize))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	for i, rule := range rules {
		switch {
		case rule.reference == nil && len(scan.wrong[i]) > 0:
			s.brokenRow(t, rule, scan.wrong[i])
		case rule.reference != nil && len(scan.wrong[i]) == 0 && !scan.failed[i]:
			obeyed = append(obeyed, rule.reference)
		}
	}
	return obeyed, nil
}

// rowScan is a scan of one table under way.
type rowScan struct {
	table  table
	key    string
	rules  []rowRule
	wrong  [][]row // by rule
	failed []bool  // by rule: an error ended it
}

// withoutReferences leaves foreign keys out from now on. It says whether there were
// any.
func (scan *rowScan) withoutReferences() (some bool) {
	for i, rule := range scan.rules {
		if rule.reference != nil && !scan.failed[i] {
			scan.failed[i], some = true, true
		}
	}
	return some
}

// scanRows asks for the rows of a range that break one of the rules. When that
// fails each rule is asked for by itself, and those that fail are left out
// from then on.
func (s *session) scanRows(ctx context.Context, scan *rowScan, r blockRange) error {
	var indexes []int
	for i := range scan.rules {
		if !scan.failed[i] && len(scan.wrong[i]) < rowLimit {
			indexes = append(indexes, i)
		}
	}
	err := s.scanFor(ctx, scan, indexes, r)
	if err == nil || fatal(ctx, s, err) || len(indexes) == 0 {
		return err
	}
	for _, i := range indexes {
		err := s.scanFor(ctx, scan, []int{i}, r)
		if err != nil && !fatal(ctx, s, err) && namesMissing(err) {
			// A function of the constraint relies on the search_path of those who write.
			err = s.withSearchPath(ctx, scan.table.Name.Schema, func() error { return s.scanFor(ctx, scan, []int{i}, r) })
		}
		if fatal(ctx, s, err) {
			return err
		}
		if err != nil {
			scan.failed[i] = true
		}
		if err != nil && scan.rules[i].reference == nil { // a foreign key is looked at by itself then
			s.problem(fmt.Sprintf("%s: %s %s", scan.table.Name, scan.rules[i].Kind, quote(scan.rules[i].Name)), err)
		}
	}
	return nil
}

// fatal says that an error is not about the question but about the session or
// the table.
func fatal(ctx context.Context, s *session, err error) bool {
	if err == nil {
		return false
	}
	state := sqlstate(err)
	return gone(err) || ctx.Err() != nil || s.conn.IsClosed() || state == "55P03" || state == "40001" || state == "42501" ||
		state == "57014" || judge(err) == damaged
}

// namesMissing says that a name was not found.
func namesMissing(err error) bool {
	switch sqlstate(err) {
	case "42883", "42P01", "42704", "42703", "3F000":
		return true
	}
	return false
}

// withSearchPath does something with the search_path that a user of the schema
// would have.
func (s *session) withSearchPath(ctx context.Context, schema string, do func() error) error {
	if err := s.set(ctx, "SET search_path = pg_catalog, "+quote(schema)+", public"); err != nil {
		return err
	}
	err := do()
	if s.conn.IsClosed() {
		return err
	}
	if reset := s.set(ctx, "SET search_path = pg_catalog"); reset != nil {
		return reset
	}
	return err
}

// notNull is how the condition of a NOT NULL constraint begins.
const notNull = "num_nulls("

// scanFor asks for the rows of a range that break one of the rules of these
// numbers. When there are so many that not all are given, it asks again without the
// rules that are known to be broken, so that they do not hide the others. ACCESS SHARE on the table; SELECT on it is needed.
func (s *session) scanFor(ctx context.Context, scan *rowScan, indexes []int, r blockRange) error {
	if len(indexes) == 0 {
		return nil
	}
	conditions := make([]string, len(indexes))
	var any, columns []string
	for n, i := range indexes {
		conditions[n] = "(" + scan.rules[i].Wrong + ")"
		if column, ok := strings.CutPrefix(scan.rules[i].Wrong, notNull); ok && scan.rules[i].Kind == "NOT NULL constraint" {
			columns = append(columns, strings.TrimSuffix(column, ") > 0"))
		} else {
			any = append(any, conditions[n])
		}
	}
	if len(columns) > 0 { // one call for all of them is much cheaper
		any = append(any, notNull+strings.Join(columns, ", ")+") > 0")
	}
	sql := fmt.Sprintf("SELECT ctid::text, %s, ARRAY[%s] FROM %s WHERE (%s) AND %s LIMIT %d", scan.key, strings.Join(conditions, ", "),
		r.from(scan.table, ""), strings.Join(any, " OR "), r.condition(""), rowLimit)
	rows, err := s.conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	type found struct {
		Place, Key string
		Breaks     []*bool
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[found])
	if err != nil {
		return err
	}
	broken := make([]bool, len(indexes))
	for _, f := range list {
		for n, i := range indexes {
			if breaks := f.Breaks[n]; breaks != nil && *breaks {
				broken[n] = true
				scan.wrong[i] = addRow(scan.wrong[i], row{f.Place, f.Key})
			}
		}
	}
	if len(list) < rowLimit {
		return nil
	}
	var others []int
	for n, i := range indexes {
		if !broken[n] {
			others = append(others, i)
		}
	}
	if len(others) == len(indexes) {
		return nil
	}
	return s.scanFor(ctx, scan, others, r)
}

// sql is the name as SQL has it.
func (r RelationName) sql() string { return pgx.Identifier{r.Schema, r.Name}.Sanitize() }

// brokenRow reports rows that break a rule of rows.
func (s *session) brokenRow(t table, rule rowRule, rows []row) {
	impact := "The server and every program take the constraint for granted: queries may leave these rows out or give wrong results, and dumps of the table cannot be restored."
	if rule.Kind == "partition bound" {
		impact = "Statements with a condition on the partition key do not look into this partition for these rows: they miss them, and unique keys and foreign keys do not hold for them."
	}
	s.broken(t, rule.Kind, rule.Name, rule.Status,
		fmt.Sprintf("%s %s is broken by %s", rule.Kind, quote(rule.Name), describeRows(rows)), impact)
}
