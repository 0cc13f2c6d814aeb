package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"pg_integrity_exporter/internal/incident"
	"pg_integrity_exporter/internal/state"
)

// incidentCommand is the parent of the incident commands; whichever is added
// first makes it.
func incidentCommand(app *kingpin.Application) *kingpin.CmdClause {
	if cmd := app.GetCommand("incident"); cmd != nil {
		return cmd
	}
	return app.Command("incident", "Tell people what happens, and what happened.")
}

// incidentReport is the flags of `incident report`.
type incidentReport struct {
	from, to     string
	prometheus   string
	tokenFile    string
	alertmanager string
	recorded     []string
	job          string
	instance     string
	events       []string
	evidence     string
	saveEvidence string
	output       string
}

func addIncidentReport(app *kingpin.Application, g *globals) (string, command) {
	cmd := incidentCommand(app).Command("report", "Draft the post-mortem of what happened between two moments, from what was recorded.")
	var r incidentReport
	cmd.Flag("from", "Beginning: 2026-01-31T09:00:00Z, '2026-01-31 09:00' (UTC), or how long ago, as 6h.").PlaceHolder("TIME").StringVar(&r.from)
	cmd.Flag("to", "End, in the same forms.").Default("now").PlaceHolder("TIME").StringVar(&r.to)
	cmd.Flag("prometheus.url", "Prometheus, Mimir, Thanos or VictoriaMetrics that has the exporter's series.").PlaceHolder("URL").StringVar(&r.prometheus)
	cmd.Flag("prometheus.token-file", "File with a bearer token for it and for Alertmanager.").PlaceHolder("FILE").StringVar(&r.tokenFile)
	cmd.Flag("prometheus.job", "The scrape job of the exporters.").Default("pg_integrity_exporter").StringVar(&r.job)
	cmd.Flag("prometheus.instance", "The exporter that watches the server; without it, all of the job.").PlaceHolder("HOST:PORT").StringVar(&r.instance)
	cmd.Flag("alertmanager.events", "A file of Alertmanager's event recorder: who was notified, what was held back (repeat).").PlaceHolder("FILE").StringsVar(&r.recorded)
	cmd.Flag("alertmanager.url", "Alertmanager, for its silences.").PlaceHolder("URL").StringVar(&r.alertmanager)
	cmd.Flag("events", "A file of the exporter's events instead of those under --state.path (repeat).").PlaceHolder("FILE").StringsVar(&r.events)
	cmd.Flag("evidence", "Make the report from the files of this directory alone: what --save-evidence wrote, or answers of the APIs.").PlaceHolder("DIR").StringVar(&r.evidence)
	cmd.Flag("save-evidence", "Keep everything that was read in this directory.").PlaceHolder("DIR").StringVar(&r.saveEvidence)
	cmd.Flag("output", "markdown, html or json.").Default("markdown").EnumVar(&r.output, "markdown", "html", "json")
	return cmd.FullCommand(), func(ctx context.Context) int {
		if err := r.run(ctx, g); err != nil {
			g.fail(err)
			return 1
		}
		return 0
	}
}

func (r *incidentReport) run(ctx context.Context, g *globals) error {
	now := time.Now()
	evidence, err := r.collect(ctx, g, now)
	if err != nil {
		return err
	}
	if r.saveEvidence != "" {
		if err := evidence.Save(r.saveEvidence); err != nil {
			return err
		}
	}
	report := incident.NewReport(evidence, now)
	switch r.output {
	case "json":
		return writeJSON(g.stdout, report)
	case "html":
		page, err := report.HTML()
		if err != nil {
			return err
		}
		fmt.Fprint(g.stdout, page)
	default:
		fmt.Fprint(g.stdout, report.Markdown())
	}
	return nil
}

// scope is the stretch of time that the report is about.
func (r *incidentReport) scope(now time.Time) (from, to time.Time, err error) {
	if r.from == "" {
		if r.evidence != "" {
			return time.Time{}, time.Time{}, nil // the evidence knows
		}
		return from, to, errors.New("--from is missing: say when it began, as 2026-01-31T09:00:00Z or 6h")
	}
	if from, err = parseTime(r.from, now); err != nil {
		return from, to, fmt.Errorf("--from: %w", err)
	}
	if to, err = parseTime(r.to, now); err != nil {
		return from, to, fmt.Errorf("--to: %w", err)
	}
	if !from.Before(to) {
		return from, to, fmt.Errorf("--from (%s) is not before --to (%s)", from.Format(time.RFC3339), to.Format(time.RFC3339))
	}
	return from, to, nil
}

