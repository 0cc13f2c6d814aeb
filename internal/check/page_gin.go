package check

import (
	"fmt"

	"pg_integrity_exporter/internal/page"
)

// ginStructure is a GIN index: a tree of keys, a tree of rows for each frequent
// key, and a list of entries that wait to be put into them.
type ginStructure struct {
	relation *page.Relation
	nodes    []ginNode
	// meta is what the metapage says, if known.
	meta  page.GinMeta
	known bool
	// incomplete says that a page was split and the one above does not know yet.
	incomplete bool
}

// ginNode is a page of a GIN index.
type ginNode struct {
	page.GinPage

	noted bool
	// above is the page that leads down to it, 0 is none; twice says that there are
	// two.
	above uint32
	twice bool
	// next is the page that the page above leads to next, 0 is none, and child what
	// that says of the page.
	next  uint32
	child page.GinChild
}

// ginRoot is the root of the tree of keys.
const ginRoot = 1

func (s *ginStructure) note(p []byte, block uint32) {
	if block == 0 {
		s.meta, s.known = page.DecodeGinMeta(p), true
		return
	}
	n := &s.nodes[block]
	n.GinPage, n.noted = s.relation.Gin(p), true
	s.incomplete = s.incomplete || n.Incomplete
	before := uint32(0)
	s.relation.GinChildren(p, func(child page.GinChild) {
		if int(child.Block) >= len(s.nodes) {
			return
		}
		c := &s.nodes[child.Block]
		c.twice, c.above, c.child = c.above != 0, block, child
		if before != 0 && n.Role != page.GinKeysLeaf {
			s.nodes[before].next = child.Block
		}
		before = child.Block
	})
}

func (s *ginStructure) same(p []byte, block uint32) bool {
	if block == 0 {
		return page.DecodeGinMeta(p) == s.meta
	}
	return s.relation.Gin(p) == s.nodes[block].GinPage
}

// at is a page of which something is known.
func (s *ginStructure) at(block uint32) *ginNode {
	if block == 0 || int64(block) >= int64(len(s.nodes)) || !s.nodes[block].noted {
		return nil
	}
	return &s.nodes[block]
}

func (s *ginStructure) problems(whole bool, tell teller) {
	for i := range s.nodes {
		block := uint32(i)
		n := s.at(block)
		if n == nil {
			continue
		}
		switch above := s.at(n.above); {
		case above != nil:
			s.below(block, n, above, tell)
		case whole && !s.incomplete && (n.Role == page.GinKeys || n.Role == page.GinKeysLeaf) && block != ginRoot: // a crash leaves trees of rows
			tell("no page leads down to the page: what it holds is not found", block)
		}
		s.beside(block, n, tell)
	}
	s.pending(tell)
}

// below compares a page with the one that leads down to it.
func (s *ginStructure) below(block uint32, n, above *ginNode, tell teller) {
	rows := n.Role == page.GinRows || n.Role == page.GinRowsLeaf
	keys := n.Role == page.GinKeys || n.Role == page.GinKeysLeaf
	switch {
	case rows != (above.Role != page.GinKeys) || keys != (above.Role == page.GinKeys):
		tell(fmt.Sprintf("page %d leads down to the page, which is free or part of another tree", n.above), block, n.above)
	case n.twice:
		tell("two places lead down to the page", block, n.above)
	case above.Role == page.GinKeysLeaf && n.Right != noPage && !n.Incomplete:
		tell(fmt.Sprintf("the page is the root of a key's rows, but has page %d to its right", n.Right), block, n.above)
	case keys && n.child.Highest != 0 && n.Highest > n.child.Highest:
		tell("the page has higher keys than the page above says", block, n.above)
	case n.Incomplete && s.at(n.Right) != nil && s.at(n.Right).above != 0:
		tell(fmt.Sprintf("the page says that the page above does not know yet of the page to its right, %d, but that leads there", n.Right), block, n.Right, s.at(n.Right).above)
	case n.Incomplete || above.Role == page.GinKeysLeaf:
	case n.next != 0 && n.next != n.Right:
		tell(fmt.Sprintf("the page to its right is %d, but the page above leads to %d next", n.Right, n.next), block, n.above)
	case rows && n.Right != noPage && n.child.Bound != (page.TID{}) && n.child.Bound != n.Bound:
		tell(fmt.Sprintf("the page has rows up to (%d,%d), but the page above says up to (%d,%d)", n.Bound.Block, n.Bound.Offset, n.child.Bound.Block, n.child.Bound.Offset), block, n.above)
	}
}

// beside compares a page with the one to its right.
func (s *ginStructure) beside(block uint32, n *ginNode, tell teller) {
	right := s.at(n.Right)
	if right == nil || n.Role == page.GinFree {
		return
	}
	switch {
	case right.Role != n.Role:
		tell(fmt.Sprintf("the page to its right, %d, is free or part of another tree", n.Right), block, n.Right)
	case right.Lowest != 0 && n.Highest > right.Lowest:
		tell(fmt.Sprintf("the keys go higher than those with which the page to its right, %d, begins", n.Right), block, n.Right)
	case n.Role == page.GinRowsLeaf && right.First != (page.TID{}) && !n.Bound.Before(right.First):
		tell(fmt.Sprintf("the rows go up to (%d,%d), but those of the page to its right begin at (%d,%d)", n.Bound.Block, n.Bound.Offset, right.First.Block, right.First.Offset), block, n.Right)
	}
}

// pending follows the list of entries that wait, as far as its pages are known.
func (s *ginStructure) pending(tell teller) {
	if !s.known || s.meta.Head == noPage {
		return
	}
	var seen []uint32
	rows, last := int64(0), uint32(0)
	for block := s.meta.Head; block != noPage; {
		n := s.at(block)
		if n == nil {
			return
		}
		if n.Role != page.GinPending || len(seen) > len(s.nodes) {
			tell("the list of pending entries leads to the page, which is not part of it or leads round", block, 0)
			return
		}
		rows += int64(n.Rows)
		seen, last, block = append(seen, block), block, n.Right
	}
	tail := s.nodes[last]
	if last != s.meta.Tail || uint32(len(seen)) != s.meta.Pages || rows != s.meta.Rows || uint32(tail.Free) != s.meta.TailFree {
		tell(fmt.Sprintf("the list of pending entries has %d pages with %d rows and ends at page %d with %d bytes free, but the metapage says %d pages with %d rows, page %d and %d bytes",
			len(seen), rows, last, tail.Free, s.meta.Pages, s.meta.Rows, s.meta.Tail, s.meta.TailFree), 0, seen...)
	}
}
