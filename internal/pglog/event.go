package pglog

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// EventKind is a kind of event that the log tells of. The values are closed
// lists: the label kind of pgintegrity_corruption_events_total and of
// pgintegrity_server_events_total.
type EventKind string

// The kinds of events that are evidence of damaged data.
const (
	// Catalog: the system catalogues lack what must be there.
	Catalog EventKind = "catalog"
	// Checksum: a page was read whose data checksum is wrong (WARNING).
	Checksum EventKind = "checksum"
	// ControlFile: pg_control is damaged.
	ControlFile EventKind = "control_file"
	// DataCorrupted: SQLSTATE XX001 not covered by another kind.
	DataCorrupted EventKind = "data_corrupted"
	// HeapTuple: a row's header or line pointer cannot be.
	HeapTuple EventKind = "heap_tuple"
	// IndexCorrupted: SQLSTATE XX002, or another that says the same of an index.
	IndexCorrupted EventKind = "index_corrupted"
	// Internal: SQLSTATE XX000 with a text that only damage produces.
	Internal EventKind = "internal"
	// InvalidPage: a statement could not use a page.
	InvalidPage EventKind = "invalid_page"
	// IOError: the operating system could not read or write a data file.
	IOError EventKind = "io_error"
	// MissingFile: a file of the data directory is gone or may not be opened.
	MissingFile EventKind = "missing_file"
	// PageLSN: a page is from later than the write-ahead log.
	PageLSN EventKind = "page_lsn"
	// RelationMap: a relation mapping file is damaged.
	RelationMap EventKind = "relation_map"
	// ShortRead: a file ends before the page that was asked for.
	ShortRead EventKind = "short_read"
	// Toast: a value stored out of line is incomplete or cannot be decompressed.
	Toast EventKind = "toast"
	// TransactionStatus: the status of a transaction cannot be read.
	TransactionStatus EventKind = "transaction_status"
	// VisibilityMap: VACUUM found the visibility map in contradiction to a page.
	VisibilityMap EventKind = "visibility_map"
)

// The kinds of events that endanger the server but are no evidence of damage.
const (
	// ArchiveFailure: a file of the write-ahead log could not be archived.
	ArchiveFailure EventKind = "archive_failure"
	// BackendKilled: a process of the server was ended by SIGKILL, often for want
	// of memory; the server restarted.
	BackendKilled EventKind = "backend_killed"
	// CrashRecovery: the server started without having been shut down.
	CrashRecovery EventKind = "crash_recovery"
	// PanicStop: a message of severity PANIC; the server restarted.
	PanicStop EventKind = "panic"
	// ServerCrash: a process of the server crashed (signal 4, 6, 7, 8 or 11); the
	// server restarted. Reading damaged data is one cause.
	ServerCrash EventKind = "server_crash"
	// StartFailure: the server could not start or recover.
	StartFailure EventKind = "start_failure"
	// Suspect: an error that damage produces, but a concurrent change of a
	// definition or a very large value as well. What it names is checked at once.
	Suspect EventKind = "suspect"
)

// CorruptionKinds lists the kinds that are evidence of damaged data.
func CorruptionKinds() []EventKind {
	return []EventKind{
		Catalog, Checksum, ControlFile, DataCorrupted, HeapTuple, IndexCorrupted, Internal, InvalidPage, IOError,
		MissingFile, PageLSN, RelationMap, ShortRead, Toast, TransactionStatus, VisibilityMap,
	}
}

// ServerEventKinds lists the other kinds.
func ServerEventKinds() []EventKind {
	return []EventKind{ArchiveFailure, BackendKilled, CrashRecovery, PanicStop, ServerCrash, StartFailure, Suspect}
}

// Corruption says whether the kind is evidence of damaged data.
func (k EventKind) Corruption() bool {
	switch k {
	case "", ArchiveFailure, BackendKilled, CrashRecovery, PanicStop, ServerCrash, StartFailure, Suspect:
		return false
	default:
		return true
	}
}

// Event is one message that tells of damage or of a crash.
type Event struct {
	Kind     EventKind
	Severity Severity
	SQLState string
	// Database is the name of the session's database; "" for a process without
	// one.
	Database string
	// Text is the beginning of the message.
	Text string
	// Object is what the message is about, as far as its text tells.
	Object Object
	// Mentioned are the names in the statement that was running, when the message
	// gives no name itself: tables may be among them.
	Mentioned []string
}

// maxEventText is how much of a message's text an event keeps.
const maxEventText = 1 << 10

