package page

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// Type is what a value must be like (pg_type, with the domain's base type in place
// of a domain). A nil *Type is one of which nothing is known.
type Type struct {
	// OID is pg_type.oid, Kind pg_type.typtype: b, c, e, r or m.
	OID  uint32
	Kind byte
	// Length and Align are typlen and typalign.
	Length int16
	Align  byte
	// Element is what an array's elements, a range's bounds or a multirange's ranges
	// are like, and Of the type that an array says that they have: a domain may be one.
	Element *Type
	Of      uint32
	// Extension is the type's name when it is one of an extension of the same name
	// that is known here: citext, cube, hstore or ltree.
	Extension string
	// Labels are the values of an enum (pg_enum.oid).
	Labels map[uint32]struct{}
	// modifier is what a column or a domain restricts the type to; nil is nothing.
	modifier *int32
	// Covers says that a value stands for several, as in a GiST index.
	Covers bool
}

// In is what the values of a column of the type are like in a kind of relation. GiST
// and GIN keep what their operator classes make of them.
func (t *Type) In(kind Kind) *Type {
	if t == nil || kind == Heap || kind == Btree {
		return t
	}
	switch {
	case t.Kind == 'r' && kind == Gist:
		covers := *t
		covers.Covers = true
		return &covers
	case t.Kind != 'b' || t.Of != 0 || t.OID == inetOID: // inet_ops keeps something else
		return nil
	}
	return t
}

// Bool is the type of a flag.
var Bool = &Type{OID: boolOID, Kind: 'b', Length: 1, Align: 'c'}

// cCollations are those by whose order texts are ordered by their bytes.
var cCollations = []uint32{950, 951} // C, POSIX

// Order is that in which a B-tree has values of the type.
func (t *Type) Order(collation uint32) Order {
	if t == nil || t.Kind != 'b' || t.Of != 0 {
		return UnknownOrder
	}
	switch t.OID {
	case int2OID, int4OID, int8OID, dateOID, timeOID, timestampOID, timestamptzOID:
		return IntegerOrder
	case textOID, varcharOID:
		if slices.Contains(cCollations, collation) {
			return BytesOrder
		}
	}
	return UnknownOrder
}

// sizes are the lengths of types that have a fixed one.
var sizes = map[uint32]int16{
	boolOID: 1, nameOID: 64, dateOID: 4, timeOID: 8, timetzOID: 12, intervalOID: 16, timestampOID: 8, timestamptzOID: 8, boxOID: 32, circleOID: 24, lineOID: 24,
}

// problem is the function that says what is impossible about a value of the type,
// given without its length word; nil when every value is possible, or when the
// column's length (attlen) is not that of the type.
func (t *Type) problem(length int16, isUTF8 bool) func(v []byte) string {
	if t == nil {
		return nil
	}
	size := int16(-1)
	if t.Kind == 'e' {
		size = 4
	} else if fixed, ok := sizes[t.OID]; ok {
		size = fixed
	}
	if length != size {
		return nil
	}
	switch {
	case t.Kind == 'e':
		return t.labelProblem
	case t.Kind == 'c':
		return t.rowProblem
	case t.Kind == 'm':
		bound := t.Element.element(isUTF8)
		return func(v []byte) string { return t.multirangeProblem(v, &bound) }
	case t.Kind == 'r':
		bound := t.element(isUTF8)
		return func(v []byte) string { return t.rangeProblem(v, &bound) }
	case t.Of != 0:
		element := t.element(isUTF8)
		return func(v []byte) string { return t.arrayProblem(v, &element) }
	}
	text := textProblem
	if isUTF8 {
		text = utf8Problem
	}
	return t.modified(t.plainProblem(text))
}

// element describes what the values of an array or a range are made of.
func (t *Type) element(isUTF8 bool) Column {
	if t == nil {
		return Column{}
	}
	return NewColumn(t.Element.length(), t.Element.align(), t.Element, isUTF8)
}

// isText says that the type's values are texts, and nothing else is known of them.
func (t *Type) isText() bool {
	switch {
	case t == nil:
		return false
	case t.Extension == "citext":
		return true
	}
	switch t.OID {
	case textOID, xmlOID, nodeTreeOID, bpcharOID, varcharOID:
		return true
	}
	return false
}

