package state_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/state"
)

func open(t *testing.T, directory string) (*state.Store, *state.Target) {
	t.Helper()
	store, err := state.Open(directory, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	target, err := store.Target("127.0.0.1:5432")
	if err != nil {
		t.Fatal(err)
	}
	return store, target
}

func closeStore(t *testing.T, store *state.Store) {
	t.Helper()
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

var division = pglog.Counter{Kind: pglog.CountErrors, Database: "erp", SQLState: "22xxx"}

func findings(seen time.Time) []state.Finding {
	f := check.LogFinding(pglog.Event{Kind: pglog.InvalidPage, SQLState: "XX001"}, "erp", check.RelationName{Schema: "ledger", Name: "postings"})
	return []state.Finding{{Finding: f, FirstSeen: seen, LastSeen: seen}}
}

// TestStateSurvives holds that everything is there after a restart.
func TestStateSurvives(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	store, target := open(t, directory)
	now := time.Now()
	target.Plan([]string{"erp"}, []state.Planned{{Check: "heap", Database: "erp", Interval: time.Hour}})
	target.RecordResult(check.Result{
		Check: "heap", Database: "erp", Outcome: check.OutcomeOK, Started: now.Add(-time.Second), Finished: now, Objects: 3, Bytes: 4096, TotalBytes: 4096, Whole: true,
	}, true)
	position := pglog.Position{Path: "/log/a.json", Inode: 7, Offset: 42}
	target.CommitLog(pglog.Batch{Counts: map[pglog.Counter]uint64{division: 3}, Source: "log", Position: position}, findings(now))
	if got := target.Accumulate("checksum_failures", 5); got != 5 {
		t.Errorf("the counter begins at %v", got)
	}
	if got := target.Accumulate("checksum_failures", 2); got != 7 {
		t.Errorf("after the server set its counter back to 2 ours is %v, not 7", got)
	}
	closeStore(t, store)

	store, target = open(t, directory)
	defer closeStore(t, store)
	snapshot := target.Snapshot()
	if snapshot.Counters[division] != 3 || target.LogPosition("log") != position {
		t.Errorf("%d errors, position %+v", snapshot.Counters[division], target.LogPosition("log"))
	}
	if len(snapshot.Findings) != 1 || snapshot.Findings[0].Relation != "postings" || !snapshot.Findings[0].FirstSeen.Equal(now) {
		t.Errorf("findings %+v", snapshot.Findings)
	}
	if len(snapshot.Checks) != 1 || snapshot.Checks[0].LastSuccess.IsZero() || snapshot.Checks[0].Interval != time.Hour {
		t.Errorf("checks %+v", snapshot.Checks)
	}
	if got := target.Accumulate("checksum_failures", 4); got != 9 {
		t.Errorf("the counter goes on at %v, not 9", got)
	}
}

// TestFindingsClear holds which results take a finding away.
func TestFindingsClear(t *testing.T) {
	t.Parallel()
	now := time.Now()
	postings := check.RelationName{Schema: "ledger", Name: "postings"}
	for name, c := range map[string]struct {
		result check.Result
		whole  bool
		want   bool // the finding stays
	}{
		"verified":                {check.Result{Check: "heap", Database: "erp", Outcome: check.OutcomeOK, Started: now.Add(time.Second), Reads: true, Verified: []check.RelationName{postings}}, false, false},
		"not read":                {check.Result{Check: "catalog", Database: "erp", Outcome: check.OutcomeOK, Started: now.Add(time.Second), Verified: []check.RelationName{postings}}, false, true},
		"verified before":         {check.Result{Check: "heap", Database: "erp", Outcome: check.OutcomeOK, Started: now.Add(-time.Second), Reads: true, Verified: []check.RelationName{postings}}, false, true},
		"another relation":        {check.Result{Check: "heap", Database: "erp", Outcome: check.OutcomeOK, Started: now.Add(time.Second), Verified: []check.RelationName{{Schema: "ledger", Name: "accounts"}}}, false, true},
		"another database":        {check.Result{Check: "heap", Database: "crm", Outcome: check.OutcomeOK, Started: now.Add(time.Second), Reads: true, Verified: []check.RelationName{postings}}, false, true},
		"the check could not run": {check.Result{Check: "heap", Database: "erp", Outcome: check.OutcomeFailed, Started: now.Add(time.Second)}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target, err := state.InMemory(slog.New(slog.DiscardHandler)).Target("x")
			if err != nil {
				t.Fatal(err)
			}
			target.Report(findings(now))
			target.RecordResult(c.result, c.whole)
			if got := len(target.Snapshot().Findings) == 1; got != c.want {
				t.Errorf("the finding stays: %t, want %t", got, c.want)
			}
		})
	}
}

// TestDoubtfulFindings holds that what an old log tells is shown only when it
// is told again, or when no check can look.
func TestDoubtfulFindings(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		then func(target *state.Target)
		want bool // the finding is shown
	}{
		"nothing":    {func(*state.Target) {}, false},
		"told again": {func(target *state.Target) { target.Report(findings(now)) }, true},
		"no check can look": {func(target *state.Target) {
			target.RecordResult(check.Result{Check: "heap", Database: "erp", Outcome: check.OutcomeSkipped, Reads: true}, false)
		}, true},
		"a check that does not read": {func(target *state.Target) {
			target.RecordResult(check.Result{Check: "catalog", Database: "erp", Outcome: check.OutcomeFailed}, false)
		}, false},
		"another database": {func(target *state.Target) {
			target.RecordResult(check.Result{Check: "heap", Database: "crm", Outcome: check.OutcomeSkipped, Reads: true}, false)
		}, false},
		"a check could look": {func(target *state.Target) {
			target.RecordResult(check.Result{Check: "heap", Database: "erp", Outcome: check.OutcomeOK}, false)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target, err := state.InMemory(slog.New(slog.DiscardHandler)).Target("x")
			if err != nil {
				t.Fatal(err)
			}
			target.Limit(10)
			old := findings(now)
			old[0].Doubtful = true
			target.Report(old)
			c.then(target)
			if objects, _ := target.Snapshot().Objects(); (len(objects) == 1) != c.want {
				t.Errorf("shown: %v, want %t", objects, c.want)
			}
		})
	}
}

