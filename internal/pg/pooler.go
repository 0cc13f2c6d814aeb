package pg

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// poolerSettings are the settings that PgBouncer takes at the start of a
// connection. It refuses others, unless ignore_startup_parameters names them,
// and then they are not in force.
var poolerSettings = []string{"application_name", "client_encoding", "datestyle"}

// PooledError says that something needs a session of its own and would only get
// one of a connection pooler.
//
// Nothing is ever SET there: in transaction mode the setting would stay with the
// server's session and reach the statements of applications. That
// default_transaction_read_only would make them fail is the least of it.
type PooledError struct {
	// Target is the pooler's name.
	Target string
}

// Error says what to do.
func (e *PooledError) Error() string {
	return e.Target + " is a connection pooler such as PgBouncer; this needs a session of its own: give the exporter the address of the server itself"
}

// refusesSettings says that a connection was refused because of its settings.
// PgBouncer's words are "unsupported startup parameter: lock_timeout".
func refusesSettings(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && refused.Code == "08P01" && strings.Contains(refused.Message, "startup parameter")
}

// limits is the statement that sets for one transaction what a session of its
// own starts with.
func (p Purpose) limits() string {
	settings := p.settings()
	delete(settings, "idle_in_transaction_session_timeout") // the transaction is one statement
	delete(settings, "default_transaction_read_only")
	for _, name := range poolerSettings {
		delete(settings, name)
	}
	if !p.Maintenance {
		settings["transaction_read_only"] = "on"
	}
	calls := make([]string, 0, len(settings))
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		calls = append(calls, "set_config('"+name+"', '"+settings[name]+"', true)")
	}
	return "SELECT " + strings.Join(calls, ", ")
}
