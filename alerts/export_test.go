package alerts_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"pg_integrity_exporter/alerts"
)

// exported is what a test looks at in a rule file.
type exported struct {
	Namespace string
	Groups    []struct {
		Name  string
		Rules []struct {
			Alert, Expr, For string
			Labels           map[string]string
			Annotations      map[string]string
		}
	}
}

// rules exports all groups with the values of a values file.
func rules(t *testing.T, format alerts.Format, values string) exported {
	t.Helper()
	parsed, err := alerts.ParseValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	content, err := alerts.Write(format, alerts.Groups(), parsed)
	if err != nil {
		t.Fatal(err)
	}
	var file exported
	if format == alerts.Kubernetes {
		var manifest struct{ Spec exported }
		err = yaml.Unmarshal(content, &manifest)
		file = manifest.Spec
	} else {
		err = yaml.Unmarshal(content, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func (e exported) find(t *testing.T, name, severity string) (expr, hold string, labels, annotations map[string]string) {
	t.Helper()
	for _, group := range e.Groups {
		for _, r := range group.Rules {
			if r.Alert == name && r.Labels["severity"] == severity {
				return r.Expr, r.For, r.Labels, r.Annotations
			}
		}
	}
	t.Fatalf("there is no %s of severity %s", name, severity)
	return "", "", nil, nil
}

func TestValues(t *testing.T) {
	file := rules(t, alerts.Prometheus, `
job: pg
cluster_label: cluster
dashboard_url: https://grafana.example.org/d/
labels: {team: storage}
alerts:
  PostgresConnectionsNearLimit: {for: 1m}
  PostgresConnectionsNearLimit/critical: {thresholds: {ratio: 0.9}}
  PostgresChecksumsDisabled: {severity: warning}
  PostgresDeadlocks: {enabled: false}
`)
	expr, hold, labels, annotations := file.find(t, "PostgresConnectionsNearLimit", "critical")
	if !strings.HasSuffix(expr, "> 0.9") || hold != "1m" || labels["team"] != "storage" {
		t.Errorf("critical: %s, for %s, labels %v", expr, hold, labels)
	}
	if url := annotations["dashboard_url"]; !strings.HasPrefix(url, "https://grafana.example.org/d/postgres-") {
		t.Errorf("dashboard_url is %s", url)
	}
	if expr, hold, _, _ = file.find(t, "PostgresConnectionsNearLimit", "warning"); !strings.HasSuffix(expr, "> 0.8") || hold != "1m" {
		t.Errorf("warning: %s, for %s", expr, hold)
	}
	if expr, _, _, _ = file.find(t, "PostgresCollectorFailing", "warning"); !strings.Contains(expr, "on (cluster, job, instance)") {
		t.Errorf("the cluster label is not in %s", expr)
	}
	if expr, _, _, _ = file.find(t, "PostgresExporterDown", "critical"); expr != `up{job="pg"} == 0` {
		t.Errorf("the job is not in %s", expr)
	}
	file.find(t, "PostgresChecksumsDisabled", "warning")
	for _, group := range file.Groups {
		for _, r := range group.Rules {
			if r.Alert == "PostgresDeadlocks" {
				t.Error("PostgresDeadlocks is written though it is not enabled")
			}
		}
	}
}

func TestBadValues(t *testing.T) {
	for _, test := range []struct{ values, want string }{
		{"jobs: pg", "line 1: field jobs not found"},
		{"job: ''", "must have a name"},
		{"alerts: {PostgresDwn: {for: 1m}}", "there is no alert PostgresDwn"},
		{"alerts: {PostgresConnectionsNearLimit: {thresholds: {percent: 90}}}", "there is no threshold percent; it has: ratio"},
		{"alerts: {PostgresDown: {severity: high}}", `"high" is not critical`},
		{"alerts: {PostgresDown: {for: soon}}", "soon"},
		{"labels: {severity: low}", `"severity" cannot be added`},
		{"cluster_label: 'a b'", "not the name of a label"},
	} {
		if _, err := alerts.ParseValues([]byte(test.values)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.values, err, test.want)
		}
	}
}

// TestValuesAreComplete holds that the printed values can be read again and
// change nothing.
func TestValuesAreComplete(t *testing.T) {
	printed, err := alerts.DefaultValues().Complete().YAML()
	if err != nil {
		t.Fatal(err)
	}
	read, err := alerts.ParseValues(printed)
	if err != nil {
		t.Fatal(err)
	}
	want, err := alerts.Write(alerts.Mimir, alerts.Groups(), alerts.DefaultValues())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := alerts.Write(alerts.Mimir, alerts.Groups(), read); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the printed values write other rules (%v)", err)
	}
}

// TestRulers holds that the checkers of Mimir and Thanos accept the rules, as
// they ship and with a label for clusters, and that they look.
func TestRulers(t *testing.T) {
	if testing.Short() {
		t.Skip("their checkers take minutes to build")
	}
	mimirtool, thanos := tool(t, "MIMIRTOOL"), tool(t, "THANOS")
	for name, values := range map[string]string{"as shipped": "", "with clusters": "cluster_label: cluster\ndashboard_url: https://grafana.example.org/d/"} {
		parsed, err := alerts.ParseValues([]byte(values))
		if err != nil {
			t.Fatal(err)
		}
		for format, check := range map[alerts.Format]func(file string) *exec.Cmd{
			alerts.Mimir: func(file string) *exec.Cmd {
				return exec.CommandContext(t.Context(), mimirtool, "rules", "check", "--strict", file)
			},
			alerts.Prometheus: func(file string) *exec.Cmd {
				return exec.CommandContext(t.Context(), thanos, "tools", "rules-check", "--rules="+file)
			},
		} {
			content, err := alerts.Write(format, alerts.Groups(), parsed)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "rules.yaml")
			for _, broken := range []bool{false, true} {
				if broken {
					content = bytes.Replace(content, []byte("expr: "), []byte("expr: no_function()("), 1)
				}
				if err := os.WriteFile(file, content, 0o600); err != nil {
					t.Fatal(err)
				}
				if out, err := check(file).CombinedOutput(); (err != nil) != broken {
					t.Errorf("%s, %s, broken %t: %v\n%s", format, name, broken, err, out)
				}
			}
		}
	}
}

// TestFormats holds that each format has every rule, and that the manifest
// that ships is current.
func TestFormats(t *testing.T) {
	count := func(e exported) (n int) {
		for _, group := range e.Groups {
			n += len(group.Rules)
		}
		return n
	}
	want := count(rules(t, alerts.Prometheus, ""))
	mimir := rules(t, alerts.Mimir, "")
	if count(mimir) != want || mimir.Namespace != "pg_integrity_exporter" {
		t.Errorf("mimir: %d rules of %d in namespace %q", count(mimir), want, mimir.Namespace)
	}
	if got := count(rules(t, alerts.Kubernetes, "")); got != want {
		t.Errorf("kubernetes: %d rules of %d", got, want)
	}
	current, err := alerts.Write(alerts.Kubernetes, alerts.Groups(), alerts.DefaultValues())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile("kubernetes/pg-integrity-exporter.yaml"); err != nil || !bytes.Equal(got, current) {
		t.Errorf("kubernetes/pg-integrity-exporter.yaml is not current: make generate (%v)", err)
	}
}
