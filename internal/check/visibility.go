package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// visibilityCheck asks whether the visibility map and the pages tell the truth
// when they say that everybody sees all rows of a page: what they say decides
// whether statements look at a row's own visibility at all, and what VACUUM
// skips. With the extension pg_visibility the server itself compares; without it
// rows are read in two ways, one of which trusts the page.
func visibilityCheck() Check {
	return Check{
		Name:     "visibility",
		Question: "Does the visibility map tell the truth?",
		Kinds:    []Kind{{ClassCorruption, SeverityCritical}, {ClassCorruption, SeverityWarning}},
		Interval: 24 * time.Hour,
		Needs:    "pg_monitor and the extension pg_visibility; or SELECT on the tables",
		Locks:    "ACCESS SHARE on one table at a time",
		Reads:    true,
		run:      runVisibility,
	}
}

// visibilitySQL lists tables, materialised views and TOAST tables. ACCESS SHARE
// on catalogues only.
const visibilitySQL = `SELECT c.oid, n.nspname::text, c.relname::text, greatest(c.relpages, 0),
	has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am am ON am.oid = c.relam
	WHERE c.relkind IN ('r', 'm', 't') AND am.amname = 'heap'
	AND c.relpersistence <> 't' AND (c.relpersistence = 'p' OR NOT pg_is_in_recovery())
	AND ($1::text[] IS NULL OR EXISTS (
		SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		JOIN pg_namespace wn ON wn.nspname = wanted.schemaname
		JOIN pg_class w ON w.relnamespace = wn.oid AND w.relname = wanted.relname
		LEFT JOIN pg_index i ON i.indexrelid = w.oid
		WHERE c.oid IN (w.oid, w.reltoastrelid, i.indrelid)))
	ORDER BY n.nspname, c.relname`

// marked is a table whose visibility is looked at.
type marked struct {
	table

	Readable bool
}

func runVisibility(ctx context.Context, s *session) error {
	functions, err := s.visibilityFunctions(ctx)
	if err != nil {
		return err
	}
	schemas, names := s.wanted()
	rows, err := s.conn.Query(ctx, visibilitySQL, schemas, names)
	if err != nil {
		return fmt.Errorf("listing tables: %w", err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t marked, err error) {
		err = row.Scan(&t.OID, &t.Name.Schema, &t.Name.Name, &t.Pages, &t.Readable)
		return t, err
	})
	if err != nil {
		return fmt.Errorf("listing tables: %w", err)
	}
	var unreadable []string
	if functions == nil {
		tables = slices.DeleteFunc(tables, func(t marked) bool {
			if !t.Readable && t.Name.Schema != "pg_catalog" && t.Name.Schema != "pg_toast" {
				unreadable = append(unreadable, t.Name.String())
			}
			return !t.Readable
		})
	}
	if len(unreadable) > 0 {
		s.skipf("without the extension pg_visibility the check reads the tables, and the role may not read %s: run CREATE EXTENSION pg_visibility in database %s as a superuser", few(unreadable), quote(s.database))
	}
	for _, t := range tables {
		s.result.TotalBytes += int64(t.Pages) * int64(s.conn.Facts.BlockSize)
	}
	return s.spread(ctx, len(tables), func(s *session, n int) error { return s.visibility(ctx, tables[n], functions) },
		func(n int) string { return tables[n].Name.String() }, func(n int) int32 { return tables[n].Pages }, "")
}

