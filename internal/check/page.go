package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/wal"
)

const (
	// segmentBlocks is how many pages a file of a relation has before the next
	// one begins (RELSEG_SIZE).
	segmentBlocks = 1 << 17
	// readPages is how many pages are read at a time: 512 kB, which stay in the
	// processor's cache until they were looked at.
	readPages = 64
)

// pageCheck reads the files of every table and index with its own code: their
// data checksums, the layout of each page and tuple, and whether tables, indexes
// and maps agree with each other. It sees what is on disk, also when a good copy
// in shared buffers hides it, and needs no extension.
func pageCheck() Check {
	return Check{
		Name:     "page",
		Question: "Are the files of every table and index complete, and is every page on disk sane?",
		Kinds:    []Kind{{ClassCorruption, SeverityCritical}, {ClassCorruption, SeverityWarning}},
		Interval: 24 * time.Hour,
		Needs:    "the data directory on the exporter's machine, readable for it; or EXECUTE on pg_read_binary_file and pg_stat_file",
		Locks:    "none on relations",
		run:      runPage,
	}
}

// reader is the state of the check page in one run.
type reader struct {
	*session
	horizon
	sight // what belongs to the present relation

	files datadir.Directory
	// plain says that only data checksums are verified.
	plain bool
	// utf8 says that the database's encoding is UTF8.
	utf8 bool
	// workers look at pages beside each other, and own looks again at one.
	workers []*worker
	own     *worker
	// written is where the WAL changed pages of the database before the last checkpoint.
	written map[wal.Block]wal.Position
	// replayed are pages that the WAL since the last restartpoint changes, and whether it
	// holds them as a whole; nil was not asked for.
	replayed map[wal.Block]bool
	// imprints are what pages said in earlier passes.
	imprints *imprints
	copies   copies
	// table is the table that was read last, and rows what it has, for its indexes.
	table *fork
	rows  rows
}

func runPage(ctx context.Context, s *session) error {
	r, err := s.reader(ctx)
	if err != nil || r == nil {
		return err
	}
	defer r.files.Close()
	forks, err := r.forks(ctx)
	if err != nil {
		return err
	}
	if r.written, err = r.readWritten(ctx); err != nil {
		return err
	}
	if err := r.openImprints(ctx); err != nil {
		return err
	}
	defer r.imprints.close()
	err = forks.each(ctx, func(f *fork) error { return r.unreadable(ctx, f, r.fork(ctx, f)) })
	if err != nil {
		return err
	}
	if err := r.imprints.finish(); err != nil {
		r.logger.Warn("what pages say is not kept for the next pass", "err", err)
	}
	if len(s.problems) == 0 {
		s.scope.Heaps.noteRead()
	}
	return s.noteTOAST(ctx)
}

// reader finds a way to the files; nil is none, and the reason is noted.
func (s *session) reader(ctx context.Context) (*reader, error) {
	if s.conn.Facts.BlockSize != page.Size {
		s.skipf("pages of %d bytes are not supported, only of %d", s.conn.Facts.BlockSize, page.Size)
		return nil, nil //nolint:nilnil // nothing to read is no error
	}
	if unknown := s.conn.Facts.UnknownLayout(); unknown != "" {
		s.skipf("%s", unknown)
		return nil, nil //nolint:nilnil // nothing to judge is no error
	}
	files, err := datadir.Open(ctx, s.conn)
	if denied, ok := errors.AsType[*datadir.NoAccessError](err); ok {
		s.skipped = denied.Error()
		return nil, nil //nolint:nilnil // nothing to read is no error
	}
	if err != nil {
		return nil, err
	}
	r := &reader{session: s, files: files}
	if err := r.lookAhead(ctx, s, files); err != nil {
		files.Close()
		return nil, err
	}
	if err := s.conn.QueryRow(ctx, "SELECT getdatabaseencoding() = 'UTF8'").Scan(&r.utf8); err != nil {
		files.Close()
		return nil, fmt.Errorf("asking for the encoding: %w", err)
	}
	workers := 1
	if files.Local() && s.scope.RateLimit <= 0 {
		workers = max(2, s.scope.Jobs)
	}
	status := newStatuses(files, r.horizon)
	for range workers {
		r.workers = append(r.workers, newWorker(r, status))
	}
	r.own = newWorker(r, status)
	return r, nil
}

