package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/internal/page"
)

// checksumCheck verifies the data checksums of tables and indexes and nothing else, in
// the kindest way that there is: by the files, where they are on this machine; through
// the server's functions for files; or by a base backup that the server throws away.
// It is cheap enough to run often between two runs of the check page, which verifies
// them, too.
func checksumCheck() Check {
	return Check{
		Name:     "checksum",
		Question: "Are all pages on disk as the server wrote them, by their data checksums?",
		Kinds:    []Kind{{ClassCorruption, SeverityCritical}},
		Interval: 6 * time.Hour,
		Needs:    "data checksums; and the data directory on the exporter's machine, readable for it, or EXECUTE on pg_read_binary_file and pg_stat_file, or (15+) REPLICATION",
		Locks:    "none on relations",
		run:      runChecksum,
	}
}

func runChecksum(ctx context.Context, s *session) error {
	if !s.conn.Facts.DataChecksums || !s.scope.Scheduled && s.scope.Heaps.read() {
		return nil // there are none, or the check page has just verified them
	}
	r, err := s.reader(ctx)
	if err != nil {
		return err
	}
	if r == nil {
		return s.verifyByBackup(ctx)
	}
	defer r.files.Close()
	r.plain = true
	if len(r.workers) > 1 { // while one waits to be told of, another reads
		status := newStatuses(r.files, r.horizon)
		r.workers = append(r.workers, newWorker(r, status), newWorker(r, status))
	}
	forks, err := r.forks(ctx)
	if err != nil {
		return err
	}
	return forks.each(ctx, func(f *fork) error { return r.sums(ctx, f) })
}

// sums verifies the checksums of one relation. What is wrong with the files themselves
// is told by the check page.
func (r *reader) sums(ctx context.Context, f *fork) error {
	var segments []uint32
	for segment := uint32(0); ; segment++ {
		size, err := r.files.Size(ctx, segmentName(f.Path, segment))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		segments = append(segments, uint32(min(size/page.Size, segmentBlocks)))
	}
	before := len(r.result.Findings)
	r.sight = sight{}
	first, clean := r.startAt(f.Name.String())
	whole, err := r.walk(ctx, f, segments, first, func(block uint32) {
		r.reached(ctx, f.Name.String(), block, !clean || len(r.result.Findings) > before)
	})
	if err == nil && whole {
		r.looked(f.Name)
	}
	return err
}

// mayBackUpSQL says whether the role may ask for a base backup.
const mayBackUpSQL = "SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user"

// inWarning finds the file, and the block behind it, in a warning of a base backup,
// whatever its language.
var inWarning = regexp.MustCompile(`((?:base/\d+|global|pg_tblspc/\d+/PG_[^/"\s]+/\d+)/(\d+)(?:_\w+)?(?:\.(\d+))?)"?\D*(\d+)?`)

// verifyByBackup lets the server verify the whole cluster, in the run of the target's
// own database: the files cannot be read from here.
func (s *session) verifyByBackup(ctx context.Context) error {
	var may bool
	if err := s.conn.QueryRow(ctx, mayBackUpSQL).Scan(&may); err != nil {
		return fmt.Errorf("asking for the role's rights: %w", err)
	}
	if s.conn.Facts.VersionNum < 150000 || !may || s.skipped == "" {
		return nil // the reason is noted
	}
	if s.database != "" && s.database != s.home {
		s.skipped = "" // the run in that database verifies this one
		return nil
	}
	if s.scope.Pace != nil {
		s.scope.Pace(ctx) // a backup cannot pause, so it does not begin under pressure
	}
	warnings := make(map[string]string)
	s.conn.Close() // the backup takes its place
	err := s.target.VerifyByBackup(ctx, s.scope.RateLimit, func(message string) {
		if m := inWarning.FindStringSubmatch(message); m != nil && warnings[m[1]] == "" {
			warnings[m[1]] = message
		}
	})
	conn, connectErr := s.connect(ctx)
	if connectErr != nil {
		s.blamed = true // no statement ended the session
		return connectErr
	}
	s.conn = conn
	if err != nil && (len(warnings) == 0 || judge(err) != damaged) {
		s.skipped += "; and a base backup to verify it fails: " + text(err)
		return nil // the reason is noted
	}
	s.skipped = ""
	for path, message := range warnings {
		if err := s.foundByBackup(ctx, path, message); err != nil {
			return err
		}
	}
	return nil
}

// foundByBackup reports a file in which a base backup found wrong pages.
func (s *session) foundByBackup(ctx context.Context, path, message string) error {
	m := inWarning.FindStringSubmatch(message)
	f := Finding{
		Class: ClassCorruption, Severity: SeverityCritical, Relation: path, SQLState: "XX001", Message: message,
		Impact: pageImpact,
		Action: heapAction,
	}
	const nameSQL = `SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE pg_relation_filepath(c.oid) = regexp_replace($1, '(_[a-z]+)?(\.\d+)?$', '')`
	rows, err := s.conn.Query(ctx, nameSQL, path)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := rows.Scan(&f.Schema, &f.Relation); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if block, err := strconv.ParseUint(m[4], 10, 32); err == nil && !strings.Contains(path, "_") {
		block := uint32(block)
		f.Block = &block
	}
	s.found(f, "checksum")
	return nil
}
