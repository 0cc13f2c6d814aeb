package page

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

const (
	btreeMagic = 0x053162

	btreeLeaf       = 1
	btreeRoot       = 2
	btreeDeleted    = 4
	btreeMeta       = 8
	btreeHalfDead   = 16
	btreeSplitEnd   = 32
	btreeIncomplete = 128
	btreeFullXID    = 256
	btreeFlags      = 511

	// btreePosting in t_tid's offset says that the tuple has a list of rows.
	btreePosting = 0x2000
	btreeOffset  = 0x0fff
	btreeUnused  = 0xc000
	// btreeMaxLevel is more than any tree can have.
	btreeMaxLevel = 50
	// btreeMaxCycle is the highest number of a VACUUM (MAX_BT_CYCLE_ID).
	btreeMaxCycle = 0xff7f
)

// BtreePage is what a page of a B-tree says of itself and its neighbours.
type BtreePage struct {
	Left, Right uint32
	Level       uint32
	Leaf, Root  bool
	State       BtreeState
}

// BtreeState is in what state VACUUM or a split left a page.
type BtreeState uint8

// The states of a page. BtreeIncomplete is one whose right half is not known to
// the page above yet.
const (
	BtreeLive BtreeState = iota
	BtreeIncomplete
	BtreeHalfDead
	BtreeDeleted
)

// DecodeBtree reads the special space of a B-tree's page.
func DecodeBtree(p []byte) BtreePage {
	s := p[Size-16:]
	flags := binary.LittleEndian.Uint16(s[12:])
	b := BtreePage{
		Left: binary.LittleEndian.Uint32(s), Right: binary.LittleEndian.Uint32(s[4:]), Level: binary.LittleEndian.Uint32(s[8:]),
		Leaf: flags&btreeLeaf != 0, Root: flags&btreeRoot != 0,
	}
	switch {
	case flags&btreeDeleted != 0:
		b.State = BtreeDeleted
	case flags&btreeHalfDead != 0:
		b.State = BtreeHalfDead
	case flags&btreeIncomplete != 0:
		b.State = BtreeIncomplete
	}
	return b
}

func (r *Relation) btreeProblem(p []byte, h Header, block uint32) string {
	flags := binary.LittleEndian.Uint16(p[Size-4:])
	switch {
	case flags&^btreeFlags != 0:
		return fmt.Sprintf("the page has unknown flags (0x%04x)", flags)
	case (block == 0) != (flags&btreeMeta != 0):
		return fmt.Sprintf("page %d is not the metapage or the metapage is not page 0 (flags 0x%04x)", block, flags)
	case block == 0:
		return r.btreeMetaProblem(p, h, flags)
	}
	b := DecodeBtree(p)
	if b.State == BtreeDeleted {
		return ""
	}
	switch {
	case b.Leaf != (b.Level == 0) || b.Level > btreeMaxLevel:
		return fmt.Sprintf("the page's level is %d, its flags 0x%04x", b.Level, flags)
	case b.Root && (b.Left != 0 || b.Right != 0):
		return fmt.Sprintf("the page is a root, but has pages to its left and right (%d and %d)", b.Left, b.Right)
	case b.Right == block || b.Left == block:
		return "the page is its own neighbour"
	case flags&btreeFullXID != 0:
		return fmt.Sprintf("the page has the flag of a page that is deleted, but is not (flags 0x%04x)", flags)
	case flags&btreeSplitEnd != 0 && b.Right == 0:
		return fmt.Sprintf("the page ends a group of splits, but never had a page to its right (flags 0x%04x)", flags)
	case b.State == BtreeIncomplete && b.Right == 0:
		return "the page was split, but has no page to its right"
	case binary.LittleEndian.Uint16(p[Size-2:]) > btreeMaxCycle:
		return fmt.Sprintf("the page was split during the VACUUM number %d, higher than there can be", binary.LittleEndian.Uint16(p[Size-2:]))
	}
	if problem := cmp.Or(r.link("page to the left", b.Left, 0), r.link("page to the right", b.Right, 0)); problem != "" {
		return problem
	}
	if problem := b.emptyProblem(int(h.Lower-HeaderSize) / 4); problem != "" {
		return problem
	}
	return indexTuples(p, h, indexHeader, func(i, flags int, t []byte) string {
		if problem := indexTupleProblem(t); problem != "" {
			return problem
		}
		switch {
		case flags == lpDead && !b.Leaf:
			return "a link to a page below is marked dead"
		case b.State == BtreeHalfDead:
			return ""
		case i == 1 && b.Right != 0: // the high key
			return ""
		case !b.Leaf:
			return r.link("page below", decodeTID(t).Block, invalidBlock)
		}
		return r.btreeLeafProblem(t)
	})
}

