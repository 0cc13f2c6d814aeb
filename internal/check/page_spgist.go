package check

import (
	"fmt"
	"slices"

	"pg_integrity_exporter/internal/page"
)

// spgistStructure is an SP-GiST index: inner tuples whose nodes lead to other
// inner tuples or to the first of a chain of leaf tuples on one page.
type spgistStructure struct {
	pages []spgistNode
	links []spgistLink
}

// spgistNode is a page of an SP-GiST index.
type spgistNode struct {
	items []page.SpgistItem
	noted bool
	leaf  bool
	nulls bool
}

// spgistLink leads from a page to a tuple.
type spgistLink struct {
	from uint32
	to   page.TID
}

// spgistFirst is the first page that is no metapage and no root.
const spgistFirst = 3

func (s *spgistStructure) note(p []byte, block uint32) {
	if block == 0 {
		return
	}
	s.pages[block] = spgistNode{items: page.SpgistItems(p), noted: true, leaf: page.IsSpgistLeaf(p), nulls: page.HasSpgistNulls(p)}
	page.SpgistLinks(p, func(to page.TID) { s.links = append(s.links, spgistLink{block, to}) })
}

func (s *spgistStructure) same(p []byte, block uint32) bool {
	n := &s.pages[block]
	if n.leaf != page.IsSpgistLeaf(p) || n.nulls != page.HasSpgistNulls(p) || !slices.Equal(page.SpgistItems(p), n.items) {
		return false
	}
	var links []page.TID
	page.SpgistLinks(p, func(to page.TID) { links = append(links, to) })
	for _, l := range s.links {
		if l.from == block {
			if len(links) == 0 || links[0] != l.to {
				return false
			}
			links = links[1:]
		}
	}
	return len(links) == 0
}

func (s *spgistStructure) problems(whole bool, tell teller) {
	above := make(map[page.TID]uint32, len(s.links))
	for _, l := range s.links {
		if int(l.to.Block) >= len(s.pages) || !s.pages[l.to.Block].noted {
			continue
		}
		items := s.pages[l.to.Block].items
		other, twice := above[l.to]
		above[l.to] = l.from
		switch {
		case l.to.Block < spgistFirst:
			tell(fmt.Sprintf("a node leads to the root on page %d", l.to.Block), l.from)
		case int(l.to.Offset) > len(items) || items[l.to.Offset-1].State == page.SpgistPlaceholder:
			tell(fmt.Sprintf("a node leads to the tuple (%d,%d), which is none", l.to.Block, l.to.Offset), l.from, l.to.Block)
		case s.pages[l.from].noted && s.pages[l.from].nulls != s.pages[l.to.Block].nulls:
			tell(fmt.Sprintf("a node leads from the tree of values to that of nulls, or back, on page %d", l.to.Block), l.from, l.to.Block)
		case twice:
			tell(fmt.Sprintf("two nodes lead to the tuple (%d,%d)", l.to.Block, l.to.Offset), l.from, l.to.Block, other)
		}
	}
	for i := spgistFirst; i < len(s.pages); i++ {
		s.chains(whole, uint32(i), above, tell)
	}
}

// chains compares the tuples of a page with the nodes that lead to them: to the
// first one of each chain, and to each inner tuple.
func (s *spgistStructure) chains(whole bool, block uint32, above map[page.TID]uint32, tell teller) {
	n := &s.pages[block]
	inside := make([]bool, len(n.items)+1)
	for _, item := range n.items {
		if int(item.Next) < len(inside) {
			inside[item.Next] = true
		}
	}
	for i, item := range n.items {
		from, linked := above[page.TID{Block: block, Offset: uint16(i + 1)}]
		switch {
		case item.State != page.SpgistLive:
		case linked && inside[i+1]:
			tell(fmt.Sprintf("a node leads to the tuple (%d,%d), which is not the first of its chain", block, i+1), from, block)
			return
		case whole && !linked && !inside[i+1]:
			tell(fmt.Sprintf("nothing leads to the tuple (%d,%d): it is not found", block, i+1), block)
			return
		}
	}
}
