package lab_test

import (
	"fmt"
	"strings"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

const size = page.Size

// role is a page of an index that is damaged.
type role struct {
	relation, name string
	fits           func(p []byte, block uint32) bool
}

func number(n uint32) func(p []byte, block uint32) bool {
	return func(_ []byte, block uint32) bool { return block == n }
}

func opaqueFlags(p []byte) uint16 { return u16(p[size-4:]) }

func roles() []role {
	btree := func(flags, mask uint16) func(p []byte, block uint32) bool {
		return func(p []byte, block uint32) bool { return block > 0 && opaqueFlags(p)&mask == flags }
	}
	gin := func(flags uint16) func(p []byte, block uint32) bool {
		return func(p []byte, block uint32) bool { return block > 0 && u16(p[size-2:])&31 == flags }
	}
	hash := func(flag uint16, full bool) func(p []byte, block uint32) bool {
		return func(p []byte, _ uint32) bool {
			return opaqueFlags(p)&15 == flag && (!full || len(pgtest.Items(p)) > 10)
		}
	}
	spgist := func(leaf bool) func(p []byte, block uint32) bool {
		return func(p []byte, block uint32) bool {
			return block > 0 && u16(p[size-8:])&4 != 0 == leaf && u16(p[size-8:])&8 == 0 && !page.IsNew(p) && len(pgtest.Items(p)) > 1
		}
	}
	return []role{
		{"lab.plain_text", "metapage", number(0)},
		{"lab.plain_text", "root", btree(2, 3)},
		{"lab.plain_text", "leaf", number(3)},
		{"lab.plain_same", "leaf with lists", number(1)},
		{"lab.small_pkey", "root and leaf", number(1)},
		{"lab.plain_include", "leaf", number(2)},
		{"lab.plain_unique", "leaf", number(4)},
		{"lab.plain_expression", "leaf", number(2)},
		{"lab.plain_partial", "leaf", number(2)},
		{"lab.plain_desc", "leaf", number(2)},
		{"lab.keys_hash", "metapage", number(0)},
		{"lab.keys_hash", "bucket", hash(2, true)},
		{"lab.keys_hash", "overflow page", hash(1, false)},
		{"lab.keys_hash", "bitmap", hash(4, false)},
		{"lab.plain_gist", "root", number(0)},
		{"lab.plain_gist", "leaf", number(2)},
		{"lab.plain_point", "leaf", number(2)},
		{"lab.plain_spgist", "metapage", number(0)},
		{"lab.plain_spgist", "root", number(1)},
		{"lab.plain_spgist", "leaf", spgist(true)},
		{"lab.plain_quad", "inner page", spgist(false)},
		{"lab.plain_quad", "leaf", spgist(true)},
		{"lab.keys_gin", "metapage", number(0)},
		{"lab.keys_gin", "entry root", number(1)},
		{"lab.keys_gin", "entry leaf", gin(2)},
		{"lab.keys_gin", "row tree leaf", gin(3)},
		{"lab.keys_gin", "row tree inner page", gin(1)},
		{"lab.keys_gin", "pending page", gin(16)},
		{"lab.plain_gin", "entry leaf", gin(2)},
		{"lab.plain_brin", "metapage", number(0)},
		{"lab.plain_brin", "range map", number(1)},
		{"lab.plain_brin", "summary page", number(2)},
		{"lab.plain_inclusion", "summary page", number(2)},
	}
}

// count of line pointers, from the middle of which one is damaged.
func middle(p []byte) int {
	n := len(pgtest.Items(p))
	if n < 2 {
		panic("the page has too few items")
	}
	return n/2 + 1
}

func indexKinds() []kind {
	var kinds []kind
	for _, role := range roles() {
		kinds = append(kinds, roleKinds(role)...)
	}
	for _, relation := range []string{"plain_text", "plain_unique", "plain_same", "small_pkey", "keys_hash", "plain_gist", "plain_spgist", "plain_gin", "plain_brin", "twin_a"} {
		kinds = append(kinds, pages("index page", "lab."+relation, 1, relation)...)
		kinds = append(kinds, files("index file", "lab."+relation, 1, relation)...)
		// Of another index of the same size or method.
		for _, other := range []string{"plain_text", "plain_hash", "plain_gist", "plain_quad", "keys_gin", "plain_inclusion", "bare"} {
			if other == relation {
				continue
			}
			kinds = append(kinds, kind{area: "index file", name: relation + ", file of " + other, unit: unitOf(relation) + "\n" + strings.ReplaceAll(strings.ReplaceAll(unitOf(other), "TABLE t ", "TABLE other_t "), " ON t ", " ON other_t "), want: []string{relation}, do: func(c *victim) error {
				content, err := c.relation("lab." + other).Copy()
				if err != nil {
					return err
				}
				for block := range len(content) / size {
					p := content[block*size : (block+1)*size]
					if !page.IsNew(p) {
						page.SetChecksum(p, page.Checksum(p, uint32(block)))
					}
				}
				return c.relation("lab." + relation).Restore(content)
			}})
		}
	}
	kinds = append(kinds, kind{area: "index file", name: "two B-trees of one table swapped", unit: units["pair"], want: []string{"twin_a", "twin_b"}, do: func(c *victim) error {
		return c.relation("lab.twin_a").Swap(c.relation("lab.twin_b"))
	}})
	return append(kinds, treeKinds()...)
}

// roleKinds damage one kind of page of an index.
func roleKinds(role role) []kind {
	var kinds []kind
	want := []string{role.relation[len("lab."):]}
	add := func(name string, change func(p []byte)) {
		kinds = append(kinds, kind{area: "index", name: fmt.Sprintf("%s, %s: %s", role.relation, role.name, name), unit: unitOf(role.relation), do: find(role.relation, role.fits, change), want: want})
	}
	for _, k := range []struct {
		name   string
		change func(p []byte)
	}{
		{"zeroes", pgtest.Zero},
		{"second half zeroes", func(p []byte) { clear(p[4096:]) }},
		{"first half zeroes", func(p []byte) { clear(p[:4096]) }},
		{"last sector zeroes", func(p []byte) { clear(p[7680:]) }},
		{"sector of zeroes among the tuples", func(p []byte) { clear(p[6144:6656]) }},
		{"lsn in the future", func(p []byte) { put32(p, 7) }},
		{"pd_lower 4 less", func(p []byte) { put16(p[12:], u16(p[12:])-4) }},
		{"pd_lower at its least", func(p []byte) { put16(p[12:], 24) }},
		{"pd_upper 8 more", func(p []byte) { put16(p[14:], u16(p[14:])+8) }},
		{"page identifier", func(p []byte) { put16(p[size-2:], 0xff7f) }},
	} {
		add(k.name, k.change)
	}
	for at := range 8 {
		for _, v := range []uint16{0, 1, 0xffff} {
			add(fmt.Sprintf("special space word %d is %#x", at, v), func(p []byte) {
				if size-16+2*at < int(u16(p[16:])) {
					panic("the special space is shorter")
				}
				put16(p[size-16+2*at:], v)
			})
		}
	}
	for bit := range 16 {
		at := size - 4
		switch role.relation {
		case "lab.keys_gin", "lab.plain_gin":
			at = size - 2
		case "lab.plain_spgist", "lab.plain_quad":
			at = size - 8
		}
		add(fmt.Sprintf("page flag %#x", 1<<bit), func(p []byte) { put16(p[at:], u16(p[at:])^1<<bit) })
	}
	if role.name == "metapage" || role.name == "range map" || role.name == "bitmap" {
		for at := range 24 {
			for _, v := range []uint32{0, 1, 0x7fffffff} {
				add(fmt.Sprintf("word %d of its content is %#x", at, v), func(p []byte) {
					if u32(p[24+4*at:]) == v {
						panic("it is so already")
					}
					put32(p[24+4*at:], v)
				})
			}
		}
		return kinds
	}
	entryKinds(add)
	return kinds
}

// entryKinds damage an entry in the middle of a page.
func entryKinds(add func(name string, change func(p []byte))) {
	entry := func(name string, change func(p, t []byte, n int)) {
		add(name, func(p []byte) { n := middle(p); change(p, item(p, n), n) })
	}
	entry("entry dropped", func(p, _ []byte, n int) { pgtest.DropItem(n - 1)(p) })
	entry("entry doubled", func(p, _ []byte, n int) { pgtest.DoubleItem(n - 1)(p) })
	entry("entries swapped", func(p, _ []byte, n int) {
		a, b := pgtest.Items(p)[n-2], pgtest.Items(p)[n-1]
		pgtest.SetItem(p, n-2, b)
		pgtest.SetItem(p, n-1, a)
	})
	entry("entry marked dead", func(p, _ []byte, n int) { i := pgtest.Items(p)[n-1]; i.Flags = 3; pgtest.SetItem(p, n-1, i) })
	entry("entry unused", func(p, _ []byte, n int) { pgtest.SetItem(p, n-1, pgtest.Item{}) })
	entry("entry redirected", func(p, _ []byte, n int) { i := pgtest.Items(p)[n-1]; i.Flags = 2; pgtest.SetItem(p, n-1, i) })
	entry("entry 8 bytes shorter", func(p, _ []byte, n int) { i := pgtest.Items(p)[n-1]; i.Length -= 8; pgtest.SetItem(p, n-1, i) })
	entry("last entries lost", func(p, _ []byte, _ int) { put16(p[12:], u16(p[12:])-8) })
	for _, at := range []int{0, 2, 4, 6, 8, 10, 12, 14} {
		for _, bit := range []int{0, 3, 7, 12, 15} {
			entry(fmt.Sprintf("entry's byte %d, bit %d", at, bit), func(_, t []byte, _ int) {
				if at+2 > len(t) {
					panic("the entry is shorter")
				}
				put16(t[at:], u16(t[at:])^1<<bit)
			})
		}
	}
	entry("entry of zeroes", func(_, t []byte, _ int) { clear(t) })
	entry("key of zeroes", func(_, t []byte, _ int) { clear(t[8:]) })
	entry("key of ones", func(_, t []byte, _ int) {
		for i := 8; i < len(t); i++ {
			t[i] = 0xff
		}
	})
	entry("row of the neighbour", func(p, t []byte, n int) { copy(t[:6], item(p, n-1)[:6]) })
	entry("rows of two entries swapped", func(p, t []byte, n int) {
		other := item(p, n-1)
		var row [6]byte
		copy(row[:], t)
		copy(t[:6], other)
		copy(other[:6], row[:])
	})
	entry("key of the neighbour", func(p, t []byte, n int) { copy(t[8:], item(p, n-1)[8:]) })
	entry("entry's row is beyond the table", func(_, t []byte, _ int) { put16(t[2:], 60000) })
	entry("first entry lost", func(p, _ []byte, _ int) { pgtest.DropItem(0)(p) })
}

// treeKinds damage a B-tree where its pages belong together.
func treeKinds() []kind {
	var kinds []kind
	tree := func(name, relation string, change func(r pgtest.Relation, content []byte) error) {
		kinds = append(kinds, kind{area: "index", name: name, unit: unitOf(relation), want: []string{relation}, do: func(c *victim) error {
			r := c.relation("lab." + relation)
			content, err := r.Copy()
			if err != nil {
				return err
			}
			return change(r, content)
		}})
	}
	tree("two leaves of a B-tree swapped, links kept", "plain_text", func(r pgtest.Relation, content []byte) error {
		swap := func(a, b uint32) error {
			return r.EditValid(a, func(p []byte) {
				opaque := append([]byte(nil), p[size-16:]...)
				copy(p, content[b*size:(b+1)*size])
				copy(p[size-16:], opaque)
			})
		}
		if err := swap(4, 5); err != nil {
			return err
		}
		return swap(5, 4)
	})
	tree("a leaf of a B-tree left out by its neighbours", "plain_text", func(r pgtest.Relation, content []byte) error {
		left, right := u32(content[4*size+size-16:]), u32(content[4*size+size-12:])
		if err := r.EditValid(left, func(p []byte) { put32(p[size-12:], right) }); err != nil {
			return err
		}
		return r.EditValid(right, func(p []byte) { put32(p[size-16:], left) })
	})
	tree("a leaf of a B-tree emptied", "plain_text", func(r pgtest.Relation, _ []byte) error {
		return r.EditValid(4, func(p []byte) { put16(p[12:], 28) })
	})
	tree("all entries of a leaf for other rows", "plain_text", func(r pgtest.Relation, _ []byte) error {
		return r.EditValid(4, func(p []byte) {
			for n := 2; n <= len(pgtest.Items(p)); n++ {
				t := item(p, n)
				t[2] ^= 1
			}
		})
	})
	tree("the metapage's root is a leaf", "plain_text", func(r pgtest.Relation, _ []byte) error {
		return r.EditValid(0, func(p []byte) { put32(p[32:], 1); put32(p[36:], 0); put32(p[40:], 1); put32(p[44:], 0) })
	})
	tree("the fast root is a leaf", "plain_text", func(r pgtest.Relation, _ []byte) error {
		return r.EditValid(0, func(p []byte) { put32(p[40:], 1); put32(p[44:], 0) })
	})
	tree("pages below swapped", "plain_text", func(r pgtest.Relation, content []byte) error {
		root := u32(content[32:])
		return r.EditValid(root, func(p []byte) {
			a, b := item(p, 3), item(p, 4)
			var row [4]byte
			copy(row[:], a)
			copy(a[:4], b)
			copy(b[:4], row[:])
		})
	})
	// change gets the rows of the first list of a leaf.
	list := func(name string, change func(rows []byte)) {
		tree(name, "plain_same", func(r pgtest.Relation, _ []byte) error {
			return r.EditValid(1, func(p []byte) {
				for n := 1; n <= len(pgtest.Items(p)); n++ {
					t := item(p, n)
					if u16(t[6:])&0x2000 != 0 && u16(t[4:])&0x2000 != 0 {
						change(t[u16(t[2:]):])
						return
					}
				}
				panic("no list")
			})
		})
	}
	list("rows of a list out of order", func(rows []byte) {
		var row [6]byte
		copy(row[:], rows)
		copy(rows[:6], rows[6:])
		copy(rows[6:12], row[:])
	})
	list("a row of a list twice", func(rows []byte) { copy(rows[:6], rows[6:]) })
	list("a row of a list is another", func(rows []byte) { rows[4]++ })
	return kinds
}
