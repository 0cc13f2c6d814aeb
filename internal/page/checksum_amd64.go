package page

import "golang.org/x/sys/cpu"

func fastestSum() func(p *[Size]byte) uint32 {
	if cpu.X86.HasAVX2 {
		return sumAVX2
	}
	return sumPortable
}

// sumAVX2 is sum with eight sums in each of four registers (AVX2).
//
//go:noescape
func sumAVX2(p *[Size]byte) uint32
