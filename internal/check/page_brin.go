package check

import (
	"fmt"
	"maps"
	"slices"

	"pg_integrity_exporter/internal/page"
)

// brinStructure is a BRIN index: a map from ranges of the table to their
// summaries, which say themselves what range they are of.
type brinStructure struct {
	pages []brinNode
	// perRange is how many pages a range has, and last the last page of the map; 0
	// is unknown.
	perRange, last uint32
}

// brinNode is a page of a BRIN index.
type brinNode struct {
	noted, isMap bool
	// summaries are the first pages of the ranges of a page with summaries, and
	// ranges the places of the summaries of a page of the map.
	summaries map[uint16]uint32
	ranges    map[int]page.TID
}

func decodeBrin(p []byte) brinNode {
	n := brinNode{noted: true, isMap: page.IsBrinMap(p)}
	if n.isMap {
		n.ranges = make(map[int]page.TID)
		page.BrinRanges(p, func(number int, summary page.TID) { n.ranges[number] = summary })
		return n
	}
	n.summaries = make(map[uint16]uint32)
	page.BrinSummaries(p, func(offset uint16, first uint32) { n.summaries[offset] = first })
	return n
}

func (s *brinStructure) note(p []byte, block uint32) {
	if block == 0 {
		s.perRange, s.last = page.DecodeBrinMeta(p)
		return
	}
	s.pages[block] = decodeBrin(p)
}

func (s *brinStructure) same(p []byte, block uint32) bool {
	if block == 0 {
		perRange, last := page.DecodeBrinMeta(p)
		return perRange == s.perRange && last == s.last
	}
	n, now := &s.pages[block], decodeBrin(p)
	return n.isMap == now.isMap && maps.Equal(n.ranges, now.ranges) && maps.Equal(n.summaries, now.summaries)
}

// at is a page of which something is known.
func (s *brinStructure) at(block uint32) *brinNode {
	if block == 0 || int(block) >= len(s.pages) || !s.pages[block].noted {
		return nil
	}
	return &s.pages[block]
}

func (s *brinStructure) problems(_ bool, tell teller) {
	if s.perRange == 0 {
		return
	}
	for i := range s.pages {
		block := uint32(i)
		n := s.at(block)
		switch {
		case n == nil:
		case n.isMap != (block <= s.last):
			tell(fmt.Sprintf("the metapage says that the range map ends at page %d, but is this page of it: %t", s.last, n.isMap), block, 0)
		case n.isMap:
			s.mapped(block, n, tell)
		default:
			s.summarised(block, n, tell)
		}
	}
}

// mapped holds that the map leads to the summary of each range.
func (s *brinStructure) mapped(block uint32, n *brinNode, tell teller) {
	for _, number := range slices.Sorted(maps.Keys(n.ranges)) {
		place := n.ranges[number]
		target := s.at(place.Block)
		if target == nil {
			continue
		}
		first := s.first(block, number)
		if of, ok := target.summaries[place.Offset]; !ok || of != first {
			tell(fmt.Sprintf("the summary of the table's pages from %d on is at (%d,%d), where there is none of them", first, place.Block, place.Offset), block, place.Block, 0)
			return
		}
	}
}

// summarised holds that the map leads to each summary.
func (s *brinStructure) summarised(block uint32, n *brinNode, tell teller) {
	for _, offset := range slices.Sorted(maps.Keys(n.summaries)) {
		first := n.summaries[offset]
		number := first / s.perRange
		in := number/page.BrinMapRanges + 1
		of := s.at(in)
		switch {
		case first%s.perRange != 0:
			tell(fmt.Sprintf("a summary is of the table's pages from %d on, but a range has %d pages", first, s.perRange), block, 0)
			return
		case of != nil && of.isMap && of.ranges[int(number%page.BrinMapRanges)] != (page.TID{Block: block, Offset: offset}):
			tell(fmt.Sprintf("the range map does not lead to the summary of the table's pages from %d on", first), block, in, 0)
			return
		}
	}
}

// first is the first page of the table of a range.
func (s *brinStructure) first(block uint32, number int) uint32 {
	return ((block-1)*page.BrinMapRanges + uint32(number)) * s.perRange
}
