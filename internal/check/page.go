package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/page"
)

const (
	// segmentBlocks is how many pages a file of a relation has before the next
	// one begins (RELSEG_SIZE).
	segmentBlocks = 1 << 17
	// readPages is how many pages are read at a time: 1 MB.
	readPages = 128
)

// pageCheck reads the files of every table and index with its own code: their
// data checksums, the layout of each page, and whether the visibility map tells
// the truth of it. It sees what is on disk, also when a good copy in shared
// buffers hides it, and needs no extension.
func pageCheck() Check {
	return Check{
		Name:     "page",
		Question: "Are the files of every table and index complete, and is every page on disk sane?",
		Kinds:    []Kind{{ClassCorruption, SeverityCritical}},
		Interval: 24 * time.Hour,
		Needs:    "the data directory on the exporter's machine, readable for it; or EXECUTE on pg_read_binary_file and pg_stat_file",
		Locks:    "none on relations",
		run:      runPage,
	}
}

// fork is the main fork of a relation on disk.
type fork struct {
	OID   uint32
	Name  RelationName
	Path  string
	Pages int32
	Index bool
	Kind  page.Kind
}

// forksSQL lists the relations that have files of their own. Unlogged ones are
// left out: a crash empties them by design. ACCESS SHARE on catalogues only.
const forksSQL = `SELECT c.oid, n.nspname::text, c.relname::text, pg_relation_filepath(c.oid), greatest(c.relpages, 0), c.relkind = 'i',
	CASE c.relkind WHEN 'S' THEN 'sequence' ELSE coalesce(am.amname::text, '') END
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am am ON am.oid = c.relam
	WHERE c.relkind IN ('r', 'm', 't', 'i', 'S') AND c.relpersistence = 'p' AND pg_relation_filepath(c.oid) IS NOT NULL
	AND ($1::text[] IS NULL OR EXISTS (
		SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		JOIN pg_namespace wn ON wn.nspname = wanted.schemaname
		JOIN pg_class w ON w.relnamespace = wn.oid AND w.relname = wanted.relname
		LEFT JOIN pg_index i ON i.indexrelid = c.oid
		WHERE c.oid IN (w.oid, w.reltoastrelid) OR i.indrelid IN (w.oid, w.reltoastrelid)))
	ORDER BY n.nspname, c.relname`

// pageKinds are the kinds of pages by access method.
var pageKinds = map[string]page.Kind{
	"heap": page.Heap, "sequence": page.Sequence, "btree": page.Btree, "hash": page.Hash,
	"gist": page.Gist, "gin": page.Gin, "spgist": page.Spgist, "brin": page.Brin,
}

// reader is the state of the check page in one run.
type reader struct {
	*session

	files datadir.Directory
	// redo is where the last completed checkpoint began: what was changed before
	// it is on disk.
	redo uint64
	// end is a position that the WAL has reached.
	end uint64
	// visible is the page of the present fork's visibility map that was read last,
	// and visibleNumber its number.
	visible       []byte
	visibleNumber uint32
	// zeroed are the pages of the present fork that are all zeroes although the
	// map says otherwise, and that wait for a witness.
	zeroed []uint32
	// chunk holds the pages that are being looked at.
	chunk []byte
}

func runPage(ctx context.Context, s *session) error {
	if s.conn.Facts.BlockSize != page.Size {
		s.skipf("pages of %d bytes are not supported, only of %d", s.conn.Facts.BlockSize, page.Size)
		return nil
	}
	files, err := datadir.Open(ctx, s.conn)
	if denied, ok := errors.AsType[*datadir.NoAccessError](err); ok {
		s.skipped = denied.Error()
		return nil
	}
	if err != nil {
		return err
	}
	defer files.Close()
	r := &reader{session: s, files: files, chunk: make([]byte, readPages*page.Size)}
	// Before any page is read.
	if err := s.conn.QueryRow(ctx, "SELECT (redo_lsn - '0/0')::bigint FROM pg_control_checkpoint()").Scan(&r.redo); err != nil {
		return fmt.Errorf("asking for the last checkpoint: %w", err)
	}
	schemas, names := s.wanted()
	rows, err := s.conn.Query(ctx, forksSQL, schemas, names)
	if err != nil {
		return fmt.Errorf("listing files: %w", err)
	}
	forks, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f fork, err error) {
		var method string
		err = row.Scan(&f.OID, &f.Name.Schema, &f.Name.Name, &f.Path, &f.Pages, &f.Index, &method)
		f.Kind = pageKinds[method]
		return f, err
	})
	if err != nil {
		return fmt.Errorf("listing files: %w", err)
	}
	for _, f := range forks {
		s.result.TotalBytes += int64(f.Pages) * page.Size
	}
	return s.each(ctx, len(forks), func(i int) error { return r.fork(ctx, forks[i]) },
		func(i int) string { return forks[i].Name.String() })
}

