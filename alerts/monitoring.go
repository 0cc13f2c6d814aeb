package alerts

import "time"

// monitoring asks whether the watcher works: silence must not look like
// health.
func monitoring() Group {
	const checkCommand = "pg_integrity_exporter check --check={{ $labels.check }} --database={{ $labels.datname }} says what it could not look at and why."
	return Group{Name: "postgres-monitoring", Alerts: []Alert{
		{
			Name: "PostgresWatchdog", Expr: "vector(1)", Severity: None, Layer: Monitoring, NoRunbookURL: true,
			Summary:     "Alerting works: this alert always fires.",
			Description: "Route it to a dead man's switch that calls for help when it stops coming. At {{ $value }} it proves that rules are evaluated and notifications leave.",
		},
		{
			Name: "PostgresTargetAbsent", Expr: "absent(up{${job}})",
			For: 10 * time.Minute, Severity: Critical, Layer: Monitoring, NoRunbookURL: true,
			Summary:     "Prometheus has no pg_integrity_exporter to scrape.",
			Description: "No target of job {{ $labels.job }} exists.",
			Impact:      "Nobody watches the data. While this lasts, no other alert of this set can fire.",
			Action:      "Look at the scrape configuration and at service discovery (Prometheus, Status, Targets).",
		},
		{
			Name: "PostgresExporterDown", Expr: "up{${job}} == 0",
			For: 5 * time.Minute, Severity: Critical, Layer: Monitoring, NoRunbookURL: true,
			Summary:     "The exporter that watches a PostgreSQL server does not answer.",
			Description: "{{ $labels.instance }} has not answered Prometheus for 5 minutes.",
			Impact:      "Nobody watches the data of that server; no other alert can fire for it. The server itself may be well.",
			Action:      "On the exporter's host, systemctl status pg_integrity_exporter and journalctl -u pg_integrity_exporter -n 50. Then psql -c 'SELECT 1' says whether the server answers.",
		},
		{
			// The reason is asked for by the text: as a label, each change of it, as in a
			// loop of crashes, would begin the waiting anew.
			Name: "PostgresDown", Expr: "pgintegrity_up == 0",
			For: time.Minute, Severity: Critical, Layer: Availability, Inform: true,
			Summary:     "A PostgreSQL server cannot be used.",
			Description: "The exporter {{ $labels.instance }} has not been able to use its server for a minute. Reason: {{ range printf \"pgintegrity_connection_failure{job=%q, instance=%q} == 1\" $labels.job $labels.instance | query }}{{ .Labels.reason }}{{ else }}not known{{ end }} (refused: it is not running; timeout: it hangs; too_many_connections: all slots are taken; not_accepting: it is starting or recovering).",
			Impact:      "Applications that need this server fail now.",
			Action:      "Read the end of the server's log. If it does not start, do not delete files and do not run pg_resetwal.",
		},
		{
			Name: "PostgresRestarted", Expr: "changes(pgintegrity_postmaster_start_timestamp_seconds[10m]) > 0",
			KeepFiringFor: 30 * time.Minute, Severity: Info, Layer: Availability,
			Summary:     "A PostgreSQL server was started anew.",
			Description: "The server of {{ $labels.instance }} was started {{ $value }} times within 10 minutes.",
			Impact:      "Every session was lost; statistics and caches are cold.",
			Action:      "See who did it: PostgresServerCrashed fires as well when it was no clean shutdown.",
		},
		{
			Name: "PostgresCollectorFailing", Expr: "pgintegrity_scrape_collector_success == 0 unless on (${target}) pgintegrity_up == 0",
			For: 15 * time.Minute, Severity: Warning, Layer: Monitoring, NeedsDatabase: true,
			Summary:     "A part of the exporter cannot collect its metrics.",
			Description: "Collector {{ $labels.collector }} of {{ $labels.instance }} has failed for 15 minutes.",
			Impact:      "Its metrics are missing, and alerts built on them are blind.",
			Action:      "The exporter's log names the error and what to do.",
		},
		{
			Name: "PostgresLogReaderDown", Expr: "pgintegrity_log_reader_up == 0",
			For: 15 * time.Minute, Severity: Warning, Layer: Monitoring,
			Summary:     "The server's log is not being read.",
			Description: "The exporter {{ $labels.instance }} has not read the server's log for 15 minutes.",
			Impact:      "Errors by SQLSTATE, crashes and corruption that statements run into are not seen.",
			Action:      "The exporter's log says why (settings, permission, path).",
		},
		{
			Name: "PostgresLogReaderBehind", Expr: "pgintegrity_log_backlog_bytes > ${backlog_bytes} or increase(pgintegrity_log_lost_bytes_total[15m]) > 0",
			Thresholds: []Threshold{{"backlog_bytes", 64 << 20, "bytes of the log that are written and not read"}},
			For:        5 * time.Minute, KeepFiringFor: 15 * time.Minute, Severity: Warning, Layer: Monitoring,
			Summary:     "The log reader does not keep up, or a part of the log is lost.",
			Description: "The log reader of {{ $labels.instance }} is {{ $value | humanize1024 }}B behind or has lost that much.",
			Impact:      "Errors and corruption that statements run into are counted late or not at all.",
			Action:      "See whether the server logs far more than usual, whether log files are removed too early, and whether the server was killed or its disk was full while it wrote.",
		},
		{
			Name: "PostgresLogNotUnderstood", Expr: "increase(pgintegrity_log_parse_failures_total[15m]) > ${records}",
			Thresholds: []Threshold{{"records", 10, "records of the log within 15 minutes that could not be understood"}},
			For:        5 * time.Minute, KeepFiringFor: 15 * time.Minute, Severity: Warning, Layer: Monitoring,
			Summary:     "The server's log has records that the exporter cannot read.",
			Description: "{{ $value | printf \"%.0f\" }} records of the log of the server of {{ $labels.instance }} were not understood within 15 minutes.",
			Impact:      "Errors and corruption in these records are not counted.",
			Action:      "The exporter's log shows one of them; compare log_line_prefix and log_destination with what the files hold.",
		},
		{
			Name:       "PostgresCheckOverdue",
			Expr:       "time() - pgintegrity_check_last_success_timestamp_seconds > on (${target}, check) group_left () ${intervals} * max by (${target}, check) (pgintegrity_check_interval_seconds) + 600 and pgintegrity_check_last_success_timestamp_seconds > 0",
			Thresholds: []Threshold{{"intervals", 2, "intervals of the check since it last looked at everything"}},
			For:        15 * time.Minute, Severity: Warning, Layer: Monitoring, NeedsDatabase: true,
			Summary:     "An integrity check has not finished for too long.",
			Description: "Check {{ $labels.check }} of database {{ $labels.datname }} ({{ $labels.instance }}) last looked at everything {{ $value | humanizeDuration }} ago.",
			Impact:      "Damage since then is not known.",
			Action:      checkCommand,
		},
		{
			Name: "PostgresCheckNeverSucceeded",
			Expr: "time() - (pgintegrity_check_waiting_since_timestamp_seconds > 0) > on (${target}, check) group_left () clamp_min(${intervals} * max by (${target}, check) (pgintegrity_check_interval_seconds), ${seconds}) unless pgintegrity_check_applicable == 0",
			Thresholds: []Threshold{
				{"intervals", 1, "intervals of the check since it was planned"},
				{"seconds", 86400, "seconds since it was planned that it has at least, however often it runs"},
			},
			For: 15 * time.Minute, Severity: Warning, Layer: Monitoring, NeedsDatabase: true,
			Summary:     "An integrity check has never finished.",
			Description: "Check {{ $labels.check }} of database {{ $labels.datname }} ({{ $labels.instance }}) has not once looked at everything in the {{ $value | humanizeDuration }} since it was to run for the first time.",
			Impact:      "Nobody knows whether what it looks for is well.",
			Action:      checkCommand,
		},
		{
			Name: "PostgresCheckNotApplicable", Expr: "pgintegrity_check_applicable == 0",
			For: time.Hour, Severity: Warning, Layer: Monitoring, NeedsDatabase: true,
			Summary:     "An integrity check cannot run because an extension or a privilege is missing.",
			Description: "Check {{ $labels.check }} of database {{ $labels.datname }} ({{ $labels.instance }}) is skipped.",
			Impact:      "Damage of its kind is found only when a statement runs into it.",
			Action:      "Run docs/grants/grants.sql in that database as a superuser, or exclude the database in the configuration.",
		},
		{
			Name: "PostgresCheckCoverageLow", Expr: "pgintegrity_check_coverage_ratio < ${ratio} unless pgintegrity_check_last_run_timestamp_seconds == 0 unless pgintegrity_check_applicable == 0",
			Thresholds: []Threshold{{"ratio", 0.9, "share of the database, by bytes, that the last run looked at, 0 to 1"}},
			For:        24 * time.Hour, Severity: Warning, Layer: Monitoring, NeedsDatabase: true,
			Summary:     "An integrity check leaves much of a database out.",
			Description: "Check {{ $labels.check }} looked at {{ $value | humanizePercentage }} of database {{ $labels.datname }} ({{ $labels.instance }}) in its last run, for a day now.",
			Impact:      "Damage in the rest is found only when a statement runs into it.",
			Action:      checkCommand,
		},
		{
			Name: "PostgresExporterOverBudget", Expr: `sum by (${target}) (rate(pgintegrity_cost_wait_seconds_total{purpose!="check"}[15m])) > on (${target}) pgintegrity_cost_watch_limit_ratio`,
			For: 30 * time.Minute, Severity: Warning, Layer: Monitoring,
			Summary:     "Watching a server costs it more than it should.",
			Description: "The exporter {{ $labels.instance }} has waited for its server for {{ $value | humanizePercentage }} of the last 15 minutes, checks not counted; limits.watch_share allows less.",
			Impact:      "The server works for the exporter what it should do for applications, or it is so slow that short statements take long.",
			Action:      "pgintegrity_cost_wait_seconds_total by purpose says what takes the time. If it is all of it, look at the server, and at the way to it, first.",
		},
		{
			Name: "PostgresStateNotKept", Expr: "pgintegrity_state_up == 0",
			For: 5 * time.Minute, Severity: Warning, Layer: Monitoring,
			Summary:     "The exporter cannot write its state.",
			Description: "The exporter {{ $labels.instance }} keeps results and log positions in memory only.",
			Impact:      "A restart of the exporter forgets findings and history, and reads the log anew or not at all.",
			Action:      "Make room, or give it permission, in the directory of --state.path.",
		},
		{
			Name: "PostgresIncidentUpdateDue", Expr: "time() > pgintegrity_incident_update_due_timestamp_seconds and pgintegrity_incidents_open > 0",
			Severity: Warning, Layer: Communication,
			Summary:     "People were promised news of an open incident.",
			Description: "The next update of an open incident of the server of {{ $labels.instance }} is due.",
			Impact:      "People who depend on it do not know whether anybody works on it.",
			Action:      "pg_integrity_exporter incident update --phase=PHASE writes what each audience is told, also when there is nothing new.",
		},
		{
			Name: "PostgresConfigReloadFailed", Expr: "pgintegrity_config_last_reload_successful == 0",
			For: 5 * time.Minute, Severity: Warning, Layer: Monitoring,
			Summary:     "The exporter's configuration file is not valid.",
			Description: "The last reload of {{ $labels.instance }} failed; the configuration before it is in force.",
			Impact:      "Changes to the configuration have no effect, and a restart of the exporter would fail.",
			Action:      "pg_integrity_exporter config check --config.file=FILE names line and key.",
		},
	}}
}
