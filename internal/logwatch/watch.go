package logwatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pglog"
	"pg_integrity_exporter/internal/schedule"
	"pg_integrity_exporter/internal/state"
)

const (
	// connectTimeout bounds what is asked of the server: where the log is, and
	// what a damaged file belongs to.
	connectTimeout = 2 * time.Second
	// retryInterval is how often the place of the log is asked for until the
	// server answers, and again later, because settings change.
	retryInterval  = 2 * time.Second
	locateInterval = time.Minute
	// nameFor is how long it is tried to name what an event is about, when the
	// server did not answer: damage can make it restart.
	nameFor = 10 * time.Minute
	// maxNameless bounds the events that wait for that.
	maxNameless = 100
)

// Watcher watches the log of one target.
type Watcher struct {
	target    *pg.Target
	state     *state.Target
	scheduler *schedule.Scheduler
	pattern   string // from the configuration; empty asks the server
	logger    *slog.Logger

	mu       sync.Mutex
	nameless []nameless

	stop context.CancelFunc
	done sync.WaitGroup
}

// New makes a watcher for the files that match pattern; an empty pattern is
// found through the server's settings. Start runs it.
func New(target *pg.Target, results *state.Target, scheduler *schedule.Scheduler, pattern string, logger *slog.Logger) *Watcher {
	return &Watcher{target: target, state: results, scheduler: scheduler, pattern: pattern, logger: logger}
}

// Start begins to watch until Stop.
func (w *Watcher) Start() {
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.done.Go(func() { w.run(ctx) })
}

// Stop ends the watch; everything read is kept.
func (w *Watcher) Stop() {
	w.stop()
	w.done.Wait()
}

// run follows the log, and begins again where it was when the server's
// settings say that the log is somewhere else.
func (w *Watcher) run(ctx context.Context) {
	pattern := w.pattern
	for ctx.Err() == nil {
		if w.pattern == "" {
			located, err := w.locate(ctx)
			if err == nil {
				pattern = located
			} else if pattern == "" {
				w.report(pglog.Status{Problem: err.Error()})
				wait(ctx, retryInterval)
				continue
			}
		}
		w.follow(ctx, pattern)
	}
}

// follow follows the files of a pattern until it changes or ctx ends.
func (w *Watcher) follow(ctx context.Context, pattern string) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	follower := pglog.NewFollower(pattern, w.state.LogPosition())
	follower.Commit = func(batch pglog.Batch) { w.commit(ctx, batch) }
	follower.Report = w.report
	var following sync.WaitGroup
	following.Go(func() { follower.Run(ctx) })
	located := time.Now()
	for wait(ctx, retryInterval) {
		w.nameAgain(ctx)
		if w.pattern == "" && time.Since(located) >= locateInterval {
			if w.moved(ctx, pattern) {
				break
			}
			located = time.Now()
		}
	}
	stop()
	following.Wait()
}

