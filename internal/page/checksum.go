package page

import "encoding/binary"

const (
	lanes  = 32 // parallel FNV-1a sums
	rows   = Size / 4 / lanes
	prime  = 16777619 // FNV prime
	groups = lanes / 8
)

// offsets are the start values of the sums (checksumBaseOffsets).
var offsets = [lanes]uint32{
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
}

// Checksum is the data checksum of a page, which must have Size bytes, at a
// block number that counts from the start of the relation. The checksum field
// itself is taken as 0; the page is not changed. It is never 0.
func Checksum(p []byte, block uint32) uint16 {
	return uint16((sum((*[Size]byte)(p))^block)%65535 + 1)
}

// sum is the exclusive or of the sums of a page, in the fastest way that this
// processor knows.
var sum = fastestSum()

// sumPortable is sum without instructions of a certain processor.
func sumPortable(p *[Size]byte) uint32 {
	var result uint32
	// Eight sums at a time stay in registers.
	for group := range groups {
		s := (*[8]uint32)(offsets[group*8:])
		s0, s1, s2, s3, s4, s5, s6, s7 := s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]
		for row := range rows {
			words := (*[32]byte)(p[row*lanes*4+group*32:])
			w2 := binary.LittleEndian.Uint32(words[8:])
			if row == 0 && group == 0 {
				w2 &= 0xffff0000 // pd_checksum
			}
			s0 = mix(s0, binary.LittleEndian.Uint32(words[0:]))
			s1 = mix(s1, binary.LittleEndian.Uint32(words[4:]))
			s2 = mix(s2, w2)
			s3 = mix(s3, binary.LittleEndian.Uint32(words[12:]))
			s4 = mix(s4, binary.LittleEndian.Uint32(words[16:]))
			s5 = mix(s5, binary.LittleEndian.Uint32(words[20:]))
			s6 = mix(s6, binary.LittleEndian.Uint32(words[24:]))
			s7 = mix(s7, binary.LittleEndian.Uint32(words[28:]))
		}
		for range 2 { // two rounds of zeroes
			s0, s1, s2, s3 = mix(s0, 0), mix(s1, 0), mix(s2, 0), mix(s3, 0)
			s4, s5, s6, s7 = mix(s4, 0), mix(s5, 0), mix(s6, 0), mix(s7, 0)
		}
		result ^= s0 ^ s1 ^ s2 ^ s3 ^ s4 ^ s5 ^ s6 ^ s7
	}
	return result
}

func mix(sum, word uint32) uint32 {
	t := sum ^ word
	return t*prime ^ t>>17
}
