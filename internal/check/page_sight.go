package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/wal"
)

const (
	// maxZeroes bounds the pages of zeroes of a relation that are kept in mind.
	maxZeroes = 1 << 16
	// maxRows and maxCounts are how many pages of a table are kept in mind, row by
	// row (32 MB) and by the number of line pointers (32 MB).
	maxRows   = 1 << 20 * 32 / 40
	maxCounts = 1 << 24
	// maxAsked bounds the pages of a table whose rows are asked for.
	maxAsked = 100
	// maxDangling bounds the rows that are missing.
	maxDangling = 10000
	// mapPages is how many pages of a table a page of the visibility map tells of.
	mapPages = (page.Size - page.HeaderSize) * 4
	// unknown is a page of a table of which nothing is concluded.
	unknown = 0xffff
)

// sight is what was seen of the present relation.
type sight struct {
	// zeroes are the pages of zeroes; those before settledTo, the last page that is
	// as old as the last checkpoint, were so at the checkpoint.
	zeroes    []uint32
	settledTo uint32
	// anySettled says that there is such a page at all, and unsettled counts the
	// others.
	anySettled bool
	unsettled  int
	// at is what the WAL calls its first page.
	at wal.Block
	// marked says that such a page is marked as seen by everybody.
	marked bool
	// uncertain says that a row could not be judged.
	uncertain *atomic.Bool
	// labels are the labels of enums that were told of because rows have them and
	// their types do not.
	labels map[string]bool
	// visible is the page of the visibility map that was read last, and
	// visibleNumber its number.
	visible       []byte
	visibleNumber uint32
	// linked are the pages of an index that others lead to.
	linked []uint64
	// structure is how the pages of an index belong together.
	structure structure
	dangling  *dangling
}

// rows says which line pointers the pages of a table have that index entries may
// point to.
type rows struct {
	table  uint32
	blocks uint32
	// counts are the numbers of line pointers, or unknown.
	counts []uint16
	// targets are the line pointers themselves.
	targets [][5]uint64
}

func (r *rows) begin(table, blocks uint32) {
	r.table, r.blocks = table, blocks
	r.counts = slices.Grow(r.counts[:0], int(min(blocks, maxCounts)))[:min(blocks, maxCounts)]
	for i := range r.counts {
		r.counts[i] = unknown
	}
	r.targets = r.targets[:0]
	if blocks <= maxRows {
		r.targets = slices.Grow(r.targets, int(blocks))[:blocks]
	}
}

// add notes what a page has.
func (r *rows) add(p []byte, block uint32) {
	if int(block) >= len(r.counts) {
		return
	}
	targets, count := page.Targets(p)
	r.counts[block] = uint16(count)
	if len(r.targets) > 0 {
		r.targets[block] = targets
	}
}

// empty notes that a page has nothing.
func (r *rows) empty(block uint32) {
	if int(block) < len(r.counts) {
		r.counts[block] = 0
	}
}

// has says that a row is there, or that nothing is known.
func (r *rows) has(t page.TID) bool {
	if t.Block >= r.blocks {
		return false
	}
	if int(t.Block) >= len(r.counts) || r.counts[t.Block] == unknown {
		return true
	}
	if t.Offset > r.counts[t.Block] {
		return false
	}
	return len(r.targets) == 0 || r.targets[t.Block][(t.Offset-1)/64]>>((t.Offset-1)%64)&1 == 1
}

// dangling are index entries whose row is not there, by the page of the table.
type dangling struct {
	mu     sync.Mutex
	total  int
	blocks map[uint32]*missingRows
}

// missingRows are the entries for rows of one page of a table.
type missingRows struct {
	count int
	first page.TID
	index uint32
}

func (d *dangling) add(t page.TID, index uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.total++; d.total > maxDangling {
		return
	}
	m := d.blocks[t.Block]
	if m == nil {
		m = &missingRows{first: t, index: index}
		d.blocks[t.Block] = m
	}
	if m.count++; t.Offset < m.first.Offset {
		m.first, m.index = t, index
	}
}

// beyond counts the entries for rows from a page on.
func (d *dangling) beyond(from uint32) int {
	n := 0
	for block, m := range d.blocks {
		if block >= from {
			n += m.count
		}
	}
	return n
}

