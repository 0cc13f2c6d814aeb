package alerts_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"pg_integrity_exporter/alerts"
)

// mailbox is an SMTP server that keeps what it is sent.
type mailbox struct {
	address string

	mu    sync.Mutex
	mails []string
}

func newMailbox(t *testing.T) *mailbox {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	box := &mailbox{address: listener.Addr().String()}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go box.serve(conn)
		}
	}()
	return box
}

// serve speaks as much SMTP as a client needs.
func (m *mailbox) serve(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	fmt.Fprint(conn, "220 test\r\n")
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return
		}
		switch command, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " "); command {
		case "DATA":
			fmt.Fprint(conn, "354 go on\r\n")
			var text strings.Builder
			for {
				line, err := reader.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				text.WriteString(strings.TrimPrefix(line, "."))
			}
			m.mu.Lock()
			m.mails = append(m.mails, text.String())
			m.mu.Unlock()
			fmt.Fprint(conn, "250 taken\r\n")
		case "QUIT":
			fmt.Fprint(conn, "221 bye\r\n")
			return
		default:
			fmt.Fprint(conn, "250 ok\r\n")
		}
	}
}

// letter is a mail with its parts by type.
type letter struct {
	to, subject, text, html string
}

func (m *mailbox) letters(t *testing.T) []letter {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []letter
	for _, raw := range m.mails {
		message, err := mail.ReadMessage(strings.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		subject, err := new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject"))
		if err != nil {
			t.Fatal(err)
		}
		l := letter{to: message.Header.Get("To"), subject: subject}
		_, parameters, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		parts := multipart.NewReader(message.Body, parameters["boundary"])
		for {
			part, err := parts.NextRawPart()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(quotedprintable.NewReader(part))
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(part.Header.Get("Content-Type"), "text/html") {
				l.html = string(content)
			} else {
				l.text = string(content)
			}
		}
		all = append(all, l)
	}
	return all
}

// inbox keeps the requests of chat and paging services by path.
type inbox struct {
	mu       sync.Mutex
	requests map[string][]string
}

func (i *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	i.mu.Lock()
	i.requests[r.URL.Path] = append(i.requests[r.URL.Path], string(body))
	i.mu.Unlock()
	switch r.URL.Path {
	case "/pagerduty":
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, `{"status":"success","dedup_key":"x"}`)
	case "/teams":
		w.WriteHeader(http.StatusAccepted)
	default:
		fmt.Fprint(w, "ok")
	}
}

// last is the newest request to a path, or "".
func (i *inbox) last(path string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if n := len(i.requests[path]); n > 0 {
		return i.requests[path][n-1]
	}
	return ""
}

// document is YAML as it comes.
type document = map[string]any

