package dashboards

// integrity answers what was verified, when, by what, and what is overdue.
func integrity() Dashboard {
	return Dashboard{
		Name: "integrity", Title: "PostgreSQL integrity: checks",
		Description: "What was verified, when, by what; what is overdue, and what it costs.",
		Rows: []Row{
			{Title: "What is overdue", Panels: []Panel{
				{
					Kind: Stat, Title: "Checks overdue", Width: 4, Height: 4, Unit: "short", Worse: 1,
					Description: "Checks whose last complete look is older than two intervals. Alert PostgresCheckOverdue.",
					Queries:     q("count(time() - (pgintegrity_check_last_success_timestamp_seconds"+in()+" > 0) > on (job, instance, check) group_left () 2 * max by (job, instance, check) (pgintegrity_check_interval_seconds"+of()+")) or vector(0)", ""),
				},
				{
					Kind: Stat, Title: "Never succeeded", Width: 4, Height: 4, Unit: "short", Bad: 1, Worse: 1000,
					Description: "Checks that have never looked at everything. Alert PostgresCheckNeverSucceeded.",
					Queries:     q("count(pgintegrity_check_last_success_timestamp_seconds"+in()+" == 0) or vector(0)", ""),
				},
				{
					Kind: Stat, Title: "Cannot run", Width: 4, Height: 4, Unit: "short", Bad: 1, Worse: 1000,
					Description: "Checks that miss an extension or a privilege. Alert PostgresCheckNotApplicable; /integrity names the GRANT.",
					Queries:     q("count(pgintegrity_check_applicable"+in()+" == 0) or vector(0)", ""),
				},
				{
					Kind: Stat, Title: "Lowest coverage", Width: 4, Height: 4, Unit: "percentunit", Bad: 1, Worse: 0.9, Low: true,
					Description: "Smallest share of a database's bytes that the last run of a check looked at.",
					Queries:     q("min(pgintegrity_check_coverage_ratio"+in()+" and on (job, instance, datname, check) pgintegrity_check_last_run_timestamp_seconds"+of()+" > 0)", ""),
				},
				{
					Kind: Stat, Title: "Findings", Width: 4, Height: 4, Unit: "short", Bad: 1, Worse: 1000,
					Description: "Open findings of every class and severity.",
					Queries:     q("sum(pgintegrity_check_findings"+in()+")", ""),
				},
				{
					Kind: Stat, Title: "Slots missed, 24 h", Width: 4, Height: 4, Unit: "short", Bad: 1, Worse: 1000,
					Description: "Runs that were due while the one before was still under way: intervals are too short, or limits.check_rate too low.",
					Queries:     q("round(sum(increase(pgintegrity_check_missed_slots_total"+of()+"[24h])))", ""),
				},
			}},
			{Title: "When it was last verified", Panels: []Panel{
				{
					Kind: Series, Title: "Time since a check last looked at everything", Width: 12, Height: 8, Unit: "s",
					Description: "Rises until the check has looked at everything again; dashed is twice its shortest interval.",
					Queries: []Target{
						{Expr: "max by (instance, check) (time() - (pgintegrity_check_last_success_timestamp_seconds" + in() + " > 0))", Legend: "{{instance}} {{check}}"},
						{Expr: "2 * min(pgintegrity_check_interval_seconds" + of() + ")", Legend: "overdue", Objective: true},
					},
				},
				{
					Kind: Timeline, Title: "Findings of each check", Width: 12, Height: 8, Unit: "short", Worse: 1,
					Description: "Open findings of each check, red from the first.",
					Queries:     q("sum by (instance, check) (pgintegrity_check_findings"+in()+")", "{{instance}} {{check}}"),
				},
				{
					Kind: Table, Title: "Checks", Width: 24, Height: 10, Unit: "s",
					Description: "Age of the last complete look, by check and database.",
					Columns:     []string{"instance=Instance", "datname=Database", "check=Check", "Value=Last looked at everything"},
					Queries:     q("sort_desc(time() - (pgintegrity_check_last_success_timestamp_seconds"+in()+" > 0))", ""),
				},
			}},
			{Title: "What it costs", Panels: []Panel{
				{
					Kind: Series, Title: "Bytes checked", Width: 8, Height: 8, Unit: "Bps",
					Description: "How fast relations are read by checks; limits.check_rate bounds it.",
					Queries:     q("sum by (instance, check) (rate(pgintegrity_check_checked_bytes_total"+in()+"[$__rate_interval]))", "{{instance}} {{check}}"),
				},
				{
					Kind: Series, Title: "Duration of the last run", Width: 8, Height: 8, Unit: "s",
					Description: "How long the last run of each check took, the longest of its databases.",
					Queries:     q("max by (instance, check) (pgintegrity_check_duration_seconds"+in()+")", "{{instance}} {{check}}"),
				},
				{
					Kind: Series, Title: "Holding back", Width: 8, Height: 8, Unit: "percentunit",
					Description: "Share of time for which checks waited because the server was slow to answer or a standby lagged.",
					Queries:     q("sum by (instance, reason) (rate(pgintegrity_check_held_seconds_total"+of()+"[$__rate_interval]))", "{{instance}} {{reason}}"),
				},
			}},
		},
	}
}
