package page

import (
	"cmp"
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
	ginWhole      = 32
	ginIncomplete = 64
	ginCompressed = 128
	ginFlags      = 255

	// ginTree in t_tid's offset says that the rows of a key have a tree of their
	// own; ginTreeCompressed in its block that a list of them is compressed.
	ginTree   = 0xffff
	ginPacked = 1 << 31
	// A page of rows has its right bound first, then the rows or, of an inner page,
	// items of a page below and the highest row there.
	ginContent = HeaderSize + 8
	ginItem    = 10
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
		m := DecodeGinMeta(p)
		if right != invalidBlock || count != 0 || flags != ginMeta {
			return fmt.Sprintf("the metapage has the flags 0x%04x, or a neighbour (%d), or rows (%d)", flags, right, count)
		}
		if problem := cmp.Or(metaEnd(h, 56), r.ginCountsProblem(p)); problem != "" {
			return problem
		}
		if none := m.Head == invalidBlock; none != (m.Tail == invalidBlock) || none != (m.Pages == 0) || none && (m.Rows != 0 || m.TailFree != 0) {
			return fmt.Sprintf("the list of pending entries begins at page %d, ends at %d, and has %d pages with %d rows", m.Head, m.Tail, m.Pages, m.Rows)
		}
		if problem := r.link("first page of pending entries", m.Head, invalidBlock); problem != "" {
			return problem
		}
		return r.link("last page of pending entries", m.Tail, invalidBlock)
	case flags&ginDeleted != 0 && block != 1:
		return ""
	}
	if problem := ginKindProblem(block, count, flags); problem != "" {
		return problem
	}
	if problem := r.link("page to the right", right, invalidBlock); problem != "" {
		return problem
	}
	switch {
	case flags&ginIncomplete != 0 && right == invalidBlock:
		return "the page was split, but has no page to its right"
	case flags&ginData == 0:
		return r.ginKeysProblem(p, h, right, flags)
	case flags&ginLeaf == 0:
		return r.ginInnerProblem(p, h, right, count)
	case flags&ginCompressed != 0:
		return ginLeafProblem(p, h, right)
	}
	return ""
}

// ginInnerProblem looks at an inner page of the tree of a key's rows.
func (r *Relation) ginInnerProblem(p []byte, h Header, right uint32, count int) string {
	if ginContent+count*ginItem > int(h.Upper) {
		return fmt.Sprintf("the page has %d pages below it, more than fit", count)
	}
	if end := ginContent + count*ginItem; int(h.Lower) != end && h.Lower != HeaderSize { // as it was before 9.4
		return fmt.Sprintf("the page has %d pages below it, but they end at byte %d", count, h.Lower)
	}
	var last TID
	for i := range count {
		item := p[ginContent+i*ginItem:]
		if problem := r.link("page below", blockID(item), invalidBlock); problem != "" {
			return problem
		}
		if right == invalidBlock && i == count-1 {
			break // it has no bound
		}
		bound := decodeTID(item[4:])
		if i > 0 && !last.Before(bound) {
			return fmt.Sprintf("the rows below go up to (%d,%d), and those of the next page to (%d,%d)", last.Block, last.Offset, bound.Block, bound.Offset)
		}
		last = bound
	}
	if bound := decodeTID(p[HeaderSize:]); right != invalidBlock && bound.Before(last) {
		return fmt.Sprintf("the rows below go up to (%d,%d), those of the page only to (%d,%d)", last.Block, last.Offset, bound.Block, bound.Offset)
	}
	return ""
}

