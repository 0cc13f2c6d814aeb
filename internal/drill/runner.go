package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// runner starts programs as the user that owns the scratch server.
type runner struct {
	// credential is nil for this process's own user.
	credential *syscall.Credential
	name       string
}

// newRunner finds the user: this process's own, or when that is root another
// one, because PostgreSQL refuses to run as root.
func newRunner(name string) (*runner, error) {
	if os.Geteuid() != 0 {
		if own, err := user.Current(); name != "" && err == nil && own.Username != name {
			return nil, fmt.Errorf("only root can run the scratch server as the user %s: run the drill as %s, or leave --user out", name, name)
		}
		return &runner{}, nil
	}
	given := name != ""
	if !given {
		name = "postgres"
	}
	u, err := user.Lookup(name)
	if err != nil {
		if given {
			return nil, fmt.Errorf("the user %s does not exist", name)
		}
		return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres: name another with --user or recovery.drill.user")
	}
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, fmt.Errorf("the user %s: %w", name, err)
	}
	if uid == 0 {
		return nil, errors.New("PostgreSQL does not run as root: name another user with --user or recovery.drill.user")
	}
	return &runner{credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, name: name}, nil
}

// own gives a file to the user.
func (r *runner) own(path string) error {
	if r.credential == nil {
		return nil
	}
	return os.Lchown(path, int(r.credential.Uid), int(r.credential.Gid))
}

func (r *runner) mkdir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return r.own(path)
}

// command prepares a program: with a group of its own, so that it can be ended
// with its children, and ended by the kernel when this process dies.
func (r *runner) command(ctx context.Context, death syscall.Signal, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // that is what a drill does, with what the administrator configured
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: r.credential, Pdeathsig: death, Setpgid: true}
	cmd.WaitDelay = 10 * time.Second
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// maxOutput bounds what is kept of the output of a program.
const maxOutput = 64 << 10

// run runs a program to its end. The error has the end of its output.
func (r *runner) run(ctx context.Context, program string, args ...string) (string, error) {
	cmd := r.command(ctx, syscall.SIGKILL, program, args...)
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	text := strings.TrimSpace(string(out.content))
	switch {
	case ctx.Err() != nil:
		return text, context.Cause(ctx)
	case err != nil:
		return text, fmt.Errorf("%s: %w: %s", filepath.Base(program), err, lastLines(text, 5))
	}
	return text, nil
}

// tail keeps the end of what is written to it.
type tail struct{ content []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.content = append(t.content, p...)
	if over := len(t.content) - maxOutput; over > 0 {
		t.content = bytes.Clone(t.content[over:])
	}
	return len(p), nil
}

// lastLines is the end of a text in one line.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(strings.Fields(strings.Join(lines[max(0, len(lines)-n):], " ")), " ")
}
