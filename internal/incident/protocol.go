package incident

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/state"
)

// Phase is how far people have come with an incident.
type Phase string

// The phases of an incident, in their order.
const (
	Investigating Phase = "investigating"
	Identified    Phase = "identified"
	Monitoring    Phase = "monitoring"
	Resolved      Phase = "resolved"
)

// Phases lists them.
func Phases() []Phase { return []Phase{Investigating, Identified, Monitoring, Resolved} }

// Incident is what people are told about, as the state directory keeps it.
type Incident struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	// Affected is what does not work, in the words of those who use it.
	Affected []string `json:"affected,omitempty"`
	// Severity is down, disrupted or notice, as status pages have it.
	Severity string    `json:"severity"`
	Opened   time.Time `json:"opened"`
	Resolved time.Time `json:"resolved,omitzero"`
	// NextUpdate is when people were promised to hear more; zero when resolved.
	NextUpdate time.Time `json:"next_update,omitzero"`
	Updates    []Update  `json:"updates"`
}

// Update is one message about an incident.
type Update struct {
	Time  time.Time `json:"time"`
	Phase Phase     `json:"phase"`
	// Message is what a person wrote; empty leaves only the generated texts.
	Message string `json:"message,omitempty"`
	// Facts are what the exporter knew at that time.
	Facts Facts `json:"facts"`
}

// Phase is that of the last update.
func (i Incident) Phase() Phase {
	if len(i.Updates) == 0 {
		return Investigating
	}
	return i.Updates[len(i.Updates)-1].Phase
}

// Open says whether the incident goes on.
func (i Incident) Open() bool { return i.Resolved.IsZero() }

// Facts are what the exporter knows of the server that belongs into an update.
type Facts struct {
	// Since is when the oldest open finding was opened; zero is that none is open.
	Since     time.Time `json:"since,omitzero"`
	Databases []string  `json:"databases,omitempty"`
	Objects   []string  `json:"objects,omitempty"`
	// LastGood is when a check had last proved that all of these were well; zero is
	// not known.
	LastGood time.Time `json:"last_known_good,omitzero"`
	Down     bool      `json:"server_down,omitempty"`
}

// FactsOf reads the exporter's events: what was opened and not cleared.
func FactsOf(events []state.Event) Facts {
	open := make(map[string]state.Event)
	var facts Facts
	for _, event := range events {
		switch event.Kind {
		case state.EventFindingOpened:
			if event.Severity == check.SeverityCritical {
				open[event.Details["fingerprint"]] = event
			}
		case state.EventFindingCleared:
			delete(open, event.Details["fingerprint"])
		case state.EventServerDown:
			facts.Down = true
		case state.EventServerUp, state.EventServerRestarted:
			facts.Down = false
		default:
		}
	}
	for _, event := range open {
		if facts.Since.IsZero() || event.Time.Before(facts.Since) {
			facts.Since = event.Time
		}
		name := Object{Database: event.Database, Schema: event.Schema, Relation: event.Relation}.Name()
		facts.Objects = append(facts.Objects, name)
		if event.Database != "" {
			facts.Databases = append(facts.Databases, event.Database)
		}
		good, err := time.Parse(time.RFC3339, event.Details["last_good"])
		if err == nil && (facts.LastGood.IsZero() || good.Before(facts.LastGood)) {
			facts.LastGood = good
		}
	}
	slices.Sort(facts.Objects)
	facts.Objects = slices.Compact(facts.Objects)
	slices.Sort(facts.Databases)
	facts.Databases = slices.Compact(facts.Databases)
	return facts
}

// incidentsKind is the kind of document that incidents are kept as.
const incidentsKind = "incident"

// All lists the incidents of a target, the newest last.
func All(files *state.Files) ([]Incident, error) {
	names, err := files.List(incidentsKind)
	if err != nil {
		return nil, err
	}
	var all []Incident
	for _, name := range names {
		var i Incident
		if found, err := files.Get(incidentsKind, name, &i); err != nil {
			return nil, err
		} else if found {
			all = append(all, i)
		}
	}
	slices.SortFunc(all, func(a, b Incident) int { return cmp.Or(a.Opened.Compare(b.Opened), cmp.Compare(a.ID, b.ID)) })
	return all, nil
}

// Cadence is how often people hear more while an incident is open.
type Cadence struct{ Investigating, Later time.Duration }

