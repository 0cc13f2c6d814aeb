package dashboards_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metricsql"

	"pg_integrity_exporter/dashboards"
)

// linted is what of Grafana's model the rules look at.
type linted struct {
	Editable   *bool
	Templating struct {
		List []variable
	}
	Panels []lintedPanel
}

type variable struct {
	Name, Label, Type, AllValue string
	Multi, IncludeAll           bool
	Refresh                     int
	Datasource                  struct{ UID string }
	Query                       json.RawMessage
}

type lintedPanel struct {
	Type, Title, Description string
	Datasource               struct{ UID string }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []lintedTarget
}

type lintedTarget struct {
	Expr       string
	Datasource struct{ Type, UID string }
}

// The names of Grafana's units that the dashboards may use, of those in its
// list of value formats.
var grafanaUnits = []string{"none", "short", "percentunit", "s", "bytes", "Bps", "ops"}

// intervalStandIn stands for $__rate_interval where a parser needs a duration:
// no query has it otherwise.
const intervalStandIn = "4321s"

// rules are the rules of Grafana's dashboard linter, by its names, each as a
// function that lists what is wrong.
var rules = map[string]func(d linted) []string{
	"template-datasource-rule": func(d linted) (wrong []string) {
		found := slices.DeleteFunc(slices.Clone(d.Templating.List), func(v variable) bool { return v.Type != "datasource" })
		if len(found) != 1 || found[0].Name != "datasource" || found[0].Label != "Data source" || string(found[0].Query) != `"prometheus"` {
			wrong = append(wrong, fmt.Sprintf("not one data source of Prometheus called datasource: %+v", found))
		}
		return wrong
	},
	"template-job-rule":      func(d linted) []string { return template(d, "job", "Job") },
	"template-instance-rule": func(d linted) []string { return template(d, "instance", "Instance") },
	"template-label-promql-rule": func(d linted) (wrong []string) {
		call := regexp.MustCompile(`^label_values\((.+), [a-z_]+\)$`)
		for _, v := range queried(d) {
			var query struct{ Query string }
			match := []string(nil)
			if err := json.Unmarshal(v.Query, &query); err == nil {
				match = call.FindStringSubmatch(query.Query)
			}
			if match == nil {
				wrong = append(wrong, fmt.Sprintf("%s does not call label_values: %s", v.Name, v.Query))
			} else if _, err := metricsql.Parse(match[1]); err != nil {
				wrong = append(wrong, fmt.Sprintf("%s: %v", v.Name, err))
			}
		}
		return wrong
	},
	"template-on-time-change-reload-rule": func(d linted) (wrong []string) {
		for _, v := range queried(d) {
			if v.Refresh != 2 {
				wrong = append(wrong, v.Name+" is not asked for again when the time changes")
			}
		}
		return wrong
	},
	"panel-datasource-rule": func(d linted) []string {
		return eachPanel(d, func(p lintedPanel) string {
			if p.Datasource.UID != "${datasource}" {
				return "data source " + p.Datasource.UID
			}
			return ""
		})
	},
	"panel-title-description-rule": func(d linted) []string {
		return eachPanel(d, func(p lintedPanel) string {
			if p.Title == "" || p.Description == "" {
				return "no title or no description"
			}
			return ""
		})
	},
	"panel-units-rule": func(d linted) []string {
		return eachPanel(d, func(p lintedPanel) string {
			if !slices.Contains(grafanaUnits, p.FieldConfig.Defaults.Unit) {
				return "unit " + p.FieldConfig.Defaults.Unit
			}
			return ""
		})
	},
	"panel-no-targets-rule": func(d linted) []string {
		return eachPanel(d, func(p lintedPanel) string {
			if len(p.Targets) == 0 {
				return "no query"
			}
			return ""
		})
	},
	// There is no query of Loki: both rules about LogQL hold when all are of
	// Prometheus.
	"target-logql-rule":      onlyPrometheus,
	"target-logql-auto-rule": onlyPrometheus,
	"target-promql-rule": func(d linted) []string {
		return eachQuery(d, func(metricsql.Expr) string { return "" })
	},
	"target-rate-interval-rule": func(d linted) []string {
		return eachQuery(d, func(e metricsql.Expr) (wrong string) {
			metricsql.VisitAll(e, func(e metricsql.Expr) {
				f, ok := e.(*metricsql.FuncExpr)
				if !ok || !slices.Contains([]string{"rate", "irate"}, f.Name) {
					return
				}
				if r, ok := f.Args[0].(*metricsql.RollupExpr); !ok || r.Window == nil || string(r.Window.AppendString(nil)) != intervalStandIn {
					wrong = f.Name + " over another range than $__rate_interval"
				}
			})
			return wrong
		})
	},
	"target-job-rule":      func(d linted) []string { return matched(d, "job") },
	"target-instance-rule": func(d linted) []string { return matched(d, "instance") },
	"target-counter-agg-rule": func(d linted) []string {
		return eachQuery(d, func(e metricsql.Expr) (wrong string) {
			rated := make(map[metricsql.Expr]bool)
			metricsql.VisitAll(e, func(e metricsql.Expr) { // the innermost come first
				if f, ok := e.(*metricsql.FuncExpr); ok && slices.Contains([]string{"rate", "irate", "increase"}, f.Name) {
					if r, ok := f.Args[0].(*metricsql.RollupExpr); ok {
						rated[r.Expr] = true
					}
				}
			})
			metricsql.VisitAll(e, func(e metricsql.Expr) {
				if m, ok := e.(*metricsql.MetricExpr); ok && strings.HasSuffix(nameOf(m), "_total") && !rated[m] {
					wrong = nameOf(m) + " is a counter and has no rate"
				}
			})
			return wrong
		})
	},
	"uneditable-dashboard": func(d linted) (wrong []string) {
		if d.Editable == nil || *d.Editable {
			wrong = append(wrong, "it can be edited")
		}
		return wrong
	},
}

