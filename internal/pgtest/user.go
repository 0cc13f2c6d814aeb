package pgtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// serverUsers are the users that run servers when the process is root, in the
// order in which they are tried; the last one is made when there is none.
var serverUsers = []string{"postgres", "pgtest"}

// credential is who runs the servers: nil for a process that is not root.
var credential = sync.OnceValues(func() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // nobody else is needed
	}
	for _, name := range serverUsers {
		if c, err := lookup(name); err == nil {
			return c, nil
		}
	}
	name := serverUsers[len(serverUsers)-1]
	if out, err := exec.Command("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("making the user %s: %w: %s", name, err, out)
	}
	return lookup(name)
})

func lookup(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// GiveAway makes a file or directory tree the property of who runs the servers.
func GiveAway(directory string) error {
	c, err := credential()
	if err != nil || c == nil {
		return err
	}
	return filepath.WalkDir(directory, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(c.Uid), int(c.Gid))
	})
}

// command prepares a program to be run as who runs the servers, and to be
// ended by signal when this process ends.
func command(signal syscall.Signal, program string, args ...string) (*exec.Cmd, error) {
	c, err := credential()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c, Pdeathsig: signal, Setpgid: true}
	return cmd, nil
}

// runProgram runs a program to its end and gives its output with the error.
func runProgram(program string, args ...string) error {
	cmd, err := command(syscall.SIGKILL, program, args...)
	if err != nil {
		return err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", filepath.Base(program), err), errors.New(string(out)))
	}
	return nil
}

// User is the name of who runs the servers when the process is root; empty is
// the process's own user.
func User() string {
	c, err := credential()
	if err != nil || c == nil {
		return ""
	}
	u, err := user.LookupId(strconv.Itoa(int(c.Uid)))
	if err != nil {
		return ""
	}
	return u.Username
}

// Run runs a program of the system as who runs the servers.
func Run(program string, args ...string) error { return runProgram(program, args...) }
