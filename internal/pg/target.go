package pg

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// ApplicationName is what every session of the exporter starts its
// application_name with. The log reader leaves out messages of such sessions,
// because what goes wrong in them is reported by the check itself.
const ApplicationName = "pg_integrity_exporter"

const (
	// dialTimeout bounds the TCP or Unix-domain connect of one attempt. What
	// follows (TLS, authentication, start of the backend) is bounded by
	// startupTimeout.
	dialTimeout = 5 * time.Second
	// startupTimeout bounds one whole attempt. It is long on purpose: a backend
	// that hangs in start-up behind a locked catalogue stays in the server
	// even when its client goes away, so giving up and trying again piles up
	// backends. One attempt waits instead.
	startupTimeout = 10 * time.Minute
	// maxMessage bounds one message of the server, whose length the server says: no
	// question of the exporter has an answer with rows that are nearly as long.
	maxMessage = 64 << 20
)

// Target is one PostgreSQL server and the way to log in to it.
type Target struct {
	config atomic.Pointer[pgx.ConnConfig]
	read   func() (*pgx.ConnConfig, error)
	// bare says that the last connection was refused for its settings, as
	// poolers do.
	bare atomic.Bool
	// spent is what its sessions cost.
	spent budget
	// unusable are the databases that damage keeps from being used.
	unusable unusable
	// places bounds its sessions.
	places places
}

// Environment looks up an environment variable, like os.LookupEnv.
type Environment func(name string) (string, bool)

// NamesServer says whether the environment names a server.
func (e Environment) NamesServer() bool {
	for _, variable := range []string{"DATA_SOURCE_NAME", "DATA_SOURCE_URI", "DATA_SOURCE_URI_FILE", "PGHOST", "PGSERVICE"} {
		if value, ok := e(variable); ok && value != "" {
			return true
		}
	}
	return false
}

// ResolveTarget finds the target in the order of the ecosystem: dsn when not
// empty (a URL or a keyword/value string), DATA_SOURCE_NAME, DATA_SOURCE_URI
// with DATA_SOURCE_USER and DATA_SOURCE_PASS (each also as a file named by
// the variable with _FILE behind it), and last libpq's own PG* variables,
// service file and password file. Errors never contain the password.
func ResolveTarget(dsn string, env Environment) (*Target, error) {
	return SourceTarget(func() (string, error) { return dsn, nil }, env)
}

// SourceTarget is ResolveTarget with a DSN that source reads. It is read again
// when the server refuses the password or the certificate, which may have been
// changed; so are the files of the environment.
func SourceTarget(source func() (dsn string, err error), env Environment) (*Target, error) {
	t := &Target{read: func() (*pgx.ConnConfig, error) { return readConfig(source, env) }}
	config, err := t.read()
	if err != nil {
		return nil, err
	}
	t.config.Store(config)
	return t, nil
}

// NoEnvironment is the environment of a target that is given as a whole.
func NoEnvironment(string) (string, bool) { return "", false }

func readConfig(given func() (dsn string, err error), env Environment) (*pgx.ConnConfig, error) {
	source := "the given DSN"
	dsn, err := given()
	if err != nil {
		return nil, err
	}
	if dsn == "" {
		if dsn, source, err = dsnFromEnvironment(env); err != nil {
			return nil, err
		}
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w (expected postgresql://user@host:5432/database?sslmode=... or keyword=value pairs)", source, redactParseError(err, dsn))
	}
	return config, nil
}

// renew reads DSN, password and certificates again. It says whether the password
// is another one.
func (t *Target) renew() (changed bool) {
	config, err := t.read()
	if err != nil {
		return false // the old ones stay; the server says what is wrong with them
	}
	before := t.config.Load()
	if config.Host != before.Host || config.Port != before.Port {
		return false // another server is for a reload
	}
	t.config.Store(config)
	return config.Password != before.Password
}

// redactParseError keeps a parse error from quoting the DSN: for a DSN too
// broken to be split into its parts, the library cannot know where the
// password is.
func redactParseError(err error, dsn string) error {
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); !ok {
		return errors.New("it cannot be parsed")
	}
	text := err.Error()
	if start := strings.Index(text, "`: "); start >= 0 {
		text = text[start+len("`: "):]
	}
	if dsn != "" {
		text = strings.ReplaceAll(text, dsn, "the DSN")
	}
	var urlError *url.Error
	if errors.As(err, &urlError) || strings.Contains(text, "invalid userinfo") {
		return errors.New("it is not a valid URL; characters such as @ / : # % in the user name or password must be percent-encoded")
	}
	return errors.New(text)
}

