package incident

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Recorded is one line of Alertmanager's event recorder (0.33 and newer, behind
// a feature flag): who was notified, and which alerts were held back. It is the
// only source that knows either. Other kinds of events are left out.
type Recorded struct {
	Time time.Time `json:"@timestamp"`
	Data struct {
		Notification *struct {
			Alerts    []recordedAlert `json:"alerts"`
			GroupInfo struct {
				Receiver string `json:"receiverName"`
			} `json:"groupInfo"`
			Reason      string `json:"reason"`
			Integration struct {
				Name string `json:"name"`
			} `json:"integration"`
		} `json:"notification,omitempty"`
		SilenceMuted *struct {
			Silence struct {
				CreatedBy string `json:"createdBy"`
				Comment   string `json:"comment"`
			} `json:"silence"`
			Muted mutedAlert `json:"mutedAlert"`
		} `json:"silenceMutedAlert,omitempty"`
		InhibitionMuted *struct {
			Rules []struct {
				Name    string `json:"name,omitempty"`
				Sources []struct {
					Rendered string `json:"rendered"`
				} `json:"sourceMatchers"`
			} `json:"inhibitRules"`
			Muted mutedAlert `json:"mutedAlert"`
		} `json:"inhibitionMutedAlert,omitempty"`
	} `json:"data"`
}

type recordedAlert struct {
	Details struct {
		Labels   recordedLabels `json:"labels"`
		Resolved bool           `json:"resolved,omitempty"`
	} `json:"details"`
}

type mutedAlert struct {
	Labels recordedLabels `json:"labels"`
}

type recordedLabels struct {
	Labels []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	} `json:"labels"`
}

// alert is the alert that has these labels.
func (l recordedLabels) alert() FiredAlert {
	labels := make(map[string]string)
	for _, pair := range l.Labels {
		labels[pair.Key] = pair.Value
	}
	return FiredAlert{Name: labels["alertname"], Severity: labels["severity"], Layer: labels["layer"], Labels: distinguishing(labels)}
}

// ReadRecorded reads a file of Alertmanager's event recorder. A line that was cut
// off is left out.
func ReadRecorded(path string) ([]Recorded, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the events of Alertmanager: %w", err)
	}
	defer file.Close() //nolint:errcheck // it is only read
	var recorded []Recorded
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, maxEventLine)
	for scanner.Scan() {
		var r Recorded
		if json.Unmarshal(scanner.Bytes(), &r) == nil && (r.Data.Notification != nil || r.Data.SilenceMuted != nil || r.Data.InhibitionMuted != nil) {
			recorded = append(recorded, r)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return recorded, nil
}

// ours says whether an alert is about the target; where no series are known, every
// alert is.
func (e *Evidence) ours(a FiredAlert) bool {
	up := e.named("pgintegrity_up")
	return a.Name != watchdog && (len(up) == 0 || slices.ContainsFunc(up, func(s Series) bool { return s.Labels["instance"] == a.Labels["instance"] }))
}

// repeated is the reason of notifications that say nothing new.
const repeated = "NOTIFY_REASON_REPEAT_INTERVAL_ELAPSED"

// notified is who was told what by Alertmanager, repetitions left out.
func notified(e *Evidence) []Entry {
	var told []Entry
	for _, r := range e.Recorded {
		n := r.Data.Notification
		if n == nil || n.Reason == repeated || r.Time.Before(e.From) || !r.Time.Before(e.To) {
			continue
		}
		var firing, resolved []string
		for _, a := range n.Alerts {
			alert := a.Details.Labels.alert()
			switch {
			case !e.ours(alert):
			case a.Details.Resolved:
				resolved = append(resolved, alert.Name)
			default:
				firing = append(firing, alert.Name)
			}
		}
		var parts []string
		if len(firing) > 0 {
			parts = append(parts, naming(firing, "fires"))
		}
		if len(resolved) > 0 {
			parts = append(parts, naming(resolved, "ended"))
		}
		if len(parts) > 0 {
			what := fmt.Sprintf("%s was notified (%s): %s", n.GroupInfo.Receiver, n.Integration.Name, strings.Join(parts, "; "))
			told = append(told, Entry{r.Time.UTC(), nil, what, sourceRecorder})
		}
	}
	return told
}

// naming names alerts, each once, and says what they do.
func naming(names []string, verb string) string {
	slices.Sort(names)
	return list(slices.Compact(names), 5) + " " + verb
}

// heldBack is which alerts were muted and by what, from the first to the last time
// that Alertmanager said so.
func heldBack(e *Evidence) []Entry {
	index := make(map[string]int)
	var entries []Entry
	for _, r := range e.Recorded {
		var alert FiredAlert
		var by string
		switch d := r.Data; {
		case d.SilenceMuted != nil:
			alert, by = d.SilenceMuted.Muted.Labels.alert(), fmt.Sprintf("a silence of %s: %s", d.SilenceMuted.Silence.CreatedBy, d.SilenceMuted.Silence.Comment)
		case d.InhibitionMuted != nil:
			alert, by = d.InhibitionMuted.Muted.Labels.alert(), "another alert"
			var rules []string
			for _, rule := range d.InhibitionMuted.Rules {
				var matchers []string
				for _, m := range rule.Sources {
					matchers = append(matchers, m.Rendered)
				}
				rules = append(rules, strings.TrimPrefix(rule.Name+": "+strings.Join(matchers, ", "), ": "))
			}
			by += " (" + strings.Join(rules, "; ") + ")"
		default:
			continue
		}
		if !e.ours(alert) || r.Time.Before(e.From) || !r.Time.Before(e.To) {
			continue
		}
		what := alert.String() + " was held back by " + by
		if i, known := index[what]; known {
			entries[i].Ended = new(r.Time.UTC())
			continue
		}
		index[what] = len(entries)
		entries = append(entries, Entry{r.Time.UTC(), nil, what, sourceRecorder})
	}
	return entries
}
