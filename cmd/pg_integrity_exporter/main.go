// Command pg_integrity_exporter tells Prometheus, within seconds, that the data
// of a PostgreSQL server is being damaged, what is damaged, and why.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"

	"pg_integrity_exporter/internal/config"
	"pg_integrity_exporter/internal/exporter"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/state"
)

const programName = "pg_integrity_exporter"

// gcPercent is how much garbage may pile up beside what is alive, in percent:
// that is a few megabytes, and an exporter shares its machine with others.
const gcPercent = 50

func main() {
	runtime.MemProfileRate = 0 // its tables are half a megabyte
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// globals are the flags of every command, and what every command needs.
type globals struct {
	dsn        string
	target     string
	configFile string
	statePath  string

	environment pg.Environment
	logger      *slog.Logger
	stdout      io.Writer
	stderr      io.Writer
}

// command is what one subcommand does; it returns the exit code.
type command func(ctx context.Context) int

// exitUsage is the exit code for flags and arguments that make no sense.
const exitUsage = 2

// run parses the arguments and runs the command until ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	terminated := -1
	app := kingpin.New(programName, "Tells Prometheus that a PostgreSQL server's data is being damaged, what is damaged, and why.")
	app.DefaultEnvars()
	app.HelpFlag.Short('h')
	app.UsageWriter(stdout)
	app.ErrorWriter(stderr)
	app.Terminate(func(code int) { terminated = code })
	app.Version(version.Print(programName))
	useTemplates()
	app.UsageFuncs(manFuncs)

	g := &globals{environment: os.LookupEnv, stdout: stdout, stderr: stderr}
	app.Flag("dsn", "The server to watch: a postgresql:// URL or key=value pairs. Without it: the configuration file, DATA_SOURCE_NAME, DATA_SOURCE_URI/USER/PASS, or the PG* variables. Passwords belong in a passfile or DATA_SOURCE_PASS_FILE.").
		PlaceHolder("DSN").StringVar(&g.dsn)
	app.Flag("target", "One of targets in the configuration file, by its name, instead of the server of --dsn; for all commands but serve, which watches all.").
		PlaceHolder("NAME").StringVar(&g.target)
	app.Flag("config.file", "Configuration file; every setting has a default.").PlaceHolder("FILE").StringVar(&g.configFile)
	app.Flag("state.path", "Directory that keeps results, findings and log positions across restarts.").
		Default(defaultStatePath(g.environment)).StringVar(&g.statePath)
	logConfig := &promslog.Config{Writer: stderr}
	flag.AddFlags(app, logConfig)

	commands := map[string]command{}
	for _, add := range []func(*kingpin.Application, *globals) (string, command){
		addDrill,
		addServe, addCheck, addBaselineAccept, addBaselineShow, addBaselineDiff, addConfigCheck, addMetrics, addAlertsExport, addDashboardsExport,
		addIncidentReport, addIncidentUpdate, addIncidentAcknowledge, addIncidentList,
		addGuardRun, addGuardStatus, addGuardResume, addGuardSettle, addGuardRecover, addGuardReview, addWindowOpen, addWindowClose, addWindowList,
	} {
		name, c := add(app, g)
		commands[name] = c
	}

	selected, err := app.Parse(args)
	if terminated >= 0 {
		return terminated
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v (try --help)\n", programName, err)
		return exitUsage
	}
	g.logger = promslog.New(logConfig)
	return commands[selected](ctx)
}

// resolve finds the configuration and the server that a command is about.
func (g *globals) resolve() (config.Validated, *pg.Target, error) {
	if g.target == "" {
		return exporter.Resolve(g.dsn, g.configFile, g.environment)
	}
	if g.dsn != "" || g.configFile == "" {
		return config.Validated{}, nil, errors.New("--target names a server of --config.file, and excludes --dsn")
	}
	return exporter.ResolveNamed(g.target, g.configFile)
}

// fail says in one line why a command cannot do its work.
func (g *globals) fail(err error) {
	fmt.Fprintf(g.stderr, "%s: %v\n", programName, err)
}

// files are what the command shares with an exporter that watches the target.
// Without --state.path and without a state directory that an exporter made, a
// command leaves nothing behind.
func (g *globals) files(target *pg.Target) *state.Files {
	if g.statePath == defaultStatePath(g.environment) {
		if _, err := os.Stat(g.statePath); err != nil {
			return state.OpenFiles("", target.Name())
		}
	}
	return state.OpenFiles(g.statePath, target.Name())
}

// defaultStatePath is where the system keeps the state of a service
// (systemd's STATE_DIRECTORY), or of a person's program.
func defaultStatePath(environment pg.Environment) string {
	if directory, ok := environment("STATE_DIRECTORY"); ok && directory != "" {
		return directory
	}
	if os.Geteuid() == 0 {
		return filepath.Join("/var/lib", programName)
	}
	if directory, ok := environment("XDG_STATE_HOME"); ok && directory != "" {
		return filepath.Join(directory, programName)
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", programName)
	}
	return filepath.Join(os.TempDir(), programName)
}
