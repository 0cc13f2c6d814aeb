// Package dashboards holds the Grafana dashboards that ship with the exporter.
// They are data here, one file each; the committed JSON is generated.
package dashboards

import (
	"cmp"
	"embed"
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
	// Sparse says when it gives nothing although all is well, Quiet that it gives
	// nothing while nothing is wrong.
	Sparse, Quiet string
}

// Expand is the query with every variable at All, for a rate interval.
func (q Query) Expand(rateInterval string) string {
	return strings.NewReplacer(
		"$__rate_interval", rateInterval, "$job", ".+", "$cluster", ".*", "$instance", ".+", "$datname", ".+",
	).Replace(q.Expr)
}

// Annotations lists the queries whose results are marked in every dashboard.
func Annotations() []Query {
	var queries []Query
	for _, m := range marks() {
		queries = append(queries, Query{Dashboard: "every", Panel: m.name, Expr: m.expr, Sparse: m.sparse})
	}
	return queries
}

// Queries lists the queries of all panels.
func Queries() []Query {
	var queries []Query
	for _, dashboard := range All() {
		for _, row := range dashboard.Rows {
			for _, panel := range row.Panels {
				for _, target := range panel.Queries {
					queries = append(queries, Query{Dashboard: dashboard.Name, Panel: panel.Title, Expr: target.Expr, Sparse: cmp.Or(target.Sparse, panel.Sparse), Quiet: panel.Quiet})
				}
			}
		}
	}
	return queries
}
