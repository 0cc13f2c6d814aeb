package logwatch

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/schedule"
	"pg_integrity_exporter/internal/state"
)

const (
	// connectTimeout bounds what is asked of the server: where the log is, and
	// what a damaged file belongs to.
	connectTimeout = 2 * time.Second
	// nameTimeout bounds the naming of one object; a check may have to give way.
	nameTimeout = 5 * time.Second
	// retryInterval is how often the place of the log is asked for until the
	// server answers; locateInterval how often later, because settings change.
	retryInterval  = 2 * time.Second
	locateInterval = 15 * time.Second
)

// Watcher watches the log of one target.
type Watcher struct {
	target    *pg.Target
	lane      *pg.Lane
	state     *state.Target
	scheduler *schedule.Scheduler
	config    config.Log
	logger    *slog.Logger
	// maintained takes statements that may be maintenance; nil is nobody.
	maintained func([]pglog.Statement)
	labels     *pglog.Labels
	prefixes   *pglog.Prefixes

	mu       sync.Mutex
	nameless []nameless
	reading  map[string]pglog.Status // by source
	told     string                  // the blindness that was logged last
	recorded map[string]time.Time    // what is in the log of events, and since when

	stop context.CancelFunc
	done sync.WaitGroup
}

// New makes a watcher. What the configuration leaves out is found through the
// server's settings, which are asked for through lane; so is the log when it is
// read through the server. Statements that may be maintenance go to maintained.
// Start runs it.
func New(target *pg.Target, lane *pg.Lane, results *state.Target, scheduler *schedule.Scheduler, c config.Log, maintained func([]pglog.Statement), logger *slog.Logger) *Watcher {
	var databases []string
	for counter := range results.Snapshot().Counters {
		databases = append(databases, counter.Database)
	}
	return &Watcher{
		target: target, lane: lane.As("log"), state: results, scheduler: scheduler, config: c, maintained: maintained, logger: logger,
		labels: pglog.NewLabels(c.Applications, c.Roles, databases), prefixes: new(pglog.Prefixes),
		reading: make(map[string]pglog.Status), recorded: make(map[string]time.Time),
	}
}

// Start begins to watch until Stop.
func (w *Watcher) Start() {
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.state.LogNames(w.config.Applications, w.config.Roles)
	if w.config.LinePrefix != "" {
		// A configuration with another one is not valid.
		_ = w.prefixes.Add(w.config.LinePrefix)
	}
	for _, address := range w.config.Listen {
		stream := w.stream(ctx, address)
		w.done.Go(func() { stream.Listen(ctx, address) })
	}
	if w.config.Stdin {
		stream := w.stream(ctx, "stdin")
		w.done.Go(func() { stream.Stdin(ctx) })
	}
	w.done.Go(func() { w.run(ctx) })
}

// Stop ends the watch; everything read is kept.
func (w *Watcher) Stop() {
	w.stop()
	w.done.Wait()
}

func (w *Watcher) stream(ctx context.Context, source string) *pglog.Stream {
	stream := pglog.NewStream(pglog.Input{Format: w.config.LogFormat(), Prefixes: w.prefixes}, w.labels)
	stream.Commit = func(batch pglog.Batch) { w.commit(ctx, batch) }
	stream.Report = func(status pglog.Status) { w.report(source, status) }
	return stream
}

// run follows the log, and begins again elsewhere when the server's settings
// say that the log is there now.
func (w *Watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		if !w.config.Files() {
			if _, err := w.look(ctx, ""); err != nil {
				w.logger.Debug("settings of the log are not known", "err", err)
			}
			w.nameAgain(ctx)
			wait(ctx, locateInterval)
			continue
		}
		place, err := w.look(ctx, "")
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.report(logSource, pglog.Status{Problem: err.Error()})
			wait(ctx, retryInterval)
			continue
		}
		w.follow(ctx, place)
	}
}

// logSource is the source whose status is that of the files.
const logSource = "log"

// follow follows the log at a place until it moves or ctx ends.
func (w *Watcher) follow(ctx context.Context, place place) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	read := w.reader(ctx, place)
	var following sync.WaitGroup
	following.Go(func() { read(ctx) })
	looked, mark := time.Now(), place.mark()
	for wait(ctx, retryInterval) {
		w.nameAgain(ctx)
		if time.Since(looked) < locateInterval && place.mark().Equal(mark) && w.fares(logSource).Up {
			continue
		}
		looked, mark = time.Now(), place.mark()
		following := place.source
		if !w.fares(logSource).Up {
			following = "" // another way may work
		}
		if now, err := w.look(ctx, following); err == nil && !now.same(place) {
			break
		}
	}
	stop()
	following.Wait()
}

