package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pg_integrity_exporter/internal/exposition"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/state"
)

var (
	scrapeUp = &Family{
		Name: Namespace + "up", Type: Gauge,
		Help:   "Whether the server answered this scrape (1) or not (0).",
		Source: "the scrape's own session",
	}
	scrapeFailure = &Family{
		Name: Namespace + "connection_failure", Type: Gauge, Labels: []string{"reason"},
		Help:   "Why the server did not answer this scrape: 1 for the reason, 0 for the others.",
		Source: "the scrape's own session",
	}
	scrapeSuccess = &Family{
		Name: Namespace + "scrape_collector_success", Type: Gauge, Labels: []string{"collector"},
		Help:   "Whether the collector collected all it had to (1) or failed (0); a collector that does not apply succeeds.",
		Source: "the scrape itself",
	}
	scrapeApplicable = &Family{
		Name: Namespace + "scrape_collector_applicable", Type: Gauge, Labels: []string{"collector"},
		Help:   "Whether the collector applies to this server (1) or has nothing to say about it (0).",
		Source: "the scrape itself",
	}
	scrapeDuration = &Family{
		Name: Namespace + "scrape_collector_duration_seconds", Type: Gauge, Labels: []string{"collector"},
		Help:   "How long the collector took in this scrape.",
		Source: "the scrape itself",
	}

	scrapePooled = &Family{
		Name: Namespace + "connection_pooled", Type: Gauge,
		Help:   "Whether the exporter reaches the server through a connection pooler (1), where no check can run and the log cannot be read, or directly (0).",
		Source: "the scrape's own session",
	}

	scrapeAge = &Family{
		Name: Namespace + "scrape_age_seconds", Type: Gauge,
		Help:   "How old the server's answers were when the scrape came: up to 0.1 seconds for scrapes that come regularly (flag: --scrape.ahead), 0 for the others.",
		Source: "the scrape itself",
	}

	scrapeFamilies = []*Family{scrapeUp, scrapeFailure, scrapePooled, scrapeSuccess, scrapeApplicable, scrapeDuration, scrapeAge}
)

// ScrapePurpose is the session of the scrape. Its limits keep one locked or
// slow view from taking the time of the others.
func ScrapePurpose() pg.Purpose {
	return pg.Purpose{StatementTimeout: 2 * time.Second, LockTimeout: 200 * time.Millisecond, Pooler: true}
}

// Set is the enabled collectors of one target.
type Set struct {
	lane       *pg.Lane
	sources    Sources
	collectors []Collector
	logger     *slog.Logger

	mu          sync.Mutex
	errors      map[string]string // last error of each collector, so that a repeated one is logged once
	unreachable string
	pooled      bool
	apart       bool // a statement of the last scrape failed
	kept        *kept

	ahead ahead
}

// NewSet makes a set of collectors that share one lane.
func NewSet(lane *pg.Lane, sources Sources, collectors []Collector, logger *slog.Logger) *Set {
	return &Set{lane: lane, sources: sources, collectors: collectors, logger: logger, errors: make(map[string]string)}
}

// report is how one collector fared in one scrape.
type report struct {
	sink       *Sink
	err        error
	applicable bool
	duration   time.Duration
}

// answers is what the server said.
type answers struct {
	reports []report // of each collector; those that need no server have none
	err     error    // why the session failed
	at      time.Time
}

// free frees the memory of the answers, which nobody needs any more.
func (a answers) free() { free(a.reports) }

func free(reports []report) {
	for _, r := range reports {
		if r.sink != nil {
			r.sink.free()
		}
	}
}

// Scrape collects everything once. It returns when ctx ends at the latest,
// and always with the success and duration of every collector. What needs the
// server may have been collected shortly before, see Ahead.
func (s *Set) Scrape(ctx context.Context) *exposition.Page {
	arrived := time.Now()
	early := s.ahead.arrive(ctx, arrived)
	if early == nil {
		return s.tellAge(s.collect(ctx), 0)
	}
	defer early.answers.free()
	page := exposition.NewPage()
	if early.page != nil && early.leads == s.sources.leads() && early.revision == s.sources.Snapshot().Revision {
		page.Kept = early.page
	} else { // what the exporter itself found out is never late
		page = s.assemble(early.answers)
	}
	return s.tellAge(page, max(0, arrived.Sub(early.answers.at)))
}

// tellAge adds how old the answers of the server are to a page.
func (s *Set) tellAge(page *exposition.Page, age time.Duration) *exposition.Page {
	sink := newSink([]*Family{scrapeAge})
	defer sink.free()
	sink.Add(scrapeAge, age.Seconds())
	page.Fresh = write(page.Fresh, []*Sink{sink})
	return page
}

