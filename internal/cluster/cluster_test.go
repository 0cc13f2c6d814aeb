package cluster

import (
	"testing"

	"pg_integrity_exporter/internal/wal"
)

// TestFiles holds which files of a log must be there, also where the numbers
// wrap around.
func TestFiles(t *testing.T) {
	for _, c := range []struct {
		log          Log
		oldest, next uint32
		want         map[string]int64
	}{
		{Transactions, 3, 3, map[string]int64{}},
		{Transactions, 700, 800, map[string]int64{"0000": 8192}},
		{Transactions, 700, 32768, map[string]int64{"0000": 8192}},
		{Transactions, 700, 32769, map[string]int64{"0000": 2 * 8192}},
		{Transactions, 1 << 20, 2<<20 + 1, map[string]int64{"0001": 262144, "0002": 8192}},
		{Transactions, 0xFFF00003, 10, map[string]int64{"0FFF": 262144, "0000": 8192}},
		{MultiOffsets, 1, 2049, map[string]int64{"0000": 2 * 8192}},
		{MultiMembers, 1, 1637, map[string]int64{"0000": 2 * 8192}},
		{MultiMembers, 0xFFFFFFF0, 10, map[string]int64{"14078": 6 * 8192, "0000": 8192}},
	} {
		got := c.log.Files(c.oldest, c.next)
		if len(got) != len(c.want) {
			t.Errorf("%s %d to %d: %v, want %v", c.log.Directory, c.oldest, c.next, got, c.want)
		}
		for name, size := range c.want {
			if got[name] != size {
				t.Errorf("%s %d to %d: %v, want %v", c.log.Directory, c.oldest, c.next, got, c.want)
			}
		}
	}
}

// marked is a file of pg_xact in which transactions from 3 on are committed.
func marked(next int) []byte { //nolint:unparam // it reads better where the tests name it
	b := make([]byte, slruFile)
	for xid := 1; xid < next; xid++ {
		b[xid/4] |= 1 << (xid % 4 * 2)
	}
	return b
}

// TestBlankStatus tells lost status from transactions that a crash ended.
func TestBlankStatus(t *testing.T) {
	const next = 100000
	for _, c := range []struct {
		name string
		at   int // of the first and the last blank byte
		end  int
		want int
	}{
		{"nothing", 0, 0, 0},
		{"one transaction of a crash", 4000, 4001, 0},
		{"20000 subtransactions of a crash", 4003, 9003, 0},
		{"a lost sector", 4096, 4608, 1},
		{"a lost page", 8192, 16384, 1},
		{"the last page lost", 24576, 32768, 1},
		{"the last transactions of a crash", 24000, 32768, 0},
		{"everything", 0, 32768, 1},
	} {
		b := marked(next)
		clear(b[c.at:c.end])
		if runs := BlankStatus(b, 0, 3, next); len(runs) != c.want {
			t.Errorf("%s: %+v", c.name, runs)
		}
	}
	b := marked(next)
	for i := 1024; i < 1536; i++ {
		b[i] = byte(i * 131)
	}
	if runs := GarbledStatus(b, 0, next); len(runs) != 1 {
		t.Errorf("garbled: %+v", runs)
	}
	if runs := GarbledStatus(marked(next), 0, next); len(runs) != 0 {
		t.Errorf("not garbled: %+v", runs)
	}
	if problems := StatusProblems(marked(next), 0, 3, next); len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
}

func TestHistory(t *testing.T) {
	entries, err := DecodeHistory([]byte("1\t0/3000000\tno recovery target specified\n\n2\t1/A\treason\n"), 3)
	if err != nil || len(entries) != 2 || entries[1] != (HistoryEntry{2, 1<<32 + 10}) {
		t.Errorf("%v, %v", entries, err)
	}
	for _, text := range []string{"", "x\t0/1\n", "1\n", "1\tx\n", "2\t0/1\n1\t0/2\n", "3\t0/1\n"} {
		if _, err := DecodeHistory([]byte(text), 3); err == nil {
			t.Errorf("%q is a history", text)
		}
	}
}

func TestBackupLabel(t *testing.T) {
	const text = `START WAL LOCATION: 0/3000028 (file 000000010000000000000003)
CHECKPOINT LOCATION: 0/3000060
BACKUP METHOD: streamed
BACKUP FROM: standby
START TIME: 2026-01-01 10:00:00 UTC
LABEL: nightly
START TIMELINE: 2
`
	l, err := DecodeBackupLabel([]byte(text))
	want := BackupLabel{Start: 0x3000028, Checkpoint: 0x3000060, Timeline: 2, FromStandby: true, Streamed: true, StartTime: "2026-01-01 10:00:00 UTC", Label: "nightly"}
	if err != nil || l != want {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := DecodeBackupLabel([]byte("CHECKPOINT LOCATION: 0/3000060\n")); err == nil {
		t.Error("half a label is one")
	}
}

// FuzzDecode holds that no bytes make a decoder fail.
func FuzzDecode(f *testing.F) {
	f.Add(make([]byte, 600), 15)
	f.Fuzz(func(_ *testing.T, b []byte, major int) {
		if c, err := DecodeControl(b); err == nil {
			_ = c.Problems(major, int64(len(b)))
		}
		_, _ = DecodeRelationMap(b, major, true)
		_, _ = DecodeTwoPhase(b, "00000001")
		_, _ = DecodeSlot(b, major, "s")
		_ = LogicalSnapshotProblem(b)
		_ = OriginsProblem(b)
		_, _ = DecodeHistory(b, 3)
		_, _ = DecodeBackupLabel(b)
		_ = StatusProblems(b, 0, 3, 1000)
		_ = OffsetsProblem(b, 0, 1, 1000, 1, 1000)
		_ = MembersProblem(LostMembers(b, 0, 1, 1000, 1000, func(string) []byte { return b }))
		_, _ = OffsetOf(b, 7)
		_ = wal.CRC32C(b)
	})
}
