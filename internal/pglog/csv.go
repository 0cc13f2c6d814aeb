package pglog

import "bytes"

// Columns of csvlog, from 0. They are the same in 13 to 18; 14 added columns
// behind them.
const (
	csvTime        = 0
	csvUser        = 1
	csvDatabase    = 2
	csvProcess     = 3
	csvHost        = 4
	csvLine        = 6
	csvCommand     = 7
	csvBegan       = 8
	csvSeverity    = 11
	csvSQLState    = 12
	csvMessage     = 13
	csvDetail      = 14
	csvContext     = 18
	csvStatement   = 19
	csvLocation    = 21
	csvApplication = 22
	csvBackend     = 23
)

// nextCSV finds the end of the first record: a newline that an even number of
// quotes precedes, because quotes within a field are doubled. Of a record that was
// never written to its end, the end is where the next one begins.
func (f *framing) nextCSV(data []byte, from int) int {
	f.past = min(f.past, from) // where the line begins
	for {
		newline := bytes.IndexByte(data[from:], '\n')
		end := len(data)
		if newline >= 0 {
			end = from + newline + 1
		}
		if bytes.Count(data[from:end], []byte{'"'})%2 == 1 {
			f.quoted = !f.quoted
		}
		if newline < 0 {
			return -1
		}
		if next := f.nextInLine(data[f.past:end], f.past == 0); next >= 0 {
			next += f.past
			f.quoted, f.past, f.torn = false, 0, true
			return next
		}
		if f.past = end; !f.quoted {
			f.past = 0
			return end
		}
		from = end
	}
}

// nextInLine is where a record begins within a line of another one, or -1. first
// says that the line is the other one's first. Only a line with more timestamps than
// a record has is looked at closely.
func (f *framing) nextInLine(line []byte, first bool) int {
	at := timestampEnd(line, 0)
	stamped := at > 0 && at < len(line) && line[at] == ','
	switch {
	case first && stamped:
		f.zone = append(f.zone[:0], line[bytes.LastIndexByte(line[:at], ' ')+1:at+1]...)
		began := bytes.Index(line[at:], f.zone) // when the session began
		if began < 0 || !bytes.Contains(line[at+began+len(f.zone):], f.zone) {
			return -1
		}
	case first:
		at = 1
	case stamped && beginsCSV(line):
		return 0
	case !bytes.Contains(line, f.zone):
		return -1
	default:
		at = 1
	}
	const hours = len("0000-00-00 00")
	for {
		colon := bytes.IndexByte(line[at:], ':')
		if colon < 0 {
			return -1
		}
		at += colon
		if start := at - hours; start > 0 && beginsCSV(line[start:]) {
			return start
		}
		at++
	}
}

// beginsCSV says whether a record begins here. Within a field it cannot look so:
// every quote is doubled there, and the last one is at the end of the field.
func beginsCSV(data []byte) bool {
	const longest = 2048 // all that is in front of the message
	rest := data[:min(len(data), longest)]
	for column := range csvMessage {
		quoted := len(rest) > 0 && rest[0] == '"'
		field, after, more := csvField(rest)
		if !more || !fitsCSV(column, field, quoted) {
			return false
		}
		rest = after
	}
	text := bytes.TrimLeft(rest, `"`)
	if (len(rest)-len(text))%2 == 0 || len(text) == 0 || text[0] == ',' || text[0] == '\n' || text[0] == '\r' {
		return false
	}
	return timestampEnd(text, 0) < 0 // not a field that ends between two quotes, and a record behind it
}

// fitsCSV says whether a field in front of the message may be one of this column.
func fitsCSV(column int, field []byte, quoted bool) bool {
	switch column {
	case csvTime, csvBegan:
		return timestampEnd(field, 0) == len(field)
	case csvUser, csvDatabase, csvHost, csvCommand:
		return quoted || len(field) == 0
	case csvProcess, csvLine:
		return isDigits(field)
	case csvSQLState:
		return len(field) == 5 && isState(field)
	}
	return !quoted
}

// parseCSV reads one record of csvlog.
func parseCSV(record []byte, m *Message) parsed {
	m.unescape = unescapeCSV
	record = bytes.TrimRight(record, "\r\n")
	column := 0
	for rest, more := record, true; more; column++ {
		var field []byte
		field, rest, more = csvField(rest)
		switch column {
		case csvTime:
			m.stamp = field
		case csvProcess:
			m.process = field
		case csvUser:
			m.user = field
		case csvDatabase:
			m.database = field
		case csvSeverity:
			m.severity = field
		case csvSQLState:
			if m.sqlstate = field; len(m.severity) == 0 || len(field) != 5 {
				return notUnderstood
			}
		case csvMessage:
			m.text = field
			if m.negligible() {
				return message // nothing behind it is of interest
			}
		case csvDetail:
			m.detail = field
		case csvContext:
			m.context = field
		case csvStatement:
			m.statement = field
		case csvLocation:
			m.location = field
		case csvApplication:
			m.application = field
		case csvBackend:
			m.backend = field
		}
	}
	if column <= csvMessage {
		return notUnderstood
	}
	m.cut = column <= csvBackend
	return message
}

// csvField reads the field at the start of data, without its quotes and with
// doubled quotes still doubled. more says that another field follows.
func csvField(data []byte) (field, rest []byte, more bool) {
	if len(data) == 0 || data[0] != '"' {
		return bytes.Cut(data, []byte{','})
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
