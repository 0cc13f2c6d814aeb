package schedule

import (
	"slices"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/state"
)

// TestLookBehind holds that a database is looked at as a whole when all that
// maintenance touched in it was looked at, and not again and again when
// maintenance never ends.
func TestLookBehind(t *testing.T) {
	t.Parallel()
	suspect := Suspect{Database: "erp", Relation: check.RelationName{Schema: "public", Name: "t"}}
	for name, c := range map[string]struct {
		queue []waiting
		last  aftermath
		asked bool
	}{
		"at once":                            {nil, aftermath{}, true},
		"when the touched is looked at":      {[]waiting{{suspect, touched}}, aftermath{}, false},
		"whatever else waits":                {[]waiting{{suspect, reopened}}, aftermath{}, true},
		"of another database":                {[]waiting{{Suspect{Database: "hr"}, touched}}, aftermath{}, true},
		"not within a minute":                {nil, aftermath{at: time.Now().Add(-50 * time.Second), took: time.Second}, false},
		"behind a minute":                    {nil, aftermath{at: time.Now().Add(-70 * time.Second), took: time.Second}, true},
		"for a twentieth of the time":        {nil, aftermath{at: time.Now().Add(-150 * time.Second), took: 10 * time.Second}, false},
		"for a twentieth of the time, later": {nil, aftermath{at: time.Now().Add(-250 * time.Second), took: 10 * time.Second}, true},
	} {
		s := &Scheduler{queue: c.queue, touched: map[string]bool{"erp": true}, aftermaths: map[string]aftermath{"erp": c.last}}
		s.lookBehind()
		if got := slices.Contains(s.asked, state.Planned{Check: "invariant", Database: "erp"}); got != c.asked || s.touched["erp"] == c.asked {
			t.Errorf("%s: asked %t, want %t, still to be looked at %t", name, got, c.asked, s.touched["erp"])
		}
		if slices.ContainsFunc(s.asked, func(p state.Planned) bool { return p.Check == "page" || p.Check == "heap" }) {
			t.Errorf("%s: all of the database is read: %v", name, s.asked)
		}
	}
}
