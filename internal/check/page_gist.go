package check

import (
	"fmt"

	"pg_integrity_exporter/internal/page"
)

// gistStructure is a GiST index: a tree whose leaves are all on one level.
type gistStructure struct {
	nodes []gistNode
	// incomplete says that a page was split and the one above does not know yet.
	incomplete bool
}

// gistNode is a page of a GiST index.
type gistNode struct {
	page.GistPage

	noted bool
	// above is the number of the page that leads down to it plus one, 0 is none;
	// twice says that there are two.
	above uint32
	twice bool
	depth uint8
}

func (s *gistStructure) note(p []byte, block uint32) {
	n := &s.nodes[block]
	n.GistPage, n.noted = page.DecodeGist(p), true
	s.incomplete = s.incomplete || n.Incomplete
	page.GistChildren(p, func(child uint32) {
		if int(child) < len(s.nodes) {
			c := &s.nodes[child]
			c.twice, c.above = c.above != 0, block+1
		}
	})
}

func (s *gistStructure) same(p []byte, block uint32) bool {
	return page.DecodeGist(p) == s.nodes[block].GistPage
}

// maxDepth is more levels than a tree can have, unless its pages lead round.
const maxDepth = 50

// depth is how far below the root a page is; 0 is unknown, the root has 1.
func (s *gistStructure) depth(block uint32) uint8 {
	depth := uint8(1)
	for block != 0 {
		n := &s.nodes[block]
		if n.depth != 0 {
			return n.depth + depth - 1
		}
		if !n.noted || n.above == 0 || depth == maxDepth {
			return 0
		}
		block = n.above - 1
		depth++
	}
	return depth
}

func (s *gistStructure) problems(whole bool, tell teller) {
	leaves, first := uint8(0), uint32(0)
	for i := range s.nodes {
		block, n := uint32(i), &s.nodes[i]
		if !n.noted {
			continue
		}
		above := n.above - 1
		switch {
		case block == 0 && (n.above != 0 || n.Deleted):
			tell("the page is the root, but it is deleted or a page leads down to it", block)
			continue
		case block == 0:
		case n.above == 0:
			if whole && !s.incomplete && !n.Deleted {
				tell("no page leads down to the page: what it holds is not found", block)
			}
			continue
		case n.Deleted:
			tell("the page is deleted, but a page leads down to it", block, above)
			continue
		case n.twice:
			tell("two pages lead down to the page", block, above)
			continue
		}
		n.depth = s.depth(block)
		switch {
		case !n.Leaf || n.depth == 0:
		case leaves == 0:
			leaves, first = n.depth, block
		case n.depth != leaves:
			tell(fmt.Sprintf("the leaf is on level %d from above, but the leaf on page %d on level %d", n.depth, first, leaves), block, first)
		}
	}
}
