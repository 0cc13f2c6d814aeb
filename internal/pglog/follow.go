package pglog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"time"
)

const (
	// pollInterval is how often the follower looks for new bytes.
	pollInterval = 200 * time.Millisecond
	// bufferSize is how much is read at once, and the longest record that is
	// parsed whole; of a longer one only the beginning is.
	bufferSize = 1 << 20
	// batchSize is after how many bytes a batch is committed at the latest.
	batchSize = 16 << 20
)

// Batch is what the follower hands over.
type Batch struct {
	// Counts are the increments since the last batch.
	Counts map[Counter]uint64
	// Events are the events, in the order of the log.
	Events []Event
	// Position is behind everything in the batch.
	Position Position
	// Old says that the batch was in the log before anybody followed it.
	Old bool
}

// Status is how the follower fares.
type Status struct {
	// Up is whether the log is being read.
	Up bool
	// Problem says why it is not, and what to do.
	Problem string
	// Path is the file being read.
	Path string
	// BacklogBytes is what is written but not read yet, in the file being read.
	BacklogBytes int64
	// ReadBytes, ParseFailures and LostBytes count since the follower started:
	// bytes read, records that were none, and bytes of files that went away
	// before they were read.
	ReadBytes     uint64
	ParseFailures uint64
	LostBytes     uint64
	// LastMessage is when the log last had something new.
	LastMessage time.Time
}

// Follower follows the log files that match a pattern.
type Follower struct {
	// Commit keeps a batch. Only when it returns are the batch's messages done.
	Commit func(Batch)
	// Report is told how the follower fares, at every change.
	Report func(Status)

	pattern  string
	position Position
	old      bool // reading what was there before the follower's first position
	status   Status
	counts   counts

	file    *os.File
	framing framing
	buffer  []byte
	filled  int   // bytes in buffer, from position.Offset on (skipped bytes excepted)
	scanned int   // bytes of buffer that were looked at for the end of the first record
	skipped int64 // bytes of an overlong record that were dropped behind its kept beginning
	quiet   int   // polls without anything new although a newer file exists
	done    map[identity]time.Time
	message Message
}

// NewFollower follows files that match pattern (see path/filepath.Match) from
// a position on; the zero position is the beginning of the newest file.
func NewFollower(pattern string, position Position) *Follower {
	return &Follower{
		pattern: pattern, position: position, old: position == Position{}, buffer: make([]byte, bufferSize),
		counts: counts{databases: make(map[string]bool)}, done: make(map[identity]time.Time),
	}
}

