package page

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Flags of pages of a hash index, and the layout of its metapage
// (HashMetaPageData) in bytes from the page's header on.
const (
	hashMagic = 0x6440640

	hashFree     = 0
	hashOverflow = 1
	hashBucket   = 2
	hashBitmap   = 4
	hashMeta     = 8
	hashGrowing  = 16
	hashSplit    = 32
	hashDead     = 128
	hashFlags    = 0xff

	hashSpares    = 52
	hashMapped    = 444
	hashMetaSize  = 4544
	hashMapSize   = 4096 // bytes of bits on a bitmap page
	hashMaxMaps   = 1024
	hashMaxSpares = 98
	// hashTuple is the size of an entry: the head, the hash code, padding.
	hashTuple = indexHeader + 8
	// hashOnePhase is the first group of buckets that is made in more than one
	// phase, and hashPhases how many.
	hashOnePhase = 10
	hashPhases   = 4
)

func (r *Relation) hashProblem(p []byte, h Header, block uint32) string {
	special := p[Size-16:]
	previous, next, bucket := binary.LittleEndian.Uint32(special), binary.LittleEndian.Uint32(special[4:]), binary.LittleEndian.Uint32(special[8:])
	flags := binary.LittleEndian.Uint16(special[12:])
	if flags&^hashFlags != 0 {
		return fmt.Sprintf("the page has unknown flags (0x%04x)", flags)
	}
	kind := flags & 15
	if (block == 0) != (kind == hashMeta) {
		return fmt.Sprintf("page %d is not the metapage or the metapage is not page 0 (flags 0x%04x)", block, flags)
	}
	switch kind {
	case hashMeta, hashBitmap:
		if flags != kind || previous != invalidBlock || next != invalidBlock || bucket != invalidBlock {
			return fmt.Sprintf("a page that is in no bucket has the bucket %d, the neighbours %d and %d, the flags 0x%04x", bucket, previous, next, flags)
		}
		if kind == hashMeta {
			return r.hashMetaProblem(p, h)
		}
		if h.Lower != HeaderSize+hashMapSize {
			return fmt.Sprintf("the bitmap ends at byte %d instead of %d", h.Lower, HeaderSize+hashMapSize)
		}
		return ""
	case hashOverflow, hashBucket:
	case hashFree:
		return ""
	default:
		return fmt.Sprintf("the page says that it is of several kinds at once (flags 0x%04x)", flags)
	}
	switch {
	case r.Blocks != 0 && bucket >= r.Blocks:
		return fmt.Sprintf("the page belongs to bucket %d, but the index has only %d pages", bucket, r.Blocks)
	case kind == hashBucket && (previous < bucket || r.Blocks != 0 && previous >= r.Blocks):
		return fmt.Sprintf("the highest bucket was %d when this one, %d, was split last, but the index has %d pages", previous, bucket, r.Blocks)
	case kind == hashOverflow && flags&^hashDead != hashOverflow:
		return fmt.Sprintf("an overflow page has flags of a bucket's first page (0x%04x)", flags)
	}
	if problem := r.link("next page of the bucket", next, invalidBlock); problem != "" {
		return problem
	}
	if kind == hashOverflow {
		if problem := r.link("page before it in the bucket", previous, invalidBlock); problem != "" {
			return problem
		}
	}
	var last uint32
	return indexTuples(p, h, hashTuple, func(i, _ int, t []byte) string {
		if problem := indexTupleProblem(t); problem != "" {
			return problem
		}
		if len(t) != hashTuple || !zero(t[indexHeader+4:]) {
			return fmt.Sprintf("the tuple has %d bytes instead of %d, or something behind its hash code", len(t), hashTuple)
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

func (r *Relation) hashMetaProblem(p []byte, h Header) string {
	b := p[HeaderSize:]
	magic, version := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	size, mapSize, mapShift := binary.LittleEndian.Uint16(b[18:]), binary.LittleEndian.Uint16(b[20:]), binary.LittleEndian.Uint16(b[22:])
	m := DecodeHashMeta(p)
	switch {
	case magic != hashMagic || version != 4:
		return fmt.Sprintf("the metapage has the magic number %08x and version %d instead of %08x and 4", magic, version, hashMagic)
	case h.Lower != HeaderSize+hashMetaSize:
		return fmt.Sprintf("the metapage's content ends at byte %d instead of %d", h.Lower, HeaderSize+hashMetaSize)
	case size != Size-HeaderSize-16 || mapSize != hashMapSize || mapShift != 15:
		return fmt.Sprintf("the metapage says that pages have %d bytes and bitmaps %d (1<<%d bits)", size, mapSize, mapShift)
	case m.high&(m.high+1) != 0 || m.low&(m.low+1) != 0 || m.low != m.high>>1 || m.Highest > m.high || m.Highest < m.low:
		return fmt.Sprintf("the metapage has %d buckets and the masks %x and %x, which do not fit each other", uint64(m.Highest)+1, m.high, m.low)
	case m.phase != hashPhase(m.Highest+1) || m.phase >= hashMaxSpares:
		return fmt.Sprintf("the metapage has %d buckets, but says that they grew in phase %d", uint64(m.Highest)+1, m.phase)
	case m.maps == 0 || m.maps > hashMaxMaps:
		return fmt.Sprintf("the metapage says that the index has %d bitmaps", m.maps)
	case m.spare(m.phase) < m.maps:
		return fmt.Sprintf("the metapage says that the index has %d bitmaps, but only %d pages that are no buckets", m.maps, m.spare(m.phase))
	case m.firstFree > m.spare(m.phase):
		return fmt.Sprintf("the metapage says that overflow page %d may be free, but there are only %d", m.firstFree, m.spare(m.phase))
	}
	for i := range m.phase {
		if m.spare(i) > m.spare(i+1) {
			return fmt.Sprintf("the metapage says that there were %d overflow pages in phase %d of growth, and %d in the next", m.spare(i), i, m.spare(i+1))
		}
	}
	for i := m.phase + 1; i < hashMaxSpares; i++ {
		if m.spare(i) != 0 {
			return fmt.Sprintf("the metapage says that there are %d overflow pages in phase %d of growth, but is in phase %d", m.spare(i), i, m.phase)
		}
	}
	if last := uint64(hashBuckets(m.phase)) + uint64(m.spare(m.phase)); r.Blocks != 0 && last >= uint64(r.Blocks) {
		return fmt.Sprintf("the metapage says that the last page is %d, beyond the end (%d pages)", last, r.Blocks)
	}
	if problem := r.link("last bucket", m.BucketBlock(m.Highest), 0); problem != "" {
		return problem
	}
	for i := range m.maps {
		if problem := r.link(fmt.Sprintf("bitmap %d", i), m.mapBlock(i), invalidBlock); problem != "" {
			return problem
		}
	}
	return ""
}

// HashMeta is what a metapage of a hash index says.
type HashMeta struct {
	// Highest is the highest bucket.
	Highest uint32

	high, low, phase, firstFree, maps uint32

	content []byte
}

// DecodeHashMeta reads a metapage, which it keeps.
func DecodeHashMeta(p []byte) HashMeta {
	b := p[HeaderSize:]
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	return HashMeta{Highest: u32(24), high: u32(28), low: u32(32), phase: u32(36), firstFree: u32(40), maps: u32(44), content: b[:hashMetaSize]}
}

// spare is how many overflow and bitmap pages there were up to a phase of growth.
func (m *HashMeta) spare(phase uint32) uint32 {
	return binary.LittleEndian.Uint32(m.content[hashSpares+4*phase:])
}

func (m *HashMeta) mapBlock(i uint32) uint32 {
	return binary.LittleEndian.Uint32(m.content[hashMapped+4*i:])
}

// BucketBlock is the first page of a bucket (BUCKET_TO_BLKNO).
func (m *HashMeta) BucketBlock(bucket uint32) uint32 {
	if bucket == 0 {
		return 1
	}
	return bucket + m.spare(hashPhase(bucket+1)-1) + 1
}

// SplitFrom is the bucket that a bucket was split from
// (_hash_get_oldblock_from_newbucket), 0 for itself.
func SplitFrom(bucket uint32) uint32 {
	if bucket == 0 {
		return 0
	}
	return bucket &^ (1 << (bits.Len32(bucket) - 1))
}

// Overflow is how many overflow pages and bitmaps there are, free ones included.
func (m *HashMeta) Overflow() uint32 { return m.spare(m.phase) }

// Spares calls visit with every page that is an overflow page, a bitmap or free:
// its number among them, and its block (_hash_ovflblkno).
func (m *HashMeta) Spares(visit func(number, block uint32)) {
	number := uint32(0)
	for phase := range m.phase + 1 {
		if phase == 0 {
			continue
		}
		for ; number < m.spare(phase); number++ {
			visit(number, hashBuckets(phase)+number+1)
		}
	}
}

// Bitmap is the block of the bitmap that tells of an overflow page, and the bit in
// it.
func (m *HashMeta) Bitmap(number uint32) (block, bit uint32) {
	i := number / (hashMapSize * 8)
	if i >= m.maps {
		return invalidBlock, 0
	}
	return m.mapBlock(i), number % (hashMapSize * 8)
}

// hashPhase is the phase of growth that makes the last of a number of buckets
// (_hash_spareindex).
func hashPhase(buckets uint32) uint32 {
	group := uint32(bits.Len32(buckets - 1))
	if group < hashOnePhase {
		return group
	}
	return hashOnePhase + (group-hashOnePhase)*hashPhases + (buckets-1)>>(group-3)&(hashPhases-1)
}

// hashBuckets is how many buckets there are at the end of a phase of growth
// (_hash_get_totalbuckets).
func hashBuckets(phase uint32) uint32 {
	if phase < hashOnePhase {
		return 1 << phase
	}
	group := hashOnePhase + (phase-hashOnePhase)/hashPhases
	within := (phase-hashOnePhase)%hashPhases + 1
	total := uint32(1) << (group - 1)
	return total + total/hashPhases*within
}

// HashPage is what a page of a hash index says of itself and its neighbours. Of
// the first page of a bucket Previous is no page, but the highest bucket when the
// bucket was split last.
type HashPage struct {
	Previous, Next, Bucket uint32
	Role                   HashRole
	// Split says that a bucket is being split, Growing that one is being filled from
	// another that is.
	Split, Growing bool
}

// HashRole is what a page of a hash index is.
type HashRole uint8

// The roles of pages. A free page was an overflow page.
const (
	HashFree HashRole = iota
	HashOverflow
	HashBucket
	HashBitmap
)

// DecodeHash reads the special space of a page of a hash index.
func DecodeHash(p []byte) HashPage {
	s := p[Size-16:]
	h := HashPage{Previous: binary.LittleEndian.Uint32(s), Next: binary.LittleEndian.Uint32(s[4:]), Bucket: binary.LittleEndian.Uint32(s[8:])}
	flags := binary.LittleEndian.Uint16(s[12:])
	switch flags & 15 {
	case hashOverflow:
		h.Role = HashOverflow
	case hashBucket:
		h.Role = HashBucket
		h.Split, h.Growing = flags&hashSplit != 0, flags&hashGrowing != 0
	case hashBitmap:
		h.Role = HashBitmap
	}
	return h
}

// HashBits are the bits of a bitmap page: one is an overflow page in use.
func HashBits(p []byte) []byte { return p[HeaderSize : HeaderSize+hashMapSize] }
