package web

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/state"
)

const (
	// shownDatabases, shownChecks and shownRelations bound the page; the same as
	// data has all.
	shownDatabases = 100
	shownChecks    = 60
	shownRelations = 200
	// shownProblemGroups is how many different reasons the page shows, and
	// namedDatabases how many databases of each.
	shownProblemGroups = 30
	namedDatabases     = 3
)

// matrix is the coverage map: one row for each database, one column for each
// check.
type matrix struct {
	Checks []string
	Rows   []matrixRow
	// More counts the databases that are left out; all is well in those before
	// others.
	More int
}

type matrixRow struct {
	Database string
	Cells    []*CheckView
}

// trouble ranks how a check fares, the worst first.
func (c *CheckView) trouble() int {
	switch {
	case c.Outcome == string(check.OutcomeFindings):
		return 0
	case c.Outcome == string(check.OutcomeFailed):
		return 1
	case c.Overdue:
		return 2
	case c.Outcome == outcomeNever:
		return 3
	case c.Outcome == string(check.OutcomeSkipped):
		return 4
	}
	return well
}

// well is the rank of a check that has passed.
const well = 5

func (r matrixRow) trouble() int {
	worst := well
	for _, c := range r.Cells {
		if c != nil {
			worst = min(worst, c.trouble())
		}
	}
	return worst
}

// coverageMap is the map of all databases, or of the one that is chosen.
func coverageMap(checks []CheckView, chosen string) matrix {
	var m matrix
	of := make(map[string]map[string]*CheckView)
	for n := range checks {
		c := &checks[n]
		if c.Database == "" || chosen != "" && c.Database != chosen {
			continue
		}
		if !slices.Contains(m.Checks, c.Check) {
			m.Checks = append(m.Checks, c.Check)
		}
		if of[c.Database] == nil {
			of[c.Database] = make(map[string]*CheckView)
			m.Rows = append(m.Rows, matrixRow{Database: c.Database})
		}
		of[c.Database][c.Check] = c
	}
	for n, row := range m.Rows {
		for _, name := range m.Checks {
			m.Rows[n].Cells = append(m.Rows[n].Cells, of[row.Database][name])
		}
	}
	if m.More = len(m.Rows) - shownDatabases; m.More > 0 {
		slices.SortStableFunc(m.Rows, func(a, b matrixRow) int { return cmp.Compare(a.trouble(), b.trouble()) })
		m.Rows = m.Rows[:shownDatabases]
	}
	return m
}

// chosenChecks are the checks that the page tells the history of: those of the
// chosen database, or those in trouble before others.
func chosenChecks(checks []CheckView, chosen string) (shown []CheckView, more int) {
	for _, c := range checks {
		if chosen == "" || c.Database == chosen {
			shown = append(shown, c)
		}
	}
	if more = len(shown) - shownChecks; more <= 0 {
		return shown, 0
	}
	slices.SortStableFunc(shown, func(a, b CheckView) int { return cmp.Compare(a.trouble(), b.trouble()) })
	return shown[:shownChecks], more
}

// RelationView says when the checks last looked at a relation completely.
type RelationView struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	// Damaged says that a finding is open.
	Damaged bool `json:"damaged,omitempty"`
	// Seen is when each check has last looked at it.
	Seen []SeenView `json:"seen"`
}

// SeenView is one check that has looked at a relation.
type SeenView struct {
	Check string    `json:"check"`
	When  time.Time `json:"when"`
}

// Label is the relation's name for people.
func (r RelationView) Label() string {
	return visible(check.RelationName{Schema: r.Schema, Name: r.Name}.String())
}

// lookAtRelations lists what is known of the relations of a database: those with
// findings first, then those that were longest not looked at, the system's own
// last.
func lookAtRelations(files *state.Files, database string, findings []FindingView) ([]RelationView, error) {
	seen, err := state.RelationsSeen(files, database)
	if err != nil {
		return nil, err
	}
	open := make(map[check.RelationName]bool)
	for _, f := range findings {
		if f.Database == database && f.Relation != "" {
			name := check.RelationName{Schema: f.Schema, Name: f.Relation}
			open[name] = true
			if seen[name] == nil {
				seen[name] = map[string]time.Time{} // no check has looked at all of it
			}
		}
	}
	views := make([]RelationView, 0, len(seen))
	for name, times := range seen {
		view := RelationView{Schema: name.Schema, Name: name.Name, Damaged: open[name], Seen: []SeenView{}}
		for checkName, when := range times {
			view.Seen = append(view.Seen, SeenView{checkName, when.UTC()})
		}
		slices.SortFunc(view.Seen, func(a, b SeenView) int {
			return cmp.Or(b.When.Compare(a.When), strings.Compare(a.Check, b.Check))
		})
		views = append(views, view)
	}
	slices.SortFunc(views, func(a, b RelationView) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), a.newest().Compare(b.newest()), strings.Compare(a.Schema, b.Schema), strings.Compare(a.Name, b.Name))
	})
	return views, nil
}

// rank puts what is damaged first and what belongs to the system last.
func (r RelationView) rank() int {
	switch {
	case r.Damaged:
		return 0
	case strings.HasPrefix(r.Schema, "pg_"), r.Schema == "information_schema":
		return 2
	}
	return 1
}

// newest is when a check has last looked at the relation.
func (r RelationView) newest() time.Time {
	if len(r.Seen) == 0 {
		return time.Time{}
	}
	return r.Seen[0].When
}

// problemGroup is one reason for which checks could not look, wherever it holds.
type problemGroup struct {
	Checks []string
	// Where names the databases.
	Where  string
	Reason string
}

// problemGroups puts together what differs only in the check and in the
// database.
func problemGroups(problems []ProblemView) (groups []problemGroup, more int) {
	type gathered struct {
		reason            string
		checks, databases []string
	}
	var order []*gathered
	of := make(map[string]*gathered)
	for _, p := range problems {
		key := p.Reason
		if p.Database != "" {
			key = strings.ReplaceAll(key, "database "+quoted(p.Database), "database")
		}
		g := of[key]
		if g == nil {
			g = &gathered{reason: p.Reason}
			of[key], order = g, append(order, g)
		}
		g.checks, g.databases = once(g.checks, p.Check), once(g.databases, orServer(p.Database))
	}
	for _, g := range order[:min(len(order), shownProblemGroups)] {
		where := strings.Join(g.databases[:min(len(g.databases), namedDatabases)], ", ")
		if more := len(g.databases) - namedDatabases; more > 0 {
			where += " and " + count(more, "more database")
		}
		groups = append(groups, problemGroup{g.checks, visible(where), visible(g.reason)})
	}
	return groups, max(len(order)-shownProblemGroups, 0)
}

// quoted is a name as SQL quotes it.
func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// coverageWord is what a cell of the coverage map says.
func coverageWord(c *CheckView) string {
	word := c.Outcome
	if word == outcomeNever {
		word = "not yet"
	}
	if c.Overdue {
		word += ", overdue"
	}
	if c.Outcome == string(check.OutcomeOK) && c.Coverage > 0 && c.Coverage < 1 {
		word += fmt.Sprintf(", %.0f %% of the bytes", c.Coverage*100)
	}
	return word
}
