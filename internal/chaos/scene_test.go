package chaos

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"pg_integrity_exporter/internal/exporter"
	"pg_integrity_exporter/internal/exposition"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is what Prometheus would give a scrape, and grace what may come on
// top of it on a machine that does much else.
const (
	patience = time.Second
	grace    = 1500 * time.Millisecond
)

// scene is a server, a link to it, and an exporter that watches it over the link.
type scene struct {
	server   *pgtest.Server
	role     string
	link     *link
	exporter *exporter.Exporter
}

func begin(t *testing.T, server *pgtest.Server, config string) *scene {
	t.Helper()
	role, err := server.Monitor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{server: server, role: role, link: newLink(t, fmt.Sprintf("127.0.0.1:%d", server.Port))}
	dsn := strings.Replace(server.DSN("postgres", role), fmt.Sprintf("127.0.0.1:%d", server.Port), s.link.address, 1)
	s.exporter = watch(t, dsn, t.TempDir(), config)
	s.recovered(t)
	return s
}

// settled waits until everything of the exporter has begun.
func (s *scene) settled(t *testing.T) {
	t.Helper()
	pgtest.Await(t, "settled", 60*time.Second, func() bool {
		reading, _ := value(s.scrape(t), "pgintegrity_log_reader_up", "", "")
		return reading == 1 && len(s.exporter.Watched().Snapshot.Checks) > 0
	})
}

// watch starts an exporter.
func watch(t *testing.T, dsn, directory, config string) *exporter.Exporter {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	store, err := state.Open(directory, logger)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := exporter.New(exporter.Options{
		DSN: dsn, Environment: func(string) (string, bool) { return "", false }, ConfigFile: file, Store: store, StatePath: directory, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Stop()
		_ = store.Close() // its disk may be full
	})
	return e
}

// scrape scrapes within the time of a scrape, or fails the test.
func (s *scene) scrape(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	return inTime(t, s.exporter.Scrape)
}

func inTime(t *testing.T, scrape func(ctx context.Context) *exposition.Page) []*dto.MetricFamily {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	page := scrape(ctx)
	if took := time.Since(began); took > patience+grace {
		t.Errorf("a scrape took %s", took.Round(time.Millisecond))
	}
	families, err := page.Families()
	if err != nil {
		t.Error(err)
	}
	return families
}

// value adds the samples of a family whose labels have a value.
func value(page []*dto.MetricFamily, name, label, want string) (total float64, found bool) {
	for _, family := range page {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			matches := label == ""
			for _, pair := range m.GetLabel() {
				matches = matches || pair.GetName() == label && pair.GetValue() == want
			}
			if matches {
				found = true
				total += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return total, found
}

func up(page []*dto.MetricFamily) bool {
	v, _ := value(page, "pgintegrity_up", "", "")
	return v == 1
}

// down waits until a scrape says that the server is not up, and why.
func (s *scene) down(t *testing.T, reasons ...string) {
	t.Helper()
	pgtest.Await(t, "down because of "+strings.Join(reasons, " or "), 20*time.Second, func() bool {
		page := s.scrape(t)
		if up(page) {
			return false
		}
		for _, reason := range reasons {
			if v, _ := value(page, "pgintegrity_connection_failure", "reason", reason); v == 1 {
				return true
			}
		}
		return len(reasons) == 0
	})
}

// recovered waits until all of a scrape succeeds again, without a restart.
func (s *scene) recovered(t *testing.T) {
	t.Helper()
	pgtest.Await(t, "recovered", 30*time.Second, func() bool {
		page := s.scrape(t)
		collectors, _ := value(page, "pgintegrity_scrape_collector_success", "", "")
		return up(page) && collectors == count(page, "pgintegrity_scrape_collector_success")
	})
}

// count is the number of samples of a family.
func count(page []*dto.MetricFamily, name string) float64 {
	for _, family := range page {
		if family.GetName() == name {
			return float64(len(family.GetMetric()))
		}
	}
	return 0
}

// debris is what a fault may leave behind.
type debris struct{ goroutines, files, sessions int }

func (s *scene) debris(t *testing.T) debris {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc")
	}
	d := debris{goroutines: runtime.NumGoroutine(), files: len(files)}
	const sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1"
	if err := s.server.Query(t.Context(), "postgres", sessions, &d.sessions, s.role); err != nil {
		d.sessions = 1000 // not known yet
	}
	return d
}

// clean waits until nothing is left behind. What comes and goes with checks and
// looks for maintenance is allowed.
func (s *scene) clean(t *testing.T, before debris) {
	t.Helper()
	var now debris
	if !awaitQuietly(30*time.Second, func() bool {
		now = s.debris(t)
		return now.goroutines <= before.goroutines+12 && now.files <= before.files+6 && now.sessions <= 3
	}) {
		var stacks strings.Builder
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		t.Errorf("left behind: %+v, before it %+v\n%s", now, before, stacks.String())
	}
}

func awaitQuietly(limit time.Duration, condition func() bool) bool {
	for began := time.Now(); time.Since(began) < limit; time.Sleep(100 * time.Millisecond) {
		if condition() {
			return true
		}
	}
	return false
}
