package incident_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pg_integrity_exporter/internal/incident"
	"pg_integrity_exporter/internal/state"
)

var update = flag.Bool("update", false, "write the golden files anew")

// nine is the morning of the incident that this project exists for.
var nine = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// at is a time of that day, in minutes after nine.
func at(minutes float64) time.Time { return nine.Add(time.Duration(minutes * float64(time.Minute))) }

// recorded is what Prometheus would have kept of the day: the value of a
// series at each minute, and nothing where ok is false.
func recorded(labels map[string]string, value func(minute float64) (v float64, ok bool)) incident.Series {
	s := incident.Series{Labels: labels}
	for minute := -60.0; minute <= 360; minute++ {
		if v, ok := value(minute); ok {
			s.Points = append(s.Points, incident.Point{Time: at(minute), Value: v})
		}
	}
	return s
}

func between(from, to, value float64) func(float64) (float64, bool) {
	return func(minute float64) (float64, bool) { return value, minute >= from && minute <= to }
}

func alert(name, severity, alertstate string, extra ...string) map[string]string {
	labels := map[string]string{
		"__name__": "ALERTS", "alertname": name, "severity": severity, "alertstate": alertstate, "layer": "integrity",
		"job": "pg_integrity_exporter", "instance": "erp:10187", "datname": "erp",
	}
	for i := 0; i+1 < len(extra); i += 2 {
		labels[extra[i]] = extra[i+1]
	}
	return labels
}

func metric(name string, extra ...string) map[string]string {
	labels := map[string]string{"__name__": name, "job": "pg_integrity_exporter", "instance": "erp:10187"}
	for i := 0; i+1 < len(extra); i += 2 {
		labels[extra[i]] = extra[i+1]
	}
	return labels
}

// rising is a counter with one rate before and another from one minute to
// another.
func rising(before, during, from, to float64) func(float64) (float64, bool) {
	total := 1000.0
	return func(minute float64) (float64, bool) {
		if minute > from && minute <= to {
			total += during
		} else {
			total += before
		}
		return total, true
	}
}

