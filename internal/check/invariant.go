package check

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// invariantCheck evaluates the user's own rules: SELECTs that must return no
// rows, or one number within bounds, or the same as another SELECT.
func invariantCheck() Check {
	return Check{
		Name:       "invariant",
		Question:   "Do the configured rules about the data hold?",
		Kinds:      []Kind{{ClassDataRule, SeverityCritical}, {ClassDataRule, SeverityWarning}, {ClassDataRule, SeverityInfo}},
		Interval:   5 * time.Minute,
		Needs:      "SELECT on what the rules read; BYPASSRLS where row security applies",
		Locks:      "ACCESS SHARE on what the rules read",
		Afterwards: true,
		idle: func(scope Scope, database string) string {
			switch {
			case len(scope.Relations) > 0:
				return "rules are about the whole database, not about one relation"
			case !slices.ContainsFunc(scope.Rules.Invariants, func(i Invariant) bool { return matchesAny(i.Databases, database) }):
				return "no rule is configured for this database (invariants: in the configuration file)"
			}
			return ""
		},
		Standby: true,
		run:     runInvariant,
	}
}

func runInvariant(ctx context.Context, s *session) error {
	book := s.rulebook(ctx)
	for _, i := range s.scope.Rules.Invariants {
		if !matchesAny(i.Databases, s.database) {
			continue
		}
		if err := book.run(ctx, i.Name, i.Interval, func() error { return s.invariant(ctx, i) }); err != nil {
			return err
		}
	}
	return book.close(ctx)
}

// shownRows and countedRows bound what an invariant brings back: the rows that
// a finding shows, and how far they are counted.
const (
	shownRows   = 5
	countedRows = 1000
	shownText   = 300
)

// invariant evaluates one rule. Everything it reads is of one snapshot.
func (s *session) invariant(ctx context.Context, i Invariant) error {
	expanded, err := i.Expand()
	if err != nil {
		return err
	}
	tx, err := s.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Commit(ctx) }() // it wrote nothing; a rollback would count as a failure of the user's
	// pg_catalog comes first, so that nobody's function stands for one of the server's.
	settings := fmt.Sprintf("SET LOCAL statement_timeout = %d; SET LOCAL row_security = off; SET LOCAL search_path = pg_catalog, public; SET LOCAL cursor_tuple_fraction = 1",
		i.Timeout.Milliseconds())
	if err := s.set(ctx, settings); err != nil {
		return err
	}
	result, err := s.fetch(ctx, expanded.SQL)
	if err != nil {
		return located(err, expanded.SQL, "sql")
	}
	wrong, err := s.judgeInvariant(ctx, expanded, result)
	if err != nil || wrong == "" {
		return err
	}
	s.foundInvariant(expanded, wrong)
	return nil
}

// answer is what a SELECT returned, the first rows as text.
type answer struct {
	columns []string
	rows    [][]*string
	count   int
}

// fetchPrefix comes before the user's SELECT.
const fetchPrefix = "DECLARE rule NO SCROLL CURSOR FOR "

// fetch reads the first rows of a SELECT, and counts more of them. A cursor
// keeps the server from sending all of a large answer, and takes one SELECT
// only.
func (s *session) fetch(ctx context.Context, sql string) (answer, error) {
	// The extended protocol takes one statement only.
	declared := s.conn.PgConn().ExecParams(ctx, fetchPrefix+strings.TrimRight(strings.TrimSpace(sql), "; \n"), nil, nil, nil, nil).Read()
	if declared.Err != nil {
		return answer{}, declared.Err
	}
	results, err := s.conn.PgConn().Exec(ctx, fmt.Sprintf("FETCH %d FROM rule; CLOSE rule", countedRows)).ReadAll()
	if err != nil {
		return answer{}, err
	}
	var a answer
	for _, field := range results[0].FieldDescriptions {
		a.columns = append(a.columns, field.Name)
	}
	a.count = len(results[0].Rows)
	for _, values := range results[0].Rows[:min(shownRows, a.count)] {
		row := make([]*string, len(values))
		for n, value := range values {
			if value != nil {
				text := string(value)
				row[n] = &text
			}
		}
		a.rows = append(a.rows, row)
	}
	return a, nil
}

// judgeInvariant says what is wrong with an answer; empty is nothing.
func (s *session) judgeInvariant(ctx context.Context, i Invariant, a answer) (string, error) {
	e := i.Expect
	if e.Min == "" && e.Max == "" && e.EqualTo == "" {
		if a.count == 0 {
			return "", nil
		}
		return a.describe(i.MaskKeys), nil
	}
	value, err := a.single()
	if err != nil {
		return "", err
	}
	if e.EqualTo != "" {
		other, err := s.fetch(ctx, e.EqualTo)
		if err != nil {
			return "", located(err, e.EqualTo, "equal_to")
		}
		wanted, err := other.single()
		if err != nil {
			return "", fmt.Errorf("equal_to: %w", err)
		}
		if equalValues(value, wanted) {
			return "", nil
		}
		return "it is " + value + " and must be " + wanted, nil
	}
	number, ok := new(big.Rat).SetString(value)
	if !ok {
		return "", fmt.Errorf("the SELECT returned %q, which is no number", value)
	}
	if low, ok := new(big.Rat).SetString(e.Min); ok && number.Cmp(low) < 0 {
		return "it is " + value + " and must be at least " + e.Min, nil
	}
	if high, ok := new(big.Rat).SetString(e.Max); ok && number.Cmp(high) > 0 {
		return "it is " + value + " and must be at most " + e.Max, nil
	}
	return "", nil
}

