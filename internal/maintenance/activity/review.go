package activity

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/maintenance/window"
	"pg_integrity_exporter/internal/state"
)

// Reviewed is one maintenance of a period with its risk.
type Reviewed struct {
	state.Event

	// Risk is the sum of the weights of the reasons.
	Risk    int      `json:"risk"`
	Reasons []string `json:"reasons"`
}

// weights say how much damage a kind of maintenance can do when it goes wrong.
var weights = map[Kind]int{
	AlterSystem: 3, AlterTable: 2, Analyze: 0, BaseBackup: 0, Cluster: 3, Copy: 1, CreateIndex: 1, DisabledTrigger: 4, Drop: 4, Dump: 0,
	Extension: 2, Guarded: 0, Refresh: 1, Reindex: 2, Repack: 3, Restore: 4, Rewrite: 3, Truncate: 4, Upgrade: 5, Vacuum: 0, VacuumFull: 3,
}

// longOperation is how long maintenance may take without being a risk by that
// alone.
const longOperation = time.Hour

// Review ranks the maintenance of a period by risk, the greatest first.
func Review(files *state.Files, schedules []window.Schedule, from, to time.Time) ([]Reviewed, error) {
	events, err := files.Events(from, to)
	if err != nil {
		return nil, err
	}
	windows, err := window.List(files)
	if err != nil {
		return nil, err
	}
	told := make(map[string]bool) // runs that the guard told of
	for _, e := range events {
		told[e.Details["run"]] = told[e.Details["run"]] || e.Kind == state.EventGuard
	}
	reviewed := []Reviewed{}
	for _, e := range events {
		if e.Kind != state.EventMaintenance && e.Kind != state.EventGuard || e.Kind == state.EventMaintenance && e.Details["run"] != "" && told[e.Details["run"]] {
			continue
		}
		r := Reviewed{Event: e, Reasons: []string{}}
		r.judge(announced(windows, schedules, e.Time))
		reviewed = append(reviewed, r)
	}
	slices.SortStableFunc(reviewed, func(a, b Reviewed) int { return cmp.Or(cmp.Compare(b.Risk, a.Risk), a.Time.Compare(b.Time)) })
	return reviewed, nil
}

// announced says whether a window was active at a moment.
func announced(windows []window.Window, schedules []window.Schedule, at time.Time) bool {
	return slices.ContainsFunc(schedules, func(s window.Schedule) bool { return s.Active(at) }) ||
		slices.ContainsFunc(windows, func(w window.Window) bool {
			return !at.Before(w.Opened) && at.Before(w.Until) && (w.Closed.IsZero() || at.Before(w.Closed))
		})
}

func (r *Reviewed) judge(announced bool) {
	add := func(weight int, format string, args ...any) {
		if weight > 0 {
			r.Risk += weight
			r.Reasons = append(r.Reasons, fmt.Sprintf(format, args...))
		}
	}
	if r.Kind == state.EventGuard {
		switch guard.Outcome(r.Details["outcome"]) {
		case guard.OutcomeNotRolledBack:
			add(10, "it failed and was not rolled back")
		case guard.OutcomeRolledBack:
			add(3, "it failed and was rolled back: look at it before it runs again")
		case guard.OutcomeRefused:
			add(1, "it was refused")
		case guard.OutcomeDone, guard.OutcomeInterrupted:
		}
		return
	}
	kind := Kind(r.Details["kind"])
	add(weights[kind], "%s can lose or lock data when it goes wrong", strings.ReplaceAll(string(kind), "_", " "))
	if kind == Guarded || weights[kind] == 0 {
		return
	}
	add(2, "not under guard")
	if !announced {
		add(2, "no maintenance window")
	}
	if blocked := r.Details["blocked_sessions"]; blocked != "" && blocked != "0" {
		add(2, "%s sessions waited for it, for up to %s", blocked, r.Details["blocked_for"])
	}
	if took := r.Ended.Sub(r.Time); took > longOperation {
		add(1, "it took %s", took.Round(time.Minute))
	}
}

// WriteReview writes a review for people.
func WriteReview(w io.Writer, reviewed []Reviewed) error {
	var b strings.Builder
	if len(reviewed) == 0 {
		b.WriteString("no maintenance was seen\n")
	}
	for _, r := range reviewed {
		fmt.Fprintf(&b, "risk %2d  %s  %s %s\n", r.Risk, r.Time.Format(time.RFC3339), r.Database, r.Message)
		if len(r.Reasons) > 0 {
			fmt.Fprintf(&b, "         %s\n", strings.Join(r.Reasons, "; "))
		}
		if r.Details["statement"] != "" {
			fmt.Fprintf(&b, "         %s\n", r.Details["statement"])
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
