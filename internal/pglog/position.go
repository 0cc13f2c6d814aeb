package pglog

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"time"
)

const (
	// headLength is how much of a file's beginning tells it from another one with
	// the same inode.
	headLength = 256
	// enoughHead is how much of the beginning makes two files copies of each
	// other. The time of the first message is in it.
	enoughHead = 64
)

// Position is a place in one log file.
type Position struct {
	// Path is where the file was.
	Path string `json:"path,omitempty"`
	// Device and Inode are the file's identity, also after it was renamed. A file
	// that is read through the server has a number made of its name.
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
	// Extension is instead of all of these where the counts of the extension
	// logerrors are read.
	Extension *ExtensionPosition `json:"extension,omitempty"`
}

// identity is what tells files apart while they live.
type identity struct{ device, inode uint64 }

func (p *Position) identity() identity { return identity{p.Device, p.Inode} }

// unread is what was in the file behind the position at the last look.
func (p *Position) unread() int64 { return max(0, p.Size-p.Offset) }

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

// begins says whether the file begins as the one of the position did.
func (p *Position) begins(file handle) (bool, error) {
	hash, read, err := hashHead(file, p.HeadLength)
	return read == p.HeadLength && hash == p.Head, err
}

// holds says whether the file begins as the one of the position did, and is long
// enough to hold it.
func (p *Position) holds(file handle, info logFile) bool {
	begins, err := p.begins(file)
	return err == nil && begins && info.size >= p.Offset
}

// matches says whether the file is the one of the position, grown at the end
// but not written anew.
func (p *Position) matches(file handle, info logFile) bool {
	return info.id == p.identity() && p.holds(file, info)
}

// copied says whether the file is a copy of the one of the position.
func (p *Position) copied(file handle, info logFile) bool {
	return p.HeadLength >= enoughHead && p.holds(file, info)
}

// update notes the state of the file.
func (p *Position) update(file handle, info logFile) error {
	p.Device, p.Inode = info.id.device, info.id.inode
	p.Size, p.ModTime = info.size, info.modTime
	if p.HeadLength < headLength {
		var err error
		if p.Head, p.HeadLength, err = hashHead(file, headLength); err != nil {
			return err
		}
	}
	return nil
}
