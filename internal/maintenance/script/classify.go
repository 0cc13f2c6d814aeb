package script

import (
	"fmt"
	"slices"
	"strings"
)

// Lock is a table-level lock mode of PostgreSQL.
type Lock string

// The lock modes, from the weakest to the strongest.
const (
	NoLock               Lock = ""
	AccessShare          Lock = "ACCESS SHARE"
	RowShare             Lock = "ROW SHARE"
	RowExclusive         Lock = "ROW EXCLUSIVE"
	ShareUpdateExclusive Lock = "SHARE UPDATE EXCLUSIVE"
	Share                Lock = "SHARE"
	ShareRowExclusive    Lock = "SHARE ROW EXCLUSIVE"
	Exclusive            Lock = "EXCLUSIVE"
	AccessExclusive      Lock = "ACCESS EXCLUSIVE"
)

var lockOrder = []Lock{NoLock, AccessShare, RowShare, RowExclusive, ShareUpdateExclusive, Share, ShareRowExclusive, Exclusive, AccessExclusive}

// Strength orders lock modes.
func (l Lock) Strength() int { return slices.Index(lockOrder, l) }

// Blocks says in words whom the lock makes wait.
func (l Lock) Blocks() string {
	switch l {
	case AccessExclusive:
		return "everybody"
	case Exclusive, ShareRowExclusive, Share:
		return "writers"
	case ShareUpdateExclusive:
		return "VACUUM and schema changes"
	case RowExclusive, RowShare, AccessShare:
		return "schema changes"
	case NoLock:
	}
	return "nobody"
}

// Control is what a statement does to the transaction.
type Control string

// The kinds of transaction control.
const (
	NoControl Control = ""
	Begin     Control = "begin"
	Commit    Control = "commit"
	Rollback  Control = "rollback"
	Savepoint Control = "savepoint"
	TwoPhase  Control = "two-phase"
)

// Name is a name as the script has it; Schema is empty when the search path
// decides.
type Name struct {
	Schema, Name string
}

// String is the name as to_regclass reads it.
func (n Name) String() string {
	if n.Schema == "" {
		return quoteName(n.Name)
	}
	return quoteName(n.Schema) + "." + quoteName(n.Name)
}

func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Class says what a statement does.
type Class struct {
	// Command is the command, for example "VACUUM FULL" or "UPDATE".
	Command string
	// Control is transaction control; such a statement does nothing else.
	Control Control
	// NonTransactional says that the server refuses it in a transaction block, or
	// that it cannot be rolled back.
	NonTransactional bool
	// Lock is the strongest lock that it takes on Relations.
	Lock Lock
	// Relations are the tables, indexes and views that it names as its objects.
	Relations []Name
	// Whole says that it works on every table of the database or of a schema.
	Whole bool
	// Rewrites says that it writes a new copy of the relations (or of their
	// indexes); MayRewrite that it depends.
	Rewrites, MayRewrite bool
	// ChangesRows says that changing rows is what it is for.
	ChangesRows bool
	// KeepsRows says that the rows of its relations must be the same afterwards.
	KeepsRows bool
	// Opaque says that only the server knows what it touches.
	Opaque bool
	// NoWhere says that it is an UPDATE or DELETE of every row.
	NoWhere bool
	// Cascades says that it names CASCADE.
	Cascades bool
	// Drops says that it removes what it names.
	Drops bool
	// Setting is the setting of ALTER SYSTEM, or "*" for all.
	Setting string
	// Created is the index that CREATE INDEX names.
	Created Name
	// NoUndo says that nothing but a restore brings back what it does.
	NoUndo bool
	// CopyIn and CopyOut are COPY FROM STDIN and TO STDOUT.
	CopyIn, CopyOut bool
}

// reader walks over tokens.
type reader struct {
	tokens []token
	at     int
}

func (r *reader) peek() token {
	if r.at < len(r.tokens) {
		return r.tokens[r.at]
	}
	return token{kind: symbol}
}