func (r *incidentReport) collect(ctx context.Context, g *globals, now time.Time) (*incident.Evidence, error) {
	from, to, err := r.scope(now)
	if err != nil {
		return nil, err
	}
	if r.evidence != "" {
		evidence, err := incident.Load(r.evidence, from, to)
		if err == nil && evidence.From.IsZero() {
			err = errors.New("--from is missing: the evidence does not say what time it is about")
		}
		return evidence, err
	}
	evidence := &incident.Evidence{From: from, To: to}
	token, err := readToken(r.tokenFile)
	if err != nil {
		return nil, err
	}
	if r.prometheus == "" {
		evidence.Note(incident.KindPrometheus, errors.New("--prometheus.url was not given"), "")
	} else {
		evidence.Series, err = incident.FetchSeries(ctx, incident.Server{URL: r.prometheus, Token: token}, r.job, r.instance, from, to)
		evidence.Note(incident.KindPrometheus, err, fmt.Sprintf("%d series", len(evidence.Series)))
	}
	if r.alertmanager == "" {
		evidence.Note(incident.KindAlertmanager, errors.New("--alertmanager.url was not given"), "")
	} else {
		evidence.Silences, err = incident.FetchSilences(ctx, incident.Server{URL: r.alertmanager, Token: token})
		evidence.Note(incident.KindAlertmanager, err, fmt.Sprintf("%d silences", len(evidence.Silences)))
	}
	for _, file := range r.recorded {
		recorded, err := incident.ReadRecorded(file)
		evidence.Note(incident.KindAlertmanager+", "+file, err, fmt.Sprintf("%d events", len(recorded)))
		evidence.Recorded = append(evidence.Recorded, recorded...)
	}
	err = r.readEvents(g, evidence)
	evidence.Note(incident.KindEvents+" of the exporter", err, fmt.Sprintf("%d events", len(evidence.Events)))
	for _, source := range evidence.Sources {
		if source.Read {
			return evidence, nil
		}
	}
	return nil, fmt.Errorf("there is nothing to make a report from: %s; %s; %s",
		evidence.Sources[0].Detail, evidence.Sources[1].Detail, evidence.Sources[2].Detail)
}

// readEvents reads the given files, or those of the target.
func (r *incidentReport) readEvents(g *globals, evidence *incident.Evidence) error {
	for _, file := range r.events {
		events, err := incident.ReadEvents(file)
		if err != nil {
			return err
		}
		evidence.Events = append(evidence.Events, events...)
	}
	if len(r.events) > 0 {
		return nil
	}
	files, name, err := g.targetFiles()
	if err != nil {
		return err
	}
	evidence.Target = name
	evidence.Events, err = files.Events(evidence.From.Add(-incident.EventsBefore), evidence.To)
	return err
}

// targetFiles are the files that the exporter of the target writes, and the
// name of the target.
func (g *globals) targetFiles() (*state.Files, string, error) {
	_, target, err := g.resolve()
	if err != nil {
		return nil, "", err
	}
	return g.files(target), target.Name(), nil
}

func readToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	return strings.TrimSpace(string(content)), nil
}

