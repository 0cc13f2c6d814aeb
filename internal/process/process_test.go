package process_test

import (
	"math"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"pg_integrity_exporter/internal/process"
)

// TestCollector holds that every family is one of the library's, with its type,
// help text and about its value.
func TestCollector(t *testing.T) {
	t.Parallel()
	want := gather(t, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	got := gather(t, process.NewCollector())
	for _, name := range []string{"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"} {
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
		a, b := value(family), value(theirs)
		if math.Abs(a-b) > 0.5*max(a, b)+2 {
			t.Errorf("%s is %v, not %v", name, a, b)
		}
	}
}

func value(family *dto.MetricFamily) float64 {
	m := family.GetMetric()[0]
	return m.GetGauge().GetValue() + m.GetCounter().GetValue()
}

func gather(t *testing.T, collector prometheus.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(collector); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]*dto.MetricFamily)
	for _, family := range families {
		byName[family.GetName()] = family
	}
	return byName
}
