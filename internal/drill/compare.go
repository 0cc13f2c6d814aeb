package drill

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/recovery"
)

const (
	// compareTimeout bounds the whole comparison.
	compareTimeout = 2 * time.Minute
	// comparedTables is how many tables of each database are sampled.
	comparedTables = 50
	// comparedBlocks is how many pages of each are.
	comparedBlocks = 4
	// maxTuples is how many tuples a page can hold (MaxHeapTuplesPerPage).
	maxTuples = 291
	// maxDifferences bounds what is told of one database.
	maxDifferences = 10
)

// comparison compares rows that the recovered server and the living one both
// have. A tuple is never changed in place: at the same place in the same file,
// made by the same transaction, it must have the same contents. Rows that were
// updated, deleted or moved since the recovery point cannot be compared.
type comparison struct {
	report   recovery.ComparisonReport
	problems []recovery.Problem
	reasons  []string
	rows     int
}

// compare compares up to a number of rows with the living server.
func (d *drill) compare(ctx context.Context) comparison {
	c := comparison{rows: d.options.CompareRows}
	if d.options.Primary == nil || c.rows == 0 {
		return c
	}
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	scratch, err := d.server.target()
	if err != nil {
		c.reason("", err)
		return c
	}
	for _, database := range d.server.said.Databases {
		if d.silent[database] {
			continue
		}
		if err := c.database(ctx, scratch, d.options.Primary, database); err != nil {
			c.reason(database, err)
		}
	}
	c.report.Reason = strings.Join(c.reasons[:min(3, len(c.reasons))], "; ")
	return c
}

func (c *comparison) reason(what string, err error) {
	text := pg.Message(err)
	if what != "" {
		text = what + ": " + text
	}
	c.reasons = append(c.reasons, text)
}

// comparable is a table of the recovered database.
type comparable struct {
	OID      uint32
	Schema   string
	Name     string
	Filenode uint32
	Blocks   int64
	Columns  string
	// Leading are the columns before the first one of variable length: they can be
	// read without trusting a length on the page.
	Leading string
}

// comparableSQL lists the largest tables with what must be the same for their
// rows to be comparable. ACCESS SHARE on catalogues.
const comparableSQL = `SELECT c.oid, n.nspname::text, c.relname::text, coalesce(pg_relation_filenode(c.oid), 0),
	pg_relation_size(c.oid) / current_setting('block_size')::int,
	(SELECT string_agg(concat_ws(',', attnum, attname, atttypid, attisdropped, atthasmissing), ';' ORDER BY attnum)
		FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0),
	coalesce((SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute a
		WHERE attrelid = c.oid AND attnum > 0 AND NOT EXISTS (SELECT FROM pg_attribute b
			WHERE b.attrelid = c.oid AND b.attnum > 0 AND b.attnum <= a.attnum AND (b.attlen < 0 OR b.attisdropped))), '')
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
		AND ($1::oid[] IS NULL OR c.oid = ANY ($1))
	ORDER BY 5 DESC, 1 LIMIT `

// sameOutput makes both servers write values alike.
const sameOutput = `SET timezone = 'UTC'; SET extra_float_digits = 1; SET intervalstyle = 'postgres'; SET bytea_output = 'hex'; SET lc_monetary = 'C'`

