package drill

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"pg_integrity_exporter/internal/page"
)

const (
	incrementalPrefix = "INCREMENTAL."
	incrementalMagic  = 0xd3ae1f0d
	// maxSegmentBlocks bounds the blocks of one file of a relation.
	maxSegmentBlocks = 1 << 17
)

// incremental is an open file of an incremental backup (basebackup_incremental.c):
// a header, the numbers of the blocks in it, and the blocks.
type incremental struct {
	file *os.File
	// offsets is where each block is in the file.
	offsets map[uint32]int64
	// length is how many blocks the relation's file has at least.
	length uint32
}

func openIncremental(path string) (*incremental, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	i, err := readIncremental(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", filepath.Base(path), err), file.Close())
	}
	return i, nil
}

func readIncremental(file *os.File) (*incremental, error) {
	header := make([]byte, 12)
	if _, err := io.ReadFull(file, header); err != nil {
		return nil, fmt.Errorf("it was cut: %w", err)
	}
	count := binary.LittleEndian.Uint32(header[4:])
	if magic := binary.LittleEndian.Uint32(header); magic != incrementalMagic || count > maxSegmentBlocks {
		return nil, errors.New("it is no incremental file")
	}
	numbers := make([]byte, 4*count)
	if _, err := io.ReadFull(file, numbers); err != nil {
		return nil, fmt.Errorf("it was cut: %w", err)
	}
	i := &incremental{file: file, offsets: make(map[uint32]int64, count), length: binary.LittleEndian.Uint32(header[8:])}
	at := int64(len(header) + len(numbers))
	at = (at + page.Size - 1) / page.Size * page.Size
	for n := range count {
		block := binary.LittleEndian.Uint32(numbers[4*n:])
		if block >= maxSegmentBlocks {
			return nil, fmt.Errorf("it has the impossible block %d", block)
		}
		i.offsets[block] = at
		i.length = max(i.length, block+1)
		at += page.Size
	}
	return i, nil
}

// combine makes the whole tree of an incremental backup out of the plain
// directories of its chain, the full one first, as pg_combinebackup does. Maps
// of visibility are made empty where they are incremental: a statement that clears
// a bit does not name the map's page in the WAL, so the increments may lack it.
// With an empty map every page is looked at, which is always right.
func (c *copier) combine(ctx context.Context, chain []string, to string) error {
	last := chain[len(chain)-1]
	return filepath.WalkDir(last, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		relative, err := filepath.Rel(last, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(relative)
		switch {
		case name == ".":
			return nil
		case left(name):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.IsDir():
			return c.mkdirAll(to, name)
		case !entry.Type().IsRegular():
			return nil
		}
		target := filepath.Join(to, relative)
		whole, isIncremental := strings.CutPrefix(entry.Name(), incrementalPrefix)
		if !isIncremental {
			return noSpace(c.file(ctx, path, target, name, make([]byte, copyBuffer)))
		}
		if strings.HasSuffix(whole, "_vm") {
			return noSpace(c.emptyMap(path, filepath.Join(filepath.Dir(target), whole)))
		}
		relative = filepath.Join(filepath.Dir(relative), whole)
		if err := c.reconstruct(ctx, chain, relative, filepath.Join(to, relative)); err != nil {
			return noSpace(fmt.Errorf("combining %s: %w", relative, err))
		}
		return nil
	})
}

// emptyMap makes the map of visibility of an incremental file, with no bit set.
func (c *copier) emptyMap(from, to string) error {
	increment, err := openIncremental(from)
	if err != nil {
		return err
	}
	if err := errors.Join(increment.file.Close(), os.WriteFile(to, nil, 0o600)); err != nil {
		return err
	}
	return errors.Join(os.Truncate(to, int64(increment.length)*page.Size), c.runner.own(to))
}

// reconstruct makes one file: each block comes from the newest backup that has
// it.
func (c *copier) reconstruct(ctx context.Context, chain []string, relative, to string) error {
	var increments []*incremental // the newest first
	var full *os.File
	defer func() {
		for _, i := range increments {
			_ = i.file.Close() // it was only read
		}
		if full != nil {
			_ = full.Close()
		}
	}()
	for n := len(chain) - 1; n >= 0 && full == nil; n-- {
		whole := filepath.Join(chain[n], relative)
		increment, err := openIncremental(filepath.Join(filepath.Dir(whole), incrementalPrefix+filepath.Base(whole)))
		switch {
		case err == nil:
			increments = append(increments, increment)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		default:
			if full, err = os.Open(whole); err != nil {
				return fmt.Errorf("no earlier backup of the chain has it whole: %w", err)
			}
		}
	}
	if full == nil {
		return errors.New("no earlier backup of the chain has it whole")
	}
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = c.writeBlocks(ctx, target, increments, full)
	c.mu.Lock()
	c.files++
	c.bytes += int64(increments[0].length) * page.Size
	c.mu.Unlock()
	return errors.Join(err, target.Close(), c.runner.own(to))
}

func (c *copier) writeBlocks(ctx context.Context, target *os.File, increments []*incremental, full io.ReaderAt) error {
	block := make([]byte, page.Size)
	for number := range increments[0].length {
		found := false
		for _, i := range increments {
			offset, ok := i.offsets[number]
			if !ok {
				continue
			}
			if _, err := i.file.ReadAt(block, offset); err != nil {
				return fmt.Errorf("block %d: %w", number, err)
			}
			found = true
			break
		}
		if !found {
			n, err := full.ReadAt(block, int64(number)*page.Size)
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("block %d: %w", number, err)
			}
			clear(block[n:]) // added since, and never written
		}
		if err := c.put(ctx, target, block, int64(number+1)*page.Size); err != nil {
			return err
		}
	}
	return nil
}

var incrementalLabel = regexp.MustCompile(`(?m)^INCREMENTAL FROM (LSN|TLI): .*\n`)

// wholeLabel takes the marks of an incremental backup out of backup_label.
func wholeLabel(data string) error {
	path := filepath.Join(data, "backup_label")
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = file.Write(incrementalLabel.ReplaceAll(content, nil))
	return errors.Join(err, file.Close())
}
