package alerts

import "time"

// business asks whether the transactions of the business succeed: postings,
// payments, payroll runs, as the configuration counts them. The objectives are
// series of the exporter.
func business() Group {
	return Group{Name: "postgres-business", Alerts: []Alert{
		{
			Name: "BusinessTransactionsFailing",
			Expr: `pgintegrity_business_transaction_failure_ratio > pgintegrity_business_transaction_max_failure_ratio or ` +
				`sum without (outcome) (pgintegrity_business_transactions{outcome="stuck"}) > pgintegrity_business_transaction_max_stuck`,
			For: time.Minute, Severity: Critical, Layer: Errors, Audience: Application, Inform: true,
			Summary:     "Business transactions fail or are stuck.",
			Description: "{{ $labels.transaction }} on {{ $labels.instance }}: {{ if lt $value 1.01 }}share of failed or number of stuck ones {{ $value | printf \"%.2f\" }}{{ else }}{{ $value | printf \"%.0f\" }} are stuck{{ end }}, which is more than is normal.",
			Impact:      "Work of the business is not done: it must be repeated, and may be half done.",
			Action:      "Look at the errors of the same minutes (PostgresErrorSpike, PostgresCorruptionDetected name causes) before anybody repeats the transactions.",
		},
		{
			Name: "BusinessTransactionsStopped",
			Expr: `(pgintegrity_business_transaction_max_silence_seconds > 0 and pgintegrity_business_transaction_silence_seconds > pgintegrity_business_transaction_max_silence_seconds) or ` +
				`pgintegrity_business_transaction_up == 0`,
			For: 5 * time.Minute, Severity: Warning, Layer: Errors, Audience: Application, NeedsDatabase: true,
			Summary:     "No business transaction was done for too long, or they cannot be counted.",
			Description: "{{ $labels.transaction }} on {{ $labels.instance }}: {{ if gt $value 0.0 }}none was done within the longest silence that is normal in working hours{{ else }}the SQL that counts them fails, so nobody knows{{ end }}.",
			Impact:      "Work of the business may be standing still without an error.",
			Action:      "Ask those who do this work; then the queue of the application, and locks (PostgresLockWait). The exporter's log has the error of SQL that fails.",
		},
	}}
}
