package recovery

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/internal/wal"
)

// barmanTablespace is one entry of tablespaces in backup.info, as Python writes
// a tuple: ('name', oid, '/location').
var barmanTablespace = regexp.MustCompile(`\('((?:[^'\\]|\\.)*)', (\d+), '((?:[^'\\]|\\.)*)'\)`)

// readBarman reads the directory of one server of Barman: base/ID/backup.info
// and wals.
func readBarman(ctx context.Context, i *Inventory) error {
	base := filepath.Join(i.Repository.Path, "base")
	entries, err := os.ReadDir(base)
	if err != nil {
		return fmt.Errorf("%w (path is the directory of one server: barman_home/SERVER)", err)
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		b := Backup{Label: entry.Name(), Kind: KindFull, Path: filepath.Join(base, entry.Name(), "data")}
		content, err := os.ReadFile(filepath.Join(base, entry.Name(), "backup.info"))
		if errors.Is(err, fs.ErrNotExist) {
			// Barman 3.13 keeps a second copy outside of the backup.
			content, err = os.ReadFile(filepath.Join(i.Repository.Path, "meta", entry.Name()+"-backup.info"))
		}
		if err != nil {
			b.problemf(ProblemIncomplete, "its backup.info cannot be read: %v", err)
			i.Backups = append(i.Backups, b)
			continue
		}
		b.readBarmanInfo(content)
		if tarFile(b.Path, "base") != "" {
			b.asTar()
			i.Backups = append(i.Backups, b)
			continue
		}
		for oid, path := range b.Tablespaces {
			if _, err := os.Stat(path); err != nil {
				b.problemf(ProblemMissing, "its tablespace %s is missing", oid)
			}
		}
		if _, err := os.Stat(filepath.Join(b.Path, "PG_VERSION")); err != nil && b.Usable() {
			b.problemf(ProblemMissing, "its data directory is missing")
		}
		i.Backups = append(i.Backups, b)
	}
	i.Archive, err = ReadArchive(ctx, filepath.Join(i.Repository.Path, "wals"))
	if errors.Is(err, fs.ErrNotExist) {
		i.Archive, err = nil, nil
	}
	return err
}

// asTar is for what Barman has pg_basebackup compress: tar files with everything
// in them. Barman's size is that of the files.
func (b *Backup) asTar() {
	b.Tar, b.Tablespaces, b.Stored = true, nil, b.Size
	path := filepath.Join(b.Path, ManifestName)
	info, err := os.Stat(path)
	if err != nil {
		return // what it restores is not known
	}
	manifest, err := summarize(path, info)
	if err != nil {
		b.problemf(ProblemDamaged, "%v", err)
		return
	}
	b.Size = manifest.bytes
}

// readBarmanInfo reads lines of key=value.
func (b *Backup) readBarmanInfo(content []byte) {
	values := make(map[string]string)
	scanner := bufio.NewScanner(bytes.NewReader(content))
	for scanner.Scan() {
		if key, value, ok := strings.Cut(scanner.Text(), "="); ok && value != "None" {
			values[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	b.Started, b.Finished = barmanTime(values["begin_time"]), barmanTime(values["end_time"])
	b.Size, _ = strconv.ParseInt(values["size"], 10, 64)
	b.Stored, _ = strconv.ParseInt(values["deduplicated_size"], 10, 64)
	version, _ := strconv.Atoi(values["version"])
	b.Major = version / 10000
	b.System, _ = strconv.ParseUint(values["systemid"], 10, 64)
	timeline, _ := strconv.ParseUint(values["timeline"], 10, 32)
	b.Timeline = uint32(timeline)
	b.Start, _ = wal.ParsePosition(values["begin_xlog"])
	b.End, _ = wal.ParsePosition(values["end_xlog"])
	if parent := values["parent_backup_id"]; parent != "" {
		b.Kind, b.Parent = KindIncremental, parent
	}
	b.Tablespaces = make(map[string]string)
	for _, match := range barmanTablespace.FindAllStringSubmatch(values["tablespaces"], -1) {
		b.Tablespaces[match[2]] = filepath.Join(filepath.Dir(b.Path), match[2])
	}
	switch status := values["status"]; status {
	case "DONE", "WAITING_FOR_WALS":
	case "FAILED":
		b.problemf(ProblemFailed, "Barman marked it as failed: %s", values["error"])
	default:
		b.problemf(ProblemIncomplete, "its status is %q", status)
	}
}

// barmanTime reads a time as Python's datetime writes it.
func barmanTime(text string) time.Time {
	for _, layout := range []string{"2006-01-02 15:04:05.999999-07:00", "2006-01-02T15:04:05.999999-07:00", "2006-01-02 15:04:05.999999"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t
		}
	}
	return time.Time{}
}
