package page

import (
	"fmt"
	"math"
)

// With is the type with what a column or a domain restricts it to (atttypmod or
// typtypmod); a negative one is nothing. That of an array is for its elements.
func (t *Type) With(modifier int32) *Type {
	if t == nil || t.Kind != 'b' || modifier < 0 {
		return t
	}
	with := *t
	if t.Of != 0 {
		with.Element = t.Element.With(modifier)
	} else {
		with.modifier = &modifier
	}
	return &with
}

// modified is the function that says what is impossible about a value because of the
// type's modifier, nil is nothing; first is what is looked at before.
//
// Timestamps are not held to their decimals, as triggers in C write others (those of
// the extension moddatetime do), nor texts to their lengths: those of columns that
// were made narrower by hand, in pg_attribute, stay.
func (t *Type) modified(first func(v []byte) string) func(v []byte) string {
	if t.modifier == nil {
		return first
	}
	var second func(v []byte) string
	switch m := int(*t.modifier); t.OID {
	case numericOID:
		const head = 4
		precision, scale := (m-head)>>16, (m-head)&0x7ff^1024-1024 // 11 bits with a sign
		second = func(v []byte) string { return precisionProblem(v, precision, scale) }
	case bitOID, varbitOID:
		second = func(v []byte) string { return widthProblem(v, m, t.OID == bitOID) }
	case timeOID, timetzOID:
		second = func(v []byte) string { return decimalsProblem(i64(v), m) }
	case intervalOID:
		second = func(v []byte) string { return decimalsProblem(i64(v), m&0xffff) }
	}
	switch {
	case second == nil:
		return first
	case first == nil:
		return second
	}
	return func(v []byte) string {
		if problem := first(v); problem != "" {
			return problem
		}
		return second(v)
	}
}

// precisionProblem holds a number, of which numericProblem says nothing, to the
// decimals of its column and to the digits before them. One with less decimals may
// come from elsewhere.
func precisionProblem(v []byte, precision, scale int) string {
	if u16(v)&special == special {
		return ""
	}
	weight, decimals, _, digits := numericParts(v)
	if decimals > max(scale, 0) {
		return fmt.Sprintf("its number has %d decimals, but its column takes %d", decimals, max(scale, 0))
	}
	if len(digits) == 0 {
		return ""
	}
	whole := 4 * weight
	for first := u16(digits); first > 0; first /= 10 {
		whole++
	}
	if whole > precision-scale {
		return fmt.Sprintf("its number has %d digits before the point, but its column takes %d", whole, precision-scale)
	}
	return ""
}

// widthProblem holds a bit string, of which bitProblem says nothing, to the length of
// its column.
func widthProblem(v []byte, bits int, exactly bool) string {
	if got := i32(v); got > bits || exactly && got != bits {
		return fmt.Sprintf("its bit string has %d bits, but its column takes %d", got, bits)
	}
	return ""
}

// decimalsProblem holds a time to the decimals of its seconds.
func decimalsProblem(microseconds int64, decimals int) string {
	if decimals >= 6 || microseconds == math.MinInt64 || microseconds == math.MaxInt64 {
		return ""
	}
	unit := int64(1)
	for range 6 - decimals {
		unit *= 10
	}
	if microseconds%unit != 0 {
		return fmt.Sprintf("its time of %d microseconds has more decimals of seconds than the %d that its column takes", microseconds, decimals)
	}
	return ""
}
