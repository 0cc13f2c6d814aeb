package pglog

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// DefaultPrefix is the server's default of log_line_prefix.
const DefaultPrefix = "%m [%p] "

const (
	// maxFree bounds a field of the prefix that may hold anything: host names have
	// at most 255 bytes.
	maxFree = 300
	// maxName is NAMEDATALEN - 1, maxHead longer than a prefix with two such names.
	maxName = 63
	maxHead = 1024
)

// prefix is a compiled log_line_prefix.
type prefix struct {
	setting string
	steps   []step
	// named is what comes before the first name of a role or a database, nil when
	// nothing of a fixed shape does.
	named []step
}

// step is one part of a prefix.
type step struct {
	escape  byte   // the letter behind %, or 0
	literal []byte // for escape 0
	width   int    // padding; negative is on the right
}

// compilePrefix reads a log_line_prefix.
func compilePrefix(setting string) (*prefix, error) {
	p := &prefix{setting: setting}
	for rest := setting; rest != ""; {
		if rest[0] != '%' {
			n := len(rest)
			for i := range len(rest) {
				if rest[i] == '%' {
					n = i
					break
				}
			}
			p.literal(rest[:n])
			rest = rest[n:]
			continue
		}
		i := 1
		for i < len(rest) && (rest[i] == '-' || rest[i] >= '0' && rest[i] <= '9') {
			i++
		}
		if i == len(rest) {
			break // the server ignores it, too
		}
		width := 0
		if i > 1 {
			var err error
			if width, err = strconv.Atoi(rest[1:i]); err != nil || width < -maxFree || width > maxFree {
				return nil, fmt.Errorf("log_line_prefix %q: %%%s is no padding", setting, rest[1:i])
			}
		}
		p.escape(rest[i], width)
		rest = rest[i+1:]
	}
	if i := slices.IndexFunc(p.steps, func(s step) bool { return s.isName() }); i >= 0 &&
		slices.ContainsFunc(p.steps[:i], func(s step) bool { return strings.IndexByte("mtnspc", s.escape) >= 0 }) {
		p.named = p.steps[:i]
	}
	return p, nil
}

// isName says that the step is a name, which may have newlines in it.
func (s *step) isName() bool { return s.escape == 'd' || s.escape == 'u' }

func (p *prefix) literal(text string) {
	if n := len(p.steps); n > 0 && p.steps[n-1].escape == 0 {
		p.steps[n-1].literal = append(p.steps[n-1].literal, text...)
		return
	}
	p.steps = append(p.steps, step{literal: []byte(text)})
}

func (p *prefix) escape(letter byte, width int) {
	switch letter {
	case '%':
		p.literal("%")
		return
	case 'e', 'b', 'd', 'a', 'm', 't', 'n', 's', 'p', 'P', 'c', 'l', 'v', 'x', 'Q', 'u', 'h', 'r', 'i', 'q', 'L':
	default:
		return // the server writes nothing for a letter that it does not know
	}
	p.steps = append(p.steps, step{escape: letter, width: width})
}

// span is a part of a line.
type span struct{ start, end int }

func (s span) of(line []byte) []byte { return line[s.start:s.end] }

// head is how a line of a stderr log begins.
type head struct {
	word  word
	exact bool // the whole prefix matched
	label span // the word
	body  int  // where the text begins

	state, database, user, application, backend, process, time span

	// open is the message that was read last; nil is none.
	open *session
	// unsure says that a name or the text holds what could be the word as well.
	unsure bool
}

// session tells whose a line is.
type session struct {
	process, state, database, user, application []byte

	unsure bool
}

// keep remembers whose the line of a head is.
func (s *session) keep(line []byte, h *head) {
	s.process = append(s.process[:0], h.process.of(line)...)
	s.state = append(s.state[:0], h.state.of(line)...)
	s.database = append(s.database[:0], h.database.of(line)...)
	s.user = append(s.user[:0], h.user.of(line)...)
	s.application = append(s.application[:0], h.application.of(line)...)
	s.unsure = h.unsure
}

// is says whether a line is of the same session and the same SQLSTATE.
func (s *session) is(line []byte, h *head) bool {
	return bytes.Equal(s.process, h.process.of(line)) && bytes.Equal(s.state, h.state.of(line)) && (s.unsure || bytes.Equal(s.database, h.database.of(line)) &&
		bytes.Equal(s.user, h.user.of(line)) && bytes.Equal(s.application, h.application.of(line)))
}

