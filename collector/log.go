package collector

import (
	"slices"

	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/state"
)

var (
	logMessages = &Family{
		Name: Namespace + "log_messages_total", Type: Counter, Labels: []string{"datname", "severity", "sqlstate_class"},
		Help:   "Messages of severity WARNING and above in the server's log, by class of SQLSTATE; datname none is a process without a database.",
		Source: "server log",
	}
	errorsTotal = &Family{
		Name: Namespace + "errors_total", Type: Counter, Labels: []string{"datname", "sqlstate", "condition_name"},
		Help:   "Errors in the server's log, by SQLSTATE from a fixed list and by class (xxx) for the others; unknown is a log that does not tell it.",
		Source: "server log",
	}
	errorsByCategory = &Family{
		Name: Namespace + "errors_by_category_total", Type: Counter, Labels: []string{"datname", "category"},
		Help:   "Errors in the server's log, by what kind of trouble their SQLSTATE is; the table of SQLSTATEs is in docs/logs.md.",
		Source: "server log",
	}
	applicationErrors = &Family{
		Name: Namespace + "application_errors_total", Type: Counter, Labels: []string{"application_name", "category"},
		Help:   "Errors of the applications that the configuration names (log.applications), by kind of trouble.",
		Source: "server log",
	}
	roleErrors = &Family{
		Name: Namespace + "role_errors_total", Type: Counter, Labels: []string{"rolname", "category"},
		Help:   "Errors of the roles that the configuration names (log.roles), by kind of trouble.",
		Source: "server log",
	}
	corruptionEvents = &Family{
		Name: Namespace + "corruption_events_total", Type: Counter, Labels: []string{"kind"},
		Help:   "Messages in the server's log that are evidence of damaged data, by kind.",
		Source: "server log",
	}
	serverEvents = &Family{
		Name: Namespace + "server_events_total", Type: Counter, Labels: []string{"kind"},
		Help:   "Crashes, recoveries, failed archiving and errors that may come from damage (suspect) in the server's log, by kind.",
		Source: "server log",
	}
	logReaderUp = &Family{
		Name: Namespace + "log_reader_up", Type: Gauge,
		Help:   "Whether the server's log is being read (1); 0 means that errors and corruption events are not counted.",
		Source: "the log reader",
	}
	logBacklog = &Family{
		Name: Namespace + "log_backlog_bytes", Type: Gauge,
		Help:   "Bytes of the current log file that are written but not read yet.",
		Source: "the log reader",
	}
	logReadBytes = &Family{
		Name: Namespace + "log_read_bytes_total", Type: Counter,
		Help:   "Bytes of the server's log that were read since the exporter started.",
		Source: "the log reader",
	}
	logParseFailures = &Family{
		Name: Namespace + "log_parse_failures_total", Type: Counter,
		Help:   "Records of the server's log that could not be understood since the exporter started.",
		Source: "the log reader",
	}
	logLostBytes = &Family{
		Name: Namespace + "log_lost_bytes_total", Type: Counter,
		Help:   "Bytes of the log that went away before they were read, as far as known, and of records that were never written to their end; kept across restarts.",
		Source: "the log reader",
	}
	logBlind = &Family{
		Name: Namespace + "log_blind", Type: Gauge, Labels: []string{"reason"},
		Help:   "Whether a setting keeps something from the log or from its reader (1) or not (0); the exporter's log says what and what to do.",
		Source: "pg_settings, pg_db_role_setting",
	}
	logLastMessage = &Family{
		Name: Namespace + "log_last_message_timestamp_seconds", Type: Gauge,
		Help:   "When the server's log last had something new, in seconds since the epoch; 0 is never since the exporter started.",
		Source: "the log reader",
	}
)

// logReasons are the reasons of failed transactions that only the log knows,
// with the SQLSTATE labels that they sum up.
var logReasons = []struct {
	reason string
	labels []string
}{
	{"admin_shutdown", []string{"57P01", "57P02", "57P03", "57xxx"}},
	{"constraint", []string{"23502", "23503", "23505", "23514", "23xxx"}},
	{"corruption", []string{"58030", "58P01", "XX001", "XX002"}},
	{"resource", []string{"53100", "53200", "53300", "53xxx", "54xxx"}},
	{"serialization", []string{"40001"}},
	{"timeout", []string{"55P03", "57014"}},
}

// maxFullDatabases is up to how many databases every label value exists at 0.
// With more, only what rules look at does, and the rest is born with its first
// event, so that the page stays within its bound.
const maxFullDatabases = 20

// coreLabels are the SQLSTATE labels that exist at 0 in every database: those of
// which a rule counts the first one. Others have their categories.
var coreLabels = []string{"53100", "53200", "53300", "58030", "58P01", "58xxx", "XX000", "XX001", "XX002", "XXxxx"}