// begin forgets the relation before.
func (r *reader) begin(f *fork, segments []uint32) {
	blocks := uint32(0)
	for _, n := range segments {
		blocks += n
	}
	r.sight = sight{at: wal.BlockOf(f.Path), uncertain: new(atomic.Bool), labels: make(map[string]bool), dangling: &dangling{blocks: make(map[uint32]*missingRows)}}
	switch {
	case f.relation.Kind == page.Heap:
		r.rows.begin(f.OID, blocks)
		r.table = f
	case f.Index:
		f.relation.Blocks = blocks // indexes never shrink
		r.linked = make([]uint64, blocks/64+1)
		r.structure = newStructure(&f.relation, blocks)
	}
	if !f.Index && f.relation.Kind != page.Heap {
		r.rows.table = 0
	}
}

// unsure says that some rows of the table could not be judged.
func (r *reader) unsure() bool { return r.uncertain.Load() }

// note keeps in mind what a page that is as old as the last checkpoint says of
// others.
func (r *reader) note(f *fork, p []byte, block uint32) {
	r.anySettled = true
	if !f.Index {
		r.marked = r.marked || page.DecodeHeader(p).Flags&page.AllVisible != 0
		return
	}
	f.relation.Links(p, func(to uint32) {
		if int(to/64) < len(r.linked) {
			r.linked[to/64] |= 1 << (to % 64)
		}
	})
	if r.structure != nil {
		r.structure.note(p, block)
	}
}

// conclude compares what was seen of the pages of a relation.
func (r *reader) conclude(ctx context.Context, f *fork) error {
	if f.Unlogged {
		return r.initFork(ctx, f)
	}
	still, err := r.isStill(ctx, f)
	if err != nil {
		return err
	}
	return errors.Join(r.concludeZeroes(ctx, f, still), r.concludeStructure(ctx, f), r.concludeDangling(ctx, f), r.concludeEmpty(ctx, f, still))
}

// isStill says that the main fork was neither written nor cut since the last
// checkpoint began.
func (r *reader) isStill(ctx context.Context, f *fork) (bool, error) {
	if r.still.IsZero() {
		return false, nil
	}
	blocks, err := r.length(ctx, f)
	if err != nil {
		return false, ignoreGone(err)
	}
	entry, err := r.files.Stat(ctx, segmentName(f.Path, blocks/segmentBlocks))
	if errors.Is(err, fs.ErrNotExist) && blocks%segmentBlocks == 0 && blocks > 0 {
		entry, err = r.files.Stat(ctx, segmentName(f.Path, blocks/segmentBlocks-1))
	}
	if err != nil {
		return false, ignoreGone(err)
	}
	return entry.Modified.Before(r.still), nil
}

// ignoreGone drops the error that a file is not there: it went meanwhile.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// concludeZeroes judges the pages of zeroes. A server adds pages of zeroes to a
// file and fills them in memory; a crash leaves some for ever.
//
// Where VACUUM had cut a table that grew again, the map on disk may still tell of
// the page that stood there before. So a page of zeroes counts only when a later
// page, or the file as a whole, is as old as the last checkpoint: then the table
// was not cut since. Indexes are never cut: a page that others lead to was there
// at the checkpoint.
func (r *reader) concludeZeroes(ctx context.Context, f *fork, still bool) error {
	asked := 0
	for _, block := range r.zeroes {
		switch {
		case f.relation.Kind == page.Heap && (still || block < r.settledTo):
			r.rows.empty(block)
			r.settledTo = max(r.settledTo, block)
			if err := r.confirm(ctx, f, make([]byte, page.Size), block); err != nil {
				return err
			}
		case f.relation.Kind == page.Heap && asked < maxAsked:
			asked++
			if err := r.confirmLost(ctx, f, block); err != nil {
				return err
			}
		case f.relation.Kind == page.Heap:
		case block < firstPages(f.relation.Kind) && (still || r.anySettled || r.old(f)):
			if err := r.confirmZero(ctx, f, block, "one of the first pages, which are written when it is made, is all zeroes"); err != nil {
				return err
			}
		case f.Index && r.linked[block/64]>>(block%64)&1 == 1:
			if err := r.confirmZero(ctx, f, block, "the page is all zeroes, but other pages of the index lead to it"); err != nil {
				return err
			}
		}
	}
	return nil
}

// confirmLost asks the server for the rows of a page that is all zeroes on disk: one
// from before the last checkpoint was on disk then, in a file that is as old.
// ACCESS SHARE; SELECT on the table.
func (r *reader) confirmLost(ctx context.Context, f *fork, block uint32) error {
	if !r.old(f) {
		return nil
	}
	sql := `SELECT xmin::text::bigint FROM ONLY ` + f.Name.sql() + ` WHERE ctid = ANY (SELECT ('(' || $1 || ',' || n || ')')::tid FROM generate_series(1, 291) AS n)`
	rows, err := r.conn.Query(ctx, sql, int64(block))
	if err != nil {
		return err
	}
	xids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if sqlstate(err) == "42501" {
		return nil
	}
	if err != nil {
		return err
	}
	for _, xid := range xids {
		if int32(uint32(xid)-r.finished) < 0 {
			return r.confirmZero(ctx, f, block, "the page is all zeroes, but the server has rows of it in memory that are older than the last checkpoint: they are lost once it forgets the page")
		}
	}
	return nil
}

