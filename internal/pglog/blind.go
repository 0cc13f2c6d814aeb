package pglog

// Blindness is something that keeps the log from telling everything.
type Blindness struct {
	// Reason is one of BlindReasons.
	Reason string
	// Detail is what was found, and Advice what to do.
	Detail, Advice string
}

// The reasons of blindness.
const (
	BlindApplication = "application"
	BlindContext     = "context"
	BlindDatabase    = "database"
	BlindDestination = "destination"
	BlindErrors      = "errors"
	BlindOverwritten = "overwritten"
	BlindRotation    = "rotation"
	BlindSQLState    = "sqlstate"
	BlindStatement   = "statement"
	BlindUnread      = "unread"
	BlindWarnings    = "warnings"
)

// BlindReasons lists the reasons: the label reason of pgintegrity_log_blind.
func BlindReasons() []string {
	return []string{
		BlindApplication, BlindContext, BlindDatabase, BlindDestination, BlindErrors, BlindOverwritten,
		BlindRotation, BlindSQLState, BlindStatement, BlindUnread, BlindWarnings,
	}
}
