package state

import "time"

// Pressure is why checks hold back. The values are the closed list of the label
// reason of pgintegrity_check_held_seconds_total.
type Pressure string

// The reasons to hold back.
const (
	PressureLatency        Pressure = "latency"
	PressureReplicationLag Pressure = "replication_lag"
)

// Pressures lists every Pressure.
func Pressures() []Pressure { return []Pressure{PressureLatency, PressureReplicationLag} }

// Held counts time for which checks held back.
func (t *Target) Held(reason Pressure, duration time.Duration) {
	t.change(func(next *Snapshot) { next.Held[reason] += duration })
}
