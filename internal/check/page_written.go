package check

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"time"

	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/wal"
)

// readWritten reads the WAL before the last checkpoint, where it is at hand: which pages
// of the database must be on disk as they were then, or newer.
func (r *reader) readWritten(ctx context.Context) (map[wal.Block]wal.Position, error) {
	if !r.files.Local() || r.redo == 0 {
		return map[wal.Block]wal.Position{}, nil
	}
	expect, open, err := r.ownWAL(ctx)
	if err != nil || open == nil {
		return map[wal.Block]wal.Position{}, err
	}
	return wal.Written(ctx, wal.Position(r.redo), expect, open, func(b wal.Block) bool { return b.Fork == 0 && r.ours(b) })
}

// ownWAL says what the WAL of the server must look like, and opens its segments; nil is
// that its control file does not tell.
func (r *reader) ownWAL(ctx context.Context) (wal.Expect, wal.Opener, error) {
	content, err := datadir.ReadFile(ctx, r.files, cluster.ControlFile, cluster.ControlFileSize)
	if err != nil {
		return wal.Expect{}, nil, err
	}
	control, err := cluster.DecodeControl(content)
	if err != nil || control.WALPageSize != wal.PageSize || !wal.ValidSegmentSize(int64(control.WALSegmentSize)) {
		return wal.Expect{}, nil, nil //nolint:nilerr // the check cluster tells of it
	}
	expect := wal.Expect{Major: r.conn.Facts.Major(), System: control.System, SegmentSize: int64(control.WALSegmentSize)}
	return expect, r.openWAL(ctx, r.files, &control), nil
}

// ours says that a page is one of the database, or of all.
func (r *reader) ours(b wal.Block) bool { return b.Database == r.databaseOID || b.Database == 0 }

// lostWrite says that a page is older than the WAL before the last checkpoint says.
func (r *reader) lostWrite(p []byte, block uint32) problem {
	at := r.at
	at.Number = block
	return problem{wal.Lost(r.written, at, wal.Position(page.DecodeHeader(p).LSN)), "", "lost write"}
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
