package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/alecthomas/kingpin/v2"

	"pg_integrity_exporter/alerts"
)

func addAlertsExport(app *kingpin.Application, g *globals) (string, command) {
	cmd := app.Command("alerts", "Alert rules.").Command("export", "Print the alert rules for Prometheus, or write them to a directory.")
	directory := cmd.Flag("output-directory", "Write one file for each group here instead of printing.").PlaceHolder("DIR").String()
	runbooks := cmd.Flag("runbook-url", "What the name of an alert is appended to in runbook_url.").Default(alerts.DefaultOptions().RunbookURL).String()
	return cmd.FullCommand(), func(context.Context) int {
		if err := exportAlerts(g, *directory, alerts.Options{RunbookURL: *runbooks}); err != nil {
			g.fail(err)
			return 1
		}
		return 0
	}
}

func exportAlerts(g *globals, directory string, options alerts.Options) error {
	for i, group := range alerts.Groups() {
		content, err := group.YAML(options)
		if err != nil {
			return err
		}
		if directory == "" {
			if i > 0 {
				fmt.Fprintln(g.stdout, "---")
			}
			fmt.Fprintf(g.stdout, "%s", content)
			continue
		}
		if err := os.WriteFile(filepath.Join(directory, group.Name+".yaml"), content, 0o644); err != nil { //nolint:gosec // rules are no secret
			return fmt.Errorf("writing the rules: %w", err)
		}
	}
	return nil
}
