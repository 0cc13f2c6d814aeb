package check

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// leftoverCheck looks for what interrupted or forgotten maintenance left behind:
// indexes that are not valid, partitions half detached, constraints that are not
// validated, triggers and rules that are switched off, tables that a crash
// empties, temporary schemas of nobody.
func leftoverCheck() Check {
	return Check{
		Name:       "leftover",
		Question:   "Did interrupted or forgotten maintenance leave something behind?",
		Kinds:      []Kind{{ClassLeftover, SeverityWarning}, {ClassLeftover, SeverityInfo}, {ClassUnsafeSetting, SeverityWarning}},
		Interval:   time.Hour,
		Needs:      "nothing but pg_monitor",
		Locks:      "ACCESS SHARE on catalogues",
		Afterwards: true,
		run:        runLeftover,
	}
}

// remains is a question about one kind of leftover. Its statement gives schema,
// relation, a word that is the same in every run, and the message.
type remains struct {
	sql      string
	since    int // server_version_num
	class    Class
	severity Severity
	impact   string
	action   string
}

// Each statement takes ACCESS SHARE on catalogues only. pg_stat_progress_* tells
// what is under way and no leftover.
var leftovers = []remains{
	{sql: `SELECT n.nspname::text, c.relname::text, 'invalid', format('the index is not valid and nobody is building it (pg_index.indisvalid, indisready), table %I', t.relname)
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class t ON t.oid = i.indrelid
		WHERE NOT (i.indisvalid AND i.indisready) AND c.relkind = 'i' AND c.relpersistence <> 't'
		AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.datname = current_database() AND p.relid = i.indrelid)
		AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND l.relation = i.indrelid AND l.mode = 'ShareUpdateExclusiveLock')`,
		class: ClassLeftover, severity: SeverityWarning,
		impact: "No statement uses the index, but every write to the table may still pay for it; a unique index that is not valid does not protect the table.",
		action: "Find out which CREATE INDEX CONCURRENTLY or REINDEX CONCURRENTLY was interrupted, then DROP INDEX CONCURRENTLY it; create the index again, unless its name ends in _ccnew or _ccold: then run the REINDEX again."},
	{sql: `SELECT n.nspname::text, c.relname::text, 'invalid', 'the partitioned index is not valid: a partition has no index of it'
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE NOT i.indisvalid AND c.relkind = 'I' AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.datname = current_database())`,
		class: ClassLeftover, severity: SeverityWarning,
		impact: "A unique index that is not valid protects only some of the partitions.",
		action: "Create the index on the partitions that lack it and attach it (ALTER INDEX ... ATTACH PARTITION)."},
	{since: 140000, sql: `SELECT n.nspname::text, c.relname::text, 'detach', format('the partition is half detached from %s: DETACH PARTITION CONCURRENTLY was interrupted', h.inhparent::regclass)
		FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE to_jsonb(h) ->> 'inhdetachpending' = 'true' AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.relation = h.inhparent AND l.mode = 'ShareUpdateExclusiveLock')`,
		class: ClassLeftover, severity: SeverityWarning,
		impact: "Statements on the partitioned table no longer see the rows of this partition.",
		action: "Finish it: ALTER TABLE ... DETACH PARTITION ... FINALIZE; attach the partition again if it was not to go."},
	{sql: `SELECT n.nspname::text, c.relname::text, k.conname::text, format('the constraint %I was never validated (NOT VALID): rows from before it may break it', k.conname)
		FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE NOT k.convalidated AND k.contype IN ('c', 'f', 'n') AND k.conparentid = 0 AND to_jsonb(k) ->> 'conenforced' IS DISTINCT FROM 'false'`,
		class: ClassLeftover, severity: SeverityInfo,
		impact: "New rows obey the constraint, old ones may not; the planner does not use it.",
		action: "ALTER TABLE ... VALIDATE CONSTRAINT in a quiet hour; it takes a lock that lets reads and writes go on."},
	{since: 180000, sql: `SELECT n.nspname::text, c.relname::text, k.conname::text, format('the constraint %I is not enforced (NOT ENFORCED)', k.conname)
		FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE to_jsonb(k) ->> 'conenforced' = 'false' AND k.conparentid = 0`,
		class: ClassLeftover, severity: SeverityWarning,
		impact: "Rows may break the constraint without a word.",
		action: "Find the rows that break it (check --check=constraint), mend them, and ALTER TABLE ... ALTER CONSTRAINT ... ENFORCED."},
	{sql: `SELECT n.nspname::text, c.relname::text, 'foreign key', format('%s triggers of foreign keys of the table are switched off', count(*))
		FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE t.tgisinternal AND t.tgenabled = 'D' AND t.tgconstraint <> 0 GROUP BY 1, 2`,
		class: ClassLeftover, severity: SeverityWarning,
		impact: "The foreign keys are not enforced: rows that refer to nothing come in without a word.",
		action: "Find such rows (check --check=constraint), mend them, then ALTER TABLE ... ENABLE TRIGGER ALL."},
	{sql: `SELECT n.nspname::text, c.relname::text, t.tgname::text, format('the trigger %I is %s', t.tgname, CASE t.tgenabled WHEN 'D' THEN 'switched off' ELSE 'on for replication only' END)
		FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE NOT t.tgisinternal AND t.tgenabled IN ('D', 'R') AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid AND d.deptype = 'e')`,
		class: ClassLeftover, severity: SeverityWarning,
		impact: "What the trigger does (history, derived columns, checks) has not been done since.",
		action: "Find out who switched it off and why. Before ALTER TABLE ... ENABLE TRIGGER make up for what it has not done."},
	{sql: `SELECT n.nspname::text, c.relname::text, r.rulename::text, format('the rule %I is switched off', r.rulename)
		FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.ev_enabled IN ('D', 'R')`,
		class: ClassLeftover, severity: SeverityWarning,
		impact: "Statements on the relation are not rewritten as they were meant to be.",
		action: "Find out who switched it off and why, then ALTER TABLE ... ENABLE RULE."},
	{sql: `SELECT '', '', 'event trigger ' || e.evtname, format('the event trigger %I is switched off', e.evtname) FROM pg_event_trigger e WHERE e.evtenabled IN ('D', 'R')`,
		class: ClassLeftover, severity: SeverityWarning,
		impact: "What it guards or records of schema changes is not guarded or recorded.",
		action: "Find out who switched it off and why, then ALTER EVENT TRIGGER ... ENABLE."},
	{sql: `SELECT n.nspname::text, c.relname::text, 'unlogged', format('the %s is UNLOGGED and has %s pages', CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, c.relpages)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relpersistence = 'u' AND c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')`,
		class: ClassLeftover, severity: SeverityInfo,
		impact: "A crash empties the table; standbys and base backups do not have its rows.",
		action: "If its rows must not be lost: ALTER TABLE ... SET LOGGED (it writes the whole table)."},
	{sql: `SELECT n.nspname::text, c.relname::text, 'unlogged reference', format('the table is UNLOGGED, but the logged table %s has a foreign key to it', k.conrelid::regclass)
		FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_class f ON f.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE k.contype = 'f' AND c.relpersistence = 'u' AND f.relpersistence = 'p'`,
		class: ClassLeftover, severity: SeverityWarning,
		impact: "A crash empties the table, and the rows that refer to it refer to nothing.",
		action: "ALTER TABLE ... SET LOGGED."},
	{sql: `SELECT '', '', 'temp ' || n.nspname, format('the temporary schema %I has %s relations, but no session is left that they belong to', n.nspname, count(*))
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relpersistence = 't' AND n.nspname ~ '^pg_temp_\d+$' AND NOT pg_is_in_recovery()
		AND NOT EXISTS (SELECT FROM pg_stat_get_backend_idset() AS b(id) WHERE b.id = substr(n.nspname, 9)::int)
		GROUP BY n.nspname HAVING max(age(c.relfrozenxid)) FILTER (WHERE c.relkind IN ('r', 't')) > 1000000`,
		class: ClassLeftover, severity: SeverityInfo,
		impact: "They take room and hold back the removal of old transaction ids until the schema is used again.",
		action: "Autovacuum removes them when it comes by; DROP SCHEMA ... CASCADE as a superuser does it now."},
	{sql: `SELECT n.nspname::text, c.relname::text, 'repack', 'the relation belongs to a pg_repack that was interrupted'
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'repack' AND c.relkind = 'r' AND c.relname ~ '^(log|table)_\d+$'
		AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.application_name = 'pg_repack')`,
		class: ClassLeftover, severity: SeverityWarning,
		impact: "Every write to the table that was repacked is logged a second time, without end, and the next pg_repack refuses it.",
		action: "Drop the triggers repack_trigger and the tables in the schema repack, or DROP EXTENSION pg_repack CASCADE and create it again."},
	{sql: `SELECT n.nspname::text, p.proname::text, concat('set ', p.oid::regprocedure, split_part(c, '=', 1)), format('the function %s sets %s for itself', p.oid::regprocedure, c)
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace CROSS JOIN unnest(p.proconfig) AS c
		WHERE lower(c) IN ('session_replication_role=replica', 'zero_damaged_pages=on', 'zero_damaged_pages=true', 'ignore_checksum_failure=on', 'ignore_checksum_failure=true', 'allow_system_table_mods=on')`,
		class: ClassUnsafeSetting, severity: SeverityWarning,
		impact: "What the function writes is not held to foreign keys and triggers, or it reads damaged pages as if they were whole.",
		action: "Find out who calls it, and ALTER FUNCTION ... RESET the setting; check what it wrote (check --check=constraint)."},
}

