package drill_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/recovery"
)

// TestDamagedCatalogues drills backups whose system catalogues are damaged, and
// then without the manifest, which does not tell either when the cluster was
// damaged before: sessions that cannot be opened, or whose server process goes
// round for ever, keep no drill from ending, from saying what is damaged, and from
// removing everything.
func TestDamagedCatalogues(t *testing.T) {
	t.Parallel()
	long(t)
	flip := func(content []byte) []byte { content[5000] ^= 0xff; return content }
	garbage := func(content []byte) []byte {
		for i := range content {
			content[i] = byte(i * 7)
		}
		return content
	}
	cut := func(content []byte) []byte { return content[:0] }
	// Whoever comes to a leaf that does not say that it is one goes round for ever.
	loop := func(content []byte) []byte {
		for at := page.Size; at < len(content); at += page.Size {
			p := content[at : at+page.Size]
			clear(p[page.Size-4 : page.Size-2])
			page.SetChecksum(p, page.Checksum(p, uint32(at/page.Size)))
		}
		return content
	}
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		b := newBank(t, major)
		for n, c := range []struct {
			database, name string
			edit           func(content []byte) []byte
		}{
			{"template1", "pg_proc", flip},
			{"postgres", "pg_authid", flip},
			{"postgres", "pg_proc_oid_index", loop},
			{"postgres", "pg_proc", flip},
			{"template1", "pg_class", garbage},
			{"postgres", "pg_database_datname_index", garbage},
			{"postgres", "pg_attribute", garbage},
			{"template1", "pg_class_relname_nsp_index", loop},
			{"postgres", "pg_authid_rolname_index", cut},
			{"postgres", "pg_class_relname_nsp_index", loop},
			{"postgres", "pg_index", garbage},
			{"postgres", "pg_database", garbage},
		} {
			if n > 2 && !pgtest.Turn(n, major) {
				continue
			}
			file := strings.TrimPrefix(b.server.MustRelation(t, c.database, "pg_catalog."+c.name).Path, b.server.DataDirectory+"/")
			options := b.options(t)
			options.Timeout = 5 * time.Minute
			undo := change(t, filepath.Join(b.backup, file), c.edit)
			name := c.database + " " + c.name
			failed(t, name, options, file)
			undoManifest := change(t, filepath.Join(b.backup, recovery.ManifestName), gone)
			report := failed(t, name+" without a manifest", options, "")
			if text := dump(report); strings.Contains(report.Reason, "took longer") || !strings.Contains(text, file) && !strings.Contains(text, c.name) {
				t.Errorf("%s without a manifest: %s", name, text)
			}
			undoManifest()
			undo()
		}
	})
}
