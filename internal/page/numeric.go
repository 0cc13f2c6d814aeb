package page

import (
	"cmp"
	"fmt"
)

// Headers of numbers that are not finite; all have the bits of special.
const (
	special, nan            = 0xc000, 0xc000
	infinity, minusInfinity = 0xd000, 0xf000
)

// numericParts takes a finite number apart: value = digits of base 10000, the first
// of which counts 10000^weight. One without digits may be cut off within its head.
func numericParts(v []byte) (weight, scale int, negative bool, digits []byte) {
	header, digits := u16(v), v[2:]
	if header&0x8000 == 0 {
		if len(digits) >= 2 {
			weight, digits = int(int16(u16(digits))), digits[2:]
		}
		return weight, header & 0x3fff, header&0x4000 != 0, digits
	}
	weight = int(int8(header<<1) >> 1) // 7 bits with a sign
	return weight, header >> 7 & 0x3f, header&0x2000 != 0, digits
}

// numericProblem looks at a number: no digits of zero at its ends, and none behind
// the last decimal that it says it has.
func numericProblem(v []byte) string {
	if len(v) < 2 || len(v)%2 != 0 {
		return fmt.Sprintf("its number has %d bytes", len(v))
	}
	header := u16(v)
	switch {
	case header&special == special:
		if len(v) != 2 || header != nan && header != infinity && header != minusInfinity {
			return fmt.Sprintf("its number has an unknown special value (0x%04x)", header)
		}
		return ""
	case header&0x8000 == 0 && len(v) < 4:
		return "its number ends within its head"
	}
	weight, scale, negative, digits := numericParts(v)
	if len(digits) == 0 {
		if weight != 0 || negative {
			return fmt.Sprintf("its number has no digits, but is not zero (0x%04x)", header)
		}
		return ""
	}
	for at := 0; at < len(digits); at += 2 {
		if digit := u16(digits[at:]); digit > 9999 {
			return fmt.Sprintf("its number has a digit %d of base 10000", digit)
		}
	}
	last := u16(digits[len(digits)-2:])
	if u16(digits) == 0 || last == 0 {
		return "its number begins or ends with a digit of zero of base 10000, which no number keeps"
	}
	decimals := (len(digits)/2 - 1 - weight) * 4
	for ; last%10 == 0; last /= 10 {
		decimals--
	}
	if decimals > scale {
		return fmt.Sprintf("its number has %d decimals, but says that it has %d", decimals, scale)
	}
	return ""
}

// compareNumeric compares two numbers of which numericProblem says nothing.
func compareNumeric(a, b []byte) int {
	if order := cmp.Compare(rank(a), rank(b)); order != 0 || u16(a)&special == special {
		return order
	}
	weightA, _, negative, digitsA := numericParts(a)
	weightB, _, _, digitsB := numericParts(b)
	order := cmp.Compare(weightA, weightB)
	for at := 0; order == 0 && at < max(len(digitsA), len(digitsB)); at += 2 {
		switch {
		case at >= len(digitsA):
			order = -1
		case at >= len(digitsB):
			order = 1
		default:
			order = cmp.Compare(u16(digitsA[at:]), u16(digitsB[at:]))
		}
	}
	if negative {
		return -order
	}
	return order
}

// rank orders numbers of different signs, and those that are not finite: the NaN is
// behind all others.
func rank(v []byte) int {
	switch u16(v) {
	case nan:
		return 3
	case infinity:
		return 2
	case minusInfinity:
		return -2
	}
	switch _, _, negative, digits := numericParts(v); {
	case len(digits) == 0:
		return 0
	case negative:
		return -1
	}
	return 1
}
