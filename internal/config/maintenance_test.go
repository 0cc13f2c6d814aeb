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
		"guard: {policies: [{commands: [VACUUM]}]}":           "each policy needs a name of its own",
		"guard: {policies: [{name: a}, {name: a}]}":           "each policy needs a name of its own",
		"guard: {policies: [{name: a, roles: [\"[a\"]}]}":     "is not a valid pattern",
		"guard: {policies: [{name: a, hours: 22:00-25:00}]}":  "hours such as 22:00-05:00",
		"guard: {policies: [{name: a, timezone: Mars}]}":      "is not a time zone",
		"guard: {policies: [{name: a, when: now}]}":           "when",
		"guard: {recover: {unattended: true}}":                "unattended needs directory or replace",
		"guard: {recover: {replace: data}}":                   "is not an absolute path",
		"guard: {recover: {replace: /a, directory: /b}}":      "exclude each other",
		"guard: {recover: {replace: /a, unattended: true}}":   "",
	} {
		_, err := Parse([]byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
