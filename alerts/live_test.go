package alerts_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"pg_integrity_exporter/alerts"
	"pg_integrity_exporter/internal/exporter"
	"pg_integrity_exporter/internal/maintenance/window"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// live are the alerts whose condition the test makes, and the thresholds that
// let it be a small one. Waiting times are left out of all of them.
var live = map[string]map[string]float64{
	"PostgresCheckNotApplicable":            nil, // no amcheck in the database
	"PostgresChecksumsDisabled":             nil,
	"PostgresConfigReloadFailed":            nil,
	"PostgresConnectionsNearLimit/critical": {"ratio": 0.01},
	"PostgresConnectionsNearLimit/warning":  {"ratio": 0.01},
	"PostgresDown":                          nil,
	"PostgresExporterDown":                  nil,
	"PostgresIdleTransaction":               {"seconds": 1},
	"PostgresLockPileUp":                    {"ratio": 0, "seconds": 1},
	"PostgresLockWait":                      {"seconds": 1},
	"PostgresLongTransaction":               {"seconds": 1},
	"PostgresMaintenanceDiskFilling":        {"ratio": 1},
	"PostgresMaintenanceFailures":           {"times": 1, "ratio": 0.01, "rollbacks": 1},
	"PostgresMaintenanceStandbyBehind":      {"bytes": 0},
	"PostgresMaintenanceWAL":                {"sizes": 1e-9},
	"PostgresPreparedTransactionOrphaned":   {"seconds": 1},
	"PostgresReplayPaused":                  nil,
	"PostgresReplicationLag":                {"seconds": 0, "bytes": 0},
	"PostgresReplicationReceiverBehind":     {"sizes": 1e-9},
	"PostgresReplicationStopped":            nil,
	"PostgresRestarted":                     nil,
	"PostgresRoleChanged":                   nil,
	"PostgresSlotInactive":                  nil,
	"PostgresSlotRetainsWAL/critical":       {"sizes": 1e-9},
	"PostgresSlotRetainsWAL/warning":        {"sizes": 1e-9},
	"PostgresSplitBrain":                    nil,
	"PostgresStandbyGone":                   nil,
	"PostgresStateNotKept":                  nil, // the state is in memory
	"PostgresSubscriptionBroken":            nil,
	"PostgresSubscriptionDisabled":          nil,
	"PostgresTargetAbsent":                  nil,
	"PostgresTransactionsFailing":           {"ratio": 0.01, "ratio_without_history": 0.01, "rollbacks": 1},
	"PostgresUnsafeSetting":                 nil,
	"PostgresWatchdog":                      nil,
	"PostgresWraparound/critical":           {"ratio": 1e-12, "rest": -1},
	"PostgresWraparound/warning":            {"ratio": 1e-12, "rest": -1},
	"PostgresXminHorizonHeld":               {"transactions": 0},
}

// liveValues are the shipped rules without their waiting times.
func liveValues() alerts.Values {
	values := alerts.DefaultValues()
	zero := model.Duration(0)
	for _, group := range alerts.Groups() {
		for _, alert := range group.Alerts {
			values.Alerts[alert.Key()] = alerts.AlertValues{For: &zero, Thresholds: smallEnough(alert)}
		}
	}
	return values
}

// smallEnough are the thresholds that let the condition of an alert be a small
// one.
func smallEnough(alert alerts.Alert) map[string]float64 {
	for _, list := range []map[string]map[string]float64{live, liveDamage, liveCommands} {
		for _, key := range []string{alert.Key(), alert.Name} {
			if thresholds, ok := list[key]; ok {
				return thresholds
			}
		}
	}
	return nil
}

// notLive says why an alert is not made to happen on a real server.
var notLive = map[string]string{
	"PostgresLogReaderBehind/warning": "the log would have to grow faster than it is read, hundreds of megabytes a second, or to go away between two looks at it",
}

// TestEveryAlertIsMadeToHappen holds that the condition of each alert is made to
// happen, for each of its severities, or that there is a reason why not.
func TestEveryAlertIsMadeToHappen(t *testing.T) {
	severities := make(map[string]int)
	for _, group := range alerts.Groups() {
		for _, alert := range group.Alerts {
			severities[alert.Name]++
		}
	}
	known := make(map[string]bool)
	for _, group := range alerts.Groups() {
		for _, alert := range group.Alerts {
			known[alert.Name], known[alert.Key()] = true, true
			found := false
			for _, list := range []map[string]map[string]float64{live, liveDamage, liveCommands} {
				_, byKey := list[alert.Key()]
				_, byName := list[alert.Name]
				found = found || byKey || byName && severities[alert.Name] == 1
			}
			if reason := notLive[alert.Key()]; found == (reason != "") {
				t.Errorf("%s is made to happen: %t, and a reason against it: %q", alert.Key(), found, reason)
			}
		}
	}
	for _, name := range slices.Concat(without(live), without(liveDamage), without(liveCommands), slices.Collect(maps.Keys(notLive))) {
		if !known[name] {
			t.Errorf("there is no alert %s", name)
		}
	}
}

