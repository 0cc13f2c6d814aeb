package collector

import (
	"slices"
	"strings"
	"sync"
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

	once  sync.Once
	order []int // of Labels, by name
}

// sorted gives the places of Labels by name, which is how client libraries write
// them.
func (f *Family) sorted() []int {
	f.once.Do(func() {
		for i := range f.Labels {
			f.order = append(f.order, i)
		}
		slices.SortFunc(f.order, func(a, b int) int { return strings.Compare(f.Labels[a], f.Labels[b]) })
	})
	return f.order
}

func sortFamilies(families []*Family) {
	slices.SortFunc(families, func(a, b *Family) int { return strings.Compare(a.Name, b.Name) })
}