// morning is the incident: maintenance at nine, damage a minute later, a page
// within seconds, a restore by half past two.
func morning() *incident.Evidence {
	e := &incident.Evidence{Target: "erp.example.org:5432", From: at(-60), To: at(360)}
	e.Series = []incident.Series{
		recorded(alert("PostgresCorruptionDetected", "critical", "firing", "schemaname", "ledger", "relname", "postings"), between(2, 330, 1)),
		recorded(alert("PostgresTransactionsFailing", "critical", "pending", "layer", "errors"), between(3, 4, 1)),
		recorded(alert("PostgresTransactionsFailing", "critical", "firing", "layer", "errors"), between(5, 331, 1)),
		recorded(alert("PostgresLockWait", "warning", "firing", "layer", "saturation"), between(-30, -28, 1)),
		recorded(alert("PostgresWatchdog", "none", "firing"), between(-60, 360, 1)),
		recorded(metric("up"), between(-60, 360, 1)),
		recorded(metric("pgintegrity_up"), func(minute float64) (float64, bool) {
			if minute >= 300 && minute < 310 {
				return 0, true
			}
			return 1, true
		}),
		recorded(metric("pgintegrity_log_reader_up"), func(minute float64) (float64, bool) {
			if minute >= 301 && minute < 309 {
				return 0, true
			}
			return 1, true
		}),
		recorded(metric("pgintegrity_transactions_total", "datname", "erp", "outcome", "commit"), rising(6000, 4800, 1, 300)),
		recorded(metric("pgintegrity_transactions_total", "datname", "erp", "outcome", "rollback"), rising(6, 1200, 1, 300)),
		recorded(metric("pgintegrity_errors_total", "datname", "erp", "sqlstate", "XX001", "condition_name", "data_corrupted"), func(minute float64) (float64, bool) {
			return min(minute, 300) * 200, minute > 1
		}),
		recorded(metric("pgintegrity_corruption_events_total", "kind", "checksum"), func(minute float64) (float64, bool) {
			return max(0, min(minute-1, 299)) * 200, true
		}),
		recorded(metric("pgintegrity_check_last_success_timestamp_seconds", "check", "heap", "datname", "erp"), func(float64) (float64, bool) {
			return float64(at(-45).Unix()), true
		}),
		recorded(metric("pgintegrity_check_interval_seconds", "check", "heap", "datname", "erp"), between(-60, 360, 86400)),
		recorded(metric("pgintegrity_check_last_success_timestamp_seconds", "check", "btree", "datname", "erp"), func(float64) (float64, bool) {
			return float64(at(-60 * 24 * 9).Unix()), true
		}),
		recorded(metric("pgintegrity_check_interval_seconds", "check", "btree", "datname", "erp"), between(-60, 360, 86400)),
		recorded(metric("pgintegrity_postmaster_start_timestamp_seconds"), func(minute float64) (float64, bool) {
			if minute >= 310 {
				return float64(at(309).Unix()), true
			}
			return float64(at(-60 * 24 * 30).Unix()), minute < 300
		}),
	}
	finding := map[string]string{"check": "heap", "class": "corruption", "fingerprint": "f1", "last_good": at(-45).Format(time.RFC3339)}
	e.Events = []state.Event{
		{Time: at(-0.5), Ended: at(0.9), Kind: state.EventMaintenance, Database: "erp", Schema: "ledger", Relation: "postings", Message: "VACUUM FULL of ledger.postings by role batch", Source: "pg_stat_activity"},
		{Time: at(1.2), Kind: state.EventFindingOpened, Severity: "critical", Database: "erp", Schema: "ledger", Relation: "postings", Message: "page 4711 has checksum 1, not 2", Source: "check heap", Details: finding},
		{Time: at(9), Kind: state.EventAcknowledged, Message: "ada has taken it on", Source: "incident acknowledge"},
		{Time: at(10), Kind: state.EventStakeholderUpdate, Message: "investigating: Payments fail", Source: "incident update", Details: map[string]string{"phase": "investigating"}},
		{Time: at(60), Kind: state.EventStakeholderUpdate, Message: "identified: Payments fail: the ledger is damaged", Source: "incident update", Details: map[string]string{"phase": "identified"}},
		{Time: at(320), Kind: state.EventFindingCleared, Severity: "critical", Database: "erp", Schema: "ledger", Relation: "postings", Message: "page 4711 has checksum 1, not 2", Source: "check heap", Details: finding},
		{Time: at(322), Kind: state.EventStakeholderUpdate, Message: "monitoring: Payments fail: restored to 08:59", Source: "incident update", Details: map[string]string{"phase": "monitoring"}},
		{Time: at(350), Kind: state.EventStakeholderUpdate, Message: "resolved: Payments fail", Source: "incident update", Details: map[string]string{"phase": "resolved"}},
	}
	if err := json.Unmarshal([]byte(`[
		{"id": "1", "createdBy": "ada", "comment": "restoring", "startsAt": "2026-03-02T14:00:00Z", "endsAt": "2026-03-02T14:30:00Z",
		 "matchers": [{"name": "alertname", "value": "PostgresDown", "isRegex": false, "isEqual": true}]},
		{"id": "2", "createdBy": "bob", "comment": "last year", "startsAt": "2025-03-02T14:00:00Z", "endsAt": "2025-03-02T14:30:00Z", "matchers": []}
	]`), &e.Silences); err != nil {
		panic(err)
	}
	e.Note(incident.KindPrometheus, nil, fmt.Sprintf("%d series", len(e.Series)))
	e.Note(incident.KindAlertmanager, nil, "2 silences")
	e.Note(incident.KindEvents+" of the exporter", nil, fmt.Sprintf("%d events", len(e.Events)))
	return e
}

// TestReport compares the report of the incident, in all its forms, with what
// people have read and found good.
func TestReport(t *testing.T) {
	report := incident.NewReport(morning(), at(400))
	page, err := report.HTML()
	if err != nil {
		t.Fatal(err)
	}
	document, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{"report.md": report.Markdown(), "report.html": page, "report.json": string(document) + "\n"} {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
			t.Errorf("%s changed (go test ./internal/incident -update writes it anew):\n%s", name, diff)
		}
	}
	i := report.Impact
	if len(i.Databases) != 1 || i.Databases[0].Failed < 350_000 || i.Databases[0].Failed > 360_000 || i.Databases[0].Ratio < 0.15 {
		t.Errorf("impact: %+v", i.Databases)
	}
	if i.DownSeconds != 600 {
		t.Errorf("down for %v s, want 600", i.DownSeconds)
	}
	if strings.Contains(report.Markdown(), "last year") || strings.Contains(report.Markdown(), "PostgresWatchdog") {
		t.Error("the report has what does not belong to it")
	}
}

