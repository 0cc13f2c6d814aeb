package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/conf"
	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/wal"
)

// clusterCheck looks at what holds the cluster together and what the next
// start will need: nothing is wrong with a damaged control file, a lost status
// file or a bad line in pg_hba.conf until the next restart, which fails.
func clusterCheck() Check {
	return Check{
		Name:     "cluster",
		Question: "Is everything there and whole that the cluster and its next start need?",
		Kinds: []Kind{
			{ClassCorruption, SeverityCritical}, {ClassRecoverability, SeverityCritical}, {ClassRecoverability, SeverityWarning},
			{ClassUnsafeSetting, SeverityCritical}, {ClassUnsafeSetting, SeverityWarning}, {ClassLeftover, SeverityWarning},
		},
		Interval: time.Hour,
		Needs: "pg_monitor; SELECT on pg_file_settings and pg_hba_file_rules with EXECUTE on their functions; " +
			"for the files: the data directory on the exporter's machine, readable for it, or EXECUTE on pg_read_binary_file and pg_stat_file",
		Locks:  "ACCESS SHARE on catalogues",
		Server: true,
		run:    runCluster,
	}
}

const (
	restoreCluster = "Do not restart the server. Make a base backup or fail over to a sane standby first, while it still runs; keep copies of the files as they are."
	longPrepared   = time.Hour
)

// clusterReader is the state of the check cluster in one run.
type clusterReader struct {
	*session

	files datadir.Directory
	// control is the control file as it was read last.
	control cluster.Control
}

func runCluster(ctx context.Context, s *session) error {
	r := &clusterReader{session: s}
	for _, look := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"pg_control", r.controlFunctions},
		{"pg_database", r.horizons},
		{"pg_file_settings", r.fileSettings},
		{"pg_hba_file_rules", r.accessRules},
		{"pg_replication_slots", r.replicationSlots},
		{"pg_prepared_xacts", r.preparedTransactions},
		{"pg_ls_waldir", r.walFiles},
		{"backup mode", r.backupMode},
	} {
		if err := look.do(ctx); err != nil {
			if ctx.Err() != nil || s.conn.IsClosed() {
				return err
			}
			s.problem(look.name, err)
		}
		s.result.Objects++
	}
	files, err := datadir.Open(ctx, s.conn)
	if denied, ok := errors.AsType[*datadir.NoAccessError](err); ok {
		s.problem("files", denied)
		return nil
	}
	if err != nil {
		return err
	}
	defer files.Close()
	r.files = files
	if err := r.controlFile(ctx); err != nil {
		return err
	}
	for _, look := range []func(context.Context) error{
		r.versions, r.relationMaps, r.status, r.multixacts, r.commitTimes, r.slotFiles, r.twoPhase, r.history, r.tablespaces, r.walRecords,
	} {
		if err := look(ctx); err != nil {
			if ctx.Err() != nil || s.conn.IsClosed() {
				return err
			}
			s.problem("", err)
		}
		s.result.Objects++
	}
	return nil
}

// damagedFile reports damage to a file of the cluster.
func (r *clusterReader) damagedFile(file, message, impact, kind string) {
	r.found(Finding{
		Class: ClassCorruption, Severity: SeverityCritical, Relation: file,
		Message: message, Impact: impact, Action: restoreCluster,
	}, kind)
}

// twice says that a look finds the same wrong thing a moment later: files
// change under the eyes of who reads them. "" is nothing wrong.
func twice(ctx context.Context, look func() (string, error)) (string, error) {
	first, err := lookAt(look)
	if err != nil || first == "" {
		return "", err
	}
	pauseToConfirm(ctx)
	second, err := lookAt(look)
	if err != nil || KindOf(second) != KindOf(first) {
		return "", err
	}
	return second, nil
}

// lookAt makes something wrong of a file that cannot be read because it is none, or
// the device fails.
func lookAt(look func() (string, error)) (string, error) {
	wrong, err := look()
	if text := datadir.Unreadable(err); text != "" {
		name := "a file"
		if path, ok := errors.AsType[*fs.PathError](err); ok {
			name = path.Path
		}
		return fmt.Sprintf("%s cannot be read: %s", name, text), nil
	}
	return wrong, err
}

