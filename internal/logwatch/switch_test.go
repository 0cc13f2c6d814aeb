package logwatch_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/pgtest"
)

// TestCollectorSwitches turns the logging collector on and off, and changes what
// it writes: the log is found wherever it is, and every error counts once. Errors of
// sessions of one application and one role are counted by name, others are not.
func TestCollectorSwitches(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root sees where the server's standard error goes")
	}
	if testing.Short() {
		t.Skip("the server's settings are looked at every 15 seconds")
	}
	server := pgtest.Start(t, pgtest.Version(max(15, pgtest.Newest())), pgtest.Setting("log_line_prefix", "%m [%p] %e %b %qdb=%d,user=%u,app=%a "))
	server.MustExec(t, "postgres", "CREATE ROLE cashier LOGIN SUPERUSER")
	results := inMemory(t)
	stop := watch(t, server.DSN("postgres"), results, func(c *config.Log) { c.Applications, c.Roles = []string{"till"}, []string{"cashier"} })
	defer stop()
	const each = 10
	for i, settings := range []map[string]string{
		{}, {"logging_collector": "on"}, {"log_destination": "csvlog"}, {"log_destination": "jsonlog"}, {"log_destination": "stderr"}, {"logging_collector": "off"},
	} {
		restart := false
		for name, value := range settings {
			server.MustExec(t, "postgres", fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value))
			restart = restart || name == "logging_collector"
		}
		if restart {
			if err := server.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else {
			server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
		}
		for range each - 1 {
			if err := server.Exec(t.Context(), "postgres", "SET application_name = 'till'; SELECT 1/0"); err == nil {
				t.Fatal("no error")
			}
		}
		if err := server.Exec(t.Context(), "postgres", "SET ROLE cashier; SET application_name = 'other'; SELECT 1/0"); err == nil {
			t.Fatal("no error")
		}
		want := uint64(each * (i + 1))
		t.Logf("%v: counted after %s", settings, awaitDivisions(t, results, want))
		<-time.After(2 * time.Second)
		if got := divisions(results); got != want {
			t.Fatalf("%v: %d errors counted, not %d", settings, got, want)
		}
	}
	for counter, n := range results.Snapshot().Counters {
		if (counter.Kind == pglog.CountApplications || counter.Kind == pglog.CountRoles) && counter.Name != "till" && counter.Name != "cashier" {
			t.Errorf("%s %q has %d errors", counter.Kind, counter.Name, n)
		}
	}
	if got := results.Snapshot().Counters[pglog.Counter{Kind: pglog.CountApplications, Name: "till", Category: pglog.ClientMistake}]; got != 6*(each-1) {
		t.Errorf("%d errors of the application", got)
	}
}

// TestBlindness changes each setting that hides something of a collected log, and
// puts it back: both are told.
func TestBlindness(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("the server's settings are looked at every 15 seconds")
	}
	server := pgtest.Start(t, pgtest.CSVLog())
	results := inMemory(t)
	stop := watch(t, server.DSN("postgres"), results, func(*config.Log) {})
	defer stop()
	pgtest.Await(t, "reading", 20*time.Second, func() bool { return results.Snapshot().Log.Up })
	for reason, settings := range map[string][]string{
		pglog.BlindRotation:    {"log_rotation_age = 0", "log_rotation_size = 0"},
		pglog.BlindOverwritten: {"log_filename = 'server.log'", "log_truncate_on_rotation = on", "log_rotation_age = '1d'"},
		pglog.BlindWarnings:    {"log_min_messages = error"},
		pglog.BlindErrors:      {"log_min_messages = panic"},
		pglog.BlindStatement:   {"log_min_error_statement = panic"},
		pglog.BlindContext:     {"log_error_verbosity = terse"},
		pglog.BlindDestination: {"log_destination = 'syslog'"},
	} {
		if blind(results, reason) {
			t.Errorf("%s is told before", reason)
		}
		for _, setting := range settings {
			server.MustExec(t, "postgres", "ALTER SYSTEM SET "+setting)
		}
		server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
		pgtest.Await(t, reason+" told", 40*time.Second, func() bool { return blind(results, reason) })
		server.MustExec(t, "postgres", "ALTER SYSTEM RESET ALL")
		server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
		pgtest.Await(t, reason+" over", 40*time.Second, func() bool { return !blind(results, reason) })
	}
}
