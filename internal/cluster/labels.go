package cluster

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"pg_integrity_exporter/internal/wal"
)

// HistoryEntry is one line of a timeline history: the timeline that was left,
// and where.
type HistoryEntry struct {
	Timeline uint32
	End      wal.Position
}

// HistoryName is the name of the history of a timeline.
func HistoryName(timeline uint32) string { return fmt.Sprintf("%08X.history", timeline) }

// DecodeHistory reads the history of a timeline as the server does.
func DecodeHistory(b []byte, timeline uint32) ([]HistoryEntry, error) {
	var entries []HistoryEntry
	scanner := bufio.NewScanner(bytes.NewReader(b))
	for line := 1; scanner.Scan(); line++ {
		text := strings.TrimSpace(scanner.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		fields := strings.Fields(text)
		if len(fields) < 2 {
			return nil, fmt.Errorf("line %d has no position", line)
		}
		number, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("line %d does not begin with a timeline but with %q", line, fields[0])
		}
		end, err := wal.ParsePosition(fields[1])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		if len(entries) > 0 && uint32(number) <= entries[len(entries)-1].Timeline {
			return nil, fmt.Errorf("line %d: timelines do not increase", line)
		}
		entries = append(entries, HistoryEntry{uint32(number), end})
	}
	if err := scanner.Err(); err != nil {
		return nil, err
	}
	switch {
	case len(entries) == 0:
		return nil, errors.New("it names no timeline")
	case entries[len(entries)-1].Timeline >= timeline:
		return nil, fmt.Errorf("it names timeline %d, but is the history of %d", entries[len(entries)-1].Timeline, timeline)
	}
	return entries, nil
}

// BackupLabel is the file backup_label of a base backup.
type BackupLabel struct {
	Start, Checkpoint wal.Position
	Timeline          uint32
	// FromStandby, Streamed: how the backup was made.
	FromStandby, Streamed bool
	// StartTime, Label: for people.
	StartTime, Label string
	// Incremental says that the backup is incremental (17+).
	Incremental bool
}

// DecodeBackupLabel reads a backup_label.
func DecodeBackupLabel(b []byte) (BackupLabel, error) {
	var l BackupLabel
	var hasStart, hasCheckpoint bool
	for line := range strings.SplitSeq(string(b), "\n") {
		key, value, ok := strings.Cut(line, ": ")
		if !ok {
			continue
		}
		var err error
		switch key {
		case "START WAL LOCATION":
			position, _, _ := strings.Cut(value, " ")
			l.Start, err = wal.ParsePosition(position)
			hasStart = err == nil
		case "CHECKPOINT LOCATION":
			l.Checkpoint, err = wal.ParsePosition(value)
			hasCheckpoint = err == nil
		case "BACKUP METHOD":
			l.Streamed = value == "streamed"
		case "BACKUP FROM":
			l.FromStandby = value == "standby"
		case "START TIME":
			l.StartTime = value
		case "LABEL":
			l.Label = value
		case "START TIMELINE":
			var n uint64
			n, err = strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			l.Timeline = uint32(n)
		case "INCREMENTAL FROM LSN":
			l.Incremental = true
		}
		if err != nil {
			return l, fmt.Errorf("%s: %w", key, err)
		}
	}
	if !hasStart || !hasCheckpoint {
		return l, errors.New("it does not say where the WAL of the backup starts")
	}
	return l, nil
}
