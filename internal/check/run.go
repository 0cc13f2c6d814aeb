package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pg_integrity_exporter/internal/pg"
)

const (
	// connectTimeout bounds the connection of a check.
	connectTimeout = 30 * time.Second
	// statementTimeout bounds one statement of a check; the largest is one pass
	// of amcheck over one index.
	statementTimeout = 2 * time.Hour
	// lockTimeout keeps a check from standing in a lock queue, where it would
	// make others wait.
	lockTimeout = time.Second
	// progressInterval is how often the progress of a run is told.
	progressInterval = time.Second
	// maxFindings bounds the findings of one relation.
	maxFindings = 50
	// maxReasons bounds the problems that a reason spells out.
	maxReasons = 3
)

// session is one run of one check in one database.
type session struct {
	target *pg.Target
	conn   *pg.Conn
	scope  Scope
	logger *slog.Logger

	name     string
	database string
	// home is the database that the target names.
	home     string
	server   bool
	result   *Result
	problems []hindrance
	skipped  string
	// parts says what was left for another run on purpose.
	parts []string
	// identifier is the cluster's system identifier, once asked for.
	identifier int64
	// pass is how far the run came, resumed whether an earlier one was taken up,
	// kept when it was last written down.
	pass    pass
	resumed bool
	kept    time.Time
	// told is when the progress was last told.
	told time.Time
	// waited is for how long the session had waited for the server when throttle was
	// last called, free how much of freeWork is used up.
	waited, free time.Duration
	// lostAt is at which relations the server process of the check died lately.
	lostAt map[string]time.Time
	// blamed says that it died in this run, or ended on purpose.
	blamed bool
	// ofRelation counts findings by relation.
	ofRelation map[RelationName]int
	// toasts are TOAST tables by the OID of the table; nil is not yet known.
	toasts map[uint32]toastOf
	seen   map[string]bool
}

// Run runs one check in one database ("" is the target's own; a check of the
// whole server only asks through it). It always ends with a result: what could
// not be looked at is in its reason. Every session is read only and has a
// lock_timeout of one second.
func Run(ctx context.Context, target *pg.Target, database string, c Check, scope Scope, logger *slog.Logger) Result {
	result := Result{Check: c.Name, Database: database, Started: time.Now(), Findings: []Finding{}, Reads: c.Reads}
	if c.Server {
		result.Database = ""
	}
	s := &session{
		target: target, scope: scope, logger: logger, name: c.Name, database: database, home: target.Database(), server: c.Server, result: &result,
		ofRelation: make(map[RelationName]int), seen: make(map[string]bool),
	}
	if err := guarded(func() error { return s.connectAndRun(ctx, c) }); err != nil {
		s.problem("", err)
		if c.Name == CatalogName && judge(err) == damaged {
			s.foundUnreadable(ctx, err)
		}
	}
	result.Finished = time.Now()
	result.Seconds = result.Finished.Sub(result.Started).Seconds()
	result.Reason = s.reason()
	switch {
	case len(result.Findings) > 0:
		result.Outcome = OutcomeFindings
	case slices.ContainsFunc(s.problems, func(h hindrance) bool { return !h.NotAllowed }):
		result.Outcome = OutcomeFailed
	case s.skipped != "" || len(s.problems) > 0:
		result.Outcome = OutcomeSkipped
	default:
		result.Outcome = OutcomeOK
	}
	result.Partly = len(s.problems) == 0 && s.skipped == "" && len(s.parts) > 0
	result.Whole = len(s.problems) == 0 && s.skipped == "" && len(s.parts) == 0 && len(scope.Relations) == 0
	return result
}

// guarded makes an error of a mistake in this program: what it cannot deal with must
// not keep it from looking at the rest.
func guarded(look func() error) (err error) {
	defer func() {
		if mistake := recover(); mistake != nil {
			err = &mistakeError{mistake, debug.Stack()}
		}
	}()
	return look()
}

// mistakeError is a mistake in this program.
type mistakeError struct {
	cause any
	stack []byte
}

func (e *mistakeError) Error() string {
	return fmt.Sprintf("a mistake in this program, please report it with the log: %v", e.cause)
}

