package collector

import (
	"time"

	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/state"
)

// repositoryFamily is a family with one series for each repository.
func repositoryFamily(name, help, source string, labels ...string) *Family {
	return &Family{
		Name: Namespace + name, Type: Gauge, Labels: append([]string{"repository"}, labels...), Help: help, Source: source,
	}
}

var (
	repositoryUp = repositoryFamily("repository_up",
		"Whether the repository could be read (1) or not (0).", "the repository")
	repositoryLastRead = repositoryFamily("repository_last_read_timestamp_seconds",
		"When the repository was last read, in seconds since the epoch.", "the repository")
	repositoryReadDuration = repositoryFamily("repository_read_duration_seconds",
		"How long it took to read the repository.", "the repository")
	repositoryProblems = repositoryFamily("repository_problems",
		"What is wrong in the repository, by reason; the exporter's log at level debug and `drill --verify-only` name the objects.", "the repository; its manifests; its WAL", "reason")

	backupLastSuccess = repositoryFamily("backup_last_success_timestamp_seconds",
		"When the newest backup without a known problem was finished, in seconds since the epoch; 0 is never.", "the repository")
	backupLastFailure = repositoryFamily("backup_last_failure_timestamp_seconds",
		"When the newest backup that is failed, interrupted, damaged or incomplete was taken, in seconds since the epoch; 0 is that there is none.", "the repository")
	backupMaxAge = repositoryFamily("backup_max_age_seconds",
		"How old the newest usable backup may be; 0 is no objective.", "configuration: max_backup_age")
	backups = repositoryFamily("backups",
		"Backups in the repository without a known problem, by kind.", "the repository", "kind")
	backupSize = repositoryFamily("backup_size_bytes",
		"Size of what the newest usable backup restores; 0 is not known.", "the repository")
	backupStored = repositoryFamily("backup_stored_bytes",
		"Size of the newest usable backup in the repository; 0 is not known.", "the repository")
	backupDuration = repositoryFamily("backup_duration_seconds",
		"How long the newest usable backup took; 0 is not known.", "the repository")
	backupChainComplete = repositoryFamily("backup_chain_complete",
		"Whether everything that the newest finished backup needs is there (1): the backups it builds on, its files and its WAL; or not (0).", "the repository")
	backupVerified = repositoryFamily("backup_last_verified_timestamp_seconds",
		"When the newest backup was last compared with its manifest and nothing was wrong, in seconds since the epoch; 0 is never.", "the exporter's own verification")
	backupVerifyInterval = repositoryFamily("backup_verify_interval_seconds",
		"How often the newest backup is to be compared with its manifest; 0 is never.", "configuration: verify_interval")

	recoveryPoint = repositoryFamily("recovery_point_timestamp_seconds",
		"Up to which moment nothing would be lost if the server were gone now, in seconds since the epoch; 0 is that nothing can be brought back.", "the repository; pg_current_wal_lsn()")
	recoveryEarliest = repositoryFamily("recovery_earliest_point_timestamp_seconds",
		"The earliest moment that the repository can bring back, in seconds since the epoch; 0 is none.", "the repository")
	recoveryPointMaxAge = repositoryFamily("recovery_point_max_age_seconds",
		"How much time may be lost; 0 is no objective.", "configuration: max_recovery_point_age")
	recoveryLag = repositoryFamily("recovery_point_lag_bytes",
		"WAL behind the recovery point that would be lost; 0 is that nothing was committed since, absent is that it is not known.", "the repository; pg_current_wal_lsn()")

	drillLastRun = repositoryFamily("drill_last_run_timestamp_seconds",
		"When a restore drill last ended, however it ended, in seconds since the epoch; 0 is never.", "drills")
	drillLastSuccess = repositoryFamily("drill_last_success_timestamp_seconds",
		"When a restore drill last proved a backup, in seconds since the epoch; 0 is never.", "drills")
	drillSuccess = repositoryFamily("drill_success",
		"Whether the last restore drill proved its backup (1) or not (0); 0 before the first.", "drills")
	drillRuns = &Family{
		Name: Namespace + "drill_runs_total", Type: Counter, Labels: []string{"repository", "outcome"},
		Help: "Restore drills by outcome (refused: it did not begin).", Source: "drills",
	}
	drillPhase = repositoryFamily("drill_phase_duration_seconds",
		"How long each phase of the last restore drill took; 0 is that it did not come so far.", "drills", "phase")
	drillRecoveryTime = repositoryFamily("drill_recovery_time_seconds",
		"How long the last restore drill took from the beginning of the restore until the server accepted connections; 0 is that it did not come so far.", "drills")
	drillRecoveryMax = repositoryFamily("drill_recovery_time_max_seconds",
		"How long a recovery may take; 0 is no objective.", "configuration: max_recovery_time")
	drillRecoveryPoint = repositoryFamily("drill_recovery_point_timestamp_seconds",
		"The last transaction that the last restore drill brought back, in seconds since the epoch; 0 is that it did not come so far.", "drills")
	drillFindings = repositoryFamily("drill_findings",
		"What the checks and queries of the last restore drill found wrong in the restored databases.", "drills")
	drillMaxAge = repositoryFamily("drill_max_age_seconds",
		"How long ago a drill may have proved a backup; 0 is no objective.", "configuration: max_drill_age")
)

