package incident_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/incident"
)

// TestRecorder reads what the event recorder of a real Alertmanager 0.34 wrote
// about four alerts, one of them silenced and one inhibited, cut off in its last
// line, and saves it for another report.
func TestRecorder(t *testing.T) {
	t.Parallel()
	recorded, err := os.ReadFile("testdata/alertmanager.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, "alertmanager-1.jsonl"), append(recorded, `{"@timestamp":"2026-11`...), 0o600); err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)
	evidence, err := incident.Load(directory, from, from.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	again := t.TempDir()
	if err := evidence.Save(again); err != nil {
		t.Fatal(err)
	}
	saved, err := incident.Load(again, time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []*incident.Evidence{evidence, saved} {
		report := incident.NewReport(e, from.Add(time.Hour))
		var timeline []string
		for _, entry := range report.Timeline {
			timeline = append(timeline, entry.What)
		}
		for _, want := range []string{
			"page was notified (webhook): PostgresDown fires", "page was notified (webhook): PostgresCorruptionDetected fires", "page was notified (webhook): PostgresDown ended",
		} {
			if !strings.Contains(strings.Join(timeline, "\n")+"\n", want+"\n") {
				t.Errorf("the timeline lacks %q: %q", want, timeline)
			}
		}
		if len(report.Muted) != 2 {
			t.Fatalf("muted: %+v", report.Muted)
		}
		for i, want := range []string{
			"PostgresLockWait (warning) at erp:10187 was held back by a silence of ada: restoring",
			`PostgresReplicationLag (warning) at erp:10187 was held back by another alert (alertname="PostgresDown")`,
		} {
			if m := report.Muted[i]; m.What != want || m.Ended == nil || !m.Ended.After(m.Time) {
				t.Errorf("muted: %+v, want %s", m, want)
			}
		}
	}
	evidence.Series = []incident.Series{{Labels: map[string]string{"__name__": "pgintegrity_up", "instance": "other:10187"}}}
	if report := incident.NewReport(evidence, from.Add(time.Hour)); len(report.Timeline) != 0 || len(report.Muted) != 0 {
		t.Errorf("alerts of another server: %+v, %+v", report.Timeline, report.Muted)
	}
}
