package web

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"pg_integrity_exporter/internal/exposition"
)

// serve starts the pages; what the test does not set has a harmless value.
func serve(t *testing.T, options Options) *httptest.Server {
	t.Helper()
	handler, err := Handler(quiet(options))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// quiet fills in what the test does not set.
func quiet(options Options) Options {
	options.TelemetryPath = "/metrics"
	options.Self = func(text []byte) []byte { return append(text, "# TYPE own gauge\nown 1\n"...) }
	options.Logger = slog.New(slog.DiscardHandler)
	options.Timeout = 10 * time.Second
	options.TimeoutOffset = 500 * time.Millisecond
	if options.MaxRequests == 0 {
		options.MaxRequests = 2
	}
	if options.Runbooks == nil {
		options.Runbooks = fstest.MapFS{"PostgresDown.md": {Data: []byte("# PostgresDown\n\n| a | b |\n| - | - |\n| 1 | 2 |\n")}}
	}
	return options
}

// fetch requests a page and gives its status, headers and text.
func fetch(t *testing.T, method, url string, header map[string]string) (int, http.Header, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := response.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(body)
}

func one(name string) *exposition.Page {
	return &exposition.Page{
		Kept:  exposition.Keep([]byte("# TYPE pgintegrity_kept gauge\npgintegrity_kept 1\n")),
		Fresh: fmt.Appendf(nil, "# HELP %[1]s Help.\n# TYPE %[1]s gauge\n%[1]s 1\n", name),
	}
}

func TestMetricsKeepPrometheusDeadline(t *testing.T) {
	t.Parallel()
	deadlines := make(chan time.Duration, 1)
	server := serve(t, Options{Scrape: func(ctx context.Context) *exposition.Page {
		deadline, ok := ctx.Deadline()
		if !ok {
			t.Error("a scrape without a deadline")
		}
		deadlines <- time.Until(deadline)
		return one("pgintegrity_up")
	}})
	for header, want := range map[string]time.Duration{
		"3": 2500 * time.Millisecond, "0.8": 400 * time.Millisecond, "": 9500 * time.Millisecond,
		"nonsense": 9500 * time.Millisecond, "-1": 9500 * time.Millisecond,
	} {
		status, _, body := fetch(t, http.MethodGet, server.URL+"/metrics", map[string]string{timeoutHeader: header})
		if status != http.StatusOK || !strings.Contains(body, "pgintegrity_up 1") {
			t.Errorf("status %d: %s", status, body)
		}
		if got := <-deadlines; got > want || got < want-time.Second {
			t.Errorf("header %q: the scrape had %s, want %s", header, got, want)
		}
	}
}

func TestMetricsBoundsScrapesUnderWay(t *testing.T) {
	t.Parallel()
	started, release := make(chan struct{}), make(chan struct{})
	server := serve(t, Options{MaxRequests: 1, Scrape: func(context.Context) *exposition.Page {
		close(started)
		<-release
		return new(exposition.Page)
	}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		response, err := http.Get(server.URL + "/metrics")
		if err == nil {
			_ = response.Body.Close()
		}
	}()
	<-started
	status, _, body := fetch(t, http.MethodGet, server.URL+"/metrics", nil)
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "--web.max-requests") {
		t.Errorf("status %d: %s", status, body)
	}
	close(release)
	<-done
}

func TestReload(t *testing.T) {
	t.Parallel()
	var result error
	calls := 0
	server := serve(t, Options{Reload: func() error { calls++; return result }})
	if status, header, _ := fetch(t, http.MethodGet, server.URL+"/-/reload", nil); status != http.StatusMethodNotAllowed || header.Get("Allow") != "POST, PUT" {
		t.Errorf("GET: status %d, Allow %q", status, header.Get("Allow"))
	}
	if calls != 0 {
		t.Error("GET reloaded the configuration")
	}
	if status, _, _ := fetch(t, http.MethodPost, server.URL+"/-/reload", nil); status != http.StatusOK || calls != 1 {
		t.Errorf("POST: status %d after %d calls", status, calls)
	}
	result = errors.New("line 3: unknown key hots")
	if status, _, body := fetch(t, http.MethodPost, server.URL+"/-/reload", nil); status != http.StatusInternalServerError || !strings.Contains(body, "unknown key hots") {
		t.Errorf("POST of a broken file: status %d: %s", status, body)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	server := serve(t, Options{})
	for path, want := range map[string]string{
		"/":                      `<a href="/metrics">`,
		"/-/healthy":             "Healthy",
		"/-/ready":               "Ready",
		"/runbooks/":             `<a href="/runbooks/PostgresDown">`,
		"/runbooks/PostgresDown": "<td>2</td>",
	} {
		status, header, body := fetch(t, http.MethodGet, server.URL+path, nil)
		if status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: status %d, want %q in:\n%s", path, status, want, body)
		}
		if header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: no nosniff", path)
		}
	}
	for _, path := range []string{"/nothing", "/runbooks/Nothing", "/runbooks/../web.go", "/runbooks/%2e%2e%2fweb.go", "/runbooks/\x00"} {
		request := strings.ReplaceAll(path, "\x00", "%00")
		if status, _, body := fetch(t, http.MethodGet, server.URL+request, nil); status != http.StatusNotFound {
			t.Errorf("%q: status %d: %s", path, status, body)
		}
	}
}

