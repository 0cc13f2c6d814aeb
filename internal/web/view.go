package web

import (
	"cmp"
	"slices"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/maintenance/activity"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/state"
)

// Watched is what the integrity page knows of one target.
type Watched struct {
	// Target is host:port.
	Target string
	// Snapshot and Files are the target's state.
	Snapshot *state.Snapshot
	Files    *state.Files
	// Unreachable says why the server did not answer the last scrape; empty is
	// that it did, or that there was none.
	Unreachable string
	// NextRun is when a check is due next.
	NextRun func(state.CheckState) time.Time
	// Maintenance is what is being done to the server, Recovery what is known of
	// its backups.
	Maintenance activity.Status
	Recovery    []recovery.Status
	// RunNow asks for a check to run next.
	RunNow func(check, database string) bool
}

// Verdict is the answer to the one question that brings people to the page.
type Verdict string

// The verdicts, the gravest first.
const (
	VerdictDamaged Verdict = "damaged" // data is damaged, or breaks a rule that must hold
	VerdictAtRisk  Verdict = "at_risk" // an open finding of critical severity that has damaged nothing yet
	VerdictWarning Verdict = "warning" // open findings of lower severity
	VerdictUnknown Verdict = "unknown" // something was not looked at, or not lately, or the server does not answer
	VerdictGood    Verdict = "good"    // everything was looked at lately and is well
)

// View is the integrity page as data; the JSON of the page.
type View struct {
	Version   int       `json:"version"`
	Target    string    `json:"target"`
	Generated time.Time `json:"generated"`
	Verdict   Verdict   `json:"verdict"`
	// Sentence is the verdict for people.
	Sentence    string        `json:"sentence"`
	Unreachable string        `json:"unreachable,omitempty"`
	StateKept   bool          `json:"state_kept"`
	Findings    []FindingView `json:"findings"`
	Checks      []CheckView   `json:"checks"`
	// Problems are checks that could not look at something, with what to do.
	Problems    []ProblemView    `json:"problems"`
	Maintenance MaintenanceView  `json:"maintenance"`
	Recovery    []RepositoryView `json:"recovery"`
	// Log is how the server's log is read and what it says most.
	Log LogView `json:"log"`
	// Events are what happened in the last seven days, the newest first.
	Events []state.Event `json:"events"`
	// Relations are those of the database that the request names: damaged ones
	// first, then those that were longest not looked at.
	Relations []RelationView `json:"relations,omitempty"`

	// groups are the findings by object, for people.
	groups []*groupView
}

// FindingView is an open finding with its history.
type FindingView struct {
	check.Finding

	Object       string           `json:"object"`
	FirstSeen    time.Time        `json:"first_seen"`
	LastSeen     time.Time        `json:"last_seen"`
	LastGood     time.Time        `json:"last_known_good,omitzero"`
	Acknowledged *Acknowledgement `json:"acknowledged,omitempty"`
}

// Acknowledgement says that somebody has taken a finding on. It mutes nothing.
type Acknowledgement struct {
	By   string    `json:"by"`
	When time.Time `json:"when"`
	Note string    `json:"note,omitempty"`
}

// CheckView is one check in one database, or of the whole server.
type CheckView struct {
	Check       string        `json:"check"`
	Question    string        `json:"question"`
	Database    string        `json:"database,omitempty"`
	Outcome     string        `json:"outcome"`
	Reason      string        `json:"reason,omitempty"`
	On          string        `json:"on,omitempty"` // the standby on which it ran
	LastRun     time.Time     `json:"last_run,omitzero"`
	LastSuccess time.Time     `json:"last_success,omitzero"`
	NextRun     time.Time     `json:"next_run"`
	Interval    time.Duration `json:"interval_ns"`
	Duration    time.Duration `json:"duration_ns"`
	Objects     int           `json:"objects"`
	Coverage    float64       `json:"coverage_ratio"`
	Overdue     bool          `json:"overdue"`
	History     []state.Run   `json:"history"`
}

// ProblemView is something that a check could not look at.
type ProblemView struct {
	Check    string `json:"check"`
	Database string `json:"database,omitempty"`
	Reason   string `json:"reason"`
}

// LogView is the server's log.
type LogView struct {
	Up           bool      `json:"up"`
	Problem      string    `json:"problem,omitempty"`
	Path         string    `json:"path,omitempty"`
	BacklogBytes int64     `json:"backlog_bytes"`
	LastMessage  time.Time `json:"last_message,omitzero"`
	// Blind lists what keeps the log from telling everything.
	Blind []BlindView `json:"blind"`
	// Messages are the newest kinds of messages, their literals removed, the
	// newest first.
	Messages []pglog.Sample `json:"messages"`
}

