package owner_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"pg_integrity_exporter/internal/owner"
)

// TestGive makes directories and a file in the directory of another user.
func TestGive(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can")
	}
	const somebody = 12345
	root := t.TempDir()
	if err := os.Chown(root, somebody, somebody); err != nil {
		t.Fatal(err)
	}
	directory := filepath.Join(root, "a", "b")
	file := filepath.Join(directory, "c")
	if err := errors.Join(owner.MkdirAll(directory, 0o700), os.WriteFile(file, nil, 0o600), owner.Give(file)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Dir(directory), directory, file} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if of, ok := info.Sys().(*syscall.Stat_t); !ok || of.Uid != somebody || of.Gid != somebody {
			t.Errorf("%s: %+v", path, of)
		}
	}
	if err := owner.MkdirAll(filepath.Join(file, "d"), 0o700); err == nil {
		t.Error("a directory in a file")
	}
}
