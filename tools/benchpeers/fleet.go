package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pg_integrity_exporter/internal/pgtest"
)

// The fleet is a few servers under many names: each target is an address of its own
// of the loopback network, and has a session of its own. Each is probed every
// fleetInterval, for fleetRounds of them. The servers are real ones (one alone would
// show a thousand sessions to each of a thousand probes), or one that is played, so
// that the exporter has the machine for itself.
const (
	fleetTargets  = 1000
	fleetServers  = 20
	fleetInterval = 15 * time.Second
	fleetRounds   = 4
	// fleetReserve are the connections that a server has beside one for each of its
	// targets: for the superuser, and for new ones before the old ones are gone.
	fleetReserve = 20
)

const fleetHead = `
## (d) %d targets, each scraped every %.0f s

Each target is an address of its own of the loopback network (127.1.x.y), named in /probe, with a session of its own. Behind them are %d real
servers, which share the machine and its %d cores with the exporter and are what is late when there is too much to do; or a fake, which says
what one of them said and costs next to nothing, so that the exporter is what is measured. A probe collects metrics alone; checks, log and
maintenance are for targets in the configuration. All settings but probe.allow and the login are the defaults.

| servers | load | p50 ms | p95 ms | late or failed | CPU cores own | CPU ms server per probe | memory MiB (peak) | sessions |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
`

// fleetAddress is that of a target.
func fleetAddress(n int) string { return fmt.Sprintf("127.1.%d.%d", n/250, 1+n%250) }

// fleet is the servers of the fleet.
type fleet struct {
	name    string
	servers []*pgtest.Server
	role    string
	actor   *actor // plays them; nil when they are real
}

// target is the address of one target.
func (f *fleet) target(n int) string {
	port := f.servers[n%len(f.servers)].Port
	if f.actor != nil {
		port = f.actor.port()
	}
	return fmt.Sprintf("%s:%d", fleetAddress(n), port)
}

// cpu is the CPU time of all servers.
func (f *fleet) cpu() (total time.Duration) {
	for _, server := range f.servers {
		total += serverCPU(server)
	}
	return total
}

