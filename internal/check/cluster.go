package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/conf"
	"pg_integrity_exporter/internal/datadir"
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
			{ClassCorruption, SeverityCritical}, {ClassRecoverability, SeverityWarning},
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
	// start is what the next start finds; without Value it is not known.
	start conf.Start
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
		{"pg_ident_file_mappings", r.userMaps},
		{"pg_replication_slots", r.replicationSlots},
		{"pg_prepared_xacts", r.preparedTransactions},
		{"pg_ls_waldir", r.walFiles},
		{"backup mode", r.backupMode},
	} {
		if err := look.do(ctx); err != nil {
			if ctx.Err() != nil || s.conn.IsClosed() || errors.Is(err, errNoControlFile) {
				return err
			}
			s.problem(look.name, err)
		}
		s.result.Objects++
	}
	if unknown := s.conn.Facts.UnknownLayout(); unknown != "" {
		s.skipf("%s", unknown)
		return nil
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
		r.dataDirectory, r.layout, r.startFiles, r.startPlaces, r.alterSystem, r.versions, r.relationMaps, r.status, r.multixacts, r.commitTimes, r.slotFiles, r.twoPhase, r.replicationState, r.summaries, r.history, r.tablespaces, r.walRecords,
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

// noControlFile says what is in the place of the control file when it is no file: who
// opens a pipe waits, deaf to a cancel.
func (r *clusterReader) noControlFile(ctx context.Context) (string, error) {
	files, err := datadir.Open(ctx, r.conn)
	if err != nil {
		return "", nil // the files cannot be looked at
	}
	defer files.Close()
	size, err := files.Size(ctx, cluster.ControlFile)
	switch {
	case datadir.Unreadable(err) != "":
		return "", err
	case err == nil && size == 0: // through the server a pipe is only empty
		return cluster.ControlFile + " is empty, or no file", nil
	}
	return "", nil
}

// errNoControlFile ends the check: the server may wait for ever when it is asked.
var errNoControlFile = errors.New("nothing else was looked at: whoever asks the server about its state may wait for ever")

// controlFunctions asks the server to read its control file anew. The functions
// compare the CRC; pg_monitor is not needed.
func (r *clusterReader) controlFunctions(ctx context.Context) error {
	wrong, err := twice(ctx, func() (string, error) { return r.noControlFile(ctx) })
	if wrong != "" {
		r.damagedFile(cluster.ControlFile, wrong, "The server runs on, but the next start fails, and each process that reads the control file may wait for ever.", "control")
		return errNoControlFile
	}
	if err != nil {
		return err
	}
	wrong, err = twice(ctx, func() (string, error) {
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

// horizons looks for a lost row of pg_database, and for databases whose oldest transaction ids lie in the future.
// Anybody may read pg_database.
func (r *clusterReader) horizons(ctx context.Context) error {
	own := r.conn.Config().Database
	lost, err := twice(ctx, func() (lost string, err error) {
		// Not by an index, whose page of the table may still be in memory.
		err = r.conn.QueryRow(ctx, "SELECT CASE WHEN count(*) FILTER (WHERE datname = $1) = 0 THEN count(*)::text ELSE '' END FROM pg_database", own).Scan(&lost)
		return lost, err
	})
	if err != nil {
		return err
	}
	if lost != "" {
		r.found(Finding{
			Class: ClassCorruption, Severity: SeverityCritical, Schema: "pg_catalog", Relation: "pg_database",
			Message: fmt.Sprintf("pg_database has %s rows, and none for the database %s, in which sessions are open", lost, own),
			Impact:  "Once the server forgets what it has in memory, and after a restart, nobody can connect to the databases that pg_database does not have.",
			Action:  "Do not restart the server. Keep the sessions that are open: they can still copy data out. Copy the data directory, then fail over to a standby, or restore.",
		}, "lost database")
	}
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
	return r.nextStart(ctx)
}

// rulesLine is a line of pg_hba.conf or pg_ident.conf that the server cannot read.
type rulesLine struct {
	Line  int
	Error string
}

// wrongRules gives the lines with errors that a view of the server has, and how many
// lines it has at all.
func (r *clusterReader) wrongRules(ctx context.Context, view string) (wrong []rulesLine, count int, err error) {
	rows, err := r.conn.Query(ctx, "SELECT line_number, coalesce(error, '') FROM "+view)
	if err != nil {
		return nil, 0, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[rulesLine])
	return slices.DeleteFunc(all, func(l rulesLine) bool { return l.Error == "" }), len(all), err
}

// notThere says that the server finds no file where it reads one.
func notThere(err error) bool { return sqlstate(err) == "58P01" || sqlstate(err) == "42809" }

// accessRules reports lines of pg_hba.conf, and that there are none, which stops the
// next start.
func (r *clusterReader) accessRules(ctx context.Context) error {
	wrong, count, err := r.wrongRules(ctx, "pg_hba_file_rules")
	unreadable := notThere(err)
	if err != nil && !unreadable {
		return err
	}
	f := Finding{
		Class: ClassUnsafeSetting, Severity: SeverityCritical,
		Impact: "The server runs on with its old rules and takes no new ones at a reload; the next start fails.",
		Action: "Correct the line, reload (SELECT pg_reload_conf()), and see that pg_hba_file_rules shows no error any more.",
	}
	for _, rule := range wrong {
		f.Message = fmt.Sprintf("pg_hba.conf line %d: %s", rule.Line, rule.Error)
		r.found(f, "pg_hba.conf"+rule.Error)
	}
	f.Action = "Put the file back (SHOW hba_file tells where it belongs), reload (SELECT pg_reload_conf()), and see that pg_hba_file_rules has its lines."
	switch {
	case unreadable:
		f.Message = "pg_hba.conf cannot be read: " + text(err)
		r.found(f, "pg_hba.conf unreadable")
	case count == 0:
		f.Message = "pg_hba.conf has no entries, or is no file"
		r.found(f, "pg_hba.conf empty")
	}
	return nil
}

// userMaps reports lines of pg_ident.conf (15+), which switch its maps off.
func (r *clusterReader) userMaps(ctx context.Context) error {
	if r.conn.Facts.VersionNum < 150000 {
		return nil
	}
	wrong, _, err := r.wrongRules(ctx, "pg_ident_file_mappings")
	if notThere(err) {
		wrong, err = []rulesLine{{0, text(err)}}, nil
	}
	if err != nil {
		return err
	}
	for _, rule := range wrong {
		r.found(Finding{
			Class: ClassUnsafeSetting, Severity: SeverityWarning,
			Message: fmt.Sprintf("pg_ident.conf line %d: %s", rule.Line, rule.Error),
			Impact:  "The server takes no new user name maps at a reload; the next start has none at all.",
			Action:  "Correct the line, reload (SELECT pg_reload_conf()), and see that pg_ident_file_mappings shows no error any more.",
		}, "pg_ident.conf"+rule.Error)
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
// checkpoint, or what a replication slot keeps from before it, and the present.
// pg_ls_waldir needs pg_monitor.
func (r *clusterReader) walFiles(ctx context.Context) error {
	ofSlot := false
	wrong, err := twice(ctx, func() (string, error) {
		var redo, kept, size int64
		const before = `SELECT (redo_lsn - '0/0')::bigint, (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
			(least(redo_lsn, (SELECT min(restart_lsn) FROM pg_replication_slots WHERE wal_status IN ('reserved', 'extended'))) - '0/0')::bigint FROM pg_control_checkpoint()`
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
		if err := r.conn.QueryRow(ctx, before).Scan(&redo, &size, &kept); err != nil {
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
		for number := uint64(kept / size); number <= newest; number++ {
			if ofSlot = number < uint64(redo/size); ofSlot && !numbers[number] {
				return fmt.Sprintf("the WAL segment %s is missing, which a replication slot needs", wal.Segment{Timeline: 1, Number: number}.Name(size)[8:]), nil
			}
			if !numbers[number] {
				return fmt.Sprintf("the WAL segment %s is missing, behind the last checkpoint at %s", wal.Segment{Timeline: 1, Number: number}.Name(size)[8:], wal.Position(redo)), nil
			}
		}
		return "", nil
	})
	switch {
	case wrong == "":
	case ofSlot:
		r.found(Finding{
			Class: ClassRecoverability, Severity: SeverityWarning, Relation: "pg_wal", Message: wrong,
			Impact: "The standby or the subscriber of the slot cannot go on from where it is: replication stops there.",
			Action: "Put the segment back from the WAL archive. Else make the standby or the subscription anew, and find out what removes files from pg_wal.",
		}, "wal of a slot")
	default:
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