// controlFunctions asks the server to read its control file anew. The functions
// compare the CRC; pg_monitor is not needed.
func (r *clusterReader) controlFunctions(ctx context.Context) error {
	wrong, err := twice(ctx, func() (string, error) {
		var version int
		err := r.conn.QueryRow(ctx, "SELECT pg_control_version FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery(), pg_control_init()").Scan(&version)
		if err != nil && sqlstate(err) != "" && sqlstate(err) != "42501" && !strings.HasPrefix(sqlstate(err), "57") {
			return text(err), nil
		}
		return "", err
	})
	if wrong != "" {
		r.damagedFile(cluster.ControlFile, "the server cannot read its control file: "+wrong, "The server runs on, but the next start fails.", "control")
	}
	return err
}

// horizons looks for databases whose oldest transaction ids lie in the future.
// Anybody may read pg_database.
func (r *clusterReader) horizons(ctx context.Context) error {
	const sql = `SELECT datname::text, age(datfrozenxid) < 0, mxid_age(datminmxid) < 0 FROM pg_database WHERE age(datfrozenxid) < 0 OR mxid_age(datminmxid) < 0`
	rows, err := r.conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		Name       string
		XID, Multi bool
	}])
	if err != nil {
		return err
	}
	for _, d := range list {
		what := "transaction id (datfrozenxid)"
		if !d.XID {
			what = "multixact (datminmxid)"
		}
		r.found(Finding{
			Class: ClassCorruption, Severity: SeverityCritical, Database: d.Name, Schema: "pg_catalog", Relation: "pg_database",
			Message: fmt.Sprintf("the oldest %s of the database %s lies in the future", what, d.Name),
			Impact:  "The counter of transactions was set back, or the catalogue is damaged: rows seem older or newer than they are, and VACUUM may remove what is needed.",
			Action:  restoreCluster,
		}, "horizon")
	}
	return nil
}

// fileSettings reports lines of the configuration files that would stop the
// next start. A setting that only waits for a restart is none.
func (r *clusterReader) fileSettings(ctx context.Context) error {
	const sql = `SELECT coalesce(f.sourcefile, ''), coalesce(f.sourceline, 0), coalesce(f.name, ''), coalesce(f.setting, ''), f.error, coalesce(s.context, '')
		FROM pg_file_settings f LEFT JOIN pg_settings s ON lower(s.name) = lower(f.name) WHERE f.error IS NOT NULL`
	rows, err := r.conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		File               string
		Line               int
		Name, Value, Error string
		Context            string
	}])
	if err != nil {
		return err
	}
	for _, f := range list {
		detail := f.Error
		if strings.Contains(f.Error, "could not be applied") {
			if detail = conf.CheckParameter(f.Name, f.Value, r.conn.Facts.Major()); detail == "" {
				if f.Context == "postmaster" {
					continue
				}
				detail = fmt.Sprintf("%s: %s", f.Name, f.Error)
			}
		} else if f.Name != "" {
			detail = fmt.Sprintf("%s: %s", f.Name, f.Error)
		}
		r.found(Finding{
			Class: ClassUnsafeSetting, Severity: SeverityCritical,
			Message: fmt.Sprintf("%s line %d: %s", f.File, f.Line, detail),
			Impact:  "The server runs on with its old settings and takes no new ones at a reload; the next start fails.",
			Action:  "Correct the line, reload (SELECT pg_reload_conf()), and see that pg_file_settings shows no error any more.",
		}, "file setting "+f.File+detail)
	}
	return nil
}

