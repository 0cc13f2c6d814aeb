package check

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/imprint"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/wal"
)

// horizon is what is known of the server's time, before any page is read.
//
// What was changed before the last completed checkpoint began is on disk, and a
// page that says it was not changed since is on disk as it was at that moment.
// So all such pages of all relations are one picture, and may be compared with
// each other whatever is going on.
type horizon struct {
	// redo is where the last completed checkpoint began.
	redo uint64
	// end is a position that the WAL has reached.
	end uint64
	// still is a time: what a file that was written last before it says was followed
	// by a checkpoint. Zero is unknown.
	still time.Time
	// recovers says that not all that was replayed is on disk: the server is a standby, or
	// was one, and has not made a checkpoint since.
	recovers bool
	// started is when the server was.
	started time.Time
	// finished is a transaction: those before it ended before the last checkpoint,
	// so that pg_xact on disk tells how. 0 is unknown.
	finished uint32
	// database is the transaction that made the database, or changed it last, and
	// databaseOID its OID.
	database, databaseOID uint32
	xids                  page.XIDs
}

// horizonSQL reads the control file. A checkpoint that is its own beginning was
// written at a shutdown or at the end of recovery: nothing else was going on. With
// wal_level minimal one that was written in between may look the same. On a
// standby the checkpoint's time is by the clock of the primary. After a promotion
// the last checkpoint may still be one of the old timeline.
const horizonSQL = `SELECT (redo_lsn - '0/0')::bigint, redo_lsn = checkpoint_lsn AND current_setting('wal_level') <> 'minimal', checkpoint_time, pg_postmaster_start_time(),
	pg_is_in_recovery(), coalesce(CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END = lpad(upper(to_hex(timeline_id)), 8, '0'), false),
	d.xmin::text::bigint, d.oid,
	oldest_xid::text::bigint, oldest_active_xid::text::bigint, split_part(next_xid, ':', 2)::bigint, oldest_multi_xid::text::bigint
	FROM pg_control_checkpoint(), pg_database d WHERE d.datname = current_database()`

// lookAhead learns the horizon. Without a control file that can be read there is
// none, and each page is judged alone.
func (h *horizon) lookAhead(ctx context.Context, s *session, files datadir.Directory) error {
	var redo int64
	var quiet, standby, sameTimeline bool
	var began, started time.Time
	var database, oldest, active, next, oldestMulti int64
	err := s.conn.QueryRow(ctx, horizonSQL).Scan(&redo, &quiet, &began, &started, &standby, &sameTimeline, &database, &h.databaseOID, &oldest, &active, &next, &oldestMulti)
	if pg.Unreadable(err) {
		h.xids.Oldest, h.xids.OldestMulti, err = s.oldestXIDs(ctx)
		return errors.Join(err, h.lookNow(ctx, s))
	}
	if err != nil {
		return fmt.Errorf("asking for the last checkpoint: %w", err)
	}
	h.redo, h.database, h.started = uint64(redo), uint32(database), started
	h.recovers = standby || !sameTimeline
	h.xids.Oldest, h.xids.OldestMulti = uint32(oldest), uint32(oldestMulti)
	switch {
	case active != 0:
		h.finished = uint32(active)
	case quiet:
		if h.finished, err = s.finishedAtStart(ctx, files, uint32(next), started); err != nil {
			return err
		}
	}
	if !standby && sameTimeline {
		h.still = began.Add(-2 * time.Second) // it is told in seconds
		// The postmaster notes its start before any process of it can write to a relation;
		// the times of files are up to 10 ms late, but no session is as fast as that.
		if quiet && started.After(h.still) {
			h.still = started
		}
	}
	return h.lookNow(ctx, s)
}

// finishedAtStart gives the transaction before which all had ended at the checkpoint of
// a shutdown, or at the end of recovery: only prepared ones outlive it. Those that
// are finished remove their file. 0 is unknown.
func (s *session) finishedAtStart(ctx context.Context, files datadir.Directory, next uint32, started time.Time) (uint32, error) {
	var prepared *int64
	const sql = "SELECT (SELECT transaction::text::bigint FROM pg_prepared_xacts ORDER BY age(transaction) DESC LIMIT 1)"
	if err := s.conn.QueryRow(ctx, sql).Scan(&prepared); err != nil {
		return 0, fmt.Errorf("asking for prepared transactions: %w", err)
	}
	directory, err := files.Stat(ctx, "pg_twophase")
	switch {
	case err != nil:
		return 0, ignoreGone(err)
	case !directory.Modified.Before(started):
		return 0, nil
	case prepared != nil && int32(uint32(*prepared)-next) < 0:
		return uint32(*prepared), nil
	}
	return next, nil
}

