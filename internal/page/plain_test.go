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

func TestChecksumIsThePlainOne(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, Size)
	for block := range uint32(200) {
		for i := range p {
			p[i] = byte(random.Uint32())
		}
		if got, want := Checksum(p, block), plain(p, block); got != want {
			t.Fatalf("block %d: %d, want %d", block, got, want)
		}
	}
}

func BenchmarkChecksum(b *testing.B) {
	p := make([]byte, Size)
	for i := range p {
		p[i] = byte(i * 7)
	}
	for name, checksum := range map[string]func([]byte, uint32) uint16{"ours": Checksum, "plain": plain} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(Size)
			for b.Loop() {
				checksum(p, 1)
			}
		})
	}
}
