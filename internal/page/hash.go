package page

import (
	"encoding/binary"
	"fmt"
)

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