// lookNow learns which transactions have begun.
func (h *horizon) lookNow(ctx context.Context, s *session) error {
	var age, multiAge int32
	if err := s.conn.QueryRow(ctx, "SELECT age('3'::xid), mxid_age('1'::xid)").Scan(&age, &multiAge); err != nil {
		return fmt.Errorf("asking for the next transaction: %w", err)
	}
	h.xids.Next, h.xids.NextMulti = uint32(age)+3, uint32(multiAge)+1
	return nil
}

// lookAgain renews what changes from moment to moment: the transactions, the
// columns and the size of a relation.
func (r *reader) lookAgain(ctx context.Context, f *fork) error {
	if err := r.lookNow(ctx, r.session); err != nil {
		return err
	}
	r.visible = nil
	if f.relation.Blocks > 0 {
		blocks, err := r.length(ctx, f)
		if err != nil {
			return err
		}
		f.relation.Blocks = max(f.relation.Blocks, blocks)
	}
	if f.relation.Columns == nil {
		return nil
	}
	f.relation.Columns = nil
	if err := r.conn.QueryRow(ctx, "SELECT relnatts FROM pg_class WHERE oid = $1", f.OID).Scan(&f.natts); err != nil {
		return err
	}
	return r.columnsOf(ctx, []uint32{f.OID}, map[uint32]*fork{f.OID: f})
}

// beyondWAL says that a position lies beyond the end of the WAL. A page is never
// written before the WAL that changed it.
func (r *reader) beyondWAL(ctx context.Context, lsn uint64) (bool, error) {
	const sql = `SELECT (CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
		ELSE pg_current_wal_insert_lsn() END - '0/0')::bigint`
	var end *int64
	if err := r.conn.QueryRow(ctx, sql).Scan(&end); err != nil {
		return false, fmt.Errorf("asking for the end of the WAL: %w", err)
	}
	if end == nil {
		return false, nil
	}
	r.end = uint64(*end)
	return lsn > r.end, nil
}

// settled says that a page is on disk as it was when the last checkpoint began. One
// that was written without WAL, as by the build of an index, was not changed
// since its file was made.
func (h *horizon) settled(f *fork, lsn uint64) bool {
	return lsn < h.redo && !f.Unlogged && (wal.Position(lsn) >= wal.Oldest || h.old(f))
}

// old says that a relation's file was there before the last checkpoint.
func (h *horizon) old(f *fork) bool {
	before := func(xid uint32) bool { return int32(xid-h.finished) < 0 }
	return h.finished != 0 && before(f.Row) && (f.Shared || before(h.database))
}

// statuses reads pg_xact: two bits for each transaction.
type statuses struct {
	files    datadir.Directory
	finished uint32
	oldest   uint32

	mu    sync.Mutex
	pages map[uint32][]byte
}

const (
	xidsPerPage    = page.Size * 4
	pagesPerStatus = 32 // pages in a file of pg_xact
	maxStatusPages = 512
)

func newStatuses(files datadir.Directory, h horizon) *statuses {
	return &statuses{files: files, finished: h.finished, oldest: h.xids.Oldest, pages: make(map[uint32][]byte)}
}

// status tells how a transaction ended, if that is on disk for certain.
func (s *statuses) status(xid uint32) page.Status {
	if s.finished == 0 || int32(xid-s.finished) >= 0 || int32(xid-s.oldest) < 0 {
		return page.Unknown
	}
	p := s.page(xid / xidsPerPage)
	if p == nil {
		return page.Unknown
	}
	in := xid % xidsPerPage
	return [4]page.Status{page.Crashed, page.Committed, page.Aborted, page.Unknown}[p[in/4]>>(in%4*2)&3]
}

// page reads a page of pg_xact; nil is one that cannot be read.
func (s *statuses) page(number uint32) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, known := s.pages[number]
	if known {
		return p
	}
	if len(s.pages) >= maxStatusPages {
		clear(s.pages)
	}
	p = make([]byte, page.Size)
	name := fmt.Sprintf("pg_xact/%04X", number/pagesPerStatus)
	n, err := s.files.ReadAt(context.Background(), name, p, int64(number%pagesPerStatus)*page.Size)
	if err != nil || n < page.Size {
		p = nil
	}
	s.pages[number] = p
	return p
}

