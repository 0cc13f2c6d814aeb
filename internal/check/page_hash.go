package check

import (
	"context"
	"fmt"

	"pg_integrity_exporter/internal/page"
)

// bucketPage is a page of a bucket of a hash index.
type bucketPage struct {
	page.HashPage

	settled bool
}

// noPage is InvalidBlockNumber.
const noPage = 0xffffffff

// noteHash keeps in mind what a page of a hash index says.
func (r *reader) noteHash(p []byte, block uint32) {
	if int(block) >= len(r.buckets) {
		return
	}
	if block == 0 {
		r.highestBucket, r.bucketsKnown = page.HashBuckets(p), true
		return
	}
	if h, ok := page.DecodeHash(p); ok {
		r.buckets[block] = bucketPage{h, true}
	}
}

// concludeHash compares the pages of a hash index with each other: pages are put
// into a bucket and taken out of it together with the links of their neighbours,
// so pages that are as old as the last checkpoint agree. A server that looks a row
// up in an index where they do not can go round for ever, deaf to a cancel and to
// statement_timeout.
func (r *reader) concludeHash(ctx context.Context, f *fork) error {
	for i := range r.buckets {
		block, b := uint32(i), r.buckets[i]
		if !b.settled {
			continue
		}
		text := r.bucketProblem(block, b)
		if text == "" {
			continue
		}
		err := r.confirmed(ctx, f, block, corrupt("bucket", "%s", text), func(p []byte) bool {
			h, ok := page.DecodeHash(p)
			return ok && h == b.HashPage && r.settled(f, page.DecodeHeader(p).LSN)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// bucketProblem compares a page of a hash index with the metapage and the next
// page of its bucket.
func (r *reader) bucketProblem(block uint32, b bucketPage) string {
	at := func(i uint32) *bucketPage {
		if int64(i) >= int64(len(r.buckets)) || !r.buckets[i].settled {
			return nil
		}
		return &r.buckets[i]
	}
	switch {
	case r.bucketsKnown && b.Bucket > r.highestBucket:
		return fmt.Sprintf("the page belongs to bucket %d, but the metapage says that the highest is %d", b.Bucket, r.highestBucket)
	case r.bucketsKnown && !b.Overflow && b.Previous > r.highestBucket:
		return fmt.Sprintf("the highest bucket was %d when this one was split last, but the metapage says that it is %d", b.Previous, r.highestBucket)
	}
	if next := at(b.Next); b.Next != noPage && next != nil && (!next.Overflow || next.Previous != block || next.Bucket != b.Bucket) {
		return fmt.Sprintf("the next page of its bucket %d, page %d, belongs to bucket %d and follows page %d", b.Bucket, b.Next, next.Bucket, next.Previous)
	}
	if !b.Overflow {
		return ""
	}
	if before := at(b.Previous); before != nil && before.Next != block {
		return fmt.Sprintf("the page before it in its bucket, page %d, does not lead to it", b.Previous)
	}
	return ""
}
