package offline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/cluster"
)

// histories looks at the timeline histories.
func (r *run) histories(context.Context) error {
	names, err := r.list("pg_wal")
	if err != nil {
		return err
	}
	for _, name := range names {
		text, ok := strings.CutSuffix(name, ".history")
		timeline, err := strconv.ParseUint(text, 16, 32)
		if !ok || err != nil || len(text) != 8 {
			continue
		}
		content, err := r.readFile("pg_wal/"+name, 1<<20)
		if err != nil {
			r.problem("", err)
			continue
		}
		at := never
		if r.known && uint32(timeline) == r.control.Timeline && (r.exists("recovery.signal") || r.exists("standby.signal") || !r.control.State.Clean()) {
			at = atRecovery
		}
		if _, err := cluster.DecodeHistory(content, uint32(timeline)); err != nil {
			r.found(at, check.Finding{
				Class: check.ClassRecoverability, Severity: check.SeverityCritical, Relation: "pg_wal/" + name,
				Message: fmt.Sprintf("the timeline history pg_wal/%s is damaged: %v", name, err),
				Impact:  "Recovery to this timeline, and standbys that follow it, stop at this file.",
				Action:  "Put the file back from the WAL archive, a backup or a standby; its lines are timeline, position and reason.",
			}, "history")
		}
	}
	if r.known && r.control.Timeline > 1 && !r.exists("pg_wal/"+cluster.HistoryName(r.control.Timeline)) {
		r.found(never, check.Finding{
			Class: check.ClassRecoverability, Severity: check.SeverityWarning, Relation: "pg_wal/" + cluster.HistoryName(r.control.Timeline),
			Message: fmt.Sprintf("the server is on timeline %d, but its history is not in pg_wal", r.control.Timeline),
			Impact:  "Standbys and restores that must cross to this timeline need the file; the WAL archive may have it.",
			Action:  "Look for the file in the WAL archive, and put it back from there.",
		}, "history missing")
	}
	return nil
}

// recoveryFiles looks at what a backup or a recovery left for the next start.
func (r *run) recoveryFiles(context.Context) error {
	if r.exists("recovery.conf") {
		r.found(atControlFile, check.Finding{
			Class: check.ClassUnsafeSetting, Severity: check.SeverityCritical, Relation: "recovery.conf",
			Message: "there is a file recovery.conf, which PostgreSQL 12 and newer do not take",
			Impact:  "The server does not start.",
			Action:  "Move its settings to postgresql.conf, make recovery.signal or standby.signal instead, and move recovery.conf away.",
		}, "recovery.conf")
	}
	r.tablespaceMap()
	content, err := r.readFile("backup_label", 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	label, err := cluster.DecodeBackupLabel(content)
	if err != nil {
		r.found(atRecovery, check.Finding{
			Class: check.ClassRecoverability, Severity: check.SeverityCritical, Relation: "backup_label",
			Message: fmt.Sprintf("backup_label is damaged: %v", err),
			Impact:  "The server does not start. Without a backup_label it would start from the wrong place and be corrupt.",
			Action:  "Do not remove backup_label. Put it back from the backup, or restore the backup anew.",
		}, "label")
		return nil
	}
	r.label = &label
	if label.Incremental {
		r.found(atRecovery, check.Finding{
			Class: check.ClassRecoverability, Severity: check.SeverityCritical, Relation: "backup_label",
			Message: "this is an incremental backup, not a data directory",
			Impact:  "The server does not start.",
			Action:  "Combine it with the backups before it (pg_combinebackup) into another directory, and start that.",
		}, "incremental")
	}
	return nil
}

// tablespaceMap looks at tablespace_map, which a start turns into links.
func (r *run) tablespaceMap() {
	content, err := r.readFile("tablespace_map", 1<<20)
	if err != nil {
		return
	}
	for line := range bytes.SplitSeq(bytes.TrimSpace(content), []byte("\n")) {
		oid, target, ok := strings.Cut(string(line), " ")
		if _, err := strconv.ParseUint(oid, 10, 32); len(line) > 0 && (!ok || err != nil) {
			r.found(atRecovery, check.Finding{
				Class: check.ClassRecoverability, Severity: check.SeverityCritical, Relation: "tablespace_map",
				Message: fmt.Sprintf("tablespace_map is damaged at %q", line),
				Impact:  "The server does not start.", Action: "Put tablespace_map back from the backup.",
			}, "map")
		} else if info, err := os.Stat(target); len(line) > 0 && (err != nil || !info.IsDir()) {
			r.found(never, check.Finding{
				Class: check.ClassRecoverability, Severity: check.SeverityCritical, Relation: "tablespace_map",
				Message: fmt.Sprintf("tablespace_map says that the tablespace %s is at %s, which cannot be reached", oid, target),
				Impact:  "The start links the tablespace to a place that is not there: its tables and indexes are gone.",
				Action:  "Restore the tablespace to that place, or correct its line in tablespace_map before the start.",
			}, "target")
		}
	}
}
