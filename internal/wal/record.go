package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

const (
	recordHeader = 24
	crcOffset    = 20
	// maxRecord is larger than any record that a server writes
	// (XLogRecordMaxSize).
	maxRecord = 1020 << 20

	xlogManager      = 0    // RM_XLOG_ID
	lastManager      = 21   // RM_LOGICALMSG_ID
	firstCustom      = 128  // RM_MIN_CUSTOM_ID
	infoMask         = 0xF0 // XLR_RMGR_INFO_MASK
	checkpointShut   = 0x00 // XLOG_CHECKPOINT_SHUTDOWN
	checkpointOnline = 0x10 // XLOG_CHECKPOINT_ONLINE
	switchSegment    = 0x40 // XLOG_SWITCH
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC32C is the CRC that the server writes in WAL records, the control file,
// the relation map, two-phase files and slots.
func CRC32C(parts ...[]byte) uint32 {
	var sum uint32
	for _, part := range parts {
		sum = crc32.Update(sum, castagnoli, part)
	}
	return sum
}

// Record is one record of the WAL.
type Record struct {
	// Start is where it begins, End the first position behind it that a record
	// can begin at.
	Start, End Position
	// Previous is where the record before it began.
	Previous Position
	// Manager and Info are xl_rmid and xl_info.
	Manager, Info uint8
	// Transaction is xl_xid.
	Transaction uint32
	// Length is xl_tot_len.
	Length uint32
}

// Switch says that the rest of the record's segment is unused.
func (r Record) Switch() bool { return r.Manager == xlogManager && r.Info&infoMask == switchSegment }

// Checkpoint says that the record is a checkpoint, and whether it is that of a
// clean shutdown.
func (r Record) Checkpoint() (is, shutdown bool) {
	kind := r.Info & infoMask
	is = r.Manager == xlogManager && (kind == checkpointShut || kind == checkpointOnline)
	return is, is && kind == checkpointShut
}

func decodeRecord(b []byte) Record {
	return Record{
		Length: binary.LittleEndian.Uint32(b), Transaction: binary.LittleEndian.Uint32(b[4:]),
		Previous: Position(binary.LittleEndian.Uint64(b[8:])), Info: b[16], Manager: b[17],
	}
}

// headerProblem says what is impossible in the header of a record at a
// position behind another one; previous 0 is not known.
func (r Record) headerProblem(previous Position) string {
	switch {
	case r.Length == 0:
		return "there is no record"
	case r.Length < recordHeader || r.Length > maxRecord:
		return fmt.Sprintf("the record has the impossible length %d", r.Length)
	case r.Manager > lastManager && r.Manager < firstCustom:
		return fmt.Sprintf("the record is of the unknown resource manager %d", r.Manager)
	case previous != 0 && r.Previous != previous:
		return fmt.Sprintf("the record says that the one before it began at %s, but that was %s", r.Previous, previous)
	case previous == 0 && r.Previous >= r.Start:
		return fmt.Sprintf("the record says that the one before it began at %s", r.Previous)
	}
	return ""
}
