package offline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/conf"
)

// settings are the lines of the configuration files.
type settings struct {
	entries  []conf.Entry
	problems []conf.Problem
}

// configFiles reads configuration files of this machine.
func configFiles() conf.Files {
	return conf.Files{
		Read: os.ReadFile,
		Dir: func(name string) ([]string, error) {
			entries, err := os.ReadDir(name)
			var names []string
			for _, entry := range entries {
				names = append(names, entry.Name())
			}
			return names, err
		},
	}
}

// loadSettings reads postgresql.conf and postgresql.auto.conf, for what the
// checks need to know of them.
func (r *run) loadSettings() {
	files := configFiles()
	// Some distributions keep it elsewhere, and start the server with config_file.
	if r.elsewhere = !r.exists("postgresql.conf"); !r.elsewhere {
		r.settings.entries, r.settings.problems = files.Parameters(r.path("postgresql.conf"))
	}
	if r.exists("postgresql.auto.conf") {
		entries, problems := files.Parameters(r.path("postgresql.auto.conf"))
		r.settings.entries = append(r.settings.entries, entries...)
		r.settings.problems = append(r.settings.problems, problems...)
	}
	for name, e := range conf.Effective(r.settings.entries, r.major) {
		r.parameters[name] = e.Value
	}
}

// configuration looks at the configuration files as the next start will.
func (r *run) configuration(context.Context) error {
	r.result.Objects++
	for _, p := range r.settings.problems {
		r.foundInConfiguration(atParameters, p)
	}
	if r.major != 0 {
		for _, e := range r.settings.entries {
			if text := conf.CheckParameter(e.Name, e.Value, r.major); text != "" {
				r.foundInConfiguration(atParameters, conf.Problem{File: e.File, Line: e.Line, Text: text})
			}
		}
		r.hba()
	}
	r.combinations()
	r.namedFiles()
	if r.elsewhere {
		r.problem("postgresql.conf", errors.New("it is not in the data directory: give the server's other configuration files a look with postgres -C data_directory -c config_file=FILE"))
	}
	return nil
}

// foundInConfiguration reports a line that the server does not take.
func (r *run) foundInConfiguration(at stage, p conf.Problem) {
	p.File = strings.TrimPrefix(p.File, r.Directory+"/")
	r.found(at, check.Finding{
		Class: check.ClassUnsafeSetting, Severity: check.SeverityCritical, Relation: p.File,
		Message: p.String(),
		Impact:  "The server does not start with this line. A running one keeps its old settings until then.",
		Action:  "Correct the line, or put a # in front of it; a file written by ALTER SYSTEM (postgresql.auto.conf) may be edited while the server is down.",
	}, p.Text)
}

// hba looks at pg_hba.conf and pg_ident.conf.
func (r *run) hba() {
	files := configFiles()
	hba := r.named("hba_file", "pg_hba.conf")
	if _, err := os.Stat(hba); err != nil && r.elsewhere {
		return
	}
	for _, p := range files.CheckHBA(hba, r.major) {
		r.foundInConfiguration(atHBA, p)
	}
	ident := r.named("ident_file", "pg_ident.conf")
	for _, p := range files.CheckIdent(ident, r.major) {
		p.File = strings.TrimPrefix(p.File, r.Directory+"/")
		r.found(never, check.Finding{
			Class: check.ClassUnsafeSetting, Severity: check.SeverityWarning, Relation: p.File,
			Message: p.String(),
			Impact:  "The server starts, but without any user name map: those who log in through one cannot.",
			Action:  "Correct the line.",
		}, p.Text)
	}
}

// named is the absolute name of a file that a parameter names.
func (r *run) named(parameter, otherwise string) string {
	name := r.parameter(parameter, otherwise)
	if filepath.IsAbs(name) {
		return name
	}
	return r.path(name)
}

// unfit reports settings that do not go together.
func (r *run) unfit(at stage, object, message, impact, action string) {
	r.found(at, check.Finding{
		Class: check.ClassUnsafeSetting, Severity: check.SeverityCritical, Relation: object,
		Message: message, Impact: impact, Action: action,
	}, check.KindOf(message))
}

// on says that a Boolean parameter is on.
func (r *run) on(name string) bool {
	value := strings.ToLower(r.parameter(name, "off"))
	return value != "" && (value == "on" || value == "1" || strings.HasPrefix("true", value) || strings.HasPrefix("yes", value)) //nolint:gocritic // its beginnings are taken too
}

