package drill_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/drill"
	"pg_integrity_exporter/internal/pgtest"
)

// BenchmarkDrill restores and recovers a cluster of some 250 MB with 150 MB of
// WAL behind its backup: as an administrator does, with cp and the server's own
// recovery, and in a drill, whose restore and recover together are the same work;
// the phases behind them are the proof. Both servers sync what they write.
func BenchmarkDrill(b *testing.B) {
	root, archive, scratch := pgtest.SharedDirectory(b), pgtest.SharedDirectory(b), pgtest.SharedDirectory(b)
	backup := filepath.Join(root, "base")
	server := pgtest.Start(b, pgtest.Version(15), pgtest.Checksums(), pgtest.Archiving(archive), pgtest.Setting("autovacuum", "off"), pgtest.Setting("max_wal_size", "2GB"))
	server.MustExec(b, "postgres", `CREATE TABLE postings (id bigint PRIMARY KEY, account int NOT NULL, amount numeric(12, 2) NOT NULL, memo text);
		INSERT INTO postings SELECT g, g % 100000, g * 1.25 % 10000, repeat(md5(g::text), 2) FROM generate_series(1, 1500000) g;
		CREATE INDEX ON postings (account)`)
	server.BaseBackup(b, pgtest.Backup{Directory: backup})
	server.MustExec(b, "postgres", `UPDATE postings SET amount = amount + 1 WHERE id < 300000`)
	server.AwaitArchived(b, archive)
	if err := server.Stop(pgtest.Fast); err != nil {
		b.Fatal(err)
	}
	control := filepath.Join(server.Install.BinDir, "pg_ctl")
	b.Run("cp and recovery", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			data := filepath.Join(scratch, fmt.Sprintf("copy%d", n))
			if err := errors.Join(pgtest.Run("cp", "-a", backup, data), os.Chmod(data, 0o700)); err != nil {
				b.Fatal(err)
			}
			appendTo(b, filepath.Join(data, "postgresql.auto.conf"), "restore_command = 'cp "+archive+"/%f %p'\nhot_standby = off\nfsync = on\nsynchronous_commit = on\nshared_buffers = '128MB'\n")
			appendTo(b, filepath.Join(data, "recovery.signal"), "")
			if err := pgtest.Run(control, "--pgdata="+data, "--log="+filepath.Join(data, "start.log"), "--wait", "--timeout=600", "start"); err != nil {
				b.Fatal(err)
			}
			pgtest.Await(b, "recovered", patience, func() bool {
				status, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
				return err == nil && strings.Contains(string(status), "\nready")
			})
			b.StopTimer()
			if err := pgtest.Run(control, "--pgdata="+data, "--mode=immediate", "stop"); err != nil {
				b.Fatal(err)
			}
			if err := os.RemoveAll(data); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("drill", func(b *testing.B) {
		bank := &bank{server: server, root: root, archive: archive, backup: backup, scratch: scratch}
		options := bank.options(b)
		options.Primary, options.Queries, options.Settings = nil, nil, nil
		phases := make(map[string]float64)
		for b.Loop() {
			report := drill.Run(b.Context(), options)
			if !report.Proved() {
				b.Fatal(dump(report))
			}
			phases["restore+recover"] += report.RecoverySeconds
			for _, phase := range report.Phases {
				phases[phase.Phase] += phase.Seconds
			}
		}
		for phase, seconds := range phases {
			b.ReportMetric(seconds/float64(b.N), phase+"-s/op")
		}
	})
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
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
	if err := pgtest.GiveAway(path); err != nil {
		b.Fatal(err)
	}
}
