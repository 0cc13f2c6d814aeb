package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"pg_integrity_exporter/internal/recovery"
)

// Recovery says where backups are, what they must achieve, and how they are
// proved.
type Recovery struct {
	// Interval is how often repositories are read.
	Interval Duration `yaml:"interval"`
	// VerifyRate is how many bytes per second the verification of backups may
	// read.
	VerifyRate Size `yaml:"verify_rate"`
	// Repositories are where the backups of the target are.
	Repositories []Repository `yaml:"repositories"`
	// Drill is how backups are proved.
	Drill Drill `yaml:"drill"`
}

// Repository is one place with backups.
type Repository struct {
	// Name is the value of the label repository.
	Name string `yaml:"name"`
	// Type is barman, cloudnativepg, directory, dump, pgbackrest or wal-g.
	Type string `yaml:"type"`
	// Path is its directory.
	Path string `yaml:"path"`
	// WAL is the directory of archived WAL, for type directory.
	WAL string `yaml:"wal,omitempty"`
	// Stanza is the stanza of pgBackRest.
	Stanza string `yaml:"stanza,omitempty"`
	// InfoFile holds the output of pgbackrest info --output=json, for repositories
	// that cannot be read here.
	InfoFile string `yaml:"info_file,omitempty"`
	// ConfigFile is the configuration file that pgBackRest restores with.
	ConfigFile string `yaml:"config_file,omitempty"`
	// FetchCommand is a shell command that restores a backup instead of what the
	// type would do; {backup} and {data} stand for its label and the directory to
	// fill.
	FetchCommand string `yaml:"fetch_command,omitempty"`
	// RestoreCommand is the restore_command of the scratch server, with %f and %p;
	// empty is what the type needs.
	RestoreCommand string `yaml:"restore_command,omitempty"`
	// MaxBackupAge, MaxRecoveryPointAge, MaxRecoveryTime and MaxDrillAge are the
	// objectives; 0 is none.
	MaxBackupAge        Duration `yaml:"max_backup_age"`
	MaxRecoveryPointAge Duration `yaml:"max_recovery_point_age"`
	MaxRecoveryTime     Duration `yaml:"max_recovery_time"`
	MaxDrillAge         Duration `yaml:"max_drill_age"`
	// VerifyInterval is how often the newest backup is compared with its manifest,
	// 0 is never; VerifySample is the share of its contents that is read.
	VerifyInterval Duration `yaml:"verify_interval"`
	VerifySample   float64  `yaml:"verify_sample"`
	// DrillInterval is how often the exporter itself runs a drill; 0 is never.
	DrillInterval Duration `yaml:"drill_interval"`
}

// The objectives of a repository that says nothing else: a daily backup with
// some slack, a monthly drill.
const (
	defaultMaxBackupAge   = Duration(26 * time.Hour)
	defaultMaxDrillAge    = Duration(35 * 24 * time.Hour)
	defaultVerifyInterval = Duration(24 * time.Hour)
)

// UnmarshalYAML lays what the file says over the defaults of a repository.
func (r *Repository) UnmarshalYAML(node *yaml.Node) error {
	type plain Repository
	given := plain{
		MaxBackupAge: defaultMaxBackupAge, MaxDrillAge: defaultMaxDrillAge,
		VerifyInterval: defaultVerifyInterval, VerifySample: 1,
	}
	if err := known(node, given); err != nil {
		return err
	}
	if err := node.Decode(&given); err != nil {
		return err
	}
	*r = Repository(given)
	return nil
}

// known refuses keys that a struct does not have: the decoder of a node does not
// know that the file's is strict.
func known(node *yaml.Node, into any) error {
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: expected keys and values", node.Line)
	}
	var names []string
	for field := range reflect.TypeOf(into).Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		names = append(names, name)
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if key := node.Content[i]; !slices.Contains(names, key.Value) {
			return fmt.Errorf("line %d: unknown key %s", key.Line, key.Value)
		}
	}
	return nil
}

