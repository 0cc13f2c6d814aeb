package page

import (
	"encoding/binary"
	"fmt"
)

// Flags of pages of an SP-GiST index, and states of its tuples.
const (
	spgistMagic = 0xBA0BABEE

	spgistMeta  = 1
	spgistLeaf  = 4
	spgistFlags = 15

	spgistLive  = 0
	spgistLeast = 16
)

func (r *Relation) spgistProblem(p []byte, h Header, block uint32) string {
	flags := binary.LittleEndian.Uint16(p[Size-8:])
	switch {
	case flags&^spgistFlags != 0:
		return fmt.Sprintf("the page has unknown flags (0x%04x)", flags)
	case (block == 0) != (flags&spgistMeta != 0):
		return fmt.Sprintf("page %d is not the metapage or the metapage is not page 0 (flags 0x%04x)", block, flags)
	case block == 0:
		if magic := binary.LittleEndian.Uint32(p[HeaderSize:]); magic != spgistMagic {
			return fmt.Sprintf("the metapage has the magic number %08x instead of %08x", magic, uint32(spgistMagic))
		}
		return ""
	}
	return indexTuples(p, h, spgistLeast, func(_, _ int, t []byte) string {
		word := binary.LittleEndian.Uint32(t)
		if flags&spgistLeaf == 0 {
			if size := int(binary.LittleEndian.Uint16(t[4:])); size != len(t) {
				if word&3 == spgistLive {
					return fmt.Sprintf("the inner tuple says that it has %d bytes, its line pointer %d", size, len(t))
				}
			}
			return ""
		}
		if size := int(word >> 2); size != len(t) {
			return fmt.Sprintf("the leaf tuple says that it has %d bytes, its line pointer %d", size, len(t))
		}
		if word&3 == spgistLive {
			return decodeTID(t[6:]).problem()
		}
		return ""
	})
}
