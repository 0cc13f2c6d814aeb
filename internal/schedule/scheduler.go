package schedule

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/state"
)

const (
	// tick is how often the scheduler looks for a due check.
	tick = time.Second
	// planInterval is how often it looks for new and dropped databases.
	planInterval = time.Minute
	// suspectPause is how long a relation that was just checked as a suspect is
	// left alone, however often the log reports it.
	suspectPause = time.Minute
	// findingInterval is how often relations with an open finding are checked
	// again, so that it clears soon after they were mended, restored or dropped.
	findingInterval = 15 * time.Minute
	// maxSuspects bounds the queue; more than that many damaged relations are
	// found by the checks in their slots.
	maxSuspects = 100
	// retryFailed and retrySkipped are how long after a run that could not look
	// at everything the check is tried again, when its slot is later than that.
	retryFailed  = 5 * time.Minute
	retrySkipped = 15 * time.Minute
	// connectTimeout bounds each connection of the scheduler.
	connectTimeout = 30 * time.Second
)

// Suspect is a relation that something reported as damaged.
type Suspect struct {
	Database string
	Relation check.RelationName
}

// Settings say what is to run.
type Settings struct {
	// Checks are the enabled checks with their intervals.
	Checks map[string]time.Duration
	// Selects says whether a database is to be checked.
	Selects func(datname string) bool
	// RateLimit is how many bytes per second the checks may read.
	RateLimit int64
}

// Scheduler runs the checks of one target.
type Scheduler struct {
	target *pg.Target
	state  *state.Target
	logger *slog.Logger

	mu       sync.Mutex
	settings Settings
	queue    []Suspect
	checked  map[Suspect]time.Time
	replan   bool

	findingInterval time.Duration
	findingsAsked   time.Time // when relations with findings were last suspected

	wake chan struct{}
	stop context.CancelFunc
	done sync.WaitGroup
}

// New makes a scheduler. Start runs it.
func New(target *pg.Target, results *state.Target, settings Settings, logger *slog.Logger) *Scheduler {
	return &Scheduler{
		target: target, state: results, logger: logger, settings: settings,
		findingInterval: findingInterval, checked: make(map[Suspect]time.Time), wake: make(chan struct{}, 1), replan: true,
	}
}

// Start begins to run checks until Stop.
func (s *Scheduler) Start() {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.done.Add(2)
	go s.runSlots(ctx)
	go s.runSuspects(ctx)
}

// Stop ends the running checks, which leave no trace but the results that
// were complete, and waits for them.
func (s *Scheduler) Stop() {
	s.stop()
	s.done.Wait()
}

// Configure replaces the settings; what runs goes on with the old ones.
func (s *Scheduler) Configure(settings Settings) {
	s.mu.Lock()
	s.settings = settings
	s.replan = true
	s.mu.Unlock()
}