// BlindView is something that keeps the log from telling everything.
type BlindView struct {
	Reason string `json:"reason"`
	Detail string `json:"detail"`
	Advice string `json:"advice"`
}

// logView makes the log's part of the page.
func logView(s *state.Snapshot, now time.Time) LogView {
	view := LogView{
		Up: s.Log.Up, Problem: s.Log.Problem, Path: s.Log.Path, BacklogBytes: s.Log.BacklogBytes, LastMessage: s.Log.LastMessage,
		Blind: []BlindView{}, Messages: []pglog.Sample{},
	}
	for _, b := range s.LogBlindness {
		view.Blind = append(view.Blind, BlindView{b.Reason, b.Detail, b.Advice})
	}
	for _, m := range s.Samples {
		if now.Sub(m.Last) < timeline {
			view.Messages = append(view.Messages, m)
		}
	}
	slices.SortStableFunc(view.Messages, func(a, b pglog.Sample) int { return b.Last.Compare(a.Last) })
	view.Messages = view.Messages[:min(len(view.Messages), messagesLength)]
	return view
}

const (
	// messagesLength is how many kinds of messages the page shows.
	messagesLength = 20
	// outcomeNever stands for the outcome of a check that did not run yet.
	outcomeNever = "never"
	// overdueIntervals is how many intervals old the last success may be.
	overdueIntervals = 2
	// timeline is how far back the page tells what happened, and timelineLength
	// how much of it.
	timeline       = 7 * 24 * time.Hour
	timelineLength = 50
	// acknowledgements is the kind of the documents that hold them.
	acknowledgements = "acknowledgements"
	// viewVersion is the version of the page's JSON.
	viewVersion = 1
)

// look makes the page's data, with the relations of one database when it is
// named.
func look(w Watched, database string, now time.Time) (View, error) {
	view := View{
		Version: viewVersion, Target: w.Target, Generated: now.UTC(), Unreachable: w.Unreachable, StateKept: w.Snapshot.Up,
		Findings: []FindingView{}, Checks: []CheckView{}, Problems: []ProblemView{}, Events: []state.Event{},
	}
	for _, f := range w.Snapshot.Findings {
		if f.Doubtful {
			continue
		}
		shown := FindingView{Finding: f.Finding, Object: f.Object(), FirstSeen: f.FirstSeen.UTC(), LastSeen: f.LastSeen.UTC(), LastGood: f.LastGood}
		var by Acknowledgement
		if found, err := w.Files.Get(acknowledgements, f.Fingerprint, &by); err == nil && found && !by.When.Before(f.FirstSeen) {
			shown.Acknowledged = &by
		}
		view.Findings = append(view.Findings, shown)
	}
	questions := make(map[string]string)
	for _, c := range check.All() {
		questions[c.Name] = c.Question
	}
	// A look at a single relation finds what the last look at everything did not.
	open := make(map[[2]string]bool)
	for _, f := range view.Findings {
		open[[2]string{f.Check, f.Database}] = true
	}
	for _, c := range w.Snapshot.Checks {
		shown := CheckView{
			Check: c.Check, Question: questions[c.Check], Database: c.Database, Outcome: cmp.Or(string(c.Outcome), outcomeNever),
			Reason: c.Reason, On: c.On, LastRun: c.LastRun, LastSuccess: c.LastSuccess, NextRun: w.NextRun(c).UTC(), Interval: c.Interval,
			Duration: c.Duration, Objects: c.Objects, Coverage: c.Coverage, History: c.History,
			Overdue: !c.LastSuccess.IsZero() && now.Sub(c.LastSuccess) > overdueIntervals*c.Interval,
		}
		if c.Outcome == check.OutcomeOK && open[[2]string{c.Check, c.Database}] {
			shown.Outcome = string(check.OutcomeFindings)
		}
		view.Checks = append(view.Checks, shown)
		if c.Reason != "" {
			view.Problems = append(view.Problems, ProblemView{c.Check, c.Database, c.Reason})
		}
	}
	view.Recovery = lookAtRecovery(w.Recovery, now)
	var err error
	if view.Maintenance, err = lookAtMaintenance(w.Files, w.Maintenance, now); err != nil {
		return view, err
	}
	view.Log = logView(w.Snapshot, now)
	if database != "" {
		if view.Relations, err = lookAtRelations(w.Files, database, view.Findings); err != nil {
			return view, err
		}
	}
	events, err := w.Files.Events(now.Add(-timeline), now.Add(time.Minute))
	if err != nil {
		return view, err
	}
	slices.Reverse(events)
	view.Events = append(view.Events, events[:min(len(events), timelineLength)]...)
	view.judge(now)
	return view, nil
}
