package check

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/page"
)

// forkBatch is how many relations are asked for at a time.
const forkBatch = 500

// fork is a relation on disk.
type fork struct {
	OID   uint32
	Name  RelationName
	Path  string
	Index bool
	// Table is the table of an index that is complete: valid and kept up by every
	// statement.
	Table uint32
	// Unlogged relations are emptied by a crash, and not written at checkpoints.
	Unlogged bool
	// Shared relations belong to all databases, whatever their encodings.
	Shared bool
	// Row is the transaction that changed the relation's row in pg_class last: its
	// file is not younger.
	Row uint32

	relation page.Relation
	natts    int
}

// placesSQL lists the relations that have files of their own, each index behind
// its table. Unlogged ones have no data on a standby. ACCESS SHARE on catalogues
// only.
const placesSQL = `SELECT c.oid, greatest(c.relpages, 0), n.nspname::text, c.relname::text
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_index i ON i.indexrelid = c.oid
	JOIN pg_class b ON b.oid = coalesce(i.indrelid, c.oid) JOIN pg_namespace bn ON bn.oid = b.relnamespace
	WHERE c.relkind IN ('r', 'm', 't', 'i', 'S') AND pg_relation_filepath(c.oid) IS NOT NULL
	AND (c.relpersistence = 'p' OR c.relpersistence = 'u' AND NOT pg_is_in_recovery())
	AND ($1::text[] IS NULL OR EXISTS (
		SELECT FROM unnest($1::text[], $2::text[]) AS wanted(schemaname, relname)
		JOIN pg_namespace wn ON wn.nspname = wanted.schemaname
		JOIN pg_class w ON w.relnamespace = wn.oid AND w.relname = wanted.relname
		WHERE c.oid IN (w.oid, w.reltoastrelid) OR i.indrelid IN (w.oid, w.reltoastrelid)))
	ORDER BY bn.nspname, b.relname, b.oid, c.relkind = 'i', c.relname`

// forksSQL asks for some of these relations. ACCESS SHARE on catalogues only.
const forksSQL = `SELECT c.oid, pg_relation_filepath(c.oid), c.relkind = 'i',
	CASE c.relkind WHEN 'S' THEN 'sequence' ELSE coalesce(am.amname::text, '') END,
	CASE WHEN i.indisvalid AND i.indisready AND i.indislive THEN i.indrelid ELSE 0 END,
	c.relpersistence = 'u', c.relisshared, c.xmin::text::bigint, c.reltoastrelid, c.relkind = 't', c.relnatts, coalesce(i.indnkeyatts, 0)
	FROM pg_class c LEFT JOIN pg_am am ON am.oid = c.relam LEFT JOIN pg_index i ON i.indexrelid = c.oid
	WHERE c.oid = ANY ($1::oid[]) AND pg_relation_filepath(c.oid) IS NOT NULL`

// pageKinds are the kinds of pages by access method.
var pageKinds = map[string]page.Kind{
	"heap": page.Heap, "sequence": page.Sequence, "btree": page.Btree, "hash": page.Hash,
	"gist": page.Gist, "gin": page.Gin, "spgist": page.Spgist, "brin": page.Brin,
}

// forks are all relations on disk in the order of placesSQL. A database has tens of
// thousands of them: only their names are kept, and the rest is asked for when it is
// their turn, many at a time, and forgotten when others are needed.
type forks struct {
	reader *reader
	places []forkPlace

	// asked are those from the number first to before the number end; err is why
	// nothing is known of them.
	first, end int
	asked      map[uint32]*fork
	err        error
}

// forkPlace is a relation on disk whose turn has not come.
type forkPlace struct {
	OID   uint32
	Pages int32
	Name  RelationName
}

func (r *reader) forks(ctx context.Context) (*forks, error) {
	schemas, names := r.wanted()
	rows, err := r.conn.Query(ctx, placesSQL, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("listing files: %w", err)
	}
	schema := "" // is the same for many
	places, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p forkPlace, err error) {
		err = row.Scan(&p.OID, &p.Pages, &p.Name.Schema, &p.Name.Name)
		if p.Name.Schema == schema {
			p.Name.Schema = schema
		}
		schema = p.Name.Schema
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing files: %w", err)
	}
	return &forks{reader: r, places: places}, nil
}

