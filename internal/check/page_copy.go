package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/wal"
)

// maxCopies is of how many pages at most it is remembered where they are: 1 GB of
// tables, and of larger databases a sample.
const maxCopies = 1 << 17

// copies remembers where the pages of tables and sequences are, by their LSN. A record
// of the WAL changes pages of one relation only, so that two relations of a database
// never have a page with the same LSN, unless one was written, copied or restored in
// the place of the other's: it is sane then, and its checksum fits.
type copies struct {
	relations []fork
	pages     map[uint64]copyAt
	// sparse are the bits of a hash of an LSN that must be zero for a page to be
	// remembered.
	sparse uint64
}

// copyAt is where a page is: a number of a relation, and a block.
type copyAt struct{ relation, block uint32 }

// see remembers a page, and gives the one of another relation that has the same LSN.
func (c *copies) see(f *fork, p []byte, block uint32) (other *fork, otherBlock uint32) {
	lsn := page.DecodeHeader(p).LSN
	if f.relation.Kind != page.Heap && f.relation.Kind != page.Sequence || f.Unlogged || wal.Position(lsn) < wal.Oldest || !c.remembers(lsn) {
		return nil, 0
	}
	if had, ok := c.pages[lsn]; ok && c.relations[had.relation].OID != f.OID {
		return &c.relations[had.relation], had.block
	}
	if last := len(c.relations) - 1; last < 0 || c.relations[last].OID != f.OID {
		c.relations = append(c.relations, fork{OID: f.OID, Name: f.Name, Path: f.Path, Shared: f.Shared, relation: page.Relation{Kind: f.relation.Kind}})
	}
	if c.pages == nil {
		c.pages = make(map[uint64]copyAt)
	}
	c.pages[lsn] = copyAt{uint32(len(c.relations) - 1), block}
	for len(c.pages) > maxCopies {
		c.sparse = c.sparse<<1 | 1
		for lsn := range c.pages {
			if !c.remembers(lsn) {
				delete(c.pages, lsn)
			}
		}
	}
	return nil, 0
}

func (c *copies) remembers(lsn uint64) bool {
	const golden = 0x9E3779B97F4A7C15 // spreads what is near to each other
	return lsn*golden>>32&c.sparse == 0
}

// copied reports a page that is the same as one of another relation, and that one: which
// of the two is wrong is not known.
func (r *reader) copied(ctx context.Context, f *fork, p []byte, block uint32) error {
	other, otherBlock := r.copies.see(f, p, block)
	if other == nil {
		return nil
	}
	again := make([]byte, page.Size)
	n, err := r.files.ReadAt(ctx, segmentName(other.Path, otherBlock/segmentBlocks), again, int64(otherBlock%segmentBlocks)*page.Size)
	if errors.Is(err, fs.ErrNotExist) || err == nil && n < page.Size {
		return nil // dropped or truncated meanwhile
	}
	if err != nil {
		return err
	}
	lsn, digest := page.DecodeHeader(p).LSN, page.Digest(p, &r.own.digested)
	if page.DecodeHeader(again).LSN != lsn || page.Problem(again, otherBlock, &other.relation) != "" || page.Digest(again, &r.own.digested) != digest {
		return nil
	}
	const text = "the page is the same as page %d of %s, also by its LSN %X/%X"
	if err := r.report(ctx, f, &block, problem{fmt.Sprintf(text, otherBlock, other.Name, lsn>>32, uint32(lsn)), "", "copy"}); err != nil {
		return err
	}
	return r.report(ctx, other, &otherBlock, problem{fmt.Sprintf(text, block, f.Name, lsn>>32, uint32(lsn)), "", "copy"})
}
