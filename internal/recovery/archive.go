package recovery

import (
	"bytes"
	"cmp"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"pg_integrity_exporter/internal/wal"
)

// defaultSegmentSize is what initdb gives the segments of the WAL.
const defaultSegmentSize = 16 << 20

// transientGap is how long a missing segment may still be on its way: archivers
// that work in parallel store segments out of order.
const transientGap = time.Minute

// Archive is archived WAL as it lies on disk.
type Archive struct {
	// Path is its directory.
	Path string
	// SegmentSize is the size of a segment in bytes.
	SegmentSize int64
	// System and Major are what the newest readable segment says of its server; 0
	// is not known.
	System uint64
	Major  int
	// Segments are the whole segments, by timeline and number.
	Segments []ArchivedSegment
	// Cut are segments that were not written whole; they are not in Segments.
	Cut []Problem
	// parents is where each timeline began, from its history file.
	parents map[uint32]branch
}

// ArchivedSegment is one file of an archive.
type ArchivedSegment struct {
	wal.Segment

	// Path is the file; its name may have a checksum and the suffix of a
	// compressor behind the name of the segment.
	Path string
	// Size is the size of the file in bytes.
	Size int64
	// Compression is the suffix of its compressor, whether its name has it or not;
	// empty is none.
	Compression string
	// Modified is when it was archived.
	Modified time.Time
}

// branch is where a timeline left its parent.
type branch struct {
	parent uint32
	at     wal.Position
}

var (
	segmentFile = regexp.MustCompile(`^([0-9A-F]{24})(-[0-9a-f]{40})?(\.(gz|lz4|zst|zstd|bz2|xz|lzma|br|lzo|snappy))?$`)
	historyFile = regexp.MustCompile(`^([0-9A-F]{8})\.history(\.(gz|lz4|zst|zstd|bz2|xz|lzma|br|lzo|snappy))?$`)
)

