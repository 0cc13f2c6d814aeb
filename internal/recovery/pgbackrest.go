package recovery

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // what pgBackRest sums its files with
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/internal/wal"
)

// pgBackRestBackup is one backup in backup.info and in `pgbackrest info
// --output=json`.
type pgBackRestBackup struct {
	ArchiveStart string   `json:"backup-archive-start"`
	ArchiveStop  string   `json:"backup-archive-stop"`
	Error        bool     `json:"backup-error"`
	RepoSize     int64    `json:"backup-info-repo-size"`
	Size         int64    `json:"backup-info-size"`
	LSNStart     string   `json:"backup-lsn-start"`
	LSNStop      string   `json:"backup-lsn-stop"`
	Prior        string   `json:"backup-prior"`
	Reference    []string `json:"backup-reference"`
	Start        int64    `json:"backup-timestamp-start"`
	Stop         int64    `json:"backup-timestamp-stop"`
	Type         string   `json:"backup-type"`
	DB           int      `json:"db-id"`
}

type pgBackRestDB struct {
	System  json.Number `json:"db-system-id"`
	Version string      `json:"db-version"`
}

// readPgBackRest reads backup.info and the archive of a repository, or the
// output of pgBackRest's own info command.
func readPgBackRest(ctx context.Context, i *Inventory) error {
	if i.Repository.InfoFile != "" {
		return i.readPgBackRestInfo()
	}
	stanza := i.Repository.Stanza
	if stanza == "" {
		entries, err := os.ReadDir(filepath.Join(i.Repository.Path, "backup"))
		if err != nil {
			return err
		}
		if len(entries) != 1 {
			return fmt.Errorf("%s has %d stanzas: say which one with stanza", i.Repository.Path, len(entries))
		}
		stanza = entries[0].Name()
	}
	directory := filepath.Join(i.Repository.Path, "backup", stanza)
	sections, err := readInfo(filepath.Join(directory, "backup.info"))
	if err != nil {
		return err
	}
	histories := make(map[int]pgBackRestDB)
	for id, value := range sections["db:history"] {
		var db pgBackRestDB
		number, err := strconv.Atoi(id)
		if err := errors.Join(err, json.Unmarshal([]byte(value), &db)); err != nil {
			return fmt.Errorf("backup.info: section db:history: %w", err)
		}
		histories[number] = db
	}
	for label, value := range sections["backup:current"] {
		var raw pgBackRestBackup
		if err := json.Unmarshal([]byte(value), &raw); err != nil {
			return fmt.Errorf("backup.info: backup %s: %w", label, err)
		}
		b := raw.backup(label, histories[raw.DB])
		for _, needed := range append([]string{label}, raw.Reference...) {
			if _, err := os.Stat(filepath.Join(directory, needed, "backup.manifest")); err != nil {
				b.problemf(cmp.Or(map[bool]ProblemKind{true: ProblemMissing}[needed == label], ProblemChain), "needs the directory %s, whose backup.manifest is missing", needed)
			}
		}
		i.Backups = append(i.Backups, b)
	}
	i.lookForUnfinished(directory)
	// Only the archive of the newest database counts: an upgrade begins a new one.
	newest := 0
	for id := range histories {
		newest = max(newest, id)
	}
	db := histories[newest]
	archive := filepath.Join(i.Repository.Path, "archive", stanza, db.Version+"-"+strconv.Itoa(newest))
	i.Archive, err = ReadArchive(ctx, archive)
	if errors.Is(err, fs.ErrNotExist) {
		i.Archive, err = &Archive{Path: archive, SegmentSize: defaultSegmentSize}, nil
	}
	return err
}

// lookForUnfinished reports directories of backups that were interrupted.
func (i *Inventory) lookForUnfinished(directory string) {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return
	}
	for _, entry := range entries {
		known := slices.ContainsFunc(i.Backups, func(b Backup) bool { return b.Label == entry.Name() })
		if !entry.IsDir() || known || entry.Name() == "backup.history" || len(entry.Name()) < len("20060102-150405F") {
			continue
		}
		b := Backup{Label: entry.Name(), Kind: KindFull, Started: modified(filepath.Join(directory, entry.Name()))}
		if time.Since(b.Started) < time.Hour {
			continue // it may be under way
		}
		b.problemf(ProblemIncomplete, "is not in backup.info: the backup was interrupted")
		i.Backups = append(i.Backups, b)
	}
}

func (raw pgBackRestBackup) backup(label string, db pgBackRestDB) Backup {
	b := Backup{
		Label: label, Kind: KindFull, Started: time.Unix(raw.Start, 0), Finished: time.Unix(raw.Stop, 0),
		Size: raw.Size, Stored: raw.RepoSize, Parent: raw.Prior,
	}
	switch raw.Type {
	case "diff":
		b.Kind = KindDifferential
	case "incr":
		b.Kind = KindIncremental
	}
	// A version is "15" from PostgreSQL 10 on.
	b.Major, _ = strconv.Atoi(db.Version)
	b.System, _ = strconv.ParseUint(db.System.String(), 10, 64)
	b.Start, _ = wal.ParsePosition(raw.LSNStart)
	b.End, _ = wal.ParsePosition(raw.LSNStop)
	if len(raw.ArchiveStart) == 24 {
		timeline, _ := strconv.ParseUint(raw.ArchiveStart[:8], 16, 32)
		b.Timeline = uint32(timeline)
	}
	if raw.Error {
		b.problemf(ProblemDamaged, "pgBackRest found invalid pages when it took the backup; pgbackrest info --set=%s names them", label)
	}
	return b
}

