package check

import "time"

// Rules are what the configuration says of the data itself.
type Rules struct {
	// Parts is how many runs a table of more than LargeTable bytes is looked at
	// in; 0 is 7.
	Parts int
	// LargeTable is the size from which a table is looked at in parts; 0 is 1
	// GiB.
	LargeTable int64
	// MaskKeys keeps the values of keys out of findings.
	MaskKeys bool
	// Invariants are the user's own rules.
	Invariants []Invariant
	// Sealed is the data that must not change.
	Sealed []Sealed
	// MaterializedViews are those that must agree with their query.
	MaterializedViews []MaterializedView
}

func (r Rules) largeTable() int64 {
	if r.LargeTable == 0 {
		return largeTable
	}
	return r.LargeTable
}

// Invariant is a rule of the user about the data, as SQL.
type Invariant struct {
	// Name is what findings call it.
	Name string `yaml:"name"`
	// Databases are the databases it holds in; patterns as in a shell.
	Databases []string `yaml:"databases"`
	// SQL is one SELECT. Template and Parameters make it instead.
	SQL        string            `yaml:"sql,omitempty"`
	Template   string            `yaml:"template,omitempty"`
	Parameters map[string]string `yaml:"parameters,omitempty"`
	// Expect is what the SQL must return.
	Expect Expectation `yaml:"expect"`
	// Severity of a finding.
	Severity Severity `yaml:"severity"`
	// Interval is the time from one evaluation to the next.
	Interval time.Duration `yaml:"interval"`
	// Timeout is the statement_timeout of each of its statements.
	Timeout time.Duration `yaml:"timeout"`
	// MaskKeys keeps values of rows out of findings.
	MaskKeys bool `yaml:"mask_keys"`
	// Message says what is wrong when it does not hold; Impact and Action what
	// that means and what to do. All have defaults.
	Message string `yaml:"message,omitempty"`
	Impact  string `yaml:"impact,omitempty"`
	Action  string `yaml:"action,omitempty"`
}

// Expectation is what an invariant's SQL must return: no rows, or one number
// that is within bounds or equal to that of another SELECT.
type Expectation struct {
	// NoRows asks for no rows; it is the default.
	NoRows bool `yaml:"no_rows,omitempty"`
	// Min and Max bound the number, both included; empty is no bound.
	Min string `yaml:"min,omitempty"`
	Max string `yaml:"max,omitempty"`
	// EqualTo is a SELECT whose one value must be the same.
	EqualTo string `yaml:"equal_to,omitempty"`
}

// Sealed is data that must not change.
type Sealed struct {
	// Name is what findings call it.
	Name string `yaml:"name"`
	// Databases are the databases it is in; patterns as in a shell.
	Databases []string `yaml:"databases"`
	// Table is SCHEMA.NAME of a table or partition; the name may be a pattern.
	Table string `yaml:"table"`
	// Where is an SQL condition on its rows; empty is all of them.
	Where string `yaml:"where,omitempty"`
	// Range is an SQL expression by which the rows are sealed one range after
	// the other, for example to_char(booked_on, 'YYYY-MM'); in the order of its
	// text, a new range behind all others is sealed when it is first seen.
	Range string `yaml:"range,omitempty"`
	// Severity of a finding.
	Severity Severity `yaml:"severity"`
	// Interval is the time from one look to the next.
	Interval time.Duration `yaml:"interval"`
	// MaskKeys keeps values of keys out of findings.
	MaskKeys bool `yaml:"mask_keys"`
}

// MaterializedView must agree with its query.
type MaterializedView struct {
	// View is SCHEMA.NAME.
	View string `yaml:"view"`
	// Databases are the databases it is in; patterns as in a shell.
	Databases []string `yaml:"databases"`
	// Severity of a finding.
	Severity Severity `yaml:"severity"`
}
