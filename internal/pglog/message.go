package pglog

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
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
	database    []byte
	application []byte
	backend     []byte
	text        []byte
	context     []byte

	unescape func(raw []byte) []byte
}

// Severity is the severity, also of a translated message.
func (m *Message) Severity() Severity { return severityOf(m.severity, m.sqlstate) }

// SQLState is the SQLSTATE; "00000" where the format leaves it out.
func (m *Message) SQLState() string {
	if len(m.sqlstate) != 5 {
		return "00000"
	}
	return string(m.sqlstate)
}

// Database is the name of the database, or "" for a process without one.
func (m *Message) Database() string { return m.decode(m.database) }

// Application is the application_name of the session.
func (m *Message) Application() string { return m.decode(m.application) }

// Backend is the backend_type, for example "client backend" or "postmaster".
func (m *Message) Backend() string { return m.decode(m.backend) }

// Text is the primary message, at most maxText bytes of it, as valid UTF-8.
func (m *Message) Text() string {
	return m.decode(m.text[:min(len(m.text), maxText)])
}

// Raised says whether a function's RAISE made the message, whatever SQLSTATE it
// chose, and not the server itself.
func (m *Message) Raised() bool {
	return bytes.Contains(m.context, []byte(" at RAISE"))
}

func (m *Message) decode(raw []byte) string {
	if len(raw) == 0 {
		return ""
	}
	return string(bytes.ToValidUTF8(m.unescape(raw), []byte("\uFFFD")))
}

// Format is a format of the server's log.
type Format string

// The formats, as log_destination names them.
const (
	JSONLog Format = "jsonlog"
	CSVLog  Format = "csvlog"
)

// framing finds the ends of records in a stream of bytes.
type framing struct {
	format Format
	quoted bool // within a quoted CSV field
}

// next is the length of the first record in data from position from on, with
// its newline, or -1 when its end is not there yet. Bytes before from have
// been looked at by an earlier call for the same record.
func (f *framing) next(data []byte, from int) int {
	if f.format == JSONLog {
		if i := bytes.IndexByte(data[from:], '\n'); i >= 0 {
			return from + i + 1
		}
		return -1
	}
	for from < len(data) {
		if f.quoted {
			i := bytes.IndexByte(data[from:], '"')
			if i < 0 {
				return -1
			}
			f.quoted = false // a doubled quote turns it on again at once
			from += i + 1
			continue
		}
		newline := bytes.IndexByte(data[from:], '\n')
		end := len(data)
		if newline >= 0 {
			end = from + newline
		}
		if quote := bytes.IndexByte(data[from:end], '"'); quote >= 0 {
			f.quoted = true
			from += quote + 1
			continue
		}
		if newline < 0 {
			return -1
		}
		return end + 1
	}
	return -1
}

// parse reads one record into m. ok is false for what is not a record.
func (f *framing) parse(record []byte, m *Message) (ok bool) {
	*m = Message{}
	if f.format == JSONLog {
		return parseJSON(record, m)
	}
	return parseCSV(record, m)
}

// parseJSON reads one line of jsonlog. It needs no valid JSON behind the
// message: a record that was cut is still counted.
func parseJSON(line []byte, m *Message) bool {
	m.unescape = unescapeJSON
	line = bytes.TrimLeft(line, " \t")
	if len(line) == 0 || line[0] != '{' {
		return false
	}
	rest := line[1:]
	for {
		key, after, ok := jsonString(rest)
		if !ok || len(after) == 0 || after[0] != ':' {
			break
		}
		after = after[1:]
		if len(after) > 0 && after[0] == '"' {
			var value []byte
			value, rest, _ = jsonString(after)
			switch string(key) {
			case "error_severity":
				m.severity = value
			case "state_code":
				m.sqlstate = value
			case "dbname":
				m.database = value
			case "application_name":
				m.application = value
			case "backend_type":
				m.backend = value
			case "message":
				m.text = value
			case "context":
				m.context = value
			}
		} else {
			i := bytes.IndexByte(after, ',')
			if i < 0 {
				break
			}
			rest = after[i:]
		}
		if len(rest) == 0 || rest[0] != ',' {
			break
		}
		rest = rest[1:]
	}
	return m.severity != nil
}

