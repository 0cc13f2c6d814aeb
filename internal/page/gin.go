package page

import (
	"encoding/binary"
	"fmt"
)

// Flags of pages of a GIN index.
const (
	ginData       = 1
	ginLeaf       = 2
	ginDeleted    = 4
	ginMeta       = 8
	ginList       = 16
	ginCompressed = 128
	ginFlags      = 255

	// ginTree in t_tid's offset says that the rows of a key have a tree of their
	// own; ginTreeCompressed in its block that a list of them is compressed.
	ginTree       = 0xffff
	ginPacked     = 1 << 31
	ginRightBound = HeaderSize + 8
	ginItem       = 10
	// ginOffsetBits are the bits of the offset number in a packed row.
	ginOffsetBits = 11
)

// ginOpaque reads the special space.
func ginOpaque(p []byte) (right uint32, count int, flags uint16) {
	s := p[Size-8:]
	return binary.LittleEndian.Uint32(s), int(binary.LittleEndian.Uint16(s[4:])), binary.LittleEndian.Uint16(s[6:])
}

func (r *Relation) ginProblem(p []byte, h Header, block uint32) string {
	right, count, flags := ginOpaque(p)
	switch {
	case flags&^ginFlags != 0:
		return fmt.Sprintf("the page has unknown flags (0x%04x)", flags)
	case (block == 0) != (flags&ginMeta != 0):
		return fmt.Sprintf("page %d is not the metapage or the metapage is not page 0 (flags 0x%04x)", block, flags)
	case block == 0:
		if version := binary.LittleEndian.Uint32(p[HeaderSize+48:]); version > 2 {
			return fmt.Sprintf("the metapage has version %d instead of 2", version)
		}
		head, tail := binary.LittleEndian.Uint32(p[HeaderSize:]), binary.LittleEndian.Uint32(p[HeaderSize+4:])
		if (head == invalidBlock) != (tail == invalidBlock) {
			return fmt.Sprintf("the list of pending entries begins at page %d and ends at %d", head, tail)
		}
		if problem := r.link("first page of pending entries", head, invalidBlock); problem != "" {
			return problem
		}
		return r.link("last page of pending entries", tail, invalidBlock)
	case flags&ginDeleted != 0:
		return ""
	}
	if problem := r.link("page to the right", right, invalidBlock); problem != "" {
		return problem
	}
	switch {
	case flags&ginData == 0:
		return indexTuples(p, h, indexHeader, func(_, _ int, t []byte) string {
			if problem := indexTupleProblem(t); problem != "" {
				return problem
			}
			return r.ginTupleProblem(t, flags)
		})
	case flags&ginLeaf == 0:
		if ginRightBound+count*ginItem > int(h.Upper) {
			return fmt.Sprintf("the page has %d pages below it, more than fit", count)
		}
		for i := range count {
			if problem := r.link("page below", blockID(p[ginRightBound+i*ginItem:]), invalidBlock); problem != "" {
				return problem
			}
		}
		return ""
	case flags&ginCompressed != 0:
		if int(h.Lower) < ginRightBound {
			return fmt.Sprintf("the rows end at byte %d, before they begin", h.Lower)
		}
		return ginLists(p[ginRightBound:h.Lower], nil)
	}
	return ""
}

// ginTupleProblem looks at a key: a leaf has its rows or where they are, an inner
// page the page below, a pending list one row.
func (r *Relation) ginTupleProblem(t []byte, flags uint16) string {
	tid := decodeTID(t)
	switch {
	case flags&ginList != 0:
		return tid.problem()
	case flags&ginLeaf == 0:
		return r.link("page below", tid.Block, invalidBlock)
	case tid.Offset == ginTree:
		return r.link("root of the rows of a key", tid.Block, invalidBlock)
	}
	at := int(tid.Block &^ ginPacked)
	if at < indexHeader || at > len(t) {
		return fmt.Sprintf("the rows of a key begin at byte %d of %d", at, len(t))
	}
	if tid.Block&ginPacked == 0 || tid.Offset == 0 {
		return ""
	}
	count := 0
	problem := ginRows(t[at:], func(TID) { count++ })
	if problem == "" && count != int(tid.Offset) {
		return fmt.Sprintf("a key has %d rows, but says %d", count, tid.Offset)
	}
	return problem
}

// ginLists visits the rows of a sequence of packed lists.
func ginLists(b []byte, visit func(TID)) string {
	for len(b) >= 8 {
		size := 8 + (int(binary.LittleEndian.Uint16(b[6:]))+1)&^1
		if size > len(b) {
			return fmt.Sprintf("a packed list of rows has %d bytes, more than the %d that are left", size, len(b))
		}
		if problem := ginRows(b[:size], visit); problem != "" {
			return problem
		}
		b = b[size:]
	}
	if len(b) > 0 {
		return "a packed list of rows ends in its head"
	}
	return ""
}

// ginRows visits the rows of one packed list: the first in full, then the
// differences, seven bits to a byte.
func ginRows(b []byte, visit func(TID)) string {
	if len(b) < 8 || 8+int(binary.LittleEndian.Uint16(b[6:])) > len(b) {
		return "a packed list of rows is longer than its place"
	}
	first := decodeTID(b)
	if problem := first.problem(); problem != "" {
		return problem
	}
	if visit != nil {
		visit(first)
	}
	value := uint64(first.Block)<<ginOffsetBits | uint64(first.Offset)
	packed := b[8 : 8+int(binary.LittleEndian.Uint16(b[6:]))]
	for len(packed) > 0 {
		var delta uint64
		n := 0
		for {
			if n == len(packed) || n > 6 {
				return "a packed list of rows ends in the middle of one"
			}
			delta |= uint64(packed[n]&0x7f) << (7 * n)
			n++
			if packed[n-1]&0x80 == 0 {
				break
			}
		}
		packed = packed[n:]
		value += delta
		tid := TID{Block: uint32(value >> ginOffsetBits), Offset: uint16(value & (1<<ginOffsetBits - 1))}
		if delta == 0 {
			return "a packed list has the same row twice"
		}
		if problem := tid.problem(); problem != "" {
			return "in a packed list of rows: " + problem
		}
		if visit != nil {
			visit(tid)
		}
	}
	return ""
}

func ginEntries(p []byte, h Header, visit func(TID)) {
	_, _, flags := ginOpaque(p)
	switch {
	case flags&(ginMeta|ginDeleted) != 0:
	case flags&(ginData|ginList) == ginList:
		plainEntries(p, h, 0, visit)
	case flags&(ginData|ginLeaf|ginCompressed) == ginData|ginLeaf|ginCompressed:
		ginLists(p[ginRightBound:h.Lower], visit)
	case flags&(ginData|ginList|ginLeaf) == ginLeaf:
		for i := 1; i <= int(h.Lower-HeaderSize)/4; i++ {
			offset, length, _ := linePointer(p, i)
			tid := decodeTID(p[offset:])
			if tid.Offset != ginTree && tid.Offset != 0 && tid.Block&ginPacked != 0 {
				ginRows(p[offset+int(tid.Block&^ginPacked):offset+length], visit)
			}
		}
	}
}
