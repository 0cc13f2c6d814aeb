package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/drill"
	"pg_integrity_exporter/internal/maintenance/guard"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/state"
)

// recoverFlags are the flags of the command guard recover.
type recoverFlags struct {
	guardFlags

	repository string
	backup     string
	into       string
	replace    string
	bin        []string
	user       string
	yes        bool
}

func addGuardRecover(app *kingpin.Application, g *globals) (string, command) {
	f := &recoverFlags{guardFlags: guardFlags{globals: g}}
	cmd := app.GetCommand("guard").Command("recover", "Recover to the restore point of a run, into another directory, and prove that it is what was there before. The damaged cluster is not touched, or kept when --replace puts the recovered one in its place. Exit code: 0 recovered and proved, 1 recovered and not proved, 2 refused, 3 not recovered.")
	f.common(cmd)
	cmd.Flag("repository", "Which repository of the configuration to restore (default: guard.recover.repository, or the only one).").PlaceHolder("NAME").StringVar(&f.repository)
	cmd.Flag("backup", "The backup to restore (default: the newest from before the run).").PlaceHolder("LABEL").StringVar(&f.backup)
	cmd.Flag("into", "The new data directory, which must not exist (default: one of the run's name in guard.recover.directory).").PlaceHolder("DIRECTORY").StringVar(&f.into)
	cmd.Flag("replace", "The data directory of the damaged server: it is stopped when the recovered cluster is proved, which takes its place; the damaged one is kept beside it (default: guard.recover.replace).").PlaceHolder("DIRECTORY").StringVar(&f.replace)
	cmd.Flag("bin-directory", "Where the programs of PostgreSQL are; patterns as in a shell (repeat).").PlaceHolder("DIRECTORY").StringsVar(&f.bin)
	cmd.Flag("user", "The user of the system that the new directory belongs to when this is root (default: recovery.drill.user, or postgres).").PlaceHolder("NAME").StringVar(&f.user)
	cmd.Flag("yes", "Do not ask.").BoolVar(&f.yes)
	cmd.Arg("ID", "The run, as `guard status` shows it; without it the last one that was not rolled back.").StringVar(&f.id)
	return cmd.FullCommand(), f.recover
}

// exitNotExact is the exit code of a recovered cluster that is not proved.
const exitNotExact = 1

func (f *recoverFlags) recover(ctx context.Context) int {
	options, c, err := f.target()
	if err != nil {
		f.fail(err)
		return exitRefused
	}
	run, err := f.choose(options.Files)
	if err != nil {
		f.fail(err)
		return exitRefused
	}
	return f.recoverRun(ctx, options, c, run)
}

// choose finds the run to recover from.
func (f *recoverFlags) choose(files *state.Files) (guard.RunState, error) {
	runs, err := guard.Runs(files)
	if err != nil {
		return guard.RunState{}, err
	}
	for _, run := range slices.Backward(runs) {
		if run.ID != f.id && (f.id != "" || run.Outcome != guard.OutcomeNotRolledBack) {
			continue
		}
		if run.Outcome == "" {
			return run, fmt.Errorf("run %s is under way", run.ID)
		}
		if run.RestorePoint == nil {
			return run, fmt.Errorf("run %s has no restore point: it changed nothing, or the server could not make one", run.ID)
		}
		return run, nil
	}
	if f.id != "" {
		return guard.RunState{}, fmt.Errorf("there is no run %s; `guard status` shows all", f.id)
	}
	return guard.RunState{}, errors.New("no run ended not rolled back; name another one, as `guard status` shows it")
}

