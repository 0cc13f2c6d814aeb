package logwatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/pglog"
)

// settings are what decides where the log is and what it tells.
type settings struct {
	pglog.Settings

	dataDirectory, directory string
	overrides                []string // "role or database: setting=value"
	backend                  int      // process id of the session that asked
}

// settingsSQL reads pg_settings and pg_db_role_setting; data_directory and
// log_directory are shown to members of pg_monitor. ACCESS SHARE on catalogues.
const settingsSQL = `SELECT current_setting('data_directory'), current_setting('log_directory'), current_setting('log_filename'),
	current_setting('log_destination'), current_setting('logging_collector') = 'on', current_setting('log_line_prefix'),
	current_setting('log_error_verbosity'), s.messages, s.statement, s.age, s.size,
	current_setting('log_truncate_on_rotation') = 'on', pg_backend_pid(),
	ARRAY(SELECT coalesce('database ' || d.datname, 'every database') || coalesce(', role ' || r.rolname, '') || ': ' || c.setting
		FROM pg_db_role_setting o
		LEFT JOIN pg_database d ON d.oid = o.setdatabase
		LEFT JOIN pg_roles r ON r.oid = o.setrole,
		unnest(o.setconfig) AS c(setting)
		WHERE c.setting ~ '^log_(min_messages|min_error_statement|error_verbosity)=' ORDER BY 1 LIMIT 20)
	FROM (SELECT max(reset_val) FILTER (WHERE name = 'log_min_messages') AS messages,
		max(reset_val) FILTER (WHERE name = 'log_min_error_statement') AS statement,
		max(setting) FILTER (WHERE name = 'log_rotation_age')::int AS age,
		max(setting) FILTER (WHERE name = 'log_rotation_size')::int AS size
		FROM pg_settings WHERE name IN ('log_min_messages', 'log_min_error_statement', 'log_rotation_age', 'log_rotation_size')) s`

// ask reads the settings.
func (w *Watcher) ask(ctx context.Context) (s settings, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var user string
	err = w.lane.Own(ctx, func(ctx context.Context, conn *pg.Conn) error {
		user = conn.Facts.User
		return conn.QueryRow(ctx, settingsSQL).Scan(&s.dataDirectory, &s.directory, &s.Name, &s.Destination, &s.Collected, &s.Prefix,
			&s.Verbosity, &s.MinMessages, &s.MinErrorStatement, &s.RotationAge, &s.RotationSize, &s.Truncated, &s.backend, &s.overrides)
	})
	if pg.SQLState(err) == "42501" {
		return s, fmt.Errorf("the role may not see where the log is: GRANT pg_monitor TO %s, or set log.path in the configuration", pgx.Identifier{user}.Sanitize())
	}
	if err != nil {
		return s, fmt.Errorf("asking the server where its log is: %w", err)
	}
	if !filepath.IsAbs(s.directory) {
		s.directory = filepath.Join(s.dataDirectory, s.directory)
	}
	return s, nil
}

// place is where a log is read.
type place struct {
	// source names the position in the state.
	source  string
	pattern string
	format  pglog.Format
	// remote says that it is read through the server.
	remote bool
	// dataDirectory is the server's, when the exporter may read it.
	dataDirectory string
}

func (p place) same(other place) bool {
	return p.source == other.source && p.pattern == other.pattern && p.format == other.format && p.remote == other.remote
}

// strftime is a conversion in log_filename.
var strftime = regexp.MustCompile(`%[-_0^#EO]?.`)

// formats are the destinations that can be read, the best first, with the ends
// of their files' names.
var formats = []struct {
	format    pglog.Format
	extension string
}{{pglog.JSONLog, ".json"}, {pglog.CSVLog, ".csv"}, {pglog.Stderr, ""}}

// files gives the patterns of the names of the files that the server writes,
// the best format first.
func (s settings) files() []place {
	var places []place
	for _, f := range formats {
		if !s.Collected || !slices.Contains(s.Destinations(), string(f.format)) {
			continue
		}
		name := s.Name
		if f.extension != "" {
			name = strings.TrimSuffix(name, ".log") + f.extension
		}
		name = strftime.ReplaceAllString(name, "*")
		places = append(places, place{pattern: name, format: f.format})
	}
	return places
}

// locate decides where the log is read and how. The source that is followed
// stays as long as the server writes it, because what another format has of the
// same messages would be counted again.
func (w *Watcher) locate(ctx context.Context, s settings, following string) (place, error) {
	if w.config.Path != "" {
		found := place{source: w.config.Path, pattern: w.config.Path, format: w.config.LogFormat()}
		if found.remote = w.config.Via == config.ViaSQL; found.remote {
			found.source = remoteSource + found.pattern
		}
		return found, nil
	}
	places := s.files()
	if len(places) == 0 {
		return w.uncollected(s)
	}
	var local, remote []place
	for _, p := range places {
		l := p
		l.pattern = filepath.Join(s.directory, p.pattern)
		l.source, l.dataDirectory = l.pattern, s.dataDirectory
		local = append(local, l)
		p.source, p.remote = remoteSource+p.pattern, true
		remote = append(remote, p)
	}
	for _, p := range slices.Concat(local, remote) {
		if p.source == following {
			return p, nil
		}
	}
	var localProblem error
	if w.config.Via != config.ViaSQL {
		if localProblem = w.isHere(ctx, s, places[0].pattern); localProblem == nil {
			return local[0], nil
		}
		if w.config.Via == config.ViaFile {
			return place{}, localProblem
		}
	}
	session := &session{lane: w.lane}
	if err := session.mayRead(ctx); err != nil {
		return place{}, errors.Join(localProblem, err)
	}
	return remote[0], nil
}

