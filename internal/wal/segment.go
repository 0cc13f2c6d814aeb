package wal

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// Position is a place in the WAL (an LSN).
type Position uint64

// String writes a position as the server does, for example 1/6B3C8A8.
func (p Position) String() string { return fmt.Sprintf("%X/%X", uint64(p)>>32, uint32(p)) }

// ParsePosition reads what String writes.
func ParsePosition(text string) (Position, error) {
	var high, low uint32
	if n, err := fmt.Sscanf(text, "%X/%X", &high, &low); n != 2 || err != nil {
		return 0, fmt.Errorf("%q is not a position in the WAL such as 0/16B3748", text)
	}
	return Position(uint64(high)<<32 | uint64(low)), nil
}

// Segment is a WAL file by its name.
type Segment struct {
	// Timeline is the timeline in the name. Pages of the file may be of an older
	// one, up to the place where the timelines parted.
	Timeline uint32
	// Number counts segments from the beginning of the WAL.
	Number uint64
}

var segmentName = regexp.MustCompile(`^[0-9A-F]{24}$`)

// ParseSegment reads the name of a WAL file; ok is false for every other name,
// for example one that ends in .partial or .history.
func ParseSegment(name string, size int64) (s Segment, ok bool) {
	if !segmentName.MatchString(name) || !ValidSegmentSize(size) {
		return Segment{}, false
	}
	timeline, err := strconv.ParseUint(name[:8], 16, 32)
	if err != nil {
		return Segment{}, false
	}
	high, err := strconv.ParseUint(name[8:16], 16, 32)
	if err != nil {
		return Segment{}, false
	}
	low, err := strconv.ParseUint(name[16:], 16, 32)
	perID := uint64(1<<32) / uint64(size)
	if err != nil || low >= perID || timeline == 0 {
		return Segment{}, false
	}
	return Segment{Timeline: uint32(timeline), Number: high*perID + low}, true
}

// SegmentAt is the segment that holds a position.
func SegmentAt(timeline uint32, p Position, size int64) Segment {
	return Segment{Timeline: timeline, Number: uint64(p) / uint64(size)}
}

// Name is the name of the file of the segment.
func (s Segment) Name(size int64) string {
	perID := uint64(1<<32) / uint64(size)
	return fmt.Sprintf("%08X%08X%08X", s.Timeline, s.Number/perID, s.Number%perID)
}

// Start is the position of the segment's first byte.
func (s Segment) Start(size int64) Position { return Position(s.Number * uint64(size)) }

// ValidSegmentSize says whether a server can have segments of a size: a power
// of two from 1 MB to 1 GB.
func ValidSegmentSize(size int64) bool {
	return size >= 1<<20 && size <= 1<<30 && size&(size-1) == 0
}

// Gap is a run of segments of one timeline that are missing between others.
type Gap struct {
	// First and Last are the first and the last missing segment.
	First, Last Segment
}

// Gaps lists the segments that are missing between those that are there, by
// timeline. Where a timeline begins or ends it cannot tell that one is missing.
func Gaps(segments []Segment) []Gap {
	sorted := slices.Clone(segments)
	slices.SortFunc(sorted, func(a, b Segment) int {
		return cmp.Or(cmp.Compare(a.Timeline, b.Timeline), cmp.Compare(a.Number, b.Number))
	})
	var gaps []Gap
	for i := 1; i < len(sorted); i++ {
		before, after := sorted[i-1], sorted[i]
		if before.Timeline == after.Timeline && after.Number > before.Number+1 {
			gaps = append(gaps, Gap{
				First: Segment{before.Timeline, before.Number + 1}, Last: Segment{after.Timeline, after.Number - 1},
			})
		}
	}
	return gaps
}
