package spec

import "time"

// Severity says who has to do something, and when. The values are the closed
// list of the label severity of alerts.
type Severity string

// The severities of alerts.
const (
	// Critical wakes somebody.
	Critical Severity = "critical"
	// Warning is a ticket for the next working day.
	Warning Severity = "warning"
	// Info is context beside other alerts and notifies nobody.
	Info Severity = "info"
	// None is a source of routing or inhibition and notifies nobody as an alert.
	None Severity = "none"
)

// Layer says what is in danger, and so who is asked. The values are the closed
// list of the label layer of alerts.
type Layer string

// The layers of alerts.
const (
	// Integrity is the data themselves.
	Integrity Layer = "integrity"
	// Errors is what applications see fail.
	Errors Layer = "errors"
	// Availability is whether the server can be used at all.
	Availability Layer = "availability"
	// Monitoring is whether the other alerts can be relied on.
	Monitoring Layer = "monitoring"
	// Maintenance is what upkeep left undone.
	Maintenance Layer = "maintenance"
)

// Needs says what must work for an alert to be able to tell the truth. When it
// does not work, the alert is a consequence and can be inhibited.
type Needs int

// What alerts need.
const (
	// NeedsNothing: the alert is about the exporter being away.
	NeedsNothing Needs = iota
	// NeedsExporter: the alert reads the exporter's metrics. It gets the label
	// needs_exporter.
	NeedsExporter
	// NeedsDatabase: the alert reads metrics that the exporter has only while the
	// server answers, or means nothing while it does not. It gets the labels
	// needs_exporter and needs_database.
	NeedsDatabase
)

// Alert is one alerting rule.
type Alert struct {
	// Name is the label alertname, the name of the test and of the runbook.
	Name string
	// Expr is the PromQL expression; a result means that the alert is active.
	Expr string
	// For is how long Expr must hold before the alert fires; 0 is at once.
	For time.Duration
	// KeepFiringFor is how long the alert goes on after Expr stopped to hold.
	KeepFiringFor time.Duration
	// Severity is the label severity.
	Severity Severity
	// Layer is the label layer.
	Layer Layer
	// Needs decides on the labels needs_exporter and needs_database.
	Needs Needs
	// Symptom says that damaged data in the same database explain the alert. It
	// gets the label symptom=yes and must have the label datname.
	Symptom bool
	// Mutable says that announced maintenance explains the alert. It gets the
	// label maintenance=mutable.
	Mutable bool
	// Summary is one static sentence.
	Summary string
	// What is what happened, where and how bad, as a Prometheus template.
	What string
	// Why is what that means for whoever uses the data.
	Why string
	// First is the first thing to do, with its command, as a Prometheus template.
	First string
}

// Record is one recording rule.
type Record struct {
	// Name is the name of the series, as level:metric:operation.
	Name string
	// Expr is its PromQL expression.
	Expr string
	// Help is what it is for, for the comment in the rules file.
	Help string
}

// Group is one rule group, which is also one file.
type Group struct {
	// Name is the name of the group.
	Name string
	// Interval is how often the group is evaluated; 0 is Prometheus' default.
	Interval time.Duration
	// Records are evaluated before Alerts, in this order.
	Records []Record
	// Alerts are the alerts of the group.
	Alerts []Alert
}

// Options are what a site can choose.
type Options struct {
	// RunbookURL is where the runbooks are, without the slash before the alert's
	// name. Empty is the exporter that the alert is about. It may be a Prometheus
	// template.
	RunbookURL string
	// Job is the name of the scrape job; empty is DefaultJob.
	Job string
}

// DefaultJob is the name of the scrape job in the shipped rules.
const DefaultJob = "pg_integrity_exporter"

// exporterRunbooks is where the exporter serves the runbooks. A link through
// the exporter is of no use in an alert that says the exporter is away.
const exporterRunbooks = "http://{{ $labels.instance }}/runbooks"

// Groups lists all rule groups.
func Groups(options Options) []Group {
	if options.Job == "" {
		options.Job = DefaultJob
	}
	return []Group{
		monitoring(options.Job),
		integrity(),
		errorsFast(),
		errorsSlow(),
		availability(),
	}
}

// Alerts lists the alerts of all groups.
func Alerts(options Options) []Alert {
	var alerts []Alert
	for _, group := range Groups(options) {
		alerts = append(alerts, group.Alerts...)
	}
	return alerts
}
