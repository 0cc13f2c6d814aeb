package config

import (
	"slices"
	"strings"

	"pg_integrity_exporter/internal/check"
)

// Standby is a streaming standby of the target, on which checks of what rows say run
// while it keeps up with the target; else they run on the target.
type Standby struct {
	// Target is where it is; empty is none.
	Target `yaml:",inline"`

	// Checks are the checks that run there.
	Checks []string `yaml:"checks"`
}

// problem is what is wrong with the settings and the key that it is about; "" is
// nothing.
func (s Standby) problem() (text, key string) {
	if s.DSN != "" && s.DSNFile != "" {
		return "dsn and dsn_file exclude each other", "dsn_file"
	}
	for _, name := range s.Checks {
		if possible := check.OnStandby(); !slices.Contains(possible, name) {
			return name + " looks at the server itself; what may run on a standby: " + strings.Join(possible, ", "), "checks"
		}
	}
	return "", ""
}