// accessRules reports lines of pg_hba.conf, which stop the next start, and of
// pg_ident.conf (15+), which switch its maps off.
func (r *clusterReader) accessRules(ctx context.Context) error {
	views := map[string]string{"pg_hba_file_rules": "pg_hba.conf"}
	if r.conn.Facts.VersionNum >= 150000 {
		views["pg_ident_file_mappings"] = "pg_ident.conf"
	}
	for view, file := range views {
		rows, err := r.conn.Query(ctx, "SELECT line_number, error FROM "+view+" WHERE error IS NOT NULL")
		if err != nil {
			return err
		}
		list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			Line  int
			Error string
		}])
		if err != nil {
			return err
		}
		for _, rule := range list {
			f := Finding{
				Class: ClassUnsafeSetting, Severity: SeverityCritical,
				Message: fmt.Sprintf("%s line %d: %s", file, rule.Line, rule.Error),
				Impact:  "The server runs on with its old rules and takes no new ones at a reload; the next start fails.",
				Action:  "Correct the line, reload (SELECT pg_reload_conf()), and see that " + view + " shows no error any more.",
			}
			if view != "pg_hba_file_rules" {
				f.Severity, f.Impact = SeverityWarning, "The server takes no new user name maps at a reload; the next start has none at all."
			}
			r.found(f, file+rule.Error)
		}
	}
	return nil
}

// replicationSlots reports slots that have lost their WAL, and those that keep
// it for nobody.
func (r *clusterReader) replicationSlots(ctx context.Context) error {
	const sql = `SELECT slot_name::text, coalesce(database::text, ''), active, coalesce(wal_status, ''),
		coalesce((CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - restart_lsn)::bigint, 0),
		(SELECT setting::bigint * 1048576 FROM pg_settings WHERE name = 'max_wal_size')
		FROM pg_replication_slots WHERE NOT temporary`
	rows, err := r.conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		Name, Database string
		Active         bool
		Status         string
		Kept, Limit    int64
	}])
	if err != nil {
		return err
	}
	for _, slot := range list {
		switch {
		case slot.Status == "lost":
			r.found(Finding{
				Class: ClassRecoverability, Severity: SeverityWarning, Database: slot.Database,
				Message: fmt.Sprintf("the replication slot %s has lost WAL that it needs", slot.Name),
				Impact:  "Its standby needs the WAL archive or must be made anew; its subscription must be made anew.",
				Action:  "Find out who used the slot, rebuild that, and drop the slot.",
			}, "slot lost "+slot.Name)
		case !slot.Active && slot.Kept > slot.Limit:
			r.found(Finding{
				Class: ClassLeftover, Severity: SeverityWarning, Database: slot.Database,
				Message: fmt.Sprintf("nobody uses the replication slot %s, which keeps %s of WAL", slot.Name, bytesForPeople(slot.Kept)),
				Impact:  "pg_wal grows until the disk is full, and then the server stops.",
				Action:  "Bring its standby or subscriber back, or drop the slot (pg_drop_replication_slot) when it is gone for good.",
			}, "slot unused "+slot.Name)
		}
	}
	return nil
}

// preparedTransactions reports transactions that were prepared long ago.
func (r *clusterReader) preparedTransactions(ctx context.Context) error {
	const sql = `SELECT gid, database::text, extract(epoch FROM now() - prepared)::float8 FROM pg_prepared_xacts`
	rows, err := r.conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		GID, Database string
		Age           float64
	}])
	if err != nil {
		return err
	}
	for _, p := range list {
		age := time.Duration(p.Age * float64(time.Second))
		if age < longPrepared {
			continue
		}
		r.found(Finding{
			Class: ClassLeftover, Severity: SeverityWarning, Database: p.Database,
			Message: fmt.Sprintf("the transaction %q is prepared since %s and neither committed nor rolled back", p.GID, age.Round(time.Minute)),
			Impact:  "It holds its locks and keeps VACUUM from removing dead rows, across restarts.",
			Action:  "Ask its transaction manager what became of it, then COMMIT PREPARED or ROLLBACK PREPARED.",
		}, "prepared "+p.GID)
	}
	return nil
}

