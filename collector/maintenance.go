package collector

import (
	"time"

	"pg_integrity_exporter/internal/maintenance/activity"
	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/state"
)

var (
	maintenanceWindowActive = &Family{
		Name: Namespace + "maintenance_window_active", Type: Gauge,
		Help:   "Whether a maintenance window mutes noise now (1); it falls to 0 at the announced end, whatever happens.",
		Source: "windows: command, HTTP, configuration, application_name",
	}
	maintenanceWindowOpen = &Family{
		Name: Namespace + "maintenance_window_open", Type: Gauge,
		Help:   "Whether a maintenance window was opened and not closed yet (1), also behind its announced end.",
		Source: "windows: command, HTTP, configuration, application_name",
	}
	maintenanceWindowUntil = &Family{
		Name: Namespace + "maintenance_window_end_timestamp_seconds", Type: Gauge,
		Help:   "The latest announced end of the open windows, in seconds since the epoch; 0 is none.",
		Source: "windows: command, HTTP, application_name",
	}
	maintenanceRunning = &Family{
		Name: Namespace + "maintenance_running", Type: Gauge, Labels: []string{"kind"},
		Help:   "Maintenance operations that run now, those of autovacuum left out.",
		Source: "pg_stat_activity; progress views",
	}
	maintenanceOperations = &Family{
		Name: Namespace + "maintenance_operations_total", Type: Counter, Labels: []string{"kind"},
		Help:   "Maintenance operations that were seen since the exporter started (rewrite: a table got new files and nobody saw the statement).",
		Source: "pg_stat_activity; progress views; pg_class, pg_trigger, pg_extension, pg_settings",
	}
	maintenanceSeconds = &Family{
		Name: Namespace + "maintenance_running_seconds", Type: Gauge, Labels: []string{"kind"},
		Help:   "How long the oldest running operation of the kind has run; 0 is none.",
		Source: "pg_stat_activity.query_start",
	}
	maintenanceProgress = &Family{
		Name: Namespace + "maintenance_progress_ratio", Type: Gauge, Labels: []string{"kind"},
		Help:   "How far the oldest running operation of the kind is in its present phase (0 to 1); 0 is none or not known.",
		Source: "progress views",
	}
	maintenanceEnd = &Family{
		Name: Namespace + "maintenance_estimated_end_timestamp_seconds", Type: Gauge, Labels: []string{"kind"},
		Help:   "When the oldest running operation of the kind ends if it goes on like this, in seconds since the epoch; 0 is not known.",
		Source: "progress views",
	}
	maintenanceBlocked = &Family{
		Name: Namespace + "maintenance_blocked_sessions", Type: Gauge,
		Help:   "The most sessions that were seen waiting for one of the running maintenance operations.",
		Source: "pg_blocking_pids()",
	}
	maintenanceBlockedSeconds = &Family{
		Name: Namespace + "maintenance_blocked_seconds", Type: Gauge,
		Help:   "The longest that a session was seen waiting for one of the running maintenance operations.",
		Source: "pg_blocking_pids(); pg_stat_activity.state_change",
	}
	diskFree = &Family{
		Name: Namespace + "disk_free_bytes", Type: Gauge, Labels: []string{"place"},
		Help:   "What is free on the file system to which the server writes (data, wal, or the name of a tablespace); absent when that is on another machine, or the exporter may not read the data directory.",
		Source: "the file system; pg_settings: data_directory; pg_tablespace",
	}
	diskSize = &Family{
		Name: Namespace + "disk_size_bytes", Type: Gauge, Labels: []string{"place"},
		Help:   "Size of the file system to which the server writes; absent as pgintegrity_disk_free_bytes is.",
		Source: "the file system; pg_settings: data_directory; pg_tablespace",
	}
	guardRuns = &Family{
		Name: Namespace + "guard_runs_total", Type: Counter, Labels: []string{"task", "outcome"},
		Help:   "Runs of the guard that ended, by outcome (done: verified; not_rolled_back: somebody must act).",
		Source: "journals of the guard",
	}
	guardOwed = &Family{
		Name: Namespace + "guard_not_rolled_back_runs", Type: Gauge,
		Help:   "Runs of the guard that failed, could not be rolled back, and were not settled yet (`guard settle`).",
		Source: "journals of the guard",
	}
	guardUnfinished = &Family{
		Name: Namespace + "guard_unfinished_runs", Type: Gauge,
		Help:   "Runs whose guard died and that nobody has resumed yet.",
		Source: "journals of the guard",
	}
)

// maintenanceCollector shows maintenance, its windows, the guard and the room on
// the disks. It asks the server nothing.
func maintenanceCollector(status func() activity.Status) Collector {
	return Collector{
		Name: "maintenance",
		Help: "Maintenance that runs, its windows, the runs of the guard, and the room on the disks.",
		Families: []*Family{
			maintenanceWindowActive, maintenanceWindowOpen, maintenanceWindowUntil, maintenanceRunning, maintenanceOperations, maintenanceSeconds,
			maintenanceProgress, maintenanceEnd, maintenanceBlocked, maintenanceBlockedSeconds, guardRuns, guardOwed, guardUnfinished,
			diskFree, diskSize,
		},
		Snapshot: func(_ *state.Snapshot, sink *Sink) {
			if status != nil {
				emitMaintenance(sink, status(), time.Now())
			}
		},
	}
}

func emitMaintenance(sink *Sink, s activity.Status, now time.Time) {
	sink.AddBool(maintenanceWindowActive, s.Window.Active)
	sink.AddBool(maintenanceWindowOpen, s.Window.Open)
	sink.Add(maintenanceWindowUntil, timestamp(s.Window.Until))
	var blocked int
	var blockedFor time.Duration
	running := make(map[activity.Kind]int)
	oldest := make(map[activity.Kind]activity.Operation)
	for _, o := range s.Running { // the oldest comes first
		if running[o.Kind]++; running[o.Kind] == 1 {
			oldest[o.Kind] = o
		}
		blocked, blockedFor = max(blocked, o.Blocked), max(blockedFor, o.BlockedFor)
	}
	for _, kind := range activity.Kinds() {
		sink.Add(maintenanceRunning, float64(running[kind]), string(kind))
		sink.Add(maintenanceOperations, float64(s.Seen[kind]), string(kind))
		o, seconds := oldest[kind], 0.0
		if running[kind] > 0 {
			seconds = max(0, now.Sub(o.Started).Seconds())
		}
		sink.Add(maintenanceSeconds, seconds, string(kind))
		sink.Add(maintenanceProgress, max(0, o.Fraction), string(kind))
		sink.Add(maintenanceEnd, timestamp(o.EstimatedEnd(now)), string(kind))
	}
	sink.Add(maintenanceBlocked, float64(blocked))
	sink.Add(maintenanceBlockedSeconds, blockedFor.Seconds())
	for _, d := range s.Disks {
		sink.Add(diskFree, float64(d.Free), d.Place)
		sink.Add(diskSize, float64(d.Size), d.Place)
	}
	for _, task := range guard.Tasks() {
		for _, outcome := range guard.Outcomes() {
			sink.Add(guardRuns, float64(s.Guard[task][outcome]), string(task), string(outcome))
		}
	}
	sink.Add(guardOwed, float64(s.Owed))
	sink.Add(guardUnfinished, float64(s.Unfinished))
}