// Prefixes are the values of log_line_prefix that lines of a log may have, the
// newest first: a log goes on with another one when the setting is changed. It
// is safe for use by several readers while it changes.
type Prefixes struct{ list atomic.Pointer[[]*prefix] }

// maxPrefixes bounds the earlier values that are tried.
const maxPrefixes = 3

// Add puts a value in front. The error says what is wrong with it.
func (p *Prefixes) Add(setting string) error {
	compiled, err := compilePrefix(setting)
	if err != nil {
		return err
	}
	list := []*prefix{compiled}
	if earlier := p.list.Load(); earlier != nil {
		for _, e := range *earlier {
			if e.setting != setting && len(list) < maxPrefixes {
				list = append(list, e)
			}
		}
	}
	p.list.Store(&list)
	return nil
}

// exactly reads how a line begins by one of the values.
func (p *Prefixes) exactly(line []byte, h *head, open *session) bool {
	if list := p.list.Load(); list != nil {
		for _, one := range *list {
			*h = head{open: open}
			if match(one.steps, line, 0, h, (*head).begins) {
				h.exact = true
				h.weigh(one, line)
				return true
			}
		}
	}
	return false
}

// weigh looks whether the prefix may end further on too, because a name or the
// text holds what looks like the word of a message. What fits the SQLSTATE best is
// taken, the nearest first, and it is no evidence of anything.
func (h *head) weigh(p *prefix, line []byte) {
	if h.state.end-h.state.start != 5 || string(h.state.of(line)) == "00000" || !bytes.Contains(line[h.body:min(len(line), h.body+maxName+maxLabel)], []byte(": ")) {
		return
	}
	best, other := *h, head{open: h.open}
	found := 0
	match(p.steps, line, 0, &other, func(h *head, line []byte, at int) bool {
		if h.begins(line, at) {
			if found++; h.fit(line) < best.fit(line) {
				best = *h
			}
		}
		return false
	})
	if found > 1 {
		*h = best
		h.exact, h.unsure = true, true
	}
}

// fit says how well a word goes with the SQLSTATE, 0 is best.
func (h *head) fit(line []byte) int {
	usual := Error
	switch string(h.state.of(line)[:2]) {
	case "01", "02":
		usual = Warning
	case "08", "28", "3D", "53", "57": // of sessions that cannot begin or go on
		usual = Fatal
	}
	switch {
	case h.word.section > newMessage:
		return 0 // only when the message before is of the same session
	case h.word.severity == usual:
		return 1
	}
	return 2 + slices.Index([]Severity{Error, Fatal, Panic, Warning, Quiet}, h.word.severity)
}

// read reads how a line begins. It is false for a line that begins neither a
// message nor a part of one.
func (p *Prefixes) read(line []byte, h *head, open *session) bool {
	if p.exactly(line, h, open) {
		return true
	}
	*h = head{open: open}
	return h.guess(line)
}

// broken says whether a line ends within a name: the server writes the names of
// roles and databases as they are, also those that only a client asked for, and
// they may have newlines in them.
func (p *Prefixes) broken(line []byte) bool {
	list := p.list.Load()
	return list != nil && slices.ContainsFunc(*list, func(one *prefix) bool {
		return one.named != nil && match(one.named, line, 0, new(head), func(*head, []byte, int) bool { return true })
	})
}

// match matches steps at a position of the line; what is behind them must fit
// as well.
func match(steps []step, line []byte, at int, h *head, fits func(h *head, line []byte, at int) bool) bool {
	for i := range steps {
		s := &steps[i]
		switch {
		case s.escape == 0:
			if !bytes.HasPrefix(line[at:], s.literal) {
				return false
			}
			at += len(s.literal)
		case s.escape == 'q':
			if h.begins(line, at) {
				return true // a process without a session
			}
		case s.width == 0 && (s.escape == 'm' || s.escape == 't' || s.escape == 's'):
			end := timestampEnd(line, at)
			if end < 0 {
				return false
			}
			h.keep(s.escape, span{at, end})
			at = end
		case s.width == 0 && classes[s.escape] != nil:
			class := classes[s.escape]
			n := at
			for n < len(line) && class[line[n]] {
				n++
			}
			h.keep(s.escape, span{at, n})
			at = n
		default:
			return matchFree(steps[i:], line, at, h, fits)
		}
	}
	return fits(h, line, at)
}

