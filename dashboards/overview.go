package dashboards

// overview answers at a glance whether the data is safe, for a fleet and for
// one server.
func overview() Dashboard {
	return Dashboard{
		Name: "overview", Title: "PostgreSQL integrity: overview",
		Description: "Is the data safe right now, what is damaged, what fails, and can the watcher see?",
		Rows: []Row{
			{Title: "Is the data safe right now?", Panels: []Panel{
				{
					Kind: Stat, Title: "Servers that answer", Width: 3, Height: 4, Unit: "percentunit", Bad: 1, Worse: 0.99, Low: true,
					Description: "Share of the chosen servers that answered the last scrape. Alert PostgresDown.",
					Queries:     q("avg(pgintegrity_up"+of()+")", ""),
				},
				{
					Kind: Stat, Title: "Damaged objects", Width: 3, Height: 4, Unit: "short", Worse: 1,
					Description: "Objects with an open critical finding. Alert PostgresCorruptionDetected.",
					Queries:     q("count(max by (job, instance, datname, schemaname, relname) (pgintegrity_finding_info"+of(`severity="critical"`)+")) or vector(0)", ""),
				},
				{
					Kind: Stat, Title: "Corruption events, 24 h", Width: 3, Height: 4, Unit: "short", Worse: 1,
					Description: "Messages in the servers' logs that only damage explains. Alert PostgresCorruptionEvents.",
					Queries:     q("round(sum(increase(pgintegrity_corruption_events_total"+of()+"[24h])))", ""),
				},
				{
					Kind: Stat, Title: "Checksum failures, 24 h", Width: 3, Height: 4, Unit: "short", Worse: 1,
					Description: "Reads of pages whose checksum was wrong. Alert PostgresChecksumFailures.",
					Queries:     q("round(sum(increase(pgintegrity_checksum_failures_total"+of()+"[24h])))", ""),
				},
				{
					Kind: Stat, Title: "Unsafe settings", Width: 3, Height: 4, Unit: "short", Worse: 1,
					Description: "Settings that can lose or damage data. Alert PostgresUnsafeSetting.",
					Queries:     q("sum(pgintegrity_setting_unsafe"+of()+")", ""),
				},
				{
					Kind: Stat, Title: "Oldest proof", Width: 3, Height: 4, Unit: "s", Bad: 2 * 86400, Worse: 8 * 86400,
					Description: "Time since the check that is furthest behind last looked at everything; red from twice the longest interval. Alert PostgresCheckOverdue.",
					Queries: against("time() - min(pgintegrity_check_last_success_timestamp_seconds"+of()+" > 0)",
						"2 * max(pgintegrity_check_interval_seconds"+of()+")"),
				},
				{
					Kind: Stat, Title: "Recovery point", Width: 3, Height: 4, Unit: "s", Bad: 3600, Worse: 86400,
					Description: "How much would be lost if every server were gone now: age of the oldest of the latest recoverable points; red from the objective on.",
					Queries: against("time() - min(pgintegrity_recovery_point_timestamp_seconds"+of()+")",
						"min(pgintegrity_recovery_point_max_age_seconds"+of()+" > 0)"),
				},
				{
					Kind: Stat, Title: "Blind spots", Width: 3, Height: 4, Unit: "short", Bad: 1, Worse: 3,
					Description: "Collectors that fail, checks that cannot run, and logs that cannot be read: what this page does not see.",
					Queries: q("sum(1 - pgintegrity_scrape_collector_success"+of()+") + sum(1 - pgintegrity_log_reader_up"+of()+" or vector(0)) + (count(pgintegrity_check_applicable"+
						of()+" == 0) or vector(0))", ""),
				},
			}},
			{Title: "What is damaged", Panels: []Panel{
				{
					Kind: Table, Title: "Objects with findings", Width: 14, Height: 8, Unit: "none",
					Quiet:       "nothing is wrong",
					Description: "Each object with an open finding, the check that found it and how grave it is; the page /integrity of the instance has evidence, impact and first action.",
					Columns:     []string{"severity=Severity", "instance=Instance", "datname=Database", "schemaname=Schema", "relname=Object", "check=Found by"},
					Queries:     q("pgintegrity_finding_info"+of(), ""),
				},
				{
					Kind: Series, Title: "Corruption events by kind", Width: 10, Height: 8, Unit: "short", Stack: true,
					Quiet:       "there is none",
					Description: "Evidence of damage in the servers' logs, by what it shows.",
					Queries:     q("sum by (instance, kind) (increase(pgintegrity_corruption_events_total"+of()+"[$__rate_interval])) > 0", "{{instance}} {{kind}}"),
				},
			}},
			{Title: "What fails", Panels: []Panel{failingShare(12), errorsByClass(12)}},
			{Title: "Fleet", Panels: []Panel{
				{
					Kind: Timeline, Title: "Servers", Width: 12, Height: 8, Unit: "none", Worse: 0.5, Bad: 1, Low: true, Words: map[string]string{"0": "down", "1": "answers"},
					Description: "Whether each server answered.",
					Queries:     q("pgintegrity_up"+of(), "{{instance}}"),
				},
				{
					Kind: Table, Title: "Findings by class", Width: 12, Height: 8, Unit: "short",
					Quiet:       "there are none",
					Description: "Open findings of each server by class and severity.",
					Columns:     []string{"instance=Instance", "class=Class", "severity=Severity", "Value=Findings"},
					Queries:     q("sum by (instance, class, severity) (pgintegrity_check_findings"+of()+") > 0", ""),
				},
			}},
		},
	}
}
