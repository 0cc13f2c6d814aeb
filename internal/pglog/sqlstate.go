package pglog

import "slices"

// Severity is the severity of a message. Only those that are counted have a
// name of their own.
type Severity string

// The severities that are counted; everything below WARNING is Quiet.
const (
	Quiet   Severity = ""
	Warning Severity = "WARNING"
	Error   Severity = "ERROR"
	Fatal   Severity = "FATAL"
	Panic   Severity = "PANIC"
)

// severityOf reads the severity of a message. With translated messages
// (lc_messages) the word is unknown, and the SQLSTATE decides.
func severityOf(word, sqlstate []byte) Severity {
	switch string(word) {
	case "ERROR":
		return Error
	case "FATAL":
		return Fatal
	case "PANIC":
		return Panic
	case "WARNING":
		return Warning
	case "LOG", "INFO", "NOTICE", "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3", "DEBUG4", "DEBUG5":
		return Quiet
	}
	if len(sqlstate) != 5 {
		return Quiet
	}
	switch string(sqlstate[:2]) {
	case "00", "02":
		return Quiet
	case "01":
		return Warning
	}
	return Error
}

// classNames are the SQLSTATE classes that have a label value of their own,
// with the names of PostgreSQL's documentation, appendix A.
var classNames = map[string]string{
	"08": "connection_exception",
	"0A": "feature_not_supported",
	"22": "data_exception",
	"23": "integrity_constraint_violation",
	"25": "invalid_transaction_state",
	"28": "invalid_authorization_specification",
	"40": "transaction_rollback",
	"42": "syntax_error_or_access_rule_violation",
	"53": "insufficient_resources",
	"54": "program_limit_exceeded",
	"55": "object_not_in_prerequisite_state",
	"57": "operator_intervention",
	"58": "system_error",
	"P0": "plpgsql_error",
	"XX": "internal_error",
}

// conditionNames are the SQLSTATEs that have a label value of their own.
var conditionNames = map[string]string{
	"22021": "character_not_in_repertoire",
	"23502": "not_null_violation",
	"23503": "foreign_key_violation",
	"23505": "unique_violation",
	"23514": "check_violation",
	"25P02": "in_failed_sql_transaction",
	"28P01": "invalid_password",
	"40001": "serialization_failure",
	"40P01": "deadlock_detected",
	"42501": "insufficient_privilege",
	"42P01": "undefined_table",
	"53100": "disk_full",
	"53200": "out_of_memory",
	"53300": "too_many_connections",
	"55P03": "lock_not_available",
	"57014": "query_canceled",
	"57P01": "admin_shutdown",
	"57P02": "crash_shutdown",
	"57P03": "cannot_connect_now",
	"58030": "io_error",
	"58P01": "undefined_file",
	"XX000": "internal_error",
	"XX001": "data_corrupted",
	"XX002": "index_corrupted",
}

// other is the label value for classes without one of their own.
const other = "other"

// ErrorLabel is a pair of label values for errors.
type ErrorLabel struct {
	// SQLState is one of a fixed list of SQLSTATEs, a class with xxx behind it,
	// or "other".
	SQLState string
	// ConditionName is the name of the condition or of the class.
	ConditionName string
}

// ErrorLabels lists every value that ErrorLabelOf can give, by SQLSTATE.
func ErrorLabels() []ErrorLabel {
	labels := []ErrorLabel{{other, other}}
	for sqlstate, name := range conditionNames {
		labels = append(labels, ErrorLabel{sqlstate, name})
	}
	for class, name := range classNames {
		labels = append(labels, ErrorLabel{class + "xxx", name})
	}
	slices.SortFunc(labels, func(a, b ErrorLabel) int { return compare(a.SQLState, b.SQLState) })
	return labels
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// ErrorLabelOf gives the label values of a SQLSTATE.
func ErrorLabelOf(sqlstate string) ErrorLabel {
	if name, ok := conditionNames[sqlstate]; ok {
		return ErrorLabel{sqlstate, name}
	}
	if len(sqlstate) == 5 {
		if name, ok := classNames[sqlstate[:2]]; ok {
			return ErrorLabel{sqlstate[:2] + "xxx", name}
		}
	}
	return ErrorLabel{other, other}
}

// ClassLabel is the label value of a SQLSTATE's class: its two characters, or
// "other".
func ClassLabel(sqlstate string) string {
	if len(sqlstate) == 5 {
		if _, ok := classNames[sqlstate[:2]]; ok || sqlstate[:2] == "01" {
			return sqlstate[:2]
		}
	}
	return other
}

// MessageLabel is a pair of label values for messages.
type MessageLabel struct {
	Severity Severity
	Class    string
}

// messageLabels are the classes that severities other than ERROR have besides
// other.
var messageLabels = map[Severity][]string{
	Fatal:   {"28", "53", "57", "58", "XX"},
	Panic:   {"53", "58", "XX"},
	Warning: {"01", "XX"},
}

// MessageLabelOf gives the label values of a message.
func MessageLabelOf(severity Severity, sqlstate string) MessageLabel {
	class := ClassLabel(sqlstate)
	_, named := classNames[class]
	if severity != Error {
		named = slices.Contains(messageLabels[severity], class)
	}
	if !named {
		class = other
	}
	return MessageLabel{severity, class}
}

// MessageLabels lists every pair that MessageLabelOf can give.
func MessageLabels() []MessageLabel {
	labels := []MessageLabel{{Error, other}}
	for severity, classes := range messageLabels {
		labels = append(labels, MessageLabel{severity, other})
		for _, class := range classes {
			labels = append(labels, MessageLabel{severity, class})
		}
	}
	for class := range classNames {
		labels = append(labels, MessageLabel{Error, class})
	}
	slices.SortFunc(labels, func(a, b MessageLabel) int {
		if c := compare(string(a.Severity), string(b.Severity)); c != 0 {
			return c
		}
		return compare(a.Class, b.Class)
	})
	return labels
}
