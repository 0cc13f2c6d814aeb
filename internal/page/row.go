package page

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf8"
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
}

// NewColumn describes a column: attlen, attalign, the type, and the type of
// the elements if it is an array. Text that is not valid UTF-8 is damage where
// the database's encoding is UTF8.
func NewColumn(length int16, align byte, typeOID, element uint32, isUTF8 bool) Column {
	c := Column{length: int(length), align: map[byte]int{'c': 1, 's': 2, 'i': 4, 'd': 8}[align]}
	if c.align == 0 {
		c.align = 1
	}
	if element != 0 {
		c.value = func(v []byte) string { return arrayProblem(v, element) }
		return c
	}
	switch typeOID {
	case 16:
		c.value = boolProblem
	case 25, 114, 1042, 1043: // text, json, character, character varying
		c.value = textProblem
		if isUTF8 {
			c.value = utf8Problem
		}
	case 1700:
		c.value = numericProblem
	case 3802:
		c.value = jsonbProblem
	case 1082:
		c.value = dateProblem
	case 1114, 1184:
		c.value = timestampProblem
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
	w := walk{data: p[t.hoff:], toast: r.Toast, hasToast: r.HasToast}
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

// walk is a walk over the columns of a tuple.
type walk struct {
	data []byte
	// at is where the next column begins.
	at       int
	index    bool
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

func (w *walk) column(c *Column) string {
	switch {
	case c.length > 0:
		w.at = (w.at + c.align - 1) &^ (c.align - 1)
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
		w.at = (w.at + c.align - 1) &^ (c.align - 1)
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
		return compressedProblem(v[:length])
	}
	if c.value != nil {
		return c.value(v[4:length])
	}
	return ""
}

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
	case value == 0:
		return "its TOAST value has the number 0"
	case w.hasToast && relation != w.toast:
		return fmt.Sprintf("its value is in the TOAST table with OID %d, but the table's own is %d", relation, w.toast)
	}
	return ""
}

func boolProblem(v []byte) string {
	if v[0] > 1 {
		return fmt.Sprintf("its value %d is neither true nor false", v[0])
	}
	return ""
}

func textProblem(v []byte) string {
	if bytes.IndexByte(v, 0) >= 0 {
		return "its text has bytes of zero, which no text can have"
	}
	return ""
}

func utf8Problem(v []byte) string {
	if !utf8.Valid(v) {
		return "its text is not valid UTF-8"
	}
	return textProblem(v)
}

func numericProblem(v []byte) string {
	if len(v) < 2 || len(v)%2 != 0 {
		return fmt.Sprintf("its number has %d bytes", len(v))
	}
	digits := v[2:]
	switch header := binary.LittleEndian.Uint16(v); {
	case header&0xc000 == 0xc000:
		if len(digits) != 0 || header != 0xc000 && header != 0xd000 && header != 0xf000 {
			return fmt.Sprintf("its number has an unknown special value (0x%04x)", header)
		}
		return ""
	case header&0x8000 == 0:
		if len(digits) < 2 {
			return "its number ends within its head"
		}
		digits = digits[2:]
	}
	for ; len(digits) > 0; digits = digits[2:] {
		if digit := binary.LittleEndian.Uint16(digits); digit > 9999 {
			return fmt.Sprintf("its number has a digit %d of base 10000", digit)
		}
	}
	return ""
}

func dateProblem(v []byte) string {
	const first, end = -2451545, 2145031949
	d := int32(binary.LittleEndian.Uint32(v))
	if (d < first || d >= end) && d != -1<<31 && d != 1<<31-1 {
		return fmt.Sprintf("its date is impossible (%d days from 2000-01-01)", d)
	}
	return ""
}

func timestampProblem(v []byte) string {
	const first, end = -211813488000000000, 9223371331200000000
	t := int64(binary.LittleEndian.Uint64(v))
	if (t < first || t >= end) && t != -1<<63 && t != 1<<63-1 {
		return fmt.Sprintf("its timestamp is impossible (%d microseconds from 2000-01-01)", t)
	}
	return ""
}

func arrayProblem(v []byte, element uint32) string {
	if len(v) < 12 {
		return fmt.Sprintf("its array has only %d bytes", len(v))
	}
	dimensions, data, of := int32(binary.LittleEndian.Uint32(v)), int(int32(binary.LittleEndian.Uint32(v[4:]))), binary.LittleEndian.Uint32(v[8:])
	switch {
	case dimensions < 0 || dimensions > 6:
		return fmt.Sprintf("its array has %d dimensions", dimensions)
	case of != element:
		return fmt.Sprintf("its array has elements of the type with OID %d instead of %d", of, element)
	case len(v) < 12+8*int(dimensions):
		return fmt.Sprintf("its array of %d dimensions has only %d bytes", dimensions, len(v))
	case data != 0 && (data < 16+8*int(dimensions) || data-4 > len(v)):
		return fmt.Sprintf("the elements of its array begin at byte %d of %d", data, len(v)+4)
	}
	for i := range dimensions {
		if size := int32(binary.LittleEndian.Uint32(v[12+4*i:])); size < 0 {
			return fmt.Sprintf("dimension %d of its array has %d elements", i+1, size)
		}
	}
	return ""
}

// jsonbProblem looks at the outermost container: its entries must fit the value.
func jsonbProblem(v []byte) string {
	const scalar, object, array, countMask, isOffset, lengthMask = 0x10000000, 0x20000000, 0x40000000, 0x0fffffff, 0x80000000, 0x0fffffff
	if len(v) < 4 {
		return fmt.Sprintf("its jsonb has only %d bytes", len(v))
	}
	header := binary.LittleEndian.Uint32(v)
	count := int(header & countMask)
	switch header &^ countMask {
	case object:
		count *= 2
	case array:
	case array | scalar:
		if count != 1 {
			return fmt.Sprintf("its jsonb is a scalar of %d values", count)
		}
	default:
		return fmt.Sprintf("its jsonb is of an unknown kind (0x%08x)", header)
	}
	if 4+4*count > len(v) {
		return fmt.Sprintf("its jsonb of %d bytes says that it has %d values", len(v), count)
	}
	data, at := v[4+4*count:], 0
	for i := range count {
		entry := binary.LittleEndian.Uint32(v[4+4*i:])
		if entry&isOffset != 0 {
			if int(entry&lengthMask) < at {
				return fmt.Sprintf("value %d of its jsonb ends before it begins", i)
			}
			at = int(entry & lengthMask)
		} else {
			at += int(entry & lengthMask)
		}
		if at > len(data) {
			return fmt.Sprintf("value %d of its jsonb ends at byte %d of %d", i, at, len(data))
		}
	}
	return ""
}
