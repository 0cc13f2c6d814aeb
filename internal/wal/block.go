package wal

import (
	"context"
	"encoding/binary"
	"strconv"
	"strings"
)

// Block is a page of a relation, as records name it.
type Block struct {
	Tablespace, Database, Relation uint32
	Fork                           uint8
	Number                         uint32
}

// The tablespaces pg_default and pg_global (pg_tablespace.dat).
const defaultTablespace, globalTablespace = 1663, 1664

// forks are the numbers of forks by what the names of their files end with.
var forks = map[string]uint8{"": 0, "fsm": 1, "vm": 2, "init": 3}

// BlockOf is the first page of a fork of a relation by the path of its first file within
// the data directory, as pg_relation_filepath gives it.
func BlockOf(path string) Block {
	parts := strings.Split(path, "/")
	number := func(text string) uint32 {
		n, _ := strconv.ParseUint(text, 10, 32) // 0 is none
		return uint32(n)
	}
	relation, fork, _ := strings.Cut(parts[len(parts)-1], "_")
	b := Block{Tablespace: defaultTablespace, Relation: number(relation), Fork: forks[fork]}
	switch {
	case parts[0] == "global":
		b.Tablespace = globalTablespace
		return b
	case parts[0] == "pg_tblspc" && len(parts) > 1:
		b.Tablespace = number(parts[1])
	}
	if len(parts) > 1 {
		b.Database = number(parts[len(parts)-2])
	}
	return b
}

// Identifiers of the parts of a record (xlogrecord.h).
const (
	maxBlockID     = 32
	dataShort      = 255
	dataLong       = 254
	originID       = 253
	topTransaction = 252

	forkMask     = 0x0F
	hasImage     = 0x10
	willInit     = 0x40
	sameRelation = 0x80
	hasHole      = 0x01
)

// Blocks follows the records from the one at start to the end of the WAL and
// gives the pages that they change, in order. whole says that the record holds
// the page as a whole or makes it anew, so that what is on disk does not matter.
func Blocks(ctx context.Context, start Position, e Expect, open Opener, block func(b Block, whole bool)) error {
	w := &walker{expect: e, open: open, keep: true}
	defer w.close()
	report := Report{First: start, End: start}
	return w.each(ctx, &report, nil, func(Record) { decodeBlocks(w.body, w.major, func(r reference) { block(r.Block, r.whole) }) })
}

// reference is a page as a record names it.
type reference struct {
	Block

	id byte
	// whole says that the record holds the page or makes it anew, and image that the
	// page which it holds is put in place when it is replayed.
	whole, image bool
}

// decodeBlocks reads the headers of the pages of a record, which lie at the
// beginning of its body. What it does not understand it leaves out.
func decodeBlocks(body []byte, major int, tell func(r reference)) {
	compressed, applies := uint8(0x02), uint8(0x04)
	if major >= 15 {
		compressed, applies = 0x04|0x08|0x10, 0x02
	}
	var last Block
	at, data := 0, 0 // data is how many bytes behind the headers belong to pages
	has := func(n int) bool { return at+n <= len(body) }
	for len(body)-at > data {
		id := body[at]
		at++
		switch {
		case id == dataShort, id == dataLong:
			return // the last one
		case id == originID:
			at += 2
			continue
		case id == topTransaction:
			at += 4
			continue
		case id > maxBlockID || !has(3):
			return
		}
		flags := body[at]
		data += int(binary.LittleEndian.Uint16(body[at+1:]))
		at += 3
		whole, image := flags&willInit != 0, false
		if flags&hasImage != 0 {
			if !has(5) {
				return
			}
			info := body[at+4]
			data += int(binary.LittleEndian.Uint16(body[at:]))
			at += 5
			if info&hasHole != 0 && info&compressed != 0 {
				at += 2
			}
			image = info&applies != 0
			whole = whole || image
		}
		if flags&sameRelation == 0 {
			if !has(12) {
				return
			}
			last.Tablespace, last.Database = binary.LittleEndian.Uint32(body[at:]), binary.LittleEndian.Uint32(body[at+4:])
			last.Relation = binary.LittleEndian.Uint32(body[at+8:])
			at += 12
		}
		if !has(4) {
			return
		}
		last.Fork, last.Number = flags&forkMask, binary.LittleEndian.Uint32(body[at:])
		at += 4
		tell(reference{last, id, whole, image})
	}
}
