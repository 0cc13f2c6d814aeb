package page_test

import (
	"maps"
	"math/rand/v2"
	"os"
	"testing"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// kinds are relations with every kind of page.
var kinds = map[string]page.Kind{
	"t": page.Heap, "s": page.Sequence, "t_btree": page.Btree, "t_hash": page.Hash, "t_gist": page.Gist,
	"t_gin": page.Gin, "t_spgist": page.Spgist, "t_brin": page.Brin,
}

const kindsSQL = `CREATE TABLE t (i int, p point, a int[], n numeric, j jsonb, d timestamptz, v text);
	INSERT INTO t SELECT g, point(g % 97, g), ARRAY[g, g % 20], g * 1.7, '{"a": [1, 2]}', now(), CASE WHEN g % 5 = 0 THEN NULL ELSE repeat(md5(g::text), 3) END FROM generate_series(1, 3000) g;
	CREATE INDEX t_btree ON t (v, n); CREATE INDEX t_hash ON t USING hash (i); CREATE INDEX t_gist ON t USING gist (p);
	CREATE INDEX t_gin ON t USING gin (a); CREATE INDEX t_spgist ON t USING spgist (p); CREATE INDEX t_brin ON t USING brin (i);
	ALTER TABLE t ALTER v SET STORAGE EXTERNAL; UPDATE t SET v = repeat(v, 50) WHERE i % 11 = 0; CREATE SEQUENCE s; UPDATE t SET i = i + 1 WHERE i % 3 = 0; DELETE FROM t WHERE i % 7 = 0`

// columns describes the columns of t, of its TOAST table and of t_btree.
func columns(kind page.Kind, chunks bool) []page.Column {
	of := func(length int16, align byte, oid uint32) page.Column {
		return page.NewColumn(length, align, &page.Type{OID: oid, Kind: 'b', Length: length, Align: align}, true)
	}
	number, text, numeric := of(4, 'i', 23), of(-1, 'i', 25), of(-1, 'i', 1700)
	switch {
	case chunks:
		return []page.Column{of(4, 'i', 26), number, of(-1, 'i', 17)}
	case kind == page.Heap:
		numbers := &page.Type{OID: 1007, Kind: 'b', Of: 23, Element: &page.Type{OID: 23, Kind: 'b', Length: 4, Align: 'i'}}
		return []page.Column{number, of(16, 'd', 600), page.NewColumn(-1, 'i', numbers, true), numeric, of(-1, 'i', 3802), of(8, 'd', 1184), text}
	case kind == page.Btree:
		return []page.Column{text, numeric}
	case kind == page.Gist:
		return []page.Column{of(32, 'd', 603)}
	case kind == page.Gin:
		return []page.Column{number}
	}
	return nil
}

// look asks everything of a page that can be asked; what it is full of must not
// matter.
func look(p []byte, block uint32, kind page.Kind, chunks bool) string {
	relation := &page.Relation{
		Kind: kind, Blocks: 1000, Keys: 1, Columns: columns(kind, chunks), HasToast: true, Chunks: chunks,
		XIDs: &page.XIDs{Next: 100000, Oldest: 700, NextMulti: 10, OldestMulti: 1, Status: func(xid uint32) page.Status { return page.Status(xid % 4) }},
	}
	problem := page.Problem(p, block, relation)
	if problem == "" {
		page.Entries(p, kind, func(page.TID) {})
		relation.Links(p, func(uint32) {})
		switch kind {
		case page.Heap:
			page.Targets(p)
			page.Digest(p, new([page.Size]byte))
		case page.Btree:
			page.BtreeChildren(p, func(_, _ uint32) {})
			page.BtreeHighKey(p)
		default:
		}
	}
	return problem
}

// TestGarbage changes real pages at random, thousands of times: the exporter
// must survive whatever is on a disk.
func TestGarbage(t *testing.T) {
	t.Parallel()
	rounds := 3000
	if testing.Short() {
		rounds = 500
	}
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", kindsSQL)
	random := rand.New(rand.NewPCG(3, 4))
	var toast string
	if err := server.Query(t.Context(), "postgres", "SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 't'", &toast); err != nil {
		t.Fatal(err)
	}
	names := maps.Clone(kinds)
	names[toast] = page.Heap
	for name, kind := range names {
		relation := server.MustRelation(t, "postgres", name)
		content, err := os.ReadFile(relation.Path)
		if err != nil {
			t.Fatal(err)
		}
		noticed := 0
		for range rounds {
			block := random.Uint32N(relation.Blocks)
			p := append([]byte(nil), content[block*page.Size:(block+1)*page.Size]...)
			change(p, random)
			if look(p, block, kind, name == toast) != "" {
				noticed++
			}
		}
		if noticed < rounds/50 {
			t.Errorf("%s: only %d of %d changes are noticed", name, noticed, rounds)
		}
		t.Logf("%s: %d of %d changes are noticed without a checksum", name, noticed, rounds)
	}
}

// change damages a page in one of the ways in which pages are damaged.
func change(p []byte, random *rand.Rand) {
	at := random.IntN(len(p))
	switch random.IntN(6) {
	case 0: // a bit
		p[at] ^= 1 << random.IntN(8)
	case 1: // a few bytes
		for i := at; i < min(at+4, len(p)); i++ {
			p[i] = byte(random.Uint32())
		}
	case 2: // a sector of zeroes
		clear(p[at&^511 : at&^511+512])
	case 3: // a sector of something else
		for i := range 512 {
			p[at&^511+i] = byte(random.Uint32())
		}
	case 4: // the header or the special space
		p[random.IntN(24)] = byte(random.Uint32())
		p[len(p)-1-random.IntN(16)] = byte(random.Uint32())
	case 5: // a line pointer or what is behind
		p[24+random.IntN(400)] = byte(random.Uint32())
	}
}

// FuzzProblem looks at pages of any content.
func FuzzProblem(f *testing.F) {
	f.Add(make([]byte, page.Size), uint32(1), 1)
	f.Fuzz(func(_ *testing.T, content []byte, block uint32, kind int) {
		p := make([]byte, page.Size)
		copy(p, content)
		look(p, block, page.Kind(kind), block%2 == 1)
	})
}
