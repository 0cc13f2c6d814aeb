package page

import (
	"encoding/binary"
	"fmt"
)

// Kinds of pages of a BRIN index.
const (
	brinMagic = 0xA8109CFA

	brinMeta    = 0xF091
	brinRevmap  = 0xF092
	brinRegular = 0xF093

	revmapSize = (Size - HeaderSize - 8) / 6
)

func (r *Relation) brinProblem(p []byte, h Header, block uint32) string {
	kind := binary.LittleEndian.Uint16(p[Size-2:])
	if (block == 0) != (kind == brinMeta) {
		return fmt.Sprintf("page %d is not the metapage or the metapage is not page 0 (kind %04x)", block, kind)
	}
	switch kind {
	case brinMeta:
		m := p[HeaderSize:]
		magic, version := binary.LittleEndian.Uint32(m), binary.LittleEndian.Uint32(m[4:])
		size, last := binary.LittleEndian.Uint32(m[8:]), binary.LittleEndian.Uint32(m[12:])
		switch {
		case magic != brinMagic || version != 1:
			return fmt.Sprintf("the metapage has the magic number %08x and version %d instead of %08x and 1", magic, version, uint32(brinMagic))
		case size == 0 || size > 131072:
			return fmt.Sprintf("the metapage says that a range has %d pages", size)
		}
		return r.link("last page of the range map", last, invalidBlock)
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
		if start := int(p[offset+4] & 0x1f); start > length {
			return fmt.Sprintf("line pointer %d: the values begin at byte %d of %d", i, start, length)
		}
	}
	return used.gap(h)
}
