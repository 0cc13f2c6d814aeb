package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/wal"
)

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
		problems := r.control.Problems(r.conn.Facts.Major(), size)
		if r.control.Tail {
			problems = append(problems, cluster.TailProblem)
		}
		return strings.Join(problems, "; "), nil
	})
	if wrong != "" {
		r.damagedFile(cluster.ControlFile, wrong, "The server runs on, but the next start fails.", "control")
		if err == nil {
			err = errors.New("without a sane control file the other files were not looked at")
		}
	}
	if err != nil {
		return err
	}
	return r.controlState(ctx)
}

// controlState tells of a control file that says that the server was shut down: one that
// runs has said otherwise since its start.
func (r *clusterReader) controlState(ctx context.Context) error {
	wrong, err := twice(ctx, func() (string, error) {
		if err := r.readControl(ctx); err != nil || !r.control.State.Clean() {
			return "", err
		}
		return fmt.Sprintf("the control file says that the server is %s, but it runs: an older file was put back", r.control.State), nil
	})
	if err != nil || wrong == "" {
		return err
	}
	r.found(Finding{
		Class: ClassCorruption, Severity: SeverityCritical, Relation: cluster.ControlFile, Message: wrong,
		Impact: "After a crash the next start would not recover: what was committed since that shutdown is lost, and files contradict each other.",
		Action: "Run CHECKPOINT now: the server writes the file anew from its memory. Then find out who put the old one back, and which other files.",
	}, "control state")
	return nil
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
	return r.there(ctx, "SELECT FROM pg_database WHERE oid = $1", oid)
}

// layout looks for the directories of the cluster.
func (r *clusterReader) layout(ctx context.Context) error {
	for _, d := range cluster.Directories {
		wrong, err := twice(ctx, func() (string, error) {
			entry, err := r.files.Stat(ctx, d.Name)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return "the directory " + d.Name + " is missing", nil
			case err == nil && !entry.Directory:
				return d.Name + " is not a directory", nil
			}
			return "", err
		})
		if err != nil {
			return err
		}
		switch {
		case wrong == "":
		case d.Empty:
			r.found(Finding{
				Class: ClassRecoverability, Severity: SeverityWarning, Relation: d.Name, Message: wrong,
				Impact: "The server runs on, but what needs the directory fails, and the next start may.",
				Action: "Make the empty directory anew, with the owner and mode of its neighbours: nothing in it outlives a shutdown. Find out who removed it.",
			}, "directory")
		default:
			r.damagedFile(d.Name, wrong, "What the server keeps there is gone. It runs on until it needs it; checkpoints and the next start fail.", "directory")
		}
	}
	return nil
}

// leftForStart are files that change what the next start of a primary does, and that
// a primary which runs does not have.
var leftForStart = map[string]string{
	"standby.signal":  "starts as a standby and waits for a primary",
	"recovery.signal": "starts a recovery from the archive, on a new timeline or not at all",
	"backup_label":    "recovers from the beginning of that backup, or does not start because its WAL is gone",
	"tablespace_map":  "makes the links of the tablespaces as they were at a backup",
	"recovery.conf":   "fails, because PostgreSQL 12 and later refuse the file",
}

// startFiles looks for files that would surprise at the next start, and for the lock
// file, without which the server soon shuts itself down.
func (r *clusterReader) startFiles(ctx context.Context) error {
	wrong, err := twice(ctx, func() (string, error) {
		content, err := datadir.ReadFile(ctx, r.files, "postmaster.pid", 4096)
		if errors.Is(err, fs.ErrNotExist) {
			return "postmaster.pid is missing", nil
		}
		first, _, _ := strings.Cut(string(content), "\n")
		if err == nil && (first == "" || strings.Trim(first, "0123456789") != "") {
			return "postmaster.pid does not begin with a process id", nil
		}
		return "", err
	})
	if err != nil {
		return err
	}
	if wrong != "" {
		r.damagedFile("postmaster.pid", wrong, "The server looks at it every minute and shuts itself down immediately when it is not its own: all sessions end, and it recovers at the next start.", "lock file")
	}
	if r.conn.Facts.InRecovery {
		return nil
	}
	for name, then := range leftForStart {
		if r.conn.Facts.VersionNum < 150000 && (name == "backup_label" || name == "tablespace_map") {
			continue // such a server is in exclusive backup mode, of which backupMode tells
		}
		wrong, err := twice(ctx, func() (string, error) {
			if _, err := r.files.Stat(ctx, name); err != nil {
				return "", ignoreGone(err)
			}
			return name + " is in the data directory of a primary", nil
		})
		if err != nil {
			return err
		}
		if wrong != "" {
			r.found(Finding{
				Class: ClassUnsafeSetting, Severity: SeverityCritical, Message: wrong,
				Impact: "The next start " + then + ".",
				Action: "Find out who put it there. When nobody wants that at the next start, move it out of the data directory.",
			}, "left "+name)
		}
	}
	return nil
}

// alterSystem looks for the file of ALTER SYSTEM, without which a server starts.
func (r *clusterReader) alterSystem(ctx context.Context) error {
	const file = "postgresql.auto.conf"
	wrong, err := twice(ctx, func() (string, error) {
		if _, err := r.files.Size(ctx, file); !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		used, err := r.there(ctx, "SELECT FROM pg_settings WHERE sourcefile LIKE '%/"+file+"'")
		if err != nil || !used {
			return "", err
		}
		return file + " is missing, from which the server has settings", nil
	})
	if wrong != "" {
		r.found(Finding{
			Class: ClassUnsafeSetting, Severity: SeverityCritical, Message: wrong,
			Impact: "The next reload or start silently forgets everything that was set with ALTER SYSTEM.",
			Action: "Do not reload. See what came from it (SELECT name, setting FROM pg_settings WHERE sourcefile LIKE '%" + file + "'), and set that again with ALTER SYSTEM, which writes the file anew.",
		}, "alter system")
	}
	return err
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
			if size := cluster.RelationMapSize(r.conn.Facts.Major()); len(content) != size {
				return fmt.Sprintf("the relation map %s is damaged: it has %d bytes instead of %d", name, len(content), size), nil
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
			_, err := r.files.Stat(ctx, path+"/"+r.tablespaceVersion())
			if !errors.Is(err, fs.ErrNotExist) {
				return "", err
			}
			if there, err := r.there(ctx, "SELECT FROM pg_tablespace WHERE oid = $1", t.OID); err != nil || !there {
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
		if report, err = wal.Verify(ctx, redo, expect, r.openWAL(ctx, r.files, &r.control)); err != nil {
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