// ReadArchive lists an archive: the files of its directory and of directories
// in it, as pgBackRest and Barman sort them.
func ReadArchive(ctx context.Context, path string) (*Archive, error) {
	a := &Archive{Path: path, parents: make(map[uint32]branch)}
	type found struct {
		name, path string
	}
	var names []found
	err := filepath.WalkDir(path, func(file string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if file == path {
				return err
			}
			return nil // a directory that was removed while it was read
		}
		if entry.IsDir() && file != path && strings.Count(strings.TrimPrefix(file, path), string(filepath.Separator)) > 2 {
			return fs.SkipDir
		}
		name := entry.Name()
		if historyFile.MatchString(name) {
			a.readHistory(file)
		} else if match := segmentFile.FindStringSubmatch(name); match != nil && !entry.IsDir() {
			names = append(names, found{match[1], file})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(names, func(x, y found) int { return cmp.Or(cmp.Compare(x.name, y.name), cmp.Compare(x.path, y.path)) })
	for i := len(names) - 1; i >= max(0, len(names)-5) && a.SegmentSize == 0; i-- {
		a.identify(names[i].path)
	}
	if a.SegmentSize == 0 {
		a.SegmentSize = defaultSegmentSize
	}
	for _, n := range names {
		segment, ok := wal.ParseSegment(n.name, a.SegmentSize)
		info, err := os.Stat(n.path)
		if !ok || err != nil || info.Size() == 0 {
			continue // an empty file is what a full disk leaves: the segment is not there
		}
		if last := len(a.Segments) - 1; last >= 0 && a.Segments[last].Segment == segment {
			continue
		}
		compression := filepath.Ext(n.path)
		if compression == "" && info.Size() != a.SegmentSize {
			compression = compressionAt(n.path)
		}
		if compression == "" && info.Size() != a.SegmentSize {
			if time.Since(info.ModTime()) > transientGap {
				a.Cut = append(a.Cut, Problem{
					Kind: ProblemWALDamaged, Object: n.name,
					Message: fmt.Sprintf("has %d bytes instead of %d: recovery ends before it", info.Size(), a.SegmentSize),
				})
			}
			continue
		}
		a.Segments = append(a.Segments, ArchivedSegment{Segment: segment, Path: n.path, Size: info.Size(), Compression: compression, Modified: info.ModTime()})
	}
	return a, nil
}

// identify reads size, system and version from the first page of a segment, if
// it can be opened here.
func (a *Archive) identify(path string) {
	file, err := OpenSegment(path)
	if err != nil {
		return
	}
	defer file.Close()       //nolint:errcheck // it was only read
	head := make([]byte, 40) // XLogLongPageHeaderData
	if _, err := io.ReadFull(file, head); err != nil {
		return
	}
	major, size := wal.MajorOf(binary.LittleEndian.Uint16(head)), int64(binary.LittleEndian.Uint32(head[32:]))
	if major == 0 || !wal.ValidSegmentSize(size) {
		return
	}
	a.Major, a.System, a.SegmentSize = major, binary.LittleEndian.Uint64(head[24:]), size
}

// Compressor is what files are compressed with.
type Compressor struct {
	// Suffix is what names end with, if the tool that wrote them says so at all:
	// Barman leaves names as they are.
	Suffix string
	// Magic begins such a file.
	Magic string
	// Program decompresses: PROGRAM -dc < FILE.
	Program string
}

// Compressors are those that are known by content.
func Compressors() []Compressor {
	return []Compressor{
		{".gz", "\x1f\x8b", "gzip"}, {".bz2", "BZh", "bzip2"}, {".xz", "\xfd7zXZ\x00", "xz"}, {".lzma", "\x5d\x00\x00", "xz"},
		{".zst", "\x28\xb5\x2f\xfd", "zstd"}, {".zstd", "\x28\xb5\x2f\xfd", "zstd"}, {".lz4", "\x04\x22\x4d\x18", "lz4"},
	}
}

// compressionOf is the suffix of the compressor of an open file, from its first
// bytes or else its name; empty is none.
func compressionOf(file *os.File) string {
	head := make([]byte, 6)
	n, _ := file.ReadAt(head, 0) // a short file is not compressed
	for _, c := range Compressors() {
		if bytes.HasPrefix(head[:n], []byte(c.Magic)) {
			return c.Suffix
		}
	}
	switch suffix := filepath.Ext(file.Name()); suffix {
	case ".gz", ".bz2", ".xz", ".lzma", ".zst", ".zstd", ".lz4", ".br", ".lzo", ".snappy":
		return suffix
	}
	return ""
}

func compressionAt(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close() //nolint:errcheck // it was only read
	return compressionOf(file)
}

// CompressedError says that a file needs a decompressor that the exporter does
// not have.
type CompressedError struct{ Path, Compression string }

// Error names the file.
func (e *CompressedError) Error() string {
	return fmt.Sprintf("%s is compressed with %s, which cannot be read here", e.Path, strings.TrimPrefix(e.Compression, "."))
}

// OpenSegment opens an archived file, decompressed when it is gzip, bzip2, zstd or
// lz4.
func OpenSegment(path string) (io.ReadCloser, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	type reader struct {
		io.Reader
		io.Closer
	}
	switch compression := compressionOf(file); compression {
	case "":
		return file, nil
	case ".gz":
		unzipped, err := gzip.NewReader(file)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
		}
		return reader{unzipped, file}, nil
	case ".bz2":
		return reader{bzip2.NewReader(file), file}, nil
	case ".lz4":
		return reader{newLZ4Reader(file), file}, nil
	case ".zst", ".zstd":
		decoder, err := zstd.NewReader(file, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxDecoder))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
		}
		return reader{decoder, closers{decoder.IOReadCloser(), file}}, nil
	default:
		return nil, errors.Join(&CompressedError{path, compression}, file.Close())
	}
}

// maxDecoder bounds the memory of one zstd decoder (the window of zstd --ultra).
const maxDecoder = 256 << 20

// closers are closed in turn.
type closers []io.Closer

