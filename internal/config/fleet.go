package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Fleet is what one process watches besides Target: further servers, and servers
// that are named in a request.
type Fleet struct {
	// Targets are further servers, each with everything that Target has.
	Targets []Named `yaml:"targets"`
	// Probe says which servers a request may name.
	Probe Probe `yaml:"probe"`
	// Modules are ways to probe, by name.
	Modules map[string]Module `yaml:"modules"`
	// AuthModules are ways to log in, by name.
	AuthModules map[string]AuthModule `yaml:"auth_modules"`
}

// Named is one of several servers: its name and what it has of its own, in the
// words of the file itself.
type Named struct { //nolint:recvcheck // it is read in place and shown as a value
	// Name is what ?target= calls it.
	Name string
	// Settings are the settings of the file, with those of the entry over them.
	Settings Validated

	node *yaml.Node
}

// UnmarshalYAML keeps the entry until the rest of the file is known.
func (n *Named) UnmarshalYAML(node *yaml.Node) error {
	n.node = node
	return nil
}

// MarshalYAML shows the entry with all its settings, without passwords.
func (n Named) MarshalYAML() (any, error) {
	var settings yaml.Node
	if err := settings.Encode(n.Settings.masked()); err != nil {
		return nil, err
	}
	entry := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	put(entry, "name", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: n.Name})
	entry.Content = append(entry.Content, without(&settings, ofFile...).Content...)
	return entry, nil
}

// Probe bounds what a request may make the exporter do.
type Probe struct {
	// Allow are patterns of host:port that may be probed, as in a shell. Empty
	// is none: whoever can send a request could otherwise make the exporter
	// connect to anything, and send it a password.
	Allow []string `yaml:"allow"`
	// MaxTargets is how many servers are kept connected at once.
	MaxTargets int `yaml:"max_targets"`
	// Idle is how long after its last probe a server is let go.
	Idle Duration `yaml:"idle"`
}

// Allows says whether a server may be probed.
func (p Probe) Allows(address string) bool {
	return slices.ContainsFunc(p.Allow, func(pattern string) bool {
		matched, err := path.Match(strings.ToLower(pattern), strings.ToLower(address))
		return err == nil && matched
	})
}

// Module is a way to probe.
type Module struct {
	// Collectors are the collectors of a probe; empty is all that ask the server.
	Collectors []string `yaml:"collectors"`
}

// AuthModule is a way to log in, in the words of postgres_exporter.
type AuthModule struct {
	// Type is userpass.
	Type string `yaml:"type"`
	// UserPass is who logs in.
	UserPass UserPass `yaml:"userpass"`
	// Options are options of a DSN, for example sslmode and sslrootcert.
	Options map[string]string `yaml:"options"`
}

// UserPass is a role and its password.
type UserPass struct {
	Username string `yaml:"username"`
	Password string `yaml:"password"`
	// PasswordFile is a file that holds the password; it is read again when the
	// server refuses the one before.
	PasswordFile string `yaml:"password_file"`
}

// DSN is the DSN of a server and database for this way to log in.
func (a AuthModule) DSN(address, database string) (string, error) {
	password := a.UserPass.Password
	if a.UserPass.PasswordFile != "" {
		content, err := os.ReadFile(a.UserPass.PasswordFile)
		if err != nil {
			return "", fmt.Errorf("reading password_file: %w", err)
		}
		password = strings.TrimRight(string(content), "\r\n")
	}
	dsn := url.URL{Scheme: "postgresql", Host: address, Path: "/" + database}
	switch {
	case password != "":
		dsn.User = url.UserPassword(a.UserPass.Username, password)
	case a.UserPass.Username != "":
		dsn.User = url.User(a.UserPass.Username)
	}
	options := make(url.Values)
	for name, value := range a.Options {
		options.Set(name, value)
	}
	dsn.RawQuery = options.Encode()
	return dsn.String(), nil
}

func defaultFleet() Fleet {
	return Fleet{
		Targets: []Named{}, Modules: map[string]Module{}, AuthModules: map[string]AuthModule{},
		Probe: Probe{Allow: []string{}, MaxTargets: 2000, Idle: Duration(10 * time.Minute)},
	}
}

// maxTargets bounds the servers of one process.
const maxTargets = 1000

// inherited are the settings that an entry of targets takes from the file; the
// others belong to one server alone.
var inherited = []string{"databases", "checks", "constraints", "limits", "log", "maintenance", "guard", "leader"}

// ofFile are the settings that belong to no server.
var ofFile = []string{"targets", "probe", "modules", "auth_modules"}

// ownLog are the settings of log that belong to one server alone.
var ownLog = []string{"path", "listen", "stdin"}

