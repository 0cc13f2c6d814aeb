package cluster

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

const (
	slruPage    = 8192
	slruPages   = 32 // of one file (SLRU_PAGES_PER_SEGMENT)
	slruFile    = slruPage * slruPages
	xidsPerByte = 4
	xidsPerPage = slruPage * xidsPerByte

	multisPerPage  = slruPage / 4
	membersPerPage = slruPage / 20 * 4
	commitsPerPage = slruPage / 10
)

// Log is one of the logs that the server keeps by number in files of 256 kB
// (SLRU): the status of transactions, and what multixacts consist of. None has
// a checksum.
type Log struct {
	// Directory is where its files are.
	Directory string
	// What says what it holds.
	What string
	// perPage is how many numbers one page holds.
	perPage uint32
}

// The logs.
var (
	Transactions     = Log{"pg_xact", "the status of transactions", xidsPerPage}
	MultiOffsets     = Log{"pg_multixact/offsets", "the offsets of multixacts", multisPerPage}
	MultiMembers     = Log{"pg_multixact/members", "the members of multixacts", membersPerPage}
	CommitTimestamps = Log{"pg_commit_ts", "the times of commits", commitsPerPage}
)

// File is the name of the file that holds a number.
func (l Log) File(number uint32) string { return fmt.Sprintf("%04X", l.segment(number)) }

// segment is the number of the file that holds a number.
func (l Log) segment(number uint32) uint32 { return number / l.perPage / slruPages }

// Place is where a number is: its file, relative to the data directory, and
// the page in it.
func (l Log) Place(number uint32) (file string, page int64) {
	return l.Directory + "/" + l.File(number), int64(number / l.perPage % slruPages)
}

// SegmentOf reads the name of a file.
func SegmentOf(name string) (uint32, bool) {
	n, err := strconv.ParseUint(name, 16, 32)
	return uint32(n), err == nil && len(name) >= 4 && len(name) <= 6
}

// Files gives the files that must be there for the numbers from oldest up to
// but not including next, which may have wrapped around, and the least size of
// each. The numbers below oldest in its file are kept, too.
func (l Log) Files(oldest, next uint32) map[string]int64 {
	files := make(map[string]int64)
	if oldest == next {
		return files
	}
	last := next - 1
	segments := l.segment(1<<32-1) + 1
	for segment := l.segment(oldest); ; segment = (segment + 1) % segments {
		if segment == l.segment(last) {
			files[fmt.Sprintf("%04X", segment)] = (int64(last/l.perPage%slruPages) + 1) * slruPage
			return files
		}
		// The last file before the numbers wrap around is not full.
		size := int64(slruFile)
		if segment == segments-1 {
			size = (int64(uint32(1<<32-1)/l.perPage%slruPages) + 1) * slruPage
		}
		files[fmt.Sprintf("%04X", segment)] = size
	}
}

// Blank is a run of transactions that are marked neither as committed nor as
// aborted although all of them have ended.
type Blank struct{ First, Last uint32 }

const (
	sector = 512
	// xidsPerSector is how many transactions one sector of a disk holds.
	xidsPerSector = sector * xidsPerByte
	// enough is how many transactions must be blank at the end of those in use.
	enough = 64
)

// BlankStatus looks for lost status in the contents of one file of pg_xact,
// which begins with the transaction first. Transactions from the page of oldest
// up to but not including finished have all ended. Transactions that a crash
// ended stay blank and are no damage; a run counts when it fills whole sectors
// and the transactions next to it on both sides are marked, or when it goes from
// the beginning of a page to the last transaction.
func BlankStatus(b []byte, first, oldest, finished uint32) []Blank {
	from, to := 0, len(b)*xidsPerByte // indexes of transactions in b
	if d := int64(int32(oldest - first)); d > 0 {
		from = int(d) / xidsPerPage * xidsPerPage
	}
	if d := int64(int32(finished - first)); d < int64(to) {
		to = int(max(0, d))
	}
	status := func(i int) byte { return b[i/xidsPerByte] >> (i % xidsPerByte * 2) & 3 }
	var runs []Blank
	for i := from; i < to; {
		if status(i) != 0 {
			i++
			continue
		}
		start := i
		for i < to && status(i) == 0 {
			if i%xidsPerByte == 0 && b[i/xidsPerByte] == 0 {
				i = min(to, i+xidsPerByte)
			} else {
				i++
			}
		}
		sectors := start%xidsPerSector == 0 && i%xidsPerSector == 0
		toTheEnd := start%xidsPerPage == 0 && i == to && i-start >= enough
		if sectors || toTheEnd {
			runs = append(runs, Blank{first + uint32(start), first + uint32(i-1)})
		}
	}
	return runs
}

// GarbledStatus looks for sectors of a file of pg_xact whose transactions are
// marked at random: sub-committed is a status that no transaction keeps.
func GarbledStatus(b []byte, first, finished uint32) []Blank {
	var runs []Blank
	for at := 0; at+sector <= len(b); at += sector {
		start := first + uint32(at*xidsPerByte)
		if !precedes(start+xidsPerSector-1, finished) {
			break
		}
		var counts [4]int
		for _, one := range b[at : at+sector] {
			for range xidsPerByte {
				counts[one&3]++
				one >>= 2
			}
		}
		if counts[3] >= xidsPerSector/16 && counts[0] >= xidsPerSector/16 {
			runs = append(runs, Blank{First: start, Last: start + xidsPerSector - 1})
		}
	}
	return runs
}

const (
	// UnderWay is how many multixacts before the next one may not have been written
	// when the last checkpoint was made.
	UnderWay = 64
	// multisOf is how many multixacts one file of pg_multixact/offsets holds.
	multisOf = multisPerPage * slruPages
	// enoughMultis is how many offsets of one sector of a disk must be in use.
	enoughMultis = 32
)

