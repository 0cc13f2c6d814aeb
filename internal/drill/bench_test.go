package drill_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/drill"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/recovery"
)

// BenchmarkDrill restores and recovers a cluster of some 300 MB with 100 MB of
// WAL behind its backup, in turn as an administrator does, with cp and the server's
// own recovery, and in a drill, whose restore and recover together are the same
// work; the phases behind them are the proof. Both servers sync what they write.
// Then pgbench runs on the living server, without and with a drill and a
// verification at their default limits on the same machine.
func BenchmarkDrill(b *testing.B) {
	bank := &bank{root: pgtest.SharedDirectory(b), archive: pgtest.SharedDirectory(b), scratch: pgtest.SharedDirectory(b)}
	bank.backup = filepath.Join(bank.root, "base")
	bank.server = pgtest.Start(b, pgtest.Version(15), pgtest.Checksums(), pgtest.Archiving(bank.archive), pgtest.Setting("autovacuum", "off"), pgtest.Setting("max_wal_size", "2GB"))
	bank.server.MustExec(b, "postgres", `CREATE TABLE postings (id bigint PRIMARY KEY, account int NOT NULL, amount numeric(12, 2) NOT NULL, memo text);
		INSERT INTO postings SELECT g, g % 100000, g * 1.25 % 10000, repeat(md5(g::text), 2) FROM generate_series(1, 1500000) g;
		CREATE INDEX ON postings (account)`)
	bank.server.BaseBackup(b, pgtest.Backup{Directory: bank.backup})
	bank.server.MustExec(b, "postgres", `UPDATE postings SET amount = amount + 1 WHERE id < 200000`)
	bank.server.AwaitArchived(b, bank.archive)
	options := bank.options(b)
	options.Primary, options.Queries, options.Settings = nil, nil, nil
	b.Run("beside cp and recovery", func(b *testing.B) { besideCopy(b, bank, options) })
	b.Run("beside pgbench", func(b *testing.B) { besidePgbench(b, bank, options) })
}

func besideCopy(b *testing.B, bank *bank, options drill.Options) {
	var copies, drills []float64
	phases := make(map[string]float64)
	for b.Loop() {
		copies = append(copies, bank.copyAndRecover(b).Seconds())
		report := drill.Run(b.Context(), options)
		if !report.Proved() {
			b.Fatal(dump(report))
		}
		drills = append(drills, report.RecoverySeconds)
		for _, phase := range report.Phases {
			phases[phase.Phase] += phase.Seconds
		}
	}
	for phase, seconds := range phases {
		b.ReportMetric(seconds/float64(b.N), phase+"-s")
	}
	b.ReportMetric(median(copies), "cp+recovery-s")
	b.ReportMetric(median(drills), "restore+recover-s")
	b.ReportMetric(median(drills)/median(copies), "drill/cp")
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// copyAndRecover gives how long it takes until the copied server accepts
// connections.
func (bank *bank) copyAndRecover(b *testing.B) time.Duration {
	data := filepath.Join(bank.scratch, "copy")
	control := filepath.Join(bank.server.Install.BinDir, "pg_ctl")
	began := time.Now()
	if err := errors.Join(pgtest.Run("cp", "-a", bank.backup, data), os.Chmod(data, 0o700)); err != nil {
		b.Fatal(err)
	}
	appendTo(b, filepath.Join(data, "postgresql.auto.conf"), "restore_command = 'cp "+bank.archive+"/%f %p'\nhot_standby = off\nfsync = on\nsynchronous_commit = on\nshared_buffers = '128MB'\narchive_mode = off\nlisten_addresses = ''\nunix_socket_directories = '"+bank.scratch+"'\n")
	appendTo(b, filepath.Join(data, "recovery.signal"), "")
	if err := pgtest.Run(control, "--pgdata="+data, "--log="+filepath.Join(data, "start.log"), "--wait", "--timeout=600", "start"); err != nil {
		b.Fatal(err)
	}
	pgtest.Await(b, "recovered", patience, func() bool {
		status, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
		return err == nil && strings.Contains(string(status), "\nready")
	})
	took := time.Since(began)
	if err := errors.Join(pgtest.Run(control, "--pgdata="+data, "--mode=immediate", "stop"), os.RemoveAll(data)); err != nil {
		b.Fatal(err)
	}
	return took
}

func besidePgbench(b *testing.B, bank *bank, options drill.Options) {
	options.Primary, options.Logger = nil, nil
	text, err := json.Marshal(options)
	if err != nil {
		b.Fatal(err)
	}
	manifest, err := recovery.ReadManifest(filepath.Join(bank.backup, recovery.ManifestName))
	if err != nil {
		b.Fatal(err)
	}
	const alone = 20 * time.Second
	var without, drilled, verified []float64
	for b.Loop() {
		without = append(without, bank.server.Pgbench(b, "postgres", alone, nil))
		drilled = append(drilled, bank.server.Pgbench(b, "postgres", time.Hour, func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childOptions+"="+string(text))
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}))
		without = append(without, bank.server.Pgbench(b, "postgres", alone, nil))
		verified = append(verified, bank.server.Pgbench(b, "postgres", time.Hour, func() {
			v, err := recovery.VerifyDirectory(b.Context(), bank.backup, manifest, recovery.VerifyOptions{Jobs: 1, RateLimit: 32 << 20})
			if err != nil || len(v.Problems) > 0 {
				b.Fatal(err, v.Problems)
			}
		}))
	}
	b.ReportMetric(median(without), "p95-without-ms")
	b.ReportMetric(median(drilled), "p95-drill-ms")
	b.ReportMetric(median(verified), "p95-verify-ms")
}

func appendTo(b *testing.B, path, text string) {
	b.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := file.WriteString(text); err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(file.Close(), pgtest.GiveAway(path)); err != nil {
		b.Fatal(err)
	}
}
