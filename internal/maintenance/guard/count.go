package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

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

// Counter counts the runs of a target. It reads a journal again only when that has
// changed, or when its guard is alive or has died, which the journal does not tell.
type Counter struct {
	files *state.Files

	mu    sync.Mutex
	known map[string]countedRun // by path
}

// countedRun is what a journal said when it had this size and time.
type countedRun struct {
	size     int64
	modified time.Time
	task     Task
	outcome  Outcome
	owed     bool
}

// NewCounter counts the runs of a target.
func NewCounter(files *state.Files) *Counter {
	return &Counter{files: files, known: make(map[string]countedRun)}
}

// Counts counts all runs, also those whose journals are gone, and those that have
// left something nobody has dealt with.
func (c *Counter) Counts() (counts map[Task]map[Outcome]uint64, owed int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts = make(map[Task]map[Outcome]uint64)
	for _, task := range Tasks() {
		counts[task] = make(map[Outcome]uint64)
	}
	var old []Count
	if _, err := c.files.Get(countsKind, "removed", &old); err != nil {
		return nil, 0, err
	}
	for _, o := range old {
		if counts[o.Task] != nil {
			counts[o.Task][o.Outcome] += o.Runs
		}
	}
	paths, err := journals(c.files)
	if err != nil {
		return nil, 0, err
	}
	maps.DeleteFunc(c.known, func(path string, _ countedRun) bool { return !slices.Contains(paths, path) })
	for _, path := range paths {
		run, err := c.read(path)
		if err != nil {
			return nil, 0, err
		}
		if run.owed {
			owed++
		}
		if run.outcome != "" && counts[run.task] != nil {
			counts[run.task][run.outcome]++
		}
	}
	return counts, owed, nil
}

// read reads one journal, if need be.
func (c *Counter) read(path string) (countedRun, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return countedRun{}, nil // it was removed just now
	}
	if err != nil {
		return countedRun{}, fmt.Errorf("looking at a journal: %w", err)
	}
	known, ok := c.known[path]
	if ok && known.size == info.Size() && known.modified.Equal(info.ModTime()) {
		return known, nil
	}
	run, err := readRun(path)
	if errors.Is(err, fs.ErrNotExist) {
		return countedRun{}, nil
	}
	if err != nil {
		return countedRun{}, err
	}
	read := countedRun{info.Size(), info.ModTime(), run.Task, run.Outcome, run.Owed()}
	if run.Outcome != "" && run.Outcome != OutcomeInterrupted {
		c.known[path] = read
	}
	return read, nil
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