// collect asks the server and makes a page.
func (s *Set) collect(ctx context.Context) *exposition.Page {
	known := sync.OnceValue(s.collectKnown)
	asked := s.ask(ctx, func() { known() })
	defer asked.free()
	return s.page(asked, known())
}

// assemble makes a page of what the server said before.
func (s *Set) assemble(asked answers) *exposition.Page { return s.page(asked, s.collectKnown()) }

// ask asks the server, and calls meanwhile while that works.
func (s *Set) ask(ctx context.Context, meanwhile func()) answers {
	asked := answers{reports: make([]report, len(s.collectors)), at: time.Now()}
	if s.needsServer() {
		asked.err = s.lane.Do(ctx, func(ctx context.Context, conn *pg.Conn) error {
			return s.collectFromServer(ctx, conn, asked.reports, meanwhile)
		})
	}
	return asked
}

// page makes a page of what the server said and what is known without it, whose
// memory it frees.
func (s *Set) page(asked answers, known known) *exposition.Page {
	defer free(known.reports)
	reports := slices.Clone(asked.reports)
	for i, r := range known.reports {
		switch {
		case s.collectors[i].Leader && !known.leads:
			reports[i] = report{}
		case r.sink != nil:
			reports[i] = r
		case reports[i].sink == nil && asked.err != nil:
			reports[i] = report{err: asked.err, applicable: true}
		}
	}
	page := exposition.NewPage()
	page.Kept = known.kept.page
	page.Fresh = s.expose(page.Fresh, reports, asked.err)
	return page
}

// known is what is known without the server.
type known struct {
	reports []report // of each collector; those that need the server have none
	kept    *kept
	leads   bool
}

// collectKnown collects what needs no server, and nothing that only a leader
// knows when this exporter is none.
func (s *Set) collectKnown() known {
	leads := s.sources.leads()
	reports := make([]report, len(s.collectors))
	snapshot := s.sources.Snapshot()
	kept := s.keep(snapshot, leads)
	for i, c := range s.collectors {
		if c.Snapshot == nil && c.Kept == nil || c.Leader && !leads {
			continue
		}
		started := time.Now()
		sink := emit(c, c.Snapshot, snapshot)
		kept.addTo(sink, i)
		reports[i] = report{sink: sink, err: errors.Join(kept.errs[i], sink.finish()), applicable: true, duration: time.Since(started)}
	}
	return known{reports, kept, leads}
}

// emit gives the samples of a collector that asks the server nothing. A panic
// in it is its error, as in scan.
func emit(c Collector, from func(snapshot *state.Snapshot, sink *Sink), snapshot *state.Snapshot) (sink *Sink) {
	defer func() {
		if cause := recover(); cause != nil {
			sink = newSink(c.Families)
			sink.err = fmt.Errorf("collector %s panicked: %v", c.Name, cause)
		}
	}()
	sink = newSink(c.Families)
	if from != nil {
		from(snapshot, sink)
	}
	return sink
}

func (s *Set) needsServer() bool {
	return slices.ContainsFunc(s.collectors, func(c Collector) bool { return c.SQL != nil })
}

// collectFromServer sends all statements at once, calls meanwhile, and reads the
// answers in turn. It fails only when the session itself fails; what was collected
// before that stays in reports. The statements are one transaction, until one of
// them fails: then each of those that are left is one of its own, and again in the
// next scrapes until all succeed.
func (s *Set) collectFromServer(ctx context.Context, conn *pg.Conn, reports []report, meanwhile func()) error {
	s.noticePooler(conn)
	if err := conn.Refresh(ctx); err != nil {
		return err
	}
	for i, c := range s.collectors {
		reports[i] = report{}
		if c.SQL != nil && c.NotApplicable != nil && c.NotApplicable(conn.Facts) != "" {
			reports[i] = report{sink: newSink(c.Families)}
		}
	}
	s.mu.Lock()
	together := !s.apart
	s.mu.Unlock()
	failed, err := s.askFor(ctx, conn, reports, together, meanwhile)
	if failed && together && err == nil {
		failed, err = s.askFor(ctx, conn, reports, false, meanwhile)
	}
	s.mu.Lock()
	s.apart = failed
	s.mu.Unlock()
	return err
}

