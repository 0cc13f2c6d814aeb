package offline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/conf"
)

// slots looks at the state of replication slots.
func (r *run) slots(context.Context) error {
	names, err := r.list("pg_replslot")
	if err != nil || r.major == 0 {
		return err
	}
	var persistent []conf.Slot
	for _, name := range names {
		if strings.HasSuffix(name, ".tmp") {
			continue // removed at the start
		}
		if info, err := os.Stat(r.path("pg_replslot/" + name)); err != nil || !info.IsDir() {
			continue
		}
		path := "pg_replslot/" + name + "/state"
		content, err := r.readFile(path, 1<<16)
		action := "Copy the directory of the slot away, then remove it from pg_replslot: the slot is lost, so its standby or subscriber must be looked at and perhaps made anew."
		if errors.Is(err, fs.ErrNotExist) {
			r.found(atRecovery, critical(path, "the replication slot "+name+" has no state file", "The server does not start (PANIC).", action), "slot")
			continue
		}
		if err != nil {
			r.problem("", err)
			continue
		}
		slot, err := cluster.DecodeSlot(content, r.major, name)
		if err != nil {
			r.found(atRecovery, critical(path, fmt.Sprintf("the state of the replication slot %s is damaged: %v", name, err), "The server does not start (PANIC).", action), "slot")
			continue
		}
		if slot.Persistent {
			persistent = append(persistent, conf.Slot{Name: slot.Name, Logical: slot.Logical})
		}
	}
	start := r.start()
	start.Recovering = r.exists("standby.signal")
	r.misfits(atRecovery, start.Slots(persistent))
	return nil
}

// logical looks at what logical replication keeps.
func (r *run) logical(context.Context) error {
	const origins = "pg_logical/replorigin_checkpoint"
	if content, err := r.readFile(origins, 1<<24); err == nil {
		if problem := cluster.OriginsProblem(content); problem != "" {
			r.found(atRecovery, critical(origins, fmt.Sprintf("the progress of subscriptions in %s is damaged: %s", origins, problem), "The server does not start (PANIC).",
				copyFirst+"Subscriptions cannot tell any more what they have applied: after the file is moved away they must be made anew, or rows are applied twice."), "origins")
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		r.problem("", err)
	}
	return r.wholeFiles("pg_logical/snapshots", func(name string) bool { return strings.HasSuffix(name, ".snap") }, cluster.LogicalSnapshotProblem, "snapshot", func(path, problem string) check.Finding {
		return check.Finding{
			Class: check.ClassCorruption, Severity: check.SeverityWarning, Relation: path,
			Message: fmt.Sprintf("the snapshot %s of logical decoding is damaged: %s", path, problem),
			Impact:  "A logical slot that starts decoding there fails; the data itself is not touched.",
			Action:  "Keep a copy. If a subscription fails with this file in its message, move the file away: decoding then builds a snapshot anew, further on.",
		}
	})
}

// summaries looks at the summaries of WAL.
func (r *run) summaries(context.Context) error {
	return r.wholeFiles(cluster.SummariesDirectory, cluster.IsSummary, cluster.SummaryProblem, "summary", func(path, problem string) check.Finding {
		return check.Finding{
			Class: check.ClassRecoverability, Severity: check.SeverityWarning, Relation: path,
			Message: fmt.Sprintf("a summary of WAL is damaged: the file %s: %s", path, problem),
			Impact:  check.SummaryImpact, Action: check.SummaryAction,
		}
	})
}

// wholeFiles looks at the files of a directory that the server writes as a whole and that
// no start needs.
func (r *run) wholeFiles(directory string, is func(name string) bool, problem func(content []byte) string, kind string, finding func(path, problem string) check.Finding) error {
	names, err := r.list(directory)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !is(name) {
			continue
		}
		path := directory + "/" + name
		content, err := r.readFile(path, 1<<28)
		if err != nil {
			r.problem("", err)
			continue
		}
		if text := problem(content); text != "" {
			r.found(never, finding(path, text), kind)
		}
	}
	return nil
}