// fork reads the files of one relation. A run that goes on in the middle of one
// knows nothing of the pages before.
func (r *reader) fork(ctx context.Context, f *fork) error {
	before := len(r.result.Findings)
	segments, err := r.segments(ctx, f)
	if err != nil || segments == nil {
		return err
	}
	r.begin(f, segments)
	first, clean := r.startAt(f.Name.String())
	if first > 0 {
		r.unsettled++
	}
	whole, err := r.walk(ctx, f, segments, first, func(block uint32) {
		r.reached(ctx, f.Name.String(), block, !clean || len(r.result.Findings) > before)
	})
	if err != nil || !whole {
		return err
	}
	if err := errors.Join(r.beyond(ctx, f, uint32(len(segments)-1)), r.conclude(ctx, f), r.maps(ctx, f)); err != nil {
		return err
	}
	if (f.Index || f.relation.Kind == page.Heap && f.relation.Columns != nil) && clean && !r.unsure() && len(r.result.Findings) == before {
		r.scope.Heaps.note(f.OID, true)
	}
	r.looked(f.Name)
	return nil
}

// walk reads the pages of all files of a relation from a page on. It is not whole
// when the relation was dropped or rewritten meanwhile, or has nothing new to tell.
func (r *reader) walk(ctx context.Context, f *fork, segments []uint32, first uint32, reached func(block uint32)) (whole bool, err error) {
	for number := first / segmentBlocks; number < uint32(len(segments)); number++ {
		r.beginImprints(f, segmentName(f.Path, number), segments[number], first%segmentBlocks)
		err := r.segment(ctx, f, number, first, segments[number], reached)
		gone := errors.Is(err, fs.ErrNotExist)
		if err != nil && !gone {
			return false, err
		}
		whole := !gone && !r.full(f.Name)
		if err := r.compareImprints(ctx, f, whole); err != nil || !whole {
			return false, err
		}
		first = 0
	}
	return true, nil
}

// segments gives the number of pages of each file of a relation; nil is a
// relation without files, which is reported.
func (r *reader) segments(ctx context.Context, f *fork) ([]uint32, error) {
	var segments []uint32
	for segment := uint32(0); ; segment++ {
		name := segmentName(f.Path, segment)
		size, err := r.files.Size(ctx, name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && segment == 0:
			return nil, r.missing(ctx, f)
		case errors.Is(err, fs.ErrNotExist):
			return segments, nil
		case err != nil:
			return nil, err
		}
		if size%page.Size != 0 {
			if err := r.ragged(ctx, f, name); err != nil {
				return nil, err
			}
		}
		segments = append(segments, uint32(min(size/page.Size, segmentBlocks)))
		if size < segmentBlocks*page.Size {
			return segments, nil
		}
	}
}

// chunk is some pages that a worker reads and looks at.
type chunk struct {
	p     []byte
	first uint32
	seen  [readPages]seen
	n     int
	err   error
	done  chan struct{}

	worker *worker
}

