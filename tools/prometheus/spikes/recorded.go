package main

import (
	"embed"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"time"
)

// recording are days that tools/traffic recorded: a line for each minute, with
// commits, rollbacks and errors of the server.
//
//go:embed recorded/*.csv
var recording embed.FS

// incidentDay is the day with incidents, which begin at these minutes.
const incidentDay = "incidents"

var incidentMinutes = []int{3 * 60, 7 * 60, 11*60 + 30, 15 * 60, 18*60 + 30, 22 * 60}

const recordedRemarks = `A bookkeeping on PostgreSQL 18, recorded with the exporter by ` + "`go run ./tools/traffic`" + `: 15 transactions a minute at night to 205 by
day, imports with duplicates, a batch from 02:00 to 02:30 that collides with itself, a deployment about 10:00 that breaks statements for a
minute and a half, and about four times a day 3 to 8 minutes in which a client goes mad and 15 % fail. A second of the recording stands for a
minute. Two recorded days follow each other in a random order for a month. Then half an hour of every second day is that of another recording,
in which a fifth of all transactions meets a table whose pages are damaged (at 03:00 or 15:00), that is locked (07:00, 18:30) or lacks a column
(11:30, 22:00).

`

func readRecording() (map[string][]minute, error) {
	files, err := fs.Glob(recording, "recorded/*.csv")
	if err != nil {
		return nil, err
	}
	days := make(map[string][]minute)
	for _, file := range files {
		content, err := fs.ReadFile(recording, file)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(file, "recorded/"), ".csv")
		_, lines, _ := strings.Cut(string(content), "\n")
		for line := range strings.Lines(lines) {
			var commits, rollbacks, faults float64
			if _, err := fmt.Sscanf(line, "%f,%f,%f", &commits, &rollbacks, &faults); err != nil {
				return nil, fmt.Errorf("%s: %q: %w", file, line, err)
			}
			days[name] = append(days[name], minute{commits + rollbacks, rollbacks, faults})
		}
		if len(days[name]) != 24*60 {
			return nil, fmt.Errorf("%s has %d minutes", file, len(days[name]))
		}
	}
	return days, nil
}

// recorded is a month of the recorded days.
func recorded(days map[string][]minute) traffic {
	day := func(t time.Time) int { return int(t.Sub(epoch).Hours()) / 24 }
	of := func(name string, t time.Time) minute { return days[name][t.Hour()*60+t.Minute()] }
	// begin is that of the incident of a day: every second day has one, each at
	// another hour than the one before.
	begin := func(t time.Time) time.Time {
		if t.Sub(epoch) < warmUp || day(t)%2 == 1 {
			return time.Time{}
		}
		minutes := incidentMinutes[day(t)/2%len(incidentMinutes)]
		return t.Truncate(24 * time.Hour).Add(time.Duration(minutes) * time.Minute)
	}
	use := traffic{
		name: "bookkeeping", description: "A bookkeeping, as told above",
		at: func(t time.Time, _ *rand.Rand) minute {
			random := rand.New(rand.NewPCG(uint64(day(t)), 1)) //nolint:gosec // the same every time
			return of(fmt.Sprintf("day-%d", 1+random.IntN(len(days)-1)), t)
		},
		fail: func(t time.Time, m minute) minute {
			if during([]time.Time{begin(t)}, t) {
				return of(incidentDay, t)
			}
			return m
		},
	}
	for t := epoch; t.Before(epoch.Add(warmUp + measured)); t = t.Add(24 * time.Hour) {
		if b := begin(t); !b.IsZero() {
			use.incidents = append(use.incidents, b)
		}
	}
	return use
}