// fork reads the files of one relation.
func (r *reader) fork(ctx context.Context, f fork) error {
	r.zeroed, r.visible = nil, nil
	for segment := uint32(0); ; segment++ {
		name := segmentName(f.Path, segment)
		size, err := r.files.Size(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			if segment > 0 {
				break
			}
			return r.missing(ctx, f)
		}
		if err != nil {
			return err
		}
		if size%page.Size != 0 {
			if err := r.ragged(ctx, f, name); err != nil {
				return err
			}
		}
		blocks := uint32(size / page.Size)
		err = r.segment(ctx, f, segment, blocks)
		if errors.Is(err, fs.ErrNotExist) || r.full(f.Name) {
			return nil // dropped or rewritten meanwhile, or nothing new to tell
		}
		if err != nil {
			return err
		}
		if blocks < segmentBlocks {
			if err := r.beyond(ctx, f, segment); err != nil {
				return err
			}
			break
		}
	}
	r.looked(f.Name)
	return nil
}

// segment reads the pages of one file.
func (r *reader) segment(ctx context.Context, f fork, segment, blocks uint32) error {
	for first := uint32(0); first < blocks && !r.full(f.Name); first += readPages {
		started := time.Now()
		n, err := r.files.ReadAt(ctx, segmentName(f.Path, segment), r.chunk[:min(readPages, blocks-first)*page.Size], int64(first)*page.Size)
		if err != nil {
			return err
		}
		for i := range uint32(n / page.Size) {
			if err := r.page(ctx, f, r.chunk[i*page.Size:(i+1)*page.Size], segment*segmentBlocks+first+i); err != nil {
				return err
			}
		}
		r.throttle(ctx, started, int64(n))
	}
	return ctx.Err()
}

func segmentName(path string, segment uint32) string {
	if segment == 0 {
		return path
	}
	return path + "." + strconv.FormatUint(uint64(segment), 10)
}

// unchanged says that the relation still has the same file.
func (r *reader) unchanged(ctx context.Context, f fork) (bool, error) {
	var path *string
	err := r.conn.QueryRow(ctx, "SELECT pg_relation_filepath($1::oid)", f.OID).Scan(&path)
	return err == nil && path != nil && *path == f.Path, err
}

