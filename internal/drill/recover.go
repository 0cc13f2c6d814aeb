package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/wal"
)

// recovered is how far recovery came.
type recovered struct {
	version  int
	position wal.Position
	timeline uint32
	point    *time.Time
}

// recover starts the scratch server on the restored files and waits until it
// has recovered and accepts connections.
func (d *drill) recover(ctx context.Context, r restored) (recovered, error) {
	command := r.command
	if command == "" {
		command = "false" // recovery needs one; what the backup holds itself is found without
	}
	s := d.server
	err := s.configure(d.major, map[string]string{"restore_command": command}, d.options.Target.settings(), d.options.Settings)
	if err != nil {
		return recovered{}, err
	}
	signal := filepath.Join(d.scratch.data(), "recovery.signal")
	if err := errors.Join(os.WriteFile(signal, nil, 0o600), d.scratch.runner.own(signal)); err != nil {
		return recovered{}, fmt.Errorf("preparing recovery: %w", err)
	}
	if err := s.ready(ctx, d.roles()); err != nil {
		return recovered{}, noSpaceText(err)
	}
	return s.reached()
}

var (
	redoDone     = regexp.MustCompile(`redo done at ([0-9A-F]+/[0-9A-F]+)`)
	newTimeline  = regexp.MustCompile(`selected new timeline ID: (\d+)`)
	lastComplete = regexp.MustCompile(`last completed transaction was at log time (.+)`)
)

// reached is what the server and its log say of the recovery.
func (s *server) reached() (recovered, error) {
	r := recovered{version: s.said.Version, point: s.said.Point}
	position, log := s.said.Position, s.log()
	if match := redoDone.FindStringSubmatch(log); position == "" && match != nil {
		position = match[1]
	}
	if position != "" {
		var err error
		if r.position, err = wal.ParsePosition(position); err != nil {
			return r, err
		}
	}
	if match := lastComplete.FindStringSubmatch(log); r.point == nil && match != nil {
		if moment, err := time.Parse("2006-01-02 15:04:05.999999-07", match[1]); err == nil {
			r.point = &moment
		}
	}
	if match := newTimeline.FindStringSubmatch(log); match != nil {
		timeline, err := strconv.ParseUint(match[1], 10, 32)
		if err == nil && timeline > 0 {
			r.timeline = uint32(timeline)
		}
	}
	return r, nil
}

// lost looks for WAL in the archive that recovery should have replayed and did
// not: it ends silently at a missing or damaged segment.
func (d *drill) lost(ctx context.Context, b recovery.Backup, r recovered) ([]recovery.Problem, error) {
	a := d.inventory.Archive
	if problem, ends := d.inventory.ArchiveEnds(b); ends && d.options.Target.latest() {
		return []recovery.Problem{problem}, nil
	}
	if a == nil || !d.options.Target.latest() || r.position == 0 || len(a.Segments) == 0 || b.Timeline == 0 {
		return nil, nil
	}
	reach := a.Reach(b.Timeline, b.Start)
	if reach.Gap != nil {
		return []recovery.Problem{{
			Kind: recovery.ProblemWALGap, Object: reach.Gap.Name(a.SegmentSize),
			Message: fmt.Sprintf("is missing in the archive: recovery ended at %s, and %d later segments are lost", r.position, reach.Behind),
		}}, nil
	}
	// What comes behind the segment in which recovery ended, and that segment
	// itself, must be readable to the end.
	number := uint64(r.position) / uint64(a.SegmentSize)
	for _, s := range a.Segments {
		if s.Timeline != reach.Timeline || s.Number < number {
			continue
		}
		problem, err := a.VerifySegment(ctx, s)
		if recovery.NotReadable(err) {
			problem, err = "", nil
		}
		if err != nil {
			return nil, fmt.Errorf("looking at %s: %w", s.Path, err)
		}
		if problem == "" && s.Number > number {
			problem = "was not replayed"
		}
		if problem != "" {
			return []recovery.Problem{{
				Kind: recovery.ProblemWALDamaged, Object: s.Name(a.SegmentSize),
				Message: fmt.Sprintf("%s: recovery ended at %s, before the end of the archive at %s", problem, r.position, reach.Position),
			}}, nil
		}
	}
	return nil, nil
}
