package page

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
)

// Order is the order of the keys of a GIN index, as far as it does not depend on
// what only the server knows.
type Order uint8

// Orders of keys: unknown, of signed integers, of texts by their bytes.
const (
	UnknownOrder Order = iota
	IntegerOrder
	BytesOrder
)

// ginKey is what a tuple of the tree of keys stands for.
type ginKey struct {
	// column is the number of the column whose key it is, in an index on several.
	column uint16
	// null says that it stands for rows without a key; those come last of their column.
	null bool
	// content is the key as it is stored: what is equal is the same key.
	content []byte
	// known says that its order is. Then place is where it is among others, and of
	// those in the same place value tells: of texts their bytes.
	known bool
	place uint64
	value []byte
}

// ginKeyOf reads the key of a tuple.
func (r *Relation) ginKeyOf(t []byte, flags uint16) ginKey {
	if tid := decodeTID(t); flags&ginLeaf != 0 && tid.Offset != ginTree {
		t = t[:min(max(int(tid.Block&^ginPacked), indexHeader), len(t))]
	}
	key := ginKey{null: binary.LittleEndian.Uint16(t[6:])&indexNulls != 0, content: t[indexHeader:]}
	switch at := ginColumnAt(key.null); {
	case r.Keys > 1 && at+2 <= len(t):
		key.column = binary.LittleEndian.Uint16(t[at:])
	case r.Keys != 1:
		key.null = false // of a column that is not known
	case len(r.Columns) == 1 && !key.null:
		key = key.ordered(r.Order, r.Columns[0].length)
	}
	return key
}

// ginColumnAt is where an entry of an index on several columns says which one it is of:
// behind the header, and a bitmap when it has no key.
func ginColumnAt(null bool) int {
	if null {
		return indexHeader + 8
	}
	return indexHeader
}

// ordered is a key with its place among others.
func (k ginKey) ordered(order Order, length int) ginKey {
	switch size := len(k.content); {
	case order == IntegerOrder && size >= length:
		var n int64
		switch length {
		case 2:
			n = int64(int16(binary.LittleEndian.Uint16(k.content)))
		case 4:
			n = int64(int32(binary.LittleEndian.Uint32(k.content)))
		case 8:
			n = int64(binary.LittleEndian.Uint64(k.content))
		default:
			return k
		}
		k.known, k.place = true, uint64(n)^1<<63
	case order == BytesOrder && size > 0:
		switch head := k.content[0]; {
		case head&1 == 1 && head > 1:
			k.value = k.content[1:max(1, min(int(head>>1), size))]
		case head&3 == 0 && size >= 4:
			k.value = k.content[4:max(4, min(int(binary.LittleEndian.Uint32(k.content)>>2), size))]
		default:
			return k
		}
		var first [8]byte
		copy(first[:], k.value)
		k.known, k.place = true, binary.BigEndian.Uint64(first[:])
	}
	return k
}

// before says that a key can stand before another one.
func (k ginKey) before(other ginKey) bool {
	switch {
	case k.column != other.column:
		return k.column < other.column
	case k.null != other.null:
		return other.null
	case k.known && other.known:
		return cmp.Or(cmp.Compare(k.place, other.place), bytes.Compare(k.value, other.value)) < 0
	}
	return !bytes.Equal(k.content, other.content)
}

// rough is the place of a key, or of none, which is the last one: a lower place is a
// lower key. 0 is unknown.
func (k ginKey) rough() uint64 {
	switch {
	case k.column > 0:
		return 0
	case k.null:
		return 1<<64 - 1
	case !k.known:
		return 0
	}
	return max(k.place, 1)
}

// ginKeysProblem looks at a page of the tree of keys, or of the list of pending
// entries, where those of one row stand together and are searched in their order.
func (r *Relation) ginKeysProblem(p []byte, h Header, right uint32, flags uint16) string {
	count := int(h.Lower-HeaderSize) / 4
	var last ginKey
	var row TID
	var seen map[TID]bool
	return indexTuples(p, h, indexHeader, func(i, state int, t []byte) string {
		if state == lpDead {
			return "the line pointer is dead, which a GIN index does not do"
		}
		if problem := indexTupleProblem(t); problem != "" {
			return problem
		}
		if problem := r.ginTupleProblem(t, flags); problem != "" || ginEndless(i, count, right, flags) {
			return problem
		}
		key := r.ginKeyOf(t, flags)
		if flags&ginList != 0 {
			tid := decodeTID(t)
			same := tid == row
			switch {
			case !same && seen[tid]:
				return fmt.Sprintf("the entries of the row (%d,%d) do not stand together", tid.Block, tid.Offset)
			case same && !last.before(key):
				return "its key is not higher than the one before of the same row"
			}
			if seen == nil {
				seen = make(map[TID]bool)
			}
			seen[tid], row, last = true, tid, key
			return ""
		}
		if i > 1 && !last.before(key) {
			return "its key is not higher than the one before"
		}
		last = key
		return ""
	})
}

// ginEndless says that a key is the last one of an inner page that has none to its
// right: whatever it is, all that is higher than the others is below it.
func ginEndless(i, count int, right uint32, flags uint16) bool {
	return flags&ginLeaf == 0 && right == invalidBlock && i == count
}

// ginCountsProblem looks at how many pages of each kind the metapage says that
// there were when VACUUM ended last, or when the index was made.
func (r *Relation) ginCountsProblem(p []byte) string {
	u32 := func(at int) uint64 { return uint64(binary.LittleEndian.Uint32(p[HeaderSize+at:])) }
	pages, keys, rows := u32(24), u32(28), u32(32)
	if pages+keys+rows == 0 {
		return "" // an unlogged index that was made anew after a crash
	}
	if keys == 0 || keys+rows > pages || r.Blocks != 0 && pages > uint64(r.Blocks) {
		return fmt.Sprintf("the metapage says that of %d pages %d had keys and %d rows; the index has %d", pages, keys, rows, r.Blocks)
	}
	return ""
}
