package guard

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/pg"
)

// watchInterval is how often the conditions for going on are looked at.
const watchInterval = 500 * time.Millisecond

// abortError says why the maintenance was stopped while it ran.
type abortError struct{ reason string }

// Error is the reason.
func (e *abortError) Error() string { return "stopped: " + e.reason }

// watchSQL reads what the maintenance does to others: how long the longest
// waits for one of its sessions, how far standbys are behind, and how many
// transactions were rolled back. pg_monitor sees all of it; without it only
// the own sessions. The guard's own watcher is nobody's victim.
const watchSQL = `SELECT
	coalesce((SELECT extract(epoch FROM max(clock_timestamp() - coalesce(w.state_change, w.query_start)))::float8 FROM pg_stat_activity w
		WHERE w.wait_event_type = 'Lock' AND w.datname = current_database() AND w.application_name NOT LIKE $1 || '%'
		AND EXISTS (SELECT FROM unnest(pg_blocking_pids(w.pid)) b JOIN pg_stat_activity g ON g.pid = b WHERE g.application_name LIKE $1 || '%')), 0),
	(SELECT count(*)::int FROM pg_stat_activity w WHERE w.wait_event_type = 'Lock' AND w.datname = current_database() AND w.application_name NOT LIKE $1 || '%'
		AND EXISTS (SELECT FROM unnest(pg_blocking_pids(w.pid)) b JOIN pg_stat_activity g ON g.pid = b WHERE g.application_name LIKE $1 || '%')),
	coalesce((SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))::bigint FROM pg_stat_replication WHERE state = 'streaming'), 0),
	coalesce((SELECT sum(xact_rollback)::bigint FROM pg_stat_database), 0)`

// pressure is one reading of watchSQL.
type pressure struct {
	blockedFor time.Duration
	blocked    int
	lag        int64
	rollbacks  int64
	at         time.Time
}

func readPressure(ctx context.Context, conn *pg.Conn, application string) (pressure, error) {
	p := pressure{at: time.Now()}
	var seconds float64
	err := conn.QueryRow(ctx, watchSQL, application).Scan(&seconds, &p.blocked, &p.lag, &p.rollbacks)
	p.blockedFor = time.Duration(seconds * float64(time.Second))
	if err != nil {
		return p, fmt.Errorf("watching the maintenance: %w", err)
	}
	return p, nil
}

// watch looks at the conditions for going on until ctx ends, and cancels with
// the reason when one of them is not met.
func (r *run) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	stop := func(format string, args ...any) { cancel(&abortError{fmt.Sprintf(format, args...)}) }
	started := time.Now()
	settings := r.settings()
	lane := pg.NewLane(r.options.Target, pg.Purpose{Name: "guard watch", StatementTimeout: 5 * time.Second, LockTimeout: time.Second})
	defer lane.Close()
	var first pressure
	var speed pace
	told := started
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if settings.MaxDuration > 0 && time.Since(started) > settings.MaxDuration {
			stop("it takes longer than %s (max_duration)", settings.MaxDuration)
			return
		}
		if place, free := r.fullest(); free < settings.MinFree {
			stop("only %s are free on the disk of %s (min_free is %s)", size(free), place, size(settings.MinFree))
			return
		}
		var p pressure
		var s stage
		telling := time.Since(told) >= progressInterval
		err := lane.Do(ctx, func(ctx context.Context, conn *pg.Conn) (err error) {
			if p, err = readPressure(ctx, conn, pg.GuardApplicationName+" "+r.report.ID); err == nil && telling {
				s, err = readStage(ctx, conn, pg.GuardApplicationName+" "+r.report.ID)
			}
			return err
		})
		if err != nil {
			continue // a server that does not answer stops the maintenance itself
		}
		if telling {
			told = time.Now()
			r.sayf("%s", speed.tell(s, told, told.Sub(started)))
		}
		if first.at.IsZero() {
			first = p
		}
		r.blockedMost = max(r.blockedMost, p.blockedFor)
		seconds := p.at.Sub(first.at).Seconds()
		switch {
		case p.blockedFor > settings.MaxBlocked:
			stop("%d sessions wait for it, the longest for %s (max_blocked is %s)", p.blocked, p.blockedFor.Round(time.Second), settings.MaxBlocked)
		case p.lag-first.lag > settings.MaxReplicationLag:
			stop("a standby is %s behind (max_replication_lag is %s)", size(p.lag), size(settings.MaxReplicationLag))
		case seconds > 3 && float64(p.rollbacks-first.rollbacks)/seconds > settings.MaxErrorRate+r.usualErrors:
			stop("%.0f transactions a second fail, %.0f before it began (max_error_rate)", float64(p.rollbacks-first.rollbacks)/seconds, r.usualErrors)
		default:
			continue
		}
		return
	}
}

// fullest is the place of the server's files with the least room, and how many
// bytes are free there; the most there can be when it is on another host.
func (r *run) fullest() (place string, least int64) {
	least = math.MaxInt64
	for name, directory := range map[string]string{"the data directory": r.dataDirectory, "pg_wal": filepath.Join(r.dataDirectory, "pg_wal")} {
		if free, _, ok := datadir.Space(directory); ok && r.dataDirectory != "" && free < least {
			place, least = name, free
		}
	}
	return place, least
}
