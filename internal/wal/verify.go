package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
)

// Expect says what WAL is being read.
type Expect struct {
	// Major is the major version of the server that wrote it; 0 is any.
	Major int
	// System is its system identifier; 0 is any.
	System uint64
	// SegmentSize is the size of its segments in bytes.
	SegmentSize int64
}

// File is an open segment.
type File struct {
	io.ReaderAt
	io.Closer

	// Segment is what its name says.
	Segment Segment
}

// Opener opens the segment with a number, on whatever timeline it must be read
// from. A segment that does not exist is an error that is fs.ErrNotExist.
type Opener func(number uint64) (*File, error)

// BadError is a place at which the WAL cannot be read on.
type BadError struct {
	// Position is where the record begins that cannot be read, or where it ought
	// to begin.
	Position Position
	// Page is the address of the page that is wrong.
	Page Position
	// Reason is what is wrong.
	Reason string
	// Missing says that the segment is not there.
	Missing bool
	// Empty says that nothing was ever written here, or that what is here belongs
	// to an earlier use of the file: how WAL ends that a running server writes.
	Empty bool

	// resume is where reading goes on behind a record that was given up.
	resume Position
}

// Error names the place and the reason.
func (b *BadError) Error() string { return fmt.Sprintf("at %s: %s", b.Position, b.Reason) }

// Report is what was found in the WAL.
type Report struct {
	// Records is how many valid records were read, and Bytes what they take.
	Records int
	Bytes   int64
	// First is where the first record begins, End is behind the last valid one.
	First, End Position
	// Last is the last valid record.
	Last Record
	// Timeline is that of the last page that was read.
	Timeline uint32
	// Major is the version that wrote it.
	Major int
	// System is the system identifier in it.
	System uint64
	// Complete says that a segment is filled with valid records up to its end;
	// the last may go on in the next one.
	Complete bool
	// Bad is why reading ended; nil at the end of a complete segment.
	Bad *BadError
	// Continues is where valid records follow behind Bad: then Bad is no end of
	// the WAL but a hole in it. 0 is that none were found.
	Continues Position
}

const (
	chunkPages = 32
	// searchSegments bounds the search for records behind a hole.
	searchSegments = 16
)

// walker reads pages and records.
type walker struct {
	expect Expect
	open   Opener
	file   *File
	// chunk holds pages from chunkAt on, of the segment file.
	chunk   []byte
	chunkAt Position
	// last is the header of the page read last, first that of the segment.
	last, first header
	// header is that of the record being read, body what follows it when it is to
	// be kept, and major the version that wrote it.
	header [recordHeader]byte
	keep   bool
	body   []byte
	major  int
}

func (w *walker) close() {
	if w.file != nil {
		_ = w.file.Close() // it was only read
		w.file = nil
	}
}

// page reads the page at an address and checks its header.
func (w *walker) page(address Position) ([]byte, header, *BadError, error) {
	number := uint64(address) / uint64(w.expect.SegmentSize)
	if w.file == nil || w.file.Segment.Number != number {
		w.close()
		w.chunk = w.chunk[:0]
		file, err := w.open(number)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, header{}, &BadError{Position: address, Page: address, Reason: "the segment is missing", Missing: true}, nil
		}
		if err != nil {
			return nil, header{}, nil, err
		}
		w.file = file
		if w.expect.Major == 0 {
			if err := newer(file); err != nil {
				return nil, header{}, nil, err
			}
		}
	}
	if len(w.chunk) == 0 || address < w.chunkAt || address >= w.chunkAt+Position(len(w.chunk)) {
		offset := int64(address) - int64(w.file.Segment.Start(w.expect.SegmentSize))
		buffer := w.chunk[:cap(w.chunk)]
		if len(buffer) == 0 {
			buffer = make([]byte, chunkPages*PageSize)
		}
		n, err := w.file.ReadAt(buffer[:min(int64(len(buffer)), w.expect.SegmentSize-offset)], offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, header{}, nil, fmt.Errorf("reading the WAL segment %s: %w", w.file.Segment.Name(w.expect.SegmentSize), err)
		}
		w.chunk, w.chunkAt = buffer[:n/PageSize*PageSize], address
		if len(w.chunk) == 0 {
			return nil, header{}, &BadError{Position: address, Page: address, Reason: "the segment's file ends early"}, nil
		}
	}
	p := w.chunk[address-w.chunkAt:][:PageSize]
	h := decodeHeader(p)
	if problem := h.problem(w.expect, address, w.file.Segment.Timeline); problem != "" {
		empty := h.magic == 0 && h.address == 0 || MajorOf(h.magic) != 0 && h.address < address
		return nil, header{}, &BadError{Position: address, Page: address, Reason: problem, Empty: empty}, nil
	}
	w.last = h
	if h.info&hasLongHeader != 0 {
		w.first = h
	}
	return p, h, nil, nil
}