// each looks at all of them, and counts their bytes before.
func (l *forks) each(ctx context.Context, look func(f *fork) error) error {
	s := l.reader.session
	for _, p := range l.places {
		s.result.TotalBytes += int64(p.Pages) * page.Size
	}
	return s.each(ctx, len(l.places), func(i int) error {
		f, err := l.at(ctx, i)
		if err != nil || f == nil {
			return err
		}
		return look(f)
	}, func(i int) string { return l.places[i].Name.String() })
}

// at is the relation with a number, with its columns unless only data checksums are
// verified; nil is one that was dropped.
func (l *forks) at(ctx context.Context, i int) (*fork, error) {
	if i < l.first || i >= l.end {
		l.first, l.end = i, min(i+forkBatch, len(l.places))
		l.asked, l.err = l.ask(ctx, l.places[l.first:l.end])
		if l.err == nil && !l.reader.plain {
			if err := l.reader.columns(ctx, l.asked); err != nil {
				return nil, err // the others are looked at without
			}
		}
	}
	return l.asked[l.places[i].OID], l.err
}

func (l *forks) ask(ctx context.Context, places []forkPlace) (map[uint32]*fork, error) {
	names := make(map[uint32]RelationName, len(places))
	for _, p := range places {
		names[p.OID] = p.Name
	}
	rows, err := l.reader.conn.Query(ctx, forksSQL, slices.Collect(maps.Keys(names)))
	if err != nil {
		return nil, fmt.Errorf("asking for files: %w", err)
	}
	known, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*fork, error) {
		f := &fork{}
		var method string
		var xmin int64
		var natts, keys int16
		err := row.Scan(&f.OID, &f.Path, &f.Index, &method, &f.Table, &f.Unlogged, &f.Shared, &xmin, &f.relation.Toast, &f.relation.Chunks, &natts, &keys)
		f.Name = names[f.OID]
		f.relation.Kind, f.Row, f.natts = pageKinds[method], uint32(xmin), int(natts)
		f.relation.Keys, f.relation.Included = int(keys), natts > keys
		f.relation.HasToast = f.relation.Kind == page.Heap
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("asking for files: %w", err)
	}
	asked := make(map[uint32]*fork, len(known))
	for _, f := range known {
		asked[f.OID] = f
	}
	return asked, nil
}

// storageSQL lists how the columns of some relations are stored. ACCESS SHARE on
// catalogues only.
// The support function is that of GIN and BRIN indexes with the number 1: it says
// how keys are ordered, or what a summary consists of.
const storageSQL = `SELECT a.attrelid, a.attlen, a.attalign::text,
	CASE a.atttypid WHEN 'anyrange'::regtype THEN coalesce((SELECT t.atttypid FROM pg_index i JOIN pg_attribute t ON t.attrelid = i.indrelid AND t.attnum = i.indkey[a.attnum - 1]
		WHERE i.indexrelid = a.attrelid), 0) ELSE a.atttypid END, a.attcollation,
	CASE WHEN am.amname IN ('gin', 'brin') THEN coalesce((SELECT p.amproc::oid FROM pg_index i JOIN pg_opclass o ON o.oid = i.indclass[a.attnum - 1]
		JOIN pg_amproc p ON (p.amprocfamily, p.amproclefttype, p.amprocrighttype, p.amprocnum) = (o.opcfamily, p.amproclefttype, o.opcintype, 1) AND p.amproclefttype = o.opcintype
		WHERE i.indexrelid = a.attrelid), 0) ELSE 0 END, a.atttypmod
	FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_am am ON am.oid = c.relam
	WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 ORDER BY a.attrelid, a.attnum`

