package offline

import (
	"bytes"
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
		r.layout, r.relationMaps, r.recoveryFiles, r.histories, r.prepared, r.slots, r.logical, r.transactions, r.multixacts, r.commitTimes,
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
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		r.found(atDirectory, check.Finding{
			Class: check.ClassRecoverability, Severity: check.SeverityCritical,
			Message: fmt.Sprintf("the data directory has the mode %04o; the server wants 0700 or 0750", mode),
			Impact:  "The server refuses to start.",
			Action:  "chmod 0700 the data directory (0750 if the cluster was made with group access), and find out who changed it.",
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
	r.control, r.known = control, len(problems) == 0
	if r.major == 0 && r.known {
		r.major = control.Major()
	}
	if r.known && control.BlockSize != 8192 {
		r.problem("", fmt.Errorf("pages of %d bytes are not supported, only of 8192", control.BlockSize))
	}
	return nil
}

// needed are the directories of a cluster, and whether a server starts without.
var needed = []struct {
	name string
	at   stage
}{
	{"base", atControlFile}, {"base/1", never}, {"global", atControlFile}, {"pg_commit_ts", atRecovery}, {"pg_dynshmem", never},
	{"pg_logical", never}, {"pg_logical/mappings", never}, {"pg_logical/snapshots", never},
	{"pg_multixact", atRecovery}, {"pg_multixact/members", atRecovery}, {"pg_multixact/offsets", atRecovery},
	{"pg_notify", atRecovery}, {"pg_replslot", atRecovery}, {"pg_serial", never}, {"pg_snapshots", never},
	{"pg_stat", never}, {"pg_stat_tmp", never}, {"pg_subtrans", never}, {"pg_tblspc", never}, {"pg_twophase", atRecovery},
	{"pg_wal", atRecovery}, {"pg_xact", atRecovery},
}

// empty are those of them that hold nothing while the server is down, or
// nothing that is needed.
var empty = []string{
	"pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans",
}

// layout looks for the directories that a server needs, for PG_VERSION in each
// database, and for the targets of tablespaces.
func (r *run) layout(context.Context) error {
	for _, d := range needed {
		info, err := os.Stat(r.path(d.name))
		if err == nil && info.IsDir() || errors.Is(err, fs.ErrPermission) {
			continue
		}
		message := fmt.Sprintf("the directory %s is missing", d.name)
		if err == nil {
			message = d.name + " is not a directory"
		} else if link, err := os.Readlink(r.path(d.name)); err == nil {
			message = fmt.Sprintf("%s links to %s, which is missing", d.name, link)
		}
		finding := critical(d.name, message, "The server does not start.", copyFirst+restore)
		if d.at == never {
			finding.Impact = "The server starts, but fails when it needs the directory; checkpoints and the next shutdown may fail."
		}
		if slices.Contains(empty, d.name) {
			finding.Class = check.ClassRecoverability
			finding.Action = "Make the empty directory " + d.name + " with the owner and mode of its neighbours: nothing in it outlives a shutdown. Find out which copy left empty directories out."
			if strings.HasPrefix(d.name, "pg_stat") {
				finding.Severity, finding.Impact = check.SeverityWarning, "The server starts, but cannot keep its statistics."
			}
		}
		r.found(d.at, finding, "missing")
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
	for oid, file := range entries {
		path := fmt.Sprintf("%s/%d", directory, file)
		if info, err := os.Stat(r.path(path)); errors.Is(err, fs.ErrNotExist) {
			r.found(at, critical(path, fmt.Sprintf("the file %s of the system catalogue with oid %d is missing, which %s names", path, oid, name), impact, action), "file")
		} else if err == nil && info.Size() == 0 && oid != 0 && slices.Contains([]uint32{1259, 1249, 1255, 1247, 1262, 1260}, oid) {
			r.found(at, critical(path, fmt.Sprintf("the file %s of the system catalogue with oid %d is empty", path, oid), impact, action), "file")
		}
	}
}

// histories looks at the timeline histories.
func (r *run) histories(context.Context) error {
	names, err := r.list("pg_wal")
	if err != nil {
		return err
	}
	for _, name := range names {
		text, ok := strings.CutSuffix(name, ".history")
		timeline, err := strconv.ParseUint(text, 16, 32)
		if !ok || err != nil || len(text) != 8 {
			continue
		}
		content, err := r.readFile("pg_wal/"+name, 1<<20)
		if err != nil {
			r.problem("", err)
			continue
		}
		at := never
		if r.known && uint32(timeline) == r.control.Timeline && (r.exists("recovery.signal") || r.exists("standby.signal") || !r.control.State.Clean()) {
			at = atRecovery
		}
		if _, err := cluster.DecodeHistory(content, uint32(timeline)); err != nil {
			r.found(at, check.Finding{
				Class: check.ClassRecoverability, Severity: check.SeverityCritical, Relation: "pg_wal/" + name,
				Message: fmt.Sprintf("the timeline history pg_wal/%s is damaged: %v", name, err),
				Impact:  "Recovery to this timeline, and standbys that follow it, stop at this file.",
				Action:  "Put the file back from the WAL archive, a backup or a standby; its lines are timeline, position and reason.",
			}, "history")
		}
	}
	if r.known && r.control.Timeline > 1 && !r.exists("pg_wal/"+cluster.HistoryName(r.control.Timeline)) {
		r.found(never, check.Finding{
			Class: check.ClassRecoverability, Severity: check.SeverityWarning, Relation: "pg_wal/" + cluster.HistoryName(r.control.Timeline),
			Message: fmt.Sprintf("the server is on timeline %d, but its history is not in pg_wal", r.control.Timeline),
			Impact:  "Standbys and restores that must cross to this timeline need the file; the WAL archive may have it.",
			Action:  "Look for the file in the WAL archive, and put it back from there.",
		}, "history missing")
	}
	return nil
}

// prepared looks at the files of prepared transactions.
func (r *run) prepared(context.Context) error {
	names, err := r.list("pg_twophase")
	if err != nil {
		return err
	}
	for _, name := range names {
		xid, ok := cluster.TwoPhaseXID(name)
		if !ok {
			continue
		}
		path := "pg_twophase/" + name
		content, err := r.readFile(path, 1<<30)
		if err != nil {
			r.problem("", err)
			continue
		}
		if _, err := cluster.DecodeTwoPhase(content, name); err != nil {
			r.found(atRecovery, critical(path, fmt.Sprintf("the file %s of the prepared transaction %d is damaged: %v", path, xid, err),
				"The server does not start; the transaction was promised to its transaction manager and can no longer be committed.",
				copyFirst+"Ask the transaction manager what became of the transaction. "+restore), "twophase")
		}
	}
	return nil
}

// slots looks at the state of replication slots.
func (r *run) slots(context.Context) error {
	names, err := r.list("pg_replslot")
	if err != nil || r.major == 0 {
		return err
	}
	persistent := 0
	for _, name := range names {
		if strings.HasSuffix(name, ".tmp") {
			continue // removed at the start
		}
		if info, err := os.Stat(r.path("pg_replslot/" + name)); err != nil || !info.IsDir() {
			continue
		}
		path := "pg_replslot/" + name + "/state"
		content, err := r.readFile(path, 1<<16)
		action := "Copy the directory of the slot away, then remove it from pg_replslot: the slot is lost, so its standby or subscriber must be looked at and perhaps made anew."
		if errors.Is(err, fs.ErrNotExist) {
			r.found(atRecovery, critical(path, "the replication slot "+name+" has no state file", "The server does not start (PANIC).", action), "slot")
			continue
		}
		if err != nil {
			r.problem("", err)
			continue
		}
		slot, err := cluster.DecodeSlot(content, r.major, name)
		if err != nil {
			r.found(atRecovery, critical(path, fmt.Sprintf("the state of the replication slot %s is damaged: %v", name, err), "The server does not start (PANIC).", action), "slot")
			continue
		}
		if slot.Persistent {
			persistent++
		}
		r.slotNeeds(slot)
	}
	if limit := r.number("max_replication_slots", 10); persistent > limit {
		r.found(atRecovery, check.Finding{
			Class: check.ClassUnsafeSetting, Severity: check.SeverityCritical, Relation: "pg_replslot",
			Message: fmt.Sprintf("there are %d replication slots, but max_replication_slots is %d", persistent, limit),
			Impact:  "The server does not start (FATAL: too many replication slots active before shutdown).",
			Action:  fmt.Sprintf("Set max_replication_slots to at least %d.", persistent),
		}, "too many slots")
	}
	return nil
}

// slotNeeds compares wal_level with what a slot needs.
func (r *run) slotNeeds(slot cluster.Slot) {
	level := strings.ToLower(r.parameter("wal_level", "replica"))
	needs := "replica"
	if slot.Logical {
		needs = "logical"
	}
	if !slot.Persistent || level == "logical" || level == needs {
		return
	}
	if needs == "logical" && r.exists("standby.signal") {
		return // invalidated or taken up by the standby's own rules
	}
	if needs == "replica" && level != "minimal" {
		return
	}
	r.found(atRecovery, check.Finding{
		Class: check.ClassUnsafeSetting, Severity: check.SeverityCritical, Relation: "pg_replslot/" + slot.Name,
		Message: fmt.Sprintf("the replication slot %s needs wal_level = %s, but it is %s", slot.Name, needs, level),
		Impact:  "The server does not start.",
		Action:  "Set wal_level back to " + needs + "; or, when nobody needs the slot, start once with it and drop the slot.",
	}, "wal_level")
}

// logical looks at what logical replication keeps.
func (r *run) logical(context.Context) error {
	const origins = "pg_logical/replorigin_checkpoint"
	if content, err := r.readFile(origins, 1<<24); err == nil {
		if problem := cluster.OriginsProblem(content); problem != "" {
			r.found(atRecovery, critical(origins, fmt.Sprintf("the progress of subscriptions in %s is damaged: %s", origins, problem), "The server does not start (PANIC).",
				copyFirst+"Subscriptions cannot tell any more what they have applied: after the file is moved away they must be made anew, or rows are applied twice."), "origins")
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		r.problem("", err)
	}
	names, err := r.list("pg_logical/snapshots")
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".snap") {
			continue
		}
		path := "pg_logical/snapshots/" + name
		content, err := r.readFile(path, 1<<28)
		if err != nil {
			r.problem("", err)
			continue
		}
		if problem := cluster.LogicalSnapshotProblem(content); problem != "" {
			r.found(never, check.Finding{
				Class: check.ClassCorruption, Severity: check.SeverityWarning, Relation: path,
				Message: fmt.Sprintf("the snapshot %s of logical decoding is damaged: %s", path, problem),
				Impact:  "A logical slot that starts decoding there fails; the data itself is not touched.",
				Action:  "Keep a copy. If a subscription fails with this file in its message, move the file away: decoding then builds a snapshot anew, further on.",
			}, "snapshot")
		}
	}
	return nil
}

// slru looks for the files of a log that must be there.
func (r *run) slru(log cluster.Log, oldest, next uint32, at stage, action string) {
	present, err := r.list(log.Directory)
	if err != nil {
		r.problem(log.Directory, err)
		return
	}
	files := log.Files(oldest, next)
	// The control file can be older than the last truncation when the server did
	// not shut down cleanly: then what is missing in front of all files counts not.
	front := !r.control.State.Clean()
	for _, name := range sortedFiles(files) {
		path := log.Directory + "/" + name
		if !slices.Contains(present, name) {
			if front {
				continue
			}
			r.found(at, critical(path, fmt.Sprintf("the file %s is missing, which holds %s", path, log.What), missingStatus(log), action), "missing")
			continue
		}
		front = false
		info, err := os.Stat(r.path(path))
		if err != nil {
			r.problem("", err)
			continue
		}
		if !info.Mode().IsRegular() {
			r.found(at, critical(path, fmt.Sprintf("%s cannot be read: it is no file; it should hold %s", path, log.What), missingStatus(log), action), "unreadable")
			continue
		}
		if size := info.Size(); size < files[name] || size%8192 != 0 {
			r.found(at, critical(path, fmt.Sprintf("the file %s has %d bytes, but needs at least %d: %s is lost from there on", path, size, files[name], log.What), missingStatus(log), action), "short")
		}
	}
}

func missingStatus(log cluster.Log) string {
	return fmt.Sprintf("The server does not know %s there: rows fail to be read or are seen wrongly, VACUUM fails, and the server may not start.", log.What)
}

// sortedFiles gives the names in an order in which a run of numbers that has
// wrapped around begins with the oldest.
func sortedFiles(files map[string]int64) []string {
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// transactions looks at pg_xact.
func (r *run) transactions(context.Context) error {
	if !r.known {
		return nil
	}
	action := copyFirst + "Do not make the file up with zeroes: transactions without a status count as aborted, so committed rows vanish. " + restore
	log := cluster.Transactions
	r.slru(log, r.control.OldestXID, r.control.NextTransaction(), atRecovery, action)
	finished := r.control.OldestActive
	if r.control.State.Clean() {
		finished = r.control.NextTransaction()
	}
	if finished == 0 {
		return nil
	}
	for _, name := range sortedFiles(log.Files(r.control.OldestXID, r.control.NextTransaction())) {
		segment, _ := cluster.SegmentOf(name)
		content, err := r.readFile(log.Directory+"/"+name, 1<<19)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			r.problem("", err)
			continue
		}
		for _, text := range cluster.StatusProblems(content, segment, r.control.OldestXID, finished) {
			r.found(never, critical(log.Directory+"/"+name, text, "Rows of these transactions are taken for aborted and are not seen, or are seen although they were rolled back; VACUUM removes them for good.",
				copyFirst+"Do not start the server: VACUUM makes the loss final. "+restore), check.KindOf(text))
		}
	}
	return nil
}

// multixacts looks at pg_multixact.
func (r *run) multixacts(context.Context) error {
	if !r.known {
		return nil
	}
	action := copyFirst + restore
	r.slru(cluster.MultiOffsets, r.control.OldestMulti, r.control.NextMulti, atRecovery, action)
	if r.control.OldestMulti == r.control.NextMulti {
		return nil
	}
	first, ok := r.multiOffset(r.control.OldestMulti)
	if !ok || first == 0 {
		return nil
	}
	r.slru(cluster.MultiMembers, first, r.control.NextMultiOffset, atRecovery, action)
	for _, name := range sortedFiles(cluster.MultiOffsets.Files(r.control.OldestMulti, r.control.NextMulti)) {
		segment, _ := cluster.SegmentOf(name)
		path := cluster.MultiOffsets.Directory + "/" + name
		content, err := r.readFile(path, 1<<19)
		if err != nil {
			continue // told above
		}
		if problem := cluster.OffsetsProblem(content, segment, r.control.OldestMulti, r.control.NextMulti, first, r.control.NextMultiOffset); problem != "" {
			r.found(never, critical(path, problem, "Rows that several transactions have locked cannot be read or updated, or seem to be locked by the wrong ones.", action), "offsets")
		}
	}
	return nil
}

// multiOffset reads where the members of a multixact begin.
func (r *run) multiOffset(multi uint32) (uint32, bool) {
	path, _ := cluster.MultiOffsets.Place(multi)
	content, err := r.readFile(path, 1<<19)
	if err != nil {
		return 0, false
	}
	return cluster.OffsetOf(content, multi)
}

// commitTimes looks at pg_commit_ts.
func (r *run) commitTimes(context.Context) error {
	if !r.known || !r.control.TrackCommitTS || r.control.OldestCommitTS == 0 || r.control.NewestCommitTS == 0 {
		return nil
	}
	r.slru(cluster.CommitTimestamps, r.control.OldestCommitTS, r.control.NewestCommitTS+1, never,
		"Turn track_commit_timestamp off if nobody needs the times; else restore a base backup.")
	return nil
}

// recoveryFiles looks at what a backup or a recovery left for the next start.
func (r *run) recoveryFiles(context.Context) error {
	if r.exists("recovery.conf") {
		r.found(atControlFile, check.Finding{
			Class: check.ClassUnsafeSetting, Severity: check.SeverityCritical, Relation: "recovery.conf",
			Message: "there is a file recovery.conf, which PostgreSQL 12 and newer do not take",
			Impact:  "The server does not start.",
			Action:  "Move its settings to postgresql.conf, make recovery.signal or standby.signal instead, and move recovery.conf away.",
		}, "recovery.conf")
	}
	r.tablespaceMap()
	content, err := r.readFile("backup_label", 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	label, err := cluster.DecodeBackupLabel(content)
	if err != nil {
		r.found(atRecovery, check.Finding{
			Class: check.ClassRecoverability, Severity: check.SeverityCritical, Relation: "backup_label",
			Message: fmt.Sprintf("backup_label is damaged: %v", err),
			Impact:  "The server does not start. Without a backup_label it would start from the wrong place and be corrupt.",
			Action:  "Do not remove backup_label. Put it back from the backup, or restore the backup anew.",
		}, "label")
		return nil
	}
	r.label = &label
	if label.Incremental {
		r.found(atRecovery, check.Finding{
			Class: check.ClassRecoverability, Severity: check.SeverityCritical, Relation: "backup_label",
			Message: "this is an incremental backup, not a data directory",
			Impact:  "The server does not start.",
			Action:  "Combine it with the backups before it (pg_combinebackup) into another directory, and start that.",
		}, "incremental")
	}
	return nil
}

// tablespaceMap looks at tablespace_map, which a start turns into links.
func (r *run) tablespaceMap() {
	content, err := r.readFile("tablespace_map", 1<<20)
	if err != nil {
		return
	}
	for line := range bytes.SplitSeq(bytes.TrimSpace(content), []byte("\n")) {
		oid, target, ok := strings.Cut(string(line), " ")
		if _, err := strconv.ParseUint(oid, 10, 32); len(line) > 0 && (!ok || err != nil) {
			r.found(atRecovery, check.Finding{
				Class: check.ClassRecoverability, Severity: check.SeverityCritical, Relation: "tablespace_map",
				Message: fmt.Sprintf("tablespace_map is damaged at %q", line),
				Impact:  "The server does not start.", Action: "Put tablespace_map back from the backup.",
			}, "map")
		} else if info, err := os.Stat(target); len(line) > 0 && (err != nil || !info.IsDir()) {
			r.found(never, check.Finding{
				Class: check.ClassRecoverability, Severity: check.SeverityCritical, Relation: "tablespace_map",
				Message: fmt.Sprintf("tablespace_map says that the tablespace %s is at %s, which cannot be reached", oid, target),
				Impact:  "The start links the tablespace to a place that is not there: its tables and indexes are gone.",
				Action:  "Restore the tablespace to that place, or correct its line in tablespace_map before the start.",
			}, "target")
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

// number is a parameter that is a number.
func (r *run) number(name string, otherwise int) int {
	if n, err := strconv.Atoi(r.parameter(name, "")); err == nil {
		return n
	}
	return otherwise
}
