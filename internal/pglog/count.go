package pglog

import "strings"

// CounterKind says what a Counter counts.
type CounterKind string

// The kinds of counters: messages by severity and class, errors by SQLSTATE,
// and events by kind.
const (
	CountMessages CounterKind = "message"
	CountErrors   CounterKind = "error"
	CountEvents   CounterKind = "event"
)

// Counter is one counter of the log.
type Counter struct {
	Kind CounterKind `json:"kind"`
	// Database is the database, or NoDatabase; empty for events.
	Database string `json:"database,omitempty"`
	// Severity and Class are those of MessageLabel.
	Severity Severity `json:"severity,omitempty"`
	Class    string   `json:"class,omitempty"`
	// SQLState is that of ErrorLabel.
	SQLState string `json:"sqlstate,omitempty"`
	// Event is the kind of event.
	Event EventKind `json:"event,omitempty"`
}

// NoDatabase is the database of messages of processes that have none, and of
// connections that were refused before they had one.
const NoDatabase = "none"

// OtherDatabases is where messages are counted when there are too many
// databases, or names that no database has.
const OtherDatabases = "other"

// maxDatabases bounds the names of databases in counters.
const maxDatabases = 100

// ownApplication is how the application_name of the exporter's own sessions
// begins. What goes wrong in them is reported by the checks.
const ownApplication = "pg_integrity_exporter"

// counts collects what one batch counted.
type counts struct {
	delta     map[Counter]uint64
	events    []Event
	databases map[string]bool // names seen so far, also in earlier batches
}

func (c *counts) add(m *Message) {
	severity, sqlstate := m.Severity(), m.SQLState()
	if strings.HasPrefix(m.Application(), ownApplication) {
		return
	}
	event, isEvent := eventOf(m, severity, sqlstate)
	if isEvent {
		c.events = append(c.events, event)
		c.delta[Counter{Kind: CountEvents, Event: event.Kind}]++
	}
	if severity == Quiet {
		return
	}
	database := c.database(m)
	label := MessageLabelOf(severity, sqlstate)
	c.delta[Counter{Kind: CountMessages, Database: database, Severity: label.Severity, Class: label.Class}]++
	if severity != Warning {
		c.delta[Counter{Kind: CountErrors, Database: database, SQLState: ErrorLabelOf(sqlstate).SQLState}]++
	}
}

// database is the label value for the message's database.
func (c *counts) database(m *Message) string {
	if len(m.database) == 0 {
		return NoDatabase
	}
	// Anybody can ask for a database that does not exist; its name is not one.
	if m.SQLState() == "3D000" {
		return OtherDatabases
	}
	name := m.Database()
	if c.databases[name] {
		return name
	}
	if len(c.databases) >= maxDatabases {
		return OtherDatabases
	}
	c.databases[name] = true
	return name
}
