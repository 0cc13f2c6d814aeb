package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
	"github.com/alecthomas/units"
	"golang.org/x/sys/unix"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
)

// checkFlags are the flags of the command check.
type checkFlags struct {
	*globals

	output    string
	only      []string
	exclude   []string
	databases []string
	relations []string
	deep      bool
	jobs      int
	rateLimit units.Base2Bytes
	share     float64
	offline   bool
	pgdata    string
}

func addCheck(app *kingpin.Application, g *globals) (string, command) {
	f := &checkFlags{globals: g}
	cmd := app.Command("check", "Run the checks once, now, and print findings. Exit code: 0 clean, 1 findings, 2 something could not be checked.")
	cmd.Flag("output", "Format: text, json or junit.").Default("text").EnumVar(&f.output, "text", "json", "junit")
	cmd.Flag("check", "Run only this check (repeat).").PlaceHolder("NAME").HintOptions(checkNames()...).StringsVar(&f.only)
	cmd.Flag("exclude", "Do not run this check (repeat).").PlaceHolder("NAME").HintOptions(checkNames()...).StringsVar(&f.exclude)
	cmd.Flag("database", "Look only at this database (repeat); without it at every one that the configuration selects.").PlaceHolder("NAME").StringsVar(&f.databases)
	cmd.Flag("relation", "Look only at this table or index and what belongs to it (repeat).").PlaceHolder("SCHEMA.NAME").StringsVar(&f.relations)
	cmd.Flag("deep", "Look at everything, ignoring intervals and sampling.").BoolVar(&f.deep)
	cmd.Flag("jobs", "How many relations are looked at in parallel, each in a session of its own: of as many databases, or several of each.").Short('j').Default("1").IntVar(&f.jobs)
	cmd.Flag("rate-limit", "Read at most this many bytes per second in each job, for example 32MiB; 0 is no limit.").Default("0").BytesVar(&f.rateLimit)
	cmd.Flag("share", "Keep the server busy for at most this share of the time in each job, for example 0.05, but for the first five seconds of each check; 0 is no limit.").Default("0").Float64Var(&f.share)
	cmd.Flag("offline", "Look at the data directory of a server that is down or will not start, and tell why.").BoolVar(&f.offline)
	cmd.Flag("pgdata", "The data directory for --offline.").Envar("PGDATA").PlaceHolder("DIR").StringVar(&f.pgdata)
	return cmd.FullCommand(), f.check
}

func (f *checkFlags) check(ctx context.Context) int {
	look := f.sweep
	if f.offline {
		look = f.lookOffline
	}
	document, err := look(ctx)
	if err != nil {
		f.fail(err)
		return check.ExitIncomplete
	}
	write := func(w io.Writer) error {
		return document.WriteText(w, colour(f.stdout, f.environment), columns(f.stdout))
	}
	switch f.output {
	case "json":
		write = document.WriteJSON
	case "junit":
		write = document.WriteJUnit
	}
	if err := write(f.stdout); err != nil {
		f.fail(fmt.Errorf("writing the result: %w", err))
		return check.ExitIncomplete
	}
	return document.ExitCode()
}

func (f *checkFlags) sweep(ctx context.Context) (check.Document, error) {
	options := check.Options{
		Databases: f.databases, Deep: f.deep, RateLimit: int64(f.rateLimit), Share: f.share, Jobs: f.jobs, Logger: f.logger,
	}
	var err error
	if options.Checks, err = selectChecks(f.only, f.exclude); err != nil {
		return check.Document{}, err
	}
	if options.Relations, err = parseRelations(f.relations); err != nil {
		return check.Document{}, err
	}
	if f.jobs < 1 || f.rateLimit < 0 || f.share < 0 || f.share > 1 {
		return check.Document{}, errors.New("--jobs must be at least 1, --rate-limit not negative and --share between 0 and 1")
	}
	if terminal(f.stderr) {
		options.Progress = func(r check.Result) { fmt.Fprint(f.stderr, progress(r)) }
	}
	validated, target, err := f.resolve()
	if err != nil {
		return check.Document{}, err
	}
	options.Memory = f.files(target).Memory()
	options.Rules, options.Selects = validated.Get().Rules(), validated.Get().Databases.Selects
	options.Named = f.only
	if len(options.Relations) > 0 && !slices.ContainsFunc(options.Checks, func(c check.Check) bool { return !c.Server }) {
		return check.Document{}, fmt.Errorf("the check %s looks at the whole server: leave out --relation", options.Checks[0].Name)
	}
	return check.Sweep(ctx, target, options)
}

func checkNames() []string {
	var names []string
	for _, c := range check.All() {
		names = append(names, c.Name)
	}
	return names
}

// selectChecks gives the checks in the order in which they must run.
func selectChecks(only, exclude []string) ([]check.Check, error) {
	names := checkNames()
	for _, name := range slices.Concat(only, exclude) {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("there is no check %q; there are: %s", name, strings.Join(names, ", "))
		}
	}
	selected := slices.DeleteFunc(check.All(), func(c check.Check) bool {
		return slices.Contains(exclude, c.Name) || len(only) > 0 && !slices.Contains(only, c.Name)
	})
	if len(selected) == 0 {
		return nil, fmt.Errorf("no check is left to run; there are: %s", strings.Join(names, ", "))
	}
	return selected, nil
}

// parseRelations splits SCHEMA.NAME. A name with a dot in it belongs in double
// quotes.
func parseRelations(texts []string) ([]check.RelationName, error) {
	var relations []check.RelationName
	for _, text := range texts {
		schema, rest, ok := identifier(text)
		if !ok || !strings.HasPrefix(rest, ".") {
			return nil, fmt.Errorf("--relation=%s: expected SCHEMA.NAME, for example public.accounts", text)
		}
		name, rest, ok := identifier(rest[1:])
		if !ok || rest != "" {
			return nil, fmt.Errorf("--relation=%s: expected SCHEMA.NAME, for example public.accounts", text)
		}
		relations = append(relations, check.RelationName{Schema: schema, Name: name})
	}
	return relations, nil
}

// identifier reads one identifier as SQL writes it, except that without quotes
// it is taken as it stands.
func identifier(text string) (name, rest string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexByte(text, '.')
		if end < 0 {
			end = len(text)
		}
		return text[:end], text[end:], end > 0
	}
	for i := 1; i < len(text); i++ {
		if text[i] != '"' {
			continue
		}
		if i+1 < len(text) && text[i+1] == '"' {
			i++
			continue
		}
		return strings.ReplaceAll(text[1:i], `""`, `"`), text[i+1:], i > 1
	}
	return "", "", false
}

// colour says whether colours help: somebody watches, and does not refuse them
// (NO_COLOR, TERM=dumb).
func colour(w io.Writer, environment pg.Environment) bool {
	_, refused := environment("NO_COLOR")
	kind, _ := environment("TERM")
	return terminal(w) && !refused && kind != "dumb"
}

// columns is how wide the terminal is; 0 is that it is none, or not known.
func columns(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// terminal says whether somebody watches.
func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
