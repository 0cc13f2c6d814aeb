package config

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/units"

	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/maintenance/script"
)

// Guard are the limits within which `guard` runs maintenance.
type Guard struct {
	// LockTimeout is how long a statement waits for its locks before it steps
	// back, LockRetries how often it tries.
	LockTimeout Duration `yaml:"lock_timeout"`
	LockRetries int      `yaml:"lock_retries"`
	// MaxBlocked is how long others may wait for the maintenance.
	MaxBlocked Duration `yaml:"max_blocked"`
	// MaxDuration bounds the whole; 0 is no bound.
	MaxDuration Duration `yaml:"max_duration"`
	// MaxReplicationLag is how far a standby may fall behind.
	MaxReplicationLag Size `yaml:"max_replication_lag"`
	// MinFree is what must stay free on the disk of the data directory.
	MinFree Size `yaml:"min_free"`
	// MaxTransactionAge is how old others' transactions may be at the start.
	MaxTransactionAge Duration `yaml:"max_transaction_age"`
	// MaxErrorRate is how many more transactions per second may fail than usual.
	MaxErrorRate float64 `yaml:"max_error_rate"`
	// MaxArchiveAge is how old the newest archived WAL may be; 0 does not ask.
	MaxArchiveAge Duration `yaml:"max_archive_age"`
	// FingerprintLimit is how much is read for fingerprints, LockedLimit how large
	// a table may be that is read while it is locked.
	FingerprintLimit Size `yaml:"fingerprint_limit"`
	LockedLimit      Size `yaml:"locked_limit"`
	// PhysicalChecks looks for damage before and after.
	PhysicalChecks bool `yaml:"physical_checks"`
	// Unchanged are tables whose rows no maintenance may change.
	Unchanged []string `yaml:"unchanged"`
	// Expect are queries that must be true after every maintenance.
	Expect []string `yaml:"expect"`
	// Policies say which maintenance may run; none is no limit.
	Policies []Policy `yaml:"policies"`
	// Recover is point-in-time recovery for runs that could not be rolled back.
	Recover GuardRecover `yaml:"recover"`
}

// GuardRecover says how the guard recovers to the restore point of a run.
type GuardRecover struct {
	// Repository is the one of recovery.repositories that is restored; empty is the
	// only one.
	Repository string `yaml:"repository"`
	// Directory is where a directory is made for each recovered cluster.
	Directory string `yaml:"directory"`
	// Replace is the data directory of the server, whose place the recovered cluster
	// takes when it is proved; empty is nobody's.
	Replace string `yaml:"replace"`
	// StopCommand stops the damaged server, StartCommand starts the recovered one;
	// shell commands. Empty are a fast shutdown by signal, and nobody.
	StopCommand  string `yaml:"stop_command"`
	StartCommand string `yaml:"start_command"`
	// Unattended recovers without being asked when a run ends not rolled back.
	Unattended bool `yaml:"unattended"`
}

// Policy permits some maintenance.
type Policy struct {
	Name string `yaml:"name"`
	// Commands, Relations and Roles are patterns; empty is any.
	Commands  []string `yaml:"commands"`
	Relations []string `yaml:"relations"`
	Roles     []string `yaml:"roles"`
	// Hours is FROM-TO, for example 22:00-05:00; empty is any time.
	Hours string `yaml:"hours"`
	// Days are the days on which the hours begin, for example [sat, sun].
	Days []string `yaml:"days"`
	// Timezone is that of the hours; empty is UTC.
	Timezone string `yaml:"timezone"`
	// Requires are the proofs that it needs.
	Requires []string `yaml:"requires"`
}

func defaultGuard() Guard {
	d := guard.Default()
	return Guard{
		LockTimeout: Duration(d.LockTimeout), LockRetries: d.LockRetries, MaxBlocked: Duration(d.MaxBlocked), MaxDuration: Duration(d.MaxDuration),
		MaxReplicationLag: Size(d.MaxReplicationLag), MinFree: Size(d.MinFree), MaxTransactionAge: Duration(d.MaxTransactionAge),
		MaxErrorRate: d.MaxErrorRate, MaxArchiveAge: Duration(d.MaxArchiveAge), FingerprintLimit: Size(d.FingerprintLimit), LockedLimit: Size(d.LockedLimit),
		PhysicalChecks: d.PhysicalChecks, Unchanged: []string{}, Expect: []string{}, Policies: []Policy{},
	}
}

// Settings are the guard's own form of the section.
func (g Guard) Settings() (guard.Settings, error) {
	s := guard.Default()
	s.LockTimeout, s.LockRetries, s.MaxBlocked = time.Duration(g.LockTimeout), g.LockRetries, time.Duration(g.MaxBlocked)
	s.MaxDuration, s.MaxReplicationLag, s.MinFree = time.Duration(g.MaxDuration), int64(g.MaxReplicationLag), int64(g.MinFree)
	s.MaxTransactionAge, s.MaxErrorRate, s.MaxArchiveAge = time.Duration(g.MaxTransactionAge), g.MaxErrorRate, time.Duration(g.MaxArchiveAge)
	s.FingerprintLimit, s.LockedLimit, s.PhysicalChecks = int64(g.FingerprintLimit), int64(g.LockedLimit), g.PhysicalChecks
	s.Expect = g.Expect
	for _, text := range g.Unchanged {
		name, err := script.ParseName(text)
		if err != nil {
			return s, fmt.Errorf("guard.unchanged: %w", err)
		}
		s.Unchanged = append(s.Unchanged, name)
	}
	return s, nil
}

