package collector

import (
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

var (
	replicationState = &Family{
		Name: Namespace + "timeline_id", Type: Gauge, Labels: []string{"system_identifier"},
		Help:   "Timeline of the last checkpoint; servers with the same system identifier are copies of each other.",
		Source: "pg_control_system(), pg_control_checkpoint()",
	}
	replicationStandbys = &Family{
		Name: Namespace + "replication_standbys", Type: Gauge, Labels: []string{"state"},
		Help:   "Receivers of WAL that are connected to this server, by state of their sender; a receiver is a standby, or a program such as pg_receivewal. What pg_basebackup receives counts as backup, the first copy of a table of logical replication as catchup.",
		Source: "pg_stat_replication: state, application_name",
	}
	replicationLag = &Family{
		Name: Namespace + "replication_lag_bytes", Type: Gauge, Labels: []string{"application_name"},
		Help:   "WAL that this server has written and the receiver has not replayed, or not flushed where it does not replay; the largest of those that share a name.",
		Source: "pg_stat_replication: replay_lsn, flush_lsn",
	}
	replicationUnflushed = &Family{
		Name: Namespace + "replication_unflushed_bytes", Type: Gauge, Labels: []string{"application_name"},
		Help:   "WAL that this server has written and the receiver does not have on its disk, whether or not it replays it; the largest of those that share a name.",
		Source: "pg_stat_replication: flush_lsn",
	}
	receiverUp = &Family{
		Name: Namespace + "replication_receiver_up", Type: Gauge,
		Help:   "Whether this standby receives WAL from its upstream server (1) or not (0).",
		Source: "pg_stat_wal_receiver: status",
	}
	receiverExpected = &Family{
		Name: Namespace + "replication_receiver_expected", Type: Gauge,
		Help:   "Whether this standby is configured to receive WAL from a server (1), or replays an archive only (0).",
		Source: "pg_settings: primary_conninfo",
	}
	replayPosition = &Family{
		Name: Namespace + "replication_replay_position_bytes", Type: Gauge,
		Help:   "Position in the WAL up to which this standby has replayed, in bytes since the beginning.",
		Source: "pg_last_wal_replay_lsn()",
	}
	replayBacklog = &Family{
		Name: Namespace + "replication_replay_backlog_bytes", Type: Gauge,
		Help:   "WAL that this standby has received and not replayed.",
		Source: "pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()",
	}
	replayDelay = &Family{
		Name: Namespace + "replication_replay_delay_seconds", Type: Gauge,
		Help:   "How far this standby is behind: the age of the last transaction that it has replayed, and 0 when it has replayed all it has received.",
		Source: "pg_last_xact_replay_timestamp()",
	}
	applyDelay = &Family{
		Name: Namespace + "replication_apply_delay_seconds", Type: Gauge,
		Help:   "How far behind this standby is kept on purpose; 0 is not at all.",
		Source: "pg_settings: recovery_min_apply_delay",
	}
	replayPaused = &Family{
		Name: Namespace + "replication_replay_paused", Type: Gauge,
		Help:   "Whether somebody has paused replay on this standby (1) or not (0).",
		Source: "pg_is_wal_replay_paused()",
	}
)

// limitReceivers is how many receivers, slots and subscriptions have series of
// their own. It bounds the page.
const limitReceivers = "50"

// timelineCollector reads the control file, which needs no privilege.
func timelineCollector() Collector {
	return Collector{
		Name:     "timeline",
		Help:     "System identifier and timeline.",
		Families: []*Family{replicationState},
		SQL: func(pg.Facts) string {
			return `SELECT system_identifier::text, timeline_id::int8 FROM pg_control_system(), pg_control_checkpoint()`
		},
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var identifier string
			var timeline int64
			_, err := pgx.ForEachRow(rows, []any{&identifier, &timeline}, func() error {
				sink.Add(replicationState, float64(timeline), identifier)
				return nil
			})
			return err
		},
	}
}

