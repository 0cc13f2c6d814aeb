package web

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/maintenance/activity"
	"pg_integrity_exporter/internal/maintenance/window"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/schedule"
	"pg_integrity_exporter/internal/state"
)

// watched is a target with the results of a few checks.
func watched(t testing.TB, results ...check.Result) (Watched, *[]string) {
	t.Helper()
	target, err := state.InMemory(slog.New(slog.DiscardHandler)).Target("db.example:5432")
	if err != nil {
		t.Fatal(err)
	}
	var planned []state.Planned
	for _, r := range results {
		planned = append(planned, state.Planned{Check: r.Check, Database: r.Database, Interval: 24 * time.Hour})
	}
	target.Plan([]string{"erp"}, planned)
	for _, r := range results {
		if !r.Finished.IsZero() {
			target.RecordResult(r, true)
		}
	}
	target.LogStatus(pglog.Status{Up: true, Path: "/log/server.json", LastMessage: time.Now().Add(-time.Minute)})
	target.LogBlindness([]pglog.Blindness{{Reason: pglog.BlindStatement, Detail: "log_min_error_statement is panic (role <b>x)", Advice: "set log_min_error_statement = error"}}, nil)
	target.CommitLog(pglog.Batch{Samples: []pglog.Sample{{
		Text: "duplicate key value violates unique constraint ?", Severity: pglog.Error, SQLState: "23505", Database: "erp", Count: 4711, First: time.Now(), Last: time.Now(),
	}}}, nil)
	asked := &[]string{}
	return Watched{
		Target: "db.example:5432", Snapshot: target.Snapshot(), Files: target.Files(), NextRun: schedule.NextRun,
		RunNow: func(name, database string) bool {
			*asked = append(*asked, name+" in "+database)
			return name != "x"
		},
	}, asked
}

func ran(name, database string, outcome check.Outcome, reason string, ago time.Duration, findings ...check.Finding) check.Result {
	finished := time.Now().Add(-ago)
	return check.Result{
		Check: name, Database: database, Outcome: outcome, Reason: reason, Started: finished.Add(-time.Minute), Finished: finished,
		Objects: 3, Bytes: 8192, TotalBytes: 8192, Whole: reason == "", Findings: findings, Reads: true,
	}
}

func damage() check.Finding {
	block := uint32(5)
	return check.Finding{
		Check: "heap", Class: check.ClassCorruption, Severity: check.SeverityCritical, Database: "erp", Schema: "ledger", Relation: `<b>"postings`,
		Block: &block, SQLState: "XX001", Message: "invalid page in block 5", Impact: "Statements that read the page fail.", Action: "Do not vacuum the table.", Fingerprint: "0123456789abcdef",
	}
}

