package dashboards

import (
	"strconv"
	"strings"

	"pg_integrity_exporter/alerts"
)

// Dashboard is one Grafana dashboard.
type Dashboard struct {
	// Name is the file, and the end of the UID.
	Name string
	// Title and Description are what Grafana shows.
	Title, Description string
	Rows               []Row
}

// Row is a heading and the panels under it, laid out from left to right.
type Row struct {
	Title  string
	Panels []Panel
}

// Kind is how a panel draws.
type Kind string

// The kinds of panels.
const (
	Stat     Kind = "stat"           // one number
	Series   Kind = "timeseries"     // lines over time
	Table    Kind = "table"          // one row for each series
	Timeline Kind = "state-timeline" // states over time
)

// Panel is one picture.
type Panel struct {
	Kind  Kind
	Title string
	// Description says what is shown and what to do about it.
	Description string
	// Width (of 24) and Height are in Grafana's grid.
	Width, Height int
	// Unit is Grafana's name of the unit.
	Unit string
	// Bad and Worse colour a Stat or Timeline from these values on; Low turns it
	// round, so that less is worse.
	Bad, Worse float64
	Low        bool
	// Plain leaves a Stat uncoloured: its value is neither good nor bad.
	Plain bool
	// Words replace values, "1": "on".
	Words map[string]string
	// Stack stacks the lines.
	Stack bool
	// Columns are the labels that a Table shows, in order, as "label=Heading".
	Columns []string
	// Sparse says when the panel has no data although all is well.
	Sparse string
	// Quiet says why it has none while nothing is wrong; when something is, it must.
	Quiet   string
	Queries []Target
}

// Target is one query of a panel.
type Target struct {
	Expr string
	// Legend is the name of its lines, with labels as {{label}}.
	Legend string
	// Objective is where it becomes too much: Series draw it dashed and red, and a
	// Stat turns red from there on instead of from Worse.
	Objective bool
	// Sparse is that of the panel, for this query alone.
	Sparse string
}

// of is the selector of the chosen servers, with further matchers.
func of(matchers ...string) string {
	return "{" + strings.Join(append([]string{`job=~"$job"`, `cluster=~"$cluster"`, `instance=~"$instance"`}, matchers...), ",") + "}"
}

// in is of for what belongs to a database. Facts of the whole server have no
// datname and are left out when databases are chosen.
func in(matchers ...string) string {
	return of(append([]string{`datname=~"$datname"`}, matchers...)...)
}

// q is one query without further settings.
func q(expr, legend string) []Target { return []Target{{Expr: expr, Legend: legend}} }

// until are the lines of a query, and from where on an alert about them fires.
func until(expr, legend, limit string) []Target {
	return []Target{{Expr: expr, Legend: legend}, {Expr: limit, Legend: "alert", Objective: true}}
}

// threshold is a number of the alert of this name that is critical, or a warning
// where it is never critical.
func threshold(alert, name string) string {
	for _, severity := range []alerts.Severity{alerts.Critical, alerts.Warning} {
		a, _ := alerts.Find(alert, severity)
		for _, t := range a.Thresholds {
			if t.Name == name {
				return strconv.FormatFloat(t.Value, 'f', -1, 64)
			}
		}
	}
	panic("the alert " + alert + " has no threshold " + name)
}

// against is a query and the objective of which it must stay below.
func against(expr, objective string) []Target {
	return []Target{{Expr: expr}, {Expr: objective, Legend: objectiveLegend, Objective: true}}
}

// objectiveLegend names an objective in a picture and in Grafana's frames.
const objectiveLegend = "objective"

// All lists the dashboards, the first to open first.
func All() []Dashboard {
	return []Dashboard{overview(), integrity(), failures(), maintenance(), recovery(), exporter()}
}