// visibilityFunctions are the functions of pg_visibility by name, as SQL has
// them; nil when one that is needed is missing or may not be called.
func (s *session) visibilityFunctions(ctx context.Context) (map[string]string, error) {
	rows, err := s.conn.Query(ctx, strings.Replace(amcheckSQL, "'amcheck'", "'pg_visibility'", 1))
	if err != nil {
		return nil, fmt.Errorf("looking for pg_visibility: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[function])
	if err != nil {
		return nil, fmt.Errorf("looking for pg_visibility: %w", err)
	}
	functions := make(map[string]string)
	for _, f := range found {
		if f.Granted {
			functions[f.Name] = f.call()
		}
	}
	for _, name := range []string{"pg_visibility", "pg_check_visible", "pg_check_frozen"} {
		if functions[name] == "" {
			return nil, nil //nolint:nilnil // a function that is missing or not granted is no error
		}
	}
	return functions, nil
}

// visibility looks at one table.
func (s *session) visibility(ctx context.Context, t marked, functions map[string]string) error {
	if s.scope.Heaps.damaged(t.OID) {
		return errors.New("its visibility is not looked at: the table is damaged")
	}
	started := time.Now()
	var err error
	if functions == nil {
		err = s.ghosts(ctx, t)
	} else {
		err = errors.Join(s.mapAgainstPages(ctx, t, functions["pg_visibility"]),
			s.rowsOfPages(ctx, t, functions["pg_check_visible"], false), s.rowsOfPages(ctx, t, functions["pg_check_frozen"], true),
			s.unmappedGhosts(ctx, t, functions["pg_visibility"]))
	}
	if err != nil {
		return err
	}
	s.throttle(ctx, started, int64(t.Pages)*int64(s.conn.Facts.BlockSize))
	s.looked(t.Name)
	return nil
}

// mapAgainstPages compares the bits of the map with that of each page. A page is
// marked before the map is, and unmarked together with it. ACCESS SHARE.
func (s *session) mapAgainstPages(ctx context.Context, t marked, f string) error {
	const condition = "(all_visible AND NOT pd_all_visible OR all_frozen AND NOT all_visible)"
	rows, err := s.conn.Query(ctx, "SELECT blkno FROM "+f+"($1::oid::regclass) WHERE "+condition+" LIMIT $2", t.OID, maxFindings+1)
	if err != nil {
		return err
	}
	blocks, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil || len(blocks) == 0 {
		return err
	}
	pauseToConfirm(ctx)
	for _, number := range blocks {
		var still bool
		err := s.conn.QueryRow(ctx, "SELECT "+condition+" FROM "+f+"($1::oid::regclass, $2::bigint)", t.OID, number).Scan(&still)
		if gone(err) || sqlstate(err) == "22023" {
			return nil // dropped or cut meanwhile
		}
		if err != nil {
			return err
		}
		if still {
			block := uint32(number)
			s.foundInvisible(t, &block, "the visibility map says that everybody sees all rows of the page, but the page itself does not: the page or the map is an old version, or the page was zeroed", "map")
		}
	}
	return nil
}

// rowsOfPages asks the server for rows that the mark of their page lies about.
// ACCESS SHARE.
func (s *session) rowsOfPages(ctx context.Context, t marked, f string, frozen bool) error {
	look := func() ([]string, error) {
		rows, err := s.conn.Query(ctx, "SELECT t_ctid::text FROM "+f+"($1::oid::regclass) AS t_ctid LIMIT 10000", t.OID)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[string])
	}
	first, err := look()
	if err != nil || len(first) == 0 {
		return err
	}
	visible := func(string) (bool, error) { return false, nil }
	switch {
	case frozen:
		pauseToConfirm(ctx)
	case t.Readable:
		visible = func(id string) (bool, error) { return s.rowVisible(ctx, t, id) }
	default:
		if err := s.awaitOlder(ctx); err != nil {
			return err
		}
	}
	second, err := look()
	if err != nil {
		return err
	}
	rows := make(map[uint32]int)
	for _, id := range first {
		if !slices.Contains(second, id) {
			continue
		}
		sees, err := visible(id)
		if err != nil {
			return err
		}
		if block := blockIn("tid=" + id); !sees && block != nil {
			rows[*block]++
		}
	}
	for block, n := range rows {
		if frozen {
			s.foundInvisible(t, &block, fmt.Sprintf("the visibility map says that no row of the page needs to be frozen, but %d do: VACUUM skips them until their transactions are forgotten", n), "frozen")
		} else {
			s.foundInvisible(t, &block, fmt.Sprintf("the page is marked as seen by everybody, but %d of its rows were deleted or never committed: statements give rows that do not exist", n), "visible")
		}
	}
	return nil
}

// rowVisible says whether a row is visible by its own header: a row that is fetched
// by its ctid is judged without the mark of its page. The server's own comparison
// can be wrong for a moment about rows that were committed just now (before 17),
// which are visible here.
func (s *session) rowVisible(ctx context.Context, t marked, id string) (bool, error) {
	var sees bool
	err := s.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM ONLY "+t.sql()+" WHERE ctid = $1::text::tid)", id).Scan(&sees)
	return sees, err
}

