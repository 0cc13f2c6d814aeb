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

// Silence is how long nothing was done although it was expected: the time since
// last, or since the working hours began, whichever is shorter; 0 outside of
// working hours.
func (h Hours) Silence(last, now time.Time) time.Duration {
	silence := max(0, now.Sub(last))
	if len(h.spans) == 0 {
		return silence
	}
	local := now.In(h.zone)
	midnight := time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, h.zone)
	for _, s := range h.spans {
		begin := midnight.Add(s.begin)
		if s.days[local.Weekday()] && !local.Before(begin) && local.Before(midnight.Add(s.end)) {
			return min(silence, now.Sub(begin))
		}
	}
	return 0
}
