package wal

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// PageSize is the size of a WAL page (XLOG_BLCKSZ). Servers built with another
	// one are not supported.
	PageSize = 8192

	shortHeader = 24
	longHeader  = 40

	firstIsContinued   = 1 // XLP_FIRST_IS_CONTRECORD
	hasLongHeader      = 2 // XLP_LONG_HEADER
	firstIsOverwritten = 8 // XLP_FIRST_IS_OVERWRITE_CONTRECORD
	allInfo            = 15
)

// magics are the page magics (XLOG_PAGE_MAGIC) by major version.
var magics = map[int]uint16{13: 0xD106, 14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}

// newestMagic is the largest of them, and allMagics what later ones will be below.
const newestMagic, allMagics = 0xD118, 0xD200

// NewerError says that WAL was written by a newer version than is known.
type NewerError struct{ Magic uint16 }

// Error tells the magic of the WAL's pages.
func (e *NewerError) Error() string {
	return fmt.Sprintf("the WAL was written by a newer version of PostgreSQL (magic %04X) than 13 to 18, which can be read", e.Magic)
}

// newer says whether a segment is one of a newer version: one damaged page is not
// enough for that.
func newer(file io.ReaderAt) error {
	var magics [2]uint16
	for n := range magics {
		var b [2]byte
		if _, err := file.ReadAt(b[:], int64(n)*PageSize); err != nil {
			return nil //nolint:nilerr // told of when the page is read
		}
		magics[n] = binary.LittleEndian.Uint16(b[:])
	}
	if m := magics[0]; m == magics[1] && m > newestMagic && m < allMagics {
		return &NewerError{m}
	}
	return nil
}

// MajorOf is the major version that writes pages with a magic; 0 is none that
// is known.
func MajorOf(magic uint16) int {
	for major, m := range magics {
		if m == magic {
			return major
		}
	}
	return 0
}

// header is the header of a WAL page.
type header struct {
	magic, info uint16
	timeline    uint32
	address     Position
	remaining   uint32 // of the record that began on an earlier page

	// Only in the first page of a segment.
	system      uint64
	segmentSize uint32
	pageSize    uint32
}

func decodeHeader(p []byte) header {
	h := header{
		magic: binary.LittleEndian.Uint16(p), info: binary.LittleEndian.Uint16(p[2:]),
		timeline: binary.LittleEndian.Uint32(p[4:]), address: Position(binary.LittleEndian.Uint64(p[8:])),
		remaining: binary.LittleEndian.Uint32(p[16:]),
	}
	if h.info&hasLongHeader != 0 {
		h.system = binary.LittleEndian.Uint64(p[24:])
		h.segmentSize = binary.LittleEndian.Uint32(p[32:])
		h.pageSize = binary.LittleEndian.Uint32(p[36:])
	}
	return h
}

// size is where the contents of the page begin.
func (h header) size() int {
	if h.info&hasLongHeader != 0 {
		return longHeader
	}
	return shortHeader
}

// problem says what is wrong with the header of the page at an address of a
// segment of a timeline; "" is nothing.
func (h header) problem(e Expect, address Position, timeline uint32) string {
	first := uint64(address)%uint64(e.SegmentSize) == 0
	switch {
	case h.magic == 0 && h.address == 0:
		return "the page is empty"
	case e.Major != 0 && h.magic != magics[e.Major]:
		if major := MajorOf(h.magic); major != 0 {
			return fmt.Sprintf("the page was written by PostgreSQL %d, not by %d (magic %04X)", major, e.Major, h.magic)
		}
		return fmt.Sprintf("the page has the magic %04X instead of %04X", h.magic, magics[e.Major])
	case MajorOf(h.magic) == 0:
		return fmt.Sprintf("the page has the unknown magic %04X", h.magic)
	case h.info&^allInfo != 0:
		return fmt.Sprintf("the page header has unknown flags (%04X)", h.info)
	case first != (h.info&hasLongHeader != 0):
		return "the page header has the wrong length for its place in the segment"
	case h.address != address:
		return fmt.Sprintf("the page says that it belongs at %s", h.address)
	case h.timeline == 0 || h.timeline > timeline:
		return fmt.Sprintf("the page is of timeline %d in a segment of timeline %d", h.timeline, timeline)
	case first && e.System != 0 && h.system != e.System:
		return fmt.Sprintf("the segment belongs to the server with system identifier %d, not %d", h.system, e.System)
	case first && int64(h.segmentSize) != e.SegmentSize:
		return fmt.Sprintf("the segment says that segments have %d bytes, not %d", h.segmentSize, e.SegmentSize)
	case first && h.pageSize != PageSize:
		return fmt.Sprintf("the segment says that pages have %d bytes, not %d", h.pageSize, PageSize)
	}
	return ""
}
