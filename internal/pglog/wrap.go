package pglog

import (
	"bytes"
)

// wrapping is what a container runtime or syslog puts around a line of the log.
type wrapping int

const (
	bare wrapping = iota
	dockerJSON
	criLines
	syslogLines
)

// recognise tells how a log is written by one of its first lines. line is not
// empty. A format that is known stays.
func recognise(line []byte, format Format) (wrapping, Format) {
	switch format {
	case Syslog:
		return syslogLines, Stderr
	case JSONLog, CSVLog, Stderr:
		if line[0] == '{' && isDocker(line) {
			return dockerJSON, format
		}
		if _, _, ok := cutCRI(line); ok {
			return criLines, format
		}
		return bare, format
	case AutoFormat:
	}
	if line[0] == '{' {
		if isDocker(line) {
			return dockerJSON, AutoFormat
		}
		return bare, JSONLog
	}
	if _, _, ok := cutCRI(line); ok {
		return criLines, AutoFormat
	}
	if _, ok := cutSyslog(line); ok {
		return syslogLines, Stderr
	}
	if end := timestampEnd(line, 0); end > 0 && bytes.HasPrefix(line[end:], []byte(",")) {
		return bare, CSVLog
	}
	return bare, Stderr
}

func isDocker(line []byte) bool {
	return bytes.HasPrefix(line, []byte(`{"log":"`)) && bytes.Contains(line[max(0, len(line)-200):], []byte(`"stream":"`))
}

// cutDocker gives the line within a line of Docker's json-file driver, still
// escaped. A part of a longer line has no newline at its end.
func cutDocker(line []byte) (content []byte, ok bool) {
	content, found := bytes.CutPrefix(line, []byte(`{"log":`))
	if !found {
		return nil, false
	}
	content, _, ok = jsonString(content)
	return content, ok
}

// cutCRI gives the line within a line as container runtimes of Kubernetes write
// it: time, stream, P for a part of a longer line or F for its end, text.
func cutCRI(line []byte) (content []byte, whole, ok bool) {
	stamp, rest, found := bytes.Cut(line[:min(len(line), 80)], []byte{' '})
	if !found || len(stamp) < 20 || stamp[4] != '-' || stamp[10] != 'T' {
		return nil, false, false
	}
	stream, rest, found := bytes.Cut(rest, []byte{' '})
	if !found || (string(stream) != "stdout" && string(stream) != "stderr") || len(rest) < 2 {
		return nil, false, false
	}
	if (rest[0] != 'P' && rest[0] != 'F') || (rest[1] != ' ' && rest[1] != ':' && rest[1] != '\n') {
		return nil, false, false
	}
	at := len(stamp) + len(stream) + len("  P")
	if rest[1] == ':' { // more tags
		if i := bytes.IndexByte(line[at:], ' '); i >= 0 {
			at += i
		}
	}
	if line[at] == ' ' {
		at++
	}
	return bytes.TrimRight(line[min(at, len(line)):], "\r\n"), rest[0] == 'F', true
}

// syslogLine is a line of the server within a line of syslog.
type syslogLine struct {
	process string
	// part is the number of the line within its message, from 1; 0 when the
	// server was told not to number (syslog_sequence_numbers).
	part    int
	content []byte
}

// cutSyslog reads a line in the form of RFC 3164 or RFC 5424, as it comes over
// the network or stands in a file. ok is false for lines of other programs.
func cutSyslog(line []byte) (l syslogLine, ok bool) {
	line = bytes.TrimRight(line, "\r\n")
	if i := bytes.IndexByte(line, '<'); i > 0 && i < 8 && isDigits(line[:i-1]) && line[i-1] == ' ' {
		line = line[i:] // octet counting of RFC 6587
	}
	if len(line) > 0 && line[0] == '<' {
		end := bytes.IndexByte(line[:min(len(line), 6)], '>')
		if end < 2 || !isDigits(line[1:end]) {
			return l, false
		}
		line = line[end+1:]
	}
	if rest, found := bytes.CutPrefix(line, []byte("1 ")); found {
		return cut5424(rest)
	}
	// Time and host come before the program: "Nov 25 09:00:00 host postgres[123]: ".
	open := bytes.IndexByte(line[:min(len(line), 400)], '[')
	if open < 1 {
		return l, false
	}
	end := bytes.Index(line[open:], []byte("]: "))
	if end < 2 || !isDigits(line[open+1:open+end]) {
		return l, false
	}
	start := bytes.LastIndexByte(line[:open], ' ') + 1
	if start < 10 && start > 0 || !hasSyslogTime(line) {
		return l, false
	}
	return numbered(line[start:open], line[open+1:open+end], line[open+end+3:])
}

// isOthers says whether a line is one of syslog and of another program. PostgreSQL
// writes no time so.
func isOthers(line []byte) bool {
	kind, format := recognise(line, AutoFormat)
	if kind != bare || format != Stderr {
		return false
	}
	if end := bytes.IndexByte(line[:min(len(line), 6)], '>'); line[0] == '<' && end > 0 {
		line = bytes.TrimPrefix(line[end+1:], []byte("1 "))
	}
	return hasSyslogTime(line)
}