// plainProblem is problem for a base type that is no array; text says what is
// impossible about a text.
func (t *Type) plainProblem(text func(v []byte) string) func(v []byte) string {
	switch {
	case t.isText():
		return text
	case t.Extension != "":
		return t.extensionProblem(text)
	}
	switch t.OID {
	case boolOID:
		return boolProblem
	case nameOID:
		return func(v []byte) string { return nameProblem(v, text) }
	case int2vectorOID:
		return func(v []byte) string { return vectorProblem(v, int2OID, 2) }
	case oidvectorOID:
		return func(v []byte) string { return vectorProblem(v, oidOID, 4) }
	case jsonOID:
		return func(v []byte) string { return jsonProblem(v, text) }
	case jsonbOID:
		return func(v []byte) string { return jsonbProblem(v, text) }
	case jsonpathOID:
		return jsonpathProblem
	case numericOID:
		return numericProblem
	case dateOID:
		return dateProblem
	case timeOID, timetzOID:
		return timeProblem
	case timestampOID, timestamptzOID:
		return timestampProblem
	case inetOID, cidrOID:
		return func(v []byte) string { return inetProblem(v, t.OID == cidrOID) }
	case bitOID, varbitOID:
		return bitProblem
	case boxOID:
		return boxProblem
	case pathOID:
		return pathProblem
	case polygonOID:
		return polygonProblem
	case circleOID:
		return circleProblem
	case lineOID:
		return lineProblem
	case tsvectorOID:
		return func(v []byte) string { return tsvectorProblem(v, text) }
	case tsqueryOID:
		return func(v []byte) string { return tsqueryProblem(v, text) }
	case snapshotOID, txidSnapshotOID:
		return snapshotProblem
	}
	return nil
}

// Types whose values are looked at (pg_type.dat); they never change.
const (
	boolOID, nameOID, int8OID, int2OID, int2vectorOID, int4OID, textOID, oidOID, oidvectorOID = 16, 19, 20, 21, 22, 23, 25, 26, 30

	jsonOID, xmlOID, nodeTreeOID, bpcharOID, varcharOID = 114, 142, 194, 1042, 1043
	pathOID, boxOID, polygonOID, lineOID, circleOID     = 602, 603, 604, 628, 718
	cidrOID, inetOID, bitOID, varbitOID, numericOID     = 650, 869, 1560, 1562, 1700
	dateOID, timeOID, timestampOID                      = 1082, 1083, 1114
	timestamptzOID, timetzOID, intervalOID              = 1184, 1266, 1186
	tsvectorOID, tsqueryOID                             = 3614, 3615
	txidSnapshotOID, snapshotOID                        = 2970, 5038
	jsonbOID, int4rangeOID, daterangeOID, int8rangeOID  = 3802, 3904, 3912, 3926
	jsonpathOID                                         = 4072
)

// length is typlen, 0 of an unknown type.
func (t *Type) length() int16 {
	if t == nil {
		return 0
	}
	return t.Length
}

func (t *Type) align() byte {
	if t == nil {
		return 0
	}
	return t.Align
}

func u16(v []byte) int    { return int(binary.LittleEndian.Uint16(v)) }
func u32(v []byte) uint32 { return binary.LittleEndian.Uint32(v) }
func i32(v []byte) int    { return int(int32(binary.LittleEndian.Uint32(v))) }
func i64(v []byte) int64  { return int64(binary.LittleEndian.Uint64(v)) }
func f64(v []byte) float64 {
	return math.Float64frombits(binary.LittleEndian.Uint64(v))
}

func boolProblem(v []byte) string {
	if v[0] > 1 {
		return fmt.Sprintf("its value %d is neither true nor false", v[0])
	}
	return ""
}

func nameProblem(v []byte, text func([]byte) string) string {
	name, _, ended := bytes.Cut(v, []byte{0})
	if !ended {
		return fmt.Sprintf("its name has no end within %d bytes", len(v))
	}
	return text(name)
}

// zeroInText is what is said of a text with bytes of zero.
const zeroInText = "its text has bytes of zero, which no text can have"

func textProblem(v []byte) string {
	if bytes.IndexByte(v, 0) >= 0 {
		return zeroInText
	}
	return ""
}

func utf8Problem(v []byte) string {
	if !utf8.Valid(v) {
		return "its text is not valid UTF-8"
	}
	return textProblem(v)
}

func jsonProblem(v []byte, text func([]byte) string) string {
	if problem := text(v); problem != "" {
		return problem
	}
	if !json.Valid(v) {
		return "its text is not JSON"
	}
	return ""
}

