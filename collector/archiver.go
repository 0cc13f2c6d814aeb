package collector

import (
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/wal"
)

var (
	archiverEnabled = &Family{
		Name: Namespace + "archiver_enabled", Type: Gauge,
		Help:   "Whether this server is to archive its WAL (1) or not (0); a standby does only with archive_mode = always.",
		Source: "pg_settings: archive_mode",
	}
	archiverArchived = &Family{
		Name: Namespace + "archiver_archived_total", Type: Counter,
		Help:   "WAL files that were archived.",
		Source: "pg_stat_archiver.archived_count",
	}
	archiverFailed = &Family{
		Name: Namespace + "archiver_failures_total", Type: Counter,
		Help:   "Attempts to archive a WAL file that failed.",
		Source: "pg_stat_archiver.failed_count",
	}
	archiverLastArchived = &Family{
		Name: Namespace + "archiver_last_success_timestamp_seconds", Type: Gauge,
		Help:   "When a WAL file was last archived, in seconds since the epoch; 0 is never since the statistics were reset.",
		Source: "pg_stat_archiver.last_archived_time",
	}
	archiverLastFailed = &Family{
		Name: Namespace + "archiver_last_failure_timestamp_seconds", Type: Gauge,
		Help:   "When archiving last failed, in seconds since the epoch; 0 is never since the statistics were reset.",
		Source: "pg_stat_archiver.last_failed_time",
	}
	archiverFailing = &Family{
		Name: Namespace + "archiver_failing", Type: Gauge,
		Help:   "Whether the last attempt to archive a WAL file failed and it still waits (1) or not (0).",
		Source: "pg_stat_archiver, pg_ls_archive_statusdir()",
	}
	archiverReady = &Family{
		Name: Namespace + "archiver_ready_segments", Type: Gauge,
		Help:   "WAL files that wait to be archived.",
		Source: "pg_ls_archive_statusdir(), names that end in .ready",
	}
	archiverReadyBytes = &Family{
		Name: Namespace + "archiver_ready_bytes", Type: Gauge,
		Help:   "Size of the WAL files that wait to be archived.",
		Source: "pg_ls_archive_statusdir(), pg_settings: wal_segment_size",
	}
	archiverOldestReady = &Family{
		Name: Namespace + "archiver_oldest_ready_timestamp_seconds", Type: Gauge,
		Help:   "Since when the oldest of the WAL files that wait has been waiting, in seconds since the epoch; 0 is that none waits.",
		Source: "pg_ls_archive_statusdir().modification",
	}
	walWritten = &Family{
		Name: Namespace + "wal_written_bytes_total", Type: Counter,
		Help:   "WAL written since the cluster was made (on a standby: replayed).",
		Source: "pg_current_wal_lsn(), pg_last_wal_replay_lsn()",
	}
	standbySynchronous = &Family{
		Name: Namespace + "standby_synchronous", Type: Gauge,
		Help:   "Standbys that commits wait for.",
		Source: "pg_stat_replication.sync_state (sync, quorum)",
	}
	standbyFlushLag = &Family{
		Name: Namespace + "standby_flush_lag_bytes", Type: Gauge,
		Help:   "WAL that the nearest streaming standby has not yet written to its disk: what would be lost by going over to it; absent without one.",
		Source: "pg_stat_replication.flush_lsn",
	}
)

// archiverSQL reads statistics and the directory pg_wal/archive_status. It takes
// no lock and needs pg_monitor.
const archiverSQL = `WITH ready AS (
	SELECT count(*) AS files, coalesce(extract(epoch FROM min(modification)), 0)::float8 AS oldest
	FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'),
here AS (SELECT CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_lsn() END AS lsn),
standbys AS (
	SELECT count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) AS synchronous,
		min(pg_wal_lsn_diff(here.lsn, flush_lsn)) FILTER (WHERE state = 'streaming') AS lag
	FROM pg_stat_get_wal_senders(), here) -- what pg_stat_replication shows, without asking for all sessions
SELECT current_setting('archive_mode') = 'always' OR current_setting('archive_mode') = 'on' AND NOT pg_is_in_recovery(),
	archived_count::float8, failed_count::float8,
	coalesce(extract(epoch FROM last_archived_time), 0)::float8, coalesce(extract(epoch FROM last_failed_time), 0)::float8,
	ready.files::float8, ready.oldest, pg_size_bytes(current_setting('wal_segment_size'))::float8,
	standbys.synchronous::float8, greatest(standbys.lag, 0)::float8,
	pg_is_in_recovery(), here.lsn::text, pg_current_snapshot()::text, (SELECT system_identifier FROM pg_control_system())
FROM pg_stat_archiver, ready, here, standbys`

// archiverCollector reads whether WAL leaves the machine. It tells observe where
// the WAL of a primary is.
func archiverCollector(observe func(recovery.Sample)) Collector {
	return Collector{
		Name: "archiver",
		Help: "Archiving of the WAL, and how near the nearest standby is: where recent transactions are besides here.",
		Families: []*Family{
			archiverEnabled, archiverArchived, archiverFailed, archiverLastArchived, archiverLastFailed, archiverFailing,
			archiverReady, archiverReadyBytes, archiverOldestReady,
			standbySynchronous, standbyFlushLag, walWritten,
		},
		SQL: func(pg.Facts) string { return archiverSQL },
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var (
				enabled, inRecovery                                                bool
				archived, failed, lastArchived, lastFailed, ready, oldest, segment float64
				synchronous                                                        float64
				lag                                                                *float64
				lsn, snapshot                                                      string
				system                                                             int64
			)
			_, err := pgx.ForEachRow(rows, []any{
				&enabled, &archived, &failed, &lastArchived, &lastFailed, &ready, &oldest, &segment,
				&synchronous, &lag, &inRecovery, &lsn, &snapshot, &system,
			}, func() error {
				sink.AddBool(archiverEnabled, enabled)
				sink.Add(archiverArchived, archived)
				sink.Add(archiverFailed, failed)
				sink.Add(archiverLastArchived, lastArchived)
				sink.Add(archiverLastFailed, lastFailed)
				sink.AddBool(archiverFailing, enabled && ready > 0 && lastFailed > lastArchived)
				sink.Add(archiverReady, ready)
				sink.Add(archiverReadyBytes, ready*segment)
				sink.Add(archiverOldestReady, oldest)
				sink.Add(standbySynchronous, synchronous)
				if lag != nil {
					sink.Add(standbyFlushLag, *lag)
				}
				position, err := wal.ParsePosition(lsn)
				if err != nil {
					return err
				}
				sink.Add(walWritten, float64(position))
				if !inRecovery && observe != nil {
					observe(recovery.Sample{Time: time.Now(), Position: position, Snapshot: snapshot, System: uint64(system)})
				}
				return nil
			})
			return err
		},
	}
}
