package alerts

import "time"

// saturation asks what fills up and who holds up whom.
func saturation() Group {
	const (
		used        = "sum without (state) (pgintegrity_activity_sessions) / pgintegrity_connections_limit > ${ratio}"
		connections = "{{ $value | humanizePercentage }} of the connections that ordinary roles may hold on the server of {{ $labels.instance }} are taken."
		whoConnects = "SELECT usename, application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2, 3 ORDER BY 4 DESC says who holds them."
		share       = "share of the connections that ordinary roles may hold, 0 to 1"
		whoBlocks   = "SELECT pid, pg_blocking_pids(pid), wait_event, left(query, 60) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0 says who waits for whom; pg_terminate_backend() ends the one at the root."
		wraparound  = "pgintegrity_wraparound_used_ratio > ${ratio} and pgintegrity_wraparound_used_ratio > on (${target}, kind) group_left () pgintegrity_wraparound_forced_ratio + ${rest} * (1 - pgintegrity_wraparound_forced_ratio)"
		usedUp      = "Database {{ $labels.datname }} ({{ $labels.instance }}) has used {{ $value | humanizePercentage }} of the ids of kind {{ $labels.kind }} that it may use before it is vacuumed."
		freeze      = "Find what holds VACUUM back (alert PostgresXminHorizonHeld; pg_prepared_xacts; pg_replication_slots), remove it, then VACUUM FREEZE the tables with the highest age(relfrozenxid)."
		rest        = "share of what is left where autovacuum begins to free ids whatever else holds (autovacuum_freeze_max_age), 0 to 1"
		ids         = "share of the ids that may be used before the server refuses new ones, 0 to 1"
		ageOf       = "age of the oldest transaction, in seconds"
	)
	return Group{Name: "postgres-saturation", Alerts: []Alert{
		{
			Name: "PostgresConnectionsNearLimit", Expr: used, Thresholds: []Threshold{{"ratio", 0.95, share}},
			For: 5 * time.Minute, Severity: Critical, Layer: Saturation, NeedsDatabase: true, Mutable: true,
			Summary: "The server is about to refuse connections.", Description: connections,
			Impact: "New sessions are about to be refused with SQLSTATE 53300; sessions that exist go on.",
			Action: whoConnects,
		},
		{
			Name: "PostgresConnectionsNearLimit", Expr: used, Thresholds: []Threshold{{"ratio", 0.8, share}},
			For: 10 * time.Minute, Severity: Warning, Layer: Saturation, NeedsDatabase: true, Mutable: true,
			Summary: "Most connections of the server are taken.", Description: connections,
			Impact: "Nothing fails yet; a burst of sessions would be refused.",
			Action: whoConnects,
		},
		{
			Name: "PostgresLockPileUp", Expr: "pgintegrity_locks_waiting_sessions > ${ratio} * pgintegrity_connections_limit and pgintegrity_locks_oldest_wait_seconds > ${seconds}",
			Thresholds: []Threshold{{"ratio", 0.2, "waiting sessions as a share of the connections that ordinary roles may hold, 0 to 1"}, {"seconds", 30, "how long the first of them has waited"}},
			For:        time.Minute, Severity: Critical, Layer: Saturation, NeedsDatabase: true, Mutable: true,
			Summary:     "Sessions pile up behind a lock.",
			Description: "{{ $value }} sessions of the server of {{ $labels.instance }} wait for locks.",
			Impact:      "Applications hang; soon all connections are taken.",
			Action:      whoBlocks,
		},
		{
			Name: "PostgresLockWait", Expr: "pgintegrity_locks_oldest_wait_seconds > ${seconds}",
			Thresholds: []Threshold{{"seconds", 300, "how long a session has waited for a lock"}},
			For:        time.Minute, Severity: Warning, Layer: Saturation, Audience: Application, NeedsDatabase: true, Mutable: true,
			Summary:     "A session has waited long for a lock.",
			Description: "A session of the server of {{ $labels.instance }} has waited {{ $value | humanizeDuration }} for a lock.",
			Impact:      "What it does hangs, and whoever needs its locks hangs too.",
			Action:      whoBlocks,
		},
		{
			Name: "PostgresIdleTransaction", Expr: `pgintegrity_activity_oldest_transaction_seconds{state=~"idle in transaction.*"} > ${seconds}`,
			Thresholds: []Threshold{{"seconds", 900, ageOf}},
			For:        5 * time.Minute, Severity: Warning, Layer: Saturation, Audience: Application, NeedsDatabase: true, Mutable: true,
			Summary:     "A session has begun a transaction and does nothing.",
			Description: "A session of the server of {{ $labels.instance }} is in state {{ $labels.state }}, in a transaction that is {{ $value | humanizeDuration }} old.",
			Impact:      "It keeps its locks and keeps VACUUM from removing old rows.",
			Action:      "SELECT pid, usename, application_name, xact_start, left(query, 60) FROM pg_stat_activity WHERE state LIKE 'idle in%' ORDER BY xact_start says whose it is.",
		},
		{
			Name: "PostgresLongTransaction", Expr: `pgintegrity_activity_oldest_transaction_seconds{state="active"} > ${seconds}`,
			Thresholds: []Threshold{{"seconds", 6 * 3600, ageOf}},
			For:        5 * time.Minute, Severity: Warning, Layer: Saturation, NeedsDatabase: true, Mutable: true,
			Summary:     "A transaction has run for hours.",
			Description: "The oldest running transaction of the server of {{ $labels.instance }} is {{ $value | humanizeDuration }} old.",
			Impact:      "It keeps VACUUM from removing old rows, everywhere in the database.",
			Action:      "SELECT pid, usename, application_name, xact_start, left(query, 60) FROM pg_stat_activity WHERE state = 'active' ORDER BY xact_start says whose it is.",
		},
		{
			Name: "PostgresPreparedTransactionOrphaned", Expr: "pgintegrity_prepared_transaction_oldest_seconds > ${seconds}",
			Thresholds: []Threshold{{"seconds", 3600, "age of the oldest prepared transaction, in seconds"}},
			For:        15 * time.Minute, Severity: Warning, Layer: Saturation, NeedsDatabase: true,
			Summary:     "A prepared transaction has been forgotten.",
			Description: "The oldest prepared transaction of the server of {{ $labels.instance }} is {{ $value | humanizeDuration }} old.",
			Impact:      "It keeps its locks, even across restarts, and keeps VACUUM from removing old rows.",
			Action:      "SELECT * FROM pg_prepared_xacts. Ask the transaction manager whether to COMMIT PREPARED or ROLLBACK PREPARED; guessing can break data of two systems.",
		},
		{
			Name: "PostgresXminHorizonHeld", Expr: "pgintegrity_xmin_horizon_age_transactions > ${transactions}",
			Thresholds: []Threshold{{"transactions", 50e6, "transactions since the oldest row version that must be kept was current"}},
			For:        time.Hour, Severity: Warning, Layer: Saturation, NeedsDatabase: true, Mutable: true,
			Summary:     "Something keeps old row versions from being removed.",
			Description: "A {{ $labels.holder }} of the server of {{ $labels.instance }} keeps row versions that are {{ $value | humanize }} transactions old.",
			Impact:      "Tables and indexes grow, and ids cannot be freed before they run out.",
			Action:      "Holder session: end it. slot or standby: see the alerts about replication. prepared: pg_prepared_xacts.",
		},
		{
			Name: "PostgresWraparound", Expr: wraparound, Thresholds: []Threshold{{"ratio", 0.75, ids}, {"rest", 0.5, rest}},
			For: 5 * time.Minute, Severity: Critical, Layer: Saturation, NeedsDatabase: true,
			Summary: "A database runs out of transaction or multixact ids.", Description: usedUp,
			Impact: "At 100 % the server refuses every statement that writes.",
			Action: freeze,
		},
		{
			Name: "PostgresWraparound", Expr: wraparound, Thresholds: []Threshold{{"ratio", 0.4, ids}, {"rest", 0.2, rest}},
			For: time.Hour, Severity: Warning, Layer: Saturation, NeedsDatabase: true, Mutable: true,
			Summary: "VACUUM does not free transaction or multixact ids in time.", Description: usedUp,
			Impact: "Nothing fails yet; at 100 % the server refuses every statement that writes.",
			Action: freeze,
		},
	}}
}
