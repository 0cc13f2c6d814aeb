package check

import (
	"context"

	"pg_integrity_exporter/internal/page"
)

// structure is how the pages of an index belong together. Each change of several
// pages at once is one record of the WAL, so those that are as old as the last
// checkpoint are one picture and agree with each other.
type structure interface {
	// note keeps in mind what a page as old as the last checkpoint says of others.
	note(p []byte, block uint32)
	// same says that such a page still says what was noted.
	same(p []byte, block uint32) bool
	// problems tells of pages that do not agree. whole says that every page was
	// noted, so that what nothing leads to is a problem, too.
	problems(whole bool, tell teller)
}

// teller is told of a page that does not agree with others that it was compared
// with.
type teller func(text string, block uint32, others ...uint32)

const (
	// maxNodes is how many pages of an index are kept in mind (80 MB at most);
	// maxChains is that of SP-GiST indexes, of which the tuples are.
	maxNodes  = 1 << 21
	maxChains = 1 << 16
	// maxDoubts bounds the pages of an index that are looked at again.
	maxDoubts = 100
	// noPage is InvalidBlockNumber.
	noPage = 0xffffffff
)

// newStructure makes room for the pages of an index; nil is one that is too large
// or of an unknown kind.
func newStructure(relation *page.Relation, blocks uint32) structure {
	kind := relation.Kind
	if blocks > maxNodes || kind == page.Spgist && blocks > maxChains {
		return nil
	}
	switch kind {
	case page.Btree:
		return &btreeStructure{nodes: make([]btreeNode, blocks)}
	case page.Hash:
		return &hashStructure{pages: make([]hashNode, blocks)}
	case page.Gin:
		return &ginStructure{relation: relation, nodes: make([]ginNode, blocks)}
	case page.Gist:
		return &gistStructure{nodes: make([]gistNode, blocks)}
	case page.Spgist:
		return &spgistStructure{pages: make([]spgistNode, blocks)}
	case page.Brin:
		return &brinStructure{pages: make([]brinNode, blocks)}
	default:
		return nil
	}
}

// concludeStructure reports the pages of an index that do not agree, when a later
// look still shows them as they were.
func (r *reader) concludeStructure(ctx context.Context, f *fork) error {
	if r.structure == nil {
		return nil
	}
	var failed error
	doubts := 0
	r.structure.problems(r.unsettled == 0 && len(r.zeroes) == 0, func(text string, block uint32, others ...uint32) {
		if doubts++; failed != nil || doubts > maxDoubts || r.full(f.Name) {
			return
		}
		pauseToConfirm(ctx)
		for _, one := range append(others, block) {
			p, err := r.read(ctx, f, one)
			if failed = err; err != nil || p == nil || !r.settled(f, page.DecodeHeader(p).LSN) || !r.structure.same(p, one) {
				return
			}
			anew, err := r.willReplace(ctx, f, one)
			if failed = err; err != nil || anew {
				return
			}
		}
		failed = r.report(ctx, f, &block, corrupt("structure "+kindOf(text), "%s", text))
	})
	return failed
}
