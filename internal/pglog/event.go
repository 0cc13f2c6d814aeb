package pglog

import (
	"regexp"
	"strconv"
	"strings"
)

// EventKind is a kind of event that the log tells of. The values are closed
// lists: the label kind of pgintegrity_corruption_events_total and of
// pgintegrity_server_events_total.
type EventKind string

// The kinds of events that are evidence of damaged data.
const (
	// Checksum: a page was read whose data checksum is wrong (WARNING).
	Checksum EventKind = "checksum"
	// ControlFile: pg_control is damaged.
	ControlFile EventKind = "control_file"
	// DataCorrupted: SQLSTATE XX001 not covered by another kind.
	DataCorrupted EventKind = "data_corrupted"
	// IndexCorrupted: SQLSTATE XX002.
	IndexCorrupted EventKind = "index_corrupted"
	// Internal: SQLSTATE XX000 with a text that only damage produces.
	Internal EventKind = "internal"
	// InvalidPage: a statement could not use a page.
	InvalidPage EventKind = "invalid_page"
	// IOError: the operating system could not read or write a data file.
	IOError EventKind = "io_error"
	// MissingFile: a file of the data directory is gone or may not be opened.
	MissingFile EventKind = "missing_file"
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
)

// CorruptionKinds lists the kinds that are evidence of damaged data.
func CorruptionKinds() []EventKind {
	return []EventKind{
		Checksum, ControlFile, DataCorrupted, IndexCorrupted, Internal, InvalidPage, IOError,
		MissingFile, RelationMap, ShortRead, Toast, TransactionStatus, VisibilityMap,
	}
}

// ServerEventKinds lists the other kinds.
func ServerEventKinds() []EventKind {
	return []EventKind{BackendKilled, CrashRecovery, PanicStop, ServerCrash}
}

