package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/page"
)

// logFiles looks for the files of a log, from oldest to next as range gives
// them. The range is asked anew before a missing file is reported, because
// VACUUM removes files.
func (r *clusterReader) logFiles(ctx context.Context, log cluster.Log, span func() (oldest, next uint32, err error)) error {
	oldest, next, err := span()
	if err != nil {
		return err
	}
	for name, least := range log.Files(oldest, next) {
		path := log.Directory + "/" + name
		wrong, err := twice(ctx, func() (string, error) {
			size, err := r.files.Size(ctx, path)
			if errors.Is(err, fs.ErrNotExist) {
				oldest, next, err := span()
				if _, needed := log.Files(oldest, next)[name]; err != nil || !needed {
					return "", err
				}
				return fmt.Sprintf("the file %s is missing, which holds %s", path, log.What), nil
			}
			if err == nil && (size < least || size%page.Size != 0) {
				return fmt.Sprintf("the file %s has %d bytes, but needs at least %d: %s is lost from there on", path, size, least, log.What), nil
			}
			return "", err
		})
		if err != nil {
			return err
		}
		if wrong != "" {
			r.damagedFile(path, wrong, fmt.Sprintf("What is not in memory any more fails: rows cannot be read or are seen wrongly, VACUUM fails, and the next start may. The file holds %s.", log.What), "log")
		}
	}
	return nil
}

// oldestXIDs are the oldest transaction and multixact that any database needs.
func (s *session) oldestXIDs(ctx context.Context) (xid, multi uint32, err error) {
	const sql = `SELECT (SELECT datfrozenxid::text::bigint FROM pg_database ORDER BY age(datfrozenxid) DESC LIMIT 1),
		(SELECT datminmxid::text::bigint FROM pg_database ORDER BY mxid_age(datminmxid) DESC LIMIT 1)`
	var x, m int64
	err = s.conn.QueryRow(ctx, sql).Scan(&x, &m)
	return uint32(x), uint32(m), err
}

// status looks at pg_xact: its files, and whether the status of transactions
// that ended before the last checkpoint is on disk.
func (r *clusterReader) status(ctx context.Context) error {
	log := cluster.Transactions
	err := r.logFiles(ctx, log, func() (uint32, uint32, error) {
		oldest, _, err := r.oldestXIDs(ctx)
		return oldest, r.control.NextTransaction(), err
	})
	if err != nil {
		return err
	}
	finished := r.control.OldestActive
	if r.control.Redo == r.control.Checkpoint {
		finished = r.control.NextTransaction() // the last checkpoint was that of a shutdown
	}
	oldest, _, err := r.oldestXIDs(ctx)
	if err != nil || finished == 0 {
		return err
	}
	for name := range log.Files(oldest, finished) {
		segment, _ := cluster.SegmentOf(name)
		path := log.Directory + "/" + name
		content, err := r.logFile(ctx, path)
		if err != nil {
			return err
		}
		problems := cluster.StatusProblems(content, segment, oldest, finished)
		if len(problems) == 0 {
			continue
		}
		pauseToConfirm(ctx)
		if content, err = datadir.ReadFile(ctx, r.files, path, 1<<18); err != nil {
			return err
		}
		for _, problem := range cluster.StatusProblems(content, segment, oldest, finished) {
			if slices.Contains(problems, problem) {
				r.damagedFile(path, problem, "Rows of these transactions are taken for aborted and are not seen, or are seen although they were rolled back; VACUUM removes them for good.", KindOf(problem))
			}
		}
	}
	return nil
}

