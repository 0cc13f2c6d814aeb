package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// constraintCheck holds the rows of every table against what the schema
// promises of them, whatever the validity flags say and without any index:
// NOT NULL, CHECK, domains, enum values, partition bounds, primary and unique
// keys, exclusion constraints and foreign keys.
func constraintCheck() Check {
	return Check{
		Name:     "constraint",
		Question: "Does every row obey the constraints of its table?",
		Kinds:    []Kind{{ClassDataRule, SeverityCritical}, {ClassDataRule, SeverityWarning}},
		Interval: 24 * time.Hour,
		Needs:    "SELECT on the tables and USAGE on their schemas (pg_read_all_data, 14+); BYPASSRLS where row security applies; EXECUTE on the functions that CHECK constraints call",
		Locks:    "ACCESS SHARE on one table and the tables it refers to at a time",
		Standby:  true,
		run:      runConstraint,
	}
}

// logicalSettings make the server look at the rows themselves: no index, no
// knowledge taken from constraints, no rows hidden by row security.
const logicalSettings = noIndexes + `; SET row_security = off; SET constraint_exclusion = off; SET enable_partition_pruning = off;
	SET jit = off; SET work_mem = '64MB'; SET extra_float_digits = 3; SET statement_timeout = '30min'`

// rowsOfUsersSQL lists relations of users of these kinds that hold rows. ACCESS
// SHARE on catalogues; the size is an estimate.
func rowsOfUsersSQL(kinds string) string {
	return `SELECT c.oid, n.nspname::text, c.relname::text, greatest(c.relpages, 0)
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE (` + kinds + `) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
	AND c.relpersistence <> 't' AND (c.relpersistence = 'p' OR NOT pg_is_in_recovery())
	AND ($1::text[] IS NULL OR EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		WHERE (wanted.schemaname, wanted.relname) = (n.nspname, c.relname)))
	ORDER BY n.nspname, c.relname`
}

var (
	userTablesSQL = rowsOfUsersSQL("c.relkind = 'r'")
	// constrainedSQL has materialised views as well: their unique indexes are what
	// REFRESH CONCURRENTLY tells rows apart by.
	constrainedSQL = rowsOfUsersSQL("c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated")
)

func runConstraint(ctx context.Context, s *session) error {
	schemas, names := s.wanted()
	tables, err := s.list(ctx, constrainedSQL, schemas, names)
	if err != nil {
		return err
	}
	promises, err := s.promises(ctx, tables)
	if err != nil {
		return err
	}
	verify, err := s.verifier(ctx)
	if err != nil {
		return err
	}
	// Keys are sorted: most are unique, and a hash table of them all is several times slower.
	if err := s.set(ctx, logicalSettings+"; SET enable_hashagg = off"); err != nil {
		return err
	}
	parts := s.recallParts(ctx)
	return s.each(ctx, len(tables), func(i int) error {
		t := tables[i]
		if damaged, err := s.leaveAlone(ctx, t, verify); err != nil || damaged {
			return err
		}
		part := parts.of(s, t)
		if err := s.constraints(ctx, t, promises[t.OID], part); err != nil {
			return err
		}
		return parts.done(ctx, s, t, part)
	}, func(i int) string { return tables[i].Name.String() })
}

// set changes settings of the session.
func (s *session) set(ctx context.Context, settings string) error {
	if _, err := s.conn.PgConn().Exec(ctx, settings).ReadAll(); err != nil {
		return fmt.Errorf("preparing the session: %w", err)
	}
	return nil
}

// verifier is verify_heapam where it can be called; without it the sanity of
// tables that no other check has looked at is not known.
func (s *session) verifier(ctx context.Context) (function, error) {
	if s.conn.Facts.VersionNum < 140000 {
		return function{}, nil
	}
	verify, _, err := s.amcheck(ctx, "verify_heapam")
	s.skipped = "" // it is of use, not needed
	return verify, err
}

