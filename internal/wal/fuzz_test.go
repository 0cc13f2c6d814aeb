package wal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"

	"pg_integrity_exporter/internal/wal"
)

// whole is a segment with one page that has one record of a byte.
func whole(magic uint16) []byte {
	page := make([]byte, 8192)
	binary.LittleEndian.PutUint16(page, magic)
	binary.LittleEndian.PutUint16(page[2:], 2)           // a long header
	binary.LittleEndian.PutUint32(page[4:], 1)           // timeline
	binary.LittleEndian.PutUint64(page[8:], segmentSize) // its position
	binary.LittleEndian.PutUint64(page[24:], 7)          // system identifier
	binary.LittleEndian.PutUint32(page[32:], segmentSize)
	binary.LittleEndian.PutUint32(page[36:], 8192)
	record := page[40:67]
	binary.LittleEndian.PutUint32(record, uint32(len(record)))
	record[16] = 0x20                                // XLOG_NOOP
	record[24], record[25], record[26] = 255, 1, 'x' // a byte of data
	binary.LittleEndian.PutUint32(record[20:], wal.CRC32C(record[24:], record[:20]))
	return page
}

// FuzzSegment holds that no bytes of a segment make its readers fail or go on for ever.
func FuzzSegment(f *testing.F) {
	for _, magic := range []uint16{0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118} { // 13 to 18
		f.Add(whole(magic), wal.MajorOf(magic))
	}
	f.Fuzz(func(_ *testing.T, content []byte, major int) {
		segment := wal.Segment{Timeline: 1, Number: 1}
		expect := wal.Expect{Major: major, SegmentSize: segmentSize, System: 7}
		open := func(number uint64) (*wal.File, error) {
			if number != segment.Number {
				return nil, io.EOF
			}
			return &wal.File{ReaderAt: bytes.NewReader(content), Closer: io.NopCloser(nil), Segment: segment}, nil
		}
		const start = wal.Position(segmentSize + 40)
		_, _ = wal.VerifySegment(context.Background(), bytes.NewReader(content), segment, expect)
		_, _ = wal.Verify(context.Background(), start, expect, open)
		_, _, _ = wal.ReadRecord(start, expect, open)
		_ = wal.Blocks(context.Background(), start, expect, open, func(wal.Block, bool) {})
	})
}
