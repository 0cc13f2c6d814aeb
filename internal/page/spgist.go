package page

import (
	"cmp"
	"encoding/binary"
	"fmt"
)

// Flags of pages of an SP-GiST index, and states of its tuples.
const (
	spgistMagic = 0xBA0BABEE

	spgistMeta    = 1
	spgistDeleted = 2
	spgistLeaf    = 4
	spgistNulls   = 8
	spgistFlags   = 15

	spgistLeast = 16
	// spgistInner is the head of an inner tuple, and spgistNext the bits of a leaf
	// tuple's next one.
	spgistInner = 8
	spgistNext  = 0x3fff
	// spgistHead is the size of the head of a leaf tuple without its padding, and
	// spgistUnused a bit of it.
	spgistHead   = 12
	spgistUnused = 0x40
	// spgistMask says that a leaf tuple tells which of several columns are null.
	spgistMask = 0x80
	// spgistRecent is how many pages the metapage remembers for what comes next.
	spgistRecent = 8
	// spgistMetaSize is the size of a metapage's content.
	spgistMetaSize = 4 + 8*spgistRecent
	// spgistRoots are the pages of the roots: of the values, and of the nulls.
	spgistRoots = 2
)

// SpgistState is the state of a tuple of an SP-GiST index.
type SpgistState uint8

// The states of tuples. A redirection says where a tuple has gone, a dead one is
// all that is left of a chain, a placeholder holds nothing but its number.
const (
	SpgistLive SpgistState = iota
	SpgistRedirect
	SpgistDead
	SpgistPlaceholder
)

func (r *Relation) spgistProblem(p []byte, h Header, block uint32) string {
	s := p[Size-8:]
	flags := binary.LittleEndian.Uint16(s)
	switch {
	case flags&^spgistFlags != 0:
		return fmt.Sprintf("the page has unknown flags (0x%04x)", flags)
	case (block == 0) != (flags&spgistMeta != 0):
		return fmt.Sprintf("page %d is not the metapage or the metapage is not page 0 (flags 0x%04x)", block, flags)
	case block == 0:
		if magic := binary.LittleEndian.Uint32(p[HeaderSize:]); magic != spgistMagic {
			return fmt.Sprintf("the metapage has the magic number %08x instead of %08x", magic, uint32(spgistMagic))
		}
		return cmp.Or(metaEnd(h, spgistMetaSize), r.spgistMetaProblem(p, flags))
	case flags&spgistDeleted != 0:
		return fmt.Sprintf("the page says that it is deleted, which no version does (flags 0x%04x)", flags)
	case block <= spgistRoots && (flags&spgistNulls != 0) != (block == spgistRoots):
		return fmt.Sprintf("the root on page %d has the flags 0x%04x", block, flags)
	}
	var states [4]int
	problem := indexTuples(p, h, spgistLeast, func(_, flagsOf int, t []byte) string {
		if flagsOf == lpDead {
			return "the line pointer is dead, which an SP-GiST index does not do"
		}
		state := SpgistState(t[0] & 3)
		states[state]++
		if state == SpgistLive && flags&spgistLeaf == 0 {
			return r.spgistInnerProblem(t)
		}
		if size := int(binary.LittleEndian.Uint32(t) >> 2); size != len(t) {
			return fmt.Sprintf("the tuple says that it has %d bytes, its line pointer %d", size, len(t))
		}
		switch {
		case state != SpgistLive:
			return ""
		case !zero(t[spgistHead:spgistLeast]) || t[5]&spgistUnused != 0 || r.Keys != 0 && !r.Included && t[5]&spgistMask != 0:
			return "the head of the tuple has unknown flags, or its padding is not zero"
		}
		return decodeTID(t[6:]).problem()
	})
	if problem != "" {
		return problem
	}
	redirects, placeholders := int(binary.LittleEndian.Uint16(s[2:])), int(binary.LittleEndian.Uint16(s[4:]))
	if redirects != states[SpgistRedirect] || placeholders != states[SpgistPlaceholder] {
		return fmt.Sprintf("the page says that it has %d redirections and %d placeholders, but has %d and %d",
			redirects, placeholders, states[SpgistRedirect], states[SpgistPlaceholder])
	}
	if flags&spgistLeaf != 0 && block > spgistRoots {
		return spgistChains(p)
	}
	return ""
}

// spgistMetaProblem looks at the metapage and the pages that it says were used
// last, which are none of the metapage and the roots.
func (r *Relation) spgistMetaProblem(p []byte, flags uint16) string {
	if s := p[Size-8:]; flags != spgistMeta || binary.LittleEndian.Uint32(s[2:]) != 0 {
		return fmt.Sprintf("the metapage has the flags 0x%04x, or says that it has tuples", flags)
	}
	for i := range spgistRecent {
		recent := p[HeaderSize+4+8*i:]
		block, free := binary.LittleEndian.Uint32(recent), binary.LittleEndian.Uint32(recent[4:])
		if block == invalidBlock {
			continue
		}
		if problem := r.link("page that was used last", block, invalidBlock); problem != "" || block <= spgistRoots || free > Size {
			return cmp.Or(problem, fmt.Sprintf("the metapage says that page %d was used last and has %d bytes free", block, free))
		}
	}
	return ""
}

