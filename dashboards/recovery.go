package dashboards

// recovery answers whether we could come back, how far back, and how fast.
func recovery() Dashboard {
	return Dashboard{
		Name: "recovery", Title: "PostgreSQL integrity: recovery",
		Description: "Could we come back, how far, how fast; proved by drills.",
		Rows: []Row{
			{Title: "Could we come back?", Panels: []Panel{
				{
					Kind: Stat, Title: "Recovery point", Width: 4, Height: 4, Unit: "s", Bad: 3600, Worse: 86400,
					Description: "What would be lost now: age of the latest recoverable point, the worst repository; red from the objective on; decades: nothing can be brought back.",
					Queries: against("time() - min(pgintegrity_recovery_point_timestamp_seconds"+of()+")",
						"min(pgintegrity_recovery_point_max_age_seconds"+of()+" > 0)"),
				},
				{
					Kind: Stat, Title: "Last backup", Width: 4, Height: 4, Unit: "s", Bad: 86400, Worse: 2 * 86400,
					Description: "Age of the newest complete backup, the worst repository; red from the objective on; decades are never.",
					Queries: against("time() - min(pgintegrity_backup_last_success_timestamp_seconds"+of()+")",
						"min(pgintegrity_backup_max_age_seconds"+of()+" > 0)"),
				},
				{
					Kind: Stat, Title: "Last drill that succeeded", Width: 4, Height: 4, Unit: "s", Bad: 8 * 86400, Worse: 32 * 86400,
					Description: "Age of the last proof that a restore works, the worst repository; red from the objective on; decades are never.",
					Queries: against("time() - min(pgintegrity_drill_last_success_timestamp_seconds"+of()+")",
						"min(pgintegrity_drill_max_age_seconds"+of()+" > 0)"),
				},
				{
					Kind: Stat, Title: "Measured recovery time", Width: 4, Height: 4, Unit: "s", Bad: 3600, Worse: 4 * 3600,
					Description: "How long the last drill took from nothing to a verified server, the slowest repository; red from the objective on.",
					Queries: against("max(pgintegrity_drill_recovery_time_seconds"+of()+")",
						"min(pgintegrity_drill_recovery_time_max_seconds"+of()+" > 0)"),
				},
				{
					Kind: Stat, Title: "Broken chains", Width: 4, Height: 4, Unit: "short", Worse: 1,
					Description: "Repositories whose newest backup lacks something that it is built on.",
					Queries:     q("count(pgintegrity_backup_chain_complete"+of()+" == 0) or vector(0)", ""),
				},
				{
					Kind: Stat, Title: "Archiver failing", Width: 4, Height: 4, Unit: "short", Worse: 1,
					Description: "Servers whose archive_command or archive_library fails now.",
					Queries:     q("sum(pgintegrity_archiver_failing"+of()+")", ""),
				},
			}},
			{Title: "How far back", Panels: []Panel{
				{
					Kind: Series, Title: "Age of the recovery point", Width: 12, Height: 8, Unit: "s",
					Description: "What would be lost at each moment; dashed is the objective.",
					Queries: []Target{
						{Expr: "time() - (pgintegrity_recovery_point_timestamp_seconds" + of() + " > 0)", Legend: "{{instance}} {{repository}}"},
						{Expr: "min(pgintegrity_recovery_point_max_age_seconds" + of() + ")", Legend: "objective", Objective: true},
					},
				},
				{
					Kind: Series, Title: "WAL that waits to be archived", Width: 12, Height: 8, Unit: "bytes",
					Description: "Finished segments that are not in the archive yet.",
					Queries:     q("pgintegrity_archiver_ready_bytes"+of(), "{{instance}}"),
				},
				{
					Kind: Series, Title: "Age of the newest backup", Width: 12, Height: 8, Unit: "s",
					Description: "Falls with each complete backup; dashed is the objective.",
					Queries: []Target{
						{Expr: "time() - (pgintegrity_backup_last_success_timestamp_seconds" + of() + " > 0)", Legend: "{{instance}} {{repository}}"},
						{Expr: "min(pgintegrity_backup_max_age_seconds" + of() + ")", Legend: "objective", Objective: true},
					},
				},
				{
					Kind: Table, Title: "What repositories complain of", Width: 12, Height: 8, Unit: "short",
					Sparse:      "no repository has a problem",
					Description: "Problems of each repository by reason; the page /integrity has the words.",
					Columns:     []string{"instance=Instance", "repository=Repository", "reason=Reason", "Value=Problems"},
					Queries:     q("pgintegrity_repository_problems"+of()+" > 0", ""),
				},
			}},
			{Title: "How fast, and is it proved", Panels: []Panel{
				{
					Kind: Series, Title: "Recovery time of drills by phase", Width: 12, Height: 8, Unit: "s", Stack: true,
					Description: "Where the time of the last drill went.",
					Queries:     q("sum by (repository, phase) (pgintegrity_drill_phase_duration_seconds"+of()+")", "{{repository}} {{phase}}"),
				},
				{
					Kind: Series, Title: "Recovery time", Width: 12, Height: 8, Unit: "s",
					Description: "Measured by the last drill; dashed is the objective.",
					Queries: []Target{
						{Expr: "pgintegrity_drill_recovery_time_seconds" + of(), Legend: "{{instance}} {{repository}}"},
						{Expr: "min(pgintegrity_drill_recovery_time_max_seconds" + of() + ")", Legend: "objective", Objective: true},
					},
				},
				{
					Kind: Timeline, Title: "Last drill", Width: 24, Height: 6, Unit: "none", Worse: 0.5, Bad: 1, Low: true, Words: map[string]string{"0": "failed", "1": "proved"},
					Sparse:      "there was no drill yet",
					Description: "How the last drill of each repository ended.",
					Queries:     q("pgintegrity_drill_success"+of()+" and pgintegrity_drill_last_run_timestamp_seconds"+of()+" > 0", "{{instance}} {{repository}}"),
				},
			}},
		},
	}
}
