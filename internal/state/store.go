package state

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"pg_integrity_exporter/internal/pglog"
)

const (
	// fileName is the database within the state directory.
	fileName = "state.db"
	// formatVersion is raised when an older program could not read the state.
	formatVersion = "1"
	// lockTimeout is how long to wait for another process to let go of the file.
	lockTimeout = 2 * time.Second
)

// Store is the state directory. The zero value of its database keeps
// everything in memory only.
type Store struct {
	db        *bolt.DB
	directory string
	logger    *slog.Logger

	mu        sync.Mutex
	lastError string
	targets   map[string]*Target
}

// InUseError says that another process holds the state directory.
type InUseError struct {
	// Path is the database file.
	Path string
}

// Error says what to do.
func (e *InUseError) Error() string {
	return e.Path + " is in use by another pg_integrity_exporter: stop it, or give this one its own --state.path"
}

// NewerError says that a newer program wrote the state.
type NewerError struct {
	// Path is the database file, Format the format that it has.
	Path, Format string
}

// Error says what to do.
func (e *NewerError) Error() string {
	return fmt.Sprintf("%s has format %s, and this program knows %s: use the newer program, or give this one another --state.path", e.Path, e.Format, formatVersion)
}

// Open opens or makes the state in a directory. The error is an *InUseError
// when another process holds it, and a *NewerError when a newer program wrote it.
func Open(directory string, logger *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w (choose another with --state.path)", err)
	}
	path := filepath.Join(directory, fileName)
	store := &Store{directory: directory, logger: logger, targets: make(map[string]*Target)}
	err := guarded(func() (err error) {
		store.db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType})
		return err
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, &InUseError{Path: path}
	}
	if err == nil {
		if err = guarded(store.verify); err != nil {
			err = errors.Join(err, guarded(store.db.Close))
		}
	}
	if newer, ok := errors.AsType[*NewerError](err); ok {
		return nil, newer
	}
	if err != nil {
		return nil, fmt.Errorf("opening the state: %s: %w (move the file away to start anew, or choose another directory with --state.path)", path, err)
	}
	return store, nil
}

// guarded makes errors of what a damaged file does to its reader: panics, and
// faults where the file ends too early.
func guarded(use func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("the file is damaged: %v", cause)
		}
	}()
	return use()
}

// verify reads everything before anything is written: a damaged file is left as
// it is.
func (s *Store) verify() error {
	if err := s.db.View(s.known); err != nil {
		return err
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil || meta.Get(versionKey) != nil {
			return err
		}
		return meta.Put(versionKey, []byte(formatVersion))
	})
}

