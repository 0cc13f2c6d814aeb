package web

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/state"
)

// hostile are names that a database may have and a page must survive.
var hostile = []string{
	`"quoted" 'name' \ %s {{.}}`, `<script>alert(1)</script>`, "line\nbreak\ttab", "\u202eevil", strings.Repeat("é", 31), `&lt;b&gt;`, "a b", "%00",
}

// crowded is a server with many databases, findings and problems, all of whose
// names are hostile.
func crowded(t testing.TB, databases, findings int) Watched {
	t.Helper()
	name := func(n int) string { return fmt.Sprint(hostile[n%len(hostile)], n) }
	// Of one database thousands of relations were looked at.
	many := ran("heap", name(5), check.OutcomeOK, "", time.Hour)
	for n := range 10 * findings {
		many.Verified = append(many.Verified, check.RelationName{Schema: name(n), Name: name(n + 1)})
	}
	w, _ := watched(t, many)
	snapshot := *w.Snapshot
	snapshot.Checks = nil
	long := time.Now().Add(-time.Hour)
	for n := range databases {
		for _, c := range check.All() {
			if c.Server {
				continue
			}
			s := state.CheckState{Check: c.Name, Database: name(n), Interval: 24 * time.Hour, Outcome: check.OutcomeOK, LastRun: long, LastSuccess: long, Coverage: 1}
			if c.Name == "heap" || c.Name == "btree" {
				s.Outcome, s.Reason = check.OutcomeSkipped, "the extension amcheck is missing: run CREATE EXTENSION amcheck in database "+quoted(name(n))+" as a superuser"
			}
			snapshot.Checks = append(snapshot.Checks, s)
		}
	}
	for n := range findings {
		f := damage()
		f.Check, f.Database, f.Schema, f.Relation, f.Fingerprint = "page", name(n%databases), name(n), name(n+1), fmt.Sprint("f", n)
		f.Message = "invalid page of " + name(n)
		snapshot.Findings = append(snapshot.Findings, state.Finding{Finding: f, FirstSeen: long, LastSeen: long})
	}
	w.Snapshot = &snapshot
	return w
}

// TestManyOfEverything holds that the page stays small and says what it leaves
// out, and that no name gets out of its place.
func TestManyOfEverything(t *testing.T) {
	t.Parallel()
	w := crowded(t, 400, 1500)
	server := serve(t, Options{Watched: func() Watched { return w }})
	for _, path := range []string{"/integrity", "/integrity?database=" + "%3Cscript%3Ealert(1)%3C%2Fscript%3E1"} {
		status, _, body := fetch(t, http.MethodGet, server.URL+path, map[string]string{"Accept": "text/html"})
		if status != http.StatusOK || len(body) > 1<<20 {
			t.Errorf("%s: status %d, %d bytes", path, status, len(body))
		}
		for _, unwanted := range []string{"<script", "\u202e", "line\nbreak", "%!"} {
			if strings.Contains(body, unwanted) {
				t.Errorf("%s: the page has %q", path, unwanted)
			}
		}
		want := []string{"1500 objects", "more objects are in the JSON of this page", "&lt;script&gt;alert(1)&lt;/script&gt;1"}
		if path == "/integrity" {
			want = append(want, "300 more databases", "more checks: choose a database", "and 397 more databases", `line\nbreak\ttab`, `\u202eevil`)
		} else {
			want = append(want, "Relations of", "never")
		}
		for _, text := range want {
			if !strings.Contains(body, text) {
				t.Errorf("%s: the page lacks %q", path, text)
			}
		}
	}
}

// TestProblemsOfOneKind are told once for all databases.
func TestProblemsOfOneKind(t *testing.T) {
	t.Parallel()
	var problems []ProblemView
	for _, database := range []string{"a", `b"`, "c", "d"} {
		for _, name := range []string{"heap", "btree"} {
			problems = append(problems, ProblemView{name, database, "run CREATE EXTENSION amcheck in database " + quoted(database)})
		}
	}
	problems = append(problems, ProblemView{"cluster", "", "GRANT pg_monitor TO monitor"})
	groups, more := problemGroups(problems)
	if len(groups) != 2 || more != 0 || strings.Join(groups[0].Checks, " ") != "heap btree" || groups[0].Where != `a, b", c and 1 more database` || groups[1].Where != "the whole server" {
		t.Errorf("%d more, %+v", more, groups)
	}
}