// serveExporter runs an exporter in this process and gives the address of its
// metrics.
func serveExporter(t *testing.T, dsn, configFile string) (address string, e *exporter.Exporter) {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	e, err := exporter.New(exporter.Options{
		DSN: dsn, ConfigFile: configFile, Store: state.InMemory(logger), Logger: logger,
		Environment: func(string) (string, bool) { return "", false },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		_, _ = w.Write(e.Scrape(ctx).Text()) // a client that went away hears nothing
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), e
}

// startPrometheus evaluates the rules without their waiting times every second and
// tells Alertmanager, whose API is given. history is what it knows before, as
// OpenMetrics; "" is nothing.
func startPrometheus(t *testing.T, alertmanager string, targets []string, history string) {
	t.Helper()
	alertmanager = strings.TrimSuffix(strings.TrimPrefix(alertmanager, "http://"), "/api/v2/alerts")
	alerting := fmt.Sprintf("alerting: {alertmanagers: [{static_configs: [{targets: [%q]}]}]}", alertmanager)
	evaluate(t, liveValues(), time.Second, alerting, targets, history)
}

// evaluate runs a Prometheus that scrapes and evaluates the rules at an interval, and
// gives its address. alerting is a part of its configuration.
func evaluate(t *testing.T, values alerts.Values, interval time.Duration, alerting string, targets []string, history string) (address string) {
	t.Helper()
	program := tool(t, "PROMETHEUS")
	directory := t.TempDir()
	for _, group := range alerts.Groups() {
		group.Interval = 0
		rules, err := group.YAML(values)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(directory, group.Name+".yaml"), rules, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := json.Marshal(targets)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(directory, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: %[1]s, scrape_timeout: %[1]s, evaluation_interval: %[1]s}\nrule_files: ['*.yaml']\n%[2]s\nscrape_configs: [{job_name: pg_integrity_exporter, static_configs: [{targets: %[3]s}]}]\n", interval, alerting, list)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if history != "" {
		past := filepath.Join(directory, "past")
		if err := os.WriteFile(past, []byte(history), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, directory, tool(t, "PROMTOOL"), "tsdb", "create-blocks-from", "openmetrics", past, filepath.Join(directory, "data"))
	}
	free, err := pgtest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(directory, "data"), "--web.listen-address="+free.String())
	start(t, cmd)
	return free.String()
}

