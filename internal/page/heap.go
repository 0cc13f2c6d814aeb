package page

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"strings"
)

// maxTuples is how many line pointers a heap page can have
// (MaxHeapTuplesPerPage).
const maxTuples = 291

// Bits of t_infomask and t_infomask2 (htup_details.h).
const (
	hasNull       = 0x0001
	hasVarWidth   = 0x0002
	hasExternal   = 0x0004
	hasOIDOld     = 0x0008
	xmaxExclusive = 0x0040
	xmaxLockOnly  = 0x0080
	xminCommitted = 0x0100
	xminInvalid   = 0x0200
	xminFrozen    = xminCommitted | xminInvalid
	xmaxCommitted = 0x0400
	xmaxInvalid   = 0x0800
	xmaxIsMulti   = 0x1000
	updated       = 0x2000
	moved         = 0xc000 // by VACUUM FULL before 9.0: away, or here

	nattsMask   = 0x07ff
	unusedMask2 = 0x1800
	hotUpdated  = 0x4000
	heapOnly    = 0x8000
)

// Special values of t_ctid.
const (
	movedOffset       = 0xfffd // the row went to another partition
	speculativeOffset = 0xfffe // an INSERT ON CONFLICT that has not decided yet
)

// tuple is the header of a heap tuple.
type tuple struct {
	xmin, xmax uint32
	// command is the number of the statement, or the transaction that moved the
	// tuple.
	command   uint32
	ctidBlock uint32
	ctid      uint16
	mask2     uint16
	mask      uint16
	hoff      int
}

func decodeTuple(t []byte) tuple {
	_ = t[22]
	return tuple{
		xmin: binary.LittleEndian.Uint32(t), xmax: binary.LittleEndian.Uint32(t[4:]),
		command: binary.LittleEndian.Uint32(t[8:]), ctidBlock: blockID(t[12:]), ctid: binary.LittleEndian.Uint16(t[16:]),
		mask2: binary.LittleEndian.Uint16(t[18:]), mask: binary.LittleEndian.Uint16(t[20:]), hoff: int(t[22]),
	}
}

// blockID decodes a block number as item pointers have it: two halves.
func blockID(b []byte) uint32 {
	return uint32(binary.LittleEndian.Uint16(b))<<16 | uint32(binary.LittleEndian.Uint16(b[2:]))
}

func (t tuple) natts() int    { return int(t.mask2 & nattsMask) }
func (t tuple) frozen() bool  { return t.mask&xminFrozen == xminFrozen }
func (t tuple) aborted() bool { return t.mask&xminFrozen == xminInvalid }
func (t tuple) lockOnly() bool {
	return t.mask&xmaxLockOnly != 0 || t.mask&(xmaxIsMulti|xmaxExclusive) == xmaxExclusive
}

// ends says that xmax is the transaction that deleted or updated the tuple, as
// far as the tuple itself tells.
func (t tuple) ends() bool {
	return t.mask&(xmaxInvalid|xmaxIsMulti) == 0 && t.xmax != 0 && !t.lockOnly()
}

// heapProblem looks at the line pointers and tuples of a heap page.
func (r *Relation) heapProblem(p []byte, h Header, block uint32) string {
	count, problem := pointers(h)
	switch {
	case problem != "":
		return problem
	case count > maxTuples:
		return fmt.Sprintf("the page has %d line pointers, more than the %d that fit", count, maxTuples)
	case r.XIDs.beyond(h.PruneXID):
		return fmt.Sprintf("the page is to be pruned after transaction %d, which has not begun yet (pd_prune_xid)", h.PruneXID)
	}
	var tuples [maxTuples + 1]tuple
	var used usage
	for i := 1; i <= count; i++ {
		offset, length, flags := linePointer(p, i)
		switch flags {
		case lpUnused, lpDead:
			if length != 0 {
				return fmt.Sprintf("line pointer %d is unused or dead but has %d bytes", i, length)
			}
			if flags == lpDead && h.Flags&AllVisible != 0 {
				return fmt.Sprintf("the page says that all its rows are visible to everybody, but line pointer %d is dead", i)
			}
			continue
		case lpRedirect:
			if length != 0 || offset < 1 || offset > count {
				return fmt.Sprintf("line pointer %d redirects to %d of %d", i, offset, count)
			}
			if _, _, target := linePointer(p, offset); target != lpNormal {
				return fmt.Sprintf("line pointer %d redirects to %d, which has no tuple", i, offset)
			}
			continue
		}
		if problem := used.place(h, i, offset, length, 24); problem != "" {
			return problem
		}
		tuples[i] = decodeTuple(p[offset:])
		if problem := r.tupleProblem(p[offset:offset+length], tuples[i], h, block, i); problem != "" {
			return fmt.Sprintf("line pointer %d: %s", i, problem)
		}
	}
	return cmp.Or(used.gap(h), r.chainProblem(p, count, &tuples, block))
}

