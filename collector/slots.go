package collector

import (
	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

var (
	slotActive = &Family{
		Name: Namespace + "replication_slot_active", Type: Gauge, Labels: []string{"slot_name", "slot_type"},
		Help:   "Whether somebody uses the replication slot now (1) or not (0); a slot that a standby copies from its primary counts as used.",
		Source: "pg_replication_slots: active, synced (17+)",
	}
	slotKept = &Family{
		Name: Namespace + "replication_slot_retained_bytes", Type: Gauge, Labels: []string{"slot_name", "slot_type"},
		Help:   "WAL that the server keeps because the slot may still need it.",
		Source: "pg_replication_slots: restart_lsn",
	}
	slotSafe = &Family{
		Name: Namespace + "replication_slot_safe_bytes", Type: Gauge, Labels: []string{"slot_name", "slot_type"},
		Help:   "WAL that can be written before the slot is in danger of being lost; missing when max_slot_wal_keep_size sets no limit.",
		Source: "pg_replication_slots: safe_wal_size",
	}
	slotLost = &Family{
		Name: Namespace + "replication_slot_lost", Type: Gauge, Labels: []string{"slot_name", "slot_type"},
		Help:   "Whether the slot was invalidated, so that its user must be set up anew (1), or not (0).",
		Source: "pg_replication_slots: wal_status, conflicting (16+), invalidation_reason (17+)",
	}
	walSizeLimit = &Family{
		Name: Namespace + "wal_size_limit_bytes", Type: Gauge,
		Help:   "Size to which the server lets WAL grow between checkpoints, the scale for what slots retain.",
		Source: "pg_settings: max_wal_size",
	}
)

// slotsCollector reads pg_replication_slots: shared memory, no lock, no
// privilege.
func slotsCollector() Collector {
	return Collector{
		Name:     "slots",
		Help:     "Replication slots: whether they are used, what they retain, whether they are lost.",
		Families: []*Family{slotActive, slotKept, slotSafe, slotLost, walSizeLimit},
		SQL: func(facts pg.Facts) string {
			position := "pg_current_wal_lsn()"
			if facts.InRecovery {
				position = "pg_last_wal_replay_lsn()"
			}
			active, lost := "active", "coalesce(wal_status = 'lost', false)"
			if facts.VersionNum >= 160000 {
				lost += " OR coalesce(conflicting, false)"
			}
			if facts.VersionNum >= 170000 {
				active, lost = "active OR synced", lost+" OR invalidation_reason IS NOT NULL"
			}
			return `SELECT coalesce(s.slot_name::text, ''), coalesce(s.slot_type, ''), coalesce(` + active + `, false),
				coalesce(greatest(pg_wal_lsn_diff(` + position + `, s.restart_lsn), 0), 0)::float8,
				s.safe_wal_size::float8, ` + lost + `, w.size::float8
				FROM (SELECT pg_size_bytes(current_setting('max_wal_size')) AS size) w LEFT JOIN (SELECT * FROM pg_replication_slots WHERE NOT temporary) s ON true
				ORDER BY 4 DESC, 1 LIMIT ` + limitReceivers
		},
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var (
				name, kind      string
				active, lost    bool
				retained, limit float64
				safe            *float64
				once            bool
			)
			_, err := pgx.ForEachRow(rows, []any{&name, &kind, &active, &retained, &safe, &lost, &limit}, func() error {
				if !once {
					sink.Add(walSizeLimit, limit)
					once = true
				}
				if name == "" {
					return nil // there is no slot
				}
				sink.AddBool(slotActive, active, name, kind)
				sink.Add(slotKept, retained, name, kind)
				sink.AddBool(slotLost, lost, name, kind)
				if safe != nil {
					sink.Add(slotSafe, *safe, name, kind)
				}
				return nil
			})
			return err
		},
	}
}
