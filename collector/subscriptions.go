package collector

import (
	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

var (
	subscriptionEnabled = &Family{
		Name: Namespace + "subscription_enabled", Type: Gauge, Labels: []string{"datname", "subname"},
		Help:   "Whether the subscription of logical replication is enabled (1) or not (0).",
		Source: "pg_subscription: subenabled",
	}
	subscriptionWorkerUp = &Family{
		Name: Namespace + "subscription_worker_up", Type: Gauge, Labels: []string{"datname", "subname"},
		Help:   "Whether the process that applies the changes of the subscription runs (1) or not (0).",
		Source: "pg_stat_subscription: pid",
	}
	subscriptionErrors = &Family{
		Name: Namespace + "subscription_errors_total", Type: Counter, Labels: []string{"datname", "subname", "kind"},
		Help:   "Errors while changes were applied (apply) or tables were copied first (sync).",
		Source: "pg_stat_subscription_stats: apply_error_count, sync_error_count (15+)",
	}
)

// subscriptionsCollector reads pg_subscription, under ACCESS SHARE, and shared
// memory; the columns that it reads need no privilege.
func subscriptionsCollector() Collector {
	return Collector{
		Name:     "subscriptions",
		Help:     "Subscriptions of logical replication, their workers and errors.",
		Families: []*Family{subscriptionEnabled, subscriptionWorkerUp, subscriptionErrors},
		NotApplicable: func(facts pg.Facts) string {
			if facts.InRecovery {
				return "a standby applies nothing: its primary's subscriptions do"
			}
			return ""
		},
		SQL: func(facts pg.Facts) string {
			counts, join, same := "0::bigint, 0::bigint, false", "", "w.subid = s.oid"
			if facts.VersionNum < 140000 {
				same = "w.subname = s.subname" // only a superuser may read pg_subscription.oid there
			}
			if facts.VersionNum >= 150000 {
				counts = "coalesce(e.apply_error_count, 0), coalesce(e.sync_error_count, 0), true"
				join = "LEFT JOIN pg_stat_subscription_stats e ON e.subid = s.oid"
			}
			return `SELECT coalesce(d.datname::text, ''), s.subname::text, s.subenabled,
				EXISTS (SELECT FROM pg_stat_subscription w WHERE ` + same + ` AND w.relid IS NULL AND w.pid IS NOT NULL), ` + counts + `
				FROM pg_subscription s LEFT JOIN pg_database d ON d.oid = s.subdbid ` + join + `
				ORDER BY s.subname, d.datname LIMIT ` + limitReceivers
		},
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var (
				datname, subname        string
				enabled, up, hasErrors  bool
				applyErrors, syncErrors int64
			)
			_, err := pgx.ForEachRow(rows, []any{&datname, &subname, &enabled, &up, &applyErrors, &syncErrors, &hasErrors}, func() error {
				sink.AddBool(subscriptionEnabled, enabled, datname, subname)
				sink.AddBool(subscriptionWorkerUp, up, datname, subname)
				if hasErrors {
					sink.Add(subscriptionErrors, float64(applyErrors), datname, subname, "apply")
					sink.Add(subscriptionErrors, float64(syncErrors), datname, subname, "sync")
				}
				return nil
			})
			return err
		},
	}
}