// DefaultCadence is half an hour until the cause is known, and an hour after.
func DefaultCadence() Cadence { return Cadence{Investigating: 30 * time.Minute, Later: time.Hour} }

func (c Cadence) after(phase Phase) time.Duration {
	if phase == Investigating {
		return c.Investigating
	}
	return c.Later
}

// Change is what a command says about an incident.
type Change struct {
	// ID names the incident; empty is the one that is open, or a new one.
	ID       string
	Phase    Phase
	Title    string
	Severity string
	Affected []string
	Message  string
	// NextUpdate is when people will hear more; 0 is the usual cadence.
	NextUpdate time.Duration
}

// ErrNoneOpen says that there is nothing to resolve.
var ErrNoneOpen = errors.New("no incident is open; begin one with --phase=investigating")

// Apply adds an update to an incident, or opens one, and records it as an
// event.
func Apply(files *state.Files, change Change, now time.Time) (Incident, error) {
	now = now.UTC().Truncate(time.Second)
	all, err := All(files)
	if err != nil {
		return Incident{}, err
	}
	current, err := choose(all, change, now)
	if err != nil {
		return Incident{}, err
	}
	if change.Title != "" {
		current.Title = change.Title
	}
	if change.Severity != "" {
		current.Severity = change.Severity
	}
	if len(change.Affected) > 0 {
		current.Affected = change.Affected
	}
	events, err := files.Events(now.AddDate(0, -1, 0), now.Add(time.Minute))
	if err != nil {
		return Incident{}, err
	}
	current.Updates = append(current.Updates, Update{Time: now, Phase: change.Phase, Message: change.Message, Facts: FactsOf(events)})
	current.NextUpdate = now.Add(cmp.Or(change.NextUpdate, DefaultCadence().after(change.Phase)))
	current.Resolved = time.Time{}
	if change.Phase == Resolved {
		current.Resolved, current.NextUpdate = now, time.Time{}
	}
	if err := files.Put(incidentsKind, current.ID, current); err != nil {
		return Incident{}, err
	}
	message := fmt.Sprintf("%s: %s", change.Phase, current.Title)
	if change.Message != "" {
		message += ": " + change.Message
	}
	return current, files.Record(state.Event{
		Time: now, Kind: state.EventStakeholderUpdate, Severity: check.SeverityInfo, Message: message, Source: "incident update",
		Details: map[string]string{"incident": current.ID, "phase": string(change.Phase)},
	})
}

// choose finds the incident that a change is about.
func choose(all []Incident, change Change, now time.Time) (Incident, error) {
	for _, i := range slices.Backward(all) {
		if change.ID == "" && i.Open() || change.ID == i.ID {
			return i, nil
		}
	}
	if change.Phase == Resolved || change.Phase == Monitoring {
		return Incident{}, ErrNoneOpen
	}
	id := change.ID
	if id == "" {
		id = now.Format("2006-01-02-150405")
	}
	if strings.ContainsAny(id, "/\\ \t\n") {
		return Incident{}, fmt.Errorf("%q is not a name for an incident: no spaces and slashes", id)
	}
	return Incident{ID: id, Title: "A database does not work as it should", Severity: "disrupted", Opened: now}, nil
}

// Acknowledge records that somebody has taken it on.
func Acknowledge(files *state.Files, who, message string, now time.Time) error {
	text := who + " has taken it on"
	if message != "" {
		text += ": " + message
	}
	return files.Record(state.Event{
		Time: now.UTC(), Kind: state.EventAcknowledged, Severity: check.SeverityInfo, Message: text, Source: "incident acknowledge",
		Details: map[string]string{"by": who},
	})
}

// Status is what the exporter shows of the incidents of a target.
type Status struct {
	Open int
	// Due is when the next update was promised; zero is none.
	Due time.Time
}

// Watch gives the status as of each call, and reads only what changed.
func Watch(files *state.Files) (status func() (Status, error)) {
	return state.NewMemo(files, incidentsKind, func() (Status, error) { return StatusOf(files) }).Get
}

// StatusOf reads it.
func StatusOf(files *state.Files) (Status, error) {
	all, err := All(files)
	if err != nil {
		return Status{}, err
	}
	var s Status
	for _, i := range all {
		if !i.Open() {
			continue
		}
		s.Open++
		if s.Due.IsZero() || i.NextUpdate.Before(s.Due) {
			s.Due = i.NextUpdate
		}
	}
	return s, nil
}
