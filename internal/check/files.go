package check

import (
	"cmp"
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

// relationFiles are the files of one filenode. There are tens of thousands of them.
type relationFiles struct {
	directory *directory
	node      filenode
	// bytes is how large the files are together, and modified when one was written last.
	bytes    int64
	modified time.Time
	files    int32
	init     bool
	later    []uint32 // segments of the main fork after the first
	// foreign is a file that has another owner than the directory, or that its
	// owner may not read and write, or a directory instead of a file.
	foreign *datadir.Entry
}

func (f *relationFiles) path() string {
	return f.directory.Path + "/" + strconv.FormatUint(uint64(f.node.Number), 10)
}

func (f *relationFiles) add(e *datadir.Entry) {
	f.bytes += e.Size
	f.files++
	if e.Modified.After(f.modified) {
		f.modified = e.Modified
	}
}

// owned are files whose owner has something to be told of.
type owned struct {
	*relationFiles

	owner owner
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
	all := make(map[filenode]*relationFiles)
	for i := range directories {
		d := &directories[i]
		strays, err := r.list(ctx, d, all)
		if err != nil {
			return fmt.Errorf("listing %s: %w", d.Path, err)
		}
		for _, e := range strays {
			if err := r.stray(ctx, d, e); err != nil {
				return err
			}
		}
	}
	// After the directories: a relation that was made meanwhile is known then.
	wrong, err := r.claim(ctx, all)
	if err != nil {
		return err
	}
	for _, f := range wrong {
		if err := r.owned(ctx, f); err != nil {
			return err
		}
	}
	if len(s.scope.Relations) > 0 {
		return nil
	}
	return r.orphans(ctx, all)
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
			entries, err := datadir.List(ctx, r.files, link)
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

// list reads a directory into all. What is no file of a server is a stray.
func (r *reader) list(ctx context.Context, d *directory, all map[filenode]*relationFiles) (strays []datadir.Entry, err error) {
	server, err := r.files.Stat(ctx, d.Path)
	if err != nil {
		return nil, ignoreGone(err)
	}
	err = r.files.Each(ctx, d.Path, func(e datadir.Entry) {
		match := relationFile.FindStringSubmatch(e.Name)
		if match == nil {
			if !otherFile.MatchString(e.Name) && len(r.scope.Relations) == 0 {
				strays = append(strays, e)
			}
			return
		}
		number, err := strconv.ParseUint(match[1], 10, 32)
		if err != nil {
			return
		}
		node := filenode{d.Tablespace, uint32(number)}
		f := all[node]
		if f == nil {
			f = &relationFiles{directory: d, node: node}
			all[node] = f
		}
		f.add(&e)
		if e.Directory || !e.Mode.IsRegular() || r.files.Local() && (e.Owner != server.Owner || e.Mode.Perm()&0o600 != 0o600) {
			foreign := e
			f.foreign = &foreign
		}
		switch {
		case match[2] == "" && match[3] != "":
			segment, _ := strconv.ParseUint(match[3], 10, 32) // the pattern has at most six digits
			f.later = append(f.later, uint32(segment))
		case match[2] == "_init":
			f.init = true
		}
	})
	return strays, ignoreGone(err)
}

// ownersSQL lists which files the relations of the database have. ACCESS SHARE on
// catalogues only.
const ownersSQL = `SELECT c.oid, n.nspname::text, c.relname::text, c.relpersistence = 'p', pg_relation_filenode(c.oid),
	CASE WHEN c.reltablespace <> 0 THEN c.reltablespace ELSE (SELECT dattablespace FROM pg_database WHERE datname = current_database()) END
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE pg_relation_filenode(c.oid) IS NOT NULL
	AND ($1::text[] IS NULL OR EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		WHERE n.nspname = wanted.schemaname AND c.relname = wanted.relname))`

// claim takes the files of relations out of all, and gives those with which
// something is wrong.
func (r *reader) claim(ctx context.Context, all map[filenode]*relationFiles) (wrong []owned, err error) {
	schemas, names := r.wanted()
	rows, err := r.conn.Query(ctx, ownersSQL, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("listing relations: %w", err)
	}
	var o owner
	var node filenode
	_, err = pgx.ForEachRow(rows, []any{&o.OID, &o.Name.Schema, &o.Name.Name, &o.Permanent, &node.Number, &node.Tablespace}, func() error {
		f := all[node]
		delete(all, node)
		switch {
		case f == nil:
		case f.foreign != nil || f.init && o.Permanent || f.gap() >= 0:
			wrong = append(wrong, owned{f, o})
		default:
			r.looked(o.Name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing relations: %w", err)
	}
	slices.SortFunc(wrong, func(a, b owned) int { return a.node.compare(b.node) })
	return wrong, nil
}

func (n filenode) compare(other filenode) int {
	return cmp.Or(cmp.Compare(n.Tablespace, other.Tablespace), cmp.Compare(n.Number, other.Number))
}

// owned judges the files of a relation.
func (r *reader) owned(ctx context.Context, f owned) error {
	if f.foreign != nil {
		err := r.tell(ctx, f, "foreign", func(now *relationFiles) string {
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
	if f.owner.Permanent && f.init {
		err := r.tell(ctx, f, "init", func(now *relationFiles) string {
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
		return r.tell(ctx, f, "segment", func(now *relationFiles) string {
			if gap := now.gap(); gap >= 0 {
				return fmt.Sprintf("the file %s.%d is missing although a later one is there", f.path(), gap)
			}
			return ""
		}, "All rows from that file on are unreadable: statements fail or end early without an error.", heapAction)
	}
	r.looked(f.owner.Name)
	return nil
}

// gap is the number of a segment that is missing before another; -1 is none. The
// first one is the check page's.
func (f *relationFiles) gap() int {
	if f.later == nil {
		return -1
	}
	for segment := uint32(1); segment < slices.Max(f.later); segment++ {
		if !slices.Contains(f.later, segment) {
			return int(segment)
		}
	}
	return -1
}

// tell reports what is wrong with the files of a relation when a later look sees
// it again and they are still its files.
func (r *reader) tell(ctx context.Context, f owned, kind string, wrong func(*relationFiles) string, impact, action string) error {
	pauseToConfirm(ctx)
	all := make(map[filenode]*relationFiles)
	if _, err := r.list(ctx, f.directory, all); err != nil {
		return err
	}
	now := all[f.node]
	if now == nil {
		return nil
	}
	text := wrong(now)
	var number *uint32
	if err := r.conn.QueryRow(ctx, "SELECT pg_relation_filenode($1::oid)", f.owner.OID).Scan(&number); err != nil {
		return err
	}
	if text != "" && number != nil && *number == f.node.Number {
		r.found(Finding{
			Class: ClassCorruption, Severity: SeverityCritical, Schema: f.owner.Name.Schema, Relation: f.owner.Name.Name,
			SQLState: "58P01", Message: text, Impact: impact, Action: action,
		}, kind)
	}
	return nil
}

// stray reports a file that is no server's.
func (r *reader) stray(ctx context.Context, d *directory, e datadir.Entry) error {
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
func (r *reader) orphans(ctx context.Context, candidates map[filenode]*relationFiles) error {
	maps.DeleteFunc(candidates, func(_ filenode, f *relationFiles) bool { return f.bytes == 0 })
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
	left, err := r.stillThere(ctx, candidates)
	if err != nil {
		return err
	}
	now := make(map[string]sighting)
	for _, f := range left {
		first, before := seen[f.path()]
		if !before {
			first = sighting{WAL: uint64(position), NextXID: r.xids.Next}
		}
		now[f.path()] = first
		twice := before && r.redo > first.WAL && int32(xmin-first.NextXID) >= 0
		modified := candidates[f.node].modified
		oldFile := modified.Before(r.still) && !hidden && (oldest == nil || modified.Before(*oldest))
		if twice || oldFile {
			r.orphan(f)
		}
	}
	return r.remember(ctx, orphansKey, now)
}

// stillThere are those of the files that a later look sees, and still nobody has.
func (r *reader) stillThere(ctx context.Context, candidates map[filenode]*relationFiles) (left []*relationFiles, err error) {
	if len(candidates) == 0 {
		return nil, nil
	}
	pauseToConfirm(ctx)
	directories := make(map[*directory]bool)
	for _, f := range candidates {
		directories[f.directory] = true
	}
	all := make(map[filenode]*relationFiles)
	for d := range directories {
		if _, err := r.list(ctx, d, all); err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(all, func(node filenode, f *relationFiles) bool { return candidates[node] == nil || f.bytes == 0 })
	if _, err := r.claim(ctx, all); err != nil {
		return nil, err
	}
	for _, f := range all {
		tablespace := f.node.Tablespace
		if f.directory.Default {
			tablespace = 0
		}
		var nobody bool
		if err := r.conn.QueryRow(ctx, "SELECT pg_filenode_relation($1::oid, $2::oid) IS NULL", tablespace, f.node.Number).Scan(&nobody); err != nil {
			return nil, err
		}
		if nobody {
			left = append(left, f)
		}
	}
	slices.SortFunc(left, func(a, b *relationFiles) int { return a.node.compare(b.node) })
	return left, nil
}

func (r *reader) orphan(f *relationFiles) {
	r.found(Finding{
		Class: ClassLeftover, Severity: SeverityWarning,
		Message: fmt.Sprintf("the file %s belongs to no relation (%d files of it, %d bytes, written last %s)", f.path(), f.files, f.bytes, f.modified.UTC().Format(time.RFC3339)),
		Impact:  "Its space is lost until somebody removes it. A crash or an interrupted command leaves such files; so does a relation whose entry in pg_class was lost, and then it holds the rows.",
		Action:  "Look whether a relation is missing (checks catalog and drift) and whether the content is needed. Keep a copy outside of the data directory before it is removed.",
	}, "orphan "+f.path())
}
