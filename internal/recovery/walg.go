package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/internal/wal"
)

const walgSentinel = "_backup_stop_sentinel.json"

// walgBackup is what WAL-G writes beside a backup when it is finished.
type walgBackup struct {
	LSN          uint64  `json:"LSN"`
	FinishLSN    uint64  `json:"FinishLSN"`
	Timeline     uint32  `json:"Timeline"`
	Version      int     `json:"PgVersion"`
	System       uint64  `json:"SystemIdentifier"`
	Uncompressed int64   `json:"UncompressedSize"`
	Compressed   int64   `json:"CompressedSize"`
	DeltaFrom    *string `json:"DeltaFrom"`
	// OldDeltaFrom is the name of DeltaFrom in older versions.
	OldDeltaFrom *string `json:"IncrementFrom"`
}

// walgMetadata is metadata.json in the directory of the backup.
type walgMetadata struct {
	Started  time.Time `json:"start_time"`
	Finished time.Time `json:"finish_time"`
}

// readWALG reads a prefix of WAL-G in a file system: basebackups_005 and
// wal_005.
func readWALG(ctx context.Context, i *Inventory) error {
	base := filepath.Join(i.Repository.Path, "basebackups_005")
	entries, err := os.ReadDir(base)
	if err != nil {
		return fmt.Errorf("%w (path is WAL-G's prefix in this file system)", err)
	}
	for _, entry := range entries {
		label, finished := strings.CutSuffix(entry.Name(), walgSentinel)
		if !finished {
			if entry.IsDir() {
				i.lookForSentinel(base, entry.Name())
			}
			continue
		}
		b := Backup{Label: label, Kind: KindFull}
		path := filepath.Join(base, entry.Name())
		b.readSentinel(path)
		if parts, err := os.ReadDir(filepath.Join(base, label, "tar_partitions")); err != nil || len(parts) == 0 {
			b.problemf(ProblemMissing, "its tar_partitions are missing")
		}
		b.Finished = modified(path)
		var metadata walgMetadata
		if content, err := os.ReadFile(filepath.Join(base, label, "metadata.json")); err == nil && json.Unmarshal(content, &metadata) == nil {
			b.Started, b.Finished = metadata.Started, metadata.Finished
		}
		i.Backups = append(i.Backups, b)
	}
	i.Archive, err = ReadArchive(ctx, filepath.Join(i.Repository.Path, "wal_005"))
	if errors.Is(err, fs.ErrNotExist) {
		i.Archive, err = nil, nil
	}
	return err
}

func (b *Backup) readSentinel(path string) {
	content, err := os.ReadFile(path)
	if err != nil {
		b.problemf(ProblemUnreadable, "its sentinel cannot be read: %v", err)
		return
	}
	var raw walgBackup
	if err := json.Unmarshal(content, &raw); err != nil {
		b.problemf(ProblemDamaged, "its sentinel is no valid JSON: %v", err)
		return
	}
	b.Start, b.End, b.Timeline = wal.Position(raw.LSN), wal.Position(raw.FinishLSN), raw.Timeline
	b.Major, b.System, b.Size, b.Stored = raw.Version/10000, raw.System, raw.Uncompressed, raw.Compressed
	// Older versions say it only in the label: base_ and the name of the segment
	// where it began, and for a delta that of the backup it builds on.
	if segment := strings.TrimPrefix(b.Label, "base_"); b.Timeline == 0 && len(segment) >= 24 {
		timeline, _ := strconv.ParseUint(segment[:8], 16, 32)
		b.Timeline = uint32(timeline)
	}
	for _, parent := range []*string{raw.DeltaFrom, raw.OldDeltaFrom} {
		if parent != nil && *parent != "" {
			b.Kind, b.Parent = KindIncremental, *parent
		}
	}
}

// lookForSentinel reports a backup that was never finished.
func (i *Inventory) lookForSentinel(base, label string) {
	if _, err := os.Stat(filepath.Join(base, label+walgSentinel)); err == nil {
		return
	}
	b := Backup{Label: label, Kind: KindFull, Started: modified(filepath.Join(base, label))}
	if time.Since(b.Started) < time.Hour {
		return // it may be under way
	}
	b.problemf(ProblemIncomplete, "has no sentinel: the backup was interrupted")
	i.Backups = append(i.Backups, b)
}