// missing reports a relation without a file.
func (r *reader) missing(ctx context.Context, f fork) error {
	pauseToConfirm(ctx)
	if _, err := r.files.Size(ctx, f.Path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return r.report(ctx, f, nil, problem{"the file " + f.Path + " is missing", "58P01", "missing"})
}

// ragged reports a file that ends in the middle of a page.
func (r *reader) ragged(ctx context.Context, f fork, name string) error {
	pauseToConfirm(ctx)
	size, err := r.files.Size(ctx, name)
	if err != nil || size%page.Size == 0 {
		return err
	}
	block := uint32(size / page.Size)
	return r.report(ctx, f, &block, problem{fmt.Sprintf("the file %s has %d bytes: it ends in the middle of a page", name, size), "", "ragged"})
}

// beyond reports a file that ends although another one with data follows it.
// Files that a truncation left behind are empty.
func (r *reader) beyond(ctx context.Context, f fork, segment uint32) error {
	name := segmentName(f.Path, segment+1)
	for range 2 {
		size, err := r.files.Size(ctx, name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && size == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		pauseToConfirm(ctx)
	}
	before, err := r.files.Size(ctx, segmentName(f.Path, segment))
	if err != nil || before == segmentBlocks*page.Size {
		return err
	}
	block := segment*segmentBlocks + uint32(before/page.Size)
	return r.report(ctx, f, &block, problem{fmt.Sprintf("the file %s ends early although %s follows it", segmentName(f.Path, segment), name), "", "short"})
}

// page looks at one page.
//
// A page that was just added to a table is all zeroes on disk, and where VACUUM
// had cut the table before, the map on disk may still tell of the page that stood
// there. So a page of zeroes counts only when a later page is as old as the last
// checkpoint: then the table was not cut since.
func (r *reader) page(ctx context.Context, f fork, p []byte, block uint32) error {
	found, err := r.problem(ctx, f, p, block)
	switch {
	case err != nil:
		return err
	case found.text != "" && page.IsNew(p):
		if len(r.zeroed) <= maxFindings {
			r.zeroed = append(r.zeroed, block)
		}
		return nil
	case found.text != "":
		return r.confirm(ctx, f, p, block)
	case len(r.zeroed) == 0:
		return nil
	}
	if lsn := page.DecodeHeader(p).LSN; lsn == 0 || lsn >= r.redo {
		return nil
	}
	zeroed := r.zeroed
	r.zeroed = nil
	for _, block := range zeroed {
		if err := r.confirm(ctx, f, make([]byte, page.Size), block); err != nil {
			return err
		}
	}
	return nil
}

// confirm reports what a later look at a page with the same bytes sees again, so
// that a page that is just being written, or a file that is just going, is no
// finding.
func (r *reader) confirm(ctx context.Context, f fork, p []byte, block uint32) error {
	before := bytes.Clone(p)
	again := make([]byte, page.Size)
	for range 5 {
		pauseToConfirm(ctx)
		n, err := r.files.ReadAt(ctx, segmentName(f.Path, block/segmentBlocks), again, int64(block%segmentBlocks)*page.Size)
		if errors.Is(err, fs.ErrNotExist) || err == nil && n < page.Size {
			return nil // dropped or truncated meanwhile
		}
		if err != nil {
			return err
		}
		r.visible = nil
		found, err := r.problem(ctx, f, again, block)
		if err != nil || found.text == "" {
			return err
		}
		if bytes.Equal(before, again) {
			return r.report(ctx, f, &block, found)
		}
		copy(before, again)
	}
	return fmt.Errorf("block %d changes too fast to be looked at", block)
}

// problem is what is wrong with a page.
type problem struct{ text, sqlstate, kind string }

func (r *reader) problem(ctx context.Context, f fork, p []byte, block uint32) (problem, error) {
	if page.IsNew(p) {
		return r.visibility(ctx, f, p, block)
	}
	h := page.DecodeHeader(p)
	if r.conn.Facts.DataChecksums && h.Upper != 0 {
		if sum := page.Checksum(p, block); sum != h.Checksum {
			return problem{fmt.Sprintf("the page's data checksum is %04x, but %04x is stored in it", sum, h.Checksum), "XX001", "checksum"}, nil
		}
	}
	if text := page.Problem(p, f.Kind); text != "" {
		return problem{text, "XX001", kindOf(text)}, nil
	}
	if h.LSN > max(r.redo, r.end) {
		beyond, err := r.beyondWAL(ctx, h.LSN)
		if err != nil || beyond {
			return problem{fmt.Sprintf("the page says it was changed at %X/%X, where the WAL has not come to yet", h.LSN>>32, uint32(h.LSN)), "XX001", "lsn"}, err
		}
	}
	return r.visibility(ctx, f, p, block)
}

// beyondWAL says that a position lies beyond the end of the WAL. A page is never
// written before the WAL that changed it.
func (r *reader) beyondWAL(ctx context.Context, lsn uint64) (bool, error) {
	const sql = `SELECT (CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
		ELSE pg_current_wal_insert_lsn() END - '0/0')::bigint`
	var end *int64
	if err := r.conn.QueryRow(ctx, sql).Scan(&end); err != nil {
		return false, fmt.Errorf("asking for the end of the WAL: %w", err)
	}
	if end == nil {
		return false, nil
	}
	r.end = uint64(*end)
	return lsn > r.end, nil
}

// visibility compares a heap page with the visibility map: a page that the map
// calls all-visible says so itself. Both must be on disk as they were at the last
// checkpoint, which is so when neither was changed since.
func (r *reader) visibility(ctx context.Context, f fork, p []byte, block uint32) (problem, error) {
	h := page.DecodeHeader(p)
	if f.Kind != page.Heap || h.Flags&page.AllVisible != 0 || h.LSN >= r.redo {
		return problem{}, nil
	}
	const perByte, perPage = 4, (page.Size - page.HeaderSize) * 4
	m, err := r.visibilityMap(ctx, f, block/perPage)
	if err != nil || page.IsNew(m) || page.DecodeHeader(m).LSN >= r.redo {
		return problem{}, err
	}
	in := block % perPage
	if m[page.HeaderSize+in/perByte]>>(in%perByte*2)&1 == 0 {
		return problem{}, nil
	}
	if page.IsNew(p) {
		return problem{"the page is all zeroes, but the visibility map says that it has rows which everybody sees: its rows are gone", "XX001", "zeroed"}, nil
	}
	return problem{"the visibility map says that all rows of the page are visible to everybody, but the page does not: the page or the map is an old version", "XX001", "visibility"}, nil
}

// visibilityMap reads a page of the visibility map; one that does not exist is
// all zeroes.
func (r *reader) visibilityMap(ctx context.Context, f fork, number uint32) ([]byte, error) {
	if r.visible != nil && r.visibleNumber == number {
		return r.visible, nil
	}
	m := make([]byte, page.Size)
	n, err := r.files.ReadAt(ctx, segmentName(f.Path+"_vm", number/segmentBlocks), m, int64(number%segmentBlocks)*page.Size)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if n < page.Size {
		clear(m)
	}
	r.visible, r.visibleNumber = m, number
	return m, nil
}

// report reports what was seen twice, unless the relation has another file by
// now.
func (r *reader) report(ctx context.Context, f fork, block *uint32, seen problem) error {
	same, err := r.unchanged(ctx, f)
	if err != nil || !same {
		return err
	}
	r.scope.Heaps.note(f.OID, false)
	impact := "Statements that read this page fail, miss rows or give wrong data, also when a good copy in memory still hides it: the copy on disk is what a restart, a backup and a base backup will see."
	action := heapAction
	if f.Index {
		impact = "Statements that use this index fail, miss rows or give wrong data; the table itself may be intact."
		action = "Check the index's table for damage first. If it is sane, keep a copy of the index's file and rebuild it with REINDEX INDEX CONCURRENTLY."
	}
	r.found(Finding{
		Class: ClassCorruption, Severity: SeverityCritical, Schema: f.Name.Schema, Relation: f.Name.Name, Block: block,
		SQLState: seen.sqlstate, Message: seen.text, Impact: impact, Action: action,
	}, seen.kind)
	return nil
}
