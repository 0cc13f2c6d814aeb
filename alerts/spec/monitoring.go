package spec

import (
	"fmt"
	"time"
)

const (
	// overdueIntervals is how many intervals may pass without a success of a
	// check, overdueGrace what is added for short intervals.
	overdueIntervals = 2
	overdueGrace     = 10 * time.Minute
	// logBacklog is how much unread log is too much.
	logBacklog    = 64
	logBacklogMiB = "MiB"
)

// monitoring asks whether the other alerts can be relied on.
func monitoring(job string) Group {
	return Group{
		Name: "postgres-monitoring",
		Alerts: []Alert{
			watchdog(), targetAbsent(job), exporterDown(job), collectorFailing(),
			logReaderDown(), logReaderBehind(), logIncomplete(),
			checkOverdue(), checkNeverSucceeded(), checkNotApplicable(),
			stateNotKept(), configReloadFailed(),
		},
	}
}

func watchdog() Alert {
	return Alert{
		Name:     "PostgresWatchdog",
		Expr:     "vector(1)",
		Severity: None, Layer: Monitoring,
		Summary: "Alerts reach Alertmanager.",
		What:    `This alert always fires ({{ $value }}). It is routed to a dead man's switch that raises the alarm when it stops.`,
		Why:     "While it does not arrive, no other alert would arrive either.",
		First:   "when it is missing, look whether Prometheus and Alertmanager run and reach each other.",
	}
}

func targetAbsent(job string) Alert {
	return Alert{
		Name:     "PostgresTargetAbsent",
		Expr:     fmt.Sprintf("absent(up{job=%q})", job),
		For:      10 * time.Minute,
		Severity: Critical, Layer: Monitoring,
		Summary: "Prometheus has no target of this exporter.",
		What:    `Prometheus scrapes nothing in the job {{ $labels.job }}.`,
		Why:     "No PostgreSQL server is watched: neither damage nor failing transactions would be noticed.",
		First:   "open the page Status, Targets of Prometheus and look for the job; then check its scrape_configs and service discovery, and that the rules were generated for this job name.",
	}
}

func exporterDown(job string) Alert {
	return Alert{
		Name:     "PostgresExporterDown",
		Expr:     fmt.Sprintf("up{job=%q} == 0", job),
		For:      5 * time.Minute,
		Severity: Critical, Layer: Monitoring,
		Summary: "The exporter of a PostgreSQL server does not answer.",
		What:    `The exporter at {{ $labels.instance }} has not answered Prometheus for 5 minutes.`,
		Why:     "Its server is not watched: damage and failing transactions would not be noticed. It says nothing about whether the server itself is well.",
		First:   "on the exporter's host run `systemctl status pg_integrity_exporter` and `journalctl -u pg_integrity_exporter -n 50`; start it again. Then ask the server itself: `psql -c 'SELECT 1'`.",
	}
}

func collectorFailing() Alert {
	return Alert{
		Name:     "PostgresCollectorFailing",
		Expr:     "pgintegrity_scrape_collector_success == 0",
		For:      15 * time.Minute,
		Severity: Warning, Layer: Monitoring, Needs: NeedsDatabase,
		Summary: "Part of a PostgreSQL server is not watched.",
		What:    `The collector {{ $labels.collector }} of {{ $labels.instance }} has failed for 15 minutes.`,
		Why:     "Alerts that need its metrics cannot fire.",
		First:   "read the exporter's log: it says once why the collector failed and what to do (`journalctl -u pg_integrity_exporter | grep 'collector failed'`).",
	}
}

func logReaderDown() Alert {
	return Alert{
		Name:     "PostgresLogReaderDown",
		Expr:     "pgintegrity_log_reader_up == 0",
		For:      10 * time.Minute,
		Severity: Warning, Layer: Monitoring, Needs: NeedsDatabase,
		Summary: "The log of a PostgreSQL server is not being read.",
		What:    `The exporter at {{ $labels.instance }} has not been able to read the server's log for 10 minutes.`,
		Why:     "Errors are not counted and damage that statements run into is not noticed; only the scheduled checks still find it.",
		First:   "read the exporter's log for the reason (`journalctl -u pg_integrity_exporter | grep 'server log'`): usually logging_collector, log_destination (jsonlog or csvlog), or the permissions of the log directory.",
	}
}

func logReaderBehind() Alert {
	return Alert{
		Name:     "PostgresLogReaderBehind",
		Expr:     fmt.Sprintf("pgintegrity_log_backlog_bytes > %d * 1024 * 1024", logBacklog),
		For:      10 * time.Minute,
		Severity: Warning, Layer: Monitoring, Needs: NeedsExporter,
		Summary: "The log of a PostgreSQL server is read too slowly.",
		What: fmt.Sprintf(`{{ $value | humanize1024 }}B of the log of {{ $labels.instance }} are written but not read yet; more than %d %s for 10 minutes.`,
			logBacklog, logBacklogMiB),
		Why:   "Errors and damage are noticed late.",
		First: "look whether the server logs far too much (log_statement, log_min_duration_statement), and whether the exporter's host is short of CPU or disk.",
	}
}