// eventOf recognises the events that damage leaves behind.
func eventOf(m *Message, severity Severity, sqlstate string) (Event, bool) {
	if !interesting(severity, sqlstate, m) || m.cut {
		return Event{}, false
	}
	text := strings.TrimSpace(m.Text())
	kind := kindOf(m, severity, sqlstate, text)
	if m.unsure || kind.Corruption() && m.Raised() {
		kind = relayed(sqlstate, text)
	}
	if kind == "" || m.elsewhere() {
		return Event{}, false
	}
	event := Event{
		Kind: kind, Severity: severity, SQLState: sqlstate, Database: m.Database(),
		Text: strings.ToValidUTF8(text[:min(len(text), maxEventText)], ""), Object: objectOf(text, m.Context()),
	}
	if event.Object.Path == "" && event.Object.Name == "" {
		event.Mentioned = mentioned(m.Statement() + " " + m.Context())
	}
	return event, true
}

// relayed is the kind of a message that a user made, or may have: a suspect when it
// has the words of damage, because handlers of exceptions raise those again. What
// it is worth the checks tell.
func relayed(sqlstate, text string) EventKind {
	if sqlstate != UnknownState && (knownKind(sqlstate, text) != "" || dataPath.MatchString(text)) {
		return Suspect
	}
	return ""
}

// interesting leaves out by SQLSTATE what cannot be an event, which is nearly
// everything.
func interesting(severity Severity, sqlstate string, m *Message) bool {
	switch {
	case severity == Quiet:
		return sqlstate != "00000" || ofServer(m.text)
	case severity == Fatal, severity == Panic, sqlstate == UnknownState, sqlstate == "42501", sqlstate == "01000":
		return true
	}
	switch sqlstate[:2] {
	case "XX", "58":
		return true
	case "42", "55":
		return dataPath.Match(m.text) || sqlstate == "55000" && bytes.Contains(m.text, []byte("invisible tuple"))
	}
	return string(m.backend) == "archiver"
}

func kindOf(m *Message, severity Severity, sqlstate, text string) EventKind {
	if severity == Quiet && sqlstate == "00000" {
		return serverKind(m, text)
	}
	if kind := corruptionKind(m, severity, sqlstate, text); kind != "" {
		return kind
	}
	backend := m.Backend()
	switch {
	case severity == Panic:
		return PanicStop
	case backend == "archiver" && sqlstate[:2] != "57", archiveTexts.MatchString(text):
		return ArchiveFailure
	case severity == Fatal && (backend == "startup" || backend == "postmaster") && sqlstate[:2] != "57":
		return StartFailure
	}
	return ""
}

// corruptionKind decides by the SQLSTATE. Where PostgreSQL gives none of its
// own, the text has to be one of the known ones, or to name a file of the data
// directory, which is the same in every language. XX001 and XX002 tell of damage
// unless they are about bytes that a function was given; the text only tells of what
// kind.
func corruptionKind(m *Message, severity Severity, sqlstate, text string) EventKind {
	kind := knownKind(sqlstate, text)
	if kind == "" && (sqlstate[:2] == "XX" || sqlstate == "01000") {
		kind = functionKinds[m.function()]
	}
	switch {
	case sqlstate == "XX002" && severity == Warning:
		return "" // REINDEX CONCURRENTLY leaves out an invalid index (13 to 16)
	case kind == Suspect:
		return kind
	case sqlstate == "XX002":
		return IndexCorrupted
	case kind == Internal && strings.Contains(text, "alloc"):
		return allocationKind(text)
	case sqlstate == "XX001":
		if kind == "" {
			kind = shapeKind(severity, text)
		}
		return kind
	case sqlstate == UnknownState && new(head).guess([]byte(text)):
		return "" // a name that looks like an error, in front of a message
	case sqlstate == UnknownState || sqlstate == "01000" || kind != "" && kind != IOError && kind != MissingFile:
		return kind
	case slices.Contains(fileStates, sqlstate):
		return fileKind(m, sqlstate, text)
	}
	return ""
}

// fileStates are the SQLSTATEs of a file that cannot be used: it is not there,
// cannot be read, may not be opened, or is not a file.
var fileStates = []string{"58P01", "58030", "42501", "42809", "XX000"}

// allocationKind tells a length that no value can have from one that a healthy
// server refuses when a value grows too large.
func allocationKind(text string) EventKind {
	const largest = 1 << 40
	for _, digits := range numbers.FindAllString(text, -1) {
		if n, err := strconv.ParseUint(digits, 10, 64); err != nil || n > largest {
			return Internal
		}
	}
	return Suspect
}

var numbers = regexp.MustCompile(`\d+`)