// resolve gives each entry of targets its settings. An error names the line of
// the entry.
func (f *Fleet) resolve(document *yaml.Node) error {
	if len(f.Targets) > maxTargets {
		return fmt.Errorf("targets: %d are more than the %d that one process may watch", len(f.Targets), maxTargets)
	}
	names := make(map[string]bool)
	for i := range f.Targets {
		named := &f.Targets[i]
		fail := func(format string, args ...any) error {
			return fmt.Errorf("line %d: targets: %s", named.node.Line, fmt.Sprintf(format, args...))
		}
		if named.node.Kind != yaml.MappingNode {
			return fail("an entry has name and target, for example {name: orders, target: {dsn: postgresql://monitor@orders.example/postgres}}")
		}
		if name := lookup(named.node, "name"); name != nil {
			named.Name = name.Value
		}
		switch {
		case !targetName.MatchString(named.Name):
			return fail("name must be 1 to 100 letters, digits, points, hyphens, underscores or colons, not %q", named.Name)
		case names[named.Name]:
			return fail("the name %s occurs twice", named.Name)
		}
		names[named.Name] = true
		for _, key := range ofFile {
			if lookup(named.node, key) != nil {
				return fail("%s: %s belongs to the file, not to one server", named.Name, key)
			}
		}
		content, err := yaml.Marshal(named.settings(document))
		if err != nil {
			return fail("%s: %v", named.Name, err)
		}
		if named.Settings, err = Parse(content); err != nil {
			return fail("%s: %s", named.Name, lines.ReplaceAllString(err.Error(), ""))
		}
		if slices.ContainsFunc(named.Settings.config.Recovery.Repositories, func(r Repository) bool { return r.DrillInterval > 0 }) {
			return fail("%s: drill_interval is only for the server of target; let cron or a timer run drill for this one", named.Name)
		}
		if !named.Settings.config.Target.Given() {
			return fail("%s: target.dsn or target.dsn_file is needed", named.Name)
		}
	}
	return nil
}

var (
	targetName = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,100}$`)
	// lines are line numbers of a text that the user did not write.
	lines = regexp.MustCompile(`line \d+: `)
)

// settings are the inherited settings of the file with those of the entry over
// them: mappings key by key, everything else as a whole.
func (n *Named) settings(document *yaml.Node) *yaml.Node {
	all := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, key := range inherited {
		node := lookup(document, key)
		if node == nil {
			continue
		}
		if key == "log" {
			node = without(node, ownLog...)
		}
		put(all, key, node)
	}
	return over(all, without(n.node, "name"))
}

// without is a mapping less some keys.
func without(node *yaml.Node, keys ...string) *yaml.Node {
	if node.Kind != yaml.MappingNode {
		return node
	}
	rest := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if !slices.Contains(keys, node.Content[i].Value) {
			rest.Content = append(rest.Content, node.Content[i], node.Content[i+1])
		}
	}
	return rest
}

// over lays one mapping over another.
func over(base, top *yaml.Node) *yaml.Node {
	if base == nil || base.Kind != yaml.MappingNode || top.Kind != yaml.MappingNode {
		return top
	}
	merged := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: slices.Clone(base.Content)}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key := top.Content[i].Value
		put(merged, key, over(lookup(merged, key), top.Content[i+1]))
	}
	return merged
}

// put sets a key of a mapping.
func put(mapping *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			mapping.Content[i+1] = value
			return
		}
	}
	mapping.Content = append(mapping.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, value)
}

// validate says what is wrong, and under which keys.
func (f *Fleet) validate() (keys []string, err error) {
	for _, pattern := range f.Probe.Allow {
		if _, err := path.Match(pattern, ""); err != nil || !strings.Contains(pattern, ":") {
			return []string{"probe", "allow"}, fmt.Errorf("%q is not a pattern of host:port, such as *.db.example.com:5432", pattern)
		}
	}
	switch {
	case f.Probe.MaxTargets < 1 || f.Probe.MaxTargets > 10000:
		return []string{"probe", "max_targets"}, errors.New("must be between 1 and 10000")
	case f.Probe.Idle < Duration(10*time.Second):
		return []string{"probe", "idle"}, errors.New("must be at least 10s")
	}
	for name, a := range f.AuthModules {
		switch {
		case a.Type != "userpass":
			return []string{"auth_modules", name, "type"}, errors.New("must be userpass")
		case a.UserPass.Username == "":
			return []string{"auth_modules", name, "userpass"}, errors.New("username is needed")
		case a.UserPass.Password != "" && a.UserPass.PasswordFile != "":
			return []string{"auth_modules", name, "userpass"}, errors.New("password and password_file exclude each other")
		}
		for option := range a.Options {
			if slices.Contains([]string{"host", "hostaddr", "port", "user", "password", "dbname", "database", "service", "servicefile"}, option) {
				return []string{"auth_modules", name, "options"}, fmt.Errorf("%s is not an option of how to log in", option)
			}
		}
	}
	return nil, nil
}

// masked is the configuration without passwords.
func (v Validated) masked() Config {
	const secret = "<secret>"
	config := v.config
	if config.Target.DSN != "" {
		config.Target.DSN = secret
	}
	if config.Standby.DSN != "" {
		config.Standby.DSN = secret
	}
	modules := make(map[string]AuthModule, len(config.AuthModules))
	for name, a := range config.AuthModules {
		if a.UserPass.Password != "" {
			a.UserPass.Password = secret
		}
		modules[name] = a
	}
	config.AuthModules = modules
	return config
}
