package incident

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/state"
)

// ReportVersion is the version of the JSON document.
const ReportVersion = 1

// Report is the draft of a post-mortem: facts, each with its source.
type Report struct {
	Version   int       `json:"version"`
	Target    string    `json:"target,omitempty"`
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Generated time.Time `json:"generated"`
	// Summary is the report in a few sentences.
	Summary []string `json:"summary"`
	// Milestones are the moments that matter, in their order.
	Milestones Milestones `json:"milestones"`
	Impact     Impact     `json:"impact"`
	// Objects are what was found wrong, with the last time it was known good.
	Objects []Object `json:"objects"`
	// Alerts are what fired, in the order in which it began.
	Alerts   []FiredAlert `json:"alerts"`
	Timeline []Entry      `json:"timeline"`
	// Maintenance is what was done to the server in the day before and during it.
	Maintenance []Entry `json:"maintenance"`
	// Muted is what kept alerts from being delivered, Blind what could not be seen.
	Muted []Entry `json:"muted"`
	Blind []Entry `json:"blind"`
	// Updates are what was told to people.
	Updates []Entry `json:"updates"`
	// Questions are what the record does not answer.
	Questions []string `json:"open_questions"`
	FollowUps []string `json:"follow_ups"`
	Sources   []Source `json:"sources"`
	// Known says which kinds of sources could be read: what the others know is not
	// in this report.
	Known Known `json:"known"`
}

// Known says which kinds of sources could be read.
type Known struct {
	Series   bool `json:"series"`
	Silences bool `json:"silences"`
	Events   bool `json:"events"`
}

// Milestones are moments of the incident; nil is not known.
type Milestones struct {
	Started      *Moment `json:"started,omitempty"`
	Detected     *Moment `json:"detected,omitempty"`
	Acknowledged *Moment `json:"acknowledged,omitempty"`
	Identified   *Moment `json:"identified,omitempty"`
	Mitigated    *Moment `json:"mitigated,omitempty"`
	Resolved     *Moment `json:"resolved,omitempty"`
}

// Moment is a time, what happened then, and where that is known from.
type Moment struct {
	Time   time.Time `json:"time"`
	What   string    `json:"what"`
	Source string    `json:"source"`
}

// Entry is one line of a timeline or list.
type Entry struct {
	Time time.Time `json:"time"`
	// Ended is missing for what has no duration or went on to the end.
	Ended  *time.Time `json:"ended,omitempty"`
	What   string     `json:"what"`
	Source string     `json:"source"`
}

// FiredAlert is one alert with one set of labels.
type FiredAlert struct {
	Name     string            `json:"alertname"`
	Severity string            `json:"severity"`
	Layer    string            `json:"layer,omitempty"`
	Labels   map[string]string `json:"labels"`
	// Pending is when its condition first held, Fired when it first fired, Ended
	// when it last fired; nil is that it fired to the end.
	Pending time.Time  `json:"pending"`
	Fired   time.Time  `json:"fired"`
	Ended   *time.Time `json:"ended,omitempty"`
}

// Impact is what the incident did to those who use the server.
type Impact struct {
	// Databases have figures between Started and Ended, the time of the incident.
	Started   time.Time        `json:"started"`
	Ended     time.Time        `json:"ended"`
	Databases []DatabaseImpact `json:"databases"`
	// Errors are the errors in the server's log by SQLSTATE, the most frequent
	// first.
	Errors []ErrorCount `json:"errors"`
	// DownSeconds is how long the exporter could not use the server.
	DownSeconds float64 `json:"down_seconds"`
	// CorruptionMessages is how often the log told of corruption.
	CorruptionMessages float64 `json:"corruption_messages"`
}

// DatabaseImpact is the failed transactions of one database.
type DatabaseImpact struct {
	Database     string  `json:"database"`
	Transactions float64 `json:"transactions"`
	Failed       float64 `json:"failed"`
	Ratio        float64 `json:"ratio"`
	// Before is the ratio of failed transactions before the incident; nil is not
	// known.
	Before *float64 `json:"ratio_before,omitempty"`
	// Peak is the highest ratio between two samples, at PeakTime.
	Peak     float64   `json:"peak_ratio"`
	PeakTime time.Time `json:"peak_time,omitzero"`
}

// ErrorCount is how often an error was logged.
type ErrorCount struct {
	Database  string  `json:"database"`
	SQLState  string  `json:"sqlstate"`
	Condition string  `json:"condition_name"`
	Count     float64 `json:"count"`
}