// Corruption says whether the kind is evidence of damaged data.
func (k EventKind) Corruption() bool {
	switch k {
	case BackendKilled, CrashRecovery, PanicStop, ServerCrash:
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
	// Text is the message.
	Text string
	// Object is what the message is about, as far as its text tells.
	Object Object
}

// Object is a relation as a message names it.
type Object struct {
	// Path is the path of a file within the data directory, for example
	// base/16384/16390.
	Path string
	// Tablespace, Database and Filenode are the numbers in Path; Tablespace is 0
	// for the default one, Database is 0 for shared catalogues.
	Tablespace, Database, Filenode uint32
	// Name is a quoted name of a relation in the message.
	Name string
	// Block is the number of the page, from 0.
	Block *uint32
}

// eventOf recognises the events that damage leaves behind.
func eventOf(m *Message, severity Severity, sqlstate string) (Event, bool) {
	kind := kindOf(m, severity, sqlstate)
	if kind == "" || m.Raised() {
		return Event{}, false
	}
	text := m.Text()
	return Event{
		Kind: kind, Severity: severity, SQLState: sqlstate, Database: m.Database(),
		Text: text, Object: objectOf(text),
	}, true
}

func kindOf(m *Message, severity Severity, sqlstate string) EventKind {
	switch {
	case severity == Quiet:
		return serverKind(m)
	case severity == Panic && sqlstate != "XX001" && sqlstate != "XX002":
		return PanicStop
	case sqlstate == "XX002":
		return IndexCorrupted
	case sqlstate == "XX001":
		return corruptedKind(m.Text())
	case sqlstate == "XX000":
		return internalKind(m.Text())
	case sqlstate == "58P01", sqlstate == "58030", sqlstate == "42501":
		return fileKind(m.Text(), sqlstate)
	case sqlstate == "01000":
		return warningKind(m.Text())
	}
	return ""
}

// corruptedKind tells the kinds of XX001 apart. A text that is not known, for
// example a translated one, is DataCorrupted.
func corruptedKind(text string) EventKind {
	switch {
	case strings.Contains(text, "page verification failed"):
		return Checksum
	case strings.Contains(text, "invalid page in block"):
		return InvalidPage
	case strings.Contains(text, "could not read block"):
		return ShortRead
	case strings.Contains(text, "toast value"), strings.Contains(text, "compressed pglz data"), strings.Contains(text, "compressed lz4 data"):
		return Toast
	case strings.Contains(text, "relation mapping file"):
		return RelationMap
	case strings.Contains(text, "control file"):
		return ControlFile
	}
	return DataCorrupted
}

// internalTexts are the messages of XX000 that a healthy server does not
// produce, however busy it is. Others, such as "tuple concurrently updated" or
// "cache lookup failed", also come from concurrent DDL.
var internalTexts = []string{
	"invalid memory alloc request size",
	"unexpected data beyond EOF",
	"invalid page",
	"missing chunk number",
	"unexpected chunk",
	"unknown type of jsonb container",
	"unrecognized TOAST",
	"MultiXactId",
	"catalog is missing",
	"left sibling",
	"right sibling",
	"left-link",
	"xlog flush request",
	"previous segment is only",
	"failed to re-find",
	"btree level",
	"lacks downlink",
	"corrupted item",
	"corrupted page pointers",
	"corrupted line pointer",
	"invalid lp",
	"found xmin",
	"found update xid",
	"uncommitted xmin",
	"uncommitted Xmin",
	"cannot freeze",
	"relation mapping file",
	"wrong length of hash",
	"no such bucket",
}

func internalKind(text string) EventKind {
	for _, known := range internalTexts {
		if strings.Contains(text, known) {
			switch known {
			case "relation mapping file":
				return RelationMap
			case "missing chunk number", "unexpected chunk", "unrecognized TOAST":
				return Toast
			case "invalid page":
				return InvalidPage
			}
			return Internal
		}
	}
	return ""
}

// fileKind recognises errors about the server's own files. COPY from a file
// that is not there has the same SQLSTATE and another path; a missing grant on
// a table is 42501 as well.
func fileKind(text, sqlstate string) EventKind {
	if strings.Contains(text, "could not access status of transaction") || statusPath.MatchString(text) {
		return TransactionStatus
	}
	if !dataPath.MatchString(text) {
		return ""
	}
	if sqlstate == "58030" {
		return IOError
	}
	return MissingFile
}

// warningKind recognises what VACUUM only warns of.
func warningKind(text string) EventKind {
	switch {
	case strings.Contains(text, "visibility map bit is set"),
		strings.Contains(text, "marked as all-visible"),
		strings.Contains(text, "incorrectly marked"):
		return VisibilityMap
	case strings.Contains(text, "page verification failed"):
		return Checksum
	case strings.Contains(text, "overwrote invalid relfrozenxid"), strings.Contains(text, "overwrote invalid relminmxid"):
		return TransactionStatus
	case strings.Contains(text, "relation mapping file"):
		return RelationMap
	}
	return ""
}

var (
	terminated = regexp.MustCompile(`\(PID \d+\) was terminated by signal (\d+)`)
	statusPath = regexp.MustCompile(`"(?:pg_xact|pg_multixact|pg_subtrans|pg_commit_ts)/[^"]*"`)
	dataPath   = regexp.MustCompile(`"(?:base/\d+/|global/\d|pg_tblspc/\d+/PG_)[^"]*"`)
)

// serverKind recognises what the postmaster and the startup process log.
func serverKind(m *Message) EventKind {
	switch string(m.backend) {
	case "postmaster":
		match := terminated.FindStringSubmatch(m.Text())
		if match == nil {
			return ""
		}
		switch match[1] {
		case "9":
			return BackendKilled
		case "4", "6", "7", "8", "11":
			return ServerCrash
		}
	case "startup":
		if strings.Contains(m.Text(), "automatic recovery in progress") {
			return CrashRecovery
		}
	}
	return ""
}

var (
	objectPath = regexp.MustCompile(`(?:base/(\d+)|(global)|pg_tblspc/(\d+)/PG_[^/"\s]+/(\d+))/(\d+)(?:_[a-z]+)?(?:\.\d+)?`)
	objectName = regexp.MustCompile(`(?:relation|index|table|rel|sequence) "([^"]+)"`)
	// The word is the same in most translations.
	objectBlock = regexp.MustCompile(`(?i)\b(?:block|blocks|page) (\d+)`)
)

// objectOf finds what a message is about.
func objectOf(text string) Object {
	var o Object
	if match := objectPath.FindStringSubmatch(text); match != nil {
		o.Path = match[0]
		o.Database = number(match[1]) | number(match[4])
		o.Tablespace = number(match[3])
		o.Filenode = number(match[5])
	}
	if match := objectName.FindStringSubmatch(text); match != nil && !strings.Contains(match[1], "/") {
		o.Name = match[1]
	}
	if match := objectBlock.FindStringSubmatch(text); match != nil {
		if n, err := strconv.ParseUint(match[1], 10, 32); err == nil {
			block := uint32(n)
			o.Block = &block
		}
	}
	return o
}

func number(digits string) uint32 {
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}