// matchFree tries every end of a field that may hold anything, the nearest
// first.
func matchFree(steps []step, line []byte, at int, h *head, fits func(h *head, line []byte, at int) bool) bool {
	s := &steps[0]
	least := s.width
	if least < 0 {
		least = -least
	}
	var follows []byte
	if len(steps) > 1 && steps[1].escape == 0 {
		follows = steps[1].literal
	}
	if s.escape == 'b' && s.width == 0 {
		// A kind of process may be two words, the first of which is none.
		if end := at + backendType(line[at:]); end > at {
			h.keep('b', span{at, end})
			if match(steps[1:], line, end, h, fits) {
				return true
			}
		}
	}
	limit := min(len(line), at+least+maxFree)
	if s.isName() {
		limit = min(limit, at+max(least, maxName)+len(follows))
	} else if newline := bytes.IndexByte(line[at:limit], '\n'); newline >= 0 {
		limit = at + newline + 1
	}
	for end := at + least; end <= limit; end++ {
		if follows != nil {
			n := bytes.Index(line[end:limit], follows)
			if n < 0 {
				return false
			}
			end += n
		}
		field := span{at, end}
		if s.width != 0 {
			field = trim(line, field)
		}
		h.keep(s.escape, field)
		if match(steps[1:], line, end, h, fits) {
			return true
		}
	}
	return false
}

// backendTypes are the kinds of processes of versions 13 to 18. Extensions have
// more.
var backendTypes = []string{
	"archiver", "autovacuum launcher", "autovacuum worker", "background worker", "background writer", "checkpointer", "client backend",
	"dead-end client backend", "io worker", "logger", "logical replication apply worker", "logical replication launcher",
	"logical replication parallel worker", "logical replication tablesync worker", "logical replication worker", "not initialized",
	"parallel worker", "postmaster", "slotsync worker", "standalone backend", "startup", "stats collector", "walreceiver", "walsender",
	"walsummarizer", "walwriter",
}

// typesBy are the kinds of processes by their first letter.
var typesBy = func() (table [256][]string) {
	for _, name := range backendTypes {
		table[name[0]] = append(table[name[0]], name)
	}
	return table
}()

// backendType is the length of the kind of process that text begins with.
func backendType(text []byte) int {
	longest := 0
	if len(text) > 0 {
		for _, name := range typesBy[text[0]] {
			if len(name) > longest && len(text) >= len(name) && string(text[:len(name)]) == name {
				longest = len(name)
			}
		}
	}
	return longest
}

func trim(line []byte, s span) span {
	for s.start < s.end && line[s.start] == ' ' {
		s.start++
	}
	for s.start < s.end && line[s.end-1] == ' ' {
		s.end--
	}
	return s
}

func (h *head) keep(letter byte, s span) {
	switch letter {
	case 'e':
		h.state = s
	case 'd':
		h.database = s
	case 'u':
		h.user = s
	case 'a':
		h.application = s
	case 'b':
		h.backend = s
	case 'p':
		h.process = s
	case 'c':
		if h.process == (span{}) {
			h.process = s
		}
	case 'm', 't', 'n':
		h.time = s
	}
}

// classes are the bytes that fields of a fixed shape consist of.
var classes = func() (table [256]*[256]bool) {
	const digits = "0123456789"
	const hex = digits + "abcdef"
	const upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for letter, bytes := range map[byte]string{
		'n': digits + ".", 'p': digits, 'P': digits, 'c': hex + ".", 'l': digits, 'v': digits + "/-",
		'x': digits, 'Q': digits + "-", 'e': digits + upper,
	} {
		table[letter] = new([256]bool)
		for i := range len(bytes) {
			table[letter][bytes[i]] = true
		}
	}
	return table
}()

// timestampEnd is where a timestamp such as "2026-11-25 09:00:00.123 CET" ends,
// or -1. A time zone is a name such as CET, +02 or -0330.
func timestampEnd(line []byte, at int) int {
	const shape = "0000-00-00 00:00:00"
	if len(line) < at+len(shape)+2 {
		return -1
	}
	for i := range len(shape) {
		c := line[at+i]
		if shape[i] == '0' && (c < '0' || c > '9') || shape[i] != '0' && c != shape[i] {
			return -1
		}
	}
	at += len(shape)
	if line[at] == '.' {
		for at++; at < len(line) && line[at] >= '0' && line[at] <= '9'; at++ {
		}
	}
	if at >= len(line) || line[at] != ' ' {
		return -1
	}
	at++
	zone := at
	if at < len(line) && (line[at] == '+' || line[at] == '-') {
		at++
	}
	for at < len(line) && (line[at] >= 'A' && line[at] <= 'Z' || line[at] >= 'a' && line[at] <= 'z' || line[at] >= '0' && line[at] <= '9') {
		at++
	}
	if at == zone {
		return -1
	}
	return at
}