// hasSyslogTime says whether a line begins with the time of RFC 3164, with one
// of RFC 3339, or, without a time, with the program.
func hasSyslogTime(line []byte) bool {
	if len(line) > 20 && line[4] == '-' && line[10] == 'T' {
		return true
	}
	if len(line) > 15 && line[3] == ' ' && line[6] == ' ' && line[9] == ':' && line[12] == ':' {
		return true
	}
	return bytes.HasPrefix(line, []byte("postgres["))
}

func cut5424(rest []byte) (l syslogLine, ok bool) {
	fields := bytes.SplitN(rest, []byte{' '}, 6) // time host program process id data-and-text
	if len(fields) < 6 {
		return l, false
	}
	text, found := bytes.CutPrefix(fields[5], []byte("- "))
	if !found {
		end := bytes.Index(fields[5], []byte("] "))
		if len(fields[5]) == 0 || fields[5][0] != '[' || end < 0 {
			return l, false
		}
		text = fields[5][end+2:]
	}
	return numbered(fields[2], fields[3], bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")))
}

// numbered reads the server's own "[5-1] " before the text.
func numbered(program, process, text []byte) (l syslogLine, ok bool) {
	l = syslogLine{process: string(process), content: text}
	isServer := bytes.Contains(program, []byte("postgres"))
	if len(text) > 3 && text[0] == '[' {
		if end := bytes.Index(text[:min(len(text), 40)], []byte("] ")); end > 0 {
			sequence, part, split := bytes.Cut(text[1:end], []byte{'-'})
			if isDigits(sequence) && (!split || isDigits(part)) {
				l.part, l.content, isServer = 1, text[end+2:], true
				if split {
					l.part = int(number(string(part)))
				}
			}
		}
	}
	return l, isServer
}

func isDigits(text []byte) bool {
	for _, c := range text {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(text) > 0
}

// splitAt is from how many bytes on the server splits a line for syslog.
const splitAt = 800

// unwrapper takes lines out of their wrapping.
type unwrapper struct {
	kind    wrapping
	process string // of the last line of syslog
	length  int    // of its content
}

// unwrap appends the content of a line to out. failed says that the line is not
// wrapped as the others are. A line of syslog without a part of a message adds
// nothing.
func (u *unwrapper) unwrap(out, line []byte) (content []byte, failed bool) {
	switch u.kind {
	case dockerJSON:
		raw, ok := cutDocker(line)
		return appendJSON(out, raw), !ok
	case criLines:
		text, whole, ok := cutCRI(line)
		if out = append(out, text...); whole {
			out = append(out, '\n')
		}
		return out, !ok
	default:
		return u.unwrapSyslog(out, line), false
	}
}

func (u *unwrapper) unwrapSyslog(out, line []byte) []byte {
	l, ok := cutSyslog(line)
	if !ok {
		return out // of another program
	}
	text := l.content
	if l.part > 1 && l.process != u.process {
		return out // behind a message of another process
	}
	switch rest, tab := bytes.CutPrefix(text, []byte("#011")); {
	case tab:
		out = append(out, '\t')
		text = rest
	case l.part > 1 && u.length >= splitAt && len(text) > 0 && text[0] != '\t':
		out = append(out, '\t') // the rest of a split line
	}
	u.process, u.length = l.process, len(l.content)
	return append(append(out, text...), '\n')
}

const (
	// maxApart is how many lines of syslog may be between two of one message, and
	// maxHeld how many bytes are held until their message is whole.
	maxApart, maxHeld = 100, maxText
)

// syslogQueue puts the lines of a message together, which have those of other
// processes between them when several write at once. Messages come out in the
// order of their first lines, so that a position is behind all that was read.
type syslogQueue struct {
	open  []syslogMessage
	lines int // so far
	held  int // bytes
}

// syslogMessage is a message of syslog whose end was not seen yet.
type syslogMessage struct {
	process string
	begin   int64  // where its first line begins
	lines   []byte // as they are
	last    int    // the number of the last one
	whole   bool
}

// add takes the next line.
func (q *syslogQueue) add(line []byte, begin int64) {
	q.lines++
	l, ok := cutSyslog(line)
	if !ok {
		return // of another program
	}
	q.held += len(line)
	for i := range q.open {
		m := &q.open[i]
		if m.whole || m.process != l.process {
			continue
		}
		if l.part > 1 {
			m.lines, m.last = append(m.lines, line...), q.lines
			return
		}
		m.whole = true // another message of the process
	}
	q.open = append(q.open, syslogMessage{process: l.process, begin: begin, lines: bytes.Clone(line), last: q.lines})
}

// ready says whether the first message is whole, or need not be waited for.
func (q *syslogQueue) ready(all bool) bool {
	if len(q.open) == 0 {
		return false
	}
	return all || q.open[0].whole || q.lines-q.open[0].last > maxApart || q.held > maxHeld
}

func (q *syslogQueue) pop() syslogMessage {
	m := q.open[0]
	q.open = q.open[1:]
	q.held -= len(m.lines)
	return m
}
