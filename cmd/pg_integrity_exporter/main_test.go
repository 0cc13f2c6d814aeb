package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pg_integrity_exporter/internal/pgtest"
)

// program is the built exporter.
var program string

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == jobArgument {
		os.Exit(job(os.Args[2]))
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	directory, err := os.MkdirTemp("", "pg_integrity_exporter-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(directory)
	// Another user runs it in one of the tests.
	if err := os.Chmod(directory, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	program = filepath.Join(directory, "pg_integrity_exporter")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// command prepares the program with nothing of the test's own environment that
// names a server.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	return cmd
}

// run runs the program to its end.
func run(t *testing.T, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := command(ctx, args...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	return out.String(), problems.String(), cmd.ProcessState.ExitCode()
}

// service is the program while it serves.
type service struct {
	cmd     *exec.Cmd
	url     string
	mu      sync.Mutex
	log     bytes.Buffer
	ended   chan struct{}
	address string
}

func (s *service) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

func (s *service) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := pgtest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address.String()
}

// serve starts the program and waits until it listens.
func serve(t *testing.T, args ...string) *service {
	t.Helper()
	s := prepare(t, args...)
	s.start(t)
	return s
}

func prepare(t *testing.T, args ...string) *service {
	t.Helper()
	s := &service{address: freeAddress(t), ended: make(chan struct{})}
	s.url = "http://" + s.address
	s.cmd = command(context.Background(), append([]string{"serve", "--web.listen-address=" + s.address}, args...)...)
	return s
}

func (s *service) start(t *testing.T) {
	t.Helper()
	s.cmd.Stdout, s.cmd.Stderr = s, s
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait() // its exit code is in ProcessState
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Log(s.text())
		}
	})
	await(t, "listening\n"+s.text(), func() bool {
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

func (s *service) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.ended
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	pgtest.Await(t, what, 30*time.Second, condition)
}

func get(t *testing.T, client *http.Client, url string, header http.Header) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	response, err := client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(content)
}

func (s *service) metrics(t *testing.T) string {
	t.Helper()
	_, body := get(t, http.DefaultClient, s.url+"/metrics", nil)
	return body
}

