package page

import (
	"encoding/binary"
	"hash/crc32"
)

// Digest is a digest of what the page of a table says, without what changes although
// nothing is written to the WAL: the header's checksum, LSN and hints, hint bits of
// rows, numbers of commands, which recovery does not bring back, unused space and
// padding. That is what the server itself leaves out when it compares a page with the
// same page made from the WAL (heap_mask, wal_consistency_checking). So two pages with
// the same LSN have the same digest, also after a crash and on a standby. It expects a
// page without a problem, and uses the buffer.
func Digest(p []byte, buffer *[Size]byte) uint32 {
	q := buffer[:]
	copy(q, p)
	h := DecodeHeader(q)
	clear(q[:offsetLower])
	clear(q[offsetPrune:HeaderSize])
	clear(q[h.Lower:h.Upper])
	for i := 1; i <= int(h.Lower-HeaderSize)/4; i++ {
		offset, length, flags := linePointer(q, i)
		if flags != lpNormal {
			continue
		}
		t := q[offset : offset+length]
		mask := binary.LittleEndian.Uint16(t[20:])
		if mask&xminFrozen == xminFrozen {
			mask &^= xmaxCommitted | xmaxInvalid
		} else {
			mask &= hasNull | hasVarWidth | hasExternal | hasOIDOld
		}
		binary.LittleEndian.PutUint16(t[20:], mask)
		clear(t[8:12])
		if binary.LittleEndian.Uint16(t[16:]) == speculativeOffset {
			clear(t[12:18])
		}
		end := offset + length
		clear(q[end:min((end+7)&^7, Size)])
	}
	return crc32.Checksum(q, castagnoli)
}
