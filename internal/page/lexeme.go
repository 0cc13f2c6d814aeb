package page

import (
	"bytes"
	"fmt"
)

// tsvectorProblem looks at a list of lexemes: within the value, in order, each once.
func tsvectorProblem(v []byte, text func([]byte) string) string {
	if len(v) < 4 || i32(v) < 0 || 4+4*i32(v) > len(v) {
		return fmt.Sprintf("its tsvector of %d bytes does not fit its number of lexemes", len(v))
	}
	count := i32(v)
	area := v[4+4*count:]
	var last []byte
	for i := range count {
		entry := u32(v[4+4*i:])
		at, length := int(entry>>12), int(entry>>1&0x7ff)
		end := at + length
		if end > len(area) {
			return fmt.Sprintf("lexeme %d of its tsvector ends at byte %d of %d", i+1, end, len(area))
		}
		lexeme := area[at:end]
		if i > 0 && bytes.Compare(last, lexeme) >= 0 {
			return fmt.Sprintf("lexeme %d of its tsvector is out of order", i+1)
		}
		if problem := text(lexeme); problem != "" {
			return problem
		}
		last = lexeme
		if entry&1 == 0 {
			continue
		}
		if end += end & 1; end+2 > len(area) || u16(area[end:]) == 0 || end+2+2*u16(area[end:]) > len(area) {
			return fmt.Sprintf("the positions of lexeme %d of its tsvector end behind it", i+1)
		}
	}
	return ""
}

// tsqueryProblem looks at a query: its operators and operands must be one tree, each
// operator before its right side, and that before the left one; the text of each
// operand must be within the value and end there.
func tsqueryProblem(v []byte, text func([]byte) string) string {
	const item, operand, operation, not, phrase = 12, 1, 2, 1, 4
	if len(v) < 4 || i32(v) < 0 || 4+item*i32(v) > len(v) {
		return fmt.Sprintf("its tsquery of %d bytes does not fit its number of operators and operands", len(v))
	}
	count := i32(v)
	items, area := v[4:4+item*count], v[4+item*count:]
	if count == 0 {
		if len(area) > 0 {
			return fmt.Sprintf("its tsquery is empty, but has %d bytes", len(v))
		}
		return ""
	}
	// left are where the left sides must begin of which the operators have come.
	var left []int
	for i := range count {
		entry := items[item*i:]
		switch entry[0] {
		case operand:
			if problem := operandProblem(entry, area, text); problem != "" {
				return fmt.Sprintf("part %d of its tsquery: %s", i+1, problem)
			}
		case operation:
			switch operator := entry[1]; {
			case operator < not || operator > phrase:
				return fmt.Sprintf("part %d of its tsquery is an unknown operator %d", i+1, operator)
			case operator != not:
				at := int(u32(entry[4:]))
				if at >= count-i {
					return fmt.Sprintf("the left side of operator %d of its tsquery is behind its end", i+1)
				}
				left = append(left, i+at)
			}
		default:
			return fmt.Sprintf("part %d of its tsquery is of the unknown kind %d", i+1, entry[0])
		}
		switch {
		case entry[0] == operation:
			if i == count-1 {
				return "its tsquery ends with an operator"
			}
		case len(left) == 0:
			if i < count-1 {
				return fmt.Sprintf("its tsquery is complete after %d of %d operators and operands", i+1, count)
			}
		case left[len(left)-1] != i+1:
			return fmt.Sprintf("an operator of its tsquery has its left side at %d instead of %d", left[len(left)-1]+1, i+2)
		default:
			left = left[:len(left)-1]
		}
	}
	return ""
}

// operandProblem looks at an operand of a query, a lexeme with a zero behind it.
func operandProblem(entry, area []byte, text func([]byte) string) string {
	weight, prefix, place := entry[1], entry[2], u32(entry[8:])
	length, at := int(place&0xfff), int(place>>12)
	end := at + length
	switch {
	case weight > 15 || prefix > 1:
		return fmt.Sprintf("its weights are 0x%02x, its mark of a prefix %d", weight, prefix)
	case end >= len(area):
		return fmt.Sprintf("it ends at byte %d of %d", end, len(area))
	case area[end] != 0:
		return "there is no zero behind it"
	}
	return text(area[at:end])
}
