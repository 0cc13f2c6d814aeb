package dashboards

// failures answers what is failing, since when, and which causes are ruled out.
func failures() Dashboard {
	return Dashboard{
		Name: "failures", Title: "PostgreSQL integrity: errors and transactions",
		Description: "What is failing, since when, and which causes are ruled out.",
		Rows: []Row{
			{Title: "What is failing, and since when", Panels: []Panel{
				failingShare(8),
				{
					Kind: Series, Title: "Transactions", Width: 8, Height: 8, Unit: "ops",
					Description: "Transactions that ended, by how.",
					Queries:     q("sum by (outcome) (rate(pgintegrity_transactions_total"+in()+"[$__rate_interval]))", "{{outcome}}"),
				},
				{
					Kind: Series, Title: "Failures by reason", Width: 8, Height: 8, Unit: "ops",
					Description: "Transactions that failed for a reason that the server names.",
					Queries:     q("sum by (reason) (rate(pgintegrity_transactions_failures_total"+in(`reason!="rollback"`)+"[$__rate_interval]))", "{{reason}}"),
				},
				{
					Kind: Series, Title: "Errors by SQLSTATE, top 10", Width: 12, Height: 8, Unit: "ops",
					Quiet:       "there was no error",
					Description: "Errors in the server's log by SQLSTATE and condition name. XX is corruption, 57 an operator, 53 resources, 40 contention, 22 and 23 data that a client sent.",
					Queries:     q("topk(10, sum by (sqlstate, condition_name) (datname_sqlstate:pgintegrity_errors:rate2m"+in()+"))", "{{sqlstate}} {{condition_name}}"),
				},
				errorsByClass(12),
				{
					Kind: Series, Title: "Business transactions that failed or are stuck", Width: 24, Height: 7, Unit: "short",
					Description: "Counts of the user's own queries (transactions: in the configuration): postings, payments, payroll runs.",
					Queries:     q(`sum by (instance, transaction, outcome) (pgintegrity_business_transactions`+of(`outcome!="done"`)+")", "{{instance}} {{transaction}} {{outcome}}"),
				},
			}},
			{Title: "Causes to rule out", Panels: []Panel{
				{
					Kind: Series, Title: "Connections in use", Width: 8, Height: 7, Unit: "percentunit",
					Description: "Share of the connections that ordinary roles may hold, in use by clients. Near 100 % means that clients are turned away: not corruption.",
					Queries:     until("sum by (instance) (pgintegrity_activity_sessions"+of()+") / on (instance) group_left () sum by (instance) (pgintegrity_connections_limit"+of()+")", "{{instance}}", "vector("+threshold("PostgresConnectionsNearLimit", "ratio")+")"),
				},
				{
					Kind: Timeline, Title: "Why a server does not answer", Width: 8, Height: 7, Unit: "none", Worse: 1, Words: map[string]string{"0": "no", "1": "yes"},
					Sparse:      "every server answers",
					Description: "The reason that the last connection failed: network, login, out of connections, starting up.",
					Queries:     q("max by (instance, reason) (pgintegrity_connection_failure"+of()+") > 0", "{{instance}} {{reason}}"),
				},
				{
					Kind: Series, Title: "Sessions that wait for a lock", Width: 8, Height: 7, Unit: "short",
					Description: "Sessions that wait for a heavyweight lock.",
					Queries:     until("max by (instance) (pgintegrity_locks_waiting_sessions"+of()+")", "{{instance}}", threshold("PostgresLockPileUp", "ratio")+" * min(pgintegrity_connections_limit"+of()+")"),
				},
				{
					Kind: Series, Title: "Server events", Width: 8, Height: 7, Unit: "short",
					Sparse:      "no server crashed, stopped or recovered",
					Description: "Crashes, starts, recoveries, out of memory: what the server's log tells of the server itself.",
					Queries:     q("round(sum by (instance, kind) (increase(pgintegrity_server_events_total"+of()+"[$__rate_interval]))) > 0", "{{instance}} {{kind}}"),
				},
				{
					Kind: Series, Title: "Settings read again", Width: 8, Height: 7, Unit: "s",
					Description: "Time since the server last read its settings: a change of configuration shortly before the first error is a suspect.",
					Queries:     q("time() - max by (instance) (pgintegrity_conf_load_timestamp_seconds"+of()+")", "{{instance}}"),
				},
				{
					Kind: Series, Title: "Lag of standbys", Width: 8, Height: 7, Unit: "bytes",
					Sparse:      "there is no standby",
					Description: "WAL that a standby has not replayed yet.",
					Queries: until("max by (instance, application_name) (pgintegrity_replication_lag_bytes"+of()+")", "{{instance}} {{application_name}}",
						threshold("PostgresReplicationReceiverBehind", "sizes")+" * min(pgintegrity_wal_size_limit_bytes"+of()+" and on (job, instance) pgintegrity_replication_lag_bytes"+of()+")"),
				},
			}},
		},
	}
}

func failingShare(width int) Panel {
	const failing = "PostgresTransactionsFailing"
	queries := until("datname:pgintegrity_transactions_rollback:ratio_rate2m"+in(), "{{instance}} {{datname}}",
		"clamp_min("+threshold(failing, "times")+" * max(datname:pgintegrity_transactions_rollback:ratio_usual"+in()+"), "+threshold(failing, "ratio")+")")
	queries[1].Sparse = "nothing is known of an hour before"
	return Panel{
		Kind: Series, Title: "Share of failing transactions", Width: width, Height: 8, Unit: "percentunit",
		Description: "Transactions rolled back, of all that ended. Alerts PostgresTransactionsFailing and PostgresErrorBudgetBurn.",
		Queries:     queries,
	}
}

func errorsByClass(width int) Panel {
	return Panel{
		Kind: Series, Title: "Errors by class", Width: width, Height: 8, Unit: "ops", Stack: true,
		Quiet:       "there was no error",
		Description: "Messages of severity ERROR and worse, by the class of their SQLSTATE.",
		Queries:     q("sum by (sqlstate_class) (datname_class:pgintegrity_log_errors:rate2m"+in()+")", "{{sqlstate_class}}"),
	}
}