// ginLeafProblem looks at a leaf of the tree of a key's rows.
func ginLeafProblem(p []byte, h Header, right uint32) string {
	if int(h.Lower) < ginContent {
		return fmt.Sprintf("the rows end at byte %d, before they begin", h.Lower)
	}
	var last TID
	disorder := ""
	problem := ginLists(p[ginContent:h.Lower], func(row TID) {
		if disorder == "" && !last.Before(row) {
			disorder = fmt.Sprintf("the row (%d,%d) follows (%d,%d) in the rows of a key", row.Block, row.Offset, last.Block, last.Offset)
		}
		last = row
	})
	switch bound := decodeTID(p[HeaderSize:]); {
	case problem != "":
		return problem
	case disorder != "":
		return disorder
	case right != invalidBlock && bound.Before(last):
		return fmt.Sprintf("the rows go up to (%d,%d), although the page has none behind (%d,%d)", last.Block, last.Offset, bound.Block, bound.Offset)
	}
	return ""
}

// ginKindProblem looks at what a page says that it is: its flags, and how many rows it
// counts.
func ginKindProblem(block uint32, count int, flags uint16) string {
	switch {
	case block == 1 && flags&(ginDeleted|ginData|ginList) != 0:
		return fmt.Sprintf("the page is not the root of the keys, which page 1 always is (flags 0x%04x)", flags)
	case flags&ginList != 0 && flags&^(ginList|ginWhole) != 0, flags&ginList == 0 && flags&ginWhole != 0, flags&ginCompressed != 0 && flags&(ginData|ginLeaf) != ginData|ginLeaf:
		return fmt.Sprintf("the page says that it is of several kinds at once (flags 0x%04x)", flags)
	case count != 0 && flags&ginList == 0 && (flags&ginData == 0 || flags&ginCompressed != 0):
		return fmt.Sprintf("the page says that it has %d rows, which such a page does not count (flags 0x%04x)", count, flags)
	}
	return ""
}

// ginTupleProblem looks at a key: a leaf has its rows or where they are, an inner
// page the page below, a pending list one row.
func (r *Relation) ginTupleProblem(t []byte, flags uint16) string {
	tid := decodeTID(t)
	key := t
	if at := int(tid.Block &^ ginPacked); flags&(ginList|ginLeaf) == ginLeaf && tid.Offset != ginTree {
		if at < indexHeader || at > len(t) {
			return fmt.Sprintf("the rows of a key begin at byte %d of %d", at, len(t))
		}
		key = t[:at]
	}
	if binary.LittleEndian.Uint16(t[6:])&indexNulls == 0 { // else there is no key
		if problem := keyProblem(key, r.Columns); problem != "" {
			return problem
		}
	}
	switch {
	case flags&ginList != 0:
		return tid.problem()
	case flags&ginLeaf == 0:
		if tid.Offset != 0 {
			return fmt.Sprintf("the link to the page below, %d, has the offset %d", tid.Block, tid.Offset)
		}
		return r.link("page below", tid.Block, invalidBlock)
	case tid.Offset == ginTree:
		return r.link("root of the rows of a key", tid.Block, invalidBlock)
	}
	if tid.Block&ginPacked == 0 || tid.Offset == 0 {
		return ""
	}
	count := 0
	problem := ginRows(t[len(key):], func(TID) { count++ })
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
		ginLists(p[ginContent:h.Lower], visit)
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

func isGinMeta(p []byte) bool { return binary.LittleEndian.Uint16(p[Size-2:])&ginMeta != 0 }

// GinMeta is what a metapage of a GIN index says of the list of pending entries:
// its first and last page, the free bytes of the last one, its pages and rows.
type GinMeta struct {
	Head, Tail, TailFree, Pages uint32
	Rows                        int64
}

// DecodeGinMeta reads a metapage.
func DecodeGinMeta(p []byte) GinMeta {
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(p[HeaderSize+at:]) }
	return GinMeta{Head: u32(0), Tail: u32(4), TailFree: u32(8), Pages: u32(12), Rows: int64(binary.LittleEndian.Uint64(p[HeaderSize+16:]))}
}

// GinRole is what a page of a GIN index is.
type GinRole uint8

// The roles of pages: of the tree of keys, of the tree of the rows of one key, of
// the list of pending entries, and pages that are free.
const (
	GinFree GinRole = iota
	GinKeys
	GinKeysLeaf
	GinRows
	GinRowsLeaf
	GinPending
)