// emptyProblem says what a page with a number of entries lacks.
func (b BtreePage) emptyProblem(entries int) string {
	switch {
	case b.Right != 0 && entries == 0:
		return "the page has a page to its right, but no upper bound"
	case !b.Leaf && b.State != BtreeHalfDead && entries < firstEntry(b):
		return "the page is no leaf, but leads to no page"
	}
	return ""
}

// BtreeTrap says why a server process that comes to a page on its way down a tree may
// never leave it, or die: the page is neither a leaf nor does it lead down. What the
// server itself refuses with an error is no trap.
func (r *Relation) BtreeTrap(p []byte, block uint32) string {
	h, b := DecodeHeader(p), DecodeBtree(p)
	if block == 0 || IsNew(p) || headerProblem(h) != "" || int(h.Special) != Size-specials[Btree].size || b.State >= BtreeHalfDead {
		return ""
	}
	if b.Leaf != (b.Level == 0) {
		return fmt.Sprintf("the page's level is %d, its flags 0x%04x", b.Level, binary.LittleEndian.Uint16(p[Size-4:]))
	}
	return indexTuples(p, h, indexHeader, func(i, _ int, t []byte) string {
		if i == 1 && b.Right != 0 { // the high key
			return ""
		}
		if to := blockID(t); !b.Leaf && (to == 0 || to == block) {
			return fmt.Sprintf("the page below is page %d", to)
		}
		if b.Leaf && isPosting(t) {
			_, _, problem := postingList(t)
			return problem
		}
		return ""
	})
}

// btreeLeafProblem looks at an entry of a leaf page: a row, or a list of rows with
// the same key.
func (r *Relation) btreeLeafProblem(t []byte) string {
	if !isPosting(t) {
		if problem := decodeTID(t).problem(); problem != "" {
			return problem
		}
		return keyProblem(t, r.Columns)
	}
	count, at, problem := postingList(t)
	if problem != "" {
		return problem
	}
	last := TID{}
	for i := range count {
		row := decodeTID(t[at+6*i:])
		if problem := row.problem(); problem != "" {
			return problem
		}
		if i > 0 && (row.Block < last.Block || row.Block == last.Block && row.Offset <= last.Offset) {
			return fmt.Sprintf("the row (%d,%d) follows (%d,%d) in a list of rows", row.Block, row.Offset, last.Block, last.Offset)
		}
		last = row
	}
	return keyProblem(t[:at], r.Columns)
}

// postingList is where the list of rows of a tuple is, and how many there are.
// One that is not within the tuple lets a server process read beyond the page.
func postingList(t []byte) (count, at int, problem string) {
	tid := decodeTID(t)
	count, at = int(tid.Offset&btreeOffset), int(tid.Block)
	if tid.Offset&btreeUnused != 0 || count < 2 || at < indexHeader || at > len(t) || at+6*count > len(t) {
		problem = fmt.Sprintf("a list of %d rows begins at byte %d of %d", count, at, len(t))
	}
	return count, at, problem
}

// isPosting says that the tuple of a leaf page has a list of rows.
func isPosting(t []byte) bool {
	return binary.LittleEndian.Uint16(t[6:])&indexOwnBit != 0 && binary.LittleEndian.Uint16(t[4:])&btreePosting != 0
}

