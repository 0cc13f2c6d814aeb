package pglog

import (
	"bytes"
	"regexp"
)

// maxText is how much of a message's text is kept; the rest of a longer one is
// read over.
const maxText = 64 << 10

// Message is one message of the log. The fields are parts of the reader's
// buffer, still escaped as the format escapes them, and valid only until the
// next message is read.
type Message struct {
	severity    []byte
	sqlstate    []byte
	stamp       []byte // when it was logged
	process     []byte // the process id
	database    []byte
	user        []byte
	application []byte
	backend     []byte
	text        []byte
	detail      []byte
	context     []byte
	location    []byte
	statement   []byte

	stated bool // the statement, which is written last, has begun
	cut    bool // what tells who made the message is not here, because the record is too long
	unsure bool // a name or the text holds what looks like a message, so that either may be it

	unescape func(raw []byte) []byte
}

// Severity is the severity, also of a translated message.
func (m *Message) Severity() Severity { return severityOf(m.severity, m.sqlstate) }

// negligible says that nothing but the severity of a message is of interest.
func (m *Message) negligible() bool {
	return isQuiet(m.severity, m.sqlstate) && !isTrouble(m.sqlstate) && !tells(m.text)
}

// SQLState is the SQLSTATE; "00000" for a message that has none, and
// UnknownState for an error whose SQLSTATE the log does not tell.
func (m *Message) SQLState() string {
	if len(m.sqlstate) == 5 {
		return string(m.sqlstate)
	}
	if m.Severity() == Quiet {
		return "00000"
	}
	return UnknownState
}

// Database is the name of the database, or "" for a process without one.
func (m *Message) Database() string { return m.decode(m.database) }

// User is the role of the session.
func (m *Message) User() string { return m.decode(m.user) }

// Application is the application_name of the session.
func (m *Message) Application() string { return m.decode(m.application) }

// Backend is the backend_type, for example "client backend" or "postmaster".
func (m *Message) Backend() string { return m.decode(m.backend) }

// Text is the primary message, at most maxText bytes of it, as valid UTF-8.
func (m *Message) Text() string { return m.decode(m.text[:min(len(m.text), maxText)]) }

// Detail is the detail of the message.
func (m *Message) Detail() string { return m.decode(m.detail[:min(len(m.detail), maxText)]) }

// Context is what the message says of where it happened, the innermost first.
func (m *Message) Context() string { return m.decode(m.context[:min(len(m.context), maxText)]) }

// Statement is the statement that was running, as far as it is kept.
func (m *Message) Statement() string { return m.decode(m.statement[:min(len(m.statement), maxText)]) }

// function is the function of the server's source that made the message, which
// the log tells with log_error_verbosity = verbose.
func (m *Message) function() string {
	before, _, ok := bytes.Cut(m.location, []byte(","))
	if !ok {
		before, _, _ = bytes.Cut(m.location, []byte("\x00"))
	}
	return string(bytes.TrimSpace(before))
}

// raisers are the functions of procedural languages through which a function of
// a user makes a message.
var raisers = map[string]bool{
	"exec_stmt_raise": true, "do_util_elog": true, "plperl_util_elog": true, "PLy_output": true, "PLy_elog_impl": true, "pltcl_elog": true,
}

// Raised says whether a function of a user made the message, whatever SQLSTATE
// it chose, and not the server itself: the innermost line of its context is a
// RAISE or ASSERT of PL/pgSQL, which are the same words in every language, or it is a
// function of a language whose errors are its own.
func (m *Message) Raised() bool {
	if function := m.function(); function != "" {
		return raisers[function]
	}
	innermost := m.context
	if raw := m.lineEnd(); raw != nil {
		innermost, _, _ = bytes.Cut(innermost, raw)
	}
	at := bytes.Index(innermost, []byte("PL/"))
	quote := bytes.IndexByte(innermost, '"')
	if at < 0 || (quote >= 0 && quote < at) {
		return false // a line that quotes a statement
	}
	for _, language := range []string{"PL/Perl", "PL/Tcl"} {
		if bytes.HasPrefix(innermost[at:], []byte(language)) {
			return true
		}
	}
	if bytes.HasPrefix(innermost[at:], []byte("PL/Python")) {
		return !bytes.HasPrefix(m.text, []byte("spiexceptions."))
	}
	return hasWord(innermost, "RAISE") || hasWord(innermost, "ASSERT")
}

