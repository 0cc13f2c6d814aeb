package conf

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Misfit is why a server does not start although each line of its configuration is
// right by itself.
type Misfit struct {
	// Parameter is what is to be looked at, Text what is wrong.
	Parameter, Text string
	Impact, Action  string
}

// stops is the impact of most.
const stops = "The server does not start."

// Start is what decides whether a server starts.
type Start struct {
	Major int
	// Value gives the value of a parameter, and otherwise when nothing sets it.
	Value func(name, otherwise string) string
	// Recovering says that it starts as a standby or recovers from an archive.
	Recovering bool
	// Prepared is how many prepared transactions it has.
	Prepared int
	// Primary are the limits that the primary had, by parameter; empty is unknown.
	Primary map[string]int
}

// Number is a parameter that is a number.
func (s Start) Number(name string, otherwise int) int {
	if n, err := strconv.Atoi(s.Value(name, "")); err == nil {
		return n
	}
	return otherwise
}

// On says that a Boolean parameter is on.
func (s Start) On(name string) bool {
	value := strings.ToLower(s.Value(name, "off"))
	return value == "on" || value == "1" || value != "" && (strings.HasPrefix("true", value) || strings.HasPrefix("yes", value)) //nolint:gocritic // its beginnings are taken too
}

// Combinations are parameters that the server takes one by one but not together.
func (s Start) Combinations() (misfits []Misfit) {
	misfit := func(parameter, text, action string) {
		misfits = append(misfits, Misfit{parameter, text, stops, action})
	}
	if strings.EqualFold(s.Value("wal_level", "replica"), "minimal") {
		if archive := strings.ToLower(s.Value("archive_mode", "off")); !slices.Contains([]string{"off", "false", "no", "0"}, archive) {
			misfit("wal_level", "archive_mode is on, but wal_level is minimal", "Set wal_level to replica.")
		}
		if s.Number("max_wal_senders", 10) > 0 {
			misfit("wal_level", "max_wal_senders is not 0, but wal_level is minimal", "Set wal_level to replica, or max_wal_senders to 0.")
		}
		if s.Major >= 17 && s.On("summarize_wal") {
			misfit("wal_level", "summarize_wal is on, but wal_level is minimal", "Set wal_level to replica.")
		}
	}
	reserved := s.Number("superuser_reserved_connections", 3) + s.Number("reserved_connections", 0)
	if connections := s.Number("max_connections", 100); reserved >= connections {
		misfit("max_connections", fmt.Sprintf("%d connections are reserved, but max_connections is %d", reserved, connections), "Raise max_connections, or reserve fewer.")
	}
	set := 0
	for _, name := range []string{"recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"} {
		if s.Value(name, "") != "" {
			set++
		}
	}
	if set > 1 {
		misfit("recovery_target", "several recovery targets are set", "Leave only one of the recovery_target parameters.")
	}
	return misfits
}

// limits are the parameters that must not be lower on a standby than on its primary,
// with their defaults.
var limits = []struct {
	name      string
	otherwise int
}{
	{"max_connections", 100}, {"max_worker_processes", 8}, {"max_wal_senders", 10}, {"max_prepared_transactions", 0}, {"max_locks_per_transaction", 64},
}

// Limits are parameters that are too low for what the cluster has.
func (s Start) Limits() (misfits []Misfit) {
	for _, l := range limits {
		value, primary := s.Number(l.name, l.otherwise), s.Primary[l.name]
		if s.Recovering && value < primary && !strings.EqualFold(s.Value("hot_standby", "on"), "off") {
			misfits = append(misfits, Misfit{
				l.name, fmt.Sprintf("%s is %d, but the primary had %d", l.name, value, primary),
				"A hot standby does not start recovery, or pauses in it.", fmt.Sprintf("Set it to at least %d.", primary),
			})
		}
	}
	if allowed := s.Number("max_prepared_transactions", 0); s.Prepared > allowed {
		misfits = append(misfits, Misfit{
			"max_prepared_transactions", fmt.Sprintf("there are %d prepared transactions, but max_prepared_transactions is %d", s.Prepared, allowed),
			stops, fmt.Sprintf("Set max_prepared_transactions to at least %d.", s.Prepared),
		})
	}
	return misfits
}

// Slot is a replication slot that outlives a restart.
type Slot struct {
	Name    string
	Logical bool
}

// Slots are parameters that are too low for the replication slots.
func (s Start) Slots(slots []Slot) (misfits []Misfit) {
	if limit := s.Number("max_replication_slots", 10); len(slots) > limit {
		misfits = append(misfits, Misfit{
			"max_replication_slots", fmt.Sprintf("there are %d replication slots, but max_replication_slots is %d", len(slots), limit),
			"The server does not start (FATAL: too many replication slots active before shutdown).", fmt.Sprintf("Set max_replication_slots to at least %d.", len(slots)),
		})
	}
	level := strings.ToLower(s.Value("wal_level", "replica"))
	for _, slot := range slots {
		needs := "replica"
		if slot.Logical {
			needs = "logical"
		}
		switch {
		case level == "logical" || level == needs, needs == "replica" && level != "minimal":
		case needs == "logical" && s.Recovering: // invalidated or taken up by the standby's own rules
		default:
			misfits = append(misfits, Misfit{
				"wal_level", fmt.Sprintf("the replication slot %s needs wal_level = %s, but it is %s", slot.Name, needs, level),
				stops, "Set wal_level back to " + needs + "; or, when nobody needs the slot, start once with it and drop the slot.",
			})
		}
	}
	return misfits
}
