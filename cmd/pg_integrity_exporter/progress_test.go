package main

import (
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/recovery"
)

// TestDrillProgress estimates by the last drill, and promises nothing without
// one.
func TestDrillProgress(t *testing.T) {
	t.Parallel()
	now := time.Now()
	pace := drillPace{phase: "recover", since: now.Add(-4 * time.Second)}
	if got, want := pace.line(now), "\r\x1b[Kdrill: recover, 4 s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	pace.last = []recovery.PhaseReport{{Phase: "restore", Seconds: 60}, {Phase: "recover", Seconds: 10}, {Phase: "check", Seconds: 30}}
	if got, want := pace.line(now), "\r\x1b[Kdrill: recover, 4 s, about 36s left by the last drill"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]check.Result{
		"\r\x1b[K": {Check: "setting", Outcome: check.OutcomeOK, Seconds: 0.4},
		"\r\x1b[Ksetting: findings after 0.4 s\n":              {Check: "setting", Outcome: check.OutcomeFindings, Seconds: 0.4},
		"\r\x1b[Kpage in \"erp\": 25 %, about 30s left":        {Check: "page", Database: "erp", Bytes: 25, TotalBytes: 100, Seconds: 10},
		"\r\x1b[Kpage in \"erp\": 3 s":                         {Check: "page", Database: "erp", Bytes: 1, TotalBytes: 100, Seconds: 3},
		"\r\x1b[Krows in \"erp\": 3 s":                         {Check: "rows", Database: "erp", Seconds: 3},
		"\r\x1b[Kpage in \"a\\x1b[31m\": failed after 1.0 s\n": {Check: "page", Database: "a\x1b[31m", Outcome: check.OutcomeFailed, Seconds: 1},
	} {
		if got := progress(r); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
