package page

import (
	"cmp"
	"fmt"
	"math"
)

// Flags of a range.
const (
	rangeEmpty, lowerInclusive, upperInclusive, lowerInfinite, upperInfinite = 1, 2, 4, 8, 16

	rangeCoversEmpty = 128
	rangeFlags       = 31
)

// limits are the bounds of a range; one that is infinite, or of which nothing is
// known, is nil.
type limits struct {
	flags        byte
	lower, upper []byte
}

// rangeProblem looks at a range: its flags, its bounds, and their order where that
// is known.
func (t *Type) rangeProblem(v []byte, bound *Column) string {
	if len(v) < 5 || u32(v) != t.OID {
		return fmt.Sprintf("its range of %d bytes is of another type", len(v))
	}
	flags, bounds := v[len(v)-1], v[4:len(v)-1]
	if t.Covers {
		flags &^= rangeCoversEmpty
	}
	if problem := flagsProblem(flags); problem != "" {
		return problem
	}
	if flags&rangeEmpty != 0 {
		if flags != rangeEmpty || len(bounds) > 0 {
			return fmt.Sprintf("its range is empty, but has bounds (0x%02x)", flags)
		}
		return ""
	}
	if bound.length == 0 {
		return ""
	}
	w := walk{data: bounds, before: 8}
	if _, problem := t.limits(&w, flags, bound); problem != "" {
		return problem
	}
	if w.at != len(bounds) {
		return fmt.Sprintf("the bounds of its range end at byte %d of %d", w.at, len(bounds))
	}
	return ""
}

// limits steps over the bounds of a range that is not empty.
func (t *Type) limits(w *walk, flags byte, bound *Column) (l limits, problem string) {
	l.flags = flags
	if flags&lowerInfinite == 0 {
		if l.lower, problem = w.value(bound); problem != "" {
			return l, "bound 1 of its range: " + problem
		}
	}
	if flags&upperInfinite == 0 {
		if l.upper, problem = w.value(bound); problem != "" {
			return l, "bound 2 of its range: " + problem
		}
	}
	if l.lower != nil && l.upper != nil {
		const both = lowerInclusive | upperInclusive
		if order, known := t.Element.compare(l.lower, l.upper); known && (order > 0 || order == 0 && flags&both != both) {
			return l, "the lower bound of its range is behind the upper one"
		}
	}
	if t.discrete(l.lower) && flags&lowerInclusive == 0 || t.discrete(l.upper) && flags&upperInclusive != 0 {
		return l, fmt.Sprintf("its range of whole numbers has the flags 0x%02x, but is kept with its lower bound and without its upper one", flags)
	}
	return l, ""
}

// touch says that nothing is between the end of a range and the beginning of another.
func (t *Type) touch(a, b limits) bool {
	if a.upper == nil || b.lower == nil {
		return false
	}
	order, known := t.Element.compare(a.upper, b.lower)
	return known && (order > 0 || order == 0 && (a.flags&upperInclusive != 0 || b.flags&lowerInclusive != 0))
}

// discrete says that a bound of a range is of those that are kept as [lower,upper).
func (t *Type) discrete(bound []byte) bool {
	switch {
	case bound == nil:
		return false
	case t.OID == daterangeOID:
		d := i32(bound)
		return d != math.MinInt32 && d != math.MaxInt32
	}
	return t.OID == int4rangeOID || t.OID == int8rangeOID
}

// compare compares two values as the server does, where its order is known.
func (t *Type) compare(a, b []byte) (order int, known bool) {
	if t == nil || t.Kind != 'b' || t.Of != 0 {
		return 0, false
	}
	switch t.OID {
	case int4OID, dateOID:
		return cmp.Compare(i32(a), i32(b)), true
	case int8OID, timestampOID, timestamptzOID:
		return cmp.Compare(i64(a), i64(b)), true
	case numericOID:
		return compareNumeric(a, b), true
	}
	return 0, false
}

// value steps over a value of a type that is known, and gives it without its length
// word; nil is one that is compressed.
func (w *walk) value(c *Column) (v []byte, problem string) {
	begin := w.at
	if problem := w.column(c); problem != "" {
		return nil, problem
	}
	if c.length > 0 {
		return w.data[w.at-c.length : w.at], ""
	}
	if w.data[begin] == 0 {
		begin = (begin+w.before+c.align-1)&^(c.align-1) - w.before
	}
	switch first := w.data[begin]; {
	case c.length != -1 || first == 1 || first&3 == 2:
		return nil, ""
	case first&1 == 1:
		return w.data[begin+1 : w.at], ""
	}
	return w.data[begin+4 : w.at], ""
}

func flagsProblem(flags byte) string {
	if flags&^rangeFlags != 0 || flags&lowerInfinite != 0 && flags&lowerInclusive != 0 || flags&upperInfinite != 0 && flags&upperInclusive != 0 {
		return fmt.Sprintf("its range has impossible flags (0x%02x)", flags)
	}
	return ""
}

// multirangeProblem looks at a multirange: where each of its ranges begins, and that
// they are in order and do not touch, where the order is known.
func (t *Type) multirangeProblem(v []byte, bound *Column) string {
	const stride, isOffset = 4, 0x80000000
	if len(v) < 8 || u32(v) != t.OID {
		return fmt.Sprintf("its multirange of %d bytes is of another type", len(v))
	}
	count := i32(v[4:])
	if count < 0 || count > len(v) || count > 0 && 8+4*(count-1)+count > len(v) {
		return fmt.Sprintf("its multirange of %d bytes says that it has %d ranges", len(v), count)
	}
	items := v[8:]
	flags := items[4*max(count-1, 0):][:count]
	for i, f := range flags {
		if flagsProblem(f) != "" || f&rangeEmpty != 0 || i > 0 && f&lowerInfinite != 0 || i < count-1 && f&upperInfinite != 0 {
			return fmt.Sprintf("range %d of its multirange has impossible flags (0x%02x)", i+1, f)
		}
	}
	if bound.length == 0 {
		return ""
	}
	aligned := func(n int) int { return (n + bound.align - 1) &^ (bound.align - 1) }
	begin := aligned(12+4*max(count-1, 0)+count) - 4
	if begin > len(v) {
		return fmt.Sprintf("its multirange of %d bytes says that it has %d ranges", len(v), count)
	}
	data := v[begin:]
	var last limits
	at, before := 0, 0
	for i, f := range flags {
		if i > 0 {
			want := uint32(at - before)
			if i%stride == 0 {
				want = uint32(at) | isOffset
			}
			if got := u32(items[4*(i-1):]); got != want {
				return fmt.Sprintf("the place of range %d of its multirange is 0x%08x instead of 0x%08x", i+1, got, want)
			}
		}
		w := walk{data: data[at:], before: 8}
		l, problem := t.Element.limits(&w, f, bound)
		if problem != "" {
			return fmt.Sprintf("range %d of its multirange: %s", i+1, problem)
		}
		if t.Element.touch(last, l) {
			return fmt.Sprintf("range %d of its multirange begins before the end of the one before, or right there", i+1)
		}
		last, before = l, at
		if at += aligned(w.at); at > len(data) {
			return fmt.Sprintf("range %d of its multirange ends at byte %d of %d", i+1, at, len(data))
		}
	}
	if at != len(data) {
		return fmt.Sprintf("the ranges of its multirange end at byte %d of %d", at, len(data))
	}
	return ""
}
