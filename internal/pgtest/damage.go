package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"pg_integrity_exporter/internal/page"
)

// segmentBlocks is how many pages one file of a relation has.
const segmentBlocks = 1 << 17

// Relation is the main fork of a table or index on disk.
type Relation struct {
	// Path is the first file of the relation.
	Path string
	// Blocks is how many pages it has.
	Blocks uint32
}

// Relation finds the files of a table or index, after a checkpoint, so that
// they hold what was written.
func (s *Server) Relation(ctx context.Context, database, name string) (Relation, error) {
	if err := s.Exec(ctx, database, "CHECKPOINT"); err != nil {
		return Relation{}, err
	}
	var path string
	var blocks int64
	const query = "SELECT pg_relation_filepath($1::regclass)"
	if err := s.Query(ctx, database, query, &path, name); err != nil {
		return Relation{}, fmt.Errorf("finding the file of %s: %w", name, err)
	}
	const size = "SELECT pg_relation_size($1::regclass) / current_setting('block_size')::int"
	if err := s.Query(ctx, database, size, &blocks, name); err != nil {
		return Relation{}, fmt.Errorf("finding the size of %s: %w", name, err)
	}
	return Relation{Path: filepath.Join(s.DataDirectory, path), Blocks: uint32(blocks)}, nil
}

// Edit changes one page on disk. The server must not have the page in its
// buffers, or must be stopped.
func (r Relation) Edit(block uint32, change func(p []byte)) error {
	return r.edit(block, change, false)
}

// EditValid is Edit with the checksum of the page computed anew, so that data
// checksums do not show the change.
func (r Relation) EditValid(block uint32, change func(p []byte)) error {
	return r.edit(block, change, true)
}

func (r Relation) edit(block uint32, change func(p []byte), valid bool) error {
	path := r.Path
	if segment := block / segmentBlocks; segment > 0 {
		path += "." + strconv.Itoa(int(segment))
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("damaging a page: %w", err)
	}
	offset := int64(block%segmentBlocks) * page.Size
	p := make([]byte, page.Size)
	_, err = file.ReadAt(p, offset)
	if err == nil {
		change(p)
		if valid && !page.IsNew(p) { // which has none
			page.SetChecksum(p, page.Checksum(p, block))
		}
		_, err = file.WriteAt(p, offset)
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("damaging block %d: %w", block, err)
	}
	return nil
}

// Zero makes a page all zeroes.
func Zero(p []byte) { clear(p) }

// Garbage overwrites the second half of a page with bytes that mean nothing.
func Garbage(p []byte) {
	for i := len(p) / 2; i < len(p); i++ {
		p[i] = byte(i*131 + 17)
	}
}

// Sector overwrites one sector in the middle of a page with zeroes, as a disk
// that lost it does.
func Sector(p []byte) { clear(p[len(p)/2 : len(p)/2+512]) }

// WhileDown stops the server, damages it and starts it again, so that nothing
// is hidden by its buffers.
func (s *Server) WhileDown(t testing.TB, damage func() error) {
	t.Helper()
	if err := s.Stop(Fast); err != nil {
		t.Fatal(err)
	}
	if err := damage(); err != nil {
		t.Fatal(err)
	}
	if err := s.StartAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// MustRelation is Relation for tests.
func (s *Server) MustRelation(t testing.TB, database, name string) Relation {
	t.Helper()
	r, err := s.Relation(t.Context(), database, name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Remove removes the relation's first file.
func (r Relation) Remove() error { return os.Remove(r.Path) }

// Truncate cuts the relation's first file to a number of pages.
func (r Relation) Truncate(blocks uint32) error {
	return os.Truncate(r.Path, int64(blocks)*page.Size)
}
