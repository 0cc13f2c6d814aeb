package page

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Kind is what a page belongs to.
type Kind int

// The kinds of pages. Other is a page of an access method that is not known
// here: only its header is looked at. VisibilityMap and FreeSpaceMap are the
// maps of any relation.
const (
	Other Kind = iota
	Heap
	Sequence
	Btree
	Hash
	Gist
	Gin
	Spgist
	Brin
	VisibilityMap
	FreeSpaceMap
)

// specials are the sizes of the special space of each kind of page; the page
// identifiers lie in its last two bytes.
var specials = map[Kind]struct {
	size int
	ids  []uint16
}{
	Heap:          {0, nil},
	Sequence:      {8, nil},
	Btree:         {16, nil},
	Hash:          {16, []uint16{0xFF80}},
	Gist:          {16, []uint16{0xFF81}},
	Gin:           {8, nil},
	Spgist:        {8, []uint16{0xFF82}},
	Brin:          {8, []uint16{brinMeta, brinRevmap, brinRegular}},
	VisibilityMap: {0, nil},
	FreeSpaceMap:  {0, nil},
}

// Flags of the page header and of line pointers.
const (
	AllVisible = 4 // PD_ALL_VISIBLE
	validFlags = 7

	lpUnused   = 0
	lpNormal   = 1
	lpRedirect = 2
	lpDead     = 3
)

// invalidBlock is InvalidBlockNumber.
const invalidBlock = 0xffffffff

// Relation is what is known of the relation that a page belongs to. Facts that
// are not known are zero, and nothing is concluded from them.
type Relation struct {
	// Kind is what its pages are.
	Kind Kind
	// Blocks is how many pages it has, measured after the page was read, and only
	// for relations that never shrink: links must not lead beyond.
	Blocks uint32
	// Columns are the columns in the order of pg_attribute, dropped ones included.
	Columns []Column
	// Keys is how many columns of an index are no INCLUDE columns.
	Keys int
	// Included says that it has INCLUDE columns besides.
	Included bool
	// Order is that of the keys of a GIN index.
	Order Order
	// Toast is the OID of the table's TOAST table, and HasToast that Toast is known.
	Toast    uint32
	HasToast bool
	// Chunks says that it is a TOAST table.
	Chunks bool
	// XIDs is what is known of transactions.
	XIDs *XIDs
	// Unsure is set by Problem when the columns of a row do not fit, but an aborted
	// transaction may have made it under other columns.
	Unsure bool
}

// IsNew says that a page is all zeroes, as the server extends files.
func IsNew(p []byte) bool {
	for len(p) >= 8 {
		if binary.LittleEndian.Uint64(p) != 0 {
			return false
		}
		p = p[8:]
	}
	return true
}

// Problem says what is impossible in a page that is not new; "" is nothing. It
// looks at one page alone: the header, the special space, the line pointers, the
// headers and columns of tuples, the metapage and the flags of an index.
func Problem(p []byte, block uint32, r *Relation) string {
	h := DecodeHeader(p)
	if problem := headerProblem(h); problem != "" {
		return problem
	}
	special, known := specials[r.Kind]
	if !known {
		return ""
	}
	if int(h.Special) != Size-special.size {
		return fmt.Sprintf("the special space has %d bytes instead of %d: this is not a page of this kind of relation", Size-int(h.Special), special.size)
	}
	if special.ids != nil {
		id := binary.LittleEndian.Uint16(p[Size-2:])
		ok := false
		for _, one := range special.ids {
			ok = ok || id == one
		}
		if !ok {
			return fmt.Sprintf("the page identifier is 0x%04x: this is not a page of this kind of index", id)
		}
	}
	switch r.Kind {
	case Heap:
		return r.heapProblem(p, h, block)
	case Sequence:
		return r.sequenceProblem(p, h, block)
	case Btree:
		return r.btreeProblem(p, h, block)
	case Hash:
		return r.hashProblem(p, h, block)
	case Gist:
		return r.gistProblem(p, h, block)
	case Gin:
		return r.ginProblem(p, h, block)
	case Spgist:
		return r.spgistProblem(p, h, block)
	case Brin:
		return r.brinProblem(p, h, block)
	case VisibilityMap:
		return mapProblem(p, h)
	case FreeSpaceMap:
		if h.Lower != HeaderSize {
			return fmt.Sprintf("a page of the free space map has line pointers (pd_lower %d)", h.Lower)
		}
		return ""
	default:
		return ""
	}
}

func headerProblem(h Header) string {
	switch {
	case h.PageSize != Size || h.LayoutVersion != 4:
		return fmt.Sprintf("the page header says size %d and layout version %d instead of %d and 4", h.PageSize, h.LayoutVersion, Size)
	case h.Flags&^validFlags != 0:
		return fmt.Sprintf("the page header has unknown flags (pd_flags 0x%04x)", h.Flags)
	case h.Lower < HeaderSize || h.Lower > h.Upper || h.Upper > h.Special || h.Special > Size || h.Special%8 != 0:
		return fmt.Sprintf("the page header's bounds are impossible (pd_lower %d, pd_upper %d, pd_special %d)", h.Lower, h.Upper, h.Special)
	}
	return ""
}

