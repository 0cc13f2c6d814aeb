package collector

import (
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/state"
)

var (
	checkFindings = &Family{
		Name: Namespace + "check_findings", Type: Gauge, Labels: []string{"check", "datname", "class", "severity"},
		Help:   "Findings that the check has open in the database; 0 is none, also when it never ran, see pgintegrity_check_last_success_timestamp_seconds.",
		Source: "the check's results",
	}
	checkLastSuccess = &Family{
		Name: Namespace + "check_last_success_timestamp_seconds", Type: Gauge, Labels: []string{"check", "datname"},
		Help:   "When the check last looked at everything in the database, whether or not it found something, in seconds since the epoch; 0 is never.",
		Source: "the check's results",
	}
	checkWaitingSince = &Family{
		Name: Namespace + "check_waiting_since_timestamp_seconds", Type: Gauge, Labels: []string{"check", "datname"},
		Help:   "Since when the check is to run in the database and has not once looked at everything, in seconds since the epoch; 0 is that it has.",
		Source: "the check's results",
	}
	checkLastRun = &Family{
		Name: Namespace + "check_last_run_timestamp_seconds", Type: Gauge, Labels: []string{"check", "datname"},
		Help:   "When the check last ended in the database, however it ended, in seconds since the epoch; 0 is never.",
		Source: "the check's results",
	}
	checkInterval = &Family{
		Name: Namespace + "check_interval_seconds", Type: Gauge, Labels: []string{"check", "datname"},
		Help:   "How often the check is to run in the database (configuration: checks.NAME.interval).",
		Source: "configuration",
	}
	checkDuration = &Family{
		Name: Namespace + "check_duration_seconds", Type: Gauge, Labels: []string{"check", "datname"},
		Help:   "How long the last run of the check in the database took; 0 before the first.",
		Source: "the check's results",
	}
	checkBytes = &Family{
		Name: Namespace + "check_checked_bytes_total", Type: Counter, Labels: []string{"check", "datname"},
		Help:   "Bytes of relations that the check has looked at in the database.",
		Source: "the check's results",
	}
	checkCoverage = &Family{
		Name: Namespace + "check_coverage_ratio", Type: Gauge, Labels: []string{"check", "datname"},
		Help:   "Share of the database, by bytes, that the last run of the check looked at (0 to 1).",
		Source: "the check's results",
	}
	checkApplicable = &Family{
		Name: Namespace + "check_applicable", Type: Gauge, Labels: []string{"check", "datname"},
		Help:   "Whether the check can run in the database (1), or its last run was skipped (0) because an extension or a privilege is missing; the exporter's log and its check command say which.",
		Source: "the check's results",
	}
	checkRuns = &Family{
		Name: Namespace + "check_runs_total", Type: Counter, Labels: []string{"check", "outcome"},
		Help:   "Runs of the check over all databases, by outcome (failed: something could not be looked at).",
		Source: "the check's results",
	}
	checkScheduleMissed = &Family{
		Name: Namespace + "check_missed_slots_total", Type: Counter, Labels: []string{"check"},
		Help:   "Times at which the check was due but still waiting or running from the time before.",
		Source: "the scheduler",
	}
	checkDetailed = &Family{
		Name: Namespace + "check_details_exported", Type: Gauge,
		Help:   "Whether every check of every database has all its series (1); 0 with many databases, where last run, duration, bytes, full coverage, intervals by database and kinds of findings without findings are left out.",
		Source: "the number of checks times databases",
	}
	checkHeld = &Family{
		Name: Namespace + "check_held_seconds_total", Type: Counter, Labels: []string{"reason"},
		Help:   "Time for which checks held back because the server was under pressure (configuration: limits.latency, limits.replication_lag).",
		Source: "round trip of a trivial statement; pg_stat_replication.replay_lag",
	}
	findingInfo = &Family{
		Name: Namespace + "finding_info", Type: Gauge, Labels: []string{"check", "datname", "schemaname", "relname", "severity"},
		Help:   "Open findings by object, the gravest first, up to the configured number; the value is always 1, and check=\"log\" is damage that a statement ran into.",
		Source: "the checks' results; server log",
	}
	findingInfoTruncated = &Family{
		Name: Namespace + "finding_info_truncated", Type: Gauge,
		Help:   "Objects with findings that have no pgintegrity_finding_info of their own because there are too many.",
		Source: "the checks' results",
	}
)

// checkCollector shows what the background checks found. It asks the server
// nothing.
func checkCollector() Collector {
	return Collector{
		Name: "check",
		Help: "Results of the integrity checks.",
		Families: []*Family{
			checkFindings, checkLastSuccess, checkWaitingSince, checkLastRun, checkInterval, checkDuration, checkBytes,
			checkCoverage, checkApplicable, checkRuns, checkScheduleMissed, checkDetailed, checkHeld, findingInfo, findingInfoTruncated,
		},
		Kept: emitChecks,
	}
}

func emitChecks(snapshot *state.Snapshot, sink *Sink) {
	kinds := make(map[string][]check.Kind)
	for _, c := range check.All() {
		kinds[c.Name] = c.Kinds
		for _, outcome := range check.Outcomes() {
			sink.Add(checkRuns, float64(snapshot.Runs[state.RunKey{Check: c.Name, Outcome: outcome}]), c.Name, string(outcome))
		}
		sink.Add(checkScheduleMissed, float64(snapshot.MissedSlots[c.Name]), c.Name)
	}
	detailed := len(snapshot.Checks) <= maxDetailedChecks
	for _, c := range snapshot.Checks {
		emitFindings(snapshot, sink, c, kinds[c.Check], detailed)
		if !c.LastSuccess.IsZero() || detailed { // else it waits
			sink.Add(checkLastSuccess, timestamp(c.LastSuccess), c.Check, c.Database)
		}
		if waiting := c.WaitingSince(); !waiting.IsZero() || detailed {
			sink.Add(checkWaitingSince, timestamp(waiting), c.Check, c.Database)
		}
		if partly := !c.LastRun.IsZero() && c.Coverage < 1 && c.Outcome != check.OutcomeSkipped; partly || detailed {
			sink.Add(checkCoverage, c.Coverage, c.Check, c.Database)
		}
		if c.Outcome == check.OutcomeSkipped || detailed {
			sink.AddBool(checkApplicable, c.Outcome != check.OutcomeSkipped, c.Check, c.Database)
		}
		if detailed {
			sink.Add(checkInterval, c.Interval.Seconds(), c.Check, c.Database)
			sink.Add(checkLastRun, timestamp(c.LastRun), c.Check, c.Database)
			sink.Add(checkDuration, c.Duration.Seconds(), c.Check, c.Database)
			sink.Add(checkBytes, float64(c.CheckedBytes), c.Check, c.Database)
		}
	}
	if !detailed {
		emitIntervals(snapshot, sink)
	}
	sink.AddBool(checkDetailed, detailed)
	for _, reason := range state.Pressures() {
		sink.Add(checkHeld, snapshot.Held[reason].Seconds(), string(reason))
	}
	objects, truncated := snapshot.Objects()
	for _, o := range objects {
		sink.Add(findingInfo, 1, o.Check, o.Database, o.Schema, o.Relation, string(o.Severity))
	}
	sink.Add(findingInfoTruncated, float64(truncated))
}

// maxDetailedChecks is how many checks times databases have all their series;
// with more, those that no alert needs are left out so that the page stays
// bounded.
const maxDetailedChecks = 150

// emitIntervals gives the interval of each check once: it is the same in every
// database.
func emitIntervals(snapshot *state.Snapshot, sink *Sink) {
	seen := make(map[string]bool)
	for _, c := range snapshot.Checks {
		if !seen[c.Check] {
			seen[c.Check] = true
			sink.Add(checkInterval, c.Interval.Seconds(), c.Check, "")
		}
	}
}

// emitFindings counts the open findings of a check in a database by class and
// severity: every kind at 0 from the start, or with many databases the first
// kind and those that are not 0.
func emitFindings(snapshot *state.Snapshot, sink *Sink, c state.CheckState, kinds []check.Kind, detailed bool) {
	for i, kind := range kinds {
		if n := snapshot.CountFindings(c.Check, c.Database, kind); detailed || i == 0 || n > 0 {
			sink.Add(checkFindings, float64(n), c.Check, c.Database, string(kind.Class), string(kind.Severity))
		}
	}
}

// timestamp is a moment in seconds since the epoch, and 0 for never.
func timestamp(moment time.Time) float64 {
	if moment.IsZero() {
		return 0
	}
	return float64(moment.UnixMilli()) / 1e3
}
