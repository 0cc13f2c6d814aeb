package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"pg_integrity_exporter/internal/wal"
)

const (
	// ControlFile is the name of the control file in the data directory.
	ControlFile = "global/pg_control"
	// ControlFileSize is its size (PG_CONTROL_FILE_SIZE).
	ControlFileSize = 8192
)

// State is what the control file says that the server was doing (DBState).
type State int32

// The states.
const (
	StartingUp State = iota
	ShutDown
	ShutDownInRecovery
	ShuttingDown
	InCrashRecovery
	InArchiveRecovery
	InProduction
)

// String names the state as pg_controldata does.
func (s State) String() string {
	names := []string{
		"starting up", "shut down", "shut down in recovery", "shutting down", "in crash recovery", "in archive recovery", "in production",
	}
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("unknown state %d", int32(s))
	}
	return names[s]
}

// Clean says that everything that was committed is in the files, so that the
// next start needs no WAL but the last checkpoint.
func (s State) Clean() bool { return s == ShutDown || s == ShutDownInRecovery }

// Control is the control file.
type Control struct {
	System        uint64 // system_identifier
	Version       uint32 // pg_control_version
	Catalog       uint32 // catalog_version_no
	State         State
	Modified      int64 // time of the last update, in seconds since 1970
	Checkpoint    wal.Position
	Redo          wal.Position
	Timeline      uint32
	PrevTimeline  uint32
	FullPageWrite bool

	NextXID         uint64 // with its epoch
	NextOID         uint32
	NextMulti       uint32
	NextMultiOffset uint32
	OldestXID       uint32
	OldestXIDDB     uint32
	OldestMulti     uint32
	OldestMultiDB   uint32
	CheckpointTime  int64
	OldestCommitTS  uint32
	NewestCommitTS  uint32
	OldestActive    uint32 // 0 is not known, or none

	UnloggedLSN        wal.Position
	MinRecovery        wal.Position
	MinRecoveryTL      uint32
	BackupStart        wal.Position
	BackupEnd          wal.Position
	BackupEndRequired  bool
	WALLevel           int32 // 0 minimal, 1 replica, 2 logical
	MaxConnections     int32
	MaxWorkers         int32
	MaxSenders         int32
	MaxPrepared        int32
	MaxLocks           int32
	TrackCommitTS      bool
	MaxAlign           uint32
	Float              float64
	BlockSize          uint32
	SegmentBlocks      uint32
	WALPageSize        uint32
	WALSegmentSize     uint32
	NameLength         uint32
	IndexKeys          uint32
	TOASTChunk         uint32
	LargeObject        uint32
	Float8ByValue      bool
	ChecksumVersion    uint32
	CharSigned         bool
	StoredCRC, RealCRC uint32
	// Tail says that something other than zeroes is behind what the server reads.
	Tail bool
}

// TailProblem is what that means. It stops no start.
const TailProblem = "the control file has bytes behind its contents that no server writes"

// release is what belongs to a major version.
type release struct {
	major            int
	control, catalog uint32
}

// releases are the versions of the control file and of the catalogues.
var releases = []release{
	{13, 1300, 202007201}, {14, 1300, 202107181}, {15, 1300, 202209061},
	{16, 1300, 202307071}, {17, 1700, 202406281}, {18, 1800, 202506291},
}

