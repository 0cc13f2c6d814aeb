package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/alecthomas/kingpin/v2"
	"go.yaml.in/yaml/v3"

	"pg_integrity_exporter/dashboards"
)

// dashboardsExport is the flags of `dashboards export`.
type dashboardsExport struct {
	format    string
	directory string
}

func addDashboardsExport(app *kingpin.Application, g *globals) (string, command) {
	cmd := app.Command("dashboards", "Grafana dashboards.").Command("export", "Write the dashboards to a directory, or print a ConfigMap of them.")
	var e dashboardsExport
	cmd.Flag("format", "json (a file for each dashboard, for import or provisioning), or configmap (for Grafana's sidecar in Kubernetes).").
		Default("json").EnumVar(&e.format, "json", "configmap")
	cmd.Flag("output-directory", "Write the JSON files here.").PlaceHolder("DIR").StringVar(&e.directory)
	return cmd.FullCommand(), func(context.Context) int {
		if err := e.run(g.stdout); err != nil {
			g.fail(err)
			return 1
		}
		return 0
	}
}

func (e *dashboardsExport) run(out io.Writer) error {
	if e.format == "json" && e.directory == "" {
		return errors.New("dashboards export: say where the files go with --output-directory, or print a ConfigMap with --format=configmap")
	}
	files := make(map[string]string)
	for _, d := range dashboards.All() {
		content, err := d.JSON()
		if err != nil {
			return err
		}
		files[d.Name+".json"] = string(content)
	}
	if e.format == "configmap" {
		return writeConfigMap(out, files)
	}
	if err := os.MkdirAll(e.directory, 0o755); err != nil { //nolint:gosec // for others to read
		return fmt.Errorf("making the directory of the dashboards: %w", err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(e.directory, name), []byte(content), 0o644); err != nil { //nolint:gosec // files for others to read
			return fmt.Errorf("writing a dashboard: %w", err)
		}
	}
	return nil
}

// writeConfigMap prints the manifest that Grafana's sidecar looks for.
func writeConfigMap(out io.Writer, files map[string]string) error {
	manifest := struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
		Metadata   struct {
			Name        string            `yaml:"name"`
			Labels      map[string]string `yaml:"labels"`
			Annotations map[string]string `yaml:"annotations"`
		} `yaml:"metadata"`
		Data map[string]string `yaml:"data"`
	}{APIVersion: "v1", Kind: "ConfigMap", Data: files}
	manifest.Metadata.Name = "postgres-integrity-dashboards"
	manifest.Metadata.Labels = map[string]string{"grafana_dashboard": "1"}
	manifest.Metadata.Annotations = map[string]string{"grafana_folder": "PostgreSQL integrity"}
	encoder := yaml.NewEncoder(out)
	encoder.SetIndent(2)
	if err := encoder.Encode(manifest); err != nil {
		return fmt.Errorf("writing the ConfigMap: %w", err)
	}
	return nil
}