// tupleProblem looks at one tuple.
func (r *Relation) tupleProblem(p []byte, t tuple, h Header, block uint32, number int) string {
	natts := t.natts()
	want := 23
	if t.mask&hasNull != 0 {
		want += (natts + 7) / 8
	}
	if t.mask&hasOIDOld != 0 {
		want += 4
	}
	want = (want + 7) &^ 7
	switch {
	case t.hoff%8 != 0 || t.hoff < 24 || t.hoff > len(p):
		return fmt.Sprintf("the data of the tuple begins at byte %d of %d", t.hoff, len(p))
	case t.hoff != want:
		return fmt.Sprintf("the data of the tuple begins at byte %d, but with %d columns it should at %d", t.hoff, natts, want)
	}
	if problem := cmp.Or(r.markProblem(t), ctidProblem(t, block, number)); problem != "" {
		return problem
	}
	if problem := r.XIDs.problem(t); problem != "" {
		return problem
	}
	if h.Flags&AllVisible != 0 {
		if problem := r.unseen(t); problem != "" {
			return problem
		}
	}
	if r.Columns == nil || t.mask&hasOIDOld != 0 {
		return ""
	}
	problem := r.rowProblem(p, t)
	// What an aborted ALTER TABLE left may have other columns than the catalogue; a
	// label may be taken out of pg_enum by hand once only rows that are gone have it.
	if problem != "" && (!r.XIDs.inserted(t) || strings.HasSuffix(problem, NoLabel) && t.ends() && r.XIDs.ended(t)) {
		r.Unsure = true
		return ""
	}
	return problem
}

// markProblem says which marks of a tuple contradict each other.
func (r *Relation) markProblem(t tuple) string {
	switch {
	case t.mask&xmaxCommitted != 0 && t.mask&xmaxIsMulti != 0:
		return "xmax is a multixact that is marked as committed"
	case t.mask&xmaxCommitted != 0 && t.mask&xmaxInvalid != 0:
		return "xmax is marked as committed and as invalid at once"
	case t.mask&xmaxCommitted != 0 && t.xmax == 0:
		return "xmax is marked as committed, but 0"
	case t.mask&xminCommitted != 0 && t.xmin == 0:
		return "xmin is marked as committed, but 0"
	case t.mask2&unusedMask2 != 0:
		return fmt.Sprintf("the tuple has unknown flags (t_infomask2 0x%04x)", t.mask2)
	case t.mask&moved != 0 && (t.mask&moved == moved || t.command < firstNormal || r.XIDs.beyond(t.command) || r.XIDs.before(t.command)):
		return fmt.Sprintf("the tuple says that transaction %d of a VACUUM FULL moved it (t_infomask 0x%04x), which cannot be", t.command, t.mask)
	case t.mask2&heapOnly != 0 && t.mask&updated == 0:
		return "the tuple is heap-only, but not the result of an update"
	case t.mask2&hotUpdated != 0 && t.mask&xmaxInvalid == 0 && !t.aborted() && t.xmax == 0:
		return "the tuple was updated, but its xmax is 0"
	}
	return ""
}

// unseen says why not everybody sees a tuple.
func (r *Relation) unseen(t tuple) string {
	switch {
	case t.aborted():
		return "the page says that all its rows are visible to everybody, but the tuple's xmin is marked as aborted"
	case t.ends() && t.mask&xmaxCommitted != 0:
		return "the page says that all its rows are visible to everybody, but the tuple is marked as deleted"
	case t.ends() && r.XIDs.ended(t):
		return fmt.Sprintf("the page says that all its rows are visible to everybody, but transaction %d, which deleted the tuple, has committed", t.xmax)
	}
	return ""
}

// untouched says that nobody has updated, deleted or locked a tuple. VACUUM clears
// the xmax of an aborted update without setting t_ctid back, but then it freezes
// xmin, too.
func (t tuple) untouched() bool {
	return t.xmax == 0 && t.mask&xmaxInvalid != 0 && t.xmin > 2 && !t.frozen()
}

