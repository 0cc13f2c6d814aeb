package drill_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
)

// TestIsolation drills a cluster that would do everything a restored one must not:
// listen, archive, replicate both ways, wait for a standby, run workers, and fire
// triggers, also those that always fire.
func TestIsolation(t *testing.T) {
	t.Parallel()
	long(t)
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		var calls atomic.Int32
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				calls.Add(1)
				_ = conn.Close()
			}
		}()
		_, port, err := net.SplitHostPort(listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conninfo := fmt.Sprintf("host=127.0.0.1 port=%s user=postgres dbname=postgres", port)
		b := newBank(t, major, pgtest.Setting("wal_level", "logical"), pgtest.Setting("shared_preload_libraries", "pg_prewarm"), pgtest.Setting("session_preload_libraries", "pg_prewarm"))
		for _, sql := range []string{
			"CREATE TABLE fired (by text)",
			"CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.fired VALUES (TG_NAME); RETURN NEW; END $$",
			"CREATE TRIGGER always BEFORE INSERT OR UPDATE OR DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION fire(); ALTER TABLE accounts ENABLE ALWAYS TRIGGER always",
			"CREATE FUNCTION fire_event() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.fired VALUES (TG_EVENT); END $$",
			"CREATE EVENT TRIGGER started ON ddl_command_start EXECUTE FUNCTION fire_event()",
			"CREATE EVENT TRIGGER ended ON ddl_command_end EXECUTE FUNCTION fire_event(); ALTER EVENT TRIGGER ended ENABLE ALWAYS",
			"TRUNCATE public.fired",
			"SELECT pg_create_physical_replication_slot('standby', true)",
			"SELECT pg_create_logical_replication_slot('consumer', 'pgoutput')",
			"CREATE PUBLICATION everything FOR ALL TABLES",
			"CREATE SUBSCRIPTION elsewhere CONNECTION '" + conninfo + "' PUBLICATION p WITH (connect = false, slot_name = 'elsewhere')",
			"ALTER SUBSCRIPTION elsewhere ENABLE",
			"ALTER ROLE postgres SET session_preload_libraries = 'pg_prewarm'",
			"ALTER SYSTEM SET primary_conninfo = '" + conninfo + "'",
			"ALTER SYSTEM SET listen_addresses = '*'",
			"ALTER SYSTEM SET archive_mode = 'always'",
			"ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
			"TRUNCATE public.fired",
		} {
			b.server.MustExec(t, "postgres", sql)
		}
		b.server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(b.root, "armed")})
		b.server.MustExec(t, "postgres", "SELECT pg_create_restore_point('armed')")
		b.server.AwaitArchived(t, b.archive)
		if err := os.WriteFile(filepath.Join(b.root, "armed", "standby.signal"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		options := b.options(t)
		if err := b.server.Stop(pgtest.Fast); err != nil { // its own worker calls, too
			t.Fatal(err)
		}
		archived, err := filepath.Glob(b.archive + "/*")
		if err != nil {
			t.Fatal(err)
		}
		calls.Store(0)
		options.Backup, options.Primary = "armed", nil
		looked := false
		options.Prove = func(ctx context.Context, recovered *pg.Target) error {
			looked = true
			conn, err := recovered.Connect(ctx, "postgres", pg.Purpose{Name: "test"})
			if err != nil {
				return err
			}
			defer conn.Close()
			ask := func(what, sql, want string) {
				var got string
				if err := conn.QueryRow(ctx, sql, pgx.QueryExecModeSimpleProtocol).Scan(&got); err != nil || got != want {
					t.Errorf("%s: %q instead of %q, %v", what, got, want, err)
				}
			}
			ask("addresses", "SHOW listen_addresses", "")
			ask("archiving", "SHOW archive_mode", "off")
			ask("libraries", "SELECT current_setting('shared_preload_libraries') || current_setting('session_preload_libraries')", "")
			ask("slots", "SELECT count(*)::text FROM pg_replication_slots", "0")
			ask("the subscription is there", "SELECT subname || subenabled FROM pg_subscription", "elsewheretrue")
			ask("triggers", "SELECT coalesce(string_agg(by, ' '), '') FROM public.fired", "")
			ask("processes", `SELECT coalesce(string_agg(DISTINCT backend_type, ', '), '') FROM pg_stat_activity
				WHERE backend_type NOT IN ('client backend', 'checkpointer', 'background writer', 'walwriter', 'io worker')`, "")
			for _, process := range processesIn(t, options.Scratch) {
				for _, socket := range networked(t, filepath.Dir(process)) {
					t.Errorf("%s has the socket %s", process, socket)
				}
			}
			<-time.After(2 * time.Second) // for whoever would call
			return nil
		}
		proved(t, options)
		if now, err := filepath.Glob(b.archive + "/*"); err != nil || !slices.Equal(archived, now) || !looked {
			t.Errorf("the archive was changed: %v", now)
		}
		if n := calls.Load(); n > 0 {
			t.Errorf("the restored server called another one %d times", n)
		}
	})
}

// networked lists the sockets of a process that are no Unix sockets.
func networked(t *testing.T, process string) []string {
	t.Helper()
	var known strings.Builder
	for _, protocol := range []string{"tcp", "tcp6", "raw"} {
		content, err := os.ReadFile("/proc/net/" + protocol)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		known.Write(content)
	}
	links, err := filepath.Glob(process + "/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var sockets []string
	for _, link := range links {
		to, err := os.Readlink(link)
		if inode, ok := strings.CutPrefix(to, "socket:["); err == nil && ok && strings.Contains(known.String(), " "+strings.TrimSuffix(inode, "]")+" ") {
			sockets = append(sockets, to)
		}
	}
	return sockets
}