// TestLive makes the conditions of many alerts on real servers and sees the
// shipped rules, less their waiting times, fire in a real Prometheus and
// arrive in a real Alertmanager.
func TestLive(t *testing.T) {
	if testing.Short() {
		t.Skip("runs Prometheus, Alertmanager and two servers")
	}
	tool(t, "PROMETHEUS")
	alertmanager := startAlertmanager(t, &pager{pages: make(map[string][]string)})
	primary := pgtest.Start(t, pgtest.Setting("max_prepared_transactions", "5"), pgtest.Setting("max_wal_size", "32MB"),
		pgtest.Setting("min_wal_size", "32MB"), pgtest.Setting("wal_level", "logical"), pgtest.Setting("full_page_writes", "off"))
	standby := primary.Standby(t)
	config := filepath.Join(t.TempDir(), "exporter.yml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	first, e := serveExporter(t, primary.DSN("postgres"), config)
	second, _ := serveExporter(t, standby.DSN("postgres"), "")
	nobody, err := pgtest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	startPrometheus(t, alertmanager, []string{first, second, nobody.String()}, "")

	seen := newArrivals(alertmanager)
	// What is too much in a window too comes beside the alerts that it holds back.
	if _, err := window.Open(e.Watched().Files, time.Now(), time.Hour, "migration", "ann", "command"); err != nil {
		t.Fatal(err)
	}
	primary.MustExec(t, "postgres", "CREATE TABLE t (i int)")
	primary.MustExec(t, "postgres", "SELECT pg_create_physical_replication_slot('forgotten', true)")
	primary.MustExec(t, "postgres", "CREATE SUBSCRIPTION broken CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)")
	primary.MustExec(t, "postgres", "ALTER SUBSCRIPTION broken ENABLE")
	primary.MustExec(t, "postgres", "CREATE SUBSCRIPTION disabled CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)")
	primary.MustExec(t, "postgres", "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'orphan'")
	release := []func(){primary.Hold(t, "postgres", "LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE")}
	for _, sql := range []string{"ALTER TABLE t ADD j int", "SELECT pg_sleep(600)"} {
		go func() {
			// It ends with the server.
			_ = primary.Exec(t.Context(), "postgres", sql)
		}()
	}
	if err := os.WriteFile(config, []byte("no: such key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if e.Reload() == nil {
		t.Fatal("the exporter took a broken configuration")
	}
	fail := time.NewTicker(100 * time.Millisecond)
	defer fail.Stop()
	stop, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for stop.Err() == nil {
			<-fail.C
			if err := primary.Exec(stop, "postgres", "SELECT 1/0"); errors.Is(err, context.Canceled) {
				return
			}
		}
	}()
	seen.await(t, "PostgresWatchdog", "PostgresExporterDown", "PostgresUnsafeSetting", "PostgresChecksumsDisabled", "PostgresStateNotKept",
		"PostgresConfigReloadFailed", "PostgresCheckNotApplicable", "PostgresConnectionsNearLimit/critical", "PostgresConnectionsNearLimit/warning", "PostgresIdleTransaction",
		"PostgresLockWait", "PostgresLockPileUp", "PostgresLongTransaction", "PostgresPreparedTransactionOrphaned", "PostgresWraparound/critical", "PostgresWraparound/warning",
		"PostgresXminHorizonHeld", "PostgresSlotInactive", "PostgresSlotRetainsWAL/critical", "PostgresSlotRetainsWAL/warning", "PostgresSubscriptionBroken", "PostgresSubscriptionDisabled",
		"PostgresTransactionsFailing", "PostgresMaintenanceFailures", "PostgresMaintenanceDiskFilling", "PostgresMaintenanceWAL")
	cancel()

	standby.MustExec(t, "postgres", "SELECT pg_wal_replay_pause()")
	var receiver int
	if err := standby.Query(t.Context(), "postgres", "SELECT pid FROM pg_stat_wal_receiver", &receiver); err != nil {
		t.Fatal(err)
	}
	signal(t, receiver, syscall.SIGSTOP)
	primary.MustExec(t, "postgres", "CREATE TABLE u AS SELECT generate_series(1, 100000)")
	seen.await(t, "PostgresReplayPaused", "PostgresReplicationReceiverBehind", "PostgresMaintenanceStandbyBehind")
	signal(t, receiver, syscall.SIGCONT)
	seen.await(t, "PostgresReplicationLag")
	standby.MustExec(t, "postgres", "SELECT pg_wal_replay_resume()")
	standby.MustExec(t, "postgres", "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
	standby.MustExec(t, "postgres", "SELECT pg_reload_conf()")
	pgtest.Await(t, "the standby receives nothing", 20*time.Second, func() bool {
		var receives bool
		err := standby.Query(t.Context(), "postgres", "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')", &receives)
		return err == nil && !receives
	})
	// One that has not seen the standby replay within ten minutes, and one that
	// has nothing to scrape.
	startPrometheus(t, alertmanager, []string{second}, "")
	startPrometheus(t, alertmanager, nil, "")
	seen.await(t, "PostgresReplicationStopped", "PostgresTargetAbsent")
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen.await(t, "PostgresRoleChanged", "PostgresSplitBrain", "PostgresStandbyGone")
	for _, f := range release {
		f()
	}
	if err := standby.Stop(pgtest.Immediate); err != nil {
		t.Fatal(err)
	}
	seen.await(t, "PostgresDown")
	if err := standby.StartAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen.await(t, "PostgresRestarted")
	for name := range live {
		if !seen.names[name] {
			t.Errorf("%s was not seen", name)
		}
	}
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

// arrivals are the alerts that an Alertmanager has had.
type arrivals struct {
	api   string
	names map[string]bool
}

func newArrivals(api string) *arrivals { return &arrivals{api: api, names: make(map[string]bool)} }

// await waits until all of these have arrived.
func (a *arrivals) await(t *testing.T, names ...string) {
	t.Helper()
	var missing []string
	defer func() {
		if len(missing) > 0 {
			t.Log("missing: ", missing)
		}
	}()
	pgtest.Await(t, "the alerts arrive", time.Minute, func() bool {
		for _, alert := range firingIn(t, a.api) {
			name := alert.Labels["alertname"]
			a.names[name], a.names[name+"/"+alert.Labels["severity"]] = true, true
		}
		missing = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return a.names[name] })
		return len(missing) == 0
	})
}

// without are the names of a list but some.
func without(list map[string]map[string]float64, but ...string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(list)), func(name string) bool { return slices.Contains(but, name) })
}

// firingIn are the alerts that Alertmanager has.
func firingIn(t *testing.T, api string) []posted {
	t.Helper()
	response, err := http.Get(api)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var known []posted
	if err := json.NewDecoder(response.Body).Decode(&known); err != nil {
		t.Fatal(err)
	}
	return known
}

// start runs a program until the test ends, and shows what it wrote when that fails.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
}
