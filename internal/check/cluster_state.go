package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/datadir"
)

// maxStateFile bounds what is read of a file of state.
const maxStateFile = 1 << 26

// wrongState says what is wrong with a file that the server wrote as a whole; ""
// is nothing. needed says whether the server still needs one that is missing.
func (r *clusterReader) wrongState(ctx context.Context, path, what string, problem func(content []byte) string, needed func() (bool, error)) (string, error) {
	return twice(ctx, func() (string, error) {
		content, err := datadir.ReadFile(ctx, r.files, path, maxStateFile)
		if errors.Is(err, fs.ErrNotExist) {
			if there, err := needed(); err != nil || !there {
				return "", err
			}
			return fmt.Sprintf("%s is missing: the file %s", what, path), nil
		}
		if err != nil {
			return "", err
		}
		if text := problem(content); text != "" {
			return fmt.Sprintf("%s is damaged: the file %s: %s", what, path, text), nil
		}
		return "", nil
	})
}

// notNeeded says of a file that is missing that it was removed since.
func notNeeded() (bool, error) { return false, nil }

// there asks whether something exists.
func (r *clusterReader) there(ctx context.Context, sql string, args ...any) (there bool, err error) {
	err = r.conn.QueryRow(ctx, "SELECT EXISTS ("+sql+")", args...).Scan(&there)
	return there, err
}

// slotFiles looks at the state files of the replication slots.
func (r *clusterReader) slotFiles(ctx context.Context) error {
	rows, err := r.conn.Query(ctx, "SELECT slot_name::text FROM pg_replication_slots WHERE NOT temporary")
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		path := "pg_replslot/" + name + "/state"
		wrong, err := r.wrongState(ctx, path, "the state of the replication slot "+name, func(content []byte) string {
			_, err := cluster.DecodeSlot(content, r.conn.Facts.Major(), name)
			return messageOf(err)
		}, func() (bool, error) {
			return r.there(ctx, "SELECT FROM pg_replication_slots WHERE slot_name = $1", name)
		})
		if err != nil {
			return err
		}
		if wrong != "" {
			r.found(Finding{
				Class: ClassCorruption, Severity: SeverityCritical, Relation: path, Message: wrong,
				Impact: "The server runs on, but the next start fails (PANIC).",
				Action: "While the server runs: advance the slot by using it, which writes its file anew at the next checkpoint; or drop it and make its standby or subscription anew.",
			}, "slot")
		}
	}
	return nil
}

// twoPhase looks at the files of prepared transactions. A checkpoint writes those of
// transactions that were prepared before it began.
func (r *clusterReader) twoPhase(ctx context.Context) error {
	const sql = `SELECT transaction::text::bigint, gid, prepared < c.checkpoint_time - interval '10 s' FROM pg_prepared_xacts, pg_control_checkpoint() c`
	rows, err := r.conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		XID     int64
		GID     string
		Written bool
	}])
	if err != nil {
		return err
	}
	gids := make(map[string]string)
	for _, p := range list {
		if p.Written {
			gids[r.twoPhaseName(uint32(p.XID))] = p.GID
		}
		if err := r.preparedStatus(ctx, uint32(p.XID), p.GID); err != nil {
			return err
		}
	}
	entries, err := datadir.List(ctx, r.files, "pg_twophase")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, ok := cluster.TwoPhaseXID(e.Name); ok && gids[e.Name] == "" {
			gids[e.Name] = ""
		}
	}
	for name, gid := range gids {
		what := "a prepared transaction"
		if gid != "" {
			what = fmt.Sprintf("the prepared transaction %q", gid)
		}
		path := "pg_twophase/" + name
		wrong, err := r.wrongState(ctx, path, what, func(content []byte) string {
			_, err := cluster.DecodeTwoPhase(content, name)
			return messageOf(err)
		}, func() (bool, error) {
			return r.there(ctx, "SELECT FROM pg_prepared_xacts WHERE gid = $1", gid)
		})
		if err != nil {
			return err
		}
		if wrong != "" {
			r.damagedFile(path, wrong, "The transaction can be neither committed nor rolled back, and the next start fails.", "twophase")
		}
	}
	return nil
}

