package offline

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"time"

	"pg_integrity_exporter/internal/imprint"
	"pg_integrity_exporter/internal/page"
)

// imprints are what an exporter has kept of the pages of one directory when it read them
// last. Nil is nothing.
type imprints struct {
	book   *imprint.Book
	proven uint64
	buffer [page.Size]byte
}

// openImprints opens the newest book of the cluster for the database of a directory; the
// tables that all databases share are in that of each.
func (r *run) openImprints(directory string) *imprints {
	name := path.Base(directory)
	if name == "global" {
		name = "*"
	}
	var newest *imprint.Book
	var when time.Time
	for _, parent := range r.Imprints {
		files, _ := filepath.Glob(filepath.Join(parent, name)) // the pattern is sound
		for _, file := range files {
			info, err := os.Stat(file)
			if err != nil || path.Ext(file) != "" || // one that is being written
				!info.ModTime().After(when) {
				continue
			}
			book, err := imprint.Open(file, r.control.System, time.Time{})
			if err != nil {
				r.problem(file, err)
				continue
			}
			if book.Empty() {
				book.Close()
				continue
			}
			if newest != nil {
				newest.Close()
			}
			newest, when = book, info.ModTime()
		}
	}
	if newest == nil {
		return nil
	}
	return &imprints{book: newest, proven: newest.Proven(r.readPage)}
}

// readPage reads a page of a file.
func (r *run) readPage(name string, block uint32, p []byte) error {
	file, err := os.Open(r.path(name))
	if err != nil {
		return err
	}
	_, err = file.ReadAt(p, int64(block)*page.Size)
	return errors.Join(err, file.Close())
}

// of are the imprints of a file.
func (m *imprints) of(name string) *imprint.File {
	if m == nil {
		return nil
	}
	f, _ := m.book.Recall(name) // one that cannot be read tells nothing
	return f
}

func (m *imprints) close() {
	if m != nil {
		m.book.Close()
	}
}

// changed says of a sound page that it is not as it was.
func (r *run) changed(f *imprint.File, p []byte, block uint32, kind page.Kind) string {
	if f == nil || page.IsNew(p) {
		return ""
	}
	return f.Changed(block%segmentBlocks, page.DecodeHeader(p).LSN, imprint.Take(p, kind, &r.imprints.buffer), r.imprints.proven, uint64(r.control.Redo))
}
