package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/maintenance/script"
	"pg_integrity_exporter/internal/maintenance/window"
	"pg_integrity_exporter/internal/state"
)

// guardFlags are the flags of the commands of the guard.
type guardFlags struct {
	*globals

	output      string
	database    string
	sql         string
	dryRun      bool
	expectRows  string
	expect      []string
	unchanged   []string
	protect     []string
	allow       []string
	maxBlocked  time.Duration
	maxDuration time.Duration
	lockTimeout time.Duration
	noPhysical  bool
	command     []string
	id          string
	how         string
}

func addGuardRun(app *kingpin.Application, g *globals) (string, command) {
	f := &guardFlags{globals: g}
	parent := app.Command("guard", "Run maintenance with checks before and after, and take it back when it goes wrong. Exit code: 0 done and verified, 1 failed and rolled back, 2 refused beforehand, 3 failed and NOT rolled back.")
	cmd := parent.Command("run", "Run a script or a command under guard (what happens without a word behind guard).").Default()
	f.common(cmd)
	cmd.Flag("database", "Database to work on; without it that of the target.").PlaceHolder("NAME").StringVar(&f.database)
	cmd.Flag("sql", "Script to run, - for standard input: in one transaction where PostgreSQL allows it, verified before the commit.").PlaceHolder("FILE").StringVar(&f.sql)
	cmd.Flag("dry-run", "Look and plan, change nothing.").BoolVar(&f.dryRun)
	cmd.Flag("expect-rows", "How many rows the statements together must change: 100 or 90..110.").PlaceHolder("ROWS").StringVar(&f.expectRows)
	cmd.Flag("expect", "A query that must give true afterwards (repeat).").PlaceHolder("SQL").StringsVar(&f.expect)
	cmd.Flag("unchanged", "A table whose rows must not change (repeat).").PlaceHolder("SCHEMA.TABLE").StringsVar(&f.unchanged)
	cmd.Flag("protect", "A table whose rows are put back when a command fails, without losing what others wrote meanwhile (repeat); * is every table, none is no table. Without it every table, when they are not too many or too large.").PlaceHolder("SCHEMA.TABLE").StringsVar(&f.protect)
	cmd.Flag("allow", "Accept a kind of weakening (repeat): "+strings.Join(slices.Sorted(maps.Keys(guard.Allowances())), ", ")+".").PlaceHolder("KIND").
		EnumsVar(&f.allow, slices.Sorted(maps.Keys(guard.Allowances()))...)
	cmd.Flag("max-blocked", "Stop when others have waited for it this long (configuration: guard.max_blocked).").PlaceHolder("DURATION").DurationVar(&f.maxBlocked)
	cmd.Flag("max-duration", "Stop after this long (configuration: guard.max_duration).").PlaceHolder("DURATION").DurationVar(&f.maxDuration)
	cmd.Flag("lock-timeout", "Wait for locks this long at a time (configuration: guard.lock_timeout).").PlaceHolder("DURATION").DurationVar(&f.lockTimeout)
	cmd.Flag("no-physical-checks", "Do not look for damaged pages and indexes before and after.").BoolVar(&f.noPhysical)
	cmd.Arg("COMMAND", "Command to run, behind --; it finds the server in the PG* variables.").StringsVar(&f.command)
	return cmd.FullCommand(), f.run
}

func addGuardStatus(app *kingpin.Application, g *globals) (string, command) {
	f := &guardFlags{globals: g}
	cmd := app.GetCommand("guard").Command("status", "List the runs of the guard. Exit code: 0 all ended, 1 one is under way, 3 one was interrupted, or was not rolled back and not settled.")
	f.common(cmd)
	return cmd.FullCommand(), f.status
}

func addGuardResume(app *kingpin.Application, g *globals) (string, command) {
	f := &guardFlags{globals: g}
	cmd := app.GetCommand("guard").Command("resume", "End a run whose guard died: verify what was committed or take everything back. Exit code as of guard.")
	f.common(cmd)
	cmd.Arg("ID", "The run, as `guard status` shows it; without it every interrupted one.").StringVar(&f.id)
	return cmd.FullCommand(), f.resume
}

