// Package window keeps the maintenance windows of a target: announced by a
// command or over HTTP, planned in the configuration, or opened by a session
// that has the marker in its application_name.
//
// A window is active from its opening until its announced end, or until it is
// closed, whichever comes first: it cannot be forgotten. It stays open until it
// is closed, so that one that was forgotten can be seen.
package window

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"pg_integrity_exporter/internal/state"
)

const (
	// kind is the kind of the documents that hold windows.
	kind = "windows"
	// MaxLength is the longest window that can be announced.
	MaxLength = 7 * 24 * time.Hour
	// kept is how long closed windows are kept.
	kept = 90 * 24 * time.Hour
)

// Window is one announced window.
type Window struct {
	ID string `json:"id"`
	// Reason is what is going to be done.
	Reason string `json:"reason"`
	// By is who opened it, Source how: command, http or marker.
	By     string    `json:"by"`
	Source string    `json:"source"`
	Opened time.Time `json:"opened"`
	// Until is the announced end.
	Until time.Time `json:"until"`
	// Closed is when it was closed; zero is not yet.
	Closed time.Time `json:"closed,omitzero"`
}

// Active says whether the window mutes what may be muted.
func (w Window) Active(now time.Time) bool {
	return w.Closed.IsZero() && !now.Before(w.Opened) && now.Before(w.Until)
}

// Schedule is a window that comes again; From and To are times of the day.
type Schedule struct {
	Name     string
	From, To time.Duration
	Days     []time.Weekday
	Location *time.Location
}

// Active says whether a moment is in the window.
func (s Schedule) Active(now time.Time) bool {
	if s.Location != nil {
		now = now.In(s.Location)
	}
	since := time.Duration(now.Hour())*time.Hour + time.Duration(now.Minute())*time.Minute + time.Duration(now.Second())*time.Second
	onDay := func(day time.Weekday) bool { return len(s.Days) == 0 || slices.Contains(s.Days, day) }
	if s.From < s.To {
		return onDay(now.Weekday()) && since >= s.From && since < s.To
	}
	if since >= s.From {
		return onDay(now.Weekday())
	}
	return since < s.To && onDay((now.Weekday()+6)%7) // of the night that began the day before
}

// Open announces a window from now on.
func Open(files *state.Files, now time.Time, length time.Duration, reason, by, source string) (Window, error) {
	if length <= 0 || length > MaxLength {
		return Window{}, fmt.Errorf("a window must be longer than 0 and at most %s, not %s", MaxLength, length)
	}
	w := Window{ID: now.UTC().Format("20060102T150405.000"), Reason: reason, By: by, Source: source, Opened: now.UTC(), Until: now.Add(length).UTC()}
	if err := forget(files, now); err != nil {
		return w, err
	}
	if err := files.Put(kind, w.ID, w); err != nil {
		return w, err
	}
	return w, files.Record(state.Event{
		Time: w.Opened, Kind: state.EventWindowOpened, Source: source, Message: fmt.Sprintf("maintenance window opened by %s until %s: %s", by, w.Until.Format(time.RFC3339), reason),
		Details: map[string]string{"window": w.ID},
	})
}

// NotOpenError says that there is no such window to close.
type NotOpenError struct{ ID string }

// Error says what to do.
func (e *NotOpenError) Error() string {
	if e.ID == "" {
		return "no window is open; `window list` shows all"
	}
	return fmt.Sprintf("there is no open window %s; `window list` shows all", e.ID)
}

// Close closes a window, or with an empty id every open one.
func Close(files *state.Files, now time.Time, id, by string) ([]Window, error) {
	all, err := List(files)
	if err != nil {
		return nil, err
	}
	var closed []Window
	for _, w := range all {
		if !w.Closed.IsZero() || id != "" && w.ID != id {
			continue
		}
		w.Closed = now.UTC()
		err := files.Put(kind, w.ID, w)
		if err == nil {
			err = files.Record(state.Event{
				Time: w.Opened, Ended: w.Closed, Kind: state.EventWindowClosed, Source: w.Source, Message: fmt.Sprintf("maintenance window closed by %s: %s", by, w.Reason),
				Details: map[string]string{"window": w.ID},
			})
		}
		if err != nil {
			return closed, err
		}
		closed = append(closed, w)
	}
	if len(closed) == 0 {
		return nil, &NotOpenError{ID: id}
	}
	return closed, nil
}

// Lister gives List as of each call.
func Lister(files *state.Files) func() ([]Window, error) {
	return state.NewMemo(files, kind, func() ([]Window, error) { return List(files) }).Get
}

// List gives every window that is kept, the oldest first.
func List(files *state.Files) ([]Window, error) {
	names, err := files.List(kind)
	if err != nil {
		return nil, err
	}
	var all []Window
	var problems error
	for _, name := range names {
		var w Window
		found, err := files.Get(kind, name, &w)
		if err != nil {
			problems = errors.Join(problems, err)
		} else if found {
			all = append(all, w)
		}
	}
	return all, problems
}

// forget removes windows that were closed long ago.
func forget(files *state.Files, now time.Time) error {
	all, err := List(files)
	if err != nil {
		return err
	}
	for _, w := range all {
		if !w.Closed.IsZero() && now.Sub(w.Closed) > kept {
			if err := files.Delete(kind, w.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// Status is what the metrics show.
type Status struct {
	// Active says that noise is muted now.
	Active bool
	// Open says that a window was announced and not closed yet; it stays so
	// behind the announced end.
	Open bool
	// Until is the latest announced end of an open window.
	Until time.Time
}

// Look gives the status of a target's windows.
func Look(files *state.Files, schedules []Schedule, now time.Time) (Status, error) {
	all, err := List(files)
	return LookAt(all, schedules, now), err
}

// LookAt gives the status of windows that were listed before.
func LookAt(windows []Window, schedules []Schedule, now time.Time) Status {
	var s Status
	for _, w := range windows {
		if w.Closed.IsZero() && !now.Before(w.Opened) {
			s.Open = true
			s.Active = s.Active || w.Active(now)
			if w.Until.After(s.Until) {
				s.Until = w.Until
			}
		}
	}
	for _, schedule := range schedules {
		if schedule.Active(now) {
			s.Open, s.Active = true, true
		}
	}
	return s
}
