package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"time"

	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/imprint"
	"pg_integrity_exporter/internal/page"
)

const (
	// ImprintsDirectory is where the imprints of pages are, below the directory of a target:
	// one book for each database, named by its OID.
	ImprintsDirectory = "imprints"
	// minImprintSpace is how many bytes must be free where imprints are kept, or a fifth
	// of a small disk.
	minImprintSpace = 1 << 30
)

// imprints compare pages with what they said when they were read last.
// Nil knows nothing and keeps nothing.
type imprints struct {
	book *imprint.Book
	// writes says that a new book is written.
	writes bool
	// proven is how far in the WAL the server has the same history, see [imprint.Book.Proven].
	proven uint64
	// old are the imprints of the present file, and now the new ones; nil is none.
	old, now *imprint.File
	// suspects are pages that are not as they were.
	suspects []uint32
}

// openImprints opens the imprints of the database. A pass over all relations makes new
// ones.
func (r *reader) openImprints(ctx context.Context) error {
	if r.scope.Memory == nil || r.scope.Memory.Directory() == "" || r.redo == 0 {
		return nil
	}
	system, err := r.systemIdentifier(ctx)
	if err != nil || system == 0 {
		return err
	}
	path := filepath.Join(r.scope.Memory.Directory(), ImprintsDirectory, strconv.FormatUint(uint64(r.databaseOID), 10))
	book, err := imprint.Open(path, uint64(system), r.started)
	if err != nil {
		r.logger.Warn("pages are not compared with what they were", "err", err)
		return nil
	}
	r.imprints = &imprints{book: book}
	r.imprints.proven = book.Proven(func(name string, block uint32, p []byte) error {
		began := time.Now()
		n, err := r.files.ReadAt(ctx, name, p, int64(block)*page.Size)
		r.throttle(ctx, began, int64(n))
		if err == nil && n < page.Size {
			err = io.EOF
		}
		return err
	})
	if len(r.scope.Relations) > 0 {
		return nil
	}
	if err := book.Begin(r.scope.Resume, r.resumed); err != nil {
		r.logger.Warn("what pages say is not kept for the next pass", "err", err)
		return nil
	}
	r.imprints.writes = true
	return nil
}

// beginImprints takes out the imprints of a file whose pages are read from the page
// first on.
func (r *reader) beginImprints(f *fork, name string, blocks, first uint32) {
	m := r.imprints
	if m == nil {
		return
	}
	m.old, m.now, m.suspects = nil, nil, nil
	if f.relation.Kind == page.Other || f.Unlogged {
		return
	}
	old, err := m.book.Recall(name)
	if err != nil {
		r.logger.Warn("pages are not compared with what they were", "file", name, "err", err)
	}
	m.old, m.now = old, imprint.NewFile(name, r.redo, blocks, time.Now())
	if first > 0 && old != nil { // an earlier run has read the pages before
		m.now.Settled, m.now.Taken = min(r.redo, old.Settled), old.Taken
		for block := range first {
			m.keepOld(block)
		}
	}
}

// keepOld keeps of a page what was known of it before.
func (m *imprints) keepOld(block uint32) {
	m.now.Set(imprint.Page{Block: block}, m.old.At(block))
}

// see takes the imprint of a page, and compares it.
func (m *imprints) see(p []byte, block uint32, seen seen) {
	if m == nil || m.now == nil || seen.imprint == 0 {
		return
	}
	at := imprint.Page{Block: block % segmentBlocks, LSN: page.DecodeHeader(p).LSN}
	if at.LSN <= m.now.Settled {
		m.now.Set(at, seen.imprint)
	}
	before := m.old.At(at.Block)
	switch {
	case before == 0 || at.LSN > m.old.Settled:
	case before == seen.imprint && !before.Proves():
	case before == seen.imprint:
		m.proven = max(m.proven, at.LSN)
	default:
		m.suspects = append(m.suspects, block)
	}
}

// changed says that a page is not as it was although nothing was written to the WAL for it.
func (m *imprints) changed(p []byte, block uint32, seen seen, redo uint64) problem {
	if m == nil || m.old == nil || seen.imprint == 0 {
		return problem{}
	}
	text := m.old.Changed(block%segmentBlocks, page.DecodeHeader(p).LSN, seen.imprint, m.proven, redo)
	return problem{text, "XX001", "changed"}
}

// compareImprints judges the pages of the present file that are not as they were, and
// keeps its imprints. Such a page is held against what it was next time, too, and so are
// all pages of a file that was not read as a whole.
func (r *reader) compareImprints(ctx context.Context, f *fork, whole bool) error {
	m := r.imprints
	if m == nil || m.now == nil {
		return nil
	}
	if !whole {
		m.now, m.suspects = m.old, nil
	}
	for _, block := range m.suspects {
		in := block % segmentBlocks
		m.now.Set(imprint.Page{Block: in}, 0)
		p, err := r.read(ctx, f, block)
		if err != nil {
			return err
		}
		if p == nil {
			break // dropped or truncated meanwhile
		}
		r.own.prepare(f)
		if m.changed(p, block, r.own.judge(f, p, block), r.redo).text == "" {
			continue
		}
		m.keepOld(in)
		m.now.Taken = m.old.Taken
		if r.full(f.Name) {
			continue
		}
		if err := r.confirm(ctx, f, p, block); err != nil {
			return err
		}
	}
	if m.writes && m.now != nil {
		r.keepImprints()
	}
	m.now = nil
	return nil
}

// keepImprints writes down the imprints of the present file. A disk that is full does
// not stop the check, and leaves those of the pass before.
func (r *reader) keepImprints() {
	m := r.imprints
	free, size, known := datadir.Space(r.scope.Memory.Directory())
	if known && free < min(minImprintSpace, size/5) {
		m.stop(fmt.Errorf("only %d bytes are free", free), r.logger)
		return
	}
	if err := m.book.Keep(m.now); err != nil {
		m.stop(err, r.logger)
	}
}

// stop says that no more imprints are kept.
func (m *imprints) stop(err error, logger *slog.Logger) {
	m.writes = false
	logger.Warn("what the other pages say is not kept for the next pass", "err", err)
	if !errors.Is(err, imprint.ErrFull) {
		m.book.Abandon()
	}
}

// finish ends the pass.
func (m *imprints) finish() error {
	if m == nil {
		return nil
	}
	return m.book.Finish()
}

// close closes the books.
func (m *imprints) close() {
	if m != nil {
		m.book.Close()
	}
}
