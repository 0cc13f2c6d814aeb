package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"pg_integrity_exporter/internal/pgtest"
)

// configuration is what a careful team would configure: its backups, how old
// they may be, what must always be true of the books, and what its accountants
// call a transaction.
const configuration = `recovery:
  repositories:
    - name: nightly
      type: directory
      path: %s
      wal: %s
      max_backup_age: 26h
      max_recovery_point_age: 15m
      max_recovery_time: 1h
      max_drill_age: 840h
  drill: {nice: 0} # somebody is watching
invariants:
  - name: journal_balanced
    databases: [erp]
    template: balanced_journal
    parameters: {table: ledger.postings, entry: journal_id, amount: amount}
transactions:
  - name: payments
    database: erp
    sql: SELECT outcome, count(*), max(ended_at) FROM ledger.requests WHERE ended_at > now() - interval '10 minutes' GROUP BY outcome
    interval: 5s
    max_silence: 1h
`

func (d *demo) configure() error {
	text := fmt.Sprintf(configuration, d.path("backups"), d.path("archive"))
	if err := os.WriteFile(d.path("pg_integrity_exporter.yml"), []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	return nil
}

// command runs one of the exporter's commands beside the running exporter, as
// the administrator.
func (d *demo) command(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.exporter, append([]string{
		"--state.path=" + d.path("state"), "--config.file=" + d.path("pg_integrity_exporter.yml"), "--dsn=" + d.server.DSN("postgres"),
	}, args...)...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, complaint.Bytes(), out)
	}
	return out, nil
}

func (d *demo) takeBackup(ctx context.Context) (string, error) {
	directory := d.path("backups/today")
	if err := d.server.TakeBackup(ctx, pgtest.Backup{Directory: directory}); err != nil {
		return "", fmt.Errorf("taking a base backup: %w", err)
	}
	return "repository=nightly", nil
}

// proveBackup restores the backup, recovers it up to now, checks it and measures
// how long that took.
func (d *demo) proveBackup(ctx context.Context) (string, error) {
	// What was written last is in no archived segment yet.
	if err := d.server.Exec(ctx, "postgres", "SELECT pg_switch_wal()"); err != nil {
		return "", err
	}
	out, err := d.command(ctx, "drill", "--bin-directory="+d.server.Install.BinDir, "--scratch="+d.scratch, "--output=json")
	if err != nil {
		return "", err
	}
	var report struct {
		Outcome         string
		RecoverySeconds float64 `json:"recovery_seconds"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return "", fmt.Errorf("reading the report of the drill: %w", err)
	}
	return fmt.Sprintf("outcome=%s recovery_seconds=%.1f", report.Outcome, report.RecoverySeconds), nil
}

// guardedMaintenance is how maintenance should be done: under guard.
func (d *demo) guardedMaintenance(ctx context.Context) (string, error) {
	script := d.path("maintenance.sql")
	const sql = "CREATE INDEX journal_booked_at_idx ON ledger.journal (booked_at);\n"
	if err := os.WriteFile(script, []byte(sql), 0o644); err != nil {
		return "", fmt.Errorf("writing a script: %w", err)
	}
	if _, err := d.command(ctx, "guard", "--database=erp", "--sql="+script); err != nil {
		return "", err
	}
	return "sql=" + strings.TrimSpace(sql), nil
}
