package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/state"
)

// The exit codes of `baseline`.
const (
	exitSame    = 0
	exitDiffers = 1
	exitFailed  = 2
)

// baselineFlags are the flags of the commands baseline accept, show and diff.
type baselineFlags struct {
	*globals

	databases []string
	output    string
	reason    string
	by        string
	sealed    []string
}

func addBaselineAccept(app *kingpin.Application, g *globals) (string, command) {
	f := &baselineFlags{globals: g}
	cmd := baselineCommand(app).Command("accept", "Accept schema, settings, roles and grants, and the number of rows, as they are now; seal data that is not sealed yet. Exit code: 0 accepted, 2 not.")
	f.addDatabase(cmd)
	cmd.Flag("reason", "Why, for the event log.").PlaceHolder("TEXT").StringVar(&f.reason)
	cmd.Flag("by", "Who accepts, for the event log; without it the user of the system.").PlaceHolder("NAME").StringVar(&f.by)
	cmd.Flag("sealed", "Accept a change of this sealed data (repeat); all for all.").PlaceHolder("NAME").StringsVar(&f.sealed)
	return cmd.FullCommand(), f.run(f.accept)
}

func addBaselineShow(app *kingpin.Application, g *globals) (string, command) {
	f := &baselineFlags{globals: g}
	cmd := baselineCommand(app).Command("show", "Print what was accepted, by whom and when.")
	f.addDatabase(cmd)
	f.addOutput(cmd)
	return cmd.FullCommand(), f.run(f.show)
}

func addBaselineDiff(app *kingpin.Application, g *globals) (string, command) {
	f := &baselineFlags{globals: g}
	cmd := baselineCommand(app).Command("diff", "Print what differs from the baseline. Exit code: 0 nothing, 1 something, 2 it could not be compared.")
	f.addDatabase(cmd)
	f.addOutput(cmd)
	return cmd.FullCommand(), f.run(f.diff)
}

// baselineCommand is the command that holds the three.
func baselineCommand(app *kingpin.Application) *kingpin.CmdClause {
	if cmd := app.GetCommand("baseline"); cmd != nil {
		return cmd
	}
	return app.Command("baseline", "What schema, settings, roles and sealed data should look like.")
}

func (f *baselineFlags) addDatabase(cmd *kingpin.CmdClause) {
	cmd.Flag("database", "Only this database (repeat); without it every one that the configuration selects.").PlaceHolder("NAME").StringsVar(&f.databases)
}

func (f *baselineFlags) addOutput(cmd *kingpin.CmdClause) {
	cmd.Flag("output", "Format: text or json.").Default("text").EnumVar(&f.output, "text", "json")
}

// baseline is the server, and where its baselines are.
type baseline struct {
	config config.Config
	target *pg.Target
	files  *state.Files
}

// run resolves the target for one of the commands.
func (f *baselineFlags) run(do func(ctx context.Context, b baseline) (int, error)) command {
	return func(ctx context.Context) int {
		validated, target, err := f.resolve()
		if err != nil {
			f.fail(err)
			return exitFailed
		}
		code, err := do(ctx, baseline{config: validated.Get(), target: target, files: state.OpenFiles(f.statePath, target.Name())})
		if err != nil {
			f.fail(err)
			return exitFailed
		}
		return code
	}
}

