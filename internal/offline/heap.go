package offline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"pg_integrity_exporter/internal/page"
)

// maxCatalogue bounds the pages that are read of one catalogue for its names.
const maxCatalogue = 64 << 10

// rows gives the data of the rows of a heap that were committed, as far as its
// pages are sane; each begins at the first column. It reads what is on disk:
// after a crash it may be a moment older than the last commit.
func (r *run) rows(name string, row func(data []byte)) error {
	for segment := range uint32(maxCatalogue/segmentBlocks + 1) {
		file, err := os.Open(r.path(segmentName(name, segment)))
		if errors.Is(err, fs.ErrNotExist) && segment > 0 {
			return nil
		}
		if err != nil {
			return err
		}
		err = r.rowsOf(file, row)
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) rowsOf(file *os.File, row func(data []byte)) error {
	p, heap := make([]byte, page.Size), &page.Relation{Kind: page.Heap}
	for block := int64(0); ; block++ {
		n, err := file.ReadAt(p, block*page.Size)
		if n < page.Size {
			return nil
		}
		if err != nil {
			return err
		}
		r.result.Bytes += page.Size
		if page.IsNew(p) || page.Problem(p, uint32(block), heap) != "" {
			continue
		}
		h := page.DecodeHeader(p)
		for i := range int(h.Lower-page.HeaderSize) / 4 {
			word := binary.LittleEndian.Uint32(p[page.HeaderSize+4*i:])
			if offset, flags, length := int(word&0x7fff), word>>15&3, int(word>>17); flags == 1 {
				if t := p[offset : offset+length]; r.committed(t) {
					row(t[t[22]:])
				}
			}
		}
	}
}

// Bits of t_infomask.
const (
	xminCommitted = 0x0100
	xminInvalid   = 0x0200
	xmaxCommitted = 0x0400
	xmaxInvalid   = 0x0800
	xmaxIsMulti   = 0x1000
	xmaxLockOnly  = 0x0080
)

// committed says that a row was inserted by a transaction that committed, and
// not deleted by one.
func (r *run) committed(t []byte) bool {
	mask := binary.LittleEndian.Uint16(t[20:])
	xmin, xmax := binary.LittleEndian.Uint32(t), binary.LittleEndian.Uint32(t[4:])
	switch {
	case mask&xminCommitted == 0 && (mask&xminInvalid != 0 || !r.transactionCommitted(xmin)):
		return false
	case xmax == 0 || mask&xmaxInvalid != 0 || mask&xmaxLockOnly != 0 || mask&xmaxIsMulti != 0:
		return true
	case mask&xmaxCommitted != 0:
		return false
	}
	return !r.transactionCommitted(xmax)
}

// transactionCommitted asks pg_xact.
func (r *run) transactionCommitted(xid uint32) bool {
	const committed = 1
	if xid < 3 {
		return xid != 0
	}
	return r.statusOf(xid) == committed
}

// statusOf is the status of a transaction in pg_xact; 0 is none.
func (r *run) statusOf(xid uint32) byte {
	const perFile = 8192 * 4 * 32
	segment := xid / perFile
	content, read := r.statusFiles[segment]
	if !read {
		content, _ = os.ReadFile(r.path(fmt.Sprintf("pg_xact/%04X", segment))) // missing ones are told by the check cluster
		r.statusFiles[segment] = content
	}
	at := int(xid % perFile)
	if at/4 >= len(content) {
		return 0
	}
	return content[at/4] >> (at % 4 * 2) & 3
}

// transactionsOf is what is known of the transactions that a relation's rows may
// name: nothing after a crash, when pages may be newer than the control file.
func (r *run) transactionsOf(rel relation) *page.XIDs {
	if !r.control.State.Clean() || r.label != nil {
		return nil
	}
	return &page.XIDs{
		Next: r.control.NextTransaction(), Oldest: rel.frozen, NextMulti: r.control.NextMulti, OldestMulti: rel.minMulti,
		Status: func(xid uint32) page.Status {
			switch r.statusOf(xid) {
			case 1:
				return page.Committed
			case 2:
				return page.Aborted
			}
			return page.Unknown // prepared, or ended by a crash
		},
	}
}

// text reads a column of type name.
func text(b []byte) string {
	end := bytes.IndexByte(b[:64], 0)
	if end < 0 {
		end = 64
	}
	return string(b[:end])
}