// reader makes what reads a place.
func (w *Watcher) reader(ctx context.Context, p place) (run func(ctx context.Context)) {
	commit := func(batch pglog.Batch) { w.commit(ctx, batch) }
	report := func(status pglog.Status) { w.report(logSource, status) }
	counted := w.state.LogPosition(extensionSource).Extension
	if p.extension != "" {
		session := &session{lane: w.lane}
		reader := pglog.NewExtensionReader(p.source, func(ctx context.Context) (pglog.Extension, error) {
			return session.counted(ctx, p.extension)
		}, counted, w.labels)
		reader.Commit, reader.Report = commit, report
		return reader.Run
	}
	input := pglog.Input{Format: p.format, Prefixes: w.prefixes}
	position := w.state.LogPosition(p.source)
	var follower *pglog.Follower
	if p.remote {
		follower = pglog.NewRemoteFollower(p.source, p.pattern, &session{lane: w.lane}, input, position, w.labels)
	} else {
		follower = pglog.NewFollower(p.pattern, input, position, w.labels)
	}
	follower.Behind(counted)
	follower.Commit = func(batch pglog.Batch) {
		commit(batch)
		if counted != nil {
			// What the extension counts from here on is in the log as well.
			w.state.CommitLog(pglog.Batch{Source: extensionSource}, nil)
			counted = nil
		}
	}
	follower.Report = report
	return follower.Run
}

// mark changes when the server has begun to write its log elsewhere, where the
// data directory can be read.
func (p place) mark() time.Time {
	info, err := os.Stat(filepath.Join(p.dataDirectory, "current_logfiles"))
	if p.dataDirectory == "" || err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// look asks the server for its settings, publishes what they hide, and says
// where the log is. following is the source that is followed now; it is kept as
// long as the server writes it.
func (w *Watcher) look(ctx context.Context, following string) (place, error) {
	settings, err := w.ask(ctx)
	if err != nil {
		if w.config.Path != "" && w.config.Via != config.ViaSQL {
			// The log can be read although the server does not answer.
			return place{source: w.config.Path, pattern: w.config.Path, format: w.config.LogFormat()}, nil
		}
		return place{}, err
	}
	if w.config.LinePrefix == "" {
		if err := w.prefixes.Add(settings.Prefix); err != nil {
			w.logger.Warn("log_line_prefix cannot be read", "err", err)
		}
	}
	var found place
	if w.config.Files() {
		found, err = w.locate(ctx, settings, following)
	}
	w.tellBlindness(settings.blindness(w.config, found, err))
	return found, err
}

// wait waits, and gives false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// fares is how a source fares.
func (w *Watcher) fares(source string) pglog.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reading[source]
}

// report publishes how the readers fare together, and logs when that changes.
func (w *Watcher) report(source string, status pglog.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.reading[source]
	w.reading[source] = status
	switch {
	case status.Problem != "" && status.Problem != before.Problem:
		w.logger.Error("server log cannot be read", "source", source, "err", status.Problem)
	case status.Up && (!before.Up || status.Path != before.Path):
		w.logger.Info("reading server log", "path", status.Path)
	}
	all := pglog.Status{Up: true}
	for _, s := range w.reading {
		all.Up = all.Up && s.Up
		if all.Problem == "" {
			all.Problem = s.Problem
		}
		if all.Path == "" || s.LastMessage.After(all.LastMessage) {
			all.Path = s.Path
		}
		all.BacklogBytes += s.BacklogBytes
		all.ReadBytes += s.ReadBytes
		all.ParseFailures += s.ParseFailures
		if s.LastMessage.After(all.LastMessage) {
			all.LastMessage = s.LastMessage
		}
	}
	w.state.LogStatus(all)
}

// commit turns a batch into counts and findings, keeps them, and asks for the
// relations to be checked.
func (w *Watcher) commit(ctx context.Context, batch pglog.Batch) {
	now := time.Now()
	var about []nameless
	for _, event := range batch.Events {
		w.logger.Warn("the server's log tells of trouble", "kind", event.Kind, "sqlstate", event.SQLState, "datname", event.Database, "message", event.Text)
		if event.Kind.Corruption() || event.Kind == pglog.Suspect {
			about = append(about, nameless{event, now, batch.Old})
		}
		if !batch.Old {
			w.record(event, now)
		}
	}
	findings, suspects := w.name(ctx, about)
	w.state.CommitLog(batch, findings)
	if w.maintained != nil && !batch.Old && len(batch.Statements) > 0 {
		w.maintained(batch.Statements)
	}
	w.scheduler.Suspect(suspects...)
}

const (
	// recordPause is for how long the same is not recorded again, crashPause for how
	// long the same of a crash; maxRecorded is how much is remembered for that.
	recordPause = time.Hour
	crashPause  = time.Minute
	maxRecorded = 1000
)

// record adds to the log of events what the log told of damage, a crash, a
// recovery or failed archiving, but not the same again and again.
func (w *Watcher) record(event pglog.Event, now time.Time) {
	if event.Kind == pglog.Suspect {
		return
	}
	about, pause := event.Object.Path+event.Object.Name, recordPause
	if !event.Kind.Corruption() && event.Kind != pglog.ArchiveFailure {
		about, pause = strings.Trim(event.Text[strings.LastIndex(event.Text, ":")+1:], " 0123456789"), crashPause
	}
	key := strings.Join([]string{string(event.Kind), event.Database, about}, "\x00")
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.recorded[key]) < pause {
		return
	}
	if len(w.recorded) >= maxRecorded {
		clear(w.recorded)
	}
	w.recorded[key] = now
	recorded := state.Event{
		Time: now, Kind: state.EventServerLog, Severity: check.SeverityWarning, Database: event.Database, Message: event.Text, Source: "the server's log",
		Details: map[string]string{"kind": string(event.Kind), "sqlstate": event.SQLState},
	}
	if event.Kind.Corruption() {
		recorded.Kind, recorded.Severity = state.EventCorruption, check.SeverityCritical
	}
	w.state.Record(recorded)
}
