package alerts

import (
	"slices"
	"time"
)

// Severity says what an alert does: critical wakes somebody, warning is a
// ticket, info is context that is not routed alone, none is for machines.
type Severity string

// The severities of alerts.
const (
	Critical Severity = "critical"
	Warning  Severity = "warning"
	Info     Severity = "info"
	None     Severity = "none"
)

// Layer says what part of the world an alert is about; alerts of one layer of
// one instance make one page.
type Layer string

// The layers of alerts.
const (
	Availability Layer = "availability"
	// Communication is what people are owed, not what the server does.
	Communication Layer = "communication"
	Errors        Layer = "errors"
	Integrity     Layer = "integrity"
	Maintenance   Layer = "maintenance"
	Monitoring    Layer = "monitoring"
	Recovery      Layer = "recovery"
	Replication   Layer = "replication"
	Saturation    Layer = "saturation"
)

// Audience says who can do something about an alert.
type Audience string

// The audiences of alerts. Whatever the audience, a critical alert goes to
// whoever is on call.
const (
	// DBA is for those who run the server; it is what an alert without an
	// audience has.
	DBA Audience = "dba"
	// Application is for the owners of the application that uses the database.
	Application Audience = "application"
)

// Alert is one alerting rule. In its expression and texts ${NAME} stands for
// the threshold of that name, ${job} for the matcher of the scrape job, and
// ${target} for the labels that tell one server from another.
type Alert struct {
	// Name is the alert, its runbook and its unit test.
	Name string
	// Expr is the condition.
	Expr string
	// Thresholds are the numbers in it that `alerts export` can change. Objectives
	// that belong to a server are series of the exporter instead.
	Thresholds []Threshold
	// For is how long the condition must hold; 0 fires at once.
	For time.Duration
	// KeepFiringFor is how long the alert stays after the condition ended.
	KeepFiringFor time.Duration
	Severity      Severity
	Layer         Layer
	// Audience is who can do something about it; empty is DBA.
	Audience Audience
	// Inform says that those who depend on the data, and cannot do anything
	// themselves, are told too.
	Inform bool
	// NeedsDatabase says that the alert means nothing while the server is down:
	// PostgresDown inhibits it.
	NeedsDatabase bool
	// Mutable says that a maintenance window mutes it. Integrity never is.
	Mutable bool
	// Summary is one fixed sentence. Description says what is so, with values;
	// Impact what that means for the users; Action the first thing to do, which
	// must be safe.
	Summary     string
	Description string
	Impact      string
	Action      string
	// Dashboard is the UID of the dashboard that shows more; empty is the overview.
	Dashboard string
	// NoRunbookURL is for alerts that fire when the exporter cannot serve its
	// runbooks; their texts have the first commands.
	NoRunbookURL bool
}

// Threshold is a number in an expression.
type Threshold struct {
	Name  string
	Value float64
	// Help says what the number is, with its unit.
	Help string
}

// Record is one recording rule.
type Record struct {
	Name string
	Expr string
}

// Group is one group of rules; it has a file of its own.
type Group struct {
	// Name is the group and the name of its file.
	Name string
	// Interval is how often the rules are evaluated; 0 is Prometheus' own.
	Interval time.Duration
	Records  []Record
	Alerts   []Alert
}

// Groups lists every group in the order of triage: does the watcher work, is
// the data whole, what fails, what fills up.
func Groups() []Group {
	return []Group{monitoring(), integrity(), findings(), failures(), business(), history(), backups(), replication(), saturation(), maintenance()}
}

// Key names one alert among those of the same name: NAME/SEVERITY.
func (a Alert) Key() string { return a.Name + "/" + string(a.Severity) }

// Labels are the labels that the rule adds to those of its series; routing and
// inhibition go by them.
func (a Alert) Labels() map[string]string {
	labels := map[string]string{"severity": string(a.Severity), "layer": string(a.Layer), "audience": string(DBA)}
	if a.Audience != "" {
		labels["audience"] = string(a.Audience)
	}
	if a.Inform {
		labels["inform"] = "stakeholders"
	}
	if a.NeedsDatabase {
		labels["needs_database"] = "yes"
	}
	if a.Mutable {
		labels["maintenance"] = "mutable"
	}
	return labels
}

// Find gives the alert of this name and severity.
func Find(name string, severity Severity) (Alert, bool) {
	for _, group := range Groups() {
		i := slices.IndexFunc(group.Alerts, func(a Alert) bool { return a.Name == name && a.Severity == severity })
		if i >= 0 {
			return group.Alerts[i], true
		}
	}
	return Alert{}, false
}
