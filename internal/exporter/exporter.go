// Package exporter puts the parts together: it starts what watches one target,
// replaces it as a whole when the configuration is reloaded, and stops it.
package exporter

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pg_integrity_exporter/collector"
	"pg_integrity_exporter/internal/business"
	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/drill"
	"pg_integrity_exporter/internal/exposition"
	"pg_integrity_exporter/internal/incident"
	"pg_integrity_exporter/internal/logwatch"
	"pg_integrity_exporter/internal/maintenance/activity"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/schedule"
	"pg_integrity_exporter/internal/state"
	"pg_integrity_exporter/internal/web"
)

// Options are what stays the same for the life of the process.
type Options struct {
	// DSN is the target given on the command line; empty is the configuration's
	// or the environment's.
	DSN string
	// Environment is where DATA_SOURCE_* are looked up.
	Environment pg.Environment
	// ConfigFile is the configuration file; empty is none.
	ConfigFile string
	// Disabled are the names of collectors that are switched off.
	Disabled []string
	// StatePath is the directory of the state, which drills share.
	StatePath string
	// Ahead is how long before a regular scrape the server is asked at most, see
	// collector.Set.Ahead.
	Ahead time.Duration
	// Store keeps the state.
	Store *state.Store
	// Logger is the parent of every logger.
	Logger *slog.Logger
}

// Exporter watches the targets of a configuration.
type Exporter struct {
	options Options

	mu      sync.RWMutex
	running []*runtime
	main    bool // the first of running was named outside of targets: /metrics is its page
	probes  *probes

	reloading sync.Mutex // one reload at a time
	last      atomic.Pointer[reloadResult]
}

// reloadResult is how the last reload ended.
type reloadResult struct {
	ok      bool
	success time.Time
}

// runtime is one target and everything of it that a reload replaces.
type runtime struct {
	name      string // what ?target= calls it
	target    *pg.Target
	results   *state.Target
	lane      *pg.Lane
	set       *collector.Set
	busy      atomic.Int32 // probes under way
	scheduler *schedule.Scheduler
	watcher   *logwatch.Watcher
	recovery  *recovery.Watcher
	activity  *activity.Watcher
	drills    *drill.Scheduler
	business  *business.Watcher
	presence  *presence
	leader    *leadership // nil when this is the only exporter of the target
	parts     []part      // what runs, in the order in which it was started
}

// New reads the configuration and starts to watch. The server need not be
// there; the configuration and the DSN must be valid.
func New(options Options) (*Exporter, error) {
	e := &Exporter{options: options}
	e.last.Store(&reloadResult{})
	if err := e.Reload(); err != nil {
		return nil, err
	}
	e.record(state.EventExporterStarted, "the exporter started")
	return e, nil
}

// Reload reads the configuration again and replaces everything that depends
// on it, or nothing when it is not valid.
func (e *Exporter) Reload() error {
	e.reloading.Lock()
	defer e.reloading.Unlock()
	err := e.reload()
	result := reloadResult{ok: err == nil, success: time.Now()}
	if err != nil {
		result.success = e.last.Load().success
	}
	e.last.Store(&result)
	return err
}

// watch is a target to be watched.
type watch struct {
	name    string
	config  config.Config
	target  *pg.Target
	results *state.Target
}

func (e *Exporter) reload() error {
	validated, watches, err := e.resolve()
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stop()
	e.probes = newProbes(validated.Get().Fleet, e.options)
	turns := make(chan struct{}, validated.Get().Limits.ConcurrentChecks)
	e.main = len(watches) > len(validated.Get().Targets)
	for _, w := range watches {
		r := e.start(w.config, w.target, w.results, turns)
		r.name = w.name
		e.running = append(e.running, r)
	}
	return nil
}

// resolve finds everything that is to be watched, or says what is wrong, before
// anything changes. With targets in the configuration, the server of target and
// of the environment is watched only when one is named.
func (e *Exporter) resolve() (config.Validated, []watch, error) {
	validated, main, err := Resolve(e.options.DSN, e.options.ConfigFile, e.options.Environment)
	if err != nil {
		return validated, nil, err
	}
	if err := validModules(validated.Get().Fleet); err != nil {
		return validated, nil, err
	}
	var watches []watch
	if given := validated.Get(); len(given.Targets) == 0 || e.named(given) {
		watches = append(watches, watch{name: main.Name(), config: given, target: main})
	}
	for _, named := range validated.Get().Targets {
		settings := named.Settings.Get()
		target, err := pg.SourceTarget(settings.Target.Read, pg.NoEnvironment)
		if err != nil {
			return validated, nil, fmt.Errorf("targets: %s: %w", named.Name, err)
		}
		watches = append(watches, watch{name: named.Name, config: settings, target: target})
	}
	for i, w := range watches {
		if slices.ContainsFunc(watches[:i], func(other watch) bool { return other.target.Name() == w.target.Name() }) {
			return validated, nil, fmt.Errorf("targets: %s is watched already, under another name", w.target.Name())
		}
		if watches[i].results, err = e.options.Store.Target(w.target.Name()); err != nil {
			return validated, nil, err
		}
	}
	return validated, watches, nil
}

