package offline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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

// start is what the next start finds.
func (r *run) start() conf.Start {
	start := conf.Start{Major: r.major, Value: r.parameter}
	if !r.known {
		return start
	}
	start.Recovering = r.exists("standby.signal") || r.exists("recovery.signal")
	start.Primary = r.control.Limits()
	if prepared, err := r.list("pg_twophase"); err == nil {
		start.Prepared = len(prepared)
	}
	return start
}

// misfits reports what stops a start although each line is right by itself.
func (r *run) misfits(at stage, misfits []conf.Misfit) {
	for _, m := range misfits {
		r.unfit(at, m.Parameter, m.Text, m.Impact, m.Action)
	}
}

// combinations looks at settings that the server takes one by one but not
// together.
func (r *run) combinations() {
	start := r.start()
	r.misfits(atParameters, start.Combinations())
	r.recovery()
	r.misfits(atRecovery, start.Limits())
	if start.Recovering && r.control.WALLevel == 0 {
		r.unfit(atRecovery, "wal_level", "the WAL was written with wal_level minimal", "Recovery from an archive, and a standby, cannot use it.", "Restore a base backup that was made after wal_level was raised.")
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
}

// namedFiles looks at files that parameters name.
func (r *run) namedFiles() {
	start, place := r.start(), conf.Place{Data: r.Directory, Program: r.program()}
	r.misfits(atHBA, start.Certificates(place))
	r.misfits(atLibraries, start.Libraries(place))
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

// program is the executable that ran here last, if it is on this machine.
func (r *run) program() string {
	content, err := os.ReadFile(r.path("postmaster.opts"))
	if err != nil {
		return ""
	}
	name, _, _ := strings.Cut(strings.TrimSpace(string(content)), ` "`)
	program, err := filepath.EvalSymlinks(name)
	if err != nil {
		return ""
	}
	return program
}