// recoverRun recovers and prints the result.
func (f *recoverFlags) recoverRun(ctx context.Context, options guard.Options, c config.Config, run guard.RunState) int {
	d, err := f.drillOptions(c, run)
	if err != nil {
		f.fail(err)
		return exitRefused
	}
	r := f.replacement(c, run)
	if r != nil && !r.Pending() {
		if err := r.Possible(); err != nil {
			f.fail(err)
			return exitRefused
		}
	}
	if !f.yes && !f.confirm(d, run, r) {
		f.fail(errors.New("not confirmed: nothing was done (--yes does not ask)"))
		return exitRefused
	}
	result, refused, err := recoverInto(ctx, options, c, d, run, r)
	if err != nil {
		f.fail(err)
		return exitRefused
	}
	if f.output == "json" {
		encoder := json.NewEncoder(f.stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(result)
	} else {
		_, err = fmt.Fprint(f.stdout, result.Text())
	}
	if err != nil {
		f.fail(fmt.Errorf("writing the result: %w", err))
	}
	switch {
	case refused:
		return exitRefused
	case result.Directory == "":
		return exitNotRolledBack
	case !result.Proved, r != nil && result.Damaged == "":
		return exitNotExact
	}
	return 0
}

// replacement is what takes whose place; nil is that nothing does.
func (f *recoverFlags) replacement(c config.Config, run guard.RunState) *drill.Replacement {
	directory := f.replace
	if directory == "" && f.into == "" {
		directory = c.Guard.Recover.Replace
	}
	if directory == "" {
		return nil
	}
	directory = filepath.Clean(directory)
	return &drill.Replacement{
		Directory: directory, Recovered: directory + ".recovered-" + run.ID, Damaged: directory + ".damaged-" + run.ID,
		StopCommand: c.Guard.Recover.StopCommand, StartCommand: c.Guard.Recover.StartCommand,
	}
}

// drillOptions say what is restored, and where to.
func (f *recoverFlags) drillOptions(c config.Config, run guard.RunState) (drill.Options, error) {
	into := f.into
	if into != "" && f.replace != "" {
		return drill.Options{}, errors.New("--into and --replace exclude each other")
	}
	if r := f.replacement(c, run); r != nil {
		into = r.Recovered
	}
	if into == "" && c.Guard.Recover.Directory != "" {
		into = filepath.Join(c.Guard.Recover.Directory, "recovered-"+run.ID)
	}
	if into == "" {
		return drill.Options{}, errors.New("say where the recovered cluster goes: --into=DIRECTORY, --replace=DIRECTORY or guard.recover")
	}
	into, err := filepath.Abs(into)
	if err != nil {
		return drill.Options{}, err
	}
	flags := drillFlags{
		globals: f.globals, repository: either(f.repository, c.Guard.Recover.Repository), backup: f.backup, bin: f.bin, user: f.user,
		scratch: filepath.Dir(into), immediate: "latest", sample: 1, compare: true, urgent: true, kind: string(recovery.TypeDirectory),
	}
	flags.target = drill.Target{Name: run.RestorePoint.Name}
	if run.RestorePoint.Name == "" {
		flags.target = drill.Target{LSN: run.RestorePoint.LSN}
	}
	d, _, err := flags.options()
	d.Keep, d.Before, d.CompareRows = into, run.Started, 0
	d.Rules.Invariants = nil // those of the database are compared with what they were before the run
	return d, err
}

// confirm shows what would be done and waits for yes.
func (f *recoverFlags) confirm(d drill.Options, run guard.RunState, r *drill.Replacement) bool {
	backup := d.Backup
	if backup == "" {
		backup = "the newest backup from before " + run.Started.Format(time.RFC3339)
	}
	then := "The damaged cluster is not touched."
	if r != nil {
		then = fmt.Sprintf("When it is proved, the server in %s is STOPPED and the recovered cluster takes its place.\nThe damaged one is kept in %s: what others have committed since the run began is only there.", r.Directory, r.Damaged)
	}
	fmt.Fprintf(f.stderr, "run %s: %s: %s\nThis restores %s of the repository %s into %s and recovers it to the %s.\n%s Type yes to go on: ",
		run.ID, run.What, run.Summary, backup, d.Watched.Name, d.Keep, d.Target, then)
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n') // the end of the input is no yes
	return strings.TrimSpace(line) == "yes"
}

// recoverInto restores, recovers and proves, and replaces the damaged cluster when
// that is asked for. What a kill left half replaced is ended.
func recoverInto(ctx context.Context, options guard.Options, c config.Config, d drill.Options, run guard.RunState, r *drill.Replacement) (result guard.Recovery, refused bool, err error) {
	result = guard.Recovery{Run: run.ID, Target: d.Target.String(), Answers: []guard.Answer{}}
	if options.Invariants, err = c.GuardInvariants(run.Database); err != nil {
		return result, false, err
	}
	if r != nil && r.Pending() {
		result.Proved, result.Backup = true, "restored before"
		replace(ctx, r, &result)
		return result, false, nil
	}
	if err := guard.FlushWAL(ctx, options, run); err != nil {
		result.Answers = append(result.Answers, guard.Answer{Check: "archive", State: guard.Warning, Message: err.Error()})
	}
	d.Prove = func(ctx context.Context, recovered *pg.Target) error {
		checked := options
		checked.Target = recovered
		answers, err := guard.Recovered(ctx, checked, run)
		result.Answers = append(result.Answers, answers...)
		return err
	}
	report := drill.Run(ctx, d)
	result.Directory, result.Backup, result.Proved, result.Reason = report.Kept, report.Backup, report.Proved() && report.Kept != "", report.Reason
	if ctx.Err() != nil {
		result.Reason = "stopped; what was made is removed"
	}
	if r != nil && result.Proved && ctx.Err() == nil {
		replace(context.WithoutCancel(ctx), r, &result)
	}
	event := state.Event{
		Time: report.Started, Ended: report.Finished, Kind: state.EventGuard, Database: run.Database, Source: "guard " + run.ID,
		Message: "guard: " + strings.Join(strings.Fields(result.Summary()), " "), Details: map[string]string{"run": run.ID, "recovered": result.Directory},
	}
	if err := options.Files.Record(event); err != nil {
		options.Logger.Error("the recovery is not in the log of events", "err", err)
	}
	return result, report.Outcome == recovery.OutcomeRefused, nil
}

// replace puts a proved cluster in the place of the damaged one.
func replace(ctx context.Context, r *drill.Replacement, result *guard.Recovery) {
	err := r.Run(ctx)
	if err != nil {
		result.Reason = err.Error()
	}
	if _, statErr := os.Stat(r.Recovered); statErr != nil { // it was moved
		result.Directory, result.Damaged = r.Directory, r.Damaged
	}
}

// recoverByItself follows a run that was not rolled back, when that is
// configured.
func (f *guardFlags) recoverByItself(ctx context.Context, options guard.Options, report *guard.Report) {
	_, c, err := f.target()
	if err != nil || report.Outcome != guard.OutcomeNotRolledBack || !c.Guard.Recover.Unattended {
		return
	}
	flags := recoverFlags{guardFlags: guardFlags{globals: f.globals, id: report.ID}}
	result := guard.Recovery{Run: report.ID, Answers: []guard.Answer{}}
	run, err := flags.choose(options.Files)
	if err == nil {
		var d drill.Options
		if d, err = flags.drillOptions(c, run); err == nil {
			r := flags.replacement(c, run)
			if r != nil {
				err = r.Possible()
			}
			if err == nil {
				result, _, err = recoverInto(ctx, options, c, d, run, r)
			}
		}
	}
	if err != nil {
		result.Reason = err.Error()
	}
	report.Recovery = &result
}