// TestRecoveryAndMaintenance are told in words, with what is late.
func TestRecoveryAndMaintenance(t *testing.T) {
	t.Parallel()
	w, _ := watched(t, ran("heap", "erp", check.OutcomeOK, "", time.Hour))
	now := time.Now()
	if _, err := window.Open(w.Files, now.Add(-time.Hour), 30*time.Minute, "faster ledger", "anna", "command"); err != nil {
		t.Fatal(err)
	}
	w.Maintenance = activity.Status{Running: []activity.Operation{{
		Kind: activity.VacuumFull, Database: "erp", Relation: check.RelationName{Schema: "ledger", Name: "postings"}, By: "nightly",
		Started: now.Add(-10 * time.Minute), Fraction: 0.5, Blocked: 3,
	}}}
	never := recovery.Status{Watched: recovery.Watched{
		Repository: recovery.Repository{Name: "weekly"}, Objectives: recovery.Objectives{BackupAge: time.Hour, DrillAge: time.Hour},
	}, Inventory: &recovery.Inventory{}}
	good := recovery.Status{
		Watched: recovery.Watched{Repository: recovery.Repository{Name: "nightly"}}, Inventory: &recovery.Inventory{},
		RecoveryPoint: now.Add(-time.Minute),
		History:       recovery.History{LastProved: now.Add(-24 * time.Hour), Last: &recovery.Report{Outcome: recovery.OutcomeProved, RecoverySeconds: 90}},
	}
	w.Recovery = []recovery.Status{never, good}
	server := serve(t, Options{Watched: func() Watched { return w }})
	_, _, body := fetch(t, http.MethodGet, server.URL+"/integrity", map[string]string{"Accept": "text/html"})
	for _, want := range []string{
		"faster ledger", "overrun: it was to end 30 minutes ago", "ledger.postings in erp by nightly", "50 % done", "3 sessions wait for it",
		"nothing can be brought back", "there is no complete backup, the objective is one in 60 minutes", "none is complete",
		"24 hours ago", "the last drill: proved, up again after 90 seconds",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	warning := damage()
	warning.Class, warning.Severity = check.ClassLeftover, check.SeverityWarning
	rule := damage()
	rule.Class = check.ClassDataRule
	for name, c := range map[string]struct {
		results []check.Result
		want    Verdict
		say     string
	}{
		"nothing planned": {nil, VerdictUnknown, "Not known"},
		"never ran":       {[]check.Result{{Check: "heap", Database: "erp"}}, VerdictUnknown, "none of 1 check has run yet"},
		"well":            {[]check.Result{ran("heap", "erp", check.OutcomeOK, "", time.Hour)}, VerdictGood, "every check has passed, the oldest proof is from 60 minutes ago"},
		"overdue":         {[]check.Result{ran("heap", "erp", check.OutcomeOK, "", 72*time.Hour)}, VerdictUnknown, "1 is overdue"},
		"failed":          {[]check.Result{ran("heap", "erp", check.OutcomeFailed, "a lock", time.Hour)}, VerdictUnknown, "1 could not look"},
		"skipped":         {[]check.Result{ran("heap", "erp", check.OutcomeSkipped, "no extension", time.Hour)}, VerdictUnknown, "1 check cannot run here"},
		"leftover":        {[]check.Result{ran("heap", "erp", check.OutcomeFindings, "", time.Hour, warning)}, VerdictWarning, "No damage is known; 1 finding"},
		"data rule":       {[]check.Result{ran("heap", "erp", check.OutcomeFindings, "", time.Hour, rule)}, VerdictDamaged, "cannot be trusted"},
		"damaged":         {[]check.Result{ran("heap", "erp", check.OutcomeFindings, "", time.Hour, damage())}, VerdictDamaged, `Data is damaged: erp: ledger.<b>"postings, 1 page, first seen 60 minutes ago.`},
	} {
		w, _ := watched(t, c.results...)
		view, err := look(w, "", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if view.Verdict != c.want || !strings.Contains(view.Sentence, c.say) {
			t.Errorf("%s: %s, %q; want %s, %q", name, view.Verdict, view.Sentence, c.want, c.say)
		}
	}
}

func TestIntegrityPage(t *testing.T) {
	t.Parallel()
	w, _ := watched(t, ran("heap", "erp", check.OutcomeFindings, "", time.Hour, damage()),
		ran("btree", "erp", check.OutcomeSkipped, "run GRANT EXECUTE ON FUNCTION bt_index_check(regclass) TO monitor", time.Hour))
	server := serve(t, Options{Watched: func() Watched { return w }})
	status, header, body := fetch(t, http.MethodGet, server.URL+"/integrity", map[string]string{"Accept": "text/html,application/json;q=0.5"})
	if status != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), "text/html") {
		t.Fatalf("%d %s", status, header.Get("Content-Type"))
	}
	for _, want := range []string{
		"Data is damaged", "&lt;b&gt;&#34;postings</bdi> <span class=\"age\">1 page</span>", "invalid page in block 5", "Do not vacuum the table.", "GRANT EXECUTE ON FUNCTION bt_index_check(regclass) TO monitor", "finding opened", "no check had looked at everything before",
		"/log/server.json", "log_min_error_statement is panic (role &lt;b&gt;x)", "duplicate key value violates unique constraint ?", "4711",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, unwanted := range []string{"<b>", "<script", "http://", "<form"} {
		if strings.Contains(body, unwanted) {
			t.Errorf("the page has %q", unwanted)
		}
	}
	if policy := header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q", policy)
	}

	_, header, body = fetch(t, http.MethodGet, server.URL+"/integrity", map[string]string{"Accept": "application/json"})
	var view View
	if err := json.Unmarshal([]byte(body), &view); err != nil || header.Get("Content-Type") != "application/json" {
		t.Fatalf("%v: %s", err, body)
	}
	if view.Verdict != VerdictDamaged || len(view.Findings) != 1 || view.Findings[0].Relation != `<b>"postings` || len(view.Checks) != 2 || len(view.Problems) != 1 {
		t.Errorf("as data: %+v", view)
	}
}