func dsnFromEnvironment(env Environment) (dsn, source string, err error) {
	if dsn, ok := env("DATA_SOURCE_NAME"); ok && dsn != "" {
		return dsn, "DATA_SOURCE_NAME", nil
	}
	uri, err := valueOrFile(env, "DATA_SOURCE_URI")
	if err != nil || uri == "" {
		return "", "the PG* environment variables", err
	}
	user, err := valueOrFile(env, "DATA_SOURCE_USER")
	if err != nil {
		return "", "", err
	}
	password, err := valueOrFile(env, "DATA_SOURCE_PASS")
	if err != nil {
		return "", "", err
	}
	userinfo := ""
	switch {
	case user != "" && password != "":
		userinfo = url.UserPassword(user, password).String() + "@"
	case user != "":
		userinfo = url.User(user).String() + "@"
	}
	return "postgresql://" + userinfo + uri, "DATA_SOURCE_URI", nil
}

func valueOrFile(env Environment, name string) (string, error) {
	if file, ok := env(name + "_FILE"); ok && file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("reading the file named by %s_FILE: %w", name, err)
		}
		return strings.TrimSpace(string(content)), nil
	}
	value, _ := env(name)
	return value, nil
}

// Name is the host and port of the target, or the path of its socket: what
// `check --output=json` prints as "target". It holds no credentials.
func (t *Target) Name() string {
	if strings.HasPrefix(t.config.Load().Host, "/") {
		return t.config.Load().Host + "/.s.PGSQL." + strconv.Itoa(int(t.config.Load().Port))
	}
	return net.JoinHostPort(t.config.Load().Host, strconv.Itoa(int(t.config.Load().Port)))
}

// Database is the database that the target's own DSN names.
func (t *Target) Database() string {
	if t.config.Load().Database == "" {
		return t.config.Load().User
	}
	return t.config.Load().Database
}

// Purpose sets the session apart from the exporter's others: its
// application_name and its limits.
type Purpose struct {
	// Name is appended to ApplicationName; empty for the scrape.
	Name string
	// StatementTimeout is the session's statement_timeout; 0 is none, which
	// only a purpose that cancels its own statements may ask for.
	StatementTimeout time.Duration
	// LockTimeout is the session's lock_timeout. It is short everywhere: a
	// session that waits for a lock makes others wait behind it.
	LockTimeout time.Duration
	// CancelOnServer sends a cancel request when a statement's context ends,
	// and keeps the connection; otherwise the connection is dropped, which
	// also works when the server does not answer any more.
	CancelOnServer bool
	// Maintenance is for the guard, which does what its user told it to: the
	// session may write, keeps the settings of its role, and its
	// application_name starts with GuardApplicationName, so that the log reader
	// does not leave out what it runs into.
	Maintenance bool
	// Pooler is for purposes that also work through a connection pooler: they
	// send every statement with Conn.Send, or ask for nothing that could wait.
	Pooler bool
	// Keepalive makes the server notice within seconds that the exporter is gone
	// without a word, with its machine or its network.
	Keepalive bool
	// ConnectTimeout bounds the way from a place to a session; 0 is as long as the
	// context lets it.
	ConnectTimeout time.Duration
	// GiveWay is called when others have waited for a place for a while: the session
	// should end soon. Nil is that it cannot.
	GiveWay func()
	// Patient sessions wait for a place without asking others to give way.
	Patient bool
	// place is where the session counts; nil is nowhere.
	place *place
	// OnNotice takes the notices and warnings of the session; nil is nobody.
	OnNotice func(severity, message string)
}