// named says whether a server is named outside of targets.
func (e *Exporter) named(given config.Config) bool {
	if e.options.DSN != "" || given.Target.Given() {
		return true
	}
	for _, variable := range []string{"DATA_SOURCE_NAME", "DATA_SOURCE_URI", "DATA_SOURCE_URI_FILE", "PGHOST", "PGSERVICE"} {
		if value, ok := e.options.Environment(variable); ok && value != "" {
			return true
		}
	}
	return false
}

// runtime finds a target by its name or address; nil is none.
func (e *Exporter) runtime(name string) *runtime {
	for _, r := range e.running {
		if r.name == name || r.target.Name() == name {
			return r
		}
	}
	return nil
}

// Resolve finds the configuration and the target in the order of the flags: a
// DSN given on the command line, the configuration's, the environment's.
func Resolve(dsn, configFile string, environment pg.Environment) (config.Validated, *pg.Target, error) {
	validated := config.Default()
	if configFile != "" {
		var err error
		if validated, err = config.Load(configFile); err != nil {
			return config.Validated{}, nil, err
		}
	}
	given := validated.Get().Target
	source := func() (string, error) { return dsn, nil }
	if dsn == "" && given.Given() {
		source = given.Read
	}
	target, err := pg.SourceTarget(source, environment)
	if err == nil {
		_, err = standbyOf(validated.Get())
	}
	if err != nil {
		return config.Validated{}, nil, err
	}
	return validated, target, nil
}

// standbyOf is the standby of a configuration; its Target is nil when there is none.
func standbyOf(c config.Config) (schedule.Standby, error) {
	standby := schedule.Standby{Checks: c.Standby.Checks}
	if !c.Standby.Given() {
		return standby, nil
	}
	var err error
	if standby.Target, err = pg.SourceTarget(c.Standby.Read, pg.NoEnvironment); err != nil {
		return standby, fmt.Errorf("standby: %w", err)
	}
	standby.Target.Bound(maxSessions)
	return standby, nil
}

// ResolveNamed finds the settings and the target of one of targets.
func ResolveNamed(name, configFile string) (config.Validated, *pg.Target, error) {
	validated, err := config.Load(configFile)
	if err != nil {
		return config.Validated{}, nil, err
	}
	var names []string
	for _, named := range validated.Get().Targets {
		if named.Name == name {
			target, err := pg.SourceTarget(named.Settings.Get().Target.Read, pg.NoEnvironment)
			return named.Settings, target, err
		}
		names = append(names, named.Name)
	}
	return config.Validated{}, nil, fmt.Errorf("%s has no target %q; it has: %s", configFile, name, strings.Join(names[:min(len(names), 20)], ", "))
}

func (e *Exporter) start(c config.Config, target *pg.Target, results *state.Target, turns chan struct{}) *runtime {
	logger := e.options.Logger.With("target", target.Name())
	results.Limit(c.Limits.Findings)
	purpose := collector.ScrapePurpose()
	purpose.Keepalive = c.Leader.Enabled
	r := &runtime{target: target, results: results, lane: pg.NewLane(target, purpose)}

	intervals := make(map[string]time.Duration)
	for name, settings := range c.Checks {
		if settings.Enabled {
			intervals[name] = time.Duration(settings.Interval)
		}
	}
	target.Bound(maxSessions)
	standby, err := standbyOf(c)
	if err != nil {
		logger.Error("the standby is not used", "err", err)
	}
	r.scheduler = schedule.New(target, r.lane, results, schedule.Settings{
		Checks: intervals, Selects: c.Databases.Selects, RateLimit: int64(c.Limits.CheckRate), Share: c.Limits.CheckShare, Rules: c.Rules(), Turns: turns,
		Standby: standby,
		Bounds:  schedule.Bounds{Latency: time.Duration(c.Limits.Latency), ReplicationLag: time.Duration(c.Limits.ReplicationLag)},
	}, logger)
	r.recovery = recovery.NewWatcher(c.Recovery.Watched(), time.Duration(c.Recovery.Interval), int64(c.Recovery.VerifyRate), results.Files(), logger)
	r.drills = e.drills(c, results, logger)
	r.activity = activity.New(target, r.lane, results.Files(), r.scheduler, activity.Settings{
		Enabled: c.Maintenance.Enabled, Interval: time.Duration(c.Maintenance.Interval), Schedules: c.Maintenance.Schedules(),
		Marker: c.Maintenance.Marker, MarkerLimit: time.Duration(c.Maintenance.MarkerLimit),
	}, logger)
	if c.Log.Enabled {
		r.watcher = logwatch.New(target, r.lane, results, r.scheduler, c.Log, r.activity.Logged, logger)
	}
	r.business = business.New(target, c.Business(), logger)
	r.presence = newPresence(r.lane, results)
	alone := r.run(c, logger)

	sources := collector.Sources{
		Snapshot: results.Snapshot, Accumulate: results.Accumulate, Reloaded: e.reloaded,
		Observe: r.recovery.Observe, Recovery: r.recovery.Statuses, Business: r.business.Counts, Maintenance: r.activity.Status,
		Incidents: incident.Watch(results.Files()),
		Leads:     r.leads, Spent: target.Spent, SpentLimit: c.Limits.WatchShare,
	}
	collectors := slices.DeleteFunc(collector.All(sources), func(c collector.Collector) bool {
		return slices.Contains(e.options.Disabled, c.Name)
	})
	for i := range collectors {
		collectors[i].Leader = slices.Contains(alone, collectors[i].Name)
	}
	r.set = collector.NewSet(r.lane, sources, collectors, logger)
	r.set.Ahead(e.options.Ahead)
	return r
}

