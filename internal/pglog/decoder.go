package pglog

import (
	"bytes"
	"slices"
)

// readSize is how much is read at once, unless a record is longer.
const readSize = 64 << 10

// bufferSize is the longest record that is parsed whole; of a longer one only the
// beginning is.
const bufferSize = 1 << 20

// lineSize is the longest line of a container runtime or of syslog that is read
// whole. Runtimes split lines at 16 KiB, syslog servers at 8 KiB or less.
const lineSize = 256 << 10

// Input says how a log is written.
type Input struct {
	// Format is the format; AutoFormat is told by the log itself.
	Format Format
	// Prefixes are log_line_prefix, for the formats stderr and syslog; nil is not
	// known.
	Prefixes *Prefixes
}

// decoder turns a stream of bytes, in pieces of any size, into messages. Its
// memory does not depend on how long a record is.
type decoder struct {
	message func(m *Message)
	// failures counts records that could not be understood.
	failures uint64
	// lose is told the bytes of records that were never written to their end and do
	// not tell what they were.
	lose func(n int64)

	format Format
	frame  framing
	wrap   unwrapper
	begun  bool // the format is known
	ending bool // the last record has no end
	m      Message

	buffer  []byte
	filled  int   // bytes in buffer
	scanned int   // bytes of buffer that were looked at for the end of the first record
	skipped int64 // bytes of an overlong record that were dropped behind its kept beginning

	// Of a wrapped log: bytes that are not a whole line yet, and what was
	// unwrapped.
	outer       []byte
	outerFilled int
	outerDrop   int64 // bytes of an overlong line that were dropped
	syslog      syslogQueue
	marks       []mark
	inner       int64 // bytes unwrapped so far that belong to finished records
	taken       int64 // bytes of wrapped lines that belong to finished records
	wrapped     int64 // bytes of wrapped lines so far
}

// mark says that so many bytes were unwrapped when so many wrapped ones were
// read.
type mark struct{ inner, outer int64 }

// newDecoder makes a decoder that hands over each message.
func newDecoder(input Input, handle func(m *Message)) *decoder {
	d := &decoder{message: handle, lose: func(int64) {}, format: input.Format, buffer: make([]byte, readSize)}
	if d.frame.prefix = input.Prefixes; d.frame.prefix == nil {
		d.frame.prefix = new(Prefixes)
	}
	d.reset()
	return d
}

// reset begins another stream.
func (d *decoder) reset() {
	d.frame.reset(d.format)
	d.wrap, d.syslog = unwrapper{}, syslogQueue{}
	d.begun = false
	d.filled, d.scanned, d.skipped = 0, 0, 0
	d.outerFilled, d.outerDrop = 0, 0
	d.marks, d.inner, d.taken, d.wrapped = nil, 0, 0, 0
}

// space is where the next bytes of the stream are to be put.
func (d *decoder) space() []byte {
	if d.wrap.kind != bare {
		return d.outer[d.outerFilled:]
	}
	return d.buffer[d.filled:]
}

// pending is how many bytes were read that belong to a record without an end.
func (d *decoder) pending() int64 {
	if d.wrap.kind != bare {
		return d.wrapped - d.taken + int64(d.outerFilled) + d.outerDrop
	}
	return int64(d.filled) + d.skipped
}

// advance takes n bytes that were put into space and gives how many bytes of
// the stream belong to finished records since the last call.
func (d *decoder) advance(n int) int64 {
	if d.wrap.kind != bare {
		d.outerFilled += n
		return d.unwrap()
	}
	d.filled += n
	blank := int64(0)
	for !d.begun {
		// Empty lines and zeros say nothing of the format, nor do lines of other programs
		// in syslog.
		text := bytes.TrimLeft(d.buffer[:d.filled], "\r\n\x00")
		line := firstLine(text)
		if line != nil && d.format == AutoFormat && isOthers(line) {
			text = text[len(line):]
		}
		blank += int64(d.filled - len(text))
		if len(text) < d.filled {
			d.filled = copy(d.buffer, text)
			continue
		}
		if !d.begin() {
			return blank
		}
	}
	if d.wrap.kind != bare {
		return blank + d.rewrap()
	}
	return blank + d.consume()
}

