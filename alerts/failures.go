package alerts

import "time"

// The errors that are the server's fault and not a client's mistake: lost
// connections, serialization and deadlocks, resources, limits, shutdowns, the
// system, internal errors.
const serverFaults = `pgintegrity_log_messages_total{severity=~"ERROR|FATAL|PANIC", sqlstate_class=~"08|40|53|54|57|58|XX"}`

const (
	rollbackRate5m  = "datname:pgintegrity_transactions_rollback:rate5m"
	transactions5m  = "datname:pgintegrity_transactions:rate5m"
	rollbackRatio5m = "datname:pgintegrity_transactions_rollback:ratio_rate5m"
	rollbackRatio6h = "datname:pgintegrity_transactions_rollback:ratio_rate6h"
	faults5m        = "datname:pgintegrity_server_faults:rate5m"
	faults1h        = "datname:pgintegrity_server_faults:rate1h"
	transactions1h  = "datname:pgintegrity_transactions:rate1h"
	transactions6h  = "datname:pgintegrity_transactions:rate6h"
)

// failures asks what fails, and whether more fails than usual. Every ratio has
// a floor of traffic, so that a quiet database stays silent. What is usual is
// the last 6 hours up to 10 minutes ago; without them only a majority of
// failing transactions counts.
func failures() Group {
	const rollbacks = `pgintegrity_transactions_total{outcome="rollback"}`
	sum := func(metric, window string) string {
		labels := "outcome"
		if metric == serverFaults {
			labels = "severity, sqlstate_class"
		}
		return "sum without (" + labels + ") (rate(" + metric + "[" + window + "]))"
	}
	return Group{
		Name: "postgres-errors",
		Records: []Record{
			{transactions5m, sum("pgintegrity_transactions_total", "5m")},
			{transactions1h, sum("pgintegrity_transactions_total", "1h")},
			{transactions6h, sum("pgintegrity_transactions_total", "6h")},
			{rollbackRate5m, sum(rollbacks, "5m")},
			{rollbackRatio5m, rollbackRate5m + " / (" + transactions5m + " > 0)"},
			{rollbackRatio6h, sum(rollbacks, "6h") + " / (" + transactions6h + " > 0)"},
			{faults5m, sum(serverFaults, "5m")},
			{faults1h, sum(serverFaults, "1h")},
		},
		Alerts: []Alert{
			{
				Name: "PostgresTransactionsFailing",
				Expr: "(" + rollbackRatio5m + " > 3 * (" + rollbackRatio6h + " offset 10m) or (" + rollbackRatio5m + " > 0.5 unless " + rollbackRatio6h + " offset 10m)) > 0.05 and " + rollbackRate5m + " * 300 > 20",
				For:  time.Minute, KeepFiringFor: 5 * time.Minute, Severity: Critical, Layer: Errors, Audience: Application, Inform: true, NeedsDatabase: true, Mutable: true,
				Summary:     "Far more transactions fail than usual.",
				Description: "{{ $value | humanizePercentage }} of the transactions of database {{ $labels.datname }} ({{ $labels.instance }}) fail, at least three times its own ratio of the last 6 hours.",
				Impact:      "What users do is not saved: work fails and is rolled back.",
				Action:      "Is an alert of layer integrity firing for this instance? Then it is the cause. Otherwise topk(5, increase(pgintegrity_errors_total{datname=\"{{ $labels.datname }}\"}[5m])) says with which SQLSTATE.",
			},
			{
				Name: "PostgresErrorSpike",
				Expr: faults5m + " > 4 * avg_over_time(" + faults5m + "[6h] offset 10m) and " + faults5m + " * 300 > 20",
				For:  time.Minute, KeepFiringFor: 5 * time.Minute, Severity: Warning, Layer: Errors, NeedsDatabase: true, Mutable: true,
				Summary:     "The server reports far more errors of its own than usual.",
				Description: "{{ $value | humanize }} errors per second that are not mistakes of clients, in database {{ $labels.datname }} ({{ $labels.instance }}), at least four times the rate of the last 6 hours.",
				Impact:      "Some statements fail for reasons that the server, the storage or the load is to blame for.",
				Action:      "topk(5, increase(pgintegrity_errors_total{datname=\"{{ $labels.datname }}\"}[5m])) says with which SQLSTATE.",
			},
			{
				Name: "PostgresErrorBudgetBurn",
				Expr: "(" + faults1h + " / (" + transactions1h + " > 0.3) > 14.4 * 0.001) and (" + faults5m + " / (" + transactions5m + " > 0) > 14.4 * 0.001)",
				For:  2 * time.Minute, Severity: Critical, Layer: Errors, NeedsDatabase: true, Mutable: true,
				Summary:     "Errors of the server use up a month's budget in two days.",
				Description: "{{ $value | humanizePercentage }} of the transactions of database {{ $labels.datname }} ({{ $labels.instance }}) meet an error of the server; the budget is 0.1 %.",
				Impact:      "At this rate a month's allowance of failures is gone in two days.",
				Action:      "topk(5, increase(pgintegrity_errors_total{datname=\"{{ $labels.datname }}\"}[1h])) says with which SQLSTATE.",
			},
			{
				Name:          "PostgresResourceErrors",
				Expr:          `sum without (severity, sqlstate_class) (increase(pgintegrity_log_messages_total{severity=~"ERROR|FATAL|PANIC", sqlstate_class=~"53|58"}[10m])) > 3`,
				KeepFiringFor: 10 * time.Minute, Severity: Critical, Layer: Errors, NeedsDatabase: true,
				Summary:     "The server runs out of disk, memory or connections, or the system fails it.",
				Description: "{{ $value | printf \"%.0f\" }} errors of class 53 or 58 within 10 minutes in database {{ $labels.datname }} ({{ $labels.instance }}).",
				Impact:      "Statements fail; with a full disk the server stops.",
				Action:      "Look at df -h on the host, then free -m, then pg_stat_activity. Never delete files in pg_wal by hand.",
			},
			{
				Name: "PostgresDeadlocks",
				Expr: `increase(pgintegrity_transactions_failures_total{reason="deadlock"}[15m]) > 5`,
				For:  10 * time.Minute, Severity: Warning, Layer: Errors, Audience: Application, NeedsDatabase: true, Mutable: true,
				Summary:     "Transactions deadlock again and again.",
				Description: "{{ $value | printf \"%.0f\" }} deadlocks within 15 minutes in database {{ $labels.datname }} ({{ $labels.instance }}).",
				Impact:      "The server ends one transaction of each deadlock; its work is lost unless the application tries again.",
				Action:      "The server's log has both statements of each (deadlock detected, DETAIL).",
			},
		},
	}
}