// of gives a function that remembers the last answer, because neighbours are
// often of one transaction.
func (s *statuses) of() func(xid uint32) page.Status {
	var last uint32
	var answer page.Status
	return func(xid uint32) page.Status {
		if xid != last {
			last, answer = xid, s.status(xid)
		}
		return answer
	}
}

// worker looks at pages on its own.
type worker struct {
	r        *reader
	xids     page.XIDs
	end      uint64
	relation page.Relation
	buffer   []byte
	digested [page.Size]byte
	chunk    *chunk
}

func newWorker(r *reader, s *statuses) *worker {
	w := &worker{r: r, buffer: make([]byte, readPages*page.Size), chunk: &chunk{}}
	w.chunk.worker = w
	w.xids.Status = s.of()
	return w
}

// prepare tells the worker what is known at this moment.
func (w *worker) prepare(f *fork) {
	status := w.xids.Status
	w.xids, w.end = w.r.xids, max(w.r.redo, w.r.end)
	w.xids.Status = status
	w.relation = f.relation
	w.relation.XIDs = &w.xids
}

// seen is what a page alone tells.
type seen struct {
	problem problem
	zero    bool
	settled bool
	// visible is the page's own flag.
	visible bool
	// imprint is that of a settled page, when imprints are kept.
	imprint imprint.Imprint
}

// look reads pages and looks at each.
func (w *worker) look(ctx context.Context, f *fork, name string, c *chunk) {
	defer close(c.done)
	c.err = guarded(func() error {
		n, err := w.r.files.ReadAt(ctx, name, c.p, int64(c.first%segmentBlocks)*page.Size)
		c.n = n / page.Size
		for i := range c.n {
			c.seen[i] = w.judge(f, c.p[i*page.Size:(i+1)*page.Size], c.first+uint32(i))
		}
		return err
	})
}

// judge looks at one page: alone, and, of an index, at the rows that it points
// to.
func (w *worker) judge(f *fork, p []byte, block uint32) seen {
	if binary.LittleEndian.Uint64(p) == 0 && page.IsNew(p) {
		return seen{zero: true}
	}
	r := w.r
	h := page.DecodeHeader(p)
	if r.conn.Facts.DataChecksums {
		if sum := page.Checksum(p, block); sum != h.Checksum {
			return seen{problem: corrupt("checksum", "the page's data checksum is %04x, but %04x is stored in it", sum, h.Checksum)}
		}
	}
	if r.plain {
		return seen{visible: true}
	}
	if text := page.Problem(p, block, &w.relation); text != "" {
		return seen{problem: problem{text, "XX001", kindOf(text)}}
	}
	if w.relation.Unsure {
		r.uncertain.Store(true)
	}
	if h.LSN > w.end && !f.Unlogged {
		return seen{problem: corrupt("lsn", "the page says it was changed at %X/%X, where the WAL has not come to yet", h.LSN>>32, uint32(h.LSN))}
	}
	s := seen{settled: r.settled(f, h.LSN), visible: h.Flags&page.AllVisible != 0}
	if s.settled && f.relation.Kind == page.Heap {
		r.rows.add(p, block)
	}
	if s.settled && r.imprints != nil && wal.Position(h.LSN) >= wal.Oldest {
		s.imprint = imprint.Take(p, f.relation.Kind, &w.digested)
	}
	if s.settled && f.Index && r.rows.table == f.Table && f.Table != 0 {
		page.Entries(p, f.relation.Kind, func(t page.TID) {
			if w != r.own && !r.rows.has(t) {
				r.dangling.add(t, block)
			}
		})
	}
	return s
}

// length is how many pages a relation has now.
func (r *reader) length(ctx context.Context, f *fork) (uint32, error) {
	for segment := uint32(0); ; segment++ {
		size, err := r.files.Size(ctx, segmentName(f.Path, segment))
		if err != nil && segment > 0 && errors.Is(err, fs.ErrNotExist) {
			return segment * segmentBlocks, nil
		}
		if err != nil || size < segmentBlocks*page.Size {
			return segment*segmentBlocks + uint32(size/page.Size), err
		}
	}
}
