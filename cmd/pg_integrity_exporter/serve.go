package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	toolkit "github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"
	"go.yaml.in/yaml/v3"

	"pg_integrity_exporter/alerts"
	"pg_integrity_exporter/collector"
	"pg_integrity_exporter/internal/exporter"
	"pg_integrity_exporter/internal/process"
	"pg_integrity_exporter/internal/secret"
	"pg_integrity_exporter/internal/state"
	"pg_integrity_exporter/internal/web"
)

// shutdownTimeout is how long scrapes under way may take when the exporter is
// told to stop.
const shutdownTimeout = 5 * time.Second

// profileRate is how many bytes are allocated for each allocation in a profile of
// memory, when profiles are served: as many as Go's default.
const profileRate = 512 << 10

// serveFlags are the flags of the command serve.
type serveFlags struct {
	*globals

	toolkit       *toolkit.FlagConfig
	telemetryPath string
	maxRequests   int
	timeout       time.Duration
	timeoutOffset time.Duration
	ahead         time.Duration
	profiling     bool
	enabled       map[string]*bool
}

func addServe(app *kingpin.Application, g *globals) (string, command) {
	f := &serveFlags{globals: g, enabled: make(map[string]*bool)}
	cmd := app.Command("serve", "Watch a server and serve metrics (what happens without a command).").Default()
	f.toolkit = kingpinflag.AddFlags(cmd, ":10187")
	cmd.Flag("web.telemetry-path", "Path of the metrics.").Default("/metrics").StringVar(&f.telemetryPath)
	cmd.Flag("web.max-requests", "Scrapes that may be under way at once.").Default("40").IntVar(&f.maxRequests)
	cmd.Flag("scrape.timeout", "Time limit of a scrape that does not bring Prometheus' own in its header.").Default("10s").DurationVar(&f.timeout)
	cmd.Flag("scrape.timeout-offset", "Time taken off Prometheus' limit for the way back.").Default("500ms").DurationVar(&f.timeoutOffset)
	cmd.Flag("scrape.ahead", "How long before a scrape that comes regularly the server is asked at most, so that the scrape need not wait for it; 0s is that every scrape asks itself.").
		Default("100ms").DurationVar(&f.ahead)
	cmd.Flag("web.enable-pprof", "Serve Go's profiles of this process under /debug/pprof/.").BoolVar(&f.profiling)
	for _, c := range collector.All(collector.Sources{}) {
		f.enabled[c.Name] = cmd.Flag("collector."+c.Name, c.Help).Default("true").Bool()
	}
	return cmd.FullCommand(), f.serve
}

func (f *serveFlags) serve(ctx context.Context) int {
	if err := f.watch(ctx); err != nil {
		f.fail(err)
		return 1
	}
	return 0
}

// watch serves until ctx ends.
func (f *serveFlags) watch(ctx context.Context) error {
	if f.target != "" {
		return errors.New("--target is for the other commands: serve watches every server of the configuration")
	}
	if f.ahead < 0 {
		return fmt.Errorf("--scrape.ahead=%s must not be negative; 0s is that every scrape asks itself", f.ahead)
	}
	if slices.ContainsFunc(os.Args, func(argument string) bool { return secret.Mask(argument) != argument }) {
		f.logger.Warn("the command line has a password, which every user of this machine can read: use a passfile, dsn_file or DATA_SOURCE_PASS_FILE (docs/security.md)")
	}
	if f.profiling {
		runtime.MemProfileRate = profileRate
	}
	store, err := f.openStore()
	if err != nil {
		return err
	}
	e, err := exporter.New(exporter.Options{
		DSN: f.dsn, Environment: f.environment, ConfigFile: f.configFile, StatePath: f.statePath,
		Disabled: f.disabled(), Ahead: f.ahead, Store: store, Logger: f.logger,
	})
	if err != nil {
		return errors.Join(err, store.Close())
	}
	go process.Trim(ctx)
	err = f.listen(ctx, e)
	e.Stop()
	return errors.Join(err, store.Close())
}

func (f *serveFlags) disabled() []string {
	var names []string
	for name, enabled := range f.enabled {
		if !*enabled {
			names = append(names, name)
		}
	}
	return names
}

// openStore opens the state, or goes on in memory when the directory cannot be
// used: watching matters more than remembering. Another exporter in the same
// directory, or a newer one before this one, is a mistake that must be mended
// first.
func (f *serveFlags) openStore() (*state.Store, error) {
	store, err := state.Open(f.statePath, f.logger)
	_, inUse := errors.AsType[*state.InUseError](err)
	_, newer := errors.AsType[*state.NewerError](err)
	if inUse || newer {
		return nil, err
	}
	if err != nil {
		f.logger.Error("state is not kept: results, findings and log positions are forgotten when the exporter stops", "err", err)
		return state.InMemory(f.logger), nil
	}
	return store, nil
}

func (f *serveFlags) listen(ctx context.Context, e *exporter.Exporter) error {
	runbooks, err := fs.Sub(alerts.FS, "runbooks")
	if err != nil {
		return fmt.Errorf("opening the embedded runbooks: %w", err)
	}
	reload := func() error {
		err := e.Reload()
		if err != nil {
			f.logger.Error("configuration not reloaded, the old one stays in force", "err", err)
		} else {
			f.logger.Info("configuration reloaded")
		}
		return err
	}
	handler, err := web.Handler(web.Options{
		TelemetryPath: f.telemetryPath, Scrape: e.Scrape, Self: process.New(programName).Append, Reload: reload, Runbooks: runbooks,
		Timeout: f.timeout, TimeoutOffset: f.timeoutOffset, MaxRequests: f.maxRequests, Logger: f.logger,
		Watched: e.Watched, User: f.user, Profiling: f.profiling,
		Probe: e.Probe, Targets: e.Targets, WatchedTarget: e.WatchedTarget,
	})
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}

	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	served := make(chan error, 1)
	go func() { served <- toolkit.ListenAndServe(server, f.toolkit, f.logger) }()
	for {
		select {
		case <-hangup:
			// The error is logged and is in pgintegrity_config_last_reload_successful.
			_ = reload()
		case err := <-served:
			return explainListen(err)
		case <-ctx.Done():
			f.logger.Info("stopping")
			stopping, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
			defer cancel()
			if err := server.Shutdown(stopping); err != nil {
				return errors.Join(fmt.Errorf("stopping the web server: %w", err), server.Close())
			}
			return nil
		}
	}
}

// webUsers is the part of the file of --web.config.file that says who may log
// in.
type webUsers struct {
	BasicAuthUsers map[string]string `yaml:"basic_auth_users"`
}

// user is who sends a request: the user of HTTP basic authentication, whose
// password exporter-toolkit has verified if the file has users, or the subject
// of a verified client certificate.
func (f *serveFlags) user(r *http.Request) string {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && len(r.TLS.VerifiedChains[0]) > 0 {
		return r.TLS.VerifiedChains[0][0].Subject.CommonName
	}
	name, _, ok := r.BasicAuth()
	if !ok || f.toolkit.WebConfigFile == nil || *f.toolkit.WebConfigFile == "" {
		return ""
	}
	content, err := os.ReadFile(*f.toolkit.WebConfigFile)
	if err != nil {
		return ""
	}
	var users webUsers
	if err := yaml.Unmarshal(content, &users); err != nil {
		return ""
	}
	if _, known := users.BasicAuthUsers[name]; !known {
		return ""
	}
	return name
}

// explainListen adds what to do to the commonest failure.
func explainListen(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: another program has this port; choose one with --web.listen-address", err)
	}
	return err
}
