package wal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/wal"
)

const segmentSize = 1 << 20 // of the servers of pgtest

// directory opens the segments of one directory and timeline.
func directory(path string, timeline uint32) wal.Opener {
	return func(number uint64) (*wal.File, error) {
		segment := wal.Segment{Timeline: timeline, Number: number}
		file, err := os.Open(filepath.Join(path, segment.Name(segmentSize)))
		if err != nil {
			return nil, err
		}
		return &wal.File{ReaderAt: file, Closer: file, Segment: segment}, nil
	}
}

func position(t *testing.T, server *pgtest.Server, sql string) wal.Position {
	t.Helper()
	var text string
	if err := server.Query(t.Context(), "postgres", sql, &text); err != nil {
		t.Fatal(err)
	}
	p, err := wal.ParsePosition(text)
	if err != nil || p.String() != text {
		t.Fatal(p, err)
	}
	return p
}

// TestWAL reads the WAL that servers wrote, whole, killed and damaged.
func TestWAL(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Setting("max_wal_size", "1GB"), pgtest.Setting("min_wal_size", "1GB"))
		expect := wal.Expect{Major: major, SegmentSize: segmentSize}
		server.MustExec(t, "postgres", "CHECKPOINT; CREATE TABLE t AS SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 20000) i")
		server.MustExec(t, "postgres", "SELECT pg_switch_wal()")
		server.MustExec(t, "postgres", "UPDATE t SET i = i + 1; CREATE INDEX ON t (i)")
		redo := position(t, server, "SELECT redo_lsn::text FROM pg_control_checkpoint()")
		checkpoint := position(t, server, "SELECT checkpoint_lsn::text FROM pg_control_checkpoint()")
		var system int64
		if err := server.Query(t.Context(), "postgres", "SELECT system_identifier FROM pg_control_system()", &system); err != nil {
			t.Fatal(err)
		}
		expect.System = uint64(system)
		// A commit that is waited for ends with its record.
		server.MustExec(t, "postgres", "SET synchronous_commit = on; CREATE TABLE u ()")
		end := position(t, server, "SELECT pg_current_wal_flush_lsn()::text")
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(server.DataDirectory, "pg_wal")
		open := directory(path, 1)

		r, bad, err := wal.ReadRecord(checkpoint, expect, open)
		if err != nil || bad != nil {
			t.Fatal(bad, err)
		}
		if is, shutdown := r.Checkpoint(); !is || shutdown {
			t.Errorf("the record at %s is no checkpoint: %+v", checkpoint, r)
		}
		whole, err := wal.Verify(t.Context(), redo, expect, open)
		if err != nil || whole.End < end || whole.Continues != 0 || !whole.Bad.Empty && !whole.Bad.Missing || whole.Records < 1000 || whole.Major != major {
			t.Fatalf("a killed server's WAL: %+v, %v, %v; its end was %s", whole, whole.Bad, err, end)
		}
		if wal.MajorOf(0xABCD) != 0 {
			t.Error("an unknown magic has a version")
		}

		segments := segmentsIn(t, path)
		if gaps := wal.Gaps(segments); len(gaps) != 0 {
			t.Errorf("gaps %v", gaps)
		}
		middle := wal.SegmentAt(1, redo, segmentSize).Number + 3
		verifyEach(t, path, segments, expect, whole)
		damageSegment(t, path, wal.Segment{Timeline: 1, Number: middle}, expect)
		newerSegment(t, path, wal.Segment{Timeline: 1, Number: middle})

		// A hole is told from an end.
		name := filepath.Join(path, wal.Segment{Timeline: 1, Number: middle}.Name(segmentSize))
		if err := os.Rename(name, name+".away"); err != nil {
			t.Fatal(err)
		}
		hole, err := wal.Verify(t.Context(), redo, expect, open)
		if err != nil || hole.Bad == nil || !hole.Bad.Missing || hole.Continues == 0 {
			t.Errorf("a missing segment: %+v, %v, %v", hole, hole.Bad, err)
		}
		if gaps := wal.Gaps(segmentsIn(t, path)); len(gaps) != 1 || gaps[0].First.Number != middle || gaps[0].Last.Number != middle {
			t.Errorf("gaps %v", gaps)
		}
		if err := os.Rename(name+".away", name); err != nil {
			t.Fatal(err)
		}
		// Also in the last page of all.
		flip(t, filepath.Join(path, wal.SegmentAt(1, whole.Last.Start-64, segmentSize).Name(segmentSize)), int64(whole.Last.Start-64)%segmentSize)
		last, err := wal.Verify(t.Context(), redo, expect, open)
		if err != nil || last.End >= whole.End || last.Bad.Missing {
			t.Errorf("damage just before the end: %+v, %v, %v", last, last.Bad, err)
		}
	})
}

// newerSegment gives the first page, and then all pages, of a copy of a segment a
// magic that no known version has: the first is damage, the second a newer version.
func newerSegment(t *testing.T, path string, segment wal.Segment) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path, segment.Name(segmentSize)))
	if err != nil {
		t.Fatal(err)
	}
	magic := func(pages int) (wal.Report, error) {
		for n := range pages {
			binary.LittleEndian.PutUint16(content[n*wal.PageSize:], 0xD11A)
		}
		return wal.VerifySegment(t.Context(), bytes.NewReader(content), segment, wal.Expect{SegmentSize: segmentSize})
	}
	if report, err := magic(1); err != nil || report.Complete {
		t.Errorf("a page with another magic: %+v, %v", report, err)
	}
	_, err = magic(segmentSize / wal.PageSize)
	if _, ok := errors.AsType[*wal.NewerError](err); !ok {
		t.Errorf("a segment of a newer version: %v", err)
	}
}

