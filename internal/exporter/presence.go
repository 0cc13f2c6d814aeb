package exporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/state"
)

const (
	// presenceInterval is how often it is asked whether the server is there.
	presenceInterval = 5 * time.Second
	// maxUnanswered is how many questions in a row may find no answer in time
	// before the server counts as down. A refused connection counts at once.
	maxUnanswered = 3
	// presenceKind and presenceName are where what was last seen is kept.
	presenceKind, presenceName = "server", "presence"
)

// seen is what was last seen of a server. It outlives the exporter, so that a
// restart in its absence is noticed.
type seen struct {
	Started time.Time `json:"started"`
	Down    bool      `json:"down"`
}

// presence writes down when a server goes, comes back and was restarted.
type presence struct {
	repeating

	lane    *pg.Lane // that of the scrape: no connection of its own
	results *state.Target

	unanswered int
}

func newPresence(lane *pg.Lane, results *state.Target) *presence {
	return &presence{lane: lane, results: results}
}

func (p *presence) Start() { p.begin(presenceInterval, p.look) }

// look asks the server when it was started. It needs no privilege.
func (p *presence) look(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, presenceInterval)
	defer cancel()
	var started time.Time
	err := p.lane.Do(limited, func(ctx context.Context, conn *pg.Conn) error {
		return conn.QueryRow(ctx, "SELECT pg_postmaster_start_time()").Scan(&started)
	})
	if ctx.Err() != nil {
		return
	}
	var before seen
	known, getErr := p.results.Files().Get(presenceKind, presenceName, &before)
	if getErr != nil {
		known = false // written anew
	}
	now, event := p.compare(before, known, started, err)
	if event.Kind != "" {
		p.results.Record(event)
	}
	if now != before {
		// What cannot be kept is told again after a restart of the exporter.
		_ = p.results.Files().Put(presenceKind, presenceName, now)
	}
}

// compare says what is known now, and what has happened.
func (p *presence) compare(before seen, known bool, started time.Time, err error) (now seen, event state.Event) {
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			p.unanswered++
		} else {
			p.unanswered = maxUnanswered
		}
		if before.Down || p.unanswered < maxUnanswered {
			return before, event
		}
		return seen{before.Started, true}, state.Event{
			Kind: state.EventServerDown, Severity: check.SeverityCritical, Message: "the server does not answer: " + err.Error(), Source: "a connection",
		}
	}
	p.unanswered = 0
	now = seen{Started: started.UTC()}
	const source = "pg_postmaster_start_time()"
	switch {
	case known && !before.Started.IsZero() && !before.Started.Equal(now.Started):
		event = state.Event{
			Kind: state.EventServerRestarted, Message: fmt.Sprintf("the server was started at %s; before, it had run since %s", moment(started), moment(before.Started)), Source: source,
			Details: map[string]string{"started": moment(started), "started_before": moment(before.Started)},
		}
	case before.Down:
		event = state.Event{Kind: state.EventServerUp, Message: "the server answers again; it was started at " + moment(started), Source: source}
	}
	return now, event
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }
