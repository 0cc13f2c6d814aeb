package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/wal"
)

// Type says what made a repository.
type Type string

// The types of repositories.
const (
	// TypeDirectory holds base backups of pg_basebackup or of the low-level
	// functions, plain or tar, one directory each.
	TypeDirectory Type = "directory"
	// TypePgBackRest is a repository of pgBackRest.
	TypePgBackRest Type = "pgbackrest"
	// TypeBarman is the directory of one server of Barman.
	TypeBarman Type = "barman"
	// TypeWALG is a prefix of WAL-G in a file system.
	TypeWALG Type = "wal-g"
	// TypeDump holds files of pg_dump and pg_dumpall.
	TypeDump Type = "dump"
	// TypeCloudNativePG is a file with the Backup objects of CloudNativePG.
	TypeCloudNativePG Type = "cloudnativepg"
)

// Types lists every type of repository.
func Types() []Type {
	return []Type{TypeBarman, TypeCloudNativePG, TypeDirectory, TypeDump, TypePgBackRest, TypeWALG}
}

// Repository is where backups of one cluster are.
type Repository struct {
	// Name is the value of the label repository.
	Name string
	Type Type
	// Path is the directory of the repository.
	Path string
	// WAL is the directory of archived WAL, for TypeDirectory; empty is none.
	WAL string
	// Stanza is the stanza of pgBackRest; empty is the only one there is.
	Stanza string
	// InfoFile is the output of `pgbackrest info --output=json`, for repositories
	// that cannot be read here because they are encrypted or elsewhere.
	InfoFile string
}

// Kind says what a backup holds.
type Kind string

// The kinds of backups; the closed list of the label kind.
const (
	KindFull         Kind = "full"
	KindDifferential Kind = "differential"
	KindIncremental  Kind = "incremental"
	KindLogical      Kind = "logical"
)

// Kinds lists every Kind.
func Kinds() []Kind { return []Kind{KindDifferential, KindFull, KindIncremental, KindLogical} }

// ProblemKind says what is wrong with a repository; the closed list of the
// label reason.
type ProblemKind string

// The kinds of problems. Each makes a backup useless or shortens how far
// recovery comes.
const (
	// ProblemChain is a backup that others build on and that is not there.
	ProblemChain ProblemKind = "chain_broken"
	// ProblemDamaged are contents that are not what was written.
	ProblemDamaged ProblemKind = "damaged"
	// ProblemFailed is a backup that its tool marked as failed.
	ProblemFailed ProblemKind = "failed"
	// ProblemIncomplete is a backup that was never finished.
	ProblemIncomplete ProblemKind = "incomplete"
	// ProblemMissing is a file or tablespace that is not there.
	ProblemMissing ProblemKind = "missing"
	// ProblemUnreadable is what cannot be looked at.
	ProblemUnreadable ProblemKind = "unreadable"
	// ProblemWALDamaged is an archived segment that cannot be replayed.
	ProblemWALDamaged ProblemKind = "wal_damaged"
	// ProblemWALGap are archived segments that are missing between others, or
	// that a backup needs.
	ProblemWALGap ProblemKind = "wal_gap"
)

// ProblemKinds lists every ProblemKind.
func ProblemKinds() []ProblemKind {
	return []ProblemKind{
		ProblemChain, ProblemDamaged, ProblemFailed, ProblemIncomplete, ProblemMissing,
		ProblemUnreadable, ProblemWALDamaged, ProblemWALGap,
	}
}

// Problem is one thing that is wrong in a repository.
type Problem struct {
	Kind ProblemKind `json:"kind"`
	// Object is the backup, file or segment.
	Object string `json:"object"`
	// Message is what is wrong with it.
	Message string `json:"message"`
}

// String is the problem in one line.
func (p Problem) String() string { return p.Object + ": " + p.Message }