// sessions counts those of the exporter.
func (f *fleet) sessions(ctx context.Context) (total int, err error) {
	if f.actor != nil {
		return int(f.actor.sessions.Load()), nil
	}
	for _, server := range f.servers {
		var n int
		if err := server.Query(ctx, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE usename = '"+f.role+"'", &n); err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

func (f *fleet) close(ctx context.Context) (err error) {
	if f.actor != nil {
		err = f.actor.close(ctx)
	}
	for _, server := range f.servers {
		err = errors.Join(err, server.Close())
	}
	return err
}

// launchFleet starts servers for so many targets. They must be closed, also when
// there is an error.
func launchFleet(ctx context.Context, install pgtest.Install, targets int, played bool) (*fleet, error) {
	f := &fleet{name: fmt.Sprintf("%d real ones", fleetServers)}
	servers := fleetServers
	if played {
		f.name, servers = "a fake", 1
	}
	for range servers {
		server, err := pgtest.Launch(ctx, pgtest.Config{Install: install, Settings: map[string]string{
			"listen_addresses": "*", "max_connections": strconv.Itoa(targets/fleetServers + fleetReserve), "shared_buffers": "16MB",
			"autovacuum": "off", "bgwriter_delay": "10s", "wal_writer_delay": "10s", // their own work is not measured
		}})
		if err != nil {
			return f, err
		}
		f.servers = append(f.servers, server)
		if f.role, err = server.Monitor(ctx); err != nil {
			return f, err
		}
		if err := trustLoopback(ctx, server); err != nil {
			return f, err
		}
	}
	var err error
	if played {
		f.actor, err = newActor(ctx, f.servers[0], f.role)
	}
	return f, err
}

// measureFleets measures this exporter with many targets.
func (b *bench) measureFleets(ctx context.Context, install pgtest.Install, p peer) error {
	fmt.Fprintf(b.out, fleetHead, b.targets, fleetInterval.Seconds(), fleetServers, runtime.NumCPU())
	for _, played := range []bool{true, false} {
		if err := b.measureFleet(ctx, install, p, played); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) measureFleet(ctx context.Context, install pgtest.Install, p peer, played bool) (err error) {
	f, err := launchFleet(ctx, install, b.targets, played)
	defer func() { err = errors.Join(err, f.close(context.WithoutCancel(ctx))) }()
	if err != nil {
		return err
	}
	directory, err := os.MkdirTemp("", "benchpeers-")
	if err != nil {
		return fmt.Errorf("making a scratch directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	file := filepath.Join(directory, "fleet.yml")
	text := fmt.Sprintf(`log: {enabled: false}
maintenance: {enabled: false}
probe: {allow: ["127.1.*:*"]}
auth_modules: {fleet: {type: userpass, userpass: {username: %s}, options: {sslmode: disable}}}
`, f.role)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	p.command = slices.Insert(slices.Clone(p.command), 1, "--config.file="+file)
	program, err := launch(ctx, p, f.servers[0].DSN("postgres", f.role))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, program.stop()) }()
	if err := b.awaitQuiet(ctx); err != nil {
		return err
	}
	m, err := scrapeFleet(ctx, program, f, b.targets)
	if err != nil {
		return err
	}
	fmt.Fprint(b.out, m.row(f.name))
	return nil
}

// trustLoopback lets all addresses of the loopback network in.
func trustLoopback(ctx context.Context, server *pgtest.Server) error {
	file, err := os.OpenFile(filepath.Join(server.DataDirectory, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("letting the fleet in: %w", err)
	}
	_, err = file.WriteString("host all all 127.0.0.0/8 trust\n") //nolint:dupword // databases and users
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("letting the fleet in: %w", err)
	}
	return server.Exec(ctx, "postgres", "SELECT pg_reload_conf()")
}

// fleetMeasured is what many targets cost.
type fleetMeasured struct {
	times     []time.Duration
	late      int
	cores     float64
	server    time.Duration // CPU of a scrape, with all that went on meanwhile
	rss, peak int64
	sessions  int
	load      float64
}

func (m fleetMeasured) row(name string) string {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("| %s | %.1f | %.1f | %.1f | %d | %.2f | %.1f | %d (%d) | %d |\n", name,
		m.load, ms(quantile(m.times, 0.5)), ms(quantile(m.times, 0.95)), m.late, m.cores, ms(m.server), m.rss>>20, m.peak>>20, m.sessions)
}

// scrapeFleet scrapes each target in turn, as Prometheus spreads them over the
// interval. The first round connects and is not counted.
func scrapeFleet(ctx context.Context, r *program, f *fleet, targets int) (m fleetMeasured, err error) {
	pid := r.PID()
	address := strings.TrimSuffix(r.url, "/metrics") + "/probe?auth_module=fleet&target="
	var mu sync.Mutex
	var own, backends time.Duration
	var counted time.Time
	gap := fleetInterval / time.Duration(targets)
	for round := range fleetRounds + 1 {
		if round == 1 {
			own, backends, counted = cpu(pid, false), f.cpu(), time.Now()
		}
		began := time.Now()
		var scraping sync.WaitGroup
		for n := range targets {
			if err := wait(ctx, time.Until(began.Add(time.Duration(n)*gap))); err != nil {
				return m, err
			}
			scraping.Go(func() {
				up, took := false, time.Duration(0)
				err := r.get(ctx, address+url.QueryEscape(f.target(n)+"/postgres"), func(body []byte, after time.Duration) {
					up, took = bytes.Contains(body, []byte("\npgintegrity_up 1\n")), after
				})
				if round == 0 {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					m.times = append(m.times, took)
				}
				if err == nil && !up {
					err = errors.New("the server counts as down")
				}
				if err != nil && m.late == 0 {
					fmt.Fprintln(os.Stderr, "the first failed probe:", err)
				}
				if err != nil || took > fleetInterval {
					m.late++
				}
			})
		}
		scraping.Wait()
		if err := wait(ctx, time.Until(began.Add(fleetInterval))); err != nil {
			return m, err
		}
	}
	m.cores = float64(cpu(pid, false)-own) / float64(time.Since(counted))
	m.server = (f.cpu() - backends) / time.Duration(max(1, len(m.times)))
	m.rss, m.peak = memory(pid)
	m.load = load()
	m.sessions, err = f.sessions(ctx)
	return m, err
}
