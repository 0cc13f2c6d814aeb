package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pgtest"
)

// TestDrillResults watches two repositories of a real server, and drills them in
// turn, as the units of systemd and the CronJob do: what the drills say reaches the
// running exporter through the state directory, and the textfile.
func TestDrillResults(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		archive, good, bad := pgtest.SharedDirectory(t), pgtest.SharedDirectory(t), pgtest.SharedDirectory(t)
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Checksums(), pgtest.Archiving(archive), pgtest.Setting("autovacuum", "off"))
		server.MustExec(t, "postgres", "CREATE TABLE money AS SELECT i AS id, 10 AS amount FROM generate_series(1, 10000) i; SELECT pg_create_physical_replication_slot('standby', true)")
		for _, root := range []string{good, bad} {
			server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(root, "base")})
		}
		table := strings.TrimPrefix(server.MustRelation(t, "postgres", "money").Path, server.DataDirectory)
		file, err := os.OpenFile(filepath.Join(bad, "base", table), os.O_WRONLY, 0)
		if err == nil {
			_, err = file.WriteAt([]byte("damage"), 9000)
		}
		if err != nil || file.Close() != nil {
			t.Fatal(err)
		}
		server.MustExec(t, "postgres", "UPDATE money SET amount = 11")
		server.AwaitArchived(t, archive)
		directory := t.TempDir()
		config := filepath.Join(directory, "config.yml")
		text := fmt.Sprintf(`
recovery:
  interval: 1m
  repositories:
    - {name: good, type: directory, path: %s, wal: %s, max_backup_age: 26h, max_recovery_point_age: 15m, max_recovery_time: 1h, max_drill_age: 840h}
    - {name: bad, type: directory, path: %s, wal: %s}
  drill: {bin_directories: [%s], user: %q, min_free: 0B, scratch: %s}
`, good, archive, bad, archive, server.Install.BinDir, pgtest.User(), pgtest.SharedDirectory(t))
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		common := []string{"--config.file=" + config, "--state.path=" + directory, "--dsn=" + server.DSN("postgres")}
		s := serve(t, common...)
		value := func(name, repository string) float64 {
			return sum(t, s.metrics(t), "pgintegrity_"+name+`\{repository="`+repository+`"\}`)
		}
		await(t, "both repositories are read", func() bool { return value("repository_up", "good") == 1 && value("repository_up", "bad") == 1 })
		textfile := filepath.Join(directory, "drill.prom")
		for repository, want := range map[string]int{"good": 0, "bad": 1} {
			stdout, stderr, exit := run(t, append(common, "drill", "--repository="+repository, "--textfile="+textfile+"."+repository)...)
			if exit != want {
				t.Errorf("%s: exit %d\n%s%s", repository, exit, stdout, stderr)
			}
			content, err := os.ReadFile(textfile + "." + repository)
			if line := fmt.Sprintf("pgintegrity_drill_success{repository=%q} %d\n", repository, 1-want); err != nil || !strings.Contains(string(content), line) {
				t.Errorf("the textfile has no %q: %v\n%s", line, err, content)
			}
		}
		if value("drill_success", "good") != 1 || value("drill_success", "bad") != 0 || value("drill_recovery_time_seconds", "good") <= 0 {
			t.Errorf("the drills did not reach the exporter: %s", s.metrics(t))
		}
		page := s.metrics(t)
		for pattern, want := range map[string]float64{
			`pgintegrity_drill_runs_total\{outcome="proved",repository="good"\}`: 1, `pgintegrity_drill_runs_total\{outcome="failed",repository="bad"\}`: 1,
			`pgintegrity_backup_max_age_seconds\{repository="good"\}`: 26 * 3600, `pgintegrity_recovery_point_max_age_seconds\{repository="good"\}`: 900,
			`pgintegrity_drill_recovery_time_max_seconds\{repository="good"\}`: 3600, `pgintegrity_drill_max_age_seconds\{repository="good"\}`: 840 * 3600,
			`pgintegrity_backup_chain_complete\{repository="good"\}`: 1, `pgintegrity_repository_problems\{reason="[a-z_]+",repository="good"\}`: 0,
			`pgintegrity_archiver_enabled`: 1, `pgintegrity_archiver_failing`: 0, `pgintegrity_archiver_ready_segments`: 0,
		} {
			if got := sum(t, page, pattern); got != want {
				t.Errorf("%s is %v instead of %v", pattern, got, want)
			}
		}
		now := float64(time.Now().Unix())
		for _, name := range []string{"backup_last_success_timestamp_seconds", "recovery_point_timestamp_seconds", "recovery_earliest_point_timestamp_seconds", "drill_last_success_timestamp_seconds", "drill_recovery_point_timestamp_seconds"} {
			if got := value(name, "good"); got > now+1 || got < now-600 {
				t.Errorf("%s is %v, now is %v", name, got, now)
			}
		}
		if lag := value("recovery_point_lag_bytes", "good"); lag > 4<<20 {
			t.Errorf("%v bytes would be lost", lag)
		}
	})
}