// preparedStatus looks what pg_xact says of a prepared transaction: that it is under way,
// until somebody commits it or rolls it back.
func (r *clusterReader) preparedStatus(ctx context.Context, xid uint32, gid string) error {
	path, _ := cluster.Transactions.Place(xid)
	wrong, err := twice(ctx, func() (string, error) {
		content, err := r.logFile(ctx, path)
		if err != nil {
			return "", err
		}
		status := cluster.StatusOf(content, xid)
		if status == "" {
			return "", nil
		}
		still, err := r.there(ctx, "SELECT FROM pg_prepared_xacts WHERE gid = $1", gid)
		if err != nil || !still {
			return "", err
		}
		return fmt.Sprintf("%s says that the transaction %d is %s, but it is prepared as %q and neither committed nor rolled back", path, xid, status, gid), nil
	})
	if err != nil || wrong == "" {
		return err
	}
	r.damagedFile(path, wrong, "Its rows are seen, or removed, although it has not ended; and COMMIT PREPARED or ROLLBACK PREPARED makes the server panic, or contradicts what was seen. Other transactions of the file may have another status, too.", "prepared status")
	return nil
}

// twoPhaseName is the name of the file of a prepared transaction.
func (r *clusterReader) twoPhaseName(xid uint32) string {
	if r.conn.Facts.VersionNum < 170000 {
		return fmt.Sprintf("%08X", xid)
	}
	epoch := uint32(r.control.NextXID >> 32)
	if xid > r.control.NextTransaction() {
		epoch--
	}
	return fmt.Sprintf("%08X%08X", epoch, xid)
}

// replicationState looks at how far subscriptions came, which each checkpoint writes,
// and at the snapshots of logical decoding.
func (r *clusterReader) replicationState(ctx context.Context) error {
	setting := "max_replication_slots"
	if r.conn.Facts.VersionNum >= 180000 {
		setting = "max_active_replication_origins"
	}
	const origins = "pg_logical/replorigin_checkpoint"
	wrong, err := r.wrongState(ctx, origins, "how far replication origins came", cluster.OriginsProblem, func() (bool, error) {
		return r.there(ctx, "SELECT FROM pg_settings WHERE name = $1 AND setting::int > 0", setting)
	})
	if err != nil {
		return err
	}
	if wrong != "" {
		r.damagedFile(origins, wrong, "After a crash the server does not start, or subscriptions apply again what they have applied: rows are doubled or conflict.", "origins")
	}
	isSnapshot := func(name string) bool { return strings.HasSuffix(name, ".snap") }
	return r.wholeFiles(ctx, "pg_logical/snapshots", isSnapshot, "a snapshot of logical decoding", cluster.LogicalSnapshotProblem, func(path, wrong string) {
		r.damagedFile(path, wrong, "Logical replication that starts again from there fails.", "logical snapshot")
	})
}

// wholeFiles looks at the files of a directory that the server writes as a whole, and
// removes when it needs them no more.
func (r *clusterReader) wholeFiles(ctx context.Context, directory string, is func(name string) bool, what string, problem func(content []byte) string, tell func(path, wrong string)) error {
	entries, err := datadir.List(ctx, r.files, directory)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !is(e.Name) {
			continue
		}
		path := directory + "/" + e.Name
		wrong, err := r.wrongState(ctx, path, what, problem, notNeeded)
		if err != nil {
			return err
		}
		if wrong != "" {
			tell(path, wrong)
		}
	}
	return nil
}

// summaries looks at the summaries of WAL (17+). Old ones are removed while others are
// read, and new ones get their name when they are whole.
func (r *clusterReader) summaries(ctx context.Context) error {
	if r.conn.Facts.VersionNum < 170000 {
		return nil
	}
	err := r.wholeFiles(ctx, cluster.SummariesDirectory, cluster.IsSummary, "a summary of WAL", cluster.SummaryProblem, func(path, wrong string) {
		r.found(Finding{
			Class: ClassRecoverability, Severity: SeverityWarning, Relation: path, Message: wrong,
			Impact: SummaryImpact, Action: SummaryAction,
		}, "summary")
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// What a damaged summary of WAL means, and what to do.
const (
	SummaryImpact = "Incremental backups on a backup from before that WAL fail. The data itself is not touched."
	SummaryAction = "Make a full backup, then move the file away: later incremental backups build on that one. Find out what damaged it: other files may be damaged, too."
)

// messageOf is the message of an error; "" is none.
func messageOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
