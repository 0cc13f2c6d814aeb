package alerts

import (
	"slices"
	"strings"
	"time"
)

// The errors that are the server's fault and not a client's mistake: lost
// connections, serialization and deadlocks, resources, limits, cancelled
// statements, the system, internal errors. A restart is no fault: it ends every
// session (57P01) and turns away those who come back too early (57P03).
const serverFaults = `pgintegrity_errors_total{sqlstate=~"08.*|40.*|53.*|54.*|57014|57P02|57xxx|58.*|XX.*"}`

// The series that rules record. Two minutes are short enough to find a spike
// and to end with it, five carry the floors, and the history of five minutes
// is what a spike is compared with.
const (
	rollbacks       = `pgintegrity_transactions_total{outcome="rollback"}`
	rollbackRatio2m = "datname:pgintegrity_transactions_rollback:ratio_rate2m"
	rollbackRatio5m = "datname:pgintegrity_transactions_rollback:ratio_rate5m"
	rollbackUsual   = "datname:pgintegrity_transactions_rollback:ratio_usual"
	rollbackRate5m  = "datname:pgintegrity_transactions_rollback:rate5m"
	faults2m        = "datname:pgintegrity_server_faults:rate2m"
	faults5m        = "datname:pgintegrity_server_faults:rate5m"
	faultsUsual     = "datname:pgintegrity_server_faults:rate_usual"

	errorsBySQLState = "datname_sqlstate:pgintegrity_errors:rate2m"
	errorsByClass    = "datname_class:pgintegrity_log_errors:rate2m"
)

// transactionsOver and faultsOver are the names of recorded rates.
func transactionsOver(window string) string {
	return "datname:pgintegrity_transactions:rate" + window
}

func faultsOver(window string) string { return "datname:pgintegrity_server_faults:rate" + window }

// burnWindows are the windows of the error budget, the long one and the short
// one that makes an alert end soon after its cause.
var burnWindows = []string{"5m", "30m", "1h", "2h", "6h", "1d"}

// sumRate is a rate without the labels that only tell kinds apart.
func sumRate(metric, window string) string {
	labels := "outcome"
	if metric == serverFaults {
		labels = "sqlstate, condition_name"
	}
	return "sum without (" + labels + ") (rate(" + metric + "[" + window + "]))"
}

// errorRates records what the alerts about errors compare.
func errorRates() []Record {
	records := []Record{
		{rollbackRate5m, sumRate(rollbacks, "5m")},
		{rollbackRatio2m, sumRate(rollbacks, "2m") + " / (" + sumRate("pgintegrity_transactions_total", "2m") + " > 0)"},
		{rollbackRatio5m, rollbackRate5m + " / (" + sumRate("pgintegrity_transactions_total", "5m") + " > 0)"},
		{faults2m, sumRate(serverFaults, "2m")},
		// For dashboards. Nearly all of the series that the exporter has of errors are
		// those of errors that never happen: they are left out.
		{errorsBySQLState, "rate(pgintegrity_errors_total[2m]) > 0"},
		{errorsByClass, `sum without (severity) (rate(pgintegrity_log_messages_total{severity=~"ERROR|FATAL|PANIC"}[2m])) > 0`},
	}
	for _, window := range burnWindows {
		records = append(records,
			Record{transactionsOver(window), sumRate("pgintegrity_transactions_total", window)},
			Record{faultsOver(window), sumRate(serverFaults, window)})
	}
	return records
}

// usual is what is high but still usual for a series: the largest of the 95th
// percentile of the day up to an hour ago, and of the 90th percentiles of the
// two hours around this time yesterday and a week ago. Percentiles make one
// spike count for nothing; the hour keeps an incident from becoming usual
// while it lasts; yesterday and last week know jobs that run by the clock. A
// database that is new is compared with its first hour.
func usual(series string) string {
	windows := []struct{ name, expr string }{
		{"start", "quantile_over_time(0.95, " + series + "[1h] offset 10m) unless " + series + " offset 70m"},
		{"day", "quantile_over_time(0.95, " + series + "[1d] offset 1h)"},
		{"yesterday", "quantile_over_time(0.9, " + series + "[2h] offset 23h)"},
		{"week", "quantile_over_time(0.9, " + series + "[2h] offset 167h)"},
	}
	var parts []string
	for _, w := range windows {
		parts = append(parts, `label_replace(`+w.expr+`, "window", "`+w.name+`", "", "")`)
	}
	return "max without (window) (" + strings.Join(parts, " or ") + ")"
}