func jsonpathProblem(v []byte) string {
	const lax = 1 << 31
	if len(v) < 4 || u32(v)&^lax != 1 {
		return "its jsonpath is of an unknown version"
	}
	return ""
}

func dateProblem(v []byte) string {
	const first, end = -2451545, 2145031949
	if d := i32(v); (d < first || d >= end) && d != math.MinInt32 && d != math.MaxInt32 {
		return fmt.Sprintf("its date is impossible (%d days from 2000-01-01)", d)
	}
	return ""
}

func timeProblem(v []byte) string {
	const day = 86_400_000_000
	if t := i64(v); t < 0 || t > day {
		return fmt.Sprintf("its time of day is impossible (%d microseconds from midnight)", t)
	}
	return ""
}

func timestampProblem(v []byte) string {
	const first, end = -211813488000000000, 9223371331200000000
	if t := i64(v); (t < first || t >= end) && t != math.MinInt64 && t != math.MaxInt64 {
		return fmt.Sprintf("its timestamp is impossible (%d microseconds from 2000-01-01)", t)
	}
	return ""
}

// NoLabel ends what Problem says of the value of an enum without a label.
const NoLabel = "which the type does not have"

func (t *Type) labelProblem(v []byte) string {
	if _, ok := t.Labels[u32(v)]; !ok && len(t.Labels) > 0 {
		return fmt.Sprintf("its enum value has the OID %d, "+NoLabel, u32(v))
	}
	return ""
}

func inetProblem(v []byte, network bool) string {
	if len(v) < 2 {
		return fmt.Sprintf("its address has %d bytes", len(v))
	}
	size, ok := map[byte]int{2: 4, 3: 16}[v[0]]
	bits, address := int(v[1]), v[2:]
	switch {
	case !ok:
		return fmt.Sprintf("its address is of the unknown family %d", v[0])
	case len(address) != size || bits > 8*size:
		return fmt.Sprintf("its address of family %d has %d bytes and a netmask of %d bits", v[0], len(address), bits)
	}
	for i := bits; network && i < 8*size; i++ {
		if address[i/8]&(0x80>>(i%8)) != 0 {
			return "its network address has bits behind its netmask"
		}
	}
	return ""
}

func bitProblem(v []byte) string {
	if len(v) < 4 {
		return fmt.Sprintf("its bit string has %d bytes", len(v))
	}
	bits, data := i32(v), v[4:]
	if bits < 0 || len(data) != (bits+7)/8 {
		return fmt.Sprintf("its bit string of %d bytes says that it has %d bits", len(data), bits)
	}
	if bits%8 != 0 && data[len(data)-1]<<(bits%8) != 0 {
		return fmt.Sprintf("its bit string has bits behind its end at %d", bits)
	}
	return ""
}

func boxProblem(v []byte) string {
	if f64(v) < f64(v[16:]) || f64(v[8:]) < f64(v[24:]) {
		return "its box has its corners in the wrong order"
	}
	return ""
}

func circleProblem(v []byte) string {
	if r := f64(v[16:]); r < 0 {
		return fmt.Sprintf("its circle has the radius %g", r)
	}
	return ""
}

func lineProblem(v []byte) string {
	if f64(v) == 0 && f64(v[8:]) == 0 {
		return "its line has no direction"
	}
	return ""
}

func pathProblem(v []byte) string {
	if len(v) < 12 || i32(v) < 1 || len(v) != 12+16*i32(v) || u32(v[4:]) > 1 {
		return fmt.Sprintf("its path of %d bytes does not fit its number of points", len(v))
	}
	return ""
}

func polygonProblem(v []byte) string {
	const head = 4 + 32
	if len(v) < head || i32(v) < 1 || len(v) != head+16*i32(v) {
		return fmt.Sprintf("its polygon of %d bytes does not fit its number of points", len(v))
	}
	low, high := [2]float64{math.Inf(1), math.Inf(1)}, [2]float64{math.Inf(-1), math.Inf(-1)}
	for at := head; at < len(v); at += 16 {
		for i := range low {
			low[i], high[i] = min(low[i], f64(v[at+8*i:])), max(high[i], f64(v[at+8*i:]))
		}
	}
	for i := range low {
		if math.IsNaN(low[i]) || math.IsNaN(high[i]) {
			return ""
		}
	}
	if f64(v[4:]) != high[0] || f64(v[12:]) != high[1] || f64(v[20:]) != low[0] || f64(v[28:]) != low[1] {
		return "its polygon does not fit the box around it"
	}
	return ""
}