// Object is something that was found wrong.
type Object struct {
	Database string `json:"database,omitempty"`
	Schema   string `json:"schema,omitempty"`
	Relation string `json:"relation,omitempty"`
	Check    string `json:"check"`
	Class    string `json:"class,omitempty"`
	Severity string `json:"severity"`
	Message  string `json:"message,omitempty"`
	// Found is when it was found, LastGood when a check had last looked at it and
	// found it well, Cleared when a later check did; nil is not known or not yet.
	Found    time.Time  `json:"found"`
	LastGood *time.Time `json:"last_known_good,omitempty"`
	Cleared  *time.Time `json:"cleared,omitempty"`
	Source   string     `json:"source"`
}

// Name is the object as people call it.
func (o Object) Name() string {
	name := strings.Trim(o.Schema+"."+o.Relation, ".")
	switch {
	case name != "" && o.Database != "":
		return name + " in database " + o.Database
	case o.Database != "":
		return "database " + o.Database
	}
	return "the cluster"
}

// sourceAlerts and the others name where facts are known from.
const (
	sourceAlerts       = "Prometheus, ALERTS"
	sourceAlertmanager = "Alertmanager, silences"
	sourceRecorder     = "Alertmanager, event recorder"
	sourceUp           = "Prometheus, pgintegrity_up"
)

// NewReport makes a report. Generated is the moment at which it is made.
func NewReport(e *Evidence, generated time.Time) Report {
	r := Report{
		Version: ReportVersion, Target: e.Target, From: e.From.UTC(), To: e.To.UTC(), Generated: generated.UTC(), Sources: e.Sources,
		Known: Known{Series: e.read(KindPrometheus), Silences: e.read(KindAlertmanager), Events: e.read(KindEvents)},
	}
	r.Alerts = firedAlerts(e)
	r.Objects = damagedObjects(e)
	r.Milestones = milestones(e, r)
	r.Impact = impact(e, r.Milestones)
	r.Maintenance = maintenance(e, r.Milestones)
	r.Muted = muted(e)
	r.Blind = blind(e)
	r.Updates = entries(e.events(e.From, e.To, state.EventStakeholderUpdate))
	r.Timeline = timeline(e, r)
	r.Summary = summary(r)
	r.Questions = questions(r)
	r.FollowUps = followUps(e, r)
	return r
}

// firedAlerts joins the pending and firing series of each alert.
func firedAlerts(e *Evidence) []FiredAlert {
	type key string
	identity := func(labels map[string]string) key {
		labels = maps.Clone(labels)
		delete(labels, "alertstate")
		return key(fmt.Sprint(labels))
	}
	pending := make(map[key][]interval)
	for _, s := range e.named("ALERTS") {
		if s.Labels["alertstate"] == "pending" {
			pending[identity(s.Labels)] = s.while(isOne)
		}
	}
	var fired []FiredAlert
	for _, s := range e.named("ALERTS") {
		if s.Labels["alertstate"] != "firing" || s.Labels["alertname"] == watchdog {
			continue
		}
		spacing := s.spacing()
		for _, i := range s.while(isOne) {
			alert := FiredAlert{
				Name: s.Labels["alertname"], Severity: s.Labels["severity"], Layer: s.Labels["layer"],
				Labels: distinguishing(s.Labels), Pending: i.from, Fired: i.from,
			}
			for _, p := range pending[identity(s.Labels)] {
				if !p.to.After(i.from) && i.from.Sub(p.to) <= 2*spacing {
					alert.Pending = p.from
				}
			}
			if e.To.Sub(i.to) > 2*spacing {
				ended := i.to
				alert.Ended = &ended
			}
			fired = append(fired, alert)
		}
	}
	slices.SortStableFunc(fired, func(a, b FiredAlert) int {
		return cmp.Or(a.Pending.Compare(b.Pending), cmp.Compare(a.Name, b.Name), cmp.Compare(fmt.Sprint(a.Labels), fmt.Sprint(b.Labels)))
	})
	return fired
}

func isOne(value float64) bool  { return value == 1 }
func isZero(value float64) bool { return value == 0 }

// distinguishing are the labels that tell alerts of one name apart.
func distinguishing(labels map[string]string) map[string]string {
	kept := make(map[string]string)
	for name, value := range labels {
		switch name {
		case "__name__", "alertname", "alertstate", "severity", "layer", "job", "needs_database", "maintenance", "audience", "inform":
		default:
			kept[name] = value
		}
	}
	return kept
}

