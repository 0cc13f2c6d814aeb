package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// collationCheck compares the versions of collations that were recorded with
// those of the operating system's and ICU's libraries, and looks whether the keys
// of B-tree indexes on texts really are in order by today's rules. A changed
// version is a warning; a changed order makes the index wrong.
func collationCheck() Check {
	return Check{
		Name:     "collation",
		Question: "Are indexes on texts in order by the sort rules of today?",
		Kinds:    []Kind{{ClassCorruption, SeverityCritical}, {ClassUnsafeSetting, SeverityWarning}},
		Interval: 24 * time.Hour,
		Needs:    "SELECT on the tables for the order of their indexes (pg_read_all_data, 14+)",
		Locks:    "ACCESS SHARE on one table and its index at a time",
		run:      runCollation,
	}
}

const (
	// orderRows is how many neighbouring keys are compared at each place of an
	// index, and orderPlaces at how many places besides its start.
	orderRows   = 10000
	orderPlaces = 3
)

// textIndex is a B-tree index whose first column is sorted by a collation.
type textIndex struct {
	Name  RelationName
	Table table
	// Key is the first column with its collation, Condition that of a partial
	// index.
	Key, Condition string
	Descending     bool
	NullsFirst     bool
}

// textIndexesSQL lists the B-tree indexes that are sorted by a collation other
// than C first. ACCESS SHARE on catalogues.
const textIndexesSQL = `SELECT n.nspname::text, c.relname::text, t.oid, tn.nspname::text, t.relname::text, greatest(t.relpages, 0),
	format('%s COLLATE %I.%I', CASE WHEN i.indkey[0] = 0 THEN '(' || pg_get_indexdef(i.indexrelid, 1, true) || ')' ELSE quote_ident(a.attname) END, cn.nspname, l.collname),
	coalesce(pg_get_expr(i.indpred, i.indrelid), 'true'), i.indoption[0] & 1 = 1, i.indoption[0] & 2 = 2
	FROM pg_index i
	JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
	JOIN pg_am am ON am.oid = c.relam AND am.amname = 'btree'
	JOIN pg_opclass o ON o.oid = i.indclass[0] AND o.opcname IN ('text_ops', 'varchar_ops', 'bpchar_ops')
	JOIN pg_collation l ON l.oid = i.indcollation[0] JOIN pg_namespace cn ON cn.oid = l.collnamespace
	JOIN pg_database d ON d.datname = current_database()
	LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
	WHERE c.relkind = 'i' AND i.indisvalid AND i.indisready AND i.indislive AND c.relpersistence <> 't'
	AND (c.relpersistence = 'p' OR NOT pg_is_in_recovery()) AND tn.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
	AND l.collname NOT IN ('C', 'POSIX', 'ucs_basic', 'pg_c_utf8')
	AND NOT (l.collname = 'default' AND coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' AND d.datcollate IN ('C', 'POSIX'))
	AND ($1::text[] IS NULL OR EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		WHERE (wanted.schemaname, wanted.relname) IN ((n.nspname, c.relname), (tn.nspname, t.relname))))
	ORDER BY 1, 2`

func runCollation(ctx context.Context, s *session) error {
	if len(s.scope.Relations) == 0 {
		if err := s.collationVersions(ctx); err != nil {
			s.problem("pg_collation", err)
		}
	}
	schemas, names := s.wanted()
	rows, err := s.conn.Query(ctx, textIndexesSQL, schemas, names)
	if err != nil {
		return fmt.Errorf("listing indexes on texts: %w", err)
	}
	indexes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (i textIndex, err error) {
		err = row.Scan(&i.Name.Schema, &i.Name.Name, &i.Table.OID, &i.Table.Name.Schema, &i.Table.Name.Name, &i.Table.Pages,
			&i.Key, &i.Condition, &i.Descending, &i.NullsFirst)
		return i, err
	})
	if err != nil {
		return fmt.Errorf("listing indexes on texts: %w", err)
	}
	const onlyIndexes = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET row_security = off"
	if _, err := s.conn.PgConn().Exec(ctx, onlyIndexes).ReadAll(); err != nil {
		return fmt.Errorf("switching sorting off: %w", err)
	}
	return s.each(ctx, len(indexes), func(n int) error { return s.order(ctx, indexes[n]) },
		func(n int) string { return indexes[n].Name.String() })
}

// databaseVersionSQL is of 15 and newer; usedSQL lists the collations with
// another version than recorded that indexes use. ACCESS SHARE on catalogues.
const (
	databaseVersionSQL = `SELECT coalesce(datcollversion, ''), coalesce(pg_database_collation_actual_version(oid), '')
		FROM pg_database WHERE datname = current_database()`
	usedSQL = `SELECT n.nspname::text || '.' || l.collname, l.collversion, coalesce(pg_collation_actual_version(l.oid), ''), count(*)
		FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
		JOIN pg_index i ON l.oid = ANY (i.indcollation)
		WHERE l.collversion IS NOT NULL AND l.collversion IS DISTINCT FROM pg_collation_actual_version(l.oid)
		GROUP BY 1, 2, 3`
)

