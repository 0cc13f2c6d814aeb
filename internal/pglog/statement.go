package pglog

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Statement is a statement that the server logged because log_statement or
// log_min_duration_statement says so. Only those that may be maintenance are
// kept.
type Statement struct {
	// Began is when it began by the server's clock; zero when the log does not
	// tell. Took is how long it took; 0 is not known.
	Began time.Time
	Took  time.Duration
	// PID is the process of its session; 0 is not known.
	PID                         int
	Database, Role, Application string
	Text                        string
}

// maxStatements bounds the statements of one batch.
const maxStatements = 200

// maintenanceWords begin the commands that are maintenance.
var maintenanceWords = []string{"alter", "analyze", "analyse", "cluster", "copy", "create", "drop", "refresh", "reindex", "truncate", "vacuum"}

// BulkCopy is how long a COPY that the log tells of must have taken to be
// maintenance: shorter ones are what applications do all the time, and those whose
// time the log does not tell may be.
const BulkCopy = time.Second

// maxIntroduction bounds what is before a logged statement: "duration: 12.345 ms
// execute NAME: " in the server's language.
const maxIntroduction = 160

// statementAt is where a statement that may be maintenance begins in a message
// below WARNING, which is still escaped; -1 is that there is none. It looks at
// every message of the log, and so only at its beginning.
func statementAt(text []byte) int {
	at, limit := 0, min(len(text), maxIntroduction)
	if limit > 7 && string(text[5:7]) == ": " && isState(text[:5]) { // log_error_verbosity = verbose
		at = 7
	}
	for range 2 { // behind a duration comes a statement
		colon := bytes.Index(text[at:limit], []byte(": "))
		if colon < 0 {
			return -1
		}
		at += colon + 2
		if at >= len(text) || text[at] < '0' || text[at] > '9' {
			break
		}
	}
	if !mayMaintain(text[at:]) {
		return -1
	}
	return at
}

// mayMaintain says whether a statement begins like maintenance, or with a
// comment; BEGIN in front of it does not count.
func mayMaintain(sql []byte) bool {
	for {
		switch {
		case len(sql) > 0 && (sql[0] == ' ' || sql[0] == '\t' || sql[0] == '\n' || sql[0] == '\r'):
			sql = sql[1:]
			continue
		case len(sql) > 1 && sql[0] == '\\' && (sql[1] == 'n' || sql[1] == 't' || sql[1] == 'r'): // within JSON
			sql = sql[2:]
			continue
		case bytes.HasPrefix(sql, []byte("/*")), bytes.HasPrefix(sql, []byte("--")):
			return true
		}
		break
	}
	n := 0
	for n < len(sql) && (sql[n]|0x20 >= 'a' && sql[n]|0x20 <= 'z') {
		n++
	}
	for _, word := range maintenanceWords {
		if len(word) == n && strings.EqualFold(word, string(sql[:n])) {
			return true
		}
	}
	if end := bytes.IndexByte(sql[:min(len(sql), maxIntroduction)], ';'); end > 0 && (strings.EqualFold("begin", string(sql[:n])) || strings.EqualFold("start", string(sql[:n]))) {
		return mayMaintain(sql[end+1:])
	}
	return false
}

// tells says whether a message below WARNING is of interest.
func tells(text []byte) bool { return ofServer(text) || statementAt(text) >= 0 }

// took is the duration in front of a statement, the same in every language.
var took = regexp.MustCompile(`(\d+\.\d{3}) `)

// statementOf reads a logged statement.
func statementOf(m *Message) (Statement, bool) {
	text := m.Text()
	at := statementAt([]byte(text))
	if at < 0 || len(m.database) == 0 || m.cut || m.Raised() {
		return Statement{}, false
	}
	s := Statement{
		Began: m.time(), PID: m.pid(), Database: m.Database(), Role: m.User(), Application: m.Application(), Text: strings.TrimSpace(text[at:]),
	}
	if match := took.FindStringSubmatch(text[:at]); match != nil {
		if ms, err := strconv.ParseFloat(match[1], 64); err == nil {
			s.Took = time.Duration(ms * float64(time.Millisecond))
		}
	}
	if s.Took < BulkCopy && len(s.Text) >= 4 && strings.EqualFold(s.Text[:4], "copy") {
		return Statement{}, false
	}
	if !s.Began.IsZero() {
		s.Began = s.Began.Add(-s.Took)
	}
	return s, true
}

// pid is the process that logged the message; 0 is not known.
func (m *Message) pid() int {
	pid, err := strconv.Atoi(string(m.process))
	if err != nil {
		return 0
	}
	return pid
}

// time is when the message was logged; zero is not known, as in a time zone
// whose abbreviation says nothing here.
func (m *Message) time() time.Time {
	text := string(m.stamp)
	if seconds, err := strconv.ParseFloat(text, 64); err == nil { // %n
		return time.UnixMicro(int64(seconds * 1e6))
	}
	const clock = "2006-01-02 15:04:05.999 "
	for _, zone := range []string{"-0700", "-07"} {
		if t, err := time.Parse(clock+zone, text); err == nil {
			return t
		}
	}
	t, err := time.ParseInLocation(clock+"MST", text, time.Local)
	// Go makes a zone without offset of an abbreviation that it does not know.
	if name, offset := t.Zone(); err != nil || offset == 0 && name != "UTC" && name != "GMT" && t.Location() != time.Local {
		return time.Time{}
	}
	return t
}
