package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// uniqueKey is a primary key, a unique constraint or a unique index.
type uniqueKey struct {
	Table uint32
	Name  string
	Kind  string
	// Names are the expressions of the index; Keys are what rows are grouped by:
	// the same with their collations.
	Names []string
	Keys  []string
	// Predicate is the condition of a partial index, or empty.
	Predicate string
	// NullsEqual is NULLS NOT DISTINCT.
	NullsEqual bool
	// ByValue says that the keys are one value that fits into a word: it is
	// compared as it is.
	ByValue bool
	// Hashable says that each key has a hash of 64 bits.
	Hashable bool
}

// uniqueKeysSQL lists unique indexes that are valid or belong to a constraint.
// One that an interrupted CREATE INDEX CONCURRENTLY left promises nothing.
// Texts are grouped in the order of their bytes, which is several times as fast:
// what a deterministic collation takes for equal has the same bytes.
const uniqueKeysSQL = `SELECT i.indrelid, ic.relname::text,
	CASE WHEN i.indisprimary THEN 'primary key' WHEN k.oid IS NOT NULL THEN 'unique constraint' ELSE 'unique index' END,
	ARRAY(SELECT pg_get_indexdef(i.indexrelid, n, false) FROM generate_series(1, i.indnkeyatts) AS n ORDER BY n),
	ARRAY(SELECT pg_get_indexdef(i.indexrelid, n, false) || CASE
			WHEN co.collisdeterministic AND o.opcintype IN ('text'::regtype, 'bpchar'::regtype) THEN ' COLLATE "C"'
			WHEN co.collname <> 'default' THEN format(' COLLATE %I.%I', cn.nspname, co.collname) ELSE '' END
		FROM generate_series(1, i.indnkeyatts) AS n JOIN pg_opclass o ON o.oid = i.indclass[n - 1]
		LEFT JOIN pg_collation co ON co.oid = i.indcollation[n - 1] LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace ORDER BY n),
	coalesce(pg_get_expr(i.indpred, i.indrelid), ''), coalesce(to_jsonb(i) ->> 'indnullsnotdistinct', 'false') = 'true',
	i.indnkeyatts = 1 AND (SELECT y.typbyval FROM pg_opclass o JOIN pg_type y ON y.oid = o.opcintype WHERE o.oid = i.indclass[0]),
	NOT EXISTS (SELECT FROM generate_series(1, i.indnkeyatts) AS n JOIN pg_opclass o ON o.oid = i.indclass[n - 1]
		WHERE o.opcintype IN ('anyarray'::regtype, 'anyrange'::regtype, 'record'::regtype) OR NOT EXISTS (
			SELECT FROM pg_opclass h JOIN pg_am m ON m.oid = h.opcmethod AND m.amname = 'hash'
			JOIN pg_amproc f ON f.amprocfamily = h.opcfamily AND f.amproclefttype = h.opcintype AND f.amprocnum = 2
			WHERE h.opcintype = o.opcintype AND h.opcdefault))
	FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_am am ON am.oid = ic.relam AND am.amname = 'btree'
	LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u') AND k.conrelid = i.indrelid
	WHERE i.indisunique AND (i.indisvalid OR k.oid IS NOT NULL) AND i.indrelid = ANY ($1)
	ORDER BY NOT i.indisprimary, ic.relname`

// uniqueKey looks for keys that occur more than once: all of them, or those
// whose hash falls into the part. ACCESS SHARE on the table; temporary files of
// about the size of the keys when they do not fit into memory.
func (s *session) uniqueKey(ctx context.Context, t table, k uniqueKey, part part) error {
	doubles, err := s.doubles(ctx, t, k, part)
	if part.Of > 1 && sqlstate(err) == "42883" { // a type that cannot be hashed: all of them
		doubles, err = s.doubles(ctx, t, k, wholeTable)
	}
	if err != nil || len(doubles) == 0 {
		return err
	}
	var examples []string
	for _, d := range doubles[:min(rowsShown, len(doubles))] {
		examples = append(examples, fmt.Sprintf("(%s)=(%s) in %d rows", strings.Join(k.Names, ", "), d.Key, d.Count))
	}
	number := fmt.Sprintf("%d keys occur", len(doubles))
	if len(doubles) == 1 {
		number = "1 key occurs"
	}
	s.broken(t, "unique", k.Name, "", fmt.Sprintf("%s %s is broken: %s more than once: %s", k.Kind, quote(k.Name), number, strings.Join(examples, "; ")),
		"There are rows twice that must exist once: amounts are counted double, updates and deletes by key hit several rows or only one of them, foreign keys point at two rows, and the index cannot be rebuilt.")
	return nil
}

