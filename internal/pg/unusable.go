package pg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// panicPause is how long a database is left alone of which an attempt to open a
	// session made the server restart: it must not be the exporter that does so
	// again and again.
	panicPause = 24 * time.Hour
	// deathPause is that after attempts in a row that ended without a word while the
	// server restarted, of which some may have had another cause: from freeDeaths on,
	// and twice as long with each more.
	deathPause = time.Minute
	freeDeaths = 3
	// restartLimit is how long a server is waited for that an attempt made restart.
	restartLimit = 30 * time.Second
)

// UnusableError says that no session can be opened in a database, in a way that
// tells of damage: to its system catalogues, or to its files.
type UnusableError struct {
	// Database is the database.
	Database string
	// Restarts says that an attempt made the server restart, Until how long the
	// database is left alone therefore.
	Restarts bool
	Until    time.Time

	err error
}

// Error has what the server said.
func (e *UnusableError) Error() string {
	text := fmt.Sprintf("no session can be opened in database %q: %s", e.Database, cause(e.err))
	if e.Restarts {
		text += fmt.Sprintf("; the attempt made the server restart, so there is none before %s (or a restart of this program)", e.Until.UTC().Format(time.RFC3339))
	}
	return text
}

// Unwrap is what the server said.
func (e *UnusableError) Unwrap() error { return e.err }

// unusable are the databases that are left alone.
type unusable struct {
	mu   sync.Mutex
	left map[string]left
	// restarted is when an attempt last made the server restart for certain.
	restarted time.Time
	// refused is when an attempt last told of damage, by database.
	refused map[string]time.Time
}

// Refused lists the databases in which damage has let no session be opened since a
// time.
func (t *Target) Refused(since time.Time) []string {
	t.unusable.mu.Lock()
	defer t.unusable.mu.Unlock()
	var names []string
	for name, when := range t.unusable.refused {
		if when.After(since) {
			names = append(names, name)
		}
	}
	return names
}

// refuse notes that an attempt told of damage.
func (u *unusable) refuse(database string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.refused == nil {
		u.refused = make(map[string]time.Time)
	}
	u.refused[database] = time.Now()
}

// left is a database that is left alone.
type left struct {
	err   error
	until time.Time
	// deaths are the attempts in a row that ended without a word.
	deaths int
	// avoided says that Avoid asked for it.
	avoided bool
}

// lookup gives the error of a database that is left alone now.
func (u *unusable) lookup(database string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if l := u.left[database]; time.Now().Before(l.until) {
		return l.err
	}
	return nil
}

// Avoid leaves a database alone until a time, because opening or using a session in
// it is known to be a danger to the server, for the reason given. Lanes that have a
// session there go to another database.
func (t *Target) Avoid(database string, why error, until time.Time) {
	t.unusable.mu.Lock()
	defer t.unusable.mu.Unlock()
	t.unusable.set(database, left{err: &UnusableError{Database: database, err: why}, until: until, avoided: true})
}

// Allow ends Avoid.
func (t *Target) Allow(database string) {
	t.unusable.mu.Lock()
	defer t.unusable.mu.Unlock()
	if t.unusable.left[database].avoided {
		delete(t.unusable.left, database)
	}
}

// set notes that a database is left alone. The caller has the lock.
func (u *unusable) set(database string, l left) {
	if u.left == nil {
		u.left = make(map[string]left)
	}
	u.left[database] = l
}

// diedError says that the server restarted while a session was opened: that may
// have had another cause.
type diedError struct{ error }

func (e *diedError) Unwrap() error { return e.error }

// used notes that a session was opened.
func (u *unusable) used(database string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.left, database)
	delete(u.refused, database)
}

// leave notes that an attempt ended and the server restarted.
func (u *unusable) leave(database string, err error, panicked bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	l := left{deaths: u.left[database].deaths}
	if panicked {
		u.restarted, l.until = now, now.Add(panicPause)
		l.err = &UnusableError{Database: database, Restarts: true, Until: l.until, err: err}
	} else {
		l.err = &diedError{err}
		if l.deaths++; l.deaths >= freeDeaths {
			l.until = now.Add(min(deathPause<<min(l.deaths-freeDeaths, 20), panicPause))
			l.err = &diedError{fmt.Errorf("%w; the server restarted at that moment, again, so database %q is left alone until %s", err, database, l.until.UTC().Format(time.RFC3339))}
		}
	}
	u.set(database, l)
	return l.err
}

// restarting says that an attempt made the server restart a moment ago.
func (u *unusable) restarting() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return time.Since(u.restarted) < restartLimit
}

