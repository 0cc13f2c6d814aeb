package offline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/cluster"
)

const (
	copyFirst = "Copy the whole data directory before anything is changed in it. "
	restore   = "Then restore a base backup and recover to the end of the WAL archive, or promote a standby."
)

// critical is a finding of damage to the files of the cluster.
func critical(object, message, impact, action string) check.Finding {
	return check.Finding{
		Class: check.ClassCorruption, Severity: check.SeverityCritical, Relation: object,
		Message: message, Impact: impact, Action: action,
	}
}

// cluster looks at everything that holds the cluster together.
func (r *run) cluster(ctx context.Context) error {
	r.result.Objects++
	r.directoryItself()
	r.lockFile()
	r.versionFile()
	if err := r.controlFile(); err != nil {
		return err
	}
	for _, look := range []func(context.Context) error{
		r.layout, r.relationMaps, r.recoveryFiles, r.histories, r.prepared, r.slots, r.logical, r.summaries, r.transactions, r.multixacts, r.commitTimes,
	} {
		if err := look(ctx); err != nil {
			r.problem("", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// directoryItself looks at the owner and the mode of the data directory.
func (r *run) directoryItself() {
	info, err := os.Stat(r.Directory)
	if err != nil {
		r.problem("", err)
		return
	}
	if wrong := cluster.ModeProblem(info.Mode()); wrong != "" {
		r.found(atDirectory, check.Finding{
			Class: check.ClassRecoverability, Severity: check.SeverityCritical,
			Message: wrong, Impact: "The server refuses to start.", Action: cluster.ModeAction,
		}, "mode")
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	if owner.Uid == 0 {
		r.found(atDirectory, check.Finding{
			Class: check.ClassRecoverability, Severity: check.SeverityCritical,
			Message: "the data directory belongs to root, as whom the server does not run",
			Impact:  "The server refuses to start: the directory must belong to the user that starts it.",
			Action:  "chown the data directory with everything in it to the user of the server (often postgres).",
		}, "owner")
		return
	}
	r.foreignOwners(owner.Uid, owner.Gid)
}

// open says that a mode lets the server use a file of another owner: read it at
// the top, where configuration files are, and write it elsewhere.
func open(mode fs.FileMode, top, ofGroup bool) bool {
	need := fs.FileMode(0o006)
	if top && mode.IsRegular() {
		need = 0o004
	}
	return mode&need == need || ofGroup && mode>>3&need == need
}

// foreignOwners looks for files that do not belong to the owner of the data
// directory: a copy or a restore as root leaves them.
func (r *run) foreignOwners(uid, gid uint32) {
	count, first := 0, ""
	err := filepath.WalkDir(r.Directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // other checks tell what cannot be read
		}
		info, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // it is gone
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != uid && entry.Type()&fs.ModeSymlink == 0 && !open(info.Mode(), filepath.Dir(path) == r.Directory, stat.Gid == gid) {
			if count++; count == 1 {
				first, _ = filepath.Rel(r.Directory, path)
			}
		}
		return nil
	})
	if err != nil {
		r.problem("", err)
	}
	if count == 0 {
		return
	}
	r.found(atParameters, check.Finding{
		Class: check.ClassRecoverability, Severity: check.SeverityCritical,
		Message: fmt.Sprintf("%d files do not belong to the owner of the data directory (user id %d) and are closed to it, for example %s", count, uid, first),
		Impact:  "The server cannot open or write these files: it does not start, or statements fail.",
		Action:  "chown them to the owner of the data directory, and find out which copy or restore made them.",
	}, "foreign owners")
}

// lockFile looks at postmaster.pid.
func (r *run) lockFile() {
	content, err := r.readFile("postmaster.pid", 8192)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		r.problem("", err)
		return
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid == 0 {
		r.found(atLockFile, check.Finding{
			Class: check.ClassRecoverability, Severity: check.SeverityCritical, Relation: "postmaster.pid",
			Message: fmt.Sprintf("postmaster.pid does not begin with a process id but with %q", first),
			Impact:  "The server takes the data directory for one in use, and does not start.",
			Action:  "Make sure that no process has the data directory open (fuser, or ps for postgres), then move postmaster.pid away.",
		}, "bogus")
		return
	}
	if pid < 0 {
		pid = -pid // a single-user server
	}
	switch r.process(pid) {
	case ours:
		r.running = true
	case another:
		r.found(atLockFile, check.Finding{
			Class: check.ClassRecoverability, Severity: check.SeverityCritical, Relation: "postmaster.pid",
			Message: fmt.Sprintf("postmaster.pid is left from a server that crashed; the process %d that it names lives, runs as the owner of the data directory, but is not a server of it", pid),
			Impact:  "The server takes the data directory for one in use, and does not start as long as that process lives.",
			Action:  fmt.Sprintf("Look at the process (ps -p %d). When it is no postgres of this directory and none has files here open, move postmaster.pid away.", pid),
		}, "stale")
	case nobody:
	}
}

// who says who a process is.
type who int

const (
	nobody who = iota
	ours
	another
)

// process says whether a process is a server of the data directory, which has
// it as its working directory.
func (r *run) process(pid int) who {
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return nobody
	}
	directory, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return ours // nothing more is known: be careful
	}
	a, errA := os.Stat(directory)
	b, errB := os.Stat(r.Directory)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return ours
	}
	process, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil || errB != nil {
		return nobody
	}
	p, okP := process.Sys().(*syscall.Stat_t)
	d, okD := b.Sys().(*syscall.Stat_t)
	if okP && okD && p.Uid == d.Uid {
		return another
	}
	return nobody // the server takes no notice of other users' processes
}