func queried(d linted) []variable {
	return slices.DeleteFunc(slices.Clone(d.Templating.List), func(v variable) bool { return v.Type != "query" })
}

func template(d linted, name, label string) (wrong []string) {
	i := slices.IndexFunc(d.Templating.List, func(v variable) bool { return v.Name == name })
	if i < 0 {
		return []string{"there is no variable " + name}
	}
	if v := d.Templating.List[i]; v.Type != "query" || v.Label != label || v.Datasource.UID != "${datasource}" || !v.Multi || v.AllValue != ".+" {
		wrong = append(wrong, fmt.Sprintf("%+v", v))
	}
	return wrong
}

func eachPanel(d linted, look func(p lintedPanel) string) (wrong []string) {
	for _, p := range d.Panels {
		if p.Type == "row" {
			continue
		}
		if text := look(p); text != "" {
			wrong = append(wrong, fmt.Sprintf("panel %q: %s", p.Title, text))
		}
	}
	return wrong
}

// eachQuery parses every query.
func eachQuery(d linted, look func(e metricsql.Expr) string) []string {
	return eachPanel(d, func(p lintedPanel) string {
		for _, t := range p.Targets {
			parsed, err := metricsql.Parse(strings.NewReplacer("$__rate_interval", intervalStandIn).Replace(t.Expr))
			if err != nil {
				return err.Error()
			}
			if text := look(parsed); text != "" {
				return text + ": " + t.Expr
			}
		}
		return ""
	})
}

func onlyPrometheus(d linted) []string {
	return eachPanel(d, func(p lintedPanel) string {
		for _, t := range p.Targets {
			if t.Datasource.Type != "prometheus" || t.Datasource.UID != "${datasource}" {
				return "a query of " + t.Datasource.Type
			}
		}
		return ""
	})
}

// matched holds that every selector follows a variable.
func matched(d linted, name string) []string {
	return eachQuery(d, func(e metricsql.Expr) (wrong string) {
		metricsql.VisitAll(e, func(e metricsql.Expr) {
			m, ok := e.(*metricsql.MetricExpr)
			if !ok {
				return
			}
			for _, filters := range m.LabelFilterss {
				if !slices.ContainsFunc(filters, func(f metricsql.LabelFilter) bool {
					return f.Label == name && f.Value == "$"+name && f.IsRegexp && !f.IsNegative
				}) {
					wrong = nameOf(m) + ` lacks ` + name + `=~"$` + name + `"`
				}
			}
		})
		return wrong
	})
}

func nameOf(m *metricsql.MetricExpr) string {
	for _, filters := range m.LabelFilterss {
		for _, f := range filters {
			if f.Label == "__name__" {
				return f.Value
			}
		}
	}
	return ""
}

// TestLinter holds the dashboards against the rules of Grafana's own linter.
func TestLinter(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"overview", "integrity", "failures", "maintenance", "recovery", "exporter"} {
		content, err := fs.ReadFile(dashboards.FS, file+".json")
		if err != nil {
			t.Fatal(err)
		}
		for name, wrong := range complaints(t, string(content)) {
			for _, text := range wrong {
				t.Errorf("%s: %s: %s", file, name, text)
			}
		}
	}
}

