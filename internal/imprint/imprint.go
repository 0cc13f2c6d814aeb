// Package imprint keeps five bytes of each page of each relation: where in the WAL it was
// changed last, and, of tables, what it said then. Whatever changes a page has written to
// the WAL before, so a page that says that it was not changed since must still say the
// same. That is seen with data checksums and without, and also when the checksum fits.
//
// The imprints of a database are a [Book]: a file that is written anew, beside the old
// one, in each pass over the database, and takes its place at the end of it.
package imprint

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/internal/page"
)

// Imprint is that of one page. Zero is a page of which nothing is known.
type Imprint uint64

const (
	// size is how many bytes are kept of an imprint.
	size = 5
	// segmentBlocks is how many pages a file of a relation has before the next one begins.
	segmentBlocks = 1 << 17
	// positions are how many of the lowest bits of an LSN are kept, of those that are not
	// always zero.
	positions = 24
	alignment = 3
)

// Take takes the imprint of a page without a problem, and uses the buffer. That of a page
// of an index or a sequence is its LSN alone: the server changes more in them without WAL,
// and an index is compared with its table.
func Take(p []byte, kind page.Kind, buffer *[page.Size]byte) Imprint {
	lsn := page.DecodeHeader(p).LSN
	if kind == page.Heap {
		return of(lsn, page.Digest(p, buffer))
	}
	return of(lsn, 0)
}

// Proves says that a page with the same imprint is the same page.
func (i Imprint) Proves() bool { return i>>positions != 0 }

// of is the imprint of a page with an LSN and a digest.
func of(lsn uint64, digest uint32) Imprint {
	return max(1, Imprint(uint16(digest)^uint16(digest>>16))<<positions|Imprint(low(lsn)))
}

// low are the lowest bits of a position.
func low(lsn uint64) uint64 { return lsn >> alignment & (1<<positions - 1) }

// sameLSN says that two pages may have the same LSN.
func (i Imprint) sameLSN(other Imprint) bool {
	return i&(1<<positions-1) == other&(1<<positions-1)
}

// Page is a page of a file, and its LSN.
type Page struct {
	Block uint32
	LSN   uint64
}

// File are the imprints of one file of a relation. Nil has none.
type File struct {
	// Name is its path in the data directory.
	Name string
	// Settled is a position in the WAL. All imprints are of pages that were not changed
	// behind it: one that still says so must be as it was.
	Settled uint64
	// Taken is when the first of them was taken.
	Taken time.Time
	// Newest is one of the pages with the largest LSN, of those whose imprint proves them.
	Newest Page

	imprints []byte
}

// NewFile has room for the imprints of a file with a number of pages.
func NewFile(name string, settled uint64, blocks uint32, taken time.Time) *File {
	return &File{Name: name, Settled: settled, Taken: taken, imprints: make([]byte, size*int(blocks))}
}

// Blocks is for how many pages there is room.
func (f *File) Blocks() uint32 {
	if f == nil {
		return 0
	}
	return uint32(len(f.imprints) / size)
}

// At is the imprint of a page of the file; zero when nothing is known of it.
func (f *File) At(block uint32) Imprint {
	if block >= f.Blocks() {
		return 0
	}
	b := f.imprints[size*block:]
	return Imprint(b[0]) | Imprint(binary.LittleEndian.Uint32(b[1:]))<<8
}

// Set keeps the imprint of a page.
func (f *File) Set(page Page, i Imprint) {
	if page.Block >= f.Blocks() {
		return
	}
	b := f.imprints[size*page.Block:]
	b[0] = byte(i)
	binary.LittleEndian.PutUint32(b[1:], uint32(i>>8))
	if i.Proves() && page.LSN > f.Newest.LSN {
		f.Newest = page
	}
}

// Changed says of a page of the file with an LSN and an imprint that it is not as it was
// although nothing was written to the WAL for it; "" is not known. proven is how far in
// the WAL the server has the same history, see [Book.Proven], and redo how far all that was
// written before is on disk: a standby may not have got there yet.
func (f *File) Changed(block uint32, lsn uint64, i Imprint, proven, redo uint64) string {
	before := f.At(block)
	if before == 0 || before == i || lsn > f.Settled || max(lsn, f.latest(before)) > proven {
		return ""
	}
	when := f.Taken.UTC().Format(time.RFC3339)
	switch {
	case before.sameLSN(i):
		return fmt.Sprintf("the page was changed, but not by the server: it says that it was changed last at %X/%X, as it did when it was read at %s, but what it says is not the same", lsn>>32, uint32(lsn), when)
	case redo >= f.Settled:
		return fmt.Sprintf("the page is another than it was when it was read at %s, although it says that it was not changed since: that was last at %X/%X", when, lsn>>32, uint32(lsn))
	}
	return ""
}

// latest is the last position in the WAL where a page with this imprint can have been
// changed.
func (f *File) latest(i Imprint) uint64 {
	settled := f.Settled >> alignment
	back := (settled - uint64(i)) & (1<<positions - 1)
	return (settled - min(back, settled)) << alignment
}

// first is the number in its relation of the first page of the file.
func (f *File) first() uint32 {
	_, number, _ := strings.Cut(filepath.Base(f.Name), ".")
	segment, _ := strconv.ParseUint(number, 10, 32) // the first file has none
	return uint32(segment) * segmentBlocks
}
