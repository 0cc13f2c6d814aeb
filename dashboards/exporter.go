package dashboards

// exporter answers whether the watcher is well.
func exporter() Dashboard {
	return Dashboard{
		Name: "exporter", Title: "PostgreSQL integrity: exporter",
		Description: "Is the watcher well: what it cannot see, how long it takes, what it keeps.",
		Rows: []Row{
			{Title: "What it cannot see", Panels: []Panel{
				{
					Kind: Timeline, Title: "Collectors", Width: 12, Height: 9, Unit: "none", Worse: 0.5, Bad: 1, Low: true, Words: map[string]string{"0": "fails", "1": "well"},
					Sparse:      "no collector failed",
					Description: "Collectors that failed at some time. Alert PostgresCollectorFailing.",
					Queries:     q("pgintegrity_scrape_collector_success"+of()+" == 0", "{{instance}} {{collector}}"),
				},
				{
					Kind: Timeline, Title: "Log reader and state", Width: 12, Height: 9, Unit: "none", Worse: 0.5, Bad: 1, Low: true, Words: map[string]string{"0": "down", "1": "up"},
					Description: "Whether the server's log is being read, and whether results are kept on disk.",
					Queries: []Target{
						{Expr: "pgintegrity_log_reader_up" + of(), Legend: "{{instance}} log reader"},
						{Expr: "pgintegrity_state_up" + of(), Legend: "{{instance}} state"},
					},
				},
			}},
			{Title: "What it costs", Panels: []Panel{
				{
					Kind: Series, Title: "Time of a scrape by collector", Width: 8, Height: 8, Unit: "s",
					Description: "The slowest of the chosen servers.",
					Queries:     q("max by (collector) (pgintegrity_scrape_collector_duration_seconds"+of()+")", "{{collector}}"),
				},
				{
					Kind: Series, Title: "Memory", Width: 8, Height: 8, Unit: "bytes",
					Description: "Resident memory of the exporters.",
					Queries:     q("process_resident_memory_bytes"+of()+" and on (job, instance) pgintegrity_up"+of(), "{{instance}}"),
				},
				{
					Kind: Series, Title: "CPU", Width: 8, Height: 8, Unit: "percentunit",
					Description: "Processor time of the exporters, 1 is one core.",
					Queries:     q("rate(process_cpu_seconds_total"+of()+"[$__rate_interval]) and on (job, instance) pgintegrity_up"+of(), "{{instance}}"),
				},
				{
					Kind: Series, Title: "Log not read yet", Width: 8, Height: 8, Unit: "bytes",
					Description: "Bytes of the server's log behind which the reader is. Alert PostgresLogReaderBehind.",
					Queries:     until("pgintegrity_log_backlog_bytes"+of(), "{{instance}}", "vector("+threshold("PostgresLogReaderBehind", "backlog_bytes")+")"),
				},
				{
					Kind: Series, Title: "Log lost or not understood", Width: 8, Height: 8, Unit: "short",
					Description: "Bytes that were gone before they could be read, and messages in no known format.",
					Queries: []Target{
						{Expr: "increase(pgintegrity_log_lost_bytes_total" + of() + "[$__rate_interval])", Legend: "{{instance}} bytes lost"},
						{Expr: "increase(pgintegrity_log_parse_failures_total" + of() + "[$__rate_interval])", Legend: "{{instance}} not understood"},
					},
				},
				{
					Kind: Series, Title: "State that could not be written", Width: 8, Height: 8, Unit: "short",
					Description: "Writes that the disk refused. Alert PostgresStateNotKept.",
					Queries:     q("increase(pgintegrity_state_write_failures_total"+of()+"[$__rate_interval])", "{{instance}}"),
				},
			}},
		},
	}
}
