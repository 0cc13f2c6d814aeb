package schedule

import (
	"fmt"
	"testing"
	"time"
)

func TestSlotsAreDueOncePerInterval(t *testing.T) {
	t.Parallel()
	started := time.Date(2026, 3, 15, 9, 0, 0, 0, time.UTC)
	s := newSlots("erp", time.Hour)
	lastRun := started
	runs := 0
	for now := started; now.Before(started.Add(24 * time.Hour)); now = now.Add(time.Minute) {
		if s.due(now, lastRun, started) {
			runs++
			lastRun = now
		}
	}
	if runs != 24 {
		t.Errorf("%d runs in a day at an interval of an hour, want 24", runs)
	}
}

func TestSlotsDoNotDependOnTheProcess(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 15, 9, 0, 0, 0, time.UTC)
	if a, b := newSlots("erp", time.Hour), newSlots("erp", time.Hour); a.latest(now) != b.latest(now) {
		t.Error("two processes disagree about the slot")
	}
}

func TestSlotsAreSpread(t *testing.T) {
	t.Parallel()
	quarters := make(map[int]int)
	for i := range 1000 {
		s := newSlots(fmt.Sprintf("db%d", i), time.Hour)
		quarters[int(s.offset/(15*time.Minute))]++
	}
	for quarter, n := range quarters {
		if n < 150 || n > 350 {
			t.Errorf("quarter %d of the hour has %d of 1000 slots", quarter, n)
		}
	}
}

func TestDueAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	started := time.Date(2026, 3, 15, 9, 0, 0, 0, time.UTC)
	s := newSlots("erp", time.Hour)
	if !s.due(started.Add(firstRunSpread), started.Add(48*time.Hour), started) {
		t.Error("a last run in the future silences the check")
	}
}

func TestFirstRunComesSoonAfterStart(t *testing.T) {
	t.Parallel()
	started := time.Date(2026, 3, 15, 9, 0, 0, 0, time.UTC)
	for i := range 100 {
		s := newSlots(fmt.Sprintf("db%d", i), 24*time.Hour)
		if !s.due(started.Add(firstRunSpread), time.Time{}, started) {
			t.Errorf("database %d: not due %s after the start", i, firstRunSpread)
		}
	}
}

func TestMissed(t *testing.T) {
	t.Parallel()
	s := slots{interval: time.Hour}
	nine := time.Date(2026, 3, 15, 9, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		started, finished time.Time
		want              int
	}{
		{nine.Add(time.Minute), nine.Add(59 * time.Minute), 0},
		{nine.Add(time.Minute), nine.Add(61 * time.Minute), 1},
		{nine.Add(time.Minute), nine.Add(181 * time.Minute), 3},
	} {
		if got := s.missed(test.started, test.finished); got != test.want {
			t.Errorf("from %s to %s: %d missed, want %d", test.started, test.finished, got, test.want)
		}
	}
}
