package check

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestRepeats finds the hashes that occur more than once, and no other, however many
// there are.
func TestRepeats(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 1000, maxHashes - 10, 3 * maxHashes, 12 * maxHashes} {
		for _, doubles := range []int{0, 1, 50} {
			t.Run(fmt.Sprintf("%d of %d", doubles, n), func(t *testing.T) {
				t.Parallel()
				if n < 2*doubles {
					return
				}
				random := rand.New(rand.NewPCG(7, uint64(n)))
				hashes := make([]byte, 8*n)
				for i := range n {
					binary.BigEndian.PutUint64(hashes[8*i:], random.Uint64())
				}
				var want []int64
				for i := range doubles {
					from, to := random.IntN(n/2), n/2+i
					copy(hashes[8*to:8*to+8], hashes[8*from:])
					want = append(want, int64(binary.BigEndian.Uint64(hashes[8*from:])))
				}
				slices.SortFunc(want, func(a, b int64) int {
					if uint64(a) < uint64(b) {
						return -1
					}
					return 1
				})
				want = slices.Compact(want)
				var r repeats
				passes := 1
				for ; ; passes++ {
					const piece = 8 << 16
					for at := 0; at < len(hashes); at += piece {
						r.progress = float64(at+piece) / float64(len(hashes))
						r.add(hashes[at:min(at+piece, len(hashes))])
					}
					if !r.again() {
						break
					}
				}
				if got := r.found(); !slices.Equal(got, want) || passes > 4 {
					t.Errorf("%d found after %d passes, want %d", len(got), passes, len(want))
				}
			})
		}
	}
}

// BenchmarkRepeats is the work for each hash of the first pass, beside sorting them.
func BenchmarkRepeats(b *testing.B) {
	const n = 8 * maxHashes
	hashes := make([]byte, 8*n)
	random := rand.New(rand.NewPCG(7, 7))
	list := make([]uint64, n)
	for i := range n {
		list[i] = random.Uint64()
		binary.BigEndian.PutUint64(hashes[8*i:], list[i])
	}
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(8 * n)
		for b.Loop() {
			var r repeats
			for {
				for n := range 8 {
					r.progress = float64(n+1) / 8
					r.add(hashes[n*len(hashes)/8 : (n+1)*len(hashes)/8])
				}
				if !r.again() {
					break
				}
			}
		}
	})
	b.Run("sort", func(b *testing.B) {
		b.SetBytes(8 * n)
		for b.Loop() {
			sorted := slices.Clone(list)
			slices.Sort(sorted)
		}
	})
}
