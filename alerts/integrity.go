package alerts

import "time"

// corruptionFindings are the objects that a check has found damaged, or that
// the log tells of.
const corruptionFindings = `(pgintegrity_finding_info{severity="critical"} and on (${target}, check, datname) pgintegrity_check_findings{class="corruption", severity="critical"} > 0 or pgintegrity_finding_info{check="log", severity="critical"})`

// clusterKinds are about files of the whole cluster: no finding of a table
// stands for them.
const clusterKinds = `kind=~"control_file|relation_map|transaction_status"`

// integrity asks whether the data is whole. Nothing mutes these alerts but an
// explicit silence.
func integrity() Group {
	return Group{Name: "postgres-integrity", Alerts: []Alert{
		{
			Name: "PostgresCorruptionDetected", Expr: "max without (check, severity) " + corruptionFindings,
			KeepFiringFor: 15 * time.Minute, Severity: Critical, Layer: Integrity, Inform: true,
			Summary:     "Data is corrupted.",
			Description: "Damaged: {{ if $labels.relname }}{{ $labels.schemaname }}.{{ $labels.relname }}{{ else }}files of the cluster{{ end }}{{ if $labels.datname }} in database {{ $labels.datname }}{{ end }} ({{ $labels.instance }}). This is corruption, not configuration or network.",
			Impact:      "Whatever needs this data fails or works with wrong figures; writing to it can make the loss final.",
			Action:      "Stop writing to it; no VACUUM, REINDEX or restart; copy the data directory or take a snapshot; stop backups and WAL from expiring. Then: pg_integrity_exporter check{{ if $labels.datname }} --database={{ $labels.datname }}{{ end }}{{ if $labels.relname }} --relation={{ $labels.schemaname }}.{{ $labels.relname }}{{ end }} shows the evidence.",
		},
		{
			Name: "PostgresCorruptionEvents", Expr: "(increase(pgintegrity_corruption_events_total[30m]) > 0 unless on (${target}) " + corruptionFindings + ") or increase(pgintegrity_corruption_events_total{" + clusterKinds + "}[30m]) > 0",
			KeepFiringFor: 6 * time.Hour, Severity: Critical, Layer: Integrity,
			Summary:     "The server's log tells of corruption.",
			Description: "The log of the server of {{ $labels.instance }} has {{ $value | printf \"%.0f\" }} new messages of kind {{ $labels.kind }}, and no object could be named. This is evidence of damage to files of the cluster.",
			Impact:      "Files of the whole cluster may be damaged; the server may not survive its next restart.",
			Action:      "Find the messages in the server's log (SQLSTATE XX001, XX002, 58P01, 58030); no VACUUM, REINDEX or restart; copy the data directory; stop backups and WAL from expiring.",
		},
		{
			Name: "PostgresChecksumFailures", Expr: "increase(pgintegrity_checksum_failures_total[30m]) > 0 or increase(pgintegrity_shared_checksum_failures_total[30m]) > 0",
			KeepFiringFor: 6 * time.Hour, Severity: Critical, Layer: Integrity,
			Summary:     "The server has read pages with a wrong data checksum.",
			Description: "{{ $value | printf \"%.0f\" }} reads of damaged pages in {{ if $labels.datname }}database {{ $labels.datname }}{{ else }}the shared catalogues{{ end }} of {{ $labels.instance }} within 30 minutes. The storage gave back other bytes than were written.",
			Impact:      "Statements that need these pages fail; other pages of the same storage may be damaged as well.",
			Action:      "The server's log names file and block; look for errors of disk, controller and file system on the host; do not restart; keep backups from expiring.",
		},
		{
			Name: "PostgresServerCrashed", Expr: `increase(pgintegrity_server_events_total{kind=~"backend_killed|crash_recovery|panic|server_crash|start_failure"}[15m]) > 0`,
			KeepFiringFor: time.Hour, Severity: Critical, Layer: Integrity,
			Summary:     "The server crashed or was not shut down properly.",
			Description: "The log of the server of {{ $labels.instance }} tells of {{ $labels.kind }} (server_crash: a process died of a signal, reading damaged data is one cause; backend_killed: SIGKILL, often the kernel for want of memory; panic: the server stopped itself; crash_recovery: it started without having been shut down; start_failure: it does not start).",
			Impact:      "Every session was lost and unlogged tables are empty.",
			Action:      "Find the statement that the dead process ran (in the log just before), and do not run it again. A server that does not start: delete nothing, run no pg_resetwal; pg_integrity_exporter check --offline --pgdata=DIR says why.",
		},
		{
			Name: "PostgresUnsafeSetting", Expr: "pgintegrity_setting_unsafe == 1",
			For: 5 * time.Minute, Severity: Critical, Layer: Integrity,
			Summary:     "A setting is on that lets a crash or an error destroy data.",
			Description: "{{ $labels.setting }} has a dangerous value on the server of {{ $labels.instance }}.",
			Impact:      "With fsync or full_page_writes off a crash can corrupt every table; zero_damaged_pages and ignore_checksum_failure hide and destroy evidence.",
			Action:      "Find who set it (pg_settings.sourcefile, pg_db_role_setting), put it back and SELECT pg_reload_conf().",
		},
		{
			Name: "PostgresChecksumsDisabled", Expr: "pgintegrity_data_checksums_enabled == 0",
			For: time.Hour, Severity: Info, Layer: Integrity,
			Summary:     "Data checksums are off.",
			Description: "The server of {{ $labels.instance }} cannot tell when the storage gives back other bytes than were written. Plan pg_checksums --enable in a maintenance window; the server must be stopped for it.",
		},
	}}
}
