package check_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pgtest"
)

// lab has an index of every access method, each on a column of its own, as it
// usually is.
const lab = `
CREATE EXTENSION amcheck;
CREATE EXTENSION pg_visibility;
CREATE SCHEMA lab;
CREATE TABLE lab.items (id int PRIMARY KEY, code text NOT NULL, token text NOT NULL, path text NOT NULL, tags int[] NOT NULL, words tsvector, doc jsonb, area box, span int4range, day date, kind int, memo text);
INSERT INTO lab.items SELECT g, 'code ' || md5(g::text), md5(g::text), 'a/' || g % 30 || '/' || g, ARRAY[g, g % 50, -g], to_tsvector('simple', 'w' || g || ' x' || g % 20), jsonb_build_object('id', g, 'k', g % 7), box(point(g, g), point(g + 1, g + 2)), int4range(g, g + 10), date '2024-01-01' + g / 10, g % 5, repeat('m', 40) FROM generate_series(1, 2500) g;
CREATE UNIQUE INDEX items_code ON lab.items (code);
CREATE INDEX items_kind ON lab.items (kind, id) WHERE kind < 3;
CREATE INDEX items_lower ON lab.items (lower(memo || id));
CREATE INDEX items_token ON lab.items USING hash (token);
CREATE INDEX items_path ON lab.items USING spgist (path);
CREATE INDEX items_tags ON lab.items USING gin (tags) WITH (fastupdate = off);
CREATE INDEX items_words ON lab.items USING gin (words) WITH (fastupdate = off);
CREATE INDEX items_doc ON lab.items USING gin (doc jsonb_path_ops) WITH (fastupdate = off);
CREATE INDEX items_labels ON lab.items USING gin (string_to_array(path, '/')) WITH (fastupdate = off);
CREATE INDEX items_area ON lab.items USING gist (area);
CREATE INDEX items_span ON lab.items USING gist (span);
CREATE INDEX items_day ON lab.items USING brin (day) WITH (pages_per_range = 8);
CREATE TABLE lab.long (id int PRIMARY KEY, body text NOT NULL);
ALTER TABLE lab.long ALTER body SET STORAGE EXTERNAL;
INSERT INTO lab.long SELECT g, repeat(md5(g::text), 200) FROM generate_series(1, 60) g;
VACUUM (ANALYZE, FREEZE);
`

// indexDamage is one way to damage the lab's files and whose damage it is.
type indexDamage struct {
	name     string
	since    int
	relation string
	block    uint32
	change   func(p []byte)
	file     func(r pgtest.Relation, other pgtest.Relation) error
	other    string
	// sql is done before the damage; old is a copy of the file from before it.
	sql string
	old func(r pgtest.Relation, old []byte) error
	// found are the relations of which one must have a finding.
	found []string

	database string
}

// retarget lets an index entry point to another row of the same page.
func retarget(tuple []byte) { tuple[4] ^= 1 }

// beyond lets an index entry point to a row that does not exist.
func beyond(tuple []byte) { tuple[5] = 3 }

