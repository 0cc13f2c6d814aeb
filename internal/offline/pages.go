package offline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/imprint"
	"pg_integrity_exporter/internal/page"
	"pg_integrity_exporter/internal/wal"
)

const (
	// segmentBlocks is how many pages a file has before the next one begins.
	segmentBlocks = 1 << 17
	readPages     = 128
)

// dataFile is the name of a file of a relation: number, fork, segment.
var dataFile = regexp.MustCompile(`^(\d+)(_fsm|_vm|_init)?(?:\.(\d+))?$`)

// suspect is a page that is not sane on disk.
type suspect struct {
	relation relation
	file     string
	block    wal.Block
	text     string
}

// maxSuspects bounds the pages that are remembered until the WAL was asked.
const maxSuspects = 10000

// pages reads every page of every relation: header, checksum, layout.
//
// After a crash a page may be half-written, and the next start writes it anew
// from the WAL: such a page is not damaged.
func (r *run) pages(ctx context.Context) error {
	switch {
	case r.running:
		r.skipped = "a server seems to run in the directory: a page that is just being written looks torn; use check without --offline"
		return nil
	case !r.known:
		r.skipped = "without a sane control file it is not known whether there are data checksums"
		return nil
	case r.control.BlockSize != page.Size:
		r.skipped = fmt.Sprintf("pages of %d bytes are not supported, only of %d", r.control.BlockSize, page.Size)
		return nil
	}
	directories := []string{"global"}
	directories = append(directories, r.databases()...)
	directories = append(directories, r.partsOfDatabases()...)
	var suspects []suspect
	r.chunk = make([]byte, readPages*page.Size)
	if r.opened != nil && r.label == nil {
		expect := wal.Expect{Major: r.major, System: r.control.System, SegmentSize: int64(r.control.WALSegmentSize)}
		var err error
		if r.writtenAt, err = wal.Written(ctx, r.control.Redo, expect, r.opened, func(b wal.Block) bool { return b.Fork == 0 }); err != nil {
			r.problem("pg_wal", err)
		}
	}
	for _, directory := range directories {
		more, err := r.pagesIn(ctx, directory)
		if err != nil {
			return err
		}
		suspects = append(suspects, more[:min(len(more), maxSuspects-len(suspects))]...)
	}
	mended, err := r.mended(ctx, suspects)
	if err != nil {
		return err
	}
	for _, s := range suspects {
		if !mended[s.block] {
			block := s.block.Number
			r.foundInFile(s.relation, s.file, &block, s.text, check.KindOf(s.text))
		}
	}
	return nil
}

// partsOfDatabases are the directories of databases in other tablespaces than
// their own.
func (r *run) partsOfDatabases() []string {
	var list []string
	own := r.databases()
	links, err := r.list("pg_tblspc")
	if err != nil {
		r.problem("pg_tblspc", err)
	}
	for _, link := range links {
		parent := "pg_tblspc/" + link + "/" + r.tablespaceVersion()
		names, err := r.list(parent)
		if err != nil {
			r.problem(parent, err)
		}
		for _, name := range names {
			directory := parent + "/" + name
			if _, err := strconv.ParseUint(name, 10, 32); err == nil && !slices.Contains(own, directory) {
				list = append(list, directory)
			}
		}
	}
	return list
}

// pagesIn reads the pages of all files in a directory.
func (r *run) pagesIn(ctx context.Context, directory string) (suspects []suspect, err error) {
	names, err := r.list(directory)
	if err != nil {
		r.problem(directory, err)
		return nil, nil
	}
	r.imprints = r.openImprints(directory)
	defer r.imprints.close()
	for _, name := range names {
		more, err := r.pagesOf(ctx, directory, name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			r.problem(directory+"/"+name, err)
		}
		suspects = append(suspects, more[:min(len(more), maxSuspects-len(suspects))]...)
	}
	return suspects, nil
}

