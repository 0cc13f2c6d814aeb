package schedule

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/state"
)

const (
	// feelInterval is how often the server's pulse is felt while checks run.
	feelInterval = time.Second
	// feelTimeout bounds it; a server that does not answer within it is under
	// pressure.
	feelTimeout = 5 * time.Second
	// maxHold is how long one read is held up at most: a server that is always
	// busy is checked slowly, but it is checked.
	maxHold = time.Minute
)

// Bounds say what the server must bear before the checks hold back; 0 is no
// bound.
type Bounds struct {
	// Latency is the longest round trip of a trivial statement.
	Latency time.Duration
	// ReplicationLag is the longest replay lag of a standby that streams from
	// this server.
	ReplicationLag time.Duration
}

// governor holds checks up while the server is under pressure.
type governor struct {
	lane   *pg.Lane
	bounds func() Bounds
	paused func(state.Pressure, time.Duration)
	logger *slog.Logger

	mu       sync.Mutex
	felt     time.Time
	pressure state.Pressure
}

// lagSQL is the largest replay lag of the standbys, in seconds. It reads shared
// memory only; a role without pg_monitor sees no lag.
const lagSQL = "SELECT coalesce(extract(epoch FROM max(replay_lag)), 0)::float8 FROM pg_catalog.pg_stat_replication"

// pace returns when the server can bear the next read.
func (g *governor) pace(ctx context.Context) {
	for started := time.Now(); time.Since(started) < maxHold; {
		pressure := g.feel(ctx)
		if pressure == "" {
			return
		}
		before := time.Now()
		select {
		case <-time.After(feelInterval):
		case <-ctx.Done():
			return
		}
		g.paused(pressure, time.Since(before))
	}
}

// feel measures the server, at most once a second for all checks together.
func (g *governor) feel(ctx context.Context) state.Pressure {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.felt) < feelInterval {
		return g.pressure
	}
	before := g.pressure
	g.pressure = g.measure(ctx, g.bounds())
	g.felt = time.Now()
	if g.pressure != "" && before == "" {
		g.logger.Info("checks hold back", "pressure", g.pressure)
	}
	if g.pressure == "" && before != "" {
		g.logger.Info("checks go on")
	}
	return g.pressure
}

func (g *governor) measure(ctx context.Context, bounds Bounds) state.Pressure {
	if bounds.Latency <= 0 && bounds.ReplicationLag <= 0 {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, feelTimeout)
	defer cancel()
	var took time.Duration
	var lag float64
	err := g.lane.Do(ctx, func(ctx context.Context, conn *pg.Conn) error {
		started := time.Now()
		if _, err := conn.Exec(ctx, "SELECT"); err != nil {
			return err
		}
		took = time.Since(started)
		if bounds.ReplicationLag <= 0 {
			return nil
		}
		return conn.QueryRow(ctx, lagSQL).Scan(&lag)
	})
	switch {
	case err != nil:
		// Out of time is pressure; a server that is gone ends the check anyway.
		if ctx.Err() != nil {
			return state.PressureLatency
		}
		return ""
	case bounds.Latency > 0 && took > bounds.Latency:
		return state.PressureLatency
	case bounds.ReplicationLag > 0 && lag > bounds.ReplicationLag.Seconds():
		return state.PressureReplicationLag
	}
	return ""
}
