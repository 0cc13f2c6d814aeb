package config

import (
	"math/big"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
)

// Constraints says how constraints are held against the data.
type Constraints struct {
	// CompleteWithin is the time in which each row of a large table is looked at
	// once; a run looks at the part that belongs to it.
	CompleteWithin Duration `yaml:"complete_within"`
	// LargeTable is the size from which a table is looked at in parts.
	LargeTable Size `yaml:"large_table"`
	// MaskKeys keeps the values of keys out of findings.
	MaskKeys bool `yaml:"mask_keys"`
}

// maxRules bounds the entries of each list of rules.
const maxRules = 500

// Rules is what the configuration says of the data, as the checks take it.
func (c Config) Rules() check.Rules {
	parts := 1
	if interval := c.Checks["constraint"].Interval; interval > 0 {
		parts = max(1, int(c.Constraints.CompleteWithin/interval))
	}
	return check.Rules{
		Parts: parts, LargeTable: int64(c.Constraints.LargeTable), MaskKeys: c.Constraints.MaskKeys,
		Invariants: c.Invariants, Sealed: c.Sealed, MaterializedViews: c.MaterializedViews,
	}
}

// defaultRules fills in what the entries of the lists leave out.
func (c *Config) defaultRules() {
	severity := func(s *check.Severity) {
		if *s == "" {
			*s = check.SeverityCritical
		}
	}
	for n := range c.Invariants {
		i := &c.Invariants[n]
		severity(&i.Severity)
		if i.Interval == 0 {
			i.Interval = time.Hour
		}
		if i.Timeout == 0 {
			i.Timeout = 5 * time.Minute
		}
		i.Expect.NoRows = i.Expect.Min == "" && i.Expect.Max == "" && i.Expect.EqualTo == ""
	}
	for n := range c.Sealed {
		d := &c.Sealed[n]
		severity(&d.Severity)
		if d.Interval == 0 {
			d.Interval = 24 * time.Hour
		}
	}
	for n := range c.MaterializedViews {
		severity(&c.MaterializedViews[n].Severity)
	}
}

// failer makes the error of a wrong value, with its line.
type failer func(format string, args []any, keys ...string) error

// ruleName is what the entries of the lists may be called.
var ruleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

func (c *Config) validateRules(fail failer) error {
	if c.Constraints.CompleteWithin < 0 {
		return fail("must not be negative", nil, "constraints", "complete_within")
	}
	if c.Constraints.LargeTable <= 0 {
		return fail("must be more than 0 bytes", nil, "constraints", "large_table")
	}
	for key, n := range map[string]int{"invariants": len(c.Invariants), "sealed": len(c.Sealed), "materialized_views": len(c.MaterializedViews)} {
		if n > maxRules {
			return fail("there may be at most %d entries", []any{maxRules}, key)
		}
	}
	seen := make(map[string]bool)
	for n, i := range c.Invariants {
		place := entry{fail, []string{"invariants", strconv.Itoa(n)}, seen}
		if err := place.named(i.Name, i.Databases, i.Severity); err != nil {
			return err
		}
		if err := place.invariant(i); err != nil {
			return err
		}
	}
	seen = make(map[string]bool)
	for n, d := range c.Sealed {
		place := entry{fail, []string{"sealed", strconv.Itoa(n)}, seen}
		if err := place.named(d.Name, d.Databases, d.Severity); err != nil {
			return err
		}
		if err := place.sealed(d); err != nil {
			return err
		}
	}
	for n, m := range c.MaterializedViews {
		place := entry{fail, []string{"materialized_views", strconv.Itoa(n)}, make(map[string]bool)}
		if err := place.named("view", m.Databases, m.Severity); err != nil {
			return err
		}
		if !strings.Contains(m.View, ".") {
			return place.fail("view", "must be SCHEMA.NAME, for example ledger.balances")
		}
	}
	return nil
}

// entry is an entry of a list under validation.
type entry struct {
	failer failer
	keys   []string
	seen   map[string]bool
}

func (e entry) fail(key, format string, args ...any) error {
	return e.failer(format, args, append(slices.Clone(e.keys), key)...)
}

