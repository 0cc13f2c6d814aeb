// Package web serves the exporter's pages: metrics, the integrity page, health,
// reload, runbooks and the landing page. It asks the server nothing: it shows
// the state.
package web

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/prometheus/common/version"
	toolkit "github.com/prometheus/exporter-toolkit/web"

	"pg_integrity_exporter/internal/exposition"
)

// timeoutHeader is what Prometheus says of its own patience, in seconds.
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// Options are what the pages show and do.
type Options struct {
	// TelemetryPath is where the metrics are.
	TelemetryPath string
	// Scrape collects the metrics of the server before its context ends.
	Scrape func(ctx context.Context) *exposition.Page
	// Probe collects the metrics of a server that the request names; nil is that
	// none may be named. Its error may be a *ProbeError.
	Probe func(ctx context.Context, asked Probe) (*exposition.Page, error)
	// Targets lists the configured targets, for service discovery.
	Targets func() []string
	// WatchedTarget is what the integrity page shows of a target by its name.
	WatchedTarget func(name string) (Watched, bool)
	// Self adds the exporter's own metrics to a text.
	Self func(text []byte) []byte
	// Reload reads the configuration again.
	Reload func() error
	// Runbooks holds one NAME.md for each alert.
	Runbooks fs.FS
	// Timeout bounds a scrape that comes without timeoutHeader.
	Timeout time.Duration
	// TimeoutOffset is taken off the time that Prometheus gives, for the way
	// back.
	TimeoutOffset time.Duration
	// MaxRequests bounds scrapes under way at once. Probes are bounded by what they
	// ask for.
	MaxRequests int
	// Watched is what the integrity page shows.
	Watched func() Watched
	// User gives the authenticated user of a request, or "" without one; nil is
	// nobody.
	User func(r *http.Request) string
	// Profiling serves Go's profiles under /debug/pprof/.
	Profiling bool
	// Logger takes errors of serving.
	Logger *slog.Logger
}

// Handler serves every page.
func Handler(options Options) (http.Handler, error) {
	landing, err := toolkit.NewLandingPage(toolkit.LandingConfig{
		Name:        "pg_integrity_exporter",
		Description: "Tells Prometheus that a PostgreSQL server's data is being damaged, what is damaged, and why",
		Version:     version.Info(),
		Links: []toolkit.LandingLinks{
			{Address: options.TelemetryPath, Text: "Metrics", Description: "what Prometheus scrapes"},
			{Address: "/integrity", Text: "Integrity", Description: "is the data safe, what was looked at, what is wrong"},
			{Address: "/runbooks/", Text: "Runbooks", Description: "what to do about each alert"},
			{Address: "/-/healthy", Text: "Healthy", Description: "the process answers"},
			{Address: "/-/ready", Text: "Ready", Description: "the process serves metrics"},
		},
		Profiling: strconv.FormatBool(options.Profiling),
	})
	if err != nil {
		return nil, fmt.Errorf("making the landing page: %w", err)
	}
	page, err := newIntegrity(options)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	page.register(mux)
	mux.Handle("GET "+options.TelemetryPath, metrics(options))
	if options.Probe != nil {
		mux.Handle("GET /probe", probe(options))
		mux.HandleFunc("GET /targets", targets(options))
	}
	mux.Handle("GET /runbooks/{name...}", runbooks(options.Runbooks))
	mux.HandleFunc("GET /-/healthy", say("Healthy"))
	mux.HandleFunc("GET /-/ready", say("Ready"))
	mux.HandleFunc("/-/reload", reload(options))
	mux.HandleFunc(windowsPath, windows(options))
	if options.Profiling {
		profiles(mux)
	}
	if options.TelemetryPath != "/" {
		mux.Handle("GET /{$}", landing)
	}
	return secure(mux), nil
}

// secure adds the headers that every page has, and refuses what other sites make
// a browser send, by where the browser says that it comes from.
func secure(next http.Handler) http.Handler {
	next = http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Frame-Options", "DENY")
		w.Header().Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

// profiles serves what Go tells of the process: memory, goroutines, CPU.
func profiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

func say(word string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "pg_integrity_exporter is %s.\n", word)
	}
}

func reload(options Options) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost && r.Method != http.MethodPut {
			w.Header().Set("Allow", "POST, PUT")
			http.Error(w, "This endpoint requires a POST request.", http.StatusMethodNotAllowed)
			return
		}
		if err := options.Reload(); err != nil {
			http.Error(w, "The configuration was not reloaded, the old one stays in force: "+err.Error(), http.StatusInternalServerError)
			return
		}
		say("reloaded")(w, r)
	}
}

// metrics serves a scrape within the time that Prometheus gives. It bounds how many
// are under way.
func metrics(options Options) http.Handler {
	inFlight := make(chan struct{}, options.MaxRequests)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case inFlight <- struct{}{}:
			defer func() { <-inFlight }()
		default:
			http.Error(w, fmt.Sprintf("There are already %d scrapes under way (--web.max-requests).", options.MaxRequests), http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), budget(r, options))
		defer cancel()
		page := options.Scrape(ctx)
		defer page.Free()
		page.Fresh = options.Self(page.Fresh)
		expose(w, r, options.Logger, page)
	})
}

// budget is how long a scrape may take.
func budget(r *http.Request, options Options) time.Duration {
	patience := options.Timeout
	if seconds, err := strconv.ParseFloat(r.Header.Get(timeoutHeader), 64); err == nil && seconds > 0 && seconds < 3600 {
		patience = time.Duration(seconds * float64(time.Second))
	}
	if patience > 2*options.TimeoutOffset {
		return patience - options.TimeoutOffset
	}
	return patience / 2
}
