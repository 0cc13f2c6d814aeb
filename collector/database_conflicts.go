package collector

import (
	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

var recoveryConflicts = &Family{
	Name: Namespace + "recovery_conflicts_total", Type: Counter, Labels: []string{"datname", "kind"},
	Help:   "Statements that this standby cancelled because they were in the way of replay, by kind of conflict.",
	Source: "pg_stat_database_conflicts: confl_* (confl_active_logicalslot 16+)",
}

// databaseConflictsCollector reads pg_stat_database_conflicts, which only a
// standby fills: shared memory, ACCESS SHARE on pg_database, no privilege.
func databaseConflictsCollector() Collector {
	return Collector{
		Name:     "database_conflicts",
		Help:     "Conflicts of statements with replay on a standby, by kind.",
		Families: []*Family{recoveryConflicts},
		NotApplicable: func(facts pg.Facts) string {
			if facts.InRecovery {
				return ""
			}
			return "the server is not a standby"
		},
		SQL: func(facts pg.Facts) string {
			logicalSlot := "NULL::bigint"
			if facts.VersionNum >= 160000 {
				logicalSlot = "confl_active_logicalslot"
			}
			return `SELECT datname::text, confl_tablespace, confl_lock, confl_snapshot, confl_bufferpin,
				confl_deadlock, ` + logicalSlot + `
				FROM pg_stat_database_conflicts WHERE datname IS NOT NULL
				ORDER BY datname LIMIT ` + limitDatabases
		},
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var (
				datname                                         string
				tablespace, lock, snapshot, bufferpin, deadlock int64
				logicalSlot                                     *int64
			)
			_, err := pgx.ForEachRow(rows, []any{
				&datname, &tablespace, &lock, &snapshot, &bufferpin, &deadlock, &logicalSlot,
			}, func() error {
				sink.Add(recoveryConflicts, float64(tablespace), datname, "tablespace")
				sink.Add(recoveryConflicts, float64(lock), datname, "lock")
				sink.Add(recoveryConflicts, float64(snapshot), datname, "snapshot")
				sink.Add(recoveryConflicts, float64(bufferpin), datname, "bufferpin")
				sink.Add(recoveryConflicts, float64(deadlock), datname, "deadlock")
				if logicalSlot != nil {
					sink.Add(recoveryConflicts, float64(*logicalSlot), datname, "logicalslot")
				}
				return nil
			})
			return err
		},
	}
}
