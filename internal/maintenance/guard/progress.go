package guard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

// progressInterval is how often people are told how far a statement is.
const progressInterval = 10 * time.Second

// progressSQL asks how far the sessions of this run are. Statistics views only;
// the guard's role sees its own sessions.
const progressSQL = `SELECT p.command || ', ' || p.phase, p.done, p.total FROM (
		SELECT pid, command, phase, blocks_done AS done, blocks_total AS total FROM pg_stat_progress_create_index
		UNION ALL SELECT pid, 'VACUUM', phase, heap_blks_scanned, heap_blks_total FROM pg_stat_progress_vacuum
		UNION ALL SELECT pid, command, phase, heap_blks_scanned, heap_blks_total FROM pg_stat_progress_cluster
		UNION ALL SELECT pid, 'ANALYZE', phase, sample_blks_scanned, sample_blks_total FROM pg_stat_progress_analyze
	) p JOIN pg_stat_activity a USING (pid) WHERE a.application_name = $1 LIMIT 1`

// stage is how far a statement is in its present phase; without a name the server
// does not say.
type stage struct {
	name        string
	done, total int64
}

func readStage(ctx context.Context, conn *pg.Conn, application string) (stage, error) {
	var s stage
	err := conn.QueryRow(ctx, progressSQL, application).Scan(&s.name, &s.done, &s.total)
	if errors.Is(err, pgx.ErrNoRows) {
		return stage{}, nil
	}
	if err != nil {
		return stage{}, fmt.Errorf("asking how far it is: %w", err)
	}
	return s, nil
}

// pace estimates the end of a phase by how fast it went so far.
type pace struct {
	first stage
	since time.Time
}

// tell says how far a statement is at a moment, and how long its phase still takes.
func (p *pace) tell(s stage, now time.Time, running time.Duration) string {
	if s.name == "" || s.total <= 0 {
		return fmt.Sprintf("%s so far", running.Round(time.Second))
	}
	if s.name != p.first.name || s.total != p.first.total || s.done < p.first.done {
		p.first, p.since = s, now
	}
	text := fmt.Sprintf("%s: %.0f %%", s.name, 100*float64(s.done)/float64(s.total))
	if made := s.done - p.first.done; made > 0 {
		left := time.Duration(float64(now.Sub(p.since)) * float64(s.total-s.done) / float64(made))
		text += fmt.Sprintf(", about %s left in this phase", left.Round(time.Second))
	}
	return text
}
