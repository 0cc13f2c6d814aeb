package alerts

import "time"

// job is the scrape job that the rules expect.
const job = `job="pg_integrity_exporter"`

// monitoring asks whether the watcher works: silence must not look like
// health.
func monitoring() Group {
	return Group{Name: "postgres-monitoring", Alerts: []Alert{
		{
			Name: "PostgresWatchdog", Expr: "vector(1)", Severity: None, Layer: Monitoring, NoRunbookURL: true,
			Summary:     "Alerting works: this alert always fires.",
			Description: "Route it to a dead man's switch that calls for help when it stops coming. At {{ $value }} it proves that rules are evaluated and notifications leave.",
		},
		{
			Name: "PostgresTargetAbsent", Expr: "absent(up{" + job + "})",
			For: 10 * time.Minute, Severity: Critical, Layer: Monitoring, NoRunbookURL: true,
			Summary:     "Prometheus has no pg_integrity_exporter to scrape.",
			Description: "No target of job {{ $labels.job }} exists: nobody watches the data. Look at the scrape configuration and service discovery (Prometheus, Status, Targets). While this lasts, no other alert of this set can fire.",
		},
		{
			Name: "PostgresExporterDown", Expr: "up{" + job + "} == 0",
			For: 5 * time.Minute, Severity: Critical, Layer: Monitoring, NoRunbookURL: true,
			Summary:     "The exporter that watches a PostgreSQL server does not answer.",
			Description: "{{ $labels.instance }} has not answered Prometheus for 5 minutes: nobody watches the data of that server. First: on the exporter's host, systemctl status pg_integrity_exporter and journalctl -u pg_integrity_exporter -n 50. The server itself may be well: psql -c 'SELECT 1'.",
		},
		{
			Name: "PostgresDown", Expr: "pgintegrity_connection_failure == 1 or on (job, instance) pgintegrity_up == 0",
			For: time.Minute, Severity: Critical, Layer: Availability,
			Summary:     "A PostgreSQL server cannot be used.",
			Description: "The exporter {{ $labels.instance }} has not been able to use its server for a minute. Reason: {{ $labels.reason }} (refused: it is not running; timeout: it hangs; too_many_connections: all slots are taken; not_accepting: it is starting or recovering). First: read the end of the server's log. If it does not start, do not delete files and do not run pg_resetwal.",
		},
		{
			Name: "PostgresCollectorFailing", Expr: "pgintegrity_scrape_collector_success == 0 unless on (job, instance) pgintegrity_up == 0",
			For: 15 * time.Minute, Severity: Warning, Layer: Monitoring, NeedsDatabase: true,
			Summary:     "A part of the exporter cannot collect its metrics.",
			Description: "Collector {{ $labels.collector }} of {{ $labels.instance }} has failed for 15 minutes; its metrics are missing, and alerts built on them are blind. First: the exporter's log names the error and what to do.",
		},
		{
			Name: "PostgresLogReaderDown", Expr: "pgintegrity_log_reader_up == 0",
			For: 15 * time.Minute, Severity: Warning, Layer: Monitoring,
			Summary:     "The server's log is not being read.",
			Description: "The exporter {{ $labels.instance }} has not read the server's log for 15 minutes: errors by SQLSTATE and corruption that statements run into are not seen. First: the exporter's log says why (settings, permission, path).",
		},
		{
			Name: "PostgresLogReaderBehind", Expr: "pgintegrity_log_backlog_bytes > 64 * 1024 * 1024 or increase(pgintegrity_log_lost_bytes_total[15m]) > 0",
			For: 5 * time.Minute, KeepFiringFor: 15 * time.Minute, Severity: Warning, Layer: Monitoring,
			Summary:     "The log reader does not keep up, or log files went away unread.",
			Description: "The log reader of {{ $labels.instance }} is {{ $value | humanize1024 }}B behind or has lost that much. Errors are counted late or not at all. First: see whether the server logs far more than usual, and whether log files are removed too early.",
		},
		{
			Name: "PostgresCheckOverdue", Expr: "time() - pgintegrity_check_last_success_timestamp_seconds > 2 * pgintegrity_check_interval_seconds + 600 and pgintegrity_check_last_success_timestamp_seconds > 0",
			For: 15 * time.Minute, Severity: Warning, Layer: Monitoring, NeedsDatabase: true,
			Summary:     "An integrity check has not finished for too long.",
			Description: "Check {{ $labels.check }} of database {{ $labels.datname }} ({{ $labels.instance }}) last looked at everything {{ $value | humanizeDuration }} ago. Damage since then is not known. First: pg_integrity_exporter check --check={{ $labels.check }} --database={{ $labels.datname }} says what it could not look at.",
		},
		{
			Name: "PostgresCheckNeverSucceeded", Expr: "pgintegrity_check_last_success_timestamp_seconds == 0 and pgintegrity_check_applicable == 1",
			For: 24 * time.Hour, Severity: Warning, Layer: Monitoring, NeedsDatabase: true,
			Summary:     "An integrity check has never finished.",
			Description: "Check {{ $labels.check }} of database {{ $labels.datname }} ({{ $labels.instance }}) has not once looked at everything in a day. First: pg_integrity_exporter check --check={{ $labels.check }} --database={{ $labels.datname }} says what it could not look at.",
		},
		{
			Name: "PostgresCheckNotApplicable", Expr: "pgintegrity_check_applicable == 0",
			For: time.Hour, Severity: Warning, Layer: Monitoring, NeedsDatabase: true,
			Summary:     "An integrity check cannot run because an extension or a privilege is missing.",
			Description: "Check {{ $labels.check }} of database {{ $labels.datname }} ({{ $labels.instance }}) is skipped: damage there is found only when a statement runs into it. First: run docs/grants/grants.sql in that database as a superuser, or exclude the database in the configuration.",
		},
		{
			Name: "PostgresStateNotKept", Expr: "pgintegrity_state_up == 0",
			For: 5 * time.Minute, Severity: Warning, Layer: Monitoring,
			Summary:     "The exporter cannot write its state.",
			Description: "The exporter {{ $labels.instance }} keeps results and log positions in memory only; a restart forgets them. First: make room, or give it permission, in the directory of --state.path.",
		},
		{
			Name: "PostgresConfigReloadFailed", Expr: "pgintegrity_config_last_reload_successful == 0",
			For: 5 * time.Minute, Severity: Warning, Layer: Monitoring,
			Summary:     "The exporter's configuration file is not valid.",
			Description: "The last reload of {{ $labels.instance }} failed; the configuration before it is in force, and a restart would fail. First: pg_integrity_exporter config check --config.file=FILE names line and key.",
		},
	}}
}