func logIncomplete() Alert {
	return Alert{
		Name: "PostgresLogIncomplete",
		Expr: `increase(pgintegrity_log_lost_bytes_total[1h]) > 0
or increase(pgintegrity_log_parse_failures_total[1h]) > 0`,
		Severity: Warning, Layer: Monitoring, Needs: NeedsExporter,
		Summary: "Part of the log of a PostgreSQL server could not be read.",
		What:    `The exporter at {{ $labels.instance }} lost part of the server's log in the last hour, or could not understand it ({{ $value | humanize }} bytes or records).`,
		Why:     "Errors, and evidence of damage, may have been in that part.",
		First:   "search the server's log of that hour yourself: `grep -E 'XX001|XX002|58030|58P01|PANIC|signal' LOGFILE`.",
	}
}

func checkOverdue() Alert {
	return Alert{
		Name: "PostgresCheckOverdue",
		Expr: fmt.Sprintf(`(
  time() - pgintegrity_check_last_success_timestamp_seconds
    > %d * pgintegrity_check_interval_seconds + %.0f
)
and pgintegrity_check_last_success_timestamp_seconds > 0
unless pgintegrity_check_applicable == 0`, overdueIntervals, overdueGrace.Seconds()),
		For:      15 * time.Minute,
		Severity: Warning, Layer: Monitoring, Needs: NeedsDatabase,
		Summary: "An integrity check has not looked at a whole database for too long.",
		What: fmt.Sprintf(`The check {{ $labels.check }} last looked at all of database {{ $labels.datname }} of {{ $labels.instance }} {{ $value | humanizeDuration }} ago, which is more than %d intervals and %s.`,
			overdueIntervals, duration(overdueGrace)),
		Why:   "Damage that no statement touches stays unnoticed.",
		First: "run it by hand and read the reason: `pg_integrity_exporter check --check={{ $labels.check }} --database={{ $labels.datname }}`.",
	}
}

func checkNeverSucceeded() Alert {
	return Alert{
		Name: "PostgresCheckNeverSucceeded",
		Expr: `pgintegrity_check_last_success_timestamp_seconds == 0
and (
  pgintegrity_check_last_run_timestamp_seconds > 0
  or pgintegrity_check_last_success_timestamp_seconds offset 1d == 0
)
unless pgintegrity_check_applicable == 0`,
		For:      time.Hour,
		Severity: Warning, Layer: Monitoring, Needs: NeedsDatabase,
		Summary: "An integrity check has never looked at a whole database.",
		What:    `The check {{ $labels.check }} has run in database {{ $labels.datname }} of {{ $labels.instance }} or been due for a day, and never looked at everything.`,
		Why:     "Nobody knows whether this database is sound; no finding does not mean no damage.",
		First:   "run it by hand and read the reason: `pg_integrity_exporter check --check={{ $labels.check }} --database={{ $labels.datname }}`.",
	}
}

func checkNotApplicable() Alert {
	return Alert{
		Name:     "PostgresCheckNotApplicable",
		Expr:     "pgintegrity_check_applicable == 0",
		For:      15 * time.Minute,
		Severity: Warning, Layer: Monitoring, Needs: NeedsDatabase,
		Summary: "An integrity check lacks an extension or a privilege.",
		What:    `The check {{ $labels.check }} was skipped in database {{ $labels.datname }} of {{ $labels.instance }}.`,
		Why:     "What it would find in this database stays unnoticed.",
		First:   "run `pg_integrity_exporter check --check={{ $labels.check }} --database={{ $labels.datname }}`: it prints the CREATE EXTENSION or GRANT that is missing. Or exclude the database in the configuration.",
	}
}

func stateNotKept() Alert {
	return Alert{
		Name: "PostgresStateNotKept",
		Expr: `pgintegrity_state_up == 0
or increase(pgintegrity_state_write_failures_total[15m]) > 0`,
		For:      5 * time.Minute,
		Severity: Warning, Layer: Monitoring, Needs: NeedsExporter,
		Summary: "The exporter cannot keep its results on disk.",
		What:    `The exporter at {{ $labels.instance }} cannot write its state.`,
		Why:     "After its next restart it has forgotten findings, check results and how far it read the log: open damage would look repaired.",
		First:   "do not restart the exporter; look at free space and owner of its state directory (`df -h` and `ls -ld` on --state.path).",
	}
}

func configReloadFailed() Alert {
	return Alert{
		Name:     "PostgresConfigReloadFailed",
		Expr:     "pgintegrity_config_last_reload_successful == 0",
		For:      5 * time.Minute,
		Severity: Warning, Layer: Monitoring, Needs: NeedsExporter,
		Summary: "The exporter's configuration file is not valid.",
		What:    `The exporter at {{ $labels.instance }} was told to read its configuration again and refused it; the one before is still in force.`,
		Why:     "Changes are not in force, and with this file the exporter will not start again.",
		First:   "run `pg_integrity_exporter config check --config.file=FILE` on its host: it names line and key.",
	}
}