// awaitOlder waits until every transaction that runs now has ended: then the
// server's comparison is right about rows that were committed before.
func (s *session) awaitOlder(ctx context.Context) error {
	var next string
	if err := s.conn.QueryRow(ctx, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text").Scan(&next); err != nil {
		return err
	}
	for range 50 {
		pauseToConfirm(ctx)
		var ended bool
		if err := s.conn.QueryRow(ctx, "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8", next).Scan(&ended); err != nil || ended {
			return err
		}
	}
	return errors.New("rows that seem to be marked wrongly could not be told from rows of transactions that still run; give the role SELECT on the table")
}

// unmappedGhosts looks for ghosts when a page is marked that the map does not
// have. A crash can leave such a page rightly; pg_check_visible, which follows the
// map, would not look at it, but a sequential scan believes the mark.
func (s *session) unmappedGhosts(ctx context.Context, t marked, f string) error {
	if !t.Readable {
		return nil
	}
	var marked bool
	err := s.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+f+"($1::oid::regclass) WHERE pd_all_visible AND NOT all_visible)", t.OID).Scan(&marked)
	if err != nil || !marked {
		return err
	}
	return s.ghosts(ctx, t)
}

// ghosts looks for rows that a sequential scan gives, which trusts the mark of
// their page, and that are not visible by their own header. It reads no column.
// ACCESS SHARE; SELECT on the table. A large table is sampled.
func (s *session) ghosts(ctx context.Context, t marked) error {
	sample := ""
	if t.Pages > wholePages && !s.scope.Deep && t.Name.Schema != "pg_toast" {
		sample = fmt.Sprintf(" TABLESAMPLE system (%.6f)", 100*float64(wholePages)/float64(t.Pages))
	}
	sql := `SELECT id::text FROM (SELECT ctid AS id FROM ONLY ` + t.sql() + sample + ` OFFSET 0) AS given
		WHERE (SELECT true FROM ONLY ` + t.sql() + ` WHERE ctid = given.id) IS NULL LIMIT 10000`
	look := func() ([]string, error) {
		if _, err := s.conn.Exec(ctx, "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL row_security = off; "+sequentially.settings()); err != nil { //nolint:dupword // SQL says READ twice
			return nil, err
		}
		rows, err := s.conn.Query(ctx, sql)
		var ids []string
		if err == nil {
			ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		_, end := s.conn.Exec(context.WithoutCancel(ctx), "COMMIT")
		return ids, errors.Join(err, end)
	}
	first, err := look()
	if err != nil || len(first) == 0 {
		return err
	}
	pauseToConfirm(ctx)
	rows := make(map[uint32]int)
	for _, id := range first {
		sees, err := s.rowVisible(ctx, t, id)
		if err != nil {
			return err
		}
		if block := blockIn("tid=" + id); !sees && block != nil {
			rows[*block]++
		}
	}
	second, err := look()
	if err != nil {
		return err
	}
	for block, n := range rows {
		if slices.ContainsFunc(second, func(id string) bool { return strings.HasPrefix(id, fmt.Sprintf("(%d,", block)) }) || sample != "" {
			s.foundInvisible(t, &block, fmt.Sprintf("a sequential scan gives %d rows of the page that were deleted or never committed: the page is marked as seen by everybody", n), "visible")
		}
	}
	return nil
}

func (s *session) foundInvisible(t marked, block *uint32, message, kind string) {
	s.found(Finding{
		Class: ClassCorruption, Severity: SeverityCritical, Schema: t.Name.Schema, Relation: t.Name.Name, Block: block, SQLState: "XX001",
		Message: message,
		Impact:  "The same question has different answers by different plans, and VACUUM makes one of them final.",
		Action:  heapAction,
	}, kind)
}
