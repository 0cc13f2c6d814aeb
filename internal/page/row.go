package page

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// maxChunk is how many bytes a chunk of a TOAST value has; only the last has
// fewer (TOAST_MAX_CHUNK_SIZE).
const maxChunk = 1996

// Column is how values of a column are stored (pg_attribute).
type Column struct {
	// length is attlen: -1 is a varlena, -2 a C string.
	length int
	align  int
	value  func(v []byte) string
	// isText says that no value has bytes of zero.
	isText bool
	// parts are the values of a summary of a BRIN index.
	parts []Column
}

// NewSummary describes what a BRIN index has for one column.
func NewSummary(parts ...Column) Column { return Column{parts: parts} }

// NewColumn describes a column of a type: attlen, attalign, and what its values
// must be like. Text that is not valid UTF-8 is damage where the database's
// encoding is UTF8.
func NewColumn(length int16, align byte, t *Type, isUTF8 bool) Column {
	c := Column{length: int(length), align: map[byte]int{'c': 1, 's': 2, 'i': 4, 'd': 8}[align], value: t.problem(length, isUTF8), isText: t.isText()}
	if c.align == 0 {
		c.align = 1
	}
	return c
}

// rowProblem walks over the columns of a heap tuple: each must end within it, and
// the last one at its end.
func (r *Relation) rowProblem(p []byte, t tuple) string {
	natts := t.natts()
	if natts > len(r.Columns) {
		return fmt.Sprintf("the tuple has %d columns, but the table has %d", natts, len(r.Columns))
	}
	var nulls []byte
	if t.mask&hasNull != 0 {
		nulls = p[23:]
		if natts%8 != 0 && nulls[natts/8]>>(natts%8) != 0 {
			return "the null bitmap goes on behind the last column"
		}
	}
	if problem := headProblem(p[:t.hoff], natts, nulls != nil, t.mask); problem != "" {
		return problem
	}
	w := walk{data: p[t.hoff:], toast: r.Toast, hasToast: r.HasToast, padded: true}
	problem := w.columns(r.Columns[:natts], nulls)
	switch {
	case problem != "":
		return problem
	case w.at != len(w.data):
		return fmt.Sprintf("the columns end at byte %d of %d", w.at, len(w.data))
	case w.varWidth != (t.mask&hasVarWidth != 0) || w.external != (t.mask&hasExternal != 0):
		return fmt.Sprintf("the flags of the tuple do not fit its columns (t_infomask 0x%04x)", t.mask)
	case r.Chunks && natts == 3 && nulls == nil:
		return chunkProblem(w.data)
	}
	return ""
}

// chunkProblem looks at a row of a TOAST table.
func chunkProblem(data []byte) string {
	value, sequence := binary.LittleEndian.Uint32(data), int32(binary.LittleEndian.Uint32(data[4:]))
	chunk := data[8:]
	switch {
	case chunk[0] == 1:
		return "a chunk of a TOAST value is in a TOAST table itself"
	case chunk[0]&1 == 1:
		chunk = chunk[1:]
	case chunk[0]&3 == 0:
		chunk = chunk[4:]
	default:
		return "a chunk of a TOAST value is compressed by itself"
	}
	switch {
	case value == 0:
		return "a chunk belongs to the TOAST value 0"
	case sequence < 0:
		return fmt.Sprintf("a chunk of TOAST value %d has the number %d", value, sequence)
	case len(chunk) == 0 || len(chunk) > maxChunk:
		return fmt.Sprintf("chunk %d of TOAST value %d has %d bytes", sequence, value, len(chunk))
	}
	return ""
}

// walk is a walk over the columns of a tuple, or the parts of a value.
type walk struct {
	data []byte
	// before is how many bytes are before data in what columns are aligned in.
	before int
	// at is where the next column begins.
	at    int
	index bool
	// padded says that the bytes before an aligned column are zeroes, as in every
	// tuple that PostgreSQL makes.
	padded   bool
	toast    uint32
	hasToast bool
	varWidth bool
	external bool
}

func (w *walk) columns(columns []Column, nulls []byte) string {
	for i := range columns {
		if nulls != nil && nulls[i/8]>>(i%8)&1 == 0 {
			continue
		}
		if problem := w.column(&columns[i]); problem != "" {
			return fmt.Sprintf("column %d: %s", i+1, problem)
		}
	}
	return ""
}

// alignTo steps over the padding before a column.
func (w *walk) alignTo(align int) string {
	at := w.at
	w.at = (w.at+w.before+align-1)&^(align-1) - w.before
	if w.padded && !zero(w.data[min(at, len(w.data)):min(w.at, len(w.data))]) {
		return fmt.Sprintf("the bytes before its value, from %d to %d, are not zero", at, w.at-1)
	}
	return ""
}

