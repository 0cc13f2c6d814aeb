package pglog

import (
	"cmp"
	"slices"
)

// Category says what kind of trouble a SQLSTATE is, and with that who has to
// do something. The values are a closed list: the label category.
type Category string

// The categories.
const (
	// ClientMistake: the statement or its data are wrong.
	ClientMistake Category = "client_mistake"
	// Contention: transactions were in each other's way; trying again helps.
	Contention Category = "contention"
	// Resources: memory, disk, connections or a limit ran out.
	Resources Category = "resources"
	// Connection: the client, the network or the login failed.
	Connection Category = "connection"
	// Administrative: somebody or a setting ended it.
	Administrative Category = "administrative"
	// ServerFault: the server or the system beneath it failed.
	ServerFault Category = "server_fault"
	// Corruption: data are damaged.
	Corruption Category = "corruption"
	// UnknownCategory: the log does not tell the SQLSTATE, or it is none of
	// PostgreSQL's.
	UnknownCategory Category = "unknown"
)

// Categories lists all categories.
func Categories() []Category {
	return []Category{Administrative, ClientMistake, Connection, Contention, Corruption, Resources, ServerFault, UnknownCategory}
}

// other is the label value for classes without one of their own.
const other = "other"

// UnknownState is the SQLSTATE of an error whose SQLSTATE the log does not
// tell: a stderr log without %e in log_line_prefix. It is a label value of its
// own.
const UnknownState = "unknown"

// Condition is a SQLSTATE, or a class of them, that has a label value of its
// own.
type Condition struct {
	// SQLState is the SQLSTATE; for a class its two characters with xxx behind.
	SQLState string
	// Name is the name of the condition or class in PostgreSQL's documentation,
	// appendix A.
	Name string
	// Category is what kind of trouble it is.
	Category Category
	// Meaning is what it means for whoever looks at it.
	Meaning string
}

// conditions is the table of everything that has a label value.
var conditions = []Condition{
	{"08xxx", "connection_exception", Connection, "The connection broke, or the client broke the protocol."},
	{"08006", "connection_failure", Connection, "The connection to a client or to another server broke."},
	{"08P01", "protocol_violation", Connection, "A client or a proxy sent what the protocol does not allow."},
	{"0Axxx", "feature_not_supported", ClientMistake, "The statement asks for what the server cannot do."},
	{"22xxx", "data_exception", ClientMistake, "A value cannot be used, for example a division by zero or a malformed number."},
	{"22021", "character_not_in_repertoire", ClientMistake, "Bytes are not valid in the encoding: mostly sent by a client; when a stored value is read, it is damaged."},
	{"23xxx", "integrity_constraint_violation", ClientMistake, "A constraint refused the data."},
	{"23502", "not_null_violation", ClientMistake, "A column that must have a value got none."},
	{"23503", "foreign_key_violation", ClientMistake, "A row refers to one that is not there, or one that is referred to was to go."},
	{"23505", "unique_violation", ClientMistake, "A key exists already."},
	{"23514", "check_violation", ClientMistake, "A CHECK constraint refused the data."},
	{"25xxx", "invalid_transaction_state", ClientMistake, "The transaction's state does not allow the statement, for example a write when it is read only."},
	{"25P02", "in_failed_sql_transaction", ClientMistake, "A statement after an error in the same transaction; the first error is the one to look at."},
	{"28xxx", "invalid_authorization_specification", Connection, "pg_hba.conf or the role does not allow the login."},
	{"28P01", "invalid_password", Connection, "A login with a wrong password."},
	{"40xxx", "transaction_rollback", Contention, "The transaction was rolled back; try it again."},
	{"40001", "serialization_failure", Contention, "The transaction conflicts with a concurrent one, or with replay on a standby; try it again."},
	{"40P01", "deadlock_detected", Contention, "Transactions waited for each other; one of them was ended."},
	{"42xxx", "syntax_error_or_access_rule_violation", ClientMistake, "The statement is wrong, or names what does not exist."},
	{"42501", "insufficient_privilege", ClientMistake, "The role may not do it. About a file of the data directory it means wrong permissions there."},
	{"42P01", "undefined_table", ClientMistake, "A table does not exist, for example after a migration."},
	{"53xxx", "insufficient_resources", Resources, "A resource of the server is used up."},
	{"53100", "disk_full", Resources, "No space is left on a file system of the server."},
	{"53200", "out_of_memory", Resources, "Memory is used up."},
	{"53300", "too_many_connections", Resources, "All connections are taken."},
	{"54xxx", "program_limit_exceeded", Resources, "A limit of PostgreSQL, for example of the size of a row or a value."},
	{"55xxx", "object_not_in_prerequisite_state", ClientMistake, "The object's state does not allow it, for example a sequence that was not used yet."},
	{"55P03", "lock_not_available", Contention, "A lock was not got in time (lock_timeout, NOWAIT)."},
	{"57xxx", "operator_intervention", Administrative, "Somebody or a setting ended the session or statement."},
	{"57014", "query_canceled", Administrative, "The statement was cancelled, by a person or by statement_timeout."},
	{"57P01", "admin_shutdown", Administrative, "The session was ended by a shutdown or pg_terminate_backend()."},
	{"57P02", "crash_shutdown", ServerFault, "The session was ended because another process of the server crashed."},
	{"57P03", "cannot_connect_now", Administrative, "The server is starting, recovering or shutting down."},
	{"58xxx", "system_error", ServerFault, "The operating system failed the server."},
	{"58030", "io_error", ServerFault, "A file could not be read or written: look at the disk."},
	{"58P01", "undefined_file", ServerFault, "A file is missing; within the data directory that is damage."},
	{"F0xxx", "config_file_error", ServerFault, "A configuration file or the lock file is wrong."},
	{"P0xxx", "plpgsql_error", ClientMistake, "A function raised the error on purpose."},
	{"XXxxx", "internal_error", ServerFault, "An internal error of the server."},
	{"XX000", "internal_error", ServerFault, "An internal error: a bug, a concurrent change of a definition, or damage."},
	{"XX001", "data_corrupted", Corruption, "Data are damaged."},
	{"XX002", "index_corrupted", Corruption, "An index is damaged."},
	{other, other, UnknownCategory, "A SQLSTATE of another class, for example one that a function made up."},
	{UnknownState, UnknownState, UnknownCategory, "The log does not tell the SQLSTATE: add %e to log_line_prefix."},
}