// TestRelationsOfADatabase are those with findings first, then those that were
// not looked at for longest.
func TestRelationsOfADatabase(t *testing.T) {
	t.Parallel()
	old, recent := ran("heap", "erp", check.OutcomeOK, "", 5*time.Hour), ran("btree", "erp", check.OutcomeOK, "", time.Hour)
	old.Verified = []check.RelationName{{Schema: "ledger", Name: "old"}, {Schema: "ledger", Name: "new"}}
	recent.Verified = []check.RelationName{{Schema: "ledger", Name: "new"}}
	w, _ := watched(t, old, recent)
	w.Snapshot.Findings = []state.Finding{{Finding: damage(), FirstSeen: time.Now(), LastSeen: time.Now()}}
	view, err := look(w, "erp", time.Now())
	if err != nil || len(view.Relations) != 3 {
		t.Fatalf("%+v (%v)", view.Relations, err)
	}
	for n, want := range []string{`ledger.<b>"postings`, "ledger.old", "ledger.new"} {
		if got := view.Relations[n]; got.Label() != want || got.Damaged != (n == 0) {
			t.Errorf("at %d: %+v, want %s", n, got, want)
		}
	}
	if seen := view.Relations[2].Seen; len(seen) != 2 || seen[0].Check != "btree" {
		t.Errorf("%+v", seen)
	}
}

// TestCrowdedInBrowser holds that the page with many databases and hostile names
// is no wider than a telephone, and accessible.
func TestCrowdedInBrowser(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a browser")
	}
	ctx := browser(t)
	script, err := axe(t)
	if err != nil {
		t.Fatal(err)
	}
	w := crowded(t, 51, 1000)
	server := serve(t, Options{Watched: func() Watched { return w }})
	for path, width := range map[string]int64{"/integrity": 360, "/integrity?database=%26lt%3Bb%26gt%3B5": 1200} {
		look := &sight{name: path}
		look.at(ctx, t, server.URL+path, script, "dark", width)
	}
}

// sight is what a browser shows of a page.
type sight struct {
	name, verdict string
}

// at opens an address, runs the accessibility tester and holds that the page is
// not wider than the window.
func (s *sight) at(ctx context.Context, t *testing.T, address, script, scheme string, width int64) {
	t.Helper()
	var found []violation
	var overflow bool
	var picture []byte
	err := chromedp.Run(ctx,
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
		emulation.SetDeviceMetricsOverride(width, 900, 1, width < 500),
		chromedp.Navigate(address),
		chromedp.Text(".verdict", &s.verdict),
		chromedp.Evaluate("document.documentElement.scrollWidth > window.innerWidth", &overflow),
		chromedp.Evaluate(script+"\n;axe.run().then(r => r.violations)", &found, awaitPromise),
		chromedp.FullScreenshot(&picture, 100),
	)
	if err != nil {
		t.Fatalf("%s, %s: %v", s.name, scheme, err)
	}
	if overflow {
		t.Errorf("%s, %s: the page is wider than %d", s.name, scheme, width)
	}
	for _, v := range found {
		t.Errorf("%s, %s, %d wide: %s: %s: %v", s.name, scheme, width, v.ID, v.Help, v.Nodes)
	}
	if directory := os.Getenv("INTEGRITY_PICTURES"); directory != "" {
		file := fmt.Sprintf("%s-%s-%d.png", strings.Map(wordly, s.name), scheme, width)
		if err := os.WriteFile(filepath.Join(directory, file), picture, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// wordly keeps the letters of a name for a file.
func wordly(r rune) rune {
	if r >= 'a' && r <= 'z' {
		return r
	}
	return '-'
}

// BenchmarkIntegrityPage is the page of a server with 51 databases and 500
// findings.
func BenchmarkIntegrityPage(b *testing.B) {
	w := crowded(b, 51, 500)
	handler, err := Handler(quiet(Options{Watched: func() Watched { return w }}))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/integrity", nil))
		if recorder.Code != http.StatusOK {
			b.Fatal(recorder.Code)
		}
		b.SetBytes(int64(recorder.Body.Len()))
	}
}