// parseTime reads a moment, or how long ago it was.
func parseTime(text string, now time.Time) (time.Time, error) {
	if text == "now" {
		return now, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if moment, err := time.Parse(layout, text); err == nil {
			return moment, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 2026-01-31T09:00:00Z, '2026-01-31 09:00' or 6h", text)
}

func writeJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// incidentUpdate is the flags of `incident update`.
type incidentUpdate struct {
	change     incident.Change
	phase      string
	webhook    string
	statusPage string
	output     string
}

func addIncidentUpdate(app *kingpin.Application, g *globals) (string, command) {
	cmd := incidentCommand(app).Command("update", "Open an incident or say how far it has come, and write what each audience is told.")
	var u incidentUpdate
	var phases []string
	for _, phase := range incident.Phases() {
		phases = append(phases, string(phase))
	}
	cmd.Flag("phase", "How far it has come: "+strings.Join(phases, ", ")+".").Required().EnumVar(&u.phase, phases...)
	cmd.Flag("id", "Which incident; without it, the one that is open, or a new one.").PlaceHolder("NAME").StringVar(&u.change.ID)
	cmd.Flag("title", "What it is called, in words that everybody understands.").StringVar(&u.change.Title)
	cmd.Flag("affected", "What does not work, in the words of those who use it (repeat).").PlaceHolder("SERVICE").StringsVar(&u.change.Affected)
	cmd.Flag("severity", "down, disrupted or notice, as status pages have it.").EnumVar(&u.change.Severity, "down", "disrupted", "notice")
	cmd.Flag("message", "What you want to add; it goes to every audience.").PlaceHolder("TEXT").StringVar(&u.change.Message)
	cmd.Flag("next-update", "When people will hear more (default: 30m while investigating, then 1h).").PlaceHolder("DURATION").DurationVar(&u.change.NextUpdate)
	cmd.Flag("webhook-url-file", "Post the update as JSON to the URL in this file.").PlaceHolder("FILE").StringVar(&u.webhook)
	cmd.Flag("status-page", "Write the incident as a page of cstate into this directory (content/issues).").PlaceHolder("DIR").StringVar(&u.statusPage)
	cmd.Flag("output", "markdown, json, or one audience's text: on-call, dba, application, stakeholders.").Default("markdown").
		EnumVar(&u.output, "markdown", "json", "on-call", "dba", "application", "stakeholders")
	return cmd.FullCommand(), func(ctx context.Context) int {
		if err := u.run(ctx, g); err != nil {
			g.fail(err)
			return 1
		}
		return 0
	}
}

func (u *incidentUpdate) run(ctx context.Context, g *globals) error {
	u.change.Phase = incident.Phase(u.phase)
	if u.change.NextUpdate < 0 {
		return fmt.Errorf("--next-update: %s is in the past", u.change.NextUpdate)
	}
	files, _, err := g.targetFiles()
	if err != nil {
		return err
	}
	current, err := incident.Apply(files, u.change, time.Now())
	if err != nil {
		return err
	}
	switch u.output {
	case "markdown":
		fmt.Fprint(g.stdout, current.Markdown())
	case "json":
		err = writeJSON(g.stdout, current.Message())
	default:
		fmt.Fprintln(g.stdout, current.Text(incident.Audience(u.output)))
	}
	// The update is recorded and printed; a channel that fails must not hide that.
	if u.statusPage != "" {
		_, pageErr := incident.WriteStatusPage(u.statusPage, current)
		err = errors.Join(err, pageErr)
	}
	if u.webhook != "" {
		address, tokenErr := readToken(u.webhook)
		err = errors.Join(err, tokenErr)
		if tokenErr == nil {
			err = errors.Join(err, incident.Post(ctx, address, current.Message()))
		}
	}
	return err
}

func addIncidentAcknowledge(app *kingpin.Application, g *globals) (string, command) {
	cmd := incidentCommand(app).Command("acknowledge", "Record that somebody has taken it on.")
	by := cmd.Flag("by", "Who (default: the user of this session).").PlaceHolder("NAME").String()
	message := cmd.Flag("message", "What you want to add.").PlaceHolder("TEXT").String()
	return cmd.FullCommand(), func(context.Context) int {
		files, _, err := g.targetFiles()
		if err == nil {
			err = incident.Acknowledge(files, nameOf(*by), *message, time.Now())
		}
		if err != nil {
			g.fail(err)
			return 1
		}
		return 0
	}
}

// nameOf is the given name, or that of the user.
func nameOf(given string) string {
	if given != "" {
		return given
	}
	if current, err := user.Current(); err == nil {
		return current.Username
	}
	return "somebody"
}

func addIncidentList(app *kingpin.Application, g *globals) (string, command) {
	cmd := incidentCommand(app).Command("list", "List the incidents; exit code 1 says that an update is overdue.")
	output := cmd.Flag("output", "text or json.").Default("text").Enum("text", "json")
	return cmd.FullCommand(), func(context.Context) int {
		overdue, err := listIncidents(g, *output)
		if err != nil {
			g.fail(err)
			return 2
		}
		if overdue {
			return 1
		}
		return 0
	}
}

func listIncidents(g *globals, output string) (overdue bool, err error) {
	files, _, err := g.targetFiles()
	if err != nil {
		return false, err
	}
	all, err := incident.All(files)
	if err != nil {
		return false, err
	}
	now := time.Now()
	for _, i := range all {
		overdue = overdue || i.Open() && now.After(i.NextUpdate)
	}
	if output == "json" {
		return overdue, writeJSON(g.stdout, all)
	}
	if len(all) == 0 {
		fmt.Fprintln(g.stderr, "no incident is recorded")
	}
	for _, i := range all {
		due := ""
		if i.Open() {
			due = ", next update due " + i.NextUpdate.Format(time.RFC3339)
		}
		fmt.Fprintf(g.stdout, "%s  %s  %s%s\n", i.ID, i.Phase(), i.Title, due)
	}
	return overdue, nil
}
