package script

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// kind is the kind of a token.
type kind int

const (
	word    kind = iota // a keyword or an identifier without quotes, in lower case
	quoted              // an identifier in double quotes, without them
	literal             // a string or a number
	symbol              // any other character
)

// token is one token of SQL; comments and white space are none.
type token struct {
	kind kind
	text string
	// start and end are byte offsets in the script.
	start, end int
}

// SyntaxError says where a script cannot be split.
type SyntaxError struct {
	// Line is counted from 1.
	Line int
	// Problem says what is wrong and what to do.
	Problem string
}

// Error names the line.
func (e *SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Problem) }

// lexer reads tokens.
type lexer struct {
	text string
	at   int
	// comments are what was skipped before the last token.
	comments []string
}

func (l *lexer) fail(at int, format string, args ...any) error {
	return &SyntaxError{Line: 1 + strings.Count(l.text[:at], "\n"), Problem: fmt.Sprintf(format, args...)}
}

// next is the next token; ok is false at the end.
func (l *lexer) next() (t token, ok bool, err error) {
	if err := l.skip(); err != nil || l.at >= len(l.text) {
		return token{}, false, err
	}
	start := l.at
	c := l.text[l.at]
	switch {
	case c == '\\':
		return token{}, false, l.fail(start, "%s is a command of psql, not SQL: run the script with `guard -- psql -f FILE`, or take the line out", firstWord(l.text[start:]))
	case c == '"':
		text, err := l.identifier()
		return token{quoted, text, start, l.at}, err == nil, err
	case c == '\'':
		err := l.str(false)
		return token{literal, "", start, l.at}, err == nil, err
	case c == '$':
		if tag, ok := dollarTag(l.text[start:]); ok {
			end := strings.Index(l.text[start+len(tag):], tag)
			if end < 0 {
				return token{}, false, l.fail(start, "the text that begins with %s does not end", tag)
			}
			l.at = start + len(tag) + end + len(tag)
			return token{literal, "", start, l.at}, true, nil
		}
	case c >= '0' && c <= '9':
		for l.at < len(l.text) && (wordByte(l.text[l.at]) || l.text[l.at] == '.') {
			l.at++
		}
		return token{literal, "", start, l.at}, true, nil
	case wordStart(l.text[start:]):
		return l.word()
	}
	l.at++
	return token{symbol, string(c), start, l.at}, true, nil
}

// word reads a word, or a string with a letter before it.
func (l *lexer) word() (token, bool, error) {
	start := l.at
	for l.at < len(l.text) && (wordByte(l.text[l.at]) || l.text[l.at] == '$') {
		l.at++
	}
	text := strings.ToLower(l.text[start:l.at])
	rest := l.text[l.at:]
	switch {
	case strings.HasPrefix(rest, "'") && (text == "e" || text == "b" || text == "x" || text == "n"):
		err := l.str(text == "e")
		return token{literal, "", start, l.at}, err == nil, err
	case text == "u" && strings.HasPrefix(rest, "&'"):
		l.at++
		err := l.str(false)
		return token{literal, "", start, l.at}, err == nil, err
	case text == "u" && strings.HasPrefix(rest, `&"`):
		l.at++
		name, err := l.identifier()
		return token{quoted, name, start, l.at}, err == nil, err
	}
	return token{word, text, start, l.at}, true, nil
}

// skip passes white space and comments.
func (l *lexer) skip() error {
	l.comments = nil
	for l.at < len(l.text) {
		rest := l.text[l.at:]
		switch {
		case strings.HasPrefix(rest, "--"):
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			l.comments = append(l.comments, rest[2:end])
			l.at += end
		case strings.HasPrefix(rest, "/*"):
			start := l.at
			if !l.blockComment() {
				return l.fail(start, "the comment does not end")
			}
		case rest[0] == ' ' || rest[0] >= '\t' && rest[0] <= '\r':
			l.at++
		default:
			return nil
		}
	}
	return nil
}

// blockComment passes a comment, which may hold others.
func (l *lexer) blockComment() bool {
	depth := 0
	for l.at < len(l.text) {
		switch {
		case strings.HasPrefix(l.text[l.at:], "/*"):
			depth++
			l.at += 2
		case strings.HasPrefix(l.text[l.at:], "*/"):
			depth--
			l.at += 2
			if depth == 0 {
				return true
			}
		default:
			l.at++
		}
	}
	return false
}

// str passes a string; escapes says that a backslash escapes.
func (l *lexer) str(escapes bool) error {
	start := l.at
	for l.at++; l.at < len(l.text); l.at++ {
		switch l.text[l.at] {
		case '\\':
			if escapes {
				l.at++
			}
		case '\'':
			if l.at+1 < len(l.text) && l.text[l.at+1] == '\'' {
				l.at++
				continue
			}
			l.at++
			return nil
		}
	}
	l.at = len(l.text)
	return l.fail(start, "the string does not end")
}

// identifier reads an identifier in double quotes.
func (l *lexer) identifier() (string, error) {
	start := l.at
	var name strings.Builder
	for l.at++; l.at < len(l.text); l.at++ {
		if l.text[l.at] != '"' {
			name.WriteByte(l.text[l.at])
			continue
		}
		l.at++
		if l.at >= len(l.text) || l.text[l.at] != '"' {
			return name.String(), nil
		}
		name.WriteByte('"')
	}
	return "", l.fail(start, "the quoted name does not end")
}

// dollarTag is the $tag$ at the start of a text.
func dollarTag(text string) (string, bool) {
	end := strings.IndexByte(text[1:], '$')
	if end < 0 {
		return "", false
	}
	tag := text[1 : 1+end]
	for i := range len(tag) {
		if !wordByte(tag[i]) || i == 0 && tag[i] >= '0' && tag[i] <= '9' {
			return "", false
		}
	}
	return text[:end+2], true
}

func wordByte(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= utf8.RuneSelf
}

func wordStart(text string) bool {
	r, _ := utf8.DecodeRuneInString(text)
	return r == '_' || r >= utf8.RuneSelf || unicode.IsLetter(r)
}

// firstWord is a text up to its first white space.
func firstWord(text string) string {
	if fields := strings.Fields(text); len(fields) > 0 {
		return fields[0]
	}
	return text
}
