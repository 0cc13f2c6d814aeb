package drill

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

// usualDirectories are where packages put the programs of PostgreSQL.
var usualDirectories = []string{
	"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin", "/opt/postgresql*/bin",
}

var serverVersion = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// findServer finds the directory with the programs of a major version.
func findServer(ctx context.Context, r *runner, patterns []string, major int) (string, error) {
	if len(patterns) == 0 {
		patterns = usualDirectories
	}
	found := make(map[int]string)
	for _, pattern := range patterns {
		directories, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("bin_directories: %w", err)
		}
		for _, directory := range directories {
			program := filepath.Join(directory, "postgres")
			if _, err := os.Stat(program); err != nil {
				continue
			}
			out, err := r.run(ctx, program, "--version")
			if err != nil {
				continue
			}
			if match := serverVersion.FindStringSubmatch(out); match != nil {
				version, _ := strconv.Atoi(match[1])
				if version == major {
					return directory, nil
				}
				found[version] = directory
			}
		}
	}
	var have []string
	for _, version := range slices.Sorted(maps.Keys(found)) {
		have = append(have, fmt.Sprintf("%d in %s", version, found[version]))
	}
	if len(have) == 0 {
		have = []string{"none"}
	}
	return "", fmt.Errorf("PostgreSQL %d is needed to restore this backup, found here is %s: install it, or name its directory in recovery.drill.bin_directories or --bin-directory",
		major, strings.Join(have, ", "))
}

// server is the scratch server.
type server struct {
	scratch *scratch
	bin     string
	process *exec.Cmd
	ended   chan struct{}
	// accepts says that it has recovered.
	accepts bool
	// role and home are the superuser and the database of the sessions of the drill,
	// and what it said when it was first asked.
	role, home string
	said       greeting
}

// isolation are the settings that keep the restored cluster from reaching
// anything: no network, no archive, no replication, no workers of extensions, no
// triggers of events (17+), nothing of its own configuration. hot_standby is off
// so that limits of the old server need not be known; memory is small.
func isolation(s *scratch, major int) map[string]string {
	settings := map[string]string{
		"listen_addresses": "", "port": "5432", "unix_socket_directories": s.path + "/socket", "unix_socket_permissions": "0700",
		"hba_file": s.path + "/hba.conf", "ident_file": s.path + "/ident.conf",
		"archive_mode": "off", "archive_command": "", "primary_conninfo": "", "primary_slot_name": "",
		"max_logical_replication_workers": "0", "synchronous_standby_names": "", "hot_standby": "off", "max_wal_senders": "0", "wal_level": "replica",
		"shared_preload_libraries": "", "session_preload_libraries": "", "local_preload_libraries": "",
		"autovacuum": "off", "jit": "off", "ssl": "off", "default_transaction_read_only": "on", "restart_after_crash": "off",
		"max_connections": "30", "max_prepared_transactions": "1000", "max_locks_per_transaction": "256",
		"shared_buffers": "128MB", "huge_pages": "off", "dynamic_shared_memory_type": "posix", "max_wal_size": "1GB",
		"logging_collector": "off", "log_destination": "stderr", "lc_messages": "C", "log_min_messages": "warning", "log_line_prefix": "",
		"cluster_name": "pgintegrity_drill", "restore_command": "", "recovery_target_action": "promote", "archive_cleanup_command": "",
		"recovery_end_command": "", "wal_recycle": "off", "update_process_title": "off",
	}
	if major >= 17 {
		settings["event_triggers"] = "off"
	}
	return settings
}

// hbaLine lets in everybody who reaches the socket, whose directory only the
// server's own user may enter.
const hbaLine = "local all all trust\n" //nolint:dupword // every database, every user

// configure writes the configuration of the scratch server, outside of the data
// directory.
func (s *server) configure(major int, extra ...map[string]string) error {
	settings := isolation(s.scratch, major)
	for _, more := range extra {
		maps.Copy(settings, more)
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	files := map[string]string{
		"postgresql.conf": text.String(), "hba.conf": hbaLine, "ident.conf": "", "server.log": "",
	}
	for name, content := range files {
		path := filepath.Join(s.scratch.path, name)
		if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), s.scratch.runner.own(path)); err != nil {
			return fmt.Errorf("configuring the scratch server: %w", err)
		}
	}
	return nil
}

