package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/wal"
)

const (
	// writtenBytes is how much WAL before the last checkpoint is read, as far as it is
	// still there.
	writtenBytes = 128 << 20
	// maxWritten bounds the pages that are kept in mind: some 20 MB.
	maxWritten = 300_000
)

// written is where the WAL says that pages were changed before the last checkpoint, the
// last time of each, by the file and the number of the page. That checkpoint wrote them,
// so each page on disk has a larger LSN: else its write was lost, or an older page was
// put back, whole and valid in itself.
type written map[filenode]map[uint32]wal.Position

// readWritten reads the WAL before the last checkpoint, where it is at hand.
func (r *reader) readWritten(ctx context.Context) (written, error) {
	if !r.files.Local() || r.redo == 0 {
		return written{}, nil
	}
	content, err := datadir.ReadFile(ctx, r.files, cluster.ControlFile, cluster.ControlFileSize)
	if err != nil {
		return nil, err
	}
	control, err := cluster.DecodeControl(content)
	if err != nil || control.WALPageSize != wal.PageSize || !wal.ValidSegmentSize(int64(control.WALSegmentSize)) {
		return written{}, nil //nolint:nilerr // the check cluster tells of it
	}
	var database uint32
	if err := r.conn.QueryRow(ctx, "SELECT oid FROM pg_database WHERE datname = current_database()").Scan(&database); err != nil {
		return nil, err
	}
	size := uint64(control.WALSegmentSize)
	open := r.openWAL(ctx, r.files, &control)
	from := (r.redo - min(r.redo, writtenBytes)) &^ (wal.PageSize - 1)
	first := r.redo / size
	for first > from/size {
		if _, err := open(first - 1); err != nil {
			break
		}
		first--
	}
	all, count := make(written), 0
	expect := wal.Expect{Major: r.conn.Facts.Major(), System: control.System, SegmentSize: int64(size)}
	err = wal.Written(ctx, wal.Position(max(from, first*size)), wal.Position(r.redo), expect, open, func(b wal.Block, at wal.Position) {
		if b.Fork != 0 || b.Database != database && b.Database != 0 {
			return
		}
		node := filenode{b.Tablespace, b.Relation}
		pages := all[node]
		if pages == nil {
			pages = make(map[uint32]wal.Position)
			all[node] = pages
		}
		if _, known := pages[b.Number]; !known {
			if count == maxWritten {
				return
			}
			count++
		}
		pages[b.Number] = at
	})
	if errors.Is(err, fs.ErrNotExist) { // a segment was removed meanwhile
		err = nil
	}
	return all, err
}

// nodeOf is the file of a relation, of which the path in the data directory is known.
func nodeOf(path string) filenode {
	parts := strings.Split(path, "/")
	number, _ := strconv.ParseUint(parts[len(parts)-1], 10, 32) // 0 is no relation's
	node := filenode{defaultTablespace, uint32(number)}
	switch {
	case parts[0] == "global":
		node.Tablespace = globalTablespace
	case parts[0] == "pg_tblspc" && len(parts) > 1:
		tablespace, _ := strconv.ParseUint(parts[1], 10, 32)
		node.Tablespace = uint32(tablespace)
	}
	return node
}

// lostWrite says that a page is older than the WAL before the last checkpoint says.
func (r *reader) lostWrite(p []byte, block uint32) problem {
	at, known := r.wrote[block]
	if !known {
		return problem{}
	}
	lsn := wal.Position(page.DecodeHeader(p).LSN)
	if lsn > at {
		return problem{}
	}
	return problem{
		fmt.Sprintf("the page is older than it must be: the WAL changed it at %s, before the last checkpoint, but it was changed last at %s: a write was lost, or an older page was put back", at, lsn),
		"", "lost write",
	}
}

// openWAL opens segments of pg_wal on the present timeline or those before it.
func (s *session) openWAL(ctx context.Context, files datadir.Directory, control *cluster.Control) wal.Opener {
	size := int64(control.WALSegmentSize)
	return func(number uint64) (*wal.File, error) {
		for timeline := control.Timeline + 1; timeline >= 1 && timeline+16 > control.Timeline; timeline-- {
			segment := wal.Segment{Timeline: timeline, Number: number}
			name := "pg_wal/" + segment.Name(size)
			if _, err := files.Size(ctx, name); err == nil {
				return &wal.File{ReaderAt: &throttledFile{ctx: ctx, s: s, files: files, name: name}, Closer: io.NopCloser(nil), Segment: segment}, nil
			}
		}
		return nil, fmt.Errorf("segment %d: %w", number, fs.ErrNotExist)
	}
}

// throttledFile reads a file of the data directory no faster than allowed.
type throttledFile struct {
	ctx   context.Context //nolint:containedctx // io.ReaderAt has no room for it
	s     *session
	files datadir.Directory
	name  string
}

// ReadAt reads like io.ReaderAt.
func (f *throttledFile) ReadAt(p []byte, offset int64) (int, error) {
	started := time.Now()
	n, err := f.files.ReadAt(f.ctx, f.name, p, offset)
	f.s.throttle(f.ctx, started, int64(n))
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}
