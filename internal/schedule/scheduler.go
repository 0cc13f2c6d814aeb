package schedule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/state"
)

const (
	// tick is how often the scheduler looks for a due check. After one it pauses as
	// long as that took, and for a tick at most: many short ones are soon done.
	tick = time.Second
	// planInterval is how often it looks for new and dropped databases.
	planInterval = time.Minute
	// refusedPause is how long a database is left alone in which damage lets no
	// session be opened.
	refusedPause = 10 * time.Second
	// suspectPause is how long a relation that was just checked as a suspect is
	// left alone, however often the log reports it.
	suspectPause = time.Minute
	// aftermathPause is how long at least passes from one look at what maintenance
	// made of a database as a whole to the next, aftermathShare how many times as
	// long as the look took.
	aftermathPause = time.Minute
	aftermathShare = 20
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
	// planTimeout bounds the listing of databases.
	planTimeout = 10 * time.Second
)

// Suspect is a relation that is to be checked out of turn.
type Suspect struct {
	Database string
	Relation check.RelationName
}

// urgency is why a relation is to be checked out of turn, the most urgent
// first.
type urgency int

const (
	// reported: the server's log told of damage.
	reported urgency = iota
	// touched: maintenance has just rewritten or rebuilt it.
	touched
	// reopened: it has an open finding, which may have been mended.
	reopened
)

// waiting is a relation in the queue.
type waiting struct {
	Suspect

	why urgency
}

// Settings say what is to run.
type Settings struct {
	// Checks are the enabled checks with their intervals.
	Checks map[string]time.Duration
	// Selects says whether a database is to be checked.
	Selects func(datname string) bool
	// RateLimit is how many bytes per second the checks may read.
	RateLimit int64
	// Share is the share of the time for which a check in its slot may keep the
	// server busy. One out of turn may take as much as it needs.
	Share float64
	// Rules are what the configuration says of the data.
	Rules check.Rules
	// Bounds say when the checks hold back.
	Bounds Bounds
	// Standby is a standby that some checks run on.
	Standby Standby
	// Turns bounds the checks in their slots that run at once in all targets: one
	// place for each. Nil is no bound.
	Turns chan struct{}
}

// Scheduler runs the checks of one target.
type Scheduler struct {
	target *pg.Target
	lane   *pg.Lane // for what is short
	state  *state.Target
	logger *slog.Logger

	governor governor

	mu       sync.Mutex
	settings Settings
	queue    []waiting
	checked  map[Suspect]time.Time
	replan   bool
	// standbyProblem is why the standby was not used last.
	standbyProblem string
	asked          []state.Planned // checks that somebody wants to run now
	touched        map[string]bool // databases in which maintenance has ended

	aftermaths map[string]aftermath // of the goroutine of the slots

	// What follows belongs to the goroutine of the slots.
	heaps   map[string]*check.Heaps // what is known of the tables of each database
	changes map[string]changes      // how much was written to each database
	last    string                  // the database that was looked at last

	findingInterval time.Duration
	// refusedAsked is when databases that refuse sessions were last asked for.
	refusedAsked  time.Time
	findingsAsked time.Time // when relations with findings were last suspected

	wake chan struct{}
	stop context.CancelFunc
	done sync.WaitGroup
}

// changes is how many rows were written to a database: by now, and by the time
// its checks last ran.
type changes struct{ now, checked int64 }

// aftermath is the last look at what maintenance made of a database as a whole.
type aftermath struct {
	at   time.Time
	took time.Duration
}

