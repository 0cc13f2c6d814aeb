package chaos

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pgtest"
)

// duration is how long the faults are repeated; once is the least.
var duration = flag.Duration("chaos.for", 0, "repeat the faults for so long")

// fault is something that goes wrong, and what must be seen of it.
type fault struct {
	name string
	long bool // left out in short form
	run  func(t *testing.T, s *scene)
}

// config makes everything of the exporter look often.
const config = "checks: {catalog: {interval: 1m}, leftover: {interval: 1m}}\nmaintenance: {interval: 1s}\n"

// faults are what can happen to one server and the way to it.
func faults() []fault {
	return []fault{
		{name: "refused", run: func(t *testing.T, s *scene) { s.underWeather(t, refused, "refused") }},
		{name: "hung network", run: func(t *testing.T, s *scene) { s.underWeather(t, hung, "timeout") }},
		{name: "slow network", run: func(t *testing.T, s *scene) {
			s.link.set(slow)
			s.scrape(t)
			s.scrape(t)
			s.fair(t)
		}},
		{name: "half-open connections", run: func(t *testing.T, s *scene) {
			s.link.set(silent)
			if up(s.scrape(t)) {
				t.Error("up over a connection that loses everything")
			}
			s.fair(t)
		}},
		{name: "lost packets", run: func(t *testing.T, s *scene) {
			s.link.set(lossy)
			for range 5 {
				s.scrape(t)
			}
			s.fair(t)
		}},
		{name: "lost answers", run: func(t *testing.T, s *scene) {
			// Not reset: the connections were open before.
			s.link.set(deaf)
			s.down(t, "timeout")
			s.fair(t)
		}},
		{name: "clock jumps in the log", run: clockJumps},
		{name: "reset connections", run: func(t *testing.T, s *scene) {
			for range 5 {
				s.link.reset()
				if !up(s.scrape(t)) {
					t.Error("down although the next connection would work")
				}
			}
		}},
		{name: "garbled answers", run: func(t *testing.T, s *scene) {
			s.link.set(garbled)
			for range 3 {
				s.scrape(t)
			}
			s.fair(t)
		}},
		{name: "hung server", run: func(t *testing.T, s *scene) {
			must(t, s.server.Pause())
			s.down(t, "timeout")
			must(t, s.server.Resume())
		}},
		{name: "crash", run: func(t *testing.T, s *scene) {
			must(t, s.server.Kill())
			s.down(t, "refused")
			must(t, s.server.StartAgain(t.Context()))
		}},
		{name: "restart storm", long: true, run: func(t *testing.T, s *scene) {
			for range 5 {
				must(t, s.server.Stop(pgtest.Fast))
				s.scrape(t)
				must(t, s.server.StartAgain(t.Context()))
				s.scrape(t)
			}
		}},
		{name: "out of connections", run: outOfConnections},
		{name: "statistics reset", run: statisticsReset},
		{name: "permission revoked", run: func(t *testing.T, s *scene) {
			s.server.MustExec(t, "postgres", "REVOKE pg_monitor FROM "+s.role)
			page := s.scrape(t)
			if !up(page) {
				t.Error("down although the server answers")
			}
			s.server.MustExec(t, "postgres", "GRANT pg_monitor TO "+s.role)
		}},
		{name: "login revoked", run: func(t *testing.T, s *scene) {
			s.server.MustExec(t, "postgres", "ALTER ROLE "+s.role+" NOLOGIN; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '"+s.role+"'")
			s.down(t, "authentication")
			s.server.MustExec(t, "postgres", "ALTER ROLE "+s.role+" LOGIN")
		}},
		{name: "extension dropped", run: func(t *testing.T, s *scene) {
			s.server.MustExec(t, "postgres", "CREATE EXTENSION IF NOT EXISTS amcheck")
			s.scrape(t)
			s.server.MustExec(t, "postgres", "DROP EXTENSION amcheck")
			s.scrape(t)
		}},
		{name: "locked catalogue", run: func(t *testing.T, s *scene) {
			release := s.server.Hold(t, "postgres", "LOCK TABLE pg_catalog.pg_database, pg_catalog.pg_class IN ACCESS EXCLUSIVE MODE")
			s.scrape(t)
			s.scrape(t)
			release()
		}},
		{name: "tables made and dropped", run: churn},
	}
}

