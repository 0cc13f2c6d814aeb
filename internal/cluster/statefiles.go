package cluster

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"pg_integrity_exporter/internal/wal"
)

// Magics of the files below.
const (
	twoPhaseMagic = 0x57F94534 // TWOPHASE_MAGIC
	slotMagic     = 0x1051CA1  // SLOT_MAGIC
	snapshotMagic = 0x51A1E001 // SNAPBUILD_MAGIC
	originMagic   = 0x1257DADE // REPLICATION_STATE_MAGIC
	summaryMagic  = 0x652B137B // BLOCKREFTABLE_MAGIC
)

// PreparedTransaction is a file of pg_twophase.
type PreparedTransaction struct {
	// XID is the id of the transaction.
	XID uint32
	// Database is the oid of its database.
	Database uint32
}

// TwoPhaseXID reads the name of a file of pg_twophase: 8 hexadecimal digits, 16
// with the epoch since 17.
func TwoPhaseXID(name string) (xid uint32, ok bool) {
	n, err := strconv.ParseUint(name, 16, 64)
	return uint32(n), err == nil && (len(name) == 8 || len(name) == 16)
}

// DecodeTwoPhase reads a file of pg_twophase.
func DecodeTwoPhase(b []byte, name string) (PreparedTransaction, error) {
	const least = 56
	if len(b) < least || len(b)%8 != 4 {
		return PreparedTransaction{}, fmt.Errorf("it has the impossible size of %d bytes", len(b))
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	at := len(b) - 4
	switch sum := wal.CRC32C(b[:at]); {
	case u32(0) != twoPhaseMagic:
		return PreparedTransaction{}, fmt.Errorf("it begins with %08X instead of %08X", u32(0), uint32(twoPhaseMagic))
	case int(u32(4)) != len(b):
		return PreparedTransaction{}, fmt.Errorf("it has %d bytes, but says %d", len(b), u32(4))
	case sum != u32(at):
		return PreparedTransaction{}, fmt.Errorf("its CRC is %08X, but %08X is stored in it", sum, u32(at))
	}
	p := PreparedTransaction{XID: u32(8), Database: u32(12)}
	if xid, ok := TwoPhaseXID(name); ok && xid != p.XID {
		return p, fmt.Errorf("it is of the transaction %d, but its name says %d", p.XID, xid)
	}
	return p, nil
}

// Slot is a file "state" of a replication slot.
type Slot struct {
	// Name is the slot's name in it.
	Name string
	// Logical says that the slot belongs to a database.
	Logical bool
	// Persistent says that it outlives a restart.
	Persistent bool
	// Restart is the oldest WAL that it needs; 0 is none.
	Restart wal.Position
}

// slotVersions are the versions of the format (SLOT_VERSION) by major version.
var slotVersions = map[int]uint32{13: 2, 14: 2, 15: 2, 16: 3, 17: 5, 18: 5}

// DecodeSlot reads the state of the slot in the directory of a name.
func DecodeSlot(b []byte, major int, name string) (Slot, error) {
	const header, least = 16, 104
	if len(b) < least {
		return Slot{}, fmt.Errorf("it has only %d bytes", len(b))
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	switch {
	case u32(0) != slotMagic:
		return Slot{}, fmt.Errorf("it begins with %08X instead of %08X", u32(0), uint32(slotMagic))
	case u32(8) != slotVersions[major]:
		return Slot{}, fmt.Errorf("its format has the version %d; PostgreSQL %d writes %d", u32(8), major, slotVersions[major])
	case int(u32(12)) != len(b)-header:
		return Slot{}, fmt.Errorf("it has %d bytes, but says %d", len(b), u32(12)+header)
	}
	if sum := wal.CRC32C(b[8:]); sum != u32(4) {
		return Slot{}, fmt.Errorf("its CRC is %08X, but %08X is stored in it", sum, u32(4))
	}
	text, _, _ := bytes.Cut(b[header:header+64], []byte{0})
	s := Slot{
		Name: string(text), Logical: u32(header+64) != 0, Persistent: u32(header+68) == 0,
		Restart: wal.Position(binary.LittleEndian.Uint64(b[header+80:])),
	}
	if s.Name != name {
		return s, fmt.Errorf("it is of the slot %q", s.Name)
	}
	return s, nil
}

// LogicalSnapshotProblem says what is wrong with a file of
// pg_logical/snapshots; "" is nothing.
func LogicalSnapshotProblem(b []byte) string {
	const header = 16
	if len(b) < header {
		return fmt.Sprintf("it has only %d bytes", len(b))
	}
	magic, stored, length := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[12:])
	switch sum := wal.CRC32C(b[8:]); {
	case magic != snapshotMagic:
		return fmt.Sprintf("it begins with %08X instead of %08X", magic, uint32(snapshotMagic))
	case int(length) != len(b):
		return fmt.Sprintf("it has %d bytes, but says %d", len(b), length)
	case sum != stored:
		return fmt.Sprintf("its CRC is %08X, but %08X is stored in it", sum, stored)
	}
	return ""
}

// SummariesDirectory holds the summaries of WAL, which incremental backups are made
// of (17+).
const SummariesDirectory = "pg_wal/summaries"

// IsSummary says whether a file of that directory is a summary.
func IsSummary(name string) bool {
	digits, ok := strings.CutSuffix(name, ".summary")
	return ok && len(digits) == 40 && strings.Trim(digits, "0123456789ABCDEF") == ""
}

// SummaryProblem says what is wrong with a file of pg_wal/summaries; "" is nothing.
func SummaryProblem(b []byte) string {
	const least = 4 + 24 + 4 // of one that names no relation
	if len(b) < least {
		return fmt.Sprintf("it has only %d bytes", len(b))
	}
	return sealed(b, summaryMagic)
}

// OriginsProblem says what is wrong with pg_logical/replorigin_checkpoint; ""
// is nothing.
func OriginsProblem(b []byte) string {
	const entry = 16
	if len(b) < 8 || (len(b)-8)%entry != 0 {
		return fmt.Sprintf("it has the impossible size of %d bytes", len(b))
	}
	return sealed(b, originMagic)
}

// sealed says what is wrong with what begins with a magic number and ends with the CRC
// of all before.
func sealed(b []byte, wanted uint32) string {
	at := len(b) - 4
	magic, stored := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[at:])
	switch sum := wal.CRC32C(b[:at]); {
	case magic != wanted:
		return fmt.Sprintf("it begins with %08X instead of %08X", magic, wanted)
	case sum != stored:
		return fmt.Sprintf("its CRC is %08X, but %08X is stored in it", sum, stored)
	}
	return ""
}