// selected are the databases to look at.
func (f *baselineFlags) selected(ctx context.Context, b baseline) ([]string, error) {
	if len(f.databases) > 0 {
		return f.databases, nil
	}
	conn, err := b.target.Connect(ctx, "", pg.Purpose{Name: "baseline", StatementTimeout: time.Minute, LockTimeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", err, pg.FailureOf(err).Advice())
	}
	defer conn.Close()
	all, err := conn.Databases(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, database := range all {
		if database.Connectable && b.config.Databases.Selects(database.Name) {
			names = append(names, database.Name)
		}
	}
	return names, nil
}

func (f *baselineFlags) accept(ctx context.Context, b baseline) (int, error) {
	rules := b.config.Rules()
	accepted := check.Acceptance{Time: time.Now().UTC().Truncate(time.Second), By: f.by, Reason: f.reason, Sealed: f.sealed}
	if accepted.By == "" {
		accepted.By = whoAmI()
	}
	var known []string
	for _, d := range rules.Sealed {
		known = append(known, d.Name)
	}
	if slices.Contains(f.sealed, "all") {
		accepted.Sealed = known
	}
	for _, name := range accepted.Sealed {
		if !slices.Contains(known, name) {
			return exitFailed, fmt.Errorf("--sealed=%s: no sealed data has this name; the configuration has: %s", name, strings.Join(known, ", "))
		}
	}
	databases, err := f.selected(ctx, b)
	if err != nil {
		return exitFailed, err
	}
	checks, err := selectChecks([]string{"drift", "rows", "sealed"}, nil)
	if err != nil {
		return exitFailed, err
	}
	document, err := check.Sweep(ctx, b.target, check.Options{
		Checks: checks, Databases: databases, Memory: b.files.Memory(), Rules: rules, Accept: &accepted, Logger: f.logger,
	})
	if err != nil {
		return exitFailed, err
	}
	return f.report(b, accepted, document)
}

// report prints what was accepted and leaves an entry in the event log.
func (f *baselineFlags) report(b baseline, accepted check.Acceptance, document check.Document) (int, error) {
	code := exitSame
	for _, r := range document.Checks {
		text := fmt.Sprintf("%d objects accepted", r.Objects)
		if r.Outcome == check.OutcomeFailed {
			text, code = "NOT accepted: "+r.Reason, exitFailed
		}
		fmt.Fprintf(f.stdout, "%s: %s: %s\n", r.Database, r.Check, text)
	}
	for _, finding := range document.Findings {
		fmt.Fprintf(f.stdout, "%s: %s: still open: %s\n", finding.Database, finding.Check, finding.Message)
	}
	if code != exitSame {
		return code, nil
	}
	details := map[string]string{"by": accepted.By, "reason": accepted.Reason}
	message := "the baseline was accepted by " + accepted.By
	if len(accepted.Sealed) > 0 {
		details["sealed"] = strings.Join(accepted.Sealed, ", ")
		message += ", with changes of the sealed data " + details["sealed"]
	}
	err := b.files.Record(state.Event{Time: accepted.Time, Kind: state.EventBaselineAccepted, Message: message, Source: "baseline accept", Details: details})
	if err != nil {
		return exitFailed, fmt.Errorf("accepted, but the event log has no entry of it: %w", err)
	}
	return code, nil
}

// whoAmI is the user of the system, for the event log.
func whoAmI() string {
	if current, err := user.Current(); err == nil && current.Username != "" {
		return current.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

func (f *baselineFlags) show(ctx context.Context, b baseline) (int, error) {
	databases, err := f.selected(ctx, b)
	if err != nil {
		return exitFailed, err
	}
	all := make(map[string]check.Baseline)
	for _, database := range databases {
		kept, found, err := check.ReadBaseline(b.files.Memory(), database)
		if err != nil {
			return exitFailed, err
		}
		if found {
			all[database] = kept
		}
	}
	if len(all) == 0 {
		return exitFailed, fmt.Errorf("no baseline was accepted under %s; run baseline accept", b.files.Directory())
	}
	if f.output == "json" {
		return exitSame, f.writeJSON(all)
	}
	for _, database := range slices.Sorted(maps.Keys(all)) {
		kept := all[database]
		fmt.Fprintf(f.stdout, "database %s: accepted %s by %s %s\n", database, kept.Time.Format(time.RFC3339), kept.By, kept.Reason)
		for _, object := range slices.Sorted(maps.Keys(kept.Facts)) {
			fmt.Fprintf(f.stdout, "  %s\n", object)
			for _, attribute := range slices.Sorted(maps.Keys(kept.Facts[object])) {
				fmt.Fprintf(f.stdout, "    %s: %s\n", attribute, strings.ReplaceAll(kept.Facts[object][attribute], "\n", "\n      "))
			}
		}
	}
	return exitSame, nil
}

func (f *baselineFlags) diff(ctx context.Context, b baseline) (int, error) {
	databases, err := f.selected(ctx, b)
	if err != nil {
		return exitFailed, err
	}
	all := []check.Difference{}
	compared := 0
	for _, database := range databases {
		_, found, err := check.AcceptedBaseline(b.files.Memory(), database)
		if err != nil {
			return exitFailed, err
		}
		if !found && len(f.databases) == 0 {
			continue
		}
		differences, err := check.Differences(ctx, b.target, database, b.files.Memory(), f.logger)
		if err != nil {
			return exitFailed, fmt.Errorf("database %s: %w", database, err)
		}
		compared++
		all = append(all, differences...)
	}
	if compared == 0 {
		return exitFailed, errors.New("no baseline was accepted, so there is nothing to compare with; run baseline accept")
	}
	code := exitSame
	if len(all) > 0 {
		code = exitDiffers
	}
	if f.output == "json" {
		return code, f.writeJSON(all)
	}
	for _, d := range all {
		fmt.Fprintf(f.painted(), "%s  %s: %s %s (noticed %s)\n", strings.ToUpper(string(d.Severity)), d.Database, d.Object, d.Action(), d.Noticed.Format(time.RFC3339))
		for _, c := range d.Changes {
			if c.Before != "" {
				fmt.Fprintf(f.stdout, "  - %s: %s\n", c.Attribute, strings.ReplaceAll(c.Before, "\n", "\n  -   "))
			}
			if c.After != "" {
				fmt.Fprintf(f.stdout, "  + %s: %s\n", c.Attribute, strings.ReplaceAll(c.After, "\n", "\n  +   "))
			}
		}
	}
	if len(all) == 0 {
		fmt.Fprintf(f.stdout, "Nothing differs from the baseline in %d databases.\n", compared)
	}
	return code, nil
}

func (f *baselineFlags) writeJSON(value any) error {
	encoder := json.NewEncoder(f.stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
