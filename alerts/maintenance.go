package alerts

import "time"

// underMaintenance holds while a window is active or maintenance is seen.
const underMaintenance = "(pgintegrity_maintenance_window_active == 1 or on (${target}) sum by (${target}) (pgintegrity_maintenance_running) > 0)"

// maintenance is about what people do to the server, whether announced or not.
func maintenance() Group {
	return Group{Name: "postgres-maintenance", Alerts: []Alert{
		{
			Name: "PostgresMaintenanceWindow", Expr: "pgintegrity_maintenance_window_active == 1",
			Severity: None, Layer: Maintenance,
			Summary:     "A maintenance window is active.",
			Description: "Noise of the server of {{ $labels.instance }} is muted until the window ends. Integrity alerts are never muted.",
			Impact:      "None; Alertmanager needs this alert to hold back those that carry maintenance=\"mutable\".",
			Action:      "Nothing. pg_integrity_exporter window list shows who announced it and why.",
		},
		{
			Name: "PostgresMaintenanceWindowOverrun", Expr: "pgintegrity_maintenance_window_open == 1 and pgintegrity_maintenance_window_active == 0",
			For: 5 * time.Minute, Severity: Warning, Layer: Maintenance,
			Summary:     "A maintenance window has passed its announced end and was not closed.",
			Description: "A window of the server of {{ $labels.instance }} was not closed. Alerts are not muted any more.",
			Impact:      "The maintenance goes on in working hours, or somebody forgot to say that it is over.",
			Action:      "pg_integrity_exporter window list names who opened it: ask whether the maintenance is over, then window close, or open a new one.",
		},
		{
			Name: "PostgresMaintenanceBlocks", Expr: "pgintegrity_maintenance_blocked_seconds > ${seconds} and pgintegrity_maintenance_blocked_sessions > 0",
			Thresholds: []Threshold{{Name: "seconds", Value: 30, Help: "how long a session may wait for maintenance, in seconds"}},
			Severity:   Critical, Layer: Maintenance, NeedsDatabase: true,
			Summary:     "Sessions wait for maintenance.",
			Description: "Maintenance on the server of {{ $labels.instance }} has made a session wait for {{ $value | printf \"%.0f\" }} seconds.",
			Impact:      "Whatever these sessions serve stands still; more will queue behind them until connections run out.",
			Action:      "SELECT pid, pg_blocking_pids(pid), wait_event_type, left(query, 80) FROM pg_stat_activity WHERE wait_event_type = 'Lock' shows who waits for whom; pg_cancel_backend of the maintenance lets them go on, and the statement is rolled back.",
		},
		{
			// In a window PostgresTransactionsFailing is muted.
			Name: "PostgresMaintenanceFailures",
			Expr: "(" + rollbackRatio2m + " > ${times} * " + rollbackUsual + " or (" + rollbackRatio2m + " > ${ratio} unless " + rollbackUsual + ")) > ${ratio} and " + rollbackRate5m + " * 300 > ${rollbacks} and on (${target}) pgintegrity_maintenance_window_active == 1",
			Thresholds: []Threshold{
				{"times", 5, "multiples of what is usual for the database at this time, in a window"},
				{"ratio", 0.3, "share of transactions that must fail at least, 0 to 1, in a window"},
				{"rollbacks", 100, "rollbacks within 5 minutes below which nothing counts, in a window"},
			},
			For: 5 * time.Minute, KeepFiringFor: 5 * time.Minute, Severity: Critical, Layer: Maintenance, NeedsDatabase: true,
			Summary:     "Far more transactions fail than maintenance explains.",
			Description: "{{ $value | humanizePercentage }} of the transactions of database {{ $labels.datname }} ({{ $labels.instance }}) fail in its maintenance window, at least ${times} times what is usual for it at this time.",
			Impact:      "What users do is not saved, because of the maintenance or at the same time.",
			Action:      "SELECT pid, query_start, left(query, 80) FROM pg_stat_activity WHERE state = 'active' ORDER BY 2 shows the maintenance that runs: pg_cancel_backend stops it, if the errors began with it. topk(5, increase(pgintegrity_errors_total{instance=\"{{ $labels.instance }}\", datname=\"{{ $labels.datname }}\"}[5m])) in Prometheus says with which SQLSTATE they fail.",
		},
		{
			// In a window PostgresReplicationLag and PostgresReplicationReceiverBehind are muted.
			Name: "PostgresMaintenanceStandbyBehind", Expr: "pgintegrity_replication_unflushed_bytes > ${bytes} and on (${target}) pgintegrity_maintenance_window_active == 1",
			Thresholds: []Threshold{{"bytes", 16 << 30, "WAL that a standby may be without in a window, in bytes"}},
			For:        5 * time.Minute, Severity: Warning, Layer: Maintenance, NeedsDatabase: true,
			Summary:     "Maintenance writes more WAL than a standby can take.",
			Description: "The standby {{ $labels.application_name }} of {{ $labels.instance }} does not have the last {{ $value | humanize1024 }}B of WAL, in its maintenance window.",
			Impact:      "A fail-over now would lose them; what waits fills the disk of the primary, or the standby is lost.",
			Action:      "Pause the maintenance until the standby has caught up; df -h of pg_wal on the primary says how long that can wait.",
		},
		{
			// Announced or not: a full disk stops the server, and is why it is down then.
			Name: "PostgresMaintenanceDiskFilling",
			Expr: "(pgintegrity_disk_free_bytes < ${ratio} * pgintegrity_disk_size_bytes or predict_linear(pgintegrity_disk_free_bytes[10m], ${seconds}) < 0) and on (${target}) " + underMaintenance,
			Thresholds: []Threshold{
				{"ratio", 0.05, "share of the file system that must stay free during maintenance, 0 to 1"},
				{"seconds", 900, "how long what is free must last during maintenance, going by the last 10 minutes, in seconds"},
			},
			For: 2 * time.Minute, Severity: Critical, Layer: Maintenance,
			Summary:     "Maintenance fills the disk.",
			Description: "{{ $value | humanize1024 }}B are free, or would be within ${seconds} seconds, on the disk of {{ $labels.place }} of {{ $labels.instance }}, where maintenance is under way.",
			Impact:      "When nothing is free the maintenance fails; on the disk of pg_wal or of the data directory the server stops.",
			Action:      "SELECT pid, query_start, left(query, 80) FROM pg_stat_activity WHERE state = 'active' ORDER BY 2 shows the maintenance that runs: pg_cancel_backend stops it, and its new files are removed. Never remove files of pg_wal by hand.",
		},
		{
			Name:       "PostgresMaintenanceWAL",
			Expr:       "increase(pgintegrity_wal_written_bytes_total[10m]) > ${sizes} * pgintegrity_wal_size_limit_bytes and on (${target}) " + underMaintenance,
			Thresholds: []Threshold{{"sizes", 20, "multiples of max_wal_size that maintenance may write in 10 minutes"}},
			For:        5 * time.Minute, Severity: Warning, Layer: Maintenance, NeedsDatabase: true,
			Summary:     "Maintenance writes so much WAL that checkpoints, archive and standbys cannot keep up.",
			Description: "{{ $value | humanize1024 }}B of WAL were written on {{ $labels.instance }} within 10 minutes, more than ${sizes} times max_wal_size, while maintenance is under way.",
			Impact:      "Checkpoints follow each other without a pause and slow everything down; what the archive and the standbys have not taken yet fills pg_wal.",
			Action:      "Pause between tables. pgintegrity_archiver_ready_bytes and pgintegrity_replication_unflushed_bytes say whether archive and standbys keep up; df -h of pg_wal how long that can go on.",
		},
		{
			Name: "PostgresGuardNotRolledBack", Expr: "pgintegrity_guard_not_rolled_back_runs > 0",
			Severity: Critical, Layer: Maintenance,
			Summary:     "Maintenance failed under guard and could not be rolled back.",
			Description: "{{ $value }} runs of the guard on the server of {{ $labels.instance }} failed, and not everything could be taken back; nobody has settled that yet.",
			Impact:      "The database is in a state that nobody planned: rows, constraints or indexes may be wrong or missing.",
			Action:      "pg_integrity_exporter guard status names the run; its report beside the journal lists what is left and the commands that bring the state before back. Keep the data directory, and backups and WAL from expiring. When it is mended: guard settle.",
		},
		{
			Name: "PostgresGuardUnfinished", Expr: "pgintegrity_guard_unfinished_runs > 0",
			For: time.Minute, Severity: Critical, Layer: Maintenance,
			Summary:     "The guard died while maintenance was under way.",
			Description: "{{ $value }} runs of the guard on the server of {{ $labels.instance }} have no end: nobody has verified or taken back what they did.",
			Impact:      "The maintenance may be half done.",
			Action:      "pg_integrity_exporter guard resume on the host where it ran: it finds out how far it came, and verifies it or takes it back.",
		},
	}}
}