// senderStates are the states of a WAL sender.
var senderStates = []string{"backup", "catchup", "startup", "stopping", "streaming"}

// replicationCollector reads pg_stat_replication: shared memory, no lock;
// pg_monitor shows the positions.
func replicationCollector() Collector {
	return Collector{
		Name:     "replication",
		Help:     "Receivers of WAL that are connected, and their lag.",
		Families: []*Family{replicationStandbys, replicationLag, replicationUnflushed},
		SQL: func(facts pg.Facts) string {
			position := "pg_current_wal_lsn()"
			if facts.InRecovery {
				position = "coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
			}
			behind := func(receiver string) string {
				return "coalesce(greatest(pg_wal_lsn_diff(" + position + ", " + receiver + "), 0), 0)::float8"
			}
			return `SELECT application_name,
				CASE WHEN application_name = 'pg_basebackup' THEN 'backup'
					WHEN state = 'streaming' AND application_name ~ '^pg_[0-9]+_sync_[0-9]+_[0-9]+$' THEN 'catchup'
					ELSE coalesce(state, 'startup') END,
				` + behind("coalesce(replay_lsn, flush_lsn, sent_lsn)") + ", " + behind("coalesce(flush_lsn, sent_lsn)") + `
				FROM pg_stat_replication ORDER BY 3 DESC, 1 LIMIT ` + limitReceivers
		},
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var name, state string
			var lag, unflushed float64
			states := make(map[string]int)
			lags, unflushedOf := make(map[string]float64), make(map[string]float64)
			_, err := pgx.ForEachRow(rows, []any{&name, &state, &lag, &unflushed}, func() error {
				states[state]++
				// A base backup reads files; it is not behind in anything.
				if state != "backup" {
					lags[name], unflushedOf[name] = max(lags[name], lag), max(unflushedOf[name], unflushed)
				}
				return nil
			})
			for _, name := range slices.Sorted(maps.Keys(lags)) {
				sink.Add(replicationLag, lags[name], name)
				sink.Add(replicationUnflushed, unflushedOf[name], name)
			}
			for _, known := range senderStates {
				sink.Add(replicationStandbys, float64(states[known]), known)
			}
			return err
		},
	}
}

// standbyCollector reads functions of recovery and pg_stat_wal_receiver:
// shared memory, no lock; pg_monitor shows the receiver and primary_conninfo.
func standbyCollector() Collector {
	return Collector{
		Name:     "standby",
		Help:     "Whether a standby receives and replays, and how far it is behind.",
		Families: []*Family{receiverUp, receiverExpected, replayPosition, replayBacklog, replayDelay, applyDelay, replayPaused},
		NotApplicable: func(facts pg.Facts) string {
			if facts.InRecovery {
				return ""
			}
			return "the server is not a standby"
		},
		SQL: func(pg.Facts) string {
			// The receive position survives a lost receiver, and may be behind replay
			// when the rest came from the archive.
			return `SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'),
				current_setting('primary_conninfo') <> '',
				coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), 0)::float8,
				coalesce(greatest(pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), 0), 0)::float8,
				CASE WHEN pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn()
					AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming') THEN 0
				ELSE coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0) END::float8,
				extract(epoch FROM current_setting('recovery_min_apply_delay')::interval)::float8,
				pg_is_wal_replay_paused()`
		},
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var up, expected, paused bool
			var position, backlog, delay, wanted float64
			_, err := pgx.ForEachRow(rows, []any{&up, &expected, &position, &backlog, &delay, &wanted, &paused}, func() error {
				sink.AddBool(receiverUp, up)
				sink.AddBool(receiverExpected, expected)
				sink.Add(replayPosition, position)
				sink.Add(replayBacklog, backlog)
				sink.Add(replayDelay, delay)
				sink.Add(applyDelay, wanted)
				sink.AddBool(replayPaused, paused)
				return nil
			})
			return err
		},
	}
}
