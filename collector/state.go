package collector

import (
	"time"

	"pg_integrity_exporter/internal/state"
)

var (
	stateUp = &Family{
		Name: Namespace + "state_up", Type: Gauge,
		Help:   "Whether results, findings and log positions are kept on disk (1) or only in memory (0).",
		Source: "the state directory",
	}
	stateWriteFailures = &Family{
		Name: Namespace + "state_write_failures_total", Type: Counter,
		Help:   "Writes that the disk of the state directory refused.",
		Source: "the state directory",
	}
	stateLeader = &Family{
		Name: Namespace + "leader", Type: Gauge,
		Help:   "Whether this exporter runs the checks of the server and what else costs it (1), or leaves that to another one (0; configuration: leader).",
		Source: "an advisory lock of the server",
	}
	configReloadSuccessful = &Family{
		Name: Namespace + "config_last_reload_successful", Type: Gauge,
		Help:   "Whether the configuration file was valid when it was last read (1) or the one before is still in force (0).",
		Source: "configuration",
	}
	configReloadSuccess = &Family{
		Name: Namespace + "config_last_reload_success_timestamp_seconds", Type: Gauge,
		Help:   "When a valid configuration was last put in force, in seconds since the epoch.",
		Source: "configuration",
	}
)

// stateCollector shows whether the exporter remembers and obeys. It asks the
// server nothing.
func stateCollector(reloaded func() (ok bool, success time.Time), leads func() bool) Collector {
	return Collector{
		Name:     "state",
		Help:     "The exporter's own state and configuration.",
		Families: []*Family{stateUp, stateWriteFailures, stateLeader, configReloadSuccessful, configReloadSuccess},
		Snapshot: func(snapshot *state.Snapshot, sink *Sink) {
			ok, success := reloaded()
			sink.AddBool(stateUp, snapshot.Up)
			sink.Add(stateWriteFailures, float64(snapshot.WriteFailures))
			sink.AddBool(stateLeader, leads())
			sink.AddBool(configReloadSuccessful, ok)
			sink.Add(configReloadSuccess, timestamp(success))
		},
	}
}
