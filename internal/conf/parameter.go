package conf

import (
	_ "embed"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// parametersTSV lists the parameters of every version: name, first and last
// version, type, unit, least and largest value, values of an enumeration. It is
// made from pg_settings of real servers by the test of this package (-update).
//
//go:embed parameters.tsv
var parametersTSV string

// parameter is a parameter in some versions.
type parameter struct {
	first, last int
	kind, unit  string
	min, max    float64
	values      []string
}

var parameters = sync.OnceValue(func() map[string][]parameter {
	all := make(map[string][]parameter)
	for line := range strings.SplitSeq(strings.TrimSuffix(parametersTSV, "\n"), "\n") {
		f := strings.Split(line, "\t")
		p := parameter{kind: f[3], unit: f[4]}
		// The test reads every line.
		p.first, _ = strconv.Atoi(f[1])
		p.last, _ = strconv.Atoi(f[2])
		p.min, _ = strconv.ParseFloat(f[5], 64)
		p.max, _ = strconv.ParseFloat(f[6], 64)
		if f[7] != "" {
			p.values = strings.Split(f[7], ",")
		}
		all[f[0]] = append(all[f[0]], p)
	}
	return all
})

// renamed are old names that the server still takes for a newer one.
var renamed = map[string]struct {
	name  string
	since int
}{
	"sort_mem":            {"work_mem", 0},
	"vacuum_mem":          {"maintenance_work_mem", 0},
	"force_parallel_mode": {"debug_parallel_query", 16},
	"ssl_ecdh_curve":      {"ssl_groups", 18},
}

// ofBuild are parameters that only servers built in a special way have.
var ofBuild = []string{
	"wal_debug", "trace_lock_oidmin", "trace_lock_table", "trace_locks", "trace_userlocks", "trace_lwlocks", "debug_deadlocks",
	"log_btree_build_stats", "trace_syncscan", "optimize_bounded_sort", "recovery_init_sync_method", "bonjour", "bonjour_name",
}

// Canonical is the name that the server knows a parameter by.
func Canonical(name string, major int) string {
	name = strings.ToLower(name)
	if r, old := renamed[name]; old && major >= r.since && find(name, major) == nil {
		return r.name
	}
	return name
}

func find(name string, major int) *parameter {
	for i, p := range parameters()[name] {
		if p.first <= major && major <= p.last {
			return &parameters()[name][i]
		}
	}
	return nil
}

// CheckParameter says what the server of a major version objects to in the
// value of a parameter; "" is nothing that can be told from here. The names and
// values of extensions are theirs.
func CheckParameter(name, value string, major int) string {
	name = Canonical(name, major)
	if strings.Contains(name, ".") {
		return ""
	}
	p := find(name, major)
	switch {
	case p == nil && slices.Contains(ofBuild, name):
		return ""
	case p == nil && len(parameters()[name]) > 0:
		return fmt.Sprintf("PostgreSQL %d has no parameter %s: %s", major, name, lifetime(parameters()[name]))
	case p == nil:
		return fmt.Sprintf("PostgreSQL %d has no parameter %q", major, name)
	}
	switch p.kind {
	case "bool":
		if !isBool(value) {
			return fmt.Sprintf("%s is %q; it must be on or off", name, value)
		}
	case "integer", "real":
		return p.checkNumber(name, value)
	case "enum":
		// What an enumeration holds depends on how the server was built, except for
		// these.
		if len(p.values) > 0 && !slices.ContainsFunc(p.values, func(one string) bool { return strings.EqualFold(one, value) }) && !isBool(value) {
			return fmt.Sprintf("%s is %q; it must be one of %s", name, value, strings.Join(p.values, ", "))
		}
	}
	return ""
}

// lifetime says in which versions a parameter exists.
func lifetime(versions []parameter) string {
	first, last := versions[0].first, versions[len(versions)-1].last
	newest := 0
	for _, all := range parameters() {
		newest = max(newest, all[len(all)-1].last)
	}
	if last == newest {
		return fmt.Sprintf("it came with %d", first)
	}
	return fmt.Sprintf("it went with %d", last+1)
}

// isBool reads a Boolean as parse_bool does.
func isBool(value string) bool {
	value = strings.ToLower(value)
	if value == "0" || value == "1" || value == "on" || value == "of" || value == "off" {
		return true
	}
	for _, whole := range []string{"true", "false", "yes", "no"} {
		if value != "" && strings.HasPrefix(whole, value) {
			return true
		}
	}
	return false
}

// units are how many of the smallest unit each unit is.
var units = map[string]map[string]float64{
	"memory": {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40},
	"time":   {"us": 1, "ms": 1e3, "s": 1e6, "min": 6e7, "h": 36e8, "d": 864e8},
}

// checkNumber reads a number with its unit and compares it with the bounds.
func (p *parameter) checkNumber(name, value string) string {
	digits := strings.TrimSpace(value)
	end := len(digits)
	for end > 0 && (digits[end-1] >= 'a' && digits[end-1] <= 'z' || digits[end-1] >= 'A' && digits[end-1] <= 'Z') && !strings.HasPrefix(strings.ToLower(strings.TrimLeft(digits, "+-")), "0x") {
		end--
	}
	unit := digits[end:]
	number, ok := parseNumber(strings.TrimSpace(digits[:end]))
	if !ok {
		return fmt.Sprintf("%s is %q, which is not a number", name, value)
	}
	if unit != "" {
		factor, problem := p.factor(unit)
		if problem != "" {
			return fmt.Sprintf("%s is %q: %s", name, value, problem)
		}
		number *= factor
	}
	if p.kind == "integer" {
		number = math.RoundToEven(number)
	}
	if number < p.min || number > p.max {
		suffix := ""
		if p.unit != "" {
			suffix = " in units of " + p.unit
		}
		return fmt.Sprintf("%s is %q; it must be between %s and %s%s", name, value, plain(p.min), plain(p.max), suffix)
	}
	return ""
}

func plain(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// factor is how many of the parameter's own unit one of a unit is.
func (p *parameter) factor(unit string) (float64, string) {
	own := strings.TrimLeft(p.unit, "0123456789") // for example 8kB
	for _, family := range units {
		base, ours := family[own]
		if !ours {
			continue
		}
		if times, err := strconv.ParseFloat(strings.TrimSuffix(p.unit, own), 64); err == nil {
			base *= times
		}
		factor, known := family[unit]
		if !known {
			return 0, fmt.Sprintf("there is no unit %q here", unit)
		}
		return factor / base, ""
	}
	return 0, fmt.Sprintf("it has no unit such as %q", unit)
}

func parseNumber(text string) (float64, bool) {
	if n, err := strconv.ParseInt(text, 0, 64); err == nil && !strings.Contains(text, "_") {
		return float64(n), true
	}
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
}

// Effective gives the value of each parameter that is in effect among entries:
// the last one of each name.
func Effective(entries []Entry, major int) map[string]Entry {
	values := make(map[string]Entry)
	for _, e := range entries {
		values[Canonical(e.Name, major)] = e
	}
	return values
}
