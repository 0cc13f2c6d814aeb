package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// settingCheck looks for settings that let data be damaged, hide damage, switch
// rules off or blind the log: of the server, of roles and databases, and those
// that wait in the configuration files for the next reload or restart.
func settingCheck() Check {
	return Check{
		Name:     "setting",
		Question: "Is a setting on that lets data be damaged, hides damage, or switches rules off?",
		Kinds:    []Kind{{ClassUnsafeSetting, SeverityCritical}, {ClassUnsafeSetting, SeverityWarning}, {ClassUnsafeSetting, SeverityInfo}},
		Interval: 10 * time.Minute,
		Needs:    "pg_monitor; SELECT on pg_file_settings and EXECUTE on pg_show_all_file_settings() for what waits in the files",
		Locks:    "ACCESS SHARE on catalogues",
		Server:   true,
		run:      runSetting,
	}
}

// perilous is a value of a setting that should be known of.
type perilous struct {
	name string
	// unsafe says that a value is dangerous.
	unsafe   func(value string) bool
	severity Severity
	impact   string
	action   string
}

func is(values ...string) func(string) bool {
	return func(value string) bool { return slices.Contains(values, strings.ToLower(value)) }
}

func isNot(values ...string) func(string) bool {
	return func(value string) bool { return !slices.Contains(values, strings.ToLower(value)) }
}

// dangers are the settings that are looked at. Values are as pg_settings has
// them.
var dangers = []perilous{
	{"fsync", is("off"), SeverityCritical,
		"After a crash of the machine every table can be corrupt.", "Set fsync = on and reload; then make a base backup."},
	{"full_page_writes", is("off"), SeverityCritical,
		"A page that is half-written when the machine crashes stays half-written.", "Set full_page_writes = on and reload, unless the file system writes 8 kB at once for certain."},
	{"zero_damaged_pages", is("on"), SeverityCritical,
		"A damaged page that is read is taken for empty, and its rows are gone for good when it is written.", "Set zero_damaged_pages = off and reload. Find out who read damaged pages meanwhile: the log has the warnings."},
	{"ignore_checksum_failure", is("on"), SeverityCritical,
		"Damaged pages are read as if they were whole, and are written back with a valid checksum: the damage spreads and can no longer be seen.", "Set ignore_checksum_failure = off and reload."},
	{"ignore_invalid_pages", is("on"), SeverityCritical,
		"Recovery goes on over references to pages that do not exist: what it makes can be corrupt.", "Set ignore_invalid_pages = off, and restore from a backup instead of keeping this copy."},
	{"ignore_system_indexes", is("on"), SeverityWarning,
		"Somebody works around a damaged index of a system catalogue.", "Run the check catalog, rebuild the damaged index (REINDEX SYSTEM), and take the setting back."},
	{"session_replication_role", isNot("origin"), SeverityCritical,
		"Foreign keys and triggers do not fire: rows can break every rule without a word.", "Take the setting back; then check what was written meanwhile (check --check=constraint)."},
	{"allow_system_table_mods", is("on"), SeverityWarning,
		"A superuser's mistake can change system catalogues.", "Take the setting back; it is for emergencies in one session."},
	{"data_sync_retry", is("on"), SeverityWarning,
		"When the disk fails to write, the server goes on as if it had: on most systems the data is lost without a word.", "Set data_sync_retry = off and restart."},
	{"autovacuum", is("off"), SeverityWarning,
		"Dead rows are not removed, statistics grow old, and transaction ids run out until the server stops taking writes.", "Set autovacuum = on and reload; slow it down with autovacuum_vacuum_cost_limit instead."},
	{"track_counts", is("off"), SeverityWarning,
		"Autovacuum does not know what to do, and does nothing.", "Set track_counts = on and reload."},
	{"log_min_messages", is("error", "log", "fatal", "panic"), SeverityWarning,
		"Warnings about damaged pages and maps are not logged: damage that only warns is seen by nobody.", "Set log_min_messages = warning and reload."},
	{"log_min_error_statement", is("log", "fatal", "panic"), SeverityInfo,
		"The log does not say which statement failed.", "Set log_min_error_statement = error and reload."},
	{"log_error_verbosity", is("terse"), SeverityInfo,
		"Whoever reads the log cannot tell an error of the server from one that a function made up.", "Set log_error_verbosity = default and reload."},
	{"synchronous_commit", is("off"), SeverityInfo,
		"A crash loses the last transactions although they were reported as committed; nothing is corrupt.", "Set synchronous_commit = on where every transaction counts."},
	{"wal_level", is("minimal"), SeverityWarning,
		"No standby, no base backup while running and no recovery to a point in time are possible.", "Set wal_level = replica and restart."},
	{"data_checksums", is("off"), SeverityInfo,
		"The server does not notice a page that the disk changed.", "Turn data checksums on while the server is down (pg_checksums --enable), or at the next upgrade."},
	{"archive_command", is("true", "/bin/true", "/usr/bin/true", ":", "exit 0"), SeverityWarning,
		"The archive gets nothing although the server believes so: a restore ends at the base backup.", "Set a command or library that archives, or archive_mode = off."},
	{"restart_after_crash", is("off"), SeverityInfo,
		"After the crash of one session the server stays down unless a cluster manager starts it.", "Nothing, where a cluster manager wants it so."},
	{"default_transaction_read_only", is("on"), SeverityInfo,
		"Writes fail unless a session asks to write.", "Nothing, where it is wanted."},
	{"row_security", is("off"), SeverityInfo,
		"Statements that a policy would filter fail instead.", "Nothing, where it is wanted for dumps."},
	{"debug_discard_caches", isNot("0"), SeverityWarning,
		"The server is slowed down a hundred times.", "Take the setting back; it is for developers of PostgreSQL."},
}

