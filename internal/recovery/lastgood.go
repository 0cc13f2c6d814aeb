package recovery

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/state"
)

// Damaged is an object with corruption that is not mended, of one check.
type Damaged struct {
	Database string `json:"database,omitempty"`
	Object   string `json:"object"`
	Check    string `json:"check"`
	// Found is when it was first seen, LastGood when the check had last looked at
	// everything without it: a recovery to that moment brings the object back whole.
	// Zero is that it is not known.
	Found    time.Time `json:"found"`
	LastGood time.Time `json:"last_known_good,omitzero"`
}

// DamagedNow lists what the events of an exporter tell of corruption that no later
// look cleared, the longest known first.
func DamagedNow(events []state.Event) []Damaged {
	open := make(map[string]Damaged)
	for _, e := range events {
		if e.Details["class"] != string(check.ClassCorruption) {
			continue
		}
		fingerprint := e.Details["fingerprint"]
		switch e.Kind {
		case state.EventFindingCleared:
			delete(open, fingerprint)
		case state.EventFindingOpened:
			d := Damaged{Database: e.Database, Object: strings.Trim(e.Schema+"."+e.Relation, "."), Check: e.Details["check"], Found: e.Time}
			if first, err := time.Parse(time.RFC3339, e.Details["first_seen"]); err == nil {
				d.Found = first
			}
			d.LastGood, _ = time.Parse(time.RFC3339, e.Details["last_good"]) // zero is not known
			open[fingerprint] = d
		default:
		}
	}
	// One object may have many findings of a check.
	objects := make(map[Damaged]Damaged)
	for _, d := range open {
		key := Damaged{Database: d.Database, Object: d.Object, Check: d.Check}
		known, ok := objects[key]
		if !ok || d.Found.Before(known.Found) {
			known.Found = d.Found
		}
		if known.LastGood.IsZero() || !d.LastGood.IsZero() && d.LastGood.Before(known.LastGood) {
			known.LastGood = d.LastGood
		}
		key.Found, key.LastGood = known.Found, known.LastGood
		objects[Damaged{Database: d.Database, Object: d.Object, Check: d.Check}] = key
	}
	var damaged []Damaged
	for _, d := range objects {
		damaged = append(damaged, d)
	}
	slices.SortFunc(damaged, func(a, b Damaged) int {
		return cmp.Or(a.Found.Compare(b.Found), cmp.Compare(a.Database, b.Database), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Check, b.Check))
	})
	return damaged
}

// TargetFor is the last moment at which all damaged objects were known to be good;
// unknown counts those of which that is not known.
func TargetFor(damaged []Damaged) (target time.Time, unknown int) {
	for _, d := range damaged {
		switch {
		case d.LastGood.IsZero():
			unknown++
		case target.IsZero() || d.LastGood.Before(target):
			target = d.LastGood
		}
	}
	return target, unknown
}

// Before is the newest usable physical backup that was finished at a moment, or
// before.
func (i *Inventory) Before(moment time.Time) (Backup, bool) {
	for _, b := range slices.Backward(i.Backups) {
		if b.Usable() && b.Kind != KindLogical && !b.Finished.IsZero() && !b.Finished.After(moment) {
			return b, true
		}
	}
	return Backup{}, false
}
