// Package process shows what the exporter's own process uses, under the names that
// client libraries have for it and at a tenth of their cost.
package process

import (
	"bytes"
	"fmt"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/expfmt"
)

// Own is the metrics of the process itself.
type Own struct {
	fixed   []byte // families whose value stays
	process processReader

	mu      sync.Mutex
	samples []metrics.Sample
}

// goFamilies are those of the Go runtime that say what an exporter uses.
var goFamilies = []struct {
	family

	source string // in runtime/metrics
}{
	{gauge("go_gc_gogc_percent", "Heap size target percentage configured by the user, otherwise 100. This value is set by the GOGC environment variable, and the runtime/debug.SetGCPercent function. Sourced from /gc/gogc:percent."), "/gc/gogc:percent"},
	{gauge("go_gc_gomemlimit_bytes", "Go runtime memory limit configured by the user, otherwise math.MaxInt64. This value is set by the GOMEMLIMIT environment variable, and the runtime/debug.SetMemoryLimit function. Sourced from /gc/gomemlimit:bytes."), "/gc/gomemlimit:bytes"},
	{gauge("go_goroutines", "Number of goroutines that currently exist."), "/sched/goroutines:goroutines"},
	{gauge("go_memstats_alloc_bytes", "Number of bytes allocated in heap and currently in use. Equals to /memory/classes/heap/objects:bytes."), "/memory/classes/heap/objects:bytes"},
	{counter("go_memstats_alloc_bytes_total", "Total number of bytes allocated in heap until now, even if released already. Equals to /gc/heap/allocs:bytes."), "/gc/heap/allocs:bytes"},
	{gauge("go_memstats_next_gc_bytes", "Number of heap bytes when next garbage collection will take place. Equals to /gc/heap/goal:bytes."), "/gc/heap/goal:bytes"},
	{gauge("go_memstats_stack_inuse_bytes", "Number of bytes obtained from system for stack allocator in non-CGO environments. Equals to /memory/classes/heap/stacks:bytes."), "/memory/classes/heap/stacks:bytes"},
	{gauge("go_memstats_sys_bytes", "Number of bytes obtained from system. Equals to /memory/classes/total:byte."), "/memory/classes/total:bytes"},
	{gauge("go_sched_gomaxprocs_threads", "The current runtime.GOMAXPROCS setting, or the number of operating system threads that can execute user-level Go code simultaneously. Sourced from /sched/gomaxprocs:threads."), "/sched/gomaxprocs:threads"},
}

// New makes the metrics of a process; program is the first word of the name of its
// build_info.
func New(program string) *Own {
	o := &Own{process: newProcessReader(), samples: make([]metrics.Sample, len(goFamilies))}
	for i := range goFamilies {
		o.samples[i].Name = goFamilies[i].source
	}
	o.fixed = gauge("go_info", "Information about the Go environment.").append(nil, 1, `{version="`+runtime.Version()+`"}`)
	o.fixed = append(o.fixed, library(version.NewCollector(program))...)
	return o
}

// Append adds the metrics, in the text format, to text. What cannot be read is
// left out.
func (o *Own) Append(text []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	metrics.Read(o.samples)
	for i, sample := range o.samples {
		if sample.Value.Kind() == metrics.KindUint64 {
			text = goFamilies[i].append(text, float64(sample.Value.Uint64()), "")
		}
	}
	return append(o.process.append(text), o.fixed...)
}

// family is one family without its value.
type family struct{ head, name string }

func gauge(name, help string) family   { return newFamily(name, help, "gauge") }
func counter(name, help string) family { return newFamily(name, help, "counter") }

func newFamily(name, help, kind string) family {
	return family{fmt.Sprintf("# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind), name}
}

func (f family) append(text []byte, value float64, labels string) []byte {
	text = append(append(append(text, f.head...), f.name...), labels...)
	text = strconv.AppendFloat(append(text, ' '), value, 'g', -1, 64)
	return append(text, '\n')
}

// library is what one of the library's own collectors gives now.
func library(collector prometheus.Collector) []byte {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector)
	families, _ := registry.Gather() // what it could not read is not there
	var text bytes.Buffer
	for _, family := range families {
		_, _ = expfmt.MetricFamilyToText(&text, family) // a buffer takes everything
	}
	return text.Bytes()
}

// processFamilies are the library's families of the process.
func processFamilies() []byte {
	return library(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}