// String is the alert with what tells it apart.
func (a FiredAlert) String() string {
	var parts []string
	about := Object{Database: a.Labels["datname"], Schema: a.Labels["schemaname"], Relation: a.Labels["relname"]}
	if about.Database != "" {
		parts = append(parts, about.Name())
	}
	for _, name := range slices.Sorted(maps.Keys(a.Labels)) {
		if !slices.Contains([]string{"datname", "schemaname", "relname", "instance"}, name) {
			parts = append(parts, strings.ReplaceAll(name, "_", " ")+" "+a.Labels[name])
		}
	}
	text := a.Name + " (" + a.Severity + ")"
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	if a.Labels["instance"] != "" {
		text += " at " + a.Labels["instance"]
	}
	return text
}

// damagedObjects are the findings that the exporter opened, and those that only
// Prometheus still knows.
func damagedObjects(e *Evidence) []Object {
	var objects []Object
	byFingerprint := make(map[string]int)
	for _, event := range e.events(e.From, e.To, state.EventFindingOpened, state.EventFindingCleared) {
		fingerprint := event.Details["fingerprint"]
		if event.Kind == state.EventFindingCleared {
			if i, ok := byFingerprint[fingerprint]; ok {
				cleared := event.Time
				objects[i].Cleared = &cleared
			}
			continue
		}
		o := Object{
			Database: event.Database, Schema: event.Schema, Relation: event.Relation, Check: event.Details["check"],
			Class: event.Details["class"], Severity: string(event.Severity), Message: event.Message, Found: event.Time, Source: event.Source,
		}
		if good, err := time.Parse(time.RFC3339, event.Details["last_good"]); err == nil {
			o.LastGood = &good
		} else {
			o.LastGood = lastSuccess(e, o)
		}
		byFingerprint[fingerprint] = len(objects)
		objects = append(objects, o)
	}
	for _, s := range e.named("pgintegrity_finding_info") {
		o := Object{
			Database: s.Labels["datname"], Schema: s.Labels["schemaname"], Relation: s.Labels["relname"],
			Check: s.Labels["check"], Severity: s.Labels["severity"], Source: "Prometheus, pgintegrity_finding_info",
		}
		known := slices.ContainsFunc(objects, func(other Object) bool {
			return other.Database == o.Database && other.Schema == o.Schema && other.Relation == o.Relation && other.Check == o.Check
		})
		intervals := s.while(isOne)
		if known || len(intervals) == 0 {
			continue
		}
		o.Found = intervals[0].from
		o.LastGood = lastSuccess(e, o)
		if last := intervals[len(intervals)-1].to; e.To.Sub(last) > 2*s.spacing() {
			o.Cleared = &last
		}
		objects = append(objects, o)
	}
	slices.SortStableFunc(objects, func(a, b Object) int { return a.Found.Compare(b.Found) })
	return objects
}

// lastSuccess is when the check had last looked at everything before it found
// the object, as Prometheus knows.
func lastSuccess(e *Evidence, o Object) *time.Time {
	var last float64
	for _, s := range e.named("pgintegrity_check_last_success_timestamp_seconds") {
		if s.Labels["check"] != o.Check && o.Check != state.CheckLog || s.Labels["datname"] != o.Database {
			continue
		}
		for _, p := range s.Points {
			// A run that ends later than the find began to look before it.
			if p.Time.Before(o.Found) && p.Value < float64(o.Found.Unix()) {
				last = max(last, p.Value)
			}
		}
	}
	if last == 0 {
		return nil
	}
	moment := time.Unix(int64(last), 0).UTC()
	return &moment
}

// grave are the alerts that make an incident.
func grave(alerts []FiredAlert) []FiredAlert {
	critical := slices.DeleteFunc(slices.Clone(alerts), func(a FiredAlert) bool { return a.Severity != "critical" })
	if len(critical) > 0 {
		return critical
	}
	return slices.DeleteFunc(slices.Clone(alerts), func(a FiredAlert) bool { return a.Severity != "warning" })
}

