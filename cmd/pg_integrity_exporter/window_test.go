package main_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pgtest"
)

// windowed is a running exporter that asks for a password.
type windowed struct {
	t *testing.T
	s *service
}

// ask calls the endpoint of windows.
func (w windowed) ask(method, password string, form url.Values) (status int, body string) {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.t.Context(), method, w.s.url+"/-/window?"+form.Encode(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if password != "" {
		request.SetBasicAuth("ann", password)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

// await waits until the metrics say whether a window is active and open.
func (w windowed) await(what string, active, open int) {
	w.t.Helper()
	pgtest.Await(w.t, what, 20*time.Second, func() bool {
		request := &http.Request{Header: make(http.Header)}
		request.SetBasicAuth("ann", "open sesame")
		_, page := get(w.t, http.DefaultClient, w.s.url+"/metrics", request.Header)
		return strings.Contains(page, fmt.Sprintf("\npgintegrity_maintenance_window_active %d\n", active)) &&
			strings.Contains(page, fmt.Sprintf("\npgintegrity_maintenance_window_open %d\n", open))
	})
}

// TestWindowsAreOpened opens windows in each way beside a running exporter, with
// its metrics as the witness: over HTTP with a password and not without, by the
// command, by a session with the marker, and by the configuration. One that nobody
// closes mutes nothing behind its announced end, and stays open.
func TestWindowsAreOpened(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	directory := t.TempDir()
	file := func(name, content string) string {
		t.Helper()
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	web := file("web.yml", fmt.Sprintf("basic_auth_users: {ann: %q}\n", bcryptHash(t, "open sesame")))
	config := file("exporter.yml", "maintenance: {interval: 1s, marker: migration}\n")
	common := []string{"--dsn=" + server.DSN("postgres"), "--state.path=" + directory, "--config.file=" + config}
	w := windowed{t, serve(t, append([]string{"--web.config.file=" + web}, common...)...)}
	w.await("no window", 0, 0)

	want := func(what string, status, wanted int, body string) {
		t.Helper()
		if status != wanted {
			t.Errorf("%s: status %d, want %d: %s", what, status, wanted, body)
		}
	}
	upgrade := url.Values{"for": {"3s"}, "reason": {"upgrade"}}
	for what, password := range map[string]string{"no password": "", "a wrong password": "open barley"} {
		status, body := w.ask(http.MethodPost, password, upgrade)
		want(what, status, http.StatusUnauthorized, body)
	}
	status, body := w.ask(http.MethodPost, "open sesame", url.Values{"for": {"1000h"}, "reason": {"too long"}})
	want("too long", status, http.StatusBadRequest, body)
	w.await("still none", 0, 0)
	status, body = w.ask(http.MethodPost, "open sesame", upgrade)
	want("open", status, http.StatusOK, body)
	w.await("the window over HTTP", 1, 1)
	w.await("behind its announced end", 0, 1)
	if status, body = w.ask(http.MethodGet, "open sesame", nil); status != http.StatusOK || !strings.Contains(body, `"by":"ann"`) {
		t.Errorf("list: status %d: %s", status, body)
	}
	status, body = w.ask(http.MethodDelete, "open sesame", nil)
	want("close", status, http.StatusOK, body)
	w.await("closed over HTTP", 0, 0)

	for _, c := range []struct {
		args []string
		open int
	}{{[]string{"window", "open", "--for=1h", "--reason=reindex"}, 1}, {[]string{"window", "close"}, 0}} {
		if stdout, stderr, exit := run(t, append(c.args, common...)...); exit != 0 {
			t.Fatalf("%v: exit %d\n%s%s", c.args, exit, stdout, stderr)
		}
		w.await(strings.Join(c.args[:2], " "), c.open, c.open)
	}
	release := server.Hold(t, "postgres", "SET application_name = 'the migration 42'")
	w.await("the window of the marker", 1, 1)
	release()
	w.await("the end of the session", 0, 0)

	now := time.Now().UTC()
	planned := fmt.Sprintf("maintenance: {windows: [{name: night, hours: \"%s-%s\"}]}\n", now.Add(-time.Hour).Format("15:04"), now.Add(time.Hour).Format("15:04"))
	file("exporter.yml", planned)
	if err := w.s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.await("the planned window", 1, 1)
}
