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
	"time"

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
	// extension is the schema of the extension logerrors when nothing but its counts
	// can be read, and otherwise says why.
	extension string
	otherwise error
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
	found, problem := w.text(ctx, s, following)
	if problem == nil || w.config.Via == config.ViaFile {
		return found, problem
	}
	session := &session{lane: w.lane}
	schema, err := session.extension(ctx)
	if err != nil || schema == "" {
		return place{}, errors.Join(problem, err)
	}
	return place{source: extensionSource, extension: schema, otherwise: problem}, nil
}

// text decides where the log itself is read.
func (w *Watcher) text(ctx context.Context, s settings, following string) (place, error) {
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

// extensionSource is the source of the counts of the extension logerrors.
const extensionSource = "logerrors"

// The statements that read the extension logerrors, from version 2.1 on, whose
// functions everybody may call. The epoch is read before and behind the counts.
const (
	extensionSQL = `SELECT coalesce(max(n.nspname), '') FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
		WHERE e.extname = 'logerrors' AND current_setting('logerrors.interval', true) IS NOT NULL AND EXISTS (SELECT FROM pg_proc p
			WHERE p.pronamespace = n.oid AND p.proname = 'pg_log_errors_stats' AND 'sqlstate' = ANY (p.proargnames))`
	extensionEpochSQL = `SELECT reset_time::text, clock_timestamp(),
		(SELECT setting::int FROM pg_settings WHERE name = 'logerrors.interval'),
		(SELECT setting::int FROM pg_settings WHERE name = 'logerrors.intervals_count') FROM %s.pg_slow_log_stats()`
	extensionCountsSQL = `SELECT coalesce(time_interval, 0), type, message = 'TOTAL' AND time_interval IS NULL, count::bigint,
		coalesce(username, ''), coalesce(database, ''), coalesce(sqlstate, '') FROM %s.pg_log_errors_stats()`
)

// extension gives the schema of the extension logerrors, or "" where it is not
// there, not loaded or older.
func (s *session) extension(ctx context.Context) (schema string, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err = s.lane.Own(ctx, func(ctx context.Context, conn *pg.Conn) error { return conn.QueryRow(ctx, extensionSQL).Scan(&schema) })
	if err != nil {
		return "", fmt.Errorf("asking for the extension logerrors: %w", err)
	}
	return schema, nil
}

// counted looks at the counts of the extension logerrors.
func (s *session) counted(ctx context.Context, schema string) (e pglog.Extension, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	schema = pgx.Identifier{schema}.Sanitize()
	err = s.lane.Own(ctx, func(ctx context.Context, conn *pg.Conn) error {
		var epoch string
		var interval, kept int
		ask := func() error {
			return conn.QueryRow(ctx, fmt.Sprintf(extensionEpochSQL, schema)).Scan(&epoch, &e.Now, &interval, &kept)
		}
		if err := ask(); err != nil {
			return err
		}
		e = pglog.Extension{Epoch: epoch, Totals: make(map[pglog.Severity]uint32)}
		e.Last, e.Window = make(map[pglog.ExtensionKey]uint32), make(map[pglog.ExtensionKey]uint32)
		rows, err := conn.Query(ctx, fmt.Sprintf(extensionCountsSQL, schema))
		if err != nil {
			return err
		}
		var seconds int
		var total bool
		var count int64
		var key pglog.ExtensionKey
		_, err = pgx.ForEachRow(rows, []any{&seconds, &key.Severity, &total, &count, &key.User, &key.Database, &key.SQLState}, func() error {
			switch {
			case total:
				e.Totals[key.Severity] = uint32(count) // the counter has 32 bits
			case seconds == interval/1000:
				e.Last[key] = uint32(count) // at most 1024
			default:
				e.Window[key] = uint32(count) // at most 1024 an interval
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := ask(); err != nil {
			return err
		}
		if epoch != e.Epoch {
			return errReset
		}
		e.Interval = time.Duration(interval) * time.Millisecond
		e.Kept = time.Duration(kept) * e.Interval
		return nil
	})
	if err != nil {
		return pglog.Extension{}, fmt.Errorf("reading the extension logerrors: %w", err)
	}
	return e, nil
}

// errReset is told when somebody resets the counts while they are read.
var errReset = errors.New("its counts have just been reset")

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