func milestones(e *Evidence, r Report) Milestones {
	var m Milestones
	earliest := func(into **Moment, candidate Moment) {
		if candidate.Time.IsZero() || *into != nil && !candidate.Time.Before((*into).Time) {
			return
		}
		*into = &candidate
	}
	alerts := grave(r.Alerts)
	for _, a := range alerts {
		earliest(&m.Started, Moment{a.Pending, "the condition of " + a.String() + " first held", sourceAlerts})
		earliest(&m.Detected, Moment{a.Fired, a.String() + " fired", sourceAlerts})
	}
	for _, o := range r.Objects {
		if o.Severity == "critical" {
			earliest(&m.Started, Moment{o.Found, "check " + o.Check + " found " + o.Name() + " wrong", o.Source})
		}
	}
	for _, event := range e.events(e.From, e.To, state.EventCorruption, state.EventServerDown) {
		earliest(&m.Started, Moment{event.Time, event.Message, event.Source})
	}
	if first := firstFailure(e); first != nil {
		earliest(&m.Started, *first)
	}
	for _, event := range e.events(e.From, e.To, state.EventAcknowledged, state.EventStakeholderUpdate) {
		earliest(&m.Acknowledged, Moment{event.Time, event.Message, event.Source})
		switch Phase(event.Details["phase"]) {
		case Identified:
			earliest(&m.Identified, Moment{event.Time, event.Message, event.Source})
		case Monitoring:
			earliest(&m.Mitigated, Moment{event.Time, event.Message, event.Source})
		case Resolved:
			earliest(&m.Resolved, Moment{event.Time, event.Message, event.Source})
		case Investigating:
		}
	}
	for _, s := range e.Silences {
		if m.Detected != nil && s.StartsAt.After(m.Detected.Time) && s.StartsAt.Before(e.To) {
			earliest(&m.Acknowledged, Moment{s.StartsAt.UTC(), s.CreatedBy + " silenced " + s.String(), sourceAlertmanager})
		}
	}
	if m.Resolved == nil {
		m.Resolved = allEnded(alerts)
	}
	if m.Started == nil && m.Acknowledged != nil {
		m.Started = &Moment{m.Acknowledged.Time, "people noticed: " + m.Acknowledged.What, m.Acknowledged.Source}
	}
	return m
}

// firstFailure is the first message of corruption that the log reader counted.
func firstFailure(e *Evidence) *Moment {
	var first *Moment
	for _, s := range e.named("pgintegrity_corruption_events_total") {
		for i := 1; i < len(s.Points); i++ {
			p := s.Points[i]
			if p.Value > s.Points[i-1].Value && (first == nil || p.Time.Before(first.Time)) {
				first = &Moment{p.Time, "the server's log first told of corruption (" + s.Labels["kind"] + ")", "Prometheus, " + s.Name()}
				break
			}
		}
	}
	return first
}

// allEnded is when the last of the alerts ended, if all of them did.
func allEnded(alerts []FiredAlert) *Moment {
	var last *Moment
	for _, a := range alerts {
		if a.Ended == nil {
			return nil
		}
		if last == nil || a.Ended.After(last.Time) {
			last = &Moment{*a.Ended, "the last alert of its severity ended: " + a.String(), sourceAlerts}
		}
	}
	return last
}

// impact counts between the start and the end of the incident.
func impact(e *Evidence, m Milestones) Impact {
	result := Impact{Started: e.From.UTC(), Ended: e.To.UTC(), Databases: []DatabaseImpact{}, Errors: []ErrorCount{}}
	if m.Started != nil {
		result.Started = m.Started.Time
	}
	if m.Resolved != nil && m.Resolved.Time.After(result.Started) {
		result.Ended = m.Resolved.Time
	}
	result.Databases = transactions(e, result.Started, result.Ended)
	for _, s := range e.named("pgintegrity_errors_total") {
		born := len(s.Points) > 0 && s.Points[0].Time.Sub(e.From) > 2*step(e.From, e.To)
		if count := s.increase(result.Started.Add(-step(e.From, e.To)), result.Ended, born); count > 0 {
			result.Errors = append(result.Errors, ErrorCount{s.Labels["datname"], s.Labels["sqlstate"], s.Labels["condition_name"], count})
		}
	}
	slices.SortStableFunc(result.Errors, func(a, b ErrorCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Database, b.Database), cmp.Compare(a.SQLState, b.SQLState))
	})
	result.Errors = result.Errors[:min(len(result.Errors), 20)]
	for _, s := range e.named("pgintegrity_up") {
		for _, i := range s.while(isZero) {
			if i.overlaps(result.Started.Add(-time.Second), result.Ended.Add(time.Second)) {
				result.DownSeconds += (i.to.Sub(i.from) + s.spacing()).Seconds()
			}
		}
	}
	for _, s := range e.named("pgintegrity_corruption_events_total") {
		result.CorruptionMessages += s.increase(result.Started.Add(-step(e.From, e.To)), result.Ended, false)
	}
	return result
}

