package alerts

import "time"

// replication asks whether copies are there and follow, and what it costs to
// wait for those that do not.
func replication() Group {
	const (
		// Several exporters may watch one server: servers are told apart by when they
		// were started.
		primaries  = `pgintegrity_timeline_id and on (${target}) pgintegrity_in_recovery == 0`
		startedAt  = `(` + primaries + `) * 0 + on (${target}) group_left () pgintegrity_postmaster_start_timestamp_seconds`
		streaming  = `pgintegrity_replication_standbys{state="streaming"}`
		retained   = "pgintegrity_replication_slot_retained_bytes / on (${target}) group_left () pgintegrity_wal_size_limit_bytes > ${sizes}"
		retains    = "Slot {{ $labels.slot_name }} ({{ $labels.slot_type }}) on the server of {{ $labels.instance }} keeps {{ $value | printf \"%.1f\" }} times max_wal_size of WAL."
		sizes      = "multiples of max_wal_size that the slot retains"
		slotAction = "SELECT * FROM pg_replication_slots says whose it is. If nobody will ever use it again, pg_drop_replication_slot() frees the WAL; a standby that needs it must then be made anew."
	)
	return Group{Name: "postgres-replication", Alerts: []Alert{
		{
			// A clone that was restored from an archive never streamed; a standby that
			// was promoted while its primary lives on did.
			Name: "PostgresSplitBrain",
			Expr: primaries + ` and on (system_identifier) (count by (system_identifier) (count_values by (system_identifier) ("started", ` + startedAt + `)) > 1) and on (system_identifier) (pgintegrity_timeline_id and on (${target}) max_over_time(pgintegrity_replication_receiver_up[1d]) == 1 and on (${target}) pgintegrity_in_recovery == 0)`,
			For:  time.Minute, KeepFiringFor: 10 * time.Minute, Severity: Critical, Layer: Replication, Inform: true,
			Summary:     "Two servers of one cluster accept writes.",
			Description: "The server of {{ $labels.instance }} (timeline {{ $value }}) is one of several primaries of system {{ $labels.system_identifier }}, and one of them was a streaming standby within a day.",
			Impact:      "What is entered now goes to one of two copies that differ; what one of them took will be lost or must be merged by hand.",
			Action:      "Stop applications from writing to all but one of them: fence the old primary. Do not run pg_rewind before somebody has compared the data.",
		},
		{
			Name: "PostgresReplicationStopped",
			Expr: "pgintegrity_replication_receiver_expected == 1 and pgintegrity_replication_receiver_up == 0 and changes(pgintegrity_replication_replay_position_bytes[10m]) == 0",
			For:  10 * time.Minute, Severity: Critical, Layer: Replication, NeedsDatabase: true, Mutable: true,
			Summary:     "A standby receives and replays nothing.",
			Description: "The standby of {{ $labels.instance }} has no connection to its upstream server and has replayed nothing for 10 minutes.",
			Impact:      "There is one copy less; a fail-over to it would lose everything since then.",
			Action:      "Read the end of the standby's log. If it asks for a WAL segment that was removed, the standby must be made anew.",
		},
		{
			Name: "PostgresReplicationLag",
			Expr: "pgintegrity_replication_replay_delay_seconds > ${seconds} + pgintegrity_replication_apply_delay_seconds and pgintegrity_replication_replay_backlog_bytes > ${bytes}",
			Thresholds: []Threshold{
				{"seconds", 300, "age of the last transaction replayed, beyond recovery_min_apply_delay"},
				{"bytes", 16 << 20, "bytes received and not replayed; keeps the standby of a quiet primary silent"},
			},
			For: 10 * time.Minute, Severity: Warning, Layer: Replication, NeedsDatabase: true, Mutable: true,
			Summary:     "A standby replays far behind.",
			Description: "The standby of {{ $labels.instance }} is {{ $value | humanizeDuration }} behind what it has received.",
			Impact:      "Queries there see old data, and a fail-over waits until it has caught up.",
			Action:      "On the standby: SELECT pg_is_wal_replay_paused(), and the oldest queries of pg_stat_activity, which may hold replay back.",
		},
		{
			// Not what it has replayed: a standby may be kept behind on purpose, and its
			// own exporter knows.
			Name: "PostgresReplicationReceiverBehind", Expr: "pgintegrity_replication_unflushed_bytes / on (${target}) group_left () pgintegrity_wal_size_limit_bytes > ${sizes}",
			Thresholds: []Threshold{{"sizes", 1, "multiples of max_wal_size that the receiver is behind"}},
			For:        10 * time.Minute, Severity: Warning, Layer: Replication, NeedsDatabase: true, Mutable: true,
			Summary:     "A receiver of WAL is far behind its server.",
			Description: "{{ $labels.application_name }} has not received the last {{ $value | printf \"%.1f\" }} times max_wal_size of WAL of the server of {{ $labels.instance }}.",
			Impact:      "A loss of the server now would lose that much, or the receiver may never catch up.",
			Action:      "SELECT application_name, client_addr, state, sent_lsn, write_lsn, flush_lsn, replay_lsn FROM pg_stat_replication says where it is stuck.",
		},
		{
			Name: "PostgresReplayPaused", Expr: "pgintegrity_replication_replay_paused == 1",
			For: time.Hour, Severity: Warning, Layer: Replication, NeedsDatabase: true, Mutable: true,
			Summary:     "Replay on a standby is paused.",
			Description: "Somebody has paused replay on the standby of {{ $labels.instance }} an hour ago or more.",
			Impact:      "The standby falls behind until somebody resumes it. During an incident it may be the last good copy.",
			Action:      "Ask who paused it before SELECT pg_wal_replay_resume(): after damage on the primary it must stay paused.",
		},
		{
			// A primary that became a standby has lost its receivers to the new one.
			Name: "PostgresStandbyGone", Expr: streaming + " < quantile_over_time(0.5, " + streaming + "[6h]) unless on (${target}) changes(pgintegrity_in_recovery[6h]) > 0",
			For: 10 * time.Minute, Severity: Warning, Layer: Replication, NeedsDatabase: true, Mutable: true,
			Summary:     "Fewer receivers of WAL are connected than before.",
			Description: "{{ $value }} receivers stream from the server of {{ $labels.instance }}, fewer than in most of the last 6 hours.",
			Impact:      "There is one copy less. With synchronous replication commits may wait.",
			Action:      "Compare pg_stat_replication with the list of standbys, and read the log of the one that is missing.",
		},
		{
			Name: "PostgresSlotLost", Expr: "pgintegrity_replication_slot_lost == 1",
			For: 5 * time.Minute, Severity: Critical, Layer: Replication, NeedsDatabase: true,
			Summary:     "A replication slot was invalidated.",
			Description: "Slot {{ $labels.slot_name }} ({{ $labels.slot_type }}) on the server of {{ $labels.instance }} has lost WAL that its user needed.",
			Impact:      "Its standby or subscriber can never catch up; it must be made anew.",
			Action:      "Make the standby or subscription anew, then drop the slot. max_slot_wal_keep_size and idle_replication_slot_timeout say why it was lost.",
		},
		{
			Name: "PostgresSlotRetainsWAL", Expr: retained, Thresholds: []Threshold{{"sizes", 20, sizes}},
			For: 15 * time.Minute, Severity: Critical, Layer: Replication, NeedsDatabase: true,
			Summary:     "A replication slot makes pg_wal grow without end.",
			Description: retains,
			Impact:      "When the disk is full the server stops, and all writes with it.",
			Action:      slotAction,
		},
		{
			Name: "PostgresSlotRetainsWAL", Expr: retained, Thresholds: []Threshold{{"sizes", 5, sizes}},
			For: 30 * time.Minute, Severity: Warning, Layer: Replication, NeedsDatabase: true, Mutable: true,
			Summary:     "A replication slot keeps much WAL.",
			Description: retains,
			Impact:      "pg_wal grows until its user catches up or the disk is full.",
			Action:      slotAction,
		},
		{
			Name:       "PostgresSlotNearlyLost",
			Expr:       "pgintegrity_replication_slot_safe_bytes / (pgintegrity_replication_slot_safe_bytes + pgintegrity_replication_slot_retained_bytes) < ${ratio} and pgintegrity_replication_slot_lost == 0",
			Thresholds: []Threshold{{"ratio", 0.2, "share of what the slot may retain that is left, 0 to 1"}},
			For:        5 * time.Minute, Severity: Warning, Layer: Replication, NeedsDatabase: true,
			Summary:     "A replication slot is about to be invalidated.",
			Description: "Slot {{ $labels.slot_name }} ({{ $labels.slot_type }}) on the server of {{ $labels.instance }} has {{ $value | humanizePercentage }} of max_slot_wal_keep_size left.",
			Impact:      "When nothing is left, its standby or subscriber must be made anew.",
			Action:      "Find out why its user does not catch up; raising max_slot_wal_keep_size gains time if the disk has room.",
		},
		{
			// Fail-over managers keep slots on standbys for the time after a fail-over,
			// and move them on.
			Name: "PostgresSlotInactive", Expr: "pgintegrity_replication_slot_active == 0 and pgintegrity_replication_slot_lost == 0 and on (${target}) pgintegrity_in_recovery == 0",
			For: time.Hour, Severity: Warning, Layer: Replication, NeedsDatabase: true, Mutable: true,
			Summary:     "Nobody uses a replication slot.",
			Description: "Slot {{ $labels.slot_name }} ({{ $labels.slot_type }}) on the server of {{ $labels.instance }} has not been used for an hour.",
			Impact:      "The server keeps WAL, and for a logical slot old rows, until somebody uses it again.",
			Action:      slotAction,
		},
		{
			Name: "PostgresSubscriptionBroken",
			Expr: "(pgintegrity_subscription_enabled == 1 and pgintegrity_subscription_worker_up == 0) or on (${target}, datname, subname) sum without (kind) (increase(pgintegrity_subscription_errors_total[15m])) > ${errors}",
			Thresholds: []Threshold{
				{"errors", 3, "errors while changes were applied or tables copied, within 15 minutes"},
			},
			For: 15 * time.Minute, Severity: Critical, Layer: Replication, NeedsDatabase: true, Mutable: true,
			Summary:     "A subscription of logical replication does not work.",
			Description: "Subscription {{ $labels.subname }} in database {{ $labels.datname }} ({{ $labels.instance }}) has no worker, or its worker fails again and again.",
			Impact:      "Changes do not arrive; the publisher keeps WAL for it.",
			Action:      "The subscriber's log has the error; a conflict must be resolved by hand before the worker can go on.",
		},
		{
			Name: "PostgresSubscriptionDisabled", Expr: "pgintegrity_subscription_enabled == 0",
			For: 24 * time.Hour, Severity: Info, Layer: Replication, NeedsDatabase: true, Mutable: true,
			Summary:     "A subscription of logical replication has been disabled for a day.",
			Description: "Subscription {{ $labels.subname }} in database {{ $labels.datname }} ({{ $labels.instance }}) is disabled.",
			Impact:      "Changes do not arrive; the publisher keeps WAL for it.",
			Action:      "ALTER SUBSCRIPTION ... ENABLE, or drop it if it is no longer wanted.",
		},
		{
			Name: "PostgresRoleChanged", Expr: "changes(pgintegrity_in_recovery[10m]) > 0",
			KeepFiringFor: 30 * time.Minute, Severity: Info, Layer: Replication, NeedsDatabase: true,
			Summary:     "A server has become a primary or a standby.",
			Description: "The server of {{ $labels.instance }} has changed its role {{ $value }} times within 10 minutes.",
			Impact:      "Sessions were lost; transactions that were not replicated are gone.",
			Action:      "See who did it (a person, a fail-over manager), and whether the former primary is fenced.",
		},
	}}
}