// remoteSource begins the names of sources that are read through the server.
const remoteSource = "sql:"

// isHere says why the log directory cannot be read on this host. A directory
// of the same name may be another server's: the sizes of the newest files tell.
func (w *Watcher) isHere(ctx context.Context, s settings, pattern string) error {
	if _, err := os.ReadDir(s.directory); err != nil {
		return fmt.Errorf("the log directory cannot be read here: %w", err)
	}
	session := &session{lane: w.lane}
	listed, err := session.List(ctx)
	if err != nil {
		return nil //nolint:nilerr // without pg_monitor nobody can tell, and the directory is there
	}
	for _, f := range listed {
		if matched, err := filepath.Match(pattern, f.Name); err != nil || !matched {
			continue
		}
		info, err := os.Stat(filepath.Join(s.directory, f.Name))
		if err != nil || info.Size() < f.Size {
			return fmt.Errorf("%s on this host is not the log directory of this server", s.directory)
		}
	}
	return nil
}

// uncollected looks for the log of a server without logging collector: where
// its standard error goes, when that is a file on this host.
func (w *Watcher) uncollected(s settings) (place, error) {
	destinations := s.Destinations()
	if w.config.Via != config.ViaSQL && slices.Contains(destinations, string(pglog.Stderr)) && !s.Collected {
		process := filepath.Join("/proc", strconv.Itoa(s.backend))
		directory, err := os.Readlink(filepath.Join(process, "cwd"))
		if err == nil && directory == s.dataDirectory {
			path, err := os.Readlink(filepath.Join(process, "fd", "2"))
			if info, statErr := os.Stat(path); err == nil && statErr == nil && info.Mode().IsRegular() {
				return place{source: path, pattern: path, format: pglog.Stderr}, nil
			}
		}
	}
	if !s.Collected {
		return place{}, errors.New("the server does not collect its log: set logging_collector = on and log_destination = jsonlog (15+) or csvlog, or log.path, log.listen or log.stdin in the configuration")
	}
	return place{}, fmt.Errorf("log_destination is %s: add jsonlog (15+), csvlog or stderr to it, or set log.path, log.listen or log.stdin in the configuration", s.Destination)
}

func purpose() pg.Purpose {
	return pg.Purpose{Name: "log", StatementTimeout: connectTimeout, LockTimeout: lockTimeout, ConnectTimeout: connectTimeout}
}

// session reads the log through the server.
type session struct {
	lane *pg.Lane
	read string // the statement that reads; empty is not known yet
}

// List is pglog.Remote. pg_ls_logdir() is granted to pg_monitor.
func (s *session) List(ctx context.Context) (files []pglog.RemoteFile, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err = s.lane.Own(ctx, func(ctx context.Context, conn *pg.Conn) error {
		rows, err := conn.Query(ctx, "SELECT name, size, modification FROM pg_ls_logdir()")
		if err != nil {
			return err
		}
		files, err = pgx.CollectRows(rows, pgx.RowToStructByPos[pglog.RemoteFile])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the log through the server: %w", err)
	}
	return files, nil
}

// The ways to read a file of the log: a function of the exporter's own, which
// docs/grants/grants.sql makes and which reads nothing but the log, or the
// server's, which reads everything.
const (
	readOwnSQL    = "SELECT pgintegrity.read_log($1, $2, $3)"
	readServerSQL = "SELECT pg_read_binary_file(current_setting('log_directory') || '/' || $1, $2, $3, true)"
	// mayReadSQL asks for the privileges on both.
	//nolint:dupword // two arguments have the same type
	mayReadSQL = `SELECT coalesce((SELECT has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')
			FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
			WHERE p.oid = to_regprocedure('pgintegrity.read_log(text, int8, bigint)')), false),
		has_function_privilege('pg_read_binary_file(text, bigint, bigint, boolean)', 'EXECUTE')`
)

// mayRead finds the statement that reads, or says which grant is missing.
func (s *session) mayRead(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var own, server bool
	err := s.lane.Own(ctx, func(ctx context.Context, conn *pg.Conn) error {
		return conn.QueryRow(ctx, mayReadSQL).Scan(&own, &server)
	})
	switch {
	case err != nil:
		return fmt.Errorf("asking whether the log may be read through the server: %w", err)
	case own:
		s.read = readOwnSQL
	case server:
		s.read = readServerSQL
	default:
		return errors.New("the role may not read the log through the server either: run docs/grants/grants.sql with pgintegrity.log=on in the database of the DSN")
	}
	return nil
}

// Read is pglog.Remote.
func (s *session) Read(ctx context.Context, name string, offset int64, length int) (content []byte, err error) {
	if s.read == "" {
		if err := s.mayRead(ctx); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err = s.lane.Own(ctx, func(ctx context.Context, conn *pg.Conn) error {
		return conn.QueryRow(ctx, s.read, name, offset, int64(length)).Scan(&content)
	})
	if err != nil {
		s.read = "" // a grant may have been taken back
		return nil, fmt.Errorf("reading the log through the server: %w", err)
	}
	return content, nil
}
