package incident

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Audience is who reads an update.
type Audience string

// The audiences of updates.
const (
	OnCall       Audience = "on-call"
	DBA          Audience = "dba"
	Application  Audience = "application"
	Stakeholders Audience = "stakeholders"
)

// Audiences lists them.
func Audiences() []Audience { return []Audience{OnCall, DBA, Application, Stakeholders} }

// people are who belongs to an audience.
func (a Audience) people() string {
	switch a {
	case OnCall:
		return "whoever is on call"
	case DBA:
		return "database administrators"
	case Application:
		return "owners of the application"
	case Stakeholders:
	}
	return string(a)
}

// Text is the last update of the incident for one audience, in plain language.
// Stakeholders read no names of tables; nobody reads a cause that was not
// written by a person.
func (i Incident) Text(audience Audience) string {
	if len(i.Updates) == 0 {
		return ""
	}
	return i.text(audience, i.Updates[len(i.Updates)-1], i.NextUpdate)
}

func (i Incident) text(audience Audience, update Update, next time.Time) string {
	sentences := []string{i.opening(audience, update)}
	switch audience {
	case OnCall, DBA:
		sentences = append(sentences, technical(update)...)
	case Application:
		sentences = append(sentences, forApplications(update)...)
	case Stakeholders:
		sentences = append(sentences, forStakeholders(update)...)
	}
	if update.Message != "" {
		sentences = append(sentences, strings.TrimSuffix(update.Message, ".")+".")
	}
	if update.Phase != Resolved && !next.IsZero() {
		sentences = append(sentences, "Next update by "+next.UTC().Format("15:04 UTC")+".")
	}
	return strings.Join(sentences, " ")
}

// opening says what the phase is.
func (i Incident) opening(audience Audience, update Update) string {
	subject := "the database"
	if len(i.Affected) > 0 {
		subject = list(i.Affected, 5)
	}
	since := i.Opened
	if audience != Stakeholders && !update.Facts.Since.IsZero() && update.Facts.Since.Before(since) {
		since = update.Facts.Since
	}
	at := since.UTC().Format("15:04 UTC")
	if since.UTC().Format(time.DateOnly) != update.Time.UTC().Format(time.DateOnly) {
		at = since.UTC().Format("2006-01-02 15:04 UTC")
	}
	switch update.Phase {
	case Investigating:
		return fmt.Sprintf("Since %s there has been a problem with %s. We are looking for its cause.", at, subject)
	case Identified:
		return fmt.Sprintf("We know what has been wrong with %s since %s, and are working on it.", subject, at)
	case Monitoring:
		return fmt.Sprintf("The problem with %s that began at %s has been put right. We are watching whether it stays so.", subject, at)
	case Resolved:
		return fmt.Sprintf("The problem with %s is over; it lasted %s.", subject, span(update.Time.Sub(since)))
	}
	return ""
}

// technical is for those who work on it.
func technical(update Update) []string {
	f := update.Facts
	var sentences []string
	switch {
	case len(f.Objects) > 0:
		sentences = append(sentences, fmt.Sprintf("Open critical findings: %s.", list(f.Objects, 10)))
		if f.LastGood.IsZero() {
			sentences = append(sentences, "No earlier successful check of all of them is known.")
		} else {
			sentences = append(sentences, "Last known good: "+utc(f.LastGood)+".")
		}
	case update.Phase == Resolved || update.Phase == Monitoring:
		sentences = append(sentences, "No critical finding is open.")
	default:
		sentences = append(sentences, "The exporter has no critical finding.")
	}
	if f.Down {
		sentences = append(sentences, "The server does not answer.")
	}
	if update.Phase == Investigating || update.Phase == Identified {
		if len(f.Objects) > 0 {
			sentences = append(sentences, "No VACUUM, REINDEX or restart; keep backups and WAL from expiring.")
		}
	}
	return sentences
}

