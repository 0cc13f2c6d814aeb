package wal

import (
	"context"
	"errors"
	"io/fs"
)

// Resource managers (rmgrlist.h) and their records that change pages of tables, B-trees
// and sequences. The numbers are the same in all versions.
const (
	heap2Manager    = 9
	heapManager     = 10
	btreeManager    = 11
	sequenceManager = 15

	heap2Visible = 0x40
	heapInfo     = 0x70
)

const (
	// writtenBytes is how much WAL before the last checkpoint is read, as far as it is
	// still there.
	writtenBytes = 128 << 20
	// maxWritten bounds the pages that are kept in mind: some 8 MB.
	maxWritten = 150_000
)

// Written gives the pages that the WAL changed before redo, where the last completed
// checkpoint began, the last time of each, as far back as the WAL is there: pages of
// tables, B-trees and sequences that wanted asks for. That checkpoint wrote them, so
// each of them has a larger LSN on disk ever after: else its write was lost, or an older
// page was put back. Those of other access methods are left out, because records name
// pages of them that were only locked.
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
		switch r.Manager {
		case xlogManager, heap2Manager, heapManager, btreeManager, sequenceManager:
		default:
			return
		}
		if r.End > redo {
			return
		}
		decodeBlocks(w.body, w.major, func(b reference) {
			if !wanted(b.Block) || r.Manager == heap2Manager && r.Info&heapInfo == heap2Visible && b.id != 0 && !b.image {
				return // nobody's, or the page of a table that only its visibility map tells of
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

// Lost says of a page with an LSN that its last write was lost; "" is not known.
func Lost(written map[Block]Position, b Block, lsn Position) string {
	at, known := written[b]
	if !known || lsn > at {
		return ""
	}
	return "the page is older than it must be: the WAL changed it at " + at.String() + ", before the last checkpoint, but it was changed last at " + lsn.String() +
		": a write was lost, or an older page was put back"
}
