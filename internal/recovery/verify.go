package recovery

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// readSize is how much of a file is read at once: large enough for the disk,
// small enough to stay in the processor's cache until it is summed.
const readSize = 256 << 10

// VerifyOptions say how thorough and how fast a verification is.
type VerifyOptions struct {
	// Sample is the share of the files' contents that is read, from more than 0
	// to 1; 0 means 1. Existence and size are verified of every file.
	Sample float64
	// Seed chooses the files of a sample; runs with different seeds read
	// different files.
	Seed uint64
	// Jobs is how many files are read at once; 0 is one for each processor.
	Jobs int
	// RateLimit is how many bytes per second are read; 0 is no limit.
	RateLimit int64
}

// Verification is what was found in a backup.
type Verification struct {
	// Files is how many files were looked at, Read how many of them were read
	// whole, Bytes how many bytes that was.
	Files, Read int
	Bytes       int64
	// Unsummed is how many files have no checksum in the manifest.
	Unsummed int
	// Problems is what is wrong, by file.
	Problems []Problem
	Duration time.Duration
}

// maxProblems bounds the problems of one backup that are told.
const maxProblems = 100

// Ignored says which are the files of a backup that the manifest does not describe, or
// that may change after it was taken, as pg_verifybackup has them.
func Ignored(path string) bool {
	switch path {
	case ManifestName, "postgresql.auto.conf", "recovery.signal", "standby.signal":
		return true
	}
	return path == "pg_wal" || strings.HasPrefix(path, "pg_wal/")
}

// verifier collects what several readers find.
type verifier struct {
	options VerifyOptions
	started time.Time
	pace    *Pace

	mu     sync.Mutex
	result Verification
}

func newVerifier(options VerifyOptions) *verifier {
	if options.Jobs < 1 {
		options.Jobs = runtime.GOMAXPROCS(0)
	}
	if options.Sample <= 0 || options.Sample > 1 {
		options.Sample = 1
	}
	return &verifier{options: options, started: time.Now(), pace: NewPace(options.RateLimit)}
}

func (v *verifier) problem(p Problem) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.result.Problems) < maxProblems {
		v.result.Problems = append(v.result.Problems, p)
	}
}

// done counts a file that was looked at.
func (v *verifier) done(read, summed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.result.Files++
	if read {
		v.result.Read++
	}
	if !summed {
		v.result.Unsummed++
	}
}

// took counts bytes and keeps the rate limit.
func (v *verifier) took(ctx context.Context, n int64) {
	v.mu.Lock()
	v.result.Bytes += n
	v.mu.Unlock()
	v.pace.Took(ctx, n)
}

// sampled says whether the contents of a file belong to the sample.
func (v *verifier) sampled(path string) bool {
	if v.options.Sample >= 1 {
		return true
	}
	sum := fnv.New64a()
	_ = binary.Write(sum, binary.LittleEndian, v.options.Seed) // a hash takes everything
	_, _ = sum.Write([]byte(path))
	return float64(sum.Sum64()%1e6) < v.options.Sample*1e6
}

// result gives what was found, in a stable order.
func (v *verifier) finish() Verification {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.result.Duration = time.Since(v.started)
	slices.SortFunc(v.result.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Message, b.Message))
	})
	return v.result
}

// VerifyDirectory compares a plain base backup with its manifest: every file is
// there with its size and checksum, and there is no other. The error is of the
// manifest or of ctx; what is wrong with files is in the result. It reads each
// file once, in parallel.
func VerifyDirectory(ctx context.Context, directory string, manifest *Manifest, options VerifyOptions) (Verification, error) {
	v := newVerifier(options)
	if err := v.lookForExtra(directory, manifest); err != nil {
		return v.finish(), err
	}
	files := slices.Clone(manifest.Files)
	// The largest first, so that the last ones to end are small.
	slices.SortFunc(files, func(a, b ManifestFile) int { return cmp.Compare(b.Size, a.Size) })
	work := make(chan ManifestFile)
	var readers sync.WaitGroup
	for range v.options.Jobs {
		readers.Go(func() {
			buffer := make([]byte, readSize)
			for f := range work {
				v.file(ctx, filepath.Join(directory, filepath.FromSlash(f.Path)), f, buffer)
			}
		})
	}
	for _, f := range files {
		if ctx.Err() != nil {
			break
		}
		if !Ignored(f.Path) {
			work <- f
		}
	}
	close(work)
	readers.Wait()
	return v.finish(), ctx.Err()
}

