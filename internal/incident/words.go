package incident

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/state"
)

// utc is a moment as the report writes it.
func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// at is a moment in a table of the report: the date only where it is another one
// than that of the report.
func (r Report) at(t time.Time) string {
	if t.UTC().Format(time.DateOnly) == r.date() {
		return t.UTC().Format(time.TimeOnly)
	}
	return t.UTC().Format(time.DateTime)
}

// date is the day of the first sign, or that on which the report begins.
func (r Report) date() string {
	if r.Milestones.Started != nil {
		return r.Milestones.Started.Time.UTC().Format(time.DateOnly)
	}
	return r.From.UTC().Format(time.DateOnly)
}

// count is a number with its thousands apart.
func count(n float64) string {
	text := fmt.Sprintf("%.0f", n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// span is a duration in the two largest units that matter.
func span(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < 0:
		return "-" + span(-d)
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d d %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

func percent(ratio float64) string { return fmt.Sprintf("%.1f %%", 100*ratio) }

// summary is what a reader needs who reads nothing else.
func summary(r Report) []string {
	m := r.Milestones
	if m.Started == nil && !r.Known.Series {
		return []string{"Nothing is recorded by the exporter, and what Prometheus knows could not be read."}
	}
	if m.Started == nil {
		return []string{fmt.Sprintf("Between %s and %s no critical or warning alert fired, and nothing was found wrong.", utc(r.From), utc(r.To))}
	}
	var lines []string
	first := fmt.Sprintf("The first sign was at %s: %s.", utc(m.Started.Time), m.Started.What)
	if m.Resolved != nil {
		first += fmt.Sprintf(" It was over at %s, after %s.", utc(m.Resolved.Time), span(m.Resolved.Time.Sub(m.Started.Time)))
	} else {
		first += fmt.Sprintf(" It was not over at %s, the end of this report.", utc(r.To))
	}
	lines = append(lines, first)
	if damaged := names(r.Objects, "critical"); len(damaged) > 0 {
		lines = append(lines, fmt.Sprintf("Found wrong: %s.", list(damaged, 5)))
	}
	for _, d := range r.Impact.Databases[:min(len(r.Impact.Databases), 3)] {
		lines = append(lines, fmt.Sprintf("In database %s, %s of %s transactions failed (%s, at most %s).", d.Database, count(d.Failed), count(d.Transactions), percent(d.Ratio), percent(d.Peak)))
	}
	if r.Impact.DownSeconds > 0 {
		lines = append(lines, fmt.Sprintf("The server could not be used for %s.", span(time.Duration(r.Impact.DownSeconds*float64(time.Second)))))
	}
	if m.Detected != nil {
		lines = append(lines, fmt.Sprintf("An alert fired %s after the first sign.", span(m.Detected.Time.Sub(m.Started.Time))))
	}
	return lines
}

// names are the objects of a severity, each once.
func names(objects []Object, severity string) []string {
	var found []string
	for _, o := range objects {
		if o.Severity == severity && !slices.Contains(found, o.Name()) {
			found = append(found, o.Name())
		}
	}
	return found
}

// list names the first of many.
func list(all []string, most int) string {
	if len(all) > most {
		return strings.Join(all[:most], ", ") + fmt.Sprintf(" and %d more", len(all)-most)
	}
	return strings.Join(all, ", ")
}

// questions are what people must answer: the record does not.
func questions(r Report) []string {
	m := r.Milestones
	open := []string{}
	for _, s := range r.Sources {
		if !s.Read {
			open = append(open, fmt.Sprintf("What does %s know? It could not be read: %s.", s.Name, s.Detail))
		}
	}
	if m.Started == nil {
		return open
	}
	open = append(open, "What was the cause? The record has the order of events, not their connection.")
	for _, e := range r.Maintenance {
		ended := e.Time
		if e.Ended != nil {
			ended = *e.Ended
		}
		if e.Time.Before(m.Started.Time) {
			when := span(m.Started.Time.Sub(ended)) + " before the first sign"
			if ended.After(m.Started.Time) {
				when = "and was still going on at the first sign"
			}
			open = append(open, fmt.Sprintf("Is there a connection with: %s (%s, %s)?", strings.TrimSuffix(e.What, "."), utc(e.Time), when))
		}
	}
	if m.Acknowledged == nil {
		open = append(open, "Who took it on, and when? No acknowledgement, update or silence is recorded.")
	}
	if m.Mitigated == nil {
		open = append(open, "When was the harm stopped, and how? No update of phase monitoring is recorded.")
	}
	if m.Resolved == nil {
		over := "Is it over? Nothing recorded says so."
		if slices.ContainsFunc(grave(r.Alerts), func(a FiredAlert) bool { return a.Ended == nil }) {
			over = "Is it over? Alerts still fired at the end of this report."
		}
		open = append(open, over)
	}
	for _, o := range r.Objects {
		if o.Severity == "critical" && o.LastGood == nil {
			open = append(open, fmt.Sprintf("Since when is %s wrong? No earlier successful check of it is recorded.", o.Name()))
		}
	}
	if len(r.Objects) > 0 {
		open = append(open, "What was read, reported or paid from wrong data, and must be corrected elsewhere?")
	}
	return slices.Compact(open)
}

// followUps are what the facts ask for.
func followUps(e *Evidence, r Report) []string {
	todo := []string{}
	for _, o := range r.Objects {
		if o.Cleared == nil && o.Severity == "critical" {
			todo = append(todo, fmt.Sprintf("Repair or restore %s, then run: pg_integrity_exporter check --deep%s", o.Name(), scopeFlags(o)))
		}
	}
	if len(r.Objects) > 0 {
		todo = append(todo, "Run pg_integrity_exporter check --deep over everything: one cause seldom damages one object only.")
	}
	unguarded := slices.ContainsFunc(e.events(r.From.Add(-EventsBefore), r.To, state.EventMaintenance), func(event state.Event) bool { return event.Details["guard"] == "" })
	if unguarded && r.Milestones.Started != nil {
		todo = append(todo, "Run this maintenance under pg_integrity_exporter guard from now on: checks before and after it, and a way back.")
	}
	if len(e.events(r.From.Add(-EventsBefore), r.To, state.EventDrill)) == 0 && len(r.Objects) > 0 {
		todo = append(todo, "Prove that the backups can be restored: pg_integrity_exporter drill. No drill is recorded here.")
	}
	for _, b := range r.Blind {
		if b.Source == sourceUp {
			continue // the server was away: that is the incident, or its repair
		}
		todo = append(todo, "Remove a blind spot: "+b.What+".")
	}
	if m := r.Milestones; m.Detected != nil && m.Detected.Time.Sub(m.Started.Time) > 5*time.Minute {
		todo = append(todo, fmt.Sprintf("Find it earlier: %s passed between the first sign and the first alert.", span(m.Detected.Time.Sub(m.Started.Time))))
	}
	if len(r.Updates) == 0 && r.Milestones.Started != nil {
		todo = append(todo, "Tell stakeholders with pg_integrity_exporter incident update next time: no update is recorded.")
	}
	seen := make(map[string]bool)
	return slices.DeleteFunc(todo, func(line string) bool {
		again := seen[line]
		seen[line] = true
		return again
	})
}

// scopeFlags limit a check to an object.
func scopeFlags(o Object) string {
	flags := ""
	if o.Database != "" {
		flags += " --database=" + o.Database
	}
	if o.Relation != "" {
		flags += " --relation=" + o.Schema + "." + o.Relation
	}
	return flags
}
