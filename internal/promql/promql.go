// Package promql holds expressions of rules and dashboards against the metric
// families that the exporter really has: a name or label that does not exist
// would make an alert that can never fire. Only tests use it.
package promql

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/VictoriaMetrics/metricsql"

	"pg_integrity_exporter/collector"
)

// nameLabel is the label that holds the name of a metric.
const nameLabel = "__name__"

// targetLabels are the labels that Prometheus adds to every series.
var targetLabels = []string{"job", "instance"}

// foreign are the series of Prometheus itself, with their labels.
var foreign = map[string][]string{
	"up":                            nil,
	"process_resident_memory_bytes": nil,
	"process_cpu_seconds_total":     nil,
	"ALERTS":                        {"alertname", "alertstate", "layer", "severity"},
}

// Schema is what series exist, with their labels.
type Schema map[string][]string

// NewSchema knows the exporter's families and those of Prometheus.
func NewSchema() Schema {
	schema := make(Schema)
	for name, labels := range foreign {
		schema[name] = slices.Concat(labels, targetLabels)
	}
	for _, family := range collector.Families() {
		schema[family.Name] = slices.Concat(family.Labels, targetLabels)
	}
	return schema
}

// Record adds the series that a recording rule makes.
func (s Schema) Record(name, expr string) error {
	labels, err := s.Check(expr)
	if err != nil {
		return err
	}
	s[name] = labels
	return nil
}

// Check gives an error for a metric that does not exist, a label that the
// metric does not have, and a grouping by a label that no metric in the
// expression has. It returns the labels that the result may have.
func (s Schema) Check(expr string) ([]string, error) {
	parsed, err := metricsql.Parse(expr)
	if err != nil {
		return nil, fmt.Errorf("parsing %s: %w", expr, err)
	}
	var known, grouped, dropped []string
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		switch e := e.(type) {
		case *metricsql.MetricExpr:
			labels, selectorErr := s.selector(e)
			known = append(known, labels...)
			if err == nil {
				err = selectorErr
			}
		case *metricsql.FuncExpr:
			if text, ok := labelReplaced(e); ok {
				known = append(known, text)
			}
		case *metricsql.AggrFuncExpr:
			grouped = append(grouped, e.Modifier.Args...)
			if e.Modifier.Op == "without" {
				dropped = append(dropped, e.Modifier.Args...)
			}
		case *metricsql.BinaryOpExpr:
			grouped = append(grouped, e.GroupModifier.Args...)
			grouped = append(grouped, e.JoinModifier.Args...)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	for _, label := range grouped {
		if !slices.Contains(known, label) {
			return nil, fmt.Errorf("%s: no metric has the label %s", expr, label)
		}
	}
	slices.Sort(known)
	known = slices.DeleteFunc(slices.Compact(known), func(label string) bool { return slices.Contains(dropped, label) })
	return known, nil
}

// labelReplaced is the label that label_replace() makes.
func labelReplaced(e *metricsql.FuncExpr) (label string, ok bool) {
	if e.Name != "label_replace" || len(e.Args) < 2 {
		return "", false
	}
	text, ok := e.Args[1].(*metricsql.StringExpr)
	if !ok {
		return "", false
	}
	return text.S, true
}

// selector checks one selector and gives the labels of its metric.
func (s Schema) selector(e *metricsql.MetricExpr) ([]string, error) {
	var all []string
	for _, filters := range e.LabelFilterss {
		i := slices.IndexFunc(filters, func(f metricsql.LabelFilter) bool {
			return f.Label == nameLabel && !f.IsRegexp && !f.IsNegative
		})
		if i < 0 {
			return nil, errors.New("a selector names no metric")
		}
		labels, ok := s[filters[i].Value]
		if !ok {
			return nil, fmt.Errorf("there is no metric %q", filters[i].Value)
		}
		for _, filter := range filters {
			if filter.Label != nameLabel && !slices.Contains(labels, filter.Label) {
				return nil, fmt.Errorf("%s has no label %s", filters[i].Value, filter.Label)
			}
		}
		all = append(all, labels...)
	}
	return all, nil
}

// Series takes a series such as name{label="value"} apart.
func Series(text string) (name string, labels map[string]string, err error) {
	parsed, err := metricsql.Parse(text)
	if err != nil {
		return "", nil, fmt.Errorf("parsing %s: %w", text, err)
	}
	e, ok := parsed.(*metricsql.MetricExpr)
	if !ok || len(e.LabelFilterss) != 1 {
		return "", nil, fmt.Errorf("%s is not a series", text)
	}
	labels = make(map[string]string)
	for _, filter := range e.LabelFilterss[0] {
		if filter.IsRegexp || filter.IsNegative {
			return "", nil, fmt.Errorf("%s is not one series", text)
		}
		if filter.Label == nameLabel {
			name = strings.Clone(filter.Value)
			continue
		}
		labels[filter.Label] = filter.Value
	}
	return name, labels, nil
}
