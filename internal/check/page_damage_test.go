package check_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// pageTable is what each kind of damage of TestPageDamage has for itself: rows
// that no VACUUM has seen.
const pageTable = `CREATE TABLE t (id int, paid bool, amount numeric, at timestamptz, memo text, tags int[]) WITH (autovacuum_enabled = off);
	ALTER TABLE t ALTER memo SET STORAGE EXTERNAL;
	INSERT INTO t SELECT g, true, g * 1.5, '2026-01-01', repeat('x', 40), ARRAY[g, g % 50] FROM generate_series(1, 1000) g;
	CREATE INDEX t_id ON t (id);`

// hotTable has rows that were updated in place.
const hotTable = `CREATE TABLE h (i int, v text) WITH (fillfactor = 50, autovacuum_enabled = off);
	INSERT INTO h SELECT g, 'v' || g FROM generate_series(1, 500) g; UPDATE h SET v = v || 'x' WHERE i % 10 = 5`

// treeTable is large enough for indexes of several levels.
const treeTable = `CREATE TABLE m (i int, a int[], s text) WITH (autovacuum_enabled = off);
	INSERT INTO m SELECT g, ARRAY[g, g % 2], md5(g::text) FROM generate_series(1, 20000) g; CREATE INDEX i ON m USING `

// tree damages the first page of an index that fits.
func tree(name, method, says string, fits func(p []byte, block uint32) bool, change func(p []byte)) pageDamage {
	return pageDamage{name: name, more: treeTable + method, relation: "i", at: anywhere, found: "i", says: says, file: func(t *testing.T, r pgtest.Relation) {
		content, err := r.Copy()
		if err != nil {
			t.Error(err)
		}
		for block := range r.Blocks {
			if fits(content[block*page.Size:(block+1)*page.Size], block) {
				if err := r.EditValid(block, change); err != nil {
					t.Error(err)
				}
				return
			}
		}
		t.Errorf("%s: no such page", name)
	}}
}