func (s *session) connectAndRun(ctx context.Context, c Check) error {
	if by := s.scope.Heaps.lost(wholeDatabase); by != "" {
		return fmt.Errorf("left alone: the server process of the check %s died while it read the catalogues", by)
	}
	if trap := s.trapped(ctx); trap != nil {
		switch {
		case c.Name == CatalogName:
			s.foundTrap(trap)
			return trap
		case !c.Server:
			return trap
		}
	}
	conn, err := s.connectInTime(ctx)
	if pooled, ok := errors.AsType[*pg.PooledError](err); ok {
		s.skipf("%v", pooled)
		return nil
	}
	if unusable, ok := errors.AsType[*pg.UnusableError](err); ok && c.Name == CatalogName {
		return s.foundUnusable(ctx, unusable)
	}
	if err != nil {
		return fmt.Errorf("%w (%s)", err, pg.FailureOf(err).Advice())
	}
	s.conn = conn
	defer func() { s.conn.Close() }() // a check may have got another one
	if err := s.resume(ctx); err != nil {
		return err
	}
	if err := c.run(ctx, s); err != nil {
		s.stopped(ctx)
		if s.conn.IsClosed() {
			s.blame(ctx, wholeDatabase, err)
		}
		return err
	}
	return errors.Join(s.finishPass(ctx), s.lookForDropped(ctx))
}

// connect opens the session of the check. A check of the whole server can do with
// another database than one that is a danger.
func (s *session) connect(ctx context.Context) (*pg.Conn, error) {
	if s.server && s.trapped(ctx) != nil {
		return s.elsewhere(ctx, cmp.Or(s.database, s.home))
	}
	return s.target.Connect(ctx, s.database, s.purpose())
}

// connectInTime is connect for one of many checks: where one has waited for a session
// in vain a moment ago (a catalogue is locked, or a file is none), the next one does
// not, and one of the whole server goes to another database.
func (s *session) connectInTime(ctx context.Context) (*pg.Conn, error) {
	err := s.scope.Heaps.hangs()
	if err == nil {
		var conn *pg.Conn
		if conn, err = s.connect(ctx); err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return conn, err
		}
		s.scope.Heaps.hang(err)
	}
	if s.server {
		if conn, elsewhere := s.elsewhere(ctx, cmp.Or(s.database, s.home)); elsewhere == nil {
			return conn, nil
		}
	}
	return nil, err
}

func (s *session) purpose() pg.Purpose {
	return pg.Purpose{
		Name: "check", StatementTimeout: statementTimeout, LockTimeout: lockTimeout, CancelOnServer: true,
		ConnectTimeout: connectTimeout, GiveWay: s.scope.GiveWay, Patient: true,
	}
}

// What is said of a database in which no session can be opened.
const (
	databaseUnusable = "Nobody can use the database. When the server restarts at each attempt, no other database of the server can be used for long either."
	keepClientsAway  = "Keep clients away from the database (pg_hba.conf: reject, or ALTER DATABASE ... ALLOW_CONNECTIONS false from another one). Copy the data directory, then fail over to a standby that still opens it, or restore."
)

// foundUnusable reports a database in which no session can be opened. What did not
// make the server restart is tried once more.
func (s *session) foundUnusable(ctx context.Context, unusable *pg.UnusableError) error {
	if !unusable.Restarts {
		pauseToConfirm(ctx)
		conn, err := s.connect(ctx)
		if err == nil {
			conn.Close()
			return errors.New("a session could be opened only at the second attempt: " + unusable.Error())
		}
		if !errors.As(err, &unusable) {
			return err
		}
	}
	f := Finding{
		Class: ClassCorruption, Severity: SeverityCritical, Schema: "pg_catalog", Relation: cmp.Or(s.catalogueOf(ctx, text(unusable)), "pg_class"), SQLState: sqlstate(unusable),
		Message: unusable.Error(),
		Impact:  databaseUnusable,
		Action:  keepClientsAway,
	}
	if sharedFile.MatchString(unusable.Error()) {
		f.Impact = "The system catalogues that all databases share are damaged: nobody can open a session in any of them. Sessions that are open work on as long as they do not need what is damaged."
		f.Action = "Do not restart the server, and keep the sessions that are open: they can still copy data out. Copy the data directory, then fail over to a standby that still opens sessions, or restore."
	}
	s.found(f, "unusable "+sqlstate(unusable))
	return errors.New("nothing else in the database can be looked at")
}

// sharedFile is a file of the catalogues that all databases share.
var sharedFile = regexp.MustCompile(`\bglobal/`)

