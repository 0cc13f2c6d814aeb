package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// VerifyByBackup lets the server itself read all files of the cluster and verify their
// data checksums (PostgreSQL 15+), by a base backup that it throws away: nothing is
// sent, and a page that is being written is read again. A rate in bytes per second
// bounds it; 0 is none. warned takes the server's warnings, which name files and blocks;
// damage is also an error in the end, of class XX001. It needs REPLICATION, a line of
// pg_hba.conf for replication and a free WAL sender, and waits for a checkpoint that
// the server spreads out. It takes a place when the target is bounded.
func (t *Target) VerifyByBackup(ctx context.Context, rate int64, warned func(message string)) error {
	purpose := Purpose{Name: "backup", Patient: true, OnNotice: func(_, message string) { warned(message) }}
	var err error
	if purpose.place, err = t.places.enter(ctx, purpose); err != nil {
		return err
	}
	defer purpose.place.leave()
	config := t.sessionConfig("", purpose, newAccount(t, purpose))
	config.RuntimeParams["replication"] = "true"
	config.RuntimeParams["client_min_messages"] = "warning"
	conn, err := pgconn.ConnectConfig(ctx, &config.Config)
	if err != nil {
		return &ConnectError{Target: t.Name(), err: err}
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // a backup that is under way ends with its connection
	}()
	stop := context.AfterFunc(ctx, func() { _ = conn.Conn().Close() })
	defer stop()
	command := "BASE_BACKUP (LABEL 'pg_integrity_exporter', TARGET 'blackhole', CHECKPOINT 'spread', WAIT 'false', MANIFEST 'no'"
	if rate > 0 {
		command += fmt.Sprintf(", MAX_RATE %d", min(max(rate/1024, 32), 1<<20)) // kB, within what the server takes
	}
	frontend := conn.Frontend()
	frontend.Send(&pgproto3.Query{String: command + ")"})
	if err := frontend.Flush(); err != nil {
		return err
	}
	var failed error
	for {
		message, err := frontend.Receive()
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		switch m := message.(type) {
		case *pgproto3.NoticeResponse:
			warned(m.Message)
		case *pgproto3.ErrorResponse:
			failed = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return failed
		}
	}
}