// rewrap reads what is in the buffer again, because it is wrapped.
func (d *decoder) rewrap() int64 {
	d.outer = make([]byte, lineSize)
	rest := bytes.Clone(d.buffer[:d.filled])
	d.filled = 0
	taken := int64(0)
	for len(rest) > 0 {
		n := copy(d.outer[d.outerFilled:], rest)
		rest = rest[n:]
		d.outerFilled += n
		taken += d.unwrap()
	}
	return taken
}

// begin finds out the format by the first line.
func (d *decoder) begin() bool {
	line := firstLine(d.buffer[:d.filled])
	if len(line) == 0 {
		return false
	}
	d.begun = true
	var format Format
	d.wrap.kind, format = recognise(line, d.format)
	d.frame.reset(format)
	return true
}

// unwrap takes whole lines out of their wrapping and reads what is in them.
func (d *decoder) unwrap() int64 {
	before := d.taken
	start := 0
	for {
		i := bytes.IndexByte(d.outer[start:d.outerFilled], '\n')
		if i < 0 {
			break
		}
		line := d.outer[start : start+i+1]
		start += i + 1
		d.unwrapLine(line)
	}
	d.outerFilled = copy(d.outer, d.outer[start:d.outerFilled])
	if d.outerFilled == len(d.outer) {
		// An overlong line: its beginning is kept, what follows is dropped.
		d.outerDrop += int64(d.outerFilled - maxText)
		d.outerFilled = maxText
	}
	return d.taken - before
}

func (d *decoder) unwrapLine(line []byte) {
	begin := d.wrapped
	d.wrapped += int64(len(line)) + d.outerDrop
	d.outerDrop = 0
	if d.wrap.kind != syslogLines {
		d.take(line, d.wrapped)
		return
	}
	d.syslog.add(line, begin)
	d.release(false)
}

// release reads the messages of syslog that are whole, or all.
func (d *decoder) release(all bool) {
	for d.syslog.ready(all) {
		m := d.syslog.pop()
		next := d.wrapped
		if len(d.syslog.open) > 0 {
			next = d.syslog.open[0].begin
		}
		for rest := m.lines; len(rest) > 0; {
			line := rest[:bytes.IndexByte(rest, '\n')+1]
			if rest = rest[len(line):]; len(rest) > 0 {
				d.take(line, m.begin)
			} else {
				d.take(line, next)
			}
		}
	}
	if len(d.syslog.open) == 0 && d.filled == 0 {
		d.taken = d.wrapped
	}
}

// take reads a line. outer is up to where all that was wrapped is done when the
// record to which the line belongs is.
func (d *decoder) take(line []byte, outer int64) {
	// An unwrapped line is not longer than a wrapped one.
	for len(d.buffer)-d.filled < len(line)+1 {
		d.makeRoom()
	}
	content, failed := d.wrap.unwrap(d.buffer[:d.filled], line)
	if failed {
		d.failures++
		content = d.buffer[:d.filled]
	}
	had := d.filled
	d.filled = len(content)
	if d.frame.format == AutoFormat && d.filled > 0 {
		if first := firstLine(d.buffer[:d.filled]); first != nil {
			_, format := recognise(first, AutoFormat)
			if format == AutoFormat {
				format = Stderr
			}
			d.frame.reset(format)
		}
	}
	if had == d.filled && d.filled == 0 {
		d.taken = outer // nothing is open
		return
	}
	if d.filled > had && d.buffer[d.filled-1] == '\n' {
		d.marks = append(d.marks, mark{d.inner + d.skipped + int64(d.filled), outer})
	}
	if d.frame.format != AutoFormat {
		d.finish(d.consume())
	}
}

