package incident

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// requestLimit bounds one request, answerLimit the size of its answer.
	requestLimit = 30 * time.Second
	answerLimit  = 64 << 20
	// maxPoints is how many points of each series are asked for.
	maxPoints = 1000
	// minStep is the smallest distance of two points.
	minStep = time.Second
)

// Server is a Prometheus or an Alertmanager.
type Server struct {
	// URL is where its API begins; it may hold a user and a password.
	URL string
	// Token is a bearer token; empty is none.
	Token string
}

// get fetches a path of the API into a value.
func (s Server) get(ctx context.Context, path string, query url.Values, into any) error {
	base, err := url.Parse(s.URL)
	if err != nil || base.Host == "" {
		return fmt.Errorf("%q is not the URL of a server", redacted(s.URL))
	}
	address := base.JoinPath(path)
	address.RawQuery = query.Encode()
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return fmt.Errorf("asking %s: %w", address.Redacted(), err)
	}
	if s.Token != "" {
		request.Header.Set("Authorization", "Bearer "+s.Token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("asking %s: %w", base.Redacted(), clean(err))
	}
	defer response.Body.Close() //nolint:errcheck // it was read
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", base.JoinPath(path).Redacted(), response.Status)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, answerLimit)).Decode(into); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", base.Redacted(), err)
	}
	return nil
}

// redacted leaves the password out of a URL.
func redacted(text string) string {
	if parsed, err := url.Parse(text); err == nil {
		return parsed.Redacted()
	}
	return "the given text"
}

// clean takes the URL, which may hold a password, out of an error of net/http.
func clean(err error) error {
	if wrapped, ok := err.(*url.Error); ok { //nolint:errorlint // Do returns exactly this
		return wrapped.Err
	}
	return err
}

// Series is one series with its samples.
type Series struct {
	Labels map[string]string `json:"metric"`
	Points []Point           `json:"values"`
}

// Name is the name of the metric.
func (s Series) Name() string { return s.Labels["__name__"] }

// Point is one sample, in JSON as Prometheus has it: [seconds, "value"].
type Point struct {
	Time  time.Time
	Value float64
}

// UnmarshalJSON reads [seconds, "value"].
func (p *Point) UnmarshalJSON(text []byte) error {
	var pair [2]json.RawMessage
	if err := json.Unmarshal(text, &pair); err != nil {
		return fmt.Errorf("a sample is not a pair: %w", err)
	}
	var seconds float64
	var value string
	if err := json.Unmarshal(pair[0], &seconds); err != nil {
		return fmt.Errorf("the time of a sample: %w", err)
	}
	if err := json.Unmarshal(pair[1], &value); err != nil {
		return fmt.Errorf("the value of a sample: %w", err)
	}
	number, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return fmt.Errorf("the value of a sample: %w", err)
	}
	*p = Point{Time: time.UnixMilli(int64(seconds * 1000)).UTC(), Value: number}
	return nil
}

// MarshalJSON writes [seconds, "value"].
func (p Point) MarshalJSON() ([]byte, error) {
	return json.Marshal([2]any{float64(p.Time.UnixMilli()) / 1000, strconv.FormatFloat(p.Value, 'f', -1, 64)})
}

// Matrix is the answer to one query over a range.
type Matrix struct {
	Status string `json:"status"`
	Error  string `json:"error,omitempty"`
	Data   struct {
		ResultType string   `json:"resultType"`
		Result     []Series `json:"result"`
	} `json:"data"`
}

// queries are the series that a report is made from. Counters come as they
// are, so that a report from files needs no query language.
func queries(selector string) []string {
	all := []string{
		`ALERTS`, `up`,
		`pgintegrity_up`, `pgintegrity_scrape_collector_success`, `pgintegrity_log_reader_up`,
		`pgintegrity_transactions_total`, `pgintegrity_corruption_events_total`, `pgintegrity_server_events_total`,
		`pgintegrity_finding_info`, `pgintegrity_in_recovery`, `pgintegrity_postmaster_start_timestamp_seconds`,
		`pgintegrity_check_last_success_timestamp_seconds`, `pgintegrity_check_interval_seconds`,
		`pgintegrity_maintenance_window_active`,
	}
	for i := range all {
		all[i] += selector
	}
	return append(all, `pgintegrity_errors_total`+selector+` > 0`)
}

// step is the distance of the points that are asked for.
func step(from, to time.Time) time.Duration {
	return max(minStep, (to.Sub(from) / maxPoints).Round(time.Second))
}

// FetchSeries asks Prometheus for what happened from one moment to another on
// the instance, or on all of the job when instance is empty.
func FetchSeries(ctx context.Context, server Server, job, instance string, from, to time.Time) ([]Series, error) {
	selector := fmt.Sprintf("{job=%q}", job)
	if instance != "" {
		selector = fmt.Sprintf("{job=%q, instance=%q}", job, instance)
	}
	var all []Series
	for _, query := range queries(selector) {
		var answer Matrix
		if err := server.get(ctx, "api/v1/query_range", url.Values{
			"query": {query},
			"start": {from.UTC().Format(time.RFC3339)}, "end": {to.UTC().Format(time.RFC3339)},
			"step": {strconv.FormatFloat(step(from, to).Seconds(), 'f', -1, 64)},
		}, &answer); err != nil {
			return nil, err
		}
		if answer.Status != "success" {
			return nil, fmt.Errorf("prometheus refuses %s: %s", query, answer.Error)
		}
		for _, series := range answer.Data.Result {
			// A comparison keeps the name, so every result has one.
			if strings.HasPrefix(series.Name(), "ALERTS") && series.Labels["alertname"] == watchdog {
				continue
			}
			all = append(all, series)
		}
	}
	return all, nil
}

// watchdog is the alert that always fires; it is no part of any incident.
const watchdog = "PostgresWatchdog"

// Silence is a silence of Alertmanager.
type Silence struct {
	ID        string    `json:"id"`
	CreatedBy string    `json:"createdBy"`
	Comment   string    `json:"comment"`
	StartsAt  time.Time `json:"startsAt"`
	EndsAt    time.Time `json:"endsAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	Matchers  []struct {
		Name    string `json:"name"`
		Value   string `json:"value"`
		IsRegex bool   `json:"isRegex"`
		IsEqual *bool  `json:"isEqual,omitempty"`
	} `json:"matchers"`
}

// String is what the silence matches, as Alertmanager writes it.
func (s Silence) String() string {
	var parts []string
	for _, m := range s.Matchers {
		equal := m.IsEqual == nil || *m.IsEqual
		operator := map[[2]bool]string{{true, false}: "=", {true, true}: "=~", {false, false}: "!=", {false, true}: "!~"}[[2]bool{equal, m.IsRegex}]
		parts = append(parts, m.Name+operator+strconv.Quote(m.Value))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// FetchSilences asks Alertmanager for the silences that it still knows; it
// forgets them five days after their end unless told otherwise.
func FetchSilences(ctx context.Context, server Server) ([]Silence, error) {
	var silences []Silence
	err := server.get(ctx, "api/v2/silences", nil, &silences)
	return silences, err
}
