package page

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The methods by which a value is compressed (ToastCompressionId).
const (
	methodPglz = 0
	methodLZ4  = 1
)

// compressedProblem looks at a value that is compressed within its tuple: it says
// how long the value is and, from 14 on, by which method. The compressed bytes are
// walked over without being decompressed: they must give exactly that length. What
// is copied was there before: a text has bytes of zero only when such are stored.
func compressedProblem(v []byte, isText bool) string {
	if len(v) < 9 {
		return fmt.Sprintf("its compressed value has only %d bytes", len(v))
	}
	info := binary.LittleEndian.Uint32(v[4:])
	raw, method := int(info&0x3fffffff), info>>30
	if method > methodLZ4 || raw <= len(v)-8 {
		return fmt.Sprintf("its compressed value of %d bytes says that it has %d bytes and was compressed by method %d", len(v), raw, method)
	}
	name, length := "pglz", pglzLength
	if method == methodLZ4 {
		name, length = "lz4", lz4Length
	}
	got, hasZero, ok := length(v[8:], raw)
	switch {
	case !ok:
		return fmt.Sprintf("its compressed value breaks off after %d of %d bytes: it is no %s", got, raw, name)
	case isText && hasZero:
		return zeroInText
	}
	return ""
}

// pglzLength is how many bytes a value has that pglz compressed, whether some of them
// are zero, and whether that is the number that is wanted and nothing is left over.
func pglzLength(b []byte, want int) (length int, hasZero, ok bool) {
	for at := 0; at < len(b) && length < want; {
		control := b[at]
		at++
		for bit := 0; bit < 8 && at < len(b) && length < want; bit++ {
			if control>>bit&1 == 0 {
				hasZero = hasZero || b[at] == 0
				at++
				length++
				continue
			}
			if at+2 > len(b) {
				return length, hasZero, false
			}
			n, back := int(b[at]&0x0f)+3, int(b[at]&0xf0)<<4|int(b[at+1])
			if at += 2; n == 18 {
				if at == len(b) {
					return length, hasZero, false
				}
				n += int(b[at])
				at++
			}
			if back == 0 || back > length {
				return length, hasZero, false
			}
			length += n
		}
		if length >= want {
			return length, hasZero, length == want && at == len(b)
		}
	}
	return length, hasZero, false
}

// lz4Length is the same for a block of LZ4.
func lz4Length(b []byte, want int) (length int, hasZero, ok bool) {
	at := 0
	// more adds the bytes that follow when four bits are not enough.
	more := func(n int) int {
		for n >= 15 {
			if at == len(b) {
				return -1
			}
			next := b[at]
			at++
			if n += int(next); next != 255 {
				break
			}
		}
		return n
	}
	for at < len(b) && length <= want {
		token := b[at]
		at++
		literals := more(int(token >> 4))
		if literals < 0 || literals > len(b)-at {
			return length, hasZero, false
		}
		hasZero = hasZero || bytes.IndexByte(b[at:at+literals], 0) >= 0
		at += literals
		if length += literals; at == len(b) {
			return length, hasZero, length == want
		}
		if at+2 > len(b) {
			return length, hasZero, false
		}
		back := int(binary.LittleEndian.Uint16(b[at:]))
		at += 2
		n := more(int(token & 15))
		if n < 0 || back == 0 || back > length {
			return length, hasZero, false
		}
		length += n + 4
	}
	return length, hasZero, false
}
