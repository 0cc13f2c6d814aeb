package collector

import (
	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

var (
	transactions = &Family{
		Name: Namespace + "transactions_total", Type: Counter, Labels: []string{"datname", "outcome"},
		Help:   "Transactions that ended, by outcome (commit, rollback); set back by a crash or pg_stat_reset().",
		Source: "pg_stat_database: xact_commit, xact_rollback",
	}
	transactionsFailures = &Family{
		Name: Namespace + "transactions_failures_total", Type: Counter, Labels: []string{"datname", "reason"},
		Help:   "Transactions that failed: rollback counts all of them, the other reasons those whose cause is known from pg_stat_database or the log.",
		Source: "pg_stat_database: xact_rollback, deadlocks, conflicts; server log: SQLSTATE",
	}
	databaseConnections = &Family{
		Name: Namespace + "connections", Type: Gauge, Labels: []string{"datname"},
		Help:   "Sessions connected to the database now.",
		Source: "pg_stat_database: numbackends",
	}
	databaseSessions = &Family{
		Name: Namespace + "sessions_total", Type: Counter, Labels: []string{"datname"},
		Help:   "Sessions that were established to the database.",
		Source: "pg_stat_database: sessions (14+)",
	}
	databaseSessionsFailures = &Family{
		Name: Namespace + "sessions_failures_total", Type: Counter, Labels: []string{"datname", "reason"},
		Help:   "Sessions that ended badly: abandoned by the client, ended by a fatal error, or killed by an administrator.",
		Source: "pg_stat_database: sessions_abandoned, sessions_fatal, sessions_killed (14+)",
	}
	checksumFailures = &Family{
		Name: Namespace + "checksum_failures_total", Type: Counter, Labels: []string{"datname"},
		Help:   "Failed reads of pages of the database because of a wrong data checksum; kept across crashes and restarts; 0 also when checksums are off, see pgintegrity_data_checksums_enabled.",
		Source: "pg_stat_database: checksum_failures",
	}
	checksumLastFailure = &Family{
		Name: Namespace + "checksum_last_failure_timestamp_seconds", Type: Gauge, Labels: []string{"datname"},
		Help:   "When the server last read a page of the database with a wrong data checksum, in seconds since the epoch; 0 is never since the statistics were reset.",
		Source: "pg_stat_database: checksum_last_failure",
	}
	sharedChecksumFailures = &Family{
		Name: Namespace + "shared_checksum_failures_total", Type: Counter,
		Help:   "Failed reads of pages of shared catalogues because of a wrong data checksum; kept across crashes and restarts.",
		Source: "pg_stat_database: checksum_failures of datid 0",
	}
	statsReset = &Family{
		Name: Namespace + "stats_reset_timestamp_seconds", Type: Gauge, Labels: []string{"datname"},
		Help:   "When the statistics of the database were last reset, in seconds since the epoch; 0 is never.",
		Source: "pg_stat_database: stats_reset",
	}
)

// The outcomes of transactions and the reasons that pg_stat_database knows;
// the log collector adds those that only the log knows.
const (
	outcomeCommit   = "commit"
	outcomeRollback = "rollback"

	reasonRollback = "rollback"
	reasonDeadlock = "deadlock"
	reasonConflict = "conflict"
)

// databaseCollector reads pg_stat_database: shared memory only, plus ACCESS
// SHARE on pg_database. No privilege is needed.
func databaseCollector(accumulate func(counter string, raw float64) float64) Collector {
	return Collector{
		Name: "database",
		Help: "Transactions, failures, sessions and checksum failures by database.",
		Families: []*Family{
			transactions, transactionsFailures, databaseConnections, databaseSessions,
			databaseSessionsFailures, checksumFailures, checksumLastFailure,
			sharedChecksumFailures, statsReset,
		},
		SQL: func(facts pg.Facts) string {
			sessions := "0::bigint, 0::bigint, 0::bigint, 0::bigint"
			if facts.VersionNum >= 140000 {
				sessions = "sessions, sessions_abandoned, sessions_fatal, sessions_killed"
			}
			return `SELECT coalesce(datname::text, ''), xact_commit, xact_rollback, deadlocks, conflicts,
				numbackends::bigint, coalesce(checksum_failures, 0),
				coalesce(extract(epoch FROM checksum_last_failure), 0)::float8,
				coalesce(extract(epoch FROM stats_reset), 0)::float8, ` + sessions + `,
				current_setting('server_version_num')::int >= 140000
				FROM pg_stat_database WHERE datname IS NOT NULL OR datid = 0
				ORDER BY (datid = 0) DESC, xact_commit + xact_rollback DESC, datname LIMIT ` + limitDatabases
		},
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var r databaseRow
			_, err := pgx.ForEachRow(rows, r.fields(), func() error {
				r.emit(sink, accumulate)
				return nil
			})
			return err
		},
	}
}

// limitDatabases is how many databases have series of their own, the busiest
// ones, and the row of the shared catalogues. It bounds the page.
const limitDatabases = "101"

// databaseRow is one row of the statement of databaseCollector.
type databaseRow struct {
	datname                                  string
	commits, rollbacks, deadlocks, conflicts int64
	connections, checksumFailures            int64
	lastFailure, reset                       float64
	sessions, abandoned, fatal, killed       int64
	hasSessions                              bool
}

func (r *databaseRow) fields() []any {
	return []any{
		&r.datname, &r.commits, &r.rollbacks, &r.deadlocks, &r.conflicts, &r.connections,
		&r.checksumFailures, &r.lastFailure, &r.reset,
		&r.sessions, &r.abandoned, &r.fatal, &r.killed, &r.hasSessions,
	}
}

func (r *databaseRow) emit(sink *Sink, accumulate func(counter string, raw float64) float64) {
	failures := accumulate("checksum_failures "+r.datname, float64(r.checksumFailures))
	if r.datname == "" {
		sink.Add(sharedChecksumFailures, failures)
		return
	}
	sink.Add(transactions, float64(r.commits), r.datname, outcomeCommit)
	sink.Add(transactions, float64(r.rollbacks), r.datname, outcomeRollback)
	sink.Add(transactionsFailures, float64(r.rollbacks), r.datname, reasonRollback)
	sink.Add(transactionsFailures, float64(r.deadlocks), r.datname, reasonDeadlock)
	sink.Add(transactionsFailures, float64(r.conflicts), r.datname, reasonConflict)
	sink.Add(databaseConnections, float64(r.connections), r.datname)
	if r.hasSessions {
		sink.Add(databaseSessions, float64(r.sessions), r.datname)
		sink.Add(databaseSessionsFailures, float64(r.abandoned), r.datname, "abandoned")
		sink.Add(databaseSessionsFailures, float64(r.fatal), r.datname, "fatal")
		sink.Add(databaseSessionsFailures, float64(r.killed), r.datname, "killed")
	}
	sink.Add(checksumFailures, failures, r.datname)
	sink.Add(checksumLastFailure, r.lastFailure, r.datname)
	sink.Add(statsReset, r.reset, r.datname)
}
