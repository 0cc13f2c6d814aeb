package alerts_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"pg_integrity_exporter/alerts"
	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/promql"
)

// expressions are all expressions of rules by name.
func expressions(t *testing.T) (names []string, exprs map[string]string, schema promql.Schema) {
	t.Helper()
	exprs, schema = make(map[string]string), promql.NewSchema()
	for _, group := range alerts.Groups() {
		for _, record := range group.Records {
			exprs[record.Name] = expand(t, record.Expr, nil)
			names = append(names, record.Name)
			if err := schema.Record(record.Name, exprs[record.Name]); err != nil {
				t.Fatal(err)
			}
		}
		for _, alert := range group.Alerts {
			exprs[alert.Key()] = expand(t, alert.Expr, alert.Thresholds)
			names = append(names, alert.Key())
		}
	}
	return names, exprs, schema
}

// TestLint holds what promtool does not see: that both sides of an operator can
// have the same labels, and that a rate is taken of a counter.
func TestLint(t *testing.T) {
	names, exprs, schema := expressions(t)
	for _, name := range names {
		if err := schema.Lint(exprs[name]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLintFinds shows the linter the mistakes of well-known rule sets.
func TestLintFinds(t *testing.T) {
	_, _, schema := expressions(t)
	for _, expr := range []string{
		`rate(pgintegrity_locks_oldest_wait_seconds[5m]) > 1`,
		`delta(pgintegrity_errors_total[5m]) > 1`,
		`sum(pgintegrity_errors_total) > 5`, `pgintegrity_errors_total offset 5m > 5`,
		`rate(pgintegrity_errors_total{sqlstate=~"XX001"}[5m]) > 0`,
		`sum by (instance) (pgintegrity_connections) / pgintegrity_connections_limit > 0.8`,
		`pgintegrity_data_checksums_enabled == 1 and increase(pgintegrity_checksum_failures_total[5m]) > 0`,
		`increase(pgintegrity_checksum_failures_total[5m]) > 0 and on (slot_name) pgintegrity_up`,
	} {
		if schema.Lint(expr) == nil {
			t.Errorf("%s passes", expr)
		}
	}
}

// TestEveryAlertIsConditional holds that no alert fires always but the one that is
// meant to.
func TestEveryAlertIsConditional(t *testing.T) {
	for _, group := range alerts.Groups() {
		for _, alert := range group.Alerts {
			if conditional, err := promql.Conditional(expand(t, alert.Expr, alert.Thresholds)); err != nil || conditional != (alert.Name != "PostgresWatchdog") {
				t.Errorf("%s compares something: %t (%v)", alert.Key(), conditional, err)
			}
		}
	}
}

// TestCountersExistBeforeTheirFirstEvent holds that the series that rates are
// taken of exist at 0 on a healthy server: a counter that is born at 1 has no
// rate, and its first event would be missed.
func TestCountersExistBeforeTheirFirstEvent(t *testing.T) {
	goldens := readGoldens(t)
	names, exprs, _ := expressions(t)
	for _, name := range names {
		counters, err := promql.Counters(exprs[name])
		if err != nil {
			t.Fatal(err)
		}
		for _, filters := range counters {
			metric := filters["__name__"]
			for label, pattern := range filters {
				if label == "__name__" || !strings.HasPrefix(metric, "pgintegrity_") {
					continue
				}
				for value := range strings.SplitSeq(pattern, "|") {
					match, err := regexp.Compile("^" + regexp.QuoteMeta(metric) + " " + label + " (?:" + value + ")$")
					if err != nil {
						t.Fatal(err)
					}
					if !slices.ContainsFunc(keys(goldens), match.MatchString) {
						t.Errorf("%s: no healthy server has %s with %s=%q", name, metric, label, value)
					}
				}
			}
		}
	}
}

func keys(set map[string]bool) []string {
	list := make([]string, 0, len(set))
	for key := range set {
		list = append(list, key)
	}
	return list
}

// TestEveryFindingHasAnAlert holds that no check reports into silence.
func TestEveryFindingHasAnAlert(t *testing.T) {
	names, exprs, _ := expressions(t)
	heard := func(kind check.Kind) bool {
		for _, name := range names {
			selectors, err := promql.Selectors(exprs[name])
			if err != nil {
				t.Fatal(err)
			}
			for _, filters := range selectors {
				if filters["__name__"] == "pgintegrity_check_findings" && filters["class"] == string(kind.Class) &&
					(filters["severity"] == string(kind.Severity) || filters["severity"] == "") {
					return true
				}
			}
		}
		return false
	}
	for _, c := range check.All() {
		for _, kind := range c.Kinds {
			if kind.Severity != check.SeverityInfo && !heard(kind) {
				t.Errorf("findings of check %s of class %s and severity %s raise no alert", c.Name, kind.Class, kind.Severity)
			}
		}
	}
}
