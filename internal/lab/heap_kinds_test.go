package lab_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

func u16(b []byte) uint16      { return binary.LittleEndian.Uint16(b) }
func u32(b []byte) uint32      { return binary.LittleEndian.Uint32(b) }
func put16(b []byte, v uint16) { binary.LittleEndian.PutUint16(b, v) }
func put32(b []byte, v uint32) { binary.LittleEndian.PutUint32(b, v) }
func item(p []byte, n int) []byte {
	i := pgtest.Items(p)[n-1]
	return p[i.Offset : i.Offset+i.Length]
}

// edit changes one page of a relation and gives it a valid checksum.
func edit(relation string, block uint32, change func(p []byte)) func(c *victim) error {
	return func(c *victim) error { return c.relation(relation).EditValid(block, change) }
}

// find changes the first page that fits.
func find(relation string, fits func(p []byte, block uint32) bool, change func(p []byte)) func(c *victim) error {
	return func(c *victim) error {
		r := c.relation(relation)
		content, err := r.Copy()
		if err != nil {
			return err
		}
		for block := range r.Blocks {
			if fits(content[block*page.Size:(block+1)*page.Size], block) {
				return r.EditValid(block, func(p []byte) {
					before := bytes.Clone(p)
					change(p)
					lower, upper := u16(before[12:]), u16(before[14:])
					if lower <= upper && int(upper) <= size && bytes.Equal(before[:lower], p[:lower]) && bytes.Equal(before[upper:], p[upper:]) {
						panic("nothing changed but free space")
					}
				})
			}
		}
		return errNoPage
	}
}

// tupleWhere changes the first tuple that fits on any page.
func tupleWhere(relation string, fits func(t []byte) bool, change func(p, t []byte, n int)) func(c *victim) error {
	number := 0
	return find(relation, func(p []byte, _ uint32) bool {
		if page.IsNew(p) {
			return false
		}
		for n, i := range pgtest.Items(p) {
			if i.Flags == 1 && fits(p[i.Offset:i.Offset+i.Length]) {
				number = n + 1
				return true
			}
		}
		return false
	}, func(p []byte) { change(p, item(p, number), number) })
}

