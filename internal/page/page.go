// Package page knows the layout of a page of PostgreSQL and its checksum
// (bufpage.h and checksum_impl.h, the same in versions 13 to 18).
package page

import "encoding/binary"

// Size is the size of a page in bytes. Servers built with another one are not
// supported.
const Size = 8192

// Offsets of the page header's fields in bytes.
const (
	offsetLSN      = 0
	offsetChecksum = 8
	offsetFlags    = 10
	offsetLower    = 12
	offsetUpper    = 14
	offsetSpecial  = 16
	offsetVersion  = 18
	offsetPrune    = 20

	// HeaderSize is where the line pointers begin.
	HeaderSize = 24
)

// Header is the header of a page.
type Header struct {
	// LSN is the position in the WAL behind the last change of the page.
	LSN uint64
	// Checksum is pd_checksum.
	Checksum uint16
	// Flags are pd_flags.
	Flags uint16
	// Lower and Upper are the bounds of the free space, Special is where the
	// special space begins.
	Lower, Upper, Special uint16
	// PageSize and LayoutVersion are the two parts of pd_pagesize_version.
	PageSize      uint16
	LayoutVersion uint8
	// PruneXID is pd_prune_xid of a table's page: the oldest transaction that left
	// something to prune.
	PruneXID uint32
}

// DecodeHeader reads the header of a page, which must have Size bytes, in the
// byte order of the x86 and ARM servers.
func DecodeHeader(p []byte) Header {
	_ = p[HeaderSize-1]
	sizeVersion := binary.LittleEndian.Uint16(p[offsetVersion:])
	return Header{
		LSN:           uint64(binary.LittleEndian.Uint32(p[offsetLSN:]))<<32 | uint64(binary.LittleEndian.Uint32(p[offsetLSN+4:])),
		Checksum:      binary.LittleEndian.Uint16(p[offsetChecksum:]),
		Flags:         binary.LittleEndian.Uint16(p[offsetFlags:]),
		Lower:         binary.LittleEndian.Uint16(p[offsetLower:]),
		Upper:         binary.LittleEndian.Uint16(p[offsetUpper:]),
		Special:       binary.LittleEndian.Uint16(p[offsetSpecial:]),
		PageSize:      sizeVersion & 0xff00,
		LayoutVersion: uint8(sizeVersion & 0xff),
		PruneXID:      binary.LittleEndian.Uint32(p[offsetPrune:]),
	}
}

// SetChecksum writes pd_checksum.
func SetChecksum(p []byte, checksum uint16) {
	binary.LittleEndian.PutUint16(p[offsetChecksum:], checksum)
}
