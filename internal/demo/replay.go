package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/dashboards"
	"pg_integrity_exporter/internal/pgtest"
)

const (
	// damagedRelation is what the maintenance damages.
	damagedSchema, damagedTable = "ledger", "postings"
	damagedPages                = 20
	corruptionAlert             = "PostgresCorruptionDetected"
)

// awaitHealth waits until Prometheus has seen every check of every database
// succeed, and holds that no alert fires on a healthy, busy server.
func (d *demo) awaitHealth(ctx context.Context) (string, error) {
	const verified = `count(pgintegrity_check_last_success_timestamp_seconds > 0) == count(pgintegrity_check_applicable == 1)
		and on () pgintegrity_up == 1`
	if err := poll(ctx, time.Second, func() (bool, error) {
		result, err := d.query(ctx, verified)
		return len(result) > 0, err
	}); err != nil {
		return "", fmt.Errorf("the checks did not succeed: %w", err)
	}
	firing, err := d.query(ctx, `ALERTS{alertstate="firing",alertname!="PostgresWatchdog"}`)
	if err != nil {
		return "", err
	}
	if len(firing) > 0 {
		return "", fmt.Errorf("an alert fires on a healthy server: %v", firing[0].Metric)
	}
	if failed := d.load.failed.Load(); failed > 0 {
		return "", fmt.Errorf("%d transactions failed on a healthy server: %w", failed, (<-d.load.first).err)
	}
	return fmt.Sprintf("checks=ok alerts=none committed=%d", d.load.committed.Load()), nil
}

// replay damages the ledger and tells when each link of the chain knows.
func (d *demo) replay(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	fmt.Println("demo: 09:00, the nightly maintenance starts: it rewrites old pages of the ledger to speed it up")
	damaged, err := d.maintenance(ctx)
	if err != nil {
		return fmt.Errorf("step damage: %w", err)
	}
	report("damage", 0, fmt.Sprintf("relation=%s.%s pages=%d", damagedSchema, damagedTable, damagedPages))

	steps := []struct {
		name string
		do   func(ctx context.Context) (detail string, err error)
	}{
		{"first_failing_transaction", d.awaitFailure},
		{"exporter_knows", d.awaitFinding},
		{"alert_firing", d.awaitAlert},
		{"page_delivered", d.awaitPage},
	}
	type outcome struct {
		name, detail string
		at           time.Time
		err          error
	}
	outcomes := make(chan outcome, len(steps))
	for _, step := range steps {
		go func() {
			detail, err := step.do(ctx)
			outcomes <- outcome{step.name, detail, time.Now(), err}
		}()
	}
	for range steps {
		o := <-outcomes
		if o.err != nil {
			err = errors.Join(err, fmt.Errorf("step %s: %w", o.name, o.err))
			cancel()
			continue
		}
		report(o.name, o.at.Sub(damaged), o.detail)
	}
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(ctx context.Context) (detail string, err error)
	}{{"evidence", d.check}, {"stakeholders_told", d.tell}, {"incident_report", d.incidentReport}, {"dashboard_queries", func(ctx context.Context) (string, error) { return d.dashboards(ctx, true) }}, {"pictures_incident", d.picturesIncident}} {
		detail, err := step.do(ctx)
		if err != nil {
			return fmt.Errorf("step %s: %w", step.name, err)
		}
		report(step.name, time.Since(damaged), detail)
	}
	return nil
}

// maintenance overwrites half of some pages in the middle of the table's file.
func (d *demo) maintenance(ctx context.Context) (time.Time, error) {
	if _, err := d.command(ctx, "window", "open", "--for=2h", "--reason=nightly maintenance: make the ledger faster"); err != nil {
		return time.Time{}, err
	}
	if err := d.server.Exec(ctx, "erp", "REINDEX TABLE CONCURRENTLY ledger.journal"); err != nil {
		return time.Time{}, err
	}
	relation, err := d.server.Relation(ctx, "erp", damagedSchema+"."+damagedTable)
	if err != nil {
		return time.Time{}, err
	}
	for i := range uint32(damagedPages) {
		if err := relation.Edit(relation.Blocks/4+i*relation.Blocks/50, pgtest.Garbage); err != nil {
			return time.Time{}, err
		}
	}
	return time.Now(), nil
}

