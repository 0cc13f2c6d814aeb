package page_test

import (
	"os"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// heapsSQL lists the tables that have pages, with those of the catalogues and for long values.
const heapsSQL = "SELECT string_agg(oid::regclass::text, ' ' ORDER BY oid) FROM pg_class WHERE relkind IN ('r', 't', 'm') AND pg_relation_size(oid) > 0"

// TestDigest compares the pages of a server that is used in all ways that leave traces
// in tables with those of its standby: with the same LSN they have the same digest,
// although their bytes differ. A byte of a row that is changed changes it.
func TestDigest(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, pgtest.Version(major))
		standby := server.Standby(t)
		for _, sql := range []string{
			"CREATE TABLE t (id int PRIMARY KEY, v text, long text); ALTER TABLE t ALTER long SET STORAGE EXTERNAL; CREATE TABLE u (LIKE t) WITH (fillfactor = 50)",
			"INSERT INTO t SELECT g, md5(g::text), CASE WHEN g % 100 = 0 THEN repeat(md5(g::text), 200) END FROM generate_series(1, 5000) g; INSERT INTO u SELECT * FROM t",
			"SELECT count(v) FROM t; UPDATE u SET v = 'x' WHERE id % 10 = 0; DELETE FROM t WHERE id % 7 = 0; SELECT count(v) FROM u",
			"BEGIN; SELECT FROM t WHERE id % 5 = 0 FOR UPDATE; SAVEPOINT a; SELECT FROM t WHERE id % 15 = 0 FOR KEY SHARE; UPDATE t SET v = 'y' WHERE id % 11 = 0; ROLLBACK TO a; UPDATE t SET v = 'z' WHERE id % 13 = 0; COMMIT",
			"BEGIN; INSERT INTO t SELECT g, 'aborted' FROM generate_series(10000, 11000) g; UPDATE u SET id = -id WHERE id % 9 = 0; ROLLBACK; SELECT count(*) FROM t",
			"INSERT INTO t SELECT g, 'upserted' FROM generate_series(1, 6000) g ON CONFLICT (id) DO UPDATE SET v = 'conflict' WHERE t.id % 20 = 0",
			"VACUUM u", "VACUUM FREEZE t", "UPDATE t SET v = 'again' WHERE id % 50 = 0; SELECT count(v) FROM t; SELECT count(v) FROM u; ANALYZE",
		} {
			server.MustExec(t, "postgres", sql)
		}
		release := server.Hold(t, "postgres", "SELECT FROM u WHERE id % 6 = 0 FOR SHARE")
		server.MustExec(t, "postgres", "SELECT FROM u WHERE id % 3 = 0 FOR SHARE")
		release()
		if err := standby.AwaitReplay(t.Context(), server); err != nil {
			t.Fatal(err)
		}
		server.MustExec(t, "postgres", "CHECKPOINT; SELECT pg_switch_wal()")
		if err := standby.AwaitReplay(t.Context(), server); err != nil {
			t.Fatal(err)
		}
		standby.MustExec(t, "postgres", "CHECKPOINT")
		var names string
		if err := server.Query(t.Context(), "postgres", heapsSQL, &names); err != nil {
			t.Fatal(err)
		}
		same, different := 0, 0
		for name := range strings.FieldsSeq(names) {
			ours, theirs := pages(t, server, name), pages(t, standby, name)
			for block := range min(len(ours), len(theirs)) / page.Size {
				a, b := ours[block*page.Size:][:page.Size], theirs[block*page.Size:][:page.Size]
				if h := page.DecodeHeader(a); h.Upper == 0 || h.LSN == 0 || h.LSN != page.DecodeHeader(b).LSN {
					continue
				}
				same++
				if string(a) != string(b) {
					different++
				}
				digest := digestOf(a)
				if digest != digestOf(b) {
					t.Errorf("%s block %d: another digest on the standby", name, block)
				}
				for _, item := range pgtest.Items(a) {
					if item.Flags == 1 && item.Length > 24 {
						a[item.Offset+item.Length-1] ^= 1
						if digestOf(a) == digest {
							t.Errorf("%s block %d: a changed byte of a row does not change the digest", name, block)
						}
						a[item.Offset+item.Length-1] ^= 1
					}
				}
			}
		}
		t.Logf("%d pages with the same LSN, %d of them with other bytes", same, different)
		if same < 300 || different < 50 {
			t.Errorf("only %d pages with the same LSN, %d of them with other bytes", same, different)
		}
	})
}

func digestOf(p []byte) uint32 { return page.Digest(p, new([page.Size]byte)) }

// pages is the first file of a relation.
func pages(t *testing.T, server *pgtest.Server, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(server.MustRelation(t, "postgres", name).Path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
