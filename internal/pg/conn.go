package pg

import (
	"context"
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
}

// Connect opens one session in database ("" is the target's own). The caller
// closes it with Close. It is for work that comes and goes, such as a check of
// one database; what goes on for ever uses a Lane.
func (t *Target) Connect(ctx context.Context, database string, purpose Purpose) (*Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, t.sessionConfig(database, purpose))
	if err != nil {
		return nil, &ConnectError{Target: t.Name(), err: err}
	}
	facts, err := readFacts(ctx, conn)
	if err != nil {
		(&Conn{Conn: conn}).Close()
		return nil, err
	}
	return &Conn{Conn: conn, Facts: facts}, nil
}

// Close ends the session, within a second even when the server hangs.
func (c *Conn) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	// The error only says that the server did not hear the goodbye; the socket
	// is closed either way.
	_ = c.Conn.Close(ctx)
}

// cancelOnServer asks the server to cancel the running statement when its
// context ends, and breaks the connection a second later if that did not help.
func cancelOnServer(conn *pgconn.PgConn) ctxwatch.Handler {
	return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Second}
}
