package web

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// formats are the text formats.
var formats = []expfmt.Format{expfmt.NewFormat(expfmt.TypeTextPlain), expfmt.NewFormat(expfmt.TypeOpenMetrics)}

// names name the formats.
var names = []string{"text", "openmetrics"}

// families are of every kind, with values and names that are hard to write.
func families(t testing.TB) []*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "a_gauge", Help: "With \"quotes\", \\ and\na line break."}, []string{"datname", "relname"})
	for n, value := range []float64{0, 1, -1, 1e21, 1.5, 0.1, 1795641405.8345306, math.MaxFloat64, math.NaN(), math.Inf(1), math.Inf(-1), 4503599627370497} {
		gauge.WithLabelValues(hostile[n%len(hostile)], string(rune('a'+n))).Set(value)
	}
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "a_counter_total", Help: "Counts."}, []string{"kind"})
	counter.WithLabelValues("").Add(3)
	bare := prometheus.NewCounter(prometheus.CounterOpts{Name: "bare", Help: "A counter without the suffix."})
	histogram := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "a_histogram", Help: "Spread."})
	histogram.Observe(0.3)
	registry.MustRegister(gauge, counter, bare, histogram, collectors.NewGoCollector())
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestText holds that what is written is what the library writes, byte by byte.
func TestText(t *testing.T) {
	t.Parallel()
	all := families(t)
	for _, format := range formats {
		var want bytes.Buffer
		encoder := expfmt.NewEncoder(&want, format)
		for _, family := range all {
			if err := encoder.Encode(family); err != nil {
				t.Fatal(err)
			}
		}
		if closer, ok := encoder.(expfmt.Closer); ok {
			if err := closer.Close(); err != nil {
				t.Fatal(err)
			}
		}
		got := new(textWriter)
		if err := encode(got, format, [][]*dto.MetricFamily{all}); err != nil {
			t.Fatal(err)
		}
		if want.Len() < 3000 {
			t.Errorf("%s: only %d bytes are compared", format, want.Len())
		}
		written, wanted := strings.Split(got.String(), "\n"), strings.Split(want.String(), "\n")
		for n := range max(len(written), len(wanted)) {
			if n >= len(written) || n >= len(wanted) || written[n] != wanted[n] {
				t.Errorf("%s: from line %d on: written\n%s\nwant\n%s", format, n+1, strings.Join(written[n:], "\n"), strings.Join(wanted[n:], "\n"))
				break
			}
		}
	}
}

// BenchmarkText writes families beside the library.
func BenchmarkText(b *testing.B) {
	all := families(b)
	for n, format := range formats {
		b.Run(names[n]+"/ours", func(b *testing.B) {
			text := new(textWriter)
			for b.Loop() {
				text.Reset()
				if err := encode(text, format, [][]*dto.MetricFamily{all}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(names[n]+"/library", func(b *testing.B) {
			var out bytes.Buffer
			for b.Loop() {
				out.Reset()
				encoder := expfmt.NewEncoder(&out, format)
				for _, family := range all {
					if err := encoder.Encode(family); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
