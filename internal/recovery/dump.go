package recovery

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// DumpFormat is the format of a file of pg_dump.
type DumpFormat string

// The formats of pg_dump.
const (
	DumpCustom    DumpFormat = "custom"
	DumpDirectory DumpFormat = "directory"
	DumpPlain     DumpFormat = "plain"
	DumpTar       DumpFormat = "tar"
)

// dumpMagic begins a dump in the custom format and a table of contents.
var dumpMagic = []byte("PGDMP")

// readDumps lists the dumps in a directory and in those below it.
func readDumps(ctx context.Context, i *Inventory) error {
	root := i.Repository.Path
	info, err := os.Stat(root)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		if b, ok := readDump(root, filepath.Base(root), info); ok {
			i.Backups = append(i.Backups, b)
		}
		return nil
	}
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && path == root:
			return err
		case err != nil:
			return nil //nolint:nilerr // removed while the directory was read
		}
		info, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // removed while the directory was read
		}
		relative, _ := filepath.Rel(root, path)
		if entry.IsDir() {
			if _, err := os.Stat(filepath.Join(path, "toc.dat")); err != nil {
				return nil //nolint:nilerr // an ordinary directory
			}
			label := relative
			if relative == "." {
				label = filepath.Base(root)
			}
			if b, ok := readDump(path, label, info); ok {
				i.Backups = append(i.Backups, b)
			}
			return fs.SkipDir
		}
		if b, ok := readDump(path, relative, info); ok {
			i.Backups = append(i.Backups, b)
		}
		return nil
	})
}

// readDump looks at one dump; ok is false when it is something else.
func readDump(path, label string, info fs.FileInfo) (b Backup, ok bool) {
	b = Backup{Label: label, Kind: KindLogical, Path: path, Started: info.ModTime(), Finished: info.ModTime(), Stored: info.Size()}
	format, header, err := dumpFormatOf(path)
	if err == nil && format == "" {
		return Backup{}, false
	}
	switch {
	case err != nil:
		b.problemf(ProblemUnreadable, "cannot be read: %v", err)
		return b, true
	case header != nil:
		b.Major = header.major()
		if !header.created.IsZero() {
			b.Started = header.created
		}
	}
	b.Dump = format
	complete := map[DumpFormat]func(string) error{
		DumpCustom: completeCustom, DumpDirectory: completeDirectory, DumpTar: completeTar, DumpPlain: completePlain,
	}[format]
	if format == DumpDirectory {
		b.Stored = sizeOf(path)
		b.Finished = modified(filepath.Join(path, "toc.dat")) // written last
		err = complete(path)                                  // files in it may go without a trace in its own
	} else {
		_, err = dumps.get(path, info, func() (struct{}, error) { return struct{}{}, complete(path) })
	}
	if err != nil {
		b.problemf(ProblemIncomplete, "%v", err)
	}
	return b, true
}

// dumpFormatOf says in which format pg_dump wrote a file or directory; "" is
// that it did not. The header is nil for plain dumps.
func dumpFormatOf(path string) (DumpFormat, *dumpHeader, error) {
	if toc, err := os.Open(filepath.Join(path, "toc.dat")); err == nil {
		defer toc.Close() //nolint:errcheck // it was only read
		r := &dumpReader{r: bufio.NewReader(toc)}
		header := r.readHeader()
		return DumpDirectory, header, r.err
	}
	file, err := os.Open(path)
	if err != nil {
		return "", nil, err
	}
	defer file.Close() //nolint:errcheck // it was only read
	head := make([]byte, 512)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", nil, err
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, dumpMagic):
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return "", nil, err
		}
		r := &dumpReader{r: bufio.NewReader(file)}
		return DumpCustom, r.readHeader(), nil
	case n == 512 && strings.HasPrefix(string(head), "toc.dat\x00"):
		return DumpTar, nil, nil
	case plainDump(head):
		return DumpPlain, nil, nil
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		if unzipped, err := gzip.NewReader(io.MultiReader(bytes.NewReader(head), file)); err == nil {
			n, _ := io.ReadFull(unzipped, head[:cap(head)]) // a short one is no dump
			if plainDump(head[:n]) {
				return DumpPlain, nil, nil
			}
		}
	}
	return "", nil, nil
}

// plainDump says whether a text begins as pg_dump and pg_dumpall begin theirs.
func plainDump(head []byte) bool {
	return bytes.HasPrefix(head, []byte("--\n-- PostgreSQL database"))
}

var plainEnd = regexp.MustCompile(`-- PostgreSQL database (cluster )?dump complete\n--\s*(\\unrestrict \S+\s*)?$`)

// completePlain looks for the line at the end of a plain dump.
func completePlain(path string) error {
	end, err := endOf(path, 512)
	if err != nil {
		return fmt.Errorf("it was cut or damaged: %w", err)
	}
	if !plainEnd.Match(end) {
		return errors.New("it was cut: the line \"dump complete\" is missing at its end")
	}
	return nil
}

