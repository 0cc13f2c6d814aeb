package lab_test

import (
	"os"
	"path/filepath"
	"strings"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// fileKinds damage files and the maps beside them.
func fileKinds() []kind {
	var kinds []kind
	add := func(name string, do func(c *victim) error, want ...string) {
		unit := ""
		if len(want) > 0 && want[0] != "." && !strings.HasPrefix(want[0], "pg_catalog") {
			unit = unitOf(strings.TrimSuffix(want[0], "_pkey"))
		}
		kinds = append(kinds, kind{area: "files", name: name, unit: unit, do: do, want: want})
	}
	for _, relation := range []string{"plain", "bare", "busy", "small", "mat", "events_1", "unlogged", "numbers"} {
		cut := uint32(5)
		if relation == "small" || relation == "numbers" || relation == "events_1" {
			cut = 1
		}
		kinds = append(kinds, files("files", "lab."+relation, cut, relation)...)
		add(relation+", older file put back", func(c *victim) error {
			r := c.relation("lab." + relation)
			content, err := r.Copy()
			if err != nil {
				return err
			}
			return r.Restore(content[:len(content)/2/page.Size*page.Size])
		}, relation)
	}
	kinds = append(kinds, kind{area: "files", name: "sequence of another page", unit: unitOf("numbers"), want: []string{"numbers"}, do: func(c *victim) error {
		return c.relation("lab.numbers").EditValid(0, func(p []byte) { copy(p, foreignPage(0)) })
	}})
	kinds = append(kinds, pages("files", "lab.numbers", 0, "numbers")...)
	kinds = append(kinds, pages("files", "lab.unlogged", 1, "unlogged")...)
	kinds = append(kinds, pages("files", "lab.mat", 1, "mat")...)
	kinds = append(kinds, pages("files", "lab.events_1", 1, "events_1")...)
	kinds = append(kinds, kind{area: "files", name: "two tables of the same columns swapped", unit: units["pair"], want: []string{"bare", "twin", "twin_a", "twin_b"}, do: func(c *victim) error {
		return c.relation("lab.bare").Swap(c.relation("lab.twin"))
	}})
	kinds = append(kinds, kind{area: "files", name: "table's file is another table's", unit: units["plain"] + "\n" + units["busy"], want: []string{"plain", "plain_pkey"}, do: func(c *victim) error {
		content, err := c.relation("lab.busy").Copy()
		if err != nil {
			return err
		}
		return c.relation("lab.plain").Restore(content)
	}})
	for _, fork := range []string{"_vm", "_fsm"} {
		for _, relation := range []string{"plain", "bare", "parent"} {
			at := func(name string, do func(path string) error) {
				add(relation+fork+", "+name, func(c *victim) error { return do(c.relation("lab."+relation).Path + fork) }, relation)
			}
			bytesOf := func(name string, change func(p []byte)) {
				at(name, func(path string) error { return pgtest.Relation{Path: path}.EditValid(0, change) })
			}
			if fork == "_vm" {
				bytesOf("all frozen", func(p []byte) {
					for i := 24; i < 200; i++ {
						p[i] = 0xff
					}
				})
				bytesOf("all visible", func(p []byte) { p[24] |= 0x55 })
				bytesOf("bits beyond the table", func(p []byte) { p[4000] = 0x03 })
				bytesOf("frozen but not visible", func(p []byte) { p[24] = 0xaa })
			}
			bytesOf("header", func(p []byte) { put16(p[12:], 100) })
			bytesOf("page of ones", func(p []byte) {
				for i := range p {
					p[i] = 0xff
				}
			})
			bytesOf("second half of ones", func(p []byte) {
				for i := 4096; i < size; i++ {
					p[i] = 0xff
				}
			})
			at("cut within a page", func(path string) error { return os.Truncate(path, 4000) })
			at("unreadable", func(path string) error { return os.Chmod(path, 0) })
			at("a directory", func(path string) error {
				if err := os.Remove(path); err != nil {
					return err
				}
				return os.Mkdir(path, 0o700)
			})
		}
	}
	stray := func(name, file string, content int, class string, want ...string) {
		kinds = append(kinds, kind{area: "catalog files", name: name, class: class, want: want, do: func(c *victim) error {
			path := filepath.Join(filepath.Dir(c.relation("pg_depend").Path), file)
			if err := os.WriteFile(path, make([]byte, content), 0o600); err != nil {
				return err
			}
			return pgtest.GiveAway(path)
		}})
	}
	stray("a file of nobody", "999999", 8192*3, "leftover", ".")
	stray("a copy of a file", "12345.bak", 8192, "leftover", ".")
	stray("a file of an editor", ".1259.swp", 100, "leftover", ".")
	kinds = append(kinds, kind{area: "files", name: "second segment out of nowhere", unit: unitOf("plain"), want: []string{"plain"}, do: func(c *victim) error {
		path := c.relation("lab.plain").Path + ".1"
		if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
			return err
		}
		return pgtest.GiveAway(path)
	}})
	kinds = append(kinds, kind{area: "files", name: "init fork of a permanent table", unit: unitOf("small"), want: []string{"small"}, do: func(c *victim) error {
		path := c.relation("lab.small").Path + "_init"
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		return pgtest.GiveAway(path)
	}})
	add("init fork of an unlogged table lost", func(c *victim) error { return os.Remove(c.relation("lab.unlogged").Path + "_init") }, "unlogged")
	add("init fork of an unlogged index lost", func(c *victim) error { return os.Remove(c.relation("lab.unlogged_pkey").Path + "_init") }, "unlogged_pkey")
	// Catalogues.
	for _, catalogue := range []string{"pg_class", "pg_attribute", "pg_proc", "pg_type", "pg_index", "pg_constraint", "pg_trigger", "pg_depend", "pg_statistic", "pg_attrdef", "pg_inherits", "pg_largeobject", "pg_description",
		"pg_class_oid_index", "pg_class_relname_nsp_index", "pg_attribute_relid_attnum_index", "pg_proc_oid_index", "pg_depend_reference_index", "pg_type_oid_index", "pg_constraint_oid_index", "pg_trigger_tgrelid_tgname_index", "pg_index_indrelid_index"} {
		of := func(name string, do func(c *victim) error) {
			kinds = append(kinds, kind{area: "catalog files", name: catalogue + name, do: do, want: []string{"pg_catalog.*", ".", "*"}})
		}
		last := func(name string, change func(p []byte)) {
			of(", last page: "+name, func(c *victim) error {
				r := c.relation(catalogue)
				return r.EditValid(r.Blocks-1, change)
			})
		}
		last("zeroes", pgtest.Zero)
		last("second half zeroes", func(p []byte) { clear(p[4096:]) })
		last("random bytes in the middle", func(p []byte) {
			for i := 6000; i < 6100; i++ {
				p[i] = byte(i * 7)
			}
		})
		last("an item unused", func(p []byte) { pgtest.SetItem(p, 0, pgtest.Item{}) })
		last("xmin in the future", func(p []byte) {
			for _, i := range pgtest.Items(p) {
				if i.Flags == 1 {
					put32(p[i.Offset:], 0x7000000)
					put16(p[i.Offset+20:], u16(p[i.Offset+20:])&^0x300)
					return
				}
			}
		})
		last("item dropped", func(p []byte) { pgtest.DropItem(len(pgtest.Items(p)) / 2)(p) })
		of(", file empty", func(c *victim) error { return c.relation(catalogue).Truncate(0) })
		of(", last page cut", func(c *victim) error { r := c.relation(catalogue); return r.Truncate(r.Blocks - 1) })
	}
	return kinds
}