// finish notes that records of n unwrapped bytes are done.
func (d *decoder) finish(n int64) {
	d.inner += n
	passed := 0
	for passed < len(d.marks) && d.marks[passed].inner <= d.inner {
		d.taken = d.marks[passed].outer
		passed++
	}
	d.marks = slices.Delete(d.marks, 0, passed)
	if d.skipped > 0 && len(d.marks) > 1 {
		// The end of an overlong record is not before what was looked at.
		d.marks = append(d.marks[:0], d.marks[len(d.marks)-1])
	}
}

// consume takes the whole records out of the buffer and gives the number of
// bytes they had.
func (d *decoder) consume() int64 {
	start := 0
	advanced := int64(0)
	for start < d.filled {
		if d.skipped == 0 && d.buffer[start] == 0 {
			// After a crash of the machine a file may have zeros where nothing was
			// written.
			zeros := d.filled - start - len(bytes.TrimLeft(d.buffer[start:d.filled], "\x00"))
			start += zeros
			advanced += int64(zeros)
			continue
		}
		end := d.frame.next(d.buffer[start:d.filled], d.scanned)
		if end < 0 {
			d.scanned = d.frame.looked(d.buffer[start:d.filled])
			break
		}
		d.parse(d.buffer[start : start+end])
		advanced += int64(end) + d.skipped
		d.skipped, d.scanned = 0, 0
		start += end
	}
	d.filled = copy(d.buffer, d.buffer[start:d.filled])
	if d.filled == len(d.buffer) {
		d.makeRoom()
	}
	return advanced
}

func (d *decoder) parse(record []byte) {
	size := int64(len(record)) + d.skipped
	if d.skipped > 0 {
		record = record[:min(len(record), maxText)]
	}
	became := d.frame.parse(record, &d.m)
	if torn := d.frame.torn || d.ending && d.frame.format != Stderr; torn && became != notOurs && d.m.text == nil {
		became = notUnderstood
		if d.ending {
			size-- // the newline was never written
		}
		d.lose(size)
	}
	switch became {
	case message:
		if d.frame.format == Stderr {
			d.m.cut = d.skipped > 0 && !d.m.stated
		}
		d.message(&d.m)
	case notOurs:
	case notUnderstood:
		if len(record) > 1 {
			d.failures++
		}
	}
}

// makeRoom makes room in the buffer behind a long record.
func (d *decoder) makeRoom() {
	if len(d.buffer) == bufferSize {
		d.shorten()
		return
	}
	d.buffer = slices.Concat(d.buffer, make([]byte, len(d.buffer)))
}

// shorten drops what is behind the beginning of an overlong record, except a
// line at its end that is not whole yet.
func (d *decoder) shorten() {
	keep := d.buffer[:0]
	if d.scanned >= maxText && d.filled-d.scanned < maxText {
		keep = d.buffer[d.scanned:d.filled]
	}
	d.skipped += int64(d.filled - maxText - len(keep))
	d.filled = maxText + copy(d.buffer[maxText:], keep)
	d.scanned = maxText
}

// flush takes an open record for finished, because nothing has followed it for
// a while; final also takes a line without an end, because nothing will. It
// gives the number of bytes of the stream that this finishes.
func (d *decoder) flush(final bool) int64 {
	if final && d.pending() > 0 {
		return d.flushAll()
	}
	before := d.taken
	d.release(true)
	if d.filled == 0 || (d.frame.format != Stderr) || d.buffer[d.filled-1] != '\n' {
		return d.taken - before
	}
	d.parse(d.buffer[:d.filled])
	n := int64(d.filled) + d.skipped
	d.filled, d.scanned, d.skipped = 0, 0, 0
	d.frame.known, d.frame.passed = false, false
	if d.wrap.kind == bare {
		return n
	}
	d.finish(n)
	return d.taken - before
}

// flushAll ends the stream.
func (d *decoder) flushAll() int64 {
	rest := d.pending()
	d.ending = true
	if d.filled+d.outerFilled+len(d.syslog.open) > 0 {
		space := d.space()
		if len(space) > 0 {
			space[0] = '\n'
			d.advance(1)
		}
		d.flush(false)
		if d.filled > 0 && d.begun {
			d.parse(d.buffer[:d.filled])
		}
	}
	d.ending = false
	d.reset()
	return rest
}
