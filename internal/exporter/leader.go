package exporter

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"pg_integrity_exporter/internal/pg"
)

// leadership is the lock of the server that only one of several exporters has.
// It is an advisory lock of the session of the scrape, so it costs no connection
// and ends with the exporter, whatever ends that.
type leadership struct {
	repeating

	lane   *pg.Lane
	logger *slog.Logger
	parts  []part // what only the leader runs

	leads   atomic.Bool
	problem string   // why there is no lock to have; told once
	session *pg.Conn // the session that has the lock
	since   time.Time
}

const (
	// leaderInterval is how often the lock is looked for, and leaderTimeout how
	// long that may take.
	leaderInterval = 3 * time.Second
	leaderTimeout  = 3 * time.Second
	// leaderPause is how long the lock is held before its holder leads: the one
	// before it may have lost its session without noticing yet.
	leaderPause = leaderInterval + leaderTimeout

	// lockSQL takes the lock if nobody has it. The numbers are the exporter's own
	// ("pgie", then the kind of lock). No privilege; one lock in shared memory.
	lockSQL = "SELECT pg_catalog.pg_try_advisory_lock(1885825381, 1)"
)

func newLeadership(lane *pg.Lane, parts []part, logger *slog.Logger) *leadership {
	return &leadership{lane: lane, parts: parts, logger: logger}
}

// Start looks for the lock until Stop.
func (l *leadership) Start() { l.begin(leaderInterval, l.look) }

// Stop ends what only the leader does. The lock ends with the session.
func (l *leadership) Stop() {
	l.repeating.Stop()
	l.turn(false)
}

// look asks for the lock, or whether the session that has it is still there.
func (l *leadership) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	err := l.lane.Do(ctx, func(ctx context.Context, conn *pg.Conn) error {
		if conn.Facts.Pooled {
			return errors.New("leader: a lock does not stay with one session of a connection pooler: give the exporter the server's own address, or set leader.enabled to false")
		}
		if conn == l.session {
			return conn.Ping(ctx)
		}
		l.session = nil
		var got bool
		if err := conn.QueryRow(ctx, lockSQL).Scan(&got); err != nil {
			return err
		}
		if got {
			l.session, l.since = conn, time.Now()
		}
		return nil
	})
	// A server that hangs does not take the lock away; a closed session does.
	if l.session != nil && l.session.IsClosed() {
		l.session = nil
	}
	l.tell(err)
	l.turn(l.session != nil && time.Since(l.since) >= leaderPause)
}

// turn begins to lead, or ends it.
func (l *leadership) turn(leads bool) {
	if leads == l.leads.Load() {
		return
	}
	if leads {
		l.logger.Info("this exporter leads: it runs the checks of this server")
		for _, p := range l.parts {
			p.Start()
		}
		l.leads.Store(true)
		return
	}
	l.logger.Info("this exporter does not lead any more: another one may run the checks of this server")
	l.leads.Store(false)
	for _, p := range slices.Backward(l.parts) {
		p.Stop()
	}
}

// tell logs once why nobody can lead.
func (l *leadership) tell(err error) {
	problem := ""
	if err != nil && !errors.Is(err, context.Canceled) {
		problem = err.Error()
	}
	if problem != "" && problem != l.problem {
		l.logger.Warn("whether this exporter leads is not known", "err", problem)
	}
	l.problem = problem
}