// Permissions are the policies in the guard's own form.
func (g Guard) Permissions() ([]guard.Policy, error) {
	var policies []guard.Policy
	for _, p := range g.Policies {
		hours, err := ParseHours(p.Hours, p.Days, p.Timezone)
		if err != nil {
			return nil, err
		}
		policies = append(policies, guard.Policy{
			Name: p.Name, Commands: p.Commands, Relations: p.Relations, Roles: p.Roles,
			From: hours.From, To: hours.To, Days: hours.Days, Location: hours.Location, Requires: p.Requires,
		})
	}
	return policies, nil
}

func (g Guard) validate() (key string, err error) {
	positive := []struct {
		key string
		ok  bool
	}{
		{"lock_timeout", g.LockTimeout > 0}, {"lock_retries", g.LockRetries > 0}, {"max_blocked", g.MaxBlocked > 0},
		{"max_duration", g.MaxDuration >= 0}, {"max_replication_lag", g.MaxReplicationLag > 0}, {"min_free", g.MinFree >= 0},
		{"max_transaction_age", g.MaxTransactionAge > 0}, {"max_error_rate", g.MaxErrorRate > 0}, {"max_archive_age", g.MaxArchiveAge >= 0},
		{"fingerprint_limit", g.FingerprintLimit >= Size(units.MiB)}, {"locked_limit", g.LockedLimit >= 0},
	}
	for _, p := range positive {
		if !p.ok {
			return p.key, errors.New("is too small")
		}
	}
	for _, d := range []string{g.Recover.Directory, g.Recover.Replace} {
		if d != "" && !filepath.IsAbs(d) {
			return "recover", fmt.Errorf("%q is not an absolute path", d)
		}
	}
	if g.Recover.Directory != "" && g.Recover.Replace != "" {
		return "recover", errors.New("directory and replace exclude each other")
	}
	if g.Recover.Unattended && g.Recover.Directory == "" && g.Recover.Replace == "" {
		return "recover", errors.New("unattended needs directory or replace")
	}
	if _, err := g.Settings(); err != nil {
		return "unchanged", err
	}
	names := make(map[string]bool)
	for _, p := range g.Policies {
		if p.Name == "" || names[p.Name] {
			return "policies", errors.New("each policy needs a name of its own")
		}
		names[p.Name] = true
		for _, pattern := range slices.Concat(p.Commands, p.Relations, p.Roles) {
			if _, err := path.Match(pattern, ""); err != nil {
				return "policies", fmt.Errorf("%s: %q is not a valid pattern", p.Name, pattern)
			}
		}
		for _, proof := range p.Requires {
			if !slices.Contains(guard.Proofs(), proof) {
				return "policies", fmt.Errorf("%s: there is no proof %q; there are: %s", p.Name, proof, strings.Join(guard.Proofs(), ", "))
			}
		}
		if _, err := ParseHours(p.Hours, p.Days, p.Timezone); err != nil {
			return "policies", fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return "", nil
}

// Hours is a time of the day, on some days.
type Hours struct {
	From, To time.Duration
	Days     []time.Weekday
	Location *time.Location
}

var weekdays = map[string]time.Weekday{
	"sun": time.Sunday, "mon": time.Monday, "tue": time.Tuesday, "wed": time.Wednesday, "thu": time.Thursday, "fri": time.Friday, "sat": time.Saturday,
}

// ParseHours reads 22:00-05:00, days and a time zone. From and To are equal
// when the hours are empty.
func ParseHours(hours string, days []string, timezone string) (Hours, error) {
	parsed := Hours{Location: time.UTC}
	if timezone != "" {
		location, err := time.LoadLocation(timezone)
		if err != nil {
			return parsed, fmt.Errorf("%q is not a time zone such as Europe/Berlin", timezone)
		}
		parsed.Location = location
	}
	for _, day := range days {
		weekday, ok := weekdays[strings.ToLower(day)]
		if !ok {
			return parsed, fmt.Errorf("%q is not a day; there are: %s", day, strings.Join(slices.Sorted(maps.Keys(weekdays)), ", "))
		}
		parsed.Days = append(parsed.Days, weekday)
	}
	if hours == "" {
		return parsed, nil
	}
	from, to, ok := strings.Cut(hours, "-")
	start, errStart := time.Parse("15:04", strings.TrimSpace(from))
	end, errEnd := time.Parse("15:04", strings.TrimSpace(to))
	if !ok || errStart != nil || errEnd != nil {
		return parsed, fmt.Errorf("%q are not hours such as 22:00-05:00", hours)
	}
	parsed.From = time.Duration(start.Hour())*time.Hour + time.Duration(start.Minute())*time.Minute
	parsed.To = time.Duration(end.Hour())*time.Hour + time.Duration(end.Minute())*time.Minute
	return parsed, nil
}

// GuardInvariants are the configured rules of a database as the guard takes
// them.
func (c Config) GuardInvariants(database string) ([]guard.Invariant, error) {
	var invariants []guard.Invariant
	for _, i := range c.Invariants {
		covered := slices.ContainsFunc(i.Databases, func(pattern string) bool {
			matched, err := path.Match(pattern, database)
			return err == nil && matched
		})
		if !covered {
			continue
		}
		expanded, err := i.Expand()
		if err != nil {
			return nil, fmt.Errorf("invariant %q: %w", i.Name, err)
		}
		invariants = append(invariants, guard.Invariant{
			Name: i.Name, Query: expanded.SQL, Min: expanded.Expect.Min, Max: expanded.Expect.Max, EqualTo: expanded.Expect.EqualTo,
		})
	}
	return invariants, nil
}
