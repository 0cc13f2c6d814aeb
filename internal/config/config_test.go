package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDefaultIsComplete(t *testing.T) {
	t.Parallel()
	text, err := Default().YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(text)
	if err != nil {
		t.Fatalf("the printed defaults are not a valid configuration: %v\n%s", err, text)
	}
	printed, err := again.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if string(printed) != string(text) {
		t.Errorf("defaults change when read back:\n%s\nthen\n%s", text, printed)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	validated, err := Parse([]byte("checks:\n  btree:\n    interval: 6h\n  heap: {enabled: false}\nlimits:\n  check_rate: 8MiB\n"))
	if err != nil {
		t.Fatal(err)
	}
	config := validated.Get()
	if got := time.Duration(config.Checks["btree"].Interval); got != 6*time.Hour || !config.Checks["btree"].Enabled {
		t.Errorf("btree is %+v, want enabled every 6h", config.Checks["btree"])
	}
	if config.Checks["heap"].Enabled || config.Checks["heap"].Interval == 0 {
		t.Errorf("heap is %+v, want disabled with its default interval", config.Checks["heap"])
	}
	if config.Limits.CheckRate != 8<<20 || config.Limits.Findings != 50 {
		t.Errorf("limits are %+v, want the rate given and the default number of findings", config.Limits)
	}
}

func TestParseEmpty(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "# only a comment\n"} {
		if _, err := Parse([]byte(text)); err != nil {
			t.Errorf("Parse(%q): %v", text, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"unknown key":    {"target:\n  host: db\n", "line 2: unknown key host"},
		"unknown check":  {"checks:\n  bitrot: {enabled: true}\n", "line 2: checks.bitrot: no such check; there are: "},
		"duration":       {"checks:\n  heap:\n    interval: tomorrow\n", `line 3: "tomorrow" is not a duration`},
		"short interval": {"checks:\n  heap:\n    interval: 1s\n", "line 3: checks.heap.interval: must be at least 1m0s, not 1s"},
		"size":           {"limits: {check_rate: lots}\n", `line 1: "lots" is not a size`},
		"zero rate":      {"limits:\n  check_rate: 0B\n", "line 2: limits.check_rate: must be more than 0"},
		"share":          {"limits:\n  check_share: 1.5\n", "line 2: limits.check_share: must be more than 0 and at most 1"},
		"standby":        {"standby:\n  dsn: postgresql://a\n  checks: [page]\n", "line 3: standby.checks: page looks at the server itself; what may run on a standby: constraint"},
		"both DSNs":      {"target:\n  dsn: postgresql://a\n  dsn_file: b\n", "line 3: target.dsn_file: dsn and dsn_file exclude each other"},
		"pattern":        {"databases:\n  include: ['[']\n", `line 2: databases.include: "[" is not a valid pattern`},
		"not YAML":       {"target: [\n", "line"},
		"two documents":  {"limits: {findings: 9}\n---\nlog: {}\n", "only one YAML document"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("error has more than one line: %v", err)
			}
		})
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "bad.yml")
	if err := os.WriteFile(file, []byte("nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), file+": line 1: unknown key nonsense") {
		t.Errorf("error %v, want file and line", err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "missing.yml")); err == nil {
		t.Error("a missing file gave no error")
	}
}

func TestDatabasesSelects(t *testing.T) {
	t.Parallel()
	d := Databases{Include: []string{"erp*", "crm"}, Exclude: []string{"*_test"}}
	for datname, want := range map[string]bool{"erp": true, "erp_2024": true, "erp_test": false, "crm": true, "postgres": false} {
		if got := d.Selects(datname); got != want {
			t.Errorf("Selects(%q) = %v, want %v", datname, got, want)
		}
	}
	if !(Databases{}).Selects("anything") {
		t.Error("without patterns every database is to be checked")
	}
}

func TestYAMLHidesTheDSN(t *testing.T) {
	t.Parallel()
	validated, err := Parse([]byte("target: {dsn: 'postgresql://u:hunter2@h/d'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := validated.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "hunter2") {
		t.Errorf("password printed:\n%s", text)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("checks:\n  btree:\n    interval: 6h\n"))
	f.Add([]byte("limits: {check_rate: 1MiB}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		validated, err := Parse(text)
		if err != nil {
			return
		}
		printed, err := validated.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if validated.Get().Target.DSN == "" {
			if _, err := Parse(printed); err != nil {
				t.Errorf("printed configuration is not valid: %v\n%s", err, printed)
			}
		}
	})
}