// setting is one row of pg_settings.
type setting struct {
	Name, Value, File string
	PendingRestart    bool
}

func (s *session) foundSetting(d perilous, where, message string) {
	s.found(Finding{
		Class: ClassUnsafeSetting, Severity: d.severity, Message: message, Impact: d.impact, Action: d.action,
	}, "setting "+d.name+" "+where)
}

func runSetting(ctx context.Context, s *session) error {
	// What a role or a database overrides for this session hides what the server
	// has: reset_val shows that only for sessions, so the files are asked as well.
	const settingsSQL = `SELECT name, coalesce(CASE WHEN source IN ('database', 'user', 'database user', 'client') THEN boot_val ELSE setting END, ''),
		coalesce(sourcefile, ''), pending_restart FROM pg_settings`
	rows, err := s.conn.Query(ctx, settingsSQL)
	if err != nil {
		return fmt.Errorf("reading settings: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[setting])
	if err != nil {
		return fmt.Errorf("reading settings: %w", err)
	}
	now := make(map[string]setting, len(list))
	for _, one := range list {
		now[one.Name] = one
	}
	s.result.Objects += len(list)
	for _, d := range dangers {
		if one, known := now[d.name]; known && one.Value != "" && d.unsafe(one.Value) {
			s.foundSetting(d, "server", fmt.Sprintf("%s is %s on this server", d.name, one.Value))
		}
	}
	s.archiving(now)
	s.blindLog(now)
	s.pending(list)
	if err := s.overrides(ctx); err != nil {
		s.problem("pg_db_role_setting", err)
	}
	if err := s.waiting(ctx, now); err != nil {
		s.problem("pg_file_settings", err)
	}
	return nil
}

// archiving reports an archive that is switched on but has nothing to archive
// with.
func (s *session) archiving(now map[string]setting) {
	mode := now["archive_mode"].Value
	command, library := now["archive_command"].Value, now["archive_library"].Value
	if (mode != "on" && mode != "always") || library != "" || command != "" && command != "(disabled)" {
		return
	}
	if s.conn.Facts.InRecovery && mode != "always" {
		return
	}
	s.found(Finding{
		Class: ClassUnsafeSetting, Severity: SeverityWarning,
		Message: fmt.Sprintf("archive_mode is %s, but neither archive_command nor archive_library is set", mode),
		Impact:  "WAL is kept in pg_wal until the disk is full, and there is no archive to restore from.",
		Action:  "Set archive_command or archive_library and reload.",
	}, "archive")
}

// pending tells of settings that wait for a restart: they come into effect with
// the next one, whoever makes it and why.
func (s *session) pending(list []setting) {
	var names []string
	for _, one := range list {
		if one.PendingRestart {
			names = append(names, one.Name)
		}
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	s.found(Finding{
		Class: ClassUnsafeSetting, Severity: SeverityInfo,
		Message: "settings wait for a restart: " + strings.Join(names, ", "),
		Impact:  "The next restart, planned or not, changes how the server behaves.",
		Action:  "Restart in a window, or take the lines back.",
	}, "pending restart")
}

// overridesSQL lists the settings of roles and databases. ACCESS SHARE on
// shared catalogues.
const overridesSQL = `SELECT coalesce(d.datname::text, ''), coalesce(r.rolname::text, ''), split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
	FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS c
	LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole`

// overrides reports dangerous settings of roles and databases.
func (s *session) overrides(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, overridesSQL)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Database, Role, Name, Value string }])
	if err != nil {
		return err
	}
	for _, o := range list {
		var who []string
		if o.Role != "" {
			who = append(who, "role "+o.Role)
		}
		if o.Database != "" {
			who = append(who, "database "+o.Database)
		}
		where := strings.Join(who, " in ")
		if where == "" {
			where = "all roles"
		}
		for _, d := range dangers {
			if d.name == o.Name && d.unsafe(switched(o.Value)) {
				s.foundSetting(d, where, fmt.Sprintf("%s is %s for every session of %s (ALTER ROLE or ALTER DATABASE ... SET)", o.Name, o.Value, where))
			}
		}
	}
	return nil
}

// switched writes a Boolean as pg_settings does.
func switched(value string) string {
	switch strings.ToLower(value) {
	case "1", "true", "yes", "t", "y":
		return "on"
	case "0", "false", "no", "f", "n":
		return "off"
	}
	return value
}

// waiting reports dangerous settings in the configuration files that are not
// in effect yet.
func (s *session) waiting(ctx context.Context, now map[string]setting) error {
	const sql = `SELECT DISTINCT ON (name) name, setting, sourcefile || ' line ' || sourceline FROM pg_file_settings
		WHERE name IS NOT NULL AND setting IS NOT NULL AND error IS NULL OR error LIKE '%restart%' ORDER BY name, seqno DESC`
	rows, err := s.conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Name, Value, Place string }])
	if err != nil {
		return err
	}
	for _, w := range list {
		for _, d := range dangers {
			current := now[w.Name].Value
			if d.name == w.Name && d.unsafe(switched(w.Value)) && !d.unsafe(current) {
				s.foundSetting(d, "waiting", fmt.Sprintf("%s is %s in %s and comes into effect with the next reload or restart; now it is %s", w.Name, w.Value, w.Place, current))
			}
		}
	}
	return nil
}