// readInfo reads a file of pgBackRest: sections of key=JSON, and a checksum of
// everything else. A damaged file is read from its copy.
func readInfo(path string) (map[string]map[string]string, error) {
	sections, err := readInfoFile(path)
	if err == nil {
		return sections, nil
	}
	sections, copyErr := readInfoFile(path + ".copy")
	if copyErr != nil {
		return nil, err
	}
	return sections, nil
}

func readInfoFile(path string) (map[string]map[string]string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(content, []byte("Salted__")) {
		return nil, fmt.Errorf("%s is encrypted: write the output of `pgbackrest info --output=json` to a file and name it in info_file", path)
	}
	sections := make(map[string]map[string]string)
	sum := sha1.New() //nolint:gosec // see the import
	section, stored, previous := "", "", ""
	scanner := bufio.NewScanner(bytes.NewReader(content))
	scanner.Buffer(nil, 16<<20)
	// The checksum is that of a JSON object of objects of the sections.
	_, _ = sum.Write([]byte("{"))
	for scanner.Scan() {
		line := scanner.Text()
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = line[1 : len(line)-1]
			sections[section] = make(map[string]string)
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || section == "" {
			continue
		}
		if section == "backrest" && key == "backrest-checksum" {
			stored = strings.Trim(value, `"`)
			continue
		}
		sections[section][key] = value
		switch previous {
		case "":
			_, _ = sum.Write([]byte(`"` + section + `":{`))
		case section:
			_, _ = sum.Write([]byte(","))
		default:
			_, _ = sum.Write([]byte(`},"` + section + `":{`))
		}
		previous = section
		_, _ = sum.Write([]byte(`"` + key + `":` + value))
	}
	if previous != "" {
		_, _ = sum.Write([]byte("}"))
	}
	_, _ = sum.Write([]byte("}"))
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != stored {
		return nil, fmt.Errorf("%s: its checksum is %s, but %s is stored in it: it was cut or damaged", path, got, stored)
	}
	return sections, nil
}

// pgBackRestInfo is the output of `pgbackrest info --output=json`.
type pgBackRestInfo struct {
	Name    string `json:"name"`
	Archive []struct {
		Max      string `json:"max"`
		Min      string `json:"min"`
		Database struct {
			ID int `json:"id"`
		} `json:"database"`
	} `json:"archive"`
	Backup []struct {
		Archive struct {
			Start string `json:"start"`
			Stop  string `json:"stop"`
		} `json:"archive"`
		Database struct {
			ID int `json:"id"`
		} `json:"database"`
		Error bool `json:"error"`
		Info  struct {
			Repository struct {
				Delta int64 `json:"delta"`
			} `json:"repository"`
			Size int64 `json:"size"`
		} `json:"info"`
		Label string `json:"label"`
		LSN   struct {
			Start string `json:"start"`
			Stop  string `json:"stop"`
		} `json:"lsn"`
		Prior     string   `json:"prior"`
		Reference []string `json:"reference"`
		Timestamp struct {
			Start int64 `json:"start"`
			Stop  int64 `json:"stop"`
		} `json:"timestamp"`
		Type string `json:"type"`
	} `json:"backup"`
	DB []struct {
		ID      int         `json:"id"`
		System  json.Number `json:"system-id"`
		Version string      `json:"version"`
	} `json:"db"`
	Status struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"status"`
}

func (i *Inventory) readPgBackRestInfo() error {
	content, err := os.ReadFile(i.Repository.InfoFile)
	if err != nil {
		return err
	}
	var infos []pgBackRestInfo
	if err := json.Unmarshal(content, &infos); err != nil {
		return fmt.Errorf("%s: %w (expected the output of pgbackrest info --output=json)", i.Repository.InfoFile, err)
	}
	infos = slices.DeleteFunc(infos, func(info pgBackRestInfo) bool {
		return i.Repository.Stanza != "" && info.Name != i.Repository.Stanza
	})
	if len(infos) != 1 {
		return fmt.Errorf("%s tells of %d stanzas: say which one with stanza", i.Repository.InfoFile, len(infos))
	}
	info := infos[0]
	for _, raw := range info.Backup {
		db := pgBackRestDB{}
		for _, candidate := range info.DB {
			if candidate.ID == raw.Database.ID {
				db = pgBackRestDB{System: candidate.System, Version: candidate.Version}
			}
		}
		i.Backups = append(i.Backups, pgBackRestBackup{
			ArchiveStart: raw.Archive.Start, ArchiveStop: raw.Archive.Stop, Error: raw.Error, RepoSize: raw.Info.Repository.Delta,
			Size: raw.Info.Size, LSNStart: raw.LSN.Start, LSNStop: raw.LSN.Stop, Prior: raw.Prior,
			Start: raw.Timestamp.Start, Stop: raw.Timestamp.Stop, Type: raw.Type,
		}.backup(raw.Label, db))
	}
	if info.Status.Code != 0 {
		i.Problems = append(i.Problems, Problem{Kind: ProblemFailed, Object: info.Name, Message: "pgBackRest says: " + info.Status.Message})
	}
	return nil
}
