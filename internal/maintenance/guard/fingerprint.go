package guard

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// buckets is how many parts the rows of a table are divided into, by their own
// contents: one changed row changes two of them.
const buckets = 1024

// Fingerprint is what a table held: independent of the order of its rows, of
// where they are stored, and of columns that are added later.
type Fingerprint struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	// Columns are the columns that it is made of, with their types.
	Columns []string `json:"columns"`
	Types   []string `json:"types"`
	// Rows is how many there were.
	Rows int64 `json:"rows"`
	// Digest is a short form of Parts.
	Digest string `json:"digest"`
	// Parts are the sums of the hashes in each bucket.
	Parts map[int]Part `json:"parts"`
	// Writes are the rows that had been inserted, updated and deleted since the
	// server began to count, when it was made.
	Writes writes `json:"writes"`
}

// Part is one bucket.
type Part struct {
	Rows int64  `json:"rows"`
	Sum  string `json:"sum"`
}

// writes are the counters of a table in pg_stat_all_tables.
type writes struct {
	Inserted int64 `json:"inserted"`
	Updated  int64 `json:"updated"`
	Deleted  int64 `json:"deleted"`
}

// since is how many row versions came and went: an upper bound of the parts
// that others' writes can have changed.
func (w writes) since(before writes) int64 {
	return w.Inserted - before.Inserted + 2*(w.Updated-before.Updated) + w.Deleted - before.Deleted
}

// table is a table with its size.
type table struct {
	OID    uint32
	Schema string
	Name   string
	Bytes  int64
	Rows   float64
	Kind   string
}

func (t table) sql() string    { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }
func (t table) String() string { return t.Schema + "." + t.Name }

// columnsSQL gives the columns of a table with their types.
const columnsSQL = `SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
	WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum`

// outputSettings make the text of a value the same in every session. They are
// set inside a savepoint that is rolled back.
const outputSettings = `SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL timezone = 'UTC';
	SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = 'hex'; SET LOCAL row_security = off; SET LOCAL lock_timeout = '5s'`

// fingerprint reads a whole table. like limits it to the columns of an earlier
// one that still exist with the same type. It must run in a transaction. ACCESS
// SHARE on the table; SELECT.
func fingerprint(ctx context.Context, conn session, t table, like *Fingerprint) (Fingerprint, error) {
	f := Fingerprint{Schema: t.Schema, Name: t.Name, Parts: make(map[int]Part)}
	// Counted first: what is written meanwhile must count as written since.
	var err error
	if f.Writes, err = countWrites(ctx, conn, t.OID); err != nil {
		return f, err
	}
	err = conn.aside(ctx, outputSettings, func() error {
		if err := f.columns(ctx, conn, t, like); err != nil {
			return err
		}
		row := "''"
		if len(f.Columns) > 0 {
			var names []string
			for _, c := range f.Columns {
				names = append(names, "t."+pgx.Identifier{c}.Sanitize())
			}
			row = "ROW(" + strings.Join(names, ", ") + ")::text"
		}
		only := "ONLY "
		if t.Kind == "m" || t.Kind == "p" {
			only = ""
		}
		// The second hash makes 128 bits; sums do not depend on the order.
		query := fmt.Sprintf(`SELECT (hashtextextended(v, 0) & %d)::int, count(*), sum(hashtextextended(v, 0))::text || '/' || sum(hashtextextended(v, 7))::text
			FROM (SELECT %s AS v FROM %s%s t OFFSET 0) x GROUP BY 1`, buckets-1, row, only, t.sql())
		rows, err := conn.Query(ctx, query)
		if err != nil {
			return err
		}
		var bucket int
		var part Part
		_, err = pgx.ForEachRow(rows, []any{&bucket, &part.Rows, &part.Sum}, func() error {
			f.Parts[bucket] = part
			f.Rows += part.Rows
			return nil
		})
		return err
	})
	if err != nil {
		return Fingerprint{}, fmt.Errorf("reading %s for its fingerprint: %w", t, err)
	}
	f.Digest = f.digest()
	return f, nil
}

