package exporter_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_integrity_exporter/internal/exporter"
	"pg_integrity_exporter/internal/exposition"
	"pg_integrity_exporter/internal/pgtest"
	"pg_integrity_exporter/internal/state"
	"pg_integrity_exporter/internal/web"
)

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func ask(t *testing.T, e *exporter.Exporter, asked web.Probe) (*exposition.Page, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return e.Probe(ctx, asked)
}

// TestFleet watches two servers by name and probes a third by its address, with
// a password that changes meanwhile.
func TestFleet(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	other := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE ROLE asked LOGIN PASSWORD 'first'; GRANT pg_monitor TO asked")
	hba := filepath.Join(server.DataDirectory, "pg_hba.conf")
	rules, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, hba, "host all asked 127.0.0.1/32 scram-sha-256\n"+string(rules))
	server.MustExec(t, "postgres", "SELECT pg_reload_conf()")

	directory := t.TempDir()
	file, password := filepath.Join(directory, "config.yml"), filepath.Join(directory, "password")
	writeFile(t, password, "first\n")
	writeFile(t, file, fmt.Sprintf(`
targets:
  - {name: orders, target: {dsn: '%s'}}
  - {name: billing, target: {dsn: 'postgresql://nobody@127.0.0.1:1/postgres?sslmode=disable'}}
probe: {allow: ['127.0.0.1:%d'], max_targets: 2}
modules: {small: {collectors: [server]}, other: {collectors: [database]}}
auth_modules: {a: {type: userpass, userpass: {username: asked, password_file: '%s'}, options: {sslmode: disable}}}
`, other.DSN("postgres"), server.Port, password))
	e := run(t, "", directory, file)

	if up, _ := sumOf(must(ask(t, e, web.Probe{Target: "orders"})), "pgintegrity_up", nil); up != 1 {
		t.Error("orders is not up")
	}
	page := must(ask(t, e, web.Probe{Target: "billing"}))
	if up, found := sumOf(page, "pgintegrity_up", nil); up != 0 || !found {
		t.Error("billing, which is not there, is up")
	}
	if _, found := sumOf(e.Scrape(t.Context()), "pgintegrity_up", nil); found {
		t.Error("a page without a server of its own has the metrics of one")
	}
	if names := strings.Join(e.Targets(), " "); names != "orders billing" {
		t.Errorf("targets are %s", names)
	}
	if w, ok := e.WatchedTarget("orders"); !ok || !strings.HasSuffix(w.Target, fmt.Sprint(other.Port)) {
		t.Errorf("orders is %q, %v", w.Target, ok)
	}

	asked := web.Probe{Target: fmt.Sprintf("127.0.0.1:%d/postgres", server.Port), AuthModule: "a"}
	up := func() float64 {
		n, _ := sumOf(must(ask(t, e, asked)), "pgintegrity_up", nil)
		return n
	}
	if up() != 1 {
		t.Error("the probed server is not up")
	}
	// One kept connection, however often it is probed, and by whichever modules.
	for range 3 {
		up()
		must(ask(t, e, web.Probe{Target: asked.Target, AuthModule: asked.AuthModule, Module: "small"}))
	}
	var sessions int
	if err := server.Query(t.Context(), "postgres", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'asked'", &sessions); err != nil || sessions != 1 {
		t.Errorf("%d sessions, %v", sessions, err)
	}
	server.MustExec(t, "postgres", "ALTER ROLE asked PASSWORD 'second'")
	writeFile(t, password, "second\n")
	server.MustExec(t, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'asked'")
	pgtest.Await(t, "up with the new password", 10*time.Second, func() bool { return up() == 1 })

	refused(t, e, server)
}

// refused asks for what must not be done, with the servers of TestFleet.
func refused(t *testing.T, e *exporter.Exporter, server *pgtest.Server) {
	t.Helper()
	allowed := fmt.Sprintf("127.0.0.1:%d", server.Port)
	for name, c := range map[string]struct {
		asked  web.Probe
		status int
		text   string
	}{
		"nothing":          {web.Probe{}, http.StatusBadRequest, "target is missing"},
		"another port":     {web.Probe{Target: "127.0.0.1:22"}, http.StatusForbidden, "probe.allow"},
		"another host":     {web.Probe{Target: "metadata.internal:80/latest"}, http.StatusForbidden, "probe.allow"},
		"a socket":         {web.Probe{Target: "/var/run/postgresql"}, http.StatusBadRequest, "host:port"},
		"a URL":            {web.Probe{Target: "postgresql://" + allowed + "/postgres"}, http.StatusBadRequest, "host:port"},
		"several hosts":    {web.Probe{Target: allowed + ",evil.example:5432/postgres"}, http.StatusBadRequest, "host:port"},
		"keywords":         {web.Probe{Target: "host=evil.example"}, http.StatusBadRequest, "host:port"},
		"a user":           {web.Probe{Target: "root@" + allowed}, http.StatusBadRequest, "host:port"},
		"options":          {web.Probe{Target: allowed + "/postgres?host=evil.example"}, http.StatusBadRequest, "host:port"},
		"a fragment":       {web.Probe{Target: allowed + "/postgres#x"}, http.StatusBadRequest, "host:port"},
		"a line break":     {web.Probe{Target: allowed + "/postgres\nx"}, http.StatusBadRequest, "host:port"},
		"port 0":           {web.Probe{Target: "127.0.0.1:0"}, http.StatusBadRequest, "host:port"},
		"a missing module": {web.Probe{Target: allowed, Module: "none"}, http.StatusBadRequest, "module"},
		"a missing login":  {web.Probe{Target: allowed, AuthModule: "none"}, http.StatusBadRequest, "auth_module"},
		"too many":         {web.Probe{Target: allowed, Module: "other"}, http.StatusServiceUnavailable, "probe.max_targets"},
		"a module of a configured target": {
			web.Probe{Target: "orders", Module: "small"}, http.StatusBadRequest, "leave out module",
		},
	} {
		_, err := ask(t, e, c.asked)
		refusal, ok := errors.AsType[*web.ProbeError](err)
		if !ok || refusal.Status != c.status || !strings.Contains(refusal.Text, c.text) {
			t.Errorf("%s: %v, not %d with %q", name, err, c.status, c.text)
		}
	}
}

func must(page *exposition.Page, err error) *exposition.Page {
	if err != nil {
		panic(err)
	}
	return page
}

// TestFleetErrors holds that a fleet which cannot be watched is refused as a
// whole.
func TestFleetErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"modules: {m: {collectors: [chcek]}}":                                           `there is no "chcek"; there are: activity`,
		"modules: {m: {collectors: [check]}}":                                           `there is no "check"`,
		"targets: [{name: a, target: {dsn: 'host=a port=x'}}]":                          "targets: a:",
		"targets: [{name: a, target: {dsn: host=h}}, {name: b, target: {dsn: host=h}}]": "h:5432 is watched already",
	} {
		file := filepath.Join(t.TempDir(), "config.yml")
		writeFile(t, file, text)
		_, err := exporter.New(exporter.Options{
			ConfigFile: file, Environment: func(string) (string, bool) { return "", false }, Store: store(t), Logger: discard,
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

var discard = slog.New(slog.DiscardHandler)

func store(t *testing.T) *state.Store {
	t.Helper()
	return state.InMemory(discard)
}
