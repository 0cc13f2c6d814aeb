package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// template is a ready-made invariant. Parameters stand in its SQL between
// braces; one with a default may be left out.
type template struct {
	sql      string
	defaults map[string]string
	required []string
	message  string
	impact   string
}

// templates are the ready-made invariants by name.
var templates = map[string]template{
	"balanced_journal": {
		sql: `SELECT {entry} AS entry, sum({amount}) AS difference, count(*) AS lines FROM {table} WHERE ({where})
			GROUP BY {entry} HAVING sum({amount}) IS DISTINCT FROM 0 ORDER BY 1`,
		required: []string{"table", "entry", "amount"}, defaults: map[string]string{"where": "true"},
		message: "entries whose debits and credits are not equal",
		impact:  "The books do not balance: a line of an entry is missing, doubled or has another amount, and every report over it is wrong.",
	},
	"balance_equals_entries": {
		sql: `SELECT a.{key} AS account, a.{balance} AS balance, {opening} + coalesce(e.total, 0) AS entries
			FROM {accounts} AS a LEFT JOIN (SELECT {account} AS account, sum({amount}) AS total FROM {entries} WHERE ({where}) GROUP BY {account}) AS e ON e.account = a.{key}
			WHERE a.{balance} IS DISTINCT FROM {opening} + coalesce(e.total, 0) ORDER BY 1`,
		required: []string{"accounts", "key", "balance", "entries", "account", "amount"}, defaults: map[string]string{"opening": "0", "where": "true"},
		message: "balances that are not the sum of their entries",
		impact:  "A stored balance or one of its entries is wrong: customers and reports see amounts that did not come about.",
	},
	"gapless_series": {
		sql: `SELECT series, before AS number_before, number AS next_number FROM (
				SELECT {series} AS series, {number} AS number, coalesce(lag({number}) OVER (PARTITION BY {series} ORDER BY {number}), {start} - 1) AS before
				FROM {table} WHERE ({where})) AS numbers
			WHERE number <> before + 1 ORDER BY 1, 3`,
		required: []string{"table", "number"}, defaults: map[string]string{"series": "1", "start": "NULL::bigint", "where": "true"},
		message: "numbers that are missing or there twice",
		impact:  "Documents are lost or were numbered twice, which auditors and tax offices do not accept.",
	},
	"hash_chain": {
		sql: `SELECT chain, position, CASE WHEN hash IS DISTINCT FROM computed THEN 'hash' ELSE 'previous' END AS wrong,
				CASE WHEN hash IS DISTINCT FROM computed THEN hash ELSE kept END AS kept, CASE WHEN hash IS DISTINCT FROM computed THEN computed WHEN n > 1 THEN expected ELSE {first} END AS expected FROM (
				SELECT {chain} AS chain, {order} AS position, {previous}::text AS kept, lag({hash}::text) OVER (PARTITION BY {chain} ORDER BY {order}) AS expected,
				{hash}::text AS hash, ({computed})::text AS computed, row_number() OVER (PARTITION BY {chain} ORDER BY {order}) AS n FROM {table}) AS links
			WHERE (n > 1 AND kept IS DISTINCT FROM expected) OR (n = 1 AND {first} IS NOT NULL AND kept IS DISTINCT FROM {first}) OR hash IS DISTINCT FROM computed ORDER BY 1, 2`,
		required: []string{"table", "order", "hash", "previous"}, defaults: map[string]string{"chain": "1", "computed": "{hash}", "first": "NULL::text"},
		message: "links of the chain that are broken",
		impact:  "Rows of a log that must never change were changed, lost or put in between: it proves nothing from there on.",
	},
	"monotonic_counter": {
		sql: `SELECT series, position, before, value FROM (
				SELECT {series} AS series, {order} AS position, {value} AS value, lag({value}) OVER (PARTITION BY {series} ORDER BY {order}) AS before
				FROM {table} WHERE ({where}) AND {value} IS NOT NULL) AS readings
			WHERE value < before ORDER BY 1, 2`,
		required: []string{"table", "order", "value"}, defaults: map[string]string{"series": "1", "where": "true"},
		message: "values that went back",
		impact:  "A counter that only rises went back: readings are lost, out of order or overwritten.",
	},
	"no_future_dates": {
		sql:      `SELECT {key} AS key, {column} AS value FROM {table} WHERE {column} > now() + {tolerance}::interval AND ({where}) ORDER BY 2 DESC`,
		required: []string{"table", "column", "key"}, defaults: map[string]string{"tolerance": "'1 day'", "where": "true"},
		message: "dates that lie in the future",
		impact:  "Dates are damaged or were entered wrongly: periods, due dates and interest are computed from them.",
	},
	"parent_child_totals": {
		sql: `SELECT p.{key} AS parent, p.{total} AS total, coalesce(c.total, 0) AS children
			FROM {parent} AS p LEFT JOIN (SELECT {reference} AS parent, sum({amount}) AS total FROM {child} GROUP BY {reference}) AS c ON c.parent = p.{key}
			WHERE p.{total} IS DISTINCT FROM coalesce(c.total, 0) AND ({where}) ORDER BY 1`,
		required: []string{"parent", "key", "total", "child", "reference", "amount"}, defaults: map[string]string{"where": "true"},
		message: "totals that are not the sum of their parts",
		impact:  "Orders, invoices or payrolls do not agree with their lines: parts are lost, doubled or changed.",
	},
}

// TemplateNames lists the ready-made invariants.
func TemplateNames() []string { return slices.Sorted(maps.Keys(templates)) }

// Expand makes the SQL and the texts of an invariant from its template, if it
// has one.
func (i Invariant) Expand() (Invariant, error) {
	if i.Template == "" {
		return i, nil
	}
	t, ok := templates[i.Template]
	if !ok {
		return i, fmt.Errorf("there is no template %q; there are: %s", i.Template, strings.Join(TemplateNames(), ", "))
	}
	values := maps.Clone(t.defaults)
	known := slices.Sorted(slices.Values(slices.Concat(t.required, slices.Collect(maps.Keys(t.defaults)))))
	for name, value := range i.Parameters {
		if !slices.Contains(known, name) {
			return i, fmt.Errorf("the template %s has no parameter %q; it has: %s", i.Template, name, strings.Join(known, ", "))
		}
		values[name] = value
	}
	for _, name := range t.required {
		if strings.TrimSpace(values[name]) == "" {
			return i, fmt.Errorf("the template %s needs the parameter %q", i.Template, name)
		}
	}
	i.SQL = t.sql
	for range 2 { // a default may name another parameter
		for name, value := range values {
			i.SQL = strings.ReplaceAll(i.SQL, "{"+name+"}", value)
		}
	}
	if i.Message == "" {
		i.Message = t.message
	}
	if i.Impact == "" {
		i.Impact = t.impact
	}
	return i, nil
}
