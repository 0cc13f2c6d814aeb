package main_test

import (
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"pg_integrity_exporter/internal/pgtest"
)

// canary is in every password of TestSecrets, and in nothing else. Half of it is
// looked for, so that one that was cut off or encoded is found too.
const canary = "c4n4ryXq/7:hidden"

// tells says where the canary shows.
func tells(t *testing.T, where, text string) {
	t.Helper()
	if at := strings.Index(text, "c4n4ry"); at >= 0 {
		t.Errorf("%s tells a password: ...%s...", where, text[max(0, at-200):min(len(text), at+40)])
	}
}

// TestSecrets gives passwords to the program in every way there is, makes
// everything fail that can, and looks for the passwords in everything that
// leaves the process.
func TestSecrets(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Version(max(15, pgtest.Newest())), pgtest.JSONLog(),
		pgtest.Setting("listen_addresses", "127.0.0.1, 127.0.0.2, 127.0.0.3, 127.0.0.4"), pgtest.Setting("primary_conninfo", "host=127.0.0.1 password="+canary))
	server.MustExec(t, "postgres", "CREATE ROLE asked LOGIN PASSWORD '"+canary+"'; GRANT pg_monitor TO asked")
	hba := filepath.Join(server.DataDirectory, "pg_hba.conf")
	rules, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	write := func(path, text string) string {
		t.Helper()
		if !filepath.IsAbs(path) {
			path = filepath.Join(directory, path)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write(hba, "host all asked 127.0.0.0/8 scram-sha-256\n"+string(rules))
	server.MustExec(t, "postgres", "SELECT pg_reload_conf()")

	const encoded = "c4n4ryXq%2F7%3Ahidden"
	dsn := func(host, password, options string) string {
		address := net.JoinHostPort(host, strconv.Itoa(server.Port))
		return "postgresql://asked:" + password + "@" + address + "/postgres?sslmode=" + options
	}
	password := write("password", canary)
	passfile := write("passfile", fmt.Sprintf("127.0.0.4:%d:*:asked:%s\n", server.Port, strings.ReplaceAll(canary, ":", `\:`)))
	valid := fmt.Sprintf(`
target: {dsn_file: '%s'}
maintenance: {interval: 1s}
targets:
  - {name: wrong, target: {dsn: '%s'}}
  - {name: down, target: {dsn: "host=127.0.0.1 port=1 user=asked password='%s'"}}
  - {name: tls, target: {dsn: '%s'}}
  - {name: passfile, target: {dsn: 'postgresql://asked@127.0.0.4:%d/postgres?sslmode=disable&passfile=%s'}}
probe: {allow: ['127.0.0.1:*']}
auth_modules:
  right: {type: userpass, userpass: {username: asked, password: '%s'}, options: {sslmode: disable}}
  wrong: {type: userpass, userpass: {username: asked, password: '%s-not'}, options: {sslmode: disable}}
  file: {type: userpass, userpass: {username: asked, password_file: '%s'}, options: {sslmode: disable}}
  tls: {type: userpass, userpass: {username: asked, password: '%s'}, options: {sslmode: verify-full}}
  broken: {type: userpass, userpass: {username: asked, password: '%s'}, options: {sslmode: frobnicate}}
`, write("dsn", dsn("127.0.0.1", encoded, "disable")), dsn("127.0.0.2", encoded+"-not", "disable"), canary, dsn("127.0.0.3", encoded, "require"),
		server.Port, passfile, canary, canary, password, canary, canary)
	file := write("config.yml", valid)
	state := filepath.Join(directory, "state")

	s := serve(t, "--config.file="+file, "--state.path="+state, "--log.level=debug", "--web.enable-pprof")
	page := func(url, accept string) string {
		t.Helper()
		_, body := get(t, http.DefaultClient, s.url+url, http.Header{"Accept": {accept}})
		tells(t, url, body)
		return body
	}
	up := func(url string) float64 { return sum(t, page(url, ""), "pgintegrity_up") }
	await(t, "up by the file of the DSN", func() bool { return up("/metrics") == 1 })
	probed := fmt.Sprintf("/probe?target=127.0.0.1:%d/postgres&auth_module=", server.Port)
	for url, want := range map[string]float64{
		"/probe?target=wrong": 0, "/probe?target=down": 0, "/probe?target=tls": 0, "/probe?target=passfile": 1,
		probed + "right": 1, probed + "wrong": 0, probed + "file": 1, probed + "tls": 0,
		"/probe?target=127.0.0.1:1/postgres&auth_module=right": 0,
	} {
		if got := up(url); got != want {
			t.Errorf("%s is up %v, want %v", url, got, want)
		}
	}
	if body := page(probed+"broken", ""); !strings.Contains(body, "auth_module") {
		t.Errorf("an auth module that cannot be used: %s", body)
	}
	page("/probe?target=192.0.2.1:5432/postgres&auth_module=right", "")

	secretsOfTheServer(t, server)
	for _, mistake := range []string{
		"target: 'postgresql://asked:%s@127.0.0.1/x'", "target: {dsn: ['%s']}", "targets: '%s'", "targets: ['%s']", "targets: [{name: a, target: '%s'}]",
		"target: {dsn: 'postgresql://asked:%s#@[127.0.0.1/x'}", `target: {dsn: "host=127.0.0.1 password='%s"}`, `target: {dsn: "host=127.0.0.1 port=x password=%s"}`,
		"auth_modules: {a: {type: userpass, userpass: '%s'}}", "auth_modules: {a: '%s'}", "auth_modules: {a: {type: '%s'}}", "auth_modules: '%s'",
		"auth_modules: {a: {type: userpass, userpass: {username: a, password: ['%s']}}}", "auth_modules: {a: {type: userpass, userpass: {username: a, password: '%s', password_file: x}}}",
		"auth_modules: {a: {type: userpass, userpass: {username: a}, options: {password: '%s'}}}", "auth_modules: {a: {type: userpass, userpass: {username: a}, options: '%s'}}",
		"targets: [{name: a, target: {dsn: '%s'}, log: x}]", "target: {dsn: '%s'", "target: {dsn: '%s', dsn_file: x}",
	} {
		write(file, fmt.Sprintf(mistake, canary))
		response, err := http.Post(s.url+"/-/reload", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode == http.StatusOK {
			t.Errorf("%s was taken: %v", mistake, err)
		}
		tells(t, mistake, string(answer))
	}
	if stdout, stderr, exit := run(t, "config", "check", "--config.file="+file); exit == 0 || strings.Contains(stdout+stderr, "c4n4ry") {
		t.Errorf("config check: %d %s", exit, stdout+stderr)
	}
	write(file, valid)

	for _, args := range [][]string{
		{"config", "check", "--print"}, {"check", "--check=setting", "--check=drift", "--output=json"}, {"baseline", "accept", "--by=test"}, {"baseline", "show"},
		{"check", "--check=setting", "--dsn=" + dsn("127.0.0.1", encoded+"-not", "disable")}, {"check", "--check=setting", "--dsn=" + dsn("127.0.0.3", encoded, "verify-full")},
	} {
		stdout, stderr, _ := run(t, append(args, "--config.file="+file, "--state.path="+state)...)
		tells(t, strings.Join(args[:2], " "), stdout+stderr)
		if args[0] == "baseline" && !strings.Contains(stdout, "primary_conninfo") && args[1] == "show" {
			t.Errorf("the setting with a password is not in the baseline, so nothing was tried:\n%s%s", stdout, stderr)
		}
	}
	for _, target := range []string{"", "wrong", "down", "tls", "passfile"} {
		page("/integrity?target="+target, "application/json")
		page("/integrity?target="+target, "text/html")
	}
	for _, url := range []string{"/", "/targets", "/metrics", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2", "/runbooks/"} {
		page(url, "text/html")
	}
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	tells(t, "the command line", string(arguments))
	if strings.Contains(s.text(), "command line has a password") {
		t.Error("a password on the command line is told of, and there is none")
	}
	careless := serve(t, "--dsn="+dsn("127.0.0.1", encoded, "disable"), "--state.path="+filepath.Join(directory, "careless"))
	await(t, "told of the password on the command line", func() bool { return strings.Contains(careless.text(), "command line has a password") })
	tells(t, "the log of a program with a password on its command line", careless.text())

	if err := s.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-s.ended
	if !strings.Contains(s.text(), "goroutine ") {
		t.Error("no dump of goroutines")
	}
	tells(t, "the log, with the dump of goroutines,", s.text())
	err = filepath.WalkDir(state, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		tells(t, path, string(content))
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// secretsOfTheServer makes a server write passwords where the exporter looks:
// into its log, into what runs now and into its settings.
func secretsOfTheServer(t *testing.T, server *pgtest.Server) {
	t.Helper()
	for _, sql := range []string{
		"ALTER ROLE nobody PASSWORD '" + canary + "'",
		"CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1 user=a password=" + canary + "' PUBLICATION p",
		"ALTER SYSTEM SET primary_conninfo = '" + canary,
	} {
		if err := server.Exec(t.Context(), "postgres", sql); err == nil {
			t.Errorf("%s succeeded", sql)
		}
	}
	server.MustExec(t, "postgres", "ALTER SYSTEM SET primary_conninfo = 'postgresql://asked:"+canary+"@127.0.0.1:1/x'")
	server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
	// Maintenance whose text has a password, seen while it runs.
	server.MustExec(t, "postgres", "CREATE TABLE t (x text)")
	release := server.Hold(t, "postgres", "LOCK TABLE t IN ACCESS SHARE MODE")
	done := make(chan error, 1)
	go func() {
		done <- server.Exec(t.Context(), "postgres", "ALTER TABLE t ADD COLUMN y text DEFAULT 'password="+canary+"'")
	}()
	await(t, "maintenance under way", func() bool {
		var running bool
		err := server.Query(t.Context(), "postgres", "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE%' AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > '2s')", &running)
		return err == nil && running
	})
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