func indexDamages() []indexDamage {
	heap := []string{"items", "items_pkey", "items_code"}
	all := []indexDamage{
		{name: "row gone", relation: "lab.items", block: 5, change: pgtest.Unuse(3), found: heap},
		{name: "page of rows zeroed", relation: "lab.items", block: 5, change: pgtest.Zero, found: heap},
		{name: "table cut", relation: "lab.items", file: func(r, _ pgtest.Relation) error { return r.Truncate(r.Blocks - 1) }, found: heap},
		{name: "old page of table", relation: "lab.items", sql: "UPDATE lab.items SET kind = kind + 10 WHERE id BETWEEN 3 AND 40", old: func(r pgtest.Relation, old []byte) error { return r.RestorePage(0, old) }, found: append(heap, "items_kind")},
		{name: "old copy of table", relation: "lab.items", sql: "INSERT INTO lab.items SELECT id + 100000, code || 'x', token || 'y', path, tags, words, doc, area, span, day, kind, memo FROM lab.items WHERE id < 500", old: func(r pgtest.Relation, old []byte) error { return r.Restore(old) }, found: heap},
		{name: "row hidden by a hint bit", relation: "lab.items", block: 7, change: pgtest.Tuple(2, func(t []byte) { t[21] = t[21]&^0x03 | 0x02 }), found: heap},
		{name: "row deleted by a hint bit", relation: "lab.items", block: 7, change: pgtest.Tuple(2, func(t []byte) { t[4], t[21] = 100, t[21]&^0x0c|0x04; t[5], t[6], t[7] = 2, 0, 0 }), found: heap},
		{name: "two indexes swapped", relation: "lab.items_code", other: "lab.items_pkey", file: func(r, other pgtest.Relation) error { return r.Swap(other) }, found: []string{"items_code", "items_pkey"}},
		{name: "two GIN indexes swapped", relation: "lab.items_tags", other: "lab.items_doc", file: func(r, other pgtest.Relation) error { return r.Swap(other) }, found: []string{"items_tags", "items_doc"}},
		{name: "two GiST indexes swapped", relation: "lab.items_area", other: "lab.items_span", file: func(r, other pgtest.Relation) error { return r.Swap(other) }, found: []string{"items_area", "items_span"}},
		{name: "BRIN summary wrong", relation: "lab.items_day", block: 2, change: pgtest.Tuple(3, func(t []byte) { copy(t[8:16], []byte{0, 0, 0, 0, 0, 0, 0, 0}) }), found: []string{"items_day"}},
		{name: "BRIN summary gone", relation: "lab.items_day", block: 2, change: pgtest.Unuse(3), found: []string{"items_day"}},
		{name: "GIN entry lost", relation: "lab.items_tags", block: 3, change: pgtest.DropItem(4), found: []string{"items_tags"}},
		{name: "GIN lexeme lost", relation: "lab.items_words", block: 3, change: pgtest.DropItem(4), found: []string{"items_words"}},
		{name: "GIN jsonb entry lost", relation: "lab.items_doc", block: 3, change: pgtest.DropItem(4), found: []string{"items_doc"}},
		{name: "GIN posting of another row", relation: "lab.items_tags", block: 3, change: pgtest.Tuple(4, func(t []byte) { t[len(t)-8] ^= 1; t[len(t)-7] ^= 1; t[len(t)-6] ^= 1 }), found: []string{"items_tags"}},
		{name: "GIN key of another", relation: "lab.items_tags", block: 3, change: pgtest.Tuple(4, func(t []byte) { t[8] ^= 1 }), found: []string{"items_tags"}},
		{name: "GIN text of another", relation: "lab.items_labels", block: 3, change: pgtest.Tuple(4, func(t []byte) { t[9] = 'z' }), found: []string{"items_labels"}},
		{name: "hash entry lost", relation: "lab.items_token", block: 4, change: pgtest.DropItem(6), found: []string{"items_token"}},
		{name: "hash value flipped", relation: "lab.items_token", block: 4, change: pgtest.Tuple(6, func(t []byte) { t[8] ^= 0xff }), found: []string{"items_token"}},
		{name: "hash entry retargeted", relation: "lab.items_token", block: 4, change: pgtest.Tuple(6, retarget), found: []string{"items_token"}},
		{name: "GiST value kept wrong", relation: "lab.items_span", block: 2, change: pgtest.Tuple(4, func(t []byte) { t[len(t)-4] |= 0x10 }), found: []string{"items_span"}},
		{name: "partial index entry lost", relation: "lab.items_kind", block: 1, change: pgtest.DropItem(5), found: []string{"items_kind"}},
		{name: "expression index entry lost", relation: "lab.items_lower", block: 2, change: pgtest.DropItem(5), found: []string{"items_lower"}},
		{name: "TOAST chunk gone", relation: "toast", block: 1, change: pgtest.Unuse(2), found: []string{"long", "pg_toast"}},
		{name: "TOAST chunks exchanged", relation: "toast", block: 1, change: func(p []byte) {
			items := pgtest.Items(p)
			pgtest.SetItem(p, 1, items[2])
			pgtest.SetItem(p, 2, items[1])
		}, found: []string{"long", "pg_toast"}},
	}
	all = append(all,
		indexDamage{name: "page marked as seen by everybody", relation: "lab.items", sql: "DELETE FROM lab.items WHERE id = 5", block: 0, change: func(p []byte) { p[10] |= 4 }, found: heap},
		indexDamage{name: "page not marked as the map says", relation: "lab.items", block: 4, change: func(p []byte) { p[10] &^= 4 }, found: heap},
		indexDamage{name: "text that is none", relation: "lab.items", block: 4, change: func(p []byte) { p[bytes.Index(p, []byte("mmmm"))] = 0xff }, found: heap},
		indexDamage{name: "long text that is none", relation: "toast", block: 1, change: func(p []byte) { p[len(p)-500] = 0xff }, found: []string{"long"}},
	)
	for _, index := range []string{"items_pkey", "items_code", "items_area", "items_span", "items_path"} {
		found := []string{index}
		block, retarget, beyond, flip := uint32(3), retarget, beyond, func(t []byte) { t[15] ^= 0x40 }
		switch index {
		case "items_pkey", "items_code":
			block, flip = 2, func(t []byte) { t[11] ^= 0x40 } // the root is block 3
		case "items_path": // an SP-GiST leaf tuple
			retarget, beyond, flip = func(t []byte) { t[10] ^= 1 }, func(t []byte) { t[11] = 3 }, func(t []byte) { t[17] ^= 0x40 }
		}
		all = append(all,
			indexDamage{name: index + " entry lost", relation: "lab." + index, block: block, change: pgtest.DropItem(4), found: found},
			indexDamage{name: index + " entry doubled", relation: "lab." + index, block: block, change: pgtest.DoubleItem(4), found: found},
			indexDamage{name: index + " entry retargeted", relation: "lab." + index, block: block, change: pgtest.Tuple(4, retarget), found: found},
			indexDamage{name: index + " entry of no row", relation: "lab." + index, block: block, change: pgtest.Tuple(4, beyond), found: found},
			indexDamage{name: index + " key flipped", relation: "lab." + index, block: block, change: pgtest.Tuple(4, flip), found: found},
		)
	}
	for _, index := range []string{"items_pkey", "items_code", "items_token", "items_path", "items_tags", "items_area", "items_day"} {
		found := []string{index}
		all = append(all,
			indexDamage{name: index + " root or meta page zeroed", relation: "lab." + index, block: 0, change: pgtest.Zero, found: found},
			indexDamage{name: index + " page zeroed", relation: "lab." + index, block: 2, change: pgtest.Zero, found: found},
			indexDamage{name: index + " cut", relation: "lab." + index, file: func(r, _ pgtest.Relation) error { return r.Truncate(r.Blocks / 3) }, found: found},
			indexDamage{name: index + " old copy", relation: "lab." + index, sql: "INSERT INTO lab.items SELECT id + 100000, code || 'x', token || 'y', path || 'z', ARRAY[id + 100000], words, doc, box(point(-id, 0), point(0, 0)), int4range(-id, 5), day + 1000, kind, memo FROM lab.items WHERE id < 500", old: func(r pgtest.Relation, old []byte) error { return r.Restore(old) }, found: found},
		)
	}
	return all
}

