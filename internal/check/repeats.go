package check

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

const (
	// maxHashes is how many hashes are kept as they are: 16 MB.
	maxHashes = 2 << 20
	// minFilterBits and maxFilterBits bound the size of a filter as powers of two: 32 MB.
	minFilterBits, maxFilterBits = 20, 28
)

// repeats finds out which hashes occur more than once among very many, in bounded
// memory. It is told of all of them in several passes. While there are few it keeps
// them; else it keeps a bit for each, and a second one where two hashes have the same
// bit. The next pass is about the hashes with a second bit alone, which other bits
// tell apart, until so few are left that they can be kept.
type repeats struct {
	pass  int
	asked filter // which hashes this pass is about; nil is all of them

	list        []uint64
	seen, twice filter // nil while the list does
	hits        int

	// progress is how much of the pass is told with the next hashes, between 0 and 1.
	progress float64
}

// filter is a bit for each of so many hashes that several share one.
type filter []uint64

func newFilter(hashes float64) filter {
	size := min(max(bits.Len64(uint64(4*hashes)), minFilterBits), maxFilterBits)
	return make(filter, 1<<(size-6))
}

// place is the bit of a hash, another one in each pass.
func (f filter) place(hash uint64, pass int) (word int, bit uint64) {
	hash = (hash ^ hash>>29) * (0x9e3779b97f4a7c15 + 2*uint64(pass)*0xbf58476d1ce4e5b9)
	hash ^= hash >> 32
	hash *= 0x94d049bb133111eb
	at := hash >> (64 - uint(bits.Len(uint(len(f)))-1) - 6)
	return int(at >> 6), 1 << (at & 63)
}

func (f filter) has(hash uint64, pass int) bool {
	word, bit := f.place(hash, pass)
	return f[word]&bit != 0
}

// add tells of hashes, of eight bytes each.
func (r *repeats) add(hashes []byte) {
	for ; len(hashes) >= 8; hashes = hashes[8:] {
		hash := binary.BigEndian.Uint64(hashes)
		if r.asked != nil && !r.asked.has(hash, r.pass-1) {
			continue
		}
		if r.seen != nil {
			r.mark(hash)
			continue
		}
		if r.list = append(r.list, hash); len(r.list) > maxHashes {
			r.overflow()
		}
	}
}

// overflow goes on with bits because there are too many hashes to keep.
func (r *repeats) overflow() {
	expected := float64(len(r.list)) / max(r.progress, 1e-3)
	r.seen, r.twice = newFilter(expected), newFilter(expected)
	for _, hash := range r.list {
		r.mark(hash)
	}
	r.list = nil
}

func (r *repeats) mark(hash uint64) {
	word, bit := r.seen.place(hash, r.pass)
	if r.seen[word]&bit == 0 {
		r.seen[word] |= bit
		return
	}
	r.twice[word] |= bit
	r.hits++
}

// again ends a pass and says whether there must be another one.
func (r *repeats) again() bool {
	if r.seen == nil || r.hits == 0 {
		return false
	}
	r.asked, r.seen, r.twice, r.hits = r.twice, nil, nil, 0
	r.pass++
	return true
}

// found are the hashes that occur more than once, after the last pass.
func (r *repeats) found() (hashes []int64) {
	slices.Sort(r.list)
	for i := 1; i < len(r.list); i++ {
		if hash := int64(r.list[i]); r.list[i] == r.list[i-1] && (len(hashes) == 0 || hashes[len(hashes)-1] != hash) {
			hashes = append(hashes, hash)
		}
	}
	return hashes
}
