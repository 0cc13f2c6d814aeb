// Package config turns the configuration file into a validated value. Nothing
// else in the program reads YAML, and nothing runs from a value that did not
// come from [Load] or [Default].
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/units"
	"go.yaml.in/yaml/v3"

	"pg_integrity_exporter/internal/check"
)

// Config is the configuration file. Every field has a default; `config check
// --print` shows them all.
type Config struct { //nolint:recvcheck // it is validated in place and read as a value
	// Fleet is what is watched besides Target.
	Fleet `yaml:",inline"`

	// Target is the server to watch; what it leaves out comes from the
	// environment.
	Target Target `yaml:"target"`
	// Standby is a standby of it that takes over some checks.
	Standby Standby `yaml:"standby"`
	// Databases says which databases are checked.
	Databases Databases `yaml:"databases"`
	// Log says where the server's log is.
	Log Log `yaml:"log"`
	// Checks says which checks run, by name.
	Checks map[string]Check `yaml:"checks"`
	// Constraints says how constraints are held against the data.
	Constraints Constraints `yaml:"constraints"`
	// Invariants are rules about the data, as SQL.
	Invariants []check.Invariant `yaml:"invariants"`
	// Sealed is data that must not change.
	Sealed []check.Sealed `yaml:"sealed"`
	// MaterializedViews are those that must agree with their queries.
	MaterializedViews []check.MaterializedView `yaml:"materialized_views"`
	// Transactions are business transactions that are counted by outcome.
	Transactions []Transaction `yaml:"transactions"`
	// Limits bound what the exporter costs the server and Prometheus.
	Limits Limits `yaml:"limits"`
	// Recovery says where the backups are and how they are proved.
	Recovery Recovery `yaml:"recovery"`
	// Maintenance says how maintenance is recognised, and when it is expected.
	Maintenance Maintenance `yaml:"maintenance"`
	// Guard are the limits within which `guard` runs maintenance.
	Guard Guard `yaml:"guard"`
	// Leader is for several exporters that watch one server.
	Leader Leader `yaml:"leader"`
}

// Target is where the server is and how to log in.
type Target struct {
	// DSN is a postgresql:// URL or a keyword/value string; empty is the
	// environment. A password does not belong in it: use a passfile, or
	// DATA_SOURCE_PASS_FILE.
	DSN string `yaml:"dsn"`
	// DSNFile is a file that holds the DSN, for secrets mounted as files.
	DSNFile string `yaml:"dsn_file"`
}

// Given says that it says where the server is.
func (t Target) Given() bool { return t.DSN != "" || t.DSNFile != "" }

// Read gives the DSN of the target, read from its file if it has one.
func (t Target) Read() (string, error) {
	if t.DSNFile == "" {
		return t.DSN, nil
	}
	content, err := os.ReadFile(t.DSNFile)
	if err != nil {
		return "", fmt.Errorf("reading target.dsn_file: %w", err)
	}
	return strings.TrimSpace(string(content)), nil
}

// Databases selects databases by name with path.Match patterns.
type Databases struct {
	// Include names the databases to check; empty is all that can be connected
	// to.
	Include []string `yaml:"include"`
	// Exclude names databases that are not checked, whatever Include says.
	Exclude []string `yaml:"exclude"`
}

// Selects says whether the database is to be checked.
func (d Databases) Selects(datname string) bool {
	matches := func(pattern string) bool {
		matched, err := path.Match(pattern, datname)
		return err == nil && matched
	}
	if slices.ContainsFunc(d.Exclude, matches) {
		return false
	}
	return len(d.Include) == 0 || slices.ContainsFunc(d.Include, matches)
}

// Check is when one check runs.
type Check struct {
	// Enabled turns the check on.
	Enabled bool `yaml:"enabled"`
	// Interval is the time from one run to the next in each database.
	Interval Duration `yaml:"interval"`
}

// Limits bound what the exporter costs.
type Limits struct {
	// CheckRate is how many bytes per second background checks may read.
	CheckRate Size `yaml:"check_rate"`
	// CheckShare is the share of the time for which a background check may keep the
	// server busy; 1 is no bound.
	CheckShare float64 `yaml:"check_share"`
	// Latency is the longest round trip of a trivial statement at which
	// background checks go on; 0 is no bound.
	Latency Duration `yaml:"latency"`
	// ReplicationLag is the longest replay lag of a standby at which they go on;
	// 0 is no bound.
	ReplicationLag Duration `yaml:"replication_lag"`
	// ConcurrentChecks is how many checks run at once, in all targets together.
	ConcurrentChecks int `yaml:"concurrent_checks"`
	// WatchShare is the share of the time for which everything but the checks may
	// wait for the server; more is an alert.
	WatchShare float64 `yaml:"watch_share"`
	// Findings is how many findings have a series of their own.
	Findings int `yaml:"findings"`
}

