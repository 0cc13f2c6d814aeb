package exporter

import (
	"fmt"
	"slices"
	"strings"

	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/state"
)

// watch is a target to be watched.
type watch struct {
	name    string // what ?target= calls it
	config  config.Config
	target  *pg.Target
	standby *pg.Target // on which some checks run; nil is none
	results *state.Target
}

// newWatch finds the standby of a target, if its settings have one.
func newWatch(name string, settings config.Config, target *pg.Target) (watch, error) {
	w := watch{name: name, config: settings, target: target}
	if !settings.Standby.Given() {
		return w, nil
	}
	var err error
	if w.standby, err = pg.SourceTarget(settings.Standby.Read, pg.NoEnvironment); err != nil {
		return w, fmt.Errorf("standby: %w", err)
	}
	return w, nil
}

// resolve finds everything that is to be watched, or says what is wrong, before
// anything changes. With targets in the configuration, the server of target and
// of the environment is watched only when one is named.
func resolve(dsn, configFile string, environment pg.Environment) (config.Validated, []watch, error) {
	validated, main, err := Resolve(dsn, configFile, environment)
	if err != nil {
		return validated, nil, err
	}
	given := validated.Get()
	if err := validModules(given.Fleet); err != nil {
		return validated, nil, err
	}
	var watches []watch
	if len(given.Targets) == 0 || dsn != "" || given.Target.Given() || environment.NamesServer() {
		w, err := newWatch(main.Name(), given, main)
		if err != nil {
			return validated, nil, err
		}
		watches = append(watches, w)
	}
	for _, entry := range given.Targets {
		settings := entry.Settings.Get()
		target, err := pg.SourceTarget(settings.Target.Read, pg.NoEnvironment)
		if err != nil {
			return validated, nil, fmt.Errorf("targets: %s: %w", entry.Name, err)
		}
		if slices.ContainsFunc(watches, func(other watch) bool { return other.target.Name() == target.Name() }) {
			return validated, nil, fmt.Errorf("targets: %s is watched already, under another name", target.Name())
		}
		w, err := newWatch(entry.Name, settings, target)
		if err != nil {
			return validated, nil, fmt.Errorf("targets: %s: %w", entry.Name, err)
		}
		watches = append(watches, w)
	}
	return validated, watches, nil
}

// Targets reads a configuration as serve does, and gives the addresses of all servers
// that would be watched.
func Targets(dsn, configFile string, environment pg.Environment) (config.Validated, []string, error) {
	validated, watches, err := resolve(dsn, configFile, environment)
	names := make([]string, len(watches))
	for i, w := range watches {
		names[i] = w.target.Name()
	}
	return validated, names, err
}

// Resolve finds the configuration and the target in the order of the flags: a
// DSN given on the command line, the configuration's, the environment's.
func Resolve(dsn, configFile string, environment pg.Environment) (config.Validated, *pg.Target, error) {
	validated := config.Default()
	if configFile != "" {
		var err error
		if validated, err = config.Load(configFile); err != nil {
			return config.Validated{}, nil, err
		}
	}
	given := validated.Get().Target
	source := func() (string, error) { return dsn, nil }
	if dsn == "" && given.Given() {
		source = given.Read
	}
	target, err := pg.SourceTarget(source, environment)
	if err != nil {
		return config.Validated{}, nil, err
	}
	return validated, target, nil
}

// ResolveNamed finds the settings and the target of one of targets.
func ResolveNamed(name, configFile string) (config.Validated, *pg.Target, error) {
	validated, err := config.Load(configFile)
	if err != nil {
		return config.Validated{}, nil, err
	}
	var names []string
	for _, named := range validated.Get().Targets {
		if named.Name == name {
			target, err := pg.SourceTarget(named.Settings.Get().Target.Read, pg.NoEnvironment)
			return named.Settings, target, err
		}
		names = append(names, named.Name)
	}
	return config.Validated{}, nil, fmt.Errorf("%s has no target %q; it has: %s", configFile, name, strings.Join(names[:min(len(names), 20)], ", "))
}
