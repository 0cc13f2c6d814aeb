package recovery

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
)

const (
	lz4Magic = 0x184d2204
	// lz4Skipped is the first of 16 numbers that begin a frame of something else.
	lz4Skipped = 0x184d2a50
	// lz4Window is how far back a block may refer.
	lz4Window = 64 << 10
	// lz4Raw marks a block that is not compressed.
	lz4Raw = 1 << 31
)

var errLZ4 = errors.New("it is no valid lz4 data: it was cut or damaged")

// lz4Reader reads frames of LZ4 (LZ4 Frame Format 1.6), one after the other.
// Checksums of the contents are verified.
type lz4Reader struct {
	from *bufio.Reader
	// window is the end of what was read, at most lz4Window bytes, and the block
	// that is being read; at is how much of it was given.
	window []byte
	at     int
	block  []byte
	// open says that a frame is being read, flags are its descriptor, limit is the
	// size of its blocks.
	open  bool
	flags byte
	limit int
	sum   xxh32
	err   error
}

func newLZ4Reader(from io.Reader) *lz4Reader { return &lz4Reader{from: bufio.NewReader(from)} }

// Read gives what was compressed.
func (r *lz4Reader) Read(p []byte) (int, error) {
	for r.at == len(r.window) && r.err == nil {
		r.err = r.next()
	}
	if r.at == len(r.window) {
		return 0, r.err
	}
	n := copy(p, r.window[r.at:])
	r.at += n
	return n, nil
}

func (r *lz4Reader) number() (uint32, error) {
	var b [4]byte
	_, err := io.ReadFull(r.from, b[:])
	return binary.LittleEndian.Uint32(b[:]), err
}

// next reads the head of a frame, or a block.
func (r *lz4Reader) next() error {
	err := r.step()
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) && r.open {
		return errLZ4
	}
	return err
}

func (r *lz4Reader) step() error {
	if !r.open {
		return r.begin()
	}
	size, err := r.number()
	if err != nil {
		return err
	}
	if size == 0 {
		return r.end()
	}
	raw := size&lz4Raw != 0
	if size &^= lz4Raw; int(size) > r.limit {
		return errLZ4
	}
	r.block = append(r.block[:0], make([]byte, size)...)
	if _, err := io.ReadFull(r.from, r.block); err != nil {
		return err
	}
	if r.flags&0x10 != 0 {
		want, err := r.number()
		if err != nil {
			return err
		}
		if sum := xxh32Of(r.block); sum != want {
			return errLZ4
		}
	}
	if over := len(r.window) - lz4Window; over > 0 {
		r.window = append(r.window[:0], r.window[over:]...)
	}
	if r.flags&0x20 != 0 {
		r.window = r.window[:0] // blocks are independent
	}
	r.at = len(r.window)
	if raw {
		r.window = append(r.window, r.block...)
	} else if err := r.expand(); err != nil {
		return err
	}
	if r.flags&0x04 != 0 {
		r.sum.write(r.window[r.at:])
	}
	return nil
}

// begin reads the head of a frame.
func (r *lz4Reader) begin() error {
	magic, err := r.number()
	if err != nil {
		return err
	}
	if magic&^0xf == lz4Skipped {
		size, err := r.number()
		if err == nil {
			_, err = io.CopyN(io.Discard, r.from, int64(size))
		}
		return err
	}
	if magic != lz4Magic {
		return errLZ4
	}
	head := make([]byte, 2, 15)
	r.open = true
	if _, err := io.ReadFull(r.from, head); err != nil {
		return err
	}
	r.flags = head[0]
	size := head[1] >> 4 & 7
	if r.flags>>6 != 1 || size < 4 {
		return errLZ4
	}
	r.limit = 1 << (8 + 2*size)
	more := 1
	if r.flags&0x08 != 0 {
		more += 8
	}
	if r.flags&0x01 != 0 {
		return errors.New("lz4 data with a dictionary cannot be read here")
	}
	head = head[:2+more]
	if _, err := io.ReadFull(r.from, head[2:]); err != nil {
		return err
	}
	if last := len(head) - 1; byte(xxh32Of(head[:last])>>8) != head[last] {
		return errLZ4
	}
	r.window, r.at, r.sum = r.window[:0], 0, xxh32{}
	return nil
}

