package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"archive/tar"

	"pg_integrity_exporter/internal/wal"
)

// readDirectory lists base backups: the directory itself when it is one, or its
// directories and those in them.
func readDirectory(ctx context.Context, i *Inventory) error {
	path := i.Repository.Path
	if _, err := os.ReadDir(path); err != nil {
		return err
	}
	if b, ok := baseBackup(path, filepath.Base(path)); ok {
		i.Backups = append(i.Backups, b)
	} else if err := i.readBelow(ctx, "", 2); err != nil {
		return err
	}
	i.linkIncrementals()
	if i.Repository.WAL == "" {
		return nil
	}
	archive, err := ReadArchive(ctx, i.Repository.WAL)
	if err != nil {
		return fmt.Errorf("the archive of WAL: %w", err)
	}
	i.Archive = archive
	return nil
}

// readBelow looks for base backups in the directories below the repository.
func (i *Inventory) readBelow(ctx context.Context, relative string, depth int) error {
	entries, err := os.ReadDir(filepath.Join(i.Repository.Path, relative))
	if err != nil {
		if relative != "" {
			return nil // removed, or somebody else's
		}
		return err
	}
	for _, entry := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		label := filepath.Join(relative, entry.Name())
		path := filepath.Join(i.Repository.Path, label)
		info, err := os.Stat(path) // follows links such as "latest"
		if err != nil || !info.IsDir() || strings.HasPrefix(entry.Name(), ".") || entry.Type()&fs.ModeSymlink != 0 {
			continue
		}
		if b, ok := baseBackup(path, label); ok {
			i.Backups = append(i.Backups, b)
		} else if depth > 1 {
			if err := i.readBelow(ctx, label, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// baseBackup reads what a directory says of itself; ok is false when it is no
// base backup at all.
func baseBackup(path, label string) (b Backup, ok bool) {
	b = Backup{Label: label, Path: path, Kind: KindFull}
	has := func(name string) bool {
		_, err := os.Lstat(filepath.Join(path, name))
		return err == nil
	}
	switch {
	case has("PG_VERSION") || has("backup_label") || has("global"):
	case tarFile(path, "base") != "":
		b.Tar = true
	case has(ManifestName):
	default:
		return Backup{}, false
	}
	b.readLabel()
	b.readVersion()
	b.readManifest()
	if b.Tar {
		b.WALIncluded = tarFile(path, "pg_wal") != "" || tarHoldsWAL(tarFile(path, "base"))
		b.Stored = sizeOf(path)
		return b, true
	}
	b.readTablespaces()
	if entries, err := os.ReadDir(filepath.Join(path, "pg_wal")); err == nil {
		for _, entry := range entries {
			b.WALIncluded = b.WALIncluded || segmentFile.MatchString(entry.Name())
		}
	}
	if has("postmaster.pid") {
		b.problemf(ProblemIncomplete, "holds a postmaster.pid: this is the data directory of a server, not a backup")
	}
	return b, true
}

// tarFile is the path of a tar file of pg_basebackup, with or without
// compression; "" is none.
func tarFile(directory, name string) string {
	for _, suffix := range []string{".tar", ".tar.gz", ".tar.lz4", ".tar.zst"} {
		path := filepath.Join(directory, name+suffix)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// label is what backup_label says.
type label struct {
	start       wal.Position
	started     time.Time
	timeline    uint32
	incremental wal.Position
}

var labelLine = regexp.MustCompile(`(?m)^([A-Z ]+): (.*)$`)

func parseLabel(content string) (l label, err error) {
	for _, match := range labelLine.FindAllStringSubmatch(content, -1) {
		value := match[2]
		switch match[1] {
		case "START WAL LOCATION":
			l.start, err = wal.ParsePosition(value)
		case "START TIME":
			l.started = parseServerTime(value)
		case "START TIMELINE":
			var timeline uint64
			timeline, err = strconv.ParseUint(value, 10, 32)
			l.timeline = uint32(timeline)
		case "INCREMENTAL FROM LSN":
			l.incremental, err = wal.ParsePosition(value)
		}
		if err != nil {
			return label{}, err
		}
	}
	if l.start == 0 {
		return label{}, errors.New("there is no START WAL LOCATION")
	}
	if l.timeline == 0 {
		l.timeline = 1
	}
	return l, nil
}

// parseServerTime reads a time in the server's log time zone; an abbreviation
// that is not known here is taken as UTC.
func parseServerTime(text string) time.Time {
	for _, layout := range []string{"2006-01-02 15:04:05 MST", "2006-01-02 15:04:05 -07"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t
		}
	}
	return time.Time{}
}

// readLabel reads backup_label, from the tar file if need be.
func (b *Backup) readLabel() {
	content, err := b.small("backup_label")
	if errors.Is(err, fs.ErrNotExist) {
		b.problemf(ProblemIncomplete, "has no backup_label: it is not a finished backup, or a copy of a data directory that was not made between the backup functions")
		return
	}
	if _, ok := errors.AsType[*CompressedError](err); ok {
		return // the manifest says most of it
	}
	if err != nil {
		b.problemf(ProblemUnreadable, "its backup_label cannot be read: %v", err)
		return
	}
	l, err := parseLabel(string(content))
	if err != nil {
		b.problemf(ProblemDamaged, "its backup_label makes no sense: %v", err)
		return
	}
	b.Start, b.Timeline, b.Started, b.Finished = l.start, l.timeline, l.started, l.started
	if l.incremental != 0 {
		b.Kind = KindIncremental
		b.incrementalFrom = l.incremental
	}
}

// readVersion reads PG_VERSION.
func (b *Backup) readVersion() {
	content, err := b.small("PG_VERSION")
	if _, ok := errors.AsType[*CompressedError](err); ok {
		return
	}
	if err != nil {
		b.problemf(ProblemIncomplete, "its PG_VERSION cannot be read: %v", err)
		return
	}
	if b.Major, err = strconv.Atoi(strings.TrimSpace(string(content))); err != nil {
		b.problemf(ProblemDamaged, "its PG_VERSION is %q", content)
	}
}

// small reads a small file of the backup, from a tar file if need be: the two
// files that are asked for are its first.
func (b *Backup) small(name string) ([]byte, error) {
	const limit = 1 << 20
	if !b.Tar {
		file, err := os.Open(filepath.Join(b.Path, name))
		if err != nil {
			return nil, err
		}
		defer file.Close() //nolint:errcheck // it was only read
		return io.ReadAll(io.LimitReader(file, limit))
	}
	reader, err := OpenSegment(tarFile(b.Path, "base"))
	if err != nil {
		return nil, err
	}
	defer reader.Close() //nolint:errcheck // it was only read
	archive := tar.NewReader(reader)
	for {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("%s in base.tar: %w", name, fs.ErrNotExist)
		case err != nil:
			return nil, err
		case strings.TrimPrefix(header.Name, "./") == name:
			return io.ReadAll(io.LimitReader(archive, limit))
		}
	}
}

// readManifest reads what the manifest says of the whole backup. It is written
// last, so its time is when the backup was finished.
func (b *Backup) readManifest() {
	path := filepath.Join(b.Path, ManifestName)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if reason := b.unfinished(); reason != "" {
			b.problemf(ProblemIncomplete, "%s: it is being taken, or was interrupted", reason)
		}
		if b.Finished.IsZero() {
			b.Finished = modified(b.Path)
		}
		return
	}
	if err != nil {
		b.problemf(ProblemUnreadable, "its manifest cannot be read: %v", err)
		return
	}
	manifest, err := summarize(path, info)
	if err != nil {
		b.problemf(ProblemDamaged, "%v", err)
		return
	}
	b.Finished, b.Size, b.System = info.ModTime(), manifest.bytes, manifest.system
	for _, r := range manifest.ranges {
		if b.Timeline == 0 {
			b.Timeline, b.Start = r.Timeline, r.Start
		}
		b.End = max(b.End, r.End)
	}
}

// unfinished says what a backup without a manifest lacks that a finished one
// has; empty is nothing. Servers send global/pg_control behind all other data,
// then the WAL if it was asked for, and the manifest last, unless a backup is
// taken without.
func (b *Backup) unfinished() string {
	switch _, err := os.Lstat(filepath.Join(b.Path, ManifestName+".tmp")); {
	case err == nil:
		return "its manifest is not finished"
	case b.Tar:
		if reason := unfinishedTar(tarFile(b.Path, "base")); reason != "" {
			return reason
		}
	default:
		if _, err := os.Lstat(filepath.Join(b.Path, "global", "pg_control")); err != nil {
			return "it has neither a manifest nor global/pg_control, which come last"
		}
	}
	segments, _ := filepath.Glob(filepath.Join(b.Path, "pg_wal", strings.Repeat("[0-9A-F]", 24))) // the pattern is valid
	for _, segment := range segments {
		if info, err := os.Stat(segment); err == nil && !wal.ValidSegmentSize(info.Size()) {
			return fmt.Sprintf("it has no manifest, and its WAL segment %s is not whole", filepath.Base(segment))
		}
	}
	b.settling = writtenSince(b.Path, time.Now().Add(-settling))
	if b.settling {
		return "it has no manifest, and was written to a moment ago"
	}
	return ""
}

// unfinishedTar says what a tar file lacks that has no manifest beside it. The
// end of a compressed one can be found only by reading all of it: that waits
// until nobody writes to it.
func unfinishedTar(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "its base.tar is gone"
	}
	if filepath.Ext(path) != ".tar" && time.Since(info.ModTime()) < pause {
		return "it has no manifest, and its tar file was written to a moment ago"
	}
	_, err = tars.get(path, info, func() (struct{}, error) { return struct{}{}, completeTar(path) })
	if _, ok := errors.AsType[*CompressedError](err); ok || err == nil {
		return ""
	}
	return fmt.Sprintf("it has no manifest, and of its %s: %v", filepath.Base(path), err)
}

// readTablespaces follows the links in pg_tblspc.
func (b *Backup) readTablespaces() {
	entries, err := os.ReadDir(filepath.Join(b.Path, "pg_tblspc"))
	if err != nil {
		return // an incomplete backup says so already
	}
	b.Tablespaces = make(map[string]string)
	for _, entry := range entries {
		if _, err := strconv.ParseUint(entry.Name(), 10, 32); err != nil {
			continue
		}
		path := filepath.Join(b.Path, "pg_tblspc", entry.Name())
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			b.problemf(ProblemMissing, "its tablespace %s is not where the link in pg_tblspc points: %v", entry.Name(), err)
			continue
		}
		b.Tablespaces[entry.Name()] = target
	}
}