// Validated is a configuration that is known to be usable.
type Validated struct {
	config Config
}

// Get is the configuration itself.
func (v Validated) Get() Config { return v.config }

// YAML is the whole configuration, defaults included, with the DSN's password
// left out.
func (v Validated) YAML() ([]byte, error) {
	config := v.masked()
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(config); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return out.Bytes(), nil
}

// defaultCheckRate is a rate that a single spinning disk can give away.
const defaultCheckRate = Size(32 * units.MiB)

// Default is the configuration without a file.
func Default() Validated {
	checks := make(map[string]Check)
	for _, c := range check.All() {
		checks[c.Name] = Check{Enabled: true, Interval: Duration(c.Interval)}
	}
	return Validated{config: Config{
		Standby:     Standby{Checks: check.OnStandby()},
		Databases:   Databases{Include: []string{}, Exclude: []string{}},
		Log:         defaultLog(),
		Checks:      checks,
		Constraints: Constraints{CompleteWithin: Duration(7 * 24 * time.Hour), LargeTable: Size(units.GiB)},
		Invariants:  []check.Invariant{}, Sealed: []check.Sealed{}, MaterializedViews: []check.MaterializedView{}, Transactions: []Transaction{},
		Limits: Limits{
			CheckRate: defaultCheckRate, CheckShare: 0.05, Latency: Duration(100 * time.Millisecond), ReplicationLag: Duration(30 * time.Second), Findings: 50,
			ConcurrentChecks: 4, WatchShare: 0.5,
		},
		Recovery: defaultRecovery(), Maintenance: defaultMaintenance(), Guard: defaultGuard(), Fleet: defaultFleet(),
	}}
}

// Load reads and validates a file. An unknown key, a value of the wrong type
// or out of range is an error that names file and line.
func Load(file string) (Validated, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return Validated{}, fmt.Errorf("reading the configuration: %w", err)
	}
	validated, err := Parse(content)
	if err != nil {
		return Validated{}, fmt.Errorf("%s: %w", file, err)
	}
	return validated, nil
}

// Parse validates the text of a configuration file. What the text leaves out
// has its default.
func Parse(content []byte) (Validated, error) {
	validated := Default()
	config := &validated.config
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return Validated{}, clean(err)
	}
	defaults := config.Checks
	config.Checks = nil
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(config); err != nil && !errors.Is(err, io.EOF) {
		return Validated{}, clean(err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Validated{}, errors.New("only one YAML document is allowed in the file")
	}
	for name, c := range defaults {
		if given, ok := config.Checks[name]; ok {
			defaults[name] = merge(c, given, lookup(&document, "checks", name))
		}
	}
	config.defaultRules()
	config.defaultTransactions()
	if err := config.validate(&document, defaults); err != nil {
		return Validated{}, err
	}
	config.Checks = defaults
	if err := config.resolve(&document); err != nil {
		return Validated{}, err
	}
	return validated, nil
}

// merge lays what the file says of a check over its default.
func merge(base, given Check, node *yaml.Node) Check {
	if lookup(node, "enabled") != nil {
		base.Enabled = given.Enabled
	}
	if lookup(node, "interval") != nil {
		base.Interval = given.Interval
	}
	return base
}

// minInterval keeps a typing mistake from checking without pause.
const minInterval = Duration(time.Minute)