var bySQLState = func() map[string]Condition {
	table := make(map[string]Condition, len(conditions))
	for _, c := range conditions {
		table[c.SQLState] = c
	}
	return table
}()

// Conditions lists every condition with a label value, by SQLSTATE.
func Conditions() []Condition {
	list := slices.Clone(conditions)
	slices.SortFunc(list, func(a, b Condition) int { return cmp.Compare(a.SQLState, b.SQLState) })
	return list
}

// ConditionOf gives the condition that a SQLSTATE is counted under.
func ConditionOf(sqlstate string) Condition {
	if c, ok := bySQLState[sqlstate]; ok {
		return c
	}
	if len(sqlstate) == 5 {
		if c, ok := bySQLState[sqlstate[:2]+"xxx"]; ok {
			return c
		}
	}
	return bySQLState[other]
}

// ClassLabel is the label value of a SQLSTATE's class: its two characters,
// "other", or "unknown".
func ClassLabel(sqlstate string) string {
	if sqlstate == UnknownState {
		return UnknownState
	}
	if len(sqlstate) == 5 {
		if _, ok := bySQLState[sqlstate[:2]+"xxx"]; ok || sqlstate[:2] == "01" {
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
// other and unknown.
var messageLabels = map[Severity][]string{
	Fatal:   {"28", "53", "57", "58", "XX"},
	Panic:   {"53", "58", "XX"},
	Warning: {"01", "XX"},
}

// MessageLabelOf gives the label values of a message.
func MessageLabelOf(severity Severity, sqlstate string) MessageLabel {
	class := ClassLabel(sqlstate)
	named := class != "01"
	if severity != Error && class != UnknownState {
		named = slices.Contains(messageLabels[severity], class)
	}
	if !named {
		class = other
	}
	return MessageLabel{severity, class}
}

// MessageLabels lists every pair that MessageLabelOf can give.
func MessageLabels() []MessageLabel {
	labels := []MessageLabel{{Error, other}, {Error, UnknownState}}
	for severity, classes := range messageLabels {
		labels = append(labels, MessageLabel{severity, other}, MessageLabel{severity, UnknownState})
		for _, class := range classes {
			labels = append(labels, MessageLabel{severity, class})
		}
	}
	for _, c := range conditions {
		if class, isClass := cutClass(c.SQLState); isClass {
			labels = append(labels, MessageLabel{Error, class})
		}
	}
	slices.SortFunc(labels, func(a, b MessageLabel) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Class, b.Class))
	})
	return labels
}

// cutClass gives the class that a condition stands for, if it stands for one.
func cutClass(sqlstate string) (class string, ok bool) {
	if len(sqlstate) == 5 && sqlstate[2:] == "xxx" {
		return sqlstate[:2], true
	}
	return "", false
}
