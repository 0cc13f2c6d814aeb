package pglog

import "bytes"

// Columns of csvlog, from 0. They are the same in 13 to 18; 14 added columns
// behind them.
const (
	csvTime        = 0
	csvUser        = 1
	csvDatabase    = 2
	csvProcess     = 3
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
// quotes precedes, because quotes within a field are doubled.
func (f *framing) nextCSV(data []byte, from int) int {
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
		if !f.quoted {
			return end
		}
		from = end
	}
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
			if isQuiet(m.severity, m.sqlstate) && !tells(field) {
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
	m.cut = column <= csvContext
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
