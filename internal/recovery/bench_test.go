package recovery_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/recovery"
)

// BenchmarkVerify compares a base backup of about 600 MB, in tables of 9 to 90 MB,
// with its manifest, from the page cache, in turn with pg_verifybackup and here;
// neither looks at the WAL. One file is summed by one processor.
func BenchmarkVerify(b *testing.B) {
	install, err := pgtest.FindWith("pg_verifybackup")
	if err != nil {
		b.Skip(err)
	}
	server := pgtest.Start(b, pgtest.From(install), pgtest.Setting("autovacuum", "off"), pgtest.Setting("max_wal_size", "2GB"), pgtest.Setting("wal_level", "replica"))
	for n := range 10 {
		server.MustExec(b, "postgres", fmt.Sprintf("CREATE TABLE postings%d AS SELECT g, md5(g::text) AS a, md5((g + 1)::text) AS b, md5((g + 2)::text) AS c FROM generate_series(1, %d) g", n, 64000*(n+1)))
	}
	for _, algorithm := range []string{"CRC32C", "SHA256"} {
		b.Run(algorithm, func(b *testing.B) {
			directory := filepath.Join(pgtest.SharedDirectory(b), "backup")
			server.BaseBackup(b, pgtest.Backup{Directory: directory, Checksums: algorithm})
			var theirs, ours []float64
			var bytes int64
			for b.Loop() {
				began := time.Now()
				if out, err := exec.Command(filepath.Join(install.BinDir, "pg_verifybackup"), "--no-parse-wal", directory).CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				theirs = append(theirs, time.Since(began).Seconds())
				began = time.Now()
				manifest, err := recovery.ReadManifest(filepath.Join(directory, recovery.ManifestName))
				if err != nil {
					b.Fatal(err)
				}
				v, err := recovery.VerifyDirectory(b.Context(), directory, manifest, recovery.VerifyOptions{})
				if err != nil || len(v.Problems) > 0 {
					b.Fatal(err, v.Problems)
				}
				ours, bytes = append(ours, time.Since(began).Seconds()), v.Bytes
			}
			slices.Sort(theirs)
			slices.Sort(ours)
			b.ReportMetric(float64(bytes)/1e6, "MB")
			b.ReportMetric(theirs[len(theirs)/2], "pg_verifybackup-s")
			b.ReportMetric(ours[len(ours)/2], "exporter-s")
			b.ReportMetric(theirs[len(theirs)/2]/ours[len(ours)/2], "pg_verifybackup/exporter")
		})
	}
}