func segmentsIn(t *testing.T, path string) []wal.Segment {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var segments []wal.Segment
	for _, entry := range entries {
		if segment, ok := wal.ParseSegment(entry.Name(), segmentSize); ok {
			if segment.Name(segmentSize) != entry.Name() {
				t.Errorf("%s is %+v", entry.Name(), segment)
			}
			segments = append(segments, segment)
		}
	}
	return segments
}

// verifyEach looks at each segment alone: those before the end are complete.
func verifyEach(t *testing.T, path string, segments []wal.Segment, expect wal.Expect, whole wal.Report) {
	t.Helper()
	last := wal.SegmentAt(1, whole.End, segmentSize).Number
	for _, segment := range segments {
		if segment.Number < wal.SegmentAt(1, whole.First, segmentSize).Number {
			continue
		}
		content, err := os.ReadFile(filepath.Join(path, segment.Name(segmentSize)))
		if err != nil {
			t.Fatal(err)
		}
		report, err := wal.VerifySegment(t.Context(), bytes.NewReader(content), segment, expect)
		if err != nil || report.Complete != (segment.Number < last) || report.Complete && (report.Bad != nil || report.System != expect.System || report.Timeline != 1) {
			t.Errorf("%s: %+v, %v, %v", segment.Name(segmentSize), report, report.Bad, err)
		}
	}
}

// damageSegment damages copies of a segment everywhere.
func damageSegment(t *testing.T, path string, segment wal.Segment, expect wal.Expect) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path, segment.Name(segmentSize)))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(b []byte) []byte{
		"one bit in a record": func(b []byte) []byte { b[300000] ^= 4; return b },
		"a lost page":         func(b []byte) []byte { clear(b[40*8192 : 41*8192]); return b },
		"a page of another":   func(b []byte) []byte { copy(b[50*8192:51*8192], b[60*8192:]); return b },
		"the first page":      func(b []byte) []byte { b[3] ^= 0xff; return b },
		"cut":                 func(b []byte) []byte { return b[:500000] },
		"another server's":    func(b []byte) []byte { b[24] ^= 0xff; return b },
		"another version's":   func(b []byte) []byte { b[0] ^= 0x01; return b },
		"lost end":            func(b []byte) []byte { clear(b[100*8192:]); return b },
	} {
		report, err := wal.VerifySegment(t.Context(), bytes.NewReader(change(bytes.Clone(content))), segment, expect)
		if err != nil || report.Complete || report.Bad == nil || report.Bad.Reason == "" {
			t.Errorf("%s: %+v, %v, %v", name, report, report.Bad, err)
		}
		if (name == "one bit in a record" || name == "a lost page") && report.Continues == 0 {
			t.Errorf("%s: %+v, %v", name, report, report.Bad)
		}
	}
}

func flip(t *testing.T, name string, at int64) {
	t.Helper()
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := file.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// TestTimelines reads over the place where timelines part.
func TestTimelines(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	standby := server.Standby(t)
	start := position(t, standby, "SELECT redo_lsn::text FROM pg_control_checkpoint()")
	server.MustExec(t, "postgres", "CREATE TABLE t AS SELECT generate_series(1, 10000)")
	if err := standby.AwaitReplay(t.Context(), server); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	standby.MustExec(t, "postgres", "CREATE TABLE u AS SELECT generate_series(1, 100000)")
	standby.MustExec(t, "postgres", "SET synchronous_commit = on; CREATE TABLE v ()")
	end := position(t, standby, "SELECT pg_current_wal_flush_lsn()::text")
	if err := standby.Kill(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(standby.DataDirectory, "pg_wal")
	newest := func(number uint64) (*wal.File, error) {
		for _, timeline := range []uint32{2, 1} {
			if file, err := directory(path, timeline)(number); err == nil {
				return file, nil
			}
		}
		return nil, fmt.Errorf("segment %d: %w", number, fs.ErrNotExist)
	}
	expect := wal.Expect{Major: standby.Install.Major, SegmentSize: segmentSize}
	report, err := wal.Verify(t.Context(), start, expect, newest)
	if err != nil || report.End < end || report.Timeline != 2 || report.Continues != 0 {
		t.Errorf("%+v, %v, %v; the end was %s", report, report.Bad, err, end)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := wal.Verify(stopped, start, expect, newest); err == nil {
		t.Error("a cancelled reading goes on")
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"000000010000000A000000FF": true, "000000010000000000000100": false, "000000000000000000000001": false,
		"00000002.history": false, "000000010000000000000001.partial": false, "archive_status": false,
	} {
		if s, ok := wal.ParseSegment(name, 16<<20); ok != want || ok && s.Name(16<<20) != name {
			t.Errorf("%s: %+v, %v", name, s, ok)
		}
	}
	if _, ok := wal.ParseSegment("000000010000000A000000FF", 3000); ok {
		t.Error("segments of 3000 bytes")
	}
	s := wal.Segment{Timeline: 3, Number: 0xA000000FF}
	if !slices.Equal(wal.Gaps([]wal.Segment{s, {3, s.Number + 1}, {4, s.Number + 9}}), []wal.Gap(nil)) {
		t.Error("a gap between timelines")
	}
	if _, err := wal.ParsePosition("here"); err == nil {
		t.Error("a word is a position")
	}
}
