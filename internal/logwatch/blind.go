package logwatch

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/pglog"
)

const (
	// lockTimeout bounds waiting for locks on catalogues.
	lockTimeout = 500 * time.Millisecond
	// readTimeout bounds one statement that reads the log.
	readTimeout = 10 * time.Second
)

// blindness lists what the settings keep from the log or from its reader.
func (s settings) blindness(c config.Log, found place, problem error) []pglog.Blindness {
	var list []pglog.Blindness
	add := func(reason, advice, format string, args ...any) {
		list = append(list, pglog.Blindness{Reason: reason, Detail: fmt.Sprintf(format, args...), Advice: advice})
	}
	for _, level := range s.values("log_min_messages", s.minMessages) {
		switch level.value {
		case "error":
			add(pglog.BlindWarnings, "set log_min_messages = warning", "log_min_messages is error (%s): warnings, such as of a wrong checksum, are not logged", level.where)
		case "log", "fatal", "panic":
			add(pglog.BlindErrors, "set log_min_messages = warning", "log_min_messages is %s (%s): errors are not logged", level.value, level.where)
		}
	}
	for _, level := range s.values("log_min_error_statement", s.minErrorStatement) {
		if slices.Contains([]string{"log", "fatal", "panic"}, level.value) {
			add(pglog.BlindStatement, "set log_min_error_statement = error", "log_min_error_statement is %s (%s): nobody can tell which statement failed", level.value, level.where)
		}
	}
	for _, level := range s.values("log_error_verbosity", s.verbosity) {
		if level.value == "terse" {
			add(pglog.BlindContext, "set log_error_verbosity = default", "log_error_verbosity is terse (%s): an error that a function raised looks like one of the server", level.where)
		}
	}
	if problem != nil && c.Files() {
		reason := pglog.BlindUnread
		if len(s.files()) == 0 {
			reason = pglog.BlindDestination
		}
		add(reason, "see the error", "%s", problem)
	}
	prefix := c.LinePrefix
	if prefix == "" {
		prefix = s.prefix
	}
	if found.format == pglog.Stderr || found.format == pglog.Syslog {
		s.prefixBlindness(prefix, add)
	}
	if s.collected && !found.remote && found.dataDirectory != "" || found.remote {
		switch {
		case s.truncated && !strings.Contains(s.name, "%") && (s.rotationAge > 0 || s.rotationSize > 0):
			add(pglog.BlindOverwritten, "give log_filename a time, or set log_truncate_on_rotation = off", "log_filename is %s and log_truncate_on_rotation is on: each rotation destroys what was not read yet", s.name)
		case s.rotationAge == 0 && s.rotationSize == 0:
			add(pglog.BlindRotation, "set log_rotation_age or log_rotation_size", "the log is never rotated: it ends when the disk is full")
		}
	}
	return list
}

func (s settings) prefixBlindness(prefix string, add func(reason, advice, format string, args ...any)) {
	const advice = "set log_line_prefix = '%m [%p] %e %b %qdb=%d,user=%u,app=%a ', or better log_destination = jsonlog (15+) or csvlog"
	if !hasEscape(prefix, 'e') && s.verbosity != "verbose" {
		add(pglog.BlindSQLState, advice, "log_line_prefix is %q without %%e: the SQLSTATE of errors is not logged", prefix)
	}
	if !hasEscape(prefix, 'd') {
		add(pglog.BlindDatabase, advice, "log_line_prefix is %q without %%d: the database of errors is not logged", prefix)
	}
	if !hasEscape(prefix, 'a') {
		add(pglog.BlindApplication, advice, "log_line_prefix is %q without %%a: errors of the exporter's own checks are counted too", prefix)
	}
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

// level is a value of a setting and where it is set.
type level struct{ value, where string }

// values lists the server's value of a setting and those of databases and roles
// that override it.
func (s settings) values(name, value string) []level {
	list := []level{{value, "the server's setting"}}
	for _, override := range s.overrides {
		where, setting, _ := strings.Cut(override, ": ")
		if value, found := strings.CutPrefix(setting, name+"="); found {
			list = append(list, level{value, where})
		}
	}
	return list
}

// tellBlindness publishes the list, and logs it when it changed.
func (w *Watcher) tellBlindness(list []pglog.Blindness) {
	w.state.LogBlindness(list)
	var told strings.Builder
	for _, b := range list {
		fmt.Fprintf(&told, "%s\n", b.Detail)
	}
	w.mu.Lock()
	changed := w.told != told.String()
	w.told = told.String()
	w.mu.Unlock()
	if !changed {
		return
	}
	for _, b := range list {
		w.logger.Warn("the server's log does not tell everything", "reason", b.Reason, "detail", b.Detail, "advice", b.Advice)
	}
}