func (r *Relation) btreeMetaProblem(p []byte, h Header, flags uint16) string {
	m, s := p[HeaderSize:], p[Size-16:]
	magic, version := binary.LittleEndian.Uint32(m), binary.LittleEndian.Uint32(m[4:])
	root, level := binary.LittleEndian.Uint32(m[8:]), binary.LittleEndian.Uint32(m[12:])
	fast, fastLevel := binary.LittleEndian.Uint32(m[16:]), binary.LittleEndian.Uint32(m[20:])
	cleaned := math.Float64frombits(binary.LittleEndian.Uint64(m[32:]))
	switch {
	case magic != btreeMagic || version < 2 || version > 4:
		return fmt.Sprintf("the metapage has the magic number %06x and version %d instead of %06x and 2 to 4", magic, version, btreeMagic)
	case flags != btreeMeta || binary.LittleEndian.Uint64(s) != 0 || binary.LittleEndian.Uint32(s[8:]) != 0 || binary.LittleEndian.Uint16(s[14:]) != 0:
		return fmt.Sprintf("the metapage has the flags 0x%04x, or neighbours or a level", flags)
	case h.Lower != HeaderSize+48 && h.Lower != HeaderSize+40 && h.Lower != HeaderSize+24:
		return fmt.Sprintf("the metapage's content ends at byte %d", h.Lower)
	case version >= 3 && !zero(m[28:32]):
		return "the padding of the metapage is not zero"
	case version >= 3 && !(cleaned >= -1 && cleaned <= math.MaxFloat64) || version >= 4 && m[40] > 1:
		return fmt.Sprintf("the metapage says that %g rows were counted, and %d of whether equal keys are alike", cleaned, m[40])
	case level > btreeMaxLevel || fastLevel > level || (root == 0) != (fast == 0):
		return fmt.Sprintf("the metapage has the root %d on level %d and the fast root %d on level %d", root, level, fast, fastLevel)
	}
	if problem := r.link("root", root, 0); problem != "" {
		return problem
	}
	return r.link("fast root", fast, 0)
}

func isBtreeMeta(p []byte) bool { return binary.LittleEndian.Uint16(p[Size-4:])&btreeMeta != 0 }

// BtreeRoot gives the root that a metapage names and its level; 0 is none.
func BtreeRoot(p []byte) (root, level uint32) {
	return binary.LittleEndian.Uint32(p[HeaderSize+8:]), binary.LittleEndian.Uint32(p[HeaderSize+12:])
}

// BtreePivots says, by a metapage, that the upper bound of each page is, byte for
// byte, the key of the next page in the page above: so it is since PostgreSQL 12,
// but not in an index that pg_upgrade brought from an earlier version.
func BtreePivots(p []byte) bool { return binary.LittleEndian.Uint32(p[HeaderSize+4:]) >= 4 }

// BtreeHighKey gives a hash of a page's upper bound; 0 is none.
func BtreeHighKey(p []byte) uint32 {
	if DecodeBtree(p).Right == 0 || DecodeHeader(p).Lower <= HeaderSize {
		return 0
	}
	return pivotHash(p, 1)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pivotHash is that of a key and of how many of its columns are left, without the
// page that it leads to.
func pivotHash(p []byte, i int) uint32 {
	offset, length, _ := linePointer(p, i)
	return max(crc32.Checksum(p[offset+4:offset+length], castagnoli), 1)
}

// BtreeChildren calls visit with the pages below a page, from left to right, and
// with a hash of the key that each begins with.
func BtreeChildren(p []byte, visit func(block, key uint32)) {
	b, h := DecodeBtree(p), DecodeHeader(p)
	if b.Leaf || b.State >= BtreeHalfDead || isBtreeMeta(p) {
		return
	}
	for i := firstEntry(b); i <= int(h.Lower-HeaderSize)/4; i++ {
		offset, _, _ := linePointer(p, i)
		visit(blockID(p[offset:]), pivotHash(p, i))
	}
}

// firstEntry is the first line pointer that is not the high key.
func firstEntry(b BtreePage) int {
	if b.Right != 0 {
		return 2
	}
	return 1
}

func btreeEntries(p []byte, h Header, visit func(TID)) {
	b := DecodeBtree(p)
	if !b.Leaf || b.State >= BtreeHalfDead || isBtreeMeta(p) {
		return
	}
	for i := firstEntry(b); i <= int(h.Lower-HeaderSize)/4; i++ {
		offset, length, flags := linePointer(p, i)
		if flags != lpNormal {
			continue
		}
		t := p[offset : offset+length]
		tid := decodeTID(t)
		if !isPosting(t) {
			visit(tid)
			continue
		}
		for n := range int(tid.Offset & btreeOffset) {
			visit(decodeTID(t[int(tid.Block)+6*n:]))
		}
	}
}
