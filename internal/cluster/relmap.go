package cluster

import (
	"encoding/binary"
	"fmt"

	"pg_integrity_exporter/internal/wal"
)

// RelationMapFile is the name of a relation map in its directory.
const RelationMapFile = "pg_filenode.map"

const relationMapMagic = 0x592717 // RELMAPPER_FILEMAGIC

// RelationMap gives the files of the catalogues that are not found through
// pg_class, by oid.
type RelationMap map[uint32]uint32

// mapSizes are the sizes of the file and of its list (MAX_MAPPINGS), which grew
// with 16.
func mapSizes(major int) (size, mappings int) {
	if major >= 16 {
		return 524, 64
	}
	return 512, 62
}

// RelationMapSize is the size of a relation map in bytes. The server reads no more.
func RelationMapSize(major int) int {
	size, _ := mapSizes(major)
	return size
}

// mapped are the catalogues of a relation map that a server cannot start
// without: pg_database, pg_authid and pg_tablespace in global, pg_class,
// pg_attribute, pg_proc and pg_type in a database.
var mapped = map[bool][]uint32{true: {1262, 1260, 1213}, false: {1259, 1249, 1255, 1247}}

// DecodeRelationMap reads a relation map, the shared one or that of a database.
func DecodeRelationMap(b []byte, major int, shared bool) (RelationMap, error) {
	size, limit := mapSizes(major)
	if len(b) < size {
		return nil, fmt.Errorf("it has %d bytes instead of %d", len(b), size)
	}
	if magic := binary.LittleEndian.Uint32(b); magic != relationMapMagic {
		return nil, fmt.Errorf("it begins with %08X instead of %08X", magic, relationMapMagic)
	}
	count := int(int32(binary.LittleEndian.Uint32(b[4:])))
	if count < 0 || count > limit {
		return nil, fmt.Errorf("it says that it has %d entries; there can be %d", count, limit)
	}
	at := 8 + 8*limit
	if sum, stored := wal.CRC32C(b[:at]), binary.LittleEndian.Uint32(b[at:]); sum != stored {
		return nil, fmt.Errorf("its CRC is %08X, but %08X is stored in it", sum, stored)
	}
	m := make(RelationMap, count)
	for i := range count {
		oid, file := binary.LittleEndian.Uint32(b[8+8*i:]), binary.LittleEndian.Uint32(b[12+8*i:])
		if oid == 0 || file == 0 {
			return nil, fmt.Errorf("it maps the catalogue %d to the file %d", oid, file)
		}
		if _, double := m[oid]; double {
			return nil, fmt.Errorf("it maps the catalogue %d twice", oid)
		}
		m[oid] = file
	}
	for _, oid := range mapped[shared] {
		if m[oid] == 0 {
			return nil, fmt.Errorf("it has no entry for the catalogue %d", oid)
		}
	}
	return m, nil
}