// is takes the words when they come next.
func (r *reader) is(words ...string) bool {
	for i, w := range words {
		if r.at+i >= len(r.tokens) || r.tokens[r.at+i].kind != word || r.tokens[r.at+i].text != w {
			return false
		}
	}
	r.at += len(words)
	return true
}

// any takes every following one of the words.
func (r *reader) any(words ...string) {
	for r.peek().kind == word && slices.Contains(words, r.peek().text) {
		r.at++
	}
}

// sym takes a symbol when it comes next.
func (r *reader) sym(text string) bool {
	if t := r.peek(); t.kind == symbol && t.text == text {
		r.at++
		return true
	}
	return false
}

// ifExists takes IF [NOT] EXISTS.
func (r *reader) ifExists() {
	if !r.is("if", "not", "exists") {
		r.is("if", "exists")
	}
}

// name takes a name with or without schema (and with or without database).
func (r *reader) name() (Name, bool) {
	var parts []string
	for {
		t := r.peek()
		if t.kind != word && t.kind != quoted {
			break
		}
		parts = append(parts, t.text)
		r.at++
		if !r.sym(".") {
			break
		}
	}
	switch len(parts) {
	case 0:
		return Name{}, false
	case 1:
		return Name{Name: parts[0]}, true
	default:
		return Name{Schema: parts[len(parts)-2], Name: parts[len(parts)-1]}, true
	}
}

// names takes a list of names, each with an optional column list behind it.
func (r *reader) names() []Name {
	var names []Name
	for {
		r.is("only")
		name, ok := r.name()
		if !ok {
			return names
		}
		names = append(names, name)
		r.sym("*")
		r.parens()
		if !r.sym(",") {
			return names
		}
	}
}

// parens takes a parenthesis with everything in it and gives its words.
func (r *reader) parens() []string {
	var words []string
	if !r.sym("(") {
		return nil
	}
	for depth := 1; depth > 0 && r.at < len(r.tokens); r.at++ {
		switch t := r.tokens[r.at]; {
		case t.kind == symbol && t.text == "(":
			depth++
		case t.kind == symbol && t.text == ")":
			depth--
		case t.kind == word, t.kind == symbol && t.text == ",":
			words = append(words, t.text)
		}
	}
	return words
}

// has says whether the words follow one another anywhere from here on.
func (r *reader) has(words ...string) bool {
	for i := r.at; i < len(r.tokens); i++ {
		ahead := reader{r.tokens, i}
		if ahead.is(words...) {
			return true
		}
	}
	return false
}

// topLevel is whether a word stands outside all parentheses from here on.
func (r *reader) topLevel(text string) bool {
	depth := 0
	for _, t := range r.tokens[min(r.at, len(r.tokens)):] {
		switch {
		case t.kind == symbol && t.text == "(":
			depth++
		case t.kind == symbol && t.text == ")":
			depth--
		case depth == 0 && t.kind == word && t.text == text:
			return true
		}
	}
	return false
}

// classify says what a statement does.
func classify(tokens []token) Class {
	r := &reader{tokens: tokens}
	first := r.peek()
	if first.kind == symbol && first.text == "(" {
		return Class{Command: "SELECT", Lock: AccessShare, Opaque: true}
	}
	r.at++
	if rule, ok := rules[first.text]; ok && first.kind == word {
		c := rule(r)
		if r := (&reader{tokens: tokens}); !c.ChangesRows && !c.CopyIn {
			c.Cascades = c.Cascades || r.has("cascade")
		}
		return c
	}
	command := strings.ToUpper(first.text)
	if second := r.peek(); second.kind == word && (first.text == "create" || first.text == "drop" || first.text == "alter" || first.text == "comment") {
		command += " " + strings.ToUpper(second.text)
	}
	return Class{Command: command, Opaque: true}
}

// rules say by first word how to go on; the word itself is taken already.
var rules map[string]func(r *reader) Class