// maxVersionFile bounds what is read of PG_VERSION.
const maxVersionFile = 1 << 16

// versionFile looks at PG_VERSION.
func (r *run) versionFile() {
	content, err := r.readFile("PG_VERSION", maxVersionFile)
	text := strings.TrimSpace(string(content))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.found(atDirectory, critical("PG_VERSION", "PG_VERSION is missing", "The server does not take this for a data directory, and does not start.",
			copyFirst+"Find out what else is missing before PG_VERSION is written again: it holds nothing but the major version."), "missing")
	case err != nil:
		r.problem("", err)
	case r.major == 0:
		r.found(atDirectory, critical("PG_VERSION", fmt.Sprintf("PG_VERSION holds %q instead of a version", text), "The server does not take this for a data directory, and does not start.",
			copyFirst+"Find out what else was overwritten before PG_VERSION is written again: it holds nothing but the major version."), "bogus")
	case text != strconv.Itoa(r.major):
		r.found(never, critical("PG_VERSION", fmt.Sprintf("PG_VERSION holds more than the version: %.60q", text), "The server starts, but something has written into its files.",
			copyFirst+"Find out what else was overwritten."), "more")
	}
}

// controlFile looks at global/pg_control.
func (r *run) controlFile() error {
	action := copyFirst + "Do not use pg_resetwal: it throws away what was committed last. " + restore
	content, err := r.readFile(cluster.ControlFile, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		r.found(atControlFile, critical(cluster.ControlFile, "the control file global/pg_control is missing", "The server does not know where its WAL begins, and does not start.", action), "missing")
		return nil
	}
	if err != nil {
		return err
	}
	control, err := cluster.DecodeControl(content)
	if err != nil {
		r.found(atControlFile, critical(cluster.ControlFile, err.Error(), "The server does not know where its WAL begins, and does not start.", action), "unreadable")
		return nil
	}
	problems := control.Problems(r.major, int64(len(content)))
	for _, problem := range problems {
		r.found(atControlFile, critical(cluster.ControlFile, problem, "The server does not start, or starts from the wrong place and loses what was committed.", action), check.KindOf(problem))
	}
	if control.Tail {
		r.found(never, critical(cluster.ControlFile, cluster.TailProblem, "The server does not read them, but what wrote them may have damaged more.", copyFirst+restore), "tail")
	}
	r.control, r.known = control, len(problems) == 0
	if r.major == 0 && r.known {
		r.major = control.Major()
	}
	if r.known && control.BlockSize != 8192 {
		r.problem("", fmt.Errorf("pages of %d bytes are not supported, only of 8192", control.BlockSize))
	}
	return nil
}

