package pglog

import (
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"
)

// logerrors acts like the extension: a ring of intervals, each of which holds 1024
// messages, and totals. The test of package logwatch runs the extension itself
// where it is installed.
type logerrors struct {
	now, next time.Time
	epoch     int
	ring      []map[ExtensionKey]uint32
	in        int // messages in the current interval
	totals    map[Severity]uint32
}

const (
	modelInterval = 5 * time.Second
	modelKept     = 12
)

func (e *logerrors) reset() {
	e.epoch++
	e.ring = []map[ExtensionKey]uint32{{}}
	e.in, e.totals = 0, map[Severity]uint32{Warning: 0, Error: 0, Fatal: 0}
	e.next = e.now.Add(modelInterval)
}

func (e *logerrors) pass(d time.Duration) {
	for e.now = e.now.Add(d); !e.now.Before(e.next); e.next = e.next.Add(modelInterval + 3*time.Millisecond) {
		e.ring = append(e.ring, map[ExtensionKey]uint32{})
		e.in = 0
	}
}

func (e *logerrors) log(key ExtensionKey) {
	e.totals[key.Severity]++
	if e.in++; e.in <= 1024 {
		e.ring[len(e.ring)-1][key]++
	}
}

func (e *logerrors) look() Extension {
	seen := Extension{
		Now: e.now, Epoch: strconv.Itoa(e.epoch), Totals: maps.Clone(e.totals), Interval: modelInterval, Kept: modelKept * modelInterval,
		Last: map[ExtensionKey]uint32{}, Window: map[ExtensionKey]uint32{},
	}
	over := e.ring[:len(e.ring)-1]
	if len(over) > 0 {
		seen.Last = maps.Clone(over[len(over)-1])
	}
	for _, interval := range over[max(0, len(over)-modelKept):] {
		for key, n := range interval {
			seen.Window[key] += n
		}
	}
	return seen
}

// follower is a reader of the model with what it has committed.
type modelReader struct {
	*ExtensionReader

	kept    *ExtensionPosition
	counted map[Counter]uint64
}

func (m *modelReader) begin() {
	m.ExtensionReader = NewExtensionReader("logerrors", nil, m.kept, NewLabels(nil, nil, nil))
	m.Commit = func(b Batch) {
		m.kept = b.Position.Extension
		for counter, n := range b.Counts {
			m.counted[counter] += n
		}
	}
}

func (m *modelReader) sum(which func(c Counter) bool) (n uint64) {
	for counter, count := range m.counted {
		if counter.Kind == CountMessages && which(counter) {
			n += count
		}
	}
	return n
}

func (m *modelReader) unknown() uint64 {
	return m.sum(func(c Counter) bool { return c.Database == OtherDatabases })
}

// TestExtensionReader holds that no message counts twice and none is missed,
// whatever comes: storms, quiet hours, resets, and an exporter that is killed or
// does not come round to look. Where nothing goes wrong all have their SQLSTATE.
func TestExtensionReader(t *testing.T) {
	t.Parallel()
	keys := []ExtensionKey{
		{Error, "22012", "a", "u"}, {Error, "XX001", "b", "u"}, {Fatal, "53300", "", ""}, {Warning, "01000", "a", "v"}, {Error, "22012", "b", "v"},
	}
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 4))
		calm := seed%3 == 0
		server := &logerrors{now: time.Unix(1_800_000_000, 0)}
		server.reset()
		server.log(keys[0])
		r := &modelReader{counted: make(map[Counter]uint64)}
		r.begin()
		r.take(server.look())
		logged := uint64(0)
		steady := random.IntN(4)
		for range 1500 {
			n := steady
			switch {
			case calm && steady == 3:
				n = random.IntN(20)
			case calm:
			case random.IntN(100) == 0:
				n = random.IntN(3000)
			case random.IntN(3) > 0:
				n = 0
			}
			jitter := random.IntN(50)
			for range n {
				key := keys[random.IntN(len(keys))]
				if calm && steady < 3 {
					key, jitter = keys[0], 0 // every interval looks like the one before
				}
				server.log(key)
				logged++
			}
			if !calm {
				switch random.IntN(60) {
				case 0:
					r.take(server.look())
					server.reset()
				case 1:
					r.begin() // killed
				case 2:
					server.pass(time.Duration(random.IntN(200)) * time.Second)
				}
			}
			server.pass(time.Second + time.Duration(jitter)*time.Millisecond)
			r.take(server.look())
			if got := r.sum(func(Counter) bool { return true }); got > logged {
				t.Fatalf("seed %d: %d counted of %d", seed, got, logged)
			}
		}
		for range 12 {
			server.pass(time.Second)
			r.take(server.look())
		}
		if got := r.sum(func(Counter) bool { return true }); got != logged {
			t.Fatalf("seed %d: %d counted of %d", seed, got, logged)
		}
		if unknown := r.unknown(); calm && unknown > 0 {
			t.Errorf("seed %d: %d of %d without SQLSTATE", seed, unknown, logged)
		}
		// After a restart of the server, and when nobody looked for longer than
		// anything is kept.
		unknown := r.unknown()
		for _, restarted := range []bool{true, false} {
			if restarted {
				server.reset()
			}
			server.pass(2 * modelKept * modelInterval)
			server.log(keys[0])
			server.pass(modelInterval)
			server.log(keys[0])
			server.pass(modelInterval)
			r.begin()
			for range 20 {
				r.take(server.look())
				server.pass(time.Second)
			}
			if got := r.unknown(); got != unknown {
				t.Errorf("seed %d: %d without SQLSTATE", seed, got-unknown)
			}
		}
	}
}