// sum adds the samples whose series match a pattern.
func sum(t *testing.T, page, pattern string) float64 {
	t.Helper()
	total := 0.0
	for _, match := range regexp.MustCompile("(?m)^"+pattern+" (.*)$").FindAllStringSubmatch(page, -1) {
		value, err := strconv.ParseFloat(match[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		total += value
	}
	return total
}

// TestBadInput holds that each mistake gives one clear line that says what to
// do, with the right exit code, and that no password is told.
func TestBadInput(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	nobody := "--dsn=postgresql://u:hidden@127.0.0.1:1/x"
	state := "--state.path=" + directory
	for name, c := range map[string]struct {
		args []string
		exit int
		want []string
	}{
		"unknown flag":          {[]string{"--frobnicate"}, 2, []string{"--frobnicate", "--help"}},
		"unknown command":       {[]string{"frobnicate"}, 2, []string{"frobnicate", "--help"}},
		"DSN that is none":      {[]string{"check", "--dsn=postgresql://u:hid den@host"}, 2, []string{"DSN", "postgresql://user@host:5432/database"}},
		"unknown check":         {[]string{"check", nobody, "--check=frobnicate"}, 2, []string{"frobnicate", "page, checksum, heap, btree"}},
		"no server":             {[]string{"check", nobody}, 2, []string{"connection refused", "is the server running"}},
		"unknown host":          {[]string{"check", "--dsn=postgresql://u:hidden@no-such-host.invalid/x"}, 2, []string{"no-such-host.invalid", "check the host name"}},
		"relation without name": {[]string{"check", nobody, "--relation=ledger."}, 2, []string{"ledger."}},
		"unknown target":        {[]string{"check", "--target=c", "--config.file=" + file("targets.yml", "targets: [{name: a, target: {dsn: 'host=x'}}, {name: b, target: {dsn: 'host=y'}}]\n")}, 2, []string{"no target \"c\"", "a, b"}},
		"target of no file":     {[]string{"check", "--target=c"}, 2, []string{"--target", "--config.file"}},
		"a target to serve":     {[]string{"serve", state + "/target", "--target=c"}, 1, []string{"--target", "serve watches every server"}},
		"a target by its name":  {[]string{"check", "--target=a", "--config.file=" + file("named.yml", "targets: [{name: a, target: {dsn: 'postgresql://u:hidden@127.0.0.1:1/x'}}]\n")}, 2, []string{"127.0.0.1:1", "connection refused"}},
		"ahead of no scrape":    {[]string{"serve", state + "/ahead", "--scrape.ahead=-1s"}, 1, []string{"--scrape.ahead=-1s", "negative"}},
		"no jobs":               {[]string{"check", nobody, "--jobs=0"}, 2, []string{"--jobs"}},
		"unknown key":           {[]string{"serve", state, "--config.file=" + file("key.yml", "target:\n  dns: x\n")}, 1, []string{"key.yml", "line 2", "dns"}},
		"no DSN of a standby":   {[]string{"config", "check", "--config.file=" + file("standby.yml", "target: {dsn: host=a}\nstandby: {dsn: no dsn}\n")}, 1, []string{"standby: ", "failed to parse"}},
		"no DSN of one of many": {[]string{"config", "check", "--config.file=" + file("many.yml", "targets: [{name: a, target: {dsn: host=x}}, {name: b, target: {dsn: no dsn}}]\n")}, 1, []string{"targets: b: ", "failed to parse"}},
		"one of many has none":  {[]string{"config", "check", "--config.file=" + file("theirs.yml", "targets: [{name: a, target: {dsn: host=x}, standby: {dsn: no dsn}}]\n")}, 1, []string{"targets: a: standby: ", "failed to parse"}},
		"wrong value":           {[]string{"config", "check", "--config.file=" + file("value.yml", "checks:\n  heap:\n    interval: soon\n")}, 1, []string{"value.yml", "line 3", "soon"}},
		"no YAML":               {[]string{"config", "check", "--config.file=" + file("no.yml", "a: [b\n")}, 1, []string{"no.yml", "line"}},
		"no file":               {[]string{"serve", state, "--config.file=/nowhere.yml"}, 1, []string{"/nowhere.yml", "no such file"}},
		"port in use":           {[]string{"serve", state, "--web.listen-address=" + listener.Addr().String()}, 1, []string{"address already in use", "--web.listen-address"}},
		"no address":            {[]string{"serve", state + "/address", "--web.listen-address=127.0.0.1:99999"}, 1, []string{"99999"}},
		"unknown collector":     {[]string{"serve", "--collector.frobnicate"}, 2, []string{"--collector.frobnicate"}},
		"no web configuration":  {[]string{"serve", state + "/web", "--web.config.file=/nowhere.yml"}, 1, []string{"/nowhere.yml"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, exit := run(t, c.args...)
			if exit != c.exit {
				t.Errorf("exit code %d, want %d", exit, c.exit)
			}
			for _, want := range c.want {
				if !strings.Contains(stdout+stderr, want) {
					t.Errorf("%q is not in:\n%s%s", want, stdout, stderr)
				}
			}
			if strings.Contains(stdout+stderr, "hid") {
				t.Errorf("the password is told:\n%s%s", stdout, stderr)
			}
			if c.args[0] != "serve" && stdout == "" && strings.Count(stderr, "\n") != 1 {
				t.Errorf("not one line:\n%s", stderr)
			}
		})
	}
}

// TestMetricsReferenceIsCurrent holds docs/metrics.md against the program.
func TestMetricsReferenceIsCurrent(t *testing.T) {
	t.Parallel()
	want, _, exit := run(t, "metrics")
	got, err := os.ReadFile("../../docs/metrics.md")
	if err != nil || exit != 0 || string(got) != want {
		t.Errorf("docs/metrics.md is not current: make generate (%v)", err)
	}
}

// TestWrongPassword needs a server that asks for one.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", "CREATE ROLE asked LOGIN PASSWORD 'right'; GRANT pg_monitor TO asked")
	hba := filepath.Join(server.DataDirectory, "pg_hba.conf")
	rules, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hba, append([]byte("host all asked 127.0.0.1/32 scram-sha-256\n"), rules...), 0o600); err != nil {
		t.Fatal(err)
	}
	server.MustExec(t, "postgres", "SELECT pg_reload_conf()")
	dsn := func(password string) string {
		return fmt.Sprintf("--dsn=postgresql://asked:%s@127.0.0.1:%d/postgres", password, server.Port)
	}
	await(t, "asking for a password", func() bool {
		stdout, _, exit := run(t, "check", dsn("hidden"))
		return exit == 2 && strings.Contains(stdout, "password authentication failed") && strings.Contains(stdout, "pg_hba.conf") && !strings.Contains(stdout, "hidden")
	})
	s := serve(t, dsn("hidden"), "--state.path="+t.TempDir())
	page := s.metrics(t)
	if sum(t, page, "pgintegrity_up") != 0 || sum(t, page, `pgintegrity_connection_failure\{reason="authentication"\}`) != 1 {
		t.Errorf("the page does not tell of the wrong password:\n%s", page)
	}
	if text := s.text(); strings.Contains(text, "hidden") || !strings.Contains(text, "password authentication failed") {
		t.Errorf("the log tells the password, or not what is wrong:\n%s", text)
	}
	right := serve(t, dsn("right"), "--state.path="+t.TempDir())
	if sum(t, right.metrics(t), "pgintegrity_up") != 1 {
		t.Error("not up with the right password")
	}
}

