package recovery

import (
	"io/fs"
	"sync"
	"time"
)

// memo remembers what was learnt from large files, which do not change once
// they are finished.
type memo[T any] struct {
	mu    sync.Mutex
	known map[string]memory[T]
}

type memory[T any] struct {
	size     int64
	modified time.Time
	value    T
	err      error
}

// maxRemembered bounds the files that are remembered.
const maxRemembered = 10_000

// get gives what read says of a file, asking it again only when the file
// changed.
func (m *memo[T]) get(path string, info fs.FileInfo, read func() (T, error)) (T, error) {
	m.mu.Lock()
	known, ok := m.known[path]
	m.mu.Unlock()
	if ok && known.size == info.Size() && known.modified.Equal(info.ModTime()) {
		return known.value, known.err
	}
	known = memory[T]{size: info.Size(), modified: info.ModTime()}
	known.value, known.err = read()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= maxRemembered {
		m.known = make(map[string]memory[T])
	}
	m.known[path] = known
	return known.value, known.err
}

// manifestSummary is what the list of backups needs of a manifest.
type manifestSummary struct {
	bytes  int64
	system uint64
	ranges []ManifestRange
}

var (
	manifests memo[manifestSummary]
	walInTar  memo[bool]
	dumps     memo[struct{}]
	tars      memo[struct{}]
)

func summarize(path string, info fs.FileInfo) (manifestSummary, error) {
	return manifests.get(path, info, func() (manifestSummary, error) {
		manifest, err := ReadManifest(path)
		if err != nil {
			return manifestSummary{}, err
		}
		return manifestSummary{bytes: manifest.Bytes(), system: manifest.System, ranges: manifest.Ranges}, nil
	})
}
