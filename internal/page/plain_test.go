package page

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// plain is the checksum as one writes it down from its definition.
func plain(p []byte, block uint32) uint16 {
	page := append([]byte(nil), p...)
	page[8], page[9] = 0, 0
	sums := offsets
	for row := range rows {
		for lane := range lanes {
			sums[lane] = mix(sums[lane], binary.LittleEndian.Uint32(page[(row*lanes+lane)*4:]))
		}
	}
	var result uint32
	for lane := range lanes {
		result ^= mix(mix(sums[lane], 0), 0)
	}
	return uint16((result^block)%65535 + 1)
}

// ways are all ways to sum up a page that this machine knows.
var ways = map[string]func(*[Size]byte) uint32{"portable": sumPortable, "chosen": sum}

// TestChecksumIsThePlainOne compares every way with the definition, on random
// pages at any address, and with every single bit changed in one.
func TestChecksumIsThePlainOne(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	buffer := make([]byte, Size+64)
	compare := func(p []byte, block uint32) {
		t.Helper()
		want := plain(p, block)
		if got := Checksum(p, block); got != want {
			t.Fatalf("block %d: %d, want %d", block, got, want)
		}
		for name, way := range ways {
			if got := uint16((way((*[Size]byte)(p))^block)%65535 + 1); got != want {
				t.Fatalf("%s, block %d: %d, want %d", name, block, got, want)
			}
		}
	}
	for block := range uint32(200) {
		p := buffer[block%64:][:Size]
		for i := range p {
			p[i] = byte(random.Uint32())
		}
		compare(p, block)
	}
	p := buffer[:Size]
	for bit := range Size * 8 {
		p[bit/8] ^= 1 << (bit % 8)
		compare(p, 7)
		p[bit/8] ^= 1 << (bit % 8)
	}
}

func BenchmarkChecksum(b *testing.B) {
	p := make([]byte, Size)
	for i := range p {
		p[i] = byte(i * 7)
	}
	for name, way := range ways {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(Size)
			for b.Loop() {
				way((*[Size]byte)(p))
			}
		})
	}
}
