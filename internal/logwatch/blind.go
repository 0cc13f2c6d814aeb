package logwatch

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
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
	list := s.Levels()
	for _, o := range s.overrides {
		where, setting, _ := strings.Cut(o, ": ")
		name, value, _ := strings.Cut(setting, "=")
		if b, hides := pglog.Level(name, value, where); hides {
			list = append(list, b)
		}
	}
	if problem != nil && c.Files() {
		reason := pglog.BlindUnread
		if len(s.files()) == 0 {
			reason = pglog.BlindDestination
		}
		list = append(list, pglog.Blindness{Reason: reason, Detail: problem.Error(), Advice: "see the error"})
	}
	if found.extension != "" {
		list = append(list, pglog.Blindness{
			Reason: pglog.BlindText, Advice: "let the exporter read the log itself, as docs/logs.md says",
			Detail: "only the counts of the extension logerrors are read, and damage that the log tells of is not noticed: " + found.otherwise.Error(),
		}, pglog.Blindness{
			Reason: pglog.BlindApplication, Detail: "the extension logerrors counts errors of the exporter's own checks too", Advice: "let the exporter read the log itself",
		})
	}
	if c.LinePrefix != "" {
		s.Prefix = c.LinePrefix
	}
	if found.format == pglog.Stderr || found.format == pglog.Syslog {
		list = append(list, s.PrefixBlindness()...)
	}
	if s.Collected && !found.remote && found.dataDirectory != "" || found.remote {
		list = append(list, s.RotationBlindness()...)
	}
	return list
}

// tellBlindness publishes the list, and logs it when it changed.
func (w *Watcher) tellBlindness(list []pglog.Blindness) {
	var unread []check.Finding
	for _, b := range list {
		if slices.Contains([]string{pglog.BlindUnread, pglog.BlindDestination, pglog.BlindText}, b.Reason) {
			unread = append(unread, check.UnreadLog(b))
		}
	}
	w.state.LogBlindness(list, unread)
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
