package pglog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

const (
	// pollInterval is how often the follower looks for new bytes when nothing
	// tells it that there are some.
	pollInterval = 200 * time.Millisecond
	// gatherInterval is how long it waits behind such news for more, so that a
	// busy log is not read line by line.
	gatherInterval = 20 * time.Millisecond
	// batchSize is after how many bytes a batch is committed at the latest.
	batchSize = 16 << 20
	// maxRemembered bounds the files whose end is remembered.
	maxRemembered = 50
	// recently is how old a message may be that a reader without a position still
	// counts: what is older was counted before the position was lost, or has no
	// place in the rate of today.
	recently = 15 * time.Minute
)

// Batch is what a reader hands over.
type Batch struct {
	// Counts are the increments since the last batch; what is Old counts only when
	// it was logged within the last 15 minutes.
	Counts map[Counter]uint64
	// Events are the events, in the order of the log.
	Events []Event
	// Statements are those that were logged and may be maintenance.
	Statements []Statement
	// Samples are the messages without their literals.
	Samples []Sample
	// Source names what was read, and Position is behind everything in the batch.
	// A stream has neither: it cannot be read again.
	Source   string
	Position Position
	// Old says that the batch was in the log before anybody followed it.
	Old bool
}

// Status is how a reader fares.
type Status struct {
	// Up is whether the log is being read.
	Up bool
	// Problem says why it is not, and what to do.
	Problem string
	// Path is the file being read, or where lines are awaited.
	Path string
	// BacklogBytes is what is written but not read yet, in the file being read.
	BacklogBytes int64
	// ReadBytes and ParseFailures count since the reader started: bytes read, and
	// records that were none.
	ReadBytes     uint64
	ParseFailures uint64
	// LastMessage is when the log last had something new.
	LastMessage time.Time
}

// Follower follows the files of a log.
type Follower struct {
	// Commit keeps a batch. Only when it returns are the batch's messages done.
	Commit func(Batch)
	// Report is told how the follower fares, at every change.
	Report func(Status)

	source   string
	library  library
	position Position
	old      bool // reading what was there before the follower's first position
	status   Status
	counts   *counts
	decoder  *decoder

	file    handle
	news    time.Time              // when it last had something new
	unkept  int64                  // bytes of finished records since the last batch
	seen    map[identity]int64     // files that were there when the current one was chosen, with their sizes
	done    map[identity]time.Time // files that were read, with their time of change
	endings []Position             // where files were left
	queue   []logFile              // files to read before what is newer than the current one
}

// NewFollower follows files on this host that match pattern (see
// path/filepath.Match) from a position on; the zero position is the beginning
// of the newest file.
func NewFollower(pattern string, input Input, position Position, labels *Labels) *Follower {
	return newFollower(pattern, localFiles{pattern}, input, position, labels)
}

// Behind leaves out what an ExtensionReader has counted up to its position; of
// that only events are told.
func (f *Follower) Behind(position *ExtensionPosition) {
	f.counts.extension, f.counts.older = position, position != nil
}

func newFollower(source string, files library, input Input, position Position, labels *Labels) *Follower {
	f := &Follower{
		source: source, library: files, position: position, old: position == Position{},
		counts: newCounts(labels), done: make(map[identity]time.Time),
	}
	if f.old {
		f.counts.since = time.Now().Add(-recently)
	}
	f.decoder = newDecoder(input, f.counts.add)
	f.decoder.lose = f.counts.lose
	return f
}

// Run follows the log until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	news, stop := newsOf(f.library.watch())
	defer stop()
	defer f.close()
	for {
		before := f.status
		err := f.poll(ctx)
		f.status.Up, f.status.Problem = err == nil, ""
		if err != nil && ctx.Err() == nil {
			f.status.Problem = err.Error()
		}
		f.status.ParseFailures = f.decoder.failures
		if f.status != before {
			f.Report(f.status)
		}
		select {
		case <-news:
			select {
			case <-time.After(gatherInterval):
			case <-ctx.Done():
				return
			}
		case <-time.After(f.pause()):
		case <-ctx.Done():
			return
		}
	}
}

// pause is how long to wait for the next look when nothing tells of changes. A
// message whose end only time can tell is not left waiting.
func (f *Follower) pause() time.Duration {
	if f.file != nil && f.decoder.pending() > 0 && time.Since(f.news) < 2*pollInterval {
		return pollInterval
	}
	return f.library.interval()
}