// known says whether this program knows the format, and everything in it.
func (s *Store) known(tx *bolt.Tx) error {
	if meta := tx.Bucket(metaBucket); meta != nil {
		if version := meta.Get(versionKey); version != nil && string(version) != formatVersion {
			if _, err := strconv.ParseUint(string(version), 10, 16); err != nil {
				return fmt.Errorf("the file is damaged: its format is %q", version)
			}
			return &NewerError{Path: s.db.Path(), Format: string(version)}
		}
	}
	return tx.ForEach(func(name []byte, bucket *bolt.Bucket) error {
		if !bytes.HasPrefix(name, targetPrefix) {
			return nil
		}
		if err := newSnapshot().load(bucket); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

// InMemory is a store that forgets everything when the process ends; its
// targets report that they are not kept.
func InMemory(logger *slog.Logger) *Store {
	return &Store{logger: logger, targets: make(map[string]*Target)}
}

// Close closes the database.
func (s *Store) Close() error {
	if s.db == nil {
		return nil
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("closing the state: %w", err)
	}
	return nil
}

func (s *Store) usable() bool { return s.db != nil }

var (
	metaBucket = []byte("meta")
	versionKey = []byte("version")
)

// complain logs a failed write once, until it changes.
func (s *Store) complain(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastError == err.Error() {
		return
	}
	s.lastError = err.Error()
	s.logger.Error("state cannot be written; going on in memory", "err", err, "advice", "make room or give write permission in the directory of --state.path")
}

// A record is one thing to write. Each kind has its place in the target's
// bucket.
type record struct {
	kind    recordKind
	counter pglog.Counter
}

type recordKind int

const (
	recordChecks recordKind = iota
	recordFindings
	recordRuns
	recordAccumulators
	recordPositions
	recordSamples
	recordCounter
)

// everything lists all records of a snapshot.
func everything(s *Snapshot) []record {
	all := []record{
		{kind: recordChecks}, {kind: recordFindings}, {kind: recordRuns},
		{kind: recordAccumulators}, {kind: recordPositions}, {kind: recordSamples},
	}
	for counter := range s.Counters {
		all = append(all, record{kind: recordCounter, counter: counter})
	}
	return all
}

var (
	checksKey       = []byte("checks")
	databasesKey    = []byte("databases")
	findingsKey     = []byte("findings")
	runsKey         = []byte("runs")
	missedKey       = []byte("missed_slots")
	accumulatorsKey = []byte("accumulators")
	positionsKey    = []byte("log_positions")
	oldPositionKey  = []byte("log_position") // of the only source, before there were several
	samplesKey      = []byte("log_samples")
	countersBucket  = []byte("log_counters")
)

// runCount is one entry of Snapshot.Runs as it is written.
type runCount struct {
	RunKey

	Count uint64 `json:"count"`
}

func (s *Store) write(target string, snapshot *Snapshot, records []record) error {
	err := guarded(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists(targetBucket(target))
			if err != nil {
				return err
			}
			for _, r := range records {
				if err := r.put(bucket, snapshot); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	return nil
}

var targetPrefix = []byte("target ")

func targetBucket(name string) []byte { return append(bytes.Clone(targetPrefix), name...) }

func (r record) put(bucket *bolt.Bucket, s *Snapshot) error {
	switch r.kind {
	case recordChecks:
		return errors.Join(putJSON(bucket, checksKey, s.Checks), putJSON(bucket, databasesKey, s.Databases))
	case recordFindings:
		return putJSON(bucket, findingsKey, s.Findings)
	case recordRuns:
		runs := make([]runCount, 0, len(s.Runs))
		for key, count := range s.Runs {
			runs = append(runs, runCount{key, count})
		}
		return errors.Join(putJSON(bucket, runsKey, runs), putJSON(bucket, missedKey, s.MissedSlots))
	case recordAccumulators:
		return putJSON(bucket, accumulatorsKey, s.accumulators)
	case recordPositions:
		return errors.Join(putJSON(bucket, positionsKey, s.positions), bucket.Delete(oldPositionKey))
	case recordSamples:
		return putJSON(bucket, samplesKey, s.Samples)
	case recordCounter:
		counters, err := bucket.CreateBucketIfNotExists(countersBucket)
		if err != nil {
			return err
		}
		key, err := json.Marshal(r.counter)
		if err != nil {
			return err
		}
		return counters.Put(key, binary.BigEndian.AppendUint64(nil, s.Counters[r.counter]))
	}
	return fmt.Errorf("unknown kind of record %d", r.kind)
}

func putJSON(bucket *bolt.Bucket, key []byte, value any) error {
	content, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return bucket.Put(key, content)
}

// Target is the state of a target, loaded when first asked for; a new target
// starts empty.
func (s *Store) Target(name string) (*Target, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if target, ok := s.targets[name]; ok {
		return target, nil
	}
	target, err := s.load(name)
	if err != nil {
		return nil, err
	}
	s.targets[name] = target
	return target, nil
}

func (s *Store) load(name string) (*Target, error) {
	snapshot := newSnapshot()
	snapshot.Up = s.usable()
	if s.usable() {
		err := guarded(func() error {
			return s.db.View(func(tx *bolt.Tx) error {
				bucket := tx.Bucket(targetBucket(name))
				if bucket == nil {
					return nil
				}
				return snapshot.load(bucket)
			})
		})
		if err != nil {
			return nil, fmt.Errorf("reading the state of %s: %w", name, err)
		}
	}
	target := &Target{name: name, store: s, files: OpenFiles(s.directory, name)}
	target.current.Store(snapshot)
	return target, nil
}

func newSnapshot() *Snapshot {
	return &Snapshot{
		Counters:     make(map[pglog.Counter]uint64),
		Runs:         make(map[RunKey]uint64),
		MissedSlots:  make(map[string]uint64),
		Held:         make(map[Pressure]time.Duration),
		accumulators: make(map[string]accumulator),
		positions:    make(map[string]pglog.Position),
	}
}

// anySource is where the position is that was kept before sources had names.
const anySource = ""

func (s *Snapshot) load(bucket *bolt.Bucket) error {
	var runs []runCount
	var old pglog.Position
	for _, part := range []struct {
		key  []byte
		into any
	}{
		{checksKey, &s.Checks},
		{databasesKey, &s.Databases},
		{findingsKey, &s.Findings},
		{runsKey, &runs},
		{missedKey, &s.MissedSlots},
		{accumulatorsKey, &s.accumulators},
		{positionsKey, &s.positions},
		{samplesKey, &s.Samples},
		{oldPositionKey, &old},
	} {
		content := bucket.Get(part.key)
		if content == nil {
			continue
		}
		if err := json.Unmarshal(content, part.into); err != nil {
			return fmt.Errorf("%s: %w", part.key, err)
		}
	}
	if old != (pglog.Position{}) {
		s.positions[anySource] = old
	}
	for _, run := range runs {
		s.Runs[run.RunKey] = run.Count
	}
	counters := bucket.Bucket(countersBucket)
	if counters == nil {
		return nil
	}
	return counters.ForEach(func(key, value []byte) error {
		var counter pglog.Counter
		if err := json.Unmarshal(key, &counter); err != nil {
			return fmt.Errorf("%s: %w", countersBucket, err)
		}
		if len(value) != 8 {
			return fmt.Errorf("%s: counter of %d bytes", countersBucket, len(value))
		}
		s.Counters[counter] = binary.BigEndian.Uint64(value)
		return nil
	})
}
