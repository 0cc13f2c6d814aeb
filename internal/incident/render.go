package incident

import (
	"bytes"
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
)

// Markdown is the report as a text in the form of a post-mortem.
func (r Report) Markdown() string {
	var b strings.Builder
	title := "Incident report"
	if r.Target != "" {
		title += ": " + r.Target
	}
	fmt.Fprintf(&b, "# %s\n\nDraft made from records at %s, for %s to %s. It states facts with their sources; the cause and the decisions are for people to add. Times in tables are UTC; those without a date are of %s.\n",
		escape(title), utc(r.Generated), utc(r.From), utc(r.To), r.date())

	section(&b, "Summary")
	for _, line := range r.Summary {
		fmt.Fprintf(&b, "- %s\n", escape(line))
	}
	r.writeMilestones(&b)
	r.writeImpact(&b)
	r.writeObjects(&b)
	// Of a source that could not be read, nothing is known: that is not nothing.
	none := func(known bool, source, text string) string {
		if !known {
			return "Not known: " + source + " could not be read."
		}
		return text
	}
	events := func(text string) string { return none(r.Known.Events, "the exporter's event log", text) }
	r.writeEntries(&b, "Maintenance before and during the incident", events("None is recorded."), r.Maintenance)
	r.writeEntries(&b, "Timeline", "Nothing is recorded.", r.Timeline)
	r.writeEntries(&b, "What was muted", none(r.Known.Silences, "Alertmanager", "Nothing: no silence and no maintenance window is recorded."), r.Muted)
	r.writeEntries(&b, "What could not be seen", none(r.Known.Series, "Prometheus", "Nothing: every collector, the log reader and the checks worked, as far as recorded."), r.Blind)
	r.writeEntries(&b, "What people were told", events("No update is recorded."), r.Updates)
	r.writeAlerts(&b)
	writeList(&b, "Open questions", "None.", r.Questions)
	writeList(&b, "Follow-up", "None.", r.FollowUps)
	section(&b, "Sources")
	for _, s := range r.Sources {
		read := "read"
		if !s.Read {
			read = "**not read**"
		}
		fmt.Fprintf(&b, "- %s: %s, %s\n", escape(s.Name), read, escape(s.Detail))
	}
	return b.String()
}

func section(b *strings.Builder, title string) { fmt.Fprintf(b, "\n## %s\n\n", title) }

// escape keeps names from being taken for Markdown or HTML.
func escape(text string) string {
	return strings.NewReplacer(
		"\\", "\\\\", "`", "\\`", "*", "\\*", "_", "\\_", "[", "\\[", "]", "\\]", "<", "&lt;", ">", "&gt;", "|", "\\|", "\n", " ", "\r", " ", "#", "\\#",
	).Replace(text)
}