// labServer starts a server with the lab as a template.
func labServer(t *testing.T, options ...pgtest.Option) *pgtest.Server {
	t.Helper()
	server := pgtest.Start(t, options...)
	server.MustExec(t, "postgres", "CREATE DATABASE lab")
	for statement := range strings.SplitSeq(strings.TrimSpace(lab), ";\n") {
		server.MustExec(t, "lab", statement)
	}
	server.MustExec(t, "lab", "VACUUM lab.items")
	return server
}

func labScope() []check.RelationName {
	return []check.RelationName{{Schema: "lab", Name: "items"}, {Schema: "lab", Name: "long"}}
}

// TestIndexDamage damages the files of a table and of indexes of every access
// method, each kind in a database of its own.
func TestIndexDamage(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		server := labServer(t, pgtest.Version(major), pgtest.Checksums())
		healthy := sweep(t, server, check.Options{Databases: []string{"lab"}, Relations: labScope(), Deep: true})
		if len(healthy.Findings) > 0 || healthy.ExitCode() != check.ExitClean {
			t.Fatalf("a healthy lab: %+v %+v", healthy.Findings, healthy.Checks)
		}
		kinds := indexDamages()
		kinds = share(kinds, major)
		damageLab(t, server, kinds)
		for _, d := range kinds {
			t.Run(d.name, func(t *testing.T) {
				server.AwaitAccepting(t)
				document := sweep(t, server, check.Options{Checks: named(t, "page", "heap", "btree", "visibility", "index", "constraint", "toast"), Databases: []string{d.database}, Relations: labScope()})
				requireOneOf(t, document, d)
			})
		}
	})
}

