package wal

import (
	"context"
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

// Written follows the records from the first one behind the beginning of a page on, up
// to a limit, and gives the pages of which each one says that it changed them, with
// where the record begins: a page that was changed then has a larger LSN ever after. Those
// of other access methods are left out, because they name pages that they only locked. A
// segment that is missing ends it.
func Written(ctx context.Context, from, limit Position, e Expect, open Opener, tell func(b Block, record Position)) error {
	w := &walker{expect: e, open: open, keep: true}
	defer w.close()
	first, bad, err := w.skip(from)
	if err != nil || bad != nil {
		return err
	}
	report := Report{First: first, End: first}
	return w.each(ctx, &report, &limit, func(r Record) {
		switch r.Manager {
		case xlogManager, heap2Manager, heapManager, btreeManager, sequenceManager:
		default:
			return
		}
		if r.End > limit {
			return
		}
		decodeBlocks(w.body, w.major, func(b reference) {
			if r.Manager == heap2Manager && r.Info&heapInfo == heap2Visible && b.id != 0 && !b.image {
				return // the page of the table gets no LSN then
			}
			tell(b.Block, r.Start)
		})
	})
}
