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

const (
	// rangeBlocks is how many pages one call of verify_heapam looks at: 64 MB. A
	// rate limit is kept between calls.
	rangeBlocks = 8192
	// pieceBlocks is how many it looks at when so many took longer than verifyLimit.
	pieceBlocks = 64
	verifyLimit = time.Minute
	// confirmAfter is how long to wait before a finding is looked at again.
	confirmAfter = 100 * time.Millisecond
)

// heapCheck reads every page of every table through the server and verifies
// its tuples and TOAST values with verify_heapam (14+). On 13, which has no such
// function, it only reads every page, so that pages that cannot be read are
// found.
func heapCheck() Check {
	return Check{
		Name:     "heap",
		Question: "Can every page and every tuple of every table be read, and are they sane?",
		Kinds:    []Kind{{ClassCorruption, SeverityCritical}, {ClassCorruption, SeverityWarning}},
		Interval: 24 * time.Hour,
		Needs:    "extension amcheck and EXECUTE on verify_heapam (14+); SELECT on the tables (13)",
		Locks:    "ACCESS SHARE on one table at a time",
		Reads:    true,
		run:      runHeap,
	}
}

// table is a relation that has a heap.
type table struct {
	OID   uint32
	Name  RelationName
	Pages int32
}

// tablesSQL lists tables, materialised views, TOAST tables and sequences.
// Temporary ones of other sessions cannot be read, unlogged ones have no data on
// a standby. It takes ACCESS SHARE on catalogues only: relpages is an estimate,
// because the real size needs a lock on each relation.
const tablesSQL = `SELECT c.oid, n.nspname::text, c.relname::text, greatest(c.relpages, 0)
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am am ON am.oid = c.relam
	WHERE (c.relkind IN ('r', 'm', 't') AND am.amname = 'heap' OR c.relkind = 'S' AND $1)
	AND c.relpersistence <> 't' AND (c.relpersistence = 'p' OR NOT pg_is_in_recovery())
	AND ($2::text[] IS NULL OR EXISTS (
		SELECT FROM unnest($2::text[], $3::text[]) AS wanted(schemaname, relname)
		JOIN pg_namespace wn ON wn.nspname = wanted.schemaname
		JOIN pg_class w ON w.relnamespace = wn.oid AND w.relname = wanted.relname
		LEFT JOIN pg_index i ON i.indexrelid = w.oid
		LEFT JOIN pg_class base ON base.oid = i.indrelid
		WHERE c.oid IN (w.oid, w.reltoastrelid, i.indrelid, base.reltoastrelid)))
	ORDER BY c.relkind = 't', n.nspname, c.relname`

func (s *session) tables(ctx context.Context) ([]table, error) {
	schemas, names := s.wanted()
	return s.list(ctx, tablesSQL, s.conn.Facts.VersionNum >= 140000, schemas, names)
}

// list reads tables, and adds their size to what there is to look at.
func (s *session) list(ctx context.Context, sql string, arguments ...any) ([]table, error) {
	rows, err := s.conn.Query(ctx, sql, arguments...)
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t table, err error) {
		err = row.Scan(&t.OID, &t.Name.Schema, &t.Name.Name, &t.Pages)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	for _, t := range tables {
		s.result.TotalBytes += int64(t.Pages) * int64(s.conn.Facts.BlockSize)
	}
	return tables, nil
}

// wanted is the scope's relations as two arrays; nil is all.
func (s *session) wanted() (schemas, names []string) {
	for _, r := range s.scope.Relations {
		schemas = append(schemas, r.Schema)
		names = append(names, r.Name)
	}
	return schemas, names
}

func runHeap(ctx context.Context, s *session) error {
	var verify function
	if s.conn.Facts.VersionNum >= 140000 {
		var ok bool
		var err error
		if verify, ok, err = s.amcheck(ctx, "verify_heapam"); err != nil || !ok {
			return err
		}
	}
	tables, err := s.tables(ctx)
	if err != nil {
		return err
	}
	name := func(i int) string { return tables[i].Name.String() }
	size := func(i int) int32 { return tables[i].Pages }
	if verify.Name == "" {
		// An index would answer count(*) without a look at the table.
		return s.spread(ctx, len(tables), func(s *session, i int) error { return s.readHeap(ctx, tables[i]) }, name, size, noIndexes)
	}
	return s.spread(ctx, len(tables), func(s *session, i int) error {
		sane, _, err := s.indexOfTOASTSane(ctx, tables[i].OID)
		if err != nil {
			return err
		}
		return s.heap(ctx, tables[i], &verification{function: verify, noTOAST: !sane})
	}, name, size, limitSQL(verifyLimit))
}

// verification is how verify_heapam is called for a table.
type verification struct {
	function

	// noTOAST leaves out its values in the TOAST table (see indexOfTOASTSane).
	noTOAST bool
}

// limit sets how long a statement may take from now on.
func (s *session) limit(ctx context.Context, most time.Duration) error {
	_, err := s.conn.Exec(ctx, limitSQL(most))
	return err
}

