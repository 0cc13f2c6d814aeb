package guard

import (
	"context"
	"fmt"
	"math/big"
	"strings"

	"github.com/jackc/pgx/v5"
)

// distrust keeps the planner from using what is to be proved: it must not read
// the indexes, nor conclude anything from constraints.
const distrust = `SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off;
	SET LOCAL constraint_exclusion = off; SET LOCAL row_security = off; SET LOCAL lock_timeout = '2s'`

// constraint is one promise with the query that counts the rows that break it.
type constraint struct {
	object string
	query  string
}

// maxViolations bounds what is counted.
const maxViolations = 1000

// constraintSQL lists the validated constraints of a table, and the foreign
// keys that refer to it, with the names of their columns and operators.
// ACCESS SHARE on catalogues, no privilege.
const constraintSQL = `SELECT k.contype::text, k.conname::text, n.nspname::text, c.relname::text, c.relkind::text, coalesce(fn.nspname::text, ''), coalesce(f.relname::text, ''), coalesce(f.relkind::text, ''),
		coalesce(pg_get_expr(k.conbin, k.conrelid), ''),
		coalesce((SELECT array_agg(a.attname::text ORDER BY x.i) FROM unnest(k.conkey) WITH ORDINALITY x(num, i) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.num), '{}'),
		coalesce((SELECT array_agg(a.attname::text ORDER BY x.i) FROM unnest(k.confkey) WITH ORDINALITY x(num, i) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.num), '{}'),
		coalesce((SELECT array_agg(quote_ident(on1.nspname) || '.' || o.oprname ORDER BY x.i) FROM unnest(k.conpfeqop) WITH ORDINALITY x(op, i) JOIN pg_operator o ON o.oid = x.op JOIN pg_namespace on1 ON on1.oid = o.oprnamespace), '{}')
	FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_class f ON f.oid = k.confrelid LEFT JOIN pg_namespace fn ON fn.oid = f.relnamespace
	WHERE (k.conrelid = $1::oid OR k.confrelid = $1::oid) AND k.contype IN ('f', 'c', 'u', 'p') AND k.convalidated
		AND pg_get_constraintdef(k.oid) !~ 'PERIOD|WITHOUT OVERLAPS|NOT ENFORCED'
		AND NOT EXISTS (SELECT FROM pg_constraint p WHERE p.oid = k.conparentid AND p.confrelid <> k.confrelid)
	ORDER BY k.contype, 3, 4, 2`

