package drill

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// scratchPrefix begins the name of every directory of a drill.
	scratchPrefix = "pgintegrity-drill-"
	// markerName is the file that says that a drill made the directory. The
	// process that runs the drill holds it locked.
	markerName = ".pg_integrity_exporter_drill"
	// maxSocketPath bounds the path of a socket (sun_path with its end).
	maxSocketPath = 107
)

// marker is what the marker file says.
type marker struct {
	PID        int       `json:"pid"`
	Started    time.Time `json:"started"`
	Repository string    `json:"repository"`
}

// scratch is the directory of one drill.
type scratch struct {
	path   string
	lock   *os.File
	runner *runner
}

// data is the data directory of the scratch server.
func (s *scratch) data() string { return filepath.Join(s.path, "data") }

// log is where the scratch server writes its log.
func (s *scratch) log() string { return filepath.Join(s.path, "server.log") }

// newScratch makes a directory below base. The marker is in it before anything
// else.
func newScratch(base, repository string, r *runner) (*scratch, error) {
	if err := os.MkdirAll(base, 0o755); err != nil { //nolint:gosec // the server's user must reach its own directory in it
		return nil, fmt.Errorf("making the scratch directory: %w (choose another with --scratch)", err)
	}
	path, err := os.MkdirTemp(base, scratchPrefix)
	if err != nil {
		return nil, fmt.Errorf("making the scratch directory: %w (choose another with --scratch)", err)
	}
	s := &scratch{path: path, runner: r}
	if err := s.mark(repository); err != nil {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	if len(filepath.Join(path, ".s.PGSQL.5432")) > maxSocketPath {
		return nil, errors.Join(fmt.Errorf("the path of the scratch directory is too long for a socket: %s (choose another with --scratch)", path), s.remove())
	}
	// The server's user needs to get in, and to make its socket; the contents are
	// its own.
	if err := os.Chmod(path, 0o711); err != nil { //nolint:gosec // see above
		return nil, errors.Join(fmt.Errorf("making the scratch directory: %w", err), s.remove())
	}
	for _, name := range []string{"data", "socket", "tablespaces", "tool"} {
		if err := s.runner.mkdir(filepath.Join(path, name)); err != nil {
			return nil, errors.Join(fmt.Errorf("making the scratch directory: %w", err), s.remove())
		}
	}
	return s, nil
}

func (s *scratch) mark(repository string) error {
	file, err := os.OpenFile(filepath.Join(s.path, markerName), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("marking the scratch directory: %w", err)
	}
	s.lock = file
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("locking the scratch directory: %w", err)
	}
	content, err := json.Marshal(marker{PID: os.Getpid(), Started: time.Now().UTC(), Repository: repository})
	if err != nil {
		return fmt.Errorf("marking the scratch directory: %w", err)
	}
	if _, err := file.Write(content); err != nil {
		return fmt.Errorf("marking the scratch directory: %w", err)
	}
	return nil
}

// remove removes the directory with everything in it. Links are removed, not
// followed. The marker goes last, so that a kill leaves what is left marked.
func (s *scratch) remove() error {
	err := removeMarked(s.path)
	return errors.Join(err, s.lock.Close())
}

func removeMarked(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("removing the scratch directory: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == markerName {
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, entry.Name())); err != nil {
			return fmt.Errorf("removing the scratch directory: %w", err)
		}
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("removing the scratch directory: %w", err)
	}
	return nil
}

// Clean removes what drills left that were killed, and ends their servers. It
// touches only directories that a drill of the same user made and that no
// running drill holds. It gives their paths.
func Clean(base string) (removed []string, err error) {
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for what earlier drills left: %w", err)
	}
	var failed error
	for _, entry := range entries {
		if !entry.IsDir() || !strings.HasPrefix(entry.Name(), scratchPrefix) {
			continue
		}
		path := filepath.Join(base, entry.Name())
		ok, err := cleanOne(path)
		if err != nil {
			failed = errors.Join(failed, err)
		}
		if ok {
			removed = append(removed, path)
		}
	}
	return removed, failed
}

func cleanOne(path string) (bool, error) {
	if !ownedByUs(path) {
		return false, nil
	}
	name := filepath.Join(path, markerName)
	if !ownedByUs(name) {
		// Killed between making the directory and marking it: then it is empty.
		if err := os.Remove(path); err == nil {
			return true, nil
		}
		return false, nil
	}
	file, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false, fmt.Errorf("looking at %s: %w", path, err)
	}
	defer file.Close() //nolint:errcheck // it is only a lock
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return false, nil // its drill is running
	}
	endServer(filepath.Join(path, "data"))
	if err := removeMarked(path); err != nil {
		return false, err
	}
	return true, nil
}

// ownedByUs says that a file is there, is no link, and belongs to the user of
// this process.
func ownedByUs(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// endServer ends a server that a killed drill left. The process must have the
// data directory as its working directory: process ids are used again.
func endServer(data string) {
	content, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 {
		return
	}
	cwd := "/proc/" + strconv.Itoa(pid) + "/cwd"
	if directory, err := os.Readlink(cwd); err != nil || directory != data {
		return
	}
	// SIGQUIT makes the postmaster end its children at once.
	for _, signal := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGKILL} {
		_ = syscall.Kill(pid, signal) // it may be gone by now
		for range 100 {
			if _, err := os.Readlink(cwd); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}
