package web

import (
	"fmt"
	"time"

	"pg_integrity_exporter/internal/recovery"
)

// RepositoryView says how far back and how fast one repository brings the data
// back, and whether that was proved.
type RepositoryView struct {
	Repository string `json:"repository"`
	// RecoveryPoint is the last moment of which nothing would be lost, Earliest
	// the first that can be brought back.
	RecoveryPoint time.Time `json:"recovery_point,omitzero"`
	Earliest      time.Time `json:"earliest_recovery_point,omitzero"`
	// Backup is the newest complete backup.
	Backup     string    `json:"backup,omitempty"`
	BackupTime time.Time `json:"backup_time,omitzero"`
	// Proved is when a drill last proved a backup, and RecoverySeconds how long it
	// took until the server accepted connections.
	Proved          time.Time `json:"proved,omitzero"`
	RecoverySeconds float64   `json:"recovery_seconds,omitempty"`
	// LastDrill says how the last drill ended.
	LastDrill string `json:"last_drill,omitempty"`
	// Problems are what is wrong with the repository; Late are its objectives that
	// are not kept.
	Problems []string `json:"problems"`
	Late     []string `json:"late"`
}

// shownProblems bounds the problems of one repository.
const shownProblems = 20

func lookAtRecovery(statuses []recovery.Status, now time.Time) []RepositoryView {
	views := []RepositoryView{}
	for _, s := range statuses {
		view := RepositoryView{
			Repository: s.Watched.Name, RecoveryPoint: s.RecoveryPoint.UTC(), Earliest: s.Earliest.UTC(),
			Proved: s.History.LastProved.UTC(), Problems: []string{}, Late: []string{},
		}
		if newest, found := s.Inventory.LastSuccess(); found {
			view.Backup, view.BackupTime = newest.Label, newest.Finished.UTC()
		}
		if last := s.History.Last; last != nil {
			view.LastDrill, view.RecoverySeconds = string(last.Outcome), last.RecoverySeconds
			if last.Reason != "" {
				view.LastDrill += ": " + last.Reason
			}
		}
		if s.Inventory.Err != nil {
			view.Problems = append(view.Problems, s.Inventory.Err.Error())
		}
		problems := s.Problems()
		for _, p := range problems[:min(len(problems), shownProblems)] {
			view.Problems = append(view.Problems, p.String())
		}
		if more := len(problems) - shownProblems; more > 0 {
			view.Problems = append(view.Problems, fmt.Sprintf("and %d more: pg_integrity_exporter drill --list names all", more))
		}
		o := s.Watched.Objectives
		view.late("recovery point", view.RecoveryPoint, o.RecoveryPoint, now)
		view.late("complete backup", view.BackupTime, o.BackupAge, now)
		view.late("proof by a drill", view.Proved, o.DrillAge, now)
		if took := time.Duration(view.RecoverySeconds * float64(time.Second)); o.RecoveryTime > 0 && took > o.RecoveryTime {
			view.Late = append(view.Late, fmt.Sprintf("the last drill took %s, the objective is %s", span(took), span(o.RecoveryTime)))
		}
		views = append(views, view)
	}
	return views
}

// late notes an objective that is not kept; 0 is that there is none.
func (v *RepositoryView) late(what string, at time.Time, objective time.Duration, now time.Time) {
	switch {
	case objective == 0 || now.Sub(at) <= objective:
	case at.IsZero():
		v.Late = append(v.Late, fmt.Sprintf("there is no %s, the objective is one in %s", what, span(objective)))
	default:
		v.Late = append(v.Late, fmt.Sprintf("the %s is from %s, the objective is at most %s", what, ago(at, now), span(objective)))
	}
}
