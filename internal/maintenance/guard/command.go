package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pg_integrity_exporter/internal/pg"
)

const (
	// runVariable is the environment variable by which a process of a run is
	// known again.
	runVariable = "PGINTEGRITY_GUARD_RUN"
	// termPatience is how long a command may take to end when it is told to.
	termPatience = 10 * time.Second
)

// keepers are programs that must not change any row.
var keepers = []string{"pg_repack", "vacuumdb", "reindexdb", "clusterdb", "analyzedb", "pg_amcheck"}

// runCommand runs the command and verifies what it did. Its output is kept.
func (r *run) runCommand(ctx context.Context) error {
	r.report.Output = r.journal.beside(".output")
	output, err := os.OpenFile(r.report.Output, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keeping the output of the command: %w", err)
	}
	defer output.Close() //nolint:errcheck // it is only read by people
	var both io.Writer = output
	if r.options.Progress != nil {
		both = io.MultiWriter(output, r.options.Progress)
	}
	if err := r.journal.write(Record{Event: EventStep, Step: 1, Text: strings.Join(r.options.Command, " ")}); err != nil {
		return err
	}
	r.sayf("running %s", strings.Join(r.options.Command, " "))
	if err := r.spawn(ctx, both); err != nil {
		return err
	}
	if err := r.journal.write(Record{Event: EventStepDone, Step: 1}); err != nil {
		return err
	}
	if err := r.waitForSessions(ctx); err != nil {
		return err
	}
	if err := r.verifyAfter(ctx); err != nil {
		return err
	}
	return r.release(ctx)
}

// release removes what recorded the changes, when all is well.
func (r *run) release(ctx context.Context) error {
	if len(r.protected) == 0 {
		return nil
	}
	s, err := r.reopen(ctx, "release")
	if err != nil {
		return err
	}
	defer s.Close()
	if err := r.journal.write(Record{Event: EventJudged, Outcome: OutcomeDone, Summary: verified}); err != nil {
		return err
	}
	if err := r.unprotect(ctx, s); err != nil {
		r.report.Verification = append(r.report.Verification, Answer{"leftover", guardSchema, Warning, oneLine(err)})
	}
	return nil
}

// spawn runs the command to its end.
func (r *run) spawn(ctx context.Context, output io.Writer) error {
	cmd := exec.Command(r.options.Command[0], r.options.Command[1:]...) //nolint:gosec,noctx // running it is what the user asked for; the end of ctx is handled below, with patience
	cmd.Env = append(os.Environ(), r.options.Target.LibpqEnvironment(r.options.Database)...)
	cmd.Env = append(cmd.Env, "PGAPPNAME="+pg.GuardApplicationName+" "+r.report.ID, runVariable+"="+r.report.ID)
	if len(r.protected) > 0 {
		cmd.Env = append(cmd.Env, "PGOPTIONS="+strings.TrimSpace(os.Getenv("PGOPTIONS")+" -c "+runSetting+"="+r.report.ID))
	}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.WaitDelay = termPatience
	// A group of its own, so that all of it can be ended; and its end when the
	// guard dies.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}

	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		// The kernel takes the end of the thread that started it for the parent's.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("the command does not start: %w", err)
	}
	if err := r.journal.write(Record{Event: EventChild, Process: cmd.Process.Pid}); err != nil {
		endGroup(cmd.Process.Pid, ended)
		return err
	}
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		endGroup(cmd.Process.Pid, ended)
		r.report.CommandExit = "stopped"
		return context.Cause(ctx)
	}
	r.report.CommandExit = cmd.ProcessState.String()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("the command failed: %w (its output is in %s)", err, r.report.Output)
	}
	return nil
}

// endGroup ends a process group, first politely.
func endGroup(group int, ended <-chan error) {
	// The group may be gone already.
	_ = syscall.Kill(-group, syscall.SIGTERM)
	select {
	case <-ended: //nolint:errcheck // that it ended is enough, however it did
	case <-time.After(termPatience):
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
}

// endProcess ends what is left of the command of a run whose guard died: only
// processes that carry the run's name in their environment.
func (r *run) endProcess() {
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil || !slices.Contains(strings.Split(string(content), "\x00"), runVariable+"="+r.report.ID) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended meanwhile
		}
	}
}

// waitForSessions waits until the server has seen the end of the command's
// sessions: what they wrote is counted then.
func (r *run) waitForSessions(ctx context.Context) error {
	s, err := r.reopen(ctx, "wait")
	if err != nil {
		return err
	}
	defer s.Close()
	for deadline := time.Now().Add(termPatience); ; wait(ctx, 100*time.Millisecond) {
		var left int
		err := s.QueryRow(ctx, "SELECT count(*)::int FROM pg_stat_activity WHERE application_name = $1", pg.GuardApplicationName+" "+r.report.ID).Scan(&left)
		if err != nil {
			return fmt.Errorf("waiting for the sessions of the command: %w", err)
		}
		if left == 0 || ctx.Err() != nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the command has ended, but %d of its sessions go on", left)
		}
	}
}

// verifyCommandRows compares the rows of what a program had to keep.
func (r *run) verifyCommandRows(ctx context.Context, s session, changed []table) []Answer {
	if !slices.Contains(keepers, filepath.Base(r.options.Command[0])) {
		return nil
	}
	var answers []Answer
	for _, t := range changed {
		if f, ok := r.baseline.Fingerprints[t.String()]; ok {
			answers = append(answers, compareFingerprint(ctx, s, t, f, writes{}))
		}
	}
	return answers
}
