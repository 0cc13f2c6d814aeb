package collector

import (
	"fmt"
	"io"

	"github.com/prometheus/common/expfmt"

	"pg_integrity_exporter/internal/recovery"
)

// WriteDrills writes the metrics of the drills of one repository in the text
// format, for the textfile collector of node_exporter where no exporter of ours
// runs.
func WriteDrills(w io.Writer, watched recovery.Watched, history recovery.History) error {
	sink := newSink(recoveryFamilies)
	emitDrills(watched, history, sink)
	if sink.err != nil {
		return sink.err
	}
	out := newPage()
	out.add(sink)
	for _, family := range out.sorted() {
		if _, err := expfmt.MetricFamilyToText(w, family); err != nil {
			return fmt.Errorf("writing metrics: %w", err)
		}
	}
	return nil
}
