// Package owner keeps a directory usable for the user whom it belongs to when root runs a
// command that writes in it: what root makes there is given to that user.
package owner

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// MkdirAll is os.MkdirAll with new directories of the owner of the one in which they are
// made.
func MkdirAll(path string, mode fs.FileMode) error {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(path, mode) // which says when it is none
	}
	if parent := filepath.Dir(path); parent != path {
		if err := MkdirAll(parent, mode); err != nil {
			return err
		}
	}
	return errors.Join(os.MkdirAll(path, mode), Give(path))
}

// Give gives a new file or directory to the owner of the directory that it is in.
func Give(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	of, known := info.Sys().(*syscall.Stat_t)
	if !known {
		return nil
	}
	return os.Lchown(path, int(of.Uid), int(of.Gid))
}
