package offline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/cluster"
)

// prepared looks at the files of prepared transactions.
func (r *run) prepared(context.Context) error {
	names, err := r.list("pg_twophase")
	if err != nil {
		return err
	}
	for _, name := range names {
		xid, ok := cluster.TwoPhaseXID(name)
		if !ok {
			continue
		}
		path := "pg_twophase/" + name
		content, err := r.readFile(path, 1<<30)
		if err != nil {
			r.problem("", err)
			continue
		}
		if _, err := cluster.DecodeTwoPhase(content, name); err != nil {
			r.found(atRecovery, critical(path, fmt.Sprintf("the file %s of the prepared transaction %d is damaged: %v", path, xid, err),
				"The server does not start; the transaction was promised to its transaction manager and can no longer be committed.",
				copyFirst+"Ask the transaction manager what became of the transaction. "+restore), "twophase")
		}
	}
	return nil
}

// slru looks for the files of a log that must be there.
func (r *run) slru(log cluster.Log, oldest, next uint32, at stage, action string) {
	present, err := r.list(log.Directory)
	if err != nil {
		r.problem(log.Directory, err)
		return
	}
	files := log.Files(oldest, next)
	// The control file can be older than the last truncation when the server did
	// not shut down cleanly: then what is missing in front of all files counts not.
	front := !r.control.State.Clean()
	for _, name := range sortedFiles(files) {
		path := log.Directory + "/" + name
		if !slices.Contains(present, name) {
			if front {
				continue
			}
			r.found(at, critical(path, fmt.Sprintf("the file %s is missing, which holds %s", path, log.What), missingStatus(log), action), "missing")
			continue
		}
		front = false
		info, err := os.Stat(r.path(path))
		if err != nil {
			r.problem("", err)
			continue
		}
		if !info.Mode().IsRegular() {
			r.found(at, critical(path, fmt.Sprintf("%s cannot be read: it is no file; it should hold %s", path, log.What), missingStatus(log), action), "unreadable")
			continue
		}
		if size := info.Size(); size < files[name] || size%8192 != 0 {
			r.found(at, critical(path, fmt.Sprintf("the file %s has %d bytes, but needs at least %d: %s is lost from there on", path, size, files[name], log.What), missingStatus(log), action), "short")
		}
	}
}

func missingStatus(log cluster.Log) string {
	return fmt.Sprintf("The server does not know %s there: rows fail to be read or are seen wrongly, VACUUM fails, and the server may not start.", log.What)
}

// sortedFiles gives the names in an order in which a run of numbers that has
// wrapped around begins with the oldest.
func sortedFiles(files map[string]int64) []string {
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// transactions looks at pg_xact.
func (r *run) transactions(context.Context) error {
	if !r.known {
		return nil
	}
	action := copyFirst + "Do not make the file up with zeroes: transactions without a status count as aborted, so committed rows vanish. " + restore
	log := cluster.Transactions
	r.slru(log, r.control.OldestXID, r.control.NextTransaction(), atRecovery, action)
	finished := r.control.OldestActive
	if r.control.State.Clean() {
		finished = r.control.NextTransaction()
	}
	if finished == 0 {
		return nil
	}
	for _, name := range sortedFiles(log.Files(r.control.OldestXID, r.control.NextTransaction())) {
		segment, _ := cluster.SegmentOf(name)
		content, err := r.readFile(log.Directory+"/"+name, 1<<19)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			r.problem("", err)
			continue
		}
		for _, text := range cluster.StatusProblems(content, segment, r.control.OldestXID, finished) {
			r.found(never, critical(log.Directory+"/"+name, text, "Rows of these transactions are taken for aborted and are not seen, or are seen although they were rolled back; VACUUM removes them for good.",
				copyFirst+"Do not start the server: VACUUM makes the loss final. "+restore), check.KindOf(text))
		}
	}
	return nil
}

// multixacts looks at pg_multixact.
func (r *run) multixacts(context.Context) error {
	if !r.known {
		return nil
	}
	action := copyFirst + restore
	r.slru(cluster.MultiOffsets, r.control.OldestMulti, r.control.NextMulti, atRecovery, action)
	if r.control.OldestMulti == r.control.NextMulti {
		return nil
	}
	first, ok := r.multiOffset(r.control.OldestMulti)
	sane := ok && first != 0
	for _, name := range sortedFiles(cluster.MultiOffsets.Files(r.control.OldestMulti, r.control.NextMulti)) {
		segment, _ := cluster.SegmentOf(name)
		path := cluster.MultiOffsets.Directory + "/" + name
		content, err := r.readFile(path, 1<<19)
		if err != nil {
			continue // told above
		}
		problem := cluster.OffsetsProblem(content, segment, r.control.OldestMulti, r.control.NextMulti, first, r.control.NextMultiOffset)
		if sane = sane && problem == ""; problem == "" {
			problem = cluster.MembersProblem(r.lostMembers(content, segment))
		}
		if problem != "" {
			r.found(never, critical(path, problem, "Rows that several transactions have locked cannot be read or updated, or seem to be locked by the wrong ones.", action), "offsets")
		}
	}
	if sane { // else nobody knows where members begin and end
		r.slru(cluster.MultiMembers, first, r.control.NextMultiOffset, atRecovery, action)
	}
	return nil
}

// lostMembers gives the multixacts in the contents of a file of pg_multixact/offsets
// whose members were lost.
func (r *run) lostMembers(offsets []byte, segment uint32) []uint32 {
	lost := cluster.LostMembers(offsets, segment, r.control.OldestMulti, r.control.NextMulti, r.control.NextMultiOffset, func(path string) []byte {
		members, err := r.readFile(path, 1<<19)
		if err != nil {
			return nil // told above
		}
		return members
	})
	if r.control.State.Clean() {
		return lost
	}
	return slices.DeleteFunc(lost, func(multi uint32) bool { return r.control.NextMulti-multi <= cluster.UnderWay })
}

// multiOffset reads where the members of a multixact begin.
func (r *run) multiOffset(multi uint32) (uint32, bool) {
	path, _ := cluster.MultiOffsets.Place(multi)
	content, err := r.readFile(path, 1<<19)
	if err != nil {
		return 0, false
	}
	return cluster.OffsetOf(content, multi)
}

// commitTimes looks at pg_commit_ts.
func (r *run) commitTimes(context.Context) error {
	if !r.known || !r.control.TrackCommitTS || r.control.OldestCommitTS == 0 || r.control.NewestCommitTS == 0 {
		return nil
	}
	r.slru(cluster.CommitTimestamps, r.control.OldestCommitTS, r.control.NewestCommitTS+1, never,
		"Turn track_commit_timestamp off if nobody needs the times; else restore a base backup.")
	return nil
}