func (d *demo) awaitFailure(ctx context.Context) (string, error) {
	f, err := d.load.awaitFailure(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("error=%q", f.err), nil
}

// awaitFinding waits until the exporter's own page names the table.
func (d *demo) awaitFinding(ctx context.Context) (string, error) {
	want := fmt.Sprintf(`relname=%q,schemaname=%q`, damagedTable, damagedSchema)
	var detail string
	err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
		page, err := get(ctx, d.exporterURL+"/metrics")
		for line := range bytes.Lines(page) {
			if text := string(line); strings.HasPrefix(text, "pgintegrity_finding_info{") && strings.Contains(text, want) {
				detail = strings.TrimSpace(text)
				return true, nil
			}
		}
		return false, err
	})
	return detail, err
}

func (d *demo) awaitAlert(ctx context.Context) (string, error) {
	var detail string
	err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
		body, err := get(ctx, d.prometheusURL+"/api/v1/alerts")
		if err != nil {
			return false, err
		}
		var answer struct {
			Data struct {
				Alerts []struct {
					State  string
					Labels map[string]string
				}
			}
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return false, err
		}
		for _, alert := range answer.Data.Alerts {
			if alert.State == "firing" && alert.Labels["alertname"] == corruptionAlert && alert.Labels["relname"] == damagedTable {
				detail = fmt.Sprintf("alertname=%s relation=%s.%s", corruptionAlert, alert.Labels["schemaname"], alert.Labels["relname"])
				return true, nil
			}
		}
		return false, nil
	})
	return detail, err
}

func (d *demo) awaitPage(ctx context.Context) (string, error) {
	p, err := d.receiver.await(ctx, corruptionAlert)
	if err != nil {
		return "", err
	}
	if p.Receiver != "page-integrity" {
		return "", fmt.Errorf("the page went to receiver %s", p.Receiver)
	}
	named := func(a alert) bool {
		return strings.Contains(a.Annotations["description"], damagedSchema+"."+damagedTable)
	}
	if !slices.ContainsFunc(p.Alerts, named) {
		return "", fmt.Errorf("the page does not name the table: %s", quote(p))
	}
	return fmt.Sprintf("receiver=%s alerts=%d\n%s", p.Receiver, len(p.Alerts), quote(p)), nil
}

// quote shows a page as somebody reads it.
func quote(p page) string {
	var text strings.Builder
	for _, alert := range p.Alerts {
		fmt.Fprintf(&text, "    | %s %s: %s\n", strings.ToUpper(alert.Labels["severity"]), alert.Labels["alertname"], alert.Annotations["summary"])
		for _, name := range []string{"description", "impact", "action", "runbook_url"} {
			fmt.Fprintf(&text, "    | %s\n", alert.Annotations[name])
		}
	}
	return strings.TrimSuffix(text.String(), "\n")
}

// check runs the command that the page tells to run.
func (d *demo) check(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, d.exporter, "check", "--dsn="+d.server.DSN("postgres", d.monitor),
		"--database=erp", "--relation="+damagedSchema+"."+damagedTable, "--output=json")
	out, err := cmd.Output()
	var ended *exec.ExitError
	if !errors.As(err, &ended) || ended.ExitCode() != 1 {
		return "", fmt.Errorf("check found nothing: %w\n%s", err, out)
	}
	var document struct {
		Findings []struct{ Check, Message string }
	}
	if err := json.Unmarshal(out, &document); err != nil {
		return "", fmt.Errorf("reading the findings: %w", err)
	}
	if len(document.Findings) == 0 {
		return "", errors.New("check gives no findings")
	}
	first := document.Findings[0]
	return fmt.Sprintf("findings=%d check=%s message=%q", len(document.Findings), first.Check, first.Message), nil
}

// incident runs one of the incident commands beside the running exporter.
func (d *demo) incident(ctx context.Context, args ...string) ([]byte, error) {
	return d.command(ctx, append([]string{"incident"}, args...)...)
}

// tell acknowledges the page and says what stakeholders read.
func (d *demo) tell(ctx context.Context) (string, error) {
	if _, err := d.incident(ctx, "acknowledge", "--by=the database administrator on call"); err != nil {
		return "", err
	}
	out, err := d.incident(ctx, "update", "--phase=identified", "--title=Payments fail", "--affected=payments and balances", "--output=stakeholders")
	return fmt.Sprintf("\n    | %s", bytes.TrimSpace(out)), err
}