// hash is a hash of 64 bits of a key that no other row may have, as an SQL expression;
// it is null for a key that may occur again. "" is that there is none.
func (k uniqueKey) hash(version int) string {
	keys := strings.Join(k.Keys, ", ")
	switch {
	case !k.Hashable && !k.ByValue, version < 140000:
		return ""
	case k.NullsEqual:
		return "hash_record_extended(ROW(" + keys + "), 0)"
	default:
		return fmt.Sprintf("CASE WHEN num_nulls(%[1]s) = 0 THEN hash_record_extended(ROW(%[1]s), 0) END", keys)
	}
}

// allDifferent says that no key occurs twice, in one statement, which costs less than
// half of what it costs to group the rows: single values are sorted instead of rows,
// and what has many bytes or parts is sorted by its hash. Equal keys
// have equal hashes; where two others have the same, nothing is said.
func (s *session) allDifferent(ctx context.Context, t table, k uniqueKey, where string) (bool, error) {
	value := k.hash(s.conn.Facts.VersionNum)
	if k.ByValue || len(k.Keys) == 1 && s.conn.Facts.VersionNum < 140000 {
		value = strings.Join(k.Keys, ", ")
	}
	if value == "" {
		return false, nil
	}
	var rows, values, different int64
	err := s.conn.QueryRow(ctx, fmt.Sprintf("SELECT count(*), count(v), count(DISTINCT v) FROM (SELECT %s AS v FROM ONLY %s WHERE %s) AS keys", value, t.Name.sql(), where)).Scan(&rows, &values, &different)
	return values == different && (!k.NullsEqual || rows-values <= 1), err
}

// double is a key that occurs more than once.
type double struct {
	Key   string
	Count int64
}

// doubles asks for the keys that occur more than once. Of a table of several pieces
// the hashes of the keys come first, piece by piece, where limits are to be kept: one
// statement is faster, but one that is slowed down would keep VACUUM, and the pruning of
// pages, from what others delete meanwhile.
func (s *session) doubles(ctx context.Context, t table, k uniqueKey, part part) ([]double, error) {
	conditions := []string{"true"}
	keys := strings.Join(k.Keys, ", ")
	if k.Predicate != "" {
		conditions = append(conditions, "("+k.Predicate+")")
	}
	if part.Of > 1 && s.conn.Facts.VersionNum >= 140000 {
		conditions = append(conditions, fmt.Sprintf("hash_record_extended(ROW(%s), 0) & 2147483647 BETWEEN %d AND %d",
			keys, part.Number*(1<<31/part.Of), (part.Number+1)*(1<<31/part.Of)))
	}
	blocks, err := s.blocks(ctx, t)
	if err != nil {
		return nil, err
	}
	where := strings.Join(conditions, " AND ")
	hash, pieces := k.hash(s.conn.Facts.VersionNum), s.split(blockRange{End: blocks, whole: true}, rangeBlocks)
	several := hash != "" && len(pieces) > 1 && (s.scope.RateLimit > 0 || s.scope.Share > 0)
	if several {
		switch hashes, err := s.repeated(ctx, t, hash, where, pieces, blocks); {
		case sqlstate(err) == "42883": // a value within has no hash
			several = false
		case err != nil || len(hashes) == 0:
			return nil, err
		default:
			where += fmt.Sprintf(" AND %s = ANY (%s)", hash, bigints(hashes))
		}
	}
	if !several {
		started := time.Now()
		different, err := s.allDifferent(ctx, t, k, where)
		s.throttle(ctx, started, int64(blocks)*int64(s.conn.Facts.BlockSize))
		if err != nil || different {
			return nil, err
		}
	}
	if !k.NullsEqual {
		where += " AND num_nulls(" + keys + ") = 0"
	}
	texts := make([]string, len(k.Keys))
	for i, key := range k.Keys {
		texts[i] = "coalesce(left((" + key + ")::text, 80), 'null')"
	}
	shown := "concat_ws(', ', " + strings.Join(texts, ", ") + ")"
	if s.scope.Rules.MaskKeys {
		shown = "'masked'"
	}
	rows, err := s.conn.Query(ctx, fmt.Sprintf("SELECT %s, count(*) FROM ONLY %s WHERE %s GROUP BY %s HAVING count(*) > 1 LIMIT %d",
		shown, t.Name.sql(), where, keys, rowLimit))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[double])
}

