//go:build !amd64

package page

func fastestSum() func(p *[Size]byte) uint32 { return sumPortable }
