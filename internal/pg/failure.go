package pg

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// Failure says why the server could not be used. The values are the closed
// list of the label reason of pgintegrity_connection_failure.
type Failure string

// The reasons for which the server could not be used.
const (
	FailureAuthentication     Failure = "authentication"
	FailureDatabaseMissing    Failure = "database_missing"
	FailureNotAccepting       Failure = "not_accepting"
	FailureOther              Failure = "other"
	FailurePrivilege          Failure = "privilege"
	FailureRefused            Failure = "refused"
	FailureTLS                Failure = "tls"
	FailureTimeout            Failure = "timeout"
	FailureTooManyConnections Failure = "too_many_connections"
	FailureUnknownHost        Failure = "unknown_host"
	FailureUnsupportedVersion Failure = "unsupported_version"
)

// Failures lists every Failure, in the order in which they are exported.
func Failures() []Failure {
	return []Failure{
		FailureAuthentication, FailureDatabaseMissing, FailureNotAccepting, FailureOther,
		FailurePrivilege, FailureRefused, FailureTLS, FailureTimeout, FailureTooManyConnections,
		FailureUnknownHost, FailureUnsupportedVersion,
	}
}

// ConnectError says in one line why no session could be opened. pgx' own text
// repeats the reason for every address and with and without TLS.
type ConnectError struct {
	// Target is the server's name.
	Target string

	err error
}

// Error has the innermost reason, and never the password.
func (e *ConnectError) Error() string {
	return "connecting to " + e.Target + ": " + cause(e.err)
}

// Unwrap is everything that pgx told.
func (e *ConnectError) Unwrap() error { return e.err }

// cause is the text of the innermost error: what the server said if it said
// anything, else what the operating system said of the first attempt.
func cause(err error) string {
	if pgError, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgError.Error()
	}
	for {
		switch wrapped := err.(type) { //nolint:errorlint // the chain is walked by hand
		case *net.DNSError:
			return wrapped.Error()
		case interface{ Unwrap() []error }:
			if list := wrapped.Unwrap(); len(list) > 0 {
				err = list[0]
				continue
			}
		case interface{ Unwrap() error }:
			if inner := wrapped.Unwrap(); inner != nil {
				err = inner
				continue
			}
		}
		return err.Error()
	}
}

// FailureOf classifies an error of Connect or of a Lane.
func FailureOf(err error) Failure {
	if pgError, ok := errors.AsType[*pgconn.PgError](err); ok {
		return failureOfState(pgError.Code)
	}
	var (
		dns         *net.DNSError
		timeout     net.Error
		unsupported *UnsupportedVersionError
	)
	switch {
	case errors.As(err, &unsupported):
		return FailureUnsupportedVersion
	case errors.As(err, &dns):
		return FailureUnknownHost
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return FailureTimeout
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNRESET):
		return FailureRefused
	case isTLS(err):
		return FailureTLS
	case errors.Is(err, os.ErrPermission):
		return FailurePrivilege
	default:
		return FailureOther
	}
}

func failureOfState(sqlstate string) Failure {
	switch {
	case sqlstate == "53300":
		return FailureTooManyConnections
	case strings.HasPrefix(sqlstate, "28"):
		return FailureAuthentication
	case sqlstate == "3D000":
		return FailureDatabaseMissing
	case strings.HasPrefix(sqlstate, "57P0"):
		return FailureNotAccepting
	case sqlstate == "42501":
		return FailurePrivilege
	default:
		return FailureOther
	}
}

func isTLS(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		header       tls.RecordHeaderError
		alert        tls.AlertError
		authority    x509.UnknownAuthorityError
	)
	return errors.As(err, &verification) || errors.As(err, &header) || errors.As(err, &alert) ||
		errors.As(err, &authority) || strings.Contains(err.Error(), "refused TLS")
}

// Advice is the first thing to do about a failure, in one sentence.
func (f Failure) Advice() string {
	switch f {
	case FailureAuthentication:
		return "check user, password and pg_hba.conf; the password may come from DATA_SOURCE_PASS_FILE or a passfile"
	case FailureDatabaseMissing:
		return "name an existing database in the DSN, for example postgres"
	case FailureNotAccepting:
		return "the server is starting up, shutting down or recovering; read its log"
	case FailurePrivilege:
		return "grant the role CONNECT on the database, or let this OS user reach the socket"
	case FailureRefused:
		return "is the server running and listening at this address (listen_addresses, port, unix_socket_directories)?"
	case FailureTLS:
		return "check sslmode and sslrootcert in the DSN against the server's certificate"
	case FailureTimeout:
		return "the server did not answer in time: it hangs, a catalogue is locked, or the network drops packets"
	case FailureTooManyConnections:
		return "every connection slot of the server is taken: look for the application that leaks connections"
	case FailureUnknownHost:
		return "check the host name in the DSN"
	case FailureUnsupportedVersion:
		return "upgrade the server: PostgreSQL 13 is the oldest version supported"
	case FailureOther:
		return "read the error above and the server's log"
	}
	return ""
}
