package collector

import (
	"pg_integrity_exporter/internal/incident"
	"pg_integrity_exporter/internal/state"
)

var (
	incidentsOpen = &Family{
		Name: Namespace + "incidents_open", Type: Gauge,
		Help:   "Incidents that were opened with the incident command and are not resolved.",
		Source: "the state directory",
	}
	incidentUpdateDue = &Family{
		Name: Namespace + "incident_update_due_timestamp_seconds", Type: Gauge,
		Help:   "When people were promised the next update of an open incident, in seconds since the epoch; 0 is that none is open.",
		Source: "the state directory",
	}
)

// incidentCollector shows whether people wait for news. It asks the server
// nothing.
func incidentCollector(status func() (incident.Status, error)) Collector {
	return Collector{
		Name:     "incident",
		Help:     "Open incidents, and when people were promised to hear more.",
		Families: []*Family{incidentsOpen, incidentUpdateDue},
		Snapshot: func(_ *state.Snapshot, sink *Sink) {
			var s incident.Status
			if status != nil {
				var err error
				if s, err = status(); err != nil {
					sink.err = err
					return
				}
			}
			sink.Add(incidentsOpen, float64(s.Open))
			sink.Add(incidentUpdateDue, timestamp(s.Due))
		},
	}
}
