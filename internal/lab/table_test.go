package lab_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// row is a line of the table of coverage.
type row struct {
	area, kind string
	checks     map[string]bool
	// found and tried count damages by version and by program.
	found, tried map[string]int
}

func (r *row) count(column, result string) {
	r.tried[column]++
	if result == "found" {
		r.found[column]++
	}
}

// cell is what was found of what was tried.
func (r *row) cell(column string) string {
	switch tried, found := r.tried[column], r.found[column]; tried {
	case 0:
		return ""
	case found:
		return "all"
	default:
		return fmt.Sprintf("%d of %d", found, tried)
	}
}

var (
	numbersIn = regexp.MustCompile(`0x[0-9a-f]+|\d+`)
	placeIn   = regexp.MustCompile(`^[^:]*?, ([^:]*: )?`)
)

// TestTable writes docs/checks/coverage.md from the outcomes of campaigns, which
// PGTEST_LAB_TABLE names.
func TestTable(t *testing.T) {
	source := os.Getenv("PGTEST_LAB_TABLE")
	if source == "" {
		t.Skip("set PGTEST_LAB_TABLE to the file that PGTEST_LAB_OUT wrote")
	}
	file, err := os.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rows := make(map[string]*row)
	total := &row{found: make(map[string]int), tried: make(map[string]int)}
	columns := make(map[string]bool)
	lines := bufio.NewScanner(file)
	for lines.Buffer(nil, 1<<26); lines.Scan(); {
		var o outcome
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			t.Fatal(err)
		}
		if o.Area == "stray" || o.Result == "not damaged" || o.Result == "silent" {
			continue
		}
		name := numbersIn.ReplaceAllString(placeIn.ReplaceAllString(o.Name, ""), "N")
		key := o.Area + "|" + name
		r := rows[key]
		if r == nil {
			r = &row{area: o.Area, kind: name, checks: make(map[string]bool), found: make(map[string]int), tried: make(map[string]int)}
			rows[key] = r
		}
		version := fmt.Sprint(o.Version)
		columns[version] = true
		for _, one := range []*row{r, total} {
			one.count(version, o.Result)
			for peer, result := range o.Peers {
				one.count(peer, result)
				one.count("beside "+peer, o.Result)
			}
		}
		for _, c := range o.Checks {
			r.checks[c] = true
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("../../docs/checks/coverage.md", []byte(table(rows, slices.Sorted(maps.Keys(columns)), total)), 0o600); err != nil {
		t.Fatal(err)
	}
}

const tableHead = `# What is found of what can be damaged

Written by the lab (` + "`internal/lab`" + `) from damage to real files of real servers: each kind at several places, with data checksums on and
off, and the checksums of damaged pages made valid again. This is a sample, one of ten to twenty of all that the lab knows
(` + "`PGTEST_LAB=full` tries all of them, which takes hours; see `internal/lab/doc.go`" + `). A number tells how many of the damaged objects a finding named, of those that
were tried. What is not found is either harmless (bits that nothing reads, states that a healthy server leaves too) or has left no trace
that anything could be compared with; for that there are ` + "[sealed](sealed.md) and [rows](rows.md)" + `.

`

func table(rows map[string]*row, versions []string, total *row) string {
	var b strings.Builder
	b.WriteString(tableHead)
	for _, peer := range []string{"pg_amcheck", "pg_checksums"} {
		if n := total.tried[peer]; n > 0 {
			fmt.Fprintf(&b, "Of the same %d damages, %s finds %d (%d %%) and this program %d (%d %%).\n", n, peer,
				total.found[peer], 100*total.found[peer]/n, total.found["beside "+peer], 100*total.found["beside "+peer]/n)
		}
	}
	list := slices.SortedFunc(maps.Values(rows), func(a, b *row) int { return cmp.Or(cmp.Compare(a.area, b.area), cmp.Compare(a.kind, b.kind)) })
	area := ""
	for _, r := range list {
		if r.area != area {
			area = r.area
			fmt.Fprintf(&b, "\n## %s\n\n| damage | found by | %s |\n| --- | --- |%s\n", strings.ToUpper(area[:1])+area[1:], strings.Join(versions, " | "), strings.Repeat(" ---: |", len(versions)))
		}
		fmt.Fprintf(&b, "| %s | %s |", strings.ReplaceAll(r.kind, "|", "\\|"), strings.Join(slices.Sorted(maps.Keys(r.checks)), ", "))
		for _, version := range versions {
			fmt.Fprintf(&b, " %s |", r.cell(version))
		}
		b.WriteByte('\n')
	}
	return b.String()
}