// leaveAlone says that a table is damaged, so that its columns must not be
// read: that could crash the server.
func (s *session) leaveAlone(ctx context.Context, t table, verify function) (bool, error) {
	if _, err := s.sane(ctx, t, verify); err != nil {
		return false, err
	}
	if s.scope.Heaps.damaged(t.OID) || s.scope.Reported.damaged(t.Name) {
		s.problemf("%s: its pages are damaged or not proved sane (see the checks page and heap), so its rows are left alone", t.Name)
		return true, nil
	}
	return false, nil
}

// promised is everything that the schema promises of the rows of one table.
type promised struct {
	rows       []rowRule
	keys       []uniqueKey
	exclusions []exclusion
	references []foreignKey
	// primary are the columns of the primary key, which name a row.
	primary []string
}

// promises reads the constraints of all tables, with one scan of each
// catalogue. ACCESS SHARE on catalogues.
func (s *session) promises(ctx context.Context, tables []table) (map[uint32]*promised, error) {
	all := make(map[uint32]*promised, len(tables))
	for _, t := range tables {
		all[t.OID] = &promised{}
	}
	primary, err := s.primaryKeys(ctx, tables)
	if err != nil {
		return nil, err
	}
	for oid, columns := range primary {
		all[oid].primary = columns
	}
	rules, err := listPromises[rowRule](ctx, s, "rules of rows", rowRulesSQL, tables, nil)
	if err != nil {
		return nil, err
	}
	for _, r := range rules {
		all[r.Table].rows = append(all[r.Table].rows, r)
	}
	keys, err := listPromises[uniqueKey](ctx, s, "unique keys", uniqueKeysSQL, tables, nil)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		all[k.Table].keys = append(all[k.Table].keys, k)
	}
	exclusions, err := listPromises[exclusion](ctx, s, "exclusion constraints", exclusionsSQL, tables, nil)
	if err != nil {
		return nil, err
	}
	for _, x := range exclusions {
		all[x.Table].exclusions = append(all[x.Table].exclusions, x)
	}
	references, err := s.foreignKeys(ctx, tables)
	if err != nil {
		return nil, err
	}
	for _, f := range references {
		all[f.Table].references = append(all[f.Table].references, f)
	}
	return all, nil
}

// primarySQL lists the columns of primary keys.
const primarySQL = `SELECT i.indrelid, array_agg(a.attname::text ORDER BY k.position)
	FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k(attnum, position)
	JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
	WHERE i.indisprimary AND i.indrelid = ANY ($1) AND k.position <= i.indnkeyatts GROUP BY i.indrelid`

// listPromises lists what the schema promises of tables; scan is nil where the
// columns are the fields of T. Where the catalogues contradict themselves, so that the
// server cannot tell, the tables that they do it about are left out and told of.
func listPromises[T any](ctx context.Context, s *session, what, sql string, tables []table, scan pgx.RowToFunc[T]) ([]T, error) {
	if scan == nil {
		scan = pgx.RowToStructByPos[T]
	}
	oids := make([]uint32, len(tables))
	for i, t := range tables {
		oids[i] = t.OID
	}
	rows, err := s.conn.Query(ctx, sql, oids)
	if err == nil {
		var list []T
		if list, err = pgx.CollectRows(rows, scan); err == nil {
			return list, nil
		}
	}
	switch {
	case ctx.Err() != nil || s.conn.IsClosed() || sqlstate(err) == "57014" || len(tables) == 0:
		return nil, fmt.Errorf("listing %s: %w", what, err)
	case len(tables) == 1:
		s.problem(tables[0].Name.String()+": listing "+what, err)
		return nil, nil
	}
	half := len(tables) / 2
	first, err := listPromises(ctx, s, what, sql, tables[:half], scan)
	if err != nil {
		return nil, err
	}
	second, err := listPromises(ctx, s, what, sql, tables[half:], scan)
	return append(first, second...), err
}