// askFor asks for what is not in reports yet, and says whether a statement failed.
// When they are together, it has no report then, and none behind it has.
func (s *Set) askFor(ctx context.Context, conn *pg.Conn, reports []report, together bool, meanwhile func()) (failed bool, err error) {
	pipeline := conn.Pipeline(ctx, together)
	sent := make([]string, len(s.collectors))
	for i, c := range s.collectors {
		if c.SQL != nil && reports[i].sink == nil {
			sent[i] = c.SQL(conn.Facts)
			pipeline.Send(sent[i])
		}
	}
	if err := pipeline.Flush(); err != nil {
		return false, errors.Join(fmt.Errorf("sending statements: %w", err), pipeline.Close())
	}
	meanwhile()
	started := time.Now()
	for i, c := range s.collectors {
		if sent[i] == "" {
			continue
		}
		sink := newSink(c.Families)
		err := pipeline.Receive(sent[i], func(rows *pgconn.ResultReader) error {
			return scan(pgx.RowsFromResultReader(conn.TypeMap(), rows), c, sink)
		})
		if conn.PgConn().IsClosed() || ctx.Err() != nil {
			return failed, errors.Join(fmt.Errorf("collecting %s: %w", c.Name, err), pipeline.Close())
		}
		if pg.SQLState(err) != "" {
			failed = true
			if pipeline.Together() {
				break
			}
		}
		now := time.Now()
		reports[i] = report{sink: sink, err: err, applicable: true, duration: now.Sub(started)}
		started = now
	}
	err = pipeline.Close()
	if _, ofServer := errors.AsType[*pgconn.PgError](err); ofServer && failed {
		err = nil // it was told of
	}
	return failed, err
}

// scan runs the collector's Scan and turns a panic in it into an error, so
// that one collector can never take the whole page with it.
func scan(rows pgx.Rows, c Collector, sink *Sink) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("collector %s panicked: %v", c.Name, cause)
		}
		rows.Close()
	}()
	return errors.Join(c.Scan(rows, sink), sink.finish())
}

// expose adds what the collectors gave to text.
func (s *Set) expose(text []byte, reports []report, connectError error) []byte {
	own := newSink(scrapeFamilies)
	own.AddBool(scrapeUp, connectError == nil)
	failure, unreachable := pg.Failure(""), ""
	if connectError != nil {
		failure = pg.FailureOf(connectError)
		unreachable = string(failure) + ", " + failure.Advice()
	}
	s.mu.Lock()
	s.unreachable = unreachable
	pooled := s.pooled
	s.mu.Unlock()
	if connectError == nil {
		own.AddBool(scrapePooled, pooled)
	}
	for _, reason := range pg.Failures() {
		own.AddBool(scrapeFailure, reason == failure, string(reason))
	}
	shown := []*Sink{own}
	for i, c := range s.collectors {
		r := reports[i]
		own.AddBool(scrapeSuccess, r.err == nil, c.Name)
		own.AddBool(scrapeApplicable, r.applicable, c.Name)
		own.Add(scrapeDuration, r.duration.Seconds(), c.Name)
		s.log(c.Name, r.err)
		if r.err == nil && r.sink != nil {
			shown = append(shown, r.sink) // all or nothing: no half truths
		}
	}
	defer own.free()
	return write(text, shown)
}

// noticePooler says once that there is a pooler, and once that it is gone.
func (s *Set) noticePooler(conn *pg.Conn) {
	s.mu.Lock()
	before := s.pooled
	s.pooled = conn.Facts.Pooled
	s.mu.Unlock()
	switch {
	case conn.Facts.Pooled && !before:
		s.logger.Warn("the server is reached through a connection pooler: metrics are collected, but checks and the log need the server's own address")
	case before && !conn.Facts.Pooled:
		s.logger.Info("the server is reached directly again")
	}
}

// Unreachable says why the server did not answer the last scrape; empty is that
// it did, or that there was none yet.
func (s *Set) Unreachable() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unreachable
}

// log says once that a collector began to fail, and once that it works again.
func (s *Set) log(name string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	before := s.errors[name]
	s.errors[name] = text
	s.mu.Unlock()
	switch {
	case err == nil && before != "":
		s.logger.Info("collector works again", "collector", name)
	case err != nil && before != text:
		s.logger.Error("collector failed", "collector", name, "err", err, "advice", advice(err))
	}
}

// advice is what to do about a collector's error.
func advice(err error) string {
	switch pg.SQLState(err) {
	case "42501":
		return "GRANT pg_monitor TO the exporter's role"
	case "55P03":
		return "a lock on a system catalogue is held; find it in pg_locks"
	case "57014":
		return "the statement took longer than its limit; the server is overloaded"
	}
	return pg.FailureOf(err).Advice()
}
