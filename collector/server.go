package collector

import (
	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

var (
	serverInfo = &Family{
		Name: Namespace + "server_info", Type: Gauge, Labels: []string{"version"},
		Help:   "Version of the server as a label; the value is always 1.",
		Source: "pg_settings: server_version",
	}
	serverInRecovery = &Family{
		Name: Namespace + "in_recovery", Type: Gauge,
		Help:   "Whether the server is in recovery (1: standby or recovering, 0: primary).",
		Source: "pg_is_in_recovery()",
	}
	serverStart = &Family{
		Name: Namespace + "postmaster_start_timestamp_seconds", Type: Gauge,
		Help:   "When the postmaster started, in seconds since the epoch.",
		Source: "pg_postmaster_start_time()",
	}
	serverConfigLoad = &Family{
		Name: Namespace + "conf_load_timestamp_seconds", Type: Gauge,
		Help:   "When the server last loaded its configuration files, in seconds since the epoch.",
		Source: "pg_conf_load_time()",
	}
	serverChecksums = &Family{
		Name: Namespace + "data_checksums_enabled", Type: Gauge,
		Help:   "Whether data checksums are on (0: pgintegrity_checksum_failures_total can never rise).",
		Source: "pg_settings: data_checksums",
	}
	serverConnectionsLimit = &Family{
		Name: Namespace + "connections_limit", Type: Gauge,
		Help:   "How many connections ordinary roles may hold: max_connections less the reserved ones.",
		Source: "pg_settings: max_connections, superuser_reserved_connections, reserved_connections (16+)",
	}
	serverSettingUnsafe = &Family{
		Name: Namespace + "setting_unsafe", Type: Gauge, Labels: []string{"setting"},
		Help:   "Whether this setting has a value that lets a crash or an error destroy data (1) or not (0).",
		Source: "pg_settings: fsync, full_page_writes, ignore_checksum_failure, zero_damaged_pages",
	}
)

// unsafeSettings are the settings that must have the value beside them.
var unsafeSettings = []struct{ name, safe string }{
	{"fsync", "on"},
	{"full_page_writes", "on"},
	{"ignore_checksum_failure", "off"},
	{"zero_damaged_pages", "off"},
}

// serverCollector reads functions and settings; it touches no table, takes no
// lock and needs no privilege.
func serverCollector() Collector {
	return Collector{
		Name: "server",
		Help: "Version, role, start and dangerous settings of the server.",
		Families: []*Family{
			serverInfo, serverInRecovery, serverStart, serverConfigLoad,
			serverChecksums, serverConnectionsLimit, serverSettingUnsafe,
		},
		SQL: func(facts pg.Facts) string {
			reserved := "0"
			if facts.VersionNum >= 160000 {
				reserved = "current_setting('reserved_connections')::int"
			}
			return `SELECT split_part(current_setting('server_version'), ' ', 1), pg_is_in_recovery(),
				extract(epoch FROM pg_postmaster_start_time())::float8,
				extract(epoch FROM pg_conf_load_time())::float8,
				current_setting('data_checksums') = 'on',
				current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int - ` + reserved + `,
				current_setting('fsync'), current_setting('full_page_writes'),
				current_setting('ignore_checksum_failure'), current_setting('zero_damaged_pages')`
		},
		Scan: func(rows pgx.Rows, sink *Sink) error {
			var (
				version    string
				inRecovery bool
				start      float64
				configLoad float64
				checksums  bool
				limit      int
				settings   = make([]string, len(unsafeSettings))
			)
			_, err := pgx.ForEachRow(rows, []any{
				&version, &inRecovery, &start, &configLoad, &checksums, &limit,
				&settings[0], &settings[1], &settings[2], &settings[3],
			}, func() error {
				sink.Add(serverInfo, 1, version)
				sink.AddBool(serverInRecovery, inRecovery)
				sink.Add(serverStart, start)
				sink.Add(serverConfigLoad, configLoad)
				sink.AddBool(serverChecksums, checksums)
				sink.Add(serverConnectionsLimit, float64(limit))
				for i, setting := range unsafeSettings {
					sink.AddBool(serverSettingUnsafe, settings[i] != setting.safe, setting.name)
				}
				return nil
			})
			return err
		},
	}
}