// history records what is usual for each database, so that no threshold needs
// tuning.
func history() Group {
	return Group{Name: "postgres-history", Interval: 5 * time.Minute, Records: []Record{
		{rollbackUsual, usual(rollbackRatio5m)},
		{faultsUsual, usual(faults5m)},
	}}
}

// burn is the condition that errors use up the budget so many times faster
// than allowed, over a long window and still now, with enough traffic in the
// long window to tell.
func burn(times, long, short string) string {
	over := func(window, floor string) string {
		return faultsOver(window) + " / (" + transactionsOver(window) + " > " + floor + ") > " + times + " * ${budget}"
	}
	return over(long, "${transactions_per_second}") + " and " + over(short, "0")
}

// failures asks what fails, and whether more fails than usual. Every ratio has
// a floor of traffic, so that a quiet database stays silent.
func failures() Group {
	const which = "topk(5, increase(pgintegrity_errors_total{instance=\"{{ $labels.instance }}\", datname=\"{{ $labels.datname }}\"}[5m])) in Prometheus says with which SQLSTATE; the server's log has the statements."
	budget := []Threshold{
		{"budget", 0.001, "errors of the server by transactions that are allowed in the long run, 0 to 1"},
		{"transactions_per_second", 0.3, "traffic below which no ratio counts"},
	}
	return Group{
		Name:    "postgres-errors",
		Records: errorRates(),
		Alerts: []Alert{
			{
				Name: "PostgresTransactionsFailing",
				Expr: "(" + rollbackRatio2m + " > ${times} * " + rollbackUsual + " or (" + rollbackRatio2m + " > ${ratio_without_history} unless " + rollbackUsual + ")) > ${ratio} and " + rollbackRate5m + " * 300 > ${rollbacks}",
				Thresholds: []Threshold{
					{"times", 3, "multiples of what is usual for the database"},
					{"ratio", 0.05, "share of transactions that must fail at least, 0 to 1"},
					{"ratio_without_history", 0.5, "share of transactions while nothing is known of the database, 0 to 1"},
					{"rollbacks", 20, "rollbacks within 5 minutes below which nothing counts"},
				},
				For: 2 * time.Minute, KeepFiringFor: 5 * time.Minute, Severity: Critical, Layer: Errors,
				Audience: Application, Inform: true, NeedsDatabase: true, Mutable: true,
				Summary:     "Far more transactions fail than usual.",
				Description: "{{ $value | humanizePercentage }} of the transactions of database {{ $labels.datname }} ({{ $labels.instance }}) fail, at least ${times} times what is usual for it.",
				Impact:      "What users do is not saved: work fails and is rolled back.",
				Action:      "Is an alert of layer integrity firing for this instance? Then begin with that one. Otherwise " + which,
			},
			{
				Name: "PostgresErrorSpike",
				Expr: faults2m + " > ${times} * " + faultsUsual + " and " + faults5m + " * 300 > ${errors}",
				Thresholds: []Threshold{
					{"times", 4, "multiples of what is usual for the database"},
					{"errors", 20, "errors within 5 minutes below which nothing counts"},
				},
				For: 2 * time.Minute, KeepFiringFor: 5 * time.Minute, Severity: Warning, Layer: Errors, NeedsDatabase: true, Mutable: true,
				Summary:     "The server reports far more errors of its own than usual.",
				Description: "{{ $value | humanize }} errors per second that are not mistakes of clients, in database {{ $labels.datname }} ({{ $labels.instance }}), at least ${times} times what is usual for it.",
				Impact:      "Some statements fail for reasons that the server, the storage or the load is to blame for.",
				Action:      which,
			},
			{
				Name: "PostgresErrorBudgetBurn", Expr: "((" + burn("14.4", "1h", "5m") + ") or (" + burn("6", "6h", "30m") + ")) and " + faults5m + " > ${times} * " + faultsUsual,
				Thresholds: append(slices.Clone(budget), Threshold{"times", 2, "multiples of what is usual for the database; one that always exceeds the budget is a ticket"}),
				For:        2 * time.Minute, Severity: Critical, Layer: Errors, NeedsDatabase: true, Mutable: true,
				Summary:     "The server fails statements far more often than is allowed in the long run.",
				Description: "{{ $value | humanizePercentage }} of the transactions of database {{ $labels.datname }} ({{ $labels.instance }}) meet an error of the server; {{ ${budget} | humanizePercentage }} of them may.",
				Impact:      "Users meet these errors now; at this rate a month's allowance of them is gone in two to five days.",
				Action:      which,
			},
			{
				Name: "PostgresErrorBudgetBurn", Expr: burn("3", "1d", "2h"), Thresholds: budget,
				For: time.Hour, Severity: Warning, Layer: Errors, NeedsDatabase: true, Mutable: true,
				Summary:     "The server has failed statements more often than is allowed, for a day.",
				Description: "{{ $value | humanizePercentage }} of the transactions of database {{ $labels.datname }} ({{ $labels.instance }}) meet an error of the server; {{ ${budget} | humanizePercentage }} of them may.",
				Impact:      "Users meet errors all day, in numbers that no spike shows; at this rate a month's allowance of them is gone in ten days.",
				Action:      which,
			},
			{
				Name: "PostgresResourceErrors",
				// Not 53400, a limit that works as it should, nor 58P01: COPY of a file that is
				// not there, a standby that asks for WAL that is gone; a missing data file is
				// corruption.
				Expr:          `sum without (sqlstate, condition_name) (increase(pgintegrity_errors_total{sqlstate=~"53100|53200|53300|58030|58xxx"}[10m])) > ${errors}`,
				Thresholds:    []Threshold{{"errors", 3, "errors within 10 minutes"}},
				KeepFiringFor: 10 * time.Minute, Severity: Critical, Layer: Errors, NeedsDatabase: true,
				Summary:     "The server runs out of disk, memory or connections, or the system fails it.",
				Description: "{{ $value | printf \"%.0f\" }} errors of the classes 53 and 58 (resources, system) within 10 minutes in database {{ $labels.datname }} ({{ $labels.instance }}).",
				Impact:      "Statements fail; with a full disk the server stops.",
				Action:      "Look at df -h on the host, then free -m, then pg_stat_activity. Never delete files in pg_wal by hand.",
			},
			{
				Name:          "PostgresInternalErrors",
				Expr:          `sum without (sqlstate, condition_name) (increase(pgintegrity_errors_total{sqlstate=~"XX000|XXxxx"}[15m])) > 0`,
				KeepFiringFor: 15 * time.Minute, Severity: Warning, Layer: Errors, NeedsDatabase: true,
				Summary:     "The server reports internal errors.",
				Description: "{{ $value | printf \"%.0f\" }} errors of SQLSTATE XX000 within 15 minutes in database {{ $labels.datname }} ({{ $labels.instance }}).",
				Impact:      "A statement met something that must not happen: a bug, or damage that nothing else has named.",
				Action:      "Find the messages in the server's log. \"cache lookup failed\", \"could not open relation\" or \"unexpected\" speak of the catalogues: pg_integrity_exporter check --check=catalog.",
			},
			{
				Name:       "PostgresDeadlocks",
				Expr:       `increase(pgintegrity_transactions_failures_total{reason="deadlock"}[15m]) > ${deadlocks}`,
				Thresholds: []Threshold{{"deadlocks", 5, "deadlocks within 15 minutes"}},
				For:        10 * time.Minute, Severity: Warning, Layer: Errors, Audience: Application, NeedsDatabase: true, Mutable: true,
				Summary:     "Transactions deadlock again and again.",
				Description: "{{ $value | printf \"%.0f\" }} deadlocks within 15 minutes in database {{ $labels.datname }} ({{ $labels.instance }}).",
				Impact:      "The server ends one transaction of each deadlock; its work is lost unless the application tries again.",
				Action:      "The server's log has both statements of each (deadlock detected, DETAIL).",
			},
			{
				Name:       "PostgresLoginFailures",
				Expr:       `sum without (severity, sqlstate_class) (increase(pgintegrity_log_messages_total{severity=~"ERROR|FATAL", sqlstate_class="28"}[10m])) > ${failures}`,
				Thresholds: []Threshold{{"failures", 50, "refused logins within 10 minutes"}},
				For:        5 * time.Minute, Severity: Info, Layer: Errors, NeedsDatabase: true,
				Summary:     "Many logins are refused.",
				Description: "{{ $value | printf \"%.0f\" }} logins to database {{ $labels.datname }} ({{ $labels.instance }}) were refused within 10 minutes.",
				Impact:      "An application has a wrong password, or somebody guesses.",
				Action:      "The server's log has role and client address of each.",
			},
		},
	}
}