// jsonString reads the string at the start of data, without its quotes and
// still escaped. ok is false when it has no end; value is then all there is.
func jsonString(data []byte) (value, rest []byte, ok bool) {
	if len(data) == 0 || data[0] != '"' {
		return nil, data, false
	}
	for i := 1; i < len(data); {
		quote := bytes.IndexByte(data[i:], '"')
		if quote < 0 {
			break
		}
		i += quote
		backslashes := 0
		for data[i-1-backslashes] == '\\' {
			backslashes++
		}
		if backslashes%2 == 0 {
			return data[1:i], data[i+1:], true
		}
		i++
	}
	return data[1:], nil, false
}

func unescapeJSON(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' || i+1 == len(raw) {
			out = append(out, raw[i])
			continue
		}
		i++
		switch raw[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, size := unicodeEscape(raw[i+1:])
			out = utf8.AppendRune(out, r)
			i += size
		default:
			out = append(out, raw[i])
		}
	}
	return out
}

// unicodeEscape reads what follows \u, with a second half of a surrogate pair.
func unicodeEscape(raw []byte) (r rune, size int) {
	first, ok := hex4(raw)
	if !ok {
		return utf8.RuneError, 0
	}
	if utf16.IsSurrogate(first) && len(raw) >= 10 && raw[4] == '\\' && raw[5] == 'u' {
		if second, ok := hex4(raw[6:]); ok {
			if r := utf16.DecodeRune(first, second); r != utf8.RuneError {
				return r, 10
			}
		}
	}
	return first, 4
}

func hex4(raw []byte) (rune, bool) {
	if len(raw) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(raw[:4]), 16, 16)
	return rune(n), err == nil
}

// Columns of csvlog, from 0. They are the same in 13 to 18; 14 added columns
// behind them.
const (
	csvDatabase    = 2
	csvSeverity    = 11
	csvSQLState    = 12
	csvMessage     = 13
	csvContext     = 18
	csvApplication = 22
	csvBackend     = 23
)

// parseCSV reads one record of csvlog.
func parseCSV(record []byte, m *Message) bool {
	m.unescape = unescapeCSV
	record = bytes.TrimRight(record, "\r\n")
	column := 0
	for rest, more := record, true; more; column++ {
		var field []byte
		field, rest, more = csvField(rest)
		switch column {
		case csvDatabase:
			m.database = field
		case csvSeverity:
			m.severity = field
		case csvSQLState:
			m.sqlstate = field
		case csvMessage:
			m.text = field
		case csvContext:
			m.context = field
		case csvApplication:
			m.application = field
		case csvBackend:
			m.backend = field
		}
	}
	return column > csvMessage && len(m.severity) > 0 && len(m.sqlstate) == 5
}

// csvField reads the field at the start of data, without its quotes and with
// doubled quotes still doubled. more says that another field follows.
func csvField(data []byte) (field, rest []byte, more bool) {
	if len(data) == 0 || data[0] != '"' {
		before, after, ok := bytes.Cut(data, []byte{','})
		if !ok {
			return data, nil, false
		}
		return before, after, true
	}
	for i := 1; i < len(data); i++ {
		quote := bytes.IndexByte(data[i:], '"')
		if quote < 0 {
			break
		}
		i += quote
		if i+1 < len(data) && data[i+1] == '"' {
			i++
			continue
		}
		if i+1 < len(data) && data[i+1] == ',' {
			return data[1:i], data[i+2:], true
		}
		return data[1:i], nil, false
	}
	return data[1:], nil, false
}

func unescapeCSV(raw []byte) []byte {
	return bytes.ReplaceAll(raw, []byte(`""`), []byte(`"`))
}
