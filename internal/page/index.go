package page

import (
	"encoding/binary"
	"fmt"
)

// Bits of t_info of an index tuple (itup.h); the last is the access method's own.
const (
	indexSizeMask = 0x1fff
	indexOwnBit   = 0x2000
	indexNulls    = 0x8000

	indexHeader = 8
	// nullBytes is the size of the bitmap of an index tuple with nulls, padding
	// included.
	nullBytes = 8
)

// TID is where a row is in its table.
type TID struct {
	Block  uint32
	Offset uint16
}

func decodeTID(b []byte) TID {
	return TID{Block: blockID(b), Offset: binary.LittleEndian.Uint16(b[4:])}
}

// problem says that no row can be at a TID.
func (t TID) problem() string {
	if t.Offset == 0 || t.Offset > maxTuples || t.Block == invalidBlock {
		return fmt.Sprintf("it points to the row (%d,%d), which cannot be", t.Block, t.Offset)
	}
	return ""
}

// link says what is wrong with a link to another page of the relation.
func (r *Relation) link(name string, to, none uint32) string {
	if to == none || r.Blocks == 0 || to < r.Blocks {
		return ""
	}
	return fmt.Sprintf("the %s is page %d, but the index has %d pages", name, to, r.Blocks)
}

// indexTuples looks at the line pointers of an index page and calls visit for
// each tuple, of no fewer than least bytes. Tuples of index pages keep their
// bytes when they are marked dead.
func indexTuples(p []byte, h Header, least int, visit func(i, flags int, t []byte) string) string {
	count, problem := pointers(h)
	if problem != "" {
		return problem
	}
	var used usage
	for i := 1; i <= count; i++ {
		offset, length, flags := linePointer(p, i)
		if flags != lpNormal && flags != lpDead || length == 0 {
			return fmt.Sprintf("line pointer %d of an index has no tuple (flags %d, %d bytes)", i, flags, length)
		}
		if problem := used.place(h, i, offset, length, least); problem != "" {
			return problem
		}
		if problem := visit(i, flags, p[offset:offset+length]); problem != "" {
			return fmt.Sprintf("line pointer %d: %s", i, problem)
		}
	}
	return used.gap(h)
}

// indexTupleProblem looks at a tuple that has the head of all index tuples.
func indexTupleProblem(t []byte) string {
	if size := int(binary.LittleEndian.Uint16(t[6:]) & indexSizeMask); size != len(t) {
		return fmt.Sprintf("the index tuple says that it has %d bytes, its line pointer %d", size, len(t))
	}
	return ""
}

// keyProblem walks over the columns of an index tuple.
func (r *Relation) keyProblem(t []byte) string {
	if r.Columns == nil {
		return ""
	}
	info := binary.LittleEndian.Uint16(t[6:])
	data, nulls := t[indexHeader:], []byte(nil)
	if info&indexNulls != 0 {
		if len(t) < indexHeader+nullBytes {
			return "the index tuple ends within its null bitmap"
		}
		data, nulls = t[indexHeader+nullBytes:], t[indexHeader:]
	}
	w := walk{data: data, index: true}
	if problem := w.columns(r.Columns, nulls); problem != "" {
		return problem
	}
	if (w.at+7)&^7 != len(data) {
		return fmt.Sprintf("the columns of the index tuple end at byte %d of %d", w.at, len(data))
	}
	return ""
}

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

// Flags of pages of a hash index.
const (
	hashMagic = 0x6440640

	hashOverflow = 1
	hashBucket   = 2
	hashBitmap   = 4
	hashMeta     = 8
	hashFlags    = 0xff
)

func (r *Relation) hashProblem(p []byte, h Header, block uint32) string {
	special := p[Size-16:]
	previous, next := binary.LittleEndian.Uint32(special), binary.LittleEndian.Uint32(special[4:])
	flags := binary.LittleEndian.Uint16(special[12:])
	if flags&^hashFlags != 0 {
		return fmt.Sprintf("the page has unknown flags (0x%04x)", flags)
	}
	kind := flags & 15
	if (block == 0) != (kind == hashMeta) {
		return fmt.Sprintf("page %d is not the metapage or the metapage is not page 0 (flags 0x%04x)", block, flags)
	}
	switch kind {
	case hashMeta:
		return hashMetaProblem(p)
	case hashOverflow, hashBucket:
	default:
		return ""
	}
	if problem := r.link("next page of the bucket", next, invalidBlock); problem != "" {
		return problem
	}
	if bucket := binary.LittleEndian.Uint32(special[8:]); r.Blocks != 0 && bucket >= r.Blocks {
		return fmt.Sprintf("the page belongs to bucket %d, but the index has only %d pages", bucket, r.Blocks)
	}
	if kind == hashBucket && r.Blocks != 0 && previous >= r.Blocks {
		return fmt.Sprintf("the highest bucket was %d when this one was split last, but the index has only %d pages", previous, r.Blocks)
	}
	if kind == hashOverflow {
		if problem := r.link("page before it in the bucket", previous, invalidBlock); problem != "" {
			return problem
		}
	}
	var last uint32
	return indexTuples(p, h, indexHeader+4, func(i, _ int, t []byte) string {
		if problem := indexTupleProblem(t); problem != "" {
			return problem
		}
		code := binary.LittleEndian.Uint32(t[indexHeader:])
		if i > 1 && code < last {
			return fmt.Sprintf("the hash code %08x follows %08x: the page is out of order", code, last)
		}
		last = code
		return decodeTID(t).problem()
	})
}

