package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// sequenceCheck compares each sequence with the column that takes its numbers
// from it: a sequence that is behind its column gives out numbers that exist,
// and one that is near its end stops all inserts.
func sequenceCheck() Check {
	return Check{
		Name:     "sequence",
		Question: "Is every sequence ahead of the column that takes its numbers from it, and far from its end?",
		Kinds:    []Kind{{ClassDataRule, SeverityCritical}, {ClassDataRule, SeverityWarning}},
		Interval: time.Hour,
		Needs:    "SELECT on the tables and their sequences (pg_read_all_data, 14+)",
		Locks:    "ACCESS SHARE on one table and its sequence at a time",
		run:      runSequence,
	}
}

// sequence is a sequence and the column that takes its numbers from it.
type sequence struct {
	Name   RelationName
	Table  table
	Column string
	// Unique says that the column alone is a valid unique key; Indexed that its
	// largest value can be looked up.
	Unique, Indexed bool
	Increment       int64
	// Start and Limit are the first and last numbers that sequence and column can
	// hold, in the direction of the increment.
	Start, Limit int64
	Cycles       bool
}

// sequencesSQL lists sequences that are owned by a column or used in its
// default. An identity column's sequence is a part of the column. ACCESS SHARE
// on catalogues.
const sequencesSQL = `WITH used AS (
	SELECT d.objid AS seq, d.refobjid AS tab, d.refobjsubid AS att FROM pg_depend d
		WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
	UNION
	SELECT d.refobjid, f.adrelid, f.adnum FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
		AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> f.adrelid
)
SELECT sn.nspname::text, sc.relname::text, c.oid, n.nspname::text, c.relname::text, greatest(c.relpages, 0), a.attname::text,
	EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum),
	EXISTS (SELECT FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_am am ON am.oid = ic.relam
		WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = a.attnum AND am.amname = 'btree'),
	s.seqincrement, CASE WHEN s.seqincrement > 0 THEN s.seqmin ELSE s.seqmax END,
	CASE WHEN s.seqincrement > 0 THEN least(s.seqmax, CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647 ELSE s.seqmax END)
		ELSE greatest(s.seqmin, CASE a.atttypid WHEN 'int2'::regtype THEN -32768 WHEN 'int4'::regtype THEN -2147483648 ELSE s.seqmin END) END,
	s.seqcycle
	FROM used u JOIN pg_sequence s ON s.seqrelid = u.seq
	JOIN pg_class sc ON sc.oid = u.seq JOIN pg_namespace sn ON sn.oid = sc.relnamespace
	JOIN pg_class c ON c.oid = u.tab AND c.relkind IN ('r', 'p') JOIN pg_namespace n ON n.oid = c.relnamespace
	JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.att AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)
	WHERE NOT c.relispartition AND c.relpersistence <> 't' AND (c.relpersistence = 'p' OR NOT pg_is_in_recovery())
	AND ($1::text[] IS NULL OR EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		WHERE (wanted.schemaname, wanted.relname) IN ((n.nspname, c.relname), (sn.nspname, sc.relname))))
	ORDER BY 1, 2, 4, 5`

// smallTable is the number of pages up to which the largest value of a column
// without an index is looked for in every run.
const smallTable = 8192

func runSequence(ctx context.Context, s *session) error {
	schemas, names := s.wanted()
	rows, err := s.conn.Query(ctx, sequencesSQL, schemas, names)
	if err != nil {
		return fmt.Errorf("listing sequences: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (q sequence, err error) {
		err = row.Scan(&q.Name.Schema, &q.Name.Name, &q.Table.OID, &q.Table.Name.Schema, &q.Table.Name.Name, &q.Table.Pages, &q.Column,
			&q.Unique, &q.Indexed, &q.Increment, &q.Start, &q.Limit, &q.Cycles)
		return q, err
	})
	if err != nil {
		return fmt.Errorf("listing sequences: %w", err)
	}
	if err := s.set(ctx, "SET row_security = off; SET statement_timeout = '5min'"); err != nil {
		return err
	}
	if err := s.outOfBounds(ctx, schemas, names); err != nil {
		if s.conn.IsClosed() {
			return err
		}
		s.problem("pg_sequences", err)
	}
	return s.each(ctx, len(list), func(i int) error { return s.sequence(ctx, list[i]) }, func(i int) string { return list[i].Name.String() })
}

// outOfBoundsSQL lists the sequences whose last number is none of theirs. Reads each
// sequence; ACCESS SHARE on it.
const outOfBoundsSQL = `SELECT q.schemaname::text, q.sequencename::text, q.last_value, q.min_value, q.max_value FROM pg_sequences q
	WHERE q.last_value NOT BETWEEN q.min_value AND q.max_value AND ($1::text[] IS NULL OR EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		WHERE (wanted.schemaname, wanted.relname) = (q.schemaname, q.sequencename)))`

// outOfBounds reports them; the server itself lets no sequence go there.
func (s *session) outOfBounds(ctx context.Context, schemas, names []string) error {
	rows, err := s.conn.Query(ctx, outOfBoundsSQL, schemas, names)
	if err != nil {
		return err
	}
	var name RelationName
	var last, least, most int64
	_, err = pgx.ForEachRow(rows, []any{&name.Schema, &name.Name, &last, &least, &most}, func() error {
		s.found(Finding{
			Class: ClassDataRule, Severity: SeverityCritical, Schema: name.Schema, Relation: name.Name,
			Message: fmt.Sprintf("the last number of the sequence is %d, but its numbers are those from %d to %d", last, least, most),
			Impact:  "nextval() fails, or gives out numbers that it must not give out. The server itself lets no sequence go there: its file or pg_sequence was changed by something else.",
			Action:  "Look for other damage (check files, page, catalog). Then setval() the sequence behind the largest number that was used.",
		}, "bounds")
		return nil
	})
	return err
}

