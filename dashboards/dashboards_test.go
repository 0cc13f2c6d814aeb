package dashboards_test

import (
	"encoding/json"
	"io/fs"
	"regexp"
	"strings"
	"testing"

	"pg_integrity_exporter/alerts"
	"pg_integrity_exporter/dashboards"
	"pg_integrity_exporter/internal/promql"
)

func TestQueriesNameOnlyWhatExists(t *testing.T) {
	schema := promql.NewSchema()
	for _, group := range alerts.Groups() {
		for _, record := range group.Records {
			expr, err := alerts.DefaultValues().Expand(record.Expr, nil)
			if err == nil {
				err = schema.Record(record.Name, expr)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	queries := dashboards.Queries()
	if len(queries) < 15 {
		t.Fatalf("only %d queries", len(queries))
	}
	for _, query := range queries {
		// The label cluster is the user's own; its matcher holds where there is none.
		expr := strings.ReplaceAll(query.Expand("5m"), `,cluster=~".*"`, "")
		if _, err := schema.Check(expr); err != nil {
			t.Errorf("%s, %s: %v", query.Dashboard, query.Panel, err)
		}
		if err := schema.Lint(expr); err != nil {
			t.Errorf("%s, %s: %v", query.Dashboard, query.Panel, err)
		}
	}
}

var (
	longRange = regexp.MustCompile(`\[[0-9]`)
	// manySeries have one for each kind of error of each database.
	manySeries = regexp.MustCompile(`pgintegrity_(errors|log_messages)_total`)
)

// TestLight holds that only what is asked for one moment looks far back: a line
// would do so again for each of its points. What a line needs of very many series
// is recorded.
func TestLight(t *testing.T) {
	for _, d := range dashboards.All() {
		for _, row := range d.Rows {
			for _, p := range row.Panels {
				for _, query := range p.Queries {
					if p.Kind != dashboards.Stat && p.Kind != dashboards.Table && (longRange.MatchString(query.Expr) || manySeries.MatchString(query.Expr)) {
						t.Errorf("%s, %s draws %s: record it, or take $__rate_interval", d.Name, p.Title, query.Expr)
					}
				}
			}
		}
	}
}

type dashboard struct {
	UID        string
	Title      string
	Editable   *bool
	Templating struct {
		List []struct {
			Name, Type, AllValue string
			Multi, IncludeAll    bool
		}
	}
	Panels []panel
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               struct{ UID string }
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct{ Expr, RefID string }
}

// TestGenerated holds the committed files against their source.
func TestGenerated(t *testing.T) {
	all := dashboards.All()
	files, err := fs.Glob(dashboards.FS, "*.json")
	if err != nil || len(files) != len(all) {
		t.Errorf("%d files for %d dashboards (%v): run make generate", len(files), len(all), err)
	}
	for _, d := range all {
		want, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := fs.ReadFile(dashboards.FS, d.Name+".json"); err != nil || string(got) != string(want) {
			t.Errorf("%s.json is not current (%v): run make generate", d.Name, err)
		}
	}
}

func TestDashboards(t *testing.T) {
	files, err := fs.Glob(dashboards.FS, "*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	uids := make(map[string]string)
	for _, file := range files {
		content, err := fs.ReadFile(dashboards.FS, file)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(content, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if other := uids[d.UID]; other != "" || !strings.HasPrefix(d.UID, "postgres-integrity-") {
			t.Errorf("%s: uid %q is not of ours, or that of %q", file, d.UID, other)
		}
		uids[d.UID] = file
		if d.Editable == nil || *d.Editable {
			t.Errorf("%s is editable: changes in Grafana would get lost", file)
		}
		for _, variable := range d.Templating.List {
			everything := ".+"
			if variable.Name == "cluster" {
				everything = ".*"
			}
			if variable.Type == "query" && (!variable.Multi || !variable.IncludeAll || variable.AllValue != everything) {
				t.Errorf("%s: variable %s does not take several values or all of them", file, variable.Name)
			}
		}
		ids := make(map[int]bool)
		for i, p := range d.Panels {
			checkPanel(t, file, p)
			if ids[p.ID] {
				t.Errorf("%s: two panels have id %d", file, p.ID)
			}
			ids[p.ID] = true
			for _, other := range d.Panels[:i] {
				a, b := p.GridPos, other.GridPos
				if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
					t.Errorf("%s: panels %q and %q overlap", file, p.Title, other.Title)
				}
			}
		}
	}
}

func checkPanel(t *testing.T, file string, p panel) {
	t.Helper()
	if p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
		t.Errorf("%s: panel %d has no title or no room", file, p.ID)
	}
	if p.Type == "row" {
		return
	}
	if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
		t.Errorf("%s: panel %q has no description, unit, data source variable or query", file, p.Title)
	}
}
