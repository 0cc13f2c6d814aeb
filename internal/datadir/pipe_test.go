package datadir_test

import (
	"path/filepath"
	"syscall"
	"testing"

	"pg_integrity_exporter/internal/datadir"
)

// TestPipe holds that nobody waits for who would write into a pipe that stands in the
// place of a file.
func TestPipe(t *testing.T) {
	directory := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(directory, "1259"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := datadir.OpenLocal(directory)
	defer files.Close()
	_, read := files.ReadAt(t.Context(), "1259", make([]byte, 10), 0)
	_, size := files.Size(t.Context(), "1259")
	if datadir.Unreadable(read) == "" || datadir.Unreadable(size) == "" {
		t.Error(read, size)
	}
}
