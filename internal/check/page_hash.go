package check

import (
	"bytes"
	"fmt"

	"pg_integrity_exporter/internal/page"
)

// hashStructure is a hash index: buckets, each a chain of pages, at places that
// follow from their numbers, and bitmaps of the overflow pages in use. A server
// that looks a row up in an index whose pages do not agree can go round for ever,
// deaf to a cancel and to statement_timeout.
type hashStructure struct {
	pages []hashNode
	// meta is a copy of the metapage; nil is unknown.
	meta []byte
	// bits are those of the bitmaps, by page.
	bits map[uint32][]byte
}

// hashNode is a page of a hash index.
type hashNode struct {
	page.HashPage

	noted bool
}

func (s *hashStructure) note(p []byte, block uint32) {
	if block == 0 {
		s.meta = bytes.Clone(p)
		return
	}
	n := &s.pages[block]
	n.HashPage, n.noted = page.DecodeHash(p), true
	if n.Role == page.HashBitmap {
		if s.bits == nil {
			s.bits = make(map[uint32][]byte)
		}
		s.bits[block] = bytes.Clone(page.HashBits(p))
	}
}

func (s *hashStructure) same(p []byte, block uint32) bool {
	if block == 0 {
		return bytes.Equal(p, s.meta)
	}
	return page.DecodeHash(p) == s.pages[block].HashPage && (s.bits[block] == nil || bytes.Equal(page.HashBits(p), s.bits[block]))
}

// at is a page of which something is known.
func (s *hashStructure) at(block uint32) *hashNode {
	if int64(block) >= int64(len(s.pages)) || !s.pages[block].noted {
		return nil
	}
	return &s.pages[block]
}

func (s *hashStructure) problems(_ bool, tell teller) {
	for i := range s.pages {
		block := uint32(i)
		n := s.at(block)
		if n == nil || n.Role != page.HashBucket && n.Role != page.HashOverflow {
			continue
		}
		s.place(block, n, tell)
		s.beside(block, n, tell)
	}
	s.splits(tell)
	s.bitmaps(tell)
}

// splits compares the buckets that are being split with those that are being filled
// from them: one record of WAL begins both, one ends both.
func (s *hashStructure) splits(tell teller) {
	if s.meta == nil {
		return
	}
	m := page.DecodeHashMeta(s.meta)
	for i := range s.pages {
		block := uint32(i)
		n := s.at(block)
		if n == nil {
			continue
		}
		if n.Growing {
			old := m.BucketBlock(page.SplitFrom(n.Bucket))
			if o := s.at(old); n.Bucket == 0 || o != nil && !o.Split {
				tell(fmt.Sprintf("bucket %d says that it is being filled from the one on page %d, which is not being split", n.Bucket, old), block, old)
			}
		}
		if n.Split {
			s.filled(block, n, &m, tell)
		}
	}
}

// filled looks for the bucket that is being filled from another, one of those that
// were ever split from it.
func (s *hashStructure) filled(block uint32, n *hashNode, m *page.HashMeta, tell teller) {
	var others []uint32
	for bit := uint64(1); n.Bucket|uint32(bit) <= m.Highest && bit < 1<<32; bit <<= 1 {
		if bit <= uint64(n.Bucket) {
			continue
		}
		other := m.BucketBlock(n.Bucket | uint32(bit))
		if o := s.at(other); o == nil || o.Growing {
			return
		}
		others = append(others, other)
	}
	tell(fmt.Sprintf("bucket %d says that it is being split, but no other is being filled from it", n.Bucket), block, others...)
}

// place compares a page of a bucket with the metapage.
func (s *hashStructure) place(block uint32, n *hashNode, tell teller) {
	if s.meta == nil {
		return
	}
	m := page.DecodeHashMeta(s.meta)
	switch {
	case n.Bucket > m.Highest:
		tell(fmt.Sprintf("the page belongs to bucket %d, but the metapage says that the highest is %d", n.Bucket, m.Highest), block, 0)
	case n.Role == page.HashOverflow:
	case n.Previous > m.Highest:
		tell(fmt.Sprintf("the highest bucket was %d when this one was split last, but the metapage says that it is %d", n.Previous, m.Highest), block, 0)
	case m.BucketBlock(n.Bucket) != block:
		tell(fmt.Sprintf("the page says that it is the first of bucket %d, which by the metapage is page %d", n.Bucket, m.BucketBlock(n.Bucket)), block, 0)
	}
}

// beside compares a page with its neighbours in the bucket.
func (s *hashStructure) beside(block uint32, n *hashNode, tell teller) {
	if next := s.at(n.Next); next != nil && (next.Role != page.HashOverflow || next.Previous != block || next.Bucket != n.Bucket) {
		tell(fmt.Sprintf("the next page of its bucket %d, page %d, belongs to bucket %d and follows page %d", n.Bucket, n.Next, next.Bucket, next.Previous), block, n.Next)
	}
	if n.Role != page.HashOverflow {
		return
	}
	if before := s.at(n.Previous); before != nil && before.Next != block {
		tell(fmt.Sprintf("the page before it in its bucket, page %d, does not lead to it", n.Previous), block, n.Previous)
	}
}

// bitmaps compares the bitmaps with the overflow pages.
func (s *hashStructure) bitmaps(tell teller) {
	if s.meta == nil {
		return
	}
	m := page.DecodeHashMeta(s.meta)
	for number := m.Overflow(); ; number++ {
		bitmap, bit := m.Bitmap(number)
		bits := s.bits[bitmap]
		if bits == nil || bit == 0 && number > m.Overflow() {
			break
		}
		if bits[bit/8]>>(bit%8)&1 == 0 {
			tell(fmt.Sprintf("the bitmap says that overflow page %d, which does not exist yet, is free: once it does, it will be overwritten", number), bitmap, 0)
			break
		}
	}
	known := make(map[uint32]bool)
	m.Spares(func(number, block uint32) {
		known[block] = true
		n := s.at(block)
		bitmap, bit := m.Bitmap(number)
		bits := s.bits[bitmap]
		if b := s.at(bitmap); b != nil && bits == nil {
			tell("the metapage says that the page is a bitmap, which it is not", bitmap, 0)
			return
		}
		if n == nil || bits == nil {
			return
		}
		switch used := bits[bit/8]>>(bit%8)&1 == 1; {
		case n.Role == page.HashBucket:
			tell(fmt.Sprintf("the first page of bucket %d stands where the metapage says that overflow pages are", n.Bucket), block, 0)
		case used && n.Role == page.HashFree:
			tell("the bitmap says that the page is in use, but it is free", block, bitmap, 0)
		case !used && n.Role != page.HashFree:
			tell("the bitmap says that the page is free, but it is in use: its rows will be overwritten", block, bitmap, 0)
		}
	})
	for i := range s.pages {
		block := uint32(i)
		if n := s.at(block); n != nil && (n.Role == page.HashOverflow || n.Role == page.HashBitmap) && !known[block] {
			tell("the page stands where the metapage says that none but first pages of buckets are: it will be overwritten", block, 0)
		}
	}
}
