package page_test

import (
	"os"
	"testing"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// TestChecksumOfRealPages compares with what every version itself has written.
func TestChecksumOfRealPages(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major), pgtest.Checksums())
		server.MustExec(t, "postgres", "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i; CREATE INDEX ON t (i)")
		for _, name := range []string{"t", "t_i_idx", "pg_proc"} {
			relation := server.MustRelation(t, "postgres", name)
			content, err := os.ReadFile(relation.Path)
			if err != nil {
				t.Fatal(err)
			}
			if len(content) < 2*page.Size {
				t.Fatalf("%s has only %d bytes", name, len(content))
			}
			for block := range len(content) / page.Size {
				p := content[block*page.Size : (block+1)*page.Size]
				header := page.DecodeHeader(p)
				if header.Upper == 0 {
					continue // new page
				}
				if header.PageSize != page.Size || header.LayoutVersion != 4 || header.LSN == 0 {
					t.Errorf("%s block %d: header %+v", name, block, header)
				}
				if sum := page.Checksum(p, uint32(block)); sum != header.Checksum {
					t.Errorf("%s block %d: checksum %04x, the server wrote %04x", name, block, sum, header.Checksum)
				}
				p[4000]++
				if page.Checksum(p, uint32(block)) == header.Checksum {
					t.Errorf("%s block %d: a changed byte does not change the checksum", name, block)
				}
			}
		}
	})
}