// pointers is how many line pointers a page has.
func pointers(h Header) (count int, problem string) {
	if (h.Lower-HeaderSize)%4 != 0 {
		return 0, fmt.Sprintf("the line pointers end in the middle of one (pd_lower %d)", h.Lower)
	}
	return int(h.Lower-HeaderSize) / 4, ""
}

// linePointer decodes the line pointer of an offset number, which counts from 1.
func linePointer(p []byte, number int) (offset, length, flags int) {
	word := binary.LittleEndian.Uint32(p[HeaderSize+4*(number-1):])
	return int(word & 0x7fff), int(word >> 17), int(word >> 15 & 3)
}

// usage is which parts of a page belong to a tuple, one bit for each MAXALIGN
// unit.
type usage [Size / 8 / 64]uint64

// take marks the bytes of a tuple, and says whether they were free.
func (u *usage) take(offset, length int) bool {
	free := true
	for unit, end := offset/8, (offset+length+7)/8; unit < end; {
		in := unit % 64
		n := min(64-in, end-unit)
		mask := ^uint64(0) >> (64 - n) << in
		free = free && u[unit/64]&mask == 0
		u[unit/64] |= mask
		unit += n
	}
	return free
}

// gap says that bytes between the tuples belong to none. Whoever takes a tuple away
// moves the others together in the same record of the WAL, so a gap is a tuple that
// lost its line pointer or a part of its length.
func (u *usage) gap(h Header) string {
	used := 0
	for _, word := range u {
		used += bits.OnesCount64(word)
	}
	if free := int(h.Special-h.Upper) - 8*used; free > 0 {
		return fmt.Sprintf("%d bytes among the tuples at %d to %d belong to no line pointer: a tuple has lost it, or some of its length", free, h.Upper, h.Special)
	}
	return ""
}

// place says what is wrong with where a line pointer points to.
func (u *usage) place(h Header, i, offset, length, least int) string {
	if offset < int(h.Upper) || offset%8 != 0 || length < least || offset+length > int(h.Special) {
		return fmt.Sprintf("line pointer %d points to %d bytes at %d, outside of the tuples at %d to %d", i, length, offset, h.Upper, h.Special)
	}
	if !u.take(offset, length) {
		return fmt.Sprintf("the tuple of line pointer %d overlaps another", i)
	}
	return ""
}

// mapProblem looks at a page of the visibility map: what is all-frozen is
// all-visible, too.
func mapProblem(p []byte, h Header) string {
	if h.Lower != HeaderSize {
		return fmt.Sprintf("a page of the visibility map has line pointers (pd_lower %d)", h.Lower)
	}
	wrong := 0
	for i := HeaderSize; i+8 <= Size; i += 8 {
		word := binary.LittleEndian.Uint64(p[i:])
		wrong += bits.OnesCount64(word >> 1 &^ word & 0x5555555555555555)
	}
	if wrong > 0 {
		return fmt.Sprintf("the visibility map calls %d pages all-frozen that it does not call all-visible", wrong)
	}
	return ""
}

// sequenceMagic marks the page of a sequence.
const sequenceMagic = 0x1717

// sequenceProblem looks at the one page of a sequence: one tuple with the last
// value, a counter and whether it was handed out.
func (r *Relation) sequenceProblem(p []byte, h Header, block uint32) string {
	const values = 8 + 8 + 1
	if magic := binary.LittleEndian.Uint32(p[Size-8:]); magic != sequenceMagic {
		return fmt.Sprintf("the page identifier is 0x%04x: this is not a page of a sequence", magic)
	}
	count, problem := pointers(h)
	switch {
	case problem != "":
		return problem
	case block != 0 || count != 1:
		return fmt.Sprintf("the sequence has %d line pointers instead of one", count)
	}
	offset, length, flags := linePointer(p, 1)
	switch {
	case flags != lpNormal || length != 24+values:
		return fmt.Sprintf("the sequence's tuple has %d bytes instead of %d", length, 24+values)
	case offset < int(h.Upper) || offset+length > int(h.Special):
		return fmt.Sprintf("line pointer 1 points to %d bytes at %d, outside of the tuples at %d to %d", length, offset, h.Upper, h.Special)
	}
	t := p[offset : offset+length]
	if natts, hoff := binary.LittleEndian.Uint16(t[18:])&nattsMask, t[22]; natts != 3 || hoff != 24 || t[20]&hasNull != 0 {
		return fmt.Sprintf("the sequence's tuple has %d columns from byte %d on instead of 3 from byte 24", natts, hoff)
	}
	if called := t[24+16]; called > 1 {
		return fmt.Sprintf("the sequence's is_called is %d, which is neither true nor false", called)
	}
	return ""
}
