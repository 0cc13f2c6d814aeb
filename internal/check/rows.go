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
	Analyzed float64 // when VACUUM or ANALYZE last estimated n_live_tup, in seconds since 1970; 0 is never
	File     uint32  // relfilenode: TRUNCATE and rewrites change it
}

// sizesSQL reads the statistics of the tables of users; partitions count with
// their own.
const sizesSQL = `SELECT s.relid, s.schemaname::text, s.relname::text, greatest(c.relpages, 0), s.n_live_tup::float8, s.n_tup_ins, s.n_tup_del,
	coalesce(extract(epoch FROM greatest(s.last_vacuum, s.last_autovacuum, s.last_analyze, s.last_autoanalyze)), 0)::float8, c.relfilenode
	FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid WHERE c.relkind = 'r' AND c.relpersistence = 'p' ORDER BY s.schemaname, s.relname`

// history is what is remembered of one table.
type history struct {
	// Since is when it was first seen, Seen when last, Samples how often.
	Since   time.Time `json:"since"`
	Seen    time.Time `json:"seen"`
	Samples int       `json:"samples"`
	// Rows is the best that was known at the last look; Live, Inserted, Deleted,
	// Analyzed and File are what the statistics said then. There is no Live in what
	// older versions remembered.
	Rows     float64  `json:"rows"`
	Live     *float64 `json:"live,omitempty"`
	Analyzed float64  `json:"analyzed,omitempty"`
	Inserted int64    `json:"inserted"`
	Deleted  int64    `json:"deleted"`
	File     uint32   `json:"file"`
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
	// learnLooks is how often a table must have been seen before anything is told.
	learnLooks = 3
	// largeLoss is the share of the rows whose loss is told of when a table was
	// watched for learnTime or less. It becomes less as the table is better known:
	// half of it after twice the time, and so on, down to smallLoss.
	largeLoss = 0.3
	learnTime = 24 * time.Hour
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
		err = row.Scan(&z.OID, &z.Name.Schema, &z.Name.Name, &z.Pages, &z.Rows, &z.Inserted, &z.Deleted, &z.Analyzed, &z.File)
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
	next := before
	next.Seen, next.Samples = time.Now(), before.Samples+1
	next.Live, next.Inserted, next.Deleted, next.Analyzed, next.File = &z.Rows, z.Inserted, z.Deleted, z.Analyzed, z.File
	if !seen {
		next.Since, next.Rows = next.Seen, z.Rows
		return next, nil
	}
	next.Rows = before.rowsNow(z)
	if s.scope.Accept != nil {
		next.MaxLoss, next.MaxGrowth, next.Open = 0, 0, nil
		return next, nil
	}
	half := math.Exp2(-next.Seen.Sub(before.Seen).Hours() / fade.Hours())
	next.MaxLoss, next.MaxGrowth = before.MaxLoss*half, before.MaxGrowth*half

	changed := z.Inserted != before.Inserted || z.Deleted != before.Deleted || z.File != before.File
	suspicious := before.suspicious(z, next.Rows)
	if suspicious || before.Open != nil && changed || before.doubtful(z) {
		var err error
		if next.Rows, err = s.countRows(ctx, z, next.Rows); err != nil {
			return before, err
		}
	}
	if suspicious && before.Open == nil && before.anomalous(next.Rows) && before.explained(z, next.Rows) {
		next.Open = &anomaly{Time: next.Seen, Before: before.Rows, After: next.Rows}
	}
	if before.Rows >= minRows && !before.lost(z) {
		// An estimate that jumps is no habit of the table: its rows must have been deleted or inserted.
		net := before.net(z)
		loss, gain := before.Rows-next.Rows, next.Rows-before.Rows
		if z.File == before.File {
			loss = min(loss, -net)
		}
		next.MaxLoss, next.MaxGrowth = max(next.MaxLoss, loss/before.Rows), max(next.MaxGrowth, min(gain, net)/before.Rows)
	}
	s.tellAnomaly(z, &next)
	return next, nil
}

// lost says that the statistics are not those of the last look with what
// happened since: a crash or a reset took them.
func (h history) lost(z size) bool {
	return z.Inserted < h.Inserted || z.Deleted < h.Deleted || z.Analyzed < h.Analyzed ||
		z.Analyzed == h.Analyzed && z.File == h.File && h.Live != nil && z.Rows < *h.Live-float64(z.Deleted-h.Deleted)
}

// net is how many rows more were inserted than deleted since the last look, with
// those of transactions that were rolled back.
func (h history) net(z size) float64 {
	return float64(z.Inserted-h.Inserted) - float64(z.Deleted-h.Deleted)
}

// rowsNow is the number of rows: what VACUUM or ANALYZE estimated anew, or that
// of the last look with what the statistics say was committed since. Statistics
// that were lost begin at 0 again.
func (h history) rowsNow(z size) float64 {
	switch {
	case h.lost(z):
		return max(0, h.Rows+z.Rows)
	case h.Live == nil || z.Analyzed != h.Analyzed:
		return z.Rows
	}
	return max(0, h.Rows+z.Rows-*h.Live)
}

// doubtful says that a new estimate differs so much from the number before,
// with nothing that explains it, that the rows are worth counting: later looks
// are compared with it.
func (h history) doubtful(z size) bool {
	return h.Rows >= minRows && z.Analyzed != h.Analyzed && !h.lost(z) && math.Abs(z.Rows-h.Rows) > largeLoss*h.Rows && !h.explained(z, z.Rows)
}

// suspicious says that the statistics look as if rows were lost or doubled, so
// that they are worth counting.
func (h history) suspicious(z size, rows float64) bool {
	if h.Rows < minRows || h.Samples < learnLooks || h.lost(z) {
		return false
	}
	return h.anomalous(rows) && h.explained(z, rows) || h.anomalous(h.Rows+h.net(z))
}

// anomalous says that this number of rows is a sudden change against the
// table's own history.
func (h history) anomalous(rows float64) bool {
	loss, gain := (h.Rows-rows)/h.Rows, (rows-h.Rows)/h.Rows
	watched := max(h.Seen.Sub(h.Since), learnTime)
	least := max(largeLoss*float64(learnTime)/float64(watched), smallLoss)
	return loss >= least && loss > timesHistory*h.MaxLoss || gain >= growth && gain > timesHistory*h.MaxGrowth
}

// explained says that rows were really deleted, truncated or inserted: the
// number before is an estimate, and a better one is no loss. TRUNCATE counts no
// deleted rows.
func (h history) explained(z size, rows float64) bool {
	if rows < h.Rows {
		return z.File != h.File || -h.net(z) >= (h.Rows-rows)/2
	}
	return h.net(z) >= (rows-h.Rows)/2
}

// countRows counts the rows of a table; for one that is too large the number
// that its statistics tell has to do.
func (s *session) countRows(ctx context.Context, z size, told float64) (float64, error) {
	if z.Pages > countPages && !s.scope.Deep {
		return told, nil
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