// end reads the end of a frame.
func (r *lz4Reader) end() error {
	if r.flags&0x04 != 0 {
		want, err := r.number()
		if err != nil {
			return err
		}
		if r.sum.done() != want {
			return errLZ4
		}
	}
	r.open = false
	return nil
}

// expand appends what a block holds to the window.
func (r *lz4Reader) expand() error {
	b, end := r.block, len(r.window)+r.limit
	length := func(n int) (int, bool) {
		if n < 15 {
			return n, true
		}
		for len(b) > 0 {
			c := b[0]
			b, n = b[1:], n+int(c)
			if c < 255 {
				return n, true
			}
		}
		return 0, false
	}
	for len(b) > 0 {
		token := b[0]
		b = b[1:]
		n, ok := length(int(token >> 4))
		if !ok || n > len(b) || len(r.window)+n > end {
			return errLZ4
		}
		r.window = append(r.window, b[:n]...)
		if b = b[n:]; len(b) == 0 {
			return nil // the last literals
		}
		if len(b) < 2 {
			return errLZ4
		}
		back := int(binary.LittleEndian.Uint16(b))
		b = b[2:]
		n, ok = length(int(token & 15))
		n += 4
		if !ok || back == 0 || back > len(r.window) || len(r.window)+n > end {
			return errLZ4
		}
		for n > 0 { // what it refers to may be what it makes
			from := len(r.window) - back
			part := min(n, back)
			r.window = append(r.window, r.window[from:from+part]...)
			n -= part
		}
	}
	return nil
}

// xxh32 is the hash of LZ4 (xxHash, 32 bits, seed 0).
type xxh32 struct {
	lanes  [4]uint32
	buffer []byte
	length uint32
}

const (
	xxh1 uint32 = 2654435761
	xxh2 uint32 = 2246822519
	xxh3 uint32 = 3266489917
	xxh4 uint32 = 668265263
	xxh5 uint32 = 374761393
)

func xxh32Of(b []byte) uint32 {
	var h xxh32
	h.write(b)
	return h.done()
}

func (h *xxh32) write(b []byte) {
	if h.length == 0 && h.buffer == nil {
		first := xxh1 // their sum wraps around
		h.lanes = [4]uint32{first + xxh2, xxh2, 0, -first}
		h.buffer = make([]byte, 0, 16)
	}
	h.length += uint32(len(b)) // modulo 2^32
	if len(h.buffer) > 0 {
		n := min(16-len(h.buffer), len(b))
		h.buffer, b = append(h.buffer, b[:n]...), b[n:]
		if len(h.buffer) < 16 {
			return
		}
		h.mix(h.buffer)
		h.buffer = h.buffer[:0]
	}
	for ; len(b) >= 16; b = b[16:] {
		h.mix(b)
	}
	h.buffer = append(h.buffer, b...)
}

func (h *xxh32) mix(b []byte) {
	for n := range h.lanes {
		h.lanes[n] = bits.RotateLeft32(h.lanes[n]+binary.LittleEndian.Uint32(b[4*n:])*xxh2, 13) * xxh1
	}
}

func (h *xxh32) done() uint32 {
	sum := xxh5
	if h.length >= 16 {
		sum = bits.RotateLeft32(h.lanes[0], 1) + bits.RotateLeft32(h.lanes[1], 7) + bits.RotateLeft32(h.lanes[2], 12) + bits.RotateLeft32(h.lanes[3], 18)
	}
	sum += h.length
	b := h.buffer
	for ; len(b) >= 4; b = b[4:] {
		sum = bits.RotateLeft32(sum+binary.LittleEndian.Uint32(b)*xxh3, 17) * xxh4
	}
	for _, c := range b {
		sum = bits.RotateLeft32(sum+uint32(c)*xxh5, 11) * xxh1
	}
	sum = (sum ^ sum>>15) * xxh2
	sum = (sum ^ sum>>13) * xxh3
	return sum ^ sum>>16
}
