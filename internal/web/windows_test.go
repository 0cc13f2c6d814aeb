package web

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/maintenance/window"
	"pg_integrity_exporter/internal/state"
)

// TestWindows holds that windows are opened and closed over HTTP by somebody
// who has a name, and by nobody else.
func TestWindows(t *testing.T) {
	files := state.OpenFiles("", "server")
	user := ""
	server := serve(t, Options{Watched: func() Watched { return Watched{Files: files} }, User: func(*http.Request) string { return user }})
	ask := func(method, query string, form url.Values) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, server.URL+windowsPath+query, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		response, err := server.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	form := url.Values{"for": {"2h"}, "reason": {"upgrade"}}
	if code, body := ask("POST", "", form); code != http.StatusForbidden {
		t.Errorf("without a name: %d %s", code, body)
	}
	user = "ann"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+windowsPath+"?for=2h&reason=x", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Sec-Fetch-Site", "cross-site")
	if response, err := server.Client().Do(request); err != nil || response.StatusCode != http.StatusForbidden {
		t.Errorf("by another site: %v %v", response, err)
	} else {
		response.Body.Close()
	}
	if code, body := ask("POST", "", url.Values{"for": {"2"}}); code != http.StatusBadRequest {
		t.Errorf("without parameters: %d %s", code, body)
	}
	if code, body := ask("POST", "", form); code != http.StatusOK || !strings.Contains(body, `"by":"ann"`) {
		t.Errorf("open: %d %s", code, body)
	}
	if s, err := window.Look(files, nil, time.Now()); err != nil || !s.Active {
		t.Errorf("the window is not active: %+v (%v)", s, err)
	}
	if code, body := ask("DELETE", "?id=none", nil); code != http.StatusNotFound {
		t.Errorf("close another: %d %s", code, body)
	}
	if code, body := ask("DELETE", "", nil); code != http.StatusOK {
		t.Errorf("close: %d %s", code, body)
	}
	if s, err := window.Look(files, nil, time.Now()); err != nil || s.Open {
		t.Errorf("the window is open: %+v (%v)", s, err)
	}
}
