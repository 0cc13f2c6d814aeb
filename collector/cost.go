package collector

import (
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/state"
)

var (
	costOpened = &Family{
		Name: Namespace + "cost_connections_total", Type: Counter, Labels: []string{"purpose"},
		Help:   "Connections that this exporter has made to the server, by what for, since the configuration was last loaded.",
		Source: "the exporter's own sessions",
	}
	costOpen = &Family{
		Name: Namespace + "cost_open_connections", Type: Gauge, Labels: []string{"purpose"},
		Help:   "Connections to the server that this exporter holds now, by what for; never more than three, of which that of the scrape is kept and also serves maintenance, the plan and the log.",
		Source: "the exporter's own sessions",
	}
	costStatements = &Family{
		Name: Namespace + "cost_statements_total", Type: Counter, Labels: []string{"purpose"},
		Help:   "Statements that this exporter has sent to the server, by what for.",
		Source: "the exporter's own sessions",
	}
	costLockTimeouts = &Family{
		Name: Namespace + "cost_lock_timeouts_total", Type: Counter, Labels: []string{"purpose"},
		Help:   "Statements of this exporter that gave up because another session held a lock (lock_timeout), by what for.",
		Source: "the exporter's own sessions",
	}
	costSent = &Family{
		Name: Namespace + "cost_sent_bytes_total", Type: Counter, Labels: []string{"purpose"},
		Help:   "Bytes that this exporter has sent to the server, by what for.",
		Source: "the exporter's own sessions",
	}
	costReceived = &Family{
		Name: Namespace + "cost_received_bytes_total", Type: Counter, Labels: []string{"purpose"},
		Help:   "Bytes that this exporter has received from the server, by what for; what checks read without sending it is pgintegrity_check_checked_bytes_total.",
		Source: "the exporter's own sessions",
	}
	costWaited = &Family{
		Name: Namespace + "cost_wait_seconds_total", Type: Counter, Labels: []string{"purpose"},
		Help:   "Time for which this exporter has waited for answers of the server, by what for: the work that it makes it, locks, and the way there and back.",
		Source: "the exporter's own sessions",
	}
)

var costLimit = &Family{
	Name: Namespace + "cost_watch_limit_ratio", Type: Gauge,
	Help:   "Share of the time for which everything but the checks may wait for the server (configuration: limits.watch_share); the checks have limits of their own.",
	Source: "configuration",
}

// purposes are what the exporter asks the server for while it watches.
var purposes = []string{"business", "check", "log", "maintenance", "plan", "scrape"}

// costCollector shows what the exporter costs the server. It asks the server
// nothing.
func costCollector(spent func() []pg.Spent, limit float64) Collector {
	return Collector{
		Name:     "cost",
		Help:     "What the exporter's own sessions cost the server.",
		Families: []*Family{costOpened, costOpen, costStatements, costLockTimeouts, costSent, costReceived, costWaited, costLimit},
		Snapshot: func(_ *state.Snapshot, sink *Sink) {
			by := make(map[string]pg.Spent)
			if spent != nil {
				for _, s := range spent() {
					by[s.Purpose] = s
				}
			}
			if limit > 0 {
				sink.Add(costLimit, limit)
			}
			for _, purpose := range purposes {
				s := by[purpose]
				sink.Add(costOpened, float64(s.Opened), purpose)
				sink.Add(costOpen, float64(s.Open), purpose)
				sink.Add(costStatements, float64(s.Statements), purpose)
				sink.Add(costLockTimeouts, float64(s.LockTimeouts), purpose)
				sink.Add(costSent, float64(s.Sent), purpose)
				sink.Add(costReceived, float64(s.Received), purpose)
				sink.Add(costWaited, s.Waited.Seconds(), purpose)
			}
		},
	}
}
