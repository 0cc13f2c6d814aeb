package pglog

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonFields are the keys of jsonlog, and of the records that CloudNativePG
// wraps in its own log, which has the columns of csvlog under other names.
var jsonFields = map[string]func(m *Message) *[]byte{
	"error_severity":   func(m *Message) *[]byte { return &m.severity },
	"state_code":       func(m *Message) *[]byte { return &m.sqlstate },
	"sql_state_code":   func(m *Message) *[]byte { return &m.sqlstate },
	"timestamp":        func(m *Message) *[]byte { return &m.stamp },
	"log_time":         func(m *Message) *[]byte { return &m.stamp },
	"pid":              func(m *Message) *[]byte { return &m.process },
	"process_id":       func(m *Message) *[]byte { return &m.process },
	"dbname":           func(m *Message) *[]byte { return &m.database },
	"database_name":    func(m *Message) *[]byte { return &m.database },
	"user":             func(m *Message) *[]byte { return &m.user },
	"user_name":        func(m *Message) *[]byte { return &m.user },
	"application_name": func(m *Message) *[]byte { return &m.application },
	"backend_type":     func(m *Message) *[]byte { return &m.backend },
	"message":          func(m *Message) *[]byte { return &m.text },
	"detail":           func(m *Message) *[]byte { return &m.detail },
	"context":          func(m *Message) *[]byte { return &m.context },
	"func_name":        func(m *Message) *[]byte { return &m.location },
	"location":         func(m *Message) *[]byte { return &m.location },
	"statement":        func(m *Message) *[]byte { return &m.statement },
	"query":            func(m *Message) *[]byte { return &m.statement },
}

// nextJSON finds the end of the first record: its line's, or where another one
// begins in it, because this one was never written to its end. Within a string it
// cannot look so, because every quote is escaped there.
func (f *framing) nextJSON(data []byte, from int) int {
	newline := bytes.IndexByte(data[from:], '\n')
	if newline < 0 {
		return -1
	}
	end := from + newline + 1
	if next := bytes.Index(data[1:end], []byte(`{"timestamp":"`)); next >= 0 {
		f.torn = true
		return next + 1
	}
	return end
}

// parseJSON reads one line of jsonlog, bare or within a record of
// CloudNativePG. It needs no valid JSON behind the message: a record that was
// cut is still counted.
func parseJSON(line []byte, m *Message) parsed {
	m.unescape = unescapeJSON
	line = bytes.TrimLeft(line, " \t")
	if len(line) == 0 || line[0] != '{' {
		return notUnderstood
	}
	var foreign bool
	for rest := line[1:]; ; {
		key, after, ok := jsonString(rest)
		if !ok || len(after) < 2 || after[0] != ':' {
			m.cut = m.statement == nil
			break
		}
		after = after[1:]
		switch {
		case after[0] == '"':
			var value []byte
			value, rest, ok = jsonString(after)
			if field := jsonFields[string(key)]; field != nil {
				*field(m) = value
			} else if string(key) == "logger" {
				foreign = string(value) != "postgres" && string(value) != "pgaudit"
			}
			if len(m.text) > 0 && string(key) == "message" && m.negligible() {
				return message // nothing behind it is of interest
			}
			if !ok {
				// The statement comes behind what tells who made the message.
				m.cut = string(key) != "statement" && string(key) != "query"
			}
		case after[0] == '{' && string(key) == "record":
			rest = after[1:]
			continue
		default:
			i := bytes.IndexByte(after, ',')
			if i < 0 {
				m.cut = m.statement == nil && !bytes.Contains(after, []byte{'}'})
				rest = nil
				break
			}
			if string(key) == "pid" {
				m.process = after[:i]
			}
			rest = after[i:]
		}
		if len(rest) == 0 || rest[0] != ',' {
			break
		}
		rest = rest[1:]
	}
	switch {
	case foreign && m.severity == nil:
		return notOurs
	case m.severity == nil:
		return notUnderstood
	}
	return message
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
	return appendJSON(make([]byte, 0, len(raw)), raw)
}

// appendJSON appends what an escaped string stands for.
func appendJSON(out, raw []byte) []byte {
	for len(raw) > 0 {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 || i+1 == len(raw) {
			return append(out, raw...)
		}
		out = append(out, raw[:i]...)
		escape := raw[i+1]
		raw = raw[i+2:]
		switch escape {
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
			r, size := unicodeEscape(raw)
			out = utf8.AppendRune(out, r)
			raw = raw[size:]
		default:
			out = append(out, escape)
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
