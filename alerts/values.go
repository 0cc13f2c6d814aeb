package alerts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// Values are what can be changed in the rules without a fork: the values file
// of `alerts export`.
type Values struct {
	// Job is the scrape job of the exporters.
	Job string `yaml:"job"`
	// ClusterLabel is a label that tells apart servers whose job and instance are
	// the same, as in Thanos and Mimir; empty is none.
	ClusterLabel string `yaml:"cluster_label"`
	// RunbookURL is what the name of the alert is appended to.
	RunbookURL string `yaml:"runbook_url"`
	// DashboardURL is what the UID of a dashboard is appended to, as
	// https://grafana.example.org/d/; empty leaves out the links.
	DashboardURL string `yaml:"dashboard_url"`
	// Labels are added to every alert.
	Labels map[string]string `yaml:"labels"`
	// Kubernetes says what the manifest is called.
	Kubernetes KubernetesValues `yaml:"kubernetes"`
	// Alerts changes alerts by NAME, or by NAME/SEVERITY where a name has two.
	Alerts map[string]AlertValues `yaml:"alerts"`
}

// KubernetesValues is the metadata of the PrometheusRule.
type KubernetesValues struct {
	Namespace string            `yaml:"namespace"`
	Labels    map[string]string `yaml:"labels"`
}

// AlertValues changes one alert; what is not given stays as it is.
type AlertValues struct {
	Enabled       *bool              `yaml:"enabled,omitempty"`
	For           *model.Duration    `yaml:"for,omitempty"`
	KeepFiringFor *model.Duration    `yaml:"keep_firing_for,omitempty"`
	Severity      Severity           `yaml:"severity,omitempty"`
	Thresholds    map[string]float64 `yaml:"thresholds,omitempty"`
}

// DefaultValues write the rules that ship: the exporter itself serves the
// runbooks.
func DefaultValues() Values {
	return Values{
		Job: "pg_integrity_exporter", RunbookURL: "http://{{ $labels.instance }}/runbooks/",
		Labels: map[string]string{}, Alerts: map[string]AlertValues{},
	}
}

// ParseValues reads a values file. A key, alert or threshold that does not
// exist is an error.
func ParseValues(content []byte) (Values, error) {
	values := DefaultValues()
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&values); err != nil && !errors.Is(err, io.EOF) {
		text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:\n")
		return Values{}, errors.New(strings.Join(strings.Fields(text), " "))
	}
	return values, values.Validate()
}

var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// Validate gives an error for what no rule can be made of.
func (v Values) Validate() error {
	if v.Job == "" {
		return errors.New("job: the scrape job must have a name")
	}
	if v.ClusterLabel != "" && !labelName.MatchString(v.ClusterLabel) {
		return fmt.Errorf("cluster_label: %q is not the name of a label", v.ClusterLabel)
	}
	reserved := Alert{Inform: true, NeedsDatabase: true, Mutable: true}.Labels()
	for name := range v.Labels {
		if _, ours := reserved[name]; ours || !labelName.MatchString(name) {
			return fmt.Errorf("labels: %q cannot be added", name)
		}
	}
	known := make(map[string]map[string]bool)
	for _, group := range Groups() {
		for _, a := range group.Alerts {
			for _, key := range []string{a.Name, a.Key()} {
				if known[key] == nil {
					known[key] = make(map[string]bool)
				}
				for _, t := range a.Thresholds {
					known[key][t.Name] = true
				}
			}
		}
	}
	for key, given := range v.Alerts {
		thresholds, ok := known[key]
		if !ok {
			return fmt.Errorf("alerts: there is no alert %s", key)
		}
		for name := range given.Thresholds {
			if !thresholds[name] {
				return fmt.Errorf("alerts.%s.thresholds: there is no threshold %s; it has: %s",
					key, name, strings.Join(slices.Sorted(maps.Keys(thresholds)), ", "))
			}
		}
		if !slices.Contains([]Severity{"", Critical, Warning, Info, None}, given.Severity) {
			return fmt.Errorf("alerts.%s.severity: %q is not critical, warning, info or none", key, given.Severity)
		}
	}
	return nil
}

// apply changes one alert; it is not written at all when it is not enabled.
func (v Values) apply(a Alert) (changed Alert, enabled bool) {
	enabled = true
	for _, key := range []string{a.Name, a.Key()} {
		given := v.Alerts[key]
		if given.Enabled != nil {
			enabled = *given.Enabled
		}
		if given.For != nil {
			a.For = time.Duration(*given.For)
		}
		if given.KeepFiringFor != nil {
			a.KeepFiringFor = time.Duration(*given.KeepFiringFor)
		}
		a.Thresholds = slices.Clone(a.Thresholds)
		for i, t := range a.Thresholds {
			if value, ok := given.Thresholds[t.Name]; ok {
				a.Thresholds[i].Value = value
			}
		}
	}
	// Last, because the key is made of the severity that ships; the more exact one
	// wins.
	for _, key := range []string{a.Key(), a.Name} {
		if severity := v.Alerts[key].Severity; severity != "" {
			a.Severity = severity
			break
		}
	}
	return a, enabled
}

// Complete is the values with everything spelled out that can be changed: each
// alert with its waiting times, severity and thresholds.
func (v Values) Complete() Values {
	all := make(map[string]AlertValues)
	for _, group := range Groups() {
		for _, shipped := range group.Alerts {
			a, enabled := v.apply(shipped)
			hold, keep := model.Duration(a.For), model.Duration(a.KeepFiringFor)
			thresholds := make(map[string]float64)
			for _, t := range a.Thresholds {
				thresholds[t.Name] = t.Value
			}
			all[shipped.Key()] = AlertValues{
				Enabled: &enabled, For: &hold, KeepFiringFor: &keep, Severity: a.Severity, Thresholds: thresholds,
			}
		}
	}
	v.Alerts = all
	return v
}

// YAML is the values as a values file.
func (v Values) YAML() ([]byte, error) { return encode(v) }
