package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/drill"
	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/state"
)

// again lets the next line take the place of the last one.
const again = "\r\x1b[K"

// progress is a line for somebody who watches; the next one takes its place. What
// ended well leaves none: the table tells it in the end.
func progress(r check.Result) string {
	where := r.Check
	if r.Database != "" {
		where += " in " + strconv.Quote(r.Database)
	}
	switch r.Outcome {
	case check.OutcomeOK, check.OutcomeSkipped:
		return again
	case check.OutcomeFindings, check.OutcomeFailed:
		return fmt.Sprintf("%s%s: %s after %.1f s\n", again, where, r.Outcome, r.Seconds)
	}
	share := min(float64(r.Bytes)/float64(max(r.TotalBytes, 1)), 1)
	if share < 0.02 { // too early to tell
		return fmt.Sprintf("%s%s: %.0f s", again, where, r.Seconds)
	}
	left := time.Duration(r.Seconds * (1 - share) / share * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%s%s: %.0f %%, about %s left", again, where, 100*share, left)
}

// drillPace estimates the end of a drill by how long the phases of the last one
// took.
type drillPace struct {
	// last are the phases of the last drill, in order.
	last []recovery.PhaseReport
	// phase is what runs, since when.
	phase string
	since time.Time
}

// line is what somebody who watches sees at a moment.
func (p drillPace) line(now time.Time) string {
	passed := now.Sub(p.since)
	text := fmt.Sprintf("%sdrill: %s, %.0f s", again, p.phase, passed.Seconds())
	left, reached := time.Duration(0), false
	for _, l := range p.last {
		took := time.Duration(l.Seconds * float64(time.Second))
		if l.Phase == p.phase {
			reached, took = true, max(took-passed, 0)
		}
		if reached {
			left += took
		}
	}
	if !reached {
		return text
	}
	return text + fmt.Sprintf(", about %s left by the last drill", left.Round(time.Second))
}

// followDrill shows how far a drill is until stop is called.
func followDrill(w io.Writer, options *drill.Options, files *state.Files) (stop func()) {
	var pace drillPace
	if history, err := recovery.LoadHistory(files, options.Watched.Name); err == nil && history.Last != nil && history.Last.Proved() {
		pace.last = history.Last.Phases
	}
	begun, done := make(chan string), make(chan struct{})
	ended := make(chan struct{})
	options.Begin = func(phase string) { begun <- phase }
	go func() {
		defer close(ended)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case pace.phase = <-begun:
				pace.since = time.Now()
			case <-ticker.C:
			case <-done:
				fmt.Fprint(w, again)
				return
			}
			if pace.phase != "" {
				fmt.Fprint(w, pace.line(time.Now()))
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}