// snapshotProblem looks at a snapshot: the transactions that were running, in order,
// each within the snapshot's bounds.
func snapshotProblem(v []byte) string {
	const head = 20
	if len(v) < head || len(v) != head+8*int(u32(v)) {
		return fmt.Sprintf("its snapshot of %d bytes does not fit its number of transactions", len(v))
	}
	last, end := i64(v[4:]), i64(v[12:])
	if last <= 0 || end < last {
		return fmt.Sprintf("its snapshot goes from transaction %d to %d", last, end)
	}
	for at := head; at < len(v); at += 8 {
		xid := i64(v[at:])
		if xid < last || xid >= end {
			return fmt.Sprintf("transaction %d of its snapshot is out of order", (at-head)/8+1)
		}
		last = xid
	}
	return ""
}

// vectorProblem looks at an int2vector or oidvector, an array of one dimension.
func vectorProblem(v []byte, element uint32, size int) string {
	const head = 20
	if len(v) < head || i32(v) != 1 || u32(v[8:]) != element || i32(v[12:]) < 0 || i32(v[4:]) == 0 && len(v) != head+size*i32(v[12:]) {
		return fmt.Sprintf("its vector of %d bytes has an impossible head", len(v))
	}
	return ""
}

// arrayProblem looks at an array, and at each element.
func (t *Type) arrayProblem(v []byte, element *Column) string {
	if len(v) < 12 {
		return fmt.Sprintf("its array has only %d bytes", len(v))
	}
	dimensions, data, of := i32(v), i32(v[4:]), u32(v[8:])
	switch {
	case dimensions < 0 || dimensions > 6:
		return fmt.Sprintf("its array has %d dimensions", dimensions)
	case of != t.Of:
		return fmt.Sprintf("its array has elements of the type with OID %d instead of %d", of, t.Of)
	case dimensions == 0 && len(v) != 12:
		return fmt.Sprintf("its array has no dimensions, but %d bytes", len(v)+4)
	case len(v) < 12+8*dimensions:
		return fmt.Sprintf("its array of %d dimensions has only %d bytes", dimensions, len(v))
	case data != 0 && (data < 16+8*dimensions || data-4 > len(v)):
		return fmt.Sprintf("the elements of its array begin at byte %d of %d", data, len(v)+4)
	}
	count := min(dimensions, 1)
	for i := range dimensions {
		size := i32(v[12+4*i:])
		if count *= size; size < 0 || count > maxElements {
			return fmt.Sprintf("dimension %d of its array has %d elements", i+1, size)
		}
		if lowest := i32(v[12+4*(dimensions+i):]); lowest+size-1 > math.MaxInt32 {
			return fmt.Sprintf("dimension %d of its array has %d elements from number %d on, more than there are numbers", i+1, size, lowest)
		}
	}
	if element.length == 0 {
		return ""
	}
	begin := (16 + 8*dimensions + 7) &^ 7
	var nulls []byte
	if data != 0 {
		nulls, begin = v[12+8*dimensions:], data
		if len(nulls) < (count+7)/8 {
			return fmt.Sprintf("its array of %d bytes says that it has %d elements", len(v)+4, count)
		}
	}
	if begin -= 4; begin > len(v) {
		if count == 0 {
			return ""
		}
		return fmt.Sprintf("its array of %d bytes says that it has %d elements", len(v)+4, count)
	}
	w := walk{data: v[begin:], before: begin + 4}
	for i := range count {
		if nulls != nil && nulls[i/8]>>(i%8)&1 == 0 {
			continue
		}
		if problem := w.column(element); problem != "" {
			return fmt.Sprintf("element %d of its array: %s", i+1, problem)
		}
	}
	if w.alignTo(element.align); count > 0 && w.at < len(w.data) {
		return fmt.Sprintf("its array of %d elements ends at byte %d of %d", count, begin+w.at, len(v))
	}
	return ""
}

// maxElements is how many elements an array may have (MaxArraySize).
const maxElements = 0x3fffffff / 8

// rowProblem looks at a value of a composite type: the head of its tuple.
func (t *Type) rowProblem(v []byte) string {
	const head = 19
	if len(v) < head || u32(v[4:]) != t.OID {
		return fmt.Sprintf("its row of %d bytes is of another type", len(v))
	}
	natts, nulls, begin := u16(v[14:])&0x07ff, u16(v[16:])&hasNull != 0, int(v[18])
	size := head + 4
	if nulls {
		size += (natts + 7) / 8
	}
	if begin != (size+7)&^7 || begin-4 > len(v) {
		return fmt.Sprintf("its row of %d columns begins at byte %d of %d", natts, begin, len(v)+4)
	}
	return ""
}

// maxDepth is how deep the values of a jsonb are looked at.
const maxDepth = 200

// jsonbProblem looks at a jsonb: all its containers, their values, and the order
// of keys.
func jsonbProblem(v []byte, text func([]byte) string) string {
	_, problem := jsonbContainer(v, text, 0)
	return problem
}

// jsonbContainer looks at a container that begins with v and says how long it is.
func jsonbContainer(v []byte, text func([]byte) string, depth int) (length int, problem string) {
	const scalar, object, array, countMask, isOffset, lengthMask, kindMask = 0x10000000, 0x20000000, 0x40000000, 0x0fffffff, 0x80000000, 0x0fffffff, 0x70000000
	if depth > maxDepth {
		return len(v), ""
	}
	if len(v) < 4 {
		return 0, fmt.Sprintf("a container of its jsonb has only %d bytes", len(v))
	}
	header := u32(v)
	pairs, count := int(header&countMask), int(header&countMask)
	switch header &^ countMask {
	case object:
		count *= 2
	case array:
		pairs = 0
	case array | scalar:
		if pairs = 0; count != 1 || depth > 0 {
			return 0, fmt.Sprintf("its jsonb is a scalar of %d values", count)
		}
	default:
		return 0, fmt.Sprintf("its jsonb is of an unknown kind (0x%08x)", header)
	}
	if 4+4*count > len(v) {
		return 0, fmt.Sprintf("its jsonb of %d bytes says that it has %d values", len(v), count)
	}
	data, begin := v[4+4*count:], 0
	var last []byte
	for i := range count {
		entry := u32(v[4+4*i:])
		end := int(entry & lengthMask)
		if entry&isOffset == 0 {
			end += begin
		}
		if end < begin {
			return 0, fmt.Sprintf("value %d of its jsonb ends before it begins", i)
		}
		if end > len(data) {
			return 0, fmt.Sprintf("value %d of its jsonb ends at byte %d of %d", i, end, len(data))
		}
		value := data[begin:end]
		if i < pairs {
			if entry&kindMask != 0 {
				return 0, fmt.Sprintf("key %d of its jsonb is not a string", i)
			}
			if i > 0 && (len(last) > len(value) || len(last) == len(value) && bytes.Compare(last, value) >= 0) {
				return 0, fmt.Sprintf("key %d of its jsonb is out of order", i)
			}
			last = value
		}
		if problem := jsonbValue(entry&kindMask, data, begin, end, text, depth); problem != "" {
			return 0, problem
		}
		begin = end
	}
	return 4 + 4*count + begin, ""
}

// jsonbValue looks at one value of a container, data[begin:end].
func jsonbValue(kind uint32, data []byte, begin, end int, text func([]byte) string, depth int) string {
	const isString, isNumeric, isFalse, isTrue, isNull, isContainer = 0, 0x10000000, 0x20000000, 0x30000000, 0x40000000, 0x50000000
	aligned := (begin + 3) &^ 3
	switch kind {
	case isString:
		return text(data[begin:end])
	case isFalse, isTrue, isNull:
		if begin != end {
			return "a value without content of its jsonb has a length"
		}
	case isNumeric:
		if aligned >= end {
			return "a number of its jsonb has no bytes"
		}
		w := walk{data: data[aligned:end], index: true}
		if problem := w.column(&Column{length: -1, align: 4, value: numericProblem}); problem != "" || w.at != end-aligned {
			return "a number of its jsonb: " + problem
		}
	case isContainer:
		if aligned >= end {
			return "a container of its jsonb has no bytes"
		}
		length, problem := jsonbContainer(data[aligned:end], text, depth+1)
		if problem == "" && length != end-aligned && depth < maxDepth {
			problem = fmt.Sprintf("a container of its jsonb ends at byte %d of %d", length, end-aligned)
		}
		return problem
	default:
		return fmt.Sprintf("a value of its jsonb is of an unknown kind (0x%08x)", kind)
	}
	return ""
}
