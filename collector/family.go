package collector

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"
)

// Namespace is the first part of every metric name.
const Namespace = "pgintegrity_"

// Type is the Prometheus type of a family.
type Type int

// The types of metric families that exist here.
const (
	Gauge Type = iota
	Counter
)

// String is the type as the exposition format writes it.
func (t Type) String() string {
	if t == Counter {
		return "counter"
	}
	return "gauge"
}

// Family is one metric family as data. Documentation, tests, rules and
// dashboards are checked against it.
type Family struct {
	// Name is the full metric name.
	Name string
	// Help is the HELP text: one sentence with the unit where it is not obvious
	// and with what 0 means.
	Help string
	// Type is the Prometheus type.
	Type Type
	// Labels are the label names, in the order in which values are given.
	Labels []string
	// Source is the view and column that the value comes from, with the first
	// server version that has it when that is not 13.
	Source string
}

// Sink takes the samples of one collector during one scrape.
type Sink struct {
	families []*Family
	samples  map[*Family][]*dto.Metric
	seen     map[uint64]struct{} // hashes of series
	hash     maphash.Hash
	err      error
}

func newSink(families []*Family) *Sink {
	return &Sink{
		families: families,
		samples:  make(map[*Family][]*dto.Metric, len(families)),
		seen:     make(map[uint64]struct{}),
	}
}

// Add takes one sample. A family that the collector did not declare, a wrong
// number of label values or the same series twice make the whole collector
// fail. Bytes that are not UTF-8 (names in a database of encoding SQL_ASCII)
// are replaced.
func (s *Sink) Add(family *Family, value float64, labelValues ...string) {
	if s.err != nil {
		return
	}
	if !slices.Contains(s.families, family) {
		s.err = fmt.Errorf("metric %s is not declared by this collector", family.Name)
		return
	}
	if len(labelValues) != len(family.Labels) {
		s.err = fmt.Errorf("metric %s has %d labels, not %d", family.Name, len(family.Labels), len(labelValues))
		return
	}
	made := &sample{value: value}
	pairs := make([]pair, len(labelValues))
	made.metric.Label = make([]*dto.LabelPair, 0, len(labelValues))
	for i := range family.Labels {
		p := &pairs[i]
		p.value = labelValues[i] //nolint:gosec // the lengths are compared above
		if !utf8.ValidString(p.value) {
			p.value = strings.ToValidUTF8(p.value, "\uFFFD")
		}
		if p.value == "" {
			continue // an empty label is no label
		}
		p.label.Name, p.label.Value = &family.Labels[i], &p.value
		made.metric.Label = append(made.metric.Label, &p.label)
	}
	metric := &made.metric
	slices.SortFunc(metric.GetLabel(), func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	key := s.seriesKey(family, metric)
	if _, twice := s.seen[key]; twice {
		s.err = fmt.Errorf("metric %s was collected twice with the same labels", family.Name)
		return
	}
	s.seen[key] = struct{}{}
	if family.Type == Counter {
		made.counter.Value, metric.Counter = &made.value, &made.counter
	} else {
		made.gauge.Value, metric.Gauge = &made.value, &made.gauge
	}
	s.samples[family] = append(s.samples[family], metric)
}

// AddBool takes one sample that is 1 for true and 0 for false.
func (s *Sink) AddBool(family *Family, value bool, labelValues ...string) {
	number := 0.0
	if value {
		number = 1
	}
	s.Add(family, number, labelValues...)
}

// sample and pair hold what a series consists of, so that it is made at once:
// there are many.
type (
	sample struct {
		metric  dto.Metric
		gauge   dto.Gauge
		counter dto.Counter
		value   float64
	}
	pair struct {
		label dto.LabelPair
		value string
	}
)

func (s *Sink) seriesKey(family *Family, metric *dto.Metric) uint64 {
	s.hash.Reset()
	write := func(text string) {
		_, _ = s.hash.WriteString(text) // it never fails
		_ = s.hash.WriteByte(0)
	}
	write(family.Name)
	for _, label := range metric.GetLabel() {
		write(label.GetName())
		write(label.GetValue())
	}
	return s.hash.Sum64()
}

// page collects the samples of many sinks into the families of one
// exposition.
type page struct {
	families map[string]*dto.MetricFamily
}

func newPage() *page {
	return &page{families: make(map[string]*dto.MetricFamily)}
}

func (p *page) add(sink *Sink) {
	for _, family := range sink.families {
		samples := sink.samples[family]
		if len(samples) == 0 {
			continue
		}
		mf, ok := p.families[family.Name]
		if !ok {
			kind := dto.MetricType_GAUGE
			if family.Type == Counter {
				kind = dto.MetricType_COUNTER
			}
			mf = &dto.MetricFamily{Name: &family.Name, Help: &family.Help, Type: &kind}
			p.families[family.Name] = mf
		}
		mf.Metric = append(mf.Metric, samples...)
	}
}

// sorted lists the families by name and their series by labels.
func (p *page) sorted() []*dto.MetricFamily {
	result := make([]*dto.MetricFamily, 0, len(p.families))
	for _, family := range p.families {
		slices.SortFunc(family.GetMetric(), compareMetrics)
		// The same series from two collectors would make Prometheus refuse all.
		family.Metric = slices.CompactFunc(family.GetMetric(), func(a, b *dto.Metric) bool { return compareMetrics(a, b) == 0 })
		result = append(result, family)
	}
	slices.SortFunc(result, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return result
}

func compareMetrics(a, b *dto.Metric) int {
	for i := range min(len(a.GetLabel()), len(b.GetLabel())) {
		if c := strings.Compare(a.GetLabel()[i].GetName(), b.GetLabel()[i].GetName()); c != 0 {
			return c
		}
		if c := strings.Compare(a.GetLabel()[i].GetValue(), b.GetLabel()[i].GetValue()); c != 0 {
			return c
		}
	}
	return len(a.GetLabel()) - len(b.GetLabel())
}
