package collector

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Sink takes the samples of one collector during one scrape, as lines of the
// text format.
type Sink struct {
	families []*Family
	lines    [][]byte // of each family
	err      error
}

// sinks are used again: what they hold is written for each scrape.
var sinks = sync.Pool{New: func() any { return new(Sink) }}

func newSink(families []*Family) *Sink {
	s := sinks.Get().(*Sink) //nolint:forcetypeassert // the pool holds nothing else
	s.families, s.err = families, nil
	s.lines = slices.Grow(s.lines[:0], len(families))[:len(families)]
	for i := range s.lines {
		s.lines[i] = s.lines[i][:0]
	}
	return s
}

// free gives the memory of a sink back, whose lines nobody needs any more.
func (s *Sink) free() { sinks.Put(s) }

// Add takes one sample. A family that the collector did not declare, a wrong
// number of label values or the same series twice make the whole collector
// fail. Bytes that are not UTF-8 (names in a database of encoding SQL_ASCII)
// are replaced.
func (s *Sink) Add(family *Family, value float64, labelValues ...string) {
	if s.err != nil {
		return
	}
	i := slices.Index(s.families, family)
	if i < 0 {
		s.err = fmt.Errorf("metric %s is not declared by this collector", family.Name)
		return
	}
	if len(labelValues) != len(family.Labels) {
		s.err = fmt.Errorf("metric %s has %d labels, not %d", family.Name, len(family.Labels), len(labelValues))
		return
	}
	line := s.lines[i]
	line = append(line, family.Name...)
	separator := byte('{')
	for _, n := range family.sorted() {
		text := labelValues[n]
		if text == "" {
			continue // an empty label is no label
		}
		line = append(line, separator)
		line = append(line, family.Labels[n]...)
		line = append(line, '=', '"')
		line = appendEscaped(line, text)
		line = append(line, '"')
		separator = ','
	}
	if separator == ',' {
		line = append(line, '}')
	}
	line = append(line, ' ')
	line = strconv.AppendFloat(line, value, 'g', -1, 64)
	s.lines[i] = append(line, '\n')
}

// AddBool takes one sample that is 1 for true and 0 for false.
func (s *Sink) AddBool(family *Family, value bool, labelValues ...string) {
	number := 0.0
	if value {
		number = 1
	}
	s.Add(family, number, labelValues...)
}

// escapes are what stands for itself nowhere in the value of a label.
var escapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func appendEscaped(line []byte, text string) []byte {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	if strings.ContainsAny(text, "\\\n\"") {
		text = escapes.Replace(text)
	}
	return append(line, text...)
}

// finish puts the lines of each family in order, and fails when a series is there
// twice: Prometheus would refuse the whole page.
func (s *Sink) finish() error {
	for i, family := range s.families {
		lines, twice := ordered(s.lines[i])
		s.lines[i] = lines
		if twice && s.err == nil {
			s.err = fmt.Errorf("metric %s was collected twice with the same labels", family.Name)
		}
	}
	return s.err
}

// take takes the lines of some families out.
func (s *Sink) take(some map[*Family]bool) map[*Family][]byte {
	taken := make(map[*Family][]byte)
	for i, family := range s.families {
		if some[family] && len(s.lines[i]) > 0 {
			taken[family] = bytes.Clone(s.lines[i])
			s.lines[i] = s.lines[i][:0]
		}
	}
	return taken
}

// ordered sorts lines if need be, and says whether a series is there twice.
func ordered(lines []byte) (_ []byte, twice bool) {
	sorted := true
	var before []byte // the series of the line before
	for line := range bytes.Lines(lines) {
		series := line[:bytes.LastIndexByte(line, ' ')+1]
		switch bytes.Compare(before, series) {
		case 0:
			twice = true
		case 1:
			sorted = false
		}
		before = series
	}
	if sorted {
		return lines, twice
	}
	split := slices.SortedFunc(bytes.Lines(bytes.Clone(lines)), bytes.Compare)
	return ordered(append(lines[:0], bytes.Join(split, nil)...))
}

// write adds families with the lines that sinks have of them, ordered by name, to
// text.
func write(text []byte, all []*Sink) []byte {
	type part struct {
		family *Family
		lines  []byte
	}
	var parts []part
	for _, sink := range all {
		for i, family := range sink.families {
			if len(sink.lines[i]) > 0 {
				parts = append(parts, part{family, sink.lines[i]})
			}
		}
	}
	slices.SortStableFunc(parts, func(a, b part) int { return strings.Compare(a.family.Name, b.family.Name) })
	for i, p := range parts {
		if i == 0 || p.family != parts[i-1].family {
			text = append(text, "# HELP "...)
			text = append(text, p.family.Name...)
			text = append(text, ' ')
			text = append(text, p.family.Help...)
			text = append(text, "\n# TYPE "...)
			text = append(text, p.family.Name...)
			text = append(text, ' ')
			text = append(text, p.family.Type.String()...)
			text = append(text, '\n')
		}
		text = append(text, p.lines...)
	}
	return text
}