// transactions sums up the transactions of each database that has failures.
func transactions(e *Evidence, from, to time.Time) []DatabaseImpact {
	commits, rollbacks := make(map[string]Series), make(map[string]Series)
	for _, s := range e.named("pgintegrity_transactions_total") {
		by := commits
		if s.Labels["outcome"] == "rollback" {
			by = rollbacks
		}
		by[s.Labels["instance"]+"\x00"+s.Labels["datname"]] = s
	}
	found := []DatabaseImpact{}
	for _, key := range slices.Sorted(maps.Keys(rollbacks)) {
		failed := rollbacks[key].increase(from, to, false)
		if failed == 0 {
			continue
		}
		d := DatabaseImpact{Database: rollbacks[key].Labels["datname"], Failed: failed}
		d.Transactions = failed + commits[key].increase(from, to, false)
		d.Ratio = failed / d.Transactions
		before := rollbacks[key].increase(e.From, from, false)
		if all := before + commits[key].increase(e.From, from, false); all > 0 {
			ratio := before / all
			d.Before = &ratio
		}
		points := rollbacks[key].Points
		for i := 1; i < len(points); i++ {
			a, b := points[i-1].Time, points[i].Time
			if a.Before(from.Add(-time.Second)) || b.After(to) {
				continue
			}
			f := rollbacks[key].increase(a, b, false)
			if all := f + commits[key].increase(a, b, false); all > 0 && f/all > d.Peak {
				d.Peak, d.PeakTime = f/all, b
			}
		}
		found = append(found, d)
	}
	slices.SortStableFunc(found, func(a, b DatabaseImpact) int { return cmp.Compare(b.Failed, a.Failed) })
	return found
}

func entries(events []state.Event) []Entry {
	list := []Entry{}
	for _, event := range events {
		list = append(list, entry(event))
	}
	return list
}

func entry(event state.Event) Entry {
	e := Entry{Time: event.Time.UTC(), What: event.Message, Source: event.Source}
	object := strings.Trim(event.Schema+"."+event.Relation, ".")
	if event.Database != "" && object != "" && !strings.Contains(e.What, event.Relation) {
		e.What += " (" + object + " in database " + event.Database + ")"
	}
	if !event.Ended.IsZero() {
		ended := event.Ended.UTC()
		e.Ended = &ended
	}
	return e
}

// maintenance is what was done to the server before the incident and in it.
func maintenance(e *Evidence, m Milestones) []Entry {
	from := e.From.Add(-EventsBefore)
	if m.Started != nil {
		from = m.Started.Time.Add(-EventsBefore)
	}
	return entries(e.events(from, e.To, state.EventMaintenance, state.EventGuard, state.EventWindowOpened, state.EventWindowClosed,
		state.EventBaselineAccepted))
}

func muted(e *Evidence) []Entry {
	list := []Entry{}
	for _, s := range e.Silences {
		if !(interval{s.StartsAt, s.EndsAt}).overlaps(e.From, e.To) {
			continue
		}
		ended := s.EndsAt.UTC()
		list = append(list, Entry{s.StartsAt.UTC(), &ended, fmt.Sprintf("silence %s by %s: %s", s, s.CreatedBy, s.Comment), sourceAlertmanager})
	}
	list = append(list, heldBack(e)...)
	for _, s := range e.named("pgintegrity_maintenance_window_active") {
		for _, i := range s.while(isOne) {
			list = append(list, Entry{i.from, &i.to, "a maintenance window held back alerts that it may mute", "Prometheus, " + s.Name()})
		}
	}
	sortEntries(list)
	return list
}

