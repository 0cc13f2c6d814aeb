package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/alecthomas/kingpin/v2"

	"pg_integrity_exporter/alerts"
)

// alertsExport is the flags of `alerts export`.
type alertsExport struct {
	format       string
	directory    string
	valuesFile   string
	printValues  bool
	runbookURL   string
	dashboardURL string
	job          string
	clusterLabel string
}

func addAlertsExport(app *kingpin.Application, g *globals) (string, command) {
	cmd := app.Command("alerts", "Alert rules.").Command("export", "Print the alert rules, or write them to a directory.")
	var e alertsExport
	cmd.Flag("format", "prometheus (also for Thanos and VictoriaMetrics), mimir, or kubernetes (a PrometheusRule).").
		Default(string(alerts.Prometheus)).EnumVar(&e.format, alerts.Formats()...)
	cmd.Flag("output-directory", "Write the files here instead of printing: one for each group, or one manifest.").PlaceHolder("DIR").StringVar(&e.directory)
	cmd.Flag("values", "A file that changes thresholds, waiting times, severities and labels; --print-values shows everything it may hold.").
		PlaceHolder("FILE").StringVar(&e.valuesFile)
	cmd.Flag("print-values", "Print the values in force as a values file, and no rules.").BoolVar(&e.printValues)
	cmd.Flag("runbook-url", "What the name of an alert is appended to in runbook_url (default: the exporter itself).").PlaceHolder("URL").StringVar(&e.runbookURL)
	cmd.Flag("dashboard-url", "What the UID of a dashboard is appended to in dashboard_url, as https://grafana.example.org/d/.").PlaceHolder("URL").StringVar(&e.dashboardURL)
	cmd.Flag("job", "The scrape job of the exporters.").PlaceHolder("NAME").StringVar(&e.job)
	cmd.Flag("cluster-label", "A label that tells apart servers whose job and instance are the same, as in Thanos and Mimir.").PlaceHolder("NAME").StringVar(&e.clusterLabel)
	return cmd.FullCommand(), func(context.Context) int {
		if err := e.run(g); err != nil {
			g.fail(err)
			return 1
		}
		return 0
	}
}

// values are those of the file, changed by the flags.
func (e *alertsExport) values() (alerts.Values, error) {
	values := alerts.DefaultValues()
	if e.valuesFile != "" {
		content, err := os.ReadFile(e.valuesFile)
		if err != nil {
			return values, fmt.Errorf("reading the values: %w", err)
		}
		if values, err = alerts.ParseValues(content); err != nil {
			return values, fmt.Errorf("%s: %w", e.valuesFile, err)
		}
	}
	for value, given := range map[*string]string{
		&values.RunbookURL: e.runbookURL, &values.DashboardURL: e.dashboardURL,
		&values.Job: e.job, &values.ClusterLabel: e.clusterLabel,
	} {
		if given != "" {
			*value = given
		}
	}
	return values, values.Validate()
}

func (e *alertsExport) run(g *globals) error {
	values, err := e.values()
	if err != nil {
		return err
	}
	if e.printValues {
		content, err := values.Complete().YAML()
		if err != nil {
			return err
		}
		fmt.Fprintf(g.stdout, "%s", content)
		return nil
	}
	format := alerts.Format(e.format)
	if e.directory != "" && format == alerts.Prometheus {
		for _, group := range alerts.Groups() {
			content, err := group.YAML(values)
			if err != nil {
				return err
			}
			if err := e.write(group.Name, content); err != nil {
				return err
			}
		}
		return nil
	}
	content, err := alerts.Write(format, alerts.Groups(), values)
	if err != nil {
		return err
	}
	if e.directory != "" {
		return e.write("pg-integrity-exporter", content)
	}
	fmt.Fprintf(g.stdout, "%s", content)
	return nil
}

func (e *alertsExport) write(name string, content []byte) error {
	if err := os.WriteFile(filepath.Join(e.directory, name+".yaml"), content, 0o644); err != nil { //nolint:gosec // rules are no secret
		return fmt.Errorf("writing the rules: %w", err)
	}
	return nil
}
