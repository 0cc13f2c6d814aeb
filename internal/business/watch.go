package business

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

// Outcome is how business transactions ended. The values are the closed list of
// the label outcome.
type Outcome string

// The outcomes. Stuck is what neither ended nor failed in the time that the
// user's SQL gives it; pending is what is under way as it should be.
const (
	OutcomeDone    Outcome = "done"
	OutcomeFailed  Outcome = "failed"
	OutcomePending Outcome = "pending"
	OutcomeStuck   Outcome = "stuck"
)

// Outcomes lists every Outcome, in the order in which they are exported.
func Outcomes() []Outcome {
	return []Outcome{OutcomeDone, OutcomeFailed, OutcomePending, OutcomeStuck}
}

// Transaction is a kind of business transaction.
type Transaction struct {
	Name            string
	Database        string
	SQL             string
	Interval        time.Duration
	Timeout         time.Duration
	MaxFailureRatio float64
	MaxStuck        int
	MaxSilence      time.Duration
	Hours           Hours
}

// Count is what the last count of a kind of transaction gave.
type Count struct {
	Transaction Transaction
	// Up says that the last count succeeded. The other facts are of the last one
	// that did.
	Up          bool
	LastSuccess time.Time
	ByOutcome   map[Outcome]float64
	// Since is when the first count succeeded.
	Since time.Time
	// LastDone is when one was last done; zero is not known.
	LastDone time.Time
}

// FailureRatio is the share of failed ones of those that ended, and 0 when none
// did.
func (c Count) FailureRatio() float64 {
	ended := c.ByOutcome[OutcomeDone] + c.ByOutcome[OutcomeFailed]
	if ended == 0 {
		return 0
	}
	return c.ByOutcome[OutcomeFailed] / ended
}

// Silence is how long nothing was done within the working hours, as far as that
// is known: when no time is, nothing was done since the first count.
func (c Count) Silence(now time.Time) time.Duration {
	last := c.LastDone
	if last.IsZero() {
		last = c.Since
	}
	if last.IsZero() {
		return 0
	}
	return c.Transaction.Hours.Silence(last, now)
}

// connectTimeout bounds the connection of a count.
const connectTimeout = 10 * time.Second

// Watcher counts transactions until it is stopped, one after the other: it has
// one session at most.
type Watcher struct {
	target *pg.Target
	logger *slog.Logger

	mu     sync.Mutex
	counts []Count
	due    []time.Time

	stop context.CancelFunc
	done sync.WaitGroup
}

// New makes a watcher. Start begins to count.
func New(target *pg.Target, transactions []Transaction, logger *slog.Logger) *Watcher {
	w := &Watcher{target: target, logger: logger, due: make([]time.Time, len(transactions))}
	for _, t := range transactions {
		w.counts = append(w.counts, Count{Transaction: t})
	}
	return w
}

// Start begins to count until Stop.
func (w *Watcher) Start() {
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.done.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			for n := range w.due {
				if ctx.Err() == nil && !time.Now().Before(w.due[n]) {
					w.count(ctx, n)
					w.due[n] = time.Now().Add(w.counts[n].Transaction.Interval)
				}
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// Stop ends a count that is under way and waits for it.
func (w *Watcher) Stop() {
	w.stop()
	w.done.Wait()
}

// Counts is what is known now.
func (w *Watcher) Counts() []Count {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Count(nil), w.counts...)
}

func (w *Watcher) count(ctx context.Context, n int) {
	t := w.counts[n].Transaction
	byOutcome, last, err := Ask(ctx, w.target, t)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &w.counts[n]
	if err != nil {
		if c.Up || c.LastSuccess.IsZero() {
			w.logger.Warn("business transactions cannot be counted", "transaction", t.Name, "datname", t.Database, "err", err)
		}
		c.Up = false
		return
	}
	if c.ByOutcome != nil && last.IsZero() && byOutcome[OutcomeDone] > c.ByOutcome[OutcomeDone] {
		last = time.Now() // the SQL gives no time: one more was done
	}
	if last.After(c.LastDone) {
		c.LastDone = last
	}
	c.Up, c.LastSuccess, c.ByOutcome = true, time.Now(), byOutcome
	if c.Since.IsZero() {
		c.Since = c.LastSuccess
	}
}

// maxOutcomes bounds the rows that the SQL may return.
const maxOutcomes = 100

// Ask counts once. The session is read only; the SQL must be one SELECT of
// outcome, count and, if wanted, the time of the last one.
func Ask(ctx context.Context, target *pg.Target, t Transaction) (counts map[Outcome]float64, lastDone time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout+t.Timeout)
	defer cancel()
	conn, err := target.Connect(ctx, t.Database, pg.Purpose{
		Name: "business", StatementTimeout: t.Timeout, LockTimeout: time.Second, CancelOnServer: true,
	})
	if err != nil {
		return nil, time.Time{}, err
	}
	defer conn.Close()
	// With a parameter the server takes one statement only.
	rows, err := conn.Query(ctx, "SELECT * FROM ("+strings.TrimRight(strings.TrimSpace(t.SQL), "; \n")+"\n) AS transactions LIMIT $1", maxOutcomes+1)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer rows.Close()
	counts = make(map[Outcome]float64)
	seen := 0
	for rows.Next() {
		if seen++; seen > maxOutcomes {
			return nil, time.Time{}, fmt.Errorf("the SQL returned more than %d rows; it must count, not list", maxOutcomes)
		}
		outcome, number, last, err := scan(rows)
		if err != nil {
			return nil, time.Time{}, err
		}
		counts[outcome] += number
		if last != nil && outcome == OutcomeDone && last.After(lastDone) {
			lastDone = *last
		}
	}
	return counts, lastDone, rows.Err()
}

// scan reads one row of the user's SQL.
func scan(rows pgx.Rows) (outcome Outcome, number float64, last *time.Time, err error) {
	columns := len(rows.FieldDescriptions())
	var name string
	var count *float64
	switch columns {
	case 2:
		err = rows.Scan(&name, &count)
	case 3:
		err = rows.Scan(&name, &count, &last)
	default:
		return "", 0, nil, fmt.Errorf("the SQL returned %d columns; it must return outcome, count and, if wanted, the time of the last one", columns)
	}
	if err != nil {
		return "", 0, nil, fmt.Errorf("the SQL must return text, a number and, if wanted, a timestamptz: %w", err)
	}
	outcome = Outcome(strings.ToLower(name))
	for _, known := range Outcomes() {
		if outcome == known && count != nil {
			return outcome, *count, last, nil
		}
	}
	if count == nil {
		return "", 0, nil, errors.New("the SQL returned a count that is NULL")
	}
	return "", 0, nil, fmt.Errorf("the SQL returned the outcome %q; outcomes are done, failed, pending and stuck", name)
}
