package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// startTimeout bounds the start of a server, crash recovery included.
const startTimeout = 120 * time.Second

// Config says what server to launch.
type Config struct {
	// Install is which programs to run; the zero value is FindAny.
	Install Install
	// Checksums turns data checksums on.
	Checksums bool
	// Settings are lines of postgresql.conf, over the defaults of this package.
	Settings map[string]string
	// Directory holds everything; empty makes a temporary one that Close
	// removes.
	Directory string
}

// Option changes the configuration of a server of a test.
type Option func(*Config)

// Version chooses the major version; without it a test gets the newest.
func Version(major int) Option {
	return func(c *Config) { c.Install.Major = major }
}

// From chooses the programs.
func From(install Install) Option {
	return func(c *Config) { c.Install = install }
}

// Checksums turns data checksums on.
func Checksums() Option {
	return func(c *Config) { c.Checksums = true }
}

// Setting adds a line to postgresql.conf.
func Setting(name, value string) Option {
	return func(c *Config) { c.Settings[name] = value }
}

// JSONLog makes the server write its log as JSON (15+) to LogDirectory.
func JSONLog() Option { return collectLog("jsonlog") }

// CSVLog makes the server write its log as CSV to LogDirectory.
func CSVLog() Option { return collectLog("csvlog") }

func collectLog(destination string) Option {
	return func(c *Config) {
		c.Settings["logging_collector"] = "on"
		c.Settings["log_destination"] = destination
		c.Settings["log_directory"] = "log"
		c.Settings["log_filename"] = "server-%H%M%S.log"
	}
}

// Server is one PostgreSQL server.
type Server struct {
	// Install is which programs it runs.
	Install Install
	// Directory holds DataDirectory and the output of the server.
	Directory string
	// DataDirectory is the server's data_directory.
	DataDirectory string
	// Port is the TCP port on 127.0.0.1.
	Port int

	remove  bool
	process *exec.Cmd
	ended   chan struct{}
}

// Start launches a server for a test and stops it when the test ends. The
// server's own output goes to the test's log when the test failed.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	config := Config{Settings: make(map[string]string)}
	for _, option := range options {
		option(&config)
	}
	if config.Install.Major == 0 {
		config.Install.Major = Newest()
	}
	if config.Install.BinDir == "" {
		config.Install = need(t, config.Install.Major)
	}
	server, err := Launch(t.Context(), config)
	if err != nil && strings.Contains(err.Error(), "Address already in use") { // another program was quicker
		server, err = Launch(t.Context(), config)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.cleanup(t) })
	return server
}

// Adopt starts a server for a test on a data directory that something else made,
// with a port of its own.
func Adopt(t testing.TB, install Install, dataDirectory string) *Server {
	t.Helper()
	s, err := prepare(Config{Install: install})
	if err != nil {
		t.Fatal(err)
	}
	s.DataDirectory = dataDirectory
	err = s.configure(nil)
	if err == nil {
		err = s.StartAgain(t.Context())
	}
	if err != nil {
		t.Fatal(errors.Join(err, s.Close()))
	}
	t.Cleanup(func() { s.cleanup(t) })
	return s
}

