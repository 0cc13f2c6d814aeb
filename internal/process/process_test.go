package process_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/collectors/version"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"pg_integrity_exporter/internal/process"
)

// TestOwn holds that every family is one of the library's, with its type, help
// text, labels and about its value.
func TestOwn(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), version.NewCollector("pg_integrity_exporter"),
	)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]*dto.MetricFamily)
	for _, family := range families {
		want[family.GetName()] = family
	}
	text := process.New("pg_integrity_exporter").Append(nil)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	got, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds",
		"go_goroutines", "go_memstats_alloc_bytes", "go_info", "pg_integrity_exporter_build_info",
	} {
		if got[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	for name, family := range got {
		theirs := want[name]
		if theirs == nil || theirs.GetHelp() != family.GetHelp() || theirs.GetType() != family.GetType() {
			t.Errorf("%v, not %v", family, theirs)
			continue
		}
		a, b := family.GetMetric()[0], theirs.GetMetric()[0]
		if len(a.GetLabel()) != len(b.GetLabel()) {
			t.Errorf("%v, not %v", a, b)
		}
		if x, y := value(a), value(b); math.Abs(x-y) > 0.5*max(x, y)+2 {
			t.Errorf("%s is %v, not %v", name, x, y)
		}
	}
}

func value(m *dto.Metric) float64 { return m.GetGauge().GetValue() + m.GetCounter().GetValue() }
