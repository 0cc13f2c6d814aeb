package incident

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/state"
)

// Evidence is what a report is made from.
type Evidence struct {
	// Target is the server, as the exporter calls it; empty when not known.
	Target   string
	From, To time.Time
	Series   []Series
	Silences []Silence
	// Recorded are events of Alertmanager's event recorder.
	Recorded []Recorded
	// Events begin a day before From: what was done before belongs to the story.
	Events []state.Event
	// Sources says of each source whether it could be read.
	Sources []Source
}

// Source is one place that evidence comes from.
type Source struct {
	Name string `json:"name"`
	Read bool   `json:"read"`
	// Detail is what was read, or why not.
	Detail string `json:"detail"`
}

// Note adds a source and how reading it went.
func (e *Evidence) Note(name string, err error, detail string) {
	if err != nil {
		detail = err.Error()
	}
	e.Sources = append(e.Sources, Source{Name: name, Read: err == nil, Detail: detail})
}

// read says whether a source of that kind could be read.
func (e *Evidence) read(kind string) bool {
	return slices.ContainsFunc(e.Sources, func(s Source) bool { return s.Read && strings.HasPrefix(s.Name, kind) })
}

// The kinds of sources: what their names begin with.
const (
	KindPrometheus   = "Prometheus"
	KindAlertmanager = "Alertmanager"
	KindEvents       = "events"
)

// EventsBefore is how long before From events are looked at.
const EventsBefore = 24 * time.Hour

// The files of evidence in a directory.
const (
	scopeFile    = "scope.json"
	seriesFile   = "prometheus.json"
	silencesFile = "silences.json"
	eventsFile   = "events.jsonl"
	recordedFile = "alertmanager.jsonl"
)

