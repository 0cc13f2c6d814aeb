package check

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// rowsCheck notices tables that suddenly lost rows, or have twice as many,
// against their own history: a clean-up job that deleted a month, an import that
// ran twice.
func rowsCheck() Check {
	return Check{
		Name:       "rows",
		Question:   "Did a table suddenly lose rows, or come to have twice as many?",
		Kinds:      []Kind{{ClassDataRule, SeverityWarning}},
		Interval:   5 * time.Minute,
		Needs:      "nothing; SELECT on a table for the count that confirms what its statistics say",
		Locks:      "ACCESS SHARE on catalogues, and on a table whose rows are counted",
		Afterwards: true,
		idle: func(scope Scope, _ string) string {
			switch {
			case len(scope.Relations) > 0:
				return "it compares all tables with earlier runs"
			case scope.Memory == nil:
				return "there is nothing to compare with: give --state.path"
			}
			return ""
		},
		run: runRows,
	}
}

// size is what the statistics say of a table at one moment.
type size struct {
	OID      uint32
	Name     RelationName
	Pages    int32
	Rows     float64 // n_live_tup
	Inserted int64   // n_tup_ins since the statistics were reset
	Deleted  int64   // n_tup_del
	File     uint32  // relfilenode: TRUNCATE and rewrites change it
}

// sizesSQL reads the statistics of the tables of users; partitions count with
// their own.
const sizesSQL = `SELECT s.relid, s.schemaname::text, s.relname::text, greatest(c.relpages, 0), s.n_live_tup::float8, s.n_tup_ins, s.n_tup_del, c.relfilenode
	FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid WHERE c.relkind = 'r' AND c.relpersistence = 'p' ORDER BY s.schemaname, s.relname`

// history is what is remembered of one table.
type history struct {
	// Since is when it was first seen, Seen when last, Samples how often.
	Since   time.Time `json:"since"`
	Seen    time.Time `json:"seen"`
	Samples int       `json:"samples"`
	// Rows, Inserted, Deleted and File are of the last look.
	Rows     float64 `json:"rows"`
	Inserted int64   `json:"inserted"`
	Deleted  int64   `json:"deleted"`
	File     uint32  `json:"file"`
	// MaxLoss and MaxGrowth are the largest shares of the rows that were lost and
	// gained from one look to the next; they fade with time.
	MaxLoss   float64 `json:"max_loss"`
	MaxGrowth float64 `json:"max_growth"`
	// Open is what was found and still holds.
	Open *anomaly `json:"open,omitempty"`
}

// anomaly is a sudden change that was confirmed by counting.
type anomaly struct {
	Time   time.Time `json:"time"`
	Before float64   `json:"before"`
	After  float64   `json:"after"`
}

const (
	// minRows is the smallest table that is looked at: below it a person's
	// ordinary work doubles or halves it.
	minRows = 500
	// learnLooks is how often a table must have been seen before a large change is
	// told, learnTime for how long before a small one is.
	learnLooks = 3
	learnTime  = 24 * time.Hour
	// largeLoss and smallLoss are shares of the rows.
	largeLoss = 0.3
	smallLoss = 0.02
	// growth is from which share of new rows a table is said to have doubled.
	growth = 0.9
	// timesHistory is how much larger than ever a change must be.
	timesHistory = 3
	// forgetAfter is when a change that was told is what is normal.
	forgetAfter = 24 * time.Hour
	// fade is the time in which the memory of the largest change is halved.
	fade = 7 * 24 * time.Hour
	// countPages is the largest table whose rows are counted: 4 GB.
	countPages = 524288
)

const historyKey = "history"

func runRows(ctx context.Context, s *session) error {
	rows, err := s.conn.Query(ctx, sizesSQL)
	if err != nil {
		return fmt.Errorf("reading the statistics of tables: %w", err)
	}
	sizes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (z size, err error) {
		err = row.Scan(&z.OID, &z.Name.Schema, &z.Name.Name, &z.Pages, &z.Rows, &z.Inserted, &z.Deleted, &z.File)
		return z, err
	})
	if err != nil {
		return fmt.Errorf("reading the statistics of tables: %w", err)
	}
	known := make(map[string]history)
	if _, err := s.recall(ctx, historyKey, &known); err != nil {
		return err
	}
	if err := s.set(ctx, "SET row_security = off; SET statement_timeout = '10min'"); err != nil {
		return err
	}
	now := make(map[string]history, len(sizes))
	for _, z := range sizes {
		key := strconv.FormatUint(uint64(z.OID), 10)
		before, seen := known[key]
		next, err := s.rows(ctx, z, before, seen)
		switch {
		case gone(err):
			continue
		case ctx.Err() != nil || s.conn.IsClosed():
			return fmt.Errorf("the session was lost at %s: %w", z.Name, err)
		case err != nil:
			s.problem(z.Name.String(), err)
		}
		now[key] = next
		s.result.Objects++
	}
	return s.remember(ctx, historyKey, now)
}