// firstPages is how many pages a relation has from the moment when it is made:
// metapages and roots.
func firstPages(kind page.Kind) uint32 {
	switch kind {
	case page.Gin:
		return 2
	case page.Spgist:
		return 3
	default:
		return 1
	}
}

// confirmZero reports a page that is still all zeroes at a later look.
func (r *reader) confirmZero(ctx context.Context, f *fork, block uint32, text string) error {
	return r.confirmed(ctx, f, block, corrupt("zeroed", "%s", text), page.IsNew)
}

// confirmed reports a problem when a later look at a page still shows it.
func (r *reader) confirmed(ctx context.Context, f *fork, block uint32, seen problem, again func(p []byte) bool) error {
	if r.full(f.Name) {
		return nil
	}
	pauseToConfirm(ctx)
	p, err := r.read(ctx, f, block)
	if err != nil || p == nil || !again(p) {
		return err
	}
	return r.report(ctx, f, &block, seen)
}

// read reads one page; nil is one that is not there.
func (r *reader) read(ctx context.Context, f *fork, block uint32) ([]byte, error) {
	p := make([]byte, page.Size)
	n, err := r.files.ReadAt(ctx, segmentName(f.Path, block/segmentBlocks), p, int64(block%segmentBlocks)*page.Size)
	if err != nil || n < page.Size {
		return nil, ignoreGone(err)
	}
	return p, nil
}

// concludeEmpty judges a file without pages: an index and a sequence have at
// least one from their beginning.
func (r *reader) concludeEmpty(ctx context.Context, f *fork, still bool) error {
	if f.relation.Kind == page.Heap || f.relation.Kind == page.Other || !still && !r.old(f) {
		return nil
	}
	for range 2 {
		blocks, err := r.length(ctx, f)
		if err != nil || blocks > 0 {
			return ignoreGone(err)
		}
		pauseToConfirm(ctx)
	}
	return r.report(ctx, f, nil, corrupt("empty", "the file %s is empty: the relation has lost all its pages", f.Path))
}

// concludeDangling judges index entries whose rows are not there. Rows are added
// before their entries and removed after them, each with WAL, so where both pages
// are as old as the last checkpoint every entry has its row.
func (r *reader) concludeDangling(ctx context.Context, f *fork) error {
	blocks := make([]uint32, 0, len(r.dangling.blocks))
	for block := range r.dangling.blocks {
		blocks = append(blocks, block)
	}
	if len(blocks) == 0 {
		return nil
	}
	slices.Sort(blocks)
	table := r.table
	pauseToConfirm(ctx)
	if now, err := r.read(ctx, f, r.dangling.blocks[blocks[0]].index); err != nil || now == nil {
		return err
	}
	if same, err := r.unchanged(ctx, f); err != nil || !same {
		return err
	}
	if at, _ := slices.BinarySearch(blocks, r.rows.blocks); at < len(blocks) {
		if err := r.confirmBeyond(ctx, table, f, blocks[at]); err != nil {
			return err
		}
	}
	for _, block := range blocks {
		if block >= r.rows.blocks {
			break
		}
		if err := r.confirmDangling(ctx, table, f, block); err != nil {
			return err
		}
	}
	return nil
}

// confirmBeyond reports entries for rows behind the end of the table, given the
// nearest such page. A table that was cut misses the pages right behind its end,
// and several rows with them; a single entry, or entries that all point farther
// away, tell of the index.
func (r *reader) confirmBeyond(ctx context.Context, table, f *fork, nearest uint32) error {
	if nearest == r.rows.blocks && r.dangling.beyond(nearest) > 1 {
		return r.cut(ctx, table, fmt.Sprintf("the index %s points to rows on page %d", f.Name, nearest))
	}
	m := r.dangling.blocks[nearest]
	entry, err := r.read(ctx, f, m.index)
	if err != nil || entry == nil || !r.settled(f, page.DecodeHeader(entry).LSN) {
		return err
	}
	still, err := r.isStill(ctx, table)
	if err != nil || !still {
		return err
	}
	return r.report(ctx, f, &m.index, corrupt("beyond", "an entry points to the row (%d,%d) of %s, which has only %d pages: the index is damaged, or the table was cut", nearest, m.first.Offset, table.Name, r.rows.blocks))
}

