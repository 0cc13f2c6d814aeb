package activity

import (
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/maintenance/window"
	"pg_integrity_exporter/internal/state"
)

// TestReview holds that what was dangerous, unannounced or went wrong comes
// first, with the reasons.
func TestReview(t *testing.T) {
	t.Parallel()
	files := state.OpenFiles("", "server")
	at := time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)
	record := func(after time.Duration, kind state.EventKind, message string, details map[string]string) {
		t.Helper()
		if err := files.Record(state.Event{Time: at.Add(after), Ended: at.Add(after + time.Minute), Kind: kind, Message: message, Details: details}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := window.Open(files, at, 10*time.Minute, "announced", "ann", "command"); err != nil {
		t.Fatal(err)
	}
	record(time.Minute, state.EventMaintenance, "announced", map[string]string{"kind": "vacuum_full", "blocked_sessions": "0"})
	record(time.Hour, state.EventMaintenance, "unannounced", map[string]string{"kind": "vacuum_full", "blocked_sessions": "3", "blocked_for": "9s"})
	record(time.Hour, state.EventMaintenance, "harmless", map[string]string{"kind": "analyze"})
	record(time.Hour, state.EventGuard, "guard failed", map[string]string{"outcome": "not_rolled_back"})
	record(time.Hour, state.EventFindingOpened, "no maintenance", nil)
	reviewed, err := Review(files, nil, at, at.Add(2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, r := range reviewed {
		order = append(order, r.Message)
	}
	if got := strings.Join(order, ", "); got != "guard failed, unannounced, announced, harmless" {
		t.Errorf("the order is %s", got)
	}
	var text strings.Builder
	if err := WriteReview(&text, reviewed); err != nil || !strings.Contains(text.String(), "3 sessions waited for it, for up to 9s") {
		t.Errorf("%s (%v)", text.String(), err)
	}
}
