package drill

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"pg_integrity_exporter/internal/wal"
)

// Target is where recovery ends, in the words of PostgreSQL's own settings. At
// most one of Time, LSN, Name, XID and Immediate is given; none is the latest
// point.
type Target struct {
	Time      string
	LSN       string
	Name      string
	XID       string
	Immediate bool
	// Timeline is recovery_target_timeline; empty is latest.
	Timeline string
}

// latest says that recovery goes as far as there is WAL.
func (t Target) latest() bool {
	return t.Time == "" && t.LSN == "" && t.Name == "" && t.XID == "" && !t.Immediate
}

// String is the target for people.
func (t Target) String() string {
	switch {
	case t.Time != "":
		return "time " + t.Time
	case t.LSN != "":
		return "LSN " + t.LSN
	case t.Name != "":
		return "restore point " + t.Name
	case t.XID != "":
		return "transaction " + t.XID
	case t.Immediate:
		return "immediate"
	}
	return "latest"
}

// Validate says what is wrong with a target.
func (t Target) Validate() error {
	given := 0
	for _, is := range []bool{t.Time != "", t.LSN != "", t.Name != "", t.XID != "", t.Immediate} {
		if is {
			given++
		}
	}
	if given > 1 {
		return errors.New("give only one of --recovery-target-time, -lsn, -name, -xid and --recovery-target=immediate")
	}
	if t.Time != "" {
		if _, err := t.moment(); err != nil {
			return err
		}
	}
	if t.LSN != "" {
		if _, err := wal.ParsePosition(t.LSN); err != nil {
			return fmt.Errorf("--recovery-target-lsn: %w", err)
		}
	}
	if t.XID != "" {
		if _, err := strconv.ParseUint(t.XID, 10, 64); err != nil {
			return fmt.Errorf("--recovery-target-xid: %q is not a transaction id", t.XID)
		}
	}
	if t.Timeline != "" && t.Timeline != "latest" && t.Timeline != "current" {
		if _, err := strconv.ParseUint(t.Timeline, 0, 32); err != nil {
			return fmt.Errorf("--recovery-target-timeline: %q is not latest, current or a number", t.Timeline)
		}
	}
	return nil
}

// moment is the target's time. A time without a zone is local time.
func (t Target) moment() (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999Z07:00", "2006-01-02 15:04:05.999999-07", "2006-01-02 15:04:05.999999 MST"} {
		if moment, err := time.Parse(layout, t.Time); err == nil {
			return moment, nil
		}
	}
	for _, layout := range []string{"2006-01-02 15:04:05.999999", "2006-01-02 15:04"} {
		if moment, err := time.ParseInLocation(layout, t.Time, time.Local); err == nil {
			return moment, nil
		}
	}
	return time.Time{}, fmt.Errorf("--recovery-target-time: %q is not a time such as 2023-03-15T09:00:00Z or \"2023-03-15 09:00:00+00\"", t.Time)
}

// settings are those of the scratch server.
func (t Target) settings() map[string]string {
	settings := map[string]string{"recovery_target_timeline": "latest"}
	if t.Timeline != "" {
		settings["recovery_target_timeline"] = t.Timeline
	}
	switch {
	case t.Time != "":
		moment, err := t.moment()
		if err == nil { // Validate has parsed it
			settings["recovery_target_time"] = moment.UTC().Format("2006-01-02 15:04:05.999999+00")
		}
	case t.LSN != "":
		settings["recovery_target_lsn"] = t.LSN
	case t.Name != "":
		settings["recovery_target_name"] = t.Name
	case t.XID != "":
		settings["recovery_target_xid"] = t.XID
	case t.Immediate:
		settings["recovery_target"] = "immediate"
	}
	return settings
}