// incidentReport drafts the post-mortem and holds that it names what the demo
// knows: the table, the failed transactions, the alert.
func (d *demo) incidentReport(ctx context.Context) (string, error) {
	var detail string
	// Prometheus knows of failures at its next scrape only.
	err := poll(ctx, time.Second, func() (bool, error) {
		var err error
		detail, err = d.draft(ctx)
		return err == nil, err
	})
	return detail, err
}

func (d *demo) draft(ctx context.Context) (string, error) {
	args := []string{
		"report", "--from=" + d.began.UTC().Format(time.RFC3339), "--output=json", "--prometheus.url=" + d.prometheusURL, "--alertmanager.url=" + d.alertURL,
	}
	if directory := os.Getenv("DEMO_EVIDENCE"); directory != "" {
		args = append(args, "--save-evidence="+directory)
	}
	out, err := d.incident(ctx, args...)
	if err != nil {
		return "", err
	}
	var report struct {
		Summary []string
		Impact  struct {
			Databases []struct {
				Database string
				Failed   float64
			}
		}
		Milestones map[string]struct{ What string }
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return "", fmt.Errorf("reading the report: %w", err)
	}
	summary := strings.Join(report.Summary, "\n    | ")
	if !strings.Contains(summary, damagedSchema+"."+damagedTable) {
		return "", fmt.Errorf("the report does not name the table: %s", out)
	}
	if len(report.Impact.Databases) == 0 || report.Impact.Databases[0].Failed == 0 {
		return "", fmt.Errorf("the report counts no failed transaction: %s", out)
	}
	if report.Milestones["detected"].What == "" || report.Milestones["acknowledged"].What == "" {
		return "", fmt.Errorf("the report does not say when it was detected and acknowledged: %s", out)
	}
	return "\n    | " + summary, nil
}

// dashboards runs every query of the shipped dashboards and holds that all have
// data but those which say why they may have none: before the damage also those
// that have some only when something is wrong, behind it (wrong) no mark either.
// Rates are over the whole demo, so that what happened at its beginning is in
// them.
func (d *demo) dashboards(ctx context.Context, wrong bool) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	window := fmt.Sprintf("%.0fs", max(time.Since(d.began), time.Minute).Seconds())
	missing := dashboards.Queries()
	if wrong {
		missing = append(missing, dashboards.Annotations()...)
	} else {
		missing = slices.DeleteFunc(missing, func(q dashboards.Query) bool { return q.Quiet != "" })
	}
	with, sparse := 0, 0
	err := poll(ctx, time.Second, func() (bool, error) {
		var failed error
		missing = slices.DeleteFunc(missing, func(q dashboards.Query) bool {
			result, err := d.queryRange(ctx, q.Expand(window))
			switch {
			case err != nil:
				failed = err
			case len(result) > 0:
				with++
			case q.Sparse != "":
				sparse++
			}
			return err == nil && (len(result) > 0 || q.Sparse != "")
		})
		return len(missing) == 0, failed
	})
	for _, q := range missing {
		err = errors.Join(err, fmt.Errorf("dashboard %s, panel %q: no data for %s", q.Dashboard, q.Panel, q.Expr))
	}
	return fmt.Sprintf("with_data=%d empty_as_they_say=%d", with, sparse), err
}

// series is one element of the answer to a query.
type series struct {
	Metric map[string]string
	Value  [2]any
}

func (d *demo) query(ctx context.Context, expr string) ([]series, error) {
	return d.ask(ctx, "query", url.Values{"query": {expr}})
}

func (d *demo) ask(ctx context.Context, endpoint string, values url.Values) ([]series, error) {
	body, err := get(ctx, d.prometheusURL+"/api/v1/"+endpoint+"?"+values.Encode())
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct{ Result []series }
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("reading the answer to %s: %w", values.Get("query"), err)
	}
	return answer.Data.Result, nil
}

// queryRange asks for the whole time of the demo, as a picture of it would.
func (d *demo) queryRange(ctx context.Context, expr string) ([]series, error) {
	values := url.Values{
		"query": {expr}, "step": {"15"}, "start": {strconv.FormatInt(d.began.Unix(), 10)}, "end": {strconv.FormatInt(time.Now().Unix(), 10)},
	}
	return d.ask(ctx, "query_range", values)
}

// poll asks until the answer is yes. An error may be one of a moment: the last
// one is told when time is up.
func poll(ctx context.Context, interval time.Duration, ask func() (bool, error)) error {
	for {
		yes, err := ask()
		if yes {
			return nil
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}