// endOf gives the last bytes of a file, unzipped when it is compressed.
func endOf(path string, n int64) ([]byte, error) {
	reader, err := OpenSegment(path)
	if err != nil {
		return nil, err
	}
	defer reader.Close() //nolint:errcheck // it was only read
	file, ok := reader.(*os.File)
	if !ok {
		return lastBytes(reader, int(n))
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	end := make([]byte, min(n, info.Size()))
	_, err = file.ReadAt(end, info.Size()-int64(len(end)))
	return end, err
}

// lastBytes reads to the end and gives the last bytes.
func lastBytes(from io.Reader, n int) ([]byte, error) {
	var tail []byte
	buffer := make([]byte, readSize)
	for {
		m, err := from.Read(buffer)
		tail = append(tail, buffer[:m]...)
		tail = tail[max(0, len(tail)-n):]
		if errors.Is(err, io.EOF) {
			return tail, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// completeTar goes from member to member of a tar file and looks for its end
// behind the last, which are two blocks of zeroes: the reader takes a missing end
// for an end. Of a compressed file only the end is looked for: when it was cut,
// it does not even come to one.
func completeTar(path string) error {
	if compressionAt(path) != "" {
		end, err := endOf(path, tarEnd)
		if err == nil && !bytes.Equal(end, make([]byte, tarEnd)) {
			err = errNoTarEnd
		}
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it was only read
	info, err := file.Stat()
	if err != nil {
		return err
	}
	members := tar.NewReader(file)
	end := int64(0) // of the members read so far
	for {
		header, err := members.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("it was cut or damaged: %w", err)
		}
		contents, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		end = contents + (header.Size+511)/512*512
	}
	if info.Size() < end+tarEnd {
		return errNoTarEnd
	}
	return nil
}

// tarEnd is the size of the end of a tar file.
const tarEnd = 1024

var errNoTarEnd = errors.New("it was cut: the end of the tar file is missing")

// completeDirectory looks for the files that the table of contents names, and
// reads those that are compressed with gzip.
func completeDirectory(path string) error {
	file, err := os.Open(filepath.Join(path, "toc.dat"))
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it was only read
	r := &dumpReader{r: bufio.NewReader(file)}
	header := r.readHeader()
	entries := r.readTOC(header)
	if r.err != nil {
		return fmt.Errorf("its toc.dat was cut or damaged: %w", r.err)
	}
	for _, e := range entries {
		if e.file == "" {
			continue
		}
		found := false
		for _, suffix := range []string{"", ".gz", ".lz4", ".zst"} {
			data := filepath.Join(path, e.file+suffix)
			info, err := os.Stat(data)
			if err != nil {
				continue
			}
			found = true
			if suffix != ".gz" {
				continue
			}
			if _, err = dumps.get(data, info, func() (struct{}, error) { // its checksum is at its end
				_, err := endOf(data, 1)
				return struct{}{}, err
			}); err != nil {
				return fmt.Errorf("the data of %s (%s) was cut or damaged: %w", e.tag, e.file, err)
			}
		}
		if !found {
			return fmt.Errorf("the data of %s (%s) is missing", e.tag, e.file)
		}
	}
	return nil
}

// completeCustom walks over the blocks of data behind the table of contents.
func completeCustom(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it was only read
	r := &dumpReader{r: bufio.NewReaderSize(file, readSize)}
	header := r.readHeader()
	entries := r.readTOC(header)
	if r.err != nil {
		return fmt.Errorf("its table of contents was cut or damaged: %w", r.err)
	}
	missing := make(map[int64]string)
	for _, e := range entries {
		if e.hasData {
			missing[e.id] = e.tag
		}
	}
	for {
		kind, err := r.r.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		id := r.readInt()
		switch {
		case r.err != nil:
		case kind == dumpData:
			r.skipChunks()
		case kind == dumpBlobs:
			for r.err == nil && r.readInt() != 0 { // the OID of each large object
				r.skipChunks()
			}
		default:
			return fmt.Errorf("it is damaged: a block of the unknown kind %d", kind)
		}
		if r.err != nil {
			return fmt.Errorf("it was cut within the data of %s: %w", missing[id], r.err)
		}
		delete(missing, id)
	}
	for _, tag := range missing {
		return fmt.Errorf("it was cut: the data of %d tables is missing, that of %s among them", len(missing), tag)
	}
	return nil
}

// The kinds of blocks of a custom dump.
const (
	dumpData  = 1 // BLK_DATA
	dumpBlobs = 3 // BLK_BLOBS
)

// dumpReader reads the numbers and texts of pg_backup_archiver.c. The first
// error ends it.
type dumpReader struct {
	r       *bufio.Reader
	intSize int
	err     error
}

// dumpHeader is the head of a custom, directory or tar dump.
type dumpHeader struct {
	version    int // major<<16 | minor<<8 | revision
	offsetSize int
	directory  bool
	created    time.Time
	server     string
}

func (h *dumpHeader) major() int {
	major, _ := strconv.Atoi(strings.SplitN(h.server, ".", 2)[0])
	return major
}

func dumpVersion(minor int) int { return 1<<16 | minor<<8 }

func (d *dumpReader) bytes(n int) []byte {
	b := make([]byte, n)
	if d.err == nil {
		if _, err := io.ReadFull(d.r, b); err != nil {
			d.err = err
		}
	}
	return b
}

func (d *dumpReader) byte() int { return int(d.bytes(1)[0]) }

func (d *dumpReader) readInt() int64 {
	negative := d.byte() != 0
	var n int64
	for i, b := range d.bytes(d.intSize) {
		n |= int64(b) << (8 * i)
	}
	if negative {
		return -n
	}
	return n
}

// maxDumpText bounds one text of a dump: a definition.
const maxDumpText = 64 << 20

func (d *dumpReader) text() (s string, ok bool) {
	n := d.readInt()
	if d.err != nil || n < 0 {
		return "", false
	}
	if n > maxDumpText {
		d.err = fmt.Errorf("a text of %d bytes", n)
		return "", false
	}
	return string(d.bytes(int(n))), true
}

func (d *dumpReader) readHeader() *dumpHeader {
	h := &dumpHeader{}
	if magic := d.bytes(len(dumpMagic)); d.err == nil && !bytes.Equal(magic, dumpMagic) {
		d.err = errors.New("it does not begin with PGDMP")
	}
	major, minor, revision := d.byte(), d.byte(), d.byte()
	h.version = major<<16 | minor<<8 | revision
	d.intSize = d.byte()
	h.offsetSize = d.byte()
	if d.err == nil && (h.version < dumpVersion(12) || major > 1 || d.intSize < 1 || d.intSize > 8 || h.offsetSize < 1 || h.offsetSize > 8) {
		d.err = fmt.Errorf("format %d.%d is not known", major, minor)
	}
	if d.err != nil {
		return h
	}
	h.directory = d.byte() != 1 // archCustom; toc.dat of a directory says archTar
	if h.version >= dumpVersion(15) {
		d.byte() // algorithm of the compression
	} else {
		d.readInt() // its level
	}
	var t [7]int
	for i := range t {
		t[i] = int(d.readInt())
	}
	h.created = time.Date(t[5]+1900, time.Month(t[4]+1), t[3], t[2], t[1], t[0], 0, time.Local) //nolint:gosmopolitan // pg_dump writes local time
	d.text()                                                                                    // database
	h.server, _ = d.text()
	d.text() // version of pg_dump
	return h
}

// dumpEntry is one entry of a table of contents.
type dumpEntry struct {
	id      int64
	tag     string
	hasData bool
	file    string
}

// maxDumpEntries bounds a table of contents.
const maxDumpEntries = 10_000_000

func (d *dumpReader) readTOC(h *dumpHeader) []dumpEntry {
	if d.err != nil {
		return nil
	}
	count := d.readInt()
	if count < 0 || count > maxDumpEntries {
		d.err = fmt.Errorf("a table of contents with %d entries", count)
	}
	var entries []dumpEntry
	for range count {
		if d.err != nil {
			return nil
		}
		e := dumpEntry{id: d.readInt()}
		dumper := d.readInt() != 0
		d.text() // OID of the catalogue
		d.text() // OID
		e.tag, _ = d.text()
		d.text()    // kind
		d.readInt() // section
		d.text()    // definition
		d.text()    // DROP
		d.text()    // COPY
		d.text()    // schema
		d.text()    // tablespace
		if h.version >= dumpVersion(14) {
			d.text() // access method
		}
		if h.version >= dumpVersion(16) {
			d.readInt() // relkind
		}
		d.text() // owner
		d.text() // WITH OIDS
		for {
			if _, more := d.text(); !more {
				break // the dependencies end with no text
			}
		}
		if h.directory {
			e.file, _ = d.text()
		} else {
			const noData = 3 // K_OFFSET_NO_DATA
			state := d.byte()
			d.bytes(h.offsetSize)
			e.hasData = dumper && state != noData
		}
		entries = append(entries, e)
	}
	return entries
}

// skipChunks skips the data of a block: chunks with their length before them,
// up to one of length 0.
func (d *dumpReader) skipChunks() {
	for d.err == nil {
		n := d.readInt()
		if d.err != nil || n == 0 {
			return
		}
		if n < 0 || n > 1<<30 {
			d.err = fmt.Errorf("a chunk of %d bytes", n)
			return
		}
		_, d.err = d.r.Discard(int(n))
	}
}
