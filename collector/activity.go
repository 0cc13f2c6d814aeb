package collector

import (
	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

var (
	activitySessions = &Family{
		Name: Namespace + "activity_sessions", Type: Gauge, Labels: []string{"state"},
		Help:   "Sessions of clients by state.",
		Source: "pg_stat_activity: state",
	}
	activityOldestTransaction = &Family{
		Name: Namespace + "activity_oldest_transaction_seconds", Type: Gauge, Labels: []string{"state"},
		Help:   "Age of the oldest transaction of the sessions of clients in this state; 0 is none.",
		Source: "pg_stat_activity: xact_start",
	}
	preparedTransactions = &Family{
		Name: Namespace + "prepared_transactions", Type: Gauge,
		Help:   "Transactions that are prepared for two-phase commit and not ended.",
		Source: "pg_prepared_xacts",
	}
	preparedOldest = &Family{
		Name: Namespace + "prepared_transaction_oldest_seconds", Type: Gauge,
		Help:   "Age of the oldest prepared transaction; 0 is none.",
		Source: "pg_prepared_xacts: prepared",
	}
)

// activityCollector reads pg_stat_activity and pg_prepared_xacts: shared
// memory and the small files of prepared transactions, no lock. Without
// pg_monitor it would see its own sessions only.
func activityCollector() Collector {
	return Collector{
		Name:     "activity",
		Help:     "Sessions and the oldest transactions by state; prepared transactions.",
		Families: []*Family{activitySessions, activityOldestTransaction, preparedTransactions, preparedOldest},
		SQL: func(pg.Facts) string {
			return `SELECT s.state, count(a.pid), coalesce(extract(epoch FROM clock_timestamp() - min(a.xact_start)), 0)::float8,
				(SELECT count(*) FROM pg_prepared_xacts),
				(SELECT coalesce(extract(epoch FROM clock_timestamp() - min(prepared)), 0) FROM pg_prepared_xacts)::float8
				FROM (VALUES ('active'), ('idle'), ('idle in transaction'), ('idle in transaction (aborted)')) AS s (state)
				LEFT JOIN pg_stat_activity a ON a.state = s.state AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
				GROUP BY s.state`
		},
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var (
				state              string
				sessions, prepared int64
				oldest, oldestTwo  float64
				once               bool
			)
			_, err := pgx.ForEachRow(rows, []any{&state, &sessions, &oldest, &prepared, &oldestTwo}, func() error {
				sink.Add(activitySessions, float64(sessions), state)
				sink.Add(activityOldestTransaction, oldest, state)
				if !once {
					sink.Add(preparedTransactions, float64(prepared))
					sink.Add(preparedOldest, oldestTwo)
					once = true
				}
				return nil
			})
			return err
		},
	}
}
