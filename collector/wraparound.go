package collector

import (
	"fmt"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

var (
	wraparoundUsed = &Family{
		Name: Namespace + "wraparound_used_ratio", Type: Gauge, Labels: []string{"datname", "kind"},
		Help:   "Share of the transaction ids (xid) or multixact ids (multixact) that may be used before the server refuses new ones (1), for the databases that are nearest to it.",
		Source: "pg_database: age(datfrozenxid), mxid_age(datminmxid)",
	}
	wraparoundForced = &Family{
		Name: Namespace + "wraparound_forced_ratio", Type: Gauge, Labels: []string{"kind"},
		Help:   "Share of the ids at which autovacuum begins to free them whatever else holds; below it nothing need have been done yet.",
		Source: "pg_settings: autovacuum_freeze_max_age, autovacuum_multixact_freeze_max_age",
	}
	horizonAge = &Family{
		Name: Namespace + "xmin_horizon_age_transactions", Type: Gauge, Labels: []string{"holder"},
		Help:   "How many transactions ago the oldest row version that must be kept was current, by what keeps it (prepared, session, slot, standby); 0 is nothing.",
		Source: "pg_stat_activity: backend_xmin, backend_xid; pg_replication_slots: xmin, catalog_xmin; pg_prepared_xacts: transaction",
	}
)

// wraparoundCollector reads pg_database and settings, under ACCESS SHARE and without a
// privilege.
func wraparoundCollector() Collector {
	return Collector{
		Name:     "wraparound",
		Help:     "How near databases are to the wraparound of transaction and multixact ids.",
		Families: []*Family{wraparoundUsed, wraparoundForced},
		SQL: func(facts pg.Facts) string {
			// The distance before the wraparound at which the server refuses new ids:
			// SetTransactionIdLimit and SetMultiXactIdLimit.
			xid, multixact := 3_000_000, 3_000_000
			if facts.VersionNum < 140000 {
				xid, multixact = 1_000_000, 100
			}
			return fmt.Sprintf(`SELECT datname::text, age(datfrozenxid) / (2147483648.0 - %[1]d)::float8,
				mxid_age(datminmxid) / (2147483648.0 - %[2]d)::float8,
				current_setting('autovacuum_freeze_max_age')::float8 / (2147483648.0 - %[1]d),
				current_setting('autovacuum_multixact_freeze_max_age')::float8 / (2147483648.0 - %[2]d)
				FROM pg_database ORDER BY greatest(age(datfrozenxid), mxid_age(datminmxid)) DESC, datname LIMIT %[3]s`,
				xid, multixact, limitDatabases)
		},
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var datname string
			var xid, multixact, forcedXid, forcedMultixact float64
			_, err := pgx.ForEachRow(rows, []any{&datname, &xid, &multixact, &forcedXid, &forcedMultixact}, func() error {
				sink.Add(wraparoundUsed, xid, datname, "xid")
				sink.Add(wraparoundUsed, multixact, datname, "multixact")
				return nil
			})
			if datname != "" {
				sink.Add(wraparoundForced, forcedXid, "xid")
				sink.Add(wraparoundForced, forcedMultixact, "multixact")
			}
			return err
		},
	}
}

// horizonCollector reads what keeps VACUUM from removing old row versions: all
// in shared memory, no lock; pg_monitor shows other roles' sessions.
func horizonCollector() Collector {
	return Collector{
		Name:     "horizon",
		Help:     "What keeps old row versions from being removed.",
		Families: []*Family{horizonAge},
		SQL: func(pg.Facts) string {
			return `WITH sessions AS (
				SELECT coalesce(max(greatest(age(backend_xmin), age(backend_xid))) FILTER (WHERE backend_type <> 'walsender'), 0) AS session,
					coalesce(max(age(backend_xmin)) FILTER (WHERE backend_type = 'walsender'), 0) AS standby
				FROM pg_stat_activity WHERE pid <> pg_backend_pid())
				SELECT 'session', session FROM sessions
				UNION ALL SELECT 'standby', standby FROM sessions
				UNION ALL SELECT 'slot', coalesce(max(greatest(age(xmin), age(catalog_xmin))), 0) FROM pg_replication_slots
				UNION ALL SELECT 'prepared', coalesce(max(age(transaction)), 0) FROM pg_prepared_xacts`
		},
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var holder string
			var age int64
			_, err := pgx.ForEachRow(rows, []any{&holder, &age}, func() error {
				sink.Add(horizonAge, float64(age), holder)
				return nil
			})
			return err
		},
	}
}