// Backup is one backup of a repository.
type Backup struct {
	// Label is the name that its tool, or the name of its directory, gives it.
	Label string
	Kind  Kind
	// Path is its directory or file on this machine; empty when only its tool can
	// restore it.
	Path string
	// Tar says that the directory holds base.tar instead of a data directory.
	Tar bool
	// Dump is the format of a KindLogical.
	Dump DumpFormat
	// Started and Finished are when it was taken; zero is not known.
	Started, Finished time.Time
	// Size is the size of what it restores, Stored what it takes in the
	// repository; 0 is not known.
	Size, Stored int64
	// Major is the major version of the server; 0 is not known.
	Major int
	// System is the system identifier of the cluster; 0 is not known.
	System uint64
	// Timeline, Start and End say where in the WAL it begins and from where on it
	// is consistent; 0 is not known.
	Timeline   uint32
	Start, End wal.Position
	// Parent is the label of the backup that it builds on.
	Parent string
	// WALIncluded says that the backup holds the WAL that makes it consistent.
	WALIncluded bool
	// Tablespaces are where its tablespaces are in the repository, by OID.
	Tablespaces map[string]string
	// incrementalFrom is where the WAL of the backup began that this one builds on;
	// 0 is that it is whole.
	incrementalFrom wal.Position
	// underWay says that it is not finished and was written to a moment ago.
	underWay bool
	// settling says that only the time of its last write keeps it from counting as
	// finished.
	settling bool
	// Problems are what makes it unusable.
	Problems []Problem
}

// Usable says that nothing is known that keeps the backup from being restored.
func (b *Backup) Usable() bool { return len(b.Problems) == 0 }

// problemf notes what makes the backup unusable.
func (b *Backup) problemf(kind ProblemKind, format string, args ...any) {
	b.Problems = append(b.Problems, Problem{Kind: kind, Object: b.Label, Message: fmt.Sprintf(format, args...)})
}

// Inventory is what a repository holds at one moment.
type Inventory struct {
	Repository Repository
	// Read is when it was read.
	Read time.Time
	// Backups are its backups, the newest last.
	Backups []Backup
	// Archive is its archived WAL; nil is none.
	Archive *Archive
	// Problems are problems of the repository as a whole; those of backups are
	// with them.
	Problems []Problem
	// Err says that the repository could not be read at all.
	Err error
}

// ReadRepository lists a repository. It reads directories and small files, not the contents
// of backups.
func ReadRepository(ctx context.Context, r Repository) *Inventory {
	inventory := &Inventory{Repository: r, Read: time.Now()}
	readers := map[Type]func(context.Context, *Inventory) error{
		TypeDirectory: readDirectory, TypePgBackRest: readPgBackRest, TypeBarman: readBarman,
		TypeWALG: readWALG, TypeDump: readDumps, TypeCloudNativePG: readCloudNativePG,
	}
	reader, ok := readers[r.Type]
	if !ok {
		inventory.Err = fmt.Errorf("unknown type of repository %q", r.Type)
		return inventory
	}
	if err := reader(ctx, inventory); err != nil {
		inventory.Err = fmt.Errorf("reading the repository %s: %w", r.Name, err)
		return inventory
	}
	slices.SortStableFunc(inventory.Backups, func(a, b Backup) int {
		return cmp.Or(a.Finished.Compare(b.Finished), cmp.Compare(a.Label, b.Label))
	})
	inventory.checkChains()
	inventory.checkWAL()
	for n := range inventory.Backups {
		b := &inventory.Backups[n]
		b.underWay = b.is(ProblemIncomplete) && writtenSince(b.Path, inventory.Read.Add(-pause))
	}
	return inventory
}

// ReadSettled is ReadRepository for whoever needs the newest backup at once: it
// waits a few seconds for one that was perhaps finished a moment ago.
func ReadSettled(ctx context.Context, r Repository) *Inventory {
	inventory := ReadRepository(ctx, r)
	if !slices.ContainsFunc(inventory.Backups, func(b Backup) bool { return b.settling }) {
		return inventory
	}
	select {
	case <-time.After(settling):
	case <-ctx.Done():
	}
	return ReadRepository(ctx, r)
}

// Find gives the backup with a label.
func (i *Inventory) Find(label string) (Backup, error) {
	var labels []string
	for _, b := range i.Backups {
		if b.Label == label {
			return b, nil
		}
		labels = append(labels, b.Label)
	}
	if len(labels) == 0 {
		return Backup{}, i.none()
	}
	return Backup{}, fmt.Errorf("there is no backup %q in %s; there are: %s", label, i.Repository.Path, strings.Join(labels[max(0, len(labels)-10):], ", "))
}

// Newest is the newest backup that is finished, usable or not: a drill of an
// older one would hide that the newest is not.
func (i *Inventory) Newest() (Backup, error) {
	for _, b := range slices.Backward(i.Backups) {
		if !b.is(ProblemIncomplete) && !b.is(ProblemFailed) {
			return b, nil
		}
	}
	return Backup{}, i.none()
}

func (i *Inventory) none() error {
	if i.Err != nil {
		return i.Err
	}
	if len(i.Backups) > 0 {
		newest := i.Backups[len(i.Backups)-1]
		return fmt.Errorf("no backup in %s is finished; the newest: %s", i.Repository.Path, newest.Problems[0])
	}
	return errors.New("there is no backup in " + i.Repository.Path)
}

