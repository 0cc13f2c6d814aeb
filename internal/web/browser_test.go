package web

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"pg_integrity_exporter/internal/check"
)

// browser opens a real headless Chromium. What the page says in its console, and
// what the browser refuses, fails the test.
func browser(t *testing.T) context.Context {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		if os.Getenv("PGTEST_REQUIRE") != "" {
			t.Fatal("chromium is missing: run tools/prepare.sh")
		}
		t.Skip("chromium is not installed")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox)
	allocator, stopAllocator := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stopAllocator)
	ctx, stop := chromedp.NewContext(allocator)
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	chromedp.ListenTarget(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventConsoleAPICalled:
			t.Errorf("console: %s %v", e.Type, e.Args)
		case *runtime.EventExceptionThrown:
			t.Errorf("exception: %s", e.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			t.Errorf("browser: %s %s", e.Entry.Text, e.Entry.URL)
		}
	})
	if err := chromedp.Run(ctx, log.Enable(), runtime.Enable()); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// violation is what axe-core finds wrong with a page.
type violation struct {
	ID, Help string
	Nodes    []struct{ HTML string }
}

// TestIntegrityInBrowser reads and uses the page as people do, in several
// verdicts, light on a desk and dark on a telephone. INTEGRITY_PICTURES names a
// directory for pictures of what was seen.
func TestIntegrityInBrowser(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a browser")
	}
	ctx := browser(t)
	well := ran("heap", "erp", check.OutcomeOK, "", 90*time.Minute)
	pages := map[string][]check.Result{
		"good": {well, ran("btree", "erp", check.OutcomeOK, "", 2*time.Hour), ran("heap", "postgres", check.OutcomeOK, "", 3*time.Hour), ran("cluster", "", check.OutcomeOK, "", time.Hour)},
		"damaged": {
			ran("page", "erp", check.OutcomeFindings, "", 5*time.Minute, damage()), ran("heap", "erp", check.OutcomeFailed, "ledger.accounts: somebody holds a lock on it (see pg_locks), and a check does not wait", time.Hour),
			ran("btree", "erp", check.OutcomeSkipped, `the role may not call bt_index_check: GRANT EXECUTE ON FUNCTION bt_index_check(regclass) TO "monitor" in database "erp"`, time.Hour),
			ran("catalog", "erp", check.OutcomeOK, "", 100*time.Hour),
		},
		"unknown": {well, {Check: "btree", Database: "erp"}},
	}
	script, err := axe(t)
	if err != nil {
		t.Fatal(err)
	}
	for verdict, results := range pages {
		w, asked := watched(t, results...)
		server := serve(t, Options{Watched: func() Watched { return w }, User: func(*http.Request) string { return "anna" }})
		for scheme, width := range map[string]int64{"light": 1200, "dark": 360} {
			seen := sight{name: verdict}
			seen.at(ctx, t, server.URL+"/integrity", script, scheme, width)
			view, err := look(w, "", time.Now())
			if err != nil || !strings.HasPrefix(seen.verdict, view.Sentence[:20]) || string(view.Verdict) != verdict {
				t.Errorf("%s: the page says %q, %v", verdict, seen.verdict, err)
			}
		}
		if verdict == "damaged" {
			use(ctx, t, server.URL, asked)
		}
	}
}

// use acknowledges a finding and runs a check, by keyboard where a person would.
func use(ctx context.Context, t *testing.T, address string, asked *[]string) {
	t.Helper()
	var said, acknowledged string
	_, err := chromedp.RunResponse(ctx, chromedp.Navigate(address+"/integrity"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = chromedp.RunResponse(ctx, chromedp.SendKeys(".finding input[name=note]", "looking at it\r")); err != nil {
		t.Fatal(err)
	}
	if err = chromedp.Run(ctx, chromedp.Text(".done", &said), chromedp.Text(".finding dl", &acknowledged)); err != nil {
		t.Fatal(err)
	}
	if err = chromedp.Run(ctx, chromedp.SendKeys("details summary", "\r"), chromedp.WaitVisible("details[open] button")); err != nil {
		t.Fatal(err)
	}
	if _, err = chromedp.RunResponse(ctx, chromedp.Click("details[open] button")); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said, "Acknowledged") || !strings.Contains(acknowledged, "by anna") || !strings.Contains(acknowledged, "looking at it") {
		t.Errorf("after acknowledging: %q, %q", said, acknowledged)
	}
	if len(*asked) != 1 {
		t.Errorf("asked for %q", *asked)
	}
}

func awaitPromise(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }

// axe is the accessibility tester's script.
func axe(t *testing.T) (string, error) {
	t.Helper()
	directory, err := exec.CommandContext(t.Context(), "../../tools/npm.sh", "axe-core").Output()
	if err != nil {
		return "", err
	}
	content, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(directory)), "axe.min.js"))
	return string(content), err
}
