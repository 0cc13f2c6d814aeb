package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/owner"
)

const (
	// targetsDirectory holds one directory for each target.
	targetsDirectory = "targets"
	// documentSuffix ends the name of a document's file.
	documentSuffix = ".json"
	// maxFileName bounds a file name, which file systems limit to 255 bytes.
	maxFileName = 120
)

// Files are the part of a target's state that commands and the running
// exporter share: one JSON document for each thing that is remembered
// (baselines, facts of earlier checks, windows, reports), and the log of
// events. Unlike the Store, any number of processes may have it open at once.
// A document is replaced as a whole or not at all, also by kill -9.
type Files struct {
	// directory is empty when everything is kept in memory.
	directory string

	mu     sync.Mutex
	memory map[string][]byte
	events []Event
}

// OpenFiles gives the files of a target below a state directory, which is made
// when something is first written. An empty state directory keeps everything in
// memory, for as long as the value lives.
func OpenFiles(statePath, target string) *Files {
	f := &Files{memory: make(map[string][]byte)}
	if statePath != "" {
		f.directory = filepath.Join(statePath, targetsDirectory, fileNameOf(target))
	}
	return f
}

// ImprintDirectories are where the imprints of pages of all targets are below a state
// directory.
func ImprintDirectories(statePath string) []string {
	names, _ := filepath.Glob(filepath.Join(statePath, targetsDirectory, "*", check.ImprintsDirectory)) // of a path with signs of a pattern there may be none
	return names
}

// Directory is where the files are; empty is memory.
func (f *Files) Directory() string { return f.directory }

// Get reads a document; found is false when there is none.
func (f *Files) Get(kind, name string, into any) (found bool, err error) {
	content, err := f.read(filepath.Join(fileNameOf(kind), fileNameOf(name)+documentSuffix))
	if err != nil || content == nil {
		return false, err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return false, fmt.Errorf("%s %s: %w (move the file away to start anew)", f.path(kind, name), kind, err)
	}
	return true, nil
}

// Put writes a document. It is on disk when Put returns.
func (f *Files) Put(kind, name string, value any) error {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", kind, err)
	}
	content = append(content, '\n')
	relative := filepath.Join(fileNameOf(kind), fileNameOf(name)+documentSuffix)
	if f.directory == "" {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.memory[relative] = content
		return nil
	}
	return replaceFile(filepath.Join(f.directory, relative), content)
}

// Delete removes a document; one that does not exist is no error.
func (f *Files) Delete(kind, name string) error {
	if f.directory == "" {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.memory, filepath.Join(fileNameOf(kind), fileNameOf(name)+documentSuffix))
		return nil
	}
	err := os.Remove(f.path(kind, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", kind, err)
	}
	return nil
}

// List gives the names of the documents of a kind, in order. A name too long
// for a file is given as its file has it.
func (f *Files) List(kind string) ([]string, error) {
	var names []string
	add := func(file string) {
		name, ok := strings.CutSuffix(file, documentSuffix)
		if !ok {
			return
		}
		if original, err := url.PathUnescape(name); err == nil {
			name = original
		}
		names = append(names, name)
	}
	if f.directory == "" {
		f.mu.Lock()
		defer f.mu.Unlock()
		for relative := range f.memory {
			if filepath.Dir(relative) == fileNameOf(kind) {
				add(filepath.Base(relative))
			}
		}
	} else {
		entries, err := os.ReadDir(filepath.Join(f.directory, fileNameOf(kind)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("listing %s: %w", kind, err)
		}
		for _, entry := range entries {
			add(entry.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func (f *Files) path(kind, name string) string {
	return filepath.Join(f.directory, fileNameOf(kind), fileNameOf(name)+documentSuffix)
}

// read gives the content of a file, or nil when there is none.
func (f *Files) read(relative string) ([]byte, error) {
	if f.directory == "" {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.memory[relative], nil
	}
	content, err := os.ReadFile(filepath.Join(f.directory, relative))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	return content, nil
}

// replaceFile writes a file under another name, makes sure that it is on disk,
// and gives it its name.
func replaceFile(path string, content []byte) error {
	directory := filepath.Dir(path)
	if err := owner.MkdirAll(directory, 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w (choose another with --state.path)", err)
	}
	temporary, err := os.CreateTemp(directory, ".new-*")
	if err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	_, err = temporary.Write(content)
	err = errors.Join(err, owner.Give(temporary.Name()), temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing the state: %w", errors.Join(err, os.Remove(temporary.Name())))
	}
	return syncDirectory(directory)
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	if err := errors.Join(directory.Sync(), directory.Close()); err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	return nil
}

// fileNameOf is a name as a file system takes it, the same for the same name.
func fileNameOf(name string) string {
	escaped := strings.ReplaceAll(url.PathEscape(name), ".", "%2E")
	if len(escaped) <= maxFileName {
		return escaped
	}
	sum := sha256.Sum256([]byte(name))
	return escaped[:maxFileName-33] + "~" + hex.EncodeToString(sum[:16])
}

// memoryKind is the kind of the documents behind Memory.
const memoryKind = "facts"

// Memory is what checks remember from one run to the next.
func (f *Files) Memory() check.Memory { return memory{f} }

type memory struct{ files *Files }

func (m memory) Recall(key string, into any) (bool, error) {
	return m.files.Get(memoryKind, key, into)
}

func (m memory) Remember(key string, value any) error { return m.files.Put(memoryKind, key, value) }

func (m memory) Directory() string { return m.files.Directory() }
