package check

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// matviewCheck compares materialised views with their queries. To be behind
// its tables is what a materialised view is for: that is only told. One that
// the configuration says must agree with its query is a finding.
func matviewCheck() Check {
	return Check{
		Name:     "matview",
		Question: "Does every materialised view hold what its query gives now?",
		Kinds:    []Kind{{ClassDataRule, SeverityCritical}, {ClassDataRule, SeverityWarning}, {ClassDataRule, SeverityInfo}},
		Interval: 24 * time.Hour,
		Needs:    "SELECT on the materialised views and on what their queries read; BYPASSRLS where row security applies",
		Locks:    "ACCESS SHARE on one materialised view and what its query reads at a time",
		idle: func(scope Scope, database string) string {
			configured := slices.ContainsFunc(scope.Rules.MaterializedViews, func(m MaterializedView) bool { return matchesAny(m.Databases, database) })
			if configured || scope.Deep || len(scope.Relations) > 0 {
				return ""
			}
			return "no materialised view is configured for this database (materialized_views: in the configuration file), and --deep was not asked for"
		},
		Standby: true,
		run:     runMatview,
	}
}

// matviewsSQL lists materialised views that hold rows.
const matviewsSQL = `SELECT c.oid, n.nspname::text, c.relname::text, greatest(c.relpages, 0)
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind = 'm' AND c.relispopulated AND (c.relpersistence = 'p' OR NOT pg_is_in_recovery())
	AND ($1::text[] IS NULL OR EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		WHERE (wanted.schemaname, wanted.relname) = (n.nspname, c.relname)))
	ORDER BY n.nspname, c.relname`

func runMatview(ctx context.Context, s *session) error {
	schemas, names := s.wanted()
	views, err := s.list(ctx, matviewsSQL, schemas, names)
	if err != nil {
		return err
	}
	views = slices.DeleteFunc(views, func(v table) bool {
		_, configured := s.mustAgree(v.Name)
		return !configured && !s.scope.Deep && len(s.scope.Relations) == 0
	})
	for _, m := range s.scope.Rules.MaterializedViews {
		known := slices.ContainsFunc(views, func(v table) bool { return v.Name.String() == m.View })
		if matchesAny(m.Databases, s.database) && !known && len(s.scope.Relations) == 0 {
			s.problemf("materialized_views: %s does not exist here or was never refreshed", m.View)
		}
	}
	if err := s.set(ctx, "SET row_security = off; SET jit = off; SET statement_timeout = '30min'"); err != nil {
		return err
	}
	return s.each(ctx, len(views), func(i int) error { return s.matview(ctx, views[i]) }, func(i int) string { return views[i].Name.String() })
}

// mustAgree says with which severity a view must agree with its query.
func (s *session) mustAgree(view RelationName) (Severity, bool) {
	for _, m := range s.scope.Rules.MaterializedViews {
		if m.View == view.String() && matchesAny(m.Databases, s.database) {
			return m.Severity, true
		}
	}
	return SeverityInfo, false
}

// matchesAny says that one of the patterns matches a name.
func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		matched, err := path.Match(pattern, name)
		return err == nil && matched
	})
}

// matview compares the contents of a view with its query in one statement, with
// one snapshot, by number and fingerprint of the rows.
func (s *session) matview(ctx context.Context, v table) error {
	if s.scope.Heaps.damaged(v.OID) {
		return errors.New("it is damaged and is left alone")
	}
	var query string
	var columns []column
	rows, err := s.conn.Query(ctx, columnsSQL, v.OID)
	if err != nil {
		return err
	}
	if columns, err = pgx.CollectRows(rows, pgx.RowToStructByPos[column]); err != nil {
		return err
	}
	if err := s.conn.QueryRow(ctx, "SELECT pg_get_viewdef($1::oid)", v.OID).Scan(&query); err != nil {
		return err
	}
	started := time.Now()
	sql := fmt.Sprintf(`SELECT a.rows, b.rows, a.sum IS NOT DISTINCT FROM b.sum FROM (SELECT count(*) AS rows, sum(%[1]s) AS sum FROM %[2]s AS r) AS a,
		(SELECT count(*) AS rows, sum(%[1]s) AS sum FROM (%[3]s) AS r(%[4]s)) AS b`,
		hashOf("r", columns), v.Name.sql(), strings.TrimSuffix(strings.TrimSpace(query), ";"), strings.Join(columnNames(columns), ", "))
	var has, should int64
	var same bool
	ask := func() error { return s.conn.QueryRow(ctx, sql).Scan(&has, &should, &same) }
	if err = ask(); err != nil && namesMissing(err) {
		err = s.withSearchPath(ctx, v.Name.Schema, ask)
	}
	if err != nil {
		return err
	}
	s.throttle(ctx, started, int64(v.Pages)*int64(s.conn.Facts.BlockSize))
	s.looked(v.Name)
	if same && has == should {
		return nil
	}
	severity, _ := s.mustAgree(v.Name)
	s.found(Finding{
		Class: ClassDataRule, Severity: severity, Schema: v.Name.Schema, Relation: v.Name.Name,
		Message: fmt.Sprintf("the materialised view has %d rows, its query gives %d, and their contents differ", has, should),
		Impact:  "Whoever reads the view sees what was true at its last refresh, or what damage made of it.",
		Action:  "Find out when it was last refreshed and why not since; REFRESH MATERIALIZED VIEW CONCURRENTLY makes it agree. If it was refreshed and nothing changed since, check it for damage first.",
	}, "differs")
	return nil
}