// elsewhere says whether the message is of another server: dblink and postgres_fdw
// hand on its SQLSTATE. What they add to the context no language translates.
func (m *Message) elsewhere() bool {
	if bytes.Contains(m.context, []byte("remote SQL command: ")) || bytes.Contains(m.context, []byte("dblink connection")) {
		return elsewhere.MatchString(m.Context())
	}
	return false
}

var elsewhere = regexp.MustCompile(`(?m)^(?:remote SQL command: |while .* (?:unnamed dblink connection|dblink connection named )|(?:Error occurred|Unable to) .* dblink connection)`)

// lineEnd is how the format writes the end of a line within a field.
func (m *Message) lineEnd() []byte {
	if bytes.IndexByte(m.context, '\n') >= 0 {
		return []byte("\n")
	}
	return []byte(`\n`)
}

// hasWord says whether text has the word, with no letter, digit, underscore or
// quote beside it.
func hasWord(text []byte, word string) bool {
	for from := 0; ; {
		i := bytes.Index(text[from:], []byte(word))
		if i < 0 {
			return false
		}
		start, end := from+i, from+i+len(word)
		if (start == 0 || !isName(text[start-1])) && (end == len(text) || !isName(text[end])) {
			return true
		}
		from = end
	}
}

func isName(c byte) bool {
	return c == '_' || c == '"' || c == '.' || c == '(' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

func (m *Message) decode(raw []byte) string {
	if len(raw) == 0 {
		return ""
	}
	return string(bytes.ToValidUTF8(m.unescape(raw), []byte("\uFFFD")))
}

// Format is a format of the server's log.
type Format string

// The formats, as log_destination names them. AutoFormat is told by the log's
// own bytes.
const (
	AutoFormat Format = ""
	JSONLog    Format = "jsonlog"
	CSVLog     Format = "csvlog"
	Stderr     Format = "stderr"
	Syslog     Format = "syslog"
)

// framing finds the ends of records in a stream of bytes and reads them.
type framing struct {
	format Format
	quoted bool // within a quoted CSV field
	torn   bool // the record was not written to its end: another one begins within its last line
	zone   []byte
	prefix *Prefixes
	head   head // of the first line of the record, for stderr
	known  bool // head is that of the record
	ahead  head // of the first line behind the record
	passed bool // ahead is known
	past   int  // behind the head that was read last
	open   *session
}

// parsed is what became of a record.
type parsed int

const (
	notUnderstood parsed = iota
	message              // a message of the server
	notOurs              // a record of something else, which is no failure
)

// reset prepares for the first record of another stream.
func (f *framing) reset(format Format) {
	*f = framing{format: format, prefix: f.prefix}
}

// next is the length of the first record in data from position from on, with
// its newline, or -1 when its end is not there yet. Bytes before from have
// been looked at by an earlier call for the same record.
func (f *framing) next(data []byte, from int) int {
	f.torn = false
	switch f.format {
	case CSVLog:
		return f.nextCSV(data, from)
	case Stderr, Syslog:
		return f.nextStderr(data, from)
	default:
		return f.nextJSON(data, from)
	}
}

// looked is how much of data need not be looked at again when next has found
// no end.
func (f *framing) looked(data []byte) int {
	if f.format == Stderr || f.format == Syslog {
		// A line is looked at when it is whole; its newline is found again.
		return max(0, bytes.LastIndexByte(data, '\n'))
	}
	return len(data)
}

// parse reads one record into m.
func (f *framing) parse(record []byte, m *Message) parsed {
	*m = Message{}
	switch f.format {
	case CSVLog:
		return parseCSV(record, m)
	case Stderr, Syslog:
		return f.parseStderr(record, m)
	default:
		return parseJSON(record, m)
	}
}