// Run follows the log until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	defer f.close()
	for {
		before := f.status
		err := f.poll(ctx)
		f.status.Up, f.status.Problem = err == nil, ""
		if err != nil {
			f.status.Problem = err.Error()
		}
		if f.status != before {
			f.Report(f.status)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// poll reads everything there is now.
func (f *Follower) poll(ctx context.Context) error {
	for ctx.Err() == nil {
		if f.file == nil {
			if opened, err := f.open(); err != nil || !opened {
				return err
			}
		}
		if err := f.readAll(ctx); err != nil {
			return err
		}
		f.old = false
		next, err := f.next()
		if err != nil || !next {
			return err
		}
	}
	return nil
}

// open opens the file of the position, or the first one to read. It gives
// false when there is none.
func (f *Follower) open() (bool, error) {
	files, err := f.list()
	if err != nil {
		return false, err
	}
	if f.position.Inode != 0 {
		for _, candidate := range files {
			if candidate.identity() == (identity{f.position.Device, f.position.Inode}) {
				return f.resume(candidate.path)
			}
		}
		// The file went away while nobody read it.
		f.status.LostBytes += uint64(max(0, f.position.Size-f.position.Offset))
		files = slices.DeleteFunc(files, func(c logFile) bool { return !c.info.ModTime().After(f.position.ModTime) })
		if len(files) == 0 {
			return false, nil
		}
		return true, f.start(files[0].path)
	}
	if len(files) == 0 {
		f.old = false // the file that comes is new
		return false, fmt.Errorf("no log file matches %s: is logging_collector on, and is log_destination jsonlog or csvlog?", f.pattern)
	}
	for _, older := range files[:len(files)-1] {
		f.done[older.identity()] = older.info.ModTime()
	}
	return true, f.start(files[len(files)-1].path)
}

// resume goes on in the file of the position, or begins it anew when it was
// overwritten.
func (f *Follower) resume(path string) (bool, error) {
	file, err := openLog(path)
	if err != nil {
		return false, err
	}
	info, err := file.Stat()
	if err != nil {
		return false, errors.Join(err, file.Close())
	}
	if !f.position.matches(file, info) {
		f.status.LostBytes += uint64(max(0, f.position.Size-f.position.Offset))
		return true, errors.Join(file.Close(), f.start(path))
	}
	f.position.Path = path
	f.adopt(file)
	return true, nil
}

// start opens a file at its beginning.
func (f *Follower) start(path string) error {
	file, err := openLog(path)
	if err != nil {
		return err
	}
	f.position = Position{Path: path}
	f.adopt(file)
	return nil
}

func (f *Follower) adopt(file *os.File) {
	f.file = file
	f.framing = framing{format: formatOf(file)}
	f.filled, f.scanned, f.skipped, f.quiet = 0, 0, 0, 0
	f.status.Path = f.position.Path
}

func (f *Follower) close() {
	if f.file != nil {
		// It was only read.
		_ = f.file.Close()
		f.file = nil
	}
}

// readAll reads to the end of the file and commits what it read.
func (f *Follower) readAll(ctx context.Context) error {
	info, err := f.file.Stat()
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if f.position.Inode != 0 && info.Size() != f.position.Size && !f.position.matches(f.file, info) {
		// The file was truncated, or truncated and written again.
		f.status.LostBytes += uint64(max(0, f.position.Size-f.position.Offset))
		f.position = Position{Path: f.position.Path}
		f.adopt(f.file)
	}
	f.counts.delta = make(map[Counter]uint64)
	batched := int64(0)
	for ctx.Err() == nil {
		n, err := f.file.ReadAt(f.buffer[f.filled:], f.position.Offset+int64(f.filled)+f.skipped)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the log: %w", err)
		}
		if n == 0 {
			break
		}
		f.status.ReadBytes += uint64(n)
		f.status.LastMessage = time.Now()
		f.quiet = 0
		if f.framing.format == "" {
			f.framing.format = formatOf(f.file)
		}
		f.filled += n
		batched += f.consume()
		if batched >= batchSize {
			if err := f.commit(); err != nil {
				return err
			}
			batched = 0
		}
	}
	f.status.BacklogBytes = 0
	if batched == 0 && f.position.Inode != 0 {
		return nil
	}
	return f.commit()
}

// consume takes the whole records out of the buffer and gives the number of
// bytes they had.
func (f *Follower) consume() int64 {
	start := 0
	advanced := int64(0)
	for {
		end := f.framing.next(f.buffer[start:f.filled], f.scanned)
		if end < 0 {
			f.scanned = f.filled - start
			break
		}
		if f.framing.parse(f.buffer[start:start+end], &f.message) {
			f.counts.add(&f.message)
		} else if end > 1 {
			f.status.ParseFailures++
		}
		advanced += int64(end) + f.skipped
		f.skipped, f.scanned = 0, 0
		start += end
	}
	f.position.Offset += advanced
	f.filled = copy(f.buffer, f.buffer[start:f.filled])
	if f.filled == len(f.buffer) {
		// An overlong record: its beginning is kept, the rest is looked through
		// for its end and dropped.
		f.skipped += int64(f.filled - maxText)
		f.filled, f.scanned = maxText, maxText
	}
	return advanced
}

func (f *Follower) commit() error {
	info, err := f.file.Stat()
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if err := f.position.update(f.file, info); err != nil {
		return err
	}
	f.status.BacklogBytes = max(0, info.Size()-f.position.Offset)
	f.Commit(Batch{Counts: f.counts.delta, Events: f.counts.events, Position: f.position, Old: f.old})
	f.counts.delta = make(map[Counter]uint64)
	f.counts.events = nil
	return nil
}

// next moves to the next newer file when the current one has ended. The writer
// of the old file gets one more poll to finish it.
func (f *Follower) next() (bool, error) {
	files, err := f.list()
	if err != nil {
		return false, err
	}
	current, err := f.file.Stat()
	if err != nil {
		return false, fmt.Errorf("reading the log: %w", err)
	}
	newer := slices.DeleteFunc(slices.Clone(files), func(c logFile) bool {
		done, read := f.done[c.identity()]
		return c.identity() == identityOf(current) || c.info.ModTime().Before(current.ModTime()) ||
			(read && !c.info.ModTime().After(done))
	})
	if len(newer) == 0 {
		return false, nil
	}
	if f.quiet++; f.quiet < 2 {
		return false, nil
	}
	listed := make(map[identity]time.Time, len(f.done)+1)
	for id, modTime := range f.done {
		if slices.ContainsFunc(files, func(c logFile) bool { return c.identity() == id }) {
			listed[id] = modTime
		}
	}
	listed[identityOf(current)] = current.ModTime()
	f.done = listed
	f.close()
	return true, f.start(newer[0].path)
}

// logFile is a file that matches the pattern.
type logFile struct {
	path string
	info os.FileInfo
}

func (l logFile) identity() identity { return identityOf(l.info) }

// list gives the files that match the pattern, the oldest first.
func (f *Follower) list() ([]logFile, error) {
	paths, err := filepath.Glob(f.pattern)
	if err != nil {
		return nil, fmt.Errorf("looking for log files: %w", err)
	}
	if len(paths) == 0 {
		// Glob hides that a directory may not be read.
		if _, err := os.ReadDir(filepath.Dir(f.pattern)); errors.Is(err, fs.ErrPermission) {
			return nil, denied(filepath.Dir(f.pattern))
		}
	}
	var files []logFile
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("looking for log files: %w", err)
		}
		if info.Mode().IsRegular() {
			files = append(files, logFile{path, info})
		}
	}
	slices.SortFunc(files, func(a, b logFile) int {
		return cmp.Or(a.info.ModTime().Compare(b.info.ModTime()), cmp.Compare(a.path, b.path))
	})
	return files, nil
}

func openLog(path string) (*os.File, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, denied(path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	return file, nil
}

// denied says who may not read what, and what to do.
func denied(path string) error {
	name := "the exporter"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return fmt.Errorf("%s may not read %s: add it to the group of the file and set log_file_mode = 0640 in postgresql.conf (initdb --allow-group-access for a log in the data directory): %w", name, path, fs.ErrPermission)
}
