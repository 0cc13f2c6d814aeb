package recovery

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"pg_integrity_exporter/internal/wal"
)

func manifestPath(b Backup) string { return filepath.Join(b.Path, ManifestName) }

// TarFiles lists the tar files of a base backup with the place of each below
// the data directory: "" for base.tar, pg_tblspc/OID for a tablespace.
func TarFiles(directory string) (map[string]string, error) {
	files := make(map[string]string)
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		match := tarName.FindStringSubmatch(entry.Name())
		switch {
		case match == nil || match[1] == "pg_wal":
		case match[1] == "base":
			files[filepath.Join(directory, entry.Name())] = ""
		default:
			files[filepath.Join(directory, entry.Name())] = "pg_tblspc/" + match[1]
		}
	}
	return files, nil
}

var tarName = regexp.MustCompile(`^(base|pg_wal|\d+)\.tar(\.gz|\.lz4|\.zst)?$`)

// VerifyTar compares a base backup in tar format with its manifest. It reads
// every member even for a sample, because a tar file has no index.
func VerifyTar(ctx context.Context, directory string, manifest *Manifest, options VerifyOptions) (Verification, error) {
	v := newVerifier(options)
	files, err := TarFiles(directory)
	if err != nil {
		return v.finish(), err
	}
	known := make(map[string]ManifestFile, len(manifest.Files))
	for _, f := range manifest.Files {
		if !Ignored(f.Path) {
			known[f.Path] = f
		}
	}
	var mu sync.Mutex
	var readers sync.WaitGroup
	slots := make(chan struct{}, v.options.Jobs)
	for path, prefix := range files {
		slots <- struct{}{}
		readers.Go(func() {
			defer func() { <-slots }()
			err := v.tar(ctx, path, prefix, func(name string) (ManifestFile, bool) {
				mu.Lock()
				defer mu.Unlock()
				f, ok := known[name]
				delete(known, name)
				return f, ok
			})
			if err != nil && ctx.Err() == nil {
				v.problem(Problem{Kind: ProblemDamaged, Object: filepath.Base(path), Message: err.Error()})
			}
		})
	}
	readers.Wait()
	for name := range known {
		v.problem(Problem{Kind: ProblemMissing, Object: name, Message: "is missing in the tar files"})
	}
	return v.finish(), ctx.Err()
}

// tar verifies the members of one tar file.
func (v *verifier) tar(ctx context.Context, path, prefix string, take func(name string) (ManifestFile, bool)) error {
	file, err := OpenSegment(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it was only read
	archive := tar.NewReader(file)
	buffer := make([]byte, readSize)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("it was cut or damaged: %w", err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		name := strings.TrimPrefix(header.Name, "./")
		if prefix != "" {
			name = prefix + "/" + name
		}
		f, listed := take(name)
		if !listed {
			// The tar format has tablespace_map and the like beside the manifest's files.
			if !Ignored(name) && name != "tablespace_map" {
				v.problem(Problem{Kind: ProblemDamaged, Object: name, Message: "is in the backup but not in its manifest, or twice"})
			}
			continue
		}
		if header.Size != f.Size {
			v.problem(Problem{Kind: ProblemDamaged, Object: name, Message: fmt.Sprintf("has %d bytes instead of %d", header.Size, f.Size)})
			continue
		}
		sum, err := NewSum(f.Algorithm)
		if err != nil || sum == nil {
			v.done(false, false)
			continue
		}
		if err := v.read(ctx, archive, sum, buffer); err != nil {
			return fmt.Errorf("%s: it was cut or damaged: %w", name, err)
		}
		if !bytes.Equal(sum.Sum(nil), f.Checksum) {
			v.problem(Problem{Kind: ProblemDamaged, Object: name, Message: fmt.Sprintf("its %s does not match: the contents changed after the backup was taken", f.Algorithm)})
			continue
		}
		v.done(true, true)
	}
}

// verifyRanges follows the records of the WAL that makes a backup consistent,
// in the backup itself or in the archive.
func verifyRanges(ctx context.Context, i *Inventory, b Backup, manifest *Manifest) []Problem {
	if b.Tar && b.WALIncluded {
		return nil // in pg_wal.tar; a drill reads it
	}
	var problems []Problem
	for _, r := range manifest.Ranges {
		if problem := verifyRange(ctx, i, b, r); problem != nil {
			problems = append(problems, *problem)
		}
	}
	return problems
}

func verifyRange(ctx context.Context, i *Inventory, b Backup, r ManifestRange) *Problem {
	size := int64(0)
	if i != nil && i.Archive != nil {
		size = i.Archive.SegmentSize
	}
	if own, err := ReadArchive(ctx, filepath.Join(b.Path, "pg_wal")); err == nil && b.WALIncluded {
		size = own.SegmentSize
	}
	if size == 0 {
		return &Problem{Kind: ProblemWALGap, Object: b.Label, Message: "has no WAL of its own, and no archive of WAL is known: it cannot become consistent"}
	}
	open := func(number uint64) (*wal.File, error) {
		if number > uint64(r.End-1)/uint64(size) {
			return nil, os.ErrNotExist // what follows is not needed
		}
		s := wal.Segment{Timeline: r.Timeline, Number: number}
		path := filepath.Join(b.Path, "pg_wal", s.Name(size))
		if file, err := os.Open(path); err == nil {
			return &wal.File{ReaderAt: file, Closer: file, Segment: s}, nil
		}
		if i != nil && i.Archive != nil {
			for _, archived := range i.Archive.Segments {
				if archived.Segment == s {
					return archived.open(size)
				}
			}
		}
		return nil, fmt.Errorf("%s: %w", s.Name(size), os.ErrNotExist)
	}
	report, err := wal.Verify(ctx, r.Start, wal.Expect{SegmentSize: size}, open)
	if NotReadable(err) {
		return nil // it cannot be read here; a drill reads it
	}
	switch {
	case err != nil:
		return &Problem{Kind: ProblemUnreadable, Object: b.Label, Message: fmt.Sprintf("its WAL cannot be read: %v", err)}
	case report.End >= r.End:
		return nil
	case report.Bad.Missing:
		return &Problem{Kind: ProblemWALGap, Object: wal.SegmentAt(r.Timeline, report.Bad.Page, size).Name(size), Message: "is missing, and the backup needs it to become consistent"}
	}
	return &Problem{Kind: ProblemWALDamaged, Object: wal.SegmentAt(r.Timeline, report.Bad.Page, size).Name(size), Message: "cannot be replayed " + report.Bad.Error()}
}

// open gives a segment as a file, unpacked in memory when it is compressed.
func (s ArchivedSegment) open(size int64) (*wal.File, error) {
	reader, err := OpenSegment(s.Path)
	if err != nil {
		return nil, err
	}
	if file, ok := reader.(*os.File); ok {
		return &wal.File{ReaderAt: file, Closer: file, Segment: s.Segment}, nil
	}
	defer reader.Close() //nolint:errcheck // it was only read
	content, err := io.ReadAll(io.LimitReader(reader, size))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Path, err)
	}
	return &wal.File{ReaderAt: bytes.NewReader(content), Closer: io.NopCloser(nil), Segment: s.Segment}, nil
}

// WALTar is the tar file with the WAL of a base backup; "" is none.
func WALTar(directory string) string { return tarFile(directory, "pg_wal") }
