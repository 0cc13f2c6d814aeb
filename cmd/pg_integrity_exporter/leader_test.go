package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pgtest"
)

// TestLeader holds that of two exporters of one server one runs the checks, and
// that the other takes over when the first is killed.
func TestLeader(t *testing.T) {
	if testing.Short() {
		t.Skip("internal/exporter has the short form")
	}
	t.Parallel()
	server := pgtest.Start(t)
	role, err := server.Monitor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(config, []byte("leader: {enabled: true}\nchecks: {catalog: {interval: 1m}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	begin := func() *service {
		t.Helper()
		return serve(t, "--config.file="+config, "--dsn="+server.DSN("postgres", role), "--state.path="+t.TempDir())
	}
	leads := func(s *service) bool {
		t.Helper()
		page := s.metrics(t)
		leads, checks := sum(t, page, "pgintegrity_leader") == 1, strings.Contains(page, "\npgintegrity_check_last_run_timestamp_seconds{")
		if sum(t, page, "pgintegrity_up") != 1 {
			t.Error("not up")
		}
		if checks && !leads {
			t.Error("one that does not lead has series of checks")
		}
		return leads
	}
	checked := func(s *service) bool { return strings.Contains(s.text(), "check ended") }

	first, second := begin(), begin()
	await(t, "led by one", func() bool {
		one, other := leads(first), leads(second)
		if one && other {
			t.Fatal("both lead")
		}
		return one || other
	})
	if leads(second) {
		first, second = second, first
	}
	await(t, "checking", func() bool { return checked(first) })
	if leads(second) || checked(second) {
		t.Error("the other one checks, too")
	}
	var sessions, locks int
	const held = "SELECT count(*), count(*) FILTER (WHERE EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')) FROM pg_stat_activity a WHERE application_name = 'pg_integrity_exporter'"
	if err := server.Query(t.Context(), "postgres", "SELECT n FROM ("+held+") AS x(n, locks)", &sessions); err != nil || sessions != 2 {
		t.Errorf("%d sessions of scrapes, %v", sessions, err)
	}
	if err := server.Query(t.Context(), "postgres", "SELECT locks FROM ("+held+") AS x(n, locks)", &locks); err != nil || locks != 1 {
		t.Errorf("%d of them have the lock, %v", locks, err)
	}

	killed := time.Now()
	first.kill()
	await(t, "taken over", func() bool { return leads(second) })
	if took := time.Since(killed); took > 15*time.Second {
		t.Errorf("taken over after %s", took)
	}
	await(t, "checking again", func() bool { return checked(second) })
}
