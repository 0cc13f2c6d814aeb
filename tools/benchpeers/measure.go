package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pgtest"
)

const (
	// scrapes are measured, within scrapesTime, one every pace.
	scrapes     = 200
	scrapesTime = time.Minute
	pace        = 50 * time.Millisecond
	// loneScrapes are measured at times that nobody can foresee, with pauses between
	// them from pace to three times that.
	loneScrapes = 60
	// idleTime is how long the work between scrapes is measured, to take it off.
	idleTime = 10 * time.Second
	// countedScrapes are the scrapes whose statements are counted in the log.
	countedScrapes = 10
)

// measured is what one program costs on one server.
type measured struct {
	times       []time.Duration
	lone        []time.Duration // of scrapes out of rhythm
	bytes       int
	series      int
	own, server time.Duration // CPU of a scrape
	ownIdle     time.Duration // CPU of a minute without scrapes
	serverIdle  time.Duration
	statements  float64 // of a scrape
	opened      float64 // connections of a scrape
	held        int
	rss, peak   int64
	load        float64 // of the machine in the last minute
}

const introduction = `# Beside other exporters

Written by ` + "`make bench-peers`" + `, which says how others are measured with it, on %s. Each program runs alone on a server of its own,
PostgreSQL %s, both on the same virtual machine of %d cores, as a role with pg_monitor. A scrape is one request over a kept connection with
gzip, undone by the client as Prometheus does: 200 of them at a regular pace of 50 ms, as Prometheus comes at a pace of its own, and then 60 at random times
(random p50, p95). This exporter asks the server shortly before a scrape that comes regularly, see --scrape.ahead. CPU is what a scrape costs
beyond the work between scrapes, which has columns of its own: this exporter reads the log, watches for maintenance and runs its checks
meanwhile. Statements and connections are counted in the server's log; held is the most connections seen at once.

Load is how many processes wanted to run on average while a program was measured, it and the server among them. Above the number of
cores, times are mostly those of waiting for others, and CPU is up to twice what it is on an idle machine.
`

const tableHead = `| exporter | load | p50 ms | p95 ms | random p50 | p95 | series | KiB | CPU ms own | CPU ms server | statements | new connections | held | memory MiB (peak) | idle CPU ms/min own | server |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
`

func (m measured) row(name string) string {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("| %s | %.1f | %.1f | %.1f | %.1f | %.1f | %d | %d | %.1f | %.1f | %.1f | %.1f | %d | %d (%d) | %.0f | %.0f |\n", name,
		m.load, ms(quantile(m.times, 0.5)), ms(quantile(m.times, 0.95)), ms(quantile(m.lone, 0.5)), ms(quantile(m.lone, 0.95)), m.series, m.bytes>>10, ms(m.own), ms(m.server), m.statements, m.opened, m.held,
		m.rss>>20, m.peak>>20, ms(m.ownIdle), ms(m.serverIdle))
}

func quantile(times []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(int(float64(len(sorted))*q), len(sorted)-1)]
}

