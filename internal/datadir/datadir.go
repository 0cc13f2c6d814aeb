package datadir

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pg_integrity_exporter/internal/pg"
)

// Directory reads a data directory. Names are relative to it and have slashes,
// as the server has them ("base/5/1259"). An error about a file that does not
// exist is fs.ErrNotExist.
type Directory interface {
	// ReadAt reads up to len(p) bytes from an offset; at the end of the file it
	// reads fewer, without an error.
	ReadAt(ctx context.Context, name string, p []byte, offset int64) (int, error)
	// Size gives the size of a file in bytes. What is there and no file is an error of
	// which Unreadable tells.
	Size(ctx context.Context, name string) (int64, error)
	// Stat tells of one file or directory, Each of those in a directory, in no order.
	// Nothing else may be asked until Each has told of all.
	Stat(ctx context.Context, name string) (Entry, error)
	Each(ctx context.Context, name string, tell func(Entry)) error
	// Local says that files are read directly, at no cost for the server.
	Local() bool
	// Close lets go of what is open.
	Close()
}

// Entry is a file or directory.
type Entry struct {
	// Name is its name within its directory.
	Name string
	// Size is its size in bytes.
	Size int64
	// Modified is when it was written or cut last, by the server's clock.
	Modified time.Time
	// Directory says that it is one, or a link to one.
	Directory bool
	// Mode are the permissions, and Owner the user; only of local files.
	Mode  fs.FileMode
	Owner uint32
}

// firstRead is how much of a file is read first: few are longer.
const firstRead = 16 << 10

// ReadFile reads a whole file of up to limit bytes.
func ReadFile(ctx context.Context, d Directory, name string, limit int) ([]byte, error) {
	p := make([]byte, min(limit, firstRead))
	n := 0
	for n < limit {
		if n == len(p) {
			p = slices.Grow(p, n)[:min(limit, 2*n)]
		}
		m, err := d.ReadAt(ctx, name, p[n:], int64(n))
		if err != nil {
			return nil, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return p[:n], nil
}

// Unreadable says in words why a file that is there cannot be read at all, when that
// tells of damage: it is no file, or the device fails. It is "" for other errors.
func Unreadable(err error) string {
	pgError, ofServer := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, syscall.EISDIR), ofServer && pgError.Code == "42809":
		return "a directory is in its place"
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENOTDIR):
		return "it is no file"
	case errors.Is(err, syscall.EIO), ofServer && pgError.Code == "58030":
		return "the device fails to read it"
	}
	return ""
}

// NoAccessError says why the files of a server cannot be read.
type NoAccessError struct {
	// Role is the role that lacks the rights.
	Role string
}

// Error says what to grant.
func (e *NoAccessError) Error() string {
	return "the files of the server cannot be read: run the exporter on the server's machine as a user that may read the data directory, or GRANT EXECUTE ON FUNCTION " +
		"pg_read_binary_file(text,bigint,bigint,boolean), pg_stat_file(text, boolean), pg_ls_dir(text, boolean, boolean) TO " +
		pgx.Identifier{e.Role}.Sanitize() + " (see docs/grants/grants.sql)"
}

// accessSQL asks where the data directory is and whether the file functions may
// be called. Settings and catalogues only; data_directory needs pg_monitor.
const accessSQL = `SELECT coalesce(current_setting('data_directory', true), ''), coalesce(current_setting('port', true), ''),
	has_function_privilege('pg_catalog.pg_read_binary_file(text,bigint,bigint,boolean)', 'EXECUTE')
	AND has_function_privilege('pg_catalog.pg_stat_file(text, boolean)', 'EXECUTE')`

// Open finds the best way to read the files of the server of a session: directly
// when the data directory is on this machine and readable, else through the
// session, which it then needs as long as it is used. The error is a
// *NoAccessError when there is no way.
func Open(ctx context.Context, conn *pg.Conn) (Directory, error) {
	var path, port string
	var granted bool
	err := conn.QueryRow(ctx, accessSQL).Scan(&path, &port, &granted)
	var denied *pgconn.PgError
	if errors.As(err, &denied) && denied.Code == "42501" { // data_directory
		return nil, &NoAccessError{Role: conn.Facts.User}
	}
	if err != nil {
		return nil, err
	}
	if path != "" && isHere(ctx, conn, path, port) {
		return OpenLocal(path), nil
	}
	if granted {
		return OpenRemote(conn), nil
	}
	return nil, &NoAccessError{Role: conn.Facts.User}
}

// Here gives the data directory of the session's server when it is on this
// machine and may be read; "" when not, or when that cannot be known. It needs
// pg_monitor.
func Here(ctx context.Context, conn *pg.Conn) string {
	var path, port string
	var granted bool
	if err := conn.QueryRow(ctx, accessSQL).Scan(&path, &port, &granted); err != nil || path == "" || !isHere(ctx, conn, path, port) {
		return ""
	}
	return path
}

// Space is the file system of a directory, in bytes: what a process without
// privileges may still write, and how large it is. ok is false when the directory
// cannot be looked at.
func Space(directory string) (free, size int64, ok bool) {
	var s syscall.Statfs_t
	if directory == "" || syscall.Statfs(directory, &s) != nil {
		return 0, 0, false
	}
	return int64(s.Bavail) * s.Bsize, int64(s.Blocks) * s.Bsize, true
}