// blind is when something could not be seen.
func blind(e *Evidence) []Entry {
	list := []Entry{}
	for _, kind := range []struct {
		metric, what, label string
	}{
		{"up", "the exporter did not answer: nothing was seen", "instance"},
		{"pgintegrity_up", "the server did not answer: nothing that needs it was seen", "instance"},
		{"pgintegrity_log_reader_up", "the server's log was not read: errors and corruption that statements ran into were not seen", "instance"},
		{"pgintegrity_scrape_collector_success", "a collector failed: its metrics were missing", "collector"},
	} {
		for _, s := range e.named(kind.metric) {
			if kind.metric == "up" && s.Labels["job"] != "" && len(e.named("pgintegrity_up")) > 0 && !sameTarget(e, s) {
				continue
			}
			for _, i := range s.while(isZero) {
				list = append(list, Entry{i.from, new(i.to), kind.what + " (" + s.Labels[kind.label] + ")", "Prometheus, " + kind.metric})
			}
		}
	}
	intervals := make(map[string]float64)
	for _, s := range e.named("pgintegrity_check_interval_seconds") {
		if n := len(s.Points); n > 0 {
			intervals[s.Labels["instance"]+s.Labels["check"]+s.Labels["datname"]] = s.Points[n-1].Value
		}
	}
	for _, s := range e.named("pgintegrity_check_last_success_timestamp_seconds") {
		interval := intervals[s.Labels["instance"]+s.Labels["check"]+s.Labels["datname"]]
		if len(s.Points) == 0 || interval == 0 {
			continue
		}
		first := s.Points[0]
		if age := float64(first.Time.Unix()) - first.Value; age > 2*interval+600 {
			what := fmt.Sprintf("check %s had never looked at everything in database %s", s.Labels["check"], s.Labels["datname"])
			if first.Value > 0 {
				what = fmt.Sprintf("check %s had last looked at everything in database %s at %s", s.Labels["check"], s.Labels["datname"], utc(time.Unix(int64(first.Value), 0)))
			}
			list = append(list, Entry{first.Time, nil, what, "Prometheus, " + s.Name()})
		}
	}
	sortEntries(list)
	return list
}

// sameTarget says whether one of the exporter's own series is of this target.
func sameTarget(e *Evidence, up Series) bool {
	return slices.ContainsFunc(e.named("pgintegrity_up"), func(s Series) bool { return s.Labels["instance"] == up.Labels["instance"] })
}

func sortEntries(list []Entry) {
	slices.SortStableFunc(list, func(a, b Entry) int { return a.Time.Compare(b.Time) })
}

// timeline merges everything that has a time.
func timeline(e *Evidence, r Report) []Entry {
	list := append(slices.Clone(r.Maintenance), notified(e)...)
	for _, a := range r.Alerts {
		if a.Severity == "info" || a.Severity == "none" {
			continue
		}
		list = append(list, Entry{a.Fired, nil, "fires: " + a.String(), sourceAlerts})
		if a.Ended != nil {
			list = append(list, Entry{*a.Ended, nil, "ends: " + a.String(), sourceAlerts})
		}
	}
	told := []state.EventKind{
		state.EventAcknowledged, state.EventCorruption, state.EventDrill, state.EventExporterStarted, state.EventExporterStopped,
		state.EventServerDown, state.EventServerLog, state.EventServerRestarted, state.EventServerUp, state.EventStakeholderUpdate,
	}
	list = append(list, entries(e.events(e.From, e.To, told...))...)
	for _, o := range r.Objects {
		list = append(list, Entry{o.Found, nil, fmt.Sprintf("found wrong: %s: %s", o.Name(), cmp.Or(o.Message, "by check "+o.Check)), o.Source})
		if o.Cleared != nil {
			list = append(list, Entry{*o.Cleared, nil, "found well again: " + o.Name(), o.Source})
		}
	}
	for _, s := range e.named("pgintegrity_in_recovery") {
		for i := 1; i < len(s.Points); i++ {
			if s.Points[i].Value != s.Points[i-1].Value {
				what := "the server of " + s.Labels["instance"] + " became a primary"
				if s.Points[i].Value == 1 {
					what = "the server of " + s.Labels["instance"] + " became a standby"
				}
				list = append(list, Entry{s.Points[i].Time, nil, what, "Prometheus, " + s.Name()})
			}
		}
	}
	for _, s := range e.named("pgintegrity_postmaster_start_timestamp_seconds") {
		for i := 1; i < len(s.Points); i++ {
			if s.Points[i].Value != s.Points[i-1].Value {
				list = append(list, Entry{time.Unix(int64(s.Points[i].Value), 0).UTC(), nil, "the server of " + s.Labels["instance"] + " was started", "Prometheus, " + s.Name()})
			}
		}
	}
	list = append(list, r.Muted...)
	sortEntries(list)
	return slices.CompactFunc(list, func(a, b Entry) bool { return a.Time.Equal(b.Time) && a.What == b.What })
}