// file verifies one file.
func (v *verifier) file(ctx context.Context, path string, f ManifestFile, buffer []byte) {
	file, err := os.Open(path)
	if err != nil {
		v.problem(fileProblem(f.Path, err))
		return
	}
	defer file.Close() //nolint:errcheck // it was only read
	info, err := file.Stat()
	switch {
	case err != nil:
		v.problem(fileProblem(f.Path, err))
		return
	case !info.Mode().IsRegular():
		v.problem(Problem{Kind: ProblemDamaged, Object: f.Path, Message: "is no regular file"})
		return
	case info.Size() != f.Size:
		v.problem(Problem{Kind: ProblemDamaged, Object: f.Path, Message: fmt.Sprintf("has %d bytes instead of %d", info.Size(), f.Size)})
		return
	}
	sum, err := NewSum(f.Algorithm)
	if err != nil {
		v.problem(Problem{Kind: ProblemUnreadable, Object: f.Path, Message: err.Error()})
		return
	}
	if sum == nil || !v.sampled(f.Path) {
		v.done(false, sum != nil)
		return
	}
	if err := v.read(ctx, file, sum, buffer); err != nil {
		if ctx.Err() == nil {
			v.problem(fileProblem(f.Path, err))
		}
		return
	}
	if !bytes.Equal(sum.Sum(nil), f.Checksum) {
		v.problem(Problem{Kind: ProblemDamaged, Object: f.Path, Message: fmt.Sprintf("its %s does not match: the contents changed after the backup was taken", f.Algorithm)})
		return
	}
	v.done(true, true)
}

func (v *verifier) read(ctx context.Context, from io.Reader, sum hash.Hash, buffer []byte) error {
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			_, _ = sum.Write(buffer[:n]) // a hash takes everything
			v.took(ctx, int64(n))
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// lookForExtra reports files that the manifest does not list. Tablespaces are
// followed through their links, as the server does.
func (v *verifier) lookForExtra(directory string, manifest *Manifest) error {
	known := make(map[string]bool, len(manifest.Files))
	for _, f := range manifest.Files {
		known[f.Path] = true
	}
	var walk func(relative string) error
	walk = func(relative string) error {
		entries, err := os.ReadDir(filepath.Join(directory, filepath.FromSlash(relative)))
		if err != nil {
			if relative == "" {
				return err
			}
			v.problem(fileProblem(relative, err))
			return nil
		}
		for _, entry := range entries {
			path := entry.Name()
			if relative != "" {
				path = relative + "/" + path
			}
			if Ignored(path) {
				continue
			}
			tablespace := relative == "pg_tblspc" && entry.Type()&fs.ModeSymlink != 0
			switch {
			case entry.IsDir() || tablespace:
				if err := walk(path); err != nil {
					return err
				}
			case !known[path]:
				v.problem(Problem{Kind: ProblemDamaged, Object: path, Message: "is in the backup but not in its manifest"})
			}
		}
		return nil
	}
	return walk("")
}

// fileProblem is the problem of a file that cannot be read.
func fileProblem(path string, err error) Problem {
	if errors.Is(err, fs.ErrNotExist) {
		return Problem{Kind: ProblemMissing, Object: path, Message: "is missing"}
	}
	if cause, ok := errors.AsType[*fs.PathError](err); ok {
		err = cause.Err
	}
	return Problem{Kind: ProblemUnreadable, Object: path, Message: fmt.Sprintf("cannot be read: %v", err)}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// littleCRC is a CRC whose sum is written as the manifest does: the bytes of
// the number in the order of the x86 and ARM servers.
type littleCRC struct{ hash.Hash32 }

func (c littleCRC) Sum(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, c.Sum32()) }

// NewSum gives the hash of a manifest's algorithm; nil is none.
func NewSum(algorithm string) (hash.Hash, error) {
	switch algorithm {
	case "", "NONE":
		return nil, nil //nolint:nilnil // no checksum is no error
	case "CRC32C":
		return littleCRC{crc32.New(castagnoli)}, nil
	case "SHA224":
		return sha256.New224(), nil
	case "SHA256":
		return sha256.New(), nil
	case "SHA384":
		return sha512.New384(), nil
	case "SHA512":
		return sha512.New(), nil
	}
	return nil, fmt.Errorf("the manifest has the unknown checksum algorithm %q", algorithm)
}

// localPath says that a path stays below the directory that it is joined to.
func localPath(path string) bool { return filepath.IsLocal(filepath.FromSlash(path)) }
