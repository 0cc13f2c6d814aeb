package alerts_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pgtest"
)

// liveCommands are the alerts of TestLiveCommands, with the thresholds that let
// the condition be a small one.
var liveCommands = map[string]map[string]float64{
	"PostgresBackupChainBroken":        nil,
	"PostgresBackupFailed":             nil,
	"PostgresCheckOverdue":             {"intervals": -1}, // as if a day had gone by
	"PostgresChecksumFailures":         nil,
	"PostgresCorruptionEvents":         nil,
	"PostgresCorruptionSuspected":      nil,
	"PostgresDrift/critical":           nil,
	"PostgresDrift/warning":            nil,
	"PostgresDrillFailed":              nil,
	"PostgresDrillOverdue":             nil,
	"PostgresErrorBudgetBurn/critical": {"transactions_per_second": 0},
	"PostgresErrorBudgetBurn/warning":  {"transactions_per_second": 0},
	"PostgresErrorSpike":               {"errors": 0},
	"PostgresExporterOverBudget":       nil,
	"PostgresGuardNotRolledBack":       nil,
	"PostgresGuardUnfinished":          nil,
	"PostgresLogNotUnderstood":         {"records": 0},
	"PostgresRecoveryTimeExceeded":     nil,
	"PostgresSlotNearlyLost":           {"ratio": 1},
}

// commandsConfig watches a repository that drills can prove and one that has
// nothing to prove, one with a gap in its WAL, and one whose newest backup was
// never finished.
const commandsConfig = `
recovery:
  interval: 10s
  repositories:
    - {name: proved, type: directory, path: %[1]s/proved, max_drill_age: 1s, max_recovery_time: 1ms}
    - {name: empty, type: directory, path: %[1]s/empty}
    - {name: broken, type: directory, path: %[1]s/broken, wal: %[1]s/empty}
    - {name: unfinished, type: directory, path: %[1]s/unfinished}
  drill: {scratch: %[1]s, bin_directories: [%[2]s], user: %[3]q}
limits: {watch_share: 0.000001}
`

var commandsSchema = []string{
	"CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int REFERENCES parent)",
	"CREATE TABLE kept AS SELECT generate_series(1, 100) AS i",
	"CREATE TABLE mapped AS SELECT generate_series(1, 10000) AS i",
	"CREATE TABLE rotten AS SELECT generate_series(1, 10000) AS i",
	"CREATE TABLE lost AS SELECT generate_series(1, 10000) AS i",
	"DELETE FROM mapped WHERE i % 2 = 0",
	"VACUUM mapped",
	"SELECT pg_create_physical_replication_slot('near', true)",
	"CREATE TABLE more AS SELECT generate_series(1, 10000) AS i",
	"CHECKPOINT",
}

// built is the program, as it is installed.
type built struct {
	path, dsn, config, state string
}

func (b built) build(t *testing.T) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", b.path, "../cmd/pg_integrity_exporter").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// run runs a command and wants it to end with this code; -1 is killed.
func (b built) run(t *testing.T, want int, arguments ...string) {
	t.Helper()
	cmd := b.command(t, arguments...)
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || ok && exit.ExitCode() != want || err == nil && want != 0 {
		t.Fatalf("%s: %v, want exit code %d\n%s", strings.Join(arguments, " "), err, want, out)
	}
}

func (b built) command(t *testing.T, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), b.path, append([]string{"--dsn=" + b.dsn, "--config.file=" + b.config, "--state.path=" + b.state}, arguments...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	return cmd
}