func runLeftover(ctx context.Context, s *session) error {
	for _, r := range leftovers {
		if s.conn.Facts.VersionNum < r.since {
			continue
		}
		if err := s.remains(ctx, r); err != nil {
			s.problem("", err)
		}
	}
	return nil
}

// remains asks one question, and reports what two looks agree about.
func (s *session) remains(ctx context.Context, r remains) error {
	type answer struct{ Schema, Relation, Kind, Message string }
	ask := func() ([]answer, error) {
		rows, err := s.conn.Query(ctx, r.sql)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowToStructByPos[answer])
	}
	first, err := ask()
	if err != nil {
		return fmt.Errorf("looking for leftovers: %w", err)
	}
	s.result.Objects++
	if len(first) == 0 {
		return nil
	}
	pauseToConfirm(ctx)
	second, err := ask()
	if err != nil {
		return fmt.Errorf("looking for leftovers: %w", err)
	}
	seen := make(map[answer]bool)
	for _, a := range second {
		seen[answer{a.Schema, a.Relation, a.Kind, ""}] = true
	}
	for _, a := range first {
		if !seen[answer{a.Schema, a.Relation, a.Kind, ""}] || !s.inScope(a.Schema, a.Relation) {
			continue
		}
		s.found(Finding{
			Class: r.class, Severity: r.severity, Schema: a.Schema, Relation: a.Relation,
			Message: a.Message, Impact: r.impact, Action: r.action,
		}, a.Kind)
	}
	return nil
}

// inScope says that a relation is one of those that are looked at.
func (s *session) inScope(schema, name string) bool {
	if len(s.scope.Relations) == 0 {
		return true
	}
	for _, r := range s.scope.Relations {
		if r.Schema == schema && r.Name == name {
			return true
		}
	}
	return false
}
