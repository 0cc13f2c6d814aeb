package recovery

import (
	"fmt"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/state"
)

// ReportVersion is the version of the JSON document of a drill.
const ReportVersion = 1

// Outcome is how a drill ended.
type Outcome string

// The outcomes of a drill; the closed list of the label outcome. Proved says
// that the backup was restored and everything that was looked at is well;
// Failed that it was not, or is not; Refused that the drill did not begin,
// because it could not be done safely or was asked for something impossible.
const (
	OutcomeFailed  Outcome = "failed"
	OutcomeProved  Outcome = "proved"
	OutcomeRefused Outcome = "refused"
)

// Outcomes lists every Outcome.
func Outcomes() []Outcome { return []Outcome{OutcomeFailed, OutcomeProved, OutcomeRefused} }

// The phases of a drill, in their order; the closed list of the label phase.
const (
	PhasePrepare = "prepare"
	PhaseRestore = "restore"
	PhaseRecover = "recover"
	PhaseCheck   = "check"
	PhaseQueries = "queries"
	PhaseCompare = "compare"
	PhaseRemove  = "remove"
)

// Phases lists the phases of a drill.
func Phases() []string {
	return []string{PhasePrepare, PhaseRestore, PhaseRecover, PhaseCheck, PhaseQueries, PhaseCompare, PhaseRemove}
}