// spgistInnerProblem looks at an inner tuple: a prefix and nodes, each with a link.
func (r *Relation) spgistInnerProblem(t []byte) string {
	if size := int(binary.LittleEndian.Uint16(t[4:])); size != len(t) {
		return fmt.Sprintf("the inner tuple says that it has %d bytes, its line pointer %d", size, len(t))
	}
	if !zero(t[6:spgistInner]) {
		return "the padding of the inner tuple's head is not zero"
	}
	problem := ""
	end, count := spgistNodes(t, func(to TID) {
		if problem == "" && to.Block != invalidBlock {
			if problem = r.link("page below", to.Block, invalidBlock); problem == "" && (to.Block == 0 || to.Offset == 0) {
				problem = fmt.Sprintf("a node leads to (%d,%d), which cannot be", to.Block, to.Offset)
			}
		}
	})
	switch want := int(binary.LittleEndian.Uint32(t) >> 3 & 0x1fff); {
	case problem != "":
		return problem
	case count != want || count == 0 || end != len(t):
		return fmt.Sprintf("an inner tuple of %d bytes with %d nodes has %d, which end at byte %d", len(t), want, count, end)
	}
	return ""
}

// spgistNodes visits the links of an inner tuple, and says where its nodes end and
// how many there are.
func spgistNodes(t []byte, visit func(TID)) (end, count int) {
	word := binary.LittleEndian.Uint32(t)
	end = spgistInner + int(word>>16)
	for range int(word >> 3 & 0x1fff) {
		if end+indexHeader > len(t) {
			break
		}
		size := int(binary.LittleEndian.Uint16(t[end+6:]) & indexSizeMask)
		if size < indexHeader || end+size > len(t) {
			break
		}
		visit(decodeTID(t[end:]))
		end += size
		count++
	}
	return end, count
}

// spgistChains looks at the chains of leaf tuples of a page that is no root: each
// live tuple leads to another one or is the last, and none has two before it.
func spgistChains(p []byte) string {
	items := SpgistItems(p)
	before := make([]uint16, len(items)+1)
	for i, item := range items {
		switch {
		case item.State != SpgistLive || item.Next == 0:
			continue
		case int(item.Next) > len(items) || items[item.Next-1].State != SpgistLive:
			return fmt.Sprintf("line pointer %d: the next tuple of its chain is %d, which is none", i+1, item.Next)
		case before[item.Next] != 0:
			return fmt.Sprintf("line pointers %d and %d both lead to %d", before[item.Next], i+1, item.Next)
		}
		before[item.Next] = uint16(i + 1)
	}
	return ""
}

// SpgistItem is a tuple of an SP-GiST index.
type SpgistItem struct {
	State SpgistState
	// Next is the next tuple of the chain of a leaf tuple; 0 is none.
	Next uint16
}

// SpgistItems gives the tuples of a page in the order of their line pointers.
func SpgistItems(p []byte) []SpgistItem {
	leaf := IsSpgistLeaf(p)
	items := make([]SpgistItem, int(DecodeHeader(p).Lower-HeaderSize)/4)
	for i := range items {
		offset, _, _ := linePointer(p, i+1)
		items[i].State = SpgistState(p[offset] & 3)
		if leaf && items[i].State == SpgistLive {
			items[i].Next = binary.LittleEndian.Uint16(p[offset+4:]) & spgistNext
		}
	}
	return items
}

// HasSpgistNulls says that a page is of the tree of null values.
func HasSpgistNulls(p []byte) bool { return binary.LittleEndian.Uint16(p[Size-8:])&spgistNulls != 0 }

// IsSpgistLeaf says that a page has leaf tuples.
func IsSpgistLeaf(p []byte) bool { return binary.LittleEndian.Uint16(p[Size-8:])&spgistLeaf != 0 }

// SpgistLinks calls visit with the tuples that the inner tuples of a page lead to.
func SpgistLinks(p []byte, visit func(TID)) {
	if binary.LittleEndian.Uint16(p[Size-8:])&(spgistLeaf|spgistMeta) != 0 {
		return
	}
	for i := 1; i <= int(DecodeHeader(p).Lower-HeaderSize)/4; i++ {
		offset, length, _ := linePointer(p, i)
		if SpgistState(p[offset]&3) != SpgistLive {
			continue
		}
		spgistNodes(p[offset:offset+length], func(to TID) {
			if to.Block != invalidBlock {
				visit(to)
			}
		})
	}
}
