package pgtest

import (
	"context"
	"encoding/binary"
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
		before := string(p)
		change(p)
		if string(p) == before {
			err = errUnchanged
		}
		if valid && !page.IsNew(p) { // which has none
			page.SetChecksum(p, page.Checksum(p, block))
		}
		if err == nil {
			_, err = file.WriteAt(p, offset)
		}
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("damaging block %d: %w", block, err)
	}
	return nil
}

// errUnchanged says that a test would damage nothing, and prove nothing.
var errUnchanged = errors.New("it is as it was before")

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
	if blocks >= r.Blocks && r.Blocks <= segmentBlocks {
		return errUnchanged
	}
	return os.Truncate(r.Path, int64(blocks)*page.Size)
}

// Item is a line pointer of a page and what it points to.
type Item struct {
	Offset, Length, Flags int
}

// Items are the line pointers of a page, the first one at 0.
func Items(p []byte) []Item {
	items := make([]Item, (int(page.DecodeHeader(p).Lower)-page.HeaderSize)/4)
	for n := range items {
		word := binary.LittleEndian.Uint32(p[page.HeaderSize+4*n:])
		items[n] = Item{int(word & 0x7fff), int(word >> 17), int(word >> 15 & 3)}
	}
	return items
}

// SetItem overwrites a line pointer.
func SetItem(p []byte, n int, item Item) {
	binary.LittleEndian.PutUint32(p[page.HeaderSize+4*n:], uint32(item.Offset)|uint32(item.Flags)<<15|uint32(item.Length)<<17)
}

// Unuse makes a line pointer one that points nowhere: the row of a heap is gone.
func Unuse(n int) func(p []byte) { return func(p []byte) { SetItem(p, n, Item{}) } }

// DropItem takes a line pointer out of a page of an index, as if its entry had
// never been made.
func DropItem(n int) func(p []byte) {
	return func(p []byte) {
		items := Items(p)
		for i := n; i < len(items)-1; i++ {
			SetItem(p, i, items[i+1])
		}
		binary.LittleEndian.PutUint16(p[12:], uint16(page.HeaderSize+4*(len(items)-1)))
	}
}

// DoubleItem adds a line pointer to the same entry behind it.
func DoubleItem(n int) func(p []byte) {
	return func(p []byte) {
		items := Items(p)
		binary.LittleEndian.PutUint16(p[12:], uint16(page.HeaderSize+4*(len(items)+1)))
		for i := len(items); i > n; i-- {
			SetItem(p, i, items[i-1])
		}
	}
}

// Tuple edits the bytes that a line pointer points to.
func Tuple(n int, change func(tuple []byte)) func(p []byte) {
	return func(p []byte) {
		item := Items(p)[n]
		change(p[item.Offset : item.Offset+item.Length])
	}
}

// Copy keeps the bytes of the relation's first file, to be put back with Restore.
func (r Relation) Copy() ([]byte, error) { return os.ReadFile(r.Path) }

// Restore puts an old copy of the first file back.
func (r Relation) Restore(content []byte) error { return os.WriteFile(r.Path, content, 0o600) }

// RestorePage puts one page of an old copy back. It has a valid checksum.
func (r Relation) RestorePage(block uint32, content []byte) error {
	return r.Edit(block, func(p []byte) { copy(p, content[int(block)*page.Size:]) })
}

// Swap exchanges the first files of two relations.
func (r Relation) Swap(other Relation) error {
	mine, err := r.Copy()
	if err != nil {
		return err
	}
	theirs, err := other.Copy()
	if err != nil {
		return err
	}
	return errors.Join(r.Restore(theirs), other.Restore(mine))
}

// AwaitAccepting waits until the server accepts sessions again after a process
// of it has died.
func (s *Server) AwaitAccepting(t testing.TB) {
	t.Helper()
	Await(t, "accepting sessions", startTimeout, func() bool { return s.Exec(t.Context(), "postgres", "SELECT 1") == nil })
}