// hashesAtATime is how many pages of a table are in one row of hashes.
const hashesAtATime = 1024

// repeated gives hashes of keys that several rows have at one moment, up to rowLimit
// of them. The pieces of the table are read in passes until few hashes are left, in
// statements that are short: see repeats. A row that was moved meanwhile is met twice,
// so those that are met are looked at once more, together. ACCESS SHARE on the table.
func (s *session) repeated(ctx context.Context, t table, hash, where string, pieces []blockRange, blocks uint32) ([]int64, error) {
	var r repeats
	for more := true; more; more = r.again() {
		for i, piece := range pieces {
			r.progress = float64(i+1) / float64(len(pieces))
			var lists []string
			parts := s.split(blockRange{Start: piece.Start, End: max(min(piece.End, blocks), piece.Start+1)}, hashesAtATime)
			parts[len(parts)-1].End = piece.End
			for _, some := range parts {
				lists = append(lists, fmt.Sprintf("SELECT string_agg(int8send(%s), '') FROM ONLY %s WHERE %s AND %s", hash, t.Name.sql(), where, some.condition("")))
			}
			err := s.piece(ctx, piece, blocks, strings.Join(lists, " UNION ALL "), func(rows pgx.Rows) error {
				var some pgtype.DriverBytes
				err := rows.Scan(&some)
				r.add(some)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	hashes := r.found()
	if len(hashes) == 0 {
		return nil, nil
	}
	hashes = hashes[:min(len(hashes), rowLimit)]
	same := fmt.Sprintf("%s = ANY (%s)", hash, bigints(hashes))
	var places []string
	for _, piece := range pieces {
		sql := fmt.Sprintf("SELECT ctid::text FROM ONLY %s WHERE %s AND %s AND %s LIMIT %d", t.Name.sql(), where, piece.condition(""), same, rowLimit)
		err := s.piece(ctx, piece, blocks, sql, func(rows pgx.Rows) error {
			var place string
			err := rows.Scan(&place)
			places = append(places, place)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	const sql = "SELECT h FROM (SELECT %s AS h FROM ONLY %s WHERE ctid = ANY ($1::text[]::tid[])) AS rows GROUP BY h HAVING count(*) > 1 AND h = ANY ($2)"
	rows, err := s.conn.Query(ctx, fmt.Sprintf(sql, hash, t.Name.sql()), places, hashes)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// piece asks something of a piece of a table, and waits as long as the limits want.
func (s *session) piece(ctx context.Context, piece blockRange, blocks uint32, sql string, tell func(rows pgx.Rows) error) error {
	started := time.Now()
	rows, err := s.conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	for rows.Next() && err == nil {
		err = tell(rows)
	}
	rows.Close()
	if err = errors.Join(err, rows.Err()); err != nil {
		return err
	}
	s.throttle(ctx, started, int64(piece.pages(blocks))*int64(s.conn.Facts.BlockSize))
	return ctx.Err()
}

// bigints is a list of numbers as an array in SQL.
func bigints(list []int64) string {
	texts := make([]string, len(list))
	for i, n := range list {
		texts[i] = strconv.FormatInt(n, 10)
	}
	return "'{" + strings.Join(texts, ",") + "}'::bigint[]"
}

// exclusion is an exclusion constraint, or a key WITHOUT OVERLAPS (18).
type exclusion struct {
	Table     uint32
	Name      string
	Keys      []string // expressions of the index
	Operators []string // as SQL has them, one for each key
	Names     []string // names of the operators
	Ranges    []bool   // which keys are ranges
	Predicate string
}

// exclusionsSQL lists exclusion constraints.
const exclusionsSQL = `SELECT i.indrelid, k.conname::text,
	ARRAY(SELECT pg_get_indexdef(i.indexrelid, n, false) FROM generate_series(1, i.indnkeyatts) AS n ORDER BY n),
	ARRAY(SELECT format('OPERATOR(%I.%s)', ns.nspname, o.oprname) FROM unnest(k.conexclop) WITH ORDINALITY AS e(op, n)
		JOIN pg_operator o ON o.oid = e.op JOIN pg_namespace ns ON ns.oid = o.oprnamespace ORDER BY e.n),
	ARRAY(SELECT o.oprname::text FROM unnest(k.conexclop) WITH ORDINALITY AS e(op, n) JOIN pg_operator o ON o.oid = e.op ORDER BY e.n),
	ARRAY(SELECT y.typtype = 'r' FROM generate_series(1, i.indnkeyatts) AS n
		JOIN pg_attribute a ON a.attrelid = i.indexrelid AND a.attnum = n JOIN pg_type y ON y.oid = a.atttypid ORDER BY n),
	coalesce(pg_get_expr(i.indpred, i.indrelid), '')
	FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid
	WHERE k.conexclop IS NOT NULL AND k.contype IN ('x', 'p', 'u') AND k.conrelid = i.indrelid AND i.indrelid = ANY ($1)`

// maxComparisons bounds the pairs of rows of an exclusion constraint that are
// compared one by one: some ten seconds.
const maxComparisons = 100_000_000

// exclusion looks for pairs of rows that exclude each other. Ranges that must
// not overlap are sorted: if any two overlap then two that are neighbours do.
// Other operators need every row compared with every other; where that is too
// much, a sample of the rows is. ACCESS SHARE on the table.
func (s *session) exclusion(ctx context.Context, t table, x exclusion) error {
	if n := len(x.Keys); n == 0 || len(x.Operators) != n || len(x.Names) != n || len(x.Ranges) != n {
		return errors.New("the catalogues do not describe it completely (see the check catalog)")
	}
	where := ""
	if x.Predicate != "" {
		where = " WHERE " + x.Predicate
	}
	columns := make([]string, len(x.Keys))
	for i, key := range x.Keys {
		columns[i] = fmt.Sprintf("%s AS k%d", key, i)
	}
	base := fmt.Sprintf("WITH r AS MATERIALIZED (SELECT ctid AS place, %s FROM ONLY %s%s)", strings.Join(columns, ", "), t.Name.sql(), where)
	sql := base + x.neighbours()
	if !x.sortable() {
		var rows int64
		if err := s.conn.QueryRow(ctx, base+" SELECT count(*) FROM r").Scan(&rows); err != nil {
			return err
		}
		sample := rows
		if rows > 0 && rows*rows > maxComparisons && !s.scope.Deep && !x.hashable() {
			sample = max(1, maxComparisons/rows)
			s.partlyf("%s: of constraint %s %d of %d rows were compared with all others; --deep compares all", t.Name, quote(x.Name), sample, rows)
		}
		sql = base + x.pairs(sample, sample < rows)
	}
	rows, err := s.conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	type pair struct{ A, B string }
	pairs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[pair])
	if err != nil || len(pairs) == 0 {
		return err
	}
	var examples []string
	for _, p := range pairs[:min(rowsShown, len(pairs))] {
		examples = append(examples, "ctid "+p.A+" and "+p.B)
	}
	s.broken(t, "exclusion", x.Name, "", fmt.Sprintf("exclusion constraint %s is broken by at least %d pairs of rows: %s", quote(x.Name), len(pairs), strings.Join(examples, "; ")),
		"Rows exist together that exclude each other, for example two validity periods or bookings that overlap: look-ups give two answers, and the index cannot be rebuilt.")
	return nil
}

// hashable says that one operator is equality, so that few pairs are compared.
func (x exclusion) hashable() bool {
	return slices.Contains(x.Names, "=")
}

// sortable says that all operators but one are equality, and that one is the
// overlapping of ranges.
func (x exclusion) sortable() bool {
	overlaps := 0
	for i, name := range x.Names {
		switch {
		case name == "&&" && x.Ranges[i]:
			overlaps++
		case name != "=":
			return false
		}
	}
	return overlaps == 1
}

// neighbours asks for neighbours that overlap.
func (x exclusion) neighbours() string {
	var equal []string
	var period, operator string
	for i, name := range x.Names {
		if name == "=" {
			equal = append(equal, fmt.Sprintf("k%d", i))
		} else {
			period, operator = fmt.Sprintf("k%d", i), x.Operators[i]
		}
	}
	partition := ""
	if len(equal) > 0 {
		partition = "PARTITION BY " + strings.Join(equal, ", ") + " "
	}
	return fmt.Sprintf(` SELECT before::text, place::text FROM (
		SELECT place, %[1]s AS period, lag(place) OVER w AS before, lag(%[1]s) OVER w AS earlier FROM r WHERE num_nulls(%[2]s) = 0 AND NOT isempty(%[1]s)
		WINDOW w AS (%[3]sORDER BY %[1]s)) AS sorted WHERE earlier %[4]s period LIMIT %[5]d`,
		period, strings.Join(append(equal, period), ", "), partition, operator, rowLimit)
}

// pairs asks for pairs of rows, of which one is in the sample.
func (x exclusion) pairs(sample int64, sampled bool) string {
	conditions := make([]string, len(x.Operators))
	for i, operator := range x.Operators {
		conditions[i] = fmt.Sprintf("a.k%[1]d %[2]s b.k%[1]d", i, operator)
	}
	order, from := "a.place < b.place", "r"
	if sampled {
		order, from = "a.place <> b.place", fmt.Sprintf("(SELECT * FROM r ORDER BY random() LIMIT %d)", sample)
	}
	return fmt.Sprintf(" SELECT a.place::text, b.place::text FROM %s AS a JOIN r AS b ON %s AND %s LIMIT %d",
		from, order, strings.Join(conditions, " AND "), rowLimit)
}

// foreignKey is a foreign key of a table that holds rows.
type foreignKey struct {
	Table   uint32
	Name    string
	Columns []string
	// To is the table referred to, as SQL has it with ONLY unless it is
	// partitioned; ToName is its name.
	To      string
	ToName  string
	ToTable table
	// ToColumns, Operators and Collations belong to Columns.
	ToColumns  []string
	Operators  []string
	Collations []string
	// Period says that the last column is a period (18).
	Period bool
	Status string
}

// foreignKeysSQL lists the foreign keys of tables that hold rows: those of a
// partitioned table are found at its partitions, and those to the single
// partitions of a table referred to are part of the one to the table.
const foreignKeysSQL = `SELECT k.conrelid, k.conname::text,
	ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS c(n, i) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.n ORDER BY c.i),
	format(CASE WHEN r.relkind = 'p' THEN '%I.%I' ELSE 'ONLY %I.%I' END, rn.nspname, r.relname), format('%s.%s', rn.nspname, r.relname), r.oid, rn.nspname::text, r.relname::text, greatest(r.relpages, 0),
	ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS c(n, i) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = c.n ORDER BY c.i),
	ARRAY(SELECT format('OPERATOR(%I.%s)', ns.nspname, o.oprname) FROM unnest(k.conpfeqop) WITH ORDINALITY AS e(op, i)
		JOIN pg_operator o ON o.oid = e.op JOIN pg_namespace ns ON ns.oid = o.oprnamespace ORDER BY e.i),
	ARRAY(SELECT coalesce(' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname), '') FROM unnest(k.conkey, k.confkey) WITH ORDINALITY AS c(f, p, i)
		JOIN pg_attribute fa ON fa.attrelid = k.conrelid AND fa.attnum = c.f JOIN pg_attribute pa ON pa.attrelid = k.confrelid AND pa.attnum = c.p
		LEFT JOIN pg_collation co ON co.oid = pa.attcollation AND pa.attcollation <> fa.attcollation
		LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace ORDER BY c.i),
	coalesce(to_jsonb(k) ->> 'conperiod', 'false') = 'true',
	CASE WHEN to_jsonb(k) ->> 'conenforced' = 'false' THEN 'NOT ENFORCED' WHEN NOT k.convalidated THEN 'NOT VALID' ELSE '' END
	FROM pg_constraint k JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
	WHERE k.contype = 'f' AND k.conrelid = ANY ($1)
	AND NOT EXISTS (SELECT FROM pg_constraint p WHERE p.oid = k.conparentid AND p.conrelid = k.conrelid)
	ORDER BY k.conname`

// foreignKeys lists the foreign keys of tables.
func (s *session) foreignKeys(ctx context.Context, tables []table) ([]foreignKey, error) {
	return listPromises(ctx, s, "foreign keys", foreignKeysSQL, tables, func(row pgx.CollectableRow) (f foreignKey, err error) {
		err = row.Scan(&f.Table, &f.Name, &f.Columns, &f.To, &f.ToName, &f.ToTable.OID, &f.ToTable.Name.Schema, &f.ToTable.Name.Name, &f.ToTable.Pages,
			&f.ToColumns, &f.Operators, &f.Collations, &f.Period, &f.Status)
		return f, err
	})
}

// smallReferred is the size up to which a table referred to is kept in memory while the
// rows that refer to it are read.
const smallReferred = 32 << 20

// ruleOf is a foreign key as a rule of single rows, so that one scan of a table
// does for all its foreign keys to small tables. ok is false where the server would
// not keep the table referred to in a hash table, or where something stands in the
// way, which foreignKey tells of. ACCESS SHARE on both tables.
func (s *session) ruleOf(ctx context.Context, t table, f *foreignKey) (rule rowRule, ok bool) {
	if n := len(f.Columns); n == 0 || len(f.ToColumns) != n || len(f.Operators) != n || len(f.Collations) != n ||
		f.Period || !strings.HasPrefix(f.To, "ONLY ") || s.scope.Heaps.damaged(f.ToTable.OID) || s.scope.Reported.damaged(f.ToTable.Name) {
		return rowRule{}, false
	}
	blocks, err := s.blocks(ctx, f.ToTable)
	if err != nil || int64(blocks)*int64(s.conn.Facts.BlockSize) > smallReferred {
		return rowRule{}, false
	}
	alias := "p"
	if t.Name.Name == alias {
		alias = "q"
	}
	own, equal := make([]string, len(f.Columns)), make([]string, len(f.Columns))
	for i, column := range f.Columns {
		own[i] = quote(t.Name.Name) + "." + quote(column)
		equal[i] = fmt.Sprintf("%s.%s %s %s%s", alias, quote(f.ToColumns[i]), f.Operators[i], own[i], f.Collations[i])
	}
	rule = rowRule{
		Table: t.OID, Kind: "foreign key", Name: f.Name, Status: f.Status, reference: f,
		Wrong: fmt.Sprintf("num_nulls(%s) = 0 AND NOT EXISTS (SELECT FROM %s AS %s WHERE %s)", strings.Join(own, ", "), f.To, alias, strings.Join(equal, " AND ")),
	}
	rows, err := s.conn.Query(ctx, fmt.Sprintf("EXPLAIN SELECT FROM ONLY %s WHERE (%s) OR num_nulls(ctid) > 0", t.Name.sql(), rule.Wrong))
	if err != nil {
		return rowRule{}, false
	}
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return rule, err == nil && strings.Contains(strings.Join(plan, "\n"), "hashed SubPlan")
}

// foreignKey looks for rows in a part of a table of this many pages that refer to
// nothing. Both tables are read in one statement with one snapshot, so that what
// other transactions do meanwhile cannot look like a broken reference. ACCESS SHARE
// on both tables.
func (s *session) foreignKey(ctx context.Context, t table, f *foreignKey, primary []string, p part, size uint32) error {
	if n := len(f.Columns); n == 0 || len(f.ToColumns) != n || len(f.Operators) != n || len(f.Collations) != n {
		return errors.New("the catalogues do not describe it completely (see the check catalog)")
	}
	if s.scope.Heaps.damaged(f.ToTable.OID) || s.scope.Reported.damaged(f.ToTable.Name) {
		return fmt.Errorf("%s is damaged, so its rows are left alone", f.ToName)
	}
	var wrong []row
	// Each piece reads the table referred to once, so it must not be small beside
	// it, and need not be small where no rate is to be kept.
	blocks := max(rangeBlocks, uint32(f.ToTable.Pages))
	if s.scope.RateLimit <= 0 {
		blocks = max(unlimitedBlocks, blocks)
	}
	for _, piece := range s.pieces(p, size, blocks) {
		err := s.ask(ctx, t, f.Name, piece.pages(size), func() error {
			rows, err := s.conn.Query(ctx, f.orphans(t, s.keyText("f.", primary), piece))
			if err != nil {
				return err
			}
			found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
			for _, r := range found {
				wrong = addRow(wrong, r)
			}
			return err
		})
		if err != nil {
			return err
		}
		if len(wrong) >= rowLimit {
			break
		}
	}
	if len(wrong) > 0 {
		s.broken(t, "foreign key", f.Name, f.Status,
			fmt.Sprintf("foreign key %s (%s) is broken: what %s refer to does not exist in %s", quote(f.Name), strings.Join(f.Columns, ", "), describeRows(wrong), f.ToName),
			"These rows refer to rows that do not exist: joins leave them out, totals differ from report to report, and dumps of the tables cannot be restored.")
	}
	return nil
}

// unlimitedBlocks is the size of a piece where no rate is to be kept: 4 GB.
const unlimitedBlocks = 524288

// orphans asks for rows that refer to nothing.
func (f foreignKey) orphans(t table, key string, r blockRange) string {
	var own, joins []string
	for i, column := range f.Columns {
		own = append(own, "f."+quote(column))
		if i < len(f.Columns)-1 || !f.Period {
			joins = append(joins, fmt.Sprintf("p.%s %s f.%s%s", quote(f.ToColumns[i]), f.Operators[i], quote(column), f.Collations[i]))
		}
	}
	missing := fmt.Sprintf("NOT EXISTS (SELECT FROM %s AS p WHERE %s)", f.To, strings.Join(joins, " AND "))
	if f.Period {
		last := len(f.Columns) - 1
		missing = fmt.Sprintf("NOT coalesce(f.%[1]s <@ (SELECT range_agg(p.%[2]s) FROM %[3]s AS p WHERE %[4]s AND p.%[2]s && f.%[1]s), false)",
			quote(f.Columns[last]), quote(f.ToColumns[last]), f.To, strings.Join(joins, " AND "))
	}
	// From 17 on the planner takes IS NOT NULL for true where a column is NOT NULL;
	// rows that are null all the same break that, and not the foreign key.
	return fmt.Sprintf(`SELECT place, key FROM (SELECT f.ctid::text AS place, %s AS key, num_nulls(%s) AS nulls FROM %s
		WHERE %s IS NOT NULL AND %s AND %s OFFSET 0) AS orphans WHERE nulls = 0 LIMIT %d`,
		key, strings.Join(own, ", "), r.from(t, "f"), strings.Join(own, " IS NOT NULL AND "), r.condition("f."), missing, rowLimit)
}
