package schedule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
)

// Standby is a standby of the target, on which checks run while it keeps up.
type Standby struct {
	Target *pg.Target
	// Checks are the names of the checks that run on it.
	Checks []string
}

// maxReplayLag is how far the standby may be behind when the settings bound no
// replication lag.
const maxReplayLag = 30 * time.Second

// standby gives the standby on which a check may run now; nil is that it is to run on
// the target. Why it may not is logged once.
func (s *Scheduler) standby(ctx context.Context, name string) *pg.Target {
	settings := s.current()
	if settings.Standby.Target == nil || !slices.Contains(settings.Standby.Checks, name) {
		return nil
	}
	err := s.keepsUp(ctx, settings)
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	news := text != s.standbyProblem
	s.standbyProblem = text
	s.mu.Unlock()
	switch {
	case news && err != nil:
		s.logger.Warn("checks that would run on the standby run on the server itself", "standby", settings.Standby.Target.Name(), "err", err)
	case news:
		s.logger.Info("the standby keeps up again", "standby", settings.Standby.Target.Name())
	}
	if err != nil {
		return nil
	}
	return settings.Standby.Target
}

// primarySQL tells which cluster the target is and how far its WAL goes; it fails in
// recovery. The functions are open to everybody.
const primarySQL = "SELECT system_identifier, pg_current_wal_lsn()::text FROM pg_control_system()"

// standbySQL tells whether a server is a standby of the cluster, and how far it is
// behind, in seconds: not at all when it has replayed what the primary had written a
// moment ago.
const standbySQL = `SELECT system_identifier = $1 AND pg_is_in_recovery(),
	CASE WHEN pg_last_wal_replay_lsn() >= $2::text::pg_lsn THEN 0 ELSE coalesce(extract(epoch FROM now() - pg_last_xact_replay_timestamp()), 1e9) END::float8
	FROM pg_control_system()`

// keepsUp says why the standby is not to be used; nil is that it may.
func (s *Scheduler) keepsUp(ctx context.Context, settings Settings) error {
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	var identifier int64
	var written string
	err := s.lane.Do(ctx, func(ctx context.Context, conn *pg.Conn) error {
		return conn.QueryRow(ctx, primarySQL).Scan(&identifier, &written)
	})
	if err != nil {
		return fmt.Errorf("asking the server how far it is: %w", err)
	}
	var ours bool
	var lag float64
	purpose := pg.Purpose{Name: "check", StatementTimeout: planTimeout, LockTimeout: time.Second, CancelOnServer: true}
	err = settings.Standby.Target.AskAny(ctx, purpose, func(conn *pg.Conn) error {
		return conn.QueryRow(ctx, standbySQL, identifier, written).Scan(&ours, &lag)
	})
	limit := settings.Bounds.ReplicationLag
	if limit <= 0 {
		limit = maxReplayLag
	}
	switch {
	case err != nil:
		return fmt.Errorf("asking the standby how far it is: %w", err)
	case !ours:
		return errors.New("it is no standby of this server")
	case lag > limit.Seconds():
		return fmt.Errorf("it is more than %s behind", limit)
	}
	return nil
}

// runOn runs a check, on the standby where it may. What is found or cannot be looked
// at there is looked at on the target: only what is found there, too, is true of it.
func (s *Scheduler) runOn(ctx context.Context, c check.Check, database string, scope check.Scope) check.Result {
	logger := s.logger.With("check", c.Name, "datname", database)
	standby := s.standby(ctx, c.Name)
	if standby == nil {
		return check.Run(ctx, s.target, database, c, scope, logger)
	}
	there := scope
	there.Heaps = check.NewHeaps() // damage to its files is its own
	first := check.Run(ctx, standby, database, c, there, logger.With("standby", standby.Name()))
	if ctx.Err() != nil || first.Outcome == check.OutcomeOK && (first.Whole || first.Partly) {
		first.On = standby.Name()
		return first
	}
	logger.Info("what the standby could not answer is asked of the server itself", "standby", standby.Name(), "outcome", first.Outcome, "reason", first.Reason)
	result := check.Run(ctx, s.target, database, c, scope, logger)
	for _, f := range first.Findings {
		if !slices.ContainsFunc(result.Findings, func(other check.Finding) bool { return other.Fingerprint == f.Fingerprint }) {
			f.Message = fmt.Sprintf("on the standby %s and not on this server: %s", standby.Name(), f.Message)
			result.Findings = append(result.Findings, f)
			if result.Outcome == check.OutcomeOK {
				result.Outcome = check.OutcomeFindings
			}
		}
	}
	return result
}
