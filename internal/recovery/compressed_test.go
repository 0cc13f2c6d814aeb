package recovery_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/recovery"
)

// TestOpenSegment reads what the real compressors wrote, and no damaged file as if it
// were whole.
func TestOpenSegment(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var content bytes.Buffer
	for content.Len() < 6<<20 { // more than one block of each kind, alike and not
		word := make([]byte, random.IntN(40))
		for i := range word {
			word[i] = byte(random.IntN(256))
		}
		content.WriteString(strings.Repeat(string(word), 1+random.IntN(20)))
	}
	directory := t.TempDir()
	plain := filepath.Join(directory, "plain")
	if err := os.WriteFile(plain, content.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for n, command := range []string{"gzip", "bzip2", "zstd", "zstd --no-check -9", "lz4", "lz4 -BD -B4", "lz4 -9 -BX -BI", "lz4 --no-frame-crc --content-size", "lz4 -B5 -BD --no-frame-crc"} {
		words := strings.Fields(command)
		program := pgtest.Tool(t, words[0])
		for _, input := range [][]byte{content.Bytes(), content.Bytes()[:200<<10], content.Bytes()[:3], nil} {
			cmd := exec.Command(program, append(words[1:], "-c")...)
			cmd.Stdin = bytes.NewReader(input)
			packed, err := cmd.Output()
			if err != nil {
				t.Fatal(command, err)
			}
			path := filepath.Join(directory, "packed."+map[string]string{"gzip": "gz", "bzip2": "bz2", "zstd": "zst", "lz4": "lz4"}[words[0]])
			if got, err := unpacked(t, path, packed); err != nil || !bytes.Equal(got, input) {
				t.Errorf("%s: %d bytes of %d, %v", command, len(got), len(input), err)
			}
			if len(input) != 200<<10 {
				continue
			}
			// Two beside each other, one that was cut, and one that was changed.
			if got, err := unpacked(t, path, append(bytes.Clone(packed), packed...)); err != nil || len(got) != 2*len(input) {
				t.Errorf("%s, twice: %d bytes, %v", command, len(got), err)
			}
			for cut := range 20 {
				if got, err := unpacked(t, path, packed[:len(packed)-1-cut*(len(packed)-20)/20]); err == nil {
					t.Errorf("%s, cut: %d bytes and no error", command, len(got))
				}
			}
			if n >= 7 || n == 3 {
				continue // without a checksum
			}
			for range 20 {
				changed := bytes.Clone(packed)
				changed[20+random.IntN(len(changed)-20)] ^= 1 << random.IntN(8)
				if got, err := unpacked(t, path, changed); err == nil && !bytes.Equal(got, input) {
					t.Errorf("%s, changed: %d bytes and no error", command, len(got))
				}
			}
		}
	}
}

func unpacked(t *testing.T, path string, packed []byte) ([]byte, error) {
	t.Helper()
	if err := os.WriteFile(path, packed, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := recovery.OpenSegment(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}
