package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const fleetText = `
databases: {exclude: [scratch]}
log: {path: /var/log/main.json, roles: [billing]}
checks:
  heap: {interval: 6h}
  toast: {enabled: false}
recovery:
  repositories: []
targets:
  - name: orders
    target: {dsn: 'postgresql://monitor:hunter2@orders.example:5433/postgres'}
    checks:
      heap: {interval: 12h}
  - name: billing
    target: {dsn_file: /run/secrets/billing}
    databases: {include: [billing]}
probe:
  allow: ['*.db.example.com:5432']
auth_modules:
  prod:
    type: userpass
    userpass: {username: monitor, password: hunter3}
    options: {sslmode: verify-full}
modules:
  small: {collectors: [server]}
`

// TestTargets holds what an entry of targets takes from the file, what it has of
// its own, and that no password is printed.
func TestTargets(t *testing.T) {
	t.Parallel()
	validated, err := Parse([]byte(fleetText))
	if err != nil {
		t.Fatal(err)
	}
	targets := validated.Get().Targets
	if len(targets) != 2 || targets[0].Name != "orders" || targets[1].Name != "billing" {
		t.Fatalf("targets are %v", targets)
	}
	orders, billing := targets[0].Settings.Get(), targets[1].Settings.Get()
	if got := time.Duration(orders.Checks["heap"].Interval); got != 12*time.Hour || orders.Checks["toast"].Enabled {
		t.Errorf("checks of orders: heap every %s, toast %v", got, orders.Checks["toast"].Enabled)
	}
	if got := time.Duration(billing.Checks["heap"].Interval); got != 6*time.Hour || billing.Checks["toast"].Enabled {
		t.Errorf("checks of billing: heap every %s, toast %v", got, billing.Checks["toast"].Enabled)
	}
	if orders.Log.Path != "" || len(orders.Log.Roles) != 1 {
		t.Errorf("the log of orders is %+v", orders.Log)
	}
	if !billing.Databases.Selects("billing") || billing.Databases.Selects("scratch") || orders.Databases.Selects("scratch") {
		t.Error("databases are not those of the file and the entry")
	}
	text, err := validated.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "hunter") {
		t.Errorf("a password is printed:\n%s", text)
	}
	if _, err := Parse(text); err != nil {
		t.Errorf("what is printed is not valid: %v\n%s", err, text)
	}
}

func TestFleetErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"no name":            {"targets:\n  - target: {dsn: a}\n", "line 2: targets: name must be"},
		"twice":              {"targets:\n  - {name: a, target: {dsn: host=a}}\n  - {name: a, target: {dsn: host=b}}\n", "line 3: targets: the name a occurs twice"},
		"no DSN":             {"targets:\n  - {name: a}\n", "line 2: targets: a: target.dsn or target.dsn_file is needed"},
		"not a mapping":      {"targets: [orders]\n", "line 1: targets: an entry has name and target"},
		"unknown key":        {"targets:\n  - {name: a, target: {dsn: x}, limit: {}}\n", "line 2: targets: a: unknown key limit"},
		"of the whole file":  {"targets:\n  - {name: a, target: {dsn: x}, probe: {}}\n", "probe belongs to the file"},
		"a wrong value":      {"targets:\n  - {name: a, target: {dsn: x}, checks: {heap: {interval: 1s}}}\n", "targets: a: checks.heap.interval: must be at least"},
		"pattern":            {"probe: {allow: ['*']}\n", "probe.allow: \"*\" is not a pattern of host:port"},
		"max_targets":        {"probe: {max_targets: 0}\n", "probe.max_targets: must be between 1 and 10000"},
		"type":               {"auth_modules: {a: {type: magic}}\n", "auth_modules.a.type: must be userpass"},
		"user":               {"auth_modules: {a: {type: userpass}}\n", "username is needed"},
		"two passwords":      {"auth_modules: {a: {type: userpass, userpass: {username: u, password: p, password_file: f}}}\n", "exclude each other"},
		"options elsewhere":  {"auth_modules: {a: {type: userpass, userpass: {username: u}, options: {host: b}}}\n", "host is not an option"},
		"concurrent_checks":  {"limits: {concurrent_checks: 0}\n", "limits.concurrent_checks: must be between 1 and 100"},
		"scheduled drill":    {"targets:\n  - {name: a, target: {dsn: x}, recovery: {repositories: [{name: r, type: basebackup, path: /b, drill_interval: 1h}]}}\n", "a:"},
		"control characters": {"targets:\n  - {name: \"a\\nb\", target: {dsn: x}}\n", "name must be"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, c.want)
			}
		})
	}
}

func TestAuthModuleDSN(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("p@ss/word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := AuthModule{Type: "userpass", UserPass: UserPass{Username: "m", PasswordFile: file}, Options: map[string]string{"sslmode": "verify-full"}}
	got, err := a.DSN("db.example:5432", "erp")
	if want := "postgresql://m:p%40ss%2Fword@db.example:5432/erp?sslmode=verify-full"; got != want || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	a.UserPass.PasswordFile += ".missing"
	if _, err := a.DSN("db.example:5432", "erp"); err == nil {
		t.Error("a missing password_file is no error")
	}
}
