package drill

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pg_integrity_exporter/internal/cluster"
)

// Replacement puts a recovered cluster in the place of the damaged one, which is
// kept. All three directories are beside each other, so that they are only
// renamed; what a kill leaves half done, Run ends when it is called again.
type Replacement struct {
	// Directory is the data directory of the damaged cluster, Recovered the one that
	// takes its place, Damaged where the damaged one is kept.
	Directory, Recovered, Damaged string
	// StopCommand is a shell command that stops the damaged server; empty is a fast
	// shutdown by signal. StartCommand starts the recovered one; empty is nobody.
	StopCommand, StartCommand string
}

// Pending says that the damaged cluster was moved away and nothing has taken its
// place yet.
func (r Replacement) Pending() bool {
	return !exists(r.Directory) && exists(r.Damaged) && exists(r.Recovered)
}

// Possible says why the cluster could not be replaced, before anything is done.
func (r Replacement) Possible() error {
	info, err := os.Lstat(r.Directory)
	if err != nil {
		return fmt.Errorf("looking at the data directory to be replaced: %w", err)
	}
	parent, err := os.Stat(filepath.Dir(r.Directory))
	if err != nil {
		return fmt.Errorf("looking at the data directory to be replaced: %w", err)
	}
	here, ok := info.Sys().(*syscall.Stat_t)
	above, okParent := parent.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is no directory: name the data directory itself", r.Directory)
	case !exists(filepath.Join(r.Directory, "PG_VERSION")):
		return fmt.Errorf("%s is no data directory: it has no PG_VERSION", r.Directory)
	case !ok || !okParent || here.Dev != above.Dev:
		return fmt.Errorf("%s is a mount point, which cannot be renamed: recover into another directory", r.Directory)
	case exists(r.Damaged):
		return fmt.Errorf("%s exists already: the damaged cluster needs a name of its own", r.Damaged)
	}
	return nil
}

// Run stops the damaged server, moves its cluster away and the recovered one to
// its place.
func (r Replacement) Run(ctx context.Context) error {
	if !r.Pending() {
		if err := r.same(); err != nil {
			return err
		}
		if err := r.stop(ctx); err != nil {
			return err
		}
		if err := os.Rename(r.Directory, r.Damaged); err != nil {
			return fmt.Errorf("moving the damaged cluster away: %w", err)
		}
	}
	if err := os.Rename(r.Recovered, r.Directory); err != nil {
		return fmt.Errorf("the damaged cluster is in %s and nothing in its place yet, run this again: %w", r.Damaged, err)
	}
	if parent, err := os.Open(filepath.Dir(r.Directory)); err == nil { // so that a crash of the machine finds it so
		_ = parent.Sync()
		_ = parent.Close()
	}
	if r.StartCommand == "" {
		return nil
	}
	if err := shell(ctx, r.StartCommand); err != nil {
		return fmt.Errorf("the recovered cluster is in its place and was not started: %w", err)
	}
	return nil
}

// same holds that both are the same cluster, with the same owner.
func (r Replacement) same() error {
	var systems []uint64
	var owners []uint32
	for _, directory := range []string{r.Directory, r.Recovered} {
		info, err := os.Stat(directory)
		if err != nil {
			return fmt.Errorf("looking at both clusters: %w", err)
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			owners = append(owners, owner.Uid)
		}
		content, err := os.ReadFile(filepath.Join(directory, cluster.ControlFile))
		if err != nil {
			return fmt.Errorf("looking at both clusters: %w", err)
		}
		control, err := cluster.DecodeControl(content)
		if err != nil {
			return fmt.Errorf("%s: %w", directory, err)
		}
		systems = append(systems, control.System)
	}
	switch {
	case systems[0] != systems[1]:
		return fmt.Errorf("%s is another cluster: its system identifier is %d, that of the recovered one %d", r.Directory, systems[0], systems[1])
	case len(owners) == 2 && owners[0] != owners[1]:
		return fmt.Errorf("%s belongs to another user than the recovered cluster (recovery.drill.user)", r.Directory)
	}
	return nil
}

// stop ends the damaged server, if it runs.
func (r Replacement) stop(ctx context.Context) error {
	file := filepath.Join(r.Directory, "postmaster.pid")
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the damaged server is not stopped: %w", err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 1 {
		return fmt.Errorf("the damaged server is not stopped: %s does not name its process", file)
	}
	if r.StopCommand != "" {
		if err := shell(ctx, r.StopCommand); err != nil {
			return fmt.Errorf("the damaged server is not stopped: %w", err)
		}
	} else if syscall.Kill(pid, 0) == nil {
		where, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		if err != nil {
			return fmt.Errorf("the damaged server is not stopped, because nobody can tell that it is process %d: %w", pid, err)
		}
		if real, err := filepath.EvalSymlinks(r.Directory); err == nil && where != real {
			return nil // another process has its id, after a crash of the machine
		}
		if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
			return fmt.Errorf("the damaged server is not stopped: %w", err)
		}
	}
	deadline := time.Now().Add(shutdownTimeout)
	for exists(file) && syscall.Kill(pid, 0) == nil {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.New("the damaged server does not stop")
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

func shell(ctx context.Context, command string) error {
	out, err := exec.CommandContext(ctx, "/bin/sh", "-c", command).CombinedOutput() //nolint:gosec // it is what the administrator configured
	if err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(string(out)))
	}
	return nil
}
