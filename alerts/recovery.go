package alerts

import "time"

// recoveryDashboard is the UID of the dashboard about recovery.
const recoveryDashboard = "postgres-integrity-recovery"

// backups asks whether the data could be brought back, how far and how fast. The
// objectives are series of the exporter, from its configuration; 0 is none.
// Nothing about it is muted by maintenance: that is when it is needed.
func backups() Group {
	const (
		of   = "Repository {{ $labels.repository }} of {{ $labels.instance }}"
		list = "pg_integrity_exporter drill --list --repository={{ $labels.repository }} names the backups and what is wrong with them."
	)
	return Group{Name: "postgres-recovery", Alerts: []Alert{
		{
			Name: "PostgresArchivingFailing", Expr: "pgintegrity_archiver_failing == 1",
			For: 5 * time.Minute, Severity: Critical, Layer: Recovery, NeedsDatabase: true,
			Summary:     "The server cannot archive its WAL.",
			Description: "Every attempt of the server of {{ $labels.instance }} to archive WAL has failed for 5 minutes.",
			Impact:      "What is committed now is lost with the server, and pg_wal fills the disk until the server stops.",
			Action:      "The server's log has the output of archive_command. Mend that; never delete files in pg_wal by hand.",
			Dashboard:   recoveryDashboard,
		},
		{
			Name: "PostgresArchivingBehind", Expr: "pgintegrity_archiver_ready_segments > ${segments} and time() - (pgintegrity_archiver_oldest_ready_timestamp_seconds > 0) > ${seconds}",
			Thresholds: []Threshold{
				{"segments", 8, "WAL files that wait"},
				{"seconds", 600, "how long the oldest has waited"},
			},
			For: 10 * time.Minute, Severity: Warning, Layer: Recovery, NeedsDatabase: true,
			Summary:     "Archiving of WAL does not keep up.",
			Description: "{{ $value | printf \"%.0f\" }} WAL files of the server of {{ $labels.instance }} wait to be archived.",
			Impact:      "That much would be lost with the server, and pg_wal grows.",
			Action:      "See whether archive_command hangs (ps shows it below the archiver) or the way to the archive is slow.",
			Dashboard:   recoveryDashboard,
		},
		{
			Name: "PostgresRecoveryPointOld", Expr: "(time() - pgintegrity_recovery_point_timestamp_seconds > (pgintegrity_recovery_point_max_age_seconds > 0)) and pgintegrity_recovery_point_timestamp_seconds > 0",
			For: 5 * time.Minute, Severity: Critical, Layer: Recovery, NeedsDatabase: true,
			Summary:     "More time would be lost than is allowed.",
			Description: of + " can bring back the state of {{ $value | humanizeDuration }} ago; the objective is less.",
			Impact:      "A loss of the server now would lose all that was committed since.",
			Action:      "See whether archiving works (pg_stat_archiver, the server's log), and whether the archive has a gap. " + list,
			Dashboard:   recoveryDashboard,
		},
		{
			// What cannot be read may have backups: PostgresRepositoryUnreadable.
			Name: "PostgresBackupNever", Expr: "pgintegrity_backup_last_success_timestamp_seconds == 0 and pgintegrity_repository_up == 1",
			For: 15 * time.Minute, Severity: Critical, Layer: Recovery,
			Summary:     "There is no usable backup.",
			Description: of + " has no backup that could be restored.",
			Impact:      "If the data is lost or damaged, it cannot be brought back from here.",
			Action:      list + " Take a backup now.",
			Dashboard:   recoveryDashboard,
		},
		{
			Name: "PostgresBackupOverdue", Expr: "(time() - pgintegrity_backup_last_success_timestamp_seconds > (pgintegrity_backup_max_age_seconds > 0)) and pgintegrity_backup_last_success_timestamp_seconds > 0",
			For: 15 * time.Minute, Severity: Critical, Layer: Recovery,
			Summary:     "The newest usable backup is too old.",
			Description: "The newest usable backup in repository {{ $labels.repository }} of {{ $labels.instance }} is {{ $value | humanizeDuration }} old.",
			Impact:      "Recovery takes longer than planned, and fails if any WAL since then is missing.",
			Action:      "See why the last run of the backup did not end well (its log, its timer). " + list,
			Dashboard:   recoveryDashboard,
		},
		{
			Name: "PostgresBackupFailed", Expr: "(pgintegrity_backup_last_failure_timestamp_seconds > pgintegrity_backup_last_success_timestamp_seconds) > 0",
			For: 15 * time.Minute, Severity: Warning, Layer: Recovery,
			Summary:     "The newest backup is not usable.",
			Description: of + " has a backup that failed, was interrupted or is damaged, and none after it.",
			Impact:      "Recovery has to begin from an older backup.",
			Action:      list + " Keep the older backups from expiring until a new one is there.",
			Dashboard:   recoveryDashboard,
		},
		{
			Name: "PostgresBackupChainBroken", Expr: "pgintegrity_backup_chain_complete == 0 and on (${target}, repository) pgintegrity_backup_last_success_timestamp_seconds > 0 or on (${target}, repository) sum without (reason) (pgintegrity_repository_problems{reason=~\"chain_broken|damaged|missing|wal_damaged|wal_gap\"}) > 0",
			For: 5 * time.Minute, Severity: Critical, Layer: Recovery,
			Summary:     "Something that a recovery needs is missing or damaged.",
			Description: of + " lacks a part of a backup, a backup that others build on, or archived WAL.",
			Impact:      "Recovery ends at the gap, or is not possible at all.",
			Action:      list + " Keep everything from expiring, and take a new full backup: it does not need what is missing.",
			Dashboard:   recoveryDashboard,
		},
		{
			Name: "PostgresRepositoryUnreadable", Expr: "pgintegrity_repository_up == 0",
			For: 15 * time.Minute, Severity: Warning, Layer: Recovery,
			Summary:     "A repository of backups cannot be read.",
			Description: of + " cannot be read by the exporter.",
			Impact:      "Nobody knows whether the data could be brought back from there.",
			Action:      list + " See whether it is mounted, and whether the exporter's user may read it.",
			Dashboard:   recoveryDashboard,
		},
		{
			Name: "PostgresDrillNever", Expr: "(pgintegrity_drill_max_age_seconds > 0) and pgintegrity_drill_last_success_timestamp_seconds == 0",
			For: 24 * time.Hour, Severity: Warning, Layer: Recovery,
			Summary:     "No restore drill has ever proved a backup.",
			Description: of + " has never been proved by a drill.",
			Impact:      "Whether these backups can be restored is a hope, not a fact.",
			Action:      "pg_integrity_exporter drill --repository={{ $labels.repository }} on a machine with room for the data.",
			Dashboard:   recoveryDashboard,
		},
		{
			Name: "PostgresDrillOverdue", Expr: "(time() - pgintegrity_drill_last_success_timestamp_seconds > (pgintegrity_drill_max_age_seconds > 0)) and pgintegrity_drill_last_success_timestamp_seconds > 0",
			For: time.Hour, Severity: Warning, Layer: Recovery,
			Summary:     "The last restore drill that proved a backup is too long ago.",
			Description: of + " was last proved {{ $value | humanizeDuration }} ago.",
			Impact:      "What has broken since then is not known.",
			Action:      "See whether the timer of the drill runs: drill_interval in the configuration, systemctl list-timers, or kubectl get cronjobs.",
			Dashboard:   recoveryDashboard,
		},
		{
			Name: "PostgresDrillFailed", Expr: "pgintegrity_drill_success == 0 and pgintegrity_drill_last_run_timestamp_seconds > 0",
			Severity: Critical, Layer: Recovery,
			Summary:     "The last restore drill did not prove its backup.",
			Description: "The last drill of repository {{ $labels.repository }} of {{ $labels.instance }} failed or was refused.",
			Impact:      "The newest backup may be worthless.",
			Action:      "Run it again and read the reason: pg_integrity_exporter drill --repository={{ $labels.repository }}. Keep older backups from expiring until one is proved.",
			Dashboard:   recoveryDashboard,
		},
		{
			Name: "PostgresRecoveryTimeExceeded", Expr: "pgintegrity_drill_recovery_time_seconds > (pgintegrity_drill_recovery_time_max_seconds > 0)",
			Severity: Warning, Layer: Recovery,
			Summary:     "Recovery takes longer than is allowed.",
			Description: "The last drill of repository {{ $labels.repository }} of {{ $labels.instance }} took {{ $value | humanizeDuration }} until the server accepted connections; the objective is less.",
			Impact:      "After a loss the service would be away for longer than promised.",
			Action:      "pgintegrity_drill_phase_duration_seconds says whether restoring or replaying takes the time. More frequent backups shorten replay; parallel or incremental restore shortens the rest.",
			Dashboard:   recoveryDashboard,
		},
	}}
}
