package state

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
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

// Open opens or makes the state in a directory. The error is an *InUseError
// when another process holds it.
func Open(directory string, logger *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w (choose another with --state.path)", err)
	}
	path := filepath.Join(directory, fileName)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType})
	if err != nil {
		if errors.Is(err, bolterrors.ErrTimeout) {
			return nil, &InUseError{Path: path}
		}
		return nil, fmt.Errorf("opening the state: %s: %w (move the file away to start anew, or choose another directory with --state.path)", path, err)
	}
	store := &Store{db: db, directory: directory, logger: logger, targets: make(map[string]*Target)}
	if err := store.checkVersion(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), db.Close())
	}
	return store, nil
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

func (s *Store) checkVersion() error {
	return s.db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		version := meta.Get(versionKey)
		if version == nil {
			return meta.Put(versionKey, []byte(formatVersion))
		}
		if string(version) != formatVersion {
			return fmt.Errorf("the state has format %s, this program knows %s: use the newer program, or move the file away", version, formatVersion)
		}
		return nil
	})
}

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
	samplesKey      = []byte("log_samples")
	countersBucket  = []byte("log_counters")
)

// runCount is one entry of Snapshot.Runs as it is written.
type runCount struct {
	RunKey

	Count uint64 `json:"count"`
}

func (s *Store) write(target string, snapshot *Snapshot, records []record) error {
	err := s.db.Update(func(tx *bolt.Tx) error {
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
	if err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	return nil
}

func targetBucket(name string) []byte { return []byte("target " + name) }

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
		return putJSON(bucket, positionsKey, s.positions)
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
	snapshot := &Snapshot{
		Up:           s.usable(),
		Counters:     make(map[pglog.Counter]uint64),
		Runs:         make(map[RunKey]uint64),
		MissedSlots:  make(map[string]uint64),
		Held:         make(map[Pressure]time.Duration),
		accumulators: make(map[string]accumulator),
		positions:    make(map[string]pglog.Position),
	}
	if s.usable() {
		err := s.db.View(func(tx *bolt.Tx) error {
			bucket := tx.Bucket(targetBucket(name))
			if bucket == nil {
				return nil
			}
			return snapshot.load(bucket)
		})
		if err != nil {
			return nil, fmt.Errorf("reading the state of %s: %w", name, err)
		}
	}
	target := &Target{name: name, store: s, files: OpenFiles(s.directory, name)}
	target.current.Store(snapshot)
	return target, nil
}

func (s *Snapshot) load(bucket *bolt.Bucket) error {
	var runs []runCount
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
	} {
		content := bucket.Get(part.key)
		if content == nil {
			continue
		}
		if err := json.Unmarshal(content, part.into); err != nil {
			return fmt.Errorf("%s: %w", part.key, err)
		}
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