// forApplications is for the owners of what uses the database.
func forApplications(update Update) []string {
	f := update.Facts
	var sentences []string
	if f.Down {
		sentences = append(sentences, "The server does not answer: every connection fails.")
	}
	if len(f.Objects) == 0 {
		switch update.Phase {
		case Investigating, Identified, Monitoring:
			sentences = append(sentences, "Please tell us about every error that you see.")
		case Resolved:
			sentences = append(sentences, "You may write again; repeat what failed meanwhile.")
		}
		return sentences
	}
	sentences = append(sentences, fmt.Sprintf("Damaged: %s.", list(f.Objects, 10)))
	switch update.Phase {
	case Investigating, Identified:
		sentences = append(sentences, "Please stop jobs that write there, and do not repeat failed transactions yet.")
	case Monitoring:
		sentences = append(sentences, "Please tell us about every error that you still see.")
	case Resolved:
		sentences = append(sentences, "These findings are still open although the incident was declared over.")
	}
	return sentences
}

// forStakeholders is for those who depend on it and cannot do anything.
func forStakeholders(update Update) []string {
	switch update.Phase {
	case Investigating, Identified:
		sentences := []string{"Some work may fail or show wrong data; please check important results before you use them."}
		if update.Facts.Down {
			sentences = []string{"Nothing that needs it works at the moment."}
		}
		return append(sentences, "You need not do anything else.")
	case Monitoring:
		return []string{"You can work again; please tell us if anything looks wrong."}
	case Resolved:
		return []string{"You can work as usual. A report with what happened and what we change will follow."}
	}
	return nil
}

// Markdown is the last update for every audience.
func (i Incident) Markdown() string {
	if len(i.Updates) == 0 {
		return ""
	}
	last := i.Updates[len(i.Updates)-1]
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s, %s\n", escape(i.Title), last.Phase, utc(last.Time))
	var together []string // audiences that are told the same
	for n, audience := range Audiences() {
		together = append(together, audience.people())
		text := i.Text(audience)
		if n+1 < len(Audiences()) && i.Text(Audiences()[n+1]) == text {
			continue
		}
		fmt.Fprintf(&b, "\n## For %s\n\n%s\n", strings.Join(together, " and "), escape(text))
		together = nil
	}
	return b.String()
}

// StatusPage is the incident as a page of cstate, a static status page: every
// update for stakeholders, the newest first.
func (i Incident) StatusPage() string {
	var b strings.Builder
	b.WriteString("---\n")
	fmt.Fprintf(&b, "title: %s\ndate: %s\nresolved: %t\n", yamlText(i.Title), i.Opened.UTC().Format(time.RFC3339), !i.Open())
	if !i.Open() {
		fmt.Fprintf(&b, "resolvedWhen: %s\n", i.Resolved.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(&b, "severity: %s\n", i.Severity)
	if len(i.Affected) > 0 {
		b.WriteString("affected:\n")
		for _, a := range i.Affected {
			fmt.Fprintf(&b, "  - %s\n", yamlText(a))
		}
	}
	b.WriteString("section: issue\n---\n")
	for n, update := range slices.Backward(i.Updates) {
		next := time.Time{}
		if n == len(i.Updates)-1 {
			next = i.NextUpdate
		}
		phase := string(update.Phase)
		fmt.Fprintf(&b, "\n*%s* - %s {{< track \"%s\" >}}\n", strings.ToUpper(phase[:1])+phase[1:],
			escape(i.text(Stakeholders, update, next)), update.Time.UTC().Format(time.DateTime))
	}
	return b.String()
}

// yamlText is a text in quotes.
func yamlText(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(text) + `"`
}

// Message is an update as a webhook delivers it.
type Message struct {
	Version  int                 `json:"version"`
	Incident Incident            `json:"incident"`
	Phase    Phase               `json:"phase"`
	Texts    map[Audience]string `json:"texts"`
	Markdown string              `json:"markdown"`
}

// Message is the last update for every audience.
func (i Incident) Message() Message {
	m := Message{Version: 1, Incident: i, Phase: i.Phase(), Texts: make(map[Audience]string), Markdown: i.Markdown()}
	for _, audience := range Audiences() {
		m.Texts[audience] = i.Text(audience)
	}
	return m
}