// start starts the postmaster.
func (s *server) start(ctx context.Context) error {
	log, err := os.OpenFile(s.scratch.log(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("starting the scratch server: %w", err)
	}
	// SIGQUIT makes the postmaster end its children at once, also when this
	// process is killed.
	cmd := s.scratch.runner.command(context.WithoutCancel(ctx), syscall.SIGQUIT,
		filepath.Join(s.bin, "postgres"), "-D", s.scratch.data(), "-c", "config_file="+filepath.Join(s.scratch.path, "postgresql.conf"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		return fmt.Errorf("starting the scratch server: %w", err)
	}
	s.process, s.ended, s.accepts = cmd, make(chan struct{}), false
	confine(cmd.Process.Pid)
	go func(ended chan struct{}) {
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
	}(s.ended)
	return nil
}

// stop ends the server at once: what it would write is thrown away anyway.
func (s *server) stop() {
	if s.process == nil {
		return
	}
	for _, signal := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGKILL} {
		_ = s.process.Process.Signal(signal) // it may have ended
		select {
		case <-s.ended:
			s.process = nil
			return
		case <-time.After(10 * time.Second):
		}
	}
}

// dsn is a connection string to the scratch server. The options keep settings
// of roles and databases of the restored cluster from loading libraries.
func (s *server) dsn(role, database string) string {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace
	return fmt.Sprintf("host=%s/socket port=5432 user='%s' dbname='%s' sslmode=disable options='-c session_preload_libraries= -c local_preload_libraries= -c jit=off'",
		s.scratch.path, quote(role), quote(database))
}

// target is the scratch server for checks.
func (s *server) target() (*pg.Target, error) {
	return pg.ResolveTarget(s.dsn(s.role, s.home), func(string) (string, bool) { return "", false })
}

// connectTimeout bounds one attempt to open a session, and what is asked in it: in
// a damaged catalogue a server process may go round for ever, deaf to a cancel.
const connectTimeout = 30 * time.Second

// statusLine is the line of postmaster.pid with the status of the server
// (LOCK_FILE_LINE_PM_STATUS, counted from 1).
const statusLine = 8

// open says whether the server says that it accepts connections. Asked with a
// connection instead, it would start a process each time just to refuse it.
func (s *server) open() bool {
	content, err := os.ReadFile(filepath.Join(s.scratch.data(), "postmaster.pid"))
	lines := strings.Split(string(content), "\n")
	return err == nil && len(lines) >= statusLine && strings.TrimSpace(lines[statusLine-1]) == "ready"
}

// relax ends what makes the server safe from a crash, once it has recovered and was
// measured: it is thrown away, and others want the disk.
func (s *server) relax() error {
	config, err := os.OpenFile(filepath.Join(s.scratch.path, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = config.WriteString("fsync = off\n")
	return errors.Join(err, config.Close(), s.process.Process.Signal(syscall.SIGHUP))
}

// await waits until the server accepts connections, and enters it.
func (s *server) await(ctx context.Context, roles []string) error {
	for !s.open() {
		select {
		case <-s.ended:
			return &startError{reason: s.explain()}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
	s.accepts = true
	return s.enter(ctx, roles)
}

// homes are the databases that every cluster has, unless somebody dropped them.
var homes = []string{"template1", "postgres"}

// enter finds a superuser, and a database in which the server answers: damage to
// one does not keep the others from being looked at.
func (s *server) enter(ctx context.Context, roles []string) error {
	var refused error
	for _, role := range roles {
		for _, database := range homes {
			err := s.greet(ctx, role, database)
			switch {
			case err == nil:
				s.role, s.home = role, database
				return nil
			case ctx.Err() != nil:
				return context.Cause(ctx)
			}
			state := pg.SQLState(err)
			if state == "28000" || errors.Is(err, errNotSuperuser) {
				break // no other database takes the role
			}
			if refused == nil || state != "3D000" { // postgres may have been dropped
				refused = err
			}
		}
	}
	if refused == nil {
		return errNoRole
	}
	select {
	case <-s.ended: // it crashed when it was asked
		return &startError{reason: s.explain()}
	case <-time.After(time.Second):
	}
	return &closedError{refused}
}

var errNoRole = errors.New("no superuser of the restored cluster is known: name one in recovery.drill.role or --role")

// greeting is what the recovered server says of itself.
type greeting struct {
	Superuser bool
	Version   int
	Position  string
	Point     *time.Time
	Databases []string
}

// greetingSQL asks the server that has just recovered: how far, and for the
// databases that can be connected to. ACCESS SHARE on pg_database.
const greetingSQL = `SELECT current_setting('is_superuser') = 'on', current_setting('server_version_num')::int, coalesce(pg_last_wal_replay_lsn()::text, ''),
	pg_last_xact_replay_timestamp(), ARRAY(SELECT datname::text FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname)`

func (s *server) greet(ctx context.Context, role, database string) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.dsn(role, database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // it was only asked
	rows, err := conn.Query(ctx, greetingSQL)
	if err != nil {
		return err
	}
	s.said, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[greeting])
	if err == nil && !s.said.Superuser {
		return errNotSuperuser
	}
	return err
}

var errNotSuperuser = errors.New("the role is no superuser of the restored cluster")

// closedError says that the server recovered, and that no session can be opened.
type closedError struct{ err error }

func (e *closedError) Error() string {
	return "the restored server recovered, but no session can be opened in it: " + pg.Message(e.err)
}

// startError says that the server ended while it recovered.
type startError struct{ reason string }

func (e *startError) Error() string { return "the restored server does not start: " + e.reason }

var (
	gravest  = regexp.MustCompile(`(?m)^(?:PANIC|FATAL): +(.*(?:\n(?:DETAIL|HINT): .*)*)`)
	starting = regexp.MustCompile(`the database system is (not yet accepting connections|not accepting connections|starting up|shutting down)`)
	// complaints are those of the programs that restore_command runs.
	complaints = regexp.MustCompile(`(?m)^(?:ERROR: \[\d+\]|cp:|sh:|gzip:|bzip2:|xz:|zstd:|lz4:).*`)
	single     = regexp.MustCompile(`rolname = "((?:[^"])*)"`)
)

// explain is the first grave message in the log.
func (s *server) explain() string {
	content, err := os.ReadFile(s.scratch.log())
	if err != nil {
		return err.Error()
	}
	for _, match := range gravest.FindAllStringSubmatch(string(content), -1) {
		if !starting.MatchString(match[1]) {
			reason := match[1]
			if complaint := complaints.FindString(string(content)); complaint != "" {
				reason += " (restore_command: " + complaint + ")"
			}
			return strings.Join(strings.Fields(reason), " ")
		}
	}
	return "its log ends with: " + lastLines(string(content), 3)
}

// log reads what the server wrote.
func (s *server) log() string {
	content, err := os.ReadFile(s.scratch.log())
	if err != nil {
		return ""
	}
	return string(content)
}

// bootstrapRole asks the stopped server in single-user mode for the name of the
// role that initdb made, which nobody can drop.
func (s *server) bootstrapRole(ctx context.Context) (string, error) {
	cmd := s.scratch.runner.command(ctx, syscall.SIGKILL, filepath.Join(s.bin, "postgres"), "--single", "-D", s.scratch.data(),
		"-c", "config_file="+filepath.Join(s.scratch.path, "postgresql.conf"), "template1")
	cmd.Stdin = strings.NewReader("SELECT rolname FROM pg_catalog.pg_authid WHERE oid = 10\n")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("looking for a superuser: %w", err)
	}
	match := single.FindSubmatch(out)
	if match == nil {
		return "", errNoRole
	}
	return string(match[1]), nil
}

// ready starts the server and waits until it accepts connections of a superuser.
func (s *server) ready(ctx context.Context, roles []string) error {
	if err := s.start(ctx); err != nil {
		return err
	}
	err := s.await(ctx, roles)
	if !errors.Is(err, errNoRole) {
		return err
	}
	s.stop()
	role, err := s.bootstrapRole(ctx)
	if err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	return s.await(ctx, []string{role})
}
