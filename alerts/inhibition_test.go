package alerts_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pg_integrity_exporter/alerts"
	"pg_integrity_exporter/internal/pgtest"
)

// posted is an alert as Alertmanager's API takes and gives it.
type posted struct {
	Labels map[string]string `json:"labels"`
	Status struct {
		InhibitedBy []string `json:"inhibitedBy"`
	} `json:"status,omitzero"`
}

func (p posted) String() string {
	return p.Labels["alertname"] + " " + p.Labels["severity"] + " " + p.Labels["instance"]
}

// firing is an alert of ours with the labels of its rule.
func firing(t *testing.T, name string, severity alerts.Severity, instance, datname string) posted {
	t.Helper()
	for _, group := range alerts.Groups() {
		for _, alert := range group.Alerts {
			if alert.Name == name && alert.Severity == severity {
				labels := alert.Labels()
				maps.Copy(labels, map[string]string{"alertname": name, "job": "pg_integrity_exporter", "instance": instance})
				if datname != "" {
					labels["datname"] = datname
				}
				return posted{Labels: labels}
			}
		}
	}
	t.Fatalf("there is no alert %s of severity %s", name, severity)
	return posted{}
}

// pager takes the pages of a real Alertmanager with the shipped configuration.
type pager struct {
	mu    sync.Mutex
	pages map[string][]string // alerts by receiver
}

func (p *pager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var page struct {
		Alerts []struct {
			Labels map[string]string `json:"labels"`
		} `json:"alerts"`
	}
	if err := json.NewDecoder(r.Body).Decode(&page); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	receiver := strings.TrimPrefix(r.URL.Path, "/")
	for _, alert := range page.Alerts {
		p.pages[receiver] = append(p.pages[receiver], posted{Labels: alert.Labels}.String())
	}
}

// startAlertmanager gives the URL of its API. Its receivers post to p.
func startAlertmanager(t *testing.T, p *pager) string {
	t.Helper()
	config, err := filepath.Abs("alertmanager/alertmanager.yml")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	directory := t.TempDir()
	for _, receiver := range []string{"page-integrity", "page", "ticket", "application", "stakeholders", "watchdog"} {
		if err := os.WriteFile(filepath.Join(directory, receiver+".url"), []byte(server.URL+"/"+receiver), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return runAlertmanager(t, config, directory) + "/api/v2/alerts"
}

// runAlertmanager runs Alertmanager in a directory and gives its URL.
func runAlertmanager(t *testing.T, config, directory string) string {
	t.Helper()
	program := tool(t, "ALERTMANAGER")
	free, err := pgtest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	address := free.String()
	cmd := exec.CommandContext(t.Context(), program, "--config.file="+config, "--storage.path="+directory,
		"--web.listen-address="+address, "--cluster.listen-address=", "--web.external-url=http://alertmanager.example.org")
	cmd.Dir = directory
	start(t, cmd)
	url := "http://" + address
	await(t, "Alertmanager answers", func() bool {
		response, err := http.Get(url + "/-/ready")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return url
}

// post gives alerts to Alertmanager's API.
func post(t *testing.T, api string, alerts any) {
	t.Helper()
	body, err := json.Marshal(alerts)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(api, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s (%v)", response.Status, text, err)
	}
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	pgtest.Await(t, what, 30*time.Second, condition)
}

// TestInhibition posts alerts to a real Alertmanager: symptoms wait while their
// cause pages, and nothing else does.
func TestInhibition(t *testing.T) {
	p := &pager{pages: make(map[string][]string)}
	api := startAlertmanager(t, p)
	held := []posted{
		firing(t, "PostgresTransactionsFailing", alerts.Critical, "damaged:10187", "erp"),
		firing(t, "PostgresErrorSpike", alerts.Warning, "damaged:10187", "erp"),
		firing(t, "PostgresCollectorFailing", alerts.Warning, "down:10187", ""),
		firing(t, "PostgresCheckOverdue", alerts.Warning, "down:10187", "erp"),
		firing(t, "PostgresConnectionsNearLimit", alerts.Warning, "full:10187", ""),
		firing(t, "PostgresCorruptionSuspected", alerts.Warning, "damaged:10187", "erp"),
		firing(t, "PostgresReplicationStopped", alerts.Critical, "split:10187", ""),
		firing(t, "PostgresLockWait", alerts.Warning, "piled:10187", ""),
		firing(t, "PostgresLogReaderDown", alerts.Warning, "gone:10187", ""),
		firing(t, "PostgresTransactionsFailing", alerts.Critical, "maintained:10187", "erp"),
	}
	free := []posted{
		firing(t, "PostgresCorruptionDetected", alerts.Critical, "damaged:10187", "erp"),
		firing(t, "PostgresChecksumFailures", alerts.Critical, "damaged:10187", "erp"),
		firing(t, "PostgresResourceErrors", alerts.Critical, "damaged:10187", "erp"),
		firing(t, "PostgresTransactionsFailing", alerts.Critical, "other:10187", "erp"),
		firing(t, "PostgresDown", alerts.Critical, "down:10187", ""),
		firing(t, "PostgresServerCrashed", alerts.Critical, "down:10187", ""),
		firing(t, "PostgresConnectionsNearLimit", alerts.Critical, "full:10187", ""),
		firing(t, "PostgresConnectionsNearLimit", alerts.Warning, "other:10187", ""),
		firing(t, "PostgresSplitBrain", alerts.Critical, "split:10187", ""),
		firing(t, "PostgresLockPileUp", alerts.Critical, "piled:10187", ""),
		firing(t, "PostgresExporterDown", alerts.Critical, "gone:10187", ""),
		firing(t, "PostgresCorruptionDetected", alerts.Critical, "gone:10187", "erp"),
		firing(t, "PostgresDataRuleBroken", alerts.Critical, "maintained:10187", "erp"),
		firing(t, "PostgresMaintenanceWindow", alerts.None, "maintained:10187", ""),
	}
	post(t, api, slices.Concat(held, free))
	// Damage pages after 5 seconds, with everything of its layer in one page.
	await(t, "the damage is paged", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.pages["page-integrity"]) >= 5
	})
	response, err := http.Get(api)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var known []posted
	if err := json.NewDecoder(response.Body).Decode(&known); err != nil {
		t.Fatal(err)
	}
	if len(known) != len(held)+len(free) {
		t.Errorf("%d alerts of %d", len(known), len(held)+len(free))
	}
	for _, alert := range known {
		want := slices.ContainsFunc(held, func(h posted) bool { return h.String() == alert.String() })
		if got := len(alert.Status.InhibitedBy) > 0; got != want {
			t.Errorf("%s is held back: %t, want %t", alert, got, want)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := fmt.Sprint(p.pages["page-integrity"]); strings.Contains(got, "TransactionsFailing") || !strings.Contains(got, "PostgresCorruptionDetected") {
		t.Errorf("paged: %s", got)
	}
}