// Drill says how drills are run.
type Drill struct {
	// Scratch is the directory in which drills make theirs; empty is /var/tmp.
	Scratch string `yaml:"scratch"`
	// BinDirectories are patterns of the directories with the programs of
	// PostgreSQL; empty are the usual places.
	BinDirectories []string `yaml:"bin_directories"`
	// User is the user of the system that runs the scratch server when the program
	// is root; empty is postgres.
	User string `yaml:"user"`
	// Role is the superuser that drills log in to the scratch server as; empty is
	// found out.
	Role string `yaml:"role"`
	// Timeout bounds a drill.
	Timeout Duration `yaml:"timeout"`
	// MinFree is how much of the scratch file system must stay free.
	MinFree Size `yaml:"min_free"`
	// RateLimit is how many bytes per second are written when a backup is copied, and
	// read by each check; 0 is no limit.
	RateLimit Size `yaml:"rate_limit"`
	// Nice is added to the niceness of the drill and everything it starts.
	Nice int `yaml:"nice"`
	// Compare is how many rows are compared with the living server; 0 is none.
	CompareRows int `yaml:"compare_rows"`
	// Settings are settings of the scratch server, over those that isolate it.
	Settings map[string]string `yaml:"settings"`
	// Queries are what must hold in the restored databases.
	Queries []DrillQuery `yaml:"queries"`
}

// DrillQuery is a smoke query or an invariant.
type DrillQuery struct {
	// Name tells it from the others.
	Name string `yaml:"name"`
	// Database is where it runs.
	Database string `yaml:"database"`
	// SQL is one statement.
	SQL string `yaml:"sql"`
	// Expect is rows (at least one), none, or the text of the only value.
	Expect string `yaml:"expect"`
}

const (
	minRecoveryInterval = Duration(10 * time.Second)
	minDrillInterval    = Duration(10 * time.Minute)
)

// defaultRecovery watches nothing.
func defaultRecovery() Recovery {
	return Recovery{
		Interval: Duration(5 * time.Minute), VerifyRate: defaultCheckRate, Repositories: []Repository{},
		Drill: Drill{
			BinDirectories: []string{}, Timeout: Duration(6 * time.Hour), MinFree: Size(1 << 30), Nice: 10,
			CompareRows: 1000, Settings: map[string]string{}, Queries: []DrillQuery{},
		},
	}
}

var repositoryName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// protected are the settings that isolate the scratch server.
var protected = []string{
	"archive_cleanup_command", "archive_command", "archive_library", "archive_mode", "config_file", "data_directory", "external_pid_file",
	"hba_file", "ident_file", "listen_addresses", "max_logical_replication_workers", "port", "primary_conninfo", "primary_slot_name",
	"recovery_end_command", "restore_command", "synchronous_standby_names", "unix_socket_directories",
}

// problem is what is wrong with the section, and the keys that lead there.
func (r Recovery) problem() (text string, keys []string) {
	if r.Interval < minRecoveryInterval {
		return fmt.Sprintf("must be at least %s, not %s", minRecoveryInterval, r.Interval), []string{"interval"}
	}
	if r.VerifyRate <= 0 {
		return "must be more than 0 bytes per second", []string{"verify_rate"}
	}
	names := make(map[string]bool)
	for _, repository := range r.Repositories {
		if names[repository.Name] {
			return fmt.Sprintf("the name %q is given twice", repository.Name), []string{"repositories"}
		}
		names[repository.Name] = true
		if text := repository.problem(); text != "" {
			return fmt.Sprintf("repository %q: %s", repository.Name, text), []string{"repositories"}
		}
	}
	text, key := r.Drill.problem()
	return text, []string{"drill", key}
}

func (r Repository) problem() string {
	if !repositoryName.MatchString(r.Name) {
		return "name must be letters, digits, dots, underscores and hyphens, at most 63"
	}
	if !slices.Contains(recovery.Types(), recovery.Type(r.Type)) {
		var types []string
		for _, t := range recovery.Types() {
			types = append(types, string(t))
		}
		return fmt.Sprintf("type must be one of %s, not %q", strings.Join(types, ", "), r.Type)
	}
	kind := recovery.Type(r.Type)
	switch {
	case r.Path == "" && r.InfoFile == "":
		return "path is missing"
	case kind != recovery.TypeDirectory && r.WAL != "":
		return "wal is only for type directory"
	case kind != recovery.TypePgBackRest && (r.Stanza != "" || r.InfoFile != "" || r.ConfigFile != ""):
		return "stanza, info_file and config_file are only for type pgbackrest"
	case r.VerifySample <= 0 || r.VerifySample > 1:
		return fmt.Sprintf("verify_sample must be more than 0 and at most 1, not %v", r.VerifySample)
	case r.DrillInterval != 0 && r.DrillInterval < minDrillInterval:
		return fmt.Sprintf("drill_interval must be 0 or at least %s, not %s", minDrillInterval, r.DrillInterval)
	case r.VerifyInterval != 0 && r.VerifyInterval < minInterval:
		return fmt.Sprintf("verify_interval must be 0 or at least %s, not %s", minInterval, r.VerifyInterval)
	}
	for _, path := range []string{r.Path, r.WAL, r.InfoFile, r.ConfigFile} {
		if path != "" && !filepath.IsAbs(path) {
			return fmt.Sprintf("%q must be an absolute path", path)
		}
	}
	for _, objective := range []Duration{r.MaxBackupAge, r.MaxRecoveryPointAge, r.MaxRecoveryTime, r.MaxDrillAge} {
		if objective < 0 {
			return fmt.Sprintf("an objective must not be negative: %s", objective)
		}
	}
	return ""
}

