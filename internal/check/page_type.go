package check

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/page"
)

// typesSQL tells of some types what their values are made of: the base type of a
// domain, the elements of an array, the bounds of a range, the ranges of a multirange
// (from 14 on), the labels of an enum; whether a type is the one of the extension
// of the same name; what a domain restricts its base type to. ACCESS SHARE on catalogues only.
const typesSQL = `SELECT t.oid, t.typtype::text, t.typlen, t.typalign::text,
		CASE t.typtype WHEN 'd' THEN t.typbasetype WHEN 'r' THEN coalesce(r.rngsubtype, 0) WHEN 'm' THEN coalesce(r.rngtypid, 0) ELSE coalesce(e.oid, 0) END,
		ARRAY(SELECT l.oid FROM pg_enum l WHERE l.enumtypid = t.oid),
		CASE WHEN t.typname IN ('citext', 'cube', 'hstore', 'ltree') AND EXISTS (SELECT FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
			WHERE (d.classid, d.objid, d.refclassid) = ('pg_type'::regclass, t.oid, 'pg_extension'::regclass) AND d.deptype = 'e' AND x.extname = t.typname) THEN t.typname::text ELSE '' END,
		t.typtypmod
	FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid LEFT JOIN pg_range r ON t.oid IN (r.rngtypid, %s)
	WHERE t.oid = ANY ($1::oid[])`

// typeDepth is how deep types are followed into each other.
const typeDepth = 8

// types tells what the values of some types are like, with domains resolved.
func (r *reader) types(ctx context.Context, wanted []uint32) (map[uint32]*page.Type, error) {
	type row struct {
		OID       uint32
		Kind      string
		Length    int16
		Align     string
		Of        uint32
		Labels    []uint32
		Extension string
		Modifier  int32
	}
	multirange := "0"
	if r.conn.Facts.VersionNum >= 140000 {
		multirange = "r.rngmultitypid"
	}
	sql := fmt.Sprintf(typesSQL, multirange)
	known := make(map[uint32]*row)
	for depth := 0; len(wanted) > 0 && depth < typeDepth; depth++ {
		rows, err := r.conn.Query(ctx, sql, wanted)
		if err != nil {
			return nil, fmt.Errorf("listing types: %w", err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[row])
		if err != nil {
			return nil, fmt.Errorf("listing types: %w", err)
		}
		wanted = nil
		for _, t := range found {
			known[t.OID] = t
		}
		for _, t := range found {
			if t.Of != 0 && known[t.Of] == nil {
				wanted = append(wanted, t.Of)
			}
		}
	}
	types := make(map[uint32]*page.Type, len(known))
	var resolve func(oid uint32, depth int) *page.Type
	resolve = func(oid uint32, depth int) *page.Type {
		t := known[oid]
		if t == nil || depth > typeDepth {
			return nil
		}
		if t.Kind == "d" {
			return resolve(t.Of, depth+1).With(t.Modifier)
		}
		result := &page.Type{OID: oid, Kind: t.Kind[0], Length: t.Length, Align: t.Align[0], Extension: t.Extension}
		if t.Of != 0 {
			result.Of, result.Element = t.Of, resolve(t.Of, depth+1)
		}
		if t.Kind == "e" {
			result.Labels = make(map[uint32]struct{}, len(t.Labels))
			for _, label := range t.Labels {
				result.Labels[label] = struct{}{}
			}
		}
		return result
	}
	for oid := range known {
		types[oid] = resolve(oid, 0)
	}
	return types, nil
}
