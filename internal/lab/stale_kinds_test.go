package lab_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// Writes that never came to the disk: what was there before is put back, page by page
// or as a whole file, whole and valid in itself.

// change is what is written to a unit after its files were copied.
type change struct{ name, sql string }

const indexedRows = `SELECT g, g * 3, g %% 2 = 0, g * 1.25, '2026-01-01'::timestamptz + g * interval '1 min', '2026-01-01'::date + g %% 1000,
	md5(g::text), jsonb_build_object('a', g %% 100), int4range(g, g + 10), point(g %% 97, g), g * 1000000000::bigint, g %% 100, ARRAY[g %% 3, g] FROM generate_series(%d, %d) g`

// changesOf are the changes of a unit's table.
func changesOf(table string) []change {
	switch table {
	case "t":
		insert := "INSERT INTO t " + indexedRows
		moved := "UPDATE t SET id = id + 9000, k = k + 90000, b = true, d = d + 9000, txt = md5(k::text || 'x'), j = jsonb_build_object('a', k), r = int4range(k + 90000, k + 90005), pt = point(k, 500), big = big + 5, small = small + 200, n = n + 5000 WHERE id % 10 = 0"
		return []change{
			{"a few rows inserted", fmt.Sprintf(insert, 1501, 1510)},
			{"many rows inserted", fmt.Sprintf(insert, 1501, 3000)},
			{"rows updated", moved},
			{"rows updated and vacuumed", moved + ";\nVACUUM t"},
			{"rows deleted", "DELETE FROM t WHERE id % 10 = 0"},
			{"rows deleted and vacuumed", "DELETE FROM t WHERE id % 10 = 0;\nVACUUM t"},
			{"rows deleted, vacuumed and others inserted", "DELETE FROM t WHERE id % 10 = 0;\nVACUUM t;\n" + fmt.Sprintf(insert, 1501, 1650)},
			{"columns without an index updated", "UPDATE t SET tags = ARRAY[7] WHERE id % 50 = 0"},
		}
	case "keys":
		return []change{
			{"rows inserted", "INSERT INTO keys SELECT g, ARRAY[1, g] FROM generate_series(30001, 30400) g"},
			{"rows updated", "UPDATE keys SET id = id + 50000, tags = ARRAY[2, id] WHERE id % 10 = 0"},
			{"rows deleted and vacuumed", "DELETE FROM keys WHERE id % 10 = 0;\nVACUUM keys"},
			{"pending list emptied", "VACUUM keys"},
		}
	case "bare", "twin", "busy", "unlogged":
		return []change{
			{"rows inserted", "INSERT INTO " + table + " SELECT g, 'new' || g FROM generate_series(50001, 50100) g"},
			{"rows updated", "UPDATE " + table + " SET v = 'changed' WHERE id % 10 = 0"},
			{"keys updated", "UPDATE " + table + " SET id = id + 70000 WHERE id % 10 = 0"},
			{"rows deleted", "DELETE FROM " + table + " WHERE id % 10 = 0"},
			{"rows deleted and vacuumed", "DELETE FROM " + table + " WHERE id % 10 = 0;\nVACUUM " + table},
			{"frozen", "VACUUM (FREEZE) " + table},
		}
	case "docs":
		return []change{
			{"a value updated", "UPDATE docs SET external = repeat('new', 3000) WHERE id = 5"},
			{"values updated", "UPDATE docs SET external = repeat(md5(id::text || 'x'), 200) WHERE id % 4 = 0"},
			{"rows inserted", "INSERT INTO docs SELECT g, repeat(md5(g::text), 200), 'x', 'y' FROM generate_series(101, 110) g"},
			{"rows deleted and vacuumed", "DELETE FROM docs WHERE id % 4 = 0;\nVACUUM docs"},
		}
	case "numbers":
		return []change{{"numbers drawn", "SELECT nextval('numbers') FROM generate_series(1, 500)"}}
	}
	panic("no changes of " + table)
}

