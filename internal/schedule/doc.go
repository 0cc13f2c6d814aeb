// Package schedule decides when checks run.
//
// Each check has a slot in each database: the interval, shifted by a hash of
// check and database, so that a fleet does not check everything at once and a
// restart changes nothing. Slots are computed from the clock and the last run,
// which the state keeps: nothing is queued while the exporter is down, and a
// slot that found the check still running is counted as missed.
//
// Two sessions at most run checks: one works through the slots, one is kept
// free for suspects, the relations that the log has just reported damaged.
package schedule
