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
	content, err := datadir.ReadFile(ctx, r.files, cluster.ControlFile, cluster.ControlFileSize)
	if err != nil {
		return nil, err
	}
	control, err := cluster.DecodeControl(content)
	if err != nil || control.WALPageSize != wal.PageSize || !wal.ValidSegmentSize(int64(control.WALSegmentSize)) {
		return map[wal.Block]wal.Position{}, nil //nolint:nilerr // the check cluster tells of it
	}
	var database uint32
	if err := r.conn.QueryRow(ctx, "SELECT oid FROM pg_database WHERE datname = current_database()").Scan(&database); err != nil {
		return nil, err
	}
	expect := wal.Expect{Major: r.conn.Facts.Major(), System: control.System, SegmentSize: int64(control.WALSegmentSize)}
	return wal.Written(ctx, wal.Position(r.redo), expect, r.openWAL(ctx, r.files, &control), func(b wal.Block) bool {
		return b.Fork == 0 && (b.Database == database || b.Database == 0)
	})
}

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
