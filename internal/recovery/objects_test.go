package recovery_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/recovery"
)

// TestCloudNativePG reads Backups as the API of Kubernetes gives them.
func TestCloudNativePG(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "backups.json")
	now := time.Now().UTC().Truncate(time.Second)
	item := func(name, cluster, phase string, ago time.Duration, more string) string {
		return fmt.Sprintf(`{"apiVersion": "postgresql.cnpg.io/v1", "kind": "Backup", "metadata": {"name": %q, "creationTimestamp": %q},
			"spec": {"cluster": {"name": %q}, "method": "barmanObjectStore"}, "status": {"phase": %q%s}}`, name, now.Add(-ago).Format(time.RFC3339), cluster, phase, more)
	}
	times := func(ago time.Duration) string {
		return fmt.Sprintf(`, "startedAt": %q, "stoppedAt": %q, "beginWal": "0000000300000002000000A1", "endWal": "0000000300000002000000A1",
			"beginLSN": "2/A1000028", "endLSN": "2/A1000158", "backupId": "20261129T030000", "majorVersion": 17`, now.Add(-ago).Format(time.RFC3339), now.Add(time.Minute-ago).Format(time.RFC3339))
	}
	read := func(items ...string) *recovery.Inventory {
		t.Helper()
		text := `{"apiVersion": "v1", "kind": "List", "items": [` + strings.Join(items, ",") + `]}`
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return recovery.ReadRepository(t.Context(), recovery.Repository{Name: "erp", Type: recovery.TypeCloudNativePG, Path: path})
	}
	i := read(item("old", "erp", "completed", 48*time.Hour, times(48*time.Hour)), item("good", "erp", "completed", 24*time.Hour, times(24*time.Hour)),
		item("bad", "erp", "failed", time.Hour, `, "error": "disk quota exceeded"`), item("waits", "erp", "running", time.Minute, ""), item("stuck", "erp", "running", 72*time.Hour, ""))
	if i.Err != nil || len(i.Backups) != 4 {
		t.Fatalf("%v, %+v", i.Err, i.Backups)
	}
	good, ok := i.LastSuccess()
	if !ok || good.Label != "good" || good.Timeline != 3 || good.Start != 0x2A1000028 || good.End != 0x2A1000158 || good.Major != 17 || !good.Finished.Equal(now.Add(time.Minute-24*time.Hour)) {
		t.Errorf("%+v", good)
	}
	if failed := i.LastFailure(); !failed.Equal(now.Add(-time.Hour)) {
		t.Errorf("last failure %s", failed)
	}
	if earliest, latest, ok := i.Points(); !ok || !earliest.Time.Equal(now.Add(time.Minute-48*time.Hour)) || !latest.Time.Equal(good.Finished) {
		t.Errorf("from %s to %s", earliest.Time, latest.Time)
	}
	problems := fmt.Sprint(i.AllProblems())
	for _, want := range []string{"bad: failed: disk quota exceeded", "stuck: is running since"} {
		if !strings.Contains(problems, want) {
			t.Errorf("%s: not %q", problems, want)
		}
	}
	if i := read(item("a", "erp", "completed", time.Hour, times(time.Hour)), item("b", "crm", "completed", time.Hour, times(time.Hour))); i.Err == nil || !strings.Contains(i.Err.Error(), "several clusters (crm, erp)") {
		t.Errorf("two clusters: %v", i.Err)
	}
	if i := read(strings.ReplaceAll(item("a", "erp", "", 0, ""), `"Backup"`, `"Cluster"`)); i.Err == nil {
		t.Error("a Cluster was taken for a Backup")
	}
	if i := read(); i.Err != nil || len(i.Backups) != 0 {
		t.Errorf("none: %v", i.Err)
	}
}

