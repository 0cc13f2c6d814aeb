package guard

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"pg_integrity_exporter/internal/owner"
	"pg_integrity_exporter/internal/state"
)

// Event is one kind of record of a journal.
type Event string

// The records of a journal, in the order in which they can come.
const (
	// EventBegin: what is to be done, for whom.
	EventBegin Event = "begin"
	// EventReady: pre-flight passed and the baseline is on disk.
	EventReady Event = "ready"
	// EventStep: a step is about to run.
	EventStep Event = "step"
	// EventChild: the command runs as this process.
	EventChild Event = "child"
	// EventCommitting: verified; the transaction with this number is about to be
	// committed.
	EventCommitting Event = "committing"
	// EventStepDone: the step ended well, and what it did is permanent.
	EventStepDone Event = "step_done"
	// EventUndo: what was done is about to be taken back, for this reason.
	EventUndo Event = "undo"
	// EventJudged: how it ends is known, and only what recorded the changes of a
	// command is still to be removed.
	EventJudged Event = "judged"
	// EventEnd: the run ended like this.
	EventEnd Event = "end"
	// EventSettled: somebody has dealt with what a run left that could not be rolled
	// back.
	EventSettled Event = "settled"
)

// Record is one line of a journal.
type Record struct {
	Time  time.Time `json:"time"`
	Event Event     `json:"event"`

	// Begin is set at EventBegin.
	Begin *Begin `json:"begin,omitempty"`
	// Step and Text are set at EventStep and EventStepDone.
	Step int    `json:"step,omitempty"`
	Text string `json:"text,omitempty"`
	// Transaction is set at EventCommitting.
	Transaction uint64 `json:"transaction,omitempty"`
	// Process is the process group of the command, at EventChild.
	Process int `json:"process,omitempty"`
	// Reason is set at EventUndo and EventSettled.
	Reason string `json:"reason,omitempty"`
	// By is who settled it, at EventSettled.
	By string `json:"by,omitempty"`
	// Outcome is set at EventJudged and EventEnd.
	Outcome Outcome `json:"outcome,omitempty"`
	// Summary is one line for people, with Outcome.
	Summary string `json:"summary,omitempty"`
	// Protected are the tables whose changes are recorded, at EventReady.
	Protected []string `json:"protected,omitempty"`
	// RestorePoint is set at EventReady when there is one.
	RestorePoint *RestorePoint `json:"restore_point,omitempty"`
}

// Begin is what a run is about.
type Begin struct {
	ID       string `json:"id"`
	Target   string `json:"target"`
	Database string `json:"database"`
	// Task is sql or command.
	Task Task `json:"task"`
	// What is the file or the command.
	What string `json:"what"`
	// By is the user of the operating system, Role that of the database.
	By   string `json:"by"`
	Role string `json:"role"`
	// Allow are the kinds of weakening that were allowed.
	Allow []string `json:"allow,omitempty"`
	// Expect are the queries that must be true afterwards.
	Expect []string `json:"expect,omitempty"`
	// Created are indexes that the script makes outside of a transaction.
	Created []string `json:"created,omitempty"`
	// Kinds are the kinds of facts that the run can have changed outside of a
	// transaction.
	Kinds []string `json:"kinds"`
}

// Task says what kind of run it is; the values are the label task.
type Task string

// The kinds of runs.
const (
	TaskCommand Task = "command"
	TaskSQL     Task = "sql"
)

// Tasks lists every Task, in the order in which they are exported.
func Tasks() []Task { return []Task{TaskCommand, TaskSQL} }

// Outcome is how a run ended; the values are the label outcome.
type Outcome string

// The outcomes of a run. Interrupted is a run whose guard died and that nobody
// resumed yet.
const (
	OutcomeDone          Outcome = "done"
	OutcomeInterrupted   Outcome = "interrupted"
	OutcomeNotRolledBack Outcome = "not_rolled_back"
	OutcomeRefused       Outcome = "refused"
	OutcomeRolledBack    Outcome = "rolled_back"
)

// Outcomes lists the outcomes of runs that ended, in the order in which they are
// exported.
func Outcomes() []Outcome {
	return []Outcome{OutcomeDone, OutcomeNotRolledBack, OutcomeRefused, OutcomeRolledBack}
}

// ExitCode is the exit code of the contract.
func (o Outcome) ExitCode() int {
	switch o {
	case OutcomeDone:
		return 0
	case OutcomeRolledBack:
		return 1
	case OutcomeRefused:
		return 2
	case OutcomeNotRolledBack, OutcomeInterrupted:
	}
	return 3
}

// directory is where the journals of a target are.
func directory(files *state.Files) string { return filepath.Join(files.Directory(), "guard") }

// Journal is the file of one run. Whoever has it open holds a lock on it, which
// the kernel gives back however the process ends: so a run without an end
// whose lock is free has lost its guard.
type Journal struct {
	file *os.File
	path string
}

