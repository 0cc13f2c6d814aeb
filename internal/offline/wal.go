package offline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/wal"
)

const walAction = copyFirst + "Look for the segment in the WAL archive and on standbys, and put it back. Do not use pg_resetwal: it throws away what was committed and leaves the rest inconsistent. If the segment is nowhere: restore a base backup, or promote a standby."

// wal follows the WAL as the next start will.
func (r *run) wal(ctx context.Context) error {
	switch {
	case r.running:
		r.skipped = "a server seems to run in the directory and is writing its WAL"
		return nil
	case !r.known || r.major == 0:
		r.skipped = "without a sane control file it is not known where the WAL begins"
		return nil
	case r.control.WALPageSize != wal.PageSize:
		r.skipped = fmt.Sprintf("WAL pages of %d bytes are not supported, only of %d", r.control.WALPageSize, wal.PageSize)
		return nil
	}
	names, err := r.list("pg_wal")
	if err != nil {
		return err
	}
	size := int64(r.control.WALSegmentSize)
	var segments []wal.Segment
	for _, name := range names {
		if segment, ok := wal.ParseSegment(name, size); ok {
			segments = append(segments, segment)
		}
	}
	r.result.Objects = len(segments)
	start, end := r.control.Redo, r.control.Checkpoint
	timeline := r.control.Timeline
	if r.label != nil {
		start, end = r.label.Start, r.label.Checkpoint
		if r.label.Timeline != 0 {
			timeline = r.label.Timeline
		}
	}
	// What recovery fetches from elsewhere is not missing here.
	fetches := (r.exists("recovery.signal") || r.exists("standby.signal")) &&
		(r.parameter("restore_command", "") != "" || r.parameter("primary_conninfo", "") != "")
	opener := r.opener(segments)
	r.opened = opener
	expect := wal.Expect{Major: r.major, System: r.control.System, SegmentSize: size}
	if !r.checkpoint(end, expect, opener, fetches) {
		return nil
	}
	report, err := wal.Verify(ctx, start, expect, opener)
	r.throttle(ctx, int(report.Bytes))
	if err != nil {
		return err
	}
	r.judge(report, end, timeline, fetches)
	r.gaps(segments)
	return nil
}

// opener opens segments of pg_wal on the timeline on which recovery reads them:
// the newest of those that lead to the present one.
func (r *run) opener(segments []wal.Segment) wal.Opener {
	size := int64(r.control.WALSegmentSize)
	wanted := r.timelines()
	return func(number uint64) (*wal.File, error) {
		var best *wal.Segment
		for _, s := range segments {
			if s.Number == number && slices.Contains(wanted, s.Timeline) && (best == nil || s.Timeline > best.Timeline) {
				best = &s
			}
		}
		if best == nil {
			return nil, fmt.Errorf("segment %d: %w", number, fs.ErrNotExist)
		}
		file, err := os.Open(r.path("pg_wal/" + best.Name(size)))
		if err != nil {
			return nil, err
		}
		return &wal.File{ReaderAt: file, Closer: file, Segment: *best}, nil
	}
}

// timelines lists the timeline that recovery follows and those before it.
func (r *run) timelines() []uint32 {
	newest := max(r.control.MinRecoveryTL, r.control.Timeline)
	if r.exists("recovery.signal") || r.exists("standby.signal") {
		newest = r.newestHistory(newest)
	}
	list := []uint32{newest, r.control.Timeline}
	if content, err := r.readFile("pg_wal/"+cluster.HistoryName(newest), 1<<20); err == nil {
		if entries, err := cluster.DecodeHistory(content, newest); err == nil {
			for _, e := range entries {
				list = append(list, e.Timeline)
			}
		}
	}
	return list
}

// newestHistory is the newest timeline that has a history here.
func (r *run) newestHistory(least uint32) uint32 {
	names, err := r.list("pg_wal")
	if err != nil {
		return least
	}
	for _, name := range names {
		text, ok := strings.CutSuffix(name, ".history")
		if n, err := strconv.ParseUint(text, 16, 32); ok && err == nil && uint32(n) > least {
			least = uint32(n)
		}
	}
	return least
}

