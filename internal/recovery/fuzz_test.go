package recovery

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"path/filepath"
	"testing"
)

// FuzzManifest holds that no manifest makes its reader fail, and that none leads out
// of the data directory. Its own checksum, which would stop nearly everything that a
// fuzzer tries, is put right.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{ "PostgreSQL-Backup-Manifest-Version": 1,
"Files": [
{ "Path": "backup_label", "Size": 225, "Last-Modified": "2026-01-01 00:00:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "01020304" },
{ "Encoded-Path": "62617365", "Size": 1, "Last-Modified": "2026-01-01 00:00:00 GMT" }],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }],`))
	f.Fuzz(func(t *testing.T, lines []byte) {
		_, _ = ParseManifest(lines)
		content := append(bytes.Clone(lines), '\n')
		content = fmt.Appendf(content, "\"Manifest-Checksum\": \"%x\"}\n", sha256.Sum256(content))
		manifest, err := ParseManifest(content)
		if err != nil {
			return
		}
		_ = manifest.Bytes()
		for _, file := range manifest.Files {
			if !filepath.IsLocal(file.Path) {
				t.Errorf("%q is not below the data directory", file.Path)
			}
		}
	})
}

// FuzzDump holds that no bytes make the reader of dumps fail.
func FuzzDump(f *testing.F) {
	f.Add([]byte("PGDMP\x01\x0e\x00\x04\x08\x01\x01\x00\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, content []byte) {
		r := &dumpReader{r: bufio.NewReader(bytes.NewReader(content))}
		r.readTOC(r.readHeader())
		r.skipChunks()
	})
}

// FuzzLZ4 holds that no bytes make the reader of LZ4 fail.
func FuzzLZ4(f *testing.F) {
	f.Add([]byte("\x04\x22\x4d\x18\x60\x40\x82\x05\x00\x00\x80hello\x00\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, content []byte) {
		_, _ = io.Copy(io.Discard, io.LimitReader(newLZ4Reader(bytes.NewReader(content)), 16<<20))
	})
}