// newJournal makes the file of a run.
func newJournal(files *state.Files, id string) (*Journal, error) {
	if files.Directory() == "" {
		return nil, errors.New("the guard needs a directory for its journal: give one with --state.path")
	}
	if err := owner.MkdirAll(directory(files), 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of the journal: %w (choose another with --state.path)", err)
	}
	path := filepath.Join(directory(files), id+".jsonl")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making the journal: %w", err)
	}
	j := &Journal{file: file, path: path}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking the journal: %w", err), j.Close())
	}
	return j, errors.Join(owner.Give(path), syncDirectory(directory(files)))
}

// openJournal takes over the journal of a run whose guard died.
func openJournal(path string) (*Journal, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	j := &Journal{file: file, path: path}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(errors.New("the run is still under way: its guard holds the journal"), j.Close())
	}
	return j, nil
}

// write appends a record and does not return before it is on disk.
func (j *Journal) write(record Record) error {
	record.Time = time.Now().UTC()
	line, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	return nil
}

// Close gives the lock back.
func (j *Journal) Close() error { return j.file.Close() }

// beside is a file that belongs to the run.
func (j *Journal) beside(suffix string) string {
	return strings.TrimSuffix(j.path, ".jsonl") + suffix
}

// syncDirectory makes the name of a new file permanent.
func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening the directory of the journal: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeFile writes a file as a whole or not at all.
func writeFile(path string, value any) error {
	content, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	_, err = file.Write(content)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	return syncDirectory(filepath.Dir(path))
}

// RunState is a run as its journal tells it.
type RunState struct {
	Begin

	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished,omitzero"`
	// Outcome is empty while the run is under way.
	Outcome Outcome `json:"outcome,omitempty"`
	// Summary is what the run says of its end, or what is known of a run without
	// one.
	Summary string `json:"summary"`
	// Ready says that the run had begun to change something.
	Ready        bool          `json:"-"`
	RestorePoint *RestorePoint `json:"restore_point,omitempty"`
	// Undoing says that the guard died while it took things back.
	Undoing string `json:"-"`
	// Settled is when somebody said that what it left was dealt with.
	Settled time.Time `json:"settled,omitzero"`
	Steps   []Record  `json:"-"`

	protected []string
	// judged is how it ends, when that was known already.
	judged *Record
	path   string
}

// Owed says that the run has left something that nobody has dealt with yet.
func (r *RunState) Owed() bool { return r.Outcome == OutcomeNotRolledBack && r.Settled.IsZero() }

// journals are the paths of the journals of a target, the oldest first.
func journals(files *state.Files) ([]string, error) {
	if files.Directory() == "" {
		return nil, nil
	}
	paths, err := filepath.Glob(filepath.Join(directory(files), "*.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("looking for journals: %w", err)
	}
	slices.Sort(paths)
	return paths, nil
}

// Runs reads the journals of a target, the oldest first.
func Runs(files *state.Files) ([]RunState, error) {
	paths, err := journals(files)
	if err != nil {
		return nil, err
	}
	var runs []RunState
	for _, path := range paths {
		run, err := readRun(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, err
		case run.ID != "":
			runs = append(runs, run)
		}
	}
	return runs, nil
}

// readRun reads one journal. A last line that was cut off by a crash was never
// acted upon.
func readRun(path string) (RunState, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return RunState{}, fmt.Errorf("reading the journal: %w", err)
	}
	run := RunState{path: path}
	scanner := bufio.NewScanner(bytes.NewReader(content))
	scanner.Buffer(nil, len(content)+1)
	for scanner.Scan() {
		var record Record
		if json.Unmarshal(scanner.Bytes(), &record) != nil {
			break
		}
		run.add(record)
	}
	if run.Outcome == "" && !locked(path) {
		run.Outcome = OutcomeInterrupted
		run.Summary = "its guard died; run `pg_integrity_exporter guard resume`"
	}
	return run, nil
}

func (r *RunState) add(record Record) {
	switch record.Event {
	case EventBegin:
		if record.Begin != nil {
			r.Begin = *record.Begin
		}
		r.Started = record.Time
		r.Summary = "under way"
	case EventReady:
		r.Ready = true
		r.RestorePoint, r.protected = record.RestorePoint, record.Protected
	case EventStep, EventStepDone, EventCommitting:
		r.Steps = append(r.Steps, record)
	case EventChild:
	case EventUndo:
		r.Undoing = record.Reason
	case EventJudged:
		r.judged = &record
	case EventEnd:
		r.Finished, r.Outcome, r.Summary = record.Time, record.Outcome, record.Summary
	case EventSettled:
		r.Settled = record.Time
		r.Summary += "; settled by " + record.By + ": " + record.Reason
	}
}

// locked says whether somebody holds the journal.
func locked(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close() //nolint:errcheck // it is only read
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return true
	}
	return false
}