// Memory is flat when after the first rounds it does not grow by more than this.
const (
	settlingRounds = 3
	maxGrowth      = 8 << 20
)

// TestChaos makes one thing after the other go wrong, and looks at the end for
// what was left behind. Nothing runs beside it: goroutines and files are counted.
func TestChaos(t *testing.T) {
	server := pgtest.Start(t, pgtest.JSONLog(), pgtest.Setting("max_connections", "20"))
	s := begin(t, server, config)
	s.settled(t)
	before := s.debris(t)
	var settled uint64 // memory in use after the first rounds
	for began, round := time.Now(), 0; round == 0 || time.Since(began) < *duration; round++ {
		for _, f := range faults() {
			if f.long && testing.Short() {
				continue
			}
			ok := t.Run(fmt.Sprintf("%d/%s", round, f.name), func(t *testing.T) {
				f.run(t, s)
				s.recovered(t)
			})
			if !ok {
				t.FailNow() // what follows would only repeat it
			}
		}
		s.clean(t, before)
		if round > 0 {
			var memory runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&memory)
			t.Logf("round %d: %d MiB in use", round, memory.HeapInuse>>20)
			if round <= settlingRounds {
				settled = max(settled, memory.HeapInuse)
			} else if memory.HeapInuse > settled+maxGrowth {
				t.Fatalf("memory grows: %d MiB after round %d, at most %d MiB in the first %d", memory.HeapInuse>>20, round, settled>>20, settlingRounds)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// underWeather is bad weather from beginning to end.
func (s *scene) underWeather(t *testing.T, w weather, reason string) {
	t.Helper()
	s.link.set(w)
	s.link.reset()
	s.down(t, reason)
	s.fair(t)
}

// fair ends bad weather. What hung in it does not come back by itself.
func (s *scene) fair(t *testing.T) {
	t.Helper()
	s.link.set(fair)
	s.link.reset()
}

// outOfConnections takes every slot that the exporter could have.
func outOfConnections(t *testing.T, s *scene) {
	t.Helper()
	s.server.MustExec(t, "postgres", "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'greedy') THEN CREATE ROLE greedy LOGIN; END IF; END $$")
	var taken []*pgx.Conn
	defer func() {
		for _, conn := range taken {
			_ = conn.Close(context.WithoutCancel(t.Context()))
		}
	}()
	take := func() {
		for {
			conn, err := pgx.Connect(t.Context(), s.server.DSN("postgres", "greedy"))
			if err != nil {
				return
			}
			taken = append(taken, conn)
		}
	}
	take()
	s.link.reset() // the exporter's own sessions end, and their slots are taken, too
	pgtest.Await(t, "refused for too many connections", 10*time.Second, func() bool {
		take()
		v, _ := value(s.scrape(t), "pgintegrity_connection_failure", "reason", "too_many_connections")
		s.link.reset()
		return v == 1
	})
}

// statisticsReset holds that counters that the exporter accumulates do not fall.
func statisticsReset(t *testing.T, s *scene) {
	t.Helper()
	before, _ := value(s.scrape(t), "pgintegrity_checksum_failures_total", "", "")
	s.server.MustExec(t, "postgres", "SELECT pg_stat_reset()")
	if after, found := value(s.scrape(t), "pgintegrity_checksum_failures_total", "", ""); after < before || !found {
		t.Errorf("a counter fell from %v to %v", before, after)
	}
}

// clockJumps moves the clock by which the server writes and names its log to and
// fro, and the times of its files: every error counts once. The exporter's own clock
// is that of the machine and cannot be moved here.
func clockJumps(t *testing.T, s *scene) {
	t.Helper()
	divisions := func() float64 {
		n, _ := value(s.scrape(t), "pgintegrity_errors_total", "sqlstate", "22xxx")
		return n
	}
	want := divisions()
	for i, zone := range []string{"Pacific/Kiritimati", "Etc/GMT+12", "Asia/Kathmandu", "UTC"} { // UTC+14, -12, +5:45
		s.server.MustExec(t, "postgres", "ALTER SYSTEM SET log_timezone = '"+zone+"'")
		s.server.MustExec(t, "postgres", "SELECT pg_reload_conf(), pg_sleep(0.2)")
		if i%2 == 0 {
			s.server.MustExec(t, "postgres", "SELECT pg_rotate_logfile(), pg_sleep(0.2)")
		}
		for _, file := range s.server.LogFiles() {
			moved := time.Now().Add(time.Duration(24*(i%3-1)) * time.Hour)
			must(t, os.Chtimes(file, moved, moved))
		}
		for range 10 {
			if err := s.server.Exec(t.Context(), "postgres", "SELECT 1/0"); err == nil {
				t.Fatal("no error")
			}
			want++
		}
		pgtest.Await(t, "the errors of "+zone, 20*time.Second, func() bool { return divisions() >= want })
	}
	<-time.After(time.Second)
	if got := divisions(); got != want {
		t.Errorf("%v errors counted of %v", got, want)
	}
	s.server.MustExec(t, "postgres", "ALTER SYSTEM RESET log_timezone")
	s.server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
}

// churn makes and drops many tables while the exporter looks; its page must not
// grow with them.
func churn(t *testing.T, s *scene) {
	t.Helper()
	tables := 10000
	if testing.Short() {
		tables = 500
	}
	before := series(s, t)
	for range 4 {
		s.server.MustExec(t, "postgres", fmt.Sprintf("DO $$ BEGIN FOR i IN 1..%d LOOP EXECUTE 'CREATE TABLE churn_' || i || ' (x int PRIMARY KEY)'; IF i %% 100 = 0 THEN COMMIT; END IF; END LOOP; END $$", tables/4))
		s.scrape(t)
		if after := series(s, t); after > before+50 {
			t.Errorf("%d series with %d tables more, %d before", after, tables/4, before)
		}
		s.server.MustExec(t, "postgres", fmt.Sprintf("DO $$ BEGIN FOR i IN 1..%d LOOP EXECUTE 'DROP TABLE churn_' || i; IF i %% 100 = 0 THEN COMMIT; END IF; END LOOP; END $$", tables/4))
		s.scrape(t)
	}
}

func series(s *scene, t *testing.T) (n int) {
	t.Helper()
	for _, family := range s.scrape(t) {
		n += len(family.GetMetric())
	}
	return n
}

// hostile are names that are hard on everything that quotes.
func hostile() []string {
	return []string{
		`"; DROP TABLE x; --`, `'; SELECT pg_sleep(60); --`, "a\nb\r\nc\td", `<script>alert(1)</script>`, `{{ $labels.x }}`, `a"} 1 2` + "\n" + `evil_metric{x="`,
		`\`, `%s%n%d`, `../../../etc/passwd`, strings.Repeat("ä", 31) + "x", `SELECT`, ` `, `$1`, "\u202eevil", "\U0001F600",
	}
}

// TestHostileNames holds that databases, roles, tables and applications with
// hostile names break nothing: the page can be read, checks run, nothing is
// injected.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.JSONLog())
	for i, name := range hostile() {
		quoted := pgx.Identifier{name}.Sanitize()
		server.MustExec(t, "postgres", "CREATE SCHEMA "+quoted)
		server.MustExec(t, "postgres", fmt.Sprintf("CREATE TABLE %s.%s (%s int PRIMARY KEY, y int REFERENCES %s.%s, CHECK (%s > 0))", quoted, quoted, quoted, quoted, quoted, quoted))
		server.MustExec(t, "postgres", fmt.Sprintf("INSERT INTO %s.%s VALUES (1, 1)", quoted, quoted))
		server.MustExec(t, "postgres", "CREATE ROLE "+quoted)
		if i < 2 || !testing.Short() {
			server.MustExec(t, "postgres", "CREATE DATABASE "+quoted)
		}
		_ = server.Exec(t.Context(), "postgres", fmt.Sprintf("SET application_name = '%s'; INSERT INTO %s.%s VALUES (-1, 1)", strings.ReplaceAll(name, "'", "''"), quoted, quoted)) // an error in the log
	}
	target, err := pg.ResolveTarget(server.DSN("postgres"), pg.NoEnvironment)
	must(t, err)
	for _, database := range []string{"postgres", hostile()[0]} {
		scope := check.Scope{Heaps: check.NewHeaps()}
		for _, c := range check.All() {
			result := check.Run(t.Context(), target, database, c, scope, slog.New(slog.DiscardHandler))
			if result.Outcome == check.OutcomeFailed && c.Name != "drift" { // which needs an accepted baseline
				t.Errorf("%s of %q failed: %s", c.Name, database, result.Reason)
			}
			for _, f := range result.Findings {
				if f.Class == check.ClassCorruption || f.Class == check.ClassDataRule {
					t.Errorf("a false alarm: %+v", f)
				}
			}
		}
	}
	s := begin(t, server, config)
	names := make(map[string]bool)
	for _, family := range s.scrape(t) {
		if strings.Contains(family.GetName(), "evil") {
			t.Errorf("an injected family %s", family.GetName())
		}
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				names[label.GetValue()] = true
			}
		}
	}
	if !names[hostile()[0]] {
		t.Error("the hostile databases are not on the page, so nothing was tried")
	}
}

// TestPromotion holds that a standby that becomes a primary is seen as one
// without a restart of the exporter.
func TestPromotion(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	t.Parallel()
	primary := pgtest.Start(t)
	role, err := primary.Monitor(t.Context())
	must(t, err)
	standby := primary.Standby(t)
	must(t, standby.AwaitReplay(t.Context(), primary))
	e := watch(t, standby.DSN("postgres", role), t.TempDir(), config)
	recovery := func(want float64) func() bool {
		return func() bool {
			v, found := value(inTime(t, e.Scrape), "pgintegrity_in_recovery", "", "")
			return found && v == want
		}
	}
	pgtest.Await(t, "a standby", 10*time.Second, recovery(1))
	must(t, standby.Promote(t.Context()))
	pgtest.Await(t, "a primary", 10*time.Second, recovery(0))
}

// TestDiskFull fills the disk of the state: scrapes go on, and say so. It needs
// root, to have a small disk.
func TestDiskFull(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("long, and needs root")
	}
	t.Parallel()
	disk := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk).CombinedOutput(); err != nil {
		t.Skipf("no small disk: %s", out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", disk).CombinedOutput(); err != nil {
			t.Errorf("%s", out)
		}
	})
	server := pgtest.Start(t, pgtest.JSONLog())
	role, err := server.Monitor(t.Context())
	must(t, err)
	e := watch(t, server.DSN("postgres", role), filepath.Join(disk, "state"), config)
	pgtest.Await(t, "up", 10*time.Second, func() bool { return up(inTime(t, e.Scrape)) })
	filler, err := os.Create(filepath.Join(disk, "filler"))
	must(t, err)
	for {
		if _, err := filler.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	filler.Close()
	pgtest.Await(t, "told of the full disk", 60*time.Second, func() bool {
		_ = server.Exec(t.Context(), "postgres", "SELECT 1/0")
		page := inTime(t, e.Scrape)
		failures, _ := value(page, "pgintegrity_state_write_failures_total", "", "")
		kept, _ := value(page, "pgintegrity_state_up", "", "")
		return up(page) && (failures > 0 || kept == 0)
	})
	must(t, os.Remove(filler.Name()))
	pgtest.Await(t, "kept again", 60*time.Second, func() bool {
		_ = server.Exec(t.Context(), "postgres", "SELECT 1/0")
		kept, _ := value(inTime(t, e.Scrape), "pgintegrity_state_up", "", "")
		return kept == 1
	})
}
