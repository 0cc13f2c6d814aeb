package promql

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/VictoriaMetrics/metricsql"

	"pg_integrity_exporter/collector"
)

// Lint finds what a parser takes and what can still never work: a rate of a
// gauge, the value of a counter as it stands, a pattern that is none, and two sides
// of an operator whose labels can never be equal.
func (s Schema) Lint(expr string) error {
	parsed, err := metricsql.Parse(expr)
	if err != nil {
		return fmt.Errorf("parsing %s: %w", expr, err)
	}
	ranges := make(map[metricsql.Expr]bool) // selectors over a stretch of time
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		if rollup, ok := e.(*metricsql.RollupExpr); ok && rollup.Window != nil {
			ranges[rollup.Expr] = true
		}
	})
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		if err != nil {
			return
		}
		switch e := e.(type) {
		case *metricsql.MetricExpr:
			err = lintSelector(e, ranges[e])
		case *metricsql.FuncExpr:
			err = lintFunction(e)
		case *metricsql.BinaryOpExpr:
			err = s.lintMatching(e)
		}
	})
	if err != nil {
		return fmt.Errorf("%s: %w", expr, err)
	}
	return nil
}

// The functions that only make sense for counters, and only for gauges.
var (
	forCounters = []string{"rate", "irate", "increase"}
	forGauges   = []string{"delta", "idelta", "deriv", "predict_linear"}
)

func lintFunction(e *metricsql.FuncExpr) error {
	name := strings.ToLower(e.Name)
	wantCounter, wantGauge := slices.Contains(forCounters, name), slices.Contains(forGauges, name)
	if !wantCounter && !wantGauge || len(e.Args) == 0 {
		return nil
	}
	metric := metricOf(e.Args[0])
	for _, family := range collector.Families() {
		if family.Name == metric && (family.Type == collector.Counter) != wantCounter {
			return fmt.Errorf("%s() of the %s %s", name, family.Type, metric)
		}
	}
	return nil
}

// lintSelector finds a counter whose value is used as it stands, which only says
// how long it has counted, and a pattern that is a plain value.
func lintSelector(e *metricsql.MetricExpr, overTime bool) error {
	if i := slices.IndexFunc(collector.Families(), func(f *collector.Family) bool { return f.Name == metricOf(e) }); i >= 0 && !overTime && collector.Families()[i].Type == collector.Counter {
		return fmt.Errorf("the value of the counter %s", metricOf(e))
	}
	for _, filters := range e.LabelFilterss {
		for _, filter := range filters {
			if filter.IsRegexp && regexp.QuoteMeta(filter.Value) == filter.Value {
				return fmt.Errorf("%s of %s is a plain value, compared as a pattern", filter.Label, metricOf(e))
			}
		}
	}
	return nil
}

// Conditional says whether an expression compares anything, or asks for what is
// absent: an alert whose expression does not fires always.
func Conditional(expr string) (bool, error) {
	parsed, err := metricsql.Parse(expr)
	if err != nil {
		return false, fmt.Errorf("parsing %s: %w", expr, err)
	}
	found := false
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		switch e := e.(type) {
		case *metricsql.BinaryOpExpr:
			found = found || slices.Contains([]string{"==", "!=", ">", "<", ">=", "<="}, e.Op) && !e.Bool
		case *metricsql.FuncExpr:
			found = found || strings.HasPrefix(e.Name, "absent")
		}
	})
	return found, nil
}

// metricOf is the name of the metric of a selector, or "".
func metricOf(e metricsql.Expr) string {
	if rollup, ok := e.(*metricsql.RollupExpr); ok {
		e = rollup.Expr
	}
	selector, ok := e.(*metricsql.MetricExpr)
	if !ok {
		return ""
	}
	for _, filters := range selector.LabelFilterss {
		for _, filter := range filters {
			if filter.Label == nameLabel {
				return filter.Value
			}
		}
	}
	return ""
}

// Counters lists the selectors of counters that rates are taken of, each with
// its filters by label.
func Counters(expr string) ([]map[string]string, error) {
	parsed, err := metricsql.Parse(expr)
	if err != nil {
		return nil, fmt.Errorf("parsing %s: %w", expr, err)
	}
	var found []map[string]string
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		function, ok := e.(*metricsql.FuncExpr)
		if !ok || !slices.Contains(forCounters, strings.ToLower(function.Name)) || len(function.Args) == 0 {
			return
		}
		found = append(found, Filters(function.Args[0]))
	})
	return found, nil
}