func addGuardSettle(app *kingpin.Application, g *globals) (string, command) {
	f := &guardFlags{globals: g}
	cmd := app.GetCommand("guard").Command("settle", "Say that somebody has dealt with what a run left that could not be rolled back; the alert PostgresGuardNotRolledBack ends. Nothing is done to the server. Exit code: 0 noted, 2 refused.")
	cmd.Flag("how", "What was done about it, for those who read `guard status`.").Required().PlaceHolder("TEXT").StringVar(&f.how)
	cmd.Arg("ID", "The run, as `guard status` shows it.").Required().StringVar(&f.id)
	return cmd.FullCommand(), f.settle
}

func (f *guardFlags) common(cmd *kingpin.CmdClause) {
	cmd.Flag("output", "Format: text or json.").Default("text").EnumVar(&f.output, "text", "json")
}

// exitRefused and exitNotRolledBack are exit codes of the contract.
const (
	exitRefused       = 2
	exitNotRolledBack = 3
)

func (f *guardFlags) run(ctx context.Context) int {
	options, err := f.options()
	if err != nil {
		f.fail(err)
		return exitRefused
	}
	report := guard.Run(ctx, options)
	f.recoverByItself(ctx, options, &report)
	return f.print(&report)
}

func (f *guardFlags) print(report *guard.Report) int {
	write, to := report.WriteText, f.painted()
	if f.output == "json" {
		write, to = report.WriteJSON, f.stdout
	}
	if err := write(to); err != nil {
		f.fail(fmt.Errorf("writing the result: %w", err))
	}
	return report.ExitCode
}

// options puts together what the flags, the configuration and the script say.
func (f *guardFlags) options() (guard.Options, error) {
	options, c, err := f.target()
	if err != nil {
		return options, err
	}
	s := &options.Settings
	if (f.sql == "") == (len(f.command) == 0) {
		return options, errors.New("give either --sql=FILE or a command behind --")
	}
	options.Database, options.DryRun, options.Command = f.database, f.dryRun, f.command
	options.What = strings.Join(f.command, " ")
	if f.sql != "" {
		if options.Statements, options.What, err = f.script(); err != nil {
			return options, err
		}
	}
	name := f.database
	if name == "" {
		name = options.Target.Database()
	}
	if options.Invariants, err = c.GuardInvariants(name); err != nil {
		return options, err
	}
	if options.Policies, err = c.Guard.Permissions(); err != nil {
		return options, err
	}
	if f.expectRows != "" {
		if f.sql == "" {
			return options, errors.New("--expect-rows counts the rows of --sql; a command does not tell them: use --expect")
		}
		rows, err := script.ParseRange(f.expectRows)
		if err != nil {
			return options, fmt.Errorf("--expect-rows: %w", err)
		}
		s.ExpectRows = &rows
	}
	if len(f.protect) > 0 && f.sql != "" {
		return options, errors.New("--protect is for commands: a script is rolled back as a whole")
	}
	s.Expect = append(s.Expect, f.expect...)
	s.Allow = f.allow
	s.PhysicalChecks = s.PhysicalChecks && !f.noPhysical
	for _, list := range []struct {
		flag  string
		texts []string
		names *[]script.Name
	}{{"--unchanged", f.unchanged, &s.Unchanged}, {"--protect", f.protect, &s.Protect}} {
		for _, text := range list.texts {
			if text == "none" && list.flag == "--protect" {
				s.NoProtection = true
				continue
			}
			name, err := script.ParseName(text)
			if err != nil {
				return options, fmt.Errorf("%s: %w", list.flag, err)
			}
			*list.names = append(*list.names, name)
		}
	}
	for _, limit := range []struct {
		given time.Duration
		into  *time.Duration
	}{{f.maxBlocked, &s.MaxBlocked}, {f.maxDuration, &s.MaxDuration}, {f.lockTimeout, &s.LockTimeout}} {
		if limit.given < 0 {
			return options, errors.New("--max-blocked, --max-duration and --lock-timeout must not be negative")
		}
		if limit.given > 0 {
			*limit.into = limit.given
		}
	}
	status, err := window.Look(options.Files, c.Maintenance.Schedules(), time.Now())
	options.Window = status.Active
	return options, err
}

