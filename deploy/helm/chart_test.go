// Package helm_test holds the Helm chart against the rules, dashboards and
// configuration of the exporter.
package helm_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"pg_integrity_exporter/internal/config"
)

const chart = "pg-integrity-exporter"

// object is a thing of Kubernetes.
type object = map[string]any

func read(t *testing.T, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestSchema holds that the schema knows the keys of the values, and no others.
func TestSchema(t *testing.T) {
	t.Parallel()
	var values map[string]any
	var schema struct {
		Properties map[string]struct {
			AdditionalProperties *bool          `yaml:"additionalProperties"`
			Properties           map[string]any `yaml:"properties"`
		} `yaml:"properties"`
	}
	read(t, filepath.Join(chart, "values.yaml"), &values)
	read(t, filepath.Join(chart, "values.schema.json"), &schema)
	delete(schema.Properties, "global")
	keys := func(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
	if diff := cmp.Diff(keys(values), slices.Sorted(maps.Keys(schema.Properties))); diff != "" {
		t.Errorf("keys of values and schema:\n%s", diff)
	}
	for name, property := range schema.Properties {
		if property.Properties == nil {
			continue
		}
		known, _ := values[name].(map[string]any)
		if diff := cmp.Diff(keys(known), keys(property.Properties)); diff != "" || property.AdditionalProperties == nil || *property.AdditionalProperties {
			t.Errorf("keys of %s in values and schema:\n%s", name, diff)
		}
	}
}

// TestFiles holds that the chart has the rules and dashboards themselves.
func TestFiles(t *testing.T) {
	t.Parallel()
	for link, want := range map[string]string{"rules": "../../alerts/rules", "dashboards": "../../dashboards"} {
		got, err := filepath.EvalSymlinks(filepath.Join(chart, "files", link))
		if err != nil || filepath.Clean(got) != filepath.Clean(want) {
			t.Errorf("%s is %s (%v)", link, got, err)
		}
	}
}

func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	program := os.Getenv("HELM")
	if program == "" {
		var err error
		if program, err = exec.LookPath("helm"); err != nil {
			t.Skip("no helm: make helm builds it")
		}
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", errors.New(stderr.String() + string(out))
	}
	return string(out), nil
}

// checkTypes holds objects against the Go types of Kubernetes and of the Prometheus
// operator, which know no other fields: see tools/kubernetes.
func checkTypes(t *testing.T, objects string) {
	t.Helper()
	program := os.Getenv("KUBERNETES")
	if program == "" {
		return // make helm builds it
	}
	cmd := exec.Command(program)
	cmd.Stdin = strings.NewReader(objects)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}

// TestKubernetes holds the recipe that needs no chart against the types.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../kubernetes/drill-cronjob.yaml")
	if err != nil {
		t.Fatal(err)
	}
	checkTypes(t, string(content))
}

// render gives what a release with the values consists of, by kind and name.
func render(t *testing.T, values string) map[string]object {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := helm(t, "lint", "--strict", "--kube-version=1.30.0", chart, "--values="+file); err != nil {
		t.Errorf("lint: %v %s", err, out)
	}
	out, err := helm(t, "template", "watch", chart, "--kube-version=1.30.0", "--namespace=db", "--values="+file)
	if err != nil {
		t.Fatal(err)
	}
	checkTypes(t, out)
	objects := make(map[string]object)
	decoder := yaml.NewDecoder(strings.NewReader(out))
	for {
		var o object
		if err := decoder.Decode(&o); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatalf("%v in:\n%s", err, out)
		}
		if o == nil {
			continue
		}
		if at(o, "metadata", "labels", "app.kubernetes.io/instance") != "watch" {
			t.Errorf("%v %v has no labels", o["kind"], at(o, "metadata", "name"))
		}
		objects[fmt.Sprint(o["kind"], " ", at(o, "metadata", "name"))] = o
	}
}

// at goes down keys and numbers.
func at(value any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := value.(map[string]any)
			value = m[step]
		case int:
			list, _ := value.([]any)
			if step >= len(list) {
				return nil
			}
			value = list[step]
		}
	}
	return value
}

const name = "watch-pg-integrity-exporter"

// TestSmallest renders the least that a user gives.
func TestSmallest(t *testing.T) {
	t.Parallel()
	objects := render(t, "datasource: {uri: 'db:5432/postgres?sslmode=verify-full', passwordSecret: {name: monitor}}\n")
	want := []string{"Deployment ", "PersistentVolumeClaim ", "Secret ", "Service ", "ServiceAccount "}
	for i := range want {
		want[i] += name
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(objects))); diff != "" {
		t.Errorf("objects:\n%s", diff)
	}
	pod := at(objects["Deployment "+name], "spec", "template", "spec")
	container := at(pod, "containers", 0)
	for what, holds := range map[string]bool{
		"not root":           at(pod, "securityContext", "runAsNonRoot") == true,
		"seccomp":            at(pod, "securityContext", "seccompProfile", "type") == "RuntimeDefault",
		"no more rights":     at(container, "securityContext", "allowPrivilegeEscalation") == false,
		"read-only files":    at(container, "securityContext", "readOnlyRootFilesystem") == true,
		"no capabilities":    at(container, "securityContext", "capabilities", "drop", 0) == "ALL",
		"no token":           at(pod, "automountServiceAccountToken") == false,
		"one at a time":      at(objects["Deployment "+name], "spec", "strategy", "type") == "Recreate",
		"a limit of memory":  at(container, "resources", "limits", "memory") != nil,
		"a password as file": strings.Contains(fmt.Sprint(at(container, "env")), "DATA_SOURCE_PASS_FILE"),
	} {
		if !holds {
			t.Errorf("not so: %s", what)
		}
	}
}

