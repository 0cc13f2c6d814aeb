package collector

import (
	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

var (
	locksWaiting = &Family{
		Name: Namespace + "locks_waiting_sessions", Type: Gauge,
		Help:   "Sessions that wait for a lock that another one holds.",
		Source: "pg_locks: granted (14+); pg_stat_activity: wait_event_type (13)",
	}
	locksOldestWait = &Family{
		Name: Namespace + "locks_oldest_wait_seconds", Type: Gauge,
		Help:   "How long the session that has waited longest for a lock has waited; 0 is none. On version 13 it counts from the start of the waiting statement.",
		Source: "pg_locks: waitstart (14+); pg_stat_activity: query_start (13)",
	}
)

// locksCollector reads pg_locks, which looks at the lock table partition by
// partition, or on version 13 pg_stat_activity, which has no start of a wait.
// It takes no lock of its own and needs pg_monitor to see all sessions.
func locksCollector() Collector {
	return Collector{
		Name:     "locks",
		Help:     "Sessions that wait for locks, and for how long.",
		Families: []*Family{locksWaiting, locksOldestWait},
		SQL: func(facts pg.Facts) string {
			if facts.VersionNum >= 140000 {
				return `SELECT count(DISTINCT pid), coalesce(extract(epoch FROM clock_timestamp() - min(waitstart)), 0)::float8
					FROM pg_locks WHERE NOT granted`
			}
			return `SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(query_start)), 0)::float8
				FROM pg_stat_activity WHERE wait_event_type = 'Lock'`
		},
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var waiting int64
			var oldest float64
			_, err := pgx.ForEachRow(rows, []any{&waiting, &oldest}, func() error {
				sink.Add(locksWaiting, float64(waiting))
				sink.Add(locksOldestWait, oldest)
				return nil
			})
			return err
		},
	}
}