// share is a part of the kinds, another one on each version: together the
// versions have all. PGTEST_LAB=full gives every version all of them.
func share(kinds []indexDamage, major int) []indexDamage {
	parts := len(pgtest.Supported())
	switch {
	case os.Getenv("PGTEST_LAB") == "full":
		parts = 1
	case testing.Short():
		parts = 8
	}
	var mine []indexDamage
	for n, d := range kinds {
		if n%parts == major%parts && major >= d.since {
			mine = append(mine, d)
		}
	}
	return mine
}

// damageLab makes a database for each kind and damages it with the server down.
func damageLab(t *testing.T, server *pgtest.Server, kinds []indexDamage) {
	t.Helper()
	type edit struct {
		indexDamage

		relation, other pgtest.Relation
		before          []byte
	}
	var edits []edit
	for n := range kinds {
		d := &kinds[n]
		d.database = fmt.Sprintf("lab%d", n)
		server.MustExec(t, "postgres", "CREATE DATABASE "+d.database+" TEMPLATE lab")
		name := d.relation
		if name == "toast" {
			if err := server.Query(t.Context(), d.database, "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'lab.long'::regclass", &name); err != nil {
				t.Fatal(err)
			}
		}
		e := edit{indexDamage: *d, relation: server.MustRelation(t, d.database, name)}
		if d.other != "" {
			e.other = server.MustRelation(t, d.database, d.other)
		}
		if d.sql != "" {
			var err error
			if e.before, err = e.relation.Copy(); err != nil {
				t.Fatal(err)
			}
			server.MustExec(t, d.database, d.sql)
			if d.old != nil {
				server.MustExec(t, d.database, "VACUUM lab.items")
			}
			e.relation = server.MustRelation(t, d.database, name)
		}
		edits = append(edits, e)
	}
	server.WhileDown(t, func() error {
		var failed error
		for _, e := range edits {
			var err error
			switch {
			case e.old != nil:
				err = e.old(e.relation, e.before)
			case e.file != nil:
				err = e.file(e.relation, e.other)
			default:
				err = e.relation.EditValid(e.block, e.change)
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", e.name, err))
			}
		}
		return failed
	})
}

func requireOneOf(t *testing.T, document check.Document, d indexDamage) {
	t.Helper()
	by := make(map[string]bool)
	for _, f := range document.Findings {
		named := slices.ContainsFunc(d.found, func(name string) bool {
			return f.Relation == name || name == "pg_toast" && strings.HasPrefix(f.Relation, name)
		})
		if named && f.Severity != check.SeverityInfo {
			by[f.Check] = true
		}
	}
	var text strings.Builder
	if err := document.WriteText(&text, false, 0); err != nil {
		t.Fatal(err)
	}
	if len(by) == 0 {
		t.Errorf("damage to %v was not found:\n%s", d.found, text.String())
		return
	}
	t.Logf("found by %v", slices.Sorted(maps.Keys(by)))
}