// TestLinterFinds spoils a dashboard in one way for each rule, which that rule
// must notice.
func TestLinterFinds(t *testing.T) {
	t.Parallel()
	content, err := fs.ReadFile(dashboards.FS, "overview.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string][]string{
		"template-datasource-rule":            {`"query": "prometheus"`, `"query": "loki"`},
		"template-job-rule":                   {`"label": "Job"`, `"label": "J"`},
		"template-instance-rule":              {`"name": "instance"`, `"name": "server"`},
		"template-label-promql-rule":          {`label_values(pgintegrity_up, job)`, `label_values(pgintegrity_up{, job)`},
		"template-on-time-change-reload-rule": {`"refresh": 2`, `"refresh": 1`},
		"panel-datasource-rule":               {`"uid": "${datasource}"`, `"uid": "prometheus"`},
		"panel-title-description-rule":        {`"title": "Damaged objects"`, `"title": ""`},
		"panel-units-rule":                    {`"unit": "short"`, `"unit": "things"`},
		"panel-no-targets-rule":               {`"targets": [`, `"aims": [`},
		"target-logql-rule":                   {`"type": "prometheus"`, `"type": "loki"`},
		"target-logql-auto-rule":              {`"type": "prometheus"`, `"type": "loki"`},
		"target-promql-rule":                  {`"expr": "avg(`, `"expr": "avg((`},
		"target-rate-interval-rule":           {`increase(`, `rate(`, `$__rate_interval`, `5m`},
		"target-job-rule":                     {`job=~\"$job\"`, `job=~\"x\"`},
		"target-instance-rule":                {`instance=~\"$instance\"`, `instance=\"$instance\"`},
		"target-counter-agg-rule":             {`increase(`, `sum(`},
		"uneditable-dashboard":                {`"editable": false`, `"editable": true`},
	} {
		spoiled := strings.NewReplacer(spoil...).Replace(string(content))
		if spoiled == string(content) || len(complaints(t, spoiled)[name]) == 0 {
			t.Errorf("%s does not notice %s", name, spoil[1])
		}
	}
	if len(rules) != 17 {
		t.Errorf("%d rules", len(rules))
	}
}

// complaints are what each rule says of a dashboard.
func complaints(t *testing.T, content string) map[string][]string {
	t.Helper()
	var d linted
	if err := json.Unmarshal([]byte(content), &d); err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]string)
	for name, rule := range rules {
		found[name] = rule(d)
	}
	return found
}

// TestDashboardLinks hold that going from one dashboard to the next keeps the
// time and what was chosen.
func TestDashboardLinks(t *testing.T) {
	t.Parallel()
	for _, d := range dashboards.All() {
		content, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var model struct {
			Tags  []string
			Links []struct {
				Type                  string
				KeepTime, IncludeVars bool
				Tags                  []string
			}
		}
		if err := json.Unmarshal(content, &model); err != nil {
			t.Fatal(err)
		}
		if len(model.Links) != 1 || !model.Links[0].KeepTime || !model.Links[0].IncludeVars || model.Links[0].Type != "dashboards" ||
			len(model.Links[0].Tags) != 1 || !slices.Contains(model.Tags, model.Links[0].Tags[0]) {
			t.Errorf("%s: %+v", d.Name, model)
		}
	}
}

// TestObjectives hold that a Stat with an objective turns red by it.
func TestObjectives(t *testing.T) {
	t.Parallel()
	count := 0
	for _, d := range dashboards.All() {
		content, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var model struct {
			Panels []struct {
				Type, Title     string
				Targets         []struct{ RefID, LegendFormat string }
				Transformations []struct {
					ID      string
					Options struct {
						ConfigRefID string
						Mappings    []struct{ FieldName, HandlerKey string }
					}
				}
			}
		}
		if err := json.Unmarshal(content, &model); err != nil {
			t.Fatal(err)
		}
		for _, p := range model.Panels {
			if p.Type != "stat" || len(p.Targets) == 1 {
				continue
			}
			count++
			if len(p.Transformations) != 1 || p.Transformations[0].ID != "configFromData" || len(p.Targets) != 2 ||
				p.Transformations[0].Options.ConfigRefID != p.Targets[1].RefID || p.Transformations[0].Options.Mappings[0].FieldName != p.Targets[1].LegendFormat ||
				p.Transformations[0].Options.Mappings[0].HandlerKey != "threshold1" {
				t.Errorf("%s, %s: %+v", d.Name, p.Title, p)
			}
		}
	}
	if count < 6 {
		t.Errorf("only %d", count)
	}
}
