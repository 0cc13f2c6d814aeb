package collector_test

import (
	"log/slog"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pg_integrity_exporter/collector"
	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/state"
)

// took are the series that differ from scrape to scrape.
var took = regexp.MustCompile(`(?m)^pgintegrity_scrape_collector_duration_seconds.*$`)

// TestKept changes everything that the state can change, and compares each time
// the page of a set that keeps with that of one that has kept nothing.
func TestKept(t *testing.T) {
	t.Parallel()
	logger := slog.New(slog.DiscardHandler)
	target, err := pg.ResolveTarget("postgresql://nobody@127.0.0.1:1/postgres", pg.NoEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	results, err := state.InMemory(logger).Target(target.Name())
	if err != nil {
		t.Fatal(err)
	}
	lane := pg.NewLane(target, collector.ScrapePurpose())
	t.Cleanup(lane.Close)
	leads := true
	sources := collector.Sources{
		Snapshot: results.Snapshot, Accumulate: results.Accumulate, Reloaded: func() (bool, time.Time) { return true, time.Unix(1, 0) },
		Leads: func() bool { return leads },
	}
	collectors := collector.All(sources)
	for i, c := range collectors {
		collectors[i].Leader = c.Name == "check"
	}
	keeping := collector.NewSet(lane, sources, collectors, logger)
	now := time.Unix(1700000000, 0)
	finding := check.Finding{
		Check: "btree", Class: check.ClassCorruption, Severity: check.SeverityCritical, Database: "erp", Schema: "s", Relation: "t", Fingerprint: "f",
	}
	result := check.Result{Check: "btree", Database: "erp", Outcome: check.OutcomeFindings, Started: now, Finished: now.Add(time.Second), Whole: true, Findings: []check.Finding{finding}}
	part := result
	part.Findings = append(part.Findings, check.Finding{
		Check: "btree", Class: check.ClassCorruption, Severity: check.SeverityCritical, Database: "erp", Schema: "s", Relation: "u", Fingerprint: "g",
	})
	counter := pglog.Counter{Kind: pglog.CountErrors, Database: "erp", SQLState: "40001"}
	before := ""
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"plan", func() {
			results.Plan([]string{"erp"}, []state.Planned{{Check: "btree", Database: "erp", Interval: time.Hour}})
		}},
		{"result", func() { results.RecordResult(result, true) }},
		{"part of a result", func() { results.RecordPart(part) }},
		{"missed slot", func() { results.MissedSlot("btree") }},
		{"counts", func() {
			results.CommitLog(pglog.Batch{Source: "log", Counts: map[pglog.Counter]uint64{counter: 2}}, nil)
		}},
		{"status of the reader", func() { results.LogStatus(pglog.Status{Up: true, ReadBytes: 7}) }},
		{"names", func() { results.LogNames([]string{"shop"}, []string{"clerk"}) }},
		{"blindness", func() { results.LogBlindness([]pglog.Blindness{{Reason: pglog.BlindReasons()[0]}}, nil) }},
		{"pressure", func() { results.Held(state.PressureLatency, time.Second) }},
		{"report", func() {
			results.Report([]state.Finding{{Finding: check.Finding{
				Check: state.CheckLog, Class: check.ClassCorruption, Severity: check.SeverityCritical, Database: "erp", Schema: "s", Relation: "v", Fingerprint: "h",
			}, FirstSeen: now, LastSeen: now}})
		}},
		{"limit", func() { results.Limit(1) }},
		{"another leader", func() { leads = false }},
	} {
		step.do()
		fresh := collector.NewSet(lane, sources, collectors, logger)
		want := took.ReplaceAllString(scrape(t, fresh, 5*time.Second).text(t), "")
		for range 5 { // made, kept, and kept in less room
			got := took.ReplaceAllString(scrape(t, keeping, 5*time.Second).text(t), "")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", step.name, diff)
			}
		}
		if want == before {
			t.Errorf("%s: the page did not change", step.name)
		}
		before = want
	}
	revision := results.Snapshot().Revision
	results.CommitLog(pglog.Batch{Source: "log"}, nil)
	results.Accumulate("x", 1)
	if results.Snapshot().Revision != revision {
		t.Error("the page is made anew for what it does not show")
	}
}
