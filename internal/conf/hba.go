package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
)

// token is one word of pg_hba.conf or pg_ident.conf.
type token struct {
	text   string
	quoted bool
}

// record is one line in fields; a field is a list of words parted by commas.
type record struct {
	file   string
	line   int
	fields [][]token
}

// records reads a file in the format of pg_hba.conf: lines that go on behind a
// backslash (14+), comments, quotes, lists, files of names (@file) and, since
// 16, includes.
func (f Files) records(name string, major, depth int) (list []record, problems []Problem) {
	if depth > maxDepth {
		return nil, []Problem{{File: name, Text: "files include each other too deeply"}}
	}
	content, err := f.Read(name)
	if err != nil {
		return nil, []Problem{{File: name, Text: fmt.Sprintf("cannot be read: %v", err), Missing: errors.Is(err, fs.ErrNotExist)}}
	}
	lines := strings.Split(string(content), "\n")
	for i := 0; i < len(lines); i++ {
		number, line := i+1, strings.TrimSuffix(lines[i], "\r")
		for major >= 14 && strings.HasSuffix(line, `\`) && i+1 < len(lines) {
			i++
			line = strings.TrimSuffix(line, `\`) + strings.TrimSuffix(lines[i], "\r")
		}
		fields, problem := split(line)
		if problem != "" {
			problems = append(problems, Problem{File: name, Line: number, Text: problem})
			continue
		}
		if len(fields) == 0 {
			continue
		}
		if directive := fields[0][0]; major >= 16 && !directive.quoted && strings.HasPrefix(directive.text, "include") {
			more, wrong := f.includes(name, number, fields, major, depth)
			list, problems = append(list, more...), append(problems, wrong...)
			continue
		}
		for _, field := range fields {
			for _, t := range field {
				if !t.quoted && strings.HasPrefix(t.text, "@") && len(t.text) > 1 {
					if _, err := f.Read(beside(name, t.text[1:])); err != nil {
						problems = append(problems, Problem{File: name, Line: number, Text: fmt.Sprintf("names the file %s, which cannot be read: %v", t.text[1:], err)})
					}
				}
			}
		}
		list = append(list, record{name, number, fields})
	}
	return list, problems
}

// includes follows an include line (16+).
func (f Files) includes(name string, line int, fields [][]token, major, depth int) (list []record, problems []Problem) {
	wrong := func(text string) []Problem { return []Problem{{File: name, Line: line, Text: text}} }
	directive := fields[0][0].text
	if !slices.Contains([]string{"include", "include_if_exists", "include_dir"}, directive) {
		return []record{{name, line, fields}}, nil
	}
	if len(fields) != 2 || len(fields[1]) != 1 {
		return nil, wrong(directive + " needs one file name")
	}
	target := beside(name, fields[1][0].text)
	if directive != "include_dir" {
		list, problems = f.records(target, major, depth+1)
		if len(problems) > 0 && problems[0].Missing && directive == "include_if_exists" {
			return list, problems[1:]
		}
		return list, problems
	}
	names, err := f.Dir(target)
	if err != nil {
		return nil, wrong(fmt.Sprintf("includes the directory %s, which cannot be read: %v", target, err))
	}
	for _, one := range names {
		if strings.HasSuffix(one, ".conf") && !strings.HasPrefix(one, ".") {
			more, bad := f.records(path.Join(target, one), major, depth+1)
			list, problems = append(list, more...), append(problems, bad...)
		}
	}
	return list, problems
}

// split cuts a line into fields.
func split(line string) (fields [][]token, problem string) {
	var field []token
	for rest := line; ; {
		rest = strings.TrimLeft(rest, " \t\f\v\r,")
		if rest == "" || rest[0] == '#' {
			break
		}
		var b strings.Builder
		var inQuotes, wasQuoted bool
		i := 0
		for ; i < len(rest); i++ {
			c := rest[i]
			if c == '"' {
				if inQuotes && i+1 < len(rest) && rest[i+1] == '"' {
					b.WriteByte('"')
					i++
					continue
				}
				inQuotes = !inQuotes
				wasQuoted = wasQuoted || b.Len() == 0
				continue
			}
			if !inQuotes && strings.IndexByte(" \t\f\v\r,#", c) >= 0 {
				break
			}
			b.WriteByte(c)
		}
		if inQuotes {
			return nil, "a quote is not closed"
		}
		field = append(field, token{b.String(), wasQuoted})
		rest = rest[i:]
		if strings.HasPrefix(rest, ",") {
			continue
		}
		fields = append(fields, field)
		field = nil
	}
	if field != nil {
		fields = append(fields, field)
	}
	return fields, ""
}

// methods are the authentication methods by the first version that has them;
// those that need a special build are among them.
var methods = map[string]int{
	"trust": 0, "reject": 0, "scram-sha-256": 0, "md5": 0, "password": 0, "gss": 0, "sspi": 0, "ident": 0, "peer": 0,
	"pam": 0, "bsd": 0, "ldap": 0, "radius": 0, "cert": 0, "oauth": 18,
}

// CheckHBA reads pg_hba.conf and what it includes, and gives what stops a
// start. The server also refuses a file without any record.
func (f Files) CheckHBA(name string, major int) []Problem {
	list, problems := f.records(name, major, 0)
	for _, r := range list {
		if text := r.hbaProblem(major); text != "" {
			problems = append(problems, Problem{File: r.file, Line: r.line, Text: text})
		}
	}
	if len(list) == 0 && len(problems) == 0 {
		problems = append(problems, Problem{File: name, Text: "has no entries: nobody could connect, and the server does not start"})
	}
	return problems
}

// hbaProblem says what is wrong with a record of pg_hba.conf.
func (r record) hbaProblem(major int) string {
	types := []string{"local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"}
	kind := r.fields[0]
	if len(kind) > 1 {
		return "there are several connection types"
	}
	local := kind[0].text == "local"
	switch {
	case !slices.Contains(types, kind[0].text):
		return fmt.Sprintf("%q is not a connection type (local, host, hostssl, hostnossl, hostgssenc, hostnogssenc)", kind[0].text)
	case len(r.fields) < 2:
		return "the line ends before the database"
	case len(r.fields) < 3:
		return "the line ends before the role"
	}
	if problem := expressionProblem(slices.Concat(r.fields[1], r.fields[2]), major); problem != "" {
		return problem
	}
	at := 3
	if !local {
		next, problem := r.addressProblem(at)
		if problem != "" {
			return problem
		}
		at = next
	}
	if len(r.fields) <= at {
		return "the line ends before the authentication method"
	}
	method := r.fields[at][0].text
	since, known := methods[method]
	switch {
	case len(r.fields[at]) > 1:
		return "there are several authentication methods"
	case !known:
		return fmt.Sprintf("%q is not an authentication method", method)
	case major < since:
		return fmt.Sprintf("the authentication method %s came with PostgreSQL %d", method, since)
	case local && (method == "gss" || method == "sspi" || method == "cert"):
		return fmt.Sprintf("the method %s is not for local connections", method)
	case !local && method == "peer":
		return "the method peer is only for local connections"
	case method == "cert" && kind[0].text != "hostssl":
		return "the method cert is only for hostssl"
	}
	for _, option := range slices.Concat(r.fields[at+1:]...) {
		if !strings.Contains(option.text, "=") {
			return fmt.Sprintf("the option %q is not of the form name=value", option.text)
		}
	}
	return ""
}

// addressProblem looks at the address from a field on and says where the next
// one is.
func (r record) addressProblem(at int) (next int, problem string) {
	if len(r.fields) <= at {
		return 0, "the line ends before the address"
	}
	if len(r.fields[at]) > 1 {
		return 0, "there are several addresses"
	}
	address := r.fields[at][0]
	if !address.quoted && slices.Contains([]string{"all", "samehost", "samenet"}, address.text) {
		return at + 1, ""
	}
	ip, bits, isRange := strings.Cut(address.text, "/")
	parsed, err := netip.ParseAddr(ip)
	switch {
	case isRange && err != nil:
		if strings.ContainsAny(ip, "ghijklmnopqrstuvwxyz") {
			return 0, fmt.Sprintf("a host name such as %q has no mask", ip)
		}
		return 0, fmt.Sprintf("%q is not an address", address.text)
	case isRange:
		if _, err := netip.ParsePrefix(parsed.WithZone("").String() + "/" + bits); err != nil {
			return 0, fmt.Sprintf("%q is not a range of addresses", address.text)
		}
		return at + 1, ""
	case err != nil:
		return at + 1, "" // a host name
	}
	if len(r.fields) <= at+1 {
		return 0, "the line ends before the mask of the address"
	}
	mask, err := netip.ParseAddr(r.fields[at+1][0].text)
	if err != nil {
		return 0, fmt.Sprintf("%q is not a mask", r.fields[at+1][0].text)
	}
	if mask.Is4() != parsed.Is4() {
		return 0, "address and mask are of different families"
	}
	return at + 2, ""
}

// expressionProblem looks at the regular expressions among words (16+).
func expressionProblem(words []token, major int) string {
	for _, t := range words {
		if major >= 16 && strings.HasPrefix(t.text, "/") {
			if problem := badExpression(t.text[1:]); problem != "" {
				return problem
			}
		}
	}
	return ""
}

// badExpression finds what is wrong with a regular expression. The server's are
// not Go's, so only what no dialect takes counts.
func badExpression(text string) string {
	if text == "" {
		return "a regular expression is empty"
	}
	if _, err := regexp.Compile(text); err != nil && (strings.Contains(err.Error(), "missing closing") || strings.Contains(err.Error(), "unexpected )")) {
		return fmt.Sprintf("the regular expression %q is not valid", text)
	}
	return ""
}

// CheckIdent reads pg_ident.conf and what it includes, and gives what the
// server objects to. It starts all the same, without any user name maps.
func (f Files) CheckIdent(name string, major int) []Problem {
	list, problems := f.records(name, major, 0)
	for _, r := range list {
		switch {
		case len(r.fields) < 3:
			problems = append(problems, Problem{File: r.file, Line: r.line, Text: "the line needs a map, a system user and a role"})
		case strings.HasPrefix(r.fields[1][0].text, "/"):
			if problem := badExpression(r.fields[1][0].text[1:]); problem != "" {
				problems = append(problems, Problem{File: r.file, Line: r.line, Text: problem})
			}
		}
	}
	return problems
}
