package business

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Hours are the hours in which business transactions are expected. The zero
// value is always.
type Hours struct {
	zone  *time.Location
	spans []span
}

// span is a part of some days of the week.
type span struct {
	days       [7]bool // by time.Weekday
	begin, end time.Duration
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// ParseHours reads working hours like "mon-fri 08:00-18:00, sat 09:00-12:00" in a
// time zone of the IANA database; empty is always, and UTC.
func ParseHours(text, zone string) (Hours, error) {
	location, err := time.LoadLocation(zone)
	if err != nil {
		return Hours{}, fmt.Errorf("%q is no time zone such as Europe/Berlin", zone)
	}
	hours := Hours{zone: location}
	for part := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(text) == "" {
			break
		}
		s, err := parseSpan(strings.ToLower(strings.TrimSpace(part)))
		if err != nil {
			return Hours{}, err
		}
		hours.spans = append(hours.spans, s)
	}
	return hours, nil
}

func parseSpan(text string) (span, error) {
	wrong := fmt.Errorf("%q is not like \"mon-fri 08:00-18:00\"", text)
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return span{}, wrong
	}
	first, last, isRange := strings.Cut(fields[0], "-")
	if !isRange {
		last = first
	}
	from, to := slices.Index(dayNames, first), slices.Index(dayNames, last)
	begin, end, _ := strings.Cut(fields[1], "-")
	b, beginErr := timeOfDay(begin)
	e, endErr := timeOfDay(end)
	if from < 0 || to < 0 || beginErr != nil || endErr != nil || e <= b {
		return span{}, wrong
	}
	s := span{begin: b, end: e}
	for day := from; ; day = (day + 1) % 7 {
		s.days[day] = true
		if day == to {
			return s, nil
		}
	}
}

func timeOfDay(text string) (time.Duration, error) {
	if text == "24:00" {
		return 24 * time.Hour, nil
	}
	t, err := time.Parse("15:04", text)
	if err != nil {
		return 0, err
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, nil
}

// longestSilence bounds how far back silence is looked at.
const longestSilence = 60 // days

// Silence is how long nothing was done although it was expected: the working
// hours that passed since the last one. Outside of working hours it is 0.
func (h Hours) Silence(last, now time.Time) time.Duration {
	if len(h.spans) == 0 {
		return max(0, now.Sub(last))
	}
	local := now.In(h.zone)
	var silence time.Duration
	working := false
	for back := range longestSilence {
		dayEnds := time.Date(local.Year(), local.Month(), local.Day()-back+1, 0, 0, 0, 0, h.zone)
		if !dayEnds.After(last) {
			break
		}
		for _, s := range h.spans {
			begin, end, worked := s.on(local.Year(), local.Month(), local.Day()-back, h.zone)
			if !worked {
				continue
			}
			working = working || !now.Before(begin) && now.Before(end)
			if last.After(begin) {
				begin = last
			}
			if now.Before(end) {
				end = now
			}
			silence += max(0, end.Sub(begin))
		}
	}
	if !working {
		return 0
	}
	return silence
}

// on is when the span begins and ends on a day, by the clock on the wall, if it
// is one of its days.
func (s span) on(year int, month time.Month, day int, zone *time.Location) (begin, end time.Time, worked bool) {
	begin = time.Date(year, month, day, 0, int(s.begin.Minutes()), 0, 0, zone)
	end = time.Date(year, month, day, 0, int(s.end.Minutes()), 0, 0, zone)
	return begin, end, s.days[time.Date(year, month, day, 12, 0, 0, 0, zone).Weekday()]
}