// confirmDangling reports rows of one page that are not there, when both pages
// are still as they were. Many entries for one page tell of the table's page, a
// single one of the index.
func (r *reader) confirmDangling(ctx context.Context, table, f *fork, block uint32) error {
	m := r.dangling.blocks[block]
	entry, err := r.read(ctx, f, m.index)
	if err != nil || entry == nil || !r.settled(f, page.DecodeHeader(entry).LSN) {
		return err
	}
	if anew, err := r.willReplace(ctx, table, block); err != nil || anew {
		return err
	}
	p, err := r.read(ctx, table, block)
	if err != nil || p == nil {
		return err
	}
	if !page.IsNew(p) {
		if !r.settled(table, page.DecodeHeader(p).LSN) || page.Problem(p, block, &page.Relation{Kind: page.Heap}) != "" {
			return nil
		}
		r.rows.add(p, block)
		if r.rows.has(m.first) {
			return nil
		}
	}
	row := fmt.Sprintf("(%d,%d)", block, m.first.Offset)
	switch {
	case page.IsNew(p):
		return r.report(ctx, table, &block, corrupt("zeroed", "the page is all zeroes, but the index %s has entries for rows on it, %s for one: its rows are gone", f.Name, row))
	case m.count > 1:
		return r.report(ctx, table, &block, corrupt("dangling", "the index %s has %d entries for rows that the page does not have, %s for one: the page is an old version, or the index is damaged", f.Name, m.count, row))
	}
	return r.report(ctx, f, &m.index, corrupt("dangling", "an entry points to the row %s of %s, which is not there: the index is damaged, or the row was lost", row, table.Name))
}

// cut reports a table whose file ends too early. VACUUM cuts files, too, and what
// the witness says on disk may be older than that; so the file must not have
// changed since the last checkpoint began.
func (r *reader) cut(ctx context.Context, f *fork, witness string) error {
	still, err := r.isStill(ctx, f)
	if err != nil || !still {
		return err
	}
	blocks, err := r.length(ctx, f)
	if err != nil || blocks > r.rows.blocks {
		return ignoreGone(err)
	}
	return r.report(ctx, f, &blocks, corrupt("cut", "the file ends after %d pages, but %s: the rest of the table is gone", blocks, witness))
}

// visibility compares a heap page with the visibility map: a page that the map
// calls all-visible says so itself. Both must be on disk as they were at the last
// checkpoint, which is so when neither was changed since.
func (r *reader) visibility(ctx context.Context, f *fork, p []byte, block uint32) (problem, error) {
	h := page.DecodeHeader(p)
	if h.Flags&page.AllVisible != 0 || h.LSN >= r.redo {
		return problem{}, nil
	}
	m, err := r.visibilityMap(ctx, f, block/mapPages)
	if err != nil || page.IsNew(m) || page.DecodeHeader(m).LSN >= r.redo || !isVisible(m, block%mapPages) {
		return problem{}, err
	}
	if page.IsNew(p) {
		return corrupt("zeroed", "the page is all zeroes, but the visibility map says that it has rows which everybody sees: its rows are gone"), nil
	}
	return corrupt("visibility", "the visibility map says that all rows of the page are visible to everybody, but the page does not: the page or the map is an old version"), nil
}

// isVisible is the bit of a page in its page of the map.
func isVisible(m []byte, in uint32) bool {
	const perByte = 4
	return m[page.HeaderSize+in/perByte]>>(in%perByte*2)&1 == 1
}