// Report is what a drill did and found: its JSON document, and what is kept of
// it.
type Report struct {
	Version    int    `json:"version"`
	Repository string `json:"repository"`
	// Backup is the label of the backup; empty when none was chosen.
	Backup     string     `json:"backup,omitempty"`
	Kind       Kind       `json:"kind,omitempty"`
	BackupTime *time.Time `json:"backup_time,omitempty"`
	Outcome    Outcome    `json:"outcome"`
	// Reason says in one line why the outcome is not proved.
	Reason   string    `json:"reason,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	// ServerVersion is the version of the scratch server.
	ServerVersion int `json:"server_version,omitempty"`
	// Kept is where the recovered cluster stays; empty is that it was removed.
	Kept string `json:"kept,omitempty"`
	// Target is what recovery was asked for: latest, or a time, LSN or name.
	Target string        `json:"recovery_target"`
	Phases []PhaseReport `json:"phases"`
	// RecoverySeconds is the recovery time measured: from the beginning of the
	// restore until the server accepted connections.
	RecoverySeconds float64 `json:"recovery_seconds,omitempty"`
	// RecoveryPoint is the time of the last transaction that was brought back, or
	// that of the backup when nothing was replayed behind it.
	RecoveryPoint *time.Time `json:"recovery_point,omitempty"`
	// Position and Timeline are how far the WAL was replayed.
	Position string `json:"position,omitempty"`
	Timeline uint32 `json:"timeline,omitempty"`
	// Bytes is the size of what was restored.
	Bytes int64 `json:"bytes,omitempty"`
	// Verified is what the comparison with the manifest found; nil is that there
	// was none.
	Verified   *VerifiedReport   `json:"verified,omitempty"`
	Checks     []check.Result    `json:"checks"`
	Findings   []check.Finding   `json:"findings"`
	Queries    []QueryReport     `json:"queries,omitempty"`
	Comparison *ComparisonReport `json:"comparison,omitempty"`
	// Problems are what is wrong with the backup and its WAL.
	Problems []Problem `json:"problems,omitempty"`
	// Notes are facts that a reader should know, such as what was left out.
	Notes []string `json:"notes,omitempty"`
}

// PhaseReport is how long one phase took.
type PhaseReport struct {
	Phase   string  `json:"phase"`
	Seconds float64 `json:"seconds"`
}

// VerifiedReport is what a verification looked at.
type VerifiedReport struct {
	Files   int     `json:"files"`
	Read    int     `json:"files_read"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

// QueryReport is how one of the user's queries ended.
type QueryReport struct {
	Name     string  `json:"name"`
	Database string  `json:"database"`
	OK       bool    `json:"ok"`
	Message  string  `json:"message,omitempty"`
	Seconds  float64 `json:"seconds"`
}

// ComparisonReport is the comparison of sampled rows with the living primary.
type ComparisonReport struct {
	Tables    int `json:"tables"`
	Rows      int `json:"rows"`
	Different int `json:"different"`
	// Reason says what could not be compared.
	Reason string `json:"reason,omitempty"`
}

// Proved says that the drill proved the backup.
func (r *Report) Proved() bool { return r.Outcome == OutcomeProved }

// The kinds of documents in the state files.
const (
	drillsKind        = "drills"
	verificationsKind = "verifications"
	positionsKind     = "wal_positions"
	// keptReports is how many summaries of drills are kept for each repository.
	keptReports = 50
)

// History is what is remembered of the drills of one repository.
type History struct {
	// Runs counts drills by outcome.
	Runs map[Outcome]uint64 `json:"runs"`
	// LastProved is when a drill last proved a backup; zero is never.
	LastProved time.Time `json:"last_proved,omitzero"`
	// Last is the newest drill.
	Last *Report `json:"last,omitempty"`
	// Past are the drills before and with it, the newest last.
	Past []Past `json:"past"`
}

// Past is one line of the history.
type Past struct {
	Finished        time.Time `json:"finished"`
	Backup          string    `json:"backup,omitempty"`
	Outcome         Outcome   `json:"outcome"`
	Reason          string    `json:"reason,omitempty"`
	RecoverySeconds float64   `json:"recovery_seconds,omitempty"`
}

// LoadHistory reads the history of a repository; it is empty when no drill has
// ended yet.
func LoadHistory(files *state.Files, repository string) (History, error) {
	history := History{Runs: make(map[Outcome]uint64)}
	_, err := files.Get(drillsKind, repository, &history)
	return history, err
}

// SaveReport adds a drill to the history of its repository, where a running
// exporter reads it, and to the log of events.
func SaveReport(files *state.Files, report *Report) error {
	history, err := LoadHistory(files, report.Repository)
	if err != nil {
		return err
	}
	history.Runs[report.Outcome]++
	history.Last = report
	if report.Proved() {
		history.LastProved = report.Finished
	}
	history.Past = append(history.Past, Past{
		Finished: report.Finished, Backup: report.Backup, Outcome: report.Outcome, Reason: report.Reason, RecoverySeconds: report.RecoverySeconds,
	})
	history.Past = history.Past[max(0, len(history.Past)-keptReports):]
	if err := files.Put(drillsKind, report.Repository, history); err != nil {
		return err
	}
	event := state.Event{
		Time: report.Started, Ended: report.Finished, Kind: state.EventDrill, Severity: check.SeverityInfo,
		Message: fmt.Sprintf("restore drill of %s: %s", report.Repository, report.Outcome), Source: "drill",
		Details: map[string]string{"repository": report.Repository, "backup": report.Backup, "outcome": string(report.Outcome)},
	}
	if !report.Proved() {
		event.Severity = check.SeverityCritical
		event.Message += ": " + report.Reason
	}
	return files.Record(event)
}

// VerificationRecord is what is remembered of the verifications of one
// repository.
type VerificationRecord struct {
	// Backup and Time are the last verification, Sample its share of the contents.
	Backup string    `json:"backup,omitempty"`
	Time   time.Time `json:"time,omitzero"`
	Sample float64   `json:"sample,omitempty"`
	// LastSuccess is when a verification last found nothing; zero is never.
	LastSuccess time.Time `json:"last_success,omitzero"`
	// Reason says why nothing could be verified.
	Reason string `json:"reason,omitempty"`
	// Problems are those of the backup verified last.
	Problems []Problem `json:"problems,omitempty"`
	// Segments are the names of damaged segments of the archive, with what is
	// wrong; Through is the file verified last.
	Segments map[string]string `json:"segments,omitempty"`
	Through  string            `json:"through,omitempty"`
}

// HistoryOf is the history of a single drill.
func HistoryOf(report *Report) History {
	history := History{Runs: map[Outcome]uint64{report.Outcome: 1}, Last: report}
	if report.Proved() {
		history.LastProved = report.Finished
	}
	return history
}
