package pglog

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"syscall"
	"time"
)

// headLength is how much of a file's beginning tells it from another one with
// the same inode.
const headLength = 256

// Position is a place in one log file.
type Position struct {
	// Path is where the file was.
	Path string `json:"path,omitempty"`
	// Device and Inode are the file's identity, also after it was renamed.
	Device uint64 `json:"device,omitempty"`
	Inode  uint64 `json:"inode,omitempty"`
	// Head is a hash of the first HeadLength bytes.
	Head       uint64 `json:"head,omitempty"`
	HeadLength int    `json:"head_length,omitempty"`
	// Offset is where the next record begins, in bytes.
	Offset int64 `json:"offset,omitempty"`
	// Size is how long the file was, and ModTime when it was last written.
	Size    int64     `json:"size,omitempty"`
	ModTime time.Time `json:"mod_time,omitzero"`
}

// identity is what tells files apart while they live.
type identity struct{ device, inode uint64 }

func identityOf(info os.FileInfo) identity {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return identity{uint64(stat.Dev), stat.Ino} //nolint:unconvert // the type differs between systems
	}
	return identity{}
}

// hashHead hashes up to length bytes at the start of the file.
func hashHead(file io.ReaderAt, length int) (hash uint64, read int, err error) {
	head := make([]byte, length)
	read, err = file.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, fmt.Errorf("reading the start of the log: %w", err)
	}
	h := fnv.New64a()
	_, _ = h.Write(head[:read]) // a hash never fails
	return h.Sum64(), read, nil
}

// matches says whether the file is the one of the position, grown at the end
// but not written anew.
func (p *Position) matches(file *os.File, info os.FileInfo) bool {
	if identityOf(info) != (identity{p.Device, p.Inode}) || info.Size() < p.Offset {
		return false
	}
	hash, read, err := hashHead(file, p.HeadLength)
	return err == nil && read == p.HeadLength && hash == p.Head
}

// update notes the state of the file.
func (p *Position) update(file *os.File, info os.FileInfo) error {
	id := identityOf(info)
	p.Device, p.Inode = id.device, id.inode
	p.Size, p.ModTime = info.Size(), info.ModTime()
	if p.HeadLength < headLength {
		var err error
		if p.Head, p.HeadLength, err = hashHead(file, headLength); err != nil {
			return err
		}
	}
	return nil
}

// formatOf tells the format of a file by its first byte; "" when it is empty.
func formatOf(file io.ReaderAt) Format {
	var first [1]byte
	if n, err := file.ReadAt(first[:], 0); n != 1 || (err != nil && !errors.Is(err, io.EOF)) {
		return ""
	}
	if bytes.Equal(first[:], []byte("{")) {
		return JSONLog
	}
	return CSVLog
}