// serve runs the exporter at an address.
func (b built) serve(t *testing.T, address string) {
	t.Helper()
	cmd := b.command(t, "serve", "--web.listen-address="+address)
	start(t, cmd)
	await(t, "the exporter answers", func() bool {
		response, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// TestLiveCommands does what people do with the program's commands, and makes
// what needs a history or files of its own, and sees the alerts arrive as
// TestLive does.
func TestLiveCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program, runs drills, Prometheus and Alertmanager")
	}
	tool(t, "PROMETHEUS")
	alertmanager := startAlertmanager(t, &pager{pages: make(map[string][]string)})
	server := pgtest.Start(t, pgtest.JSONLog(), pgtest.Checksums(), pgtest.Setting("autovacuum", "off"), pgtest.Setting("max_slot_wal_keep_size", "1GB"))
	for _, sql := range commandsSchema {
		server.MustExec(t, "postgres", sql)
	}
	directory := pgtest.SharedDirectory(t)
	prepareRepositories(t, server, directory)
	damageMap(t, server, "mapped")

	program := built{path: filepath.Join(directory, "program"), dsn: server.DSN("postgres"), config: filepath.Join(directory, "exporter.yml"), state: filepath.Join(directory, "state")}
	program.build(t)
	appendTo(t, program.config, fmt.Sprintf(commandsConfig, directory, server.Install.BinDir, pgtest.User()))
	program.run(t, 0, "baseline", "accept", "--database=postgres")
	server.MustExec(t, "postgres", "ALTER TABLE child DROP CONSTRAINT child_id_fkey; ALTER TABLE more ALTER i TYPE bigint")

	free, err := pgtest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	address := free.String()
	program.serve(t, address)
	startPrometheus(t, alertmanager, []string{address}, quietHours(address))
	seen := newArrivals(alertmanager)
	// Rates are of what comes after the first scrapes.
	seen.await(t, "PostgresSlotNearlyLost", "PostgresBackupFailed", "PostgresBackupChainBroken", "PostgresExporterOverBudget")

	makeErrors(t, server)
	rot(t, server)
	logs := server.LogFiles()
	appendTo(t, logs[len(logs)-1], "this is no JSON\n")
	program.run(t, 0, "drill", "--repository=proved")
	program.run(t, 1, "drill", "--repository=empty")
	script := filepath.Join(directory, "half.sql")
	appendTo(t, script, "DELETE FROM kept WHERE i > 10;\nVACUUM kept;\nSELECT 1/0;\n")
	program.run(t, 3, "guard", "--sql="+script, "--allow=split", "--allow=unproven")
	program.run(t, -1, "guard", "--allow=unproven", "--allow=damaged", "--", "/bin/sh", "-c", "kill -KILL $PPID")
	seen.await(t, without(liveCommands)...)
}

// prepareRepositories makes what commandsConfig watches.
func prepareRepositories(t *testing.T, server *pgtest.Server, directory string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(directory, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(directory, "proved", "base")})
	server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(directory, "broken", "good")})
	server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(directory, "broken", "without_wal"), NoWAL: true})
	server.BaseBackup(t, pgtest.Backup{Directory: filepath.Join(directory, "unfinished", "first")})
	second := filepath.Join(directory, "unfinished", "second")
	server.BaseBackup(t, pgtest.Backup{Directory: second})
	if err := os.Rename(filepath.Join(second, "backup_manifest"), filepath.Join(second, "backup_manifest.tmp")); err != nil {
		t.Fatal(err)
	}
	// A backup that was written to a moment ago may be under way.
	old := time.Now().Add(-2 * time.Hour)
	err := filepath.WalkDir(second, func(path string, _ fs.DirEntry, err error) error { return errors.Join(err, os.Chtimes(path, old, old)) })
	if err != nil {
		t.Fatal(err)
	}
}

// damageMap damages the free space map of a table.
func damageMap(t *testing.T, server *pgtest.Server, table string) {
	t.Helper()
	relation, err := server.Relation(t.Context(), "postgres", table)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(relation.Path+"_fsm", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, 8192)
	pgtest.Garbage(page)
	if _, err := file.WriteAt(page, 0); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// makeErrors lets transactions fail for reasons that are the server's.
func makeErrors(t *testing.T, server *pgtest.Server) {
	t.Helper()
	for range 100 {
		if server.Exec(t.Context(), "postgres", "DO $$ BEGIN RAISE 'busy' USING ERRCODE = '40001'; END $$") == nil {
			t.Error("no error")
		}
	}
}

// rot damages a page of a table so that its checksum is wrong, and a row of
// another so that it asks for a transaction of which nothing is known, and lets
// statements run into both.
func rot(t *testing.T, server *pgtest.Server) {
	t.Helper()
	if err := server.Restart(t.Context()); err != nil { // nothing is in memory
		t.Fatal(err)
	}
	for table, change := range map[string]func(r pgtest.Relation) error{
		"rotten": func(r pgtest.Relation) error { return r.Edit(0, pgtest.Garbage) },
		"lost": func(r pgtest.Relation) error {
			return r.EditValid(0, pgtest.Tuple(0, func(tuple []byte) {
				binary.LittleEndian.PutUint32(tuple, 3_000_000_000)
				binary.LittleEndian.PutUint16(tuple[20:], binary.LittleEndian.Uint16(tuple[20:])&^0x0f00)
			}))
		},
	} {
		relation, err := server.Relation(t.Context(), "postgres", table)
		if err != nil {
			t.Fatal(err)
		}
		if err := change(relation); err != nil {
			t.Fatal(err)
		}
		if server.Exec(t.Context(), "postgres", "SELECT sum(i) FROM "+table) == nil {
			t.Errorf("%s can be read", table)
		}
	}
}

// quietHours is the past of a server without faults, which Prometheus cannot
// have seen of one that was started for the test.
func quietHours(instance string) string {
	var text strings.Builder
	const series = "datname:pgintegrity_server_faults:rate5m"
	fmt.Fprintf(&text, "# TYPE %s gauge\n", series)
	for ago := 3 * time.Hour; ago > 10*time.Minute; ago -= time.Minute {
		fmt.Fprintf(&text, "%s{job=\"pg_integrity_exporter\",instance=%q,datname=\"postgres\"} 0 %d\n", series, instance, time.Now().Add(-ago).Unix())
	}
	text.WriteString("# EOF\n")
	return text.String()
}
