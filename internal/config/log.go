package config

import (
	"fmt"
	"net"
	"path"
	"slices"
	"strings"

	"pg_integrity_exporter/internal/pglog"
)

// Log is where the server's log is and how it is written.
type Log struct {
	// Enabled turns reading of the log on.
	Enabled bool `yaml:"enabled"`
	// Via says how to get at it: file, sql (through the server itself), stream
	// (only Listen and Stdin), or auto, which takes the first that works.
	Via string `yaml:"via"`
	// Path is a pattern for the log files, for example
	// /var/log/postgresql/*.json; empty finds them through the server's own
	// settings.
	Path string `yaml:"path"`
	// Format is jsonlog, csvlog, stderr or syslog; auto looks at the log itself.
	Format string `yaml:"format"`
	// LinePrefix is log_line_prefix of the formats stderr and syslog; empty asks
	// the server.
	LinePrefix string `yaml:"line_prefix"`
	// Listen are addresses that accept lines of the log: tcp://host:port or
	// unix:///path.
	Listen []string `yaml:"listen"`
	// Stdin reads the log from standard input.
	Stdin bool `yaml:"stdin"`
	// Applications and Roles are the values of application_name and the roles
	// whose errors are counted by name.
	Applications []string `yaml:"applications"`
	Roles        []string `yaml:"roles"`
}

// How to get at the log.
const (
	ViaAuto   = "auto"
	ViaFile   = "file"
	ViaSQL    = "sql"
	ViaStream = "stream"
)

// maxNames bounds the applications and roles with series of their own.
const maxNames = 50

const autoFormat = "auto"

func defaultLog() Log {
	return Log{Enabled: true, Via: ViaAuto, Format: autoFormat, Listen: []string{}, Applications: []string{}, Roles: []string{}}
}

// Streams says whether lines are accepted.
func (l Log) Streams() bool { return l.Stdin || len(l.Listen) > 0 }

// Files says whether the log is to be looked for, in files or through the
// server.
func (l Log) Files() bool {
	switch l.Via {
	case ViaStream:
		return false
	case ViaAuto:
		return !l.Streams() || l.Path != ""
	}
	return true
}

// ThroughServer says whether the log may be read through the server.
func (l Log) ThroughServer() bool { return l.Files() && l.Via != ViaFile }

// LogFormat is the format of the log.
func (l Log) LogFormat() pglog.Format {
	if l.Format == autoFormat {
		return pglog.AutoFormat
	}
	return pglog.Format(l.Format)
}

// invalid gives the key that is wrong and why.
func (l Log) invalid() (key, problem string) {
	if !slices.Contains([]string{ViaAuto, ViaFile, ViaSQL, ViaStream}, l.Via) {
		return "via", fmt.Sprintf("must be auto, file, sql or stream, not %q", l.Via)
	}
	if l.Via == ViaStream && !l.Streams() {
		return "via", "stream needs listen or stdin"
	}
	if l.Via == ViaSQL && strings.Contains(l.Path, "/") {
		return "path", "with via: sql it is a pattern of names within log_directory, without a directory"
	}
	if _, err := path.Match(l.Path, ""); err != nil {
		return "path", fmt.Sprintf("%q is not a valid pattern", l.Path)
	}
	formats := []string{autoFormat, string(pglog.JSONLog), string(pglog.CSVLog), string(pglog.Stderr), string(pglog.Syslog)}
	if !slices.Contains(formats, l.Format) {
		return "format", fmt.Sprintf("must be one of %s, not %q", strings.Join(formats, ", "), l.Format)
	}
	if err := new(pglog.Prefixes).Add(l.LinePrefix); err != nil {
		return "line_prefix", err.Error()
	}
	for _, address := range l.Listen {
		if problem := invalidAddress(address); problem != "" {
			return "listen", fmt.Sprintf("%q: %s", address, problem)
		}
	}
	for key, names := range map[string][]string{"applications": l.Applications, "roles": l.Roles} {
		if len(names) > maxNames {
			return key, fmt.Sprintf("at most %d names, because each has series of its own", maxNames)
		}
		if slices.Contains(names, "") {
			return key, "an empty name"
		}
	}
	return "", ""
}

func invalidAddress(address string) string {
	network, place, _ := strings.Cut(address, "://")
	switch network {
	case "tcp":
		if _, _, err := net.SplitHostPort(place); err != nil {
			return "expected tcp://host:port"
		}
	case "unix":
		if !strings.HasPrefix(place, "/") {
			return "expected unix:///absolute/path"
		}
	default:
		return "expected tcp://host:port or unix:///path"
	}
	return ""
}