// segment reads the pages of one file, from a page of the relation on if that is
// in it. The workers read and look at chunks of it
// beside each other; what they saw is judged here in order.
func (r *reader) segment(ctx context.Context, f *fork, segment, first, blocks uint32, reached func(block uint32)) error {
	name := segmentName(f.Path, segment)
	var queue []*chunk
	defer func() {
		for _, c := range queue {
			<-c.done
		}
	}()
	free := slices.Clone(r.workers)
	next := uint32(max(0, int64(first)-int64(segment)*segmentBlocks))
	for began := time.Now(); (next < blocks || len(queue) > 0) && !r.full(f.Name); began = time.Now() {
		for len(queue) < len(r.workers) && next < blocks {
			w := free[0]
			free = free[1:]
			c := w.chunk
			c.first, c.done = segment*segmentBlocks+next, make(chan struct{})
			c.p = w.buffer[:min(readPages, blocks-next)*page.Size]
			w.prepare(f)
			if len(r.workers) > 1 {
				go w.look(ctx, f, name, c)
			} else {
				w.look(ctx, f, name, c)
			}
			queue = append(queue, c)
			next += readPages
		}
		c := queue[0]
		queue = queue[1:]
		<-c.done
		err := c.err
		for i := 0; i < c.n && err == nil; i++ {
			err = r.page(ctx, f, c.p[i*page.Size:(i+1)*page.Size], c.first+uint32(i), c.seen[i])
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		free = append(free, c.worker)
		r.throttle(ctx, began, int64(c.n)*page.Size)
		reached(c.first + uint32(c.n))
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
func (r *reader) unchanged(ctx context.Context, f *fork) (bool, error) {
	var path *string
	err := r.conn.QueryRow(ctx, "SELECT pg_relation_filepath($1::oid)", f.OID).Scan(&path)
	return err == nil && path != nil && *path == f.Path, err
}

// missing reports a relation without a file.
func (r *reader) missing(ctx context.Context, f *fork) error {
	pauseToConfirm(ctx)
	if _, err := r.files.Size(ctx, f.Path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return r.report(ctx, f, nil, problem{"the file " + f.Path + " is missing", "58P01", "missing"})
}

// ragged reports a file that ends in the middle of a page.
func (r *reader) ragged(ctx context.Context, f *fork, name string) error {
	pauseToConfirm(ctx)
	size, err := r.files.Size(ctx, name)
	if err != nil || size%page.Size == 0 {
		return err
	}
	block := uint32(size / page.Size)
	return r.report(ctx, f, &block, problem{fmt.Sprintf("the file %s has %d bytes: it ends in the middle of a page", name, size), "", "ragged"})
}

// unreadable makes a finding of the error that a file of a relation is none, or that
// the device fails to read it.
func (r *reader) unreadable(ctx context.Context, f *fork, err error) error {
	text := datadir.Unreadable(err)
	if text == "" {
		return err
	}
	name := filepath.Base(f.Path)
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		name = filepath.Base(at.Path)
	}
	return r.report(ctx, f, nil, problem{"the file " + filepath.Dir(f.Path) + "/" + name + " cannot be read: " + text, "58030", "unreadable"})
}

// beyond reports a file that ends although another one with data follows it.
// Files that a truncation left behind are empty.
func (r *reader) beyond(ctx context.Context, f *fork, segment uint32) error {
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

// page judges what a worker saw of one page. Pages of zeroes wait for the end of
// the relation.
func (r *reader) page(ctx context.Context, f *fork, p []byte, block uint32, seen seen) error {
	switch {
	case seen.problem.text != "":
		r.unsettled++
		if r.labels[lostLabel(seen.problem.text)] {
			return nil
		}
		return r.confirm(ctx, f, p, block)
	case seen.zero:
		if len(r.zeroes) < maxZeroes {
			r.zeroes = append(r.zeroes, block)
		}
		return nil
	case r.lostWrite(p, block).text != "":
		r.unsettled++
		return r.confirm(ctx, f, p, block)
	case seen.settled:
		r.settledTo = max(r.settledTo, block)
		r.note(f, p, block)
		r.imprints.see(p, block, seen)
		if err := r.copied(ctx, f, p, block); err != nil {
			return err
		}
	default:
		r.unsettled++
	}
	if f.relation.Kind != page.Heap || f.Unlogged || seen.visible {
		return nil
	}
	found, err := r.visibility(ctx, f, p, block)
	if err != nil || found.text == "" {
		return err
	}
	return r.confirm(ctx, f, p, block)
}

// lostLabel is what a problem says of a column whose value is a label that its enum
// does not have, without the row; "" is another problem.
func lostLabel(problem string) string {
	_, column, _ := strings.Cut(problem, ": ")
	if !strings.HasSuffix(column, page.NoLabel) {
		return ""
	}
	return column
}

// beingWritten is logged of a page that a later look finds in order.
const beingWritten = "the page was being written while it was read"

// confirm reports what a later look at a page with the same bytes sees again, so
// that a page that is just being written, or a file that is just going, is no
// finding.
func (r *reader) confirm(ctx context.Context, f *fork, p []byte, block uint32) error {
	// The page may be newer than what is known of the server.
	if err := r.lookAgain(ctx, f); err != nil {
		return err
	}
	if found, err := r.judge(ctx, f, p, block); err != nil || found.text == "" {
		return err
	}
	before, again := bytes.Clone(p), make([]byte, page.Size)
	for range 5 {
		pauseToConfirm(ctx)
		n, err := r.files.ReadAt(ctx, segmentName(f.Path, block/segmentBlocks), again, int64(block%segmentBlocks)*page.Size)
		if errors.Is(err, fs.ErrNotExist) || err == nil && n < page.Size {
			return nil // dropped or truncated meanwhile
		}
		if err != nil {
			return err
		}
		if err := r.lookAgain(ctx, f); err != nil {
			return err
		}
		found, err := r.judge(ctx, f, again, block)
		if err == nil && found.text == "" {
			r.logger.Debug(beingWritten, "relation", f.Name.String(), "block", block)
		}
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

// corrupt is a problem of which no word of the server is known.
func corrupt(kind, format string, args ...any) problem {
	return problem{text: fmt.Sprintf(format, args...), sqlstate: "XX001", kind: kind}
}

// judge looks at one page with all that is known.
func (r *reader) judge(ctx context.Context, f *fork, p []byte, block uint32) (problem, error) {
	r.own.prepare(f)
	seen := r.own.judge(f, p, block)
	switch {
	case seen.problem.kind == "lsn":
		beyond, err := r.beyondWAL(ctx, page.DecodeHeader(p).LSN)
		if err != nil || beyond {
			return seen.problem, err
		}
	case seen.problem.text != "":
		return seen.problem, nil
	case seen.zero && block > r.settledTo:
		return problem{}, nil
	case !seen.zero && r.lostWrite(p, block).text != "":
		return r.lostWrite(p, block), nil
	}
	if changed := r.imprints.changed(p, block, seen, r.redo); changed.text != "" {
		return changed, nil
	}
	if f.relation.Kind != page.Heap || f.Unlogged || r.plain {
		return problem{}, nil
	}
	return r.visibility(ctx, f, p, block)
}

// pageImpact is what a damaged page on disk means.
const pageImpact = "Statements that read this page fail, miss rows or give wrong data, also when a good copy in memory still hides it: the copy on disk is what a restart, a backup and a base backup will see."

// report reports what was seen twice, unless the relation has another file by
// now.
func (r *reader) report(ctx context.Context, f *fork, block *uint32, seen problem) error {
	same, err := r.unchanged(ctx, f)
	if err != nil || !same {
		return err
	}
	if block != nil {
		if anew, err := r.willReplace(ctx, f, *block); err != nil || anew {
			return err
		}
	}
	label := lostLabel(seen.text)
	severity := SeverityCritical
	impact := pageImpact
	action := heapAction
	switch {
	case label != "": // the rows are as they were written if it is pg_enum that lost it
		r.labels[label] = true
		r.scope.Reported.noteLabel(f.Name)
		seen.text = fmt.Sprintf("page %d, %s; later pages with the same are not told of", *block, seen.text)
		block = nil
		impact = "Statements that read this value fail, and so do dumps of the table."
		action = lostLabelAction
	case seen.kind == "fsm":
		severity = SeverityWarning
		impact = "The free space map only tells where new rows find room: no data is lost, but damage to one file is often not alone."
		action = "Look at the disk's and the kernel's messages. VACUUM of the table writes the map anew once everything else about it is sane."
	case seen.kind == "lost vm":
		severity = SeverityWarning
		impact = "No data is lost: statements only look at more pages. But a file that went from a directory of the database is often not alone."
		action = "Find out what removed it, and what else is missing (check files). VACUUM of the table makes the map anew."
	case seen.kind == "lost write", seen.kind == "changed" && f.relation.Kind != page.Heap:
		impact = "What was changed on the page since then is gone from it: rows or entries are missing, old versions of rows are valid again, or deleted ones are back. Other pages of the disk may be as old."
		action = "Look at the disk's and the kernel's messages, and whether a file was restored or copied by itself. Keep a copy of the file, and compare the table with a standby or a restored backup; an index can be rebuilt with REINDEX INDEX CONCURRENTLY once its table is sane."
	case seen.kind == "changed":
		impact = "The page is sound, but it is not what was written: values of its rows may be wrong, rows may be missing, old versions may be back. No statement fails, and no checksum tells."
		action = fmt.Sprintf("Look at the disk's and the kernel's messages, and whether somebody changed, copied or restored the file by itself. Keep a copy of the file, and compare the rows of the page (WHERE ctid >= '(%[1]d,0)' AND ctid < '(%[2]d,0)') with a standby or a restored backup.", *block, *block+1)
	case seen.kind == "copy":
		impact = "One of the two pages was written, copied or restored in the place of the other: the rows that belong there are gone, and foreign ones stand in their place. No statement fails, and no checksum tells."
		action = "Look at the disk's and the kernel's messages, and whether a file was copied or restored by itself. Keep copies of both files, and compare the rows of both pages with a standby or a restored backup: only one of the two is wrong."
	case f.Index:
		impact = "Statements that use this index fail, miss rows or give wrong data; the table itself may be intact."
		action = "Check the index's table for damage first. If it is sane, keep a copy of the index's file and rebuild it with REINDEX INDEX CONCURRENTLY."
	}
	if label == "" && !slices.Contains([]string{"fsm", "lost vm", "changed", "copy"}, seen.kind) {
		r.scope.Heaps.note(f.OID, false)
	}
	r.found(Finding{
		Class: ClassCorruption, Severity: severity, Schema: f.Name.Schema, Relation: f.Name.Name, Block: block,
		SQLState: seen.sqlstate, Message: seen.text, Impact: impact, Action: action,
	}, seen.kind)
	return nil
}
