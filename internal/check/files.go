package check

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/datadir"
)

// filesCheck compares the directories of a database with its catalogue: which
// files belong to nobody, which segments are missing, which files the server
// may not open. It reads names, sizes and times, no file.
func filesCheck() Check {
	return Check{
		Name:     "files",
		Question: "Does every file belong to a relation, has every relation all its files, and may the server open them?",
		Kinds:    []Kind{{ClassCorruption, SeverityCritical}, {ClassLeftover, SeverityWarning}},
		Interval: time.Hour,
		Needs:    "the data directory on the exporter's machine, readable for it; or EXECUTE on pg_ls_dir, pg_stat_file and pg_read_binary_file",
		Locks:    "none on relations",
		run:      runFiles,
	}
}

// directory is a directory that holds files of relations.
type directory struct {
	Path       string
	Tablespace uint32
	// Default says that relations without a tablespace of their own are in it.
	Default bool
}

// owner is a relation as the owner of files.
type owner struct {
	OID       uint32
	Name      RelationName
	Permanent bool
}

// filenode identifies the files of a relation within a database.
type filenode struct{ Tablespace, Number uint32 }

// relationFiles are the files of one filenode.
type relationFiles struct {
	directory directory
	node      filenode
	files     []datadir.Entry
	segments  []uint32 // of the main fork
	init      bool
	// foreign is a file that has another owner than the directory, or that its
	// owner may not read and write, or a directory instead of a file.
	foreign *datadir.Entry
}

func (f *relationFiles) path() string {
	return f.directory.Path + "/" + strconv.FormatUint(uint64(f.node.Number), 10)
}

// size is how many bytes the files have, and modified when one was written last.
func (f *relationFiles) size() (bytes int64, modified time.Time) {
	for _, e := range f.files {
		bytes += e.Size
		if e.Modified.After(modified) {
			modified = e.Modified
		}
	}
	return bytes, modified
}

func runFiles(ctx context.Context, s *session) error {
	r, err := s.reader(ctx)
	if err != nil || r == nil {
		return err
	}
	defer r.files.Close()
	directories, err := r.directories(ctx)
	if sqlstate(err) == "42501" {
		s.skipf("the directories of the server cannot be listed: "+systemGrants["pg_ls_dir"]+" (see docs/grants/grants.sql)", quote(s.conn.Facts.User))
		return nil
	}
	if err != nil {
		return err
	}
	var all []*relationFiles
	for _, d := range directories {
		found, err := r.list(ctx, d)
		if err != nil {
			return fmt.Errorf("listing %s: %w", d.Path, err)
		}
		all = append(all, found...)
	}
	// After the directories: a relation that was made meanwhile is known then.
	owners, err := r.owners(ctx)
	if err != nil {
		return err
	}
	var orphans []*relationFiles
	for _, f := range all {
		if o, known := owners[f.node]; known {
			if err := r.owned(ctx, f, o); err != nil {
				return err
			}
		} else if size, _ := f.size(); size > 0 {
			orphans = append(orphans, f)
		}
	}
	if len(s.scope.Relations) > 0 {
		return nil
	}
	return r.orphans(ctx, orphans)
}

// directoriesSQL lists the tablespaces that may hold files of the database, and
// whether it is the one from which the shared relations are looked at.
const directoriesSQL = `SELECT t.oid, t.oid = d.dattablespace, d.oid,
	d.oid = (SELECT min(oid) FROM pg_database WHERE datallowconn)
	FROM pg_tablespace t, pg_database d WHERE d.datname = current_database() AND t.oid <> 1664 ORDER BY 2 DESC, 1`

const (
	defaultTablespace = 1663
	globalTablespace  = 1664
)

