package page

import (
	"encoding/binary"
	"fmt"
)

// Flags of pages of a GiST index, and what the offset number of a link to a page
// below is, today and before PostgreSQL 9.1.
const (
	gistLeaf       = 1
	gistDeleted    = 2
	gistIncomplete = 8
	gistFlags      = 31

	gistValid   = 0xffff
	gistInvalid = 0xfffe
)

func (r *Relation) gistProblem(p []byte, h Header, block uint32) string {
	g := DecodeGist(p)
	if flags := binary.LittleEndian.Uint16(p[Size-4:]); flags&^gistFlags != 0 {
		return fmt.Sprintf("the page has unknown flags (0x%04x)", flags)
	}
	// The number of the last split is a position in the WAL.
	if split := gistSplit(p); split > h.LSN {
		return fmt.Sprintf("the page was split at %X/%X, after it was changed last at %X/%X", split>>32, uint32(split), h.LSN>>32, uint32(h.LSN))
	}
	if problem := r.link("page to the right", g.Right, invalidBlock); problem != "" {
		return problem
	}
	switch {
	case g.Right == 0:
		return "the page to the right is the root"
	case g.Incomplete && g.Right == invalidBlock:
		return fmt.Sprintf("the page says that it was split, but there is none to its right (flags 0x%04x)", binary.LittleEndian.Uint16(p[Size-4:]))
	case block == 0 && (gistSplit(p) != 0 || g.Right != invalidBlock || g.Deleted):
		return fmt.Sprintf("the root says that it was split or deleted, or has page %d to its right (flags 0x%04x)", g.Right, binary.LittleEndian.Uint16(p[Size-4:]))
	case g.Deleted:
		return ""
	}
	return indexTuples(p, h, indexHeader, func(_, _ int, t []byte) string {
		if problem := indexTupleProblem(t); problem != "" {
			return problem
		}
		tid := decodeTID(t)
		if g.Leaf {
			if problem := tid.problem(); problem != "" {
				return problem
			}
			return keyProblem(t, r.Columns)
		}
		if tid.Offset != gistValid && tid.Offset != gistInvalid {
			return fmt.Sprintf("the link to the page below, %d, has the offset %d", tid.Block, tid.Offset)
		}
		if problem := r.link("page below", tid.Block, invalidBlock); problem != "" {
			return problem
		}
		return keyProblem(t, r.Columns[:min(r.Keys, len(r.Columns))])
	})
}

func gistSplit(p []byte) uint64 {
	s := p[Size-16:]
	return uint64(binary.LittleEndian.Uint32(s))<<32 | uint64(binary.LittleEndian.Uint32(s[4:]))
}

// GistPage is what a page of a GiST index says of itself.
type GistPage struct {
	Right         uint32
	Leaf, Deleted bool
	// Incomplete says that the page above does not know yet that the page was
	// split.
	Incomplete bool
}

// DecodeGist reads the special space of a page of a GiST index.
func DecodeGist(p []byte) GistPage {
	s := p[Size-16:]
	flags := binary.LittleEndian.Uint16(s[12:])
	return GistPage{
		Right: binary.LittleEndian.Uint32(s[8:]), Leaf: flags&gistLeaf != 0, Deleted: flags&gistDeleted != 0, Incomplete: flags&gistIncomplete != 0,
	}
}

// GistChildren calls visit with the pages below a page.
func GistChildren(p []byte, visit func(block uint32)) {
	if g := DecodeGist(p); !g.Leaf && !g.Deleted {
		plainEntries(p, DecodeHeader(p), 0, func(t TID) { visit(t.Block) })
	}
}