// constraintsOf lists what a table and what refers to it must keep.
func constraintsOf(ctx context.Context, q querier, t table) ([]constraint, error) {
	rows, err := q.Query(ctx, constraintSQL, t.OID)
	if err != nil {
		return nil, fmt.Errorf("reading the constraints of %s: %w", t, err)
	}
	constraints, err := pgx.CollectRows(rows, scanConstraint)
	if err != nil {
		return nil, fmt.Errorf("reading the constraints of %s: %w", t, err)
	}
	rows, err = q.Query(ctx, `SELECT attname::text FROM pg_attribute WHERE attrelid = $1::oid AND attnum > 0 AND attnotnull AND NOT attisdropped ORDER BY attnum`, t.OID)
	if err != nil {
		return nil, fmt.Errorf("reading the columns of %s: %w", t, err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the columns of %s: %w", t, err)
	}
	if len(columns) > 0 && t.Kind != "m" {
		// num_nulls: the planner knows that column IS NULL cannot be.
		constraints = append(constraints, constraint{
			object: t.String() + " NOT NULL",
			query:  fmt.Sprintf("SELECT count(*) FROM (SELECT FROM %s WHERE num_nulls(%s) > 0 LIMIT %d) x", from(t.Schema, t.Name, t.Kind), list("", columns), maxViolations),
		})
	}
	return constraints, nil
}

// from names a table without the tables that inherit from it, and a
// partitioned one with its partitions.
func from(schema, name, kind string) string {
	sql := pgx.Identifier{schema, name}.Sanitize()
	if kind == "p" {
		return sql
	}
	return "ONLY " + sql
}

func list(alias string, columns []string) string {
	var names []string
	for _, c := range columns {
		names = append(names, alias+pgx.Identifier{c}.Sanitize())
	}
	return strings.Join(names, ", ")
}

func scanConstraint(row pgx.CollectableRow) (constraint, error) {
	var kind, name, schema, relation, relkind, otherSchema, other, otherKind, expression string
	var columns, otherColumns, operators []string
	if err := row.Scan(&kind, &name, &schema, &relation, &relkind, &otherSchema, &other, &otherKind, &expression, &columns, &otherColumns, &operators); err != nil {
		return constraint{}, err
	}
	c := constraint{object: schema + "." + relation + " " + name}
	table := from(schema, relation, relkind)
	var where string
	switch kind {
	case "f":
		var on, set []string
		for i, column := range columns {
			on = append(on, fmt.Sprintf("p.%s OPERATOR(%s) f.%s", pgx.Identifier{otherColumns[i]}.Sanitize(), operators[i], pgx.Identifier{column}.Sanitize()))
			set = append(set, "f."+pgx.Identifier{column}.Sanitize()+" IS NOT NULL")
		}
		where = fmt.Sprintf("SELECT FROM %s f WHERE %s AND NOT EXISTS (SELECT FROM %s p WHERE %s)",
			table, strings.Join(set, " AND "), from(otherSchema, other, otherKind), strings.Join(on, " AND "))
	case "c":
		where = fmt.Sprintf("SELECT FROM %s WHERE NOT (%s)", table, expression)
	default:
		var set []string
		for _, column := range columns {
			set = append(set, pgx.Identifier{column}.Sanitize()+" IS NOT NULL")
		}
		where = fmt.Sprintf("SELECT FROM %s WHERE %s GROUP BY %s HAVING count(*) > 1", table, strings.Join(set, " AND "), list("", columns))
	}
	c.query = fmt.Sprintf("SELECT count(*) FROM (%s LIMIT %d) x", where, maxViolations)
	return c, nil
}

// violations counts the rows that break a constraint.
func (s session) violations(ctx context.Context, c constraint) (count int64, err error) {
	err = s.aside(ctx, distrust, func() error { return s.QueryRow(ctx, c.query).Scan(&count) })
	if err != nil {
		return 0, fmt.Errorf("validating %s: %w", c.object, err)
	}
	return count, nil
}

// verifyConstraints validates every constraint of the tables anew. before is
// another session, which still sees the rows as they were: what was broken then
// was not broken by this run.
func (r *run) verifyConstraints(ctx context.Context, s session, before *session, tables []table) []Answer {
	var answers []Answer
	seen := make(map[string]bool)
	bad := 0
	for _, t := range tables {
		if t.Bytes > r.settings().FingerprintLimit {
			answers = append(answers, Answer{"constraints", t.String(), Unknown, "not validated: " + size(t.Bytes) + " is over fingerprint_limit"})
			continue
		}
		constraints, err := constraintsOf(ctx, s, t)
		if err != nil {
			answers = append(answers, Answer{"constraints", t.String(), Unknown, oneLine(err)})
			continue
		}
		for _, c := range constraints {
			if seen[c.object] {
				continue
			}
			seen[c.object] = true
			if a := verifyConstraint(ctx, s, before, c); a.State != OK {
				bad++
				answers = append(answers, a)
			}
		}
	}
	if good := len(seen) - bad; good > 0 {
		answers = append(answers, Answer{"constraints", "", OK, fmt.Sprintf("%d constraints validated anew", good)})
	}
	return answers
}

func verifyConstraint(ctx context.Context, s session, before *session, c constraint) Answer {
	answer := Answer{Check: "constraint", Object: c.object, State: OK}
	count, err := s.violations(ctx, c)
	switch {
	case err != nil:
		answer.State, answer.Message = Unknown, oneLine(err)
	case count > 0:
		answer.State, answer.Message = Failed, fmt.Sprintf("%d rows break it%s", count, bounded(count))
		if before == nil {
			break
		}
		if earlier, err := before.violations(ctx, c); err == nil && earlier >= count {
			answer.State, answer.Message = Warning, fmt.Sprintf("%d rows break it, as before", count)
		}
	}
	return answer
}

func bounded(count int64) string {
	if count >= maxViolations {
		return " at least"
	}
	return ""
}

// invariantSettings are those with which the check invariant evaluates too.
const invariantSettings = "SET LOCAL lock_timeout = '5s'; SET LOCAL row_security = off; SET LOCAL search_path = pg_catalog, public"

// invariant says whether a rule of the user holds, and what breaks it.
func (s session) invariant(ctx context.Context, i Invariant) (ok bool, evidence string, err error) {
	err = s.aside(ctx, invariantSettings, func() error {
		if i.Min == "" && i.Max == "" && i.EqualTo == "" {
			rows, err := s.ask(ctx, i.Query)
			if err != nil {
				return err
			}
			defer rows.Close()
			ok = true
			if rows.Next() {
				ok = false
				values, err := rows.Values()
				if err != nil {
					return err
				}
				evidence = fmt.Sprintf("for example %v", values)
			}
			return rows.Err()
		}
		low, high := i.Min, i.Max
		if i.EqualTo != "" {
			if err := s.QueryRow(ctx, "SELECT ("+trimQuery(i.EqualTo)+")::text").Scan(&low); err != nil {
				return err
			}
			high = low
		}
		var value string
		if err := s.QueryRow(ctx, "SELECT ("+trimQuery(i.Query)+")::text").Scan(&value); err != nil {
			return err
		}
		ok = (low == "" || atLeast(value, low)) && (high == "" || atLeast(high, value))
		evidence = fmt.Sprintf("%s, expected from %q to %q", value, low, high)
		return nil
	})
	return ok, evidence, err
}

func trimQuery(query string) string { return strings.TrimRight(strings.TrimSpace(query), "; \n") }

// atLeast compares numbers as numbers; other texts must be the same.
func atLeast(a, b string) bool {
	x, isNumber := new(big.Rat).SetString(a)
	y, also := new(big.Rat).SetString(b)
	if isNumber && also {
		return x.Cmp(y) >= 0
	}
	return a == b
}

// holds says whether an expectation is true, and what it is instead.
func (s session) holds(ctx context.Context, query string) (ok bool, evidence string, err error) {
	err = s.aside(ctx, "SET LOCAL lock_timeout = '5s'; SET LOCAL row_security = off", func() error {
		rows, err := s.ask(ctx, query)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			values, err := rows.Values()
			if err != nil {
				return err
			}
			evidence = fmt.Sprintf("%v", values)
			truth, isBool := values[0].(bool)
			ok = isBool && truth && len(values) == 1
		}
		return rows.Err()
	})
	return ok, evidence, err
}

// verifyInvariants evaluates the user's rules and expectations. broken are the
// names of those that were violated before.
func (r *run) verifyInvariants(ctx context.Context, s session, broken map[string]bool) []Answer {
	var answers []Answer
	for _, invariant := range r.options.Invariants {
		answer := Answer{Check: "invariant", Object: invariant.Name, State: OK, Message: "holds"}
		ok, evidence, err := s.invariant(ctx, invariant)
		switch {
		case err != nil:
			answer.State, answer.Message = Failed, "cannot be evaluated: "+oneLine(err)
		case !ok && broken[invariant.Name]:
			answer.State, answer.Message = Warning, "is violated, as before: "+evidence
		case !ok:
			answer.State, answer.Message = Failed, "is violated: "+evidence
		}
		answers = append(answers, answer)
	}
	for _, query := range r.settings().Expect {
		answer := Answer{Check: "expectation", Object: query, State: OK, Message: "is true"}
		ok, evidence, err := s.holds(ctx, query)
		switch {
		case err != nil:
			answer.State, answer.Message = Failed, "cannot be evaluated: "+oneLine(err)
		case !ok:
			answer.State, answer.Message = Failed, "is not true: "+evidence
		}
		answers = append(answers, answer)
	}
	return answers
}