// poll reads everything there is now.
func (f *Follower) poll(ctx context.Context) error {
	if err := f.library.refresh(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if f.file == nil {
			if opened, err := f.open(ctx); err != nil || !opened {
				return err
			}
		}
		if err := f.readAll(ctx); err != nil {
			f.close() // a file that was read through the server may be back with its next session
			return err
		}
		f.caughtUp()
		next, err := f.next(ctx)
		if err != nil {
			return err
		}
		if !next {
			f.counts.older = false
			return nil
		}
	}
	return nil
}

// caughtUp says that whatever comes now is new.
func (f *Follower) caughtUp() { f.old, f.counts.since = false, time.Time{} }

// open opens the file of the position, or the first one to read. It gives
// false when there is none.
func (f *Follower) open(ctx context.Context) (bool, error) {
	files, err := f.library.list(ctx)
	if err != nil {
		return false, err
	}
	f.note(files)
	if f.position.Inode != 0 {
		return f.resume(ctx, files)
	}
	if len(files) == 0 {
		f.caughtUp() // the file that comes is new
		return false, errors.New(f.library.advice())
	}
	for _, older := range files[:len(files)-1] {
		f.done[older.id] = older.modTime
	}
	return true, f.start(ctx, files[len(files)-1].path)
}

// note remembers which files are there.
func (f *Follower) note(files []logFile) {
	f.seen = make(map[identity]int64, len(files))
	for _, file := range files {
		f.seen[file.id] = file.size
	}
}

// resume goes on in the file of the position, wherever it is now, or with the
// next one when it is gone.
func (f *Follower) resume(ctx context.Context, files []logFile) (bool, error) {
	for _, candidate := range files {
		if candidate.id != f.position.identity() {
			continue
		}
		file, err := f.library.open(ctx, candidate.path)
		if err != nil {
			return false, err
		}
		if f.position.HeadLength == 0 {
			// It was empty, so nothing tells what was written to it since from a copy
			// of that: the oldest file that was written since is read first.
			files = slices.DeleteFunc(files, func(c logFile) bool {
				return c.id != candidate.id && !c.modTime.After(f.position.ModTime)
			})
			f.queue = append(f.library.copies(&f.position), files[0])
			return true, errors.Join(file.Close(), f.startNext(ctx))
		}
		if f.position.matches(file, candidate) {
			f.position.Path = candidate.path
			f.adopt(file)
			return true, nil
		}
		if err := file.Close(); err != nil {
			return false, fmt.Errorf("reading the log: %w", err)
		}
		// It was overwritten. What it held may have been copied before.
		if found, err := f.recover(ctx); err != nil || found {
			return found, err
		}
		f.counts.lose(f.position.unread())
		return true, f.start(ctx, candidate.path)
	}
	if found, err := f.recover(ctx); err != nil || found {
		return found, err
	}
	files = slices.DeleteFunc(files, func(c logFile) bool { return !c.modTime.After(f.position.ModTime) })
	if len(files) == 0 {
		return false, nil
	}
	f.counts.lose(f.position.unread())
	return true, f.start(ctx, files[0].path)
}

// recover goes on where the rest of the file of the position is now.
func (f *Follower) recover(ctx context.Context) (bool, error) {
	file, info, err := f.library.find(ctx, &f.position)
	if err != nil || file == nil {
		return false, err
	}
	f.close()
	f.position.Path = info.path
	f.adopt(file)
	f.position.Device, f.position.Inode = info.id.device, info.id.inode
	return true, nil
}

// start opens a file at its beginning.
func (f *Follower) start(ctx context.Context, path string) error {
	file, err := f.library.open(ctx, path)
	if err != nil {
		return err
	}
	f.position = Position{Path: path}
	f.adopt(file)
	return nil
}

// startNext opens the first file of the queue.
func (f *Follower) startNext(ctx context.Context) error {
	next := f.queue[0]
	f.queue = f.queue[1:]
	return f.start(ctx, next.path)
}

// untouched says that nothing of the file has been read, and others were before.
func (f *Follower) untouched() bool {
	return len(f.endings) > 0 && f.position.Offset == 0 && f.decoder.pending() == 0
}

// skip moves a position at the start of a file behind what was read of this file
// before, or of the one that it is a copy of. It gives false while that cannot be
// told, because the file is empty or the copy not yet as long as what was read.
func (f *Follower) skip(info logFile) (bool, error) {
	if !f.untouched() {
		return true, nil
	}
	if info.size == 0 {
		return false, nil
	}
	for _, ending := range slices.Backward(f.endings) {
		if info.id != ending.identity() && ending.HeadLength < enoughHead {
			continue
		}
		begins, err := ending.begins(f.file)
		if err != nil {
			return false, err
		}
		if begins && info.size >= ending.Offset {
			f.position.Offset = ending.Offset
			return true, nil
		}
		if begins && info.id != ending.identity() {
			return false, nil
		}
	}
	return true, nil
}