func init() { //nolint:gochecknoinits // a table that refers to itself
	control := func(c Control) func(*reader) Class {
		return func(*reader) Class { return Class{Command: strings.ToUpper(string(c)), Control: c} }
	}
	rules = map[string]func(r *reader) Class{
		"begin": control(Begin), "commit": control(Commit), "end": control(Commit), "abort": control(Rollback),
		"savepoint": control(Savepoint), "release": control(Savepoint),
		"start": control(Begin),
		"rollback": func(r *reader) Class {
			if r.topLevel("to") {
				return Class{Command: "ROLLBACK TO", Control: Savepoint}
			}
			return Class{Command: "ROLLBACK", Control: Rollback}
		},
		"prepare": func(r *reader) Class {
			if r.is("transaction") {
				return Class{Command: "PREPARE TRANSACTION", Control: TwoPhase}
			}
			return Class{Command: "PREPARE", Opaque: true}
		},
		"vacuum": vacuum, "analyze": analyze, "analyse": analyze, "cluster": cluster, "reindex": reindex,
		"truncate": truncate, "refresh": refresh, "copy": copyRows, "lock": lockTable,
		"insert": insert, "update": update, "delete": deleteRows, "merge": merge, "with": with,
		"select": func(*reader) Class { return Class{Command: "SELECT", Lock: AccessShare, Opaque: true} },
		"do":     func(*reader) Class { return Class{Command: "DO", Opaque: true} },
		"call":   func(*reader) Class { return Class{Command: "CALL", Opaque: true} },
		"set":    func(*reader) Class { return Class{Command: "SET"} }, "reset": func(*reader) Class { return Class{Command: "RESET"} },
		"create": create, "drop": drop, "alter": alter,
	}
}

// option says whether an option in parentheses is on: VACUUM (FULL, ANALYZE
// false).
func option(words []string, name string) bool {
	i := slices.Index(words, name)
	if i < 0 {
		return false
	}
	return i+1 >= len(words) || !slices.Contains([]string{"false", "off"}, words[i+1])
}

func vacuum(r *reader) Class {
	options := r.parens()
	full := option(options, "full")
	for r.peek().kind == word && slices.Contains([]string{"full", "freeze", "verbose", "analyze", "analyse"}, r.peek().text) {
		full = full || r.peek().text == "full"
		r.at++
	}
	c := Class{Command: "VACUUM", NonTransactional: true, Lock: ShareUpdateExclusive, KeepsRows: true, Relations: r.names()}
	if full {
		c.Command, c.Lock, c.Rewrites = "VACUUM FULL", AccessExclusive, true
	}
	c.Whole = len(c.Relations) == 0
	return c
}

func analyze(r *reader) Class {
	r.parens()
	r.any("verbose")
	c := Class{Command: "ANALYZE", Lock: ShareUpdateExclusive, KeepsRows: true, Relations: r.names()}
	// ANALYZE of the whole database commits after each table.
	c.Whole = len(c.Relations) == 0
	c.NonTransactional = c.Whole
	return c
}

func cluster(r *reader) Class {
	r.parens()
	r.any("verbose")
	c := Class{Command: "CLUSTER", Lock: AccessExclusive, Rewrites: true, KeepsRows: true}
	if name, ok := r.name(); ok {
		if r.is("on") { // the old form: CLUSTER index ON table
			name, _ = r.name()
		}
		c.Relations = []Name{name}
	}
	c.Whole = len(c.Relations) == 0
	c.NonTransactional = c.Whole
	return c
}

func reindex(r *reader) Class {
	options := r.parens()
	what := r.peek().text
	r.at++
	concurrently := option(options, "concurrently") || r.is("concurrently")
	c := Class{Command: "REINDEX", Lock: Share, Rewrites: true, KeepsRows: true, NonTransactional: true}
	if concurrently {
		c.Command, c.Lock = "REINDEX CONCURRENTLY", ShareUpdateExclusive
	}
	if what == "index" || what == "table" {
		c.Relations = r.names()
	} else {
		c.Whole = true
	}
	return c
}

func truncate(r *reader) Class {
	r.is("table")
	return Class{Command: "TRUNCATE", Lock: AccessExclusive, ChangesRows: true, Relations: r.names(), Cascades: r.has("cascade"), Rewrites: true}
}

