package drill

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// autoConf are the settings of ALTER SYSTEM.
	autoConf = "postgresql.auto.conf"
	// shutdownTimeout bounds the checkpoint at the end of a server that is kept.
	shutdownTimeout = 10 * time.Minute
)

// vacant refuses to keep a cluster where something is already.
func (d *drill) vacant() error {
	for _, path := range []string{d.options.Keep, d.spaces()} {
		if _, err := os.Lstat(path); d.options.Keep != "" && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists already: the recovered cluster needs a directory of its own", path)
		}
	}
	return nil
}

// spaces is where the tablespaces of a kept cluster are.
func (d *drill) spaces() string { return d.options.Keep + ".tablespaces" }

// keep moves the recovered cluster to where it stays: shut down in order, with
// the settings of ALTER SYSTEM that it had, and its tablespaces beside it.
func (d *drill) keep() error {
	if err := d.server.shutDown(); err != nil {
		return err
	}
	data := d.scratch.data()
	err := os.Rename(filepath.Join(d.scratch.path, autoConf), filepath.Join(data, autoConf))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keeping the recovered cluster: %w", err)
	}
	if err := d.keepTablespaces(); err != nil {
		return fmt.Errorf("keeping the recovered cluster: %w", err)
	}
	if err := os.Rename(data, d.options.Keep); err != nil {
		return fmt.Errorf("keeping the recovered cluster: %w", err)
	}
	return nil
}

func (d *drill) keepTablespaces() error {
	links := filepath.Join(d.scratch.data(), "pg_tblspc")
	entries, err := os.ReadDir(links)
	if err != nil || len(entries) == 0 {
		return err
	}
	from := filepath.Join(d.scratch.path, "tablespaces")
	for _, entry := range entries {
		link := filepath.Join(links, entry.Name())
		target, err := os.Readlink(link)
		if err != nil {
			return err
		}
		moved := d.spaces() + strings.TrimPrefix(target, from)
		if err := errors.Join(os.Remove(link), os.Symlink(moved, link), d.scratch.runner.own(link)); err != nil {
			return err
		}
	}
	return os.Rename(from, d.spaces())
}

// shutDown ends the server in order, so that its cluster is whole on disk.
func (s *server) shutDown() error {
	if s.process == nil {
		return errors.New("the recovered server is not running any more")
	}
	_ = s.process.Process.Signal(syscall.SIGINT) // it may have ended, which is seen below
	select {
	case <-s.ended:
	case <-time.After(shutdownTimeout):
		return fmt.Errorf("the recovered server did not shut down within %s", shutdownTimeout)
	}
	if state := s.process.ProcessState; state == nil || !state.Success() {
		return fmt.Errorf("the recovered server did not shut down in order: %s", s.explain())
	}
	s.process = nil
	return nil
}
