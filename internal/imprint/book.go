package imprint

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/owner"
	"pg_integrity_exporter/internal/page"
)

const (
	// magic begins a book; another layout has another one.
	magic = "imprint1"
	// headSize is that of the beginning of a book: magic, the cluster's identifier, and
	// when the server was started that all of it is of, 0 if there were several.
	headSize = len(magic) + 8 + 8
	// fileHeadSize is that of what stands before the name and imprints of a file.
	fileHeadSize = 40
	// maxWitnesses is how many pages are read to learn which history a server has.
	maxWitnesses = 256
	// maxName bounds the names of files.
	maxName = 1024
	// maxBytes bounds a book: the imprints of 800 GB. Those of more are not kept.
	maxBytes = 1 << 29
	// maxPass is more than a pass takes, and maxAge more than there is between two.
	maxPass, maxAge = 7 * 24 * time.Hour, 90 * 24 * time.Hour
	// nextSuffix ends the name of the book that is being written.
	nextSuffix = ".next"
)

// ErrFull says that the book has as many imprints as it may have.
var ErrFull = errors.New("no more imprints of pages are kept")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seed is that of the hashes of names, which are kept instead of the names.
var seed = maphash.MakeSeed()

// Book are the imprints of the relations of one database, as the last pass over it left
// them, and those of the present pass. It is for one goroutine.
type Book struct {
	path            string
	system, started uint64
	// uninterrupted says that the server was not started again since the last pass began.
	uninterrupted bool

	old *os.File // nil is none
	// places are where files are in the old book, by the hash of their names.
	places map[uint64]int64
	// newest are where files are in it, those with the newest pages first.
	newest []place

	next *os.File // nil is none
	end  int64
	// keep says that Close leaves what is written to another process.
	keep bool
}

type place struct {
	lsn    uint64
	offset int64
}

// Open opens the book of a database of the cluster with an identifier, whose server was
// started at a time. A book that does not exist, is of another cluster, or is none has no
// imprints.
func Open(path string, system uint64, started time.Time) (*Book, error) {
	b := &Book{path: path, system: system, started: uint64(started.UnixMicro()), places: make(map[uint64]int64)}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the imprints of pages: %w", err)
	}
	ours, since := b.head(f)
	if !ours {
		return b, f.Close()
	}
	b.old, b.uninterrupted = f, since == b.started
	if err := b.index(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return b, nil
}

// Empty says that the book has no imprints.
func (b *Book) Empty() bool { return len(b.places) == 0 }

// head says that a file begins like a book of the cluster, and when the server was
// started that it is of.
func (b *Book) head(f io.ReaderAt) (ours bool, started uint64) {
	var head [headSize]byte
	_, err := f.ReadAt(head[:], 0)
	started = binary.LittleEndian.Uint64(head[headSize-8:])
	return err == nil && bytes.Equal(head[:], b.newHead(started)), started
}

func (b *Book) newHead(started uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64([]byte(magic), b.system), started)
}

// index finds the files in the old book. What is damaged is seen when it is read.
func (b *Book) index() error {
	for offset := int64(headSize); ; {
		h, name, err := readHead(b.old, offset)
		if errors.Is(err, io.EOF) || errors.Is(err, errNoFile) {
			break
		}
		if err != nil {
			return err
		}
		b.places[maphash.Bytes(seed, name)] = offset
		if h.LSN != 0 {
			b.newest = append(b.newest, place{h.LSN, offset})
		}
		offset += h.size()
	}
	slices.SortFunc(b.newest, func(a, b place) int { return cmp.Compare(b.lsn, a.lsn) })
	return nil
}

// fileHead is what stands before the name and the imprints of a file.
type fileHead struct {
	// Sum is the CRC of what follows.
	Sum uint32
	// Name and Blocks are how many bytes and imprints.
	Name, Blocks uint32
	// Block and LSN are the newest page.
	Block         uint32
	LSN           uint64
	Settled, Time uint64
}

func (h fileHead) size() int64 { return fileHeadSize + int64(h.Name) + size*int64(h.Blocks) }

// errNoFile says that a book goes on with bytes that are none of a file.
var errNoFile = errors.New("no imprints")

// readHead reads the head and the name of a file in a book.
func readHead(r io.ReaderAt, offset int64) (h fileHead, name []byte, err error) {
	var b [fileHeadSize + maxName]byte
	n, err := r.ReadAt(b[:], offset)
	if err != nil && (!errors.Is(err, io.EOF) || n < fileHeadSize) {
		return h, nil, err
	}
	if _, err := binary.Decode(b[:fileHeadSize], binary.LittleEndian, &h); err != nil {
		return h, nil, err
	}
	if h.Name == 0 || h.Name > maxName || h.Blocks > segmentBlocks || n < fileHeadSize+int(h.Name) {
		return h, nil, errNoFile
	}
	return h, b[fileHeadSize : fileHeadSize+int(h.Name)], nil
}

// readFile reads a file in a book; errNoFile is one that is damaged.
func readFile(r io.ReaderAt, offset int64) (*File, error) {
	h, _, err := readHead(r, offset)
	if err != nil {
		return nil, err
	}
	content := make([]byte, h.size())
	if _, err := r.ReadAt(content, offset); err != nil {
		return nil, err
	}
	if crc32.Checksum(content[4:], castagnoli) != h.Sum {
		return nil, errNoFile
	}
	imprints := content[fileHeadSize+h.Name:]
	return &File{
		Name: string(content[fileHeadSize : fileHeadSize+h.Name]), Settled: h.Settled, Taken: time.Unix(int64(h.Time), 0).UTC(), Newest: Page{h.Block, h.LSN}, imprints: imprints,
	}, nil
}