// walFiles looks for missing and short segments in pg_wal, between the last
// checkpoint and the present. pg_ls_waldir needs pg_monitor.
func (r *clusterReader) walFiles(ctx context.Context) error {
	wrong, err := twice(ctx, func() (string, error) {
		var redo, size int64
		const before = `SELECT (redo_lsn - '0/0')::bigint, (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size') FROM pg_control_checkpoint()`
		const files = `SELECT name, size FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'`
		rows, err := r.conn.Query(ctx, files)
		if err != nil {
			return "", err
		}
		list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			Name string
			Size int64
		}])
		if err != nil {
			return "", err
		}
		// Read after the list: what lies behind it was there when the list was made.
		if err := r.conn.QueryRow(ctx, before).Scan(&redo, &size); err != nil {
			return "", err
		}
		numbers := make(map[uint64]bool)
		newest := uint64(redo / size)
		for _, f := range list {
			segment, ok := wal.ParseSegment(f.Name, size)
			if !ok {
				continue
			}
			numbers[segment.Number] = true
			if segment.Number >= uint64(redo/size) && f.Size != size {
				return fmt.Sprintf("the WAL segment %s has %d bytes instead of %d", f.Name, f.Size, size), nil
			}
			newest = max(newest, segment.Number)
		}
		for number := uint64(redo / size); number <= newest; number++ {
			if !numbers[number] {
				return fmt.Sprintf("the WAL segment %s is missing, behind the last checkpoint at %s", wal.Segment{Timeline: 1, Number: number}.Name(size)[8:], wal.Position(redo)), nil
			}
		}
		return "", nil
	})
	if wrong != "" {
		r.damagedFile("pg_wal", wrong, "After a crash the server does not start, or starts without what was committed behind that place.", "wal "+KindOf(wrong))
	}
	return err
}

// backupMode reports a server left in exclusive backup mode (before 15): its
// backup_label is in the way of the next start after a crash.
func (r *clusterReader) backupMode(ctx context.Context) error {
	if r.conn.Facts.VersionNum >= 150000 {
		return nil
	}
	var since *float64
	const sql = "SELECT CASE WHEN pg_is_in_backup() THEN extract(epoch FROM now() - pg_backup_start_time())::float8 END"
	if err := r.conn.QueryRow(ctx, sql).Scan(&since); err != nil || since == nil {
		return err
	}
	age := time.Duration(*since * float64(time.Second))
	if age < 24*time.Hour {
		return nil
	}
	r.found(Finding{
		Class: ClassLeftover, Severity: SeverityWarning,
		Message: fmt.Sprintf("the server is in exclusive backup mode since %s (pg_start_backup without pg_stop_backup)", age.Round(time.Hour)),
		Impact:  "After a crash backup_label stops the start, or sends it back to the old checkpoint whose WAL is gone.",
		Action:  "When no backup is running: SELECT pg_stop_backup().",
	}, "backup mode")
	return nil
}

// controlFile reads the control file itself.
func (r *clusterReader) controlFile(ctx context.Context) error {
	wrong, err := twice(ctx, func() (string, error) {
		size, err := r.files.Size(ctx, cluster.ControlFile)
		if errors.Is(err, fs.ErrNotExist) {
			return "the control file global/pg_control is missing", nil
		}
		if err != nil {
			return "", err
		}
		if err := r.readControl(ctx); err != nil {
			return err.Error(), ctx.Err()
		}
		return strings.Join(r.control.Problems(r.conn.Facts.Major(), size), "; "), nil
	})
	if wrong != "" {
		r.damagedFile(cluster.ControlFile, wrong, "The server runs on, but the next start fails.", "control")
		if err == nil {
			err = errors.New("without a sane control file the other files were not looked at")
		}
	}
	return err
}

func (r *clusterReader) readControl(ctx context.Context) error {
	content, err := datadir.ReadFile(ctx, r.files, cluster.ControlFile, cluster.ControlFileSize)
	if err == nil {
		r.control, err = cluster.DecodeControl(content)
	}
	return err
}

// databasePlace is a database and its directory.
type databasePlace struct {
	OID       uint32
	Name      string
	Directory string
}

