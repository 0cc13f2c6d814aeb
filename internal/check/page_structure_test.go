package check

import (
	"math/rand/v2"
	"os"
	"testing"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// TestStructureGarbage changes pages of real indexes at random: of those that seem
// sane alone nothing may be too strange to be compared, and the untouched ones
// agree.
func TestStructureGarbage(t *testing.T) {
	t.Parallel()
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	server := pgtest.Start(t)
	server.MustExec(t, "postgres", `CREATE TABLE t (i int, p point, a int[], s text);
		INSERT INTO t SELECT g, point(g % 97, g), ARRAY[g, g % 2], md5(g::text) FROM generate_series(1, 20000) g;
		CREATE INDEX btree ON t (s); CREATE INDEX hash ON t USING hash ((i % 500)); CREATE INDEX gist ON t USING gist (p);
		CREATE INDEX gin ON t USING gin (a); CREATE INDEX spgist ON t USING spgist (s); CREATE INDEX quad ON t USING spgist (p);
		CREATE INDEX brin ON t USING brin (i) WITH (pages_per_range = 1);
		INSERT INTO t SELECT g, point(g % 97, g), ARRAY[g, g % 2], md5(g::text) FROM generate_series(20001, 20100) g`)
	server.MustExec(t, "postgres", "CHECKPOINT")
	random := rand.New(rand.NewPCG(5, 6))
	for name, kind := range map[string]page.Kind{
		"btree": page.Btree, "hash": page.Hash, "gist": page.Gist, "gin": page.Gin, "spgist": page.Spgist, "quad": page.Spgist, "brin": page.Brin,
	} {
		r := server.MustRelation(t, "postgres", name)
		content, err := os.ReadFile(r.Path)
		if err != nil {
			t.Fatal(err)
		}
		told := 0
		look := func(content []byte) {
			relation := page.Relation{Kind: kind, Blocks: r.Blocks}
			s := newStructure(&relation, r.Blocks)
			for block := range r.Blocks {
				if p := content[block*page.Size : (block+1)*page.Size]; !page.IsNew(p) && page.Problem(p, block, &relation) == "" {
					s.note(p, block)
				}
			}
			s.problems(true, func(string, uint32, ...uint32) { told++ })
		}
		if look(content); told > 0 {
			t.Errorf("%s: %d problems before the damage", name, told)
		}
		for range rounds {
			damaged := append([]byte(nil), content...)
			for range 1 + random.IntN(20) {
				p := damaged[random.Uint32N(r.Blocks)*page.Size:][:page.Size]
				at := []int{random.IntN(64), page.Size - 1 - random.IntN(16), random.IntN(page.Size)}[random.IntN(3)]
				p[at] = byte(random.Uint32() >> random.IntN(8))
			}
			look(damaged)
		}
		t.Logf("%s: %d problems in %d rounds", name, told, rounds)
	}
}
