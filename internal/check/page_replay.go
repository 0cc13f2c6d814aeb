package check

import (
	"context"
	"errors"
	"fmt"

	"pg_integrity_exporter/internal/wal"
)

// maxReplayed bounds the pages that are kept in mind: some 20 MB.
const maxReplayed = 300_000

// willReplace says that recovery has made a page anew that is not on disk yet. What is
// there may be torn, as a crash or a base backup left it: the WAL since the last
// restartpoint holds the page as a whole, and the next restartpoint writes it. So it is on
// standbys, and on a server that was promoted until its first checkpoint.
func (r *reader) willReplace(ctx context.Context, f *fork, block uint32) (bool, error) {
	if !r.recovers {
		return false, nil
	}
	if r.replayed == nil {
		if err := r.readReplayed(ctx); err != nil {
			return false, fmt.Errorf("a page is damaged on disk, but it is not known whether the next restartpoint writes it anew: %w", err)
		}
	}
	b := wal.BlockOf(f.Path)
	b.Number = block
	return r.replayed[b], nil
}

// readReplayed reads the WAL since the last restartpoint: the pages of the database that
// it changes, and whether the first record of each holds it as a whole.
func (r *reader) readReplayed(ctx context.Context) error {
	expect, open, err := r.ownWAL(ctx)
	if err != nil {
		return err
	}
	if open == nil {
		return errors.New("the control file cannot be read")
	}
	replayed := make(map[wal.Block]bool)
	err = wal.Blocks(ctx, wal.Position(r.redo), expect, open, func(b wal.Block, whole bool) {
		if _, known := replayed[b]; !known && r.ours(b) && len(replayed) < maxReplayed {
			replayed[b] = whole
		}
	})
	if err != nil {
		return err
	}
	if len(replayed) == maxReplayed {
		return fmt.Errorf("the WAL since then changes more than %d pages", maxReplayed)
	}
	r.replayed = replayed
	return nil
}