// Filters are the filters of a selector that must match, by label.
func Filters(e metricsql.Expr) map[string]string {
	if rollup, ok := e.(*metricsql.RollupExpr); ok {
		e = rollup.Expr
	}
	filters := make(map[string]string)
	if selector, ok := e.(*metricsql.MetricExpr); ok {
		for _, list := range selector.LabelFilterss {
			for _, filter := range list {
				if !filter.IsNegative {
					filters[strings.Clone(filter.Label)] = strings.Clone(filter.Value)
				}
			}
		}
	}
	return filters
}

// Selectors lists the filters of every selector.
func Selectors(expr string) ([]map[string]string, error) {
	parsed, err := metricsql.Parse(expr)
	if err != nil {
		return nil, fmt.Errorf("parsing %s: %w", expr, err)
	}
	var found []map[string]string
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		if selector, ok := e.(*metricsql.MetricExpr); ok {
			found = append(found, Filters(selector))
		}
	})
	return found, nil
}

// labelled is what is known of the labels of an expression: a scalar has none
// and matches everything.
type labelled struct {
	labels []string
	scalar bool
}

func (l labelled) without(names []string) []string {
	return slices.DeleteFunc(slices.Clone(l.labels), func(name string) bool { return slices.Contains(names, name) })
}

// labelsOf follows the labels through an expression.
func (s Schema) labelsOf(e metricsql.Expr) labelled {
	switch e := e.(type) {
	case *metricsql.MetricExpr:
		labels := slices.Clone(s[metricOf(e)])
		slices.Sort(labels)
		return labelled{labels: labels}
	case *metricsql.RollupExpr:
		return s.labelsOf(e.Expr)
	case *metricsql.NumberExpr, *metricsql.DurationExpr, *metricsql.StringExpr:
		return labelled{scalar: true}
	case *metricsql.AggrFuncExpr:
		inner := labelled{}
		if len(e.Args) > 0 {
			inner = s.labelsOf(e.Args[len(e.Args)-1])
		}
		switch strings.ToLower(e.Modifier.Op) {
		case "by":
			return labelled{labels: slices.Sorted(slices.Values(e.Modifier.Args))}
		case "without":
			return labelled{labels: inner.without(e.Modifier.Args)}
		}
		return labelled{}
	case *metricsql.FuncExpr:
		return s.labelsOfFunction(e)
	case *metricsql.BinaryOpExpr:
		return s.labelsOfOperator(e)
	}
	return labelled{}
}

func (s Schema) labelsOfFunction(e *metricsql.FuncExpr) labelled {
	switch strings.ToLower(e.Name) {
	case "time", "scalar":
		return labelled{scalar: true}
	case "vector":
		return labelled{}
	}
	var inner labelled
	for _, arg := range e.Args {
		if of := s.labelsOf(arg); !of.scalar {
			inner = of
			break
		}
	}
	if label, ok := labelReplaced(e); ok && !slices.Contains(inner.labels, label) {
		inner.labels = slices.Sorted(slices.Values(append(slices.Clone(inner.labels), label)))
	}
	return inner
}

func (s Schema) labelsOfOperator(e *metricsql.BinaryOpExpr) labelled {
	left, right := s.labelsOf(e.Left), s.labelsOf(e.Right)
	switch {
	case left.scalar:
		return right
	case right.scalar, setOperator(e.Op), strings.EqualFold(e.JoinModifier.Op, "group_left"):
		return left
	case strings.EqualFold(e.JoinModifier.Op, "group_right"):
		return right
	case strings.EqualFold(e.GroupModifier.Op, "on"):
		return labelled{labels: slices.Sorted(slices.Values(e.GroupModifier.Args))}
	}
	return labelled{labels: left.without(e.GroupModifier.Args)}
}

func setOperator(op string) bool {
	return slices.Contains([]string{"and", "or", "unless"}, strings.ToLower(op))
}

// lintMatching compares the labels of both sides.
func (s Schema) lintMatching(e *metricsql.BinaryOpExpr) error {
	left, right := s.labelsOf(e.Left), s.labelsOf(e.Right)
	if left.scalar || right.scalar || strings.EqualFold(e.Op, "or") {
		return nil // or takes both sides as they are
	}
	switch strings.ToLower(e.GroupModifier.Op) {
	case "on":
		for _, label := range e.GroupModifier.Args {
			if !slices.Contains(left.labels, label) || !slices.Contains(right.labels, label) {
				return fmt.Errorf("%s on (%s): one side has %v and the other %v", e.Op, label, left.labels, right.labels)
			}
		}
	case "ignoring":
		if a, b := left.without(e.GroupModifier.Args), right.without(e.GroupModifier.Args); !slices.Equal(a, b) {
			return fmt.Errorf("%s: one side has the labels %v and the other %v", e.Op, a, b)
		}
	default:
		if !slices.Equal(left.labels, right.labels) {
			return fmt.Errorf("%s: one side has the labels %v and the other %v", e.Op, left.labels, right.labels)
		}
	}
	return nil
}