// Suspect asks for a relation to be checked at once. A relation that was
// checked within the last minute, or waits already, is left out.
func (s *Scheduler) Suspect(suspects ...Suspect) {
	s.mu.Lock()
	for _, suspect := range suspects {
		if slices.Contains(s.queue, suspect) || len(s.queue) >= maxSuspects ||
			time.Since(s.checked[suspect]) < suspectPause {
			continue
		}
		s.queue = append(s.queue, suspect)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Scheduler) runSlots(ctx context.Context) {
	defer s.done.Done()
	started := time.Now()
	var planned time.Time
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		reachable := true
		if s.takeReplan() || time.Since(planned) >= planInterval {
			if err := s.plan(ctx); err != nil {
				s.logger.Debug("databases cannot be listed", "err", err)
				reachable = false
			} else {
				planned = time.Now()
				s.suspectFindings()
			}
		}
		if c, ok := s.next(started); ok && reachable {
			s.runSlot(ctx, c)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// suspectFindings asks for relations with open findings to be checked again.
func (s *Scheduler) suspectFindings() {
	if time.Since(s.findingsAsked) < s.findingInterval {
		return
	}
	s.findingsAsked = time.Now()
	var suspects []Suspect
	for _, f := range s.state.Snapshot().Findings {
		if f.Relation != "" && f.Database != "" && time.Since(f.LastSeen) >= s.findingInterval {
			suspects = append(suspects, Suspect{Database: f.Database, Relation: check.RelationName{Schema: f.Schema, Name: f.Relation}})
		}
	}
	s.Suspect(suspects...)
}

func (s *Scheduler) takeReplan() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	replan := s.replan
	s.replan = false
	return replan
}

func (s *Scheduler) current() Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings
}

// plan lists the databases and tells the state which checks belong to them.
func (s *Scheduler) plan(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := s.target.Connect(ctx, "", purpose())
	if err != nil {
		return err
	}
	defer conn.Close()
	databases, err := conn.Databases(ctx)
	if err != nil {
		return err
	}
	settings := s.current()
	var names []string
	var planned []state.Planned
	for _, c := range check.All() {
		if interval, enabled := settings.Checks[c.Name]; enabled && c.Server {
			planned = append(planned, state.Planned{Check: c.Name, Interval: interval})
		}
	}
	for _, database := range databases {
		names = append(names, database.Name)
		if !database.Connectable || !settings.Selects(database.Name) {
			continue
		}
		for _, c := range check.All() {
			if interval, enabled := settings.Checks[c.Name]; enabled && !c.Server {
				planned = append(planned, state.Planned{Check: c.Name, Database: database.Name, Interval: interval})
			}
		}
	}
	s.state.Plan(names, planned)
	return nil
}

// next is the check that has been due for longest.
func (s *Scheduler) next(started time.Time) (state.CheckState, bool) {
	now := time.Now()
	snapshot := s.state.Snapshot()
	var due []state.CheckState
	for _, c := range snapshot.Checks {
		if newSlots(c.Check, c.Database, c.Interval).due(now, c.LastRun, started) || retry(now, c) || s.recheck(now, c, snapshot.Findings) {
			due = append(due, c)
		}
	}
	if len(due) == 0 {
		return state.CheckState{}, false
	}
	return slices.MinFunc(due, func(a, b state.CheckState) int {
		return cmp.Or(a.LastRun.Compare(b.LastRun), cmp.Compare(order(a.Check), order(b.Check)), cmp.Compare(a.Database, b.Database))
	}), true
}

// recheck says that a check has an open finding of no relation, which clears
// only when the whole check runs again, and looked long enough ago.
func (s *Scheduler) recheck(now time.Time, c state.CheckState, findings []state.Finding) bool {
	return now.Sub(c.LastRun) >= s.findingInterval && slices.ContainsFunc(findings, func(f state.Finding) bool {
		return f.Check == c.Check && f.Database == c.Database && f.Relation == ""
	})
}

// retry says that a check which could not look at everything is to be tried
// again before its slot.
func retry(now time.Time, c state.CheckState) bool {
	switch c.Outcome {
	case check.OutcomeFailed:
		return now.Sub(c.LastRun) >= retryFailed
	case check.OutcomeSkipped:
		return now.Sub(c.LastRun) >= retrySkipped
	case check.OutcomeFindings:
		return c.LastSuccess.Before(c.LastRun) && now.Sub(c.LastRun) >= retryFailed
	case check.OutcomeOK:
	}
	return false
}

// order is the place of a check in check.All.
func order(name string) int {
	return slices.IndexFunc(check.All(), func(c check.Check) bool { return c.Name == name })
}

func (s *Scheduler) runSlot(ctx context.Context, planned state.CheckState) {
	started := time.Now()
	result, ok := s.run(ctx, planned.Check, planned.Database, nil)
	if !ok {
		return
	}
	s.state.RecordResult(result, true)
	for range newSlots(planned.Check, planned.Database, planned.Interval).missed(started, time.Now()) {
		s.state.MissedSlot(planned.Check)
	}
}

func (s *Scheduler) runSuspects(ctx context.Context) {
	defer s.done.Done()
	for {
		suspect, ok := s.takeSuspect()
		if !ok {
			select {
			case <-s.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		for _, c := range check.All() {
			if _, enabled := s.current().Checks[c.Name]; !enabled || c.Server {
				continue
			}
			if result, ok := s.run(ctx, c.Name, suspect.Database, []check.RelationName{suspect.Relation}); ok {
				s.state.RecordResult(result, false)
			}
		}
		s.mu.Lock()
		s.checked[suspect] = time.Now()
		s.mu.Unlock()
	}
}

func (s *Scheduler) takeSuspect() (Suspect, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for suspect, when := range s.checked {
		if time.Since(when) >= suspectPause {
			delete(s.checked, suspect)
		}
	}
	if len(s.queue) == 0 {
		return Suspect{}, false
	}
	suspect := s.queue[0]
	s.queue = s.queue[1:]
	return suspect, true
}

// run runs one check; ok is false when it was stopped half-way.
func (s *Scheduler) run(ctx context.Context, name, database string, relations []check.RelationName) (check.Result, bool) {
	index := order(name)
	if index < 0 {
		return check.Result{}, false
	}
	logger := s.logger.With("check", name, "datname", database)
	scope := check.Scope{Relations: relations, RateLimit: s.current().RateLimit, Memory: s.state.Files().Memory()}
	result := check.Run(ctx, s.target, database, check.All()[index], scope, logger)
	if ctx.Err() != nil {
		return check.Result{}, false
	}
	level := slog.LevelInfo
	if result.Outcome == check.OutcomeFindings || result.Outcome == check.OutcomeFailed {
		level = slog.LevelWarn
	}
	logger.Log(ctx, level, "check ended", "outcome", result.Outcome, "findings", len(result.Findings),
		"objects", result.Objects, "bytes", result.Bytes, "seconds", fmt.Sprintf("%.1f", result.Seconds), "reason", result.Reason)
	return result, true
}

// purpose is the session that lists databases.
func purpose() pg.Purpose {
	return pg.Purpose{Name: "plan", StatementTimeout: 10 * time.Second, LockTimeout: time.Second}
}
