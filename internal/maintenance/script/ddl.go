package script

import (
	"slices"
	"strings"
)

// create classifies CREATE; the word itself is taken already.
func create(r *reader) Class {
	r.is("or", "replace")
	unique := r.is("unique")
	r.any("global", "local", "temporary", "temp", "unlogged", "recursive", "trusted", "procedural", "constraint", "event", "foreign", "materialized")
	what := r.peek().text
	r.at++
	c := Class{Command: "CREATE " + strings.ToUpper(what)}
	switch what {
	case "index":
		return createIndex(r, unique)
	case "database", "tablespace", "subscription":
		c.NonTransactional = true
		r.ifExists()
		c.Created, _ = r.name()
	case "trigger":
		for r.at < len(r.tokens) && !r.is("on") {
			r.at++
		}
		c.Lock = ShareRowExclusive
		if name, ok := r.name(); ok {
			c.Relations = []Name{name}
		}
	case "extension":
		c.Opaque = true
	}
	return c
}

func createIndex(r *reader, unique bool) Class {
	concurrently := r.is("concurrently")
	c := Class{Command: "CREATE INDEX", Lock: Share, KeepsRows: true}
	if unique {
		c.Command = "CREATE UNIQUE INDEX"
	}
	if concurrently {
		c.Command += " CONCURRENTLY"
		c.Lock, c.NonTransactional = ShareUpdateExclusive, true
	}
	r.ifExists()
	if !r.is("on") {
		c.Created, _ = r.name()
		r.is("on")
	}
	r.is("only")
	if name, ok := r.name(); ok {
		c.Relations = []Name{name}
		if c.Created.Name != "" && c.Created.Schema == "" {
			c.Created.Schema = name.Schema // an index lives beside its table
		}
	}
	return c
}

// drop classifies DROP.
func drop(r *reader) Class {
	r.any("materialized", "foreign", "event", "access", "text", "search")
	what := r.peek().text
	r.at++
	c := Class{Command: "DROP " + strings.ToUpper(what), Lock: AccessExclusive, Drops: true}
	switch what {
	case "table", "view", "index", "sequence":
		concurrently := r.is("concurrently")
		r.ifExists()
		c.Relations = r.names()
		if concurrently {
			c.Command, c.Lock, c.NonTransactional = "DROP INDEX CONCURRENTLY", ShareUpdateExclusive, true
		}
	case "trigger", "rule", "policy":
		if r.topLevel("on") {
			for !r.is("on") {
				r.at++
			}
			c.Relations = r.names()
		}
	case "database", "tablespace", "subscription":
		c.NonTransactional, c.NoUndo = true, true
		r.ifExists()
		c.Created, _ = r.name()
	}
	return c
}

// alter classifies ALTER.
func alter(r *reader) Class {
	r.any("materialized", "foreign", "default")
	what := r.peek().text
	r.at++
	c := Class{Command: "ALTER " + strings.ToUpper(what), Opaque: true}
	switch what {
	case "system":
		c = Class{Command: "ALTER SYSTEM", NonTransactional: true, Setting: "*"}
		r.any("set", "reset")
		if name, ok := r.name(); ok {
			c.Setting = name.Name
			if name.Schema != "" {
				c.Setting = name.Schema + "." + name.Name
			}
			if c.Setting == "all" {
				c.Setting = "*"
			}
		}
	case "table":
		return alterTable(r)
	case "index", "view", "sequence":
		r.ifExists()
		c.Opaque, c.Lock = false, AccessExclusive
		if name, ok := r.name(); ok {
			c.Relations = []Name{name}
		}
		if what == "index" {
			c.KeepsRows = true
			c.MayRewrite = r.has("set", "tablespace")
		}
	case "database":
		if r.has("set", "tablespace") {
			c.NonTransactional, c.NoUndo = true, true
		}
	case "subscription":
		c.NonTransactional = r.has("refresh", "publication") || r.has("set", "publication") || r.has("skip")
	}
	return c
}

// action is what one action of ALTER TABLE costs.
type action struct {
	words    []string
	lock     Lock
	rewrites bool
}