// columns asks for the columns of relations.
func (r *reader) columns(ctx context.Context, forks map[uint32]*fork) error {
	byOID := make(map[uint32]*fork)
	var oids []uint32
	for oid, f := range forks {
		if hasColumns(f) {
			byOID[oid] = f
			oids = append(oids, oid)
		}
	}
	return r.columnsOf(ctx, oids, byOID)
}

// hasColumns says that the columns of a relation are those of its tuples. A tuple
// of a GIN index has the key of one column only.
func hasColumns(f *fork) bool {
	switch f.relation.Kind {
	case page.Heap, page.Btree, page.Gist, page.Brin:
		return true
	case page.Gin:
		return f.natts == 1
	default:
		return false
	}
}

func (r *reader) columnsOf(ctx context.Context, oids []uint32, byOID map[uint32]*fork) error {
	rows, err := r.conn.Query(ctx, storageSQL, oids)
	if err != nil {
		return fmt.Errorf("listing columns: %w", err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[storedColumn])
	if err != nil {
		return fmt.Errorf("listing columns: %w", err)
	}
	named := make([]uint32, len(columns))
	for i, c := range columns {
		named[i] = c.Type
	}
	types, err := r.types(ctx, named)
	if err != nil {
		return err
	}
	for _, c := range columns {
		f := byOID[c.Relation]
		c.addTo(&f.relation, types[c.Type], r.utf8 && !f.Shared)
	}
	for _, f := range byOID {
		if len(f.relation.Columns) != f.natts { // the catalogue is being changed, or is damaged, or a summary is of an unknown kind
			f.relation.Columns = nil
		}
	}
	return nil
}

// storedColumn is how a column is stored.
type storedColumn struct {
	Relation  uint32
	Length    int16
	Align     string
	Type      uint32
	Collation uint32
	Support   uint32
	// Modifier is atttypmod, -1 is none. That of an index's column may be older than
	// the table's.
	Modifier int32
}

// Support functions of GIN and BRIN (pg_proc.dat); they never change.
const (
	btint2cmp, btint4cmp, btint8cmp, bttextcmp, cashcmp = 350, 351, 842, 360, 377
	datecmp, timecmp, timestampcmp, timestamptzcmp      = 1092, 1107, 2045, 1314
	jsonbKeycmp, lexemecmp                              = 3480, 3724
	minmaxSummary, inclusionSummary                     = 3383, 4105
	bloomSummary, multiSummary                          = 4591, 4616
)

// addTo adds the column to those of a relation, unless it is the summary of an
// unknown kind.
func (c storedColumn) addTo(relation *page.Relation, t *page.Type, isUTF8 bool) {
	as := func(t *page.Type) page.Column { return page.NewColumn(c.Length, c.Align[0], t, isUTF8) }
	column := as(t.In(relation.Kind))
	switch {
	case relation.Kind == page.Heap:
		column = as(t.With(c.Modifier))
	case relation.Kind == page.Gin:
		relation.Order = c.order(t)
	case relation.Kind != page.Brin:
	case c.Support == minmaxSummary: // the lowest and the highest value
		column = page.NewSummary(as(t), as(t))
	case c.Support == inclusionSummary: // what covers all values, whether some are not covered, whether some are empty
		flag := page.NewColumn(1, 'c', page.Bool, isUTF8)
		column = page.NewSummary(as(t.In(page.Gist)), flag, flag)
	case c.Support == bloomSummary:
		column = page.NewBloomSummary()
	case c.Support == multiSummary:
		column = page.NewMultiSummary(c.Length)
	default:
		return
	}
	relation.Columns = append(relation.Columns, column)
}

// order is that of the keys of a column of a GIN index. Without a function of its
// own it is that of their type.
func (c storedColumn) order(t *page.Type) page.Order {
	switch c.Support {
	case btint2cmp, btint4cmp, btint8cmp, cashcmp, datecmp, timecmp, timestampcmp, timestamptzcmp:
		return page.IntegerOrder
	case jsonbKeycmp, lexemecmp:
		return page.BytesOrder
	case 0, bttextcmp:
		return t.Order(c.Collation)
	}
	return page.UnknownOrder
}