// target finds the server, its files and the settings.
func (f *guardFlags) target() (guard.Options, config.Config, error) {
	validated, target, err := f.resolve()
	if err != nil {
		return guard.Options{}, config.Config{}, err
	}
	c := validated.Get()
	settings, err := c.Guard.Settings()
	options := guard.Options{
		Target: target, Files: state.OpenFiles(f.statePath, target.Name()), Settings: settings, Progress: f.stderr, Logger: f.logger,
	}
	for _, watched := range c.Recovery.Watched() {
		if only := c.Guard.Recover.Repository; only == "" || only == watched.Name {
			options.Repositories = append(options.Repositories, watched)
		}
	}
	if terminal(f.stderr) {
		options.Checking = func(r check.Result) { fmt.Fprint(f.stderr, progress(r)) }
	}
	return options, c, err
}

// script reads and splits the script.
func (f *guardFlags) script() ([]script.Statement, string, error) {
	var content []byte
	var err error
	if f.sql == "-" {
		content, err = io.ReadAll(os.Stdin)
	} else {
		content, err = os.ReadFile(f.sql)
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading the script: %w", err)
	}
	statements, err := script.Split(string(content))
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", f.sql, err)
	}
	if len(statements) == 0 {
		return nil, "", fmt.Errorf("%s holds no statement", f.sql)
	}
	return statements, f.sql, nil
}

// runs are the runs of the target, beside what is needed to end one.
func (f *guardFlags) runs() (guard.Options, config.Config, []guard.RunState, error) {
	options, c, err := f.target()
	if err != nil {
		return options, c, nil, err
	}
	runs, err := guard.Runs(options.Files)
	return options, c, runs, err
}

func (f *guardFlags) status(context.Context) int {
	_, _, runs, err := f.runs()
	if err != nil {
		f.fail(err)
		return exitRefused
	}
	code := 0
	for _, run := range runs {
		switch {
		case run.Outcome == "":
			code = max(code, 1)
		case run.Outcome == guard.OutcomeInterrupted, run.Owed():
			code = exitNotRolledBack
		}
	}
	if f.output == "json" {
		if runs == nil {
			runs = []guard.RunState{}
		}
		encoder := json.NewEncoder(f.stdout)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(runs); err != nil {
			f.fail(fmt.Errorf("writing the result: %w", err))
			return exitRefused
		}
		return code
	}
	for _, run := range runs {
		outcome := strings.ReplaceAll(string(run.Outcome), "_", " ")
		if outcome == "" {
			outcome = "under way"
		}
		fmt.Fprintf(f.painted(), "%-15s  %s  %s  by %s: %s\n    %s\n", outcome, run.ID, run.Started.Format(time.RFC3339), run.By, run.What, run.Summary)
	}
	return code
}

func (f *guardFlags) settle(context.Context) int {
	_, _, runs, err := f.runs()
	if err != nil {
		f.fail(err)
		return exitRefused
	}
	i := slices.IndexFunc(runs, func(r guard.RunState) bool { return r.ID == f.id })
	if i < 0 {
		f.fail(fmt.Errorf("there is no run %s; `guard status` shows all", f.id))
		return exitRefused
	}
	if err := guard.Settle(runs[i], f.how); err != nil {
		f.fail(err)
		return exitRefused
	}
	fmt.Fprintf(f.stdout, "run %s is settled\n", f.id)
	return 0
}

func (f *guardFlags) resume(ctx context.Context) int {
	options, c, runs, err := f.runs()
	if err != nil {
		f.fail(err)
		return exitNotRolledBack
	}
	code, resumed := 0, false
	for _, run := range runs {
		if run.Outcome != guard.OutcomeInterrupted || f.id != "" && run.ID != f.id {
			continue
		}
		resumed = true
		if options.Invariants, err = c.GuardInvariants(run.Database); err != nil {
			f.fail(err)
			return exitNotRolledBack
		}
		report, err := guard.Resume(ctx, options, run)
		if err != nil {
			f.fail(fmt.Errorf("run %s: %w", run.ID, err))
			code = exitNotRolledBack
			continue
		}
		code = max(code, f.print(&report))
	}
	if !resumed {
		if f.id != "" {
			f.fail(fmt.Errorf("there is no interrupted run %s; `guard status` shows all", f.id))
			return exitRefused
		}
		fmt.Fprintln(f.stderr, "no run was interrupted")
	}
	return code
}