func (f *Follower) adopt(file handle) {
	f.file = file
	f.decoder.reset()
	f.news = time.Now()
	f.status.Path = f.position.Path
}

func (f *Follower) close() {
	if f.file != nil {
		// It was only read.
		_ = f.file.Close()
		f.file = nil
	}
	f.decoder.reset()
}

// readAll reads to the end of the file and commits what it read.
func (f *Follower) readAll(ctx context.Context) error {
	info, err := f.file.stat()
	if err != nil {
		return err
	}
	if f.position.Inode != 0 && info.size != f.position.Size && !f.position.matches(f.file, info) {
		// The file was truncated, or truncated and written again.
		if err := f.restart(ctx); err != nil {
			return err
		}
	}
	known, err := f.skip(info)
	if err != nil {
		return err
	}
	for known && ctx.Err() == nil {
		n, err := f.file.ReadAt(f.decoder.space(), f.position.Offset+f.decoder.pending())
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the log: %w", err)
		}
		if n == 0 {
			break
		}
		f.status.ReadBytes += uint64(n)
		f.status.LastMessage = time.Now()
		f.news = f.status.LastMessage
		f.advance(f.decoder.advance(n))
		if f.unkept >= batchSize {
			if err := f.commit(); err != nil {
				return err
			}
		}
	}
	if f.settled(info) {
		f.advance(f.decoder.flush(false))
	}
	// The position stays in the file before as long as there is none in this one.
	if (f.position.Inode != 0 || f.untouched()) && f.unkept == 0 && f.counts.empty() {
		f.status.BacklogBytes = 0
		return nil
	}
	return f.commit()
}

// advance moves the position behind finished records.
func (f *Follower) advance(n int64) {
	f.position.Offset += n
	f.unkept += n
}

// settled says that nothing has been written for a while, so that a message
// without an end of its own is complete and the writer has gone to another
// file if there is one.
func (f *Follower) settled(info logFile) bool {
	return time.Since(f.news) >= pollInterval || time.Since(info.modTime) >= 10*pollInterval
}

// restart begins the current file anew, because it was truncated. What was not
// read of it may have been copied before.
func (f *Follower) restart(ctx context.Context) error {
	found, err := f.recover(ctx)
	if err != nil || found {
		return err
	}
	f.counts.lose(f.position.unread())
	f.position = Position{Path: f.position.Path}
	f.adopt(f.file)
	return nil
}

func (f *Follower) commit() error {
	info, err := f.file.stat()
	if err != nil {
		return err
	}
	if err := f.position.update(f.file, info); err != nil {
		return err
	}
	f.status.BacklogBytes = max(0, info.size-f.position.Offset)
	f.Commit(f.counts.batch(f.source, f.position, f.old))
	f.unkept = 0
	if f.status.BacklogBytes > batchSize {
		// It will be a while until the end is reached.
		f.status.Up, f.status.Problem, f.status.ParseFailures = true, "", f.decoder.failures
		f.Report(f.status)
	}
	return nil
}

// next moves to the next newer file when the current one has ended.
func (f *Follower) next(ctx context.Context) (bool, error) {
	files, err := f.library.list(ctx)
	if err != nil {
		return false, err
	}
	current, err := f.file.stat()
	if err != nil {
		return false, err
	}
	newer := slices.DeleteFunc(slices.Clone(files), func(c logFile) bool {
		if c.id == current.id {
			return true
		}
		if left, read := f.done[c.id]; read {
			return c.modTime.Equal(left)
		}
		// A file that has come or grown since is newer whatever the clock said.
		size, known := f.seen[c.id]
		return known && size == c.size && c.modTime.Before(current.modTime)
	})
	queue := f.queue
	if len(queue) == 0 {
		queue = newer[:min(1, len(newer))]
	}
	if len(queue) == 0 || !f.settled(current) {
		return false, nil
	}
	f.advance(f.decoder.flush(true))
	if f.unkept > 0 || !f.counts.empty() {
		if err := f.commit(); err != nil {
			return false, err
		}
	}
	f.leave(files, current)
	f.queue = queue
	return true, f.startNext(ctx)
}

// leave remembers where the current file was left, and forgets files that are
// gone.
func (f *Follower) leave(files []logFile, current logFile) {
	listed := make(map[identity]time.Time, len(f.done)+1)
	for id, modTime := range f.done {
		if slices.ContainsFunc(files, func(c logFile) bool { return c.id == id }) {
			listed[id] = modTime
		}
	}
	listed[current.id] = current.modTime
	f.done = listed
	f.endings = append(f.endings, f.position)
	f.endings = f.endings[max(0, len(f.endings)-maxRemembered):]
	f.note(files)
	f.close()
}
