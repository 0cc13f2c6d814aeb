package page

import (
	"encoding/binary"
	"fmt"
)

// Bits of t_info of an index tuple (itup.h); the last is the access method's own.
const (
	indexSizeMask = 0x1fff
	indexOwnBit   = 0x2000
	indexNulls    = 0x8000

	indexHeader = 8
	// nullBytes is the size of the bitmap of an index tuple with nulls, padding
	// included.
	nullBytes = 8
)

// TID is where a row is in its table.
type TID struct {
	Block  uint32
	Offset uint16
}

func decodeTID(b []byte) TID {
	return TID{Block: blockID(b), Offset: binary.LittleEndian.Uint16(b[4:])}
}

// problem says that no row can be at a TID.
func (t TID) problem() string {
	if t.Offset == 0 || t.Offset > maxTuples || t.Block == invalidBlock {
		return fmt.Sprintf("it points to the row (%d,%d), which cannot be", t.Block, t.Offset)
	}
	return ""
}

// Before says that a row comes before another one.
func (t TID) Before(other TID) bool {
	return t.Block < other.Block || t.Block == other.Block && t.Offset < other.Offset
}

// link says what is wrong with a link to another page of the relation.
func (r *Relation) link(name string, to, none uint32) string {
	if to == none || r.Blocks == 0 || to < r.Blocks {
		return ""
	}
	return fmt.Sprintf("the %s is page %d, but the index has %d pages", name, to, r.Blocks)
}

// indexTuples looks at the line pointers of an index page and calls visit for
// each tuple, of no fewer than least bytes. Tuples of index pages keep their
// bytes when they are marked dead.
func indexTuples(p []byte, h Header, least int, visit func(i, flags int, t []byte) string) string {
	count, problem := pointers(h)
	if problem != "" {
		return problem
	}
	var used usage
	for i := 1; i <= count; i++ {
		offset, length, flags := linePointer(p, i)
		if flags != lpNormal && flags != lpDead || length == 0 {
			return fmt.Sprintf("line pointer %d of an index has no tuple (flags %d, %d bytes)", i, flags, length)
		}
		if problem := used.place(h, i, offset, length, least); problem != "" {
			return problem
		}
		if problem := visit(i, flags, p[offset:offset+length]); problem != "" {
			return fmt.Sprintf("line pointer %d: %s", i, problem)
		}
	}
	return used.gap(h)
}

// indexTupleProblem looks at a tuple that has the head of all index tuples.
func indexTupleProblem(t []byte) string {
	if size := int(binary.LittleEndian.Uint16(t[6:]) & indexSizeMask); size != len(t) {
		return fmt.Sprintf("the index tuple says that it has %d bytes, its line pointer %d", size, len(t))
	}
	return ""
}

// keyProblem walks over some columns of an index tuple; none are unknown ones.
func keyProblem(t []byte, columns []Column) string {
	if len(columns) == 0 {
		return ""
	}
	info := binary.LittleEndian.Uint16(t[6:])
	data, nulls := t[indexHeader:], []byte(nil)
	if info&indexNulls != 0 {
		if len(t) < indexHeader+nullBytes {
			return "the index tuple ends within its null bitmap"
		}
		data, nulls = t[indexHeader+nullBytes:], t[indexHeader:]
	}
	w := walk{data: data, index: true, padded: true}
	if problem := w.columns(columns, nulls); problem != "" {
		return problem
	}
	if (w.at+7)&^7 != len(data) {
		return fmt.Sprintf("the columns of the index tuple end at byte %d of %d", w.at, len(data))
	}
	if !zero(data[w.at:]) {
		return fmt.Sprintf("the bytes behind the columns of the index tuple, from %d on, are not zero", w.at)
	}
	return ""
}

// Entries calls visit with every row that a page of an index points to. It
// expects a page without a problem, and leaves out entries that are marked dead.
func Entries(p []byte, kind Kind, visit func(TID)) {
	h := DecodeHeader(p)
	switch kind {
	case Btree:
		btreeEntries(p, h, visit)
	case Gin:
		ginEntries(p, h, visit)
	case Hash:
		if hasHashTuples(p) {
			plainEntries(p, h, 0, visit)
		}
	case Gist:
		if flags := binary.LittleEndian.Uint16(p[Size-4:]); flags&(gistLeaf|gistDeleted) == gistLeaf {
			plainEntries(p, h, 0, visit)
		}
	case Spgist:
		if flags := binary.LittleEndian.Uint16(p[Size-8:]); flags&(spgistLeaf|spgistMeta) == spgistLeaf {
			plainEntries(p, h, 6, visit)
		}
	default: // no index, or one without rows
	}
}

// plainEntries visits the TID at the same place of each tuple; SP-GiST has other
// tuples among those that are live.
func plainEntries(p []byte, h Header, at int, visit func(TID)) {
	for i := 1; i <= int(h.Lower-HeaderSize)/4; i++ {
		offset, _, flags := linePointer(p, i)
		if flags != lpNormal || at > 0 && SpgistState(p[offset]&3) != SpgistLive {
			continue
		}
		visit(decodeTID(p[offset+at:]))
	}
}

// metaEnd says that the content of a metapage does not end where it must: behind it,
// or before it in indexes that were made before PostgreSQL 11.
func metaEnd(h Header, size int) string {
	if h.Lower != HeaderSize && int(h.Lower) != HeaderSize+size {
		return fmt.Sprintf("the metapage's content ends at byte %d instead of %d", h.Lower, HeaderSize+size)
	}
	return ""
}