// DecodeControl reads a control file. The error says that it is not one of a
// supported version; a wrong CRC is no error but a Problem.
func DecodeControl(b []byte) (Control, error) {
	const least = 296
	if len(b) < least {
		return Control{}, fmt.Errorf("the control file has %d bytes instead of %d", len(b), ControlFileSize)
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	c := Control{
		System: u64(0), Version: u32(8), Catalog: u32(12), State: State(u32(16)), Modified: int64(u64(24)),
		Checkpoint: wal.Position(u64(32)), Redo: wal.Position(u64(40)), Timeline: u32(48), PrevTimeline: u32(52), FullPageWrite: b[56] != 0,
		NextXID: u64(64), NextOID: u32(72), NextMulti: u32(76), NextMultiOffset: u32(80),
		OldestXID: u32(84), OldestXIDDB: u32(88), OldestMulti: u32(92), OldestMultiDB: u32(96), CheckpointTime: int64(u64(104)),
		OldestCommitTS: u32(112), NewestCommitTS: u32(116), OldestActive: u32(120),
		UnloggedLSN: wal.Position(u64(128)), MinRecovery: wal.Position(u64(136)), MinRecoveryTL: u32(144),
		BackupStart: wal.Position(u64(152)), BackupEnd: wal.Position(u64(160)), BackupEndRequired: b[168] != 0,
		WALLevel: int32(u32(172)), MaxConnections: int32(u32(180)), MaxWorkers: int32(u32(184)), MaxSenders: int32(u32(188)),
		MaxPrepared: int32(u32(192)), MaxLocks: int32(u32(196)), TrackCommitTS: b[200] != 0,
		MaxAlign: u32(204), Float: math.Float64frombits(u64(208)), BlockSize: u32(216), SegmentBlocks: u32(220),
		WALPageSize: u32(224), WALSegmentSize: u32(228), NameLength: u32(232), IndexKeys: u32(236),
		TOASTChunk: u32(240), LargeObject: u32(244), Float8ByValue: b[248] != 0, ChecksumVersion: u32(252),
	}
	crc := 288
	switch {
	case c.Version == 1300, c.Version == 1700:
	case c.Version == 1800:
		crc, c.CharSigned = 292, b[256] != 0
	case c.Version%65536 == 0 && c.Version != 0:
		return c, errors.New("the control file was written on a machine with another byte order")
	default:
		return c, fmt.Errorf("the control file has the version %d, which PostgreSQL 13 to 18 do not write: it is damaged, or the cluster is of another version", c.Version)
	}
	c.StoredCRC, c.RealCRC = u32(crc), wal.CRC32C(b[:crc])
	c.Tail = bytes.ContainsFunc(b[least:], func(r rune) bool { return r != 0 })
	return c, nil
}

// Major is the major version that the versions in the control file belong to;
// 0 is none.
func (c Control) Major() int {
	for _, r := range releases {
		if r.catalog == c.Catalog && r.control == c.Version {
			return r.major
		}
	}
	return 0
}

// NextTransaction is the next transaction id without its epoch.
func (c Control) NextTransaction() uint32 { return uint32(c.NextXID) }

// Problems lists what is impossible in the control file of a server of a major
// version (by PG_VERSION; 0 is not known) and what the file's size should be.
func (c Control) Problems(major int, size int64) []string {
	if c.StoredCRC != c.RealCRC {
		return []string{fmt.Sprintf("the CRC of the control file is %08X, but %08X is stored in it", c.RealCRC, c.StoredCRC)}
	}
	power := func(n, low, high uint32) bool { return n >= low && n <= high && n&(n-1) == 0 }
	var problems []string
	add := func(wrong bool, format string, args ...any) {
		if wrong {
			problems = append(problems, fmt.Sprintf(format, args...))
		}
	}
	add(size != ControlFileSize, "the control file has %d bytes instead of %d", size, ControlFileSize)
	add(c.Major() == 0, "the control file has the catalogue version %d, which no release of PostgreSQL 13 to 18 has", c.Catalog)
	add(major != 0 && c.Major() != 0 && c.Major() != major, "the control file is of PostgreSQL %d, but PG_VERSION says %d: files of two servers were mixed", c.Major(), major)
	add(c.System == 0, "the system identifier is 0")
	add(c.State < StartingUp || c.State > InProduction, "the server has the %s", c.State)
	add(!power(c.BlockSize, 1024, 32768), "the block size is %d", c.BlockSize)
	add(!wal.ValidSegmentSize(int64(c.WALSegmentSize)), "the size of WAL segments is %d", c.WALSegmentSize)
	add(!power(c.WALPageSize, 1024, 65536), "the size of WAL pages is %d", c.WALPageSize)
	add(c.SegmentBlocks == 0, "the number of pages of a file is 0")
	add(c.MaxAlign != 8 && c.MaxAlign != 4, "the alignment is %d", c.MaxAlign)
	add(c.Float != 1234567, "the floating-point format is not this machine's")
	add(c.NameLength != 64, "names have %d bytes instead of 64", c.NameLength)
	add(c.IndexKeys != 32, "indexes have up to %d keys instead of 32", c.IndexKeys)
	add(c.ChecksumVersion > 1, "the version of data checksums is %d", c.ChecksumVersion)
	add(c.WALLevel < 0 || c.WALLevel > 2, "wal_level is %d", c.WALLevel)
	add(c.Timeline == 0 || c.PrevTimeline == 0 || c.PrevTimeline > c.Timeline, "the last checkpoint is of timeline %d after %d", c.Timeline, c.PrevTimeline)
	add(c.Redo == 0 || c.Redo > c.Checkpoint, "the last checkpoint at %s begins at %s, behind itself", c.Checkpoint, c.Redo)
	add(c.State == ShutDown && c.Redo != c.Checkpoint, "the server was shut down, but the last checkpoint at %s is not that of a shutdown (it begins at %s)", c.Checkpoint, c.Redo)
	add(c.NextTransaction() < firstNormal && c.NextXID>>32 == 0, "the next transaction id is %d", c.NextTransaction())
	add(c.OldestXID < firstNormal, "the oldest transaction id is %d", c.OldestXID)
	add(c.OldestXID >= firstNormal && precedes(c.NextTransaction(), c.OldestXID), "the oldest transaction id %d is newer than the next one, %d", c.OldestXID, c.NextTransaction())
	add(c.OldestActive != 0 && precedes(c.NextTransaction(), c.OldestActive), "the oldest active transaction %d is newer than the next one, %d", c.OldestActive, c.NextTransaction())
	add(c.NextMulti == 0 || c.OldestMulti == 0, "the oldest multixact is %d and the next %d", c.OldestMulti, c.NextMulti)
	add(c.NextMulti != 0 && c.OldestMulti != 0 && precedesMulti(c.NextMulti, c.OldestMulti), "the oldest multixact %d is newer than the next one, %d", c.OldestMulti, c.NextMulti)
	add(c.NextOID == 0, "the next object id is 0")
	add(c.MaxConnections <= 0, "max_connections is %d", c.MaxConnections)
	return problems
}

// firstNormal is FirstNormalTransactionId.
const firstNormal = 3

// precedes says that one transaction id is older than another, both normal.
func precedes(a, b uint32) bool { return int32(a-b) < 0 }

// precedesMulti says that one multixact is older than another.
func precedesMulti(a, b uint32) bool { return int32(a-b) < 0 }

// Limits are those of the server that wrote the control file, by parameter.
func (c Control) Limits() map[string]int {
	return map[string]int{
		"max_connections": int(c.MaxConnections), "max_worker_processes": int(c.MaxWorkers), "max_wal_senders": int(c.MaxSenders),
		"max_prepared_transactions": int(c.MaxPrepared), "max_locks_per_transaction": int(c.MaxLocks),
	}
}