// pagesOf reads the pages of one file.
func (r *run) pagesOf(ctx context.Context, directory, name string) ([]suspect, error) {
	match := dataFile.FindStringSubmatch(name)
	if match == nil {
		return nil, nil
	}
	path := directory + "/" + name
	rel := r.names.files[directory+"/"+match[1]]
	if rel.persistence == 'u' && match[2] != "_init" {
		return nil, nil
	}
	if unclean := !r.control.State.Clean() || r.label != nil; unclean && (rel.name == "" || match[2] == "_fsm" || match[2] == "_vm") {
		return nil, nil // made by transactions that the crash ended, or mended by the server when it reads them
	}
	file, err := os.Open(r.path(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // read only
	r.result.Objects++
	kind := page.Other
	switch match[2] {
	case "_vm":
		kind = page.VisibilityMap
	case "_fsm":
		kind = page.FreeSpaceMap
	case "":
		kind = methodKinds[rel.method]
		if rel.kind == 'S' {
			kind = page.Sequence
		}
	}
	what := &page.Relation{Kind: kind, XIDs: r.transactionsOf(rel)}
	block := wal.BlockOf(directory + "/" + match[1] + match[2])
	segment, _ := strconv.ParseUint(match[3], 10, 32) // "" is the first
	var before *imprint.File
	if match[2] == "" && kind != page.Other {
		before = r.imprints.of(path)
	}
	var suspects []suspect
	chunk := r.chunk
	for first := uint32(0); ; first += readPages {
		n, err := file.ReadAt(chunk, int64(first)*page.Size)
		r.throttle(ctx, n)
		for i := range uint32(n / page.Size) {
			number := uint32(segment)*segmentBlocks + first + i
			block.Number = number
			p := chunk[i*page.Size : (i+1)*page.Size]
			text := r.pageProblem(p, block, what)
			if text == "" {
				text = r.changed(before, p, number, kind)
			}
			if text != "" {
				suspects = append(suspects, suspect{rel, path, block, text})
			}
		}
		if n%page.Size != 0 && r.control.State.Clean() {
			last := uint32(segment)*segmentBlocks + first + uint32(n/page.Size)
			r.foundInFile(rel, path, &last, fmt.Sprintf("the file %s ends in the middle of a page", path), "ragged")
		}
		if n < len(chunk) || ctx.Err() != nil || len(suspects) > maxSuspects {
			if n < len(chunk) {
				err = nil // its end
			}
			return suspects, err
		}
	}
}

// pageProblem says what is wrong with a page; "" is nothing.
func (r *run) pageProblem(p []byte, block wal.Block, what *page.Relation) string {
	number := block.Number
	if page.IsNew(p) {
		return ""
	}
	h := page.DecodeHeader(p)
	if r.control.ChecksumVersion != 0 && h.Upper != 0 {
		if sum := page.Checksum(p, number); sum != h.Checksum {
			return fmt.Sprintf("the page's data checksum is %04x, but %04x is stored in it", sum, h.Checksum)
		}
	}
	if text := page.Problem(p, number, what); text != "" {
		return text
	}
	if r.walEnd != 0 && wal.Position(h.LSN) > r.walEnd && what.Kind != page.Other {
		return fmt.Sprintf("the page was changed at %s, behind the end of the WAL at %s: WAL was lost, or the page is from another place", wal.Position(h.LSN), r.walEnd)
	}
	return wal.Lost(r.writtenAt, block, wal.Position(h.LSN))
}

// mended says which of the suspects the next start writes anew.
func (r *run) mended(ctx context.Context, suspects []suspect) (map[wal.Block]bool, error) {
	mended := make(map[wal.Block]bool)
	if len(suspects) == 0 || r.control.State.Clean() && r.label == nil || r.opened == nil {
		return mended, nil
	}
	wanted := make(map[wal.Block]bool, len(suspects))
	for _, s := range suspects {
		wanted[s.block] = true
	}
	start := r.control.Redo
	if r.label != nil {
		start = r.label.Start
	}
	expect := wal.Expect{Major: r.major, System: r.control.System, SegmentSize: int64(r.control.WALSegmentSize)}
	touched := make(map[wal.Block]bool)
	err := wal.Blocks(ctx, start, expect, r.opened, func(b wal.Block, whole bool) {
		if !wanted[b] || touched[b] {
			return
		}
		touched[b] = true
		mended[b] = whole
	})
	return mended, err
}

func segmentName(path string, segment uint32) string {
	if segment == 0 {
		return path
	}
	return path + "." + strconv.FormatUint(uint64(segment), 10)
}
