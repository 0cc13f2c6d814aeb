// Package dashboards holds the Grafana dashboards that ship with the exporter.
// They are data here, one file each; the committed JSON is generated.
package dashboards

import (
	"embed"
	"encoding/json"
	"fmt"
	"strings"
)

//go:generate go run ../cmd/pg_integrity_exporter dashboards export --output-directory=.

// FS holds the dashboards as Grafana imports them; they are generated from All.
//
//go:embed *.json
var FS embed.FS

// Query is one query of a panel.
type Query struct {
	// Dashboard, Panel say where it stands.
	Dashboard, Panel string
	// Expr is PromQL with Grafana's variables in it.
	Expr string
}

// Expand is the query with every variable at All, for a rate interval.
func (q Query) Expand(rateInterval string) string {
	return strings.NewReplacer(
		"$__rate_interval", rateInterval, "$job", ".+", "$cluster", ".*", "$instance", ".+", "$datname", ".+",
	).Replace(q.Expr)
}

// Queries lists the queries of all panels.
func Queries() ([]Query, error) {
	files, err := FS.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("listing the dashboards: %w", err)
	}
	var queries []Query
	for _, file := range files {
		content, err := FS.ReadFile(file.Name())
		if err != nil {
			return nil, fmt.Errorf("reading a dashboard: %w", err)
		}
		var dashboard struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(content, &dashboard); err != nil {
			return nil, fmt.Errorf("reading %s: %w", file.Name(), err)
		}
		for _, panel := range dashboard.Panels {
			for _, target := range panel.Targets {
				queries = append(queries, Query{Dashboard: file.Name(), Panel: panel.Title, Expr: target.Expr})
			}
		}
	}
	return queries, nil
}
