package pg_test

import (
	"strings"
	"testing"

	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
)

// TestUnknownLayout asks whether files are known of every version that is tested,
// and of the next one.
func TestUnknownLayout(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Supported() {
		if reason := (pg.Facts{VersionNum: major*10000 + 4}).UnknownLayout(); reason != "" {
			t.Errorf("%d: %s", major, reason)
		}
	}
	next := pg.Facts{VersionNum: (pg.NewestMajor + 1) * 10000, Version: "19.0"}
	if reason := next.UnknownLayout(); !strings.Contains(reason, "PostgreSQL 19.0 is newer") {
		t.Errorf("the next version: %q", reason)
	}
}