func (c *Config) validate(document *yaml.Node, known map[string]Check) error {
	fail := func(format string, args []any, keys ...string) error {
		line := ""
		if node := lookup(document, keys...); node != nil {
			line = fmt.Sprintf("line %d: ", node.Line)
		}
		return fmt.Errorf("%s%s: %s", line, strings.Join(keys, "."), fmt.Sprintf(format, args...))
	}
	if c.Target.DSN != "" && c.Target.DSNFile != "" {
		return fail("dsn and dsn_file exclude each other", nil, "target", "dsn_file")
	}
	if text, key := c.Standby.problem(); text != "" {
		return fail("%s", []any{text}, "standby", key)
	}
	for name := range c.Checks {
		if _, ok := known[name]; !ok {
			return fail("no such check; there are: %s", []any{strings.Join(checkNames(), ", ")}, "checks", name)
		}
		if interval := known[name].Interval; interval < minInterval {
			return fail("must be at least %s, not %s", []any{minInterval, interval}, "checks", name, "interval")
		}
	}
	for _, list := range []struct {
		key      string
		patterns []string
	}{{"include", c.Databases.Include}, {"exclude", c.Databases.Exclude}} {
		for _, pattern := range list.patterns {
			if _, err := path.Match(pattern, ""); err != nil {
				return fail("%q is not a valid pattern", []any{pattern}, "databases", list.key)
			}
		}
	}
	if key, problem := c.Log.invalid(); problem != "" {
		return fail("%s", []any{problem}, "log", key)
	}
	if err := c.validateRules(fail); err != nil {
		return err
	}
	if err := c.validateTransactions(fail); err != nil {
		return err
	}
	if key, err := c.Maintenance.validate(); err != nil {
		return fail("%v", []any{err}, "maintenance", key)
	}
	if key, err := c.Guard.validate(); err != nil {
		return fail("%v", []any{err}, "guard", key)
	}
	if keys, err := c.Fleet.validate(); err != nil {
		return fail("%v", []any{err}, keys...)
	}
	if c.Limits.CheckRate <= 0 {
		return fail("must be more than 0 bytes per second", nil, "limits", "check_rate")
	}
	if c.Limits.CheckShare <= 0 || c.Limits.CheckShare > 1 {
		return fail("must be more than 0 and at most 1", nil, "limits", "check_share")
	}
	if c.Limits.Latency < 0 {
		return fail("must not be negative; 0 is no bound", nil, "limits", "latency")
	}
	if c.Limits.ReplicationLag < 0 {
		return fail("must not be negative; 0 is no bound", nil, "limits", "replication_lag")
	}
	if c.Limits.ConcurrentChecks < 1 || c.Limits.ConcurrentChecks > 100 {
		return fail("must be between 1 and 100", nil, "limits", "concurrent_checks")
	}
	if c.Limits.WatchShare <= 0 || c.Limits.WatchShare > 1 {
		return fail("must be more than 0 and at most 1", nil, "limits", "watch_share")
	}
	if c.Limits.Findings < 1 || c.Limits.Findings > 1000 {
		return fail("must be between 1 and 1000", nil, "limits", "findings")
	}
	if text, keys := c.Recovery.problem(); text != "" {
		return fail("%s", []any{text}, append([]string{"recovery"}, keys...)...)
	}
	return nil
}

func checkNames() []string {
	var names []string
	for _, c := range check.All() {
		names = append(names, c.Name)
	}
	return names
}

// lookup finds the node at the end of the keys, or nil.
func lookup(node *yaml.Node, keys ...string) *yaml.Node {
	if node != nil && node.Kind == yaml.DocumentNode && len(node.Content) == 1 {
		node = node.Content[0]
	}
	for n, key := range keys {
		if node != nil && node.Kind == yaml.SequenceNode {
			index, err := strconv.Atoi(key)
			if err != nil || index >= len(node.Content) {
				return nil
			}
			if node = node.Content[index]; n+2 == len(keys) && lookup(node, keys[n+1]) == nil { //nolint:gosec // n+1 is the last of keys
				return node // the entry whose key is missing
			}
			continue
		}
		if node == nil || node.Kind != yaml.MappingNode {
			return nil
		}
		var found *yaml.Node
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == key {
				found = node.Content[i+1]
			}
		}
		node = found
	}
	return node
}

// clean makes the library's errors one line for people.
func clean(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n")
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if field, ok := strings.CutSuffix(line, fieldOf(line)); ok {
			line = strings.Replace(strings.TrimSpace(field), "field ", "unknown key ", 1)
		}
		line = mismatch.ReplaceAllStringFunc(line, expected)
		lines[i] = line
	}
	return errors.New(strings.Join(lines, "; "))
}

// fieldOf is the library's " not found in type ..." at the end of a line.
func fieldOf(line string) string {
	if i := strings.Index(line, " not found in type "); i >= 0 {
		return line[i:]
	}
	return "\x00"
}

// mismatch is the library's text about a value of another kind than the key has.
// It quotes the value, which may be a password.
var mismatch = regexp.MustCompile("cannot unmarshal !!(\\w+)(?: `[^`]*`)? into (.*)$")

// expected says the same for people, without the value.
func expected(text string) string {
	found := mismatch.FindStringSubmatch(text)
	words := map[string]string{"seq": "a list", "map": "a mapping", "str": "a text", "int": "a number", "float": "a number", "bool": "true or false", "null": "nothing"}
	given, ok := words[found[1]]
	if !ok {
		given = found[1]
	}
	want := "a mapping of keys"
	switch kind := found[2]; {
	case strings.HasPrefix(kind, "[]"):
		want = "a list"
	case kind == "string":
		want = "a text"
	case kind == "bool":
		want = "true or false"
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"), strings.HasPrefix(kind, "float"):
		want = "a number"
	}
	return "expected " + want + ", found " + given
}
