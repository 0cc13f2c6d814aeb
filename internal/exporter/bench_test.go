package exporter_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"pg_integrity_exporter/collector"
	"pg_integrity_exporter/internal/exporter"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/process"
	"pg_integrity_exporter/internal/state"
	"pg_integrity_exporter/internal/web"
)

// BenchmarkScrape is a whole scrape over HTTP with gzip beside the same series
// with client_golang and the same statements one after the other. CPU of the
// process (the client's share in it) and of the server are metrics of their own.
func BenchmarkScrape(b *testing.B) {
	server := pgtest.Start(b, pgtest.JSONLog())
	monitor, err := server.Monitor(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	dsn := server.DSN("postgres", monitor)
	logger := slog.New(slog.DiscardHandler)
	e, err := exporter.New(exporter.Options{
		DSN: dsn, Environment: func(string) (string, bool) { return "", false }, Store: state.InMemory(logger), Logger: logger,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(e.Stop)
	ours, err := web.Handler(web.Options{
		TelemetryPath: "/metrics", Scrape: e.Scrape, Self: process.New("bench").Append, Timeout: 10 * time.Second, MaxRequests: 1, Logger: logger, Watched: e.Watched,
		Runbooks: os.DirFS(b.TempDir()),
	})
	if err != nil {
		b.Fatal(err)
	}
	// Before the first checks are over, each changes the page.
	time.Sleep(10 * time.Second)
	b.Run("ours", func(b *testing.B) { benchmarkScrape(b, server, ours) })
	b.Run("client_golang", func(b *testing.B) { benchmarkScrape(b, server, usual(b, dsn, ours)) })
}

func benchmarkScrape(b *testing.B, server *pgtest.Server, handler http.Handler) {
	listening := httptest.NewServer(handler)
	defer listening.Close()
	request, err := http.NewRequest(http.MethodGet, listening.URL+"/metrics", nil)
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("Accept-Encoding", "gzip") // and nobody undoes it
	scrape := func() int64 {
		response, err := listening.Client().Do(request)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK {
			b.Fatal(response.Status, err)
		}
		return n
	}
	size := scrape()
	own, theirs := cpuTime(b), serverTime(server)
	for b.Loop() {
		scrape()
	}
	b.ReportMetric(float64(cpuTime(b)-own)/float64(b.N)/1e3, "own-µs/op")
	b.ReportMetric(float64(serverTime(server)-theirs)/float64(b.N)/1e3, "server-µs/op")
	b.ReportMetric(float64(size), "bytes")
	b.ReportAllocs()
}

// cpuTime is the CPU time of this process.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// serverTime is the CPU time of the processes of a server that run.
func serverTime(server *pgtest.Server) time.Duration {
	var total time.Duration
	for _, pid := range server.Processes() {
		content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid)) // none where the kernel has none
		ran, _, _ := strings.Cut(string(content), " ")
		n, _ := strconv.ParseInt(ran, 10, 64)
		total += time.Duration(n)
	}
	return total
}

// usual serves the series of another page with client_golang.
func usual(b *testing.B, dsn string, page http.Handler) http.Handler {
	b.Helper()
	recorder := httptest.NewRecorder()
	page.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(recorder.Body)
	if err != nil {
		b.Fatal(err)
	}
	all := &constant{}
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), collector.Namespace) {
			continue
		}
		for _, m := range family.GetMetric() {
			var s series
			var names []string
			for _, label := range m.GetLabel() {
				names = append(names, label.GetName())
				s.labels = append(s.labels, label.GetValue())
			}
			s.desc = prometheus.NewDesc(family.GetName(), family.GetHelp(), names, nil)
			all.series = append(all.series, s)
		}
	}
	conn, err := pgx.Connect(b.Context(), dsn)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close(b.Context()) })
	facts := pg.Facts{VersionNum: 150000}
	for _, c := range collector.All(collector.Sources{}) {
		if c.SQL != nil && (c.NotApplicable == nil || c.NotApplicable(facts) == "") {
			all.statements = append(all.statements, c.SQL(facts))
		}
	}
	all.conn = conn
	registry := prometheus.NewRegistry()
	registry.MustRegister(all, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})
}

// constant is a collector as they usually are.
type constant struct {
	conn       *pgx.Conn
	statements []string
	series     []series
}

type series struct {
	desc   *prometheus.Desc
	labels []string
}

func (c *constant) Describe(chan<- *prometheus.Desc) {}

func (c *constant) Collect(metrics chan<- prometheus.Metric) {
	for _, sql := range c.statements {
		rows, err := c.conn.Query(context.Background(), sql)
		if err == nil {
			for rows.Next() {
				_, _ = rows.Values()
			}
		}
	}
	for _, s := range c.series {
		metrics <- prometheus.MustNewConstMetric(s.desc, prometheus.GaugeValue, 1, s.labels...)
	}
}
