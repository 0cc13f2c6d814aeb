package lab_test

import (
	"bytes"
	"fmt"

	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/pgtest"
)

// toastKinds damage long values: the pointers to them, their chunks, their index
// and compressed values within rows.
func toastKinds() []kind {
	want := []string{"docs", "toast"}
	kinds := pages("toast", "lab.docs toast", 5, want...)
	kinds = append(kinds, files("toast", "lab.docs toast", 20, want...)...)
	kinds = append(kinds, pages("toast", "lab.docs toast index", 1, want...)...)
	kinds = append(kinds, files("toast", "lab.docs toast index", 1, want...)...)
	add := func(name string, do func(c *victim) error) {
		kinds = append(kinds, kind{area: "toast", name: name, unit: unitOf("docs"), do: do, want: want})
	}
	row := func(name string, change func(t []byte)) {
		add(name, edit("lab.docs", 0, func(p []byte) { change(item(p, 3)) }))
	}
	// The first pointer to a long value: 01 12 and 16 bytes.
	pointer := func(n int, name string, change func(v []byte)) {
		row(fmt.Sprintf("pointer %d, %s", n, name), func(t []byte) {
			at := 24
			for range n {
				next := bytes.Index(t[at:], []byte{1, 18})
				if next < 0 {
					panic("no pointer")
				}
				at += next + 2
			}
			change(t[at : at+16])
		})
	}
	for n := 1; n <= 2; n++ {
		for field, name := range []string{"raw size", "stored size", "value", "TOAST table"} {
			pointer(n, name+" 0", func(v []byte) { put32(v[4*field:], 0) })
			pointer(n, name+" one more", func(v []byte) { put32(v[4*field:], u32(v[4*field:])+1) })
			pointer(n, name+" one less", func(v []byte) { put32(v[4*field:], u32(v[4*field:])-1) })
			pointer(n, name+" much more", func(v []byte) { put32(v[4*field:], u32(v[4*field:])+100000) })
			pointer(n, name+" negative", func(v []byte) { v[4*field+3] |= 0x80 })
			pointer(n, name+" bit 30", func(v []byte) { v[4*field+3] ^= 0x40 })
		}
		pointer(n, "kind of pointer", func(v []byte) { v = v[:16]; put32(v, u32(v)^0x10000000) })
	}
	add("pointers of two rows swapped", edit("lab.docs", 0, func(p []byte) {
		a, b := item(p, 3), item(p, 4)
		i, j := bytes.Index(a, []byte{1, 18}), bytes.Index(b, []byte{1, 18})
		x := append([]byte(nil), a[i:i+18]...)
		copy(a[i:i+18], b[j:])
		copy(b[j:], x)
	}))
	// Values compressed within the row.
	inline := func(name string, change func(v []byte)) {
		row("compressed value, "+name, func(t []byte) {
			for at := 28; at+8 < len(t); at += 4 {
				if t[at]&3 == 2 && u32(t[at:])>>2 > 20 && int(u32(t[at:])>>2) <= len(t)-at {
					change(t[at : at+int(u32(t[at:])>>2)])
					return
				}
			}
			panic("no compressed value")
		})
	}
	inline("length 4 less", func(v []byte) { put32(v, u32(v)-16) })
	inline("length huge", func(v []byte) { v[3] = 0x3f })
	inline("raw length one less", func(v []byte) { put32(v[4:], u32(v[4:])-1) })
	inline("raw length one more", func(v []byte) { put32(v[4:], u32(v[4:])+1) })
	inline("raw length huge", func(v []byte) { v[7] |= 0x3f })
	inline("raw length 0", func(v []byte) { put32(v[4:], 0) })
	inline("method", func(v []byte) { v[7] ^= 0x40 })
	inline("unknown method", func(v []byte) { v[7] |= 0xc0 })
	inline("first byte of data", func(v []byte) { v[8] ^= 0xff })
	inline("byte in the middle of data", func(v []byte) { v[len(v)/2] ^= 0xff })
	inline("data of zeroes", func(v []byte) { clear(v[8:]) })
	inline("not compressed any more", func(v []byte) { v[0] &^= 2 })
	// Chunks.
	chunk := func(name string, change func(p, t []byte, n int)) {
		add("chunk, "+name, edit("lab.docs toast", 5, func(p []byte) { change(p, item(p, 2), 2) }))
	}
	chunk("lost", func(p, _ []byte, n int) { pgtest.SetItem(p, n-1, pgtest.Item{}) })
	chunk("dead", func(p, _ []byte, n int) { pgtest.SetItem(p, n-1, pgtest.Item{Flags: 3}) })
	chunk("deleted", func(_, t []byte, _ int) {
		copy(t[4:8], t[:4])
		put16(t[20:], u16(t[20:])&^0x0800|0x0400)
	})
	chunk("aborted", func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])&^0x0300|0x0200) })
	chunk("number one more", func(_, t []byte, _ int) { t[28]++ })
	chunk("number negative", func(_, t []byte, _ int) { t[31] = 0x80 })
	chunk("numbers swapped", func(p, t []byte, _ int) { o := item(p, 3); t[28], o[28] = o[28], t[28] })
	chunk("value of another", func(_, t []byte, _ int) { t[24] ^= 1 })
	chunk("value 0", func(_, t []byte, _ int) { put32(t[24:], 0) })
	chunk("length 4 less", func(_, t []byte, _ int) { put32(t[32:], u32(t[32:])-16) })
	chunk("length 0", func(_, t []byte, _ int) { put32(t[32:], 0) })
	chunk("length huge", func(_, t []byte, _ int) { t[35] = 0x3f })
	chunk("marked compressed", func(_, t []byte, _ int) { t[32] |= 2 })
	chunk("data of zeroes", func(_, t []byte, _ int) { clear(t[36:]) })
	chunk("data not UTF-8", func(_, t []byte, _ int) { t[100] = 0xff })
	chunk("doubled", func(p, t []byte, _ int) { copy(t, item(p, 3)) })
	chunk("null", func(_, t []byte, _ int) { put16(t[20:], u16(t[20:])|1) })
	add("all chunks of a value lost", func(c *victim) error {
		return everyPage(c.relation("lab.docs toast"), func(p []byte) {
			var value uint32
			for n, i := range pgtest.Items(p) {
				if i.Flags != 1 {
					continue
				}
				v := u32(p[i.Offset+24:])
				if value == 0 {
					value = v
				}
				if v == value {
					pgtest.SetItem(p, n, pgtest.Item{})
				}
			}
		}, 3)
	})
	add("index entry of a chunk lost", edit("lab.docs toast index", 1, func(p []byte) { pgtest.DropItem(10)(p) }))
	add("index entry of a chunk for another", edit("lab.docs toast index", 1, func(p []byte) { copy(item(p, 10)[:6], item(p, 11)[:6]) }))
	return kinds
}

// everyPage changes the first pages of a relation.
func everyPage(r pgtest.Relation, change func(p []byte), pages uint32) error {
	for block := range min(pages, r.Blocks) {
		if err := r.EditValid(block, func(p []byte) {
			if !page.IsNew(p) {
				change(p)
			}
		}); err != nil {
			return err
		}
	}
	return nil
}