// directories finds where the files of the database are.
func (r *reader) directories(ctx context.Context) ([]directory, error) {
	rows, err := r.conn.Query(ctx, directoriesSQL)
	if err != nil {
		return nil, fmt.Errorf("listing tablespaces: %w", err)
	}
	var tablespace, database uint32
	var isDefault, first bool
	var found []directory
	_, err = pgx.ForEachRow(rows, []any{&tablespace, &isDefault, &database, &first}, func() error {
		found = append(found, directory{Tablespace: tablespace, Default: isDefault})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing tablespaces: %w", err)
	}
	var directories []directory
	for _, d := range found {
		parents := []string{"base"}
		if d.Tablespace != defaultTablespace {
			link := fmt.Sprintf("pg_tblspc/%d", d.Tablespace)
			entries, err := r.files.List(ctx, link)
			if err := ignoreGone(err); err != nil {
				return nil, err
			}
			parents = nil
			for _, e := range entries {
				if strings.HasPrefix(e.Name, fmt.Sprintf("PG_%d_", r.conn.Facts.Major())) {
					parents = append(parents, link+"/"+e.Name)
				}
			}
		}
		for _, parent := range parents {
			d.Path = fmt.Sprintf("%s/%d", parent, database)
			if _, err := r.files.Stat(ctx, d.Path); err == nil {
				directories = append(directories, d)
			} else if err := ignoreGone(err); err != nil {
				return nil, err
			}
		}
	}
	if first {
		directories = append(directories, directory{Path: "global", Tablespace: globalTablespace})
	}
	return directories, nil
}

var (
	// relationFile is the name of a file of a relation: filenode, fork, segment.
	relationFile = regexp.MustCompile(`^([1-9]\d{0,9})(_(?:fsm|vm|init))?(?:\.([1-9]\d{0,5}))?$`)
	// otherFile is what else a server puts into such a directory: its version, the
	// map of the catalogues, a cache that it makes anew, temporary tables and files.
	otherFile = regexp.MustCompile(`^(?:PG_VERSION|pg_filenode\.map(?:\.tmp)?|pg_internal\.init(?:\.\d+)?|pg_control|t\d+_\d+(?:_(?:fsm|vm|init))?(?:\.\d+)?|pgsql_tmp.*)$`)
)

// list reads a directory. What is no file of a server is reported.
func (r *reader) list(ctx context.Context, d directory) ([]*relationFiles, error) {
	entries, err := r.files.List(ctx, d.Path)
	if err != nil {
		return nil, ignoreGone(err)
	}
	server, err := r.files.Stat(ctx, d.Path)
	if err != nil {
		return nil, ignoreGone(err)
	}
	byNumber := make(map[uint32]*relationFiles)
	for _, e := range entries {
		match := relationFile.FindStringSubmatch(e.Name)
		if match == nil {
			if !otherFile.MatchString(e.Name) && len(r.scope.Relations) == 0 {
				if err := r.stray(ctx, d, e); err != nil {
					return nil, err
				}
			}
			continue
		}
		number, err := strconv.ParseUint(match[1], 10, 32)
		if err != nil {
			continue
		}
		f := byNumber[uint32(number)]
		if f == nil {
			f = &relationFiles{directory: d, node: filenode{d.Tablespace, uint32(number)}}
			byNumber[uint32(number)] = f
		}
		if e.Directory || !e.Mode.IsRegular() || r.files.Local() && (e.Owner != server.Owner || e.Mode.Perm()&0o600 != 0o600) {
			f.foreign = &e
		}
		f.files = append(f.files, e)
		switch match[2] {
		case "":
			segment, _ := strconv.ParseUint("0"+match[3], 10, 32) // the pattern has at most six digits
			f.segments = append(f.segments, uint32(segment))
		case "_init":
			f.init = true
		}
	}
	return slices.SortedFunc(maps.Values(byNumber), func(a, b *relationFiles) int { return int(int64(a.node.Number) - int64(b.node.Number)) }), nil
}

// ownersSQL lists which files the relations of the database have. ACCESS SHARE on
// catalogues only.
const ownersSQL = `SELECT c.oid, n.nspname::text, c.relname::text, c.relpersistence = 'p', pg_relation_filenode(c.oid),
	CASE WHEN c.reltablespace <> 0 THEN c.reltablespace ELSE (SELECT dattablespace FROM pg_database WHERE datname = current_database()) END
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE pg_relation_filenode(c.oid) IS NOT NULL
	AND ($1::text[] IS NULL OR EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		WHERE n.nspname = wanted.schemaname AND c.relname = wanted.relname))`

func (r *reader) owners(ctx context.Context) (map[filenode]owner, error) {
	schemas, names := r.wanted()
	rows, err := r.conn.Query(ctx, ownersSQL, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("listing relations: %w", err)
	}
	owners := make(map[filenode]owner)
	var o owner
	var node filenode
	_, err = pgx.ForEachRow(rows, []any{&o.OID, &o.Name.Schema, &o.Name.Name, &o.Permanent, &node.Number, &node.Tablespace}, func() error {
		owners[node] = o
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing relations: %w", err)
	}
	return owners, nil
}

// owned judges the files of a relation.
func (r *reader) owned(ctx context.Context, f *relationFiles, o owner) error {
	if f.foreign != nil {
		err := r.tell(ctx, f, o, "foreign", func(now *relationFiles) string {
			switch e := now.foreign; {
			case e != nil && e.Directory:
				return fmt.Sprintf("%s/%s is a directory instead of a file", f.directory.Path, e.Name)
			case e != nil && !e.Mode.IsRegular():
				return fmt.Sprintf("%s/%s is no file", f.directory.Path, e.Name)
			case e != nil:
				return fmt.Sprintf("the server may not open the file %s/%s (mode %04o, owner %d)", f.directory.Path, e.Name, e.Mode.Perm(), e.Owner)
			}
			return ""
		}, "Statements that need the file fail with SQLSTATE 42501, and so do checkpoints: the WAL grows until the disk is full.",
			"Give the file to the user that the server runs as, with the mode of the other files (chown, chmod 0600), and find out who changed it.")
		if err != nil {
			return err
		}
	}
	if o.Permanent && f.init {
		err := r.tell(ctx, f, o, "init", func(now *relationFiles) string {
			if now.init {
				return fmt.Sprintf("the file %s_init is there although the relation is not unlogged", f.path())
			}
			return ""
		}, "After a crash the server takes the relation for unlogged and empties it: all its rows are lost then.",
			"Take a backup of the relation (pg_dump) now. Then stop the server cleanly, move the _init file away and start it; do not let it crash before.")
		if err != nil {
			return err
		}
	}
	if f.gap() >= 0 {
		return r.tell(ctx, f, o, "segment", func(now *relationFiles) string {
			if gap := now.gap(); gap >= 0 {
				return fmt.Sprintf("the file %s.%d is missing although a later one is there", f.path(), gap)
			}
			return ""
		}, "All rows from that file on are unreadable: statements fail or end early without an error.", heapAction)
	}
	r.looked(o.Name)
	return nil
}

// gap is the number of a segment that is missing before another; -1 is none. The
// first one is the check page's.
func (f *relationFiles) gap() int {
	have := make(map[uint32]bool, len(f.segments))
	last := uint32(0)
	for _, segment := range f.segments {
		have[segment] = true
		last = max(last, segment)
	}
	for segment := uint32(1); segment < last; segment++ {
		if !have[segment] {
			return int(segment)
		}
	}
	return -1
}

// tell reports what is wrong with the files of a relation when a later look sees
// it again and they are still its files.
func (r *reader) tell(ctx context.Context, f *relationFiles, o owner, kind string, wrong func(*relationFiles) string, impact, action string) error {
	pauseToConfirm(ctx)
	now, err := r.list(ctx, f.directory)
	if err != nil {
		return err
	}
	for _, again := range now {
		if again.node != f.node {
			continue
		}
		text := wrong(again)
		var number *uint32
		if err := r.conn.QueryRow(ctx, "SELECT pg_relation_filenode($1::oid)", o.OID).Scan(&number); err != nil {
			return err
		}
		if text != "" && number != nil && *number == f.node.Number {
			r.found(Finding{
				Class: ClassCorruption, Severity: SeverityCritical, Schema: o.Name.Schema, Relation: o.Name.Name,
				SQLState: "58P01", Message: text, Impact: impact, Action: action,
			}, kind)
		}
	}
	return nil
}

// stray reports a file that is no server's.
func (r *reader) stray(ctx context.Context, d directory, e datadir.Entry) error {
	name := d.Path + "/" + e.Name
	if time.Since(e.Modified) < time.Minute {
		pauseToConfirm(ctx)
	}
	if _, err := r.files.Stat(ctx, name); err != nil {
		return ignoreGone(err)
	}
	r.found(Finding{
		Class: ClassLeftover, Severity: SeverityWarning,
		Message: fmt.Sprintf("%s is in a directory of the database and is none of PostgreSQL's files (%d bytes, written %s)", name, e.Size, e.Modified.UTC().Format(time.RFC3339)),
		Impact:  "No data is damaged by it, but pg_checksums and base backups can fail because of it, or copy it again and again.",
		Action:  "Find out who put it there. When nobody needs it, move it out of the data directory.",
	}, "stray "+name)
	return nil
}

// sighting is when an orphan was seen first.
type sighting struct {
	// WAL is where the WAL was then, and NextXID the next transaction.
	WAL     uint64 `json:"wal"`
	NextXID uint32 `json:"next_xid"`
}

// orphansKey is where sightings are remembered.
const orphansKey = "orphans"

// orphans reports files that belong to no relation. Those of a transaction that
// is not over yet belong to relations that nobody else sees; those of a relation
// that was dropped go at the next checkpoint. So a file counts when it was seen
// before, and since then a checkpoint began and all transactions of that time
// ended; or when it was written last before the last checkpoint began and before
// the oldest transaction that is still open.
func (r *reader) orphans(ctx context.Context, candidates []*relationFiles) error {
	seen := make(map[string]sighting)
	if _, err := r.recall(ctx, orphansKey, &seen); err != nil {
		return err
	}
	var xmin uint32
	var position int64
	var oldest *time.Time
	var hidden bool
	const sql = `SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::numeric % 4294967296)::bigint,
		(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0')::bigint,
		(SELECT min(xact_start) FROM pg_stat_activity WHERE pid <> pg_backend_pid()),
		EXISTS (SELECT FROM pg_stat_activity WHERE query = '<insufficient privilege>') OR EXISTS (SELECT FROM pg_prepared_xacts)`
	if err := r.conn.QueryRow(ctx, sql).Scan(&xmin, &position, &oldest, &hidden); err != nil {
		return fmt.Errorf("asking for open transactions: %w", err)
	}
	if len(candidates) > 0 {
		pauseToConfirm(ctx)
	}
	owners, err := r.owners(ctx)
	if err != nil {
		return err
	}
	now := make(map[string]sighting)
	for _, f := range candidates {
		still, err := r.stillThere(ctx, f, owners)
		if err != nil {
			return err
		}
		if !still {
			continue
		}
		_, modified := f.size()
		first, before := seen[f.path()]
		if !before {
			first = sighting{WAL: uint64(position), NextXID: r.xids.Next}
		}
		now[f.path()] = first
		twice := before && r.redo > first.WAL && int32(xmin-first.NextXID) >= 0
		oldFile := modified.Before(r.still) && !hidden && (oldest == nil || modified.Before(*oldest))
		if twice || oldFile {
			r.orphan(f)
		}
	}
	return r.remember(ctx, orphansKey, now)
}

// stillThere says that the files are still there and still nobody's.
func (r *reader) stillThere(ctx context.Context, f *relationFiles, owners map[filenode]owner) (bool, error) {
	if _, known := owners[f.node]; known {
		return false, nil
	}
	left := false
	for _, e := range f.files {
		now, err := r.files.Stat(ctx, f.directory.Path+"/"+e.Name)
		if err := ignoreGone(err); err != nil {
			return false, err
		}
		left = left || err == nil && now.Size > 0
	}
	if !left {
		return false, nil
	}
	tablespace := f.node.Tablespace
	if f.directory.Default {
		tablespace = 0
	}
	var nobody bool
	err := r.conn.QueryRow(ctx, "SELECT pg_filenode_relation($1::oid, $2::oid) IS NULL", tablespace, f.node.Number).Scan(&nobody)
	return nobody, err
}

func (r *reader) orphan(f *relationFiles) {
	size, modified := f.size()
	r.found(Finding{
		Class: ClassLeftover, Severity: SeverityWarning,
		Message: fmt.Sprintf("the file %s belongs to no relation (%d files of it, %d bytes, written last %s)", f.path(), len(f.files), size, modified.UTC().Format(time.RFC3339)),
		Impact:  "Its space is lost until somebody removes it. A crash or an interrupted command leaves such files; so does a relation whose entry in pg_class was lost, and then it holds the rows.",
		Action:  "Look whether a relation is missing (checks catalog and drift) and whether the content is needed. Keep a copy outside of the data directory before it is removed.",
	}, "orphan "+f.path())
}
