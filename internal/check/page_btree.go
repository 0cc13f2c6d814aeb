package check

import (
	"fmt"

	"pg_integrity_exporter/internal/page"
)

// btreeStructure is a B-tree: levels of pages, each linked with its neighbours and
// known to one page above.
type btreeStructure struct {
	nodes []btreeNode
	// root is the root by the metapage; 0 is unknown.
	root, rootLevel uint32
	// pivots says that the keys of pages above are comparable with upper bounds.
	pivots bool
	// halfDead says that a page is being deleted: then pages on the way down to it
	// may be known to nobody.
	halfDead bool
}

// btreeNode is a page of a B-tree.
type btreeNode struct {
	page.BtreePage

	noted bool
	// above is the page that leads down to it, 0 is none; twice says that there are
	// two.
	above uint32
	twice bool
	// next is the page that the page above leads to next, 0 is none.
	next uint32
	// highKey is the hash of the page's upper bound, and bound that of what the page
	// above knows as such: the key of the next page or its own upper bound. 0 is none.
	highKey, bound uint32
}

func (s *btreeStructure) note(p []byte, block uint32) {
	if block == 0 {
		s.root, s.rootLevel = page.BtreeRoot(p)
		s.pivots = page.BtreePivots(p)
		return
	}
	n := &s.nodes[block]
	n.BtreePage, n.noted = page.DecodeBtree(p), true
	if n.State != page.BtreeDeleted {
		n.highKey = page.BtreeHighKey(p)
	}
	s.halfDead = s.halfDead || n.State == page.BtreeHalfDead
	before := uint32(0)
	page.BtreeChildren(p, func(child, key uint32) {
		if before != 0 {
			s.nodes[before].next, s.nodes[before].bound = child, key
		}
		if before = child; int(child) >= len(s.nodes) {
			before = 0
			return
		}
		c := &s.nodes[child]
		c.twice, c.above = c.above != 0, block
	})
	if before != 0 {
		s.nodes[before].bound = n.highKey
	}
}

func (s *btreeStructure) same(p []byte, block uint32) bool {
	if block == 0 {
		root, level := page.BtreeRoot(p)
		return root == s.root && level == s.rootLevel
	}
	n := s.nodes[block]
	return page.DecodeBtree(p) == n.BtreePage && (n.State == page.BtreeDeleted || page.BtreeHighKey(p) == n.highKey)
}

// at is a page of which something is known.
func (s *btreeStructure) at(block uint32) *btreeNode {
	if block == 0 || int(block) >= len(s.nodes) || !s.nodes[block].noted {
		return nil
	}
	return &s.nodes[block]
}

func (s *btreeStructure) problems(whole bool, tell teller) {
	for i := range s.nodes {
		block, n := uint32(i), s.at(uint32(i))
		if n == nil {
			continue
		}
		if s.root != 0 && block == s.root && n.Level != s.rootLevel {
			tell(fmt.Sprintf("the page is the root and on level %d, but the metapage says %d", n.Level, s.rootLevel), block, 0)
		}
		if s.root != 0 && n.State != page.BtreeDeleted && n.Root != (block == s.root) {
			tell(fmt.Sprintf("the metapage says that the root is page %d, and this page is one: %t", s.root, n.Root), block, 0)
		}
		s.above(whole, block, n, tell)
		if n.State != page.BtreeDeleted {
			s.beside(block, n, tell)
		}
	}
}

// above compares a page with the one that leads down to it.
func (s *btreeStructure) above(whole bool, block uint32, n *btreeNode, tell teller) {
	above, left := s.at(n.above), s.at(n.Left)
	split := left != nil && left.State == page.BtreeIncomplete
	switch {
	case above == nil:
		if whole && !s.halfDead && !split && s.root != 0 && block != s.root && n.State != page.BtreeDeleted {
			tell("no page leads down to the page: what it holds is not found", block)
		}
	case n.State == page.BtreeDeleted:
		tell("the page is deleted, but a page leads down to it", block, n.above)
	case n.Level+1 != above.Level:
		tell(fmt.Sprintf("the page is on level %d, but a page on level %d leads down to it", n.Level, above.Level), block, n.above)
	case n.twice:
		tell("two pages lead down to the page", block, n.above)
	case split && left.Right == block:
		tell("a page leads down to the page, but the one to its left says that none does yet", block, n.above, n.Left)
	case !s.halfDead && n.State == page.BtreeLive && n.next != 0 && n.next != n.Right:
		tell(fmt.Sprintf("the page to its right is %d, but the page above leads to %d next", n.Right, n.next), block, n.above)
	case s.pivots && !s.halfDead && n.State == page.BtreeLive && n.highKey != n.bound:
		tell("the page's upper bound is not the one that the page above knows: searches can miss what it holds", block, n.above)
	}
}

// beside compares a page with its neighbours.
func (s *btreeStructure) beside(block uint32, n *btreeNode, tell teller) {
	if right := s.at(n.Right); right != nil {
		switch {
		case right.Left != block:
			tell(fmt.Sprintf("the page to its right, %d, says that the page to its left is %d", n.Right, right.Left), block, n.Right)
		case right.Level != n.Level || right.State == page.BtreeDeleted:
			tell(fmt.Sprintf("the page to its right, %d, is deleted or on another level (%d instead of %d)", n.Right, right.Level, n.Level), block, n.Right)
		}
	}
	if left := s.at(n.Left); left != nil && left.Right != block {
		tell(fmt.Sprintf("the page to its left, %d, says that the page to its right is %d", n.Left, left.Right), block, n.Left)
	}
}