// TestEverything renders all there is, and holds rules, dashboards and
// configuration against their sources.
func TestEverything(t *testing.T) {
	t.Parallel()
	objects := render(t, `
image: {digest: "sha256:`+strings.Repeat("0a", 32)+`"}
config:
  targets:
    - {name: orders, target: {dsn_file: /etc/orders/dsn}}
    - {name: billing, target: {dsn_file: /etc/billing/dsn}}
  limits: {check_rate: 16MiB}
datasource: {uri: "db:5432/postgres", passwordSecret: {name: monitor, key: pw}, tlsSecret: db-tls}
webConfigSecret: web
serviceMonitor: {enabled: true, labels: {release: prometheus}, scheme: https, tlsConfig: {insecureSkipVerify: true}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
dashboards: {enabled: true}
networkPolicy: {enabled: true, from: [{namespaceSelector: {matchLabels: {team: monitoring}}}], egress: [{ports: [{port: 5433}]}]}
persistence: {existingClaim: mine}
extraArgs: [--log.level=debug]
extraEnv: [{name: TZ, value: UTC}]
extraVolumes: [{name: backups, emptyDir: {}}]
extraVolumeMounts: [{name: backups, mountPath: /backups, readOnly: true}]
nodeSelector: {disk: ssd}
tolerations: [{operator: Exists}]
priorityClassName: high
podLabels: {team: db}
podAnnotations: {a: b}
`)
	if _, err := config.Parse([]byte(fmt.Sprint(at(objects["Secret "+name], "stringData", "config.yml")))); err != nil {
		t.Errorf("the configuration: %v", err)
	}
	if _, there := objects["PersistentVolumeClaim "+name]; there {
		t.Error("a claim beside the user's own")
	}
	if image := fmt.Sprint(at(objects["Deployment "+name], "spec", "template", "spec", "containers", 0, "image")); !strings.HasPrefix(image, "pg_integrity_exporter@sha256:") {
		t.Errorf("image %s", image)
	}
	endpoints, _ := at(objects["ServiceMonitor "+name], "spec", "endpoints").([]any)
	if len(endpoints) != 3 || at(endpoints, 2, "params", "target", 0) != "billing" || at(endpoints, 0, "relabelings", 0, "replacement") != "pg_integrity_exporter" {
		t.Errorf("endpoints: %v", endpoints)
	}

	var rules []any
	files, err := filepath.Glob("../../alerts/rules/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no rules: %v", err)
	}
	for _, file := range files {
		var content struct{ Groups []any }
		read(t, file, &content)
		rules = append(rules, content.Groups...)
	}
	if diff := cmp.Diff(rules, at(objects["PrometheusRule "+name], "spec", "groups")); diff != "" {
		t.Errorf("the rules are not those of alerts/rules:\n%s", diff)
	}

	files, err = filepath.Glob("../../dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	for _, file := range files {
		base := filepath.Base(file)
		o := objects["ConfigMap "+name+"-"+strings.TrimSuffix(base, ".json")]
		var want, got any
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := at(o, "data", "postgres-integrity-"+base).(string)
		if err := errors.Join(json.Unmarshal(content, &want), json.Unmarshal([]byte(text), &got)); err != nil {
			t.Errorf("%s: %v", base, err)
		}
		if diff := cmp.Diff(want, got); diff != "" || at(o, "metadata", "labels", "grafana_dashboard") != "1" {
			t.Errorf("%s is not the dashboard, or the sidecar does not find it:\n%s", base, diff)
		}
	}
}

// TestOthers renders what excludes the rest, and what must fail.
func TestOthers(t *testing.T) {
	t.Parallel()
	objects := render(t, "existingConfigSecret: mine\npodMonitor: {enabled: true}\npersistence: {enabled: false}\nserviceAccount: {create: false}\nfullnameOverride: w\n")
	if got := slices.Sorted(maps.Keys(objects)); !slices.Equal(got, []string{"Deployment w", "PodMonitor w", "Service w"}) {
		t.Errorf("objects: %v", got)
	}
	for values, want := range map[string]string{
		"":                                     "name the server to watch",
		"datasource: {uri: 'u:password@db/x'}": "datasource",
		"datasource: {uri: db/x, dns: y}":      "dns",
		"frobnicate: 1":                        "frobnicate",
		"config: {a: b}\npodMonitor: {enabled: true}\nserviceMonitor: {enabled: true}": "scrape everything twice",
	} {
		file := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := helm(t, "template", "watch", chart, "--kube-version=1.30.0", "--values="+file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v\n%.500s", values, err, out)
		}
	}
}
