package drill

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/state"
)

const (
	// scheduleTick is how often the scheduler looks for a drill that is due, and
	// how long after its start it does so first.
	scheduleTick = time.Minute
	// retryShare of its interval, but at least minRetry, after a drill that did not
	// prove its backup it is tried again.
	retryShare = 4
	minRetry   = time.Hour
	// stopTimeout is how long a running drill may take to remove what it made.
	stopTimeout = 30 * time.Second
)

// Scheduled is a repository that is drilled again and again.
type Scheduled struct {
	Repository string
	Interval   time.Duration
}

// Scheduler runs drills when they are due, one at a time, each in a process of
// its own: a drill that runs out of memory takes nothing with it, and the
// results come back through the state files like those of any other drill.
type Scheduler struct {
	scheduled []Scheduled
	files     *state.Files
	// arguments are those of this program that make it a drill of a repository.
	arguments func(repository string) []string
	// environment is added to that of this process.
	environment []string
	logger      *slog.Logger

	stop context.CancelFunc
	done sync.WaitGroup
}

// NewScheduler makes a scheduler. Start runs it.
func NewScheduler(scheduled []Scheduled, files *state.Files, arguments func(repository string) []string, environment []string, logger *slog.Logger) *Scheduler {
	return &Scheduler{scheduled: scheduled, files: files, arguments: arguments, environment: environment, logger: logger}
}

// Start begins to run drills.
func (s *Scheduler) Start() {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	if len(s.scheduled) == 0 {
		return
	}
	if s.files.Directory() == "" {
		s.logger.Error("drills are not run: without a state directory their results would be lost", "advice", "give --state.path a directory that can be written")
		return
	}
	s.done.Go(func() { s.run(ctx) })
}

// Stop ends a running drill, which removes what it made, and waits for it.
func (s *Scheduler) Stop() {
	s.stop()
	s.done.Wait()
}

func (s *Scheduler) run(ctx context.Context) {
	ticker := time.NewTicker(scheduleTick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		for _, one := range s.scheduled {
			history, err := recovery.LoadHistory(s.files, one.Repository)
			if err != nil {
				s.logger.Error("whether a drill is due is not known", "repository", one.Repository, "err", err)
				continue
			}
			if ctx.Err() == nil && Due(time.Now(), history, one.Interval) {
				s.drill(ctx, one.Repository)
			}
		}
	}
}

// Due says whether a drill is due.
func Due(now time.Time, history recovery.History, interval time.Duration) bool {
	if history.Last == nil {
		return true
	}
	if !history.Last.Proved() {
		interval = min(interval, max(interval/retryShare, minRetry))
	}
	since := now.Sub(history.Last.Finished)
	return since >= interval || since < 0
}

// drill runs one drill to its end.
func (s *Scheduler) drill(ctx context.Context, repository string) {
	program, err := os.Executable()
	if err != nil {
		s.logger.Error("drill not started", "repository", repository, "err", err)
		return
	}
	cmd := exec.CommandContext(ctx, program, s.arguments(repository)...) //nolint:gosec // this program itself
	cmd.Env = append(os.Environ(), s.environment...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	s.logger.Info("drill begins", "repository", repository)
	err = cmd.Run()
	s.logger.Info("drill ended", "repository", repository, "proved", err == nil)
}