// GuardApplicationName is what every session of the guard that may write
// starts its application_name with, and that of the command that it runs.
const GuardApplicationName = "pg_integrity_guard"

// sessionConfig is the configuration for one new session in a database.
func (t *Target) sessionConfig(database string, purpose Purpose, account *account) *pgx.ConnConfig {
	config := t.config.Load().Copy()
	if database != "" {
		config.Database = database
	}
	maps.Copy(config.RuntimeParams, purpose.settings())
	config.OnNotice = func(conn *pgconn.PgConn, n *pgconn.Notice) {
		if n.Code == crashShutdown {
			conn.CustomData()[crashShutdown] = true
		}
		if purpose.OnNotice != nil {
			purpose.OnNotice(n.Severity, n.Message)
		}
	}
	// No server-side prepared statements: they break behind PgBouncer.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.StatementCacheCapacity = 0
	config.DescriptionCacheCapacity = 0
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
	}}
	config.DialFunc = account.counted(dialer.DialContext)
	config.Tracer = account
	config.ConnectTimeout = startupTimeout
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		frontend := pgproto3.NewFrontend(r, w)
		frontend.SetMaxBodyLen(maxMessage)
		return frontend
	}
	if purpose.CancelOnServer {
		config.BuildContextWatcherHandler = cancelOnServer
	}
	return config
}

// settings are the settings that a session starts with.
func (p Purpose) settings() map[string]string {
	name := ApplicationName
	if p.Maintenance {
		name = GuardApplicationName
	}
	if p.Name != "" {
		name += " " + p.Name
	}
	settings := map[string]string{
		"application_name":                    name,
		"client_encoding":                     "UTF8",
		"idle_in_transaction_session_timeout": "0",
		"lock_timeout":                        milliseconds(p.LockTimeout),
		"statement_timeout":                   milliseconds(p.StatementTimeout),
	}
	if p.Keepalive {
		maps.Copy(settings, map[string]string{"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "2"})
	}
	if !p.Maintenance {
		maps.Copy(settings, map[string]string{
			"datestyle":                           "ISO",
			"default_transaction_read_only":       "on",
			"idle_in_transaction_session_timeout": "60s",
			"max_parallel_workers_per_gather":     "0",
			"search_path":                         "pg_catalog",
		})
	}
	return settings
}

// connectionWords are the words of a DSN that libpq's programs know as
// environment variables and that pgx does not keep.
var connectionWords = map[string]string{
	"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "passfile": "PGPASSFILE",
}

// LibpqEnvironment is the target as environment variables of libpq's programs:
// what a command needs to work on the same server.
func (t *Target) LibpqEnvironment(database string) []string {
	if database == "" {
		database = t.Database()
	}
	environment := []string{
		"PGHOST=" + t.config.Load().Host, "PGPORT=" + strconv.Itoa(int(t.config.Load().Port)), "PGUSER=" + t.config.Load().User, "PGDATABASE=" + database,
	}
	if t.config.Load().Password != "" {
		environment = append(environment, "PGPASSWORD="+t.config.Load().Password)
	}
	words := make(map[string]string)
	dsn := t.config.Load().ConnString()
	if parsed, err := url.Parse(dsn); err == nil && strings.HasPrefix(parsed.Scheme, "postgres") {
		for word := range connectionWords {
			words[word] = parsed.Query().Get(word)
		}
	} else {
		for field := range strings.FieldsSeq(dsn) {
			if word, value, ok := strings.Cut(field, "="); ok {
				words[word] = strings.Trim(value, "'")
			}
		}
	}
	for word, variable := range connectionWords {
		if words[word] != "" {
			environment = append(environment, variable+"="+words[word])
		}
	}
	return environment
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(d.Milliseconds(), 10)
}
