package collector_test

import (
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/collector"
	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

// rhythmic scrapes a server at a regular pace.
type rhythmic struct {
	set     *collector.Set
	results *state.Target
	asked   atomic.Int64 // how often the server was asked
	next    time.Time
}

const pace = 400 * time.Millisecond

func startRhythmic(t *testing.T, server *pgtest.Server) *rhythmic {
	t.Helper()
	r := new(rhythmic)
	asked := &collector.Family{Name: "test_asked", Help: "How often the server was asked."}
	findings := &collector.Family{Name: "test_findings", Help: "Findings."}
	logger := slog.New(slog.DiscardHandler)
	target, err := pg.ResolveTarget(server.DSN("postgres"), pg.NoEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	if r.results, err = state.InMemory(logger).Target(target.Name()); err != nil {
		t.Fatal(err)
	}
	lane := pg.NewLane(target, collector.ScrapePurpose())
	t.Cleanup(lane.Close)
	r.set = collector.NewSet(lane, collector.Sources{Snapshot: r.results.Snapshot}, []collector.Collector{
		{Name: "asked", Families: []*collector.Family{asked}, SQL: func(pg.Facts) string { return "SELECT 1" }, Scan: func(rows pgx.Rows, sink *collector.Sink) error {
			sink.Add(asked, float64(r.asked.Add(1)))
			rows.Close()
			return rows.Err()
		}},
		{Name: "findings", Families: []*collector.Family{findings}, Kept: func(snapshot *state.Snapshot, sink *collector.Sink) {
			sink.Add(findings, float64(len(snapshot.Findings)))
		}},
	}, logger)
	t.Cleanup(r.set.Close)
	r.set.Ahead(100 * time.Millisecond)
	r.next = time.Now()
	return r
}

// scrape scrapes at the next beat, after what is done a moment before it, when the
// server has been asked.
func (r *rhythmic) scrape(t *testing.T, before func()) (page samples, age float64) {
	t.Helper()
	r.next = r.next.Add(pace)
	time.Sleep(time.Until(r.next.Add(-30 * time.Millisecond)))
	before()
	time.Sleep(time.Until(r.next))
	page = scrape(t, r.set, 5*time.Second)
	age, found := page.get("pgintegrity_scrape_age_seconds")
	if !found || age < 0 || age > 0.2 {
		t.Fatalf("the age is %v, %v", age, found)
	}
	return page, age
}

// ahead scrapes until a scrape was answered with what was collected before it.
func (r *rhythmic) ahead(t *testing.T, before func()) (page samples) {
	t.Helper()
	for range 50 {
		page, age := r.scrape(t, before)
		if age > 0.03 {
			return page
		}
	}
	t.Fatal("the server was never asked ahead")
	return nil
}

// TestAhead holds that scrapes which come regularly are answered with what the
// server said shortly before, and that this costs no statement, gives nothing twice,
// and hides neither what the exporter finds out meanwhile nor a server that is gone.
func TestAhead(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	r := startRhythmic(t, server)
	last := 0.0
	scrapes := int64(0)
	once := func(page samples) {
		t.Helper()
		scrapes++
		asked, found := page.get("test_asked")
		if !found || asked <= last {
			t.Errorf("asked %v times after %v", asked, last)
		}
		last = asked
		if up, _ := page.get("pgintegrity_up"); up != 1 {
			t.Error("the server counts as down")
		}
	}
	r.ahead(t, func() {})
	last = float64(r.asked.Load())
	begun := r.asked.Load()
	missed := int64(0)
	for range 10 {
		page, age := r.scrape(t, func() {})
		once(page)
		if age == 0 {
			missed++ // it came at another time, under load
		}
	}
	if asked := r.asked.Load() - begun; asked > scrapes+missed+1 {
		t.Errorf("the server was asked %d times for %d scrapes, of which %d came at another time", asked, scrapes, missed)
	}

	n := 0
	page := r.ahead(t, func() {
		n++
		finding := check.Finding{Check: state.CheckLog, Class: check.ClassCorruption, Severity: check.SeverityCritical, Fingerprint: string(rune('a' + n))}
		r.results.Report([]state.Finding{{Finding: finding, FirstSeen: time.Now(), LastSeen: time.Now()}})
	})
	if told, _ := page.get("test_findings"); int(told) != n {
		t.Errorf("%v findings are told, not %d", told, n)
	}
	once(page)

	time.Sleep(pace / 3)
	page = scrape(t, r.set, 5*time.Second)
	if age, _ := page.get("pgintegrity_scrape_age_seconds"); age != 0 {
		t.Errorf("a scrape that nobody expected is answered with what is %v seconds old", age)
	}
	once(page)

	r.next = time.Now()
	r.ahead(t, func() {})
	if err := server.Stop(pgtest.Immediate); err != nil {
		t.Fatal(err)
	}
	r.scrape(t, func() {}) // it may have been asked before
	for range 4 {
		page, age := r.scrape(t, func() {})
		if up, _ := page.get("pgintegrity_up"); up != 0 || age > 0.1 {
			t.Errorf("a server that was stopped is up: %v, age %v", up, age)
		}
	}
}