// single is the one value that the answer must be.
func (a answer) single() (string, error) {
	if a.count != 1 || len(a.columns) != 1 {
		return "", fmt.Errorf("the SELECT must return one row with one column, not %d rows with %d columns", a.count, len(a.columns))
	}
	if a.rows[0][0] == nil {
		return "", errors.New("the SELECT returned NULL; an aggregate of no rows is NULL: use coalesce(..., 0)")
	}
	return *a.rows[0][0], nil
}

// equalValues compares numbers as numbers, everything else as text.
func equalValues(a, b string) bool {
	x, isNumber := new(big.Rat).SetString(a)
	y, also := new(big.Rat).SetString(b)
	if isNumber && also {
		return x.Cmp(y) == 0
	}
	return a == b
}

// describe tells of the rows of an answer, the first few in full.
func (a answer) describe(mask bool) string {
	number := fmt.Sprintf("%d rows", a.count)
	switch {
	case a.count == 1:
		number = "1 row"
	case a.count >= countedRows:
		number = fmt.Sprintf("at least %d rows", a.count)
	}
	if mask {
		return number + " (their values are masked)"
	}
	var shown []string
	for _, row := range a.rows {
		var values []string
		for n, value := range row {
			text := "null"
			if value != nil {
				text = *value
			}
			values = append(values, a.columns[n]+"="+text)
		}
		text := strings.Join(values, ", ")
		if runes := []rune(text); len(runes) > shownText {
			text = string(runes[:shownText]) + "..."
		}
		shown = append(shown, "("+text+")")
	}
	if a.count > len(a.rows) {
		shown = append(shown, "...")
	}
	return number + ": " + strings.Join(shown, "; ")
}

func (s *session) foundInvariant(i Invariant, wrong string) {
	f := Finding{
		Class: ClassDataRule, Severity: i.Severity,
		Message: fmt.Sprintf("invariant %q does not hold: %s%s", i.Name, prefixed(i.Message, ": "), wrong),
		Impact:  i.Impact, Action: i.Action,
	}
	if f.Impact == "" {
		f.Impact = "Data is not as the business says it must be; reports and decisions based on it are wrong."
	}
	if f.Action == "" {
		f.Action = "Look at the rows named here and at what wrote them last, before anything corrects or overwrites them; compare with a backup or standby if no program of yours can have done it."
	}
	s.found(f, "invariant "+i.Name)
}

// prefixed is a text with something behind it, or nothing.
func prefixed(text, behind string) string {
	if text == "" {
		return ""
	}
	return strings.TrimRight(text, ". ") + behind
}

// located adds to an error of the server where in the user's SQL it is.
func located(err error, sql, key string) error {
	var pgError *pgconn.PgError
	if !errors.As(err, &pgError) || int(pgError.Position) <= len(fetchPrefix) {
		return err
	}
	before := []rune(strings.TrimSpace(sql))
	before = before[:min(len(before), int(pgError.Position)-len(fetchPrefix)-1)]
	line, column := 1, 1
	for _, r := range before {
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
	}
	return &placeError{place: fmt.Sprintf("at line %d, column %d of %s", line, column, key), err: err}
}

// placeError is an error of the server with the place that it is about.
type placeError struct {
	place string
	err   error
}

func (e *placeError) Error() string { return e.err.Error() + " " + e.place }
func (e *placeError) Unwrap() error { return e.err }

// NoMatch names the rules of a check whose databases do not exist: they would
// never be evaluated.
func (r Rules) NoMatch(check string, databases []string) []string {
	var names []string
	add := func(kind, name string, patterns []string) {
		if !slices.ContainsFunc(databases, func(database string) bool { return matchesAny(patterns, database) }) {
			names = append(names, fmt.Sprintf("%s %q (databases: %s)", kind, name, strings.Join(patterns, ", ")))
		}
	}
	switch check {
	case "invariant":
		for _, i := range r.Invariants {
			add("invariant", i.Name, i.Databases)
		}
	case "sealed":
		for _, d := range r.Sealed {
			add("sealed data", d.Name, d.Databases)
		}
	case "matview":
		for _, m := range r.MaterializedViews {
			add("materialized view", m.View, m.Databases)
		}
	}
	return names
}
