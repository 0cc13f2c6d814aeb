package drill_test

import (
	"testing"
	"time"

	"pg_integrity_exporter/internal/drill"
	"pg_integrity_exporter/internal/recovery"
)

func TestDue(t *testing.T) {
	t.Parallel()
	now := time.Date(2023, 3, 15, 9, 0, 0, 0, time.UTC)
	ended := func(ago time.Duration, outcome recovery.Outcome) recovery.History {
		return recovery.History{Last: &recovery.Report{Finished: now.Add(-ago), Outcome: outcome}}
	}
	const week = 7 * 24 * time.Hour
	for _, c := range []struct {
		name     string
		history  recovery.History
		interval time.Duration
		want     bool
	}{
		{"never", recovery.History{}, week, true},
		{"proved a day ago", ended(24*time.Hour, recovery.OutcomeProved), week, false},
		{"proved a week ago", ended(week, recovery.OutcomeProved), week, true},
		{"failed a day ago", ended(24*time.Hour, recovery.OutcomeFailed), week, false},
		{"failed two days ago", ended(48*time.Hour, recovery.OutcomeRefused), week, true},
		{"failed within the hour", ended(30*time.Minute, recovery.OutcomeFailed), 2 * time.Hour, false},
		{"short interval", ended(15*time.Minute, recovery.OutcomeFailed), 10 * time.Minute, true},
		{"in the future", ended(-time.Hour, recovery.OutcomeProved), week, true},
	} {
		if got := drill.Due(now, c.history, c.interval); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