// databasePlaces lists the directories of the databases.
func (r *clusterReader) databasePlaces(ctx context.Context) ([]databasePlace, error) {
	const sql = `SELECT d.oid, d.datname::text, CASE WHEN t.spcname = 'pg_default' THEN 'base' ELSE 'pg_tblspc/' || t.oid || '/' || $1 END || '/' || d.oid
		FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datconnlimit <> -2 ORDER BY d.oid`
	rows, err := r.conn.Query(ctx, sql, r.tablespaceVersion())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[databasePlace])
}

func (r *clusterReader) tablespaceVersion() string {
	return fmt.Sprintf("PG_%d_%d", r.conn.Facts.Major(), r.control.Catalog)
}

// exists says that a database is still there.
func (r *clusterReader) exists(ctx context.Context, oid uint32) (bool, error) {
	var there bool
	err := r.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE oid = $1)", oid).Scan(&there)
	return there, err
}

// versions looks at PG_VERSION of the cluster and of each database.
func (r *clusterReader) versions(ctx context.Context) error {
	places, err := r.databasePlaces(ctx)
	if err != nil {
		return err
	}
	places = append(places, databasePlace{})
	for _, p := range places {
		name := strings.TrimPrefix(p.Directory+"/PG_VERSION", "/")
		wrong, err := twice(ctx, func() (string, error) {
			content, err := datadir.ReadFile(ctx, r.files, name, 64)
			if errors.Is(err, fs.ErrNotExist) {
				return name + " is missing", nil
			}
			if text := strings.TrimSpace(string(content)); err == nil && text != strconv.Itoa(r.conn.Facts.Major()) {
				return fmt.Sprintf("%s says %q", name, text), nil
			}
			return "", err
		})
		if err != nil {
			return err
		}
		if wrong == "" {
			continue
		}
		if p.OID == 0 {
			r.damagedFile(name, wrong, "The server runs on, but the next start fails.", "version")
		} else if there, err := r.exists(ctx, p.OID); err != nil || !there {
			continue
		} else {
			r.damagedFile(name, wrong, "Nobody can connect to the database "+p.Name+".", "version")
		}
	}
	return nil
}

// relationMaps looks at the relation maps.
func (r *clusterReader) relationMaps(ctx context.Context) error {
	places, err := r.databasePlaces(ctx)
	if err != nil {
		return err
	}
	places = append(places, databasePlace{Directory: "global"})
	for _, p := range places {
		name := p.Directory + "/" + cluster.RelationMapFile
		wrong, err := twice(ctx, func() (string, error) {
			content, err := datadir.ReadFile(ctx, r.files, name, 1024)
			if errors.Is(err, fs.ErrNotExist) {
				return "the relation map " + name + " is missing", nil
			}
			if err != nil {
				return "", err
			}
			if _, err := cluster.DecodeRelationMap(content, r.conn.Facts.Major(), p.OID == 0); err != nil {
				return fmt.Sprintf("the relation map %s is damaged: %v", name, err), nil
			}
			return "", nil
		})
		if err != nil {
			return err
		}
		if wrong == "" {
			continue
		}
		if there, err := r.exists(ctx, p.OID); p.OID != 0 && (err != nil || !there) {
			continue
		}
		r.damagedFile(name, wrong, "New sessions do not find the system catalogues; after a restart nobody can connect.", "map")
	}
	return nil
}

// logFiles looks for the files of a log, from oldest to next as range gives
// them. The range is asked anew before a missing file is reported, because
// VACUUM removes files.
func (r *clusterReader) logFiles(ctx context.Context, log cluster.Log, span func() (oldest, next uint32, err error)) error {
	oldest, next, err := span()
	if err != nil {
		return err
	}
	for name, least := range log.Files(oldest, next) {
		path := log.Directory + "/" + name
		wrong, err := twice(ctx, func() (string, error) {
			size, err := r.files.Size(ctx, path)
			if errors.Is(err, fs.ErrNotExist) {
				oldest, next, err := span()
				if _, needed := log.Files(oldest, next)[name]; err != nil || !needed {
					return "", err
				}
				return fmt.Sprintf("the file %s is missing, which holds %s", path, log.What), nil
			}
			if err == nil && (size < least || size%page.Size != 0) {
				return fmt.Sprintf("the file %s has %d bytes, but needs at least %d: %s is lost from there on", path, size, least, log.What), nil
			}
			return "", err
		})
		if err != nil {
			return err
		}
		if wrong != "" {
			r.damagedFile(path, wrong, fmt.Sprintf("What is not in memory any more fails: rows cannot be read or are seen wrongly, VACUUM fails, and the next start may. The file holds %s.", log.What), "log")
		}
	}
	return nil
}