// constraints looks at one part of one table.
func (s *session) constraints(ctx context.Context, t table, p *promised, part part) error {
	size, err := s.blocks(ctx, t)
	if err != nil {
		return err
	}
	rules := slices.Clone(p.rows)
	for i := range p.references {
		if rule, ok := s.ruleOf(ctx, t, &p.references[i]); ok {
			rules = append(rules, rule)
		}
	}
	obeyed, err := s.rowRules(ctx, t, rules, p.primary, part, size)
	if err != nil {
		return err
	}
	for _, k := range p.keys {
		if err := s.ask(ctx, t, k.Name, 0, func() error { return s.uniqueKey(ctx, t, k, part) }); err != nil {
			return err
		}
	}
	for _, x := range p.exclusions {
		if err := s.ask(ctx, t, x.Name, size, func() error { return s.exclusion(ctx, t, x) }); err != nil {
			return err
		}
	}
	for i := range p.references {
		f := &p.references[i]
		if slices.Contains(obeyed, f) {
			continue
		}
		if err := s.ask(ctx, t, f.Name, 0, func() error { return s.foreignKey(ctx, t, f, p.primary, part, size) }); err != nil {
			return err
		}
	}
	s.lookedAtPart(t, part, size)
	return nil
}

// ask asks a question about one constraint. An error in it does not keep the
// others from being looked at.
func (s *session) ask(ctx context.Context, t table, constraint string, blocks uint32, question func() error) error {
	started := time.Now()
	err := question()
	s.throttle(ctx, started, int64(blocks)*int64(s.conn.Facts.BlockSize))
	if err == nil || gone(err) || ctx.Err() != nil || s.conn.IsClosed() || sqlstate(err) == "55P03" || sqlstate(err) == "40001" {
		return err
	}
	s.problem(t.Name.String()+": constraint "+quote(constraint), err)
	return nil
}

// row is a row that breaks a rule.
type row struct {
	Place string // its ctid
	Key   string // its primary key, for people; empty when it has none
}

// keyText is an SQL expression for the primary key of a row as PostgreSQL's own
// messages have it.
func (s *session) keyText(prefix string, columns []string) string {
	if len(columns) == 0 || s.scope.Rules.MaskKeys {
		return "''"
	}
	values := make([]string, len(columns))
	for i, c := range columns {
		values[i] = "coalesce(left(" + prefix + quote(c) + "::text, 80), 'null')"
	}
	return "concat('(" + strings.ReplaceAll(strings.Join(columns, ", "), "'", "''") + ")=(', " + strings.Join(values, ", ', ', ") + ", ')')"
}

const (
	// rowLimit bounds the wrong rows that one question brings back.
	rowLimit = 1000
	// rowsShown bounds the rows that a message names.
	rowsShown = 5
)

// addRow adds a row, once: one in the sample may be in the part, too.
func addRow(rows []row, r row) []row {
	if slices.ContainsFunc(rows, func(other row) bool { return other.Place == r.Place }) {
		return rows
	}
	return append(rows, r)
}

// describeRows tells how many rows there are and which, the first few.
func describeRows(rows []row) string {
	number := fmt.Sprintf("%d rows", len(rows))
	switch {
	case len(rows) == 1:
		number = "1 row"
	case len(rows) >= rowLimit:
		number = fmt.Sprintf("at least %d rows", len(rows))
	}
	var shown []string
	for _, r := range rows[:min(rowsShown, len(rows))] {
		text := "ctid " + r.Place
		if r.Key != "" {
			text = r.Key + ", " + text
		}
		shown = append(shown, text)
	}
	if len(rows) > rowsShown {
		shown = append(shown, "...")
	}
	return number + ": " + strings.Join(shown, "; ")
}

// broken reports rows that break a constraint. kind and constraint identify it;
// status is what is known of its validity.
func (s *session) broken(t table, kind, constraint, status, message, impact string) {
	f := Finding{
		Class: ClassDataRule, Severity: SeverityCritical, Schema: t.Name.Schema, Relation: t.Name.Name,
		Message: message, Impact: impact,
		Action: "Do not delete or change the rows yet. Find out how they came in (session_replication_role, a disabled trigger, a changed function, a restore, damage) and whether a backup or standby has them as they should be; correct them in one reviewed transaction, then check again.",
	}
	if status != "" {
		f.Severity = SeverityWarning
		f.Message += "; the constraint is " + status
		f.Impact = "The rows are what the constraint says they must not be, and it cannot be validated or enforced before they are corrected."
	}
	s.found(f, kind+" "+constraint)
}