// TestReportFromFiles saves the evidence and makes the same report of it.
func TestReportFromFiles(t *testing.T) {
	e := morning()
	directory := t.TempDir()
	if err := e.Save(directory); err != nil {
		t.Fatal(err)
	}
	loaded, err := incident.Load(directory, time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	want, got := incident.NewReport(e, at(400)), incident.NewReport(loaded, at(400))
	want.Sources, got.Sources = nil, nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the report from files differs:\n%s", diff)
	}
	if _, err := incident.Load(t.TempDir(), at(0), at(1)); err == nil {
		t.Error("an empty directory is taken for evidence")
	}
}

// TestNothingKnown holds that what could not be read is never reported as
// well.
func TestNothingKnown(t *testing.T) {
	e := &incident.Evidence{From: at(0), To: at(60)}
	e.Note(incident.KindPrometheus, fmt.Errorf("connection refused"), "")
	e.Note(incident.KindAlertmanager, fmt.Errorf("connection refused"), "")
	e.Note(incident.KindEvents+" of the exporter", nil, "0 events")
	text := incident.NewReport(e, at(61)).Markdown()
	for _, lie := range []string{"None fired", "no silence", "0 s", "worked", "nothing was found wrong"} {
		if strings.Contains(text, lie) {
			t.Errorf("the report says %q though nothing is known:\n%s", lie, text)
		}
	}
	if !strings.Contains(text, "could not be read") {
		t.Errorf("the report does not say what could not be read:\n%s", text)
	}
	e.Sources = nil
	e.Note(incident.KindPrometheus, nil, "")
	if text := incident.NewReport(e, at(61)).Markdown(); !strings.Contains(text, "nothing was found wrong") {
		t.Errorf("a quiet hour is not told as one:\n%s", text)
	}
}

// TestHostileNames holds that names from the database do not become markup.
func TestHostileNames(t *testing.T) {
	e := morning()
	e.Events[1].Relation, e.Events[1].Message = "<script>alert(1)</script>|x", "[click](javascript:x) `a`\n# b"
	page, err := incident.NewReport(e, at(400)).HTML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(page, "<script>") || strings.Contains(page, "href=\"javascript") || strings.Contains(page, "<h1>b") {
		t.Errorf("names became markup: %s", page)
	}
}

// TestFetch asks servers that speak the APIs, and one that does not answer
// well.
func TestFetch(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer secret":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/prom/api/v1/query_range":
			asked = append(asked, r.URL.Query().Get("query"))
			fmt.Fprint(w, `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"up","instance":"a"},"values":[[1772442000,"1"],[1772442015.5,"0"]]}]}}`)
		default:
			fmt.Fprint(w, `[{"id":"1","createdBy":"ada","startsAt":"2026-03-02T14:00:00Z","endsAt":"2026-03-02T14:30:00Z","matchers":[{"name":"a","value":"b.*","isRegex":true}]}]`)
		}
	}))
	defer server.Close()
	series, err := incident.FetchSeries(t.Context(), incident.Server{URL: server.URL + "/prom", Token: "secret"}, "pg", "erp:10187", at(0), at(60))
	if err != nil || len(series) != len(asked) || series[0].Points[1].Value != 0 || series[0].Points[1].Time.Nanosecond() != 5e8 {
		t.Errorf("%d series for %d queries: %v", len(series), len(asked), err)
	}
	for _, query := range asked {
		if !strings.Contains(query, `{job="pg", instance="erp:10187"}`) {
			t.Errorf("asked for all servers: %s", query)
		}
	}
	silences, err := incident.FetchSilences(t.Context(), incident.Server{URL: server.URL, Token: "secret"})
	if err != nil || len(silences) != 1 || silences[0].String() != `{a=~"b.*"}` {
		t.Errorf("silences %v: %v", silences, err)
	}
	withPassword := strings.Replace(server.URL, "http://", "http://user:hidden@", 1)
	if _, err := incident.FetchSilences(t.Context(), incident.Server{URL: withPassword}); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("the error is %v", err)
	}
	if _, err := incident.FetchSilences(t.Context(), incident.Server{URL: "prometheus:9090"}); err == nil {
		t.Error("a URL without a scheme is accepted")
	}
}

