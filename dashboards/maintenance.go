package dashboards

// maintenance answers what is running, what it touched, and whether it ended
// well.
func maintenance() Dashboard {
	return Dashboard{
		Name: "maintenance", Title: "PostgreSQL integrity: maintenance",
		Description: "What maintenance is running, whom it blocks, and whether it ended well.",
		Rows: []Row{
			{Title: "Now", Panels: []Panel{
				{
					Kind: Stat, Title: "Running", Width: 4, Height: 4, Unit: "short", Plain: true,
					Description: "Maintenance operations that run now, those of autovacuum left out.",
					Queries:     q("sum(pgintegrity_maintenance_running"+of()+")", ""),
				},
				{
					Kind: Stat, Title: "Window open", Width: 4, Height: 4, Unit: "short", Plain: true, Words: map[string]string{"0": "none"},
					Description: "Servers with a maintenance window that mutes noise now; corruption is never muted.",
					Queries:     q("sum(pgintegrity_maintenance_window_active"+of()+")", ""),
				},
				{
					Kind: Stat, Title: "Windows overrun", Width: 4, Height: 4, Unit: "short", Worse: 1,
					Description: "Windows that nobody closed at their announced end.",
					Queries:     q("sum(pgintegrity_maintenance_window_open"+of()+" unless on (job, instance) pgintegrity_maintenance_window_active"+of()+" > 0) or vector(0)", ""),
				},
				{
					Kind: Stat, Title: "Blocked sessions", Width: 4, Height: 4, Unit: "short", Bad: 1, Worse: 10,
					Description: "Sessions that wait for a running maintenance operation.",
					Queries:     q("sum(pgintegrity_maintenance_blocked_sessions"+of()+")", ""),
				},
				{
					Kind: Stat, Title: "Not rolled back", Width: 4, Height: 4, Unit: "short", Worse: 1,
					Description: "Runs of the guard that failed, could not be rolled back and were not settled: somebody must act, then `guard settle`.",
					Queries:     q("sum(pgintegrity_guard_not_rolled_back_runs"+of()+")", ""),
				},
				{
					Kind: Stat, Title: "Unfinished runs", Width: 4, Height: 4, Unit: "short", Worse: 1,
					Description: "Runs whose guard died and that nobody has resumed; `guard status` tells.",
					Queries:     q("sum(pgintegrity_guard_unfinished_runs"+of()+")", ""),
				},
			}},
			{Title: "What runs", Panels: []Panel{
				{
					Kind: Timeline, Title: "Operations", Width: 12, Height: 8, Unit: "short", Bad: 1, Worse: 1000,
					Sparse:      "no maintenance was running",
					Description: "Maintenance operations that ran, by kind.",
					Queries:     q("pgintegrity_maintenance_running"+of()+" > 0", "{{instance}} {{kind}}"),
				},
				{
					Kind: Series, Title: "Progress", Width: 12, Height: 8, Unit: "percentunit",
					Sparse:      "nothing that reports its progress was running",
					Description: "How far the oldest running operation of each kind is in its present phase.",
					Queries:     q("pgintegrity_maintenance_progress_ratio"+of()+" and on (job, instance, kind) pgintegrity_maintenance_running"+of()+" > 0", "{{instance}} {{kind}}"),
				},
				{
					Kind: Series, Title: "Whom it blocks", Width: 12, Height: 8, Unit: "s",
					Description: "The longest that a session has waited for a running maintenance operation.",
					Queries:     until("pgintegrity_maintenance_blocked_seconds"+of(), "{{instance}}", "vector("+threshold("PostgresMaintenanceBlocks", "seconds")+")"),
				},
				{
					Kind: Series, Title: "Errors while it runs", Width: 12, Height: 8, Unit: "ops",
					Quiet:       "no server had an error, now or a day before",
					Description: "Errors of the server, beside the same time a day before, dashed.",
					Queries: []Target{
						{Expr: "sum by (instance) (datname_class:pgintegrity_log_errors:rate2m" + of() + ")", Legend: "{{instance}}"},
						{Expr: "sum by (instance) (datname_class:pgintegrity_log_errors:rate2m" + of() + " offset 1d)", Legend: "{{instance}} a day before", Objective: true, Sparse: "nothing is known of a day before"},
					},
				},
			}},
			{Title: "What it does to others", Panels: []Panel{
				{
					Kind: Series, Title: "Transactions that fail", Width: 12, Height: 8, Unit: "percentunit",
					Description: "Share of the transactions of each database that fail, beside what is usual at this time, dashed: in a window PostgresMaintenanceFailures fires far above it.",
					Queries: []Target{
						{Expr: "datname:pgintegrity_transactions_rollback:ratio_rate2m" + of(), Legend: "{{instance}} {{datname}}"},
						{Expr: "datname:pgintegrity_transactions_rollback:ratio_usual" + of(), Legend: "{{instance}} {{datname}} usually", Objective: true, Sparse: "nothing is known of earlier hours"},
					},
				},
				{
					Kind: Series, Title: "What standbys do not have yet", Width: 12, Height: 8, Unit: "bytes",
					Description: "WAL that each standby has not taken; in a window PostgresMaintenanceStandbyBehind fires at the dashed line.",
					Sparse:      "no server had a standby",
					Queries:     until("pgintegrity_replication_unflushed_bytes"+of(), "{{instance}} {{application_name}}", "vector("+threshold("PostgresMaintenanceStandbyBehind", "bytes")+")"),
				},
				{
					Kind: Series, Title: "WAL written", Width: 12, Height: 8, Unit: "Bps",
					Description: "WAL written a second: rewrites and new indexes write the whole table once more.",
					Queries:     q("rate(pgintegrity_wal_written_bytes_total"+of()+"[$__rate_interval])", "{{instance}}"),
				},
				{
					Kind: Series, Title: "Room on the disks", Width: 12, Height: 8, Unit: "percentunit",
					Description: "Share that is free on the disks of the data directory, of pg_wal and of the tablespaces; PostgresMaintenanceDiskFilling fires at the dashed line during maintenance.",
					Sparse:      "no server is on the machine of its exporter",
					Queries:     until("pgintegrity_disk_free_bytes"+of()+" / pgintegrity_disk_size_bytes"+of(), "{{instance}} {{place}}", "vector("+threshold("PostgresMaintenanceDiskFilling", "ratio")+")"),
				},
			}},
			{Title: "How it ended", Panels: []Panel{
				{
					Kind: Series, Title: "Operations seen", Width: 12, Height: 8, Unit: "short", Stack: true,
					Description: "Maintenance operations that were seen, with and without being announced.",
					Queries:     q("round(sum by (instance, kind) (increase(pgintegrity_maintenance_operations_total"+of()+"[$__rate_interval]))) > 0", "{{instance}} {{kind}}"),
				},
				{
					Kind: Table, Title: "Runs of the guard, 7 days", Width: 12, Height: 8, Unit: "short",
					Description: "Guarded maintenance by task and outcome.",
					Columns:     []string{"instance=Instance", "task=Task", "outcome=Outcome", "Value=Runs"},
					Queries:     q("round(sum by (instance, task, outcome) (increase(pgintegrity_guard_runs_total"+of()+"[7d]))) > 0", ""),
				},
			}},
		},
	}
}