// named validates what all kinds of entries have.
func (e entry) named(name string, databases []string, severity check.Severity) error {
	switch {
	case !ruleName.MatchString(name):
		return e.fail("name", "must be of letters, digits and _.-, at most 63, not %q", name)
	case e.seen[name]:
		return e.fail("name", "there are two entries %q", name)
	case len(databases) == 0:
		return e.fail("databases", "say in which databases, for example [erp]")
	case !slices.Contains([]check.Severity{check.SeverityCritical, check.SeverityWarning, check.SeverityInfo}, severity):
		return e.fail("severity", "must be critical, warning or info, not %q", severity)
	}
	e.seen[name] = true
	for _, pattern := range databases {
		if _, err := path.Match(pattern, ""); err != nil {
			return e.fail("databases", "%q is not a valid pattern", pattern)
		}
	}
	return nil
}

// selects is how a statement that only reads begins.
var selects = regexp.MustCompile(`(?is)^\s*(?:--[^\n]*\n\s*)*(select|with|values|table|\()`)

func (e entry) invariant(i check.Invariant) error {
	switch {
	case i.SQL != "" && i.Template != "":
		return e.fail("template", "sql and template exclude each other")
	case i.SQL == "" && i.Template == "":
		return e.fail("sql", "give sql, or a template: %s", strings.Join(check.TemplateNames(), ", "))
	case i.SQL == "" && len(i.Parameters) == 0:
		return e.fail("parameters", "the template needs its parameters")
	case i.SQL != "" && len(i.Parameters) > 0:
		return e.fail("parameters", "parameters belong to a template")
	}
	expanded, err := i.Expand()
	if err != nil {
		return e.fail("template", "%v", err)
	}
	if !selects.MatchString(expanded.SQL) {
		return e.fail("sql", "must be one SELECT")
	}
	if err := e.expectation(i.Expect); err != nil {
		return err
	}
	return e.timing(i.Interval, i.Timeout)
}

func (e entry) expectation(x check.Expectation) error {
	if x.EqualTo != "" && (x.Min != "" || x.Max != "") {
		return e.fail("expect", "equal_to excludes min and max")
	}
	if x.EqualTo != "" && !selects.MatchString(x.EqualTo) {
		return e.fail("expect", "equal_to must be one SELECT")
	}
	var bounds []*big.Rat
	for _, bound := range []string{x.Min, x.Max} {
		if bound == "" {
			continue
		}
		number, ok := new(big.Rat).SetString(bound)
		if !ok {
			return e.fail("expect", "%q is not a number", bound)
		}
		bounds = append(bounds, number)
	}
	if len(bounds) == 2 && bounds[0].Cmp(bounds[1]) > 0 {
		return e.fail("expect", "min must not be more than max")
	}
	return nil
}

func (e entry) timing(interval, timeout time.Duration) error {
	if interval < time.Duration(minInterval) {
		return e.fail("interval", "must be at least %s, not %s", minInterval, interval)
	}
	if timeout < time.Second || timeout > time.Hour {
		return e.fail("timeout", "must be between 1s and 1h, not %s", timeout)
	}
	return nil
}

// moving is a condition whose rows change as time goes by.
var moving = regexp.MustCompile(`(?i)\b(now|clock_timestamp|statement_timestamp|transaction_timestamp)\s*\(|\bcurrent_(date|time|timestamp)\b|\blocaltime`)

func (e entry) sealed(d check.Sealed) error {
	if !strings.Contains(d.Table, ".") {
		return e.fail("table", "must be SCHEMA.NAME, for example ledger.postings_2024 or ledger.postings_*")
	}
	if _, err := path.Match(d.Table, ""); err != nil {
		return e.fail("table", "%q is not a valid pattern", d.Table)
	}
	if moving.MatchString(d.Where) && d.Range == "" {
		return e.fail("where", "its rows become more as time goes by: give range, for example to_char(booked_on, 'YYYY-MM'), so that each range is sealed when it is first seen")
	}
	return e.timing(d.Interval, time.Second)
}