// TestProtocol walks an incident through its phases.
func TestProtocol(t *testing.T) { //nolint:gocyclo // one incident in order, each step builds on the one before
	files := state.OpenFiles(t.TempDir(), "erp:5432")
	if _, err := incident.Apply(files, incident.Change{Phase: incident.Resolved}, at(0)); err == nil {
		t.Error("an incident that does not exist is resolved")
	}
	for _, event := range morning().Events[:2] {
		if err := files.Record(event); err != nil {
			t.Fatal(err)
		}
	}
	open, err := incident.Apply(files, incident.Change{
		Phase: incident.Investigating, Title: "Payments fail", Affected: []string{"payments"}, Message: "Transfers give an error",
	}, at(10))
	if err != nil {
		t.Fatal(err)
	}
	if got := open.Text(incident.Stakeholders); strings.Contains(got, "postings") || !strings.Contains(got, "payments") || !strings.Contains(got, "Next update by 09:40 UTC.") {
		t.Errorf("stakeholders read: %s", got)
	}
	if got := open.Text(incident.DBA); !strings.Contains(got, "ledger.postings in database erp") || !strings.Contains(got, "2026-03-02 08:15:00 UTC") {
		t.Errorf("database administrators read: %s", got)
	}
	if got := open.Markdown(); strings.Count(got, "## For") != 3 || !strings.Contains(got, "## For whoever is on call and database administrators") {
		t.Errorf("who is told the same reads it twice: %s", got)
	}
	if got := open.Text(incident.Application); !strings.Contains(got, "do not repeat failed transactions") {
		t.Errorf("owners of the application read: %s", got)
	}
	if status, err := incident.StatusOf(files); err != nil || status.Open != 1 || !status.Due.Equal(at(40)) {
		t.Errorf("status %+v: %v", status, err)
	}
	again, err := incident.Apply(files, incident.Change{Phase: incident.Identified, NextUpdate: 2 * time.Hour}, at(60))
	if err != nil || again.ID != open.ID || len(again.Updates) != 2 || !again.NextUpdate.Equal(at(180)) {
		t.Errorf("the second update is of %s with %d updates: %v", again.ID, len(again.Updates), err)
	}
	if err := files.Record(morning().Events[5]); err != nil {
		t.Fatal(err)
	}
	over, err := incident.Apply(files, incident.Change{Phase: incident.Resolved}, at(350))
	if err != nil || over.Open() {
		t.Errorf("open after it was resolved: %v", err)
	}
	if got := over.Text(incident.OnCall); !strings.Contains(got, "No critical finding is open.") || strings.Contains(got, "Next update") {
		t.Errorf("those on call read: %s", got)
	}
	if status, err := incident.StatusOf(files); err != nil || status.Open != 0 || !status.Due.IsZero() {
		t.Errorf("status %+v: %v", status, err)
	}
	directory := t.TempDir()
	path, err := incident.WriteStatusPage(directory, over)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"title: \"Payments fail\"", "resolved: true", "resolvedWhen: 2026-03-02T14:50:00Z", "*Resolved* - ", "*Investigating* - "} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the status page does not have %q:\n%s", want, page)
		}
	}
	if strings.Index(string(page), "*Resolved*") > strings.Index(string(page), "*Investigating*") || strings.Contains(string(page), "postings") {
		t.Errorf("the status page: %s", page)
	}
	var posted incident.Message
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if json.Unmarshal(body, &posted) != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer server.Close()
	if err := incident.Post(t.Context(), server.URL, over.Message()); err != nil || posted.Phase != incident.Resolved || posted.Texts[incident.Stakeholders] == "" {
		t.Errorf("posted %+v: %v", posted, err)
	}
}
