package alerts_test

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"pg_integrity_exporter/alerts"
	"pg_integrity_exporter/internal/promql"
)

// tool finds a program of Prometheus or Alertmanager: `make test` says where
// it is. Without it the test fails when everything is required.
func tool(t *testing.T, variable string) string {
	t.Helper()
	program := os.Getenv(variable)
	if program == "" {
		if os.Getenv("PGTEST_REQUIRE") != "" {
			t.Fatalf("%s does not say where the program is", variable)
		}
		t.Skipf("%s does not say where the program is", variable)
	}
	return program
}

func run(t *testing.T, directory, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = directory
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(program), err, out)
	}
}

func names() []string {
	set := make(map[string]bool)
	for _, group := range alerts.Groups() {
		for _, alert := range group.Alerts {
			set[alert.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

func TestRuleFilesAreCurrent(t *testing.T) {
	files, err := filepath.Glob("rules/*.yaml")
	if err != nil || len(files) != len(alerts.Groups()) {
		t.Errorf("%d rule files for %d groups: %v", len(files), len(alerts.Groups()), err)
	}
	for _, group := range alerts.Groups() {
		want, err := group.YAML(alerts.DefaultValues())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile("rules/" + group.Name + ".yaml"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("rules/%s.yaml is not current: make generate (%v)", group.Name, err)
		}
	}
}

func TestPromtool(t *testing.T) { testPromtool(t, tool(t, "PROMTOOL")) }

// TestPromtool245 holds that Prometheus 2.45, which distributions with long
// support ship, understands the rules and evaluates them alike.
func TestPromtool245(t *testing.T) {
	if testing.Short() {
		t.Skip("the newest promtool has seen the rules")
	}
	testPromtool(t, tool(t, "PROMTOOL245"))
}

func testPromtool(t *testing.T, promtool string) {
	t.Helper()
	rules, err := filepath.Glob("rules/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	run(t, ".", promtool, append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, rules...)...)
	for _, name := range names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, onlyTested(t, name), promtool, "test", "rules", name+".yaml")
		})
	}
}

// onlyTested is a directory with a unit test and, of the rules that it names,
// the alerts that it speaks of and what is recorded: promtool evaluates whole
// files at every step, most of it for nothing.
func onlyTested(t *testing.T, name string) string {
	t.Helper()
	test, err := os.ReadFile("tests/" + name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	var files struct {
		Rules []string `yaml:"rule_files"`
	}
	if err := yaml.Unmarshal(test, &files); err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	kept := map[string][]byte{"tests/" + name + ".yaml": test}
	for _, path := range files.Rules {
		content, err := os.ReadFile(filepath.Join("tests", path))
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			Groups []map[string]any `yaml:"groups"`
		}
		if err := yaml.Unmarshal(content, &file); err != nil {
			t.Fatal(err)
		}
		for _, group := range file.Groups {
			rules, _ := group["rules"].([]any)
			group["rules"] = slices.DeleteFunc(rules, func(r any) bool {
				rule, _ := r.(map[string]any)
				alert, isAlert := rule["alert"].(string)
				return isAlert && !bytes.Contains(test, []byte(`"`+alert+`"`))
			})
		}
		if kept[filepath.Join("tests", path)], err = yaml.Marshal(file); err != nil {
			t.Fatal(err)
		}
	}
	for path, content := range kept {
		path = filepath.Join(directory, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(directory, "tests")
}

// ruleTest is a file of promtool test rules.
type ruleTest struct {
	Tests []struct {
		Name        string
		InputSeries []struct{ Series, Values string } `yaml:"input_series"`
		Cases       []struct {
			Samples []struct{ Labels string } `yaml:"exp_samples"`
		} `yaml:"promql_expr_test"`
	}
}

// TestEveryAlertIsTested holds that the unit test of each alert sees it fire,
// sees it silent with healthy series, and without any series.
func TestEveryAlertIsTested(t *testing.T) {
	goldens := readGoldens(t)
	schema := promql.NewSchema()
	for _, name := range names() {
		content, err := os.ReadFile("tests/" + name + ".yaml")
		if err != nil {
			t.Error(err)
			continue
		}
		var file ruleTest
		if err := yaml.Unmarshal(content, &file); err != nil {
			t.Fatal(err)
		}
		var fires, silent, absent bool
		for _, test := range file.Tests {
			found := false
			for _, c := range test.Cases {
				for _, sample := range c.Samples {
					found = found || strings.Contains(sample.Labels, `alertstate="firing"`)
				}
			}
			fires = fires || found
			silent = silent || !found && len(test.InputSeries) > 0
			absent = absent || len(test.InputSeries) == 0
			for _, input := range test.InputSeries {
				checkSeries(t, name, input.Series, schema, goldens)
			}
		}
		if !fires || !absent || !silent && name != "PostgresWatchdog" {
			t.Errorf("tests/%s.yaml: fires %t, silent when healthy %t, without series %t", name, fires, silent, absent)
		}
	}
}

// shows says whether a case expects the alert of this severity in this state.
func shows(labels, state string, severity alerts.Severity) bool {
	return strings.Contains(labels, `alertstate="`+state+`"`) && strings.Contains(labels, `severity="`+string(severity)+`"`)
}

// TestEveryAlertWaits holds that the unit test of each alert, of each severity,
// sees it fire, sees it wait or be silent before when it has to wait, and begins at
// zero where it counts events.
func TestEveryAlertWaits(t *testing.T) {
	for _, group := range alerts.Groups() {
		for _, alert := range group.Alerts {
			content, err := os.ReadFile("tests/" + alert.Name + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			var file ruleTest
			if err := yaml.Unmarshal(content, &file); err != nil {
				t.Fatal(err)
			}
			var fires, waits, zero bool
			for _, test := range file.Tests {
				silent := false // before in this test
				for _, c := range test.Cases {
					firing := false
					for _, sample := range c.Samples {
						firing = firing || shows(sample.Labels, "firing", alert.Severity)
						waits = waits || shows(sample.Labels, "pending", alert.Severity)
					}
					fires, waits, silent = fires || firing, waits || firing && silent, silent || !firing
				}
				for _, input := range test.InputSeries {
					zero = zero || strings.HasPrefix(input.Values, "0x") || strings.HasPrefix(input.Values, "0 ")
				}
			}
			if counts := strings.Contains(alert.Expr, "increase("); !fires || alert.For > 0 && !waits || counts && !zero {
				t.Errorf("tests/%s.yaml, %s: fires %t, waits %t, begins at zero %t", alert.Name, alert.Severity, fires, waits, zero)
			}
		}
	}
}

// open labels have values that users choose.
var open = []string{
	"job", "instance", "datname", "schemaname", "relname", "application_name", "slot_name", "subname", "system_identifier",
}

// closed are labels whose values are a list of the contract, whether or not a
// check of today reports all of them.
var closed = map[string][]string{
	"class":    {"corruption", "data_rule", "drift", "leftover", "recoverability", "unsafe_setting"},
	"severity": {"critical", "warning", "info"},
}

// checkSeries holds a series of a unit test against what the exporter emits:
// the same labels, and for closed enumerations a value that it really emits.
func checkSeries(t *testing.T, file, series string, schema promql.Schema, goldens map[string]bool) {
	t.Helper()
	name, labels, err := promql.Series(series)
	if err != nil {
		t.Errorf("tests/%s.yaml: %v", file, err)
		return
	}
	if want, ok := schema[name]; !ok || !slices.Equal(slices.Sorted(maps.Keys(labels)), slices.Sorted(slices.Values(want))) {
		t.Errorf("tests/%s.yaml: %s does not have the labels %v", file, series, want)
	}
	// The golden servers are healthy: no findings on them; and no business
	// transactions are configured for them.
	if !strings.HasPrefix(name, "pgintegrity_") || name == "pgintegrity_finding_info" || strings.HasPrefix(name, "pgintegrity_business_") {
		return
	}
	for label, value := range labels {
		listed := name == "pgintegrity_check_findings" && slices.Contains(closed[label], value)
		if !slices.Contains(open, label) && !listed && !goldens[name+" "+label+" "+value] {
			t.Errorf("tests/%s.yaml: the exporter never emits %s with %s=%q", file, name, label, value)
		}
	}
}

var goldenLabel = regexp.MustCompile(`(\w+)="([^"]*)"`)

// readGoldens collects metric, label and value of the expositions that the
// collectors' tests got from real servers.
func readGoldens(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../collector/testdata/pg*.prom")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden expositions: %v", err)
	}
	seen := make(map[string]bool)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for scanner := bufio.NewScanner(bytes.NewReader(content)); scanner.Scan(); {
			name, labels, _ := strings.Cut(scanner.Text(), "{")
			for _, match := range goldenLabel.FindAllStringSubmatch(labels, -1) {
				seen[name+" "+match[1]+" "+match[2]] = true
			}
		}
	}
	return seen
}

var templateLabel = regexp.MustCompile(`\$labels\.(\w+)`)

// TestExpressionsNameOnlyWhatExists holds that no rule waits for a series or a
// label that the exporter does not have.
func TestExpressionsNameOnlyWhatExists(t *testing.T) {
	schema := promql.NewSchema()
	for _, group := range alerts.Groups() {
		for _, record := range group.Records {
			if err := schema.Record(record.Name, expand(t, record.Expr, nil)); err != nil {
				t.Errorf("%s: %v", record.Name, err)
			}
		}
	}
	for _, group := range alerts.Groups() {
		for _, alert := range group.Alerts {
			labels, err := schema.Check(expand(t, alert.Expr, alert.Thresholds))
			if err != nil {
				t.Errorf("%s: %v", alert.Name, err)
			}
			for _, match := range templateLabel.FindAllStringSubmatch(alert.Summary+alert.Description+alert.Impact+alert.Action, -1) {
				if !slices.Contains(labels, match[1]) {
					t.Errorf("%s tells of label %s, but has only %v", alert.Name, match[1], labels)
				}
			}
		}
	}
}

func expand(t *testing.T, expr string, thresholds []alerts.Threshold) string {
	t.Helper()
	expanded, err := alerts.DefaultValues().Expand(expr, thresholds)
	if err != nil {
		t.Errorf("%s: %v", expr, err)
	}
	return expanded
}

var headings = []string{
	"Meaning", "Impact", "What you cannot see now", "First commands", "Diagnosis", "Mitigation", "Escalation", "Threshold reasoning",
}

func TestEveryAlertHasARunbook(t *testing.T) {
	files, err := fs.Glob(alerts.FS, "runbooks/*.md")
	if err != nil || len(files) != len(names()) {
		t.Errorf("%d runbooks for %d alerts: %v", len(files), len(names()), err)
	}
	for _, name := range names() {
		content, err := fs.ReadFile(alerts.FS, "runbooks/"+name+".md")
		if err != nil {
			t.Error(err)
			continue
		}
		parts := strings.Split(string(content), "\n## ")
		if strings.TrimSpace(parts[0]) != "# "+name {
			t.Errorf("runbooks/%s.md is titled %q", name, parts[0])
		}
		var got []string
		for _, part := range parts[1:] {
			heading, text, _ := strings.Cut(part, "\n")
			if strings.TrimSpace(text) == "" {
				t.Errorf("runbooks/%s.md says nothing under %s", name, heading)
			}
			got = append(got, heading)
		}
		if !slices.Equal(got, headings) {
			t.Errorf("runbooks/%s.md has the headings %q", name, got)
		}
	}
}

// TestTexts holds what a person woken at night needs: one sentence, what is so,
// what that means, and what to do first.
func TestTexts(t *testing.T) {
	for _, group := range alerts.Groups() {
		for _, alert := range group.Alerts {
			if !strings.HasSuffix(alert.Summary, ".") || strings.Contains(alert.Summary, "{{") {
				t.Errorf("%s: the summary is not a fixed sentence: %s", alert.Name, alert.Summary)
			}
			for what, text := range map[string]string{"description": alert.Description, "impact": alert.Impact, "action": alert.Action} {
				if !strings.HasSuffix(text, ".") && (alert.Severity == alerts.Critical || alert.Severity == alerts.Warning) {
					t.Errorf("%s: the %s is not a sentence: %q", alert.Key(), what, text)
				}
			}
			if alert.Layer == alerts.Integrity && alert.Mutable {
				t.Errorf("%s: a maintenance window would mute damage", alert.Name)
			}
		}
	}
}

// TestAlertmanager holds where each alert goes: whoever must act, and besides
// them the owners of the application and those who depend on the data.
func TestAlertmanager(t *testing.T) {
	amtool := tool(t, "AMTOOL")
	const file = "alertmanager/alertmanager.yml"
	run(t, ".", amtool, "check-config", file)
	run(t, ".", amtool, "check-config", "alertmanager/receivers.yml")
	tested := make(map[string]bool)
	for _, group := range alerts.Groups() {
		for _, alert := range group.Alerts {
			args := []string{"config", "routes", "test", "--config.file=" + file, "--verify.receivers=" + strings.Join(receivers(alert), ",")}
			name := alert.Name
			if name != "PostgresWatchdog" {
				name = "other" // no other route goes by the name
			}
			args = append(args, "alertname="+name)
			for _, label := range slices.Sorted(maps.Keys(alert.Labels())) {
				args = append(args, label+"="+alert.Labels()[label])
			}
			// Each run of amtool takes time, and most alerts go the same ways.
			if key := strings.Join(args, " "); !tested[key] {
				tested[key] = true
				run(t, ".", amtool, args...)
			}
		}
	}
}

// receivers are who should hear of an alert.
func receivers(alert alerts.Alert) []string {
	critical := alert.Severity == alerts.Critical
	var list []string
	if alert.Name == "PostgresWatchdog" {
		return []string{"watchdog"}
	}
	if alert.Inform && critical {
		list = append(list, "stakeholders")
	}
	if alert.Audience == alerts.Application && critical {
		list = append(list, "application")
	}
	switch {
	case alert.Layer == alerts.Integrity && critical:
		list = append(list, "page-integrity")
	case critical, alert.Layer == alerts.Communication:
		list = append(list, "page")
	case alert.Severity == alerts.Warning && alert.Audience == alerts.Application:
		list = append(list, "application")
	case alert.Severity == alerts.Warning:
		list = append(list, "ticket")
	default:
		list = append(list, "null")
	}
	return list
}
