package check

import (
	"context"
	"fmt"
	"strconv"
)

const (
	// largeTable is the size from which a table is looked at in parts.
	largeTable = 1 << 30
	// defaultParts is how many runs a large table is looked at in.
	defaultParts = 7
)

// part is the part of a table that one run looks at.
type part struct{ Number, Of int }

// wholeTable is all of it.
var wholeTable = part{Of: 1}

// of is the range of pages of the part, in a table of this many.
func (p part) of(blocks uint32) blockRange {
	if p.Of <= 1 {
		return blockRange{End: blocks, whole: true}
	}
	share := uint64(blocks) / uint64(p.Of)
	r := blockRange{Start: uint32(share * uint64(p.Number)), End: uint32(share * uint64(p.Number+1))}
	if p.Number == p.Of-1 {
		r.End = 1<<32 - 1
	}
	return r
}

// samplePages is how many pages of a table that is looked at in parts each run
// looks at besides its part.
const samplePages = 3000

// sample is those pages, in a table of this many.
func (p part) sample(blocks uint32) blockRange {
	return blockRange{sampled: min(100, 100*samplePages/float64(max(blocks, 1)))}
}

// confidence is what a sample without a wrong row says of all pages: with
// n pages chosen at random, 3/n is the share that is exceeded in 5 of 100
// cases.
func (p part) confidence(blocks uint32) string {
	sampled := p.sample(blocks).pages(blocks)
	return fmt.Sprintf("without a finding, with 95 %% confidence fewer than %.2g %% of its pages hold a row that breaks a rule of single rows or a foreign key", 300/float64(max(sampled, 1)))
}

// parts remembers which part of each large table is next, by its OID.
type parts map[string]int

// recallParts reads where earlier runs ended. Without a memory every run looks
// at the first part, and says so.
func (s *session) recallParts(ctx context.Context) parts {
	next := make(parts)
	if _, err := s.recall(ctx, "parts", &next); err != nil {
		s.logger.Warn("large tables are begun anew", "err", err)
	}
	return next
}

// of is the part of a table that is next: all of it unless it is large, and
// when everything is asked for.
func (p parts) of(s *session, t table) part {
	count := s.scope.Rules.Parts
	if count == 0 {
		count = defaultParts
	}
	large := int64(t.Pages)*int64(s.conn.Facts.BlockSize) > s.scope.Rules.largeTable()
	if !large || s.scope.Deep || len(s.scope.Relations) > 0 || count == 1 {
		return wholeTable
	}
	return part{Number: p[strconv.FormatUint(uint64(t.OID), 10)] % count, Of: count}
}

// done notes that a part was looked at, so that a run that is interrupted
// begins with the next one.
func (p parts) done(ctx context.Context, s *session, t table, looked part) error {
	if looked.Of == 1 {
		return nil
	}
	p[strconv.FormatUint(uint64(t.OID), 10)] = (looked.Number + 1) % looked.Of
	return s.remember(ctx, "parts", p)
}
