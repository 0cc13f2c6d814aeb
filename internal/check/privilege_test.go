package check_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

var update = flag.Bool("update", false, "write docs/checks/README.md anew")

const privilegeHead = `# The checks, and what they do with which rights

Written by a test (` + "`go test ./internal/check -run TestPrivilegeTable -update`" + `) from the code and from runs of every check on real servers, 14 to 18, as
roles with more and more rights; the exporter is on the server's machine and may read the data directory. *All*: everything was looked at.
*Part*: what the role may not read was left out, and the result says what is missing, with the GRANT that gives it. *No*: nothing was looked at, and the
result says why. On 13 [heap](heap.md) needs SELECT on every table.

Nothing is said of checks that need settings or an earlier run. Elsewhere than on the server's machine page, checksum, files and a part of cluster need ` + "`pgintegrity.files=on`" + `.

| check | what it needs | its locks | nothing | pg_monitor | grants.sql | and pgintegrity.data=on | superuser |
| --- | --- | --- | --- | --- | --- | --- | --- |
`

// TestPrivilegeTable runs every check with more and more rights, and holds what
// docs/checks/README.md says of each against what came out.
func TestPrivilegeTable(t *testing.T) {
	t.Parallel()
	const page = "../../docs/checks/README.md"
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		if major < 14 {
			t.Skip("heap needs SELECT on 13")
		}
		server := start(t, pgtest.Version(major), pgtest.Checksums())
		server.MustExec(t, "erp", "CREATE ROLE nobody LOGIN; CREATE ROLE monitor LOGIN; CREATE ROLE granted LOGIN; CREATE ROLE reader LOGIN; GRANT pg_monitor TO monitor")
		cells := make(map[string][]string)
		for _, level := range []struct {
			role string
			give func() error
		}{
			{"nobody", nil},
			{"monitor", nil},
			{"granted", func() error { return server.GrantChecks(t.Context(), "erp", "granted") }},
			{"reader", func() error { return server.GrantData(t.Context(), "erp", "reader") }},
			{"postgres", nil},
		} {
			if level.give != nil {
				if err := level.give(); err != nil {
					t.Fatal(err)
				}
			}
			document := sweepAs(t, server, level.role, check.Options{Checks: check.All()})
			for _, c := range check.All() {
				cells[c.Name] = append(cells[c.Name], extent(document, c.Name))
			}
		}
		var b strings.Builder
		b.WriteString(privilegeHead)
		for _, c := range check.All() {
			fmt.Fprintf(&b, "| [%s](%s.md) | %s | %s | %s |\n", c.Name, c.Name, c.Needs, c.Locks, strings.Join(cells[c.Name], " | "))
		}
		if *update {
			if err := os.WriteFile(page, []byte(b.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
		written, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if string(written) != b.String() {
			t.Errorf("%s says otherwise:\n%s", page, b.String())
		}
	})
}

// extent says how much a check looked at.
func extent(document check.Document, name string) string {
	for _, c := range document.Checks {
		switch {
		case c.Check != name:
		case c.Outcome == check.OutcomeOK || c.Outcome == check.OutcomeFindings:
			return "all"
		case c.Objects > 0:
			return "part"
		default:
			return "no"
		}
	}
	return ""
}