func limitSQL(most time.Duration) string {
	return fmt.Sprintf("SET statement_timeout = %d", most.Milliseconds())
}

// heap looks at one table.
func (s *session) heap(ctx context.Context, t table, verify *verification) error {
	blocks, err := s.blocks(ctx, t)
	if err != nil {
		return err
	}
	before := len(s.result.Findings)
	// The first call has no range: it also opens the file of an empty table.
	if blocks == 0 {
		err = s.verifyRange(ctx, t, verify, nil, nil)
	}
	first, clean := s.startAt(t.Name.String())
	for start := first; start < blocks && err == nil && !s.full(t.Name); start += rangeBlocks {
		started := time.Now()
		end := min(start+rangeBlocks, blocks) - 1
		err = s.verifyRange(ctx, t, verify, &start, &end)
		s.throttle(ctx, started, int64(end-start+1)*int64(s.conn.Facts.BlockSize))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		clean = clean && len(s.result.Findings) == before
		s.reached(ctx, t.Name.String(), end+1, !clean)
	}
	if err != nil {
		return err
	}
	if clean = clean && len(s.result.Findings) == before; !clean || !verify.noTOAST {
		s.scope.Heaps.note(t.OID, clean)
	}
	s.looked(t.Name)
	if verify.noTOAST {
		return errors.New("its values in the TOAST table were not looked at: the index of that is damaged, not proved sane (bt_index_check of amcheck, or the check page) or too slow")
	}
	return nil
}

// blocks is the real number of pages of a table. ACCESS SHARE on the table.
func (s *session) blocks(ctx context.Context, t table) (uint32, error) {
	var size *int64
	if err := s.conn.QueryRow(ctx, "SELECT pg_relation_size($1::oid)", t.OID).Scan(&size); err != nil {
		return 0, err
	}
	if size == nil {
		return 0, nil // dropped; the caller's next statement says so
	}
	return uint32(*size / int64(s.conn.Facts.BlockSize)), nil
}

// tuple is one row of verify_heapam.
type tuple struct {
	Block   int64
	Offset  *int32
	Column  *int32
	Message string
}

// verify calls verify_heapam for a range of pages; nil is the whole table.
// ACCESS SHARE on the table and its TOAST table.
func (s *session) verify(ctx context.Context, t table, f *verification, start, end *uint32) ([]tuple, error) {
	rows, err := s.conn.Query(ctx, "SELECT blkno, offnum, attnum, msg FROM "+f.call()+
		`($1::oid::regclass, on_error_stop => false, check_toast => $4, skip => 'none', startblock => $2::bigint, endblock => $3::bigint)`,
		t.OID, start, end, !f.noTOAST)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[tuple])
}

// verifyRange looks at a range of pages, and goes on behind a page that ends
// verify_heapam: such a page must not hide the others.
func (s *session) verifyRange(ctx context.Context, t table, f *verification, start, end *uint32) error {
	tuples, err := s.verify(ctx, t, f, start, end)
	if err == nil {
		return s.confirmTuples(ctx, t, f, tuples)
	}
	if sqlstate(err) == "22023" && start != nil {
		return s.verifyShrunk(ctx, t, f, *start, *end)
	}
	if sqlstate(err) == "57014" && ctx.Err() == nil && start != nil {
		return s.verifyPieces(ctx, t, f, *start, *end, err)
	}
	if gone(err) || judge(err) == inconclusive {
		return err
	}
	if start == nil || *start == *end {
		return s.confirmError(ctx, t, start, err, func() error {
			_, err := s.verify(ctx, t, f, start, end)
			return err
		})
	}
	if s.full(t.Name) {
		return nil
	}
	// The message often names the page; when it does not, halves find it.
	middle := *start + (*end-*start)/2
	if block := blockIn(text(err)); block != nil && *start <= *block && *block <= *end {
		middle = *block
		if middle > *start {
			before := middle - 1
			if err := s.verifyRange(ctx, t, f, start, &before); err != nil {
				return err
			}
		}
		if err := s.verifyRange(ctx, t, f, &middle, &middle); err != nil || middle == *end {
			return err
		}
		after := middle + 1
		return s.verifyRange(ctx, t, f, &after, end)
	}
	if err := s.verifyRange(ctx, t, f, start, &middle); err != nil {
		return err
	}
	after := middle + 1
	return s.verifyRange(ctx, t, f, &after, end)
}

// verifyPieces looks at a range that took too long: in small pieces, and at last
// without the values in the TOAST table, for the rest of the table too.
func (s *session) verifyPieces(ctx context.Context, t table, f *verification, start, end uint32, slow error) error {
	if end-start < pieceBlocks {
		if f.noTOAST {
			return slow
		}
		f.noTOAST = true
		return s.verifyRange(ctx, t, f, &start, &end)
	}
	for ; start <= end; start += pieceBlocks {
		last := min(start+pieceBlocks-1, end)
		if err := s.verifyRange(ctx, t, f, &start, &last); err != nil {
			return err
		}
	}
	return nil
}

