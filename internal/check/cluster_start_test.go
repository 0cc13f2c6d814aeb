package check_test

import (
	"os"
	"path/filepath"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// TestNextStart leaves behind what the running server does not mind and what its next
// start fails of, and sees that it does.
func TestNextStart(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Setting("max_prepared_transactions", "2"), pgtest.Setting("shared_preload_libraries", "pg_stat_statements"), pgtest.Setting("wal_level", "logical"))
		server.MustExec(t, "postgres", "CREATE TABLE t (i int)")
		server.MustExec(t, "postgres", "SELECT pg_create_physical_replication_slot('kept')")
		server.MustExec(t, "postgres", "SELECT pg_create_logical_replication_slot('audit', 'pgoutput')")
		server.MustExec(t, "postgres", "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'payment'")
		standby := server.Standby(t)
		for _, c := range []struct {
			name, settings string
			mode           os.FileMode
			on             *pgtest.Server
			found          string
		}{
			{"library lost", "shared_preload_libraries = 'pg_stat_statements, gone'", 0o700, server, "shared_preload_libraries names gone, which is not there"},
			{"few connections", "max_connections = 4\nsuperuser_reserved_connections = 5\nmax_wal_senders = 0", 0o700, server, "connections are reserved, but max_connections is 4"},
			{"minimal WAL", "wal_level = minimal", 0o700, server, "max_wal_senders is not 0, but wal_level is minimal"},
			{"prepared transactions", "max_prepared_transactions = 0", 0o700, server, "there are 1 prepared transactions, but max_prepared_transactions is 0"},
			{"slots", "max_replication_slots = 1", 0o700, server, "there are 2 replication slots, but max_replication_slots is 1"},
			{"decoding", "wal_level = replica", 0o700, server, "the replication slot audit needs wal_level = logical, but it is replica"},
			{"no certificate", "ssl = on", 0o700, server, "ssl_cert_file names server.crt, which does not exist"},
			{"open to all", "", 0o755, server, "the data directory has the mode 0755"},
			{"less than the primary", "max_connections = 10", 0o700, standby, "max_connections is 10, but the primary had 30"},
		} {
			look := func() check.Document {
				return sweep(t, c.on, check.Options{Databases: []string{"postgres"}, Checks: named(t, "cluster")})
			}
			if document := look(); document.ExitCode() != check.ExitClean {
				t.Fatalf("%s, healthy: %s", c.name, messages(document))
			}
			file := filepath.Join(c.on.DataDirectory, "postgresql.auto.conf")
			before, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			change := func(content string, mode os.FileMode) {
				if err := os.WriteFile(file, []byte(content), 0); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(c.on.DataDirectory, mode); err != nil {
					t.Fatal(err)
				}
			}
			change(string(before)+c.settings+"\n", c.mode)
			if document := look(); !finds(document, c.found) {
				t.Errorf("%s: %s", c.name, messages(document))
			}
			if err := c.on.Restart(t.Context()); err == nil {
				t.Errorf("%s: the server starts", c.name)
				if err := c.on.Stop(pgtest.Fast); err != nil {
					t.Fatal(err)
				}
			}
			change(string(before), 0o700)
			if err := c.on.StartAgain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