// rows compares a table with its history, and gives its history from now on.
func (s *session) rows(ctx context.Context, z size, before history, seen bool) (history, error) {
	moment := time.Now()
	fresh := history{Since: moment, Seen: moment, Rows: z.Rows, Inserted: z.Inserted, Deleted: z.Deleted, File: z.File}
	if !seen || s.scope.Accept != nil {
		fresh.Samples = 1
		if seen {
			fresh.Since, fresh.Samples = before.Since, before.Samples
		}
		return fresh, nil
	}
	next := before
	next.Seen, next.Samples = moment, before.Samples+1
	next.Inserted, next.Deleted, next.File = z.Inserted, z.Deleted, z.File
	half := math.Exp2(-moment.Sub(before.Seen).Hours() / fade.Hours())
	next.MaxLoss, next.MaxGrowth = before.MaxLoss*half, before.MaxGrowth*half

	statisticsLost := z.Inserted < before.Inserted || z.Deleted < before.Deleted
	if before.Open == nil && before.suspicious(z, statisticsLost) {
		count, err := s.countRows(ctx, z)
		if err != nil {
			return before, err
		}
		z.Rows = count
		if before.anomalous(count) && before.explained(z) {
			next.Open = &anomaly{Time: moment, Before: before.Rows, After: count}
		}
	} else if statisticsLost {
		z.Rows = before.Rows // a crash or a reset took the statistics: nothing is known until they are back
	}
	if before.Rows >= minRows {
		change := (z.Rows - before.Rows) / before.Rows
		next.MaxLoss, next.MaxGrowth = max(next.MaxLoss, -change), max(next.MaxGrowth, change)
	}
	next.Rows = z.Rows
	s.tellAnomaly(z, &next)
	return next, nil
}

// suspicious says that the statistics look as if rows were lost or doubled, so
// that they are worth counting.
func (h history) suspicious(z size, statisticsLost bool) bool {
	switch {
	case h.Rows < minRows || h.Samples < learnLooks:
		return false
	case statisticsLost:
		return false
	case z.File != h.File && z.Rows < h.Rows:
		return h.anomalous(z.Rows) // TRUNCATE counts no deleted rows
	}
	return h.anomalous(z.Rows) || h.anomalous(h.Rows-float64(z.Deleted-h.Deleted)+float64(z.Inserted-h.Inserted))
}

// anomalous says that this number of rows is a sudden change against the
// table's own history.
func (h history) anomalous(rows float64) bool {
	loss, gain := (h.Rows-rows)/h.Rows, (rows-h.Rows)/h.Rows
	least := largeLoss
	if h.Seen.Sub(h.Since) >= learnTime {
		least = smallLoss
	}
	return loss >= least && loss > timesHistory*h.MaxLoss || gain >= growth && gain > timesHistory*h.MaxGrowth
}

// explained says that rows were really deleted, truncated or inserted: the
// number before is an estimate, and a better one is no loss.
func (h history) explained(z size) bool {
	net := float64(z.Inserted-h.Inserted) - float64(z.Deleted-h.Deleted)
	if z.Rows < h.Rows {
		return z.File != h.File || -net >= (h.Rows-z.Rows)/2
	}
	return net >= (z.Rows-h.Rows)/2
}

// countRows counts the rows of a table.
func (s *session) countRows(ctx context.Context, z size) (float64, error) {
	if z.Pages > countPages && !s.scope.Deep {
		return z.Rows, nil // its statistics have to do
	}
	started := time.Now()
	var count float64
	err := s.conn.QueryRow(ctx, "SELECT count(*)::float8 FROM ONLY "+z.Name.sql()).Scan(&count)
	s.throttle(ctx, started, int64(z.Pages)*int64(s.conn.Facts.BlockSize))
	return count, err
}

// tellAnomaly reports an open change, until the rows are back or it has become
// what is normal.
func (s *session) tellAnomaly(z size, h *history) {
	if h.Open == nil {
		return
	}
	a := *h.Open
	lost := a.After < a.Before
	mended := lost && h.Rows >= a.Before-(a.Before-a.After)/2 || !lost && h.Rows <= a.Before+(a.After-a.Before)/2
	if mended || time.Since(a.Time) > forgetAfter {
		h.Open = nil
		return
	}
	what, impact := "suddenly has more rows", "Rows may be there twice, for example because an import ran twice: sums and counts are wrong."
	if lost {
		what, impact = "suddenly lost rows", "Rows may have been deleted or truncated by mistake; what refers to them or sums them up is wrong now."
	}
	s.found(Finding{
		Class: ClassDataRule, Severity: SeverityWarning, Schema: z.Name.Schema, Relation: z.Name.Name,
		Message: fmt.Sprintf("the table %s: about %.0f before, %.0f counted at %s (%+.1f %%); from one look to the next it never changed by a third of that",
			what, a.Before, a.After, a.Time.UTC().Format(time.RFC3339), 100*(a.After-a.Before)/a.Before),
		Impact: impact,
		Action: "Ask who ran a clean-up, an import or a TRUNCATE. If it was a mistake, note the time, stop what goes on, keep backups and WAL from expiring, and restore to just before (or from a standby that is delayed). If it was meant, pg_integrity_exporter baseline accept makes it the normal number.",
	}, "rows")
}
