package collector

import (
	"fmt"
	"io"

	"pg_integrity_exporter/internal/recovery"
)

// WriteDrills writes the metrics of the drills of one repository in the text
// format, for the textfile collector of node_exporter where no exporter of ours
// runs.
func WriteDrills(w io.Writer, watched recovery.Watched, history recovery.History) error {
	sink := newSink(recoveryFamilies)
	defer sink.free()
	emitDrills(watched, history, sink)
	if err := sink.finish(); err != nil {
		return err
	}
	if _, err := w.Write(write(nil, []*Sink{sink})); err != nil {
		return fmt.Errorf("writing metrics: %w", err)
	}
	return nil
}