// treeDamages break what several pages of an index say of each other.
func treeDamages() []pageDamage {
	const size = page.Size
	u16 := func(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
	is := func(block uint32) func([]byte, uint32) bool {
		return func(_ []byte, b uint32) bool { return b == block }
	}
	gin := func(flags uint16) func([]byte, uint32) bool {
		return func(p []byte, _ uint32) bool { return u16(p[size-2:]) == flags && u16(p[size-8:]) != 0xffff }
	}
	spgistLeaf := func(p []byte, block uint32) bool { return block > 2 && u16(p[size-8:])&4 != 0 }
	swapLinks := func(p []byte) {
		a, b := item(p, 3), item(p, 4)
		var link [4]byte
		copy(link[:], a)
		copy(a[:4], b[:4])
		copy(b[:4], link[:])
	}
	return []pageDamage{
		tree("B-tree, links swapped", "btree (s)", "leads to", func(p []byte, block uint32) bool { return block > 0 && u16(p[size-4:]) == 0 }, swapLinks),
		tree("B-tree, not the root", "btree (s)", "the root is page", func(p []byte, block uint32) bool { return block > 0 && u16(p[size-4:]) == 2 }, func(p []byte) { p[size-4] = 0 }),
		tree("B-tree, split that is known", "btree (s)", "says that none does yet", is(1), func(p []byte) { p[size-4] |= 0x80 }),
		tree("B-tree, end of splits", "btree (s)", "ends a group of splits", func(p []byte, block uint32) bool { return block > 0 && u16(p[size-4:]) == 2 }, func(p []byte) { p[size-4] |= 32 }),
		tree("B-tree, flag of a deleted page", "btree (s)", "is deleted, but", is(2), func(p []byte) { p[size-3] |= 1 }),
		tree("B-tree, emptied", "btree (s)", "no upper bound", is(1), func(p []byte) { put16(p[12:], 24); put16(p[14:], size-16) }),
		tree("B-tree, emptied above", "btree (s)", "leads to no page", func(p []byte, block uint32) bool { return block > 0 && u16(p[size-4:]) == 2 }, func(p []byte) { put16(p[12:], 24); put16(p[14:], size-16) }),
		tree("GIN, root", "gin (a)", "not the root of the keys", is(1), func(p []byte) { p[size-2] |= 1 }),
		tree("B-tree, padding", "btree ((i::smallint))", "not zero", is(2), func(p []byte) { item(p, 4)[12] = 1 }),
		tree("B-tree, key above", "btree (s)", "upper bound", func(p []byte, block uint32) bool { return block > 0 && u16(p[size-4:]) == 2 }, func(p []byte) { item(p, 2)[9] ^= 1 }),
		tree("B-tree, upper bound", "btree (s)", "upper bound", is(2), func(p []byte) { item(p, 1)[9] ^= 1 }),
		tree("hash, number of a bucket", "hash (s)", "by the metapage is page", is(2), func(p []byte) { put32(p[size-8:], 0) }),
		tree("hash, padding", "hash (s)", "behind its hash code", is(2), func(p []byte) { item(p, 3)[13] = 1 }),
		tree("hash, growth to come", "hash (s)", "phase 60 of growth", is(0), func(p []byte) { p[24+52+4*60] = 1 }),
		tree("hash, bitmap", "hash ((i % 50))", "the bitmap says", func(p []byte, _ uint32) bool { return u16(p[size-4:]) == 4 }, func(p []byte) { p[24] ^= 2 }),
		tree("hash, end of the bitmap", "hash ((i % 50))", "does not exist yet", func(p []byte, _ uint32) bool { return u16(p[size-4:]) == 4 }, func(p []byte) { p[24+4000] ^= 4 }),
		tree("hash, growth", "hash (s)", "grew in phase", is(0), func(p []byte) { p[24+36]-- }),
		tree("GIN, links swapped", "gin (a)", "leads to", func(p []byte, block uint32) bool { return block == 1 && u16(p[size-2:]) == 0 }, swapLinks),
		tree("GIN, key twice", "gin (a)", "not higher than the one before", gin(2), func(p []byte) { copy(item(p, 6)[8:12], item(p, 5)[8:12]) }),
		tree("GIN, key of a text twice", "gin (string_to_array(left(s, 4), 'x'))", "not higher than the one before", gin(2), func(p []byte) { copy(item(p, 6)[8:13], item(p, 5)[8:13]) }),
		tree("GIN, order of keys", "gin (a)", "not higher than the one before", gin(2), func(p []byte) { item(p, 6)[11] ^= 0x80 }),
		tree("GIN, order of texts", "gin (to_tsvector('simple', s))", "not higher than the one before", gin(2), func(p []byte) { item(p, 6)[10] = '!' }),
		tree("GIN, last key of a page", "gin (a)", "keys", gin(2), func(p []byte) { item(p, int(u16(p[12:])-24)/4)[11] ^= 0x40 }),
		tree("GIN, key above", "gin (a)", "keys", func(p []byte, block uint32) bool { return block == 1 && u16(p[size-2:]) == 0 }, func(p []byte) { item(p, 2)[8]-- }),
		tree("GIN, dead line pointer", "gin (a)", "line pointer is dead", gin(2), func(p []byte) { p[24+2] |= 1; p[24+1] |= 0x80 }),
		tree("GIN, padding", "gin (a)", "not zero", gin(2), func(p []byte) { item(p, 5)[13] = 8 }),
		tree("GIN, pages counted", "gin (a)", "had keys", is(0), func(p []byte) { put32(p[24+28:], 0) }),
		tree("GIN, split that is known", "gin (a)", "but that leads there", gin(131), func(p []byte) { p[size-2] |= 64 }),
		tree("GIN, end of links", "gin (a)", "but they end at", func(p []byte, _ uint32) bool { return u16(p[size-2:]) == 1 }, func(p []byte) { put16(p[12:], u16(p[12:])-4) }),
		tree("GIN, bound of rows", "gin (a)", "the page above says", gin(131), func(p []byte) { p[24+2]++ }),
		tree("GIN, order of rows", "gin (a)", "rows", gin(131), func(p []byte) { p[32+2]++ }),
		tree("GIN, list of pending entries", "gin (a); INSERT INTO m SELECT g, ARRAY[g], '' FROM generate_series(1, 100) g", "list of pending entries", is(0), func(p []byte) { p[24+16]++ }),
		tree("GiST, link doubled", "gist (point(i, i))", "lead", is(0), func(p []byte) { copy(item(p, 2)[:4], item(p, 1)[:4]) }),
		tree("GiST, split to come", "gist (point(i, i))", "was split at", is(0), func(p []byte) { p[size-16+2] = 1 }),
		tree("GiST, root that was split", "gist (point(i, i))", "split", is(0), func(p []byte) { p[size-16+4] = 1 }),
		tree("GiST, root to the right", "gist (point(i, i))", "to the right is the root", is(1), func(p []byte) { put32(p[size-8:], 0) }),
		tree("GiST, split without another half", "gist (point(i, i))", "none to its right", is(0), func(p []byte) { p[size-4] |= 8 }),
		tree("hash, several kinds at once", "hash (s)", "several kinds", is(2), func(p []byte) { p[size-4] |= 4 }),
		tree("hash, split alone", "hash (s)", "no other is being filled", is(2), func(p []byte) { p[size-4] |= 32 }),
		tree("hash, filled from none", "hash (s)", "is not being split", is(2), func(p []byte) { p[size-4] |= 16 }),
		tree("hash, bitmap of zeroes", "hash ((i % 50))", "lead to it", func(p []byte, _ uint32) bool { return u16(p[size-4:]) == 4 }, pgtest.Zero),
		tree("SP-GiST, dead line pointer", "spgist (s)", "line pointer is dead", spgistLeaf, func(p []byte) { p[24+2] |= 1; p[24+1] |= 0x80 }),
		tree("SP-GiST, tree of nulls", "spgist (s)", "tree of values", spgistLeaf, func(p []byte) { p[size-8] |= 8 }),
		tree("SP-GiST, page used last", "spgist (s)", "was used last", is(0), func(p []byte) { put32(p[24+4:], 0) }),
		tree("SP-GiST, bytes free", "spgist (s)", "was used last", is(0), func(p []byte) { put32(p[24+4:], 5); put32(p[24+8:], 9000) }),
		tree("SP-GiST, padding", "spgist (s)", "padding", spgistLeaf, func(p []byte) { item(p, 1)[13] = 1 }),
		tree("SP-GiST, chain", "spgist (s)", "chain", spgistLeaf, func(p []byte) { put16(item(p, 1)[4:], u16(item(p, 1)[4:])&0xc000|0x0aaa) }),
		tree("SP-GiST, link doubled", "spgist (point(i, i))", "lead", is(1), func(p []byte) {
			t := item(p, 1)
			first := t[8+u16(t[2:]):]
			copy(first[u16(first[6:])&0x1fff:][:6], first[:6])
		}),
		tree("SP-GiST, placeholders", "spgist (s)", "placeholders", spgistLeaf, func(p []byte) { p[size-4]++ }),
		tree("BRIN, range map", "brin (i) WITH (pages_per_range = 1)", "where there is none", is(1), func(p []byte) { p[24+4]++ }),
		tree("BRIN, page of the range map", "brin (i) WITH (pages_per_range = 1)", "lead to it", is(1), pgtest.Zero),
		tree("BRIN, padding of a summary", "brin (i) WITH (pages_per_range = 4)", "the values begin at", is(2), func(p []byte) { item(p, 2)[6] = 1 }),
		tree("BRIN, end of a summary", "brin (s) WITH (pages_per_range = 4)", "something is behind them", is(2), func(p []byte) { item(p, 2)[8] -= 8 }),
		{name: "BRIN, type of a range", more: "CREATE TABLE m (r int4range); INSERT INTO m SELECT int4range(g, g + 5) FROM generate_series(1, 1000) g; CREATE INDEX i ON m USING brin (r)", relation: "i", block: 2, at: 2, found: "i", says: "summary of column 1", change: func(p []byte) { item(p, 1)[10] ^= 8 }},
		tree("BRIN, flags of the range map", "brin (i)", "flags", is(1), func(p []byte) { p[size-4] = 1 }),
		tree("BRIN, range of a summary", "brin (i) WITH (pages_per_range = 4)", "pages from 5", is(2), func(p []byte) { item(p, 2)[0] = 5 }),
	}
}

// updatedInPlace is the first row of a page that was.
func updatedInPlace(p []byte) []byte {
	for n := 1; ; n++ {
		if t := item(p, n); t[19]&0x40 != 0 {
			return t
		}
	}
}

// pageDamage is one way to damage a relation, always with valid checksums, and
// what the check page must say of it.
type pageDamage struct {
	name string
	// more is SQL after pageTable, and vacuum a statement after that.
	more, vacuum string
	// relation is the damaged one, toast its TOAST table instead.
	relation string
	toast    bool
	block    uint32
	change   func(p []byte)
	file     func(t *testing.T, r pgtest.Relation)
	// found is the relation of the finding, and says is in its message.
	found, says string
	// at is the block of the finding; -1 is none.
	at int
}

// anywhere is any block.
const anywhere = -2

// item is the place of a line pointer's tuple.
func item(p []byte, number int) []byte {
	word := binary.LittleEndian.Uint32(p[24+4*(number-1):])
	return p[word&0x7fff : word&0x7fff+word>>17]
}

func put16(p []byte, value uint16) { binary.LittleEndian.PutUint16(p, value) }
func put32(p []byte, value uint32) { binary.LittleEndian.PutUint32(p, value) }

func pageDamages() []pageDamage {
	const size = 8192
	table := func(name, says string, change func(p []byte)) pageDamage {
		return pageDamage{name: name, relation: "t", block: 2, at: 2, found: "t", says: says, change: change}
	}
	index := func(name, method, says string, block uint32, change func(p []byte)) pageDamage {
		return pageDamage{name: name, more: "CREATE INDEX i ON t USING " + method, relation: "i", block: block, at: int(block), found: "i", says: says, change: change}
	}
	file := func(suffix string, change func(t *testing.T, path string)) func(*testing.T, pgtest.Relation) {
		return func(t *testing.T, r pgtest.Relation) { change(t, r.Path+suffix) }
	}
	bytesAt := func(offset int, content ...byte) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			r := pgtest.Relation{Path: path}
			if err := r.EditValid(0, func(p []byte) { copy(p[offset:], content) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	truncate := func(blocks uint32) func(*testing.T, pgtest.Relation) {
		return func(t *testing.T, r pgtest.Relation) {
			if err := r.Truncate(blocks); err != nil {
				t.Fatal(err)
			}
		}
	}
	const vacuum = "VACUUM t"
	return []pageDamage{
		table("row of a transaction to come", "has not begun yet", func(p []byte) { put32(item(p, 5), 4000000) }),
		table("row deleted by a transaction to come", "has not begun yet", func(p []byte) { put32(item(p, 5)[4:], 4000000); put16(item(p, 5)[20:], 0x0102) }),
		table("row made to be aborted", "a lost row", func(p []byte) { item(p, 5)[21] = item(p, 5)[21]&^3 | 2 }),
		table("row that points elsewhere", "says that it is at", func(p []byte) { put32(item(p, 5)[12:], 0xffff) }),
		table("padding of a column", "are not zero", func(p []byte) { item(p, 9)[39] = 1 }),
		table("padding of the head", "are not zero", func(p []byte) { item(p, 9)[23] = 1 }),
		table("moved to no partition", "moved to another partition", func(p []byte) { put32(item(p, 5)[12:], 0xffffffff); put16(item(p, 5)[16:], 0xfffd) }),
		table("length word", "length word says", func(p []byte) { item(p, 7)[48] = 0xff }),
		table("length word that fits", "column", func(p []byte) { item(p, 7)[48] -= 8 }),
		table("too few columns", "columns end at", func(p []byte) { item(p, 3)[18] = 4 }),
		table("too many columns", "has 9 columns", func(p []byte) { item(p, 3)[18] = 9 }),
		table("neither true nor false", "neither true nor false", func(p []byte) { item(p, 9)[28] = 7 }),
		table("zeroes in a text", "bytes of zero", func(p []byte) { clear(item(p, 9)[70:80]) }),
		table("no UTF-8", "not valid UTF-8", func(p []byte) { item(p, 9)[70] = 0xff }),
		table("impossible time", "timestamp is impossible", func(p []byte) { copy(item(p, 9)[40:48], []byte{0, 0, 0, 0, 0, 0, 0, 0x90}) }),
		table("first half zeroes", "page header", func(p []byte) { clear(p[:size/2]) }),
		table("second half zeroes", "line pointer", func(p []byte) { clear(p[size/2:]) }),
		table("heap-only without a root", "heap-only", func(p []byte) { item(p, 4)[19] |= 0x80; item(p, 4)[21] |= 0x20 }),
		table("redirect to nothing", "redirects to", func(p []byte) { put32(p[24:], 200|2<<15) }),
		table("line pointer lost", "belong to no line pointer", func(p []byte) { put32(p[24+16:], 0) }),
		table("moved by VACUUM FULL", "VACUUM FULL", func(p []byte) { item(p, 5)[21] |= 0x80 }),
		table("contradictory xmax", "at once", func(p []byte) { item(p, 5)[21] |= 0x04 }),
		{name: "new version elsewhere", more: hotTable, relation: "h", at: 0, found: "h", says: "is not its successor", change: func(p []byte) { put16(updatedInPlace(p)[16:], 1) }},
		{name: "new version on another page", more: hotTable, relation: "h", at: 0, found: "h", says: "is not its successor", change: func(p []byte) { put16(updatedInPlace(p)[14:], 3) }},
		{name: "compressed value", more: "ALTER TABLE t ALTER memo SET STORAGE MAIN; UPDATE t SET memo = repeat('abcdefgh', 600) WHERE id < 400", relation: "t", block: 18, at: 18, found: "t", says: "breaks off", change: func(p []byte) { item(p, 1)[52]-- }},
		{name: "page of another place", relation: "t", at: 2, found: "t", says: "says that it is at", file: func(t *testing.T, r pgtest.Relation) {
			content, err := r.Copy()
			if err == nil {
				err = r.EditValid(2, func(p []byte) { copy(p, content[3*size:4*size]) })
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
		{name: "all zeroes without a map", relation: "t", block: 2, at: 2, found: "t", says: "rows are gone", change: pgtest.Zero},
		{name: "last page all zeroes", relation: "t", at: 10, found: "t", says: "rows are gone", file: func(t *testing.T, r pgtest.Relation) {
			if err := r.Edit(10, pgtest.Zero); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "cut at a page, index", relation: "t", file: truncate(8), at: 8, found: "t", says: "the rest of the table is gone"},
		{name: "cut at a page, map", more: "DROP INDEX t_id", vacuum: vacuum, relation: "t", file: truncate(8), at: 8, found: "t", says: "the rest of the table is gone"},
		{name: "rows gone from a page", relation: "t", block: 2, at: 2, found: "t", says: "belong to no line pointer", change: func(p []byte) { put16(p[12:], binary.LittleEndian.Uint16(p[12:])-40) }},
		{name: "deleted on a page that everybody sees", vacuum: vacuum, relation: "t", block: 2, at: 2, found: "t", says: "everybody", change: func(p []byte) { copy(item(p, 5)[4:8], item(p, 5)); put16(item(p, 5)[20:], 0x0502) }},
		{name: "pointer to another TOAST table", more: "UPDATE t SET memo = repeat('y', 5000) WHERE id < 100", relation: "t", block: 16, at: 16, found: "t", says: "TOAST", change: func(p []byte) { put32(item(p, 1)[62:], 77777) }},
		{name: "chunk of TOAST", more: "UPDATE t SET memo = repeat('y', 5000) WHERE id < 100", relation: "t", toast: true, block: 1, at: 1, found: "pg_toast", says: "chunk", change: func(p []byte) { item(p, 2)[31] = 0x80 }},

		{name: "B-tree, neighbour", relation: "t_id", block: 2, at: 2, found: "t_id", says: "the page to its", change: func(p []byte) { put32(p[size-12:], 1) }},
		{name: "B-tree, level", relation: "t_id", block: 2, at: 2, found: "t_id", says: "level", change: func(p []byte) { put32(p[size-8:], 1) }},
		{name: "B-tree, link to nowhere", relation: "t_id", block: 2, at: 2, found: "t_id", says: "but the index has", change: func(p []byte) { put32(p[size-12:], 99999) }},
		{name: "B-tree, metapage", relation: "t_id", block: 0, at: 0, found: "t_id", says: "magic number", change: func(p []byte) { p[24] = 0 }},
		{name: "B-tree, root on another level", relation: "t_id", block: 0, at: 3, found: "t_id", says: "the metapage says", change: func(p []byte) { put32(p[24+12:], 2) }},
		{name: "B-tree, page of zeroes", relation: "t_id", block: 2, at: 2, found: "t_id", says: "all zeroes", change: pgtest.Zero},
		{name: "B-tree, size of an entry", relation: "t_id", block: 2, at: 2, found: "t_id", says: "index tuple", change: func(p []byte) { item(p, 4)[6] = 24 }},
		{name: "B-tree, entry of no row", relation: "t_id", block: 2, at: 2, found: "t_id", says: "which is not there", change: func(p []byte) { put16(item(p, 4)[4:], 250) }},
		{name: "B-tree, cut", relation: "t_id", file: truncate(3), at: 0, found: "t_id", says: "but the index has 3 pages"},
		{name: "B-tree, empty", relation: "t_id", file: truncate(0), at: -1, found: "t_id", says: "is empty"},
		index("hash, metapage", "hash (id)", "masks", 0, func(p []byte) { put32(p[24+24:], 500) }),
		index("hash, highest bucket", "hash (id)", "split last", 1, func(p []byte) { put32(p[size-16:], 8) }),
		index("hash, bucket", "hash (id)", "bucket", 1, func(p []byte) { put32(p[size-8:], 8) }),
		index("hash, order", "hash (id)", "out of order", 1, func(p []byte) { put32(item(p, 2)[8:], 0) }),
		index("GIN, flags", "gin (tags)", "unknown flags", 1, func(p []byte) { p[size-1] = 0x40 }),
		index("GIN, kind of page", "gin (tags)", "metapage", 0, func(p []byte) { p[size-2] = 2 }),
		index("GiST, entry of no row", "gist (point(id, id))", "which cannot be", 1, func(p []byte) { put16(item(p, 4)[4:], 0x3ff) }),
		index("GiST, page of another kind", "gist (point(id, id))", "not a page of this kind", 1, func(p []byte) { p[size-2] = 0x80 }),
		index("SP-GiST, size of an entry", "spgist (point(id, id))", "tuple", 1, func(p []byte) { item(p, 1)[4] += 8; item(p, 1)[1] ^= 0x10 }),
		index("BRIN, metapage", "brin (id)", "range has 0 pages", 0, func(p []byte) { put32(p[24+8:], 0) }),
		index("BRIN, range map", "brin (id)", "page of range", 1, func(p []byte) { put32(p[24:], 77) }),

		{name: "sequence, page of zeroes", more: "CREATE SEQUENCE s", relation: "s", at: 0, found: "s", says: "all zeroes", change: pgtest.Zero},
		{name: "sequence, called", more: "CREATE SEQUENCE s", relation: "s", at: 0, found: "s", says: "is_called", change: func(p []byte) { item(p, 1)[24+16] = 5 }},
		{name: "sequence, empty", more: "CREATE SEQUENCE s", relation: "s", file: truncate(0), at: -1, found: "s", says: "is empty"},
		{name: "map, frozen but not visible", vacuum: vacuum, relation: "t", at: -1, found: "t", says: "all-frozen", file: file("_vm", bytesAt(24, 0xaa))},
		{name: "map, header", vacuum: vacuum, relation: "t", at: -1, found: "t", says: "page 0 of the visibility map", file: file("_vm", bytesAt(19, 0x10))},
		{name: "map, cut", vacuum: vacuum, relation: "t", at: -1, found: "t", says: "ends in the middle of page 0", file: file("_vm", func(t *testing.T, path string) {
			if err := os.Truncate(path, 5000); err != nil {
				t.Fatal(err)
			}
		})},
		{name: "free space map, line pointers", vacuum: vacuum, relation: "t", at: -1, found: "t", says: "has line pointers", file: file("_fsm", bytesAt(12, 100))},
		{name: "free space map, header", vacuum: vacuum, relation: "t", at: -1, found: "t", says: "page 0 of the free space map", file: file("_fsm", bytesAt(10, 0xff))},
		{name: "unlogged, zeroes", more: "CREATE UNLOGGED TABLE u (i int, a int[]); CREATE INDEX u_a ON u USING gin (a)", relation: "u_a", at: -1, found: "u_a", says: "it is all zeroes", file: file("_init", func(t *testing.T, path string) {
			if err := errors.Join(os.Truncate(path, page.Size), os.Truncate(path, 2*page.Size)); err != nil {
				t.Fatal(err)
			}
		})},
		{name: "unlogged, not empty", more: "CREATE UNLOGGED TABLE u (i int)", relation: "u", at: -1, found: "u", says: "from an empty one", file: file("_init", func(t *testing.T, path string) {
			if err := os.Truncate(path, page.Size); err != nil {
				t.Fatal(err)
			}
		})},
		{name: "unlogged, no way back", more: "CREATE UNLOGGED TABLE u (i int PRIMARY KEY)", relation: "u_pkey", at: -1, found: "u_pkey", says: "cannot be made anew", file: file("_init", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		})},
	}
}

// TestPageDamage damages one relation for each kind of damage, all in one
// database, and sweeps it once.
func TestPageDamage(t *testing.T) {
	t.Parallel()
	pgtest.EachVersion(t, func(t *testing.T, major int) {
		for _, checksums := range []bool{true, false} {
			if !checksums && testing.Short() {
				continue
			}
			t.Run(fmt.Sprintf("checksums=%v", checksums), func(t *testing.T) {
				t.Parallel()
				testPageDamages(t, major, checksums)
			})
		}
	})
}

// summaryPageDamages break the summaries that BRIN indexes have since 14.
func summaryPageDamages() []pageDamage {
	is := func(_ []byte, block uint32) bool { return block == 2 }
	return []pageDamage{
		tree("BRIN, hash functions of a filter", "brin (i int4_bloom_ops) WITH (pages_per_range = 4)", "0 hash functions", is, func(p []byte) { clear(content(item(p, 2))[2:3]) }),
		tree("BRIN, size of a filter", "brin (i int4_bloom_ops) WITH (pages_per_range = 4)", "bits, but says", is, func(p []byte) { content(item(p, 2))[5] ^= 1 }),
		tree("BRIN, bits of a filter", "brin (i int4_bloom_ops) WITH (pages_per_range = 4)", "bits of its filter are set", is, func(p []byte) { content(item(p, 2))[9] ^= 4 }),
		tree("BRIN, ranges of a summary", "brin (i int4_minmax_multi_ops) WITH (pages_per_range = 4)", "do not have", is, func(p []byte) { content(item(p, 2))[4] ^= 1 }),
	}
}

// content is that of the value in a BRIN tuple of one column, behind its length.
func content(t []byte) []byte {
	if t[8]&1 == 1 {
		return t[9:]
	}
	return t[12:]
}

func testPageDamages(t *testing.T, major int, checksums bool) {
	options := []pgtest.Option{pgtest.Version(major)}
	if checksums {
		options = append(options, pgtest.Checksums())
	}
	server := pgtest.Start(t, options...)
	server.MustExec(t, "postgres", "CREATE DATABASE erp")
	damages := append(pageDamages(), treeDamages()...)
	if major >= 14 {
		damages = append(damages, summaryPageDamages()...)
	}
	relations := make([]pgtest.Relation, len(damages))
	var script strings.Builder
	for i, d := range damages {
		fmt.Fprintf(&script, "CREATE SCHEMA d%d; SET search_path = d%d; %s %s;\n", i, i, pageTable, d.more)
	}
	server.MustExec(t, "erp", script.String())
	for i, d := range damages {
		if d.vacuum != "" {
			server.MustExec(t, "erp", fmt.Sprintf("VACUUM d%d.t", i))
		}
	}
	for i, d := range damages {
		name := fmt.Sprintf("d%d.%s", i, d.relation)
		if d.toast {
			if err := server.Query(t.Context(), "erp", "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = $1::regclass", &name, name); err != nil {
				t.Fatal(err)
			}
		}
		relations[i] = server.MustRelation(t, "erp", name)
	}
	clean := sweep(t, server, check.Options{Checks: named(t, "page")})
	if len(clean.Findings) > 0 {
		t.Fatalf("findings before the damage: %+v", clean.Findings)
	}
	server.WhileDown(t, func() error {
		for i, d := range damages {
			if d.file != nil {
				d.file(t, relations[i])
			} else if err := relations[i].EditValid(d.block, d.change); err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
		}
		return nil
	})
	document := sweep(t, server, check.Options{Checks: named(t, "page")})
	byTable := make(map[string][]check.Finding)
	for _, f := range document.Findings {
		schema := f.Schema
		if schema == "pg_toast" {
			if err := server.Query(t.Context(), "erp", "SELECT relnamespace::regnamespace::text FROM pg_class WHERE reltoastrelid = ('pg_toast.' || $1)::regclass", &schema, f.Relation); err != nil {
				t.Fatal(err)
			}
		}
		byTable[schema] = append(byTable[schema], f)
	}
	for i, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			findings := byTable[fmt.Sprintf("d%d", i)]
			hit := false
			for _, f := range findings {
				block := -1
				if f.Block != nil {
					block = int(*f.Block)
				}
				if strings.HasPrefix(f.Relation, d.found) && (block == d.at || d.at == anywhere) && strings.Contains(f.Message, d.says) {
					hit = true
				}
			}
			if !hit {
				t.Errorf("not found, only %+v", findings)
			}
		})
	}
}
