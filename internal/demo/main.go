// Demo replays the incident that this project exists for, with nothing
// simulated: a PostgreSQL server with a ledger and a load, the exporter,
// Prometheus with the shipped rules, Alertmanager with the shipped
// configuration and a receiver of pages. Then a "routine maintenance" damages
// the ledger on disk, and the demo tells how many seconds each link of the
// chain took.
//
// It stays up until Ctrl-C. With DEMO_ONESHOT=1 it ends by itself, with 0 only
// if every step happened. Each step is a line of its own:
//
//	demo: step=NAME seconds=N.N DETAIL
//
// where the seconds of all steps after the damage count from the damage.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"pg_integrity_exporter/internal/pgtest"
)

// patience bounds every single wait.
const patience = 10 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Getenv("DEMO_ONESHOT") == "1")
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		fmt.Println("demo: stopped; everything it started has ended and its scratch folder is removed")
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo: failed:", err)
		os.Exit(1)
	}
}

// demo is what is running.
type demo struct {
	began    time.Time
	scratch  string
	exporter string // the built program

	server   *pgtest.Server
	monitor  string // the role of the exporter
	load     *load
	endLoad  context.CancelFunc
	receiver *receiver

	processes     []*pgtest.Program
	exporterURL   string
	prometheusURL string
	alertURL      string
}

func run(ctx context.Context, oneshot bool) (err error) {
	scratch, err := os.MkdirTemp("", "pg_integrity_demo-")
	if err != nil {
		return fmt.Errorf("making the scratch folder: %w", err)
	}
	d := &demo{scratch: scratch, began: time.Now()}
	defer func() { err = errors.Join(err, d.close()) }()
	// The server's own user must be able to get to its directory in there.
	if err := os.Chmod(scratch, 0o755); err != nil {
		return fmt.Errorf("making the scratch folder: %w", err)
	}
	fmt.Println("demo: everything is written to", scratch)
	for _, step := range []struct {
		name string
		do   func(ctx context.Context) (detail string, err error)
	}{
		{"exporter_built", d.build},
		{"postgresql_started", d.startServer},
		{"ledger_filled", d.fillLedger},
		{"backup_taken", d.takeBackup},
		{"exporter_started", d.startExporter},
		{"alertmanager_started", d.startAlertmanager},
		{"prometheus_started", d.startPrometheus},
		{"backup_proved", d.proveBackup},
		{"guarded_maintenance", d.guardedMaintenance},
		{"healthy", d.awaitHealth},
		{"dashboards_healthy", func(ctx context.Context) (string, error) { return d.dashboards(ctx, false) }},
		{"pictures_healthy", d.picturesHealthy},
	} {
		began := time.Now()
		limited, cancel := context.WithTimeout(ctx, patience)
		detail, err := step.do(limited)
		cancel()
		if err != nil {
			return fmt.Errorf("step %s: %w", step.name, err)
		}
		report(step.name, time.Since(began), detail)
	}
	if err := d.replay(ctx); err != nil {
		return err
	}
	d.printAddresses(ctx)
	if oneshot {
		return nil
	}
	fmt.Println("demo: running until Ctrl-C")
	<-ctx.Done()
	return nil
}

func report(step string, took time.Duration, detail string) {
	fmt.Printf("demo: step=%s seconds=%.1f %s\n", step, took.Seconds(), detail)
}

// close ends everything, the last started first, and removes the scratch
// folder.
func (d *demo) close() error {
	if d.endLoad != nil {
		d.endLoad()
		d.load.done.Wait()
	}
	for _, v := range slices.Backward(d.processes) {
		v.Stop()
	}
	var err error
	if d.receiver != nil {
		err = d.receiver.server.Close()
	}
	if d.server != nil {
		err = errors.Join(err, d.server.Close())
	}
	return errors.Join(err, os.RemoveAll(d.scratch))
}

func (d *demo) build(ctx context.Context) (string, error) {
	if out, err := exec.CommandContext(ctx, "make", "--silent", "build").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	var err error
	d.exporter, err = filepath.Abs("bin/pg_integrity_exporter")
	return "program=bin/pg_integrity_exporter", err
}

// path is a path in the scratch folder.
func (d *demo) path(name string) string { return filepath.Join(d.scratch, name) }

func (d *demo) startServer(ctx context.Context) (string, error) {
	if err := os.Mkdir(d.path("archive"), 0o755); err != nil {
		return "", fmt.Errorf("making the archive: %w", err)
	}
	if err := pgtest.GiveAway(d.path("archive")); err != nil {
		return "", err
	}
	install, err := pgtest.FindAny()
	if err != nil {
		return "", err
	}
	config := pgtest.Config{
		Install: install, Checksums: true, Directory: filepath.Join(d.scratch, "postgresql"),
		// Small, so that the pages that the maintenance damages are not in memory.
		Settings: map[string]string{
			"shared_buffers": "4MB", "fsync": "on", "synchronous_commit": "on",
			"archive_mode": "on", "archive_command": "cp %p " + d.path("archive") + "/%f",
		},
	}
	if install.Major >= 15 {
		pgtest.JSONLog()(&config)
	} else {
		pgtest.CSVLog()(&config)
	}
	d.server, err = pgtest.Launch(ctx, config)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("version=%s binaries=%s", install.Version, install.BinDir), nil
}