// Recall gives what is kept of a file of a relation; nil is nothing.
func (b *Book) Recall(name string) (*File, error) {
	offset, known := b.places[maphash.String(seed, name)]
	if !known {
		return nil, nil //nolint:nilnil // nothing known is no error
	}
	f, err := readFile(b.old, offset)
	switch {
	case errors.Is(err, errNoFile) || errors.Is(err, io.EOF) || err == nil && f.Name != name:
		return nil, nil //nolint:nilnil // a damaged book tells nothing
	case err != nil:
		return nil, fmt.Errorf("reading the imprints of pages: %w", err)
	}
	return f, nil
}

// Proven is how far in the WAL a server has the history in which the imprints were taken:
// a page that was changed there is as it was. A server that was restored to an earlier
// moment has another history behind that, with the same positions. One that was not
// started again has it all; else the newest pages of all files are read, the newest
// first, until one is as it was.
func (b *Book) Proven(read func(name string, block uint32, p []byte) error) uint64 {
	if b.uninterrupted {
		return math.MaxUint64
	}
	p, buffer := make([]byte, page.Size), new([page.Size]byte)
	for _, newest := range b.newest[:min(len(b.newest), maxWitnesses)] {
		f, err := readFile(b.old, newest.offset)
		if err != nil || read(f.Name, f.Newest.Block, p) != nil || page.DecodeHeader(p).LSN != f.Newest.LSN {
			continue
		}
		if page.Problem(p, f.first()+f.Newest.Block, &page.Relation{Kind: page.Heap}) == "" && Take(p, page.Heap, buffer) == f.At(f.Newest.Block) {
			return f.Newest.LSN
		}
	}
	return 0
}

// Begin begins the book of a new pass. That of a resumable one is left behind by Close,
// and one that resumes goes on with what an earlier process has left.
func (b *Book) Begin(resumable, resume bool) error {
	directory := filepath.Dir(b.path)
	err := owner.MkdirAll(directory, 0o700)
	b.sweep()
	if err == nil && resumable {
		b.next, err = os.OpenFile(b.path+nextSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	} else if err == nil {
		b.next, err = os.CreateTemp(directory, filepath.Base(b.path)+".*"+nextSuffix)
	}
	if err == nil {
		err = owner.Give(b.next.Name())
	}
	if err != nil {
		return fmt.Errorf("keeping imprints of pages: %w", err)
	}
	b.keep = resumable
	if resume {
		err = b.goOn()
	} else if err = b.next.Truncate(0); err == nil {
		err = b.write(b.newHead(b.started))
	}
	if err != nil {
		b.Abandon()
		return fmt.Errorf("keeping imprints of pages: %w", err)
	}
	return nil
}

// goOn goes on behind what an earlier process has written of the new book.
func (b *Book) goOn() error {
	ours, since := b.head(b.next)
	if !ours {
		return errors.New("those of the part of the pass that is done are gone")
	}
	if since != b.started {
		if err := b.write(b.newHead(0)); err != nil {
			return err
		}
	}
	b.end = int64(headSize)
	for f, _ := readFile(b.next, b.end); f != nil; f, _ = readFile(b.next, b.end) { // up to the first that is not whole
		b.end += fileHeadSize + int64(len(f.Name)+len(f.imprints))
	}
	return nil
}

// sweep removes what killed processes have left of their passes, and the books of
// databases that are gone.
func (b *Book) sweep() {
	names, _ := filepath.Glob(filepath.Join(filepath.Dir(b.path), "*"))
	for _, name := range names {
		age := maxAge
		if strings.HasSuffix(name, nextSuffix) {
			age = maxPass
		}
		if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > age && name != b.path {
			_ = os.Remove(name) // or the next time
		}
	}
}

// write writes at the end of the new book.
func (b *Book) write(content []byte) error {
	_, err := b.next.WriteAt(content, b.end)
	b.end += int64(len(content))
	return err
}

// Keep writes the imprints of a file into the new book.
func (b *Book) Keep(f *File) error {
	h := fileHead{Name: uint32(len(f.Name)), Blocks: f.Blocks(), Block: f.Newest.Block, LSN: f.Newest.LSN, Settled: f.Settled, Time: uint64(f.Taken.Unix())}
	if b.end+h.size() > maxBytes || len(f.Name) > maxName {
		return ErrFull
	}
	content, err := binary.Append(make([]byte, 0, h.size()), binary.LittleEndian, h)
	if err != nil {
		return err
	}
	content = append(append(content, f.Name...), f.imprints...)
	binary.LittleEndian.PutUint32(content, crc32.Checksum(content[4:], castagnoli))
	return b.write(content)
}

// Finish puts the new book in the place of the old one.
func (b *Book) Finish() error {
	if b.next == nil {
		return nil
	}
	err := errors.Join(b.next.Truncate(b.end), b.next.Sync())
	if err == nil {
		err = os.Rename(b.next.Name(), b.path)
	}
	if err != nil {
		return fmt.Errorf("keeping imprints of pages: %w", err)
	}
	err = b.next.Close()
	b.next = nil
	return err
}

// Abandon throws the new book away: the old one stays.
func (b *Book) Abandon() {
	if b.next != nil {
		_ = errors.Join(b.next.Close(), os.Remove(b.next.Name())) // or the next pass does
		b.next = nil
	}
}

// Close closes the books. A new one that is not finished is kept for the next process
// when it can resume the pass.
func (b *Book) Close() {
	if b.old != nil {
		_ = b.old.Close() // was only read
	}
	if b.next != nil && b.keep {
		_ = b.next.Close() // what is not on disk is not believed
		b.next = nil
	}
	b.Abandon()
}