// oldestXIDs are the oldest transaction and multixact that any database needs.
func (r *clusterReader) oldestXIDs(ctx context.Context) (xid, multi uint32, err error) {
	const sql = `SELECT (SELECT datfrozenxid::text::bigint FROM pg_database ORDER BY age(datfrozenxid) DESC LIMIT 1),
		(SELECT datminmxid::text::bigint FROM pg_database ORDER BY mxid_age(datminmxid) DESC LIMIT 1)`
	var x, m int64
	err = r.conn.QueryRow(ctx, sql).Scan(&x, &m)
	return uint32(x), uint32(m), err
}

// status looks at pg_xact: its files, and whether the status of transactions
// that ended before the last checkpoint is on disk.
func (r *clusterReader) status(ctx context.Context) error {
	log := cluster.Transactions
	err := r.logFiles(ctx, log, func() (uint32, uint32, error) {
		oldest, _, err := r.oldestXIDs(ctx)
		return oldest, r.control.NextTransaction(), err
	})
	if err != nil {
		return err
	}
	finished := r.control.OldestActive
	if r.control.Redo == r.control.Checkpoint {
		finished = r.control.NextTransaction() // the last checkpoint was that of a shutdown
	}
	oldest, _, err := r.oldestXIDs(ctx)
	if err != nil || finished == 0 {
		return err
	}
	for name := range log.Files(oldest, finished) {
		segment, _ := cluster.SegmentOf(name)
		started := time.Now()
		path := log.Directory + "/" + name
		content, err := datadir.ReadFile(ctx, r.files, path, 1<<18)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		r.throttle(ctx, started, int64(len(content)))
		problems := cluster.StatusProblems(content, segment, oldest, finished)
		if len(problems) == 0 {
			continue
		}
		pauseToConfirm(ctx)
		if content, err = datadir.ReadFile(ctx, r.files, path, 1<<18); err != nil {
			return err
		}
		for _, problem := range cluster.StatusProblems(content, segment, oldest, finished) {
			if slices.Contains(problems, problem) {
				r.damagedFile(path, problem, "Rows of these transactions are taken for aborted and are not seen, or are seen although they were rolled back; VACUUM removes them for good.", KindOf(problem))
			}
		}
	}
	return nil
}

// multixacts looks at pg_multixact.
func (r *clusterReader) multixacts(ctx context.Context) error {
	span := func() (uint32, uint32, error) {
		_, oldest, err := r.oldestXIDs(ctx)
		return oldest, r.control.NextMulti, err
	}
	if err := r.logFiles(ctx, cluster.MultiOffsets, span); err != nil {
		return err
	}
	return r.logFiles(ctx, cluster.MultiMembers, func() (uint32, uint32, error) {
		oldest, next, err := span()
		if err != nil || oldest == next {
			return 0, 0, err
		}
		path, _ := cluster.MultiOffsets.Place(oldest)
		content, err := datadir.ReadFile(ctx, r.files, path, 1<<18)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, 0, nil // told above
		}
		first, ok := cluster.OffsetOf(content, oldest)
		if err != nil || !ok || first == 0 {
			return 0, 0, err
		}
		return first, r.control.NextMultiOffset, nil
	})
}

