package script

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Statement is one statement of a script.
type Statement struct {
	// Text is the statement without the semicolon and without comments around
	// it.
	Text string
	// Line is where it begins, counted from 1.
	Line int
	// Data are the lines behind COPY ... FROM STDIN.
	Data string
	// Rows is how many rows a comment before the statement expects it to change:
	// `-- expect-rows: 100` or `-- expect-rows: 90..110`; nil is no expectation.
	Rows *Range
	// Class says what it does.
	Class Class

	tokens []token
}

// Range is a number of rows that is expected, both ends included.
type Range struct {
	Min, Max int64
}

// String is the range as ParseRange reads it.
func (r Range) String() string {
	if r.Min == r.Max {
		return strconv.FormatInt(r.Min, 10)
	}
	return fmt.Sprintf("%d..%d", r.Min, r.Max)
}

// Contains says whether a number of rows is as expected.
func (r Range) Contains(n int64) bool { return n >= r.Min && n <= r.Max }

var rangePattern = regexp.MustCompile(`^(\d+)(?:\.\.(\d+))?$`)

// ParseRange reads `100` or `90..110`.
func ParseRange(text string) (Range, error) {
	match := rangePattern.FindStringSubmatch(strings.TrimSpace(text))
	if match == nil {
		return Range{}, fmt.Errorf("%q is not a number of rows such as 100 or 90..110", text)
	}
	if match[2] == "" {
		match[2] = match[1]
	}
	low, errLow := strconv.ParseInt(match[1], 10, 64)
	high, errHigh := strconv.ParseInt(match[2], 10, 64)
	if errLow != nil || errHigh != nil || low > high {
		return Range{}, fmt.Errorf("%q is not a number of rows such as 100 or 90..110", text)
	}
	return Range{Min: low, Max: high}, nil
}

// Split splits a script into statements and classifies them. Commands of psql
// are errors that name their line.
func Split(text string) ([]Statement, error) {
	l := &lexer{text: strings.TrimPrefix(text, "\ufeff")}
	var statements []Statement
	var current Statement
	var body bodyTracker
	for {
		t, ok, err := l.next()
		if err != nil {
			return nil, err
		}
		if ok && len(current.tokens) == 0 {
			if current.Rows, err = expectation(l, current.Rows); err != nil {
				return nil, err
			}
		}
		if ok && !body.ends(t) {
			current.tokens = append(current.tokens, t)
			continue
		}
		if len(current.tokens) > 0 {
			if current, err = l.finish(current, ok); err != nil {
				return nil, err
			}
			statements = append(statements, current)
		}
		if !ok {
			return statements, nil
		}
		current, body = Statement{}, bodyTracker{}
	}
}

// expectation reads the comment that expects a number of rows.
func expectation(l *lexer, known *Range) (*Range, error) {
	for _, comment := range l.comments {
		value, found := strings.CutPrefix(strings.TrimSpace(comment), "expect-rows:")
		if !found {
			continue
		}
		rows, err := ParseRange(value)
		if err != nil {
			return nil, l.fail(l.at, "the comment expect-rows: %v", err)
		}
		known = &rows
	}
	return known, nil
}

// finish completes a statement whose tokens are known; terminated says that a
// semicolon follows.
func (l *lexer) finish(s Statement, terminated bool) (Statement, error) {
	first, last := s.tokens[0], s.tokens[len(s.tokens)-1]
	s.Text = l.text[first.start:last.end]
	s.Line = 1 + strings.Count(l.text[:first.start], "\n")
	s.Class = classify(s.tokens)
	if s.Class.CopyOut {
		return s, l.fail(first.start, "COPY ... TO STDOUT has nowhere to go: use COPY ... TO a file of the server, or run psql under `guard -- psql ...`")
	}
	if !s.Class.CopyIn {
		return s, nil
	}
	newline := strings.IndexByte(l.text[l.at:], '\n')
	if !terminated || newline < 0 {
		return s, l.fail(first.start, "COPY ... FROM STDIN has no data: they follow the line of the semicolon and end with a line \\.")
	}
	start := l.at + newline + 1
	for at := start; at < len(l.text); {
		end := strings.IndexByte(l.text[at:], '\n')
		line := l.text[at:]
		if end >= 0 {
			line = l.text[at : at+end]
		}
		if strings.TrimSuffix(line, "\r") == `\.` {
			s.Data = l.text[start:at]
			l.at = at + len(line)
			return s, nil
		}
		if end < 0 {
			break
		}
		at += end + 1
	}
	return s, l.fail(first.start, "the data of COPY ... FROM STDIN do not end with a line \\.")
}

// bodyTracker knows whether a semicolon ends a statement: not in parentheses
// (CREATE RULE), and not in the body of a function that is written in SQL
// (BEGIN ATOMIC ... END).
type bodyTracker struct {
	words  []string
	parens int
	body   int
}

func (b *bodyTracker) ends(t token) bool {
	switch {
	case t.kind == symbol && t.text == "(":
		b.parens++
	case t.kind == symbol && t.text == ")":
		b.parens = max(0, b.parens-1)
	case t.kind == symbol && t.text == ";":
		return b.parens == 0 && b.body == 0
	case t.kind == word:
		b.word(t.text)
	}
	return false
}

func (b *bodyTracker) word(text string) {
	if len(b.words) < 4 {
		b.words = append(b.words, text)
	}
	if !b.routine() {
		return
	}
	switch {
	case text == "begin", text == "case" && b.body > 0:
		b.body++
	case text == "end" && b.body > 0:
		b.body--
	}
}

// routine says that the statement is CREATE [OR REPLACE] FUNCTION or PROCEDURE.
func (b *bodyTracker) routine() bool {
	words := b.words
	if len(words) > 2 && words[1] == "or" && words[2] == "replace" {
		words = append([]string{words[0]}, words[3:]...)
	}
	return len(words) > 1 && words[0] == "create" && (words[1] == "function" || words[1] == "procedure")
}
