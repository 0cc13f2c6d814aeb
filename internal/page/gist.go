package page

import (
	"encoding/binary"
	"fmt"
)

// Flags of pages of a GiST index.
const (
	gistLeaf    = 1
	gistDeleted = 2
	gistFlags   = 31
)

func (r *Relation) gistProblem(p []byte, h Header) string {
	special := p[Size-16:]
	right, flags := binary.LittleEndian.Uint32(special[8:]), binary.LittleEndian.Uint16(special[12:])
	if flags&^gistFlags != 0 {
		return fmt.Sprintf("the page has unknown flags (0x%04x)", flags)
	}
	if problem := r.link("page to the right", right, invalidBlock); problem != "" {
		return problem
	}
	if flags&gistDeleted != 0 {
		return ""
	}
	return indexTuples(p, h, indexHeader, func(_, _ int, t []byte) string {
		if problem := indexTupleProblem(t); problem != "" {
			return problem
		}
		tid := decodeTID(t)
		if flags&gistLeaf != 0 {
			return tid.problem()
		}
		return r.link("page below", tid.Block, invalidBlock)
	})
}