// TestWhatTheVerdictLeavesOpen holds that the sentence on top is never better
// than what is known, and says what endangers data in its own words.
func TestWhatTheVerdictLeavesOpen(t *testing.T) {
	t.Parallel()
	well := ran("heap", "erp", check.OutcomeOK, "", time.Hour)
	unsafe := damage()
	unsafe.Class, unsafe.Database, unsafe.Schema, unsafe.Relation, unsafe.Block, unsafe.Message = check.ClassUnsafeSetting, "", "", "", nil, "fsync is off on this server"
	for name, c := range map[string]struct {
		change func(w *Watched)
		result check.Result
		want   Verdict
		say    string
	}{
		"server down":           {func(w *Watched) { w.Unreachable = "connection refused" }, well, VerdictUnknown, "Not known: the server does not answer: connection refused."},
		"damaged and then down": {func(w *Watched) { w.Unreachable = "connection refused" }, ran("heap", "erp", check.OutcomeFindings, "", time.Hour, damage()), VerdictDamaged, "The server does not answer now"},
		"at risk":               {func(*Watched) {}, ran("setting", "", check.OutcomeFindings, "", time.Hour, unsafe), VerdictAtRisk, "The data is at risk: fsync is off on this server, first seen 60 minutes ago."},
		"log not read":          {func(w *Watched) { w.Snapshot.Log.Problem = "no file" }, well, VerdictWarning, "No damage is known: every check has passed, the oldest proof is from 60 minutes ago. The server's log is not read"},
		"nothing to go back to": {func(w *Watched) {
			w.Recovery = []recovery.Status{{Watched: recovery.Watched{Repository: recovery.Repository{Name: "weekly"}}, Inventory: &recovery.Inventory{}}}
		}, well, VerdictWarning, "Nothing could be brought back from the repository weekly."},
	} {
		w, _ := watched(t, c.result)
		c.change(&w)
		view, err := look(w, "", time.Now())
		if err != nil || view.Verdict != c.want || !strings.Contains(view.Sentence, c.say) {
			t.Errorf("%s: %s, %q (%v); want %s, %q", name, view.Verdict, view.Sentence, err, c.want, c.say)
		}
	}
}

// TestSeveralTargets are linked with each other, and each is asked for by name.
func TestSeveralTargets(t *testing.T) {
	t.Parallel()
	first, _ := watched(t, ran("heap", "erp", check.OutcomeOK, "", time.Hour))
	second, _ := watched(t, ran("heap", "billing", check.OutcomeFindings, "", time.Hour, damage()))
	second.Target = `b"<i>`
	server := serve(t, Options{
		Watched: func() Watched { return first }, Targets: func() []string { return []string{"orders", `b"<i>`} },
		WatchedTarget: func(name string) (Watched, bool) { return second, name == second.Target },
	})
	html := map[string]string{"Accept": "text/html"}
	_, _, body := fetch(t, http.MethodGet, server.URL+"/integrity", html)
	if !strings.Contains(body, "The data is safe") || !strings.Contains(body, `<a href="/integrity?target=b%22%3ci%3e">b&#34;&lt;i&gt;</a>`) {
		t.Errorf("the first target: %s", body)
	}
	_, _, body = fetch(t, http.MethodGet, server.URL+"/integrity?target="+url.QueryEscape(second.Target), html)
	if !strings.Contains(body, "Data is damaged") || !strings.Contains(body, "Integrity of b&#34;&lt;i&gt;") {
		t.Errorf("the second target: %s", body)
	}
	if status, _, _ := fetch(t, http.MethodGet, server.URL+"/integrity?target=x", html); status != http.StatusNotFound {
		t.Errorf("no such target: %d", status)
	}
}