// measure measures a program that runs and has come to rest.
func measure(ctx context.Context, r *program, server *pgtest.Server, role string) (m measured, err error) {
	control, err := pgx.Connect(ctx, server.DSN("postgres"))
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, control.Close(context.WithoutCancel(ctx))) }()
	pid := r.PID()
	own, backends := cpu(pid, false), serverCPU(server)
	if err := wait(ctx, idleTime); err != nil {
		return m, err
	}
	minutes := float64(idleTime) / float64(time.Minute)
	m.ownIdle = time.Duration(float64(cpu(pid, false)-own) / minutes)
	m.serverIdle = time.Duration(float64(serverCPU(server)-backends) / minutes)

	log := filepath.Join(server.LogDirectory(), "server.json")
	connections := connectionsIn(log, role)
	own, backends = cpu(pid, false), serverCPU(server)
	began := time.Now()
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for len(m.times) < scrapes && time.Since(began) < scrapesTime {
		<-ticker.C
		err := r.get(ctx, r.url, func(body []byte, took time.Duration) {
			m.times = append(m.times, took)
			m.bytes, m.series = len(body), seriesOf(body)
		})
		if err != nil {
			return m, err
		}
	}
	passed, n := time.Since(began).Minutes(), len(m.times)
	m.own = max(0, (cpu(pid, false)-own-time.Duration(float64(m.ownIdle)*passed))/time.Duration(n))
	m.server = max(0, (serverCPU(server)-backends-time.Duration(float64(m.serverIdle)*passed))/time.Duration(n))
	m.opened = float64(connectionsIn(log, role)-connections) / float64(n)
	for range loneScrapes {
		if err := wait(ctx, pace+rand.N(2*pace)); err != nil {
			return m, err
		}
		if err := r.get(ctx, r.url, func(_ []byte, took time.Duration) { m.lone = append(m.lone, took) }); err != nil {
			return m, err
		}
	}
	m.load = load()
	if m.statements, m.held, err = count(ctx, r, control, log, role); err != nil {
		return m, err
	}
	m.rss, m.peak = memory(pid)
	return m, nil
}

// settle waits until neither the program nor the server has had much to do for a
// while: between the checks of a first round there are pauses.
func settle(ctx context.Context, r *program, server *pgtest.Server) {
	const interval = 2 * time.Second
	const enough = 15 // in a row
	deadline := time.Now().Add(settleTime)
	for quiet := 0; quiet < enough && time.Now().Before(deadline); {
		before := cpu(r.PID(), false) + serverCPU(server)
		if wait(ctx, interval) != nil {
			return
		}
		if cpu(r.PID(), false)+serverCPU(server)-before < interval/20 {
			quiet++
		} else {
			quiet = 0
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// count counts the statements of a scrape, less those of the same time without
// one, and the connections held.
func count(ctx context.Context, r *program, control *pgx.Conn, log, role string) (statements float64, held int, err error) {
	for _, sql := range []string{"ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()"} {
		if _, err := control.Exec(ctx, sql); err != nil {
			return 0, 0, err
		}
	}
	if err := wait(ctx, 2*time.Second); err != nil {
		return 0, 0, err
	}
	before, began := statementsIn(log, role), time.Now()
	for range countedScrapes {
		if err := r.get(ctx, r.url, scraped); err != nil {
			return 0, 0, err
		}
		var now int
		if err := control.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", role).Scan(&now); err != nil {
			return 0, 0, err
		}
		held = max(held, now)
	}
	during, passed := statementsIn(log, role)-before, time.Since(began)
	const idle = 5 * time.Second
	before = statementsIn(log, role)
	if err := wait(ctx, idle); err != nil {
		return 0, 0, err
	}
	background := float64(statementsIn(log, role)-before) * float64(passed) / float64(idle)
	return max(0, (float64(during)-background)/countedScrapes), held, nil
}

// seriesOf counts the series of an exposition.
func seriesOf(body []byte) int {
	n := 0
	for line := range bytes.Lines(body) {
		if len(line) > 1 && line[0] != '#' {
			n++
		}
	}
	return n
}

// connectionsIn and statementsIn count lines of a role in a jsonlog.
func connectionsIn(log, role string) int {
	return linesIn(log, `"user":"`+role+`"`, `"message":"connection authorized`)
}

func statementsIn(log, role string) int {
	return linesIn(log, `"user":"`+role+`"`, `"message":"statement: `) + linesIn(log, `"user":"`+role+`"`, `"message":"execute `)
}

func linesIn(log string, needles ...string) int {
	content, err := os.ReadFile(log)
	if err != nil {
		return 0
	}
	n := 0
	for line := range strings.Lines(string(content)) {
		if !slices.ContainsFunc(needles, func(needle string) bool { return !strings.Contains(line, needle) }) {
			n++
		}
	}
	return n
}
