package drill

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"pg_integrity_exporter/internal/recovery"
)

const (
	copyBuffer = 256 << 10
	// syncEvery is after how many bytes of a file what was written is synced, when
	// there is a rate limit: else the disk would have all of it to write at once.
	syncEvery = 16 << 20
)

// copier copies a backup and compares it with its manifest in the same pass.
type copier struct {
	runner   *runner
	pace     *recovery.Pace
	manifest map[string]recovery.ManifestFile

	mu       sync.Mutex
	bytes    int64
	files    int
	summed   int
	problems []recovery.Problem
	seen     map[string]bool
}

func (d *drill) newCopier(manifest *recovery.Manifest) *copier {
	c := &copier{runner: d.scratch.runner, pace: d.pace, seen: make(map[string]bool)}
	if manifest != nil {
		c.manifest = make(map[string]recovery.ManifestFile, len(manifest.Files))
		for _, f := range manifest.Files {
			c.manifest[f.Path] = f
		}
	}
	return c
}

// left says what must not be copied: what belongs to a running server, and
// slots, which would keep WAL for nobody.
func left(name string) bool {
	switch name {
	case "postmaster.pid", "postmaster.opts", "backup_manifest", "standby.signal", "recovery.signal", "recovery.conf":
		return true
	}
	return strings.HasPrefix(name, "pg_replslot/") || strings.HasPrefix(name, "pg_stat_tmp/")
}

// errFull says that the scratch file system is full.
var errFull = errors.New("the scratch file system is full")

// noSpace makes errFull of the system's error.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return errors.Join(errFull, err)
	}
	return err
}

// job is one file to copy.
type job struct{ from, to, name string }

// tree copies a directory. name is its place in the manifest, "" for the data
// directory. Links are followed only where PostgreSQL has them: tablespaces
// are left to the caller, pg_wal is copied.
func (c *copier) tree(ctx context.Context, from, to, name string) error {
	jobs := make(chan job, 64)
	failed := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
		cancel(err)
	}
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			buffer := make([]byte, copyBuffer)
			for j := range jobs {
				if ctx.Err() != nil {
					continue
				}
				if err := c.file(ctx, j.from, j.to, j.name, buffer); err != nil {
					fail(err)
				}
			}
		})
	}
	err := c.walk(ctx, from, to, name, jobs)
	close(jobs)
	workers.Wait()
	select {
	case failure := <-failed:
		return noSpace(failure)
	default:
		return noSpace(err)
	}
}

// walk makes the directories of a tree and hands its files over.
func (c *copier) walk(ctx context.Context, from, to, name string, jobs chan<- job) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := entry.Name()
		if name != "" {
			path = name + "/" + entry.Name()
		}
		source, target := filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())
		directory := entry.IsDir()
		if entry.Type()&fs.ModeSymlink != 0 {
			if path != "pg_wal" {
				continue
			}
			directory = true
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case left(path):
		case directory:
			if err := c.runner.mkdir(target); err != nil {
				return err
			}
			if err := c.walk(ctx, source, target, path, jobs); err != nil {
				return err
			}
		case entry.Type().IsRegular():
			jobs <- job{source, target, path}
		}
	}
	return nil
}

// file copies one file.
func (c *copier) file(ctx context.Context, from, to, name string, buffer []byte) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // it was only read
	return c.write(ctx, source, to, name, buffer)
}

// write writes one file of the backup and sums it on the way.
func (c *copier) write(ctx context.Context, from io.Reader, to, name string, buffer []byte) error {
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	f, listed := c.manifest[name]
	var sum hash.Hash
	if listed {
		if sum, err = recovery.NewSum(f.Algorithm); err != nil {
			return errors.Join(err, target.Close())
		}
	}
	var size int64
	for err == nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
			break
		}
		var n int
		n, err = from.Read(buffer)
		if n == 0 {
			continue
		}
		size += int64(n)
		if sum != nil {
			_, _ = sum.Write(buffer[:n]) // a hash takes everything
		}
		if writeErr := c.put(ctx, target, buffer[:n], size); writeErr != nil {
			err = writeErr
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err := errors.Join(err, target.Close(), c.runner.own(to)); err != nil {
		return fmt.Errorf("restoring %s: %w", name, err)
	}
	c.note(name, f, listed, size, sum)
	return nil
}

// put writes some bytes, which make so many of the file, and keeps the rate limit.
func (c *copier) put(ctx context.Context, target *os.File, content []byte, size int64) error {
	if _, err := target.Write(content); err != nil || c.pace == nil {
		return err
	}
	c.pace.Took(ctx, int64(len(content)))
	if size%syncEvery < int64(len(content)) {
		return target.Sync()
	}
	return nil
}

// note compares a file with the manifest.
func (c *copier) note(name string, f recovery.ManifestFile, listed bool, size int64, sum hash.Hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += size
	c.files++
	c.seen[name] = true
	if c.manifest == nil || recovery.Ignored(name) || name == "tablespace_map" {
		return
	}
	switch {
	case !listed:
		c.problems = append(c.problems, recovery.Problem{Kind: recovery.ProblemDamaged, Object: name, Message: "is in the backup but not in its manifest"})
	case size != f.Size:
		c.problems = append(c.problems, recovery.Problem{Kind: recovery.ProblemDamaged, Object: name, Message: fmt.Sprintf("has %d bytes instead of %d", size, f.Size)})
	case sum == nil:
	case string(sum.Sum(nil)) != string(f.Checksum):
		c.problems = append(c.problems, recovery.Problem{Kind: recovery.ProblemDamaged, Object: name, Message: "its " + f.Algorithm + " does not match: the contents changed after the backup was taken"})
	default:
		c.summed++
	}
}

// missing lists the files of the manifest that were not there.
func (c *copier) missing() []recovery.Problem {
	var problems []recovery.Problem
	for name := range c.manifest {
		if !c.seen[name] && !recovery.Ignored(name) && !left(name) {
			problems = append(problems, recovery.Problem{Kind: recovery.ProblemMissing, Object: name, Message: "is missing"})
		}
	}
	return problems
}

// untar unpacks one tar file of a base backup.
func (c *copier) untar(ctx context.Context, file, to, name string) error {
	reader, err := recovery.OpenSegment(file)
	if err != nil {
		return err
	}
	defer reader.Close() //nolint:errcheck // it was only read
	archive := tar.NewReader(reader)
	buffer := make([]byte, copyBuffer)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s was cut or damaged: %w", filepath.Base(file), err)
		}
		member := strings.TrimSuffix(strings.TrimPrefix(header.Name, "./"), "/")
		if member == "" || member == "." {
			continue
		}
		if !filepath.IsLocal(member) {
			return fmt.Errorf("%s has a member %q outside of the data directory", filepath.Base(file), header.Name)
		}
		path := member
		if name != "" {
			path = name + "/" + member
		}
		target := filepath.Join(to, filepath.FromSlash(member))
		switch header.Typeflag {
		case tar.TypeDir:
			if err := c.mkdirAll(to, member); err != nil {
				return noSpace(err)
			}
		case tar.TypeReg:
			if left(path) {
				continue
			}
			if err := c.mkdirAll(to, filepath.Dir(member)); err != nil {
				return noSpace(err)
			}
			if err := c.write(ctx, archive, target, path, buffer); err != nil {
				return noSpace(err)
			}
		}
	}
}

// mkdirAll makes a directory and those above it, below root.
func (c *copier) mkdirAll(root, relative string) error {
	path := root
	for part := range strings.SplitSeq(filepath.ToSlash(relative), "/") {
		path = filepath.Join(path, part)
		if err := c.runner.mkdir(path); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}