// isHere says that the session's server runs in the directory on this machine:
// the third line of postmaster.pid is when the postmaster began, the fourth its
// port. Another machine may have a directory of the same name.
func isHere(ctx context.Context, conn *pg.Conn, path, port string) bool {
	files := OpenLocal(path)
	defer files.Close()
	content, err := ReadFile(ctx, files, "postmaster.pid", 4096)
	if err != nil {
		return false
	}
	lines := strings.Split(string(content), "\n")
	if len(lines) < 4 || strings.TrimSpace(lines[3]) != port {
		return false
	}
	began, err := strconv.ParseInt(strings.TrimSpace(lines[2]), 10, 64)
	if err != nil {
		return false
	}
	var started int64
	const sql = "SELECT floor(extract(epoch FROM pg_postmaster_start_time()))::bigint"
	if err := conn.QueryRow(ctx, sql).Scan(&started); err != nil {
		return false
	}
	return began-started <= 2 && started-began <= 2
}

// maxOpen bounds the open files of a local directory.
const maxOpen = 8

// local is a directory on this machine. It may be used by several goroutines.
type local struct {
	root string
	// mu is held for reading while a file is in use, so that it is not closed then.
	mu    sync.RWMutex
	files map[string]*os.File
}

// OpenLocal reads a data directory on this machine.
func OpenLocal(path string) Directory { return &local{root: path, files: make(map[string]*os.File)} }

func (l *local) Local() bool { return true }

func (l *local) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.close()
}

func (l *local) close() {
	for name, file := range l.files {
		_ = file.Close() // it was only read
		delete(l.files, name)
	}
}

func (l *local) path(name string) string { return filepath.Join(l.root, filepath.FromSlash(name)) }

// open opens a file anew: another one may have its name by now.
func (l *local) open(name string) error {
	if _, err := l.Size(context.Background(), name); err != nil {
		return err
	}
	file, err := os.Open(l.path(name))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.files) >= maxOpen {
		l.close()
	}
	if old := l.files[name]; old != nil {
		_ = old.Close() // it was only read
	}
	l.files[name] = file
	return nil
}

func (l *local) ReadAt(_ context.Context, name string, p []byte, offset int64) (int, error) {
	if offset == 0 {
		if err := l.open(name); err != nil {
			return 0, err
		}
	}
	for {
		l.mu.RLock()
		if file := l.files[name]; file != nil {
			defer l.mu.RUnlock()
			return readFull(file, p, offset)
		}
		l.mu.RUnlock()
		if err := l.open(name); err != nil {
			return 0, err
		}
	}
}

// readFull reads until p is full or the file ends.
func readFull(file *os.File, p []byte, offset int64) (int, error) {
	n := 0
	for n < len(p) {
		m, err := file.ReadAt(p[n:], offset+int64(n))
		n += m
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return n, err
		}
	}
	return n, nil
}

func (l *local) Size(ctx context.Context, name string) (int64, error) {
	entry, err := l.Stat(ctx, name)
	if err == nil {
		err = entry.noFile(name)
	}
	return entry.Size, err
}

// noFile is the error that something is no file. Whoever opened a pipe would wait.
func (e Entry) noFile(name string) error {
	switch {
	case e.Directory:
		return &fs.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	case !e.Mode.IsRegular():
		return &fs.PathError{Op: "read", Path: name, Err: syscall.ENXIO}
	}
	return nil
}

func (l *local) Stat(_ context.Context, name string) (Entry, error) {
	info, err := os.Stat(l.path(name))
	if err != nil {
		return Entry{}, err
	}
	return entryOf(info), nil
}

func entryOf(info fs.FileInfo) Entry {
	e := Entry{Name: info.Name(), Size: info.Size(), Modified: info.ModTime(), Directory: info.IsDir(), Mode: info.Mode()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		e.Owner = stat.Uid
	}
	return e
}

// listBatch is how many names are read from a directory at a time.
const listBatch = 1000

func (l *local) Each(ctx context.Context, name string, tell func(Entry)) error {
	d, err := os.Open(l.path(name))
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // it was only read
	for ctx.Err() == nil {
		names, err := d.ReadDir(listBatch)
		for _, n := range names {
			info, err := os.Stat(l.path(name + "/" + n.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				// Gone meanwhile, or a link that leads nowhere.
				if info, err = n.Info(); err != nil {
					continue
				}
			}
			if err != nil {
				return err
			}
			e := entryOf(info)
			e.Name = n.Name()
			tell(e)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// List tells of all files and directories in a directory, by name.
func List(ctx context.Context, d Directory, name string) (entries []Entry, err error) {
	err = d.Each(ctx, name, func(e Entry) { entries = append(entries, e) })
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, err
}

// Postmaster is the root directory and the executable of the process that runs a
// server in a data directory of this machine. ok is false when this process may not
// look at it, or sees another process by that number.
func Postmaster(path string) (root, program string, ok bool) {
	content, err := os.ReadFile(filepath.Join(path, "postmaster.pid"))
	if err != nil {
		return "", "", false
	}
	pid, _, _ := strings.Cut(string(content), "\n")
	if _, err := strconv.Atoi(pid); err != nil {
		return "", "", false
	}
	process := "/proc/" + pid
	works, errWorks := os.Stat(process + "/cwd") //nolint:gosec // the name is a number
	data, errData := os.Stat(path)
	program, errProgram := os.Readlink(process + "/exe")
	if errors.Join(errWorks, errData, errProgram) != nil || !os.SameFile(works, data) {
		return "", "", false
	}
	return process + "/root", strings.TrimSuffix(program, " (deleted)"), true
}