// verifyShrunk looks at what is left of a range after the table became shorter.
func (s *session) verifyShrunk(ctx context.Context, t table, f *verification, start, end uint32) error {
	blocks, err := s.blocks(ctx, t)
	if err != nil {
		return err
	}
	if blocks <= start {
		return nil
	}
	if blocks > end {
		return fmt.Errorf("verify_heapam does not take the range %d to %d", start, end)
	}
	end = blocks - 1
	return s.verifyRange(ctx, t, f, &start, &end)
}

// confirmTuples looks a second time at pages with findings, and reports those
// that both looks have.
func (s *session) confirmTuples(ctx context.Context, t table, f *verification, tuples []tuple) error {
	for len(tuples) > 0 && !s.full(t.Name) {
		block := uint32(tuples[0].Block)
		rest := slices.IndexFunc(tuples, func(other tuple) bool { return uint32(other.Block) != block })
		if rest < 0 {
			rest = len(tuples)
		}
		ofBlock := tuples[:rest]
		tuples = tuples[rest:]
		pauseToConfirm(ctx)
		again, err := s.verify(ctx, t, f, &block, &block)
		if err != nil {
			return err
		}
		ofBlock = slices.DeleteFunc(ofBlock, func(first tuple) bool {
			return !slices.ContainsFunc(again, func(second tuple) bool { return same(first, second) })
		})
		if len(ofBlock) == 0 {
			continue
		}
		s.foundInHeap(t, &block, "XX001", describe(ofBlock), kindOf(ofBlock[0].Message))
	}
	return nil
}

// same says that two looks saw the same damage.
func same(a, b tuple) bool {
	return a.Block == b.Block && a.Offset != nil && b.Offset != nil && *a.Offset == *b.Offset && kindOf(a.Message) == kindOf(b.Message)
}

// describe tells of the damaged tuples of one page, the first few in full.
func describe(tuples []tuple) string {
	const shown = 3
	var message strings.Builder
	for i, t := range tuples[:min(shown, len(tuples))] {
		if i > 0 {
			message.WriteString("; ")
		}
		if t.Offset != nil {
			fmt.Fprintf(&message, "line pointer %d: ", *t.Offset)
		}
		if t.Column != nil {
			fmt.Fprintf(&message, "column %d: ", *t.Column+1)
		}
		message.WriteString(t.Message)
	}
	if more := len(tuples) - shown; more > 0 {
		fmt.Fprintf(&message, "; and %d more on this page", more)
	}
	return message.String()
}

// confirmError reports an error that reading a page raises, when it comes a
// second time.
func (s *session) confirmError(ctx context.Context, t table, block *uint32, first error, again func() error) error {
	pauseToConfirm(ctx)
	second := again()
	if second == nil || gone(second) {
		return second
	}
	if judge(second) == inconclusive || sqlstate(second) != sqlstate(first) {
		return second
	}
	// On 13 the planner opens the table's indexes, too.
	if other, err := s.namesOtherFile(ctx, t.OID, second); err != nil || other {
		return errors.Join(err, second)
	}
	if block == nil {
		block = blockIn(text(second))
	}
	s.foundInHeap(t, block, sqlstate(second), text(second), sqlstate(second))
	return nil
}

func (s *session) foundInHeap(t table, block *uint32, state, message, kind string) {
	s.found(Finding{
		Class: ClassCorruption, Severity: SeverityCritical, Schema: t.Name.Schema, Relation: t.Name.Name, Block: block,
		SQLState: state, Message: message, Impact: heapImpact(t), Action: heapAction,
	}, kind)
}

func heapImpact(t table) string {
	if t.Name.Schema == "pg_toast" {
		return "Long values of the table that this TOAST table belongs to are damaged: statements that read them fail or give wrong data."
	}
	return "Rows of this table are damaged: statements that read them fail, crash the server, or give wrong data, and dumps of it fail."
}

const heapAction = "Stop writing to the table and do not run VACUUM, VACUUM FULL, CLUSTER or REINDEX on it. Copy the data directory or take a snapshot of the disk first, keep the backups and the WAL archive from expiring, and find out whether a standby has the rows intact."

// readHeap reads every page of a table without looking at a column, which is
// safe with any damage. It ends at the first page that cannot be read. ACCESS
// SHARE on the table; SELECT on it is needed.
func (s *session) readHeap(ctx context.Context, t table) error {
	started := time.Now()
	read := func() error {
		var rows int64
		return s.conn.QueryRow(ctx, "SELECT count(*) FROM ONLY "+pgx.Identifier{t.Name.Schema, t.Name.Name}.Sanitize()).Scan(&rows)
	}
	if err := read(); err != nil {
		if gone(err) || judge(err) == inconclusive {
			return err
		}
		return s.confirmError(ctx, t, nil, err, read)
	}
	s.throttle(ctx, started, int64(t.Pages)*int64(s.conn.Facts.BlockSize))
	s.looked(t.Name)
	return nil
}

// pauseToConfirm waits before the second look at what may be damage.
func pauseToConfirm(ctx context.Context) {
	select {
	case <-time.After(confirmAfter):
	case <-ctx.Done():
	}
}