// part is something that runs until it is stopped, and may be started again.
type part interface {
	Start()
	Stop()
}

// run starts everything of a target. What costs the server or the repositories
// runs in the leader alone when there are several exporters; run gives the
// collectors that only the leader knows something for.
func (r *runtime) run(c config.Config, logger *slog.Logger) (alone []string) {
	costly := []part{r.scheduler, r.recovery, r.drills, r.business}
	alone = []string{"business", "check", "recovery"}
	r.parts = []part{r.activity, r.presence}
	switch {
	case r.watcher == nil:
	case c.Log.ThroughServer():
		costly = append(costly, r.watcher)
		alone = append(alone, "log")
	default:
		r.parts = append(r.parts, r.watcher)
	}
	if c.Leader.Enabled {
		r.leader = newLeadership(r.lane, costly, logger)
		r.parts = append(r.parts, r.leader)
	} else {
		r.parts = append(r.parts, costly...)
	}
	for _, p := range r.parts {
		p.Start()
	}
	return alone
}

// maxSessions bounds the sessions that come and go, beside the one that is kept:
// one for the check in its slot and one for what is urgent or short.
const maxSessions = 2

// leads says whether the costly parts run here.
func (r *runtime) leads() bool { return r.leader == nil || r.leader.leads.Load() }

// dsnVariable is the environment variable of the flag --dsn, which keeps a
// password off the command line of a drill.
const dsnVariable = "PG_INTEGRITY_EXPORTER_DSN"

// drills are the scheduled drills: this program again, with the same
// configuration and state.
func (e *Exporter) drills(c config.Config, results *state.Target, logger *slog.Logger) *drill.Scheduler {
	var scheduled []drill.Scheduled
	for _, repository := range c.Recovery.Repositories {
		if repository.DrillInterval > 0 {
			scheduled = append(scheduled, drill.Scheduled{Repository: repository.Name, Interval: time.Duration(repository.DrillInterval)})
		}
	}
	var environment []string
	if e.options.DSN != "" {
		environment = append(environment, dsnVariable+"="+e.options.DSN)
	}
	arguments := func(repository string) []string {
		return []string{
			"drill", "--config.file=" + e.options.ConfigFile, "--state.path=" + e.options.StatePath, "--repository=" + repository, "--output=json",
		}
	}
	return drill.NewScheduler(scheduled, results.Files(), arguments, environment, logger)
}

func (e *Exporter) reloaded() (ok bool, success time.Time) {
	last := e.last.Load()
	return last.ok, last.success
}

// Scrape collects the metrics of the one target that is not in targets before ctx
// ends. Those in targets are instances of their own, see Probe.
func (e *Exporter) Scrape(ctx context.Context) *exposition.Page {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if !e.main {
		return exposition.NewPage()
	}
	return e.running[0].set.Scrape(ctx)
}

// Watched is what the integrity page shows of the first target.
func (e *Exporter) Watched() web.Watched {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.running[0].watched()
}

func (r *runtime) watched() web.Watched {
	return web.Watched{
		Target: r.target.Name(), Snapshot: r.results.Snapshot(), Files: r.results.Files(),
		Unreachable: r.set.Unreachable(), NextRun: schedule.NextRun,
		RunNow:      func(check, database string) bool { return r.leads() && r.scheduler.RunNow(check, database) },
		Maintenance: r.activity.Status(), Recovery: r.recovery.Statuses(),
	}
}

// Stop ends everything that runs.
func (e *Exporter) Stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.record(state.EventExporterStopped, "the exporter was stopped")
	e.stop()
}

// record adds an event to the timeline of every target.
func (e *Exporter) record(kind state.EventKind, message string) {
	for _, r := range e.running {
		r.results.Record(state.Event{Kind: kind, Message: message, Source: "the exporter"})
	}
}

// stop ends all targets at once: each may have to wait for a server that hangs.
func (e *Exporter) stop() {
	var stopping sync.WaitGroup
	for _, r := range e.running {
		stopping.Go(r.stop)
	}
	if e.probes != nil {
		stopping.Go(e.probes.close)
	}
	stopping.Wait()
	e.running = nil
}

func (r *runtime) stop() {
	for _, p := range slices.Backward(r.parts) {
		p.Stop()
	}
	r.set.Close()
	r.lane.Close()
}