// TestOneStateOneExporter holds that a second exporter refuses a state that is
// in use.
func TestOneStateOneExporter(t *testing.T) {
	t.Parallel()
	state := "--state.path=" + t.TempDir()
	serve(t, state, "--dsn=postgresql://u@127.0.0.1:1/x")
	_, stderr, exit := run(t, "serve", state, "--web.listen-address="+freeAddress(t))
	if exit != 1 || !strings.Contains(stderr, "in use by another pg_integrity_exporter") || !strings.Contains(stderr, "--state.path") {
		t.Errorf("exit code %d: %s", exit, stderr)
	}
}

// TestKill ends the exporter with SIGKILL at any moment while a server makes
// errors and rotates its log, by size and because it is told to, once for each
// format of the log and once through the server: every error counts once.
func TestKill(t *testing.T) {
	t.Parallel()
	for _, extension := range []string{"json", "csv", "log", "sql"} {
		t.Run(extension, func(t *testing.T) {
			t.Parallel()
			server := pgtest.Start(t, pgtest.JSONLog(), pgtest.Version(max(15, pgtest.Newest())),
				pgtest.Setting("log_destination", "jsonlog,csvlog,stderr"), pgtest.Setting("log_line_prefix", "%m [%p] %e %b %qdb=%d,user=%u,app=%a "),
				pgtest.Setting("log_rotation_size", "64kB"))
			role, err := server.Monitor(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := server.GrantLog(t.Context(), "postgres", role); err != nil {
				t.Fatal(err)
			}
			config := filepath.Join(t.TempDir(), "config.yml")
			text := fmt.Sprintf("log: {path: %q}\n", filepath.Join(server.LogDirectory(), "*."+extension))
			if extension == "sql" {
				text = "log: {via: sql, path: '*.csv'}\n"
			}
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			arguments := []string{"--state.path=" + t.TempDir(), "--dsn=" + server.DSN("postgres", role), "--config.file=" + config}
			begin(t, arguments...)
			const made = 400
			fails := make(chan struct{})
			go func() {
				defer close(fails)
				for i := range made {
					// What is counted is in the log.
					_ = server.Exec(context.Background(), "postgres", "SELECT 1/0 /* "+strings.Repeat("x", 500)+" */")
					if i%40 == 17 {
						_ = server.Exec(context.Background(), "postgres", "SELECT pg_rotate_logfile()")
					}
				}
			}()
			countedThoughKilled(t, made, fails, arguments...)
			t.Logf("%d files", len(server.LogFiles()))
		})
	}
}

// TestKillWhileTruncated ends the exporter with SIGKILL at any moment while a log
// is written, copied and truncated: every error counts once.
func TestKillWhileTruncated(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	path := filepath.Join(directory, "server.json")
	config := filepath.Join(directory, "config.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "log: {path: %q}\n", path+"*"), 0o600); err != nil {
		t.Fatal(err)
	}
	const made = 600
	write := func() error {
		for i := range made {
			line := fmt.Sprintf(`{"timestamp":"2026-11-25 09:00:00.%03d UTC","dbname":"erp","line_num":%d,"error_severity":"ERROR","state_code":"22012","message":"division by zero","backend_type":"client backend"}`+"\n", i, i)
			file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			if _, err := file.WriteString(line); err != nil {
				return err
			}
			if err := file.Close(); err != nil {
				return err
			}
			if i%50 == 49 {
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				if err := errors.Join(os.WriteFile(fmt.Sprintf("%s.%d", path, i), content, 0o600), os.Truncate(path, 0)); err != nil {
					return err
				}
			}
			<-time.After(5 * time.Millisecond)
		}
		return nil
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	arguments := []string{"--state.path=" + t.TempDir(), "--dsn=postgresql://u@127.0.0.1:1/x", "--config.file=" + config}
	begin(t, arguments...)
	written := make(chan struct{})
	var failed error
	go func() {
		defer close(written)
		failed = write()
	}()
	countedThoughKilled(t, made, written, arguments...)
	if failed != nil {
		t.Fatal(failed)
	}
}

// begin lets an exporter begin to read a log, and kills it. What is in older files
// when an exporter first starts is not counted, so each must have begun before the
// first error is made.
func begin(t *testing.T, arguments ...string) {
	t.Helper()
	first := serve(t, arguments...)
	await(t, "reading", func() bool { return sum(t, first.metrics(t), "pgintegrity_log_reader_up") == 1 })
	first.kill()
}

// countedThoughKilled ends exporters with SIGKILL at any moment until all errors
// are made, and holds that the last one has counted each once and lost nothing.
func countedThoughKilled(t *testing.T, made float64, ended <-chan struct{}, arguments ...string) {
	t.Helper()
	rounds := 0
	for running := true; running; rounds++ {
		s := serve(t, arguments...)
		select {
		case <-ended:
			running = false
		case <-time.After(time.Duration(100+rounds*37%250) * time.Millisecond):
		}
		s.kill()
	}
	s := serve(t, arguments...)
	const series = `pgintegrity_errors_total\{.*sqlstate="22xxx"\}`
	await(t, "all counted", func() bool { return sum(t, s.metrics(t), series) >= made })
	<-time.After(time.Second)
	if got, lost := sum(t, s.metrics(t), series), sum(t, s.metrics(t), "pgintegrity_log_lost_bytes_total"); got != made || lost != 0 {
		t.Errorf("%v errors counted, %v made; %v bytes lost", got, made, lost)
	}
	t.Logf("killed %d times", rounds)
}

// TestStop holds that SIGTERM ends the exporter in time although its server
// hangs.
func TestStop(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := serve(t, "--dsn="+server.DSN("postgres"), "--state.path="+t.TempDir())
	if sum(t, s.metrics(t), "pgintegrity_up") != 1 {
		t.Fatal("not up")
	}
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.ended:
		if code := s.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	case <-time.After(15 * time.Second):
		t.Error("it does not stop")
	}
}

// TestReload changes the configuration with SIGHUP and POST.
func TestReload(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.yml")
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("checks:\n  heap: {interval: 1h}\n")
	s := serve(t, "--config.file="+file, "--dsn=postgresql://u@127.0.0.1:1/x", "--state.path="+t.TempDir())
	ok := func() float64 { return sum(t, s.metrics(t), "pgintegrity_config_last_reload_successful") }
	if ok() != 1 {
		t.Fatal("not loaded")
	}
	write("frobnicate: 1\n")
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await(t, "the bad file is told", func() bool { return ok() == 0 && strings.Contains(s.text(), "frobnicate") })
	post := func() (int, string) {
		response, err := http.Post(s.url+"/-/reload", "", nil)
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
	if status, body := post(); status != http.StatusInternalServerError || !strings.Contains(body, "frobnicate") {
		t.Errorf("status %d: %s", status, body)
	}
	write("checks:\n  heap: {interval: 2h}\n")
	if status, body := post(); status != http.StatusOK || ok() != 1 {
		t.Errorf("status %d: %s", status, body)
	}
}

// TestWebConfiguration serves with TLS and basic auth, and from a socket that
// systemd opened.
func TestWebConfiguration(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	certificate, client := selfSigned(t, directory)
	web := filepath.Join(directory, "web.yml")
	// The bcrypt hash is that of "open sesame".
	content := fmt.Sprintf("tls_server_config: {cert_file: %s, key_file: %s}\nbasic_auth_users: {prometheus: %q}\n",
		certificate+".crt", certificate+".key", bcryptHash(t, "open sesame"))
	if err := os.WriteFile(web, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--web.config.file="+web, "--dsn=postgresql://u@127.0.0.1:1/x", "--state.path="+directory)
	url := "https://" + s.address + "/metrics"
	if status, _ := get(t, client, url, nil); status != http.StatusUnauthorized {
		t.Errorf("without a password: status %d", status)
	}
	request := &http.Request{Header: make(http.Header)}
	request.SetBasicAuth("prometheus", "open sesame")
	if status, body := get(t, client, url, request.Header); status != http.StatusOK || !strings.Contains(body, "pgintegrity_up 0") {
		t.Errorf("with the password: status %d: %s", status, body)
	}
	if status, _ := get(t, http.DefaultClient, s.url+"/metrics", nil); status == http.StatusOK {
		t.Error("it answers without TLS")
	}
}

func TestSystemdSocket(t *testing.T) {
	t.Parallel()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	socket, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	s := &service{address: listener.Addr().String(), url: "http://" + listener.Addr().String(), ended: make(chan struct{})}
	// systemd says for which process the socket is.
	s.cmd = exec.CommandContext(context.Background(), "/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" serve --web.systemd-socket --dsn=postgresql://u@127.0.0.1:1/x --state.path="$1"`, program, t.TempDir())
	s.cmd.ExtraFiles = []*os.File{socket}
	s.start(t)
	listener.Close()
	socket.Close()
	await(t, "an answer", func() bool { return strings.Contains(s.metrics(t), "pgintegrity_up 0") })
}

// TestUnreadableLog runs the exporter as a user who may not read the server's
// log: it says so and goes on.
func TestUnreadableLog(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can run it as somebody else")
	}
	server := pgtest.Start(t, pgtest.JSONLog(), pgtest.Version(max(15, pgtest.Newest())))
	// A role that may not read it through the server either.
	monitor, err := server.Monitor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := prepare(t, "--dsn="+server.DSN("postgres", monitor), "--state.path=/nonexistent")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	s.start(t)
	await(t, "the missing permission is told", func() bool {
		return strings.Contains(s.text(), "the log directory cannot be read here") && strings.Contains(s.text(), "pgintegrity.log=on")
	})
	page := s.metrics(t)
	for series, want := range map[string]float64{"pgintegrity_up": 1, "pgintegrity_log_reader_up": 0, "pgintegrity_state_up": 0} {
		if got := sum(t, page, series); got != want {
			t.Errorf("%s is %v", series, got)
		}
	}
}