// linkIncrementals finds the parent of each incremental backup: the newest one
// whose WAL began where the increment counts from.
func (i *Inventory) linkIncrementals() {
	for n := range i.Backups {
		b := &i.Backups[n]
		if b.incrementalFrom == 0 {
			continue
		}
		b.Parent = "a backup that began at " + b.incrementalFrom.String()
		for _, candidate := range i.Backups {
			if candidate.Start == b.incrementalFrom && candidate.Label != b.Label {
				b.Parent = candidate.Label
			}
		}
	}
}

// tarHoldsWAL says whether there are segments among the members of a tar file,
// as pg_basebackup --wal-method=fetch puts them there. Answers are remembered.
func tarHoldsWAL(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	holds, err := walInTar.get(path, info, func() (bool, error) {
		reader, err := OpenSegment(path)
		if err != nil {
			return false, err
		}
		defer reader.Close() //nolint:errcheck // it was only read
		archive := tar.NewReader(reader)
		for {
			header, err := archive.Next()
			if err != nil {
				return false, nil // a damaged file is told by verification
			}
			if name, ok := strings.CutPrefix(strings.TrimPrefix(header.Name, "./"), "pg_wal/"); ok && segmentFile.MatchString(name) {
				return true, nil
			}
		}
	})
	return err == nil && holds
}

func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// sizeOf is the size of the files directly in a directory.
func sizeOf(path string) int64 {
	entries, err := os.ReadDir(path)
	if err != nil {
		return 0
	}
	var size int64
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
	}
	return size
}