func (d *demo) fillLedger(ctx context.Context) (string, error) {
	if err := d.server.Exec(ctx, "postgres", "CREATE DATABASE erp"); err != nil {
		return "", err
	}
	filled := strings.NewReplacer("$accounts", fmt.Sprint(accounts), "$journals", fmt.Sprint(journals)).Replace(history)
	if err := d.configure(); err != nil {
		return "", err
	}
	for _, sql := range append([]string{schema}, statements(filled)...) {
		if err := d.server.Exec(ctx, "erp", sql); err != nil {
			return "", fmt.Errorf("%w in: %s", err, sql)
		}
	}
	var err error
	if d.monitor, err = d.server.Monitor(ctx); err != nil {
		return "", err
	}
	for _, database := range []string{"erp", "postgres", "template1"} {
		if err := d.server.GrantData(ctx, database, d.monitor); err != nil {
			return "", err
		}
	}
	if d.server.Install.Major < 14 {
		// Its amcheck has no function for tables: only a superuser may read all of
		// them.
		d.monitor = "postgres"
	}
	var size string
	if err := d.server.Query(ctx, "erp", "SELECT pg_size_pretty(pg_database_size('erp'))", &size); err != nil {
		return "", err
	}
	loadContext, endLoad := context.WithCancel(context.WithoutCancel(ctx))
	d.endLoad = endLoad
	d.load = newLoad(d.server.DSN("erp"))
	d.load.start(loadContext)
	return fmt.Sprintf("postings=%d size=%q tellers=%d", 2*journals, size, tellers), nil
}

// statements splits at the semicolons; VACUUM must not share a transaction.
func statements(sql string) []string {
	var list []string
	for statement := range strings.SplitSeq(sql, ";\n") {
		if strings.TrimSpace(statement) != "" {
			list = append(list, statement)
		}
	}
	return list
}

func (d *demo) startExporter(ctx context.Context) (string, error) {
	free, err := pgtest.FreeAddress()
	if err != nil {
		return "", err
	}
	address := free.String()
	d.exporterURL = "http://" + address
	return d.exporterURL, d.start(ctx, d.exporterURL+"/-/ready", "exporter", d.exporter,
		[]string{"--state.path=" + d.path("state"), "--config.file=" + d.path("pg_integrity_exporter.yml"), "serve", "--web.listen-address=" + address},
		"DATA_SOURCE_NAME="+d.server.DSN("postgres", d.monitor))
}

// tool gives a program of Prometheus or Alertmanager, building it if need be;
// that shows its progress.
func tool(ctx context.Context, name string) (string, error) {
	cmd := exec.CommandContext(ctx, "tools/build.sh", name)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("tools/build.sh %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (d *demo) startAlertmanager(ctx context.Context) (string, error) {
	program, err := tool(ctx, "alertmanager")
	if err != nil {
		return "", err
	}
	config, err := filepath.Abs("alerts/alertmanager/alertmanager.yml")
	if err != nil {
		return "", err
	}
	if d.receiver, err = startReceiver(); err != nil {
		return "", err
	}
	for _, receiver := range []string{"page-integrity", "page", "ticket", "application", "stakeholders", "watchdog"} {
		if err := os.WriteFile(filepath.Join(d.scratch, receiver+".url"), []byte(d.receiver.url+"/"+receiver), 0o600); err != nil {
			return "", fmt.Errorf("writing the URL of a receiver: %w", err)
		}
	}
	free, err := pgtest.FreeAddress()
	if err != nil {
		return "", err
	}
	address := free.String()
	d.alertURL = "http://" + address
	return d.alertURL, d.start(ctx, d.alertURL+"/-/ready", "alertmanager", program, []string{
		"--config.file=" + config, "--storage.path=" + filepath.Join(d.scratch, "alertmanager"),
		"--web.listen-address=" + address, "--web.external-url=" + d.alertURL, "--cluster.listen-address=",
	})
}

const prometheusConfig = `global:
  scrape_interval: 5s
  evaluation_interval: 5s
rule_files: [%q]
alerting:
  alertmanagers:
    - static_configs: [{targets: [%q]}]
scrape_configs:
  - job_name: pg_integrity_exporter
    static_configs: [{targets: [%q]}]
`

func (d *demo) startPrometheus(ctx context.Context) (string, error) {
	program, err := tool(ctx, "prometheus")
	if err != nil {
		return "", err
	}
	rules, err := filepath.Abs("alerts/rules")
	if err != nil {
		return "", err
	}
	host := func(url string) string { return strings.TrimPrefix(url, "http://") }
	config := filepath.Join(d.scratch, "prometheus.yml")
	text := fmt.Sprintf(prometheusConfig, filepath.Join(rules, "*.yaml"), host(d.alertURL), host(d.exporterURL))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("configuring Prometheus: %w", err)
	}
	free, err := pgtest.FreeAddress()
	if err != nil {
		return "", err
	}
	address := free.String()
	d.prometheusURL = "http://" + address
	return d.prometheusURL, d.start(ctx, d.prometheusURL+"/-/ready", "prometheus", program, []string{
		"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(d.scratch, "prometheus"),
		"--web.listen-address=" + address, "--web.external-url=" + d.prometheusURL,
	})
}

func (d *demo) printAddresses(ctx context.Context) {
	alerts := d.prometheusURL + "/alerts"
	if _, err := get(ctx, d.prometheusURL+"/"); err != nil {
		// Built from the module proxy, Prometheus has no pages.
		alerts = d.prometheusURL + "/api/v1/alerts"
	}
	fmt.Printf(`
  exporter      %s/integrity
  runbook       %s/runbooks/PostgresCorruptionDetected
  Prometheus    %s
  Alertmanager  %s
  PostgreSQL    %s
  pictures      docs/tour.md

`, d.exporterURL, d.exporterURL, alerts, d.alertURL, d.server.DSN("erp"))
}
