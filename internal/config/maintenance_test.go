package config

import (
	"strings"
	"testing"
)

// TestMaintenanceAndGuard holds that the defaults are valid, and that mistakes
// are told with their key.
func TestMaintenanceAndGuard(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"log: {enabled: true}":                                "",
		"maintenance: {interval: 10ms}":                       "maintenance.interval: must be at least 1s",
		"maintenance: {windows: [{name: a}]}":                 "hours are missing",
		"maintenance: {windows: [{name: a, hours: 22-5}]}":    "hours such as 22:00-05:00",
		"guard: {lock_timeout: 0s}":                           "guard.lock_timeout",
		"guard: {unchanged: [\"a b\"]}":                       "not a name",
		"guard: {policies: [{name: a, requires: [luck]}]}":    "there is no proof \"luck\"",
		"guard: {policies: [{name: a, days: [someday]}]}":     "not a day",
		"guard: {policies: [{name: a, commands: [VACUUM*]}]}": "",
	} {
		_, err := Parse([]byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
