package check

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pg_integrity_exporter/internal/pglog"
)

// blindings are what the log's settings can hide, beside the levels and the
// verbosity, which are among the dangers.
var blindings = map[string]struct {
	severity       Severity
	impact, action string
}{
	pglog.BlindOverwritten: {SeverityWarning, "What the log told before a rotation is gone, unless somebody read it in time.",
		"Give log_filename a time (for example postgresql-%Y-%m-%d_%H%M%S.log), or set log_truncate_on_rotation = off, and reload."},
	pglog.BlindRotation:    {SeverityInfo, "The log grows until the disk is full, and then tells nothing more.", "Set log_rotation_age = 1d or log_rotation_size and reload."},
	pglog.BlindDestination: {SeverityInfo, "The log tells only who has the server's standard error or the system's log, and in a form that leaves much out.", "Set logging_collector = on and log_destination = jsonlog (15+) or csvlog and restart, or hand the log to the exporter as docs/logs.md says."},
	pglog.BlindSQLState:    {SeverityInfo, "Errors cannot be told apart by their SQLSTATE, database or application: damage is only known by its English words.", "Set log_line_prefix = '%m [%p] %e %b %qdb=%d,user=%u,app=%a ' and reload, or better log_destination = jsonlog (15+) or csvlog."},
}

// blindLog reports settings that keep from the log what its reader needs.
func (s *session) blindLog(now map[string]setting) {
	number := func(name string) int {
		n, err := strconv.Atoi(now[name].Value)
		if err != nil {
			return 0 // not set
		}
		return n
	}
	log := pglog.Settings{
		Collected: now["logging_collector"].Value == "on", Destination: now["log_destination"].Value, Prefix: now["log_line_prefix"].Value,
		Verbosity: now["log_error_verbosity"].Value, Name: now["log_filename"].Value, Truncated: now["log_truncate_on_rotation"].Value == "on",
		RotationAge: number("log_rotation_age"), RotationSize: number("log_rotation_size"),
	}
	structured := slices.ContainsFunc(log.Destinations(), func(d string) bool { return d == string(pglog.JSONLog) || d == string(pglog.CSVLog) })
	if log.Collected {
		for _, b := range log.RotationBlindness() {
			s.foundBlinding(b.Reason, b.Detail)
		}
	} else {
		s.foundBlinding(pglog.BlindDestination, fmt.Sprintf("logging_collector is off and log_destination is %s: the server keeps no log of its own", log.Destination))
	}
	if log.Collected && structured {
		return
	}
	var missing []string
	for _, m := range log.MissingEscapes() {
		missing = append(missing, m.Escape+": "+m.Consequence)
	}
	if len(missing) > 0 {
		s.foundBlinding(pglog.BlindSQLState, fmt.Sprintf("log_line_prefix is %q without %s", log.Prefix, strings.Join(missing, "; without ")))
	}
}

func (s *session) foundBlinding(reason, message string) {
	b := blindings[reason]
	s.found(Finding{Class: ClassUnsafeSetting, Severity: b.severity, Message: message, Impact: b.impact, Action: b.action}, "log "+reason)
}
