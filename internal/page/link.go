package page

import "encoding/binary"

// Links calls visit with every other page of an index that a page of it leads
// to. It expects a page without a problem.
func (r *Relation) Links(p []byte, visit func(block uint32)) {
	link := func(to, none uint32) {
		if to != none {
			visit(to)
		}
	}
	switch r.Kind {
	case Btree:
		btreeLinks(p, link)
	case Gist:
		if g := DecodeGist(p); !g.Deleted {
			link(g.Right, invalidBlock)
		}
		GistChildren(p, visit)
	case Gin:
		if isGinMeta(p) {
			return
		}
		if right, _, flags := ginOpaque(p); ginRole(flags) != GinFree {
			link(right, invalidBlock)
		}
		r.GinChildren(p, func(child GinChild) { visit(child.Block) })
	case Hash:
		hashLinks(p, link)
	case Spgist:
		SpgistLinks(p, func(to TID) { visit(to.Block) })
	case Brin:
		brinLinks(p, visit)
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
	BtreeChildren(p, func(block, _ uint32) { link(block, 0) })
}

func hashLinks(p []byte, link func(to, none uint32)) {
	if hasHashTuples(p) {
		link(DecodeHash(p).Next, invalidBlock)
	}
	if binary.LittleEndian.Uint16(p[Size-4:])&15 != hashMeta {
		return
	}
	m := DecodeHashMeta(p)
	for i := range m.maps {
		link(m.mapBlock(i), invalidBlock)
	}
	for bucket := range m.Highest + 1 {
		link(m.BucketBlock(bucket), invalidBlock)
	}
}

func brinLinks(p []byte, visit func(block uint32)) {
	switch binary.LittleEndian.Uint16(p[Size-2:]) {
	case brinMeta:
		_, last := DecodeBrinMeta(p)
		for block := uint32(1); block <= last; block++ {
			visit(block)
		}
	case brinRevmap:
		BrinRanges(p, func(_ int, summary TID) { visit(summary.Block) })
	}
}
