// Package exporter puts the parts together: it starts what watches one target,
// replaces it as a whole when the configuration is reloaded, and stops it.
package exporter

import (
	"context"
	"log/slog"
	"slices"
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

func (e *Exporter) reload() error {
	validated, watches, err := resolve(e.options.DSN, e.options.ConfigFile, e.options.Environment)
	if err != nil {
		return err
	}
	for i, w := range watches {
		if watches[i].results, err = e.options.Store.Target(w.target.Name()); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stop()
	e.probes = newProbes(validated.Get().Fleet, e.options)
	turns := make(chan struct{}, validated.Get().Limits.ConcurrentChecks)
	e.main = len(watches) > len(validated.Get().Targets)
	for _, w := range watches {
		r := e.start(w, turns)
		e.running = append(e.running, r)
	}
	return nil
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

func (e *Exporter) start(w watch, turns chan struct{}) *runtime {
	c, target, results := w.config, w.target, w.results
	logger := e.options.Logger.With("target", target.Name())
	results.Limit(c.Limits.Findings)
	purpose := collector.ScrapePurpose()
	purpose.Keepalive = c.Leader.Enabled
	r := &runtime{name: w.name, target: target, results: results, lane: pg.NewLane(target, purpose)}

	intervals := make(map[string]time.Duration)
	for name, settings := range c.Checks {
		if settings.Enabled {
			intervals[name] = time.Duration(settings.Interval)
		}
	}
	target.Bound(maxSessions)
	standby := schedule.Standby{Target: w.standby, Checks: c.Standby.Checks}
	if standby.Target != nil {
		standby.Target.Bound(maxSessions)
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
