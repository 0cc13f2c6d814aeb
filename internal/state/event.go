package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/owner"
)

// EventKind says what happened. The values are a closed list.
type EventKind string

// The kinds of events. Each has one writer.
const (
	EventAcknowledged      EventKind = "acknowledged"
	EventBaselineAccepted  EventKind = "baseline_accepted"
	EventCorruption        EventKind = "corruption" // the log told of damage
	EventDrill             EventKind = "drill"
	EventExporterStarted   EventKind = "exporter_started"
	EventExporterStopped   EventKind = "exporter_stopped"
	EventFindingCleared    EventKind = "finding_cleared"
	EventFindingOpened     EventKind = "finding_opened"
	EventGuard             EventKind = "guard"
	EventMaintenance       EventKind = "maintenance"
	EventServerDown        EventKind = "server_down"
	EventServerLog         EventKind = "server_log" // the log told of a crash, a recovery or failed archiving
	EventServerRestarted   EventKind = "server_restarted"
	EventServerUp          EventKind = "server_up"
	EventStakeholderUpdate EventKind = "stakeholder_update"
	EventWindowClosed      EventKind = "window_closed"
	EventWindowOpened      EventKind = "window_opened"
)

// Event is one thing that happened to a target, for the timeline of pages and
// reports. Facts that are not known are left out.
type Event struct {
	// Time is when it happened, or began.
	Time time.Time `json:"time"`
	// Ended is when it ended; zero for what has no duration or goes on.
	Ended    time.Time      `json:"ended,omitzero"`
	Kind     EventKind      `json:"kind"`
	Severity check.Severity `json:"severity,omitempty"`
	Database string         `json:"database,omitempty"`
	Schema   string         `json:"schema,omitempty"`
	Relation string         `json:"relation,omitempty"`
	// Message is what happened, in one sentence.
	Message string `json:"message"`
	// Source is where that is known from: a view, the log, a command.
	Source string `json:"source"`
	// Details are further facts, by name.
	Details map[string]string `json:"details,omitempty"`
}

const (
	// eventsDirectory holds one file of events for each month (UTC), one JSON
	// object a line.
	eventsDirectory = "events"
	eventsSuffix    = ".jsonl"
	// maxEventsFile bounds the events of one month, so that a storm of events
	// does not fill the disk.
	maxEventsFile = 32 << 20
	// keptMonths is how many files are kept.
	keptMonths = 14
	// maxEventsInMemory bounds the events of a target without a directory.
	maxEventsInMemory = 10000
)

// ErrEventsFull says that this month has as many events as are kept.
var ErrEventsFull = errors.New("the event log of this month is full")

// Record adds an event. Any number of processes may do so at once: an event is
// one write at the end of the file. A line that a kill cut off is left out by
// Events.
func (f *Files) Record(event Event) error {
	if event.Time.IsZero() {
		event.Time = time.Now()
	}
	event.Time = event.Time.UTC()
	if f.directory == "" {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.events = append(f.events, event)
		f.events = f.events[max(0, len(f.events)-maxEventsInMemory):]
		return nil
	}
	line, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("recording an event: %w", err)
	}
	directory := filepath.Join(f.directory, eventsDirectory)
	path := filepath.Join(directory, event.Time.Format("2006-01")+eventsSuffix)
	if err := appendLine(path, line); err != nil {
		return fmt.Errorf("recording an event: %w", err)
	}
	return nil
}

func appendLine(path string, line []byte) error {
	if err := owner.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	_, err := os.Stat(path)
	created := errors.Is(err, fs.ErrNotExist)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // what matters is Sync
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() >= maxEventsFile {
		return ErrEventsFull
	}
	if size := info.Size(); size > 0 {
		// A line that was cut off must not swallow this one.
		last := make([]byte, 1)
		if _, err := file.ReadAt(last, size-1); err == nil && last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	if _, err := file.Write(append(line, '\n')); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if created {
		return errors.Join(owner.Give(path), forgetOldEvents(filepath.Dir(path)))
	}
	return nil
}

// forgetOldEvents removes the files of more than keptMonths months.
func forgetOldEvents(directory string) error {
	files, err := eventFiles(directory)
	if err != nil {
		return err
	}
	for len(files) > keptMonths {
		if err := os.Remove(filepath.Join(directory, files[0])); err != nil {
			return err
		}
		files = files[1:]
	}
	return syncDirectory(directory)
}

// eventFiles lists the files of events, the oldest first.
func eventFiles(directory string) ([]string, error) {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), eventsSuffix) {
			files = append(files, entry.Name())
		}
	}
	slices.Sort(files)
	return files, nil
}

// Events gives what happened in [from, to), the oldest first. What began
// before and had not ended at from is included.
func (f *Files) Events(from, to time.Time) ([]Event, error) {
	all, err := f.allEvents(to)
	if err != nil {
		return nil, fmt.Errorf("reading the events: %w", err)
	}
	events := slices.DeleteFunc(all, func(e Event) bool {
		return !e.Time.Before(to) || e.Time.Before(from) && !e.Ended.After(from)
	})
	slices.SortStableFunc(events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	return events, nil
}

func (f *Files) allEvents(to time.Time) ([]Event, error) {
	if f.directory == "" {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Clone(f.events), nil
	}
	directory := filepath.Join(f.directory, eventsDirectory)
	files, err := eventFiles(directory)
	if err != nil {
		return nil, err
	}
	var events []Event
	for _, file := range files {
		if file > to.UTC().Format("2006-01")+eventsSuffix {
			continue
		}
		content, err := os.ReadFile(filepath.Join(directory, file))
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(content) {
			var event Event
			if json.Unmarshal(line, &event) == nil && event.Kind != "" {
				events = append(events, event)
			}
		}
	}
	return events, nil
}
