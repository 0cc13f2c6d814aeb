package page

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Kinds of pages of a BRIN index.
const (
	brinMagic = 0xA8109CFA

	brinMeta    = 0xF091
	brinRevmap  = 0xF092
	brinRegular = 0xF093

	// brinHead is the size of the head of a summary; brinNulls in its last byte says
	// that bits for nulls follow, and brinStart where the values begin.
	brinHead  = 5
	brinNulls = 0x80
	brinStart = 0x1f

	// brinEvacuate is the only flag of a page.
	brinEvacuate = 1

	brinMaxRange = 131072 // BRIN_MAX_PAGES_PER_RANGE

	revmapSize = (Size - HeaderSize - 8) / 6
)

func (r *Relation) brinProblem(p []byte, h Header, block uint32) string {
	kind := binary.LittleEndian.Uint16(p[Size-2:])
	if (block == 0) != (kind == brinMeta) {
		return fmt.Sprintf("page %d is not the metapage or the metapage is not page 0 (kind %04x)", block, kind)
	}
	if unused, flags := binary.LittleEndian.Uint32(p[Size-8:]), binary.LittleEndian.Uint16(p[Size-4:]); unused != 0 || flags&^brinEvacuate != 0 || kind != brinRegular && flags != 0 {
		return fmt.Sprintf("the page has unknown flags (0x%08x 0x%04x)", unused, flags)
	}
	switch kind {
	case brinMeta:
		m := p[HeaderSize:]
		magic, version := binary.LittleEndian.Uint32(m), binary.LittleEndian.Uint32(m[4:])
		size, last := DecodeBrinMeta(p)
		switch {
		case magic != brinMagic || version != 1:
			return fmt.Sprintf("the metapage has the magic number %08x and version %d instead of %08x and 1", magic, version, uint32(brinMagic))
		case size == 0 || size > brinMaxRange:
			return fmt.Sprintf("the metapage says that a range has %d pages", size)
		}
		return cmp.Or(metaEnd(h, 16), r.link("last page of the range map", last, invalidBlock))
	case brinRevmap:
		for i := range revmapSize {
			if tid := decodeTID(p[HeaderSize+6*i:]); tid.Offset != 0 {
				if problem := r.link(fmt.Sprintf("page of range %d", i), tid.Block, invalidBlock); problem != "" {
					return problem
				}
			}
		}
		return ""
	}
	count, problem := pointers(h)
	if problem != "" {
		return problem
	}
	var used usage
	for i := 1; i <= count; i++ {
		offset, length, flags := linePointer(p, i)
		if flags == lpUnused && length == 0 {
			continue
		}
		if flags != lpNormal {
			return fmt.Sprintf("line pointer %d of a range map's page has the flags %d", i, flags)
		}
		if problem := used.place(h, i, offset, length, 5); problem != "" {
			return problem
		}
		if problem := r.summaryProblem(p[offset : offset+length]); problem != "" {
			return fmt.Sprintf("line pointer %d: %s", i, problem)
		}
	}
	return used.gap(h)
}

// summaryProblem looks at the summary of a range: its first page, a byte with flags
// and where the values begin, a bit for each column that has only nulls and for each
// that has some, and the values.
func (r *Relation) summaryProblem(t []byte) string {
	start, end := int(t[4]&brinStart), brinHead
	if start > len(t) {
		return fmt.Sprintf("the values begin at byte %d of %d", start, len(t))
	}
	if len(r.Columns) == 0 {
		return ""
	}
	var nulls []byte
	if t[4]&brinNulls != 0 {
		end += (2*len(r.Columns) + 7) / 8
		nulls = t[brinHead:min(end, len(t))]
	}
	if want := (end + 7) &^ 7; start != want || len(t) < want || !zero(t[end:want]) {
		return fmt.Sprintf("the values begin at byte %d, but with %d columns they should at %d", start, len(r.Columns), want)
	}
	w := walk{data: t[start:], index: true, padded: true}
	for i, c := range r.Columns {
		if nulls == nil || nulls[i/8]>>(i%8)&1 == 0 {
			if problem := w.columns(c.parts, nil); problem != "" {
				return fmt.Sprintf("summary of column %d: %s", i+1, problem)
			}
		}
	}
	if (w.at+7)&^7 != len(w.data) || !zero(w.data[w.at:]) {
		return fmt.Sprintf("the values end at byte %d of %d, or something is behind them", w.at, len(w.data))
	}
	return ""
}