// GinPage is what a page of a GIN index says of itself.
type GinPage struct {
	Right uint32
	Role  GinRole
	// Incomplete says that the page above does not know yet that the page was split.
	Incomplete bool
	// Bound is the highest row that a page of rows may have unless it is the last
	// one, First is the first row of a leaf.
	Bound, First TID
	// Lowest and Highest are the places of the first and last key of a page of keys
	// in the order of keys; 0 is unknown.
	Lowest, Highest uint64
	// Rows and Free are how many rows begin on a pending page and its free bytes.
	Rows, Free int
}

// ginRole is what a page that is not the metapage is by its flags.
func ginRole(flags uint16) GinRole {
	switch {
	case flags&ginDeleted != 0:
		return GinFree
	case flags&ginList != 0:
		return GinPending
	case flags&(ginData|ginLeaf) == ginLeaf:
		return GinKeysLeaf
	case flags&ginData == 0:
		return GinKeys
	case flags&ginLeaf == 0:
		return GinRows
	}
	return GinRowsLeaf
}

// Gin reads a page that is not the metapage.
func (r *Relation) Gin(p []byte) GinPage {
	right, count, flags := ginOpaque(p)
	g := GinPage{Right: right, Role: ginRole(flags), Incomplete: flags&ginIncomplete != 0}
	switch g.Role {
	case GinFree:
	case GinPending:
		h := DecodeHeader(p)
		g.Rows, g.Free = count, int(h.Upper)-int(h.Lower)
	case GinKeys, GinKeysLeaf:
		last := int(DecodeHeader(p).Lower-HeaderSize) / 4
		if last > 0 && !ginEndless(1, last, right, flags) {
			g.Lowest = r.ginPlace(p, 1, flags)
		}
		if ginEndless(last, last, right, flags) {
			last--
		}
		if last > 0 {
			g.Highest = r.ginPlace(p, last, flags)
		}
	case GinRows:
		g.Bound = decodeTID(p[HeaderSize:])
	case GinRowsLeaf:
		g.Bound = decodeTID(p[HeaderSize:])
		if flags&ginCompressed != 0 && DecodeHeader(p).Lower >= ginContent+8 {
			g.First = decodeTID(p[ginContent:])
		}
	}
	return g
}

// ginPlace is where the key of a line pointer is in the order of keys.
func (r *Relation) ginPlace(p []byte, i int, flags uint16) uint64 {
	offset, length, _ := linePointer(p, i)
	return r.ginKeyOf(p[offset:offset+length], flags).rough()
}

// GinChild is a page below another one.
type GinChild struct {
	Block uint32
	// Bound is the highest row that the page above says it may have, and Highest the
	// place of its highest key; zero is none.
	Bound   TID
	Highest uint64
}

// GinChildren calls visit with the pages below a page, from left to right; the last
// one of the last page has no bound. Of a leaf of keys they are the roots of rows.
func (r *Relation) GinChildren(p []byte, visit func(GinChild)) {
	right, count, flags := ginOpaque(p)
	switch role := ginRole(flags); role {
	case GinKeys, GinKeysLeaf:
		last := int(DecodeHeader(p).Lower-HeaderSize) / 4
		for i := 1; i <= last; i++ {
			offset, _, _ := linePointer(p, i)
			tid := decodeTID(p[offset:])
			switch {
			case role == GinKeysLeaf && tid.Offset != ginTree:
			case role == GinKeysLeaf, ginEndless(i, last, right, flags):
				visit(GinChild{Block: tid.Block})
			default:
				visit(GinChild{Block: tid.Block, Highest: r.ginPlace(p, i, flags)})
			}
		}
	case GinRows:
		for i := range count {
			item := p[ginContent+i*ginItem:]
			if right == invalidBlock && i == count-1 {
				visit(GinChild{Block: blockID(item)})
				continue
			}
			visit(GinChild{Block: blockID(item), Bound: decodeTID(item[4:])})
		}
	default: // there is none
	}
}
