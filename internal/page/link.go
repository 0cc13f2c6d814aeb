package page

import "encoding/binary"

// Links calls visit with every other page of an index that a page of it leads
// to. It expects a page without a problem. Of SP-GiST and BRIN nothing is
// visited, nor of the table of buckets of a hash index.
func Links(p []byte, kind Kind, visit func(block uint32)) {
	h := DecodeHeader(p)
	link := func(to, none uint32) {
		if to != none {
			visit(to)
		}
	}
	switch kind {
	case Btree:
		btreeLinks(p, link)
	case Gist:
		special := p[Size-16:]
		flags := binary.LittleEndian.Uint16(special[12:])
		if flags&gistDeleted != 0 {
			return
		}
		link(binary.LittleEndian.Uint32(special[8:]), invalidBlock)
		if flags&gistLeaf == 0 {
			plainEntries(p, h, 0, func(t TID) { visit(t.Block) })
		}
	case Gin:
		ginLinks(p, h, link)
	case Hash:
		special := p[Size-16:]
		if hasHashTuples(p) {
			link(binary.LittleEndian.Uint32(special[4:]), invalidBlock)
		}
	default: // its pages have no links that are looked at
	}
}

func btreeLinks(p []byte, link func(to, none uint32)) {
	if isBtreeMeta(p) {
		root, _ := BtreeRoot(p)
		link(root, 0)
		return
	}
	b := DecodeBtree(p)
	if b.State == BtreeDeleted {
		return
	}
	link(b.Left, 0)
	link(b.Right, 0)
	BtreeChildren(p, func(block uint32) { link(block, 0) })
}

func ginLinks(p []byte, h Header, link func(to, none uint32)) {
	right, count, flags := ginOpaque(p)
	if flags&(ginMeta|ginDeleted) != 0 {
		return
	}
	link(right, invalidBlock)
	switch {
	case flags&(ginData|ginLeaf) == ginData:
		for i := range count {
			link(blockID(p[ginRightBound+i*ginItem:]), invalidBlock)
		}
	case flags&(ginData|ginList) == 0:
		for i := 1; i <= int(h.Lower-HeaderSize)/4; i++ {
			offset, _, _ := linePointer(p, i)
			if tid := decodeTID(p[offset:]); flags&ginLeaf == 0 || tid.Offset == ginTree {
				link(tid.Block, invalidBlock)
			}
		}
	}
}
