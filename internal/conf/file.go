package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
)

// ReadFile reads a whole file by its absolute name; a file that does not exist
// is an error that is fs.ErrNotExist.
type ReadFile func(name string) ([]byte, error)

// ReadDir lists the names in a directory by its absolute name.
type ReadDir func(name string) ([]string, error)

// Problem is something in a configuration file that the server objects to.
type Problem struct {
	// File is the file's absolute name, Line counts from 1; 0 is the whole file.
	File string
	Line int
	// Text is what is wrong.
	Text string
	// Missing says that it is a file that does not exist.
	Missing bool
}

// String is the problem with its place.
func (p Problem) String() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.File, p.Text)
	}
	return fmt.Sprintf("%s line %d: %s", p.File, p.Line, p.Text)
}

// Entry is one parameter in a file.
type Entry struct {
	Name, Value string
	File        string
	Line        int
}

// Files reads configuration files.
type Files struct {
	Read ReadFile
	Dir  ReadDir
}

// maxDepth is how deep files may include each other (CONF_FILE_MAX_DEPTH).
const maxDepth = 10

// Parameters reads a file in the format of postgresql.conf and what it
// includes. Entries are in the order in which the server sees them: a later one
// of the same name wins.
func (f Files) Parameters(name string) ([]Entry, []Problem) {
	return f.parameters(name, "", 0, 0, true)
}

func (f Files) parameters(name, from string, line, depth int, strict bool) (entries []Entry, problems []Problem) {
	if depth > maxDepth {
		return nil, []Problem{{File: from, Line: line, Text: "files include each other too deeply"}}
	}
	content, err := f.Read(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !strict:
		return nil, nil
	case err != nil && from != "":
		return nil, []Problem{{File: from, Line: line, Text: fmt.Sprintf("includes %s, which cannot be read: %v", name, err), Missing: errors.Is(err, fs.ErrNotExist)}}
	case err != nil:
		return nil, []Problem{{File: name, Text: fmt.Sprintf("cannot be read: %v", err), Missing: errors.Is(err, fs.ErrNotExist)}}
	}
	for i, text := range strings.Split(string(content), "\n") {
		key, value, problem := parseLine(strings.TrimSuffix(text, "\r"))
		if problem != "" {
			problems = append(problems, Problem{File: name, Line: i + 1, Text: problem})
			continue
		}
		var more []Entry
		var wrong []Problem
		switch strings.ToLower(key) {
		case "":
			continue
		case "include":
			more, wrong = f.parameters(beside(name, value), name, i+1, depth+1, true)
		case "include_if_exists":
			more, wrong = f.parameters(beside(name, value), name, i+1, depth+1, false)
		case "include_dir":
			more, wrong = f.directory(beside(name, value), name, i+1, depth+1)
		default:
			more = []Entry{{Name: key, Value: value, File: name, Line: i + 1}}
		}
		entries, problems = append(entries, more...), append(problems, wrong...)
	}
	return entries, problems
}

// directory reads the files of an include_dir, in the order of their names.
func (f Files) directory(name, from string, line, depth int) (entries []Entry, problems []Problem) {
	names, err := f.Dir(name)
	if err != nil {
		return nil, []Problem{{File: from, Line: line, Text: fmt.Sprintf("includes the directory %s, which cannot be read: %v", name, err)}}
	}
	for _, one := range names {
		if strings.HasSuffix(one, ".conf") && !strings.HasPrefix(one, ".") && one != ".conf" {
			more, wrong := f.parameters(path.Join(name, one), from, line, depth, true)
			entries, problems = append(entries, more...), append(problems, wrong...)
		}
	}
	return entries, problems
}

// beside makes the name of a file absolute that a file includes.
func beside(file, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return path.Join(path.Dir(file), name)
}

// parseLine reads one line: name [=] value [# comment].
func parseLine(line string) (name, value, problem string) {
	rest := strings.TrimLeft(line, " \t\r\f\v")
	if rest == "" || rest[0] == '#' {
		return "", "", ""
	}
	name, rest = word(rest, isNameByte)
	if name == "" || !isLetter(name[0]) || strings.Count(name, ".") > 1 || strings.HasSuffix(name, ".") {
		return "", "", fmt.Sprintf("syntax error near %q", shorten(line))
	}
	rest = strings.TrimLeft(rest, " \t\r\f\v")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t\r\f\v")
	switch {
	case rest == "" || rest[0] == '#':
		return "", "", name + " has no value"
	case rest[0] == '\'':
		var ok bool
		if value, rest, ok = quoted(rest[1:]); !ok {
			return "", "", fmt.Sprintf("the value of %s has no closing quote", name)
		}
	default:
		value, rest = word(rest, isValueByte)
		if value == "" {
			return "", "", fmt.Sprintf("syntax error near %q", shorten(rest))
		}
	}
	rest = strings.TrimLeft(rest, " \t\r\f\v")
	if rest != "" && rest[0] != '#' {
		return "", "", fmt.Sprintf("syntax error behind the value of %s, near %q; a value with spaces or signs in it needs quotes", name, shorten(rest))
	}
	return name, value, ""
}

// quoted reads a string up to its closing quote.
func quoted(text string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\'' && i+1 < len(text) && text[i+1] == '\'':
			b.WriteByte('\'')
			i++
		case text[i] == '\'':
			return b.String(), text[i+1:], true
		case text[i] == '\\' && i+1 < len(text):
			i++
			if n := octal(text[i:]); n > 0 {
				var code int
				for _, digit := range text[i : i+n] {
					code = code*8 + int(digit-'0')
				}
				b.WriteByte(byte(code))
				i += n - 1
				continue
			}
			escaped := map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}
			if c, known := escaped[text[i]]; known {
				b.WriteByte(c)
			} else {
				b.WriteByte(text[i])
			}
		default:
			b.WriteByte(text[i])
		}
	}
	return "", "", false
}

// octal is how many octal digits a text begins with, at most 3.
func octal(text string) int {
	n := 0
	for n < len(text) && n < 3 && text[n] >= '0' && text[n] <= '7' {
		n++
	}
	return n
}

func word(text string, belongs func(byte) bool) (word, rest string) {
	n := 0
	for n < len(text) && belongs(text[n]) {
		n++
	}
	return text[:n], text[n:]
}

func isLetter(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func isNameByte(c byte) bool {
	return isLetter(c) || c >= '0' && c <= '9' || c == '$' || c == '.'
}

func isValueByte(c byte) bool {
	return isNameByte(c) || c == '-' || c == '+' || c == ':' || c == '/'
}

func shorten(text string) string {
	text = strings.TrimSpace(text)
	if len(text) > 40 {
		return text[:40] + "..."
	}
	return text
}
