package pg

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

// closeTimeout bounds the goodbye of a connection; the socket is closed
// after it whatever the server does.
const closeTimeout = time.Second

// Conn is one session and the facts it learnt when it connected.
type Conn struct {
	*pgx.Conn

	// Facts are what the server said of itself at the start of the session.
	Facts Facts

	prepared map[string]string // names of prepared statements by their text
	named    int               // how many names were given
	limits   string            // the statement that sets the limits of one transaction
	leave    func()            // gives the place back
	spent    *account
}

// Connect opens one session in database ("" is the target's own). The caller
// closes it with Close. It is for work that comes and goes, such as a check of
// one database; what goes on for ever uses a Lane. It waits for a place when the
// target is bounded.
//
// A connection pooler is noticed (see Facts.Pooled). Only a purpose that can do
// without a session of its own gets a connection through one; for the others
// the error is a *PooledError. A database that damage keeps from being used gives
// an *UnusableError, and is left alone when the attempt made the server restart.
func (t *Target) Connect(ctx context.Context, database string, purpose Purpose) (*Conn, error) {
	place, err := t.places.enter(ctx, purpose)
	if err != nil {
		return nil, err
	}
	if purpose.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, purpose.ConnectTimeout)
		defer cancel()
	}
	return t.sessionAt(ctx, place, database, purpose)
}

// sessionAt opens a session that has a place, and gives that back when it ends.
func (t *Target) sessionAt(ctx context.Context, place *place, database string, purpose Purpose) (*Conn, error) {
	purpose.place = place
	conn, err := t.session(ctx, database, purpose)
	if err != nil {
		place.leave()
		return nil, err
	}
	conn.leave = sync.OnceFunc(place.leave)
	return conn, nil
}

// AskAny asks in a session of the target's own database or, when that cannot be
// used, does not answer within the purpose's ConnectTimeout or has damaged catalogues,
// of one that every server has: for what can be asked anywhere.
func (t *Target) AskAny(ctx context.Context, purpose Purpose, ask func(conn *Conn) error) error {
	answers := func(err error) bool {
		return usable(err) && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded))
	}
	_, err := t.any(answers, func(database string) (*Conn, error) {
		conn, err := t.Connect(ctx, database, purpose)
		if _, died := errors.AsType[*diedError](err); died {
			t.awaitStart(ctx)
			return nil, &UnusableError{Database: cmp.Or(database, t.Database()), err: err}
		}
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		if err = ask(conn); Unreadable(err) {
			err = &UnusableError{Database: cmp.Or(database, t.Database()), err: err}
		}
		return nil, err
	})
	return err
}

// usable says that an attempt did not fail because the database cannot be used.
func usable(err error) bool {
	_, unusable := errors.AsType[*UnusableError](err)
	return !unusable
}

// any connects to the target's own database or, while an error says that it is not
// usable, another one.
func (t *Target) any(usable func(error) bool, connect func(database string) (*Conn, error)) (*Conn, error) {
	conn, err := connect("")
	for _, other := range []string{"postgres", "template1"} {
		if usable(err) {
			break
		}
		if conn, otherErr := connect(other); otherErr == nil {
			return conn, nil
		}
	}
	return conn, err
}

// session is Connect without a place.
func (t *Target) session(ctx context.Context, database string, purpose Purpose) (*Conn, error) {
	database = cmp.Or(database, t.Database())
	if err := t.unusable.lookup(database); err != nil {
		return nil, err
	}
	conn, err := t.connect(ctx, database, purpose)
	if err != nil && t.unusable.restarting() && (FailureOf(err) == FailureNotAccepting || damageIn(err) == silent) {
		t.awaitStart(ctx)
		conn, err = t.connect(ctx, database, purpose)
	}
	if err != nil {
		return nil, t.examine(ctx, database, err)
	}
	t.unusable.used(database)
	return conn, nil
}

// connect opens a session, whatever is known of the database.
func (t *Target) connect(ctx context.Context, database string, purpose Purpose) (*Conn, error) {
	bare := t.bare.Load()
	conn, err := t.open(ctx, database, purpose, bare)
	switch {
	case err != nil && !bare && refusesSettings(err):
		t.bare.Store(true)
		conn, err = t.open(ctx, database, purpose, true)
	case err == nil && bare && !conn.Facts.Pooled:
		// The pooler is gone: this is the server itself, which takes settings.
		conn.Close()
		t.bare.Store(false)
		conn, err = t.open(ctx, database, purpose, false)
	}
	if err != nil && refusesLogin(err) && t.renew() {
		conn, err = t.open(ctx, database, purpose, t.bare.Load())
	}
	if err != nil {
		return nil, err
	}
	if conn.Facts.Pooled && !purpose.Pooler {
		conn.Close()
		return nil, &PooledError{Target: t.Name()}
	}
	return conn, nil
}

// refusesLogin says that another password or certificate might help.
func refusesLogin(err error) bool {
	failure := FailureOf(err)
	return failure == FailureAuthentication || failure == FailureTLS
}

// open opens one session; bare leaves out all settings but those that every
// pooler knows.
func (t *Target) open(ctx context.Context, database string, purpose Purpose, bare bool) (*Conn, error) {
	account := newAccount(t, purpose)
	config := t.sessionConfig(database, purpose, account)
	if bare {
		for name := range config.RuntimeParams {
			if !slices.Contains(poolerSettings, strings.ToLower(name)) {
				delete(config.RuntimeParams, name)
			}
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, &ConnectError{Target: t.Name(), err: err}
	}
	facts, err := readFacts(ctx, conn)
	if err == nil && !facts.Pooled && conn.PgConn().ParameterStatus("server_encoding") == "SQL_ASCII" {
		// The server does not know what its bytes mean. Asked for UTF8, it refuses to
		// send those that are none, in names and values.
		_, err = conn.Exec(ctx, "SET client_encoding = 'SQL_ASCII'")
	}
	if err != nil {
		(&Conn{Conn: conn}).Close()
		return nil, err
	}
	return &Conn{Conn: conn, Facts: facts, prepared: make(map[string]string), limits: purpose.limits(), spent: account}, nil
}

// Again is Query for what a session of its own asks again and again: the statement is
// parsed and planned once, which for those on the catalogues takes longer than to run
// them.
func (c *Conn) Again(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if _, err := c.Prepare(ctx, sql, sql); err != nil {
		return nil, err
	}
	return c.Query(ctx, sql, args...)
}

// crashShutdown is the SQLSTATE of the warning with which a server ends all sessions
// when one of its processes crashed.
const crashShutdown = "57P02"

// Evicted says that the server ended the session because another process crashed.
func (c *Conn) Evicted() bool { return c.PgConn().CustomData()[crashShutdown] != nil }

// Began is when the last statement of the session began.
func (c *Conn) Began() time.Time { return time.Unix(0, c.spent.began.Load()) }

// Waited is for how long the session has waited for the server so far: its work,
// locks and the way there and back.
func (c *Conn) Waited() time.Duration { return time.Duration(c.spent.waited.Load()) }

// Close ends the session, within a second even when the server hangs: then its
// place stays taken for a while.
func (c *Conn) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	// The error only says that the server did not hear the goodbye; the socket
	// is closed either way.
	_ = c.Conn.Close(ctx)
	if c.leave != nil {
		c.leave()
	}
}

// cancelOnServer asks the server to cancel the running statement when its
// context ends, and breaks the connection a second later if that did not help.
func cancelOnServer(conn *pgconn.PgConn) ctxwatch.Handler {
	return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Second}
}