// skip finds the first record at or behind the page at an address: behind
// what goes on from earlier pages.
func (w *walker) skip(address Position) (Position, *BadError, error) {
	_, h, bad, err := w.page(address)
	if bad != nil || err != nil {
		return 0, bad, err
	}
	remaining := int64(0)
	if h.info&firstIsContinued != 0 {
		remaining = int64(h.remaining)
	}
	for {
		room := int64(PageSize - h.size())
		if remaining < room {
			return address + Position(h.size()) + Position((remaining+7)&^7), nil, nil
		}
		remaining -= room
		address += PageSize
		if remaining == 0 {
			return address, nil, nil
		}
		if _, h, bad, err = w.page(address); bad != nil || err != nil {
			return 0, bad, err
		}
		if h.info&firstIsContinued == 0 || int64(h.remaining) != remaining {
			return 0, &BadError{Position: address, Page: address, Reason: fmt.Sprintf("the page says that %d bytes of a record go on in it, but %d do", h.remaining, remaining)}, nil
		}
	}
}

// record reads the record at a position and checks it. previous is where the
// one before it began; 0 is not known.
func (w *walker) record(at, previous Position) (Record, *BadError, error) {
	address := at &^ (PageSize - 1)
	p, h, bad, err := w.page(address)
	if bad != nil || err != nil {
		return Record{}, bad.of(at), err
	}
	offset := int(at - address)
	if offset == 0 {
		offset = h.size()
		at = address + Position(offset)
	}
	if offset < h.size() || offset%8 != 0 || offset == h.size() && h.info&firstIsContinued != 0 {
		return Record{}, &BadError{Position: at, Page: address, Reason: "no record can begin here"}, nil
	}
	length := int(binary.LittleEndian.Uint32(p[offset:]))
	if length == 0 {
		return Record{}, &BadError{Position: at, Page: address, Reason: "there is no record", Empty: true}, nil
	}
	w.body, w.major = w.body[:0], MajorOf(h.magic)
	var r Record
	var sum uint32
	for read := 0; ; {
		part := p[offset:min(PageSize, offset+max(0, length-read))]
		offset += len(part)
		if read < recordHeader {
			n := copy(w.header[read:], part)
			read, part = read+n, part[n:]
			if read == recordHeader {
				r = decodeRecord(w.header[:])
				r.Start = at
				if problem := r.headerProblem(previous); problem != "" {
					return Record{}, &BadError{Position: at, Page: address, Reason: problem, Empty: r.Previous < previous}, nil
				}
			}
		}
		read += len(part)
		sum = crc32.Update(sum, castagnoli, part)
		if w.keep {
			w.body = append(w.body, part...)
		}
		if read >= length {
			break
		}
		address += PageSize
		if p, h, bad, err = w.page(address); bad != nil || err != nil {
			return Record{}, bad.of(at), err
		}
		offset = h.size()
		switch {
		case h.info&firstIsOverwritten != 0:
			return Record{}, &BadError{Position: at, Page: address, Reason: "the record was given up half-written", resume: address + Position(offset)}, nil
		case h.info&firstIsContinued == 0 || int(h.remaining) != length-read:
			return Record{}, &BadError{Position: at, Page: address, Reason: fmt.Sprintf("the record does not go on in the page at %s", address)}, nil
		}
	}
	stored := binary.LittleEndian.Uint32(w.header[crcOffset:])
	if sum = crc32.Update(sum, castagnoli, w.header[:crcOffset]); sum != stored {
		return Record{}, &BadError{Position: at, Page: at &^ (PageSize - 1), Reason: fmt.Sprintf("the CRC of the record is %08X, but %08X is stored in it", sum, stored)}, nil
	}
	r.End = (address + Position(offset) + 7) &^ 7
	if r.Switch() {
		r.End += Position(w.expect.SegmentSize - 1)
		r.End -= r.End % Position(w.expect.SegmentSize)
	}
	return r, nil, nil
}

// of is the same with the position of the record that could not be read.
func (b *BadError) of(at Position) *BadError {
	if b != nil {
		b.Position = at
	}
	return b
}