// commitTimes looks at pg_commit_ts.
func (r *clusterReader) commitTimes(ctx context.Context) error {
	if !r.control.TrackCommitTS || r.control.OldestCommitTS == 0 || r.control.NewestCommitTS == 0 {
		return nil
	}
	return r.logFiles(ctx, cluster.CommitTimestamps, func() (uint32, uint32, error) {
		// VACUUM may have removed what the last checkpoint still had.
		oldest, _, err := r.oldestXIDs(ctx)
		if err != nil || int32(oldest-r.control.OldestCommitTS) < 0 {
			oldest = r.control.OldestCommitTS
		}
		if int32(r.control.NewestCommitTS-oldest) < 0 {
			return 0, 0, err
		}
		return oldest, r.control.NewestCommitTS + 1, err
	})
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
		wrong, err := twice(ctx, func() (string, error) {
			content, err := datadir.ReadFile(ctx, r.files, path, 4096)
			if errors.Is(err, fs.ErrNotExist) {
				var there bool
				err = r.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)", name).Scan(&there)
				if err != nil || !there {
					return "", err
				}
				return "the replication slot " + name + " has no state file", nil
			}
			if err != nil {
				return "", err
			}
			if _, err := cluster.DecodeSlot(content, r.conn.Facts.Major(), name); err != nil {
				return fmt.Sprintf("the state of the replication slot %s is damaged: %v", name, err), nil
			}
			return "", nil
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

// twoPhase looks at the files of transactions that were prepared before the
// last checkpoint.
func (r *clusterReader) twoPhase(ctx context.Context) error {
	const sql = `SELECT transaction::text::bigint, gid FROM pg_prepared_xacts, pg_control_checkpoint() c WHERE prepared < c.checkpoint_time - interval '10 min'`
	rows, err := r.conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		XID int64
		GID string
	}])
	if err != nil {
		return err
	}
	for _, p := range list {
		name := fmt.Sprintf("%08X", p.XID)
		if r.conn.Facts.VersionNum >= 170000 {
			epoch := uint32(r.control.NextXID >> 32)
			if uint32(p.XID) > r.control.NextTransaction() {
				epoch--
			}
			name = fmt.Sprintf("%08X%08X", epoch, p.XID)
		}
		path := "pg_twophase/" + name
		wrong, err := twice(ctx, func() (string, error) {
			content, err := datadir.ReadFile(ctx, r.files, path, 1<<26)
			if errors.Is(err, fs.ErrNotExist) {
				var there bool
				err = r.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = $1)", p.GID).Scan(&there)
				if err != nil || !there {
					return "", err
				}
				return fmt.Sprintf("the file %s of the prepared transaction %q is missing", path, p.GID), nil
			}
			if err != nil {
				return "", err
			}
			if _, err := cluster.DecodeTwoPhase(content, name); err != nil {
				return fmt.Sprintf("the file %s of the prepared transaction %q is damaged: %v", path, p.GID, err), nil
			}
			return "", nil
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

// history looks at the history of the present timeline.
func (r *clusterReader) history(ctx context.Context) error {
	if r.control.Timeline <= 1 {
		return nil
	}
	path := "pg_wal/" + cluster.HistoryName(r.control.Timeline)
	content, err := datadir.ReadFile(ctx, r.files, path, 1<<20)
	message := ""
	if errors.Is(err, fs.ErrNotExist) {
		message = "the history of the present timeline, " + path + ", is missing"
	} else if err != nil {
		return err
	} else if _, err := cluster.DecodeHistory(content, r.control.Timeline); err != nil {
		message = fmt.Sprintf("the history of the present timeline, %s, is damaged: %v", path, err)
	}
	if message != "" {
		r.found(Finding{
			Class: ClassRecoverability, Severity: SeverityWarning, Relation: path, Message: message,
			Impact: "Standbys and restores that must cross to this timeline need the file; the WAL archive may have it.",
			Action: "Put the file back from the WAL archive, a backup or a standby.",
		}, "history")
	}
	return nil
}

// tablespaces looks for the directories of the tablespaces.
func (r *clusterReader) tablespaces(ctx context.Context) error {
	rows, err := r.conn.Query(ctx, "SELECT oid, spcname::text FROM pg_tablespace WHERE oid >= 16384")
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		OID  uint32
		Name string
	}])
	if err != nil {
		return err
	}
	for _, t := range list {
		path := fmt.Sprintf("pg_tblspc/%d", t.OID)
		wrong, err := twice(ctx, func() (string, error) {
			_, err := r.files.Size(ctx, path+"/"+r.tablespaceVersion())
			if !errors.Is(err, fs.ErrNotExist) {
				return "", err
			}
			var there bool
			err = r.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_tablespace WHERE oid = $1)", t.OID).Scan(&there)
			if err != nil || !there {
				return "", err
			}
			return fmt.Sprintf("the tablespace %s has no directory %s/%s", t.Name, path, r.tablespaceVersion()), nil
		})
		if err != nil {
			return err
		}
		if wrong != "" {
			r.damagedFile(path, wrong, "The tables and indexes in this tablespace are gone, or the place where they are is not mounted.", "tablespace")
		}
	}
	return nil
}

