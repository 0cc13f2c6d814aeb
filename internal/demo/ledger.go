package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	accounts = 2000
	journals = 150_000
	tellers  = 4
	// thinkTime is how long a teller waits between two transactions.
	thinkTime = 15 * time.Millisecond
)

// schema is a double-entry ledger: each journal entry has two postings that
// add up to zero.
const schema = `
CREATE SCHEMA ledger;
CREATE TABLE ledger.accounts (
	account_id int PRIMARY KEY,
	name text NOT NULL,
	balance numeric(18,2) NOT NULL DEFAULT 0
);
CREATE TABLE ledger.journal (
	journal_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	booked_at timestamptz NOT NULL DEFAULT now(),
	description text NOT NULL
);
CREATE TABLE ledger.postings (
	journal_id bigint NOT NULL REFERENCES ledger.journal,
	account_id int NOT NULL REFERENCES ledger.accounts,
	amount numeric(18,2) NOT NULL,
	memo text NOT NULL,
	PRIMARY KEY (journal_id, account_id)
);
CREATE TABLE ledger.requests (
	request_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	ended_at timestamptz NOT NULL DEFAULT now(),
	outcome text NOT NULL
);
CREATE INDEX requests_ended_at_idx ON ledger.requests (ended_at);
`

// history fills the ledger with what was booked before today.
const history = `
INSERT INTO ledger.accounts (account_id, name) SELECT i, 'account ' || i FROM generate_series(1, $accounts) i;
INSERT INTO ledger.journal (booked_at, description)
	SELECT now() - ($journals - i) * interval '1 second', 'transfer ' || i FROM generate_series(1, $journals) i;
INSERT INTO ledger.postings (journal_id, account_id, amount, memo)
	SELECT i, 1 + (i * 7919) % $accounts, -(1 + i % 900), repeat(md5(i::text), 3) FROM generate_series(1, $journals) i
	UNION ALL
	SELECT i, 1 + (i * 7919 + 1 + i % 97) % $accounts, 1 + i % 900, repeat(md5(i::text), 3) FROM generate_series(1, $journals) i;
CREATE INDEX postings_account_id_idx ON ledger.postings (account_id);
UPDATE ledger.accounts a SET balance = s.balance
	FROM (SELECT account_id, sum(amount) AS balance FROM ledger.postings GROUP BY account_id) s WHERE s.account_id = a.account_id;
VACUUM ANALYZE;
CHECKPOINT;
`

// load is a number of tellers who book transfers all the time.
type load struct {
	dsn  string
	done sync.WaitGroup

	committed atomic.Int64
	failed    atomic.Int64
	first     chan failure // the first failing transaction
}

type failure struct {
	at  time.Time
	err error
}

func newLoad(dsn string) *load {
	return &load{dsn: dsn, first: make(chan failure, 1)}
}

func (l *load) start(ctx context.Context) {
	for range tellers {
		l.done.Go(func() { l.teller(ctx) })
	}
}

func (l *load) teller(ctx context.Context) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			closeConn(conn)
		}
	}()
	for ctx.Err() == nil {
		err := error(nil)
		if conn == nil || conn.IsClosed() {
			conn, err = pgx.Connect(ctx, l.dsn)
		}
		if err == nil {
			err = transfer(ctx, conn)
		}
		switch {
		case err == nil:
			l.committed.Add(1)
			l.note(ctx, conn, "done")
		case ctx.Err() != nil:
			return
		default:
			l.failed.Add(1)
			l.note(ctx, conn, "failed")
			select {
			case l.first <- failure{time.Now(), err}:
			default:
			}
		}
		select {
		case <-time.After(thinkTime):
		case <-ctx.Done():
		}
	}
}

// note writes down what became of a request, as the ledger's program does for
// its users. A lost note is no failure of the ledger.
func (l *load) note(ctx context.Context, conn *pgx.Conn, outcome string) {
	if conn != nil && !conn.IsClosed() {
		_, _ = conn.Exec(ctx, "INSERT INTO ledger.requests (outcome) VALUES ($1)", outcome)
	}
}

// transfer moves money between two accounts and looks at the history of one of
// them, as an accounting program does.
func transfer(ctx context.Context, conn *pgx.Conn) error {
	from := 1 + rand.IntN(accounts)
	to := 1 + rand.IntN(accounts)
	if from == to {
		return nil
	}
	amount := 1 + rand.IntN(500)
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var journal int64
		if err := tx.QueryRow(ctx, `INSERT INTO ledger.journal (description) VALUES ('transfer') RETURNING journal_id`).Scan(&journal); err != nil {
			return fmt.Errorf("booking the journal entry: %w", err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO ledger.postings VALUES ($1, $2, -$4::numeric, 'demo'), ($1, $3, $4::numeric, 'demo')`, journal, from, to, amount); err != nil {
			return fmt.Errorf("booking the postings: %w", err)
		}
		// In the order of the keys, so that two tellers never deadlock.
		if _, err := tx.Exec(ctx, `UPDATE ledger.accounts SET balance = balance + CASE account_id WHEN $1 THEN -$3::numeric ELSE $3::numeric END
			WHERE account_id IN (SELECT account_id FROM ledger.accounts WHERE account_id IN ($1, $2) ORDER BY account_id FOR NO KEY UPDATE)`, from, to, amount); err != nil {
			return fmt.Errorf("changing the balances: %w", err)
		}
		var turnover *float64
		if err := tx.QueryRow(ctx, `SELECT sum(abs(amount))::float8 FROM ledger.postings WHERE account_id = $1`, from).Scan(&turnover); err != nil {
			return fmt.Errorf("reading the account's history: %w", err)
		}
		return nil
	})
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// The demo's server may be going away at the same time.
	_ = conn.Close(ctx)
}

// awaitFailure waits for the first failing transaction.
func (l *load) awaitFailure(ctx context.Context) (failure, error) {
	select {
	case f := <-l.first:
		return f, nil
	case <-ctx.Done():
		return failure{}, errors.Join(errors.New("no transaction failed"), ctx.Err())
	}
}