func (c *comparison) database(ctx context.Context, scratch, primary *pg.Target, database string) error {
	purpose := pg.Purpose{Name: "drill", StatementTimeout: 30 * time.Second, LockTimeout: time.Second, CancelOnServer: true}
	restored, err := scratch.Connect(ctx, database, purpose)
	if err != nil {
		return err
	}
	defer restored.Close()
	living, err := primary.Connect(ctx, database, purpose)
	if err != nil {
		return fmt.Errorf("the living server: %w", err)
	}
	defer living.Close()
	for _, conn := range []*pg.Conn{restored, living} {
		if _, err := conn.Exec(ctx, sameOutput, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	tables, err := listComparable(ctx, restored, nil)
	if err != nil || len(tables) == 0 {
		return err
	}
	var oids []uint32
	for _, t := range tables {
		oids = append(oids, t.OID)
	}
	others, err := listComparable(ctx, living, oids)
	if err != nil {
		return err
	}
	now := make(map[uint32]comparable)
	for _, t := range others {
		now[t.OID] = t
	}
	heapam, err := verifier(ctx, living)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if other := now[t.OID]; t.Filenode == 0 || other.Filenode != t.Filenode || other.Columns != t.Columns {
			continue // rewritten, altered or dropped since
		}
		if c.report.Rows >= c.rows || c.report.Different >= maxDifferences || ctx.Err() != nil {
			break
		}
		if err := c.table(ctx, restored, living, database, t, heapam); err != nil {
			c.reason(database+": "+t.Schema+"."+t.Name, err)
		}
	}
	return ctx.Err()
}

func listComparable(ctx context.Context, conn *pg.Conn, oids []uint32) ([]comparable, error) {
	rows, err := conn.Query(ctx, comparableSQL+strconv.Itoa(comparedTables), oids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[comparable])
}

// verifier is the name of verify_heapam with its schema when the role may call
// it; "" is that it may not.
func verifier(ctx context.Context, conn *pg.Conn) (string, error) {
	var name string
	err := conn.QueryRow(ctx, `SELECT coalesce(min(quote_ident(n.nspname) || '.verify_heapam'), '') FROM pg_proc p
		JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.proname = 'verify_heapam' AND has_function_privilege(p.oid, 'EXECUTE')
		AND has_schema_privilege(n.oid, 'USAGE')`).Scan(&name)
	return name, err
}

// tuple is one row at its place.
type tuple struct{ Place, Made, Sum string }

func (c *comparison) table(ctx context.Context, restored, living *pg.Conn, database string, t comparable, heapam string) error {
	c.report.Tables++
	for range comparedBlocks {
		block := rand.Int64N(max(t.Blocks, 1)) //nolint:gosec // a sample, not a secret
		contents := "t::text"
		if sane, err := sanePage(ctx, living, t, block, heapam); err != nil {
			return err
		} else if !sane {
			// Reading a damaged length would end the server process that reads it.
			if t.Leading == "" {
				continue
			}
			contents = "ROW(" + t.Leading + ")::text"
		}
		places := make([]string, 0, maxTuples)
		for n := 1; n <= maxTuples; n++ {
			places = append(places, fmt.Sprintf("(%d,%d)", block, n))
		}
		sql := fmt.Sprintf("SELECT ctid::text, xmin::text, md5(%s) FROM ONLY %s AS t WHERE ctid = ANY ($1::text[]::tid[])",
			contents, pgx.Identifier{t.Schema, t.Name}.Sanitize())
		before, err := tuples(ctx, restored, sql, places)
		if err != nil {
			return fmt.Errorf("the restored server: %w", err)
		}
		after, err := tuples(ctx, living, sql, places)
		if err != nil {
			return fmt.Errorf("the living server: %w", err)
		}
		c.match(database, t, before, after)
	}
	return nil
}

// sanePage asks the living server whether every tuple of a page can be read.
func sanePage(ctx context.Context, living *pg.Conn, t comparable, block int64, heapam string) (bool, error) {
	if heapam == "" {
		return false, nil
	}
	var problems int
	err := living.QueryRow(ctx, "SELECT count(*) FROM "+heapam+"($1::oid::regclass, startblock => $2, endblock => $2)", t.OID, block).Scan(&problems)
	if pg.SQLState(err) == "22023" {
		return false, nil // the table has become shorter
	}
	return err == nil && problems == 0, err
}

func tuples(ctx context.Context, conn *pg.Conn, sql string, places []string) (map[string]tuple, error) {
	rows, err := conn.Query(ctx, sql, places)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[tuple])
	if err != nil {
		return nil, err
	}
	byPlace := make(map[string]tuple, len(all))
	for _, one := range all {
		byPlace[one.Place] = one
	}
	return byPlace, nil
}

// match compares the rows that both have.
func (c *comparison) match(database string, t comparable, before, after map[string]tuple) {
	for place, old := range before {
		now, ok := after[place]
		if !ok || now.Made != old.Made {
			continue
		}
		c.report.Rows++
		if now.Sum == old.Sum {
			continue
		}
		c.report.Different++
		if len(c.problems) < maxDifferences {
			c.problems = append(c.problems, recovery.Problem{
				Kind: recovery.ProblemDamaged, Object: database + ": " + t.Schema + "." + t.Name,
				Message: fmt.Sprintf("the row at %s, made by transaction %s, is not the same in the backup and in the living server: one of them is damaged", place, old.Made),
			})
		}
	}
}