func (f *Fingerprint) columns(ctx context.Context, q querier, t table, like *Fingerprint) error {
	rows, err := q.Query(ctx, columnsSQL, t.OID)
	if err != nil {
		return err
	}
	var name, kind string
	types := make(map[string]string)
	var order []string
	if _, err := pgx.ForEachRow(rows, []any{&name, &kind}, func() error {
		types[name] = kind
		order = append(order, name)
		return nil
	}); err != nil {
		return err
	}
	if like != nil {
		order = like.Columns
	}
	for i, name := range order {
		if kind, ok := types[name]; ok && (like == nil || like.Types[i] == kind) {
			f.Columns = append(f.Columns, name)
			f.Types = append(f.Types, kind)
		}
	}
	return nil
}

func (f *Fingerprint) digest() string {
	hash := sha256.New()
	for bucket := range buckets {
		if part, ok := f.Parts[bucket]; ok {
			fmt.Fprintf(hash, "%d %d %s\n", bucket, part.Rows, part.Sum)
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}

// difference is a lower bound of the rows that came, went or changed.
func (f *Fingerprint) difference(other Fingerprint) int64 {
	var difference int64
	for bucket := range buckets {
		a, b := f.Parts[bucket], other.Parts[bucket]
		switch {
		case a.Rows != b.Rows:
			difference += max(a.Rows-b.Rows, b.Rows-a.Rows)
		case a.Sum != b.Sum:
			difference += 2
		}
	}
	return difference
}

// sameColumns says that two fingerprints are made of the same columns.
func (f *Fingerprint) sameColumns(other Fingerprint) bool {
	return slices.Equal(f.Columns, other.Columns) && slices.Equal(f.Types, other.Types)
}

// countWrites reads the counters of a table as they are now.
func countWrites(ctx context.Context, q querier, oid uint32) (writes, error) {
	var w writes
	err := q.QueryRow(ctx, `SELECT pg_stat_get_tuples_inserted($1::oid), pg_stat_get_tuples_updated($1::oid), pg_stat_get_tuples_deleted($1::oid)
		FROM (SELECT pg_stat_clear_snapshot()) x`, oid).Scan(&w.Inserted, &w.Updated, &w.Deleted)
	if err != nil {
		return w, fmt.Errorf("reading the counters of a table: %w", err)
	}
	return w, nil
}

// statisticsDelay is how long a session may keep what it wrote to itself before
// the counters of the table show it.
const statisticsDelay = 12 * time.Second

// compare says whether a table holds what it held, but for what others wrote
// meanwhile. own is what the run itself counted in that table.
func compareFingerprint(ctx context.Context, conn session, t table, before Fingerprint, own writes) Answer {
	answer := Answer{Check: "fingerprint", Object: t.String(), State: OK}
	after, err := fingerprint(ctx, conn, t, &before)
	if err != nil {
		answer.State, answer.Message = Unknown, oneLine(err)
		return answer
	}
	if !after.sameColumns(before) {
		answer.State = Warning
		answer.Message = "columns were dropped or have another type now: the rows cannot be compared"
		return answer
	}
	if after.Digest == before.Digest {
		answer.Message = fmt.Sprintf("%d rows, the same as before (%s)", after.Rows, after.Digest)
		return answer
	}
	difference := after.difference(before)
	for deadline := time.Now().Add(statisticsDelay); ; {
		now, err := countWrites(ctx, conn, t.OID)
		others := now.since(before.Writes) - own.since(writes{})
		if err == nil && difference <= others {
			answer.Message = fmt.Sprintf("%d rows, %d before; the difference is what others wrote meanwhile", after.Rows, before.Rows)
			return answer
		}
		if err != nil || time.Now().After(deadline) || ctx.Err() != nil {
			answer.State = Failed
			answer.Message = fmt.Sprintf("the rows are not what they were: %d rows, %d before, at least %d are different and others wrote %d", after.Rows, before.Rows, difference, max(0, others))
			return answer
		}
		wait(ctx, time.Second)
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