// visibilityMap reads a page of the visibility map; one that does not exist is
// all zeroes.
func (r *reader) visibilityMap(ctx context.Context, f *fork, number uint32) ([]byte, error) {
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

// maps looks at the visibility map and the free space map of a relation.
func (r *reader) maps(ctx context.Context, f *fork) error {
	for _, m := range []struct {
		suffix, name, kind string
		relation           page.Relation
	}{
		{"_vm", "the visibility map", "vm", page.Relation{Kind: page.VisibilityMap}},
		{"_fsm", "the free space map", "fsm", page.Relation{Kind: page.FreeSpaceMap}},
	} {
		if m.kind == "vm" && f.relation.Kind != page.Heap {
			continue
		}
		fork := &fork{OID: f.OID, Name: f.Name, Path: f.Path + m.suffix, Unlogged: true, relation: m.relation}
		for number := uint32(0); ; number++ {
			p, err := r.read(ctx, fork, number)
			if err != nil {
				return err
			}
			if p == nil && number == 0 && m.kind == "vm" && r.marked {
				if err := r.lostMap(ctx, f, fork); err != nil {
					return err
				}
			}
			if p == nil {
				if err := r.raggedMap(ctx, f, fork, number, m.name, m.kind); err != nil {
					return err
				}
				break
			}
			if err := r.mapPage(ctx, f, fork, p, number, m.name, m.kind); err != nil {
				return err
			}
		}
	}
	return nil
}

// lostMap reports a visibility map that is not there although pages are marked as
// seen by everybody: the map gets a file before a page is marked.
func (r *reader) lostMap(ctx context.Context, f, fork *fork) error {
	for range 2 {
		if _, err := r.files.Size(ctx, fork.Path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		pauseToConfirm(ctx)
	}
	return r.report(ctx, f, nil, problem{"the visibility map is lost: the file " + fork.Path + " is missing", "58P01", "lost vm"})
}

// raggedMap reports a map that ends in the middle of a page.
func (r *reader) raggedMap(ctx context.Context, f, fork *fork, pages uint32, name, kind string) error {
	path := segmentName(fork.Path, pages/segmentBlocks)
	for range 2 {
		size, err := r.files.Size(ctx, path)
		if err != nil || size%page.Size == 0 {
			return ignoreGone(err)
		}
		pauseToConfirm(ctx)
	}
	return r.report(ctx, f, nil, problem{fmt.Sprintf("%s ends in the middle of page %d", name, pages), "XX001", kind})
}

// mapPage looks at a page of a map. What the visibility map says of pages behind
// the end of the table tells that the table was cut.
func (r *reader) mapPage(ctx context.Context, f, fork *fork, p []byte, number uint32, name, kind string) error {
	r.own.prepare(fork)
	if s := r.own.judge(fork, p, number); s.problem.text != "" {
		pauseToConfirm(ctx)
		again, err := r.read(ctx, fork, number)
		if err != nil || again == nil {
			return err
		}
		if s := r.own.judge(fork, again, number); s.problem.text != "" && slices.Equal(p, again) {
			if anew, err := r.willReplace(ctx, fork, number); err != nil || anew {
				return err
			}
			return r.report(ctx, f, nil, problem{fmt.Sprintf("page %d of %s: %s", number, name, s.problem.text), "XX001", cmp.Or(kind, s.problem.kind)})
		}
		return nil
	}
	if kind != "vm" || f.Unlogged || page.DecodeHeader(p).LSN >= r.redo {
		return nil
	}
	for in := uint32(max(0, int64(r.rows.blocks)-int64(number)*mapPages)); in < mapPages; in++ {
		if p[page.HeaderSize+in/4] == 0 {
			in |= 3
			continue
		}
		if isVisible(p, in) {
			return r.cut(ctx, f, fmt.Sprintf("the visibility map says that everybody sees the rows on page %d", number*mapPages+in))
		}
	}
	return nil
}

// initFork looks at the file that an unlogged relation is made anew from after a
// crash.
func (r *reader) initFork(ctx context.Context, f *fork) error {
	init := &fork{OID: f.OID, Name: f.Name, Path: f.Path + "_init", Unlogged: true, Index: f.Index, relation: page.Relation{Kind: f.relation.Kind}}
	for range 2 {
		size, err := r.files.Size(ctx, init.Path)
		switch {
		case err == nil && size > 0 && f.relation.Kind == page.Heap:
			return r.report(ctx, f, nil, problem{fmt.Sprintf("the file %s has %d bytes: a table is made from an empty one after a crash", init.Path, size), "XX001", "init"})
		case err == nil && (size > 0 || f.relation.Kind == page.Heap):
			return r.initPages(ctx, f, init)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		pauseToConfirm(ctx)
	}
	return r.report(ctx, f, nil, problem{"the file " + init.Path + " is missing or empty: after a crash the unlogged relation cannot be made anew", "58P01", "init"})
}

// initPages looks at the pages of an init fork.
func (r *reader) initPages(ctx context.Context, f, init *fork) error {
	for number := uint32(0); ; number++ {
		p, err := r.read(ctx, init, number)
		if err != nil || p == nil {
			return err
		}
		r.own.prepare(init)
		seen := r.own.judge(init, p, number)
		if seen.zero && number < firstPages(f.relation.Kind) && r.old(f) {
			seen.problem.text = "it is all zeroes"
		}
		if seen.problem.text != "" {
			pauseToConfirm(ctx)
			if again, err := r.read(ctx, init, number); err != nil || !slices.Equal(p, again) {
				return err
			}
			return r.report(ctx, f, nil, problem{fmt.Sprintf("page %d of the file that a crash makes the relation from: %s", number, seen.problem.text), "XX001", "init"})
		}
	}
}
