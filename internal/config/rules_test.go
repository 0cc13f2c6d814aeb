package config

import (
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
)

func TestRules(t *testing.T) {
	t.Parallel()
	validated, err := Parse([]byte(`
checks: {constraint: {interval: 6h}}
constraints: {complete_within: 24h}
invariants:
  - name: journal
    databases: [erp]
    template: balanced_journal
    parameters: {table: ledger.postings, entry: entry_id, amount: amount}
  - {name: total, databases: ["erp*"], sql: "SELECT 1", expect: {min: "0.5", max: 2}, severity: warning, interval: 2m, timeout: 3s}
sealed:
  - {name: months, databases: [erp], table: ledger.postings, where: booked < now(), range: "to_char(booked, 'YYYY-MM')"}
materialized_views: [{view: ledger.totals, databases: [erp], severity: info}]
transactions:
  - {name: postings, database: erp, sql: "SELECT 'done', 1", max_silence: 1h, working_hours: "mon-fri 08:00-18:00", time_zone: Europe/Berlin}
`))
	if err != nil {
		t.Fatal(err)
	}
	c := validated.Get()
	rules := c.Rules()
	if rules.Parts != 4 || rules.LargeTable != 1<<30 || len(rules.Invariants) != 2 || len(rules.Sealed) != 1 || len(rules.MaterializedViews) != 1 {
		t.Errorf("%+v", rules)
	}
	journal, total := rules.Invariants[0], rules.Invariants[1]
	if journal.Severity != check.SeverityCritical || journal.Interval != time.Hour || journal.Timeout != 5*time.Minute || !journal.Expect.NoRows {
		t.Errorf("defaults: %+v", journal)
	}
	if total.Severity != check.SeverityWarning || total.Interval != 2*time.Minute || total.Expect.NoRows || total.Expect.Min != "0.5" || total.Expect.Max != "2" {
		t.Errorf("given: %+v", total)
	}
	if list := c.Business(); len(list) != 1 || list[0].MaxSilence != time.Hour || list[0].Interval != 30*time.Second || list[0].MaxFailureRatio != 0.05 {
		t.Errorf("%+v", list)
	}
	text, err := validated.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(text); err != nil {
		t.Errorf("what is printed is not valid: %v\n%s", err, text)
	}
}

func TestRulesErrors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"no name":           {"invariants:\n  - {databases: [erp], sql: SELECT 1}\n", `line 2: invariants.0.name: must be of letters`},
		"no databases":      {"invariants:\n  - name: a\n    sql: SELECT 1\n", "line 2: invariants.0.databases: say in which databases"},
		"unknown key":       {"invariants:\n  - name: a\n    sgl: SELECT 1\n", "line 3: unknown key sgl"},
		"twice":             {"invariants:\n  - {name: a, databases: [x], sql: SELECT 1}\n  - {name: a, databases: [x], sql: SELECT 1}\n", "line 3: invariants.1.name: there are two entries"},
		"no SELECT":         {"invariants: [{name: a, databases: [x], sql: DELETE FROM a}]\n", "invariants.0.sql: must be one SELECT"},
		"no SQL":            {"invariants: [{name: a, databases: [x]}]\n", "give sql, or a template: balance_equals_entries, balanced_journal"},
		"unknown template":  {"invariants: [{name: a, databases: [x], template: magic, parameters: {a: b}}]\n", `there is no template "magic"`},
		"unknown parameter": {"invariants: [{name: a, databases: [x], template: balanced_journal, parameters: {tabel: b}}]\n", `has no parameter "tabel"; it has: amount, entry, table, where`},
		"missing parameter": {"invariants: [{name: a, databases: [x], template: balanced_journal, parameters: {table: b}}]\n", `needs the parameter "entry"`},
		"severity":          {"invariants: [{name: a, databases: [x], sql: SELECT 1, severity: bad}]\n", "must be critical, warning or info"},
		"interval":          {"invariants: [{name: a, databases: [x], sql: SELECT 1, interval: 1s}]\n", "invariants.0.interval: must be at least 1m0s"},
		"bounds":            {"invariants: [{name: a, databases: [x], sql: SELECT 1, expect: {min: 2, max: 1}}]\n", "min must not be more than max"},
		"no number":         {"invariants: [{name: a, databases: [x], sql: SELECT 1, expect: {min: much}}]\n", `"much" is not a number`},
		"both expectations": {"invariants: [{name: a, databases: [x], sql: SELECT 1, expect: {min: 1, equal_to: SELECT 2}}]\n", "equal_to excludes min and max"},
		"no schema":         {"sealed: [{name: a, databases: [x], table: postings}]\n", "must be SCHEMA.NAME"},
		"moving":            {"sealed:\n  - name: a\n    databases: [x]\n    table: l.p\n    where: d < current_date\n", "line 5: sealed.0.where: its rows become more as time goes by"},
		"view":              {"materialized_views: [{view: totals, databases: [x]}]\n", "must be SCHEMA.NAME"},
		"hours":             {"transactions: [{name: a, database: x, sql: SELECT 1, working_hours: always}]\n", `"always" is not like`},
		"zone":              {"transactions: [{name: a, database: x, sql: SELECT 1, time_zone: Mars}]\n", `"Mars" is no time zone`},
		"ratio":             {"transactions: [{name: a, database: x, sql: SELECT 1, max_failure_ratio: 5}]\n", "must be between 0 and 1"},
		"large table":       {"constraints: {large_table: 0B}\n", "line 1: constraints.large_table: must be more than 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}
