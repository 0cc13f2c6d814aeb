package guard

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// State says how one question of the guard was answered.
type State string

// The answers. Unknown could not be asked; Warning does not stop the run.
const (
	OK      State = "ok"
	Failed  State = "failed"
	Unknown State = "unknown"
	Warning State = "warning"
)

// Answer is one thing that was looked at before or after.
type Answer struct {
	// Check is a word for the question, Object what it is about.
	Check  string `json:"check"`
	Object string `json:"object,omitempty"`
	State  State  `json:"state"`
	// Message says what was seen, and what to do when that is bad.
	Message string `json:"message"`
}

// PlanStep is one statement as it will run.
type PlanStep struct {
	Line          int      `json:"line,omitempty"`
	Command       string   `json:"command"`
	Statement     string   `json:"statement"`
	Transactional bool     `json:"transactional"`
	Lock          string   `json:"lock,omitempty"`
	Blocks        string   `json:"blocks,omitempty"`
	Rewrites      string   `json:"rewrites,omitempty"`
	Relations     []string `json:"relations,omitempty"`
	Bytes         int64    `json:"bytes,omitempty"`
	Seconds       float64  `json:"estimated_seconds,omitempty"`
	Undo          string   `json:"undo"`
	Note          string   `json:"note,omitempty"`
}

// Touched is a relation that was changed, with the rows that the run changed as
// far as they are known.
type Touched struct {
	Relation string `json:"relation"`
	Lock     string `json:"lock,omitempty"`
	Rewrote  bool   `json:"rewrote,omitempty"`
	Inserted int64  `json:"inserted,omitempty"`
	Updated  int64  `json:"updated,omitempty"`
	Deleted  int64  `json:"deleted,omitempty"`
}

// RestorePoint is where point-in-time recovery would stop.
type RestorePoint struct {
	Name string `json:"name,omitempty"`
	LSN  string `json:"lsn"`
}

// Report is what a run tells.
type Report struct {
	Version  int    `json:"version"`
	ID       string `json:"id"`
	Target   string `json:"target"`
	Database string `json:"database"`
	Task     Task   `json:"task"`
	What     string `json:"what"`
	DryRun   bool   `json:"dry_run,omitempty"`

	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Outcome  Outcome   `json:"outcome"`
	// ExitCode is that of the contract.
	ExitCode int `json:"exit_code"`
	// Summary is one line for people.
	Summary string `json:"summary"`

	Preflight    []Answer      `json:"preflight"`
	Plan         []PlanStep    `json:"plan"`
	RestorePoint *RestorePoint `json:"restore_point,omitempty"`
	Touched      []Touched     `json:"touched"`
	Verification []Answer      `json:"verification"`
	// Undone are the actions that took things back.
	Undone []string `json:"undone,omitempty"`
	// Recover are the commands that bring the state before back when the guard
	// could not.
	Recover []string `json:"recover,omitempty"`
	// Recovery is the point-in-time recovery that followed by itself.
	Recovery *Recovery `json:"recovery,omitempty"`
	// Output is the file with the output of the command.
	Output string `json:"output,omitempty"`
	// CommandExit is how the command ended.
	CommandExit string `json:"command_exit,omitempty"`
}

// WriteJSON writes the report as one JSON document.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "run %s on %s, database %s: %s\n", r.ID, r.Target, r.Database, r.What)
	if len(r.Plan) > 0 {
		b.WriteString("\nplan\n")
	}
	for i, step := range r.Plan {
		step.write(&b, i+1)
	}
	writeAnswers(&b, "before", r.Preflight)
	if r.RestorePoint != nil {
		fmt.Fprintf(&b, "\nrestore point %s at %s\n", r.RestorePoint.Name, r.RestorePoint.LSN)
	}
	if len(r.Touched) > 0 {
		b.WriteString("\ntouched\n")
	}
	for _, t := range r.Touched {
		fmt.Fprintf(&b, "  %s: %d inserted, %d updated, %d deleted", t.Relation, t.Inserted, t.Updated, t.Deleted)
		if t.Rewrote {
			b.WriteString(", new files")
		}
		if t.Lock != "" {
			b.WriteString(", " + t.Lock)
		}
		b.WriteString("\n")
	}
	if r.CommandExit != "" {
		fmt.Fprintf(&b, "\ncommand: %s; its output is in %s\n", r.CommandExit, r.Output)
	}
	writeAnswers(&b, "after", r.Verification)
	writeList(&b, "taken back", r.Undone)
	writeList(&b, "to bring the state before back", r.Recover)
	fmt.Fprintf(&b, "\n%s (exit code %d): %s\n", strings.ReplaceAll(string(r.Outcome), "_", " "), r.ExitCode, r.Summary)
	if r.Recovery != nil {
		b.WriteString(r.Recovery.Text())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s PlanStep) write(b *strings.Builder, number int) {
	fmt.Fprintf(b, "  %d. %s", number, s.Command)
	if s.Line > 0 {
		fmt.Fprintf(b, " (line %d)", s.Line)
	}
	if len(s.Relations) > 0 {
		fmt.Fprintf(b, " on %s, %s", strings.Join(s.Relations, ", "), size(s.Bytes))
	}
	if s.Lock != "" {
		fmt.Fprintf(b, "; lock %s, %s must wait", s.Lock, s.Blocks)
	}
	if s.Rewrites != "" {
		b.WriteString("; " + s.Rewrites)
	}
	if s.Seconds > 0 {
		fmt.Fprintf(b, "; about %s", time.Duration(s.Seconds*float64(time.Second)).Round(time.Second))
	}
	if !s.Transactional {
		b.WriteString("; not in a transaction")
	}
	fmt.Fprintf(b, "; undo: %s\n", s.Undo)
	if s.Note != "" {
		fmt.Fprintf(b, "     %s\n", s.Note)
	}
}

func writeAnswers(b *strings.Builder, title string, answers []Answer) {
	if len(answers) > 0 {
		b.WriteString("\n" + title + "\n")
	}
	for _, a := range answers {
		fmt.Fprintf(b, "  %-8s %s", a.State, a.Check)
		if a.Object != "" {
			b.WriteString(" " + a.Object)
		}
		fmt.Fprintf(b, ": %s\n", a.Message)
	}
}

func writeList(b *strings.Builder, title string, lines []string) {
	if len(lines) > 0 {
		b.WriteString("\n" + title + "\n")
	}
	for _, line := range lines {
		b.WriteString("  " + line + "\n")
	}
}

// size is a number of bytes for people.
func size(bytes int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(bytes), 0
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}
