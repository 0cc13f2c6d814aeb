package spec

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pglog"
)

const (
	// integrityInterval is how often damage is looked for. Together with a scrape
	// interval of 15 s and a group_wait of 5 s it keeps the way from the log to
	// the page under 30 s.
	integrityInterval = 5 * time.Second
	// evidenceWindow is how long an event that names no object keeps alarming.
	evidenceWindow = 2 * time.Hour
	// checksumMemory is how long the last checksum failure keeps alarming.
	checksumMemory = 24 * time.Hour
)

// clusterKinds are the kinds of corruption events that are about the whole
// cluster, so that no finding of an object stands for them.
var clusterKinds = []pglog.EventKind{pglog.ControlFile, pglog.RelationMap, pglog.TransactionStatus}

// integrity asks whether the data are damaged or about to be. Its critical
// alerts fire in the first evaluation and are not muted by maintenance.
func integrity() Group {
	return Group{
		Name:     "postgres-integrity",
		Interval: integrityInterval,
		Alerts: []Alert{
			corruptionDetected(), corruptionEvents(), checksumFailures(), serverCrashed(),
			uncleanRestart(), unsafeSetting(), checksumsDisabled(), leftover(),
		},
	}
}

// damage selects the findings of damaged objects.
func damage() string {
	names := []string{check.LogFinding(pglog.Event{}, "", check.RelationName{}).Check}
	for _, c := range check.All() {
		if slices.ContainsFunc(c.Kinds, func(k check.Kind) bool { return k.Class == check.ClassCorruption }) {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return fmt.Sprintf(`pgintegrity_finding_info{check=~%q,severity=%q}`, strings.Join(names, "|"), check.SeverityCritical)
}

func corruptionDetected() Alert {
	const object = `{{ with $labels.relname }}{{ $labels.schemaname }}.{{ . }}{{ else }}an object whose name could not be found out{{ end }}`
	return Alert{
		Name:          "PostgresCorruptionDetected",
		Expr:          "max without (check, severity) (" + damage() + ")",
		KeepFiringFor: time.Hour,
		Severity:      Critical, Layer: Integrity, Needs: NeedsExporter,
		Summary: "Data of a PostgreSQL server are damaged.",
		What: `Damaged: ` + object + ` in database {{ $labels.datname }} of {{ $labels.instance }}.` +
			` Found by:{{ range printf "pgintegrity_finding_info{job=%q,instance=%q,datname=%q,schemaname=%q,relname=%q}" $labels.job $labels.instance $labels.datname $labels.schemaname $labels.relname | query }} {{ .Labels.check }}{{ end }} (log is a statement that ran into it).`,
		Why:   "Statements that touch it fail, crash the server or give wrong results, and every write and every new backup can make it worse.",
		First: "stop the applications that write to it and any running maintenance. Do NOT run VACUUM, REINDEX, CLUSTER or pg_resetwal, and do not restart the server. Keep backups and WAL archive from expiring, and copy the data directory before any repair. The evidence: `pg_integrity_exporter check --database={{ $labels.datname }}{{ with $labels.relname }} --relation={{ $labels.schemaname }}.{{ . }}{{ end }}`.",
	}
}

func corruptionEvents() Alert {
	window := duration(evidenceWindow)
	kinds := make([]string, 0, len(clusterKinds))
	for _, kind := range clusterKinds {
		kinds = append(kinds, string(kind))
	}
	return Alert{
		Name: "PostgresCorruptionEvents",
		Expr: fmt.Sprintf(`increase(pgintegrity_corruption_events_total{kind=~%q}[%s]) > 0
or (
  increase(pgintegrity_corruption_events_total[%s]) > 0
  unless on (job, instance) last_over_time(%s[%s])
)`, strings.Join(kinds, "|"), window, window, damage(), window),
		Severity: Critical, Layer: Integrity, Needs: NeedsExporter,
		Summary: "A PostgreSQL server's log tells of damage, but not of which object.",
		What:    fmt.Sprintf(`The log of {{ $labels.instance }} had {{ $value | printf "%%.0f" }} messages of kind {{ $labels.kind }} in the last %s, and no damaged object could be named.`, window),
		Why:     "Data or files of the server are damaged or could not be read or written; more may fail at any moment, above all at the next restart.",
		First:   "find the messages in the server's log (`grep -E 'XX001|XX002|58030|58P01|PANIC' LOGFILE`) and in the kernel's (`dmesg -T | tail -50`). Do NOT restart the server: it may not start again. Keep backups and WAL archive from expiring.",
	}
}

func checksumFailures() Alert {
	window := duration(evidenceWindow)
	return Alert{
		Name: "PostgresChecksumFailures",
		Expr: fmt.Sprintf(`increase(pgintegrity_checksum_failures_total[%s]) > 0
or increase(pgintegrity_shared_checksum_failures_total[%s]) > 0
or time() - (pgintegrity_checksum_last_failure_timestamp_seconds > 0) < %.0f`, window, window, checksumMemory.Seconds()),
		Severity: Critical, Layer: Integrity, Needs: NeedsExporter, Symptom: true,
		Summary: "A PostgreSQL server read pages whose checksum is wrong.",
		What:    `Pages of {{ with $labels.datname }}database {{ . }}{{ else }}the shared catalogues{{ end }} of {{ $labels.instance }} failed their checksum within the last day.`,
		Why:     "The disk, its controller, the file system or memory changed data behind the server's back; other pages may be damaged too.",
		First:   "find file and block in the server's log (`grep 'page verification failed' LOGFILE`) and look for disk errors (`dmesg -T | tail -50`, `smartctl -a DEVICE`). Do not set ignore_checksum_failure or zero_damaged_pages.",
	}
}

func serverCrashed() Alert {
	return Alert{
		Name:     "PostgresServerCrashed",
		Expr:     fmt.Sprintf(`increase(pgintegrity_server_events_total{kind=~"%s|%s"}[1h]) > 0`, pglog.PanicStop, pglog.ServerCrash),
		Severity: Critical, Layer: Integrity, Needs: NeedsExporter,
		Summary: "A PostgreSQL server crashed.",
		What:    `{{ $labels.instance }} crashed within the last hour ({{ $labels.kind }}) and restarted all its sessions.`,
		Why:     "All transactions in flight were lost. Reading damaged data is one cause, and then it will crash again.",
		First:   "find the statement in the server's log: the line 'was terminated by signal' is followed by 'Failed process was running'; for a PANIC read the message itself. Do not run that statement again.",
	}
}

func uncleanRestart() Alert {
	return Alert{
		Name: "PostgresUncleanRestart",
		Expr: fmt.Sprintf(`increase(pgintegrity_server_events_total{kind=~"%s|%s"}[1h]) > 0
unless on (job, instance)
  increase(pgintegrity_server_events_total{kind=~"%s|%s"}[1h]) > 0`,
			pglog.BackendKilled, pglog.CrashRecovery, pglog.PanicStop, pglog.ServerCrash),
		Severity: Warning, Layer: Availability, Needs: NeedsExporter, Mutable: true,
		Summary: "A PostgreSQL server went down without being shut down.",
		What:    `{{ $labels.instance }} restarted within the last hour after {{ if eq $labels.kind "backend_killed" }}one of its processes was killed{{ else }}it had not been shut down properly{{ end }}.`,
		Why:     "All transactions in flight were lost; a power failure, an immediate shutdown, or the kernel's out-of-memory killer are the usual causes.",
		First:   "ask the kernel: `dmesg -T | grep -iE 'oom|killed process'`, and `last -x reboot | head`.",
	}
}

func unsafeSetting() Alert {
	return Alert{
		Name:     "PostgresUnsafeSetting",
		Expr:     "pgintegrity_setting_unsafe == 1",
		For:      5 * time.Minute,
		Severity: Critical, Layer: Integrity, Needs: NeedsExporter,
		Summary: "A setting of a PostgreSQL server lets data be destroyed.",
		What:    `The setting {{ $labels.setting }} of {{ $labels.instance }} has a dangerous value.`,
		Why:     `{{ if eq $labels.setting "fsync" "full_page_writes" }}A crash of the machine can destroy the whole cluster.{{ else }}Damaged pages are read as if they were sound, or emptied, and are written back with a valid checksum: the damage becomes final and invisible.{{ end }}`,
		First:   "find out who set it and where: `SELECT name, setting, source, sourcefile, sourceline FROM pg_settings WHERE name = '{{ $labels.setting }}';`, then set it back and run `SELECT pg_reload_conf();`.",
	}
}

func checksumsDisabled() Alert {
	return Alert{
		Name:     "PostgresChecksumsDisabled",
		Expr:     "pgintegrity_data_checksums_enabled == 0",
		For:      time.Hour,
		Severity: Info, Layer: Integrity, Needs: NeedsExporter,
		Summary: "A PostgreSQL server runs without data checksums.",
		What:    `Data checksums of {{ $labels.instance }} are off.`,
		Why:     "Pages that the disk changed are used as if they were sound, until something else notices.",
		First:   "plan a stop of the server to run `pg_checksums --enable -D DATADIR`.",
	}
}

func leftover() Alert {
	return Alert{
		Name:     "PostgresLeftover",
		Expr:     fmt.Sprintf("sum without (severity) (pgintegrity_check_findings{class=%q}) > 0", check.ClassLeftover),
		For:      time.Hour,
		Severity: Warning, Layer: Maintenance, Needs: NeedsExporter, Mutable: true,
		Summary: "Maintenance of a PostgreSQL server left something unfinished.",
		What: `The check {{ $labels.check }} found {{ $value }} leftovers in database {{ $labels.datname }} of {{ $labels.instance }}:` +
			`{{ range printf "pgintegrity_finding_info{job=%q,instance=%q,check=%q,datname=%q,severity=\"warning\"}" $labels.job $labels.instance $labels.check $labels.datname | query }} {{ .Labels.schemaname }}.{{ .Labels.relname }}{{ end }}.`,
		Why:   "An index that is not valid costs every write and answers no query; a unique one does not keep keys unique.",
		First: "run `pg_integrity_exporter check --check={{ $labels.check }} --database={{ $labels.datname }}` for the list and what to do with each.",
	}
}