func (d Drill) problem() (text, key string) {
	switch {
	case d.Timeout <= 0:
		return "must be more than 0", "timeout"
	case d.MinFree < 0:
		return "must not be negative", "min_free"
	case d.RateLimit < 0:
		return "must not be negative", "rate_limit"
	case d.Nice < 0 || d.Nice > 19:
		return fmt.Sprintf("must be between 0 and 19, not %d", d.Nice), "nice"
	case d.CompareRows < 0 || d.CompareRows > 1_000_000:
		return "must be between 0 and 1000000", "compare_rows"
	case d.Scratch != "" && !filepath.IsAbs(d.Scratch):
		return fmt.Sprintf("%q must be an absolute path", d.Scratch), "scratch"
	}
	for _, pattern := range d.BinDirectories {
		if _, err := filepath.Match(pattern, ""); err != nil {
			return fmt.Sprintf("%q is not a valid pattern", pattern), "bin_directories"
		}
	}
	for name := range d.Settings {
		if slices.Contains(protected, strings.ToLower(name)) {
			return name + " isolates the scratch server and cannot be set", "settings"
		}
	}
	names := make(map[string]bool)
	for _, q := range d.Queries {
		switch {
		case q.Name == "" || q.Database == "" || strings.TrimSpace(q.SQL) == "":
			return fmt.Sprintf("query %q needs name, database and sql", q.Name), "queries"
		case names[q.Name]:
			return fmt.Sprintf("the name %q is given twice", q.Name), "queries"
		}
		names[q.Name] = true
	}
	return "", ""
}

// Find gives the repository with a name, or the only one when the name is
// empty.
func (r Recovery) Find(name string) (Repository, error) {
	var names []string
	for _, repository := range r.Repositories {
		if repository.Name == name {
			return repository, nil
		}
		names = append(names, repository.Name)
	}
	switch {
	case len(names) == 0:
		return Repository{}, errors.New("the configuration names no repository: add one under recovery.repositories (or give drill --path)")
	case name == "" && len(names) == 1:
		return r.Repositories[0], nil
	case name == "":
		return Repository{}, fmt.Errorf("which repository? --repository is one of %s", strings.Join(names, ", "))
	}
	return Repository{}, fmt.Errorf("there is no repository %q; there are: %s", name, strings.Join(names, ", "))
}

// Watched is the repository as the package recovery knows it.
func (r Repository) Watched() recovery.Watched {
	return recovery.Watched{
		Repository: recovery.Repository{
			Name: r.Name, Type: recovery.Type(r.Type), Path: r.Path, WAL: r.WAL, Stanza: r.Stanza, InfoFile: r.InfoFile,
		},
		Objectives: recovery.Objectives{
			BackupAge: time.Duration(r.MaxBackupAge), RecoveryPoint: time.Duration(r.MaxRecoveryPointAge),
			RecoveryTime: time.Duration(r.MaxRecoveryTime), DrillAge: time.Duration(r.MaxDrillAge),
		},
		VerifyInterval: time.Duration(r.VerifyInterval), Sample: r.VerifySample,
	}
}

// Watched are the repositories as the package recovery knows them.
func (r Recovery) Watched() []recovery.Watched {
	var watched []recovery.Watched
	for _, repository := range r.Repositories {
		watched = append(watched, repository.Watched())
	}
	return watched
}