// shapeKind tells the kinds of XX001 apart when the text is not known, for
// example a translated one, by the numbers and paths in it.
func shapeKind(severity Severity, text string) EventKind {
	path := dataPath.FindString(text)
	count := len(numbers.FindAllString(strings.Replace(text, path, "", 1), -1))
	switch {
	case strings.Contains(text, "pg_toast_"):
		return Toast
	case strings.Contains(text, "pg_filenode.map"):
		return RelationMap
	case strings.Contains(text, "pg_control"):
		return ControlFile
	case statusPath.MatchString(text):
		return TransactionStatus
	case path != "" && count >= 3:
		return ShortRead
	case path != "" && count == 1:
		return InvalidPage
	case path == "" && severity == Warning && count == 2:
		return Checksum
	}
	return DataCorrupted
}

// fileKind recognises errors about the server's own files. Users name files as
// well, and tables like files.
func fileKind(m *Message, sqlstate, text string) EventKind {
	path := dataPath.FindString(text)
	if path == "" {
		path = statusPath.FindString(text)
	}
	switch {
	case usersFile.MatchString(text), path != "" && strings.Contains(m.Statement(), path):
		return ""
	case (sqlstate == "42501" || sqlstate == "42809") && !fileTrouble.MatchString(text) && !statusPath.MatchString(m.Detail()):
		return ""
	case statusPath.MatchString(text), statusPath.MatchString(m.Detail()), sqlstate == "XX000" && multixact.MatchString(text):
		return TransactionStatus
	case strings.Contains(text, "pg_filenode.map"):
		return RelationMap
	case strings.Contains(text, "global/pg_control"):
		return ControlFile
	case !dataPath.MatchString(text):
		return ""
	case sqlstate == "58030":
		return IOError
	case sqlstate == "XX000" && len(numbers.FindAllString(dataPath.ReplaceAllString(text, ""), -1)) > 1:
		return ShortRead // a block that is asked for, and how many there are
	case sqlstate == "XX000":
		return Internal
	}
	return MissingFile
}

var (
	statusPath = regexp.MustCompile(`\b(?:pg_xact|pg_multixact|pg_subtrans|pg_commit_ts)/[0-9A-Za-z/]+`)
	dataPath   = regexp.MustCompile(`\b(?:base/\d+/|global/\d|pg_tblspc/\d+/PG_)[0-9A-Za-z_./]*`)
	// usersFile begins what the server says of files and libraries that a user names,
	// and of what a user may not do.
	usersFile = regexp.MustCompile(`^(?:could not open file "[^"]*" for (?:reading|writing)|could not (?:stat|access) file |could not open directory |` +
		`access to library |permission denied for |must be owner of )`)
	// fileTrouble is a path with what the operating system said behind a colon; French
	// has a space before the quote.
	fileTrouble = regexp.MustCompile(`\b(?:base/\d+/|global/\d|global/pg_|pg_tblspc/\d+/PG_|pg_xact/|pg_multixact/|pg_subtrans/|pg_commit_ts/)[0-9A-Za-z_./]*[\s\x{a0}]?["»«“”」].*: \S`)
	// multixact is what no language translates.
	multixact = regexp.MustCompile(`\bMultiXact(?:Id)? ?"?\d+`)
	// terminated is the message of the postmaster in every language: the process,
	// the signal, a colon and the signal's name.
	terminated   = regexp.MustCompile(`^[^:'(]*\(PID \d+\)\D*(\d+)\D*: \S`)
	archiveTexts = regexp.MustCompile(`^(?:archive command (?:failed with exit code|was terminated by) |archiving write-ahead log file "[^"]*" failed)`)
)

// ofServer says whether a message below WARNING may be an event. It looks at
// every message of the log, and so only at its beginning.
func ofServer(text []byte) bool {
	beginning := text[:min(len(text), 160)]
	return bytes.Contains(beginning, []byte("(PID ")) || bytes.HasPrefix(text, []byte("database system was ")) ||
		bytes.HasPrefix(text, []byte("archive command "))
}

// serverKind recognises what the postmaster, the startup process and the
// archiver log. Where the log does not tell the kind of process, it must at
// least have no database.
func serverKind(m *Message, text string) EventKind {
	backend := m.Backend()
	if backend == "" && len(m.database) > 0 {
		return ""
	}
	if backend == "postmaster" || backend == "" {
		if match := terminated.FindStringSubmatch(text); match != nil {
			switch match[1] {
			case "9":
				return BackendKilled
			case "4", "6", "7", "8", "11":
				return ServerCrash
			}
		}
	}
	switch {
	case (backend == "startup" || backend == "") && strings.HasPrefix(text, "database system was not properly shut down"):
		return CrashRecovery
	case (backend == "archiver" || backend == "") && archiveTexts.MatchString(text):
		return ArchiveFailure
	}
	return ""
}