func (r Report) writeMilestones(b *strings.Builder) {
	section(b, "Milestones")
	m := r.Milestones
	b.WriteString("| milestone | time | after the first sign | what | source |\n| --- | --- | --- | --- | --- |\n")
	for _, row := range []struct {
		name   string
		moment *Moment
	}{
		{"first sign", m.Started}, {"detected", m.Detected}, {"acknowledged", m.Acknowledged},
		{"identified", m.Identified}, {"mitigated", m.Mitigated}, {"resolved", m.Resolved},
	} {
		if row.moment == nil {
			fmt.Fprintf(b, "| %s | not recorded | | | |\n", row.name)
			continue
		}
		after := ""
		if m.Started != nil && row.moment != m.Started {
			after = span(row.moment.Time.Sub(m.Started.Time))
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", row.name, r.at(row.moment.Time), after, escape(row.moment.What), escape(row.moment.Source))
	}
}

func (r Report) writeImpact(b *strings.Builder) {
	section(b, "Impact")
	i := r.Impact
	if !r.Known.Series {
		b.WriteString("Not known: Prometheus could not be read.\n")
		return
	}
	fmt.Fprintf(b, "Counted from %s to %s (%s). Source: Prometheus, pgintegrity\\_transactions\\_total, pgintegrity\\_errors\\_total, pgintegrity\\_up.\n\n",
		utc(i.Started), utc(i.Ended), span(i.Ended.Sub(i.Started)))
	fmt.Fprintf(b, "- The server could not be used for %s.\n", span(time.Duration(i.DownSeconds*float64(time.Second))))
	fmt.Fprintf(b, "- The server's log told of corruption %s times.\n", count(i.CorruptionMessages))
	if len(i.Databases) == 0 {
		b.WriteString("- No failed transaction is recorded.\n")
	} else {
		b.WriteString("\n| database | transactions | failed | share | share before | highest share | at |\n| --- | --- | --- | --- | --- | --- | --- |\n")
		for _, d := range i.Databases {
			before, at := "not known", ""
			if d.Before != nil {
				before = percent(*d.Before)
			}
			if !d.PeakTime.IsZero() {
				at = r.at(d.PeakTime)
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s |\n", escape(d.Database), count(d.Transactions), count(d.Failed), percent(d.Ratio), before, percent(d.Peak), at)
		}
	}
	if len(i.Errors) > 0 {
		b.WriteString("\n| database | SQLSTATE | condition | errors |\n| --- | --- | --- | --- |\n")
		for _, e := range i.Errors {
			fmt.Fprintf(b, "| %s | %s | %s | %s |\n", escape(e.Database), escape(e.SQLState), escape(e.Condition), count(e.Count))
		}
	}
}

// maxObjects is how many objects the text lists; the JSON has all.
const maxObjects = 50

func (r Report) writeObjects(b *strings.Builder) {
	section(b, "What was found wrong")
	if len(r.Objects) == 0 {
		b.WriteString("Nothing is recorded.\n")
		return
	}
	b.WriteString("| object | severity | evidence | found | last known good | well again | source |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, o := range r.Objects[:min(len(r.Objects), maxObjects)] {
		good, cleared := "not known", "not yet"
		if o.LastGood != nil {
			good = r.at(*o.LastGood)
		}
		if o.Cleared != nil {
			cleared = r.at(*o.Cleared)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s |\n", escape(o.Name()), o.Severity, escape(o.Message), r.at(o.Found), good, cleared, escape(o.Source))
	}
	if more := len(r.Objects) - maxObjects; more > 0 {
		fmt.Fprintf(b, "\n%d more are in the JSON form of this report.\n", more)
	}
}

func (r Report) writeAlerts(b *strings.Builder) {
	section(b, "Alerts")
	switch {
	case !r.Known.Series:
		b.WriteString("Not known: Prometheus could not be read.\n")
		return
	case len(r.Alerts) == 0:
		b.WriteString("None fired.\n")
		return
	}
	b.WriteString("| alert | condition since | fired | ended |\n| --- | --- | --- | --- |\n")
	for _, a := range r.Alerts {
		ended := "still firing"
		if a.Ended != nil {
			ended = r.at(*a.Ended)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", escape(a.String()), r.at(a.Pending), r.at(a.Fired), ended)
	}
}

func (r Report) writeEntries(b *strings.Builder, title, none string, list []Entry) {
	section(b, title)
	if len(list) == 0 {
		fmt.Fprintf(b, "%s\n", none)
		return
	}
	b.WriteString("| time | what | source |\n| --- | --- | --- |\n")
	for _, e := range list {
		when := r.at(e.Time)
		if e.Ended != nil {
			when += " to " + r.at(*e.Ended)
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", when, escape(e.What), escape(e.Source))
	}
}

func writeList(b *strings.Builder, title, none string, list []string) {
	section(b, title)
	if len(list) == 0 {
		fmt.Fprintf(b, "%s\n", none)
	}
	for _, line := range list {
		fmt.Fprintf(b, "- [ ] %s\n", escape(line))
	}
}

var page = template.Must(template.New("report").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Incident report</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; font-size: .9em; }
td, th { border: 1px solid #8888; padding: .25rem .5rem; text-align: left; vertical-align: top; }
ul:has(input) { list-style: none; padding-left: 0; }
@media print { body { max-width: none; } }
</style>
</head>
<body>
{{.}}
</body>
</html>
`))

// HTML is the report as a page without anything from elsewhere.
func (r Report) HTML() (string, error) {
	var body, out bytes.Buffer
	markdown := goldmark.New(goldmark.WithExtensions(extension.Table, extension.TaskList))
	if err := markdown.Convert([]byte(r.Markdown()), &body); err != nil {
		return "", fmt.Errorf("writing the report: %w", err)
	}
	if err := page.Execute(&out, template.HTML(body.String())); err != nil { //nolint:gosec // goldmark leaves out raw HTML, and escape() has none
		return "", fmt.Errorf("writing the report: %w", err)
	}
	return out.String(), nil
}
