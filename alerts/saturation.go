package alerts

import "time"

// saturation asks what fills up.
func saturation() Group {
	const used = "sum without (datname) (pgintegrity_connections) / pgintegrity_connections_limit"
	const description = "{{ $value | humanizePercentage }} of the connections that ordinary roles may hold on the server of {{ $labels.instance }} are taken. First: SELECT usename, application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2, 3 ORDER BY 4 DESC."
	return Group{Name: "postgres-saturation", Alerts: []Alert{
		{
			Name: "PostgresConnectionsNearLimit", Expr: used + " > 0.95",
			For: 5 * time.Minute, Severity: Critical, Layer: Saturation, NeedsDatabase: true, Mutable: true,
			Summary: "The server is about to refuse connections.", Description: description,
		},
		{
			Name: "PostgresConnectionsNearLimit", Expr: used + " > 0.8",
			For: 10 * time.Minute, Severity: Warning, Layer: Saturation, NeedsDatabase: true, Mutable: true,
			Summary: "Most connections of the server are taken.", Description: description,
		},
	}}
}