// moved says whether the server writes its log somewhere else now.
func (w *Watcher) moved(ctx context.Context, pattern string) bool {
	located, err := w.locate(ctx)
	return err == nil && located != pattern
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

// report publishes how the reader fares, and logs when that changes.
func (w *Watcher) report(status pglog.Status) {
	before := w.state.Snapshot().Log
	w.state.LogStatus(status)
	switch {
	case status.Problem != "" && status.Problem != before.Problem:
		w.logger.Error("server log cannot be read", "err", status.Problem)
	case status.Up && (!before.Up || status.Path != before.Path):
		w.logger.Info("reading server log", "path", status.Path)
	}
}

// locationSQL reads pg_settings; data_directory and log_directory are shown to
// members of pg_monitor.
const locationSQL = `SELECT current_setting('data_directory'), current_setting('log_directory'),
	current_setting('log_filename'), current_setting('log_destination'), current_setting('logging_collector') = 'on'`

// strftime is a conversion in log_filename.
var strftime = regexp.MustCompile(`%[-_0^#EO]?.`)

// locate asks the server where its log is and gives a pattern for the files.
func (w *Watcher) locate(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := w.target.Connect(ctx, "", purpose())
	if err != nil {
		return "", fmt.Errorf("asking the server where its log is: %w", err)
	}
	defer conn.Close()
	var dataDirectory, directory, name, destination string
	var collected bool
	if err := conn.QueryRow(ctx, locationSQL).Scan(&dataDirectory, &directory, &name, &destination, &collected); err != nil {
		if pg.SQLState(err) == "42501" {
			return "", errors.New("the role may not see where the log is: GRANT pg_monitor to it, or set log.path in the configuration")
		}
		return "", fmt.Errorf("asking the server where its log is: %w", err)
	}
	var extension string
	switch {
	case !collected:
		return "", errors.New("the server does not collect its log: set logging_collector = on and log_destination = jsonlog (15+) or csvlog, or log.path in the configuration")
	case strings.Contains(destination, "jsonlog"):
		extension = ".json"
	case strings.Contains(destination, "csvlog"):
		extension = ".csv"
	default:
		return "", fmt.Errorf("log_destination is %s: add jsonlog (15+) or csvlog to it", destination)
	}
	if !filepath.IsAbs(directory) {
		directory = filepath.Join(dataDirectory, directory)
	}
	name = strftime.ReplaceAllString(strings.TrimSuffix(name, ".log"), "*")
	return filepath.Join(directory, name+extension), nil
}

func purpose() pg.Purpose {
	return pg.Purpose{Name: "log", StatementTimeout: connectTimeout, LockTimeout: 500 * time.Millisecond}
}

// nameless is an event whose object could not be asked for.
type nameless struct {
	event pglog.Event
	since time.Time
	old   bool // as pglog.Batch.Old
}

// commit turns a batch into counts and findings, keeps them, and asks for the
// relations to be checked.
func (w *Watcher) commit(ctx context.Context, batch pglog.Batch) {
	now := time.Now()
	var about []nameless
	for _, event := range batch.Events {
		w.logger.Warn("the server's log tells of trouble", "kind", event.Kind, "sqlstate", event.SQLState, "datname", event.Database, "message", event.Text)
		if event.Kind.Corruption() {
			about = append(about, nameless{event, now, batch.Old})
		}
	}
	findings, suspects := w.name(ctx, about)
	w.state.CommitLog(batch.Counts, batch.Position, findings)
	w.scheduler.Suspect(suspects...)
}

// nameAgain tries to name what could not be named yet.
func (w *Watcher) nameAgain(ctx context.Context) {
	w.mu.Lock()
	waiting := w.nameless
	w.nameless = nil
	w.mu.Unlock()
	if len(waiting) == 0 {
		return
	}
	findings, suspects := w.name(ctx, waiting)
	w.state.Report(findings)
	w.scheduler.Suspect(suspects...)
}

// name finds the relations that events are about. An event without one is only
// counted; one for which the server could not be asked waits.
func (w *Watcher) name(ctx context.Context, events []nameless) (findings []state.Finding, suspects []schedule.Suspect) {
	type told struct {
		fingerprint string
		old         bool
	}
	known := make(map[told]bool)
	resolver := &resolver{target: w.target, failed: make(map[string]error), found: make(map[pglog.Object]object)}
	defer resolver.close()
	for _, e := range events {
		object, err := resolver.resolve(ctx, e.event)
		if err != nil {
			w.postpone(e, err)
			continue
		}
		if object.relation.Name == "" {
			continue
		}
		finding := check.LogFinding(e.event, object.database, object.relation)
		this := told{finding.Fingerprint, e.old}
		if known[this] {
			continue
		}
		known[this] = true
		findings = append(findings, state.Finding{Finding: finding, FirstSeen: e.since, LastSeen: e.since, Doubtful: e.old})
		suspects = append(suspects, schedule.Suspect{Database: object.database, Relation: object.table})
	}
	return findings, suspects
}

// postpone keeps an event for nameAgain.
func (w *Watcher) postpone(e nameless, err error) {
	if time.Since(e.since) > nameFor {
		w.logger.Warn("damaged object cannot be named", "path", e.event.Object.Path, "err", err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.nameless) < maxNameless && !slices.ContainsFunc(w.nameless, func(other nameless) bool { return other.same(e) }) {
		w.nameless = append(w.nameless, e)
	}
}

// same says whether another event tells the same of the same object. One of the
// log from before does not stand for a new one.
func (e nameless) same(other nameless) bool {
	a, b := e.event, other.event
	return e.old == other.old && a.Kind == b.Kind && a.Database == b.Database && a.Object.Path == b.Object.Path && a.Object.Name == b.Object.Name
}

// resolver finds what events are about. It keeps one session within a batch.
type resolver struct {
	target   *pg.Target
	conn     *pg.Conn
	database string
	failed   map[string]error // databases that could not be asked in this batch
	found    map[pglog.Object]object
}

// object is what an event is about.
type object struct {
	database string
	// relation is what is damaged, table the table that it belongs to.
	relation, table check.RelationName
}

func (r *resolver) close() {
	if r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
}

// resolve finds what an event is about, once for all events of a batch about
// the same file or name.
func (r *resolver) resolve(ctx context.Context, event pglog.Event) (object, error) {
	key := event.Object
	key.Block = nil
	if found, ok := r.found[key]; ok && (key.Path != "" || found.database == event.Database) {
		return found, nil
	}
	found, err := r.ask(ctx, event)
	if err == nil {
		r.found[key] = found
	}
	return found, err
}

// ask finds the relation of an event by the number of its file, or by its name
// when that is unambiguous.
func (r *resolver) ask(ctx context.Context, event pglog.Event) (object, error) {
	found := object{database: event.Database}
	if event.Object.Path == "" && event.Object.Name == "" {
		return found, nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if event.Object.Database != 0 {
		name, err := r.databaseName(ctx, event.Object.Database)
		if err != nil {
			return found, err
		}
		found.database = name
	}
	conn, err := r.connect(ctx, found.database)
	if err != nil {
		return found, err
	}
	rows, err := conn.Query(ctx, relationSQL, event.Object.Tablespace, event.Object.Filenode, event.Object.Name)
	if err != nil {
		return found, fmt.Errorf("looking for the relation: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Schema, Name, TableSchema, TableName string }])
	if err != nil {
		return found, fmt.Errorf("looking for the relation: %w", err)
	}
	if len(names) == 1 {
		found.relation = check.RelationName{Schema: names[0].Schema, Name: names[0].Name}
		found.table = check.RelationName{Schema: names[0].TableSchema, Name: names[0].TableName}
	}
	return found, nil
}

// relationSQL finds a relation by file or by name, and the table that an index
// or a TOAST table belongs to. ACCESS SHARE on the catalogues; no privilege.
const relationSQL = `SELECT n.nspname::text, c.relname::text, tn.nspname::text, t.relname::text
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_index i ON i.indexrelid = c.oid
	LEFT JOIN pg_class toast ON toast.reltoastrelid = coalesce(i.indrelid, c.oid)
	JOIN pg_class t ON t.oid = coalesce(toast.oid, i.indrelid, c.oid)
	JOIN pg_namespace tn ON tn.oid = t.relnamespace
	WHERE CASE WHEN $2::oid <> 0 THEN c.oid = pg_filenode_relation($1::oid, $2::oid)
		ELSE c.relname = $3 AND c.relkind IN ('r', 'i', 'm', 't', 'S') END
	LIMIT 2`

// databaseName finds the database of a file.
func (r *resolver) databaseName(ctx context.Context, oid uint32) (string, error) {
	conn, err := r.connect(ctx, r.database)
	if err != nil {
		return "", err
	}
	var name string
	if err := conn.QueryRow(ctx, "SELECT datname::text FROM pg_database WHERE oid = $1", oid).Scan(&name); err != nil {
		return "", fmt.Errorf("looking for the database: %w", err)
	}
	return name, nil
}

// connect gives the session for a database; "" is the target's own.
func (r *resolver) connect(ctx context.Context, database string) (*pg.Conn, error) {
	if r.conn != nil && r.database == database && !r.conn.IsClosed() {
		return r.conn, nil
	}
	if err := r.failed[database]; err != nil {
		return nil, err
	}
	r.close()
	conn, err := r.target.Connect(ctx, database, purpose())
	if err != nil {
		r.failed[database] = err
		return nil, err
	}
	r.conn, r.database = conn, database
	return conn, nil
}
