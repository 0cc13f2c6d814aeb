package web

import (
	"time"

	"pg_integrity_exporter/internal/maintenance/activity"
	"pg_integrity_exporter/internal/maintenance/window"
	"pg_integrity_exporter/internal/state"
)

// MaintenanceView is what is being done to the server, and whether that was
// announced.
type MaintenanceView struct {
	// Muted says that a window holds back alerts that are noise in maintenance.
	Muted      bool            `json:"muted"`
	Windows    []WindowView    `json:"windows"`
	Operations []OperationView `json:"operations"`
	// Unfinished counts runs of the guard that were interrupted.
	Unfinished int `json:"unfinished_guard_runs"`
}

// WindowView is an announced window that was not closed yet.
type WindowView struct {
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	Source string    `json:"source"`
	Opened time.Time `json:"opened"`
	Until  time.Time `json:"until"`
}

// OperationView is maintenance that is running.
type OperationView struct {
	Kind         string    `json:"kind"`
	Database     string    `json:"database,omitempty"`
	Relation     string    `json:"relation,omitempty"`
	By           string    `json:"by,omitempty"`
	Started      time.Time `json:"started"`
	Progress     float64   `json:"progress_ratio,omitempty"`
	EstimatedEnd time.Time `json:"estimated_end,omitzero"`
	Blocked      int       `json:"blocked_sessions"`
}

func lookAtMaintenance(files *state.Files, status activity.Status, now time.Time) (MaintenanceView, error) {
	view := MaintenanceView{Muted: status.Window.Active, Windows: []WindowView{}, Operations: []OperationView{}, Unfinished: status.Unfinished}
	windows, err := window.List(files)
	if err != nil {
		return view, err
	}
	for _, w := range windows {
		if w.Closed.IsZero() {
			view.Windows = append(view.Windows, WindowView{w.Reason, w.By, w.Source, w.Opened.UTC(), w.Until.UTC()})
		}
	}
	for _, o := range status.Running {
		shown := OperationView{
			Kind: string(o.Kind), Database: o.Database, By: o.By, Started: o.Started.UTC(), Progress: max(o.Fraction, 0),
			EstimatedEnd: o.EstimatedEnd(now).UTC(), Blocked: o.Blocked,
		}
		if o.Relation.Name != "" {
			shown.Relation = o.Relation.String()
		}
		view.Operations = append(view.Operations, shown)
	}
	return view, nil
}