func readYAML(t *testing.T, file string) document {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := yaml.Unmarshal(content, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// hurry shortens the waiting times of a route and of those below it, to what alerts
// of one post need to get into one notification.
func hurry(route document) {
	route["group_wait"], route["group_interval"] = "1s", "1s"
	children, _ := route["routes"].([]any)
	for _, child := range children {
		hurry(child.(document)) //nolint:forcetypeassert // the test fails loudly on another type
	}
}

// notificationConfig is the shipped routes with the shipped receivers, which
// deliver to servers of the test.
func notificationConfig(t *testing.T, directory, mailAddress, url string) string {
	t.Helper()
	config, receivers := readYAML(t, "alertmanager/alertmanager.yml"), readYAML(t, "alertmanager/receivers.yml")
	config["receivers"] = receivers["receivers"]
	templates, err := filepath.Abs("alertmanager/templates.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	config["templates"] = []string{templates}
	config["global"] = document{
		"smtp_smarthost": mailAddress, "smtp_from": "alertmanager@example.org", "smtp_require_tls": false, "pagerduty_url": url + "/pagerduty",
	}
	hurry(config["route"].(document)) //nolint:forcetypeassert // the test fails loudly on another type
	delete(config, "inhibit_rules")   // they have a test of their own
	content, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("/etc/alertmanager/", directory+"/").Replace(string(content))
	file := filepath.Join(directory, "alertmanager.yml")
	for name, text := range map[string]string{
		file: text, filepath.Join(directory, "slack-url"): url + "/slack", filepath.Join(directory, "teams-url"): url + "/teams",
		filepath.Join(directory, "pagerduty-key"): "key", filepath.Join(directory, "ticket.url"): url + "/ticket", filepath.Join(directory, "watchdog.url"): url + "/watchdog",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// notice is an alert with texts and times, as Prometheus posts it.
type notice struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt,omitzero"`
	GeneratorURL string            `json:"generatorURL"`
}

var variable = regexp.MustCompile(`\{\{[^}]*\}\}`)

// filled is a text with values, as Prometheus makes it of a template.
func filled(text string) string { return variable.ReplaceAllString(text, "value") }

func noticeOf(t *testing.T, name string, severity alerts.Severity, began time.Time) notice {
	t.Helper()
	alert, ok := alerts.Find(name, severity)
	if !ok {
		t.Fatalf("there is no alert %s of severity %s", name, severity)
	}
	n := notice{
		Labels: alert.Labels(), StartsAt: began, GeneratorURL: "http://prometheus.example.org/graph",
		Annotations: map[string]string{
			"summary": alert.Summary, "description": "ledger.postings in database erp <b>&", "impact": alert.Impact, "action": filled(alert.Action),
			"runbook_url": "http://erp:10187/runbooks/" + name, "dashboard_url": "https://grafana.example.org/d/postgres-integrity-overview",
		},
	}
	maps.Copy(n.Labels, map[string]string{"alertname": name, "job": "pg_integrity_exporter", "instance": "erp:10187", "datname": "erp"})
	return n
}

// TestNotifications posts alerts to a real Alertmanager and looks at what
// arrives by e-mail, PagerDuty, Slack, Teams and webhook, while they fire and
// when they are over.
func TestNotifications(t *testing.T) {
	box, in := newMailbox(t), &inbox{requests: make(map[string][]string)}
	server := httptest.NewServer(in)
	t.Cleanup(server.Close)
	directory := t.TempDir()
	api := runAlertmanager(t, notificationConfig(t, directory, box.address, server.URL), directory) + "/api/v2/alerts"
	began := time.Now().Add(-90 * time.Second).Truncate(time.Second)
	notices := []notice{
		noticeOf(t, "PostgresChecksumFailures", alerts.Critical, began),
		noticeOf(t, "PostgresCorruptionDetected", alerts.Critical, began),
		noticeOf(t, "PostgresTransactionsFailing", alerts.Critical, began),
		noticeOf(t, "PostgresLeftover", alerts.Warning, began),
	}
	post(t, api, notices)
	arrived := func(wants map[string]string, mails int) {
		t.Helper()
		for path, want := range wants {
			await(t, want+" arrives at "+path, func() bool { return strings.Contains(unescape(in.last(path)), want) })
		}
		await(t, "mail arrives", func() bool { return len(box.letters(t)) >= mails })
	}
	since := began.UTC().Format("2006-01-02 15:04:05 UTC")
	arrived(map[string]string{"/pagerduty": "ledger.postings", "/slack": "ledger.postings", "/teams": "ledger.postings", "/ticket": "ledger.postings"}, 2)
	for path, wants := range map[string][]string{
		"/slack":     {"CRITICAL: Far more transactions fail than usual (", since, "*Means:*", "*First:*", "runbooks/PostgresTransactionsFailing", "danger"},
		"/teams":     {"CRITICAL: Far more", since, "**First:**", "[Runbook]("},
		"/pagerduty": {`"event_action":"trigger"`, `"severity":"critical"`, "Data is corrupted", since, "First:", "runbooks/PostgresCorruptionDetected"},
		"/ticket":    {`"status":"firing"`, "PostgresLeftover", `"action"`, `"impact"`},
	} {
		for _, want := range wants {
			if !strings.Contains(unescape(in.last(path)), want) {
				t.Errorf("%s: %q is not in %s", path, want, in.last(path))
			}
		}
	}
	corruption, _ := alerts.Find("PostgresCorruptionDetected", alerts.Critical)
	for _, l := range box.letters(t) {
		if l.to == "everybody@example.org" {
			checkStakeholders(t, l, "Since")
			continue
		}
		if l.subject != "CRITICAL: Data is corrupted (erp:10187)" {
			t.Errorf("subject %q", l.subject)
		}
		for _, part := range []string{l.text, l.html} {
			if first, second := strings.Index(part, "PostgresCorruptionDetected"), strings.Index(part, "PostgresChecksumFailures"); first < 0 || second < first {
				t.Errorf("what is damaged is not told first:\n%s", part)
			}
		}
		for _, want := range []string{since, corruption.Impact, filled(corruption.Action), "http://erp:10187/runbooks/PostgresCorruptionDetected"} {
			if !strings.Contains(l.text, want) || !strings.Contains(l.html, strings.ReplaceAll(want, "'", "&#39;")) {
				t.Errorf("%q is not in both parts of the mail:\n%s\n%s", want, l.text, l.html)
			}
		}
		if !strings.Contains(l.html, "&lt;b&gt;&amp;") {
			t.Errorf("the HTML part does not escape values: %s", l.html)
		}
		if out := os.Getenv("ALERTS_MAIL"); out != "" {
			if err := os.WriteFile(out, []byte(l.html), 0o600); err != nil {
				t.Error(err)
			}
		}
	}

	for i := range notices {
		notices[i].EndsAt = began.Add(80 * time.Second)
	}
	mails := len(box.letters(t))
	post(t, api, notices)
	arrived(map[string]string{
		"/slack": "resolved after 1m20s", "/teams": "resolved after 1m20s", "/pagerduty": `"event_action":"resolve"`, "/ticket": `"status":"resolved"`,
	}, mails+2)
	for _, l := range box.letters(t)[mails:] {
		if l.to == "everybody@example.org" {
			checkStakeholders(t, l, "ended after 1m20s")
		} else if !strings.HasPrefix(l.subject, "RESOLVED") || !strings.Contains(l.text, "for 1m20s") || !strings.Contains(l.html, "resolved after 1m20s") {
			t.Errorf("the mail of the end: %q\n%s", l.subject, l.text)
		}
	}
}

// checkStakeholders holds that people who cannot act read no names of tables
// and no commands.
func checkStakeholders(t *testing.T, l letter, want string) {
	t.Helper()
	if !strings.Contains(l.text, want) {
		t.Errorf("stakeholders do not read %q: %s", want, l.text)
	}
	for _, jargon := range []string{"ledger", "SELECT", "pg_", "VACUUM", "SQLSTATE"} {
		if strings.Contains(l.text, jargon) {
			t.Errorf("stakeholders read %q: %s", jargon, l.text)
		}
	}
}

// unescape undoes the escapes of JSON for reading.
func unescape(text string) string {
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		return text
	}
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return text
	}
	return out.String()
}