// neededAt is when a start fails without a directory.
func neededAt(d cluster.Directory) stage {
	switch {
	case d.Optional:
		return never
	case d.Name == "base", d.Name == "global":
		return atControlFile
	default:
		return atRecovery
	}
}

// layout looks for the directories that a server needs, for PG_VERSION in each
// database, and for the targets of tablespaces.
func (r *run) layout(context.Context) error {
	for _, d := range cluster.Directories {
		info, err := os.Stat(r.path(d.Name))
		if err == nil && info.IsDir() || errors.Is(err, fs.ErrPermission) {
			continue
		}
		message := fmt.Sprintf("the directory %s is missing", d.Name)
		if err == nil {
			message = d.Name + " is not a directory"
		} else if link, err := os.Readlink(r.path(d.Name)); err == nil {
			message = fmt.Sprintf("%s links to %s, which is missing", d.Name, link)
		}
		finding := critical(d.Name, message, "The server does not start.", copyFirst+restore)
		if d.Optional {
			finding.Impact = "The server starts, but fails when it needs the directory; checkpoints and the next shutdown may fail."
		}
		if d.Empty {
			finding.Class = check.ClassRecoverability
			finding.Action = "Make the empty directory " + d.Name + " with the owner and mode of its neighbours: nothing in it outlives a shutdown. Find out which copy left empty directories out."
			if strings.HasPrefix(d.Name, "pg_stat") {
				finding.Severity, finding.Impact = check.SeverityWarning, "The server starts, but cannot keep its statistics."
			}
		}
		r.found(neededAt(d), finding, "missing")
	}
	return errors.Join(r.databaseDirectories("base"), r.tablespaces())
}

// databaseDirectories looks at each database's directory in a tablespace.
func (r *run) databaseDirectories(parent string) error {
	names, err := r.list(parent)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := strconv.ParseUint(name, 10, 32); err != nil {
			continue
		}
		directory := parent + "/" + name
		if inside, err := r.list(directory); err != nil || len(inside) == 0 {
			continue // a crash in CREATE DATABASE or DROP DATABASE leaves empty ones
		}
		if !strings.HasPrefix(parent, "base") && !r.exists(directory+"/"+cluster.RelationMapFile) {
			continue // some tables of a database whose own directory is elsewhere
		}
		r.databaseVersion(directory)
	}
	return nil
}

// databaseVersion looks at the PG_VERSION of one database.
func (r *run) databaseVersion(directory string) {
	name := directory + "/PG_VERSION"
	content, err := r.readFile(name, 64)
	message := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		message = name + " is missing"
	case err != nil:
		r.problem("", err)
	case r.major != 0 && strings.TrimSpace(string(content)) != strconv.Itoa(r.major):
		message = fmt.Sprintf("%s says %q, the data directory %d: files of two servers were mixed, or it is damaged", name, strings.TrimSpace(string(content)), r.major)
	}
	if message != "" {
		r.found(never, critical(name, message, "Nobody can connect to this database.", copyFirst+"Find out what else of the database is missing or foreign. "+restore), "version")
	}
}

// tablespaces looks at the links of pg_tblspc.
func (r *run) tablespaces() error {
	names, err := r.list("pg_tblspc")
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := strconv.ParseUint(name, 10, 32); err != nil {
			continue
		}
		link := "pg_tblspc/" + name
		target, _ := os.Readlink(r.path(link))
		info, err := os.Stat(r.path(link))
		inside := link + "/" + r.tablespaceVersion()
		message := ""
		switch {
		case err != nil:
			message = fmt.Sprintf("the tablespace %s links to %s, which cannot be reached", name, target)
		case !info.IsDir():
			message = fmt.Sprintf("the tablespace %s is not a directory", name)
		case r.known && !r.exists(inside):
			message = fmt.Sprintf("the tablespace %s at %s has no directory %s", name, target, r.tablespaceVersion())
		}
		if message != "" {
			r.found(never, critical(link, message, "Every table and index in this tablespace is gone for the server. When a start has to replay WAL, it removes or remakes files there.",
				"Do not start the server. Mount what belongs there, or put the link right; "+strings.ToLower(copyFirst[:1])+copyFirst[1:]), "tablespace")
			continue
		}
		if err := r.databaseDirectories(inside); err != nil {
			r.problem(link, err)
		}
	}
	return nil
}

