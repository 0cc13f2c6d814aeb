package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Memo is what was made of the documents of one kind. They are read again only
// when one of them was written or deleted, by whatever process: a scrape looks
// at one directory instead of reading files.
type Memo[T any] struct {
	files *Files
	kind  string
	read  func() (T, error)

	mu    sync.Mutex
	kept  bool
	since time.Time // the directory's last change
	value T
}

// NewMemo makes a memo of what read makes of documents of a kind. Nobody may
// change what it returns.
func NewMemo[T any](files *Files, kind string, read func() (T, error)) *Memo[T] {
	return &Memo[T]{files: files, kind: kind, read: read}
}

// Get is read as of now.
func (m *Memo[T]) Get() (T, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed, settled := m.files.changed(m.kind)
	if m.kept && changed.Equal(m.since) {
		return m.value, nil
	}
	value, err := m.read()
	m.value, m.since, m.kept = value, changed, settled && err == nil
	return value, err
}

// settleTime is how long after a change another one can have the same time:
// the coarsest file systems count two seconds.
const settleTime = 2 * time.Second

// changed is when a document of a kind was last written or deleted; zero is never.
// settled says that another change will have another time.
func (f *Files) changed(kind string) (last time.Time, settled bool) {
	if f.directory == "" {
		return time.Time{}, false // reading memory costs nothing
	}
	info, err := os.Stat(filepath.Join(f.directory, fileNameOf(kind)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return time.Time{}, true
	case err != nil:
		return time.Time{}, false
	}
	return info.ModTime(), time.Since(info.ModTime()) > settleTime
}