// Close gives the errors of all.
func (c closers) Close() error {
	var err error
	for _, one := range c {
		err = errors.Join(err, one.Close())
	}
	return err
}

// readHistory reads where a timeline began. Each line has the parent, the place
// where the timelines parted, and a reason; the last line is of the direct
// parent.
func (a *Archive) readHistory(path string) {
	file, err := OpenSegment(path)
	if err != nil {
		return
	}
	defer file.Close() //nolint:errcheck // it was only read
	content, err := io.ReadAll(io.LimitReader(file, 1<<20))
	if err != nil {
		return
	}
	timeline, err := strconv.ParseUint(filepath.Base(path)[:8], 16, 32)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		parent, parentErr := strconv.ParseUint(fields[0], 10, 32)
		at, atErr := wal.ParsePosition(fields[1])
		if parentErr == nil && atErr == nil {
			a.parents[uint32(timeline)] = branch{parent: uint32(parent), at: at}
		}
	}
}

// Reach is how far recovery comes.
type Reach struct {
	// Position is behind the last segment that can be reached, 0 when not even the
	// first is there.
	Position wal.Position
	Timeline uint32
	// Time is when the last segment was archived.
	Time time.Time
	// Gap is the first segment that is missing although later ones are there, nil
	// for none.
	Gap *wal.Segment
	// Behind is how many segments lie behind the gap and cannot be reached.
	Behind int
	// GapSince is when the first segment behind the gap was archived.
	GapSince time.Time
}

// Reach follows the archive from a place on a timeline to the end of the newest
// timeline that descends from it, as recovery_target_timeline = latest does.
func (a *Archive) Reach(timeline uint32, start wal.Position) Reach {
	reach := Reach{Timeline: timeline}
	byKey := make(map[wal.Segment]int, len(a.Segments))
	for i, s := range a.Segments {
		byKey[s.Segment] = i
	}
	path := a.descent(timeline)
	number := uint64(start) / uint64(a.SegmentSize)
	for {
		// A segment is taken from the newest timeline that has it and has begun by
		// then.
		index, ok := -1, false
		for i := len(path) - 1; i >= 0 && !ok; i-- {
			if i > 0 && number < uint64(path[i].at)/uint64(a.SegmentSize) {
				continue
			}
			index, ok = byKey[wal.Segment{Timeline: path[i].timeline, Number: number}]
		}
		if !ok {
			break
		}
		s := a.Segments[index]
		reach.Position, reach.Timeline = s.Start(a.SegmentSize)+wal.Position(a.SegmentSize), s.Timeline
		reach.Time = s.Modified
		number++
	}
	for _, s := range a.Segments {
		if s.Number > number && slices.ContainsFunc(path, func(p step) bool { return p.timeline == s.Timeline }) {
			reach.Behind++
			if reach.GapSince.IsZero() || s.Modified.Before(reach.GapSince) {
				reach.GapSince = s.Modified
			}
		}
	}
	if reach.Behind > 0 {
		missing := wal.Segment{Timeline: cmp.Or(reach.Timeline, timeline), Number: number}
		reach.Gap = &missing
	}
	return reach
}

// step is a timeline on the way to the newest, and where it began.
type step struct {
	timeline uint32
	at       wal.Position
}

// descent lists the timelines from one to the newest that descends from it.
func (a *Archive) descent(timeline uint32) []step {
	best := []step{{timeline: timeline}}
	for newest := range a.parents {
		var path []step
		seen := make(map[uint32]bool)
		for t := newest; t != timeline; {
			b, ok := a.parents[t]
			if !ok || seen[t] {
				path = nil
				break
			}
			seen[t] = true
			path = append(path, step{t, b.at})
			t = b.parent
		}
		if path != nil && newest > best[len(best)-1].timeline {
			slices.Reverse(path)
			best = append([]step{{timeline: timeline}}, path...)
		}
	}
	return best
}