func (b *Backup) is(kind ProblemKind) bool {
	return slices.ContainsFunc(b.Problems, func(p Problem) bool { return p.Kind == kind })
}

// LastSuccess is the newest usable backup.
func (i *Inventory) LastSuccess() (Backup, bool) {
	for _, b := range slices.Backward(i.Backups) {
		if b.Usable() {
			return b, true
		}
	}
	return Backup{}, false
}

// pause is how long a backup that is under way may write nothing.
const pause = 10 * time.Minute

// settling is how long nothing may have been written to a base backup without a
// manifest until it counts as finished: longer than servers take from the last
// file to the WAL or the manifest.
const settling = 5 * time.Second

// writtenSince says whether a file, or one in a directory, was written to since.
func writtenSince(path string, since time.Time) bool {
	found := false
	// What cannot be read was not seen being written to.
	_ = filepath.WalkDir(path, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // the others may have been
		}
		if info, err := entry.Info(); err == nil && info.ModTime().After(since) {
			found = true
			return fs.SkipAll
		}
		return nil
	})
	return found
}

// LastFailure is when the newest unusable backup was taken, but for one that is
// under way; zero is that there is none.
func (i *Inventory) LastFailure() time.Time {
	var last time.Time
	for _, b := range i.Backups {
		if when := cmp.Or(b.Finished, b.Started); !b.Usable() && !b.underWay && when.After(last) {
			last = when
		}
	}
	return last
}

// AllProblems lists the problems of the repository and of its backups.
func (i *Inventory) AllProblems() []Problem {
	problems := slices.Clone(i.Problems)
	if i.Err != nil {
		problems = append(problems, Problem{Kind: ProblemUnreadable, Object: i.Repository.Name, Message: i.Err.Error()})
	}
	for _, b := range i.Backups {
		problems = append(problems, b.Problems...)
	}
	return problems
}

// checkChains marks backups that build on one that is missing or unusable.
func (i *Inventory) checkChains() {
	index := make(map[string]int, len(i.Backups))
	for n, b := range i.Backups {
		index[b.Label] = n
	}
	for n := range i.Backups {
		b := &i.Backups[n]
		if b.Parent == "" {
			continue
		}
		parent, ok := index[b.Parent]
		switch {
		case !ok:
			b.problemf(ProblemChain, "builds on %s, which is not there", b.Parent)
		case !i.Backups[parent].Usable():
			b.problemf(ProblemChain, "builds on %s, which is not usable", b.Parent)
		}
	}
}

// Chain lists the backups that must be combined to restore one, the full one
// first.
func (i *Inventory) Chain(b Backup) ([]Backup, error) {
	chain := []Backup{b}
	for chain[0].Parent != "" {
		parent, err := i.Find(chain[0].Parent)
		if err != nil {
			return nil, fmt.Errorf("%s builds on %s: %w", chain[0].Label, chain[0].Parent, err)
		}
		if slices.ContainsFunc(chain, func(c Backup) bool { return c.Label == parent.Label }) {
			return nil, fmt.Errorf("%s builds on itself", parent.Label)
		}
		chain = append([]Backup{parent}, chain...)
	}
	return chain, nil
}

// Point is a moment and a place to which a cluster can be recovered.
type Point struct {
	Time     time.Time
	Position wal.Position
	Timeline uint32
}

// Points are the earliest and the latest point that the repository can bring
// back; ok is false when there is none. Times are those of the files: the
// latest is when the last segment was written, which is not before the last
// transaction in it.
func (i *Inventory) Points() (earliest, latest Point, ok bool) {
	for _, b := range i.Backups {
		if !b.Usable() {
			continue
		}
		own := Point{Time: b.Finished, Position: b.End, Timeline: b.Timeline}
		if b.Kind == KindLogical {
			own.Time = b.Started // what a dump holds is the state when it began
		}
		if !ok {
			earliest, latest, ok = own, own, true
		}
		if own.Time.After(latest.Time) {
			latest = own
		}
		if i.Archive == nil || b.Kind == KindLogical {
			continue
		}
		if reach := i.Archive.Reach(b.Timeline, b.Start); reach.Position > own.Position && reach.Time.After(latest.Time) {
			latest = Point{Time: reach.Time, Position: reach.Position, Timeline: reach.Timeline}
		}
	}
	return earliest, latest, ok
}