// sequence looks at one sequence. The column is read first: the sequence only
// moves on, so numbers given out meanwhile cannot make it look behind.
func (s *session) sequence(ctx context.Context, q sequence) error {
	if s.scope.Heaps.damaged(q.Table.OID) {
		return errors.New("its table is damaged and is left alone")
	}
	farthest, err := s.farthest(ctx, q)
	if err != nil {
		return err
	}
	var last int64
	var called bool
	if err := s.conn.QueryRow(ctx, "SELECT last_value, is_called FROM "+q.Name.sql()).Scan(&last, &called); err != nil {
		return err
	}
	s.nearEnd(q, last)
	if farthest != nil && behind(q, last, called, *farthest) {
		if err := s.foundBehind(ctx, q, last, called, *farthest); err != nil {
			return err
		}
	}
	s.result.Bytes += int64(s.conn.Facts.BlockSize)
	s.looked(q.Name)
	return nil
}

// farthest is the largest value of the column that the sequence can come to, or
// the smallest when it counts down; nil is no such row. Without an index it
// reads the table, if that is not large.
func (s *session) farthest(ctx context.Context, q sequence) (*int64, error) {
	if !q.Indexed && q.Table.Pages > smallTable && !s.scope.Deep {
		s.partlyf("%s: no index leads to the largest value of %s.%s, and the table is large; --deep looks", q.Name, q.Table.Name, quote(q.Column))
		return nil, nil //nolint:nilnil // no row was found, as documented
	}
	aggregate := "max"
	if q.Increment < 0 {
		aggregate = "min"
	}
	started := time.Now()
	var farthest *int64
	err := s.conn.QueryRow(ctx, fmt.Sprintf("SELECT %[1]s(%[2]s)::bigint FROM %[3]s WHERE %[2]s BETWEEN '%[4]d'::bigint AND '%[5]d'::bigint",
		aggregate, quote(q.Column), q.Table.Name.sql(), min(q.Start, q.Limit), max(q.Start, q.Limit))).Scan(&farthest)
	if !q.Indexed {
		s.throttle(ctx, started, int64(q.Table.Pages)*int64(s.conn.Facts.BlockSize))
	}
	return farthest, err
}

// next is the number that the sequence gives out next.
func (q sequence) next(last int64, called bool) int64 {
	if called {
		return last + q.Increment
	}
	return last
}

// behind says that numbers which the sequence is still to give out may be in
// the column already.
func behind(q sequence, last int64, called bool, farthest int64) bool {
	next := q.next(last, called)
	if q.Increment > 0 {
		return farthest >= next
	}
	return farthest <= next
}

func (s *session) foundBehind(ctx context.Context, q sequence, last int64, called bool, farthest int64) error {
	next := q.next(last, called)
	var taken bool
	if q.Indexed || q.Table.Pages <= smallTable || s.scope.Deep {
		err := s.conn.QueryRow(ctx, fmt.Sprintf("SELECT EXISTS (SELECT FROM %s WHERE %s = $1)", q.Table.Name.sql(), quote(q.Column)), next).Scan(&taken)
		if err != nil {
			return err
		}
	}
	if q.Cycles && (!taken || !q.Unique) {
		return nil // it comes to old numbers again, as it is meant to
	}
	f := Finding{
		Class: ClassDataRule, Severity: SeverityWarning, Schema: q.Name.Schema, Relation: q.Name.Name,
		Message: fmt.Sprintf("the sequence gives out %d next, but %s.%s has numbers up to %d", next, q.Table.Name, quote(q.Column), farthest),
		Impact:  "When the sequence comes to a number that is taken, inserts fail with a duplicate key, or two rows get the same number where no unique key prevents it.",
		Action: fmt.Sprintf("In a quiet moment: SELECT setval(%s, (SELECT max(%s) FROM %s)); then find out who wrote numbers by hand or restored the table without its sequence.",
			literal(q.Name.sql()), quote(q.Column), q.Table.Name.sql()),
	}
	if q.Increment < 0 {
		f.Message = strings.Replace(f.Message, "up to", "down to", 1)
		f.Action = strings.Replace(f.Action, "max(", "min(", 1)
	}
	if taken {
		f.Message += fmt.Sprintf("; %d itself is taken", next)
		f.Severity = SeverityCritical
		if !q.Unique {
			f.Severity = SeverityWarning
		}
	}
	s.found(f, "behind "+q.Column)
	return nil
}

// nearEnd reports a sequence that has given out most of its numbers.
func (s *session) nearEnd(q sequence, last int64) {
	const most = 0.85
	span, used := float64(q.Limit)-float64(q.Start), float64(last)-float64(q.Start)
	if q.Cycles || span == 0 || used/span < most {
		return
	}
	s.found(Finding{
		Class: ClassDataRule, Severity: SeverityWarning, Schema: q.Name.Schema, Relation: q.Name.Name,
		Message: fmt.Sprintf("the sequence of %s.%s is at %d of %d: %.1f %% of its numbers are used", q.Table.Name, quote(q.Column), last, q.Limit, 100*used/span),
		Impact:  "When it comes to its end every insert that needs a number fails.",
		Action:  "Plan the change of the column, and of every column that refers to it, to bigint (ALTER TABLE ... ALTER COLUMN ... TYPE rewrites the table under an ACCESS EXCLUSIVE lock), and the sequence with ALTER SEQUENCE ... AS bigint.",
	}, "near its end")
}

// literal is a text as SQL has it.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