// TestSnapshotsDoNotChange holds that what a scrape reads stays as it was.
func TestSnapshotsDoNotChange(t *testing.T) {
	t.Parallel()
	target, err := state.InMemory(slog.New(slog.DiscardHandler)).Target("x")
	if err != nil {
		t.Fatal(err)
	}
	target.CommitLog(pglog.Batch{Counts: map[pglog.Counter]uint64{division: 1}, Source: "log", Position: pglog.Position{}}, nil)
	before := target.Snapshot()
	target.CommitLog(pglog.Batch{Counts: map[pglog.Counter]uint64{division: 1}, Source: "log", Position: pglog.Position{}}, findings(time.Now()))
	if before.Counters[division] != 1 || len(before.Findings) != 0 {
		t.Errorf("an earlier snapshot changed: %d errors, %d findings", before.Counters[division], len(before.Findings))
	}
	if after := target.Snapshot(); after.Counters[division] != 2 || len(after.Findings) != 1 {
		t.Errorf("%d errors, %d findings", after.Counters[division], len(after.Findings))
	}
}

// TestDamagedState holds that a state file that is none is told, and is not
// overwritten.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	path := filepath.Join(directory, "state.db")
	garbage := bytes.Repeat([]byte("no database "), 2000)
	if err := os.WriteFile(path, garbage, 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := state.Open(directory, slog.New(slog.DiscardHandler))
	if err == nil {
		closeStore(t, store)
		t.Fatal("opened")
	}
	if !strings.Contains(err.Error(), "--state.path") {
		t.Errorf("it does not say what to do: %v", err)
	}
	if content, err := os.ReadFile(path); err != nil || !bytes.Equal(content, garbage) {
		t.Errorf("the file was changed (%v)", err)
	}
}

// TestFindingsAreEvents finds the opening and the clearing of a finding in the
// timeline, each once.
func TestFindingsAreEvents(t *testing.T) {
	t.Parallel()
	store, target := open(t, t.TempDir())
	defer closeStore(t, store)
	now := time.Now()
	f := findings(now.Add(-time.Minute))
	target.CommitLog(pglog.Batch{Counts: nil, Source: "log", Position: pglog.Position{}}, f)
	target.CommitLog(pglog.Batch{Counts: nil, Source: "log", Position: pglog.Position{}}, f)
	target.RecordResult(check.Result{
		Check: "heap", Database: "erp", Outcome: check.OutcomeOK, Started: now, Finished: now, Reads: true,
		Verified: []check.RelationName{{Schema: "ledger", Name: "postings"}},
	}, false)
	events, err := target.Files().Events(now.Add(-time.Hour), now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []state.EventKind
	for _, e := range events {
		kinds = append(kinds, e.Kind)
		if e.Relation != "postings" || e.Details["fingerprint"] != f[0].Fingerprint {
			t.Errorf("the event does not name the finding: %+v", e)
		}
	}
	if len(kinds) != 2 || kinds[0] != state.EventFindingOpened || kinds[1] != state.EventFindingCleared {
		t.Errorf("events: %q", kinds)
	}
}

// TestLastGood dates damage between the last run that did not find it and the
// one that did, and keeps that when it is found again.
func TestLastGood(t *testing.T) {
	t.Parallel()
	_, target := open(t, t.TempDir())
	target.Plan([]string{"erp"}, []state.Planned{{Check: "heap", Database: "erp", Interval: time.Hour}})
	start := time.Now().Add(-time.Hour)
	damaged := findings(start)[0].Finding
	damaged.Check, damaged.Fingerprint = "heap", "x"
	for i := range 4 {
		result := check.Result{
			Check: "heap", Database: "erp", Outcome: check.OutcomeOK, Whole: true, Reads: true,
			Started: start.Add(time.Duration(i) * time.Minute), Finished: start.Add(time.Duration(i) * time.Minute),
		}
		if i >= 2 {
			result.Outcome, result.Findings = check.OutcomeFindings, []check.Finding{damaged}
		}
		target.RecordResult(result, true)
	}
	snapshot := target.Snapshot()
	if len(snapshot.Findings) != 1 || !snapshot.Findings[0].LastGood.Equal(start.Add(time.Minute)) || !snapshot.Findings[0].FirstSeen.Equal(start.Add(2*time.Minute)) {
		t.Errorf("%+v, started %s", snapshot.Findings, start)
	}
	if history := snapshot.Checks[0].History; len(history) != 4 || history[0].Outcome != check.OutcomeFindings || history[3].Outcome != check.OutcomeOK {
		t.Errorf("history %+v", history)
	}
}
