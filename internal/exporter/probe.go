package exporter

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pg_integrity_exporter/collector"
	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/exposition"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/state"
	"pg_integrity_exporter/internal/web"
)

// probes are the servers that requests have named. Each is kept connected
// between its probes, and let go when nobody has asked for it for a while.
type probes struct {
	repeating

	fleet   config.Fleet
	options Options
	logger  *slog.Logger

	mu       sync.Mutex
	known    map[probeKey]*probed
	sessions map[sessionKey]*session
}

// probeKey is what a request asks for.
type probeKey struct {
	sessionKey

	module string
}

// sessionKey is what has a session of its own.
type sessionKey struct{ address, database, auth string }

// session is one session, whatever modules use it.
type session struct {
	target *pg.Target
	lane   *pg.Lane
	users  int
}

// probed is one server with the collectors of a module.
type probed struct {
	*session

	set  *collector.Set
	last time.Time // of the last probe, begun or ended
	busy int       // probes under way
}

// sweepInterval is how often idle servers are looked for.
const sweepInterval = 5 * time.Second

// maxBusy bounds the probes of one server that are under way at once. There is no
// bound over all of them: servers that hang would keep the others waiting.
const maxBusy = 4

// tooBusy refuses a probe of a server that has enough of them.
func tooBusy(target string) error {
	return &web.ProbeError{Status: http.StatusServiceUnavailable, Text: fmt.Sprintf("%d probes of %s are under way already", maxBusy, target)}
}

func newProbes(fleet config.Fleet, options Options) *probes {
	p := &probes{fleet: fleet, options: options, logger: options.Logger, known: make(map[probeKey]*probed), sessions: make(map[sessionKey]*session)}
	p.begin(sweepInterval, p.sweep)
	return p
}

// probe collects the metrics of a server before ctx ends.
func (p *probes) probe(ctx context.Context, asked web.Probe) (*exposition.Page, error) {
	key, err := p.key(asked)
	if err != nil {
		return nil, err
	}
	server, err := p.take(key)
	if err != nil {
		return nil, err
	}
	defer p.release(server)
	return server.set.Scrape(ctx), nil
}

// host is what may stand before the port: a name or an address, and nothing that
// a DSN could take for something else.
var host = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?$`)

// database is a name that needs no quoting anywhere.
var database = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,63}$`)

// key checks what a request asks for: nothing of it reaches a DSN unchecked.
func (p *probes) key(asked web.Probe) (probeKey, error) {
	refuse := func(status int, format string, args ...any) (probeKey, error) {
		return probeKey{}, &web.ProbeError{Status: status, Text: fmt.Sprintf(format, args...)}
	}
	address, name, given := strings.Cut(asked.Target, "/")
	if !given {
		name = "postgres"
	}
	if !strings.Contains(address, ":") {
		address += ":5432"
	}
	machine, port, err := net.SplitHostPort(address)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || number == 0 || !host.MatchString(machine) && net.ParseIP(machine) == nil || !database.MatchString(name) {
		return refuse(http.StatusBadRequest, "target must be the name of a configured target, or host:port/database")
	}
	key := probeKey{sessionKey{net.JoinHostPort(strings.ToLower(machine), strconv.FormatUint(number, 10)), name, asked.AuthModule}, asked.Module}
	if !p.fleet.Probe.Allows(key.address) {
		return refuse(http.StatusForbidden, "%s may not be probed: no target has this name, and no pattern of probe.allow in the configuration matches it", key.address)
	}
	if _, ok := p.fleet.Modules[asked.Module]; !ok && asked.Module != "" {
		return refuse(http.StatusBadRequest, "there is no module of this name in the configuration")
	}
	if _, ok := p.fleet.AuthModules[asked.AuthModule]; !ok && asked.AuthModule != "" {
		return refuse(http.StatusBadRequest, "there is no auth_module of this name in the configuration")
	}
	return key, nil
}

// take gives the server of a key, made when it is new, and counts a probe.
func (p *probes) take(key probeKey) (*probed, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	server, ok := p.known[key]
	if !ok {
		if len(p.known) >= p.fleet.Probe.MaxTargets {
			return nil, &web.ProbeError{Status: http.StatusServiceUnavailable, Text: fmt.Sprintf(
				"%d servers are probed already (probe.max_targets); one is let go when it was not probed for %s", len(p.known), p.fleet.Probe.Idle,
			)}
		}
		var err error
		if server, err = p.connect(key); err != nil {
			return nil, err
		}
		p.known[key] = server
	}
	if server.busy >= maxBusy {
		return nil, tooBusy(key.address)
	}
	server.busy++
	server.last = time.Now()
	return server, nil
}

func (p *probes) release(server *probed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	server.busy--
	server.last = time.Now()
}