// hasHashTuples says that a page is one of a bucket.
func hasHashTuples(p []byte) bool {
	kind := binary.LittleEndian.Uint16(p[Size-4:]) & 15
	return kind == hashOverflow || kind == hashBucket
}

func hashMetaProblem(p []byte) string {
	m := p[HeaderSize:]
	magic, version := binary.LittleEndian.Uint32(m), binary.LittleEndian.Uint32(m[4:])
	size, mapSize := binary.LittleEndian.Uint16(m[18:]), binary.LittleEndian.Uint16(m[20:])
	buckets, high, low := binary.LittleEndian.Uint32(m[24:]), binary.LittleEndian.Uint32(m[28:]), binary.LittleEndian.Uint32(m[32:])
	switch {
	case magic != hashMagic || version != 4:
		return fmt.Sprintf("the metapage has the magic number %08x and version %d instead of %08x and 4", magic, version, hashMagic)
	case size != Size-HeaderSize-16 || mapSize != 4096:
		return fmt.Sprintf("the metapage says that pages have %d bytes and bitmaps %d", size, mapSize)
	case high&(high+1) != 0 || low&(low+1) != 0 || low != high>>1 || buckets > high || buckets < low:
		return fmt.Sprintf("the metapage has %d buckets and the masks %x and %x, which do not fit each other", uint64(buckets)+1, high, low)
	}
	return ""
}

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

// Entries calls visit with every row that a page of an index points to. It
// expects a page without a problem, and leaves out entries that are marked dead.
func Entries(p []byte, kind Kind, visit func(TID)) {
	h := DecodeHeader(p)
	switch kind {
	case Btree:
		btreeEntries(p, h, visit)
	case Gin:
		ginEntries(p, h, visit)
	case Hash:
		if hasHashTuples(p) {
			plainEntries(p, h, 0, visit)
		}
	case Gist:
		if flags := binary.LittleEndian.Uint16(p[Size-4:]); flags&(gistLeaf|gistDeleted) == gistLeaf {
			plainEntries(p, h, 0, visit)
		}
	case Spgist:
		if flags := binary.LittleEndian.Uint16(p[Size-8:]); flags&(spgistLeaf|spgistMeta) == spgistLeaf {
			plainEntries(p, h, 6, visit)
		}
	default: // no index, or one without rows
	}
}

// plainEntries visits the TID at the same place of each tuple; SP-GiST has other
// tuples among those that are live.
func plainEntries(p []byte, h Header, at int, visit func(TID)) {
	for i := 1; i <= int(h.Lower-HeaderSize)/4; i++ {
		offset, _, flags := linePointer(p, i)
		if flags != lpNormal || at > 0 && p[offset]&3 != spgistLive {
			continue
		}
		visit(decodeTID(p[offset+at:]))
	}
}

// HashPage is what a page of a bucket of a hash index says of itself and its
// neighbours. Of the first page of a bucket Previous is no page, but the highest
// bucket when the bucket was split last.
type HashPage struct {
	Previous, Next, Bucket uint32
	Overflow               bool
}

// DecodeHash reads the special space of a page of a bucket; ok is that it is one.
func DecodeHash(p []byte) (h HashPage, ok bool) {
	s := p[Size-16:]
	h = HashPage{
		Previous: binary.LittleEndian.Uint32(s), Next: binary.LittleEndian.Uint32(s[4:]), Bucket: binary.LittleEndian.Uint32(s[8:]),
		Overflow: binary.LittleEndian.Uint16(s[12:])&15 == hashOverflow,
	}
	return h, hasHashTuples(p)
}

// HashBuckets gives the highest bucket by a metapage.
func HashBuckets(p []byte) uint32 { return binary.LittleEndian.Uint32(p[HeaderSize+24:]) }