// staleKinds puts older files and pages back.
func staleKinds() []kind {
	var kinds []kind
	indexes := []string{"plain_unique", "plain_text", "plain_partial", "plain_expression", "plain_include", "plain_same", "plain_desc", "plain_hash", "plain_gist", "plain_point", "plain_spgist", "plain_quad", "plain_gin", "plain_brin", "plain_inclusion"}
	of := func(unit, table string, relations ...string) {
		for _, c := range changesOf(table) {
			for _, relation := range relations {
				for how, do := range map[string]func(r pgtest.Relation, old []byte) error{
					"whole file": wholeStale, "first page that changed": firstStale, "last page that changed": lastStale, "every other page": everyOtherStale,
				} {
					kinds = append(kinds, kind{
						area: "stale", name: fmt.Sprintf("%s, %s: %s is old", relation, c.name, how), unit: unit, later: c.sql, want: []string{"*"},
						do: func(v *victim) error {
							r := v.relation(relation)
							return do(r, v.old[r.Path])
						},
					})
				}
			}
			for _, relation := range relations {
				for _, fork := range []string{"_vm", "_fsm"} {
					if relation == table {
						kinds = append(kinds, kind{area: "stale", name: fmt.Sprintf("%s%s, %s: whole file is old", relation, fork, c.name), unit: unit, later: c.sql, want: []string{"*"}, do: func(v *victim) error {
							path := v.relation(relation).Path + fork
							old, known := v.old[path]
							now, err := os.ReadFile(path)
							if err != nil || !known || bytes.Equal(old, now) {
								return errNoPage
							}
							return os.WriteFile(path, old, 0o600)
						}})
					}
				}
			}
		}
	}
	for _, index := range indexes {
		of(unitOf(index), "t", index)
	}
	of(unitOf("plain_unique"), "t", "t") // every other index has its own damage only
	of(unitOf("keys_hash"), "keys", "keys", "keys_hash")
	of(unitOf("keys_gin"), "keys", "keys_gin")
	of(unitOf("bare"), "bare", "bare")
	of(unitOf("twin"), "twin", "twin", "twin_a")
	of(unitOf("busy"), "busy", "busy", "busy_id")
	of(unitOf("docs"), "docs", "docs", "docs_pkey", "docs toast", "docs toast index")
	of(unitOf("numbers"), "numbers", "numbers")
	slices.SortFunc(kinds, func(a, b kind) int { return strings.Compare(a.name, b.name) }) // a map has no order, and a sample needs one
	return kinds
}

// stalePages are the pages whose contents differ from those of an old copy in more
// than their hints: their LSN is another.
func stalePages(r pgtest.Relation, old []byte) (blocks []uint32) {
	content, err := r.Copy()
	if err != nil {
		return nil
	}
	for block := range min(len(content), len(old)) / page.Size {
		now, before := content[block*page.Size:][:page.Size], old[block*page.Size:][:page.Size]
		if !bytes.Equal(now[:8], before[:8]) {
			blocks = append(blocks, uint32(block))
		}
	}
	return blocks
}

func putPages(r pgtest.Relation, old []byte, blocks ...uint32) error {
	if len(blocks) == 0 {
		return errNoPage
	}
	for _, block := range blocks {
		if err := r.RestorePage(block, old); err != nil {
			return err
		}
	}
	return nil
}

func wholeStale(r pgtest.Relation, old []byte) error {
	if len(stalePages(r, old)) == 0 && len(old) == int(r.Blocks)*page.Size {
		return errNoPage
	}
	return r.Restore(old)
}

func firstStale(r pgtest.Relation, old []byte) error {
	blocks := stalePages(r, old)
	return putPages(r, old, blocks[:min(len(blocks), 1)]...)
}

func lastStale(r pgtest.Relation, old []byte) error {
	blocks := stalePages(r, old)
	return putPages(r, old, blocks[max(len(blocks)-1, 0):]...)
}

func everyOtherStale(r pgtest.Relation, old []byte) error {
	blocks := stalePages(r, old)
	if len(blocks) < 2 {
		return errNoPage
	}
	var some []uint32
	for i := 0; i < len(blocks); i += 2 {
		some = append(some, blocks[i])
	}
	return putPages(r, old, some...)
}
