package pgtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Program is a program that a tool started beside a server. It ends with the
// tool, whatever ends that.
type Program struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// StartProgram starts a command with its output in a file.
func StartProgram(name, log string, cmd *exec.Cmd) (*Program, error) {
	p := &Program{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	out, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// Its own process group keeps Ctrl-C from reaching it before the tool does.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		// How it ended is in its log.
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the number of its process.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Stop asks the program to end, and ends it if it does not.
func (p *Program) Stop() {
	// The program may have ended by itself.
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// AwaitAnswer asks until there is an answer. An error has the end of the log.
func (p *Program) AwaitAnswer(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-p.done:
			return fmt.Errorf("%s ended; its log is:\n%s", p.name, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer (%w); its log is:\n%s", p.name, err, p.tail())
		}
	}
}

// tail is the end of the log.
func (p *Program) tail() string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-4096):])
}
