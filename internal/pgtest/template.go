package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// superuser is the superuser of every server; connections on loopback are
// trusted.
const superuser = "postgres"

// newDataDirectory makes a data directory as a copy of a template.
func newDataDirectory(install Install, checksums bool, directory string) error {
	template, err := template(install, checksums)
	if err != nil {
		return err
	}
	return copyTree(template, directory)
}

// copyTree copies a directory tree with its owners, sharing blocks where the
// file system can.
func copyTree(from, to string) error {
	return runProgram("/bin/cp", "--archive", "--reflink=auto", "--sparse=never", from, to)
}

// template is a data directory that initdb made, once for each version and
// kind, whoever asks first.
func template(install Install, checksums bool) (string, error) {
	kind := "plain"
	if checksums {
		kind = "checksums"
	}
	parent := filepath.Join(Cache(), "templates")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("making the directory of templates: %w", err)
	}
	unlock, err := lock(filepath.Join(parent, ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	target := filepath.Join(parent, install.Version+"-"+kind+"-1", "data")
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	work, err := os.MkdirTemp(parent, ".template-")
	if err != nil {
		return "", fmt.Errorf("making a template: %w", err)
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o755); err != nil {
		return "", fmt.Errorf("making a template: %w", err)
	}
	if err := GiveAway(work); err != nil {
		return "", fmt.Errorf("making a template: %w", err)
	}
	args := []string{
		"--pgdata=" + filepath.Join(work, "data"), "--username=" + superuser, "--auth=trust", "--no-sync",
		"--encoding=UTF8", "--locale=C", "--wal-segsize=1",
	}
	switch {
	case checksums:
		args = append(args, "--data-checksums")
	case install.Major >= 18: // where they are on unless told otherwise
		args = append(args, "--no-data-checksums")
	}
	if err := runProgram(filepath.Join(install.BinDir, "initdb"), args...); err != nil {
		return "", err
	}
	if err := os.Rename(work, filepath.Dir(target)); err != nil {
		return "", fmt.Errorf("making a template: %w", err)
	}
	return target, nil
}

// lock takes a lock that other test processes respect.
func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("locking %s: %w", file, err)
	}
	return func() { f.Close() }, nil
}
