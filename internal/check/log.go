package check

import (
	"fmt"

	"pg_integrity_exporter/internal/pglog"
)

// LogFinding is the finding of an event of the log about a relation. It has the
// name log, which is no check: it clears when a check has read the relation.
func LogFinding(event pglog.Event, database string, relation RelationName) Finding {
	f := Finding{
		Check: "log", Class: ClassCorruption, Severity: SeverityCritical, Database: database,
		Schema: relation.Schema, Relation: relation.Name, Block: event.Object.Block, SQLState: event.SQLState,
		Message: oneLine(fmt.Sprintf("a statement ran into damage (%s): %s", event.Kind, event.Text)),
		Impact:  "Statements that touch this object fail now, and others may get wrong data.",
		Action:  heapAction,
	}
	f.Fingerprint = fingerprint(f, string(event.Kind))
	return f
}

// UnreadLog is the finding of a log that the exporter cannot read, or of which it
// has nothing but counts. It clears when the log is read.
func UnreadLog(b pglog.Blindness) Finding {
	f := Finding{
		Check: "log", Class: ClassUnsafeSetting, Severity: SeverityWarning, Message: oneLine("the server's log is not read: " + b.Detail),
		Impact: "Errors are not counted, and damage that statements run into is not noticed before the next check.",
		Action: "Let the exporter read the log as docs/logs.md says: a destination that it understands, and access to the files or through the server.",
	}
	if b.Reason == pglog.BlindText {
		f.Impact = "Damage that statements run into is not noticed before the next check."
	}
	f.Fingerprint = fingerprint(f, b.Reason)
	return f
}