// combinations looks at settings that the server takes one by one but not
// together.
func (r *run) combinations() {
	const stops = "The server does not start."
	level := strings.ToLower(r.parameter("wal_level", "replica"))
	archive := strings.ToLower(r.parameter("archive_mode", "off"))
	if level == "minimal" && !slices.Contains([]string{"off", "false", "no", "0"}, archive) {
		r.unfit(atParameters, "wal_level", "archive_mode is on, but wal_level is minimal", stops, "Set wal_level to replica.")
	}
	if level == "minimal" && r.number("max_wal_senders", 10) > 0 {
		r.unfit(atParameters, "wal_level", "max_wal_senders is not 0, but wal_level is minimal", stops, "Set wal_level to replica, or max_wal_senders to 0.")
	}
	if r.major >= 17 && level == "minimal" && r.on("summarize_wal") {
		r.unfit(atParameters, "wal_level", "summarize_wal is on, but wal_level is minimal", stops, "Set wal_level to replica.")
	}
	reserved := r.number("superuser_reserved_connections", 3) + r.number("reserved_connections", 0)
	if connections := r.number("max_connections", 100); reserved >= connections {
		r.unfit(atParameters, "max_connections", fmt.Sprintf("%d connections are reserved, but max_connections is %d", reserved, connections), stops, "Raise max_connections, or reserve fewer.")
	}
	r.recovery()
	if !r.known {
		return
	}
	standby := r.exists("standby.signal") || r.exists("recovery.signal")
	for _, needs := range []struct {
		name      string
		otherwise int
		primary   int32
	}{
		{"max_connections", 100, r.control.MaxConnections},
		{"max_worker_processes", 8, r.control.MaxWorkers},
		{"max_wal_senders", 10, r.control.MaxSenders},
		{"max_prepared_transactions", 0, r.control.MaxPrepared},
		{"max_locks_per_transaction", 64, r.control.MaxLocks},
	} {
		if value := r.number(needs.name, needs.otherwise); standby && value < int(needs.primary) && !strings.EqualFold(r.parameter("hot_standby", "on"), "off") {
			r.unfit(atRecovery, needs.name, fmt.Sprintf("%s is %d, but the primary had %d", needs.name, value, needs.primary),
				"A hot standby does not start recovery, or pauses in it.", fmt.Sprintf("Set it to at least %d.", needs.primary))
		}
	}
	if standby && r.control.WALLevel == 0 {
		r.unfit(atRecovery, "wal_level", "the WAL was written with wal_level minimal", "Recovery from an archive, and a standby, cannot use it.", "Restore a base backup that was made after wal_level was raised.")
	}
	if prepared, err := r.list("pg_twophase"); err == nil && len(prepared) > r.number("max_prepared_transactions", 0) {
		r.unfit(atRecovery, "max_prepared_transactions", fmt.Sprintf("there are %d prepared transactions, but max_prepared_transactions is %d", len(prepared), r.number("max_prepared_transactions", 0)),
			stops, fmt.Sprintf("Set max_prepared_transactions to at least %d.", len(prepared)))
	}
	if r.parameter("data_directory", "") != "" {
		a, errA := os.Stat(r.named("data_directory", "."))
		b, errB := os.Stat(r.Directory)
		if errA != nil || errB == nil && !os.SameFile(a, b) {
			r.unfit(atParameters, "data_directory", fmt.Sprintf("data_directory is %s, which is not this directory", r.parameter("data_directory", "")),
				"A start with this configuration uses another directory, or does not find one.", "Correct data_directory, or take the line out.")
		}
	}
}

// recovery looks at what recovery.signal and standby.signal need.
func (r *run) recovery() {
	restore := r.parameter("restore_command", "")
	if r.exists("recovery.signal") && !r.exists("standby.signal") && restore == "" {
		r.unfit(atRecovery, "recovery.signal", "recovery.signal asks for recovery from an archive, but there is no restore_command",
			"The server does not start.", "Set restore_command. Remove recovery.signal only when you are sure that this is no backup being restored.")
	}
	set := 0
	for _, name := range []string{"recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"} {
		if r.parameter(name, "") != "" {
			set++
		}
	}
	if set > 1 {
		r.unfit(atParameters, "recovery_target", "several recovery targets are set", "The server does not start.", "Leave only one of the recovery_target parameters.")
	}
}

// namedFiles looks at files that parameters name.
func (r *run) namedFiles() {
	if r.on("ssl") {
		r.sslFiles()
	}
	for one := range strings.SplitSeq(r.parameter("unix_socket_directories", ""), ",") {
		one = strings.Trim(strings.TrimSpace(one), `"`)
		if one == "" || strings.HasPrefix(one, "@") {
			continue
		}
		directory := one
		if !filepath.IsAbs(directory) {
			directory = r.path(directory)
		}
		if info, err := os.Stat(directory); err != nil || !info.IsDir() {
			r.unfit(atLockFile, "unix_socket_directories", fmt.Sprintf("unix_socket_directories names %s, which is not a directory", one),
				"The server does not start when it can make no socket at all.", "Make the directory with the owner of the server, or correct the parameter.")
		}
	}
}

// sslFiles looks at the certificate and the key.
func (r *run) sslFiles() {
	const stops = "The server does not start while ssl is on."
	for parameter, otherwise := range map[string]string{"ssl_cert_file": "server.crt", "ssl_key_file": "server.key", "ssl_ca_file": "", "ssl_crl_file": ""} {
		if r.parameter(parameter, otherwise) == "" {
			continue
		}
		name := r.named(parameter, otherwise)
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			r.unfit(atHBA, parameter, fmt.Sprintf("%s names %s, which does not exist", parameter, name), stops, "Put the file there, or correct the parameter.")
			continue
		}
		if err != nil || parameter != "ssl_key_file" {
			continue
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		mode := info.Mode().Perm()
		if ok && (stat.Uid != 0 && mode&0o077 != 0 || stat.Uid == 0 && mode&0o037 != 0) {
			r.unfit(atHBA, parameter, fmt.Sprintf("the private key %s has the mode %04o", name, mode), stops, "chmod 0600 the key when it belongs to the user of the server, 0640 when it belongs to root.")
		}
	}
}
