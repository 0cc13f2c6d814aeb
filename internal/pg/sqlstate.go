package pg

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLState is the five-character SQLSTATE of an error that the server sent,
// or "" for any other error.
func SQLState(err error) string {
	if pgError, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgError.Code
	}
	return ""
}

// Message is the server's own primary message of an error that it sent, or
// the error's text for any other.
func Message(err error) string {
	if pgError, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgError.Message
	}
	return err.Error()
}