// damage tells what an error of opening a session says of the database.
type damage int

const (
	noDamage damage = iota
	// refusing: the server says why it cannot open a session.
	refusing
	// panicking: it says so, and restarts.
	panicking
	// silent: it says nothing, and may restart.
	silent
)

// databaseFile is a file or directory of a database as messages quote it.
var databaseFile = regexp.MustCompile(`(?:base/\d+|global|pg_tblspc/\d+/PG_[^/"\s]+/\d+)\b`)

func damageIn(err error) damage {
	pgError, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
			return silent
		}
		return noDamage
	}
	switch pgError.Code {
	case "XX000", "XX001", "XX002":
	case "22023": // the database's PG_VERSION, and not a setting of the session
		if pgError.Routine != "ValidatePgVersion" && !databaseFile.MatchString(pgError.Message+" "+pgError.Detail) {
			return noDamage
		}
	case "58P01", "58030", "42501", "42809", "3D000":
		if !databaseFile.MatchString(pgError.Message + " " + pgError.Detail) {
			return noDamage
		}
	default:
		return noDamage
	}
	if pgError.SeverityUnlocalized == "PANIC" {
		return panicking
	}
	return refusing
}

// Unreadable says that the server could not answer because of damage.
func Unreadable(err error) bool { return err != nil && damageIn(err) == refusing }

// examine says what the error of an attempt means for the database, and remembers
// it.
func (t *Target) examine(ctx context.Context, database string, err error) error {
	switch damageIn(err) {
	case refusing:
		t.unusable.refuse(database)
		return &UnusableError{Database: database, err: err}
	case panicking:
		return t.unusable.leave(database, err, true)
	case silent:
		// Whoever opens a session may be in a hurry, as a scrape is.
		if t.restarts(ctx, noticeAttempts/2) {
			return t.unusable.leave(database, err, false)
		}
	case noDamage:
	}
	return err
}

// Restarted says that the server has started again since a moment, as it does when
// one of its processes died: its checkpointer is younger. Where that is not known
// (pg_stat_activity.backend_start of other processes is for pg_monitor), the server
// must be seen while it starts. A broken network ends a session, too.
func (t *Target) Restarted(ctx context.Context, since time.Time, purpose Purpose) (restarted, known bool) {
	restarted = t.restarts(ctx, noticeAttempts)
	if restarted {
		t.awaitStart(ctx)
	}
	var age *float64 // of the checkpointer, in seconds
	err := t.AskAny(ctx, purpose, func(conn *Conn) error {
		return conn.QueryRow(ctx, `SELECT extract(epoch FROM clock_timestamp() - max(backend_start))::float8
			FROM pg_stat_activity WHERE backend_type = 'checkpointer'`).Scan(&age)
	})
	if err != nil || age == nil {
		return restarted, false
	}
	return *age < time.Since(since).Seconds(), true
}

// restarts says that the server is starting again. It is given a second to notice
// that a process died, and given up when nobody answers so many times. It is asked
// often at first: a small server has started again after less than 100 ms.
func (t *Target) restarts(ctx context.Context, silences int) bool {
	pause := noticePoll
	for range noticeAttempts {
		switch state := t.answer(ctx); state {
		case cannotConnectNow:
			return true
		case "":
			if silences--; silences == 0 {
				return false
			}
		}
		wait(ctx, pause)
		pause = min(2*pause, 2*restartPoll)
	}
	return false
}

// awaitStart waits until the server has started again.
func (t *Target) awaitStart(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, restartLimit)
	defer cancel()
	for ctx.Err() == nil {
		if state := t.answer(ctx); state != "" && state != cannotConnectNow {
			return
		}
		wait(ctx, restartPoll)
	}
}

const (
	cannotConnectNow = "57P03"
	restartPoll      = 100 * time.Millisecond
	noticePoll       = 5 * time.Millisecond
	noticeAttempts   = 10
)

// answer is the SQLSTATE with which the server refuses a session in a database that
// does not exist: a server that is there looks no further. It is "" when nobody
// answers.
func (t *Target) answer(ctx context.Context) string {
	purpose := Purpose{Name: "presence"}
	config := t.sessionConfig("", purpose, newAccount(t, purpose))
	config.Database = "pg_integrity_exporter: no such database"
	conn, err := pgconn.ConnectConfig(ctx, &config.Config)
	if err == nil {
		conn.Close(ctx) //nolint:errcheck,gosec // a pooler may take any name
	}
	return SQLState(err)
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
