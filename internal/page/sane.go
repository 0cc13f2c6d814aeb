package page

import (
	"encoding/binary"
	"fmt"
)

// Kind is what a page belongs to.
type Kind int

// The kinds of pages. Other is a page of an access method that is not known
// here: only its header is looked at.
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
)

// specials are the sizes of the special space of each kind of page; the page
// identifiers lie in its last two bytes.
var specials = map[Kind]struct {
	size int
	ids  []uint16
}{
	Heap:     {0, nil},
	Sequence: {8, nil},
	Btree:    {16, nil},
	Hash:     {16, []uint16{0xFF80}},
	Gist:     {16, []uint16{0xFF81}},
	Gin:      {8, nil},
	Spgist:   {8, []uint16{0xFF82}},
	Brin:     {8, []uint16{0xF091, 0xF092, 0xF093}},
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

// Problem says what is impossible in the layout of a page that is not new; ""
// is nothing. It looks at one page alone and knows no table: the header, the
// special space, the line pointers, and the tuple headers of a heap.
func Problem(p []byte, kind Kind) string {
	h := DecodeHeader(p)
	switch {
	case h.PageSize != Size || h.LayoutVersion != 4:
		return fmt.Sprintf("the page header says size %d and layout version %d instead of %d and 4", h.PageSize, h.LayoutVersion, Size)
	case h.Flags&^validFlags != 0:
		return fmt.Sprintf("the page header has unknown flags (pd_flags 0x%04x)", h.Flags)
	case h.Lower < HeaderSize || h.Lower > h.Upper || h.Upper > h.Special || h.Special > Size || h.Special%8 != 0:
		return fmt.Sprintf("the page header's bounds are impossible (pd_lower %d, pd_upper %d, pd_special %d)", h.Lower, h.Upper, h.Special)
	}
	special, known := specials[kind]
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
	if kind == Heap {
		return heapProblem(p, h)
	}
	return ""
}

// heapProblem looks at the line pointers and tuple headers of a heap page.
func heapProblem(p []byte, h Header) string {
	if (h.Lower-HeaderSize)%4 != 0 {
		return fmt.Sprintf("the line pointers end in the middle of one (pd_lower %d)", h.Lower)
	}
	count := int(h.Lower-HeaderSize) / 4
	var used [Size / 8]bool // by MAXALIGN units: which belong to a tuple
	for i := 1; i <= count; i++ {
		offset, length, flags := linePointer(p, i)
		switch flags {
		case lpUnused, lpDead:
			if length != 0 {
				return fmt.Sprintf("line pointer %d is unused or dead but has %d bytes", i, length)
			}
			continue
		case lpRedirect:
			if length != 0 || offset < 1 || offset > count {
				return fmt.Sprintf("line pointer %d redirects to %d of %d", i, offset, count)
			}
			if _, _, target := linePointer(p, offset); target != lpNormal {
				return fmt.Sprintf("line pointer %d redirects to %d, which has no tuple", i, offset)
			}
			continue
		}
		if offset < int(h.Upper) || offset%8 != 0 || length < 24 || offset+length > int(h.Special) {
			return fmt.Sprintf("line pointer %d points to %d bytes at %d, outside of the tuples at %d to %d", i, length, offset, h.Upper, h.Special)
		}
		for unit := offset / 8; unit < (offset+length+7)/8; unit++ {
			if used[unit] {
				return fmt.Sprintf("the tuple of line pointer %d overlaps another", i)
			}
			used[unit] = true
		}
		if problem := tupleProblem(p[offset : offset+length]); problem != "" {
			return fmt.Sprintf("line pointer %d: %s", i, problem)
		}
	}
	return ""
}

// linePointer decodes the line pointer of an offset number, which counts from 1.
func linePointer(p []byte, number int) (offset, length, flags int) {
	word := binary.LittleEndian.Uint32(p[HeaderSize+4*(number-1):])
	return int(word & 0x7fff), int(word >> 17), int(word >> 15 & 3)
}

// Bits of t_infomask and t_infomask2 (htup_details.h).
const (
	hasNull       = 0x0001
	hasOIDOld     = 0x0008
	xmaxCommitted = 0x0400
	xmaxIsMulti   = 0x1000
	nattsMask     = 0x07ff
)

// tupleProblem looks at the header of a heap tuple.
func tupleProblem(t []byte) string {
	mask2, mask, hoff := binary.LittleEndian.Uint16(t[18:]), binary.LittleEndian.Uint16(t[20:]), int(t[22])
	natts := int(mask2 & nattsMask)
	want := 24
	if mask&hasNull != 0 {
		want = (23 + (natts+7)/8 + 7) &^ 7
	}
	switch {
	case hoff%8 != 0 || hoff < 24 || hoff > len(t):
		return fmt.Sprintf("the data of the tuple begins at byte %d of %d", hoff, len(t))
	case mask&hasOIDOld == 0 && hoff != want:
		return fmt.Sprintf("the data of the tuple begins at byte %d, but with %d columns it should at %d", hoff, natts, want)
	case mask&xmaxCommitted != 0 && mask&xmaxIsMulti != 0:
		return "xmax is a multixact that is marked as committed"
	}
	return ""
}