// foundTrap reports an index of a catalogue that makes server processes loop or die.
func (s *session) foundTrap(t *trap) {
	f := Finding{
		Class: ClassCorruption, Severity: SeverityCritical, Schema: "pg_catalog", Relation: t.index, Block: &t.block,
		Message: t.text + ": server processes that come to the page loop in it or die",
		Impact:  "Each session that looks something up in this system catalogue may die, which ends all sessions of the server, or loop for ever, heeding neither a cancel nor statement_timeout, and take more and more memory until the operating system kills it, which does the same.",
		Action:  "Keep clients away from the database. Keep a copy of its directory. Make the index anew in a single session with -P (ignore_system_indexes): PGOPTIONS='-P' psql, REINDEX INDEX pg_catalog." + t.index + "; else fail over to a standby, or restore.",
	}
	if t.heap {
		f.Block = nil
		f.Message = t.text + ": no session can be opened in the database, and an attempt may make the server restart"
		f.Impact, f.Action = databaseUnusable, keepClientsAway
	}
	s.found(f, "trap")
}

// foundUnreadable reports that the server cannot read the catalogues of a database
// when it is asked something.
func (s *session) foundUnreadable(ctx context.Context, unreadable error) {
	name := s.catalogueOf(ctx, text(unreadable))
	s.found(Finding{
		Class: ClassCorruption, Severity: SeverityCritical, Schema: "pg_catalog", Relation: name, SQLState: sqlstate(unreadable), Block: blockIn(text(unreadable)),
		Message: "the system catalogues cannot be read: " + text(unreadable),
		Impact:  "Statements of this database fail, and none of the checks can look at all of it.",
		Action:  "Keep a copy of the data directory. If only an index of a catalogue is damaged, it can be made anew: REINDEX SYSTEM in a session with -P (ignore_system_indexes); else fail over to a standby, or restore.",
	}, "unreadable "+sqlstate(unreadable))
}

// catalogueOf names the catalogue, or the index of one, whose file a message
// quotes, as another database of the server has it; "" is unknown.
func (s *session) catalogueOf(ctx context.Context, message string) (name string) {
	path := dataFile.FindString(message)
	node := path[strings.LastIndexByte(path, '/')+1:]
	if node == "" {
		return ""
	}
	conn, err := s.elsewhere(ctx, cmp.Or(s.database, s.home))
	if err != nil {
		return ""
	}
	defer conn.Close()
	const sql = "SELECT relname::text FROM pg_class WHERE pg_relation_filenode(oid) = $1::oid AND oid < 16384"
	_ = conn.QueryRow(ctx, sql, node).Scan(&name)
	return name
}

// droppedSQL lists those of the given relations that do not exist. ACCESS SHARE
// on catalogues.
const droppedSQL = `SELECT wanted.schemaname, wanted.relname
	FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
	WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = wanted.schemaname AND c.relname = wanted.relname)`

// lookForDropped notes the relations of the scope that were dropped: what was
// wrong with them is over.
func (s *session) lookForDropped(ctx context.Context) error {
	schemas, names := s.wanted()
	if schemas == nil {
		return nil
	}
	rows, err := s.conn.Query(ctx, droppedSQL, schemas, names)
	if err != nil {
		return fmt.Errorf("looking for dropped relations: %w", err)
	}
	dropped, err := pgx.CollectRows(rows, pgx.RowToStructByPos[RelationName])
	if err != nil {
		return fmt.Errorf("looking for dropped relations: %w", err)
	}
	s.result.Verified = append(s.result.Verified, dropped...)
	return nil
}