// session makes what the modules of a server share; the connection is made by the
// first probe.
func (p *probes) session(key sessionKey) (*session, error) {
	if s := p.sessions[key]; s != nil {
		return s, nil
	}
	auth := p.fleet.AuthModules[key.auth]
	source := func() (string, error) { return auth.DSN(key.address, key.database) }
	target, err := pg.SourceTarget(source, pg.NoEnvironment)
	if err != nil {
		p.logger.Error("a server cannot be probed", "target", key.address, "auth_module", key.auth, "err", err)
		return nil, &web.ProbeError{Status: http.StatusInternalServerError, Text: "the auth_module cannot be used; the exporter's log says why"}
	}
	return &session{target: target, lane: pg.NewLane(target, collector.ScrapePurpose())}, nil
}

// connect makes a server with the collectors of a module.
func (p *probes) connect(key probeKey) (*probed, error) {
	s, err := p.session(key.sessionKey)
	if err != nil {
		return nil, err
	}
	name := s.target.Name()
	results, err := state.InMemory(p.logger).Target(name)
	if err != nil {
		return nil, err
	}
	wanted := p.fleet.Modules[key.module].Collectors
	sources := collector.Sources{Snapshot: results.Snapshot, Accumulate: results.Accumulate}
	collectors := slices.DeleteFunc(collector.All(sources), func(c collector.Collector) bool {
		return c.SQL == nil || slices.Contains(p.options.Disabled, c.Name) || len(wanted) > 0 && !slices.Contains(wanted, c.Name)
	})
	set := collector.NewSet(s.lane, sources, collectors, p.logger.With("target", name))
	set.Ahead(p.options.Ahead)
	p.sessions[key.sessionKey] = s
	s.users++
	return &probed{session: s, set: set}, nil
}

// sweep lets go of servers that nobody asks for.
func (p *probes) sweep(context.Context) {
	for _, server := range p.idle(time.Now()) {
		p.letGo(server)
	}
}

// letGo lets go of a server, and of its session when no other module uses it.
func (p *probes) letGo(server *probed) {
	server.set.Close()
	p.mu.Lock()
	server.users--
	unused := server.users == 0
	if unused {
		maps.DeleteFunc(p.sessions, func(_ sessionKey, s *session) bool { return s == server.session })
	}
	p.mu.Unlock()
	if unused {
		server.lane.Close()
	}
}

// idle takes out the servers that nobody asked for lately.
func (p *probes) idle(now time.Time) []*probed {
	p.mu.Lock()
	defer p.mu.Unlock()
	var idle []*probed
	for key, server := range p.known {
		if server.busy == 0 && now.Sub(server.last) >= time.Duration(p.fleet.Probe.Idle) {
			delete(p.known, key)
			idle = append(idle, server)
		}
	}
	return idle
}

// close lets go of all. Probes under way fail.
func (p *probes) close() {
	p.Stop()
	p.mu.Lock()
	servers := slices.Collect(maps.Values(p.known))
	p.mu.Unlock()
	for _, server := range servers {
		p.letGo(server)
	}
}

// validModules says which module names a collector that does not exist or that
// no probe can have.
func validModules(fleet config.Fleet) error {
	var names []string
	for _, c := range collector.All(collector.Sources{}) {
		if c.SQL != nil {
			names = append(names, c.Name)
		}
	}
	for name, module := range fleet.Modules {
		for _, c := range module.Collectors {
			if !slices.Contains(names, c) {
				return fmt.Errorf("modules.%s.collectors: there is no %q; there are: %s", name, c, strings.Join(names, ", "))
			}
		}
	}
	return nil
}

// Probe collects the metrics of a configured target by its name, or of a server
// that the configuration allows to be named.
func (e *Exporter) Probe(ctx context.Context, asked web.Probe) (*exposition.Page, error) {
	if asked.Target == "" {
		return nil, &web.ProbeError{Status: http.StatusBadRequest, Text: "the parameter target is missing"}
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if r := e.runtime(asked.Target); r != nil {
		if asked.Module != "" || asked.AuthModule != "" {
			return nil, &web.ProbeError{Status: http.StatusBadRequest, Text: "a configured target has its own settings: leave out module and auth_module"}
		}
		defer r.busy.Add(-1)
		if r.busy.Add(1) > maxBusy {
			return nil, tooBusy(r.name)
		}
		return r.set.Scrape(ctx), nil
	}
	return e.probes.probe(ctx, asked)
}

// Targets lists the configured targets by name, for service discovery.
func (e *Exporter) Targets() []string {
	e.mu.RLock()
	defer e.mu.RUnlock()
	var names []string
	for _, r := range e.running {
		names = append(names, r.name)
	}
	return names
}

// WatchedTarget is what the integrity page shows of one target.
func (e *Exporter) WatchedTarget(name string) (web.Watched, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	r := e.runtime(name)
	if r == nil {
		return web.Watched{}, false
	}
	return r.watched(), true
}
