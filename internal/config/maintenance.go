package config

import (
	"errors"
	"fmt"
	"time"

	"pg_integrity_exporter/internal/maintenance/window"
)

// Maintenance says how maintenance is recognised, and when it is expected.
type Maintenance struct {
	// Enabled turns recognition on.
	Enabled bool `yaml:"enabled"`
	// Interval is how often the server is looked at.
	Interval Duration `yaml:"interval"`
	// Windows are the times at which maintenance is expected.
	Windows []Window `yaml:"windows"`
	// Marker opens a window while a session has it in its application_name; empty
	// is none.
	Marker string `yaml:"marker"`
	// MarkerLimit is how long a marker may keep a window open.
	MarkerLimit Duration `yaml:"marker_limit"`
}

// Window is a maintenance window that comes again.
type Window struct {
	Name string `yaml:"name"`
	// Hours is FROM-TO, for example 22:00-05:00.
	Hours string `yaml:"hours"`
	// Days are the days on which it begins; empty is every day.
	Days []string `yaml:"days"`
	// Timezone is that of the hours; empty is UTC.
	Timezone string `yaml:"timezone"`
}

func defaultMaintenance() Maintenance {
	return Maintenance{Enabled: true, Interval: Duration(5 * time.Second), Windows: []Window{}, MarkerLimit: Duration(4 * time.Hour)}
}

func (m Maintenance) validate() (key string, err error) {
	switch {
	case m.Interval < Duration(time.Second):
		return "interval", errors.New("must be at least 1s")
	case m.MarkerLimit <= 0:
		return "marker_limit", errors.New("must be more than 0")
	}
	names := make(map[string]bool)
	for _, w := range m.Windows {
		if w.Name == "" || names[w.Name] {
			return "windows", errors.New("each window needs a name of its own")
		}
		names[w.Name] = true
		if w.Hours == "" {
			return "windows", fmt.Errorf("%s: hours are missing, for example 22:00-05:00", w.Name)
		}
		if _, err := ParseHours(w.Hours, w.Days, w.Timezone); err != nil {
			return "windows", fmt.Errorf("%s: %w", w.Name, err)
		}
	}
	return "", nil
}

// Schedules are the windows in the form in which they are looked up.
func (m Maintenance) Schedules() []window.Schedule {
	var schedules []window.Schedule
	for _, w := range m.Windows {
		hours, err := ParseHours(w.Hours, w.Days, w.Timezone)
		if err != nil {
			continue // a validated configuration has none
		}
		schedules = append(schedules, window.Schedule{Name: w.Name, From: hours.From, To: hours.To, Days: hours.Days, Location: hours.Location})
	}
	return schedules
}