func (s *Server) cleanup(t testing.TB) {
	t.Helper()
	if t.Failed() {
		t.Logf("output of PostgreSQL %s:\n%s", s.Install.Version, s.Output())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Launch makes a data directory and starts a server on it.
func Launch(ctx context.Context, config Config) (*Server, error) {
	if config.Install == (Install{}) {
		install, err := FindAny()
		if err != nil {
			return nil, err
		}
		config.Install = install
	}
	s, err := prepare(config)
	if err != nil {
		return nil, err
	}
	if err := newDataDirectory(config.Install, config.Checksums, s.DataDirectory); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.configure(config.Settings); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.StartAgain(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// prepare makes the directory of a server.
func prepare(config Config) (*Server, error) {
	s := &Server{Install: config.Install, Directory: config.Directory}
	var err error
	if s.Directory == "" {
		s.remove = true
		s.Directory, err = os.MkdirTemp("", "pgtest-")
	} else {
		err = os.MkdirAll(s.Directory, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("making the directory of a server: %w", err)
	}
	if err := os.Chmod(s.Directory, 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of a server: %w", err)
	}
	s.DataDirectory = filepath.Join(s.Directory, "data")
	if err := GiveAway(s.Directory); err != nil {
		return nil, fmt.Errorf("making the directory of a server: %w", err)
	}
	return s, nil
}

// configure writes the settings behind those of the template, with a port that
// is free now.
func (s *Server) configure(settings map[string]string) error {
	address, err := FreeAddress()
	if err != nil {
		return err
	}
	s.Port = address.Port
	lines := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(s.Port),
		"unix_socket_directories": s.Directory,
		"fsync":                   "off",
		"synchronous_commit":      "off",
		"wal_sync_method":         "fdatasync",
		"shared_buffers":          "16MB",
		"max_connections":         "30",
		"max_wal_senders":         "5",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
		"log_checkpoints":         "off",
	}
	maps.Copy(lines, settings)
	return s.appendSettings(lines)
}

// appendSettings adds lines to postgresql.conf; later lines win.
func (s *Server) appendSettings(lines map[string]string) error {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(lines[name], "'", "''"))
	}
	file, err := os.OpenFile(filepath.Join(s.DataDirectory, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("configuring the server: %w", err)
	}
	_, err = file.WriteString(text.String())
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("configuring the server: %w", err)
	}
	return nil
}

// StartAgain starts the server after Stop or Kill and waits until it accepts
// connections.
func (s *Server) StartAgain(ctx context.Context) error {
	if err := s.spawn(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.DSN("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.ended:
			return fmt.Errorf("PostgreSQL %s ended while starting:\n%s", s.Install.Version, s.Output())
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL %s does not accept connections: %w\n%s", s.Install.Version, err, s.Output())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// spawn starts the postmaster.
func (s *Server) spawn() error {
	// SIGQUIT makes the postmaster end its children at once.
	cmd, err := command(syscall.SIGQUIT, filepath.Join(s.Install.BinDir, "postgres"), "-D", s.DataDirectory)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(s.Directory, "output.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := errors.Join(cmd.Start(), out.Close()); err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	s.process, s.ended = cmd, make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		// How it ended is in its output.
		_ = cmd.Wait()
		close(ended)
	}(s.process, s.ended)
	return nil
}

// Output is what the server wrote to its standard output and, with a collected
// log, what is in its newest log file.
func (s *Server) Output() string {
	content, err := os.ReadFile(filepath.Join(s.Directory, "output.log"))
	if err != nil {
		return err.Error()
	}
	if files := s.LogFiles(); len(files) > 0 {
		if log, err := os.ReadFile(files[len(files)-1]); err == nil {
			content = append(content, log...)
		}
	}
	return string(content[max(0, len(content)-8192):])
}

// LogDirectory is where a collected log is.
func (s *Server) LogDirectory() string { return filepath.Join(s.DataDirectory, "log") }

// LogFiles lists the files of a collected log, the oldest first.
func (s *Server) LogFiles() []string {
	var files []string
	for _, pattern := range []string{"*.json", "*.csv"} {
		found, err := filepath.Glob(filepath.Join(s.LogDirectory(), pattern))
		if err == nil {
			files = append(files, found...)
		}
	}
	slices.Sort(files)
	return files
}

// DSN is a connection string for a database, as the superuser or as the given
// user.
func (s *Server) DSN(database string, user ...string) string {
	name := superuser
	if len(user) > 0 {
		name = user[0]
	}
	dsn := url.URL{
		Scheme: "postgresql", User: url.User(name), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)),
		Path: database, RawQuery: "sslmode=disable",
	}
	return dsn.String()
}

// Shutdown is a way to stop a server.
type Shutdown syscall.Signal

// The ways to stop a server: Fast disconnects everybody and writes a
// checkpoint, Immediate leaves crash recovery to the next start.
const (
	Fast      = Shutdown(syscall.SIGINT)
	Immediate = Shutdown(syscall.SIGQUIT)
)

// Stop stops the server and waits for its end.
func (s *Server) Stop(how Shutdown) error {
	if s.process == nil {
		return nil
	}
	if err := s.signal(syscall.Signal(how)); err != nil {
		return err
	}
	select {
	case <-s.ended:
		return nil
	case <-time.After(startTimeout):
		return errors.Join(fmt.Errorf("PostgreSQL %s does not stop:\n%s", s.Install.Version, s.Output()), s.Kill())
	}
}

func (s *Server) signal(signal syscall.Signal) error {
	if err := s.process.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signalling PostgreSQL: %w", err)
	}
	return nil
}

// Restart stops the server with a checkpoint and starts it again; nothing is
// in its buffers then.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Stop(Fast); err != nil {
		return err
	}
	return s.StartAgain(ctx)
}

// Kill ends the server and all its processes with SIGKILL.
func (s *Server) Kill() error {
	pids := s.Processes()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("killing process %d: %w", pid, err)
		}
	}
	<-s.ended
	return nil
}

