package wal

import (
	"context"
	"errors"
	"io/fs"
)

// Resource managers (rmgrlist.h) whose records change pages of relations, and their
// records of which not every page that they name is changed. The numbers are the same in
// all versions.
const (
	heap2Manager    = 9
	heapManager     = 10
	btreeManager    = 11
	hashManager     = 12
	ginManager      = 13
	gistManager     = 14
	sequenceManager = 15
	spgistManager   = 16
	brinManager     = 17
	genericManager  = 20

	heap2Visible = 0x40
	heapInfo     = 0x70

	hashMovePage = 0x70
	hashSqueeze  = 0x80
	hashDelete   = 0x90
)

const (
	// writtenBytes is how much WAL before the last checkpoint is read, as far as it is
	// still there.
	writtenBytes = 128 << 20
	// maxWritten bounds the pages that are kept in mind: some 8 MB.
	maxWritten = 150_000
)

// changes says that the record changed a page that it names for certain: it may have only
// been locked.
func (r Record) changes(b reference) bool {
	switch r.Manager {
	case xlogManager, heapManager, btreeManager, ginManager, gistManager, sequenceManager, spgistManager, brinManager, genericManager:
		return true
	case heap2Manager: // of a table's page only its visibility map may tell
		return r.Info&heapInfo != heap2Visible || b.id == 0 || b.image
	case hashManager: // the first page of the bucket is locked while another is changed
		switch r.Info & infoMask {
		case hashSqueeze:
			return false
		case hashMovePage, hashDelete:
			return b.id != 0
		}
		return true
	}
	return false
}

// Written gives the pages that wanted asks for and the WAL changed before redo, where the
// last completed checkpoint began: the last time of each, as far back as the WAL is there.
// That checkpoint wrote them, so each of them has a larger LSN on disk ever after: else
// its write was lost, or an older page was put back.
func Written(ctx context.Context, redo Position, e Expect, open Opener, wanted func(Block) bool) (map[Block]Position, error) {
	size := Position(e.SegmentSize)
	from := (redo - min(redo, writtenBytes)) &^ (PageSize - 1)
	first := redo / size
	for first > from/size {
		file, err := open(uint64(first - 1))
		if err != nil {
			break
		}
		_ = file.Close() // it was only looked for
		first--
	}
	w := &walker{expect: e, open: open, keep: true}
	defer w.close()
	start, bad, err := w.skip(max(from, first*size))
	if err != nil || bad != nil {
		return nil, ignoreGone(err)
	}
	written := make(map[Block]Position)
	report := Report{First: start, End: start}
	err = w.each(ctx, &report, &redo, func(r Record) {
		if r.End > redo {
			return
		}
		decodeBlocks(w.body, w.major, func(b reference) {
			if !wanted(b.Block) || !r.changes(b) {
				return
			}
			if len(written) == maxWritten {
				clear(written) // the newest are the ones that are looked for
			}
			written[b.Block] = r.Start
		})
	})
	return written, ignoreGone(err)
}

// ignoreGone drops the error that a segment was removed meanwhile.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Oldest is less than any position that a record gives a page as its LSN: a page below it
// was written without WAL, or, of a GiST index that was built by sorting, has 1 although
// the WAL has it.
const Oldest Position = 1 << 16

// Lost says of a page with an LSN that its last write was lost; "" is not known.
func Lost(written map[Block]Position, b Block, lsn Position) string {
	at, known := written[b]
	if !known || lsn > at || lsn < Oldest {
		return ""
	}
	return "the page is older than it must be: the WAL changed it at " + at.String() + ", before the last checkpoint, but it was changed last at " + lsn.String() +
		": a write was lost, or an older page was put back"
}