// NewBloomSummary describes what a BRIN index with a bloom operator class keeps of the
// values of a column in a range (14+).
func NewBloomSummary() Column {
	return NewSummary(Column{length: -1, align: 4, value: bloomProblem})
}

// NewMultiSummary describes what a BRIN index with a minmax-multi operator class keeps
// of the values of a column in a range (14+): length is that of the values, or less
// than 0.
func NewMultiSummary(length int16) Column {
	return NewSummary(Column{length: -1, align: 4, value: func(v []byte) string { return multiProblem(v, int(length)) }})
}

// bloomProblem looks at a bloom filter: the number of hash functions, of bits, of those
// that are set, and the bits. More may be set than it says: where two were joined, old
// versions did not count again.
func bloomProblem(v []byte) string {
	const head = 12
	if len(v) < head {
		return fmt.Sprintf("its filter has only %d bytes", len(v))
	}
	flags, size, set, is := u16(v), u32(v[4:]), u32(v[8:]), 0
	for _, b := range v[head:] {
		is += bits.OnesCount8(b)
	}
	switch {
	case v[2] == 0 || flags != 0:
		return fmt.Sprintf("its filter has %d hash functions, and the flags 0x%04x", v[2], flags)
	case uint64(size) != uint64(len(v)-head)*8:
		return fmt.Sprintf("its filter has %d bits, but says %d", (len(v)-head)*8, size)
	case int(set) > is:
		return fmt.Sprintf("%d bits of its filter are set, but it says %d", is, set)
	}
	return ""
}

// multiProblem looks at some ranges and single values: the type of the values, how many
// ranges, values and how many bounds and values there may be, and these.
func multiProblem(v []byte, length int) string {
	const head, most = 16, 1 << 10
	if len(v) < head {
		return fmt.Sprintf("its ranges have only %d bytes", len(v))
	}
	ranges, values, limit := uint64(u32(v[4:])), uint64(u32(v[8:])), uint64(u32(v[12:]))
	count := 2*ranges + values
	if u32(v) == 0 || count > limit || limit > most || length > 0 && count*uint64(length) != uint64(len(v)-head) {
		return fmt.Sprintf("its %d ranges and %d values, of up to %d, do not have %d bytes", ranges, values, limit, len(v)-head)
	}
	return ""
}

// DecodeBrinMeta reads the metapage of a BRIN index: how many pages of the table a
// range has, and the last page of the range map, which begins at page 1.
func DecodeBrinMeta(p []byte) (pagesPerRange, lastMap uint32) {
	return binary.LittleEndian.Uint32(p[HeaderSize+8:]), binary.LittleEndian.Uint32(p[HeaderSize+12:])
}

// IsBrinMap says that a page is one of the range map.
func IsBrinMap(p []byte) bool { return binary.LittleEndian.Uint16(p[Size-2:]) == brinRevmap }

// BrinRanges calls visit with the summaries of a page of the range map, by the
// number of the range on it.
func BrinRanges(p []byte, visit func(number int, summary TID)) {
	for i := range revmapSize {
		if tid := decodeTID(p[HeaderSize+6*i:]); tid.Offset != 0 {
			visit(i, tid)
		}
	}
}

// BrinMapRanges is how many ranges a page of the range map has.
const BrinMapRanges = revmapSize

// BrinSummaries calls visit with each summary of a page, and the first page of its
// range in the table.
func BrinSummaries(p []byte, visit func(offset uint16, first uint32)) {
	if binary.LittleEndian.Uint16(p[Size-2:]) != brinRegular {
		return
	}
	for i := 1; i <= int(DecodeHeader(p).Lower-HeaderSize)/4; i++ {
		if offset, _, flags := linePointer(p, i); flags == lpNormal {
			visit(uint16(i), binary.LittleEndian.Uint32(p[offset:]))
		}
	}
}
