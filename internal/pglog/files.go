package pglog

import (
	"cmp"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// logFile is a file of the log.
type logFile struct {
	path    string
	size    int64
	modTime time.Time
	id      identity
}

// handle is an open file of the log.
type handle interface {
	io.ReaderAt
	io.Closer
	// stat tells how the file is now.
	stat() (logFile, error)
}

// library is where the files of a log are.
type library interface {
	// refresh looks at everything anew, once for each poll.
	refresh(ctx context.Context) error
	// list gives the files, the oldest first.
	list(ctx context.Context) ([]logFile, error)
	// open opens one of them.
	open(ctx context.Context, path string) (handle, error)
	// find looks for what the file of a position has become: moved, copied or
	// compressed. The handle is nil when there is nothing.
	find(ctx context.Context, position *Position) (handle, logFile, error)
	// copies gives what may be copies of the file of a position that was empty, out
	// of the list, the oldest first.
	copies(position *Position) []logFile
	// watch gives the directory whose changes are changes of the log; "" is none.
	watch() string
	// interval is how often to look when nothing tells of changes.
	interval() time.Duration
	// advice says what to do when there is no file.
	advice() string
}

// localFiles are the files on this host that match a pattern (see
// path/filepath.Match).
type localFiles struct{ pattern string }

func (l localFiles) watch() string { return filepath.Dir(l.pattern) }

func (l localFiles) refresh(context.Context) error { return nil }

func (l localFiles) interval() time.Duration { return pollInterval }

func (l localFiles) advice() string {
	return fmt.Sprintf("no log file matches %s: is logging_collector on, and is log_destination as expected?", l.pattern)
}

// compressed are the ends of names of files that are no log any more.
var compressed = []string{".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip"}

func isCompressed(path string) bool { return slices.Contains(compressed, filepath.Ext(path)) }

func (l localFiles) list(context.Context) ([]logFile, error) {
	paths, err := filepath.Glob(l.pattern)
	if err != nil {
		return nil, fmt.Errorf("looking for log files: %w", err)
	}
	if len(paths) == 0 {
		// Glob hides that a directory may not be read.
		if _, err := os.ReadDir(filepath.Dir(l.pattern)); errors.Is(err, fs.ErrPermission) {
			return nil, denied(filepath.Dir(l.pattern))
		}
	}
	var files []logFile
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("looking for log files: %w", err)
		}
		if info.Mode().IsRegular() && !isCompressed(path) {
			files = append(files, describe(path, info))
		}
	}
	sortFiles(files)
	return files, nil
}

func sortFiles(files []logFile) {
	slices.SortFunc(files, func(a, b logFile) int {
		return cmp.Or(a.modTime.Compare(b.modTime), cmp.Compare(a.path, b.path))
	})
}

func describe(path string, info os.FileInfo) logFile {
	f := logFile{path: path, size: info.Size(), modTime: info.ModTime()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		f.id = identity{uint64(stat.Dev), stat.Ino} //nolint:unconvert // the type differs between systems
	}
	return f
}

func (l localFiles) open(_ context.Context, path string) (handle, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, denied(path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	if strings.HasSuffix(path, ".gz") {
		return openGzip(file)
	}
	return &localFile{file}, nil
}

// maxFind bounds the files that are looked at to find a moved one.
const maxFind = 2000

func (l localFiles) find(ctx context.Context, position *Position) (handle, logFile, error) {
	directory := filepath.Dir(position.Path)
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, logFile{}, nil //nolint:nilerr // it went away with its directory
	}
	entries = entries[:min(len(entries), maxFind)]
	var moved, copies, zipped []string
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		path := filepath.Join(directory, entry.Name())
		switch f := describe(path, info); {
		case f.id == position.identity():
			moved = append(moved, path)
		case strings.HasSuffix(path, ".gz"):
			zipped = append(zipped, path)
		case !isCompressed(path):
			copies = append(copies, path)
		}
	}
	for _, path := range slices.Concat(moved, copies, zipped) {
		file, err := l.open(ctx, path)
		if err != nil {
			continue
		}
		info, err := file.stat()
		if err == nil && (position.matches(file, info) || position.copied(file, info)) {
			info.path = path
			return file, info, nil
		}
		if err := file.Close(); err != nil {
			return nil, logFile{}, fmt.Errorf("looking for the rest of the log: %w", err)
		}
	}
	return nil, logFile{}, nil
}

// copies are files beside it, not compressed or with gzip, that are called after
// it and were written since: that is how copytruncate names them.
func (l localFiles) copies(position *Position) []logFile {
	directory, name := filepath.Split(position.Path)
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil // it went away with its directory
	}
	var files []logFile
	for _, entry := range entries[:min(len(entries), maxFind)] {
		path := filepath.Join(directory, entry.Name())
		listed, err := filepath.Match(l.pattern, path)
		if err != nil || !strings.HasPrefix(entry.Name(), name) || isCompressed(path) && filepath.Ext(path) != ".gz" || listed && !isCompressed(path) {
			continue
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() || !info.ModTime().After(position.ModTime) {
			continue
		}
		if f := describe(path, info); f.id != position.identity() {
			files = append(files, f)
		}
	}
	sortFiles(files)
	return files
}

// localFile is a file on this host.
type localFile struct{ *os.File }

func (f *localFile) stat() (logFile, error) {
	info, err := f.Stat()
	if err != nil {
		return logFile{}, fmt.Errorf("reading the log: %w", err)
	}
	return describe(f.Name(), info), nil
}

// gzipFile is a file that was compressed after it was written. It can only be
// read forward; going back begins anew.
type gzipFile struct {
	file   *os.File
	reader *gzip.Reader
	at     int64
}

func openGzip(file *os.File) (handle, error) {
	reader, err := gzip.NewReader(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the compressed log: %w", err), file.Close())
	}
	return &gzipFile{file: file, reader: reader}, nil
}

// ReadAt is io.ReaderAt.
func (g *gzipFile) ReadAt(p []byte, offset int64) (int, error) {
	if offset < g.at {
		if _, err := g.file.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
		if err := g.reader.Reset(g.file); err != nil {
			return 0, err
		}
		g.at = 0
	}
	skipped, err := io.CopyN(io.Discard, g.reader, offset-g.at)
	g.at += skipped
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(g.reader, p)
	g.at += int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

func (g *gzipFile) Close() error { return g.file.Close() }

// stat gives the length before compression, which the file keeps up to 4 GiB.
func (g *gzipFile) stat() (logFile, error) {
	info, err := g.file.Stat()
	if err != nil {
		return logFile{}, fmt.Errorf("reading the compressed log: %w", err)
	}
	f := describe(g.file.Name(), info)
	var trailer [4]byte
	if _, err := g.file.ReadAt(trailer[:], info.Size()-int64(len(trailer))); err != nil {
		return logFile{}, fmt.Errorf("reading the compressed log: %w", err)
	}
	f.size = int64(binary.LittleEndian.Uint32(trailer[:]))
	for f.size < info.Size()/2 {
		f.size += 1 << 32
	}
	return f, nil
}

// denied says who may not read what, and what to do.
func denied(path string) error {
	name := "the exporter"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return fmt.Errorf("%s may not read %s: add it to the group of the file and set log_file_mode = 0640 in postgresql.conf (initdb --allow-group-access for a log in the data directory): %w", name, path, fs.ErrPermission)
}
