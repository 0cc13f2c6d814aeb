package pglog

import (
	"fmt"
	"slices"
	"strings"
)

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
	BlindText        = "text"
	BlindUnread      = "unread"
	BlindWarnings    = "warnings"
)

// BlindReasons lists the reasons: the label reason of pgintegrity_log_blind.
func BlindReasons() []string {
	return []string{
		BlindApplication, BlindContext, BlindDatabase, BlindDestination, BlindErrors, BlindOverwritten,
		BlindRotation, BlindSQLState, BlindStatement, BlindText, BlindUnread, BlindWarnings,
	}
}

// Settings are the server's settings that decide what its log tells.
type Settings struct {
	// Collected is logging_collector.
	Collected bool
	// Destination, Prefix, Verbosity and Name are log_destination, log_line_prefix,
	// log_error_verbosity and log_filename.
	Destination, Prefix, Verbosity, Name string
	// MinMessages and MinErrorStatement are log_min_messages and
	// log_min_error_statement.
	MinMessages, MinErrorStatement string
	// RotationAge and RotationSize are log_rotation_age and log_rotation_size,
	// Truncated is log_truncate_on_rotation.
	RotationAge, RotationSize int
	Truncated                 bool
}

// Destinations lists what is in log_destination.
func (s Settings) Destinations() []string {
	parts := strings.Split(s.Destination, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// Level tells what a value of one of the settings of a level or of
// log_error_verbosity hides; where says whose value it is.
func Level(setting, value, where string) (b Blindness, hides bool) {
	blind := func(reason, advice, consequence string) (Blindness, bool) {
		return Blindness{reason, fmt.Sprintf("%s is %s (%s): %s", setting, value, where, consequence), advice}, true
	}
	quiet := slices.Contains([]string{"log", "fatal", "panic"}, value)
	switch {
	case setting == "log_min_messages" && value == "error":
		return blind(BlindWarnings, "set log_min_messages = warning", "warnings, such as of a wrong checksum, are not logged")
	case setting == "log_min_messages" && quiet:
		return blind(BlindErrors, "set log_min_messages = warning", "errors are not logged")
	case setting == "log_min_error_statement" && quiet:
		return blind(BlindStatement, "set log_min_error_statement = error", "nobody can tell which statement failed")
	case setting == "log_error_verbosity" && value == "terse":
		return blind(BlindContext, "set log_error_verbosity = default", "an error that a function raised looks like one of the server")
	}
	return Blindness{}, false
}

// Levels tells what the server's levels hide.
func (s Settings) Levels() (list []Blindness) {
	for _, one := range [][2]string{
		{"log_min_messages", s.MinMessages}, {"log_min_error_statement", s.MinErrorStatement}, {"log_error_verbosity", s.Verbosity},
	} {
		if b, hides := Level(one[0], one[1], "the server's setting"); hides {
			list = append(list, b)
		}
	}
	return list
}

// MissingEscape is something that a log_line_prefix leaves out.
type MissingEscape struct {
	// Escape is what is missing, for example %e.
	Escape string
	// Reason is one of BlindReasons, Consequence what nobody can tell without it.
	Reason, Consequence string
}

// MissingEscapes lists what the log_line_prefix leaves out of a stderr log.
func (s Settings) MissingEscapes() []MissingEscape {
	return slices.DeleteFunc([]MissingEscape{
		{"%e", BlindSQLState, "the SQLSTATE of errors is not logged"},
		{"%d", BlindDatabase, "the database of errors is not logged"},
		{"%a", BlindApplication, "errors of the exporter's own checks are counted too"},
	}, func(m MissingEscape) bool {
		return hasEscape(s.Prefix, m.Escape[1]) || m.Escape == "%e" && s.Verbosity == "verbose"
	})
}

// PrefixBlindness tells what a log_line_prefix leaves out of a stderr log.
func (s Settings) PrefixBlindness() (list []Blindness) {
	const advice = "set log_line_prefix = '%m [%p] %e %b %qdb=%d,user=%u,app=%a ', or better log_destination = jsonlog (15+) or csvlog"
	for _, m := range s.MissingEscapes() {
		list = append(list, Blindness{m.Reason, fmt.Sprintf("log_line_prefix is %q without %s: %s", s.Prefix, m.Escape, m.Consequence), advice})
	}
	return list
}

// RotationBlindness tells what the rotation of a collected log destroys.
func (s Settings) RotationBlindness() (list []Blindness) {
	switch {
	case s.Truncated && !strings.Contains(s.Name, "%") && (s.RotationAge > 0 || s.RotationSize > 0):
		list = append(list, Blindness{
			BlindOverwritten, fmt.Sprintf("log_filename is %s and log_truncate_on_rotation is on: each rotation destroys what was not read yet", s.Name),
			"give log_filename a time, or set log_truncate_on_rotation = off",
		})
	case s.RotationAge == 0 && s.RotationSize == 0:
		list = append(list, Blindness{BlindRotation, "the log is never rotated: it ends when the disk is full", "set log_rotation_age or log_rotation_size"})
	}
	return list
}

// hasEscape says whether a log_line_prefix has an escape, with or without
// padding.
func hasEscape(prefix string, letter byte) bool {
	for i := 0; i+1 < len(prefix); i++ {
		if prefix[i] != '%' {
			continue
		}
		for i++; i < len(prefix) && (prefix[i] == '-' || prefix[i] >= '0' && prefix[i] <= '9'); i++ {
		}
		if i < len(prefix) && prefix[i] == letter {
			return true
		}
	}
	return false
}
