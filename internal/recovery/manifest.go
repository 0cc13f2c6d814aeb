package recovery

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"pg_integrity_exporter/internal/wal"
)

// ManifestName is the file in a base backup that lists the others.
const ManifestName = "backup_manifest"

// Manifest is a backup_manifest (PostgreSQL 13 and newer).
type Manifest struct {
	// Version is the version of the format: 1, or 2 from PostgreSQL 17.
	Version int
	// System is the system identifier of the cluster; 0 before PostgreSQL 17.
	System uint64
	// Files are the files of the backup.
	Files []ManifestFile
	// Ranges is the WAL that is needed to make the backup consistent.
	Ranges []ManifestRange
}

// ManifestFile is one file of a backup.
type ManifestFile struct {
	// Path is the file below the data directory, with slashes.
	Path string
	// Size is its size in bytes.
	Size int64
	// Modified is its modification time.
	Modified time.Time
	// Algorithm is NONE (or empty), CRC32C, or SHA224 to SHA512.
	Algorithm string
	// Checksum is the checksum of its contents.
	Checksum []byte
}

// ManifestRange is a range of WAL on one timeline.
type ManifestRange struct {
	Timeline   uint32
	Start, End wal.Position
}

// manifestDocument is the manifest as JSON has it. Paths that are not UTF-8 are
// in hexadecimal.
type manifestDocument struct {
	Version int         `json:"PostgreSQL-Backup-Manifest-Version"`
	System  json.Number `json:"System-Identifier"`
	Files   []struct {
		Path         string `json:"Path"`
		EncodedPath  string `json:"Encoded-Path"`
		Size         int64  `json:"Size"`
		LastModified string `json:"Last-Modified"`
		Algorithm    string `json:"Checksum-Algorithm"`
		Checksum     string `json:"Checksum"`
	} `json:"Files"`
	Ranges []struct {
		Timeline uint32 `json:"Timeline"`
		Start    string `json:"Start-LSN"`
		End      string `json:"End-LSN"`
	} `json:"WAL-Ranges"`
	Checksum string `json:"Manifest-Checksum"`
}

// maxManifest bounds the memory that a manifest may take: one line is about
// 200 bytes, so this is some millions of files.
const maxManifest = 1 << 30

// ReadManifest reads a manifest and verifies its own checksum. A manifest that
// cannot be trusted is an error.
func ReadManifest(path string) (*Manifest, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // it was only read
	content, err := io.ReadAll(io.LimitReader(bufio.NewReader(file), maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(content) > maxManifest {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxManifest)
	}
	manifest, err := ParseManifest(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return manifest, nil
}

// ParseManifest reads the text of a manifest and verifies its own checksum.
func ParseManifest(content []byte) (*Manifest, error) {
	var document manifestDocument
	if err := json.Unmarshal(content, &document); err != nil {
		return nil, fmt.Errorf("the manifest is no valid JSON, so it was cut or damaged: %w", err)
	}
	if document.Version != 1 && document.Version != 2 {
		return nil, fmt.Errorf("the manifest has version %d, known are 1 and 2", document.Version)
	}
	if err := checkManifestChecksum(content, document.Checksum); err != nil {
		return nil, err
	}
	manifest := &Manifest{Version: document.Version, Files: make([]ManifestFile, 0, len(document.Files))}
	if document.System != "" {
		if _, err := fmt.Sscan(document.System.String(), &manifest.System); err != nil {
			return nil, fmt.Errorf("the manifest has the system identifier %q", document.System)
		}
	}
	seen := make(map[string]bool, len(document.Files))
	for _, f := range document.Files {
		file := ManifestFile{Path: f.Path, Size: f.Size, Algorithm: f.Algorithm}
		if f.EncodedPath != "" {
			path, err := hex.DecodeString(f.EncodedPath)
			if err != nil {
				return nil, fmt.Errorf("the manifest has the encoded path %q", f.EncodedPath)
			}
			file.Path = string(path)
		}
		if !localPath(file.Path) {
			return nil, fmt.Errorf("the manifest names %q, which is not below the data directory", file.Path)
		}
		if seen[file.Path] {
			return nil, fmt.Errorf("the manifest names %q twice", file.Path)
		}
		seen[file.Path] = true
		if modified, err := time.Parse("2006-01-02 15:04:05 MST", f.LastModified); err == nil {
			file.Modified = modified
		}
		var err error
		if file.Checksum, err = hex.DecodeString(f.Checksum); err != nil {
			return nil, fmt.Errorf("the manifest has the checksum %q for %q", f.Checksum, file.Path)
		}
		manifest.Files = append(manifest.Files, file)
	}
	for _, r := range document.Ranges {
		start, startErr := wal.ParsePosition(r.Start)
		end, endErr := wal.ParsePosition(r.End)
		if err := errors.Join(startErr, endErr); err != nil {
			return nil, fmt.Errorf("the manifest's WAL range: %w", err)
		}
		manifest.Ranges = append(manifest.Ranges, ManifestRange{Timeline: r.Timeline, Start: start, End: end})
	}
	return manifest, nil
}

// checkManifestChecksum compares the checksum in the last line with the SHA-256
// of all lines before it.
func checkManifestChecksum(content []byte, want string) error {
	if want == "" {
		return errors.New("the manifest has no checksum at its end, so it was cut")
	}
	end := bytes.LastIndexByte(bytes.TrimRight(content, "\n"), '\n') + 1
	sum := sha256.Sum256(content[:end])
	if hex.EncodeToString(sum[:]) != want {
		return errors.New("the manifest's own checksum does not match: it was damaged or edited")
	}
	return nil
}

// Bytes is the size of all files together.
func (m *Manifest) Bytes() int64 {
	var bytes int64
	for _, f := range m.Files {
		bytes += f.Size
	}
	return bytes
}
