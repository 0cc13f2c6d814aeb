package guard

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"pg_integrity_exporter/internal/state"
)

// keptRuns is how many ended runs keep their files.
const keptRuns = 200

// countsKind is the kind of the document that counts the runs whose journals
// were removed.
const countsKind = "guard_counts"

// Count is how many runs of a task ended with an outcome.
type Count struct {
	Task    Task    `json:"task"`
	Outcome Outcome `json:"outcome"`
	Runs    uint64  `json:"runs"`
}

// Counts counts all runs of a target, also those whose journals are gone, and
// those that have left something nobody has dealt with.
func Counts(files *state.Files) (counts map[Task]map[Outcome]uint64, owed int, err error) {
	counts = make(map[Task]map[Outcome]uint64)
	for _, task := range Tasks() {
		counts[task] = make(map[Outcome]uint64)
	}
	var old []Count
	if _, err := files.Get(countsKind, "removed", &old); err != nil {
		return nil, 0, err
	}
	for _, c := range old {
		if counts[c.Task] != nil {
			counts[c.Task][c.Outcome] += c.Runs
		}
	}
	runs, err := Runs(files)
	if err != nil {
		return nil, 0, err
	}
	for _, run := range runs {
		if run.Owed() {
			owed++
		}
		if run.Outcome != "" && counts[run.Task] != nil {
			counts[run.Task][run.Outcome]++
		}
	}
	return counts, owed, nil
}

// count removes the files of the oldest runs, and counts them before. A guard
// that dies in between counts a run twice at most.
func (r *run) count() {
	runs, err := Runs(r.options.Files)
	if err != nil {
		r.options.Logger.Error("the journals cannot be read", "err", err)
		return
	}
	ended := slices.DeleteFunc(runs, func(s RunState) bool { return s.Finished.IsZero() || s.Owed() })
	for len(ended) > keptRuns {
		if err := forget(r.options.Files, ended[0]); err != nil {
			r.options.Logger.Error("an old journal is not removed", "err", err)
			return
		}
		ended = ended[1:]
	}
}

func forget(files *state.Files, run RunState) error {
	var old []Count
	if _, err := files.Get(countsKind, "removed", &old); err != nil {
		return err
	}
	i := slices.IndexFunc(old, func(c Count) bool { return c.Task == run.Task && c.Outcome == run.Outcome })
	if i < 0 {
		old = append(old, Count{Task: run.Task, Outcome: run.Outcome})
		i = len(old) - 1
	}
	old[i].Runs++
	if err := files.Put(countsKind, "removed", old); err != nil {
		return err
	}
	paths, err := filepath.Glob(filepath.Join(directory(files), run.ID+".*"))
	if err != nil {
		return fmt.Errorf("looking for the files of a run: %w", err)
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing the files of a run: %w", err)
		}
	}
	return nil
}
