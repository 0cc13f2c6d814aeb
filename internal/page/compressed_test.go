package page

import (
	"encoding/binary"
	"strings"
	"testing"
)

// compressed makes a value as it lies in a tuple.
func compressed(raw, method int, data string) []byte {
	v := binary.LittleEndian.AppendUint32(nil, uint32(8+len(data))<<2|2)
	v = binary.LittleEndian.AppendUint32(v, uint32(raw)|uint32(method)<<30)
	return append(v, data...)
}

func TestCompressed(t *testing.T) {
	t.Parallel()
	const (
		// Both are twenty times a: one, and a copy of what is one byte back.
		pglz = "\x02a\x0f\x01\x01"
		lz4  = "\x1aa\x01\x00\x50aaaaa"
		// A run of 300: its length takes more bytes.
		longLZ4 = "\x1fa\x01\x00\xff\x19\x50aaaaa"
	)
	for _, c := range []struct {
		name, says  string
		raw, method int
		data        string
	}{
		{"pglz", "", 20, methodPglz, pglz},
		{"lz4", "", 20, methodLZ4, lz4},
		{"lz4 of a long run", "", 305, methodLZ4, longLZ4},
		{"pglz of another length", "breaks off", 19, methodPglz, pglz},
		{"pglz of a greater length", "breaks off", 21, methodPglz, pglz},
		{"pglz with something left over", "breaks off", 20, methodPglz, pglz + "x"},
		{"pglz from before its beginning", "breaks off", 20, methodPglz, "\x02a\x0f\x02\x01"},
		{"pglz that ends in a copy", "breaks off", 20, methodPglz, "\x02a\x0f"},
		{"lz4 of another length", "breaks off", 21, methodLZ4, lz4},
		{"lz4 from before its beginning", "breaks off", 20, methodLZ4, "\x1aa\x02\x00\x50aaaaa"},
		{"lz4 that ends in its literals", "breaks off", 20, methodLZ4, "\x1aa\x01\x00\x50aaa"},
		{"pglz that calls itself lz4", "breaks off", 20, methodLZ4, pglz},
		{"pglz with a zero", "bytes of zero", 20, methodPglz, "\x02\x00\x0f\x01\x01"},
		{"lz4 with a zero", "bytes of zero", 20, methodLZ4, "\x1aa\x01\x00\x50aa\x00aa"},
		{"unknown method", "method 3", 20, 3, pglz},
	} {
		got := compressedProblem(compressed(c.raw, c.method, c.data), true)
		if (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s: %q, want %q", c.name, got, c.says)
		}
	}
}