func zero(b []byte) bool {
	for _, one := range b {
		if one != 0 {
			return false
		}
	}
	return true
}

// headProblem looks at the bytes between the null bitmap of a heap tuple and its
// columns. Rows that were made with OIDs, before PostgreSQL 12, have them there.
func headProblem(head []byte, natts int, nulls bool, mask uint16) string {
	end := 23
	if nulls {
		end += (natts + 7) / 8
	}
	if mask&hasOIDOld == 0 && end < len(head) && !zero(head[end:]) {
		return fmt.Sprintf("the bytes before its columns, from %d to %d, are not zero", end, len(head)-1)
	}
	return ""
}

func (w *walk) column(c *Column) string {
	switch {
	case c.length > 0:
		if problem := w.alignTo(c.align); problem != "" {
			return problem
		}
		if w.at+c.length > len(w.data) {
			return fmt.Sprintf("its value ends at byte %d, behind the end of the tuple at %d", w.at+c.length, len(w.data))
		}
		v := w.data[w.at : w.at+c.length]
		w.at += c.length
		if c.value != nil {
			return c.value(v)
		}
		return ""
	case c.length == -2:
		w.varWidth = true
		end := -1
		if w.at < len(w.data) {
			end = bytes.IndexByte(w.data[w.at:], 0)
		}
		if end < 0 {
			return "its value does not end within the tuple"
		}
		w.at += end + 1
		return ""
	}
	w.varWidth = true
	return w.varlena(c)
}

// varlena steps over a value with a length word.
func (w *walk) varlena(c *Column) string {
	if w.at < len(w.data) && w.data[w.at] == 0 {
		if problem := w.alignTo(c.align); problem != "" {
			return problem
		}
	}
	if w.at >= len(w.data) {
		return fmt.Sprintf("its value begins at byte %d, behind the end of the tuple at %d", w.at, len(w.data))
	}
	v := w.data[w.at:]
	switch first := v[0]; {
	case first == 1:
		return w.pointer(v)
	case first&1 == 1:
		length := int(first >> 1)
		if length > len(v) {
			return fmt.Sprintf("its length word says %d bytes, but the tuple ends after %d", length, len(v))
		}
		w.at += length
		if c.value != nil {
			return c.value(v[1:length])
		}
		return ""
	}
	if len(v) < 4 {
		return "its length word reaches behind the end of the tuple"
	}
	word := binary.LittleEndian.Uint32(v)
	length := int(word >> 2)
	if length < 4 || length > len(v) {
		return fmt.Sprintf("its length word says %d bytes, but the tuple ends after %d", length, len(v))
	}
	w.at += length
	if word&3 == 2 {
		return compressedProblem(v[:length], c.isText)
	}
	if c.value != nil {
		return c.value(v[4:length])
	}
	return ""
}

// maxRatio is more than what pglz or LZ4 make of one byte: a match of three bytes
// gives at most 273, a byte of LZ4 at most 255.
const maxRatio = 273

// pointer looks at a pointer to a value in the TOAST table.
func (w *walk) pointer(v []byte) string {
	const size, onDisk = 18, 18
	if w.index {
		return "its value is in a TOAST table, which an index cannot have"
	}
	if len(v) < size || v[1] != onDisk {
		return "its pointer to the TOAST table is of an unknown kind"
	}
	w.at += size
	w.external = true
	raw := int32(binary.LittleEndian.Uint32(v[2:]))
	info := binary.LittleEndian.Uint32(v[6:])
	extern, method := int32(info&0x3fffffff), info>>30
	value, relation := binary.LittleEndian.Uint32(v[10:]), binary.LittleEndian.Uint32(v[14:])
	switch {
	case raw < 4 || raw > 0x3fffffff || extern <= 0 || extern > raw-4 || method > 1:
		return fmt.Sprintf("its TOAST value of %d bytes says that it has %d bytes in the TOAST table, compressed by method %d", raw, extern, method)
	case extern == raw-4 && method != 0:
		return fmt.Sprintf("its TOAST value of %d bytes is not compressed, but says by method %d", raw, method)
	case int64(raw) > maxRatio*int64(extern):
		return fmt.Sprintf("its TOAST value of %d bytes in the TOAST table says that it has %d, more than compression makes of so many", extern, raw)
	case value == 0:
		return "its TOAST value has the number 0"
	case w.hasToast && relation != w.toast:
		return fmt.Sprintf("its value is in the TOAST table with OID %d, but the table's own is %d", relation, w.toast)
	}
	return ""
}