// scope is what the evidence is about.
type scope struct {
	Target string    `json:"target,omitempty"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
}

// Save writes the evidence to a directory, for a report at another time and
// place.
func (e *Evidence) Save(directory string) error {
	if err := os.MkdirAll(directory, 0o750); err != nil {
		return fmt.Errorf("saving the evidence: %w", err)
	}
	var matrix Matrix
	matrix.Status, matrix.Data.ResultType, matrix.Data.Result = "success", "matrix", e.Series
	for name, value := range map[string]any{
		scopeFile: scope{e.Target, e.From.UTC(), e.To.UTC()}, seriesFile: matrix, silencesFile: e.Silences,
	} {
		content, err := json.Marshal(value)
		if err == nil {
			err = os.WriteFile(filepath.Join(directory, name), append(content, '\n'), 0o600)
		}
		if err != nil {
			return fmt.Errorf("saving the evidence: %w", err)
		}
	}
	return errors.Join(saveLines(filepath.Join(directory, eventsFile), e.Events), saveLines(filepath.Join(directory, recordedFile), e.Recorded))
}

// saveLines writes a line of JSON for each of them.
func saveLines[T any](path string, list []T) error {
	var lines strings.Builder
	for _, one := range list {
		line, err := json.Marshal(one)
		if err != nil {
			return fmt.Errorf("saving the evidence: %w", err)
		}
		lines.Write(append(line, '\n'))
	}
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		return fmt.Errorf("saving the evidence: %w", err)
	}
	return nil
}

// Load reads evidence from a directory: what Save wrote, or answers of
// Prometheus (prometheus*.json, from api/v1/query_range), silences
// (silences.json, from api/v2/silences), files of Alertmanager's event recorder
// (alertmanager*.jsonl) and events (events*.jsonl) that somebody put there. Without scope.json, from and to say what it is about.
func Load(directory string, from, to time.Time) (*Evidence, error) {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, fmt.Errorf("reading the evidence: %w", err)
	}
	e := &Evidence{From: from, To: to}
	var known scope
	switch err := readJSON(filepath.Join(directory, scopeFile), &known); {
	case err == nil:
		e.Target = known.Target
		if from.IsZero() {
			e.From, e.To = known.From, known.To
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	for _, entry := range entries {
		name := entry.Name()
		path := filepath.Join(directory, name)
		switch {
		case strings.HasPrefix(name, "prometheus") && strings.HasSuffix(name, ".json"):
			var matrix Matrix
			err := readJSON(path, &matrix)
			if err == nil && matrix.Data.ResultType != "matrix" {
				err = fmt.Errorf("%s is not an answer of api/v1/query_range", name)
			}
			e.Note(KindPrometheus+", "+name, err, fmt.Sprintf("%d series", len(matrix.Data.Result)))
			e.Series = append(e.Series, matrix.Data.Result...)
		case name == silencesFile:
			err := readJSON(path, &e.Silences)
			e.Note(KindAlertmanager+", "+name, err, fmt.Sprintf("%d silences", len(e.Silences)))
		case strings.HasPrefix(name, "alertmanager") && strings.HasSuffix(name, ".jsonl"):
			recorded, err := ReadRecorded(path)
			e.Note(KindAlertmanager+", "+name, err, fmt.Sprintf("%d events", len(recorded)))
			e.Recorded = append(e.Recorded, recorded...)
		case strings.HasSuffix(name, ".jsonl"):
			events, err := ReadEvents(path)
			e.Note(KindEvents+", "+name, err, fmt.Sprintf("%d events", len(events)))
			e.Events = append(e.Events, events...)
		}
	}
	if len(e.Sources) == 0 {
		return nil, fmt.Errorf("%s has no evidence: no prometheus*.json, silences.json or *.jsonl", directory)
	}
	return e, nil
}

func readJSON(path string, into any) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the evidence: %w", err)
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// maxEventLine bounds one event.
const maxEventLine = 1 << 20

// ReadEvents reads a file of the exporter's events. A line that was cut off is
// left out.
func ReadEvents(path string) ([]state.Event, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the events: %w", err)
	}
	defer file.Close() //nolint:errcheck // it is only read
	var events []state.Event
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, maxEventLine)
	for scanner.Scan() {
		var event state.Event
		if json.Unmarshal(scanner.Bytes(), &event) == nil && event.Kind != "" {
			events = append(events, event)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return events, nil
}

// events are the events of some kinds in a stretch of time, the oldest first.
func (e *Evidence) events(from, to time.Time, kinds ...state.EventKind) []state.Event {
	var found []state.Event
	for _, event := range e.Events {
		if slices.Contains(kinds, event.Kind) && !event.Time.Before(from) && event.Time.Before(to) {
			found = append(found, event)
		}
	}
	slices.SortStableFunc(found, func(a, b state.Event) int { return a.Time.Compare(b.Time) })
	return found
}

// named are the series of a metric.
func (e *Evidence) named(name string) []Series {
	var found []Series
	for _, series := range e.Series {
		if series.Name() == name {
			found = append(found, series)
		}
	}
	return found
}

// interval is a stretch of time.
type interval struct{ from, to time.Time }

func (i interval) overlaps(from, to time.Time) bool { return i.from.Before(to) && i.to.After(from) }

// while gives when the condition held, joining samples that follow each other.
func (s Series) while(holds func(value float64) bool) []interval {
	gap := s.spacing() * 5 / 2
	var found []interval
	open := false
	for _, p := range s.Points {
		if !holds(p.Value) {
			open = false
			continue
		}
		if last := len(found) - 1; open && p.Time.Sub(found[last].to) <= gap {
			found[last].to = p.Time
		} else {
			found = append(found, interval{p.Time, p.Time})
		}
		open = true
	}
	return found
}

// spacing is the usual distance of two samples.
func (s Series) spacing() time.Duration {
	var distances []time.Duration
	for i := 1; i < len(s.Points); i++ {
		distances = append(distances, s.Points[i].Time.Sub(s.Points[i-1].Time))
	}
	if len(distances) == 0 {
		return time.Minute
	}
	slices.Sort(distances)
	return distances[len(distances)/2]
}

// increase is how much a counter rose from one moment to another. A counter
// that was set back goes on from 0, and one that begins later than the others
// began at 0 when bornAtZero says so.
func (s Series) increase(from, to time.Time, bornAtZero bool) float64 {
	total, seen := 0.0, false
	last := 0.0
	for _, p := range s.Points {
		if p.Time.After(to) {
			break
		}
		if p.Time.Before(from) {
			last, seen = p.Value, true
			continue
		}
		switch {
		case !seen && bornAtZero, seen && p.Value < last:
			total += p.Value
		case seen:
			total += p.Value - last
		}
		last, seen = p.Value, true
	}
	return total
}