// maxLabel is longer than the longest word before a colon, in bytes.
const maxLabel = 48

// begins reads the word that begins the message: a severity or DETAIL and the
// like, a colon and spaces.
func (h *head) begins(line []byte, at int) bool {
	rest := line[at:min(len(line), at+maxLabel)]
	colon := bytes.IndexByte(rest, ':')
	if colon < 1 || colon+1 >= len(rest) || rest[colon+1] != ' ' {
		return false
	}
	end := colon
	for end > 0 && rest[end-1] == ' ' {
		end-- // French writes a space before the colon
	}
	w, known := words[string(rest[:end])]
	if !known {
		// In another encoding the SQLSTATE has to tell. A word is at most two
		// words long, and two spaces follow.
		if h.state.end-h.state.start != 5 || !bytes.HasPrefix(rest[colon:], []byte(":  ")) || isASCII(rest[:end]) {
			return false
		}
		w = word{}
	}
	if !h.plausible(line, w) {
		return false
	}
	h.word = w
	h.label = span{at, at + end}
	h.body = at + colon + 1
	for h.body < len(line) && line[h.body] == ' ' && h.body < at+colon+4 {
		h.body++
	}
	return true
}

// plausible says whether a word can be the one of the line and not a part of a
// name: an error has a SQLSTATE, and a part of a message belongs to the one before.
func (h *head) plausible(line []byte, w word) bool {
	switch {
	case w.section == newMessage:
		return w.severity == Quiet || string(h.state.of(line)) != "00000"
	case w.section > newMessage:
		return h.open == nil || h.open.is(line, h)
	}
	return true
}