// ReadRecord reads one record. The *BadError says why it cannot be read.
func ReadRecord(at Position, e Expect, open Opener) (Record, *BadError, error) {
	w := &walker{expect: e, open: open}
	defer w.close()
	return w.record(at, 0)
}

// Verify follows the records from the one at start until one cannot be read,
// and looks for valid ones behind that. The error is of reading files, not of
// what they hold.
func Verify(ctx context.Context, start Position, e Expect, open Opener) (Report, error) {
	w := &walker{expect: e, open: open}
	defer w.close()
	report := Report{First: start, End: start}
	if err := w.follow(ctx, &report, nil); err != nil {
		return report, err
	}
	return report, w.search(ctx, &report)
}

// VerifySegment looks at one segment alone: its pages, and every record that
// begins in it. A record that goes on in the next segment is not checked, nor
// is the rest of one that began before.
func VerifySegment(ctx context.Context, file io.ReaderAt, segment Segment, e Expect) (Report, error) {
	only := func(number uint64) (*File, error) {
		if number != segment.Number {
			return nil, fmt.Errorf("segment %d: %w", number, fs.ErrNotExist)
		}
		return &File{ReaderAt: file, Closer: io.NopCloser(nil), Segment: segment}, nil
	}
	w := &walker{expect: e, open: only}
	start := segment.Start(e.SegmentSize)
	report := Report{First: start, End: start}
	first, bad, err := w.skip(start)
	report.note(w)
	if err != nil {
		return report, err
	}
	end := start + Position(e.SegmentSize)
	if bad != nil {
		report.Bad, report.Complete = bad, bad.Page >= end // one record through all of it
	} else {
		report.First, report.End = first, first
		if err := w.follow(ctx, &report, &end); err != nil {
			return report, err
		}
	}
	if report.Complete {
		report.Bad, report.End = nil, end
		return report, nil
	}
	return report, w.search(ctx, &report)
}

// follow reads records from the end of the report on, up to a limit.
func (w *walker) follow(ctx context.Context, report *Report, limit *Position) error {
	return w.each(ctx, report, limit, func(Record) {})
}

// each is follow with something done for each valid record.
func (w *walker) each(ctx context.Context, report *Report, limit *Position, valid func(r Record)) error {
	for {
		if limit != nil && report.End >= *limit {
			report.Complete = true
			return nil
		}
		if report.Records%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		r, bad, err := w.record(report.End, report.Last.Start)
		if err != nil {
			return err
		}
		if bad != nil && bad.resume != 0 {
			report.End, report.Last = bad.resume, Record{}
			continue
		}
		if bad != nil {
			report.Bad = bad
			report.Complete = limit != nil && bad.Page >= *limit
			return nil
		}
		valid(r)
		report.note(w)
		if report.Records == 0 {
			report.First = r.Start
		}
		report.Records++
		report.Bytes += int64(r.End - r.Start)
		report.End, report.Last = r.End, r
	}
}

// note remembers what the pages say that were read last.
func (r *Report) note(w *walker) {
	if w.last.magic != 0 {
		r.Timeline, r.Major = w.last.timeline, MajorOf(w.last.magic)
	}
	if w.first.system != 0 {
		r.System = w.first.system
	}
}

// search looks for valid records behind the place where reading ended: they
// name the unreadable one, or one behind it, as the one before them. Files that
// are kept for reuse hold pages and records of earlier places, which do not.
func (w *walker) search(ctx context.Context, report *Report) error {
	page := report.Bad.Page &^ (PageSize - 1)
	for at := (report.Bad.Position | 7) + 1; at < page+PageSize && report.Bad.Position >= page && !report.Bad.Missing; at += 8 {
		if found, err := w.follows(report, at); found || err != nil {
			return err
		}
	}
	stop := page + Position(searchSegments*w.expect.SegmentSize)
	for address := page + PageSize; address < stop; address += PageSize {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		first, bad, err := w.skip(address)
		if err != nil {
			return err
		}
		if bad != nil {
			if bad.Missing && bad.Page == address {
				address += Position(w.expect.SegmentSize - PageSize)
			}
			continue
		}
		if found, err := w.follows(report, first); found || err != nil {
			return err
		}
	}
	return nil
}

// follows says whether a valid record at a position belongs to the WAL behind
// the unreadable one.
func (w *walker) follows(report *Report, at Position) (bool, error) {
	r, bad, err := w.record(at, 0)
	if err != nil || bad != nil || r.Previous < report.Bad.Position&^(PageSize-1) {
		return false, err
	}
	report.Continues = r.Start
	return true, nil
}