// New makes a scheduler, which lists databases and feels the server's pulse
// through lane. Start runs it.
func New(target *pg.Target, lane *pg.Lane, results *state.Target, settings Settings, logger *slog.Logger) *Scheduler {
	s := &Scheduler{
		target: target, lane: lane.As("plan"), state: results, logger: logger, settings: settings,
		findingInterval: findingInterval, checked: make(map[Suspect]time.Time), wake: make(chan struct{}, 1), replan: true,
		heaps: make(map[string]*check.Heaps), changes: make(map[string]changes),
		touched: make(map[string]bool), aftermaths: make(map[string]aftermath),
	}
	s.governor = governor{
		lane: lane.As("plan"), bounds: func() Bounds { return s.current().Bounds }, paused: results.Held, logger: logger,
	}
	return s
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

// Suspect asks for relations to be checked at once, because the log told of
// damage. A relation that was checked within the last minute, or waits already,
// is left out.
func (s *Scheduler) Suspect(suspects ...Suspect) { s.enqueue(reported, suspects) }

// Touched asks for relations to be checked soon, because maintenance has
// rewritten or rebuilt them, and their databases as a whole behind them.
func (s *Scheduler) Touched(suspects ...Suspect) {
	s.mu.Lock()
	for _, suspect := range suspects {
		s.touched[suspect.Database] = true
	}
	s.mu.Unlock()
	s.enqueue(touched, suspects)
}

// lookBehind asks for what is to run when maintenance has ended, in the databases
// whose touched relations were all looked at.
func (s *Scheduler) lookBehind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for database := range s.touched {
		last := s.aftermaths[database]
		if time.Since(last.at) < max(aftermathPause, aftermathShare*last.took) ||
			slices.ContainsFunc(s.queue, func(w waiting) bool { return w.Database == database && w.why == touched }) {
			continue
		}
		delete(s.touched, database)
		s.aftermaths[database] = aftermath{at: time.Now()}
		for _, c := range check.All() {
			if wanted := (state.Planned{Check: c.Name, Database: database}); c.Afterwards && !slices.Contains(s.asked, wanted) {
				s.asked = append(s.asked, wanted)
			}
		}
	}
}

// RunNow asks for a planned check of a database to run next; ok is false when no
// such check is planned.
func (s *Scheduler) RunNow(name, database string) (ok bool) {
	wanted := state.Planned{Check: name, Database: database}
	if !slices.ContainsFunc(s.state.Snapshot().Checks, func(c state.CheckState) bool { return c.Check == name && c.Database == database }) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.asked, wanted) {
		s.asked = append(s.asked, wanted)
	}
	return true
}

// askedFor takes the next check that somebody wants to run now.
func (s *Scheduler) askedFor() (state.CheckState, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.asked) > 0 {
		wanted := s.asked[0]
		s.asked = s.asked[1:]
		for _, c := range s.state.Snapshot().Checks {
			if c.Check == wanted.Check && c.Database == wanted.Database {
				return c, true
			}
		}
	}
	return state.CheckState{}, false
}

// NextRun is when a check is due next; a moment that has passed says that it
// waits for its turn.
func NextRun(c state.CheckState) time.Time {
	if c.LastRun.IsZero() {
		return time.Now()
	}
	return newSlots(c.Database, c.Interval).latest(c.LastRun).Add(c.Interval)
}