// collationVersions compares recorded versions with actual ones.
func (s *session) collationVersions(ctx context.Context) error {
	if s.conn.Facts.VersionNum >= 150000 {
		var recorded, actual string
		if err := s.conn.QueryRow(ctx, databaseVersionSQL).Scan(&recorded, &actual); err != nil {
			return err
		}
		s.result.Objects++
		if recorded != "" && actual != "" && recorded != actual {
			s.foundVersion("the collation of the database", recorded, actual, "every index on a text that names no collation of its own",
				"ALTER DATABASE ... REFRESH COLLATION VERSION")
		}
	}
	rows, err := s.conn.Query(ctx, usedSQL)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		Name, Recorded, Actual string
		Indexes                int
	}])
	if err != nil {
		return err
	}
	for _, c := range list {
		s.foundVersion("the collation "+c.Name, c.Recorded, c.Actual, fmt.Sprintf("%d indexes", c.Indexes), "ALTER COLLATION ... REFRESH VERSION")
	}
	return nil
}

func (s *session) foundVersion(what, recorded, actual, uses, refresh string) {
	s.found(Finding{
		Class: ClassUnsafeSetting, Severity: SeverityWarning,
		Message: fmt.Sprintf("%s has the version %s, but the library now has %s; %s were built with the old one", what, recorded, actual, uses),
		Impact:  "Where the order of some texts changed, indexes miss rows and unique indexes let duplicates in. Most updates change the order of few texts or none.",
		Action:  "Rebuild what depends on it (REINDEX CONCURRENTLY, unique indexes first, after a look for duplicates), then " + refresh + ".",
	}, "version "+what)
}

// order compares neighbouring keys of an index, as the index has them.
func (s *session) order(ctx context.Context, i textIndex) error {
	if s.scope.Heaps.damaged(i.Table.OID) {
		return fmt.Errorf("not looked at because its table %s is damaged", i.Table.Name)
	}
	direction, wrong := "ASC", ">"
	if i.Descending {
		direction, wrong = "DESC", "<"
	}
	nulls := "LAST"
	if i.NullsFirst {
		nulls = "FIRST"
	}
	from := fmt.Sprintf("FROM %s WHERE %s AND (%s)", quote(i.Table.Name.Schema)+"."+quote(i.Table.Name.Name), i.Key+" IS NOT NULL", i.Condition)
	scan := func(condition string) string {
		limit := fmt.Sprintf("LIMIT %d", orderRows)
		if s.scope.Deep {
			limit = ""
		}
		return fmt.Sprintf("SELECT %s AS key %s %s ORDER BY %s %s NULLS %s %s", i.Key, from, condition, i.Key, direction, nulls, limit)
	}
	uses, err := s.usesIndex(ctx, scan(""), i.Name.Name)
	if err != nil {
		return err
	}
	if !uses {
		s.partlyf("%s: the server does not read it in order by itself", i.Name)
		return nil
	}
	places := []string{""}
	if !s.scope.Deep {
		starts, err := s.sample(ctx, i)
		if err != nil {
			return err
		}
		comparison := ">="
		if i.Descending {
			comparison = "<="
		}
		for _, start := range starts {
			places = append(places, fmt.Sprintf("AND %s %s %s", i.Key, comparison, literal(start)))
		}
	}
	started := time.Now()
	for _, place := range places {
		bad, rows, err := s.disorder(ctx, scan(place), wrong)
		if err != nil {
			return err
		}
		s.throttle(ctx, started, int64(rows)*64)
		if bad == 0 {
			continue
		}
		pauseToConfirm(ctx)
		if bad, rows, err = s.disorder(ctx, scan(place), wrong); err != nil {
			return err
		}
		if bad > 0 {
			s.found(Finding{
				Class: ClassCorruption, Severity: SeverityCritical, Schema: i.Name.Schema, Relation: i.Name.Name,
				Message: fmt.Sprintf("%d of %d neighbouring keys of the index are not in order by the sort rules of today (%s)", bad, rows, i.Key),
				Impact:  fmt.Sprintf("Statements that use this index of %s miss rows, and a unique index lets duplicates in; the table itself is intact.", i.Table.Name),
				Action:  "Find out whether the operating system or ICU was upgraded, or the files came from another machine. Look for duplicates if the index is unique, then REINDEX INDEX CONCURRENTLY; do the same for every index on texts.",
			}, "order")
			break
		}
	}
	s.looked(i.Name)
	return nil
}

// usesIndex says whether a statement reads an index in its order.
func (s *session) usesIndex(ctx context.Context, sql, name string) (bool, error) {
	rows, err := s.conn.Query(ctx, "EXPLAIN (COSTS OFF) "+sql)
	if err != nil {
		return false, err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false, err
	}
	plan := strings.Join(lines, "\n")
	ours := strings.Contains(plan, "using "+name+" on") || strings.Contains(plan, "using "+quote(name)+" on")
	return ours && !strings.Contains(plan, "Sort"), nil
}

// sample takes some keys of a table from anywhere in it.
func (s *session) sample(ctx context.Context, i textIndex) ([]string, error) {
	if i.Table.Pages < 10 {
		return nil, nil
	}
	percent := min(100, 100*float64(orderPlaces*2)/float64(i.Table.Pages))
	sql := fmt.Sprintf("SELECT (%s)::text FROM %s TABLESAMPLE SYSTEM (%f) WHERE %s IS NOT NULL AND (%s) AND length(%s) < 1000 LIMIT %d",
		i.Key, quote(i.Table.Name.Schema)+"."+quote(i.Table.Name.Name), percent, i.Key, i.Condition, i.Key, orderPlaces)
	rows, err := s.conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// disorder counts neighbours in the wrong order.
func (s *session) disorder(ctx context.Context, sql, wrong string) (bad, rows int, err error) {
	err = s.conn.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FILTER (WHERE previous %s key), count(*) FROM (SELECT key, lag(key) OVER () AS previous FROM (%s) o) k", wrong, sql)).Scan(&bad, &rows)
	return bad, rows, err
}