// TestMetricsCompressed holds that the page is the same with and without gzip,
// in each format that a client may ask for.
func TestMetricsCompressed(t *testing.T) {
	t.Parallel()
	server := serve(t, Options{Scrape: func(context.Context) *exposition.Page { return one("pgintegrity_up") }})
	for _, accept := range []string{"", "text/plain;version=0.0.4", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"} {
		var plain string
		for _, coding := range []string{"identity", "gzip", "br, gzip;q=0.5", "gzip;q=0"} {
			_, header, body := fetch(t, http.MethodGet, server.URL+"/metrics", map[string]string{"Accept": accept, "Accept-Encoding": coding})
			compressed := header.Get("Content-Encoding") == "gzip"
			if compressed != (coding == "gzip" || strings.HasPrefix(coding, "br")) {
				t.Errorf("%s: compressed %v", coding, compressed)
			}
			if compressed {
				reader, err := gzip.NewReader(strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				content, err := io.ReadAll(reader)
				if err != nil {
					t.Fatal(err)
				}
				body = string(content)
			}
			if plain == "" {
				plain = body
			}
			if body != plain || !strings.Contains(body, "pgintegrity_up") {
				t.Errorf("%s, %s: %q, not %q", accept, coding, body, plain)
			}
		}
	}
}

// TestProfilesOnlyWhenAskedFor holds that what Go tells of the process is not
// for everybody.
func TestProfilesOnlyWhenAskedFor(t *testing.T) {
	t.Parallel()
	for asked, want := range map[bool]int{false: http.StatusNotFound, true: http.StatusOK} {
		server := serve(t, Options{Profiling: asked})
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap"} {
			if status, _, _ := fetch(t, http.MethodGet, server.URL+path, nil); status != want {
				t.Errorf("%s with --web.enable-pprof=%v: status %d", path, asked, status)
			}
		}
	}
}

// TestProbeAndTargets holds how a request names a server, how it is refused, and
// what service discovery gets.
func TestProbeAndTargets(t *testing.T) {
	t.Parallel()
	var asked Probe
	server := serve(t, Options{
		Targets: func() []string { return []string{"orders", "billing"} },
		Probe: func(_ context.Context, p Probe) (*exposition.Page, error) {
			if p.Target == "evil" {
				return nil, &ProbeError{Status: http.StatusForbidden, Text: "evil may not be probed"}
			}
			asked = p
			return one("pgintegrity_up"), nil
		},
	})
	if status, _, body := fetch(t, http.MethodGet, server.URL+"/probe?target=evil", nil); status != http.StatusForbidden || !strings.Contains(body, "may not") {
		t.Errorf("status %d: %s", status, body)
	}
	status, _, body := fetch(t, http.MethodGet, server.URL+"/probe?target=db:5432/erp&module=small&auth_module=prod", nil)
	if want := (Probe{"db:5432/erp", "small", "prod"}); status != http.StatusOK || !strings.Contains(body, "pgintegrity_up 1") || asked != want {
		t.Errorf("status %d, asked for %v: %s", status, asked, body)
	}
	_, header, body := fetch(t, http.MethodGet, server.URL+"/targets", nil)
	want := `{"targets":["` + strings.TrimPrefix(server.URL, "http://") + `"],"labels":{"__metrics_path__":"/probe","__param_target":"billing","instance":"billing"}}`
	if header.Get("Content-Type") != "application/json" || !strings.Contains(body, want) {
		t.Errorf("%s: %s", header.Get("Content-Type"), body)
	}
}