// TestWALG reads a prefix as WAL-G writes it (basebackups_005, wal_005, segments
// compressed with lz4), around the real WAL of a server.
func TestWALG(t *testing.T) {
	t.Parallel()
	lz4 := pgtest.Tool(t, "lz4")
	prefix, archive := t.TempDir(), pgtest.SharedDirectory(t)
	server := pgtest.Start(t, pgtest.Archiving(archive))
	base := filepath.Join(pgtest.SharedDirectory(t), "base")
	server.BaseBackup(t, pgtest.Backup{Directory: base})
	server.MustExec(t, "postgres", "CREATE TABLE t AS SELECT i, repeat('x', 100) AS pad FROM generate_series(1, 50000) i")
	server.AwaitArchived(t, archive)
	real := directoryOf(t, filepath.Dir(base), archive)
	start, end := real.Backups[0].Start, real.Backups[0].End
	segment := real.Archive.Segments[0].Segment
	segment.Number = uint64(start) / uint64(real.Archive.SegmentSize)
	label := "base_" + segment.Name(real.Archive.SegmentSize)
	delta := label + "_D_" + strings.TrimPrefix(label, "base_")
	write := func(path string, value any) { writeJSON(t, filepath.Join(prefix, path), value) }
	finished := time.Now().Add(-time.Minute).UTC().Truncate(time.Second)
	for n, name := range []string{label, delta} {
		sentinel := map[string]any{
			"LSN": uint64(start), "FinishLSN": uint64(end), "Timeline": 1, "PgVersion": server.Install.Major * 10000, "SystemIdentifier": uint64(7300000000000000001),
			"UncompressedSize": 30 << 20, "CompressedSize": 4 << 20, "Spec": nil,
		}
		if n == 1 {
			sentinel["DeltaFrom"], sentinel["DeltaLSN"], sentinel["DeltaFullName"], sentinel["DeltaCount"] = label, uint64(start), label, 1
		}
		write("basebackups_005/"+name+"_backup_stop_sentinel.json", sentinel)
		write("basebackups_005/"+name+"/metadata.json", map[string]any{"start_time": finished.Add(-time.Minute), "finish_time": finished.Add(time.Duration(n) * time.Second)})
		write("basebackups_005/"+name+"/tar_partitions/part_001.tar.lz4", "")
	}
	if err := os.Mkdir(filepath.Join(prefix, "wal_005"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, s := range real.Archive.Segments {
		if out, err := exec.Command(lz4, "-q", s.Path, filepath.Join(prefix, "wal_005", filepath.Base(s.Path)+".lz4")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	repository := recovery.Repository{Name: "r", Type: recovery.TypeWALG, Path: prefix}
	i := recovery.ReadRepository(t.Context(), repository)
	if i.Err != nil || len(i.Backups) != 2 || len(i.AllProblems()) != 0 || len(i.Archive.Segments) != len(real.Archive.Segments) {
		t.Fatalf("%v, %+v, %v", i.Err, i.Backups, i.AllProblems())
	}
	b := i.Backups[1]
	if b.Kind != recovery.KindIncremental || b.Parent != label || b.Timeline != 1 || b.Start != start || b.End != end || b.Major != server.Install.Major || b.Size != 30<<20 || !b.Finished.Equal(finished.Add(time.Second)) {
		t.Errorf("%+v", b)
	}
	if _, latest, ok := i.Points(); !ok || latest.Position <= end {
		t.Errorf("latest %+v", latest)
	}
	verify := func() string { return verifyAll(t, i.Archive) }
	if problems := verify(); problems != "" {
		t.Errorf("whole segments: %s", problems)
	}
	// A segment of which a byte was changed before WAL-G compressed it.
	full := fullSegment(t, real.Archive)
	edit(t, full.Path, func(b []byte) []byte {
		for i := range 8 {
			b[len(b)/2+i] ^= 0x10
		}
		return b
	})
	packed := filepath.Join(prefix, "wal_005", filepath.Base(full.Path)+".lz4")
	if out, err := exec.Command(lz4, "-q", "-f", full.Path, packed).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if problems := verify(); !strings.HasPrefix(problems, filepath.Base(packed)) || strings.Contains(problems, ",") {
		t.Errorf("a damaged segment: %q", problems)
	}
	edit(t, packed, func(b []byte) []byte { return b[:1000] })
	if problems := verify(); !strings.HasPrefix(problems, filepath.Base(packed)) {
		t.Errorf("a cut segment: %q", problems)
	}
	if err := os.Remove(filepath.Join(prefix, "basebackups_005", label+"_backup_stop_sentinel.json")); err != nil {
		t.Fatal(err)
	}
	age(t, prefix)
	i = recovery.ReadRepository(t.Context(), repository)
	problems := fmt.Sprint(i.AllProblems())
	if !strings.Contains(problems, "has no sentinel") || !strings.Contains(problems, "builds on "+label) || slices.ContainsFunc(i.Backups, func(b recovery.Backup) bool { return b.Usable() }) {
		t.Errorf("without the sentinel of the full backup: %s", problems)
	}
}

// verifyAll reads all segments of an archive and gives what is wrong with them.
func verifyAll(t *testing.T, a *recovery.Archive) string {
	t.Helper()
	var problems []string
	for _, s := range a.Segments {
		problem, err := a.VerifySegment(t.Context(), s)
		if err != nil {
			t.Error(err)
		}
		if problem != "" {
			problems = append(problems, filepath.Base(s.Path)+" "+problem)
		}
	}
	return strings.Join(problems, ", ")
}

func writeJSON(t *testing.T, path string, value any) {
	t.Helper()
	content, err := json.Marshal(value)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