// logCollector shows what the log reader counted. It asks the server nothing.
func logCollector() Collector {
	return Collector{
		Name: "log",
		Help: "Messages, errors and corruption events of the server's log.",
		Families: []*Family{
			logMessages, errorsTotal, errorsByCategory, applicationErrors, roleErrors, transactionsFailures, corruptionEvents,
			serverEvents, logReaderUp, logBlind, logBacklog, logReadBytes, logParseFailures, logLostBytes, logLastMessage,
		},
		Snapshot: emitLogReader,
		Kept:     emitLog,
	}
}

func emitLog(snapshot *state.Snapshot, sink *Sink) {
	for _, datname := range logDatabases(snapshot) {
		emitDatabaseLog(snapshot, sink, datname)
	}
	for _, kind := range pglog.CorruptionKinds() {
		sink.Add(corruptionEvents, counted(snapshot, pglog.Counter{Kind: pglog.CountEvents, Event: kind}), string(kind))
	}
	for _, kind := range pglog.ServerEventKinds() {
		sink.Add(serverEvents, counted(snapshot, pglog.Counter{Kind: pglog.CountEvents, Event: kind}), string(kind))
	}
	for _, reason := range pglog.BlindReasons() {
		blind := slices.ContainsFunc(snapshot.LogBlindness, func(b pglog.Blindness) bool { return b.Reason == reason })
		sink.AddBool(logBlind, blind, reason)
	}
	emitNames(snapshot, sink)
	sink.Add(logLostBytes, counted(snapshot, pglog.Counter{Kind: pglog.CountLostBytes}))
}

// emitLogReader shows how the log reader fares, which changes with every line.
func emitLogReader(snapshot *state.Snapshot, sink *Sink) {
	status := snapshot.Log
	sink.AddBool(logReaderUp, status.Up)
	sink.Add(logBacklog, float64(status.BacklogBytes))
	sink.Add(logReadBytes, float64(status.ReadBytes))
	sink.Add(logParseFailures, float64(status.ParseFailures))
	sink.Add(logLastMessage, timestamp(status.LastMessage))
}

func emitDatabaseLog(snapshot *state.Snapshot, sink *Sink, datname string) {
	full := len(snapshot.Databases) <= maxFullDatabases
	for _, label := range pglog.MessageLabels() {
		value := counted(snapshot, pglog.Counter{
			Kind: pglog.CountMessages, Database: datname, Severity: label.Severity, Class: label.Class,
		})
		core := label.Severity == pglog.Error && (label.Class == "58" || label.Class == "XX")
		if full || core || value > 0 {
			sink.Add(logMessages, value, datname, string(label.Severity), label.Class)
		}
	}
	byLabel := make(map[string]float64)
	byCategory := make(map[pglog.Category]float64)
	for _, label := range pglog.Conditions() {
		value := counted(snapshot, pglog.Counter{Kind: pglog.CountErrors, Database: datname, SQLState: label.SQLState})
		byLabel[label.SQLState] = value
		byCategory[label.Category] += value
		if full || value > 0 || slices.Contains(coreLabels, label.SQLState) {
			sink.Add(errorsTotal, value, datname, label.SQLState, label.Name)
		}
	}
	for _, category := range pglog.Categories() {
		sink.Add(errorsByCategory, byCategory[category], datname, string(category))
	}
	for _, r := range logReasons {
		sum := 0.0
		for _, label := range r.labels {
			sum += byLabel[label]
		}
		sink.Add(transactionsFailures, sum, datname, r.reason)
	}
}

// emitNames shows the errors of the applications and roles that the
// configuration names.
func emitNames(snapshot *state.Snapshot, sink *Sink) {
	for _, category := range pglog.Categories() {
		for _, name := range snapshot.LogApplications {
			counter := pglog.Counter{Kind: pglog.CountApplications, Name: name, Category: category}
			sink.Add(applicationErrors, counted(snapshot, counter), name, string(category))
		}
		for _, name := range snapshot.LogRoles {
			counter := pglog.Counter{Kind: pglog.CountRoles, Name: name, Category: category}
			sink.Add(roleErrors, counted(snapshot, counter), name, string(category))
		}
	}
}

// logDatabases lists the databases that exist, those that only the log knew,
// and what stands for no database.
func logDatabases(snapshot *state.Snapshot) []string {
	databases := append([]string{pglog.NoDatabase}, snapshot.Databases...)
	for counter := range snapshot.Counters {
		if counter.Database != "" {
			databases = append(databases, counter.Database)
		}
	}
	slices.Sort(databases)
	return slices.Compact(databases)
}

func counted(snapshot *state.Snapshot, counter pglog.Counter) float64 {
	return float64(snapshot.Counters[counter])
}