// ctidProblem looks at t_ctid: an untouched tuple points to itself.
func ctidProblem(t tuple, block uint32, number int) string {
	switch {
	case t.ctid == speculativeOffset:
		return ""
	case t.ctid == movedOffset && t.ctidBlock == invalidBlock:
		if t.untouched() {
			return "the tuple says that it was moved to another partition, but nobody did (t_ctid)"
		}
		return ""
	case t.ctid == 0 || t.ctid > maxTuples:
		return fmt.Sprintf("the tuple's successor is at (%d,%d), which cannot be (t_ctid)", t.ctidBlock, t.ctid)
	case t.untouched() && (t.ctidBlock != block || int(t.ctid) != number):
		return fmt.Sprintf("the tuple says that it is at (%d,%d), not at (%d,%d): the page belongs elsewhere, or t_ctid was damaged", t.ctidBlock, t.ctid, block, number)
	}
	return ""
}

// chainProblem looks at the chains of versions within a page.
func (r *Relation) chainProblem(p []byte, count int, tuples *[maxTuples + 1]tuple, block uint32) string {
	var before [maxTuples + 1]uint16
	// maybe is what a version with several lockers or unknown fate leads to.
	var maybe [maxTuples + 1]bool
	only := false
	for i := 1; i <= count; i++ {
		offset, _, flags := linePointer(p, i)
		if flags == lpRedirect {
			if tuples[offset].mask2&heapOnly == 0 {
				return fmt.Sprintf("line pointer %d redirects to %d, which is not heap-only", i, offset)
			}
			if before[offset] != 0 {
				return fmt.Sprintf("line pointers %d and %d both lead to %d", before[offset], i, offset)
			}
			before[offset] = uint16(i)
			continue
		}
		t := tuples[i]
		if flags != lpNormal {
			continue
		}
		only = only || t.mask2&heapOnly != 0
		if r.lostSuccessor(p, count, tuples, t, block) {
			return fmt.Sprintf("line pointer %d: the tuple was updated in place by transaction %d, but (%d,%d) is not its successor (t_ctid)", i, t.xmax, t.ctidBlock, t.ctid)
		}
		next := int(t.ctid)
		if t.ctidBlock != block || next == i || next > count || next == 0 {
			continue
		}
		if _, _, target := linePointer(p, next); target != lpNormal {
			continue
		}
		maybe[next] = true
		if !t.ends() || t.xmax != tuples[next].xmin || !r.XIDs.ended(t) || t.aborted() {
			continue
		}
		switch hot, only := t.mask2&hotUpdated != 0, tuples[next].mask2&heapOnly != 0; {
		case hot && !only:
			return fmt.Sprintf("line pointer %d: the tuple was updated in place, but its successor %d is not heap-only", i, next)
		case !hot && only:
			return fmt.Sprintf("line pointer %d: the tuple was not updated in place, but its successor %d is heap-only", i, next)
		case before[next] != 0:
			return fmt.Sprintf("line pointers %d and %d both lead to %d", before[next], i, next)
		}
		before[next] = uint16(i)
	}
	if !only {
		return ""
	}
	for i := 1; i <= count; i++ {
		t := tuples[i]
		if t.mask2&heapOnly != 0 && before[i] == 0 && !maybe[i] && !t.aborted() && r.XIDs.inserted(t) {
			return fmt.Sprintf("line pointer %d: the tuple is heap-only, but nothing leads to it: no index finds it", i)
		}
	}
	return ""
}

// lostSuccessor says that a tuple was updated in place by a transaction that
// committed, but does not lead to the new version. The versions of a row are pruned
// from the oldest on, so the new one is there as long as the old one is.
func (r *Relation) lostSuccessor(p []byte, count int, tuples *[maxTuples + 1]tuple, t tuple, block uint32) bool {
	if t.mask2&hotUpdated == 0 || !t.ends() || t.aborted() || !r.XIDs.ended(t) {
		return false
	}
	next := int(t.ctid)
	if t.ctidBlock != block || next < 1 || next > count {
		return true
	}
	if _, _, flags := linePointer(p, next); flags != lpNormal {
		return true
	}
	return tuples[next].xmin != t.xmax || tuples[next].mask2&heapOnly == 0
}

// Targets says for each line pointer of a heap page whether an index entry may
// point to it: bit n-1 of word (n-1)/64 for offset number n. It expects a page
// without a problem.
func Targets(p []byte) (targets [(maxTuples + 63) / 64]uint64, count int) {
	h := DecodeHeader(p)
	count = min(int(h.Lower-HeaderSize)/4, maxTuples)
	for i := 1; i <= count; i++ {
		offset, _, flags := linePointer(p, i)
		if flags == lpUnused || flags == lpNormal && binary.LittleEndian.Uint16(p[offset+18:])&heapOnly != 0 {
			continue
		}
		targets[(i-1)/64] |= 1 << ((i - 1) % 64)
	}
	return targets, count
}