// multixacts looks at pg_multixact: its files, and what those that the last
// checkpoint wrote say.
func (r *clusterReader) multixacts(ctx context.Context) error {
	span := func() (uint32, uint32, error) {
		_, oldest, err := r.oldestXIDs(ctx)
		return oldest, r.control.NextMulti, err
	}
	if err := r.logFiles(ctx, cluster.MultiOffsets, span); err != nil {
		return err
	}
	oldest, next, err := span()
	if err != nil {
		return err
	}
	first, err := r.firstMember(ctx, oldest)
	if err != nil {
		return err
	}
	sane := true
	for name := range cluster.MultiOffsets.Files(oldest, next) {
		segment, _ := cluster.SegmentOf(name)
		path := cluster.MultiOffsets.Directory + "/" + name
		wrong, err := twice(ctx, func() (string, error) {
			content, err := r.logFile(ctx, path)
			if err != nil {
				return "", err
			}
			if wrong := cluster.OffsetsProblem(content, segment, oldest, next, first, r.control.NextMultiOffset); wrong != "" {
				sane = false
				return wrong, nil
			}
			lost, err := r.lostMembers(ctx, content, segment, oldest, next)
			return cluster.MembersProblem(lost), err
		})
		if err != nil {
			return err
		}
		if wrong != "" {
			r.damagedFile(path, wrong, "Rows that several transactions have locked or updated cannot be read or updated, or seem to be locked by nobody or by the wrong ones; VACUUM fails on them.", "multixacts")
		}
	}
	if !sane {
		return nil // nobody knows where members begin and end
	}
	return r.logFiles(ctx, cluster.MultiMembers, func() (uint32, uint32, error) {
		oldest, _, err := span()
		if err != nil {
			return 0, 0, err
		}
		first, err := r.firstMember(ctx, oldest)
		if err != nil || first == 0 {
			return 0, 0, err
		}
		return first, r.control.NextMultiOffset, nil
	})
}

// firstMember is where the members of the oldest multixact begin; 0 is that there is
// none, or that it is not known.
func (r *clusterReader) firstMember(ctx context.Context, oldest uint32) (uint32, error) {
	if oldest == r.control.NextMulti {
		return 0, nil
	}
	path, _ := cluster.MultiOffsets.Place(oldest)
	content, err := r.logFile(ctx, path)
	if err != nil {
		return 0, err
	}
	first, _ := cluster.OffsetOf(content, oldest)
	return first, nil
}

// logFile reads one file of a log; one that is missing, which logFiles tells of, is
// empty.
func (r *clusterReader) logFile(ctx context.Context, path string) ([]byte, error) {
	started := time.Now()
	content, err := datadir.ReadFile(ctx, r.files, path, 1<<18)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	r.throttle(ctx, started, int64(len(content)))
	return content, err
}

// lostMembers gives the multixacts in the contents of a file of pg_multixact/offsets
// whose members were lost. Of the last before the checkpoint the server is asked, too.
func (r *clusterReader) lostMembers(ctx context.Context, offsets []byte, segment, oldest, next uint32) ([]uint32, error) {
	var failed error
	lost := cluster.LostMembers(offsets, segment, oldest, next, r.control.NextMultiOffset, func(path string) []byte {
		members, err := r.logFile(ctx, path)
		failed = errors.Join(failed, err)
		return members
	})
	if failed != nil {
		return nil, failed
	}
	return slices.DeleteFunc(lost, func(multi uint32) bool {
		if next-multi > cluster.UnderWay {
			return false
		}
		const sql = "SELECT coalesce(bool_and(xid::text::bigint >= 3), false) FROM pg_get_multixact_members($1::text::xid)"
		var whole bool
		err := r.conn.QueryRow(ctx, sql, strconv.FormatUint(uint64(multi), 10)).Scan(&whole)
		return err == nil && whole
	}), ctx.Err()
}

// commitTimes looks at pg_commit_ts.
func (r *clusterReader) commitTimes(ctx context.Context) error {
	if !r.control.TrackCommitTS || r.control.OldestCommitTS == 0 || r.control.NewestCommitTS == 0 {
		return nil
	}
	return r.logFiles(ctx, cluster.CommitTimestamps, func() (uint32, uint32, error) {
		// VACUUM may have removed what the last checkpoint still had.
		oldest, _, err := r.oldestXIDs(ctx)
		if err != nil || int32(oldest-r.control.OldestCommitTS) < 0 {
			oldest = r.control.OldestCommitTS
		}
		if int32(r.control.NewestCommitTS-oldest) < 0 {
			return 0, 0, err
		}
		return oldest, r.control.NewestCommitTS + 1, err
	})
}