// pages are changes of whole pages that any relation can suffer.
func pages(area, relation string, block uint32, want ...string) []kind {
	var kinds []kind
	add := func(name string, do func(c *victim) error) {
		kinds = append(kinds, kind{area: area, name: relation + ", " + name, unit: unitOf(relation), do: do, want: want})
	}
	plain := func(name string, change func(p []byte)) { add(name, edit(relation, block, change)) }
	plain("page of zeroes", pgtest.Zero)
	plain("first half zeroes", func(p []byte) { clear(p[:4096]) })
	plain("second half zeroes", func(p []byte) { clear(p[4096:]) })
	plain("first sector zeroes", func(p []byte) { clear(p[:512]) })
	plain("last sector zeroes", func(p []byte) { clear(p[7680:]) })
	plain("sector of zeroes in the middle", func(p []byte) { clear(p[4096:4608]) })
	plain("sector of zeroes among the tuples", func(p []byte) { clear(p[6144:6656]) })
	plain("all bits one", func(p []byte) {
		for i := range p {
			p[i] = 0xff
		}
	})
	plain("random bytes", func(p []byte) {
		r := rand.New(rand.NewPCG(1, 2))
		for i := range p {
			p[i] = byte(r.Uint32())
		}
	})
	plain("random second half", func(p []byte) {
		r := rand.New(rand.NewPCG(1, 2))
		for i := 4096; i < len(p); i++ {
			p[i] = byte(r.Uint32())
		}
	})
	plain("text over the page", func(p []byte) {
		for i := range p {
			p[i] = "Lorem ipsum dolor sit amet. "[i%28]
		}
	})
	plain("shifted by a byte", func(p []byte) { copy(p[1:], append([]byte(nil), p...)) })
	plain("shifted by a sector", func(p []byte) { copy(p[512:], append([]byte(nil), p...)) })
	plain("tuples shifted by 8 bytes", func(p []byte) { copy(p[4096:], append([]byte(nil), p[4104:]...)) })
	plain("halves swapped", func(p []byte) {
		q := append([]byte(nil), p...)
		copy(p, q[4096:])
		copy(p[4096:], q[:4096])
	})
	plain("two sectors swapped", func(p []byte) {
		q := append([]byte(nil), p...)
		copy(p[6656:7168], q[7168:7680])
		copy(p[7168:7680], q[6656:7168])
	})
	plain("byte order of the page reversed", func(p []byte) {
		for i := 0; i < len(p); i += 4 {
			p[i], p[i+1], p[i+2], p[i+3] = p[i+3], p[i+2], p[i+1], p[i]
		}
	})
	plain("lsn in the future", func(p []byte) { put32(p, 7); put32(p[4:], 7) })
	plain("pd_lower 4 less", func(p []byte) { put16(p[12:], u16(p[12:])-4) })
	plain("pd_lower at its least", func(p []byte) { put16(p[12:], 24) })
	plain("pd_lower 0", func(p []byte) { put16(p[12:], 0) })
	plain("pd_lower beyond pd_upper", func(p []byte) { put16(p[12:], u16(p[14:])+8) })
	plain("pd_upper 8 more", func(p []byte) { put16(p[14:], u16(p[14:])+8) })
	plain("pd_upper beyond the page", func(p []byte) { put16(p[14:], 9000) })
	plain("pd_upper 0", func(p []byte) { put16(p[14:], 0) })
	plain("pd_special 8 less", func(p []byte) { put16(p[16:], u16(p[16:])-8) })
	plain("pd_special 0", func(p []byte) { put16(p[16:], 0) })
	plain("pd_pagesize_version", func(p []byte) { put16(p[18:], 0x2003) })
	plain("page size 16 kB", func(p []byte) { put16(p[18:], 0x4004) })
	plain("unknown pd_flags", func(p []byte) { p[11] |= 0x80 })
	add("page of another block", func(c *victim) error {
		r := c.relation(relation)
		content, err := r.Copy()
		if err != nil {
			return err
		}
		other := (block + 1) % r.Blocks
		if other == 0 && r.Blocks > 2 {
			other = 1
		}
		if other == block {
			return errNoPage
		}
		return r.EditValid(block, func(p []byte) { copy(p, content[other*page.Size:]) })
	})
	add("page of another relation", func(c *victim) error {
		return c.relation(relation).EditValid(block, func(p []byte) { copy(p, foreignPage(block)) })
	})
	return kinds
}

// files are changes of whole files.
func files(area, relation string, cut uint32, want ...string) []kind {
	var kinds []kind
	add := func(name string, do func(r pgtest.Relation) error) {
		kinds = append(kinds, kind{area: area, name: relation + ", " + name, unit: unitOf(relation), do: func(c *victim) error { return do(c.relation(relation)) }, want: want})
	}
	add("file removed", func(r pgtest.Relation) error { return r.Remove() })
	add("file empty", func(r pgtest.Relation) error { return r.Truncate(0) })
	add("file cut at a page", func(r pgtest.Relation) error { return r.Truncate(cut) })
	add("last page cut", func(r pgtest.Relation) error { return r.Truncate(r.Blocks - 1) })
	add("file cut within a page", func(r pgtest.Relation) error { return os.Truncate(r.Path, int64(r.Blocks)*page.Size-3000) })
	add("file longer by 100 bytes", func(r pgtest.Relation) error { return os.Truncate(r.Path, int64(r.Blocks)*page.Size+100) })
	add("file of zeroes", func(r pgtest.Relation) error { return os.WriteFile(r.Path, make([]byte, r.Blocks*page.Size), 0o600) })
	add("file unreadable", func(r pgtest.Relation) error { return os.Chmod(r.Path, 0) })
	add("file of another owner", func(r pgtest.Relation) error { return os.Chown(r.Path, 0, 0) })
	add("file is a directory", func(r pgtest.Relation) error {
		if err := r.Remove(); err != nil {
			return err
		}
		return os.Mkdir(r.Path, 0o700)
	})
	add("file is a broken link", func(r pgtest.Relation) error {
		if err := r.Remove(); err != nil {
			return err
		}
		return os.Symlink("/nonexistent/file", r.Path)
	})
	add("first page lost, rest moved", func(r pgtest.Relation) error {
		content, err := r.Copy()
		if err != nil {
			return err
		}
		return os.WriteFile(r.Path, content[page.Size:], 0o600)
	})
	add("a page in the middle lost, rest moved", func(r pgtest.Relation) error {
		content, err := r.Copy()
		if err != nil {
			return err
		}
		middle := int(r.Blocks/2) * page.Size
		return os.WriteFile(r.Path, append(content[:middle:middle], content[middle+page.Size:]...), 0o600)
	})
	add("a page in the middle doubled", func(r pgtest.Relation) error {
		content, err := r.Copy()
		if err != nil {
			return err
		}
		middle := int(r.Blocks/2) * page.Size
		return os.WriteFile(r.Path, append(content[:middle:middle], content[middle-page.Size:]...), 0o600)
	})
	return kinds
}