func isASCII(text []byte) bool {
	for _, c := range text {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// guess looks for a severity in a line that the prefix does not match, because
// the prefix is not known or was another one when the line was written. The
// leftmost one counts: what is behind it is text.
func (h *head) guess(line []byte) bool {
	line = line[:min(len(line), 2*maxFree)]
	for from := 0; ; {
		i := bytes.Index(line[from:], []byte(":  "))
		if i < 0 {
			return false
		}
		colon := from + i
		start := colon
		for start > 0 && colon-start < maxLabel && (line[start-1] >= 0x80 || line[start-1] >= 'A' && line[start-1] <= 'Z' || line[start-1] >= '0' && line[start-1] <= '9') {
			start--
		}
		if (start == 0 || line[start-1] == ' ' || line[start-1] == ':' || line[start-1] == ']') && start < colon {
			if _, known := words[string(line[start:colon])]; known {
				return h.begins(line, start)
			}
		}
		from = colon + 1
	}
}

// nextStderr finds the end of the first record: where the next message begins.
// Lines of one message that are not its first begin with a tab, or with the
// prefix and DETAIL, CONTEXT and the like.
func (f *framing) nextStderr(data []byte, from int) int {
	if !f.known {
		if !f.passed && f.readAhead(data) == nil {
			return -1
		}
		f.begin(data)
		if f.foreign() {
			return len(firstLine(data))
		}
	}
	for {
		from = max(from, f.past)
		newline := bytes.IndexByte(data[min(from, len(data)):], '\n')
		if newline < 0 {
			return -1
		}
		from += newline + 1
		if from < len(data) && data[from] == '\t' {
			continue
		}
		line := f.readAhead(data[from:])
		if line == nil {
			return -1
		}
		if !f.continues(line) {
			return from
		}
		f.past = from + f.ahead.body
	}
}

// readAhead reads the head of the first line of data into ahead. The line is nil
// when it is not whole yet.
func (f *framing) readAhead(data []byte) (line []byte) {
	if line = firstLine(data); line == nil || !f.readHead(line, data) {
		return nil
	}
	return line
}

// readHead reads the head of a line, which data begins with. It gives false when
// more data may tell more.
func (f *framing) readHead(line, data []byte) (told bool) {
	if f.ahead = (head{}); line[0] == '\t' || f.prefix.exactly(line, &f.ahead, f.open) {
		return true
	}
	told = true
	if f.prefix.broken(line) {
		longer := data[:min(len(data), len(line)+maxHead)]
		if f.prefix.exactly(longer, &f.ahead, f.open) {
			return true
		}
		told = len(longer) == len(line)+maxHead
	}
	if f.ahead = (head{open: f.open}); !f.ahead.guess(line) {
		f.ahead = head{}
	}
	return told
}

// begin takes the head that was read for that of the record.
func (f *framing) begin(record []byte) {
	f.head = f.ahead
	f.known, f.passed, f.past = true, false, f.head.body
	if !f.foreign() {
		if f.open == nil {
			f.open = new(session)
		}
		f.open.keep(record, &f.head)
	}
}

// foreign says that the record is a line of something else, or the rest of a
// message whose beginning was not seen.
func (f *framing) foreign() bool { return f.head.word.section == noSection && !f.head.exact }

// continues says whether the line that was read ahead belongs to the record that
// is open.
func (f *framing) continues(line []byte) bool {
	switch f.ahead.word.section {
	case newMessage:
		f.passed = true
	case noSection:
		// A word that is not known: the next part of the same message, or one of
		// its own.
		f.passed = !f.ahead.exact || !f.head.exact || !f.open.is(line, &f.ahead)
	default:
		f.passed = false
	}
	return !f.passed
}

// firstLine is the first line of data, with its newline, or nil when it is not
// whole yet. Of an overlong one the beginning suffices.
func firstLine(data []byte) []byte {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return data[:i+1]
	}
	if len(data) >= maxText {
		return data
	}
	return nil
}

// parseStderr reads one record that nextStderr found.
func (f *framing) parseStderr(record []byte, m *Message) parsed {
	if !f.known {
		line := firstLine(record)
		if line == nil {
			line = record
		}
		f.readHead(line, record)
		f.begin(record)
	}
	f.known = false
	m.unescape = unescapeStderr
	h := &f.head
	switch {
	case record[0] == '\t':
		return notOurs
	case f.foreign():
		if len(bytes.TrimSpace(record)) == 0 {
			return notOurs
		}
		return notUnderstood
	case h.word.section > newMessage:
		return notOurs // the rest of a message whose beginning was not seen
	}
	m.severity = h.label.of(record)
	m.sqlstate = h.state.of(record)
	m.database, m.user = h.database.of(record), h.user.of(record)
	m.application, m.backend = h.application.of(record), h.backend.of(record)
	m.stamp, m.process = h.time.of(record), h.process.of(record)
	m.unsure = h.unsure
	m.text = bytes.TrimRight(record[h.body:], "\r\n")
	if m.negligible() {
		return message
	}
	f.readSections(record, m)
	return message
}

// readSections splits a record into its text, DETAIL, CONTEXT and so on.
func (f *framing) readSections(record []byte, m *Message) {
	field, start := &m.text, f.head.body
	var end int
	var h head
	for at := start; ; {
		newline := bytes.IndexByte(record[at:], '\n')
		if newline < 0 {
			end = len(record)
			break
		}
		end = at + newline
		at = end + 1
		if at >= len(record) {
			break
		}
		if record[at] == '\t' || !f.prefix.read(record[at:], &h, f.open) {
			continue
		}
		*field = record[start:end]
		start = at + h.body
		at = start
		switch h.word.section {
		case detailSection:
			field = &m.detail
		case contextSection:
			field = &m.context
		case locationSection:
			field = &m.location
		case statementSection:
			m.stated = true
			field = &m.statement
		default:
			field = new([]byte)
		}
	}
	*field = bytes.TrimRight(record[start:max(start, end)], "\r\n")
	// With log_error_verbosity = verbose the SQLSTATE is in front of the text. A
	// text that only looks so has no LOCATION.
	if len(m.location) > 0 && len(m.text) > 7 && string(m.text[5:7]) == ": " && isState(m.text[:5]) {
		if len(m.sqlstate) != 5 {
			m.sqlstate = m.text[:5]
		}
		m.text = m.text[7:]
	}
}

func isState(text []byte) bool {
	for _, c := range text {
		if !classes['e'][c] {
			return false
		}
	}
	return true
}

// unescapeStderr takes away the tab that the server writes at the start of
// lines that continue a field.
func unescapeStderr(raw []byte) []byte {
	return bytes.ReplaceAll(raw, []byte("\n\t"), []byte("\n"))
}
