package page

import (
	"bytes"
	"fmt"
)

// extensionProblem is plainProblem for a type of an extension that is no text.
func (t *Type) extensionProblem(text func(v []byte) string) func(v []byte) string {
	switch t.Extension {
	case "cube":
		return cubeProblem
	case "hstore":
		return func(v []byte) string { return hstoreProblem(v, text) }
	case "ltree":
		return func(v []byte) string { return ltreeProblem(v, text) }
	}
	return nil
}

func cubeProblem(v []byte) string {
	const point = 1 << 31
	if len(v) < 4 {
		return fmt.Sprintf("its cube has only %d bytes", len(v))
	}
	header := u32(v)
	numbers := int(header &^ point)
	if header&point == 0 {
		numbers *= 2
	}
	if len(v) != 4+8*numbers {
		return fmt.Sprintf("its cube of %d bytes says that it has %d dimensions", len(v), header&^point)
	}
	return ""
}

// hstoreProblem looks at a list of keys and values: where each ends, and the order of
// keys, each once. One in the format of before 9.0 is not looked at.
func hstoreProblem(v []byte, text func(v []byte) string) string {
	const newFormat, countMask, isFirst, isNull, endMask = 1 << 31, 0x0fffffff, 1 << 31, 1 << 30, 0x3fffffff
	if len(v) < 4 {
		return fmt.Sprintf("its hstore has only %d bytes", len(v))
	}
	if u32(v)&newFormat == 0 {
		return ""
	}
	count := int(u32(v) & countMask)
	if 4+8*count > len(v) {
		return fmt.Sprintf("its hstore of %d bytes says that it has %d keys", len(v), count)
	}
	area, begin := v[4+8*count:], 0
	var last []byte
	for i := range 2 * count {
		entry := u32(v[4+4*i:])
		end := int(entry & endMask)
		switch {
		case (entry&isFirst != 0) != (i == 0):
			return fmt.Sprintf("part %d of its hstore has the wrong mark of the first one", i+1)
		case end < begin || end > len(area):
			return fmt.Sprintf("part %d of its hstore goes from byte %d to %d of %d", i+1, begin, end, len(area))
		}
		part, isKey := area[begin:end], i%2 == 0
		switch {
		case entry&isNull != 0 && (isKey || len(part) > 0):
			return fmt.Sprintf("part %d of its hstore is NULL, but a key or not empty", i+1)
		case isKey && i > 0 && (len(last) > len(part) || len(last) == len(part) && bytes.Compare(last, part) >= 0):
			return fmt.Sprintf("key %d of its hstore is out of order", i/2+1)
		}
		if problem := text(part); problem != "" {
			return problem
		}
		if begin = end; isKey {
			last = part
		}
	}
	if begin != len(area) {
		return fmt.Sprintf("the keys and values of its hstore end at byte %d of %d", begin, len(area))
	}
	return ""
}

// ltreeProblem looks at a path of labels, each with its length before it.
func ltreeProblem(v []byte, text func(v []byte) string) string {
	if len(v) < 4 {
		return fmt.Sprintf("its ltree has only %d bytes", len(v))
	}
	count, at := u16(v), 4
	for i := range count {
		if at+2 > len(v) || at+2+u16(v[at:]) > len(v) {
			return fmt.Sprintf("label %d of %d of its ltree ends behind byte %d", i+1, count, len(v))
		}
		label := v[at+2:][:u16(v[at:])]
		if problem := text(label); problem != "" {
			return problem
		}
		at += (2 + len(label) + 7) &^ 7
	}
	if at != len(v) {
		return fmt.Sprintf("the %d labels of its ltree end at byte %d of %d", count, at, len(v))
	}
	return ""
}