func heapKinds() []kind {
	kinds := pages("heap", "lab.plain", 12, "plain")
	kinds = append(kinds, pages("heap", "lab.bare", 3, "bare")...)
	kinds = append(kinds, pages("heap", "lab.busy", 3, "busy")...)
	add := func(name, relation, want string, do func(c *victim) error) {
		kinds = append(kinds, kind{area: "heap", name: relation + ", " + name, unit: unitOf(relation), do: do, want: []string{want}})
	}
	harmless := func(name, relation string, do func(c *victim) error) {
		kinds = append(kinds, kind{area: "heap", name: relation + ", " + name, unit: unitOf(relation), do: do, harmless: true})
	}
	for _, of := range []struct{ relation, want string }{{"lab.plain", "plain"}, {"lab.bare", "bare"}, {"lab.busy", "busy"}} {
		tuple := func(name string, change func(p, t []byte, n int)) {
			add(name, of.relation, of.want, edit(of.relation, 3, func(p []byte) { change(p, item(p, 5), 5) }))
		}
		line := func(name string, flags, offset, length int) {
			add(name, of.relation, of.want, edit(of.relation, 3, func(p []byte) {
				i := pgtest.Items(p)[4]
				pgtest.SetItem(p, 4, pgtest.Item{Offset: i.Offset + offset, Length: i.Length + length, Flags: flags})
			}))
		}
		line("line pointer unused, place kept", 0, 0, 0)
		line("line pointer redirected, place kept", 2, 0, 0)
		line("line pointer dead, place kept", 3, 0, 0)
		line("line pointer 8 bytes later", 1, 8, 0)
		line("line pointer 8 bytes earlier", 1, -8, 0)
		line("line pointer 1 byte later", 1, 1, 0)
		line("line pointer one byte longer", 1, 0, 1)
		line("line pointer 8 bytes longer", 1, 0, 8)
		line("line pointer 8 bytes shorter", 1, 0, -8)
		line("line pointer one byte shorter", 1, 0, -1)
		line("line pointer beyond the page", 1, 8000, 0)
		add("line pointer of zeroes", of.relation, of.want, edit(of.relation, 3, func(p []byte) { put32(p[24+16:], 0) }))
		add("line pointer dead", of.relation, of.want, edit(of.relation, 3, func(p []byte) { put32(p[24+16:], 3<<15) }))
		add("line pointer redirects to itself", of.relation, of.want, edit(of.relation, 3, func(p []byte) { put32(p[24+16:], 2<<15|5) }))
		add("line pointer redirects to a plain row", of.relation, of.want, edit(of.relation, 3, func(p []byte) { put32(p[24+16:], 2<<15|6) }))
		add("line pointer doubled", of.relation, of.want, edit(of.relation, 3, func(p []byte) { copy(p[24+16:24+20], p[24+20:24+24]) }))
		add("line pointers swapped", of.relation, of.want, edit(of.relation, 3, func(p []byte) {
			a, b := u32(p[24+16:]), u32(p[24+20:])
			put32(p[24+16:], b)
			put32(p[24+20:], a)
		}))
		for _, xid := range []uint32{0, 3, 500, 0x7fffffff, 0xffffffff} {
			tuple(fmt.Sprintf("xmin %d", xid), func(_, t []byte, _ int) { put32(t, xid) })
			if xid == 0 {
				continue
			}
			tuple(fmt.Sprintf("xmax %d without hints", xid), func(_, t []byte, _ int) {
				put32(t[4:], xid)
				put16(t[20:], u16(t[20:])&^0x1c00)
			})
		}
		tuple("deleted by its own transaction", func(_, t []byte, _ int) {
			copy(t[4:8], t[:4])
			put16(t[20:], u16(t[20:])&^0x0c00)
			put16(t[18:], u16(t[18:])|0x2000)
		})
		for bit := range 16 {
			// Bits of an xmax that is not valid, and of the command: or hints: the row is seen
			// as before.
			if 1<<bit&0x2bf0 == 0 {
				tuple(fmt.Sprintf("t_infomask bit 0x%04x", 1<<bit), func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])^1<<bit) })
			}
			if 1<<bit&0x6000 == 0 {
				tuple(fmt.Sprintf("t_infomask2 bit 0x%04x", 1<<bit), func(_, t []byte, _ int) { put16(t[18:], u16(t[18:])^1<<bit) })
			}
		}
		tuple("t_infomask 0", func(_, t []byte, _ int) { put16(t[20:], 0) })
		tuple("t_infomask 0xffff", func(_, t []byte, _ int) { put16(t[20:], 0xffff) })
		tuple("t_infomask2 0", func(_, t []byte, _ int) { put16(t[18:], 0) })
		tuple("t_infomask2 0xffff", func(_, t []byte, _ int) { put16(t[18:], 0xffff) })
		tuple("t_hoff 8 more", func(_, t []byte, _ int) { t[22] += 8 })
		tuple("t_hoff 8 less", func(_, t []byte, _ int) { t[22] -= 8 })
		tuple("t_hoff 0", func(_, t []byte, _ int) { t[22] = 0 })
		tuple("t_hoff 255", func(_, t []byte, _ int) { t[22] = 255 })
		tuple("t_ctid offset", func(_, t []byte, _ int) { put16(t[16:], 9) })
		tuple("t_ctid block", func(_, t []byte, _ int) { put16(t[14:], 9) })
		tuple("t_ctid zero", func(_, t []byte, _ int) { clear(t[12:18]) })
		tuple("t_ctid beyond the table", func(_, t []byte, _ int) { put16(t[12:], 9) })
		tuple("t_ctid moved to another partition", func(_, t []byte, _ int) { put32(t[12:], 0xffffffff); put16(t[16:], 0xfffd) })
		tuple("header of zeroes", func(_, t []byte, _ int) { clear(t[:23]) })
		tuple("all of zeroes", func(_, t []byte, _ int) { clear(t) })
		tuple("data of zeroes", func(_, t []byte, _ int) { clear(t[t[22]:]) })
		tuple("random data", func(_, t []byte, _ int) {
			r := rand.New(rand.NewPCG(5, 6))
			for i := int(t[22]); i < len(t); i++ {
				t[i] = byte(r.Uint32())
			}
		})
		tuple("row of its neighbour", func(p, t []byte, _ int) { copy(t, item(p, 6)) })
		tuple("data of its neighbour", func(p, t []byte, _ int) { copy(t[t[22]:], item(p, 6)[t[22]:]) })
	}
	const row = "lab.plain"
	null := func(name string, change func(t []byte)) {
		add(name, row, "plain", tupleWhere(row, func(t []byte) bool { return u16(t[20:])&1 != 0 }, func(_, t []byte, _ int) { change(t) }))
	}
	for bit := range 24 {
		null(fmt.Sprintf("null bitmap bit %d", bit), func(t []byte) { t[23+bit/8] ^= 1 << (bit % 8) })
	}
	null("null bitmap of zeroes", func(t []byte) { clear(t[23:26]) })
	null("null bitmap of ones", func(t []byte) { t[23], t[24], t[25] = 0xff, 0xff, 0xff })
	for natts := range 27 {
		if natts != 25 {
			add(fmt.Sprintf("%d columns", natts), row, "plain", edit(row, 4, func(p []byte) { t := item(p, 2); put16(t[18:], u16(t[18:])&^0x7ff|uint16(natts)) }))
		}
	}
	for at := 24; at < 250; at++ {
		kinds = append(kinds, kind{area: "bytes", name: fmt.Sprintf("byte %d of the row flipped", at), unit: unitOf(row), do: edit(row, 4, func(p []byte) { item(p, 2)[at] ^= 0xff }), want: []string{"plain", "plain_*"}})
	}
	// Pages that VACUUM has called visible and frozen to everybody.
	frozen := func(name string, change func(p, t []byte, n int)) {
		add("frozen, "+name, "lab.parent", "parent", edit("lab.parent", 0, func(p []byte) { change(p, item(p, 5), 5) }))
	}
	frozen("xmin in the future", func(_, t []byte, _ int) { put32(t, 0x7000000) })
	frozen("frozen bits gone", func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])&^0x0300) })
	frozen("xmin aborted", func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])&^0x0100) })
	frozen("deleted", func(_, t []byte, _ int) { copy(t[4:8], t[:4]); put16(t[20:], u16(t[20:])&^0x0800) })
	frozen("deleted and committed", func(_, t []byte, _ int) { copy(t[4:8], t[:4]); put16(t[20:], u16(t[20:])&^0x0800|0x0400) })
	frozen("xmax of nobody", func(_, t []byte, _ int) { put32(t[4:], 12345678); put16(t[20:], u16(t[20:])&^0x0800) })
	frozen("page not all-visible", func(p, _ []byte, _ int) { p[10] &^= 4 })
	frozen("dead line pointer", func(p, _ []byte, _ int) { put32(p[24+16:], 3<<15) })
	frozen("unused line pointer", func(p, _ []byte, _ int) { put32(p[24+16:], 0) })
	// Chains of versions.
	hot := func(name string, fits func(t []byte) bool, change func(p, t []byte, n int)) {
		add(name, "lab.busy", "busy", tupleWhere("lab.busy", fits, change))
	}
	updatedHot := func(t []byte) bool { return u16(t[18:])&0x4000 != 0 && u16(t[20:])&0x1400 == 0x0400 }
	only := func(t []byte) bool { return u16(t[18:])&0x8000 != 0 && u16(t[20:])&0x0200 == 0 }
	hot("HOT chain, successor elsewhere", updatedHot, func(_, t []byte, _ int) { put16(t[16:], 1) })
	hot("HOT chain, successor is itself", updatedHot, func(_, t []byte, n int) { put16(t[16:], uint16(n)) })
	hot("HOT chain, successor on another page", updatedHot, func(_, t []byte, _ int) { put16(t[14:], u16(t[14:])+1) })
	hot("HOT chain, mark of the update gone", updatedHot, func(_, t []byte, _ int) { put16(t[18:], u16(t[18:])&^0x4000) })
	hot("HOT chain, xmax of another transaction", updatedHot, func(_, t []byte, _ int) { put32(t[4:], u32(t[4:])-1) })
	hot("HOT chain, update undone", updatedHot, func(_, t []byte, _ int) { put32(t[4:], 0); put16(t[20:], u16(t[20:])|0x0800) })
	hot("heap-only tuple, mark gone", only, func(_, t []byte, _ int) { put16(t[18:], u16(t[18:])&^0x8000) })
	hot("heap-only tuple, xmin of another transaction", only, func(_, t []byte, _ int) { put32(t, u32(t)-1) })
	hot("heap-only tuple, updated mark gone", only, func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])&^0x2000) })
	multi := func(t []byte) bool { return u16(t[20:])&0x1000 != 0 }
	hot("multixact in the future", multi, func(_, t []byte, _ int) { put32(t[4:], 100000) })
	hot("multixact 0", multi, func(_, t []byte, _ int) { put32(t[4:], 0) })
	hot("multixact is taken for a transaction", multi, func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])&^0x1000) })
	hot("multixact only locks", multi, func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])|0x0080) })
	aborted := func(t []byte) bool { return u16(t[20:])&0x0300 == 0x0200 }
	hot("aborted row brought back", aborted, func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])^0x0300) })
	hot("aborted row frozen", aborted, func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])|0x0300) })
	deleted := func(t []byte) bool { return u16(t[20:])&0x0400 != 0 && u16(t[20:])&0x1000 == 0 }
	hot("deleted row brought back", deleted, func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])^0x0c00) })
	hot("deleted row brought back, xmax 0", deleted, func(_, t []byte, _ int) { put32(t[4:], 0); put16(t[20:], u16(t[20:])^0x0c00) })
	live := func(t []byte) bool { return u16(t[20:])&0x0b00 == 0x0900 && u16(t[18:])&0xc000 == 0 }
	hot("live row aborted", live, func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])^0x0300) })
	hot("live row frozen", live, func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])|0x0300) })
	hot("live row deleted by its own transaction", live, func(_, t []byte, _ int) { put32(t[4:], u32(t)); put16(t[20:], u16(t[20:])&^0x0800|0x0400) })
	// What the server itself writes or leaves.
	harmless("PD_HAS_FREE_LINES", row, edit(row, 4, func(p []byte) { p[10] ^= 1 }))
	harmless("PD_PAGE_FULL", row, edit(row, 4, func(p []byte) { p[10] ^= 2 }))
	harmless("hint bits gone", "lab.busy", edit("lab.busy", 4, func(p []byte) {
		for _, i := range pgtest.Items(p) {
			if i.Flags == 1 && u16(p[i.Offset+20:])&0x0300 == 0x0100 {
				put16(p[i.Offset+20:], u16(p[i.Offset+20:])&^0x0100)
			}
		}
	}))
	harmless("garbage in free space", row, edit(row, 4, func(p []byte) {
		for i := int(u16(p[12:])); i < int(u16(p[14:])); i++ {
			p[i] = 0x5a
		}
	}))
	add("page called all-visible that is not", "lab.busy", "busy", func(c *victim) error {
		return find("lab.busy", func(p []byte, _ uint32) bool {
			for _, i := range pgtest.Items(p) {
				if i.Flags == 1 && u16(p[i.Offset+20:])&0x0400 != 0 {
					return true
				}
			}
			return false
		}, func(p []byte) { p[10] |= 4 })(c)
	})
	return kinds
}

// foreignPage is a page of another table: whole and valid, but of other rows.
func foreignPage(block uint32) []byte {
	p := make([]byte, page.Size)
	put32(p[4:], 0x1700000)
	put16(p[14:], page.Size)
	put16(p[16:], page.Size)
	put16(p[18:], 0x2004)
	lower, upper := 24, page.Size
	for n := 1; n <= 40; n++ {
		t := make([]byte, 24+16)
		put32(t, 3)
		put16(t[12:], uint16(block>>16))
		put16(t[14:], uint16(block))
		put16(t[16:], uint16(n))
		put16(t[18:], 2)
		put16(t[20:], 0x0b02)
		t[22] = 24
		put32(t[24:], uint32(n))
		copy(t[28:], "\x13foreign x")
		upper -= len(t)
		copy(p[upper:], t)
		put32(p[lower:], uint32(upper)|1<<15|38<<17)
		lower += 4
	}
	put16(p[12:], uint16(lower))
	put16(p[14:], uint16(upper))
	return p
}