// Pause stops all processes of the server with SIGSTOP: its sockets still
// accept, but nothing answers.
func (s *Server) Pause() error { return s.signalAll(syscall.SIGSTOP) }

// Resume ends Pause.
func (s *Server) Resume() error { return s.signalAll(syscall.SIGCONT) }

func (s *Server) signalAll(signal syscall.Signal) error {
	for _, pid := range s.Processes() {
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signalling process %d: %w", pid, err)
		}
	}
	return nil
}

// Processes lists the process ids of the postmaster and its children, the
// postmaster first.
func (s *Server) Processes() []int {
	if s.process == nil {
		return nil
	}
	postmaster := s.process.Process.Pid
	pids := []int{postmaster}
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", postmaster))
	if err != nil {
		return pids
	}
	for _, file := range children {
		content, err := os.ReadFile(file)
		if err != nil {
			continue // the thread ended
		}
		for field := range strings.FieldsSeq(string(content)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Close stops the server and removes what Launch made.
func (s *Server) Close() error {
	var err error
	if s.process != nil {
		// A paused server does not hear anything else.
		err = errors.Join(s.Resume(), s.Stop(Immediate))
	}
	if s.remove {
		err = errors.Join(err, os.RemoveAll(s.Directory))
	}
	return err
}

// Exec runs one or more statements as the superuser.
func (s *Server) Exec(ctx context.Context, database, sql string) error {
	return s.do(ctx, database, func(conn *pgx.Conn) error {
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	})
}

// Query reads one value as the superuser.
func (s *Server) Query(ctx context.Context, database, sql string, into any, args ...any) error {
	return s.do(ctx, database, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, sql, args...).Scan(into)
	})
}

func (s *Server) do(ctx context.Context, database string, use func(conn *pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, s.DSN(database))
	if err != nil {
		return err
	}
	return errors.Join(use(conn), conn.Close(context.WithoutCancel(ctx)))
}

// MustExec is Exec for tests.
func (s *Server) MustExec(t testing.TB, database, sql string) {
	t.Helper()
	if err := s.Exec(t.Context(), database, sql); err != nil {
		t.Fatalf("%v\nin: %s", err, sql)
	}
}

// Monitor makes a role that has pg_monitor and nothing else, and gives its
// name.
func (s *Server) Monitor(ctx context.Context) (string, error) {
	const name = "monitor"
	return name, s.Exec(ctx, "postgres", "CREATE ROLE "+name+" LOGIN; GRANT pg_monitor TO "+name)
}

// GrantChecks runs the project's own script of grants for a role in a
// database.
func (s *Server) GrantChecks(ctx context.Context, database, role string) error {
	return s.grant(ctx, database, role, "")
}

// GrantFiles is GrantChecks with the right to read files.
func (s *Server) GrantFiles(ctx context.Context, database, role string) error {
	return s.grant(ctx, database, role, "SET pgintegrity.files = 'on';\n")
}

// GrantData is GrantChecks with the right to read the data of the database.
func (s *Server) GrantData(ctx context.Context, database, role string) error {
	return s.grant(ctx, database, role, "SET pgintegrity.data = 'on';\n")
}

// GrantLog is GrantChecks with the right to read the log through the server.
func (s *Server) GrantLog(ctx context.Context, database, role string) error {
	return s.grant(ctx, database, role, "SET pgintegrity.log = 'on';\n")
}

// grant runs the script of grants with options set before it.
func (s *Server) grant(ctx context.Context, database, role, options string) error {
	script, err := os.ReadFile(filepath.Join(moduleRoot(), "docs", "grants", "grants.sql"))
	if err != nil {
		return fmt.Errorf("reading the grants: %w", err)
	}
	return s.Exec(ctx, database, "SET pgintegrity.role = '"+role+"';\n"+options+string(script))
}

// moduleRoot is the directory of go.mod, above the directory of the test.
func moduleRoot() string {
	directory, err := os.Getwd()
	if err != nil {
		return "."
	}
	for directory != "/" {
		if _, err := os.Stat(filepath.Join(directory, "go.mod")); err == nil {
			return directory
		}
		directory = filepath.Dir(directory)
	}
	return "."
}

// Hold runs a statement in a transaction that stays open until the returned
// function is called.
func (s *Server) Hold(t testing.TB, database, sql string) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DSN(database))
	if err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() {
		// The server may be gone already.
		_ = conn.Close(context.Background())
	})
	t.Cleanup(release)
	if _, err := conn.PgConn().Exec(t.Context(), "BEGIN; "+sql).ReadAll(); err != nil {
		t.Fatal(err)
	}
	return release
}