// tablespaceVersion is the name of the directory of this version in a
// tablespace.
func (r *run) tablespaceVersion() string { return fmt.Sprintf("PG_%d_%d", r.major, r.control.Catalog) }

// relationMaps looks at the relation map of the cluster and of each database,
// and for the files that they name.
func (r *run) relationMaps(context.Context) error {
	if r.major == 0 {
		return nil
	}
	r.relationMap("global", true)
	for _, directory := range r.databases() {
		r.relationMap(directory, false)
	}
	return nil
}

// databases lists the directories of the databases.
func (r *run) databases() []string {
	var list []string
	parents := []string{"base"}
	if links, err := r.list("pg_tblspc"); err == nil {
		for _, link := range links {
			parents = append(parents, "pg_tblspc/"+link+"/"+r.tablespaceVersion())
		}
	}
	for _, parent := range parents {
		names, err := r.list(parent)
		if err != nil {
			r.problem(parent, err)
			continue
		}
		for _, name := range names {
			if _, err := strconv.ParseUint(name, 10, 32); err != nil {
				continue
			}
			directory := parent + "/" + name
			if parent != "base" && !r.exists(directory+"/PG_VERSION") {
				continue
			}
			if inside, err := r.list(directory); err == nil && len(inside) > 0 {
				list = append(list, directory)
			}
		}
	}
	return list
}

// relationMap looks at one relation map.
func (r *run) relationMap(directory string, shared bool) {
	name := directory + "/" + cluster.RelationMapFile
	impact := "Nobody can connect to this database: the server does not find its system catalogues."
	action := copyFirst + "The map changes only when a system catalogue is rewritten (VACUUM FULL, CLUSTER, REINDEX): a backup's map fits as long as that was not done since. " + restore
	at := never
	if shared {
		impact, at = "Nobody can connect to any database: the server does not find its shared catalogues.", atConnections
	}
	content, err := r.readFile(name, 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		r.found(at, critical(name, "the relation map "+name+" is missing", impact, action), "missing")
		return
	}
	if err != nil {
		r.problem("", err)
		return
	}
	entries, err := cluster.DecodeRelationMap(content, r.major, shared)
	if err != nil {
		r.found(at, critical(name, fmt.Sprintf("the relation map %s is damaged: %v", name, err), impact, action), "damaged")
		return
	}
	if size := cluster.RelationMapSize(r.major); len(content) != size {
		r.found(never, critical(name, fmt.Sprintf("the relation map %s has %d bytes instead of %d", name, len(content), size),
			"The server does not read the rest, but what wrote it may have damaged more.", action), "size")
	}
	for oid, file := range entries {
		path := fmt.Sprintf("%s/%d", directory, file)
		if info, err := os.Stat(r.path(path)); errors.Is(err, fs.ErrNotExist) {
			r.found(at, critical(path, fmt.Sprintf("the file %s of the system catalogue with oid %d is missing, which %s names", path, oid, name), impact, action), "file")
		} else if err == nil && info.Size() == 0 && oid != 0 && slices.Contains([]uint32{1259, 1249, 1255, 1247, 1262, 1260}, oid) {
			r.found(at, critical(path, fmt.Sprintf("the file %s of the system catalogue with oid %d is empty", path, oid), impact, action), "file")
		}
	}
}

// parameter is the effective value of a parameter in the configuration files.
func (r *run) parameter(name, otherwise string) string {
	if value, set := r.parameters[name]; set {
		return value
	}
	return otherwise
}