func (s *Scheduler) enqueue(why urgency, suspects []Suspect) {
	s.mu.Lock()
	for _, suspect := range suspects {
		at := slices.IndexFunc(s.queue, func(w waiting) bool { return w.Suspect == suspect })
		switch {
		case at >= 0:
			s.queue[at].why = min(s.queue[at].why, why)
		case len(s.queue) < maxSuspects && time.Since(s.checked[suspect]) >= suspectPause:
			s.queue = append(s.queue, waiting{suspect, why})
		}
	}
	slices.SortStableFunc(s.queue, func(a, b waiting) int { return cmp.Compare(a.why, b.why) })
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
	for {
		reachable := true
		if refused := s.target.Refused(s.refusedAsked); len(refused) > 0 && time.Since(s.refusedAsked) >= refusedPause {
			s.lookAtRefused(refused)
		}
		if s.takeReplan() || time.Since(planned) >= planInterval {
			err := s.plan(ctx)
			if _, unusable := errors.AsType[*pg.UnusableError](err); unusable {
				s.planUnusable()
				err = nil
			}
			if err != nil {
				s.logger.Debug("databases cannot be listed", "err", err)
				reachable = false
			} else {
				planned = time.Now()
				s.suspectFindings()
			}
		}
		pause := tick
		s.lookBehind()
		c, asked := s.askedFor()
		due := asked
		if !due {
			c, due = s.next(started)
		}
		if due && reachable {
			began := time.Now()
			s.runSlot(ctx, c, asked)
			pause = min(pause, time.Since(began))
		}
		select {
		case <-time.After(pause):
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
	s.enqueue(reopened, suspects)
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

// plan lists the databases and what was written to each, and plans their checks.
func (s *Scheduler) plan(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	var databases []pg.Database
	err := s.lane.Do(ctx, func(ctx context.Context, conn *pg.Conn) (err error) {
		if databases, err = conn.Databases(ctx); err != nil {
			return err
		}
		return s.countChanges(ctx, conn)
	})
	if pg.Unreadable(err) { // in the database of the lane
		err = s.target.AskAny(ctx, pg.Purpose{Name: "check", StatementTimeout: planTimeout, LockTimeout: time.Second, CancelOnServer: true}, func(conn *pg.Conn) (err error) {
			databases, err = conn.Databases(ctx)
			return err
		})
	}
	if err != nil {
		return err
	}
	s.planDatabases(databases)
	return nil
}

// planUnusable plans the checks of the target's own database when damage lets no
// session be opened in any, and none were known.
func (s *Scheduler) planUnusable() {
	if len(s.state.Snapshot().Checks) == 0 {
		s.planDatabases([]pg.Database{{Name: s.target.Database(), Connectable: true}})
	}
}

// lookAtRefused asks for the check that tells of databases in which damage lets no
// session be opened.
func (s *Scheduler) lookAtRefused(names []string) {
	s.refusedAsked = time.Now()
	for _, c := range s.state.Snapshot().Checks {
		if c.Check == check.CatalogName && c.Outcome != check.OutcomeFindings && slices.Contains(names, c.Database) {
			s.RunNow(c.Check, c.Database)
		}
	}
}

// planDatabases tells the state which checks belong to the databases.
func (s *Scheduler) planDatabases(databases []pg.Database) {
	settings := s.current()
	scope := check.Scope{Rules: settings.Rules, Memory: s.state.Files().Memory()}
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
			if interval, enabled := settings.Checks[c.Name]; enabled && !c.Server && c.Idle(scope, database.Name) == "" {
				planned = append(planned, state.Planned{Check: c.Name, Database: database.Name, Interval: interval})
			}
		}
	}
	for name := range settings.Checks {
		for _, rule := range settings.Rules.NoMatch(name, names) {
			s.logger.Warn("a rule of the configuration is never evaluated: no database has this name", "check", name, "rule", rule)
		}
	}
	s.state.Plan(names, planned)
}

// changesSQL reads the statistics of each database. It needs no privilege.
const changesSQL = "SELECT datname::text, tup_inserted + tup_updated + tup_deleted FROM pg_stat_database WHERE datname IS NOT NULL"

// countChanges notes how much was written to each database.
func (s *Scheduler) countChanges(ctx context.Context, conn *pg.Conn) error {
	rows, err := conn.Query(ctx, changesSQL)
	if err != nil {
		return fmt.Errorf("asking what was written: %w", err)
	}
	var datname string
	var written int64
	_, err = pgx.ForEachRow(rows, []any{&datname, &written}, func() error {
		s.changes[datname] = changes{now: written, checked: s.changes[datname].checked}
		return nil
	})
	if err != nil {
		return fmt.Errorf("asking what was written: %w", err)
	}
	return nil
}

// next is the check to run now. The databases that were written to since their
// last checks come first, then the one whose checks have waited for longest;
// within a database the checks run in the order of check.All.
func (s *Scheduler) next(started time.Time) (state.CheckState, bool) {
	now := time.Now()
	snapshot := s.state.Snapshot()
	var due []state.CheckState
	oldest := make(map[string]time.Time)
	for _, c := range snapshot.Checks {
		if !newSlots(c.Database, c.Interval).due(now, c.LastRun, started) && !retry(now, c) && !s.recheck(now, c, snapshot.Findings) {
			continue
		}
		due = append(due, c)
		if waits, known := oldest[c.Database]; !known || c.LastRun.Before(waits) {
			oldest[c.Database] = c.LastRun
		}
	}
	if len(due) == 0 {
		return state.CheckState{}, false
	}
	return slices.MinFunc(due, func(a, b state.CheckState) int {
		return cmp.Or(
			cmp.Compare(s.rank(now, a, oldest[a.Database]), s.rank(now, b, oldest[b.Database])),
			oldest[a.Database].Compare(oldest[b.Database]), cmp.Compare(a.Database, b.Database),
			cmp.Compare(places()[a.Check], places()[b.Check]),
		)
	}), true
}

// rank lets a database whose checks have begun come to its end, and puts one
// that nobody wrote to behind those that changed, but not for longer than an
// interval.
func (s *Scheduler) rank(now time.Time, c state.CheckState, waits time.Time) int {
	if c.Database == s.last {
		return -1
	}
	written := s.changes[c.Database]
	if c.Database == "" || written.now != written.checked || now.Sub(waits) > 2*c.Interval {
		return 0
	}
	return 1
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

// first is the place in check.All of the first enabled check of a database.
func (s *Scheduler) first() int {
	enabled := s.current().Checks
	return slices.IndexFunc(check.All(), func(c check.Check) bool {
		_, ok := enabled[c.Name]
		return ok && !c.Server
	})
}

// places are those of the checks in check.All.
var places = sync.OnceValue(func() map[string]int {
	places := make(map[string]int)
	for i, c := range check.All() {
		places[c.Name] = i
	}
	return places
})

// runSlot runs a check whose slot has come, or that was asked for.
func (s *Scheduler) runSlot(ctx context.Context, planned state.CheckState, asked bool) {
	if turns := s.current().Turns; turns != nil {
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
		case <-ctx.Done():
			return
		}
	}
	started := time.Now()
	s.last = planned.Database
	heaps, known := s.heaps[planned.Database]
	if !known {
		heaps = check.NewHeaps()
		s.heaps[planned.Database] = heaps
	}
	if places()[planned.Check] == s.first() {
		heaps.Forget()
		s.changes[planned.Database] = changes{s.changes[planned.Database].now, s.changes[planned.Database].now}
	}
	ctx, giveWay := context.WithCancel(ctx)
	defer giveWay()
	scope := check.Scope{Heaps: heaps, Resume: true, Keep: s.state.RecordPart, GiveWay: giveWay, Scheduled: !asked}
	if !asked {
		scope.Share = s.current().Share
	}
	result, ok := s.run(ctx, planned.Check, planned.Database, scope)
	if last, known := s.aftermaths[planned.Database]; known && asked {
		s.aftermaths[planned.Database] = aftermath{last.at, last.took + time.Since(started)}
	}
	if !ok {
		return // it goes on in its next turn
	}
	s.state.RecordResult(result, true)
	for range newSlots(planned.Database, planned.Interval).missed(started, time.Now()) {
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
		scope := check.Scope{Relations: []check.RelationName{suspect.Relation}, Heaps: check.NewHeaps(), Rules: s.current().Rules, Scheduled: true}
		for _, c := range check.All() {
			if _, enabled := s.current().Checks[c.Name]; !enabled || c.Server || c.Idle(scope, suspect.Database) != "" {
				continue
			}
			if result, ok := s.run(ctx, c.Name, suspect.Database, scope); ok {
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
	suspect := s.queue[0].Suspect
	s.queue = s.queue[1:]
	return suspect, true
}

// run runs one check; ok is false when it was stopped half-way.
func (s *Scheduler) run(ctx context.Context, name, database string, scope check.Scope) (check.Result, bool) {
	index, ok := places()[name]
	if !ok {
		return check.Result{}, false
	}
	logger := s.logger.With("check", name, "datname", database)
	scope.Rules = s.current().Rules
	scope.RateLimit, scope.Memory, scope.Pace = s.current().RateLimit, s.state.Files().Memory(), s.governor.pace
	result := s.runOn(ctx, check.All()[index], database, scope)
	if ctx.Err() != nil {
		return check.Result{}, false
	}
	level := slog.LevelInfo
	if result.Outcome == check.OutcomeFindings || result.Outcome == check.OutcomeFailed {
		level = slog.LevelWarn
	}
	logger.Log(ctx, level, "check ended", "on", cmp.Or(result.On, s.target.Name()), "outcome", result.Outcome, "findings", len(result.Findings),
		"objects", result.Objects, "bytes", result.Bytes, "seconds", fmt.Sprintf("%.1f", result.Seconds), "reason", result.Reason)
	return result, true
}