// Newest is the segment with the highest number on the newest timeline.
func (a *Archive) Newest() (ArchivedSegment, bool) {
	if len(a.Segments) == 0 {
		return ArchivedSegment{}, false
	}
	return a.Segments[len(a.Segments)-1], true
}

// ArchiveEnds says what is missing when a backup brings its own WAL but the
// archive does not go on from it: nothing behind the backup can be brought back.
// A backup that was just taken may be ahead of its archive.
func (i *Inventory) ArchiveEnds(b Backup) (Problem, bool) {
	if i.Archive == nil || !b.WALIncluded || b.End == 0 || i.Read.Sub(b.Finished) < transientGap {
		return Problem{}, false
	}
	if reach := i.Archive.Reach(b.Timeline, b.End-1); reach.Position >= b.End {
		return Problem{}, false
	}
	missing := wal.SegmentAt(b.Timeline, b.End-1, i.Archive.SegmentSize)
	return Problem{
		Kind: ProblemWALGap, Object: missing.Name(i.Archive.SegmentSize),
		Message: fmt.Sprintf("is not in the archive: %s brings the WAL that it needs itself, but nothing behind it can be brought back", b.Label),
	}, true
}

// checkWAL marks backups whose own WAL is missing, and gaps in what follows.
func (i *Inventory) checkWAL() {
	if i.Archive == nil {
		return
	}
	i.Problems = append(i.Problems, i.Archive.Cut...)
	if newest, err := i.Newest(); err == nil {
		if problem, ends := i.ArchiveEnds(newest); ends {
			i.Problems = append(i.Problems, problem)
		}
	}
	reported := make(map[wal.Segment]bool)
	for n := range i.Backups {
		b := &i.Backups[n]
		if b.Kind == KindLogical || b.Start == 0 || !b.Usable() {
			continue
		}
		reach := i.Archive.Reach(b.Timeline, b.Start)
		if !b.WALIncluded && reach.Position < b.End {
			missing := wal.SegmentAt(b.Timeline, max(reach.Position, b.Start), i.Archive.SegmentSize)
			b.problemf(ProblemWALGap, "needs the WAL segment %s to become consistent, which is not in the archive", missing.Name(i.Archive.SegmentSize))
			continue
		}
		if reach.Gap == nil || reported[*reach.Gap] || i.Read.Sub(reach.GapSince) < transientGap {
			continue
		}
		reported[*reach.Gap] = true
		i.Problems = append(i.Problems, Problem{
			Kind: ProblemWALGap, Object: reach.Gap.Name(i.Archive.SegmentSize),
			Message: fmt.Sprintf("is missing in the archive: recovery from %s ends there, and %d later segments cannot be reached", b.Label, reach.Behind),
		})
	}
}

// NotReadable says that a file is in a format that cannot be read here: an error of
// what is compressed or written by a newer version.
func NotReadable(err error) bool {
	_, compressed := errors.AsType[*CompressedError](err)
	_, newer := errors.AsType[*wal.NewerError](err)
	return compressed || newer
}

// VerifySegment verifies the records of one archived segment. One that cannot be
// read here is an error that NotReadable tells. An empty text is that nothing is wrong.
func (a *Archive) VerifySegment(ctx context.Context, s ArchivedSegment) (string, error) {
	reader, err := OpenSegment(s.Path)
	if err != nil {
		return "", err
	}
	defer reader.Close() //nolint:errcheck // it was only read
	content := make([]byte, a.SegmentSize+1)
	n, err := io.ReadFull(reader, content)
	switch {
	case int64(n) != a.SegmentSize:
		return fmt.Sprintf("has %d bytes instead of %d", n, a.SegmentSize), nil
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Sprintf("cannot be read: %v", err), nil
	}
	report, err := wal.VerifySegment(ctx, bytes.NewReader(content[:n]), s.Segment, wal.Expect{SegmentSize: a.SegmentSize, System: a.System})
	if err != nil || report.Complete {
		return "", err
	}
	return "its records cannot be replayed " + report.Bad.Error(), nil
}
