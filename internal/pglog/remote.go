package pglog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"path"
	"time"
)

// Remote gives the files of the log directory through a session with the
// server.
type Remote interface {
	// List gives the files of log_directory.
	List(ctx context.Context) ([]RemoteFile, error)
	// Read reads up to length bytes of a file from an offset on.
	Read(ctx context.Context, name string, offset int64, length int) ([]byte, error)
}

// RemoteFile is a file of the server's log directory.
type RemoteFile struct {
	Name    string
	Size    int64
	ModTime time.Time
}

const (
	// remoteChunk is how much is asked for at once.
	remoteChunk = 512 << 10
	// remoteInterval is how often the server is asked whether there is more.
	remoteInterval = 500 * time.Millisecond
)

// NewRemoteFollower follows the log through the server itself, for an exporter
// that cannot read its files. source names the position that is kept.
func NewRemoteFollower(source, pattern string, remote Remote, input Input, position Position, labels *Labels) *Follower {
	return newFollower(source, &remoteFiles{pattern: pattern, remote: remote}, input, position, labels)
}

// remoteFiles are the files whose names match a pattern.
type remoteFiles struct {
	pattern string
	remote  Remote
	listed  []logFile // by the last refresh
}

func (r *remoteFiles) watch() string { return "" }

func (r *remoteFiles) interval() time.Duration { return remoteInterval }

func (r *remoteFiles) advice() string {
	return fmt.Sprintf("no file %s in the server's log_directory: is logging_collector on, and is log_destination as expected?", r.pattern)
}

func (r *remoteFiles) refresh(ctx context.Context) error {
	all, err := r.remote.List(ctx)
	if err != nil {
		return err
	}
	var files []logFile
	for _, f := range all {
		if matched, err := path.Match(r.pattern, f.Name); err == nil && matched && !isCompressed(f.Name) {
			files = append(files, logFile{path: f.Name, size: f.Size, modTime: f.ModTime, id: nameIdentity(f.Name)})
		}
	}
	sortFiles(files)
	r.listed = files
	return nil
}

func (r *remoteFiles) list(context.Context) ([]logFile, error) { return r.listed, nil }

// nameIdentity stands for the identity of a file of which only the name is
// known. The server does not rename its files.
func nameIdentity(name string) identity {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // a hash never fails
	return identity{inode: h.Sum64() | 1}
}

func (r *remoteFiles) open(ctx context.Context, name string) (handle, error) {
	return &remoteFile{ctx: ctx, files: r, name: name}, nil
}

// find finds nothing: what the server's directory held is gone when its file
// was written anew.
func (r *remoteFiles) find(context.Context, *Position) (handle, logFile, error) {
	return nil, logFile{}, nil
}

// copies are none: only the server writes to its directory.
func (r *remoteFiles) copies(*Position) []logFile { return nil }

// remoteFile is one of them.
type remoteFile struct {
	ctx   context.Context //nolint:containedctx // io.ReaderAt has none, and the follower's lives as long as the file
	files *remoteFiles
	name  string
}

// ReadAt is io.ReaderAt. It reads less than asked for when that is enough for
// one statement.
func (f *remoteFile) ReadAt(p []byte, offset int64) (int, error) {
	if info, err := f.stat(); err != nil || offset >= info.size {
		return 0, cmp.Or(err, io.EOF)
	}
	content, err := f.files.remote.Read(f.ctx, f.name, offset, min(len(p), remoteChunk))
	if err != nil {
		return 0, err
	}
	n := copy(p, content)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *remoteFile) Close() error { return nil }

// stat is how the file was at the last refresh.
func (f *remoteFile) stat() (logFile, error) {
	for _, file := range f.files.listed {
		if file.path == f.name {
			return file, nil
		}
	}
	return logFile{}, errors.New("the server has removed " + f.name)
}
