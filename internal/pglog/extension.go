package pglog

import (
	"context"
	"maps"
	"time"
)

// Extension is what the extension logerrors of the server tells at one moment.
type Extension struct {
	// Now is the server's clock, and Epoch when the extension began to count from 0:
	// at the server's start, after a crash, or because somebody reset it.
	Now   time.Time
	Epoch string
	// Totals counts messages since Epoch, modulo 2^32. It is always up to date.
	Totals map[Severity]uint32
	// Last has the messages of the last interval that is over, Window those of all
	// intervals that are kept; of each interval 1024 messages at most.
	Last, Window map[ExtensionKey]uint32
	// Interval and Kept are how long an interval and all that are kept together last.
	Interval, Kept time.Duration
}

// ExtensionKey tells the counts of the extension apart. Database and User are
// empty for a process that has none.
type ExtensionKey struct {
	Severity                 Severity
	SQLState, Database, User string
}

// ExtensionPosition is what of the extension's counts was counted.
type ExtensionPosition struct {
	Epoch   string              `json:"epoch"`
	Counted map[Severity]uint32 `json:"counted"`
	// Since is when it began to be followed, Until when it was last looked at, by the
	// server's clock: messages between the two were counted.
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
}

// has says whether a message of the log itself was counted already. Of one whose
// time is not known, older says that it was there before the log was followed.
func (p *ExtensionPosition) has(m *Message, older bool) bool {
	if p == nil {
		return false
	}
	t := m.time()
	if t.IsZero() {
		return older
	}
	return t.After(p.Since) && !t.After(p.Until)
}

// ExtensionReader counts by the extension logerrors what is in a log that cannot
// be read. How many messages there were is exact. Which SQLSTATE and database
// they had the extension tells once their interval is over; when it does not,
// because there were too many or nobody looked, they count as UnknownState.
type ExtensionReader struct {
	// Commit keeps a batch.
	Commit func(Batch)
	// Report is told how the reader fares, at every change.
	Report func(Status)

	source   string
	ask      func(ctx context.Context) (Extension, error)
	position ExtensionPosition
	counts   *counts
	status   Status
	before   Extension // the last look
	ended    time.Time // when the interval that was counted last ended, at the latest
	looks    []look
}

// look remembers the totals at a moment.
type look struct {
	at     time.Time
	totals map[Severity]uint32
}

// NewExtensionReader goes on from a position; nil begins now.
func NewExtensionReader(source string, ask func(ctx context.Context) (Extension, error), position *ExtensionPosition, labels *Labels) *ExtensionReader {
	r := &ExtensionReader{source: source, ask: ask, counts: newCounts(labels)}
	if position != nil {
		r.position = *position
	}
	return r
}

// Run looks again and again until ctx ends.
func (r *ExtensionReader) Run(ctx context.Context) {
	for {
		before := r.status
		now, err := r.ask(ctx)
		if ctx.Err() != nil {
			break
		}
		r.status.Up, r.status.Problem, r.status.Path = err == nil, "", "the extension logerrors"
		if err != nil {
			r.status.Problem = err.Error()
		} else {
			r.take(now)
		}
		if r.status != before {
			r.Report(r.status)
		}
		select {
		case <-time.After(min(max(now.Interval/4, pollInterval), time.Second)):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	// Whoever counts next begins behind this.
	r.giveUp(r.before.Totals)
	r.keep(false)
}

// take counts what is new.
func (r *ExtensionReader) take(now Extension) {
	known := r.before.Epoch != "" // a look before this one
	begun := r.position.Epoch == ""
	fresh := !begun && r.position.Epoch != now.Epoch
	switch {
	case begun:
		r.position = ExtensionPosition{Since: now.Now, Counted: maps.Clone(now.Totals)}
	case fresh:
		r.giveUp(r.before.Totals)
		r.position.Counted = make(map[Severity]uint32)
		r.looks = nil
	default:
		for severity := range now.Totals {
			if r.pending(severity, now.Totals) > 1<<31 {
				return // it is being reset at this moment
			}
		}
	}
	gap := now.Now.Sub(r.position.Until)
	r.position.Epoch = now.Epoch
	switch {
	case fresh || !known && gap > now.Kept:
		// Nothing of what is kept was counted.
		r.attribute(now.Window, now.Totals)
		r.ended = now.Now
	case !known:
		r.ended = now.Now
	case !maps.Equal(now.Last, r.before.Last) || !maps.Equal(now.Window, r.before.Window):
		r.attribute(now.Last, now.Totals)
		r.ended = now.Now
	case now.Now.Sub(r.ended) > now.Interval+now.Interval/2:
		// Another interval is over, and looks like the one before.
		r.attribute(now.Last, now.Totals)
		r.ended = r.ended.Add(now.Interval)
	}
	// Two intervals later there is nothing more to come about a message.
	r.looks = append(r.looks, look{now.Now, now.Totals})
	for len(r.looks) > 0 && now.Now.Sub(r.looks[0].at) > 2*now.Interval+time.Second {
		r.giveUp(r.looks[0].totals)
		r.looks = r.looks[1:]
	}
	r.before = now
	r.keep(begun || fresh)
}

// pending is how many messages of the totals were not counted.
func (r *ExtensionReader) pending(severity Severity, totals map[Severity]uint32) uint32 {
	return totals[severity] - r.position.Counted[severity]
}

// attribute counts messages of which the SQLSTATE is known, never more than there
// were.
func (r *ExtensionReader) attribute(rows map[ExtensionKey]uint32, totals map[Severity]uint32) {
	for key, n := range rows {
		if n = min(n, r.pending(key.Severity, totals)); n > 0 {
			r.count(key, n)
		}
	}
}

// giveUp counts messages of the totals whose SQLSTATE will not be known.
func (r *ExtensionReader) giveUp(totals map[Severity]uint32) {
	for severity := range totals {
		if n := r.pending(severity, totals); n > 0 && n < 1<<31 {
			r.count(ExtensionKey{Severity: severity, SQLState: UnknownState, Database: OtherDatabases}, n)
		}
	}
}

func (r *ExtensionReader) count(key ExtensionKey, n uint32) {
	r.position.Counted[key.Severity] += n
	r.counts.addMany(key, uint64(n))
	r.status.LastMessage = time.Now()
}

// keep commits what was counted since the last time. Where nothing was, what was
// kept before is still right.
func (r *ExtensionReader) keep(begun bool) {
	if !begun && r.counts.empty() {
		return
	}
	r.position.Until = r.before.Now
	kept := r.position
	kept.Counted = maps.Clone(kept.Counted)
	r.Commit(r.counts.batch(r.source, Position{Extension: &kept}, false))
}