// recoveryFamilies are the families of the recovery collector.
var recoveryFamilies = []*Family{
	repositoryUp, repositoryLastRead, repositoryReadDuration, repositoryProblems,
	backupLastSuccess, backupLastFailure, backupMaxAge, backups, backupSize, backupStored, backupDuration,
	backupChainComplete, backupVerified, backupVerifyInterval,
	recoveryPoint, recoveryEarliest, recoveryPointMaxAge, recoveryLag,
	drillLastRun, drillLastSuccess, drillSuccess, drillRuns, drillPhase, drillRecoveryTime, drillRecoveryMax,
	drillRecoveryPoint, drillFindings, drillMaxAge,
}

// recoveryCollector shows what is known of repositories and drills. It asks the
// server nothing.
func recoveryCollector(statuses func() []recovery.Status) Collector {
	return Collector{
		Name:     "recovery",
		Help:     "Backups, recovery points and restore drills.",
		Families: recoveryFamilies,
		Snapshot: func(_ *state.Snapshot, sink *Sink) {
			if statuses == nil {
				return
			}
			for _, s := range statuses() {
				emitRepository(s, sink)
				emitDrills(s.Watched, s.History, sink)
			}
		},
	}
}

func emitRepository(s recovery.Status, sink *Sink) {
	name, objectives := s.Watched.Name, s.Watched.Objectives
	sink.AddBool(repositoryUp, s.Inventory.Err == nil, name)
	sink.Add(repositoryLastRead, timestamp(s.Inventory.Read), name)
	sink.Add(repositoryReadDuration, s.Duration.Seconds(), name)
	problems := make(map[recovery.ProblemKind]int)
	for _, p := range s.Problems() {
		problems[p.Kind]++
	}
	for _, kind := range recovery.ProblemKinds() {
		sink.Add(repositoryProblems, float64(problems[kind]), name, string(kind))
	}

	newest, found := s.Inventory.LastSuccess()
	sink.Add(backupLastSuccess, timestamp(newest.Finished), name)
	sink.Add(backupLastFailure, timestamp(s.Inventory.LastFailure()), name)
	sink.Add(backupMaxAge, objectives.BackupAge.Seconds(), name)
	counts := make(map[recovery.Kind]int)
	for _, b := range s.Inventory.Backups {
		if b.Usable() {
			counts[b.Kind]++
		}
	}
	for _, kind := range recovery.Kinds() {
		sink.Add(backups, float64(counts[kind]), name, string(kind))
	}
	sink.Add(backupSize, float64(newest.Size), name)
	sink.Add(backupStored, float64(newest.Stored), name)
	duration := time.Duration(0)
	if found && !newest.Started.IsZero() {
		duration = newest.Finished.Sub(newest.Started)
	}
	sink.Add(backupDuration, max(duration.Seconds(), 0), name)
	finished, err := s.Inventory.Newest()
	sink.AddBool(backupChainComplete, err == nil && finished.Usable(), name)
	sink.Add(backupVerified, timestamp(s.Verification.LastSuccess), name)
	sink.Add(backupVerifyInterval, s.Watched.VerifyInterval.Seconds(), name)

	sink.Add(recoveryPoint, timestamp(s.RecoveryPoint), name)
	sink.Add(recoveryEarliest, timestamp(s.Earliest), name)
	sink.Add(recoveryPointMaxAge, objectives.RecoveryPoint.Seconds(), name)
	if s.LagBytes >= 0 {
		sink.Add(recoveryLag, float64(s.LagBytes), name)
	}
}

// emitDrills shows the history of the drills of one repository.
func emitDrills(w recovery.Watched, h recovery.History, sink *Sink) {
	name := w.Name
	var last recovery.Report
	if h.Last != nil {
		last = *h.Last
	}
	sink.Add(drillLastRun, timestamp(last.Finished), name)
	sink.Add(drillLastSuccess, timestamp(h.LastProved), name)
	sink.AddBool(drillSuccess, last.Outcome == recovery.OutcomeProved, name)
	for _, outcome := range recovery.Outcomes() {
		sink.Add(drillRuns, float64(h.Runs[outcome]), name, string(outcome))
	}
	took := make(map[string]float64)
	for _, p := range last.Phases {
		took[p.Phase] += p.Seconds
	}
	for _, phase := range recovery.Phases() {
		sink.Add(drillPhase, took[phase], name, phase)
	}
	sink.Add(drillRecoveryTime, last.RecoverySeconds, name)
	sink.Add(drillRecoveryMax, w.Objectives.RecoveryTime.Seconds(), name)
	point := time.Time{}
	if last.RecoveryPoint != nil {
		point = *last.RecoveryPoint
	}
	sink.Add(drillRecoveryPoint, timestamp(point), name)
	failed := 0
	for _, q := range last.Queries {
		if !q.OK {
			failed++
		}
	}
	sink.Add(drillFindings, float64(len(last.Findings)+failed), name)
	sink.Add(drillMaxAge, w.Objectives.DrillAge.Seconds(), name)
}
