package check_test

import (
	"strings"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// TestBtreeBehindLock looks deeply at an index while a transaction that writes its
// table is open: the levels cannot be compared, which is told, and the rest is
// looked at all the same.
func TestBtreeBehindLock(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := start(t, pgtest.Version(major))
		server.MustExec(t, "erp", "CREATE EXTENSION IF NOT EXISTS amcheck; CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 5000); CREATE INDEX t_id ON t (id); CREATE INDEX t_sum ON t ((id + 1))")
		index := server.MustRelation(t, "erp", "t_id")
		server.WhileDown(t, func() error {
			return index.EditValid(2, func(p []byte) { item(p, 20)[8] ^= 0x40 })
		})
		defer server.Hold(t, "erp", "INSERT INTO t VALUES (0)")()
		document := sweep(t, server, check.Options{Checks: named(t, "btree"), Relations: []check.RelationName{{Schema: "public", Name: "t"}}, Deep: true})
		if len(document.Findings) != 1 || document.Findings[0].Relation != "t_id" {
			t.Errorf("findings %+v", document.Findings)
		}
		if c := document.Checks[0]; !strings.Contains(c.Reason, "public.t_sum: somebody holds a lock") {
			t.Errorf("reason %q", c.Reason)
		}
	})
}