// TestOpenFindingInTable holds that a check is not shown as well after a look at
// one table found damage, although its last look at everything found none.
func TestOpenFindingInTable(t *testing.T) {
	t.Parallel()
	w, _ := watched(t, ran("heap", "erp", check.OutcomeOK, "", time.Hour), ran("heap", "postgres", check.OutcomeOK, "", time.Hour))
	w.Snapshot.Findings = []state.Finding{{Finding: damage(), FirstSeen: time.Now(), LastSeen: time.Now()}}
	view, err := look(w, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(view.Checks) != 2 || view.Checks[0].Outcome != "findings" || view.Checks[1].Outcome != "ok" {
		t.Errorf("%+v", view.Checks)
	}
}

// TestGroups puts what several checks say of many pages of one table together.
func TestGroups(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var findings []FindingView
	for n := range uint32(4) {
		for i, name := range []string{"page", "heap"} {
			f := damage()
			f.Check, f.Block, f.Message = name, &n, "of "+name
			f.Fingerprint = fmt.Sprint(name, n)
			findings = append(findings, FindingView{Finding: f, FirstSeen: now.Add(time.Duration(i) * time.Minute), LastSeen: now.Add(time.Duration(n) * time.Hour)})
		}
	}
	findings[3].LastGood = now.Add(-time.Hour)
	other := damage()
	other.Class, other.Severity, other.Relation, other.Block = check.ClassLeftover, check.SeverityWarning, "journal", nil
	findings = append([]FindingView{{Finding: other, FirstSeen: now.Add(-time.Hour)}}, findings...)
	got := groups(findings)
	if len(got) != 2 || got[1].Object != "erp: ledger.journal" {
		t.Fatalf("%d groups: %+v", len(got), got[len(got)-1])
	}
	g := got[0]
	if g.Pages != 4 || len(g.Fingerprints) != 8 || len(g.Evidence) != shownEvidence || len(g.More) != 8-shownEvidence ||
		!slices.Equal(g.Checks, []string{"page", "heap"}) || !g.FirstSeen.Equal(now) || !g.LastSeen.Equal(now.Add(3*time.Hour)) || !g.LastGood.Equal(now.Add(-time.Hour)) {
		t.Errorf("%+v", g)
	}
	if g.Evidence[0] != "block 0: of page" {
		t.Errorf("evidence %q", g.Evidence)
	}
}

// TestActions are refused without a login and from other sites, and do what
// they say with one.
func TestActions(t *testing.T) {
	t.Parallel()
	w, asked := watched(t, ran("heap", "erp", check.OutcomeFindings, "", time.Hour, damage()))
	user := ""
	server := serve(t, Options{Watched: func() Watched { return w }, User: func(*http.Request) string { return user }})
	post := func(path string, form url.Values, header map[string]string) (int, string) {
		t.Helper()
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(form.Encode()))
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for name, value := range header {
			request.Header.Set(name, value)
		}
		recorder := httptest.NewRecorder()
		server.Config.Handler.ServeHTTP(recorder, request)
		return recorder.Code, recorder.Body.String()
	}
	run := url.Values{"check": {"heap"}, "database": {"erp"}}
	if status, text := post("/integrity/run", run, nil); status != http.StatusForbidden || !strings.Contains(text, "basic_auth_users") {
		t.Errorf("without a login: %d %s", status, text)
	}
	user = "anna"
	if status, _ := post("/integrity/run", run, map[string]string{"Sec-Fetch-Site": "cross-site"}); status != http.StatusForbidden {
		t.Errorf("from another site: %d", status)
	}
	if len(*asked) != 0 {
		t.Fatalf("asked for %q", *asked)
	}
	if status, _ := post("/integrity/run", run, map[string]string{"Sec-Fetch-Site": "same-origin"}); status != http.StatusSeeOther || (*asked)[0] != "heap in erp" {
		t.Errorf("with a login: %d, asked for %q", status, *asked)
	}
	if status, text := post("/integrity/run", url.Values{"check": {"x"}}, nil); status != http.StatusNotFound || !strings.Contains(text, `no check "x" in the whole server`) {
		t.Errorf("unknown check: %d %s", status, text)
	}

	if status, _ := post("/integrity/acknowledge", url.Values{"fingerprint": {"x"}}, nil); status != http.StatusNotFound {
		t.Errorf("unknown finding: %d", status)
	}
	if status, _ := post("/integrity/acknowledge", url.Values{"fingerprint": {damage().Fingerprint}, "note": {strings.Repeat("x", maxNote+1)}}, nil); status != http.StatusBadRequest {
		t.Errorf("a note that is too long: %d", status)
	}
	if status, _ := post("/integrity/acknowledge", url.Values{"fingerprint": {damage().Fingerprint}, "note": {"on it <i>"}}, nil); status != http.StatusSeeOther {
		t.Errorf("acknowledge: %d", status)
	}
	_, _, body := fetch(t, http.MethodGet, server.URL+"/integrity?done=acknowledged", nil)
	for _, want := range []string{"by anna", "on it &lt;i&gt;", "It mutes nothing", "acknowledged by anna", "Run heap now"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(body, "Acknowledge as") {
		t.Error("an acknowledged finding can be acknowledged again")
	}
}