// walRecords follows the WAL from the last checkpoint to what is on disk: what
// a crash would need. Only where the files are at hand.
func (r *clusterReader) walRecords(ctx context.Context) error {
	if !r.files.Local() || r.control.WALPageSize != wal.PageSize {
		return nil
	}
	expect := wal.Expect{Major: r.conn.Facts.Major(), System: r.control.System, SegmentSize: int64(r.control.WALSegmentSize)}
	var report wal.Report
	wrong, err := twice(ctx, func() (string, error) {
		if err := r.readControl(ctx); err != nil {
			return "", err
		}
		redo := r.control.Redo
		const sql = `SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0')::bigint`
		var end int64
		if err := r.conn.QueryRow(ctx, sql).Scan(&end); err != nil {
			return "", err
		}
		var err error
		if report, err = wal.Verify(ctx, redo, expect, r.openWAL(ctx)); err != nil {
			return "", err
		}
		// The position behind the last record may lie in the middle of one that is
		// being written, or behind the header of the next page.
		if report.Continues == 0 || report.End >= wal.Position(end) {
			return "", nil
		}
		if err := r.readControl(ctx); err != nil || r.control.Redo > report.End {
			return "", err // a new checkpoint: its WAL is not needed any more
		}
		return fmt.Sprintf("the WAL cannot be read at %s (%s), but goes on at %s; it has been written up to %s", report.Bad.Position, report.Bad.Reason, report.Continues, wal.Position(end)), nil
	})
	if wrong != "" {
		segment := "pg_wal/" + wal.SegmentAt(max(report.Timeline, 1), report.Bad.Page, expect.SegmentSize).Name(expect.SegmentSize)
		r.damagedFile(segment, wrong, "A crash now would lose everything that was committed behind that place; standbys and the archive get the same damage.", "wal records")
	}
	return err
}

// openWAL opens segments of pg_wal on the present timeline or those before it.
func (r *clusterReader) openWAL(ctx context.Context) wal.Opener {
	size := int64(r.control.WALSegmentSize)
	return func(number uint64) (*wal.File, error) {
		for timeline := r.control.Timeline + 1; timeline >= 1 && timeline+16 > r.control.Timeline; timeline-- {
			segment := wal.Segment{Timeline: timeline, Number: number}
			name := "pg_wal/" + segment.Name(size)
			if _, err := r.files.Size(ctx, name); err == nil {
				return &wal.File{ReaderAt: &throttledFile{ctx: ctx, r: r, name: name}, Closer: io.NopCloser(nil), Segment: segment}, nil
			}
		}
		return nil, fmt.Errorf("segment %d: %w", number, fs.ErrNotExist)
	}
}

// throttledFile reads a file of the data directory no faster than allowed.
type throttledFile struct {
	ctx  context.Context //nolint:containedctx // io.ReaderAt has no room for it
	r    *clusterReader
	name string
}

// ReadAt reads like io.ReaderAt.
func (f *throttledFile) ReadAt(p []byte, offset int64) (int, error) {
	started := time.Now()
	n, err := f.r.files.ReadAt(f.ctx, f.name, p, offset)
	f.r.throttle(f.ctx, started, int64(n))
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}