// actions are the actions of ALTER TABLE that are not simply ACCESS EXCLUSIVE
// for a moment; the first that fits counts.
var actions = []action{
	{words: []string{"set", "tablespace"}, lock: AccessExclusive, rewrites: true},
	{words: []string{"set", "logged"}, lock: AccessExclusive, rewrites: true},
	{words: []string{"set", "unlogged"}, lock: AccessExclusive, rewrites: true},
	{words: []string{"set", "access", "method"}, lock: AccessExclusive, rewrites: true},
	{words: []string{"set", "expression"}, lock: AccessExclusive, rewrites: true},
	{words: []string{"validate", "constraint"}, lock: ShareUpdateExclusive},
	{words: []string{"attach", "partition"}, lock: ShareUpdateExclusive},
	{words: []string{"cluster", "on"}, lock: ShareUpdateExclusive},
	{words: []string{"set", "without", "cluster"}, lock: ShareUpdateExclusive},
	{words: []string{"enable"}, lock: ShareRowExclusive},
	{words: []string{"disable"}, lock: ShareRowExclusive},
}

func alterTable(r *reader) Class {
	c := Class{Command: "ALTER TABLE", KeepsRows: true, Lock: NoLock}
	if r.is("all", "in", "tablespace") {
		c.Whole, c.Lock, c.Rewrites = true, AccessExclusive, true
		return c
	}
	r.ifExists()
	r.is("only")
	if name, ok := r.name(); ok {
		c.Relations = []Name{name}
	}
	r.sym("*")
	if r.is("detach", "partition") {
		if name, ok := r.name(); ok {
			c.Relations = append(c.Relations, name)
		}
		c.KeepsRows = false
		c.Lock = AccessExclusive
		if r.has("concurrently") || r.has("finalize") {
			c.NonTransactional, c.Lock = true, ShareUpdateExclusive
			c.Command = "ALTER TABLE DETACH PARTITION CONCURRENTLY"
		}
		return c
	}
	for r.at < len(r.tokens) {
		c = alterAction(r, c)
		for depth := 0; r.at < len(r.tokens); r.at++ { // to the comma behind the action
			t := r.tokens[r.at]
			if t.kind == symbol && t.text == "(" {
				depth++
			}
			if t.kind == symbol && t.text == ")" {
				depth--
			}
			if depth == 0 && t.kind == symbol && t.text == "," {
				r.at++
				break
			}
		}
	}
	if c.Lock == NoLock {
		c.Lock = AccessExclusive
	}
	return c
}

// alterAction adds what one action costs.
func alterAction(r *reader, c Class) Class {
	one := r.action()
	lock := AccessExclusive
	for _, a := range actions {
		if one.is(a.words...) {
			lock = a.lock
			c.Rewrites = c.Rewrites || a.rewrites
			break
		}
	}
	one.at = 0
	switch {
	case one.is("set") && one.sym("("), one.is("reset"):
		lock = ShareUpdateExclusive
	case one.is("alter"):
		if one.has("statistics") {
			lock = ShareUpdateExclusive
		}
		if one.has("type") {
			c.MayRewrite = true
			c.KeepsRows = false // the values are written anew
		}
	case one.is("add"):
		switch {
		case one.has("foreign", "key") || one.has("references"):
			lock = ShareRowExclusive
			for ; one.at < len(one.tokens); one.at++ {
				if one.is("references") {
					if name, ok := one.name(); ok {
						c.Relations = append(c.Relations, name)
					}
					break
				}
			}
		case one.has("generated", "always") || one.has("default"):
			c.MayRewrite = true
		}
	case one.is("drop"):
		c.Drops = true
	case one.is("rename"):
		c.KeepsRows = false // the name by which it would be found is gone
	}
	if lock.Strength() > c.Lock.Strength() {
		c.Lock = lock
	}
	return c
}

// action is a reader of the action that comes next, up to its comma.
func (r *reader) action() *reader {
	depth := 0
	end := r.at
	for ; end < len(r.tokens); end++ {
		t := r.tokens[end]
		if t.kind == symbol {
			depth += map[string]int{"(": 1, ")": -1}[t.text]
		}
		if depth == 0 && t.kind == symbol && t.text == "," {
			break
		}
	}
	return &reader{tokens: slices.Clone(r.tokens[r.at:end])}
}