// checkpoint reads the record of the checkpoint that the start begins with.
func (r *run) checkpoint(at wal.Position, expect wal.Expect, open wal.Opener, fetches bool) bool {
	record, bad, err := wal.ReadRecord(at, expect, open)
	if err != nil {
		r.problem("pg_wal", err)
		return false
	}
	segment := wal.SegmentAt(r.control.Timeline, at, expect.SegmentSize).Name(expect.SegmentSize)
	if bad == nil {
		if is, _ := record.Checkpoint(); is {
			return true
		}
		bad = &wal.BadError{Position: at, Reason: "the record is no checkpoint"}
	}
	if bad.Missing && fetches {
		r.skipped = fmt.Sprintf("the WAL from %s on is not here; recovery will fetch it", at)
		return false
	}
	where := "the last checkpoint"
	action := walAction
	if r.label != nil {
		where = "the checkpoint that backup_label names"
		action = "If this is a restored base backup: make recovery.signal and set restore_command, or put the backup's WAL into pg_wal. " +
			"Remove backup_label only if this is the original data directory of a server that crashed during an exclusive backup (before PostgreSQL 15), never in a restored copy: without it a copy starts and is corrupt."
	}
	r.found(atRecovery, critical("pg_wal/"+segment, fmt.Sprintf("%s cannot be read at %s: %s", where, at, bad.Reason), "The server does not start: it does not find where to begin.", action), "checkpoint")
	return false
}

// judge says what the end of the WAL means.
func (r *run) judge(report wal.Report, checkpoint wal.Position, timeline uint32, fetches bool) {
	size := int64(r.control.WALSegmentSize)
	if !fetches && r.label == nil {
		r.walEnd = report.End
	}
	bad := report.Bad
	segment := "pg_wal/" + wal.SegmentAt(max(report.Timeline, timeline), bad.Page, size).Name(size)
	least, why := checkpoint, "the last checkpoint"
	if r.control.MinRecovery > least {
		least, why = r.control.MinRecovery, "the least point that this standby must recover to (the control file's minimum recovery point)"
	}
	if r.control.BackupEnd > least {
		least, why = r.control.BackupEnd, "the end of the backup"
	}
	switch {
	case fetches: // and has it from elsewhere, where it is whole
	case report.Last.Start < checkpoint || report.End < least:
		r.found(atRecovery, critical(segment, fmt.Sprintf("the WAL can be read only up to %s (%s), not to %s at %s", report.End, bad.Reason, why, least),
			"The server does not start, or starts without what was committed behind that place and with files that are newer than its WAL.", walAction), "short")
	case report.Continues != 0 && !r.control.State.Clean():
		r.found(never, critical(segment, fmt.Sprintf("the WAL is damaged at %s (%s), but goes on at %s", bad.Position, bad.Reason, report.Continues),
			"The server takes this for the end of the WAL and starts without a word: everything that was committed behind it is lost.",
			"Do not start the server. "+walAction), "hole")
	}
	if r.control.State == cluster.ShutDown && r.label == nil && report.Records > 1 && !fetches {
		// Behind the checkpoint of a shutdown nothing is written.
		r.found(never, check.Finding{
			Class: check.ClassCorruption, Severity: check.SeverityCritical, Relation: cluster.ControlFile,
			Message: fmt.Sprintf("the control file says that the server was shut down at %s, but the WAL goes on to %s: the control file, or the whole data directory, is older than the WAL", r.control.Checkpoint, report.End),
			Impact:  "A start writes over the WAL behind that checkpoint: what was committed there is lost.",
			Action:  "Do not start the server. " + copyFirst + "Find out which files were put back, and restore as a whole: base backup, then recovery from the archive.",
		}, "behind")
	}
}

// gaps reports segments that are missing in the middle of pg_wal, behind where
// the start begins.
func (r *run) gaps(segments []wal.Segment) {
	size := int64(r.control.WALSegmentSize)
	from := uint64(r.control.Redo) / uint64(size)
	for _, gap := range wal.Gaps(segments) {
		if gap.First.Timeline != r.control.Timeline || gap.Last.Number < from || !r.written(gap.Last.Number+1) {
			continue
		}
		r.found(never, critical("pg_wal/"+gap.First.Name(size), fmt.Sprintf("the WAL segments %s to %s are missing between others", gap.First.Name(size), gap.Last.Name(size)),
			"The server takes the last segment before the gap for the end of its WAL and starts without what was committed behind it.", "Do not start the server. "+walAction), "gap")
	}
}

// written says that a segment holds WAL of its own place, and is not a file
// that waits for its next use.
func (r *run) written(number uint64) bool {
	file, err := r.opener([]wal.Segment{{Timeline: r.control.Timeline, Number: number}})(number)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.problem("pg_wal", err)
		}
		return false
	}
	defer file.Close() //nolint:errcheck // read only
	report, err := wal.VerifySegment(context.Background(), file, file.Segment, wal.Expect{SegmentSize: int64(r.control.WALSegmentSize)})
	return err == nil && report.Records > 0
}