// reason says in one line what could not be looked at.
func (s *session) reason() string {
	var reasons []string
	for _, h := range s.problems {
		reasons = append(reasons, h.Text)
	}
	reasons = append(reasons, s.parts...)
	if s.skipped != "" {
		reasons = append([]string{s.skipped}, reasons...)
	}
	if more := len(reasons) - maxReasons; more > 0 {
		reasons = append(reasons[:maxReasons:maxReasons], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(reasons, "; ")
}

// hindrance is something that could not be looked at.
type hindrance struct {
	// Text is the object and why.
	Text string `json:"text"`
	// NotAllowed says that the role lacks a right: that is no failure of the
	// check, it does not apply until the right is granted.
	NotAllowed bool `json:"not_allowed,omitempty"`
}

// problemf notes something that could not be looked at.
func (s *session) problemf(format string, args ...any) {
	s.problems = append(s.problems, hindrance{Text: fmt.Sprintf(format, args...)})
}

// problem notes the error because of which something could not be looked at.
func (s *session) problem(object string, err error) {
	notAllowed := false
	text := oneLine(pg.Message(err))
	if pgError, ok := errors.AsType[*pgconn.PgError](err); ok {
		text += " (SQLSTATE " + pgError.Code + ")"
		if at, ok := errors.AsType[*placeError](err); ok {
			text += " " + at.place
		}
		if notAllowed = pgError.Code == "42501" && judge(err) != damaged && s.conn != nil; notAllowed {
			text += ": " + s.grant(oneLine(pgError.Message), object)
		}
	}
	if object != "" {
		text = object + ": " + text
	}
	s.problems = append(s.problems, hindrance{Text: text, NotAllowed: notAllowed})
	if mistake, ok := errors.AsType[*mistakeError](err); ok {
		s.logger.Error("a mistake in this program, please report it", "object", object, "cause", mistake.cause, "stack", string(mistake.stack))
	}
	s.logger.Debug("could not be checked", "object", object, "err", err)
}

// partlyf notes what was left for another run on purpose. It is no failure, but
// the whole database was not looked at.
func (s *session) partlyf(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(s.parts, text) {
		s.parts = append(s.parts, text)
	}
}

// skipf notes that the check does not apply here, and what to do.
func (s *session) skipf(format string, args ...any) {
	s.skipped = fmt.Sprintf(format, args...)
}

// notReadable notes the tables whose rows the role may not read.
func (s *session) notReadable(tables []string) {
	if len(tables) > 0 {
		s.skipf("the role may not read %s: %s", few(tables), s.grantData())
	}
}

// found reports a finding. kind is a word for the kind of damage that is the
// same in every run.
func (s *session) found(f Finding, kind string) {
	f.Check = s.name
	if !s.server {
		f.Database = s.database
	}
	f.Message = oneLine(f.Message)
	f.Fingerprint = fingerprint(f, kind)
	if s.seen[f.Fingerprint] {
		return
	}
	s.seen[f.Fingerprint] = true
	name := RelationName{f.Schema, f.Relation}
	if f.Block != nil && f.Class == ClassCorruption {
		if by := s.scope.Reported.first(s.name, place{name, *f.Block}); by != s.name {
			s.problemf("%s block %d is damaged, as the check %s has reported", name, *f.Block, by)
			return
		}
	}
	s.ofRelation[name]++
	if s.ofRelation[name] > maxFindings {
		return
	}
	s.result.Findings = append(s.result.Findings, f)
}

// full says that a relation has so many findings that more tell nothing new.
func (s *session) full(r RelationName) bool { return s.ofRelation[r] > maxFindings }

// looked counts a relation that was looked at completely.
func (s *session) looked(r RelationName) {
	s.result.Objects++
	s.result.Verified = append(s.result.Verified, r)
}

// throttle counts bytes that were read since started, and waits until they
// keep the rate limit and the share of the time, and while the server is under
// pressure.
func (s *session) throttle(ctx context.Context, started time.Time, bytes int64) {
	s.result.Bytes += bytes
	busy, took := s.work(), time.Since(started)
	if s.scope.Progress != nil && time.Since(s.told) > progressInterval {
		s.told = time.Now()
		part := *s.result
		part.Seconds = s.told.Sub(part.Started).Seconds()
		s.scope.Progress(part)
	}
	if s.scope.Pace != nil {
		s.scope.Pace(ctx)
	}
	var wait time.Duration
	if s.scope.RateLimit > 0 {
		wait = time.Duration(float64(bytes)/float64(s.scope.RateLimit)*float64(time.Second)) - took
	}
	if s.scope.Share > 0 {
		wait = max(wait, time.Duration(float64(busy)*(1/s.scope.Share-1)))
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
}

// freeWork is for how long a run may keep the server busy before it keeps to its
// share of the time: what is small is looked at soon.
const freeWork = 5 * time.Second

// work is for how long the session has kept the server busy since it was last
// asked, without what is free.
func (s *session) work() time.Duration {
	waited := s.conn.Waited()
	busy := max(0, waited-s.waited)
	s.waited = waited
	free := min(busy, freeWork-s.free)
	s.free += free
	return busy - free
}

// oneLine makes one line of a message, for logs, tables and labels.
func oneLine(text string) string {
	return strings.Join(strings.Fields(text), " ")
}
