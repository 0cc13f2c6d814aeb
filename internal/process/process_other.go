//go:build !linux

// Package process shows what the exporter's own process uses, under the names that
// client libraries have for it.
package process

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewCollector is collectors.NewProcessCollector.
func NewCollector() prometheus.Collector {
	return collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})
}
