package pglog

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/pgtest"
)

// unspecific are the texts with XX001 and XX002 of which it was looked into that no
// kind of their own is needed: they count as data_corrupted and index_corrupted.
var unspecific = []string{
	`could not open critical system index %u`,
	`could not parse XML declaration in stored value`,
	`calculated CRC checksum does not match value stored in file "%s"`,
	`checksum mismatch for snapbuild state file "%s": is %u, should be %u`,
	`could not read file "%s": read %d of %zu`,
	`could not read from WAL segment %s, LSN %X/%X, offset %u: read %d of %zu`,
	`could not read from WAL segment %s, offset %d: read %d of %d`,
	`could not read from log segment %s, offset %d: read %d of %d`,
	`could not read from log segment %s, offset %u: read %d of %zu`,
	`heap tid from index tuple (%u,%u) points past end of heap page line pointer array at offset %u of block %u in index "%s"`,
	`heap tid from index tuple (%u,%u) points to heap-only tuple at offset %u of block %u in index "%s"`,
	`heap tid from index tuple (%u,%u) points to unused heap page item at offset %u of block %u in index "%s"`,
	`incorrect alignment of CRC offset for file "%s"`,
	`incorrect size of file "%s": %lld byte`,
	`incorrect size of file "%s": %zu byte`,
	`index "%s" contains a half-dead internal page`,
	`index "%s" contains corrupted page at block %u`,
	`index "%s" contains unexpected zero page at block %u`,
	`index "%s" has wrong hash version`,
	`invalid magic number stored in file "%s"`,
	`invalid size stored in file "%s"`,
	`pg_largeobject entry for OID %u, page %d has invalid data field size %d`,
	`replication slot checkpoint has wrong checksum %u, expected %u`,
	`replication slot file "%s" has corrupted length %u`,
	`replication slot file "%s" has unsupported version %u`,
	`replication slot file "%s" has wrong magic number: %u instead of %u`,
	`snapbuild state file "%s" has unsupported version: %u instead of %u`,
	`snapbuild state file "%s" has wrong magic number: %u instead of %u`,
	`space reserved for WAL record does not match what was written`,
	`table tid from new index tuple (%u,%u) cannot find insert offset between offsets %u and %u of block %u in index "%s"`,
	`table tid from new index tuple (%u,%u) overlaps with invalid duplicate tuple at offset %u of block %u in index "%s"`,
	`unexpected directory entry "%s" found in %s`,
	`version mismatch in index "%s": file version %d, current version %d, minimal supported version %d`,
	// A warning, and no damage.
	`cannot reindex invalid index "%s.%s" concurrently, skipping`,
}

// TestProgramsDamage finds every text that the programs of all versions log with
// XX001 or XX002, in their machine code, and holds that the table has it, or that
// somebody has looked at it.
func TestProgramsDamage(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Versions() {
		install, err := pgtest.Find(major)
		if err != nil {
			t.Skip(err)
		}
		for sqlstate, code := range map[string]uint32{"XX001": 0x01000A28, "XX002": 0x02000A28} {
			texts := textsWith(t, filepath.Join(install.BinDir, "postgres"), code)
			if len(texts) < 15 {
				t.Errorf("%d: only %d texts with %s found", major, len(texts), sqlstate)
			}
			for _, text := range texts {
				sample := regexp.MustCompile(`%[-0-9.]*(?:ll|l|z)?[a-zA-Z]`).ReplaceAllString(text, "7")
				known := slices.ContainsFunc(matchers, func(m matcher) bool {
					return m.start().MatchString(sample) && (sqlstate == "XX002" || strings.Contains(m.states, sqlstate))
				})
				if !known && !slices.Contains(unspecific, text) {
					t.Errorf("%d: %s %q is not known", major, sqlstate, text)
				}
			}
		}
	}
}

// textsWith finds the strings that a program for amd64 loads next behind an error
// code: errcode(code), errmsg("text").
func textsWith(t *testing.T, path string, code uint32) (texts []string) {
	t.Helper()
	program, err := elf.Open(path)
	if err != nil || program.Machine != elf.EM_X86_64 {
		t.Skip("no program for Linux on amd64")
	}
	defer program.Close()
	var constants []*elf.Section
	for _, s := range program.Sections {
		if s.Type == elf.SHT_PROGBITS && s.Flags&elf.SHF_ALLOC != 0 && s.Flags&elf.SHF_EXECINSTR == 0 {
			constants = append(constants, s)
		}
	}
	at := func(address uint64) string {
		for _, s := range constants {
			if address < s.Addr || address >= s.Addr+s.Size {
				continue
			}
			text := make([]byte, 300)
			n, _ := s.ReadAt(text, int64(address-s.Addr)) // less at the end
			text, _, _ = bytes.Cut(text[:n], []byte{0})
			return string(text)
		}
		return ""
	}
	constant := append([]byte{0xbf}, binary.LittleEndian.AppendUint32(nil, code)...) // mov edi, code
	load := []byte{0x48, 0x8d, 0x3d}                                                 // lea rdi, [rip+offset]
	const near = 120
	for _, s := range program.Sections {
		if s.Flags&elf.SHF_EXECINSTR == 0 || s.Type != elf.SHT_PROGBITS {
			continue
		}
		machine, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		for from := 0; ; {
			i := bytes.Index(machine[from:], constant)
			if i < 0 {
				break
			}
			from += i + len(constant)
			j := bytes.Index(machine[from:min(from+near, len(machine))], load)
			if j < 0 || from+j+7 > len(machine) {
				continue
			}
			end := from + j + 7
			offset := int32(binary.LittleEndian.Uint32(machine[end-4:]))
			text := at(s.Addr + uint64(end) + uint64(int64(offset)))
			if len(text) > 15 && bytes.Contains([]byte(text), []byte{' '}) && !slices.Contains(texts, text) {
				texts = append(texts, text)
			}
		}
	}
	return texts
}
