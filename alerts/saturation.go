package alerts

import "time"

// saturation asks what fills up.
func saturation() Group {
	const (
		used        = "sum without (datname) (pgintegrity_connections) / pgintegrity_connections_limit > ${ratio}"
		description = "{{ $value | humanizePercentage }} of the connections that ordinary roles may hold on the server of {{ $labels.instance }} are taken."
		action      = "SELECT usename, application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2, 3 ORDER BY 4 DESC says who holds them."
		help        = "share of the connections that ordinary roles may hold, 0 to 1"
	)
	return Group{Name: "postgres-saturation", Alerts: []Alert{
		{
			Name: "PostgresConnectionsNearLimit", Expr: used, Thresholds: []Threshold{{"ratio", 0.95, help}},
			For: 5 * time.Minute, Severity: Critical, Layer: Saturation, NeedsDatabase: true, Mutable: true,
			Summary: "The server is about to refuse connections.", Description: description,
			Impact: "New sessions are about to be refused with SQLSTATE 53300; sessions that exist go on.",
			Action: action,
		},
		{
			Name: "PostgresConnectionsNearLimit", Expr: used, Thresholds: []Threshold{{"ratio", 0.8, help}},
			For: 10 * time.Minute, Severity: Warning, Layer: Saturation, NeedsDatabase: true, Mutable: true,
			Summary: "Most connections of the server are taken.", Description: description,
			Impact: "Nothing fails yet; a burst of sessions would be refused.",
			Action: action,
		},
	}}
}