func refresh(r *reader) Class {
	r.is("materialized", "view")
	concurrently := r.is("concurrently")
	c := Class{Command: "REFRESH MATERIALIZED VIEW", Lock: AccessExclusive, Rewrites: true, ChangesRows: true, Relations: r.names()}
	if concurrently {
		c.Lock, c.Rewrites = Exclusive, false
	}
	return c
}

func copyRows(r *reader) Class {
	if r.peek().kind == symbol { // COPY (query) TO
		r.parens()
		return Class{Command: "COPY", Lock: AccessShare, Opaque: true, CopyOut: r.has("to", "stdout")}
	}
	r.any("binary")
	c := Class{Command: "COPY", Lock: RowExclusive, ChangesRows: true}
	if name, ok := r.name(); ok {
		c.Relations = []Name{name}
	}
	r.parens()
	switch {
	case r.is("from", "stdin"):
		c.CopyIn = true
	case r.is("to"):
		c.Lock, c.ChangesRows, c.CopyOut = AccessShare, false, r.is("stdout")
	}
	return c
}

func lockTable(r *reader) Class {
	r.is("table")
	c := Class{Command: "LOCK", Lock: AccessExclusive, Relations: r.names()}
	if r.is("in") {
		var mode []string
		for r.peek().kind == word && r.peek().text != "mode" {
			mode = append(mode, strings.ToUpper(r.peek().text))
			r.at++
		}
		if l := Lock(strings.Join(mode, " ")); l.Strength() >= 0 {
			c.Lock = l
		}
	}
	return c
}

func insert(r *reader) Class {
	r.is("into")
	name, _ := r.name()
	return Class{Command: "INSERT", Lock: RowExclusive, ChangesRows: true, Relations: []Name{name}}
}

func update(r *reader) Class {
	r.is("only")
	name, _ := r.name()
	return Class{Command: "UPDATE", Lock: RowExclusive, ChangesRows: true, Relations: []Name{name}, NoWhere: !r.topLevel("where") && !r.topLevel("from")}
}

func deleteRows(r *reader) Class {
	r.is("from")
	r.is("only")
	name, _ := r.name()
	return Class{Command: "DELETE", Lock: RowExclusive, ChangesRows: true, Relations: []Name{name}, NoWhere: !r.topLevel("where") && !r.topLevel("using")}
}

func merge(r *reader) Class {
	r.is("into")
	r.is("only")
	name, _ := r.name()
	return Class{Command: "MERGE", Lock: RowExclusive, ChangesRows: true, Relations: []Name{name}}
}

// with looks for the statements that change rows in the query and before it.
func with(r *reader) Class {
	c := Class{Command: "SELECT", Lock: AccessShare, Opaque: true}
	for ; r.at < len(r.tokens); r.at++ {
		t := r.tokens[r.at]
		if t.kind != word || r.at > 0 && r.tokens[r.at-1].kind == word && slices.Contains([]string{"for", "no", "key", "do", "on", "then"}, r.tokens[r.at-1].text) {
			continue // FOR UPDATE, ON CONFLICT DO UPDATE, WHEN MATCHED THEN UPDATE
		}
		ahead := &reader{r.tokens, r.at + 1}
		var found Class
		switch t.text {
		case "insert":
			found = insert(ahead)
		case "update":
			found = update(ahead)
			found.NoWhere = false
		case "delete":
			found = deleteRows(ahead)
			found.NoWhere = false
		case "merge":
			found = merge(ahead)
		default:
			continue
		}
		found.Relations = append(found.Relations, c.Relations...)
		c = found
	}
	return c
}

// ParseName reads a name with or without schema; each part may be in double
// quotes. The name * stands for every table.
func ParseName(text string) (Name, error) {
	if text == "*" {
		return Name{Name: "*"}, nil
	}
	statements, err := Split("TABLE " + text)
	if err != nil || len(statements) != 1 {
		return Name{}, fmt.Errorf("%q is not a name such as public.accounts", text)
	}
	r := &reader{tokens: statements[0].tokens, at: 1}
	name, ok := r.name()
	if !ok || r.at != len(r.tokens) {
		return Name{}, fmt.Errorf("%q is not a name such as public.accounts", text)
	}
	return name, nil
}
