package check

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/cluster"
	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pg"
)

const (
	// treesAge is how long the indexes of the catalogues are believed to be as they
	// were.
	treesAge = 10 * time.Minute
	// treePages bounds how much of an index is looked at (64 MB).
	treePages = 8192
	// chunkPages is how many pages are read at once.
	chunkPages = 128
)

// trap is a page of an index of a system catalogue that a server process goes
// into and does not come back from, or dies in, which ends all sessions of the
// server: nearly every statement of the database goes there.
type trap struct {
	index string
	block uint32
	text  string
	// heap says that it is the catalogue itself: the server restarts when a session
	// is opened.
	heap bool
}

// Error says why a database is left alone.
func (t *trap) Error() string {
	if t.heap {
		return fmt.Sprintf("the database is left alone: %s (%s), and each attempt to open a session may make the server restart", t.text, t.index)
	}
	return fmt.Sprintf("the database is left alone: its system catalogue's index %s is damaged so that a server process may die in it, and all sessions of the server with it, or loop, without heeding a cancel, until the server's memory is used up (page %d: %s)", t.index, t.block, t.text)
}

// trapped looks at the indexes of the catalogues of the session's database before it
// is opened, from a session of another one; nil is no danger, or that the files
// cannot be read.
func (s *session) trapped(ctx context.Context) *trap {
	h := s.scope.Heaps
	if h == nil {
		return nil
	}
	h.treesMu.Lock()
	defer h.treesMu.Unlock()
	if time.Since(h.trees.when) < treesAge {
		return h.trees.trap
	}
	database := cmp.Or(s.database, s.home)
	found, err := s.lookForTrap(ctx, database)
	switch {
	case err != nil:
		s.logger.Debug("the indexes of the catalogues are not looked at before", "datname", s.database, "err", err)
	case found != nil:
		s.target.Avoid(database, found, time.Now().Add(treesAge))
	default:
		s.target.Allow(database)
	}
	h.trees = treesSeen{found, time.Now()}
	return found
}

// treesSeen is what was seen, and when.
type treesSeen struct {
	trap *trap
	when time.Time
}

// elsewhere opens a session in another database.
func (s *session) elsewhere(ctx context.Context, database string) (conn *pg.Conn, err error) {
	err = errors.New("there is no other database")
	for _, other := range []string{"postgres", "template1", s.home} {
		if other == database {
			continue
		}
		if conn, err = s.target.Connect(ctx, other, s.purpose()); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// treesSQL lists the B-trees of the catalogues that each database has of its own.
// ACCESS SHARE on catalogues only.
const treesSQL = `SELECT c.oid, c.relname::text FROM pg_class c JOIN pg_am am ON am.oid = c.relam
	WHERE c.relkind = 'i' AND am.amname = 'btree' AND NOT c.relisshared AND c.oid < 16384 AND c.relnamespace = 'pg_catalog'::regnamespace ORDER BY c.oid`

func (s *session) lookForTrap(ctx context.Context, database string) (*trap, error) {
	conn, err := s.elsewhere(ctx, database)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if unknown := conn.Facts.UnknownLayout(); unknown != "" {
		return nil, errors.New(unknown)
	}
	files, err := datadir.Open(ctx, conn)
	if err != nil {
		return nil, err
	}
	defer files.Close()
	directory, err := directoryOf(ctx, conn, files, database)
	if err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, treesSQL)
	if err != nil {
		return nil, err
	}
	type tree struct {
		OID  uint32
		Name string
	}
	trees, err := pgx.CollectRows(rows, pgx.RowToStructByPos[tree])
	if err != nil {
		return nil, err
	}
	content, err := datadir.ReadFile(ctx, files, directory+"/"+cluster.RelationMapFile, 4096)
	if err != nil {
		return nil, err
	}
	mapped, err := cluster.DecodeRelationMap(content, conn.Facts.Major(), false)
	if err != nil {
		return nil, err
	}
	for oid, name := range map[uint32]string{1247: "pg_type", 1249: "pg_attribute", 1255: "pg_proc", 1259: "pg_class"} {
		if size, err := files.Size(ctx, fmt.Sprintf("%s/%d", directory, mapped[oid])); err == nil && size == 0 {
			return &trap{index: name, text: "the file of the catalogue is empty", heap: true}, nil
		}
	}
	for _, t := range trees {
		node, ok := mapped[t.OID]
		if !ok {
			node = t.OID // unless it was made anew
		}
		found, err := trapIn(ctx, files, fmt.Sprintf("%s/%d", directory, node))
		if err != nil || found != nil {
			if found != nil {
				found.index = t.Name
			}
			return found, err
		}
	}
	return nil, nil //nolint:nilnil // there is no trap
}

// directoryOf is the directory of a database.
func directoryOf(ctx context.Context, conn *pg.Conn, files datadir.Directory, database string) (string, error) {
	const sql = `SELECT d.oid, CASE WHEN t.spcname = 'pg_default' THEN 0 ELSE t.oid::bigint END
		FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = $1`
	var oid uint32
	var space int64
	if err := conn.QueryRow(ctx, sql, database).Scan(&oid, &space); err != nil {
		return "", err
	}
	if space == 0 {
		return fmt.Sprintf("base/%d", oid), nil
	}
	place := fmt.Sprintf("pg_tblspc/%d", space)
	entries, err := datadir.List(ctx, files, place)
	if err != nil {
		return "", err
	}
	n := slices.IndexFunc(entries, func(e datadir.Entry) bool {
		return strings.HasPrefix(e.Name, fmt.Sprintf("PG_%d_", conn.Facts.Major()))
	})
	if n < 0 {
		return "", errors.New(place + " has no directory of this version")
	}
	return fmt.Sprintf("%s/%s/%d", place, entries[n].Name, oid), nil
}

// trapIn looks at the pages of an index. One that is a trap must still be the same
// after a while: it may have been read while it was written.
func trapIn(ctx context.Context, files datadir.Directory, name string) (*trap, error) {
	size, err := files.Size(ctx, name)
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // the index has another file
	}
	relation := page.Relation{Kind: page.Btree, Blocks: uint32(size / page.Size)}
	chunk := make([]byte, min(chunkPages, int64(relation.Blocks))*page.Size)
	for first := int64(0); first < min(int64(relation.Blocks), treePages); first += chunkPages {
		n, err := files.ReadAt(ctx, name, chunk, first*page.Size)
		if err != nil {
			return nil, err
		}
		for at := 0; at+page.Size <= n; at += page.Size {
			p, block := chunk[at:at+page.Size], uint32(first)+uint32(at/page.Size)
			text := relation.BtreeTrap(p, block)
			if text == "" {
				continue
			}
			pauseToConfirm(ctx)
			again := make([]byte, page.Size)
			if n, err := files.ReadAt(ctx, name, again, int64(block)*page.Size); err != nil || n < page.Size || !bytes.Equal(p, again) {
				return nil, err
			}
			return &trap{block: block, text: text}, nil
		}
	}
	return nil, nil //nolint:nilnil // there is no trap
}