// OffsetsProblem looks at the offsets of the multixacts from oldest up to but
// not including next in the contents of the file of a segment of
// pg_multixact/offsets. Each must lie between the first and the next
// member; firstMember 0 is that the first is not known. "" is nothing wrong. An
// offset of 0 was never written: a crash leaves it, but not a whole sector of them.
func OffsetsProblem(b []byte, segment, oldest, next, firstMember, nextMember uint32) string {
	var previous, before uint32 // counted from firstMember, and of which multixact it is
	var blank, used uint32
	for i := 0; i+4 <= len(b); i += 4 {
		multi := segment*multisOf + uint32(i/4)
		offset := binary.LittleEndian.Uint32(b[i:])
		if i%sector == 0 {
			blank, used = 0, 0
		}
		if precedesMulti(multi, oldest) || !precedesMulti(multi, next) || multi == 0 {
			continue
		}
		if next-multi > UnderWay {
			used++
			if offset == 0 {
				blank++
			}
		}
		if (i+4)%sector == 0 || next-multi == UnderWay+1 {
			if used >= enoughMultis && blank == used {
				return fmt.Sprintf("where the members of the multixacts %d to %d begin was lost", multi+1-used, multi)
			}
		}
		switch since := offset - firstMember; {
		case offset == 0, firstMember == 0:
		case since < previous || since > nextMember-firstMember:
			return fmt.Sprintf("the members of multixact %d begin at %d, outside of %d to %d", multi, offset, firstMember+previous, nextMember)
		case before != 0 && multi == before+1 && since-previous > mostMembers:
			return fmt.Sprintf("the members of multixact %d begin at %d, but those of the next at %d", before, firstMember+previous, offset)
		default:
			previous, before = since, multi
		}
	}
	return ""
}

const (
	// lastMemberStatus is the largest status of a member of a multixact (MultiXactStatus).
	lastMemberStatus = 5
	// mostMembers is how many members a multixact can have at all: one for each session
	// and its subtransactions. More is a matter of its offset.
	mostMembers = 1 << 18
)

// LostMembers gives the multixacts from oldest up to but not including next, in the
// contents of the file of a segment of pg_multixact/offsets, of which a member is no
// transaction or has a status that there is not. members gives the contents of a
// file of pg_multixact/members; nil is that it is not known. It is asked once for
// each file.
func LostMembers(offsets []byte, segment, oldest, next, nextMember uint32, members func(path string) []byte) []uint32 {
	var lost []uint32
	var content []byte
	known := int64(-1) // the segment of content
	for i := 0; i+4 <= len(offsets); i += 4 {
		multi := segment*multisOf + uint32(i/4)
		if precedesMulti(multi, oldest) || !precedesMulti(multi, next) || multi == 0 {
			continue
		}
		start, end := binary.LittleEndian.Uint32(offsets[i:]), nextMember
		if multi+1 != next {
			if i+8 > len(offsets) {
				break // the next file knows
			}
			end = binary.LittleEndian.Uint32(offsets[i+4:])
		}
		if start == 0 || end == 0 || end-start > mostMembers {
			continue
		}
		for member := start; member != end; member++ {
			if of := MultiMembers.segment(member); int64(of) != known {
				path, _ := MultiMembers.Place(member)
				content, known = members(path), int64(of)
			}
			if member != 0 && lostMember(content, member) {
				lost = append(lost, multi)
				break
			}
		}
	}
	return lost
}

// lostMember looks at one member in the contents of its file: four of them stand
// together, first the status of each in a byte.
func lostMember(b []byte, member uint32) bool {
	group := int(member/membersPerPage%slruPages)*slruPage + int(member%membersPerPage/4)*20
	if group+20 > len(b) {
		return false
	}
	xid := binary.LittleEndian.Uint32(b[group+4+int(member%4)*4:])
	return xid < firstNormal || b[group+int(member%4)] > lastMemberStatus
}

// MembersProblem says in words what LostMembers gives; "" is nothing.
func MembersProblem(lost []uint32) string {
	if len(lost) == 0 {
		return ""
	}
	return fmt.Sprintf("the members of %d multixacts were lost, of %d to %d", len(lost), lost[0], lost[len(lost)-1])
}

// StatusOf gives the status of a transaction, from the contents of its file of pg_xact;
// "" is that it is under way, or that the file is too short.
func StatusOf(b []byte, xid uint32) string {
	at := xid % (xidsPerPage * slruPages)
	if int(at/xidsPerByte) >= len(b) {
		return ""
	}
	return []string{"", "committed", "aborted", "sub-committed"}[b[at/xidsPerByte]>>(at%xidsPerByte*2)&3]
}

// StatusProblems says in words what BlankStatus and GarbledStatus find in the
// contents of the file of a segment of pg_xact.
func StatusProblems(b []byte, segment, oldest, finished uint32) []string {
	first := segment * xidsPerPage * slruPages
	var problems []string
	for _, run := range BlankStatus(b, first, oldest, finished) {
		problems = append(problems, fmt.Sprintf("the transactions %d to %d are marked neither as committed nor as aborted although all of them have ended: their status was lost", run.First, run.Last))
	}
	for _, run := range GarbledStatus(b, first, finished) {
		problems = append(problems, fmt.Sprintf("the status of the transactions %d to %d is garbled", run.First, run.Last))
	}
	return problems
}

// OffsetOf gives where the members of a multixact begin, from the contents of
// the file that holds it.
func OffsetOf(b []byte, multi uint32) (uint32, bool) {
	at := int(multi%(multisPerPage*slruPages)) * 4
	if at+4 > len(b) {
		return 0, false
	}
	return binary.LittleEndian.Uint32(b[at:]), true
}
