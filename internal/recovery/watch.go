package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pg_integrity_exporter/internal/state"
)

// Objectives are what a repository is to achieve; 0 is no objective.
type Objectives struct {
	// BackupAge is how old the newest usable backup may be.
	BackupAge time.Duration
	// RecoveryPoint is how much time may be lost.
	RecoveryPoint time.Duration
	// RecoveryTime is how long a recovery may take.
	RecoveryTime time.Duration
	// DrillAge is how long ago a drill may have proved a backup.
	DrillAge time.Duration
}

// Watched is a repository with what is asked of it.
type Watched struct {
	Repository

	Objectives Objectives
	// VerifyInterval is how often the newest backup is compared with its
	// manifest; 0 is never. Sample is the share of its contents that is read.
	VerifyInterval time.Duration
	Sample         float64
}

// Status is what is known of one repository.
type Status struct {
	Watched      Watched
	Inventory    *Inventory
	History      History
	Verification VerificationRecord
	// RecoveryPoint is the last moment of which nothing would be lost; zero is
	// that nothing can be brought back. Earliest is the first that can be.
	RecoveryPoint, Earliest time.Time
	// LagBytes is how much WAL the primary has written behind the recovery point;
	// negative is that it is not known.
	LagBytes int64
	// Duration is how long it took to read the repository.
	Duration time.Duration
}

// Problems lists everything that is wrong with the repository.
func (s *Status) Problems() []Problem {
	problems := append(s.Inventory.AllProblems(), s.Verification.Problems...)
	for name, message := range s.Verification.Segments {
		problems = append(problems, Problem{Kind: ProblemWALDamaged, Object: name, Message: message})
	}
	return problems
}

// Watcher reads repositories again and again.
type Watcher struct {
	watched   []Watched
	interval  time.Duration
	rateLimit int64
	files     *state.Files
	logger    *slog.Logger

	histories *state.Memo[map[string]History]
	positions positions
	current   atomic.Pointer[[]Status]
	stop      context.CancelFunc
	done      sync.WaitGroup
}

// NewWatcher makes a watcher. Start runs it. rateLimit is how many bytes per
// second verifications may read.
func NewWatcher(watched []Watched, interval time.Duration, rateLimit int64, files *state.Files, logger *slog.Logger) *Watcher {
	w := &Watcher{watched: watched, interval: interval, rateLimit: rateLimit, files: files, logger: logger}
	w.histories = state.NewMemo(files, drillsKind, w.readHistories)
	w.current.Store(&[]Status{})
	return w
}

// Start begins to read.
func (w *Watcher) Start() {
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	var samples []Sample
	if _, err := w.files.Get(positionsKind, "primary", &samples); err != nil {
		w.logger.Warn("positions in the WAL are forgotten", "err", err)
	}
	w.positions.restore(samples)
	if len(w.watched) > 0 {
		w.done.Go(func() { w.run(ctx) })
	}
}

// Stop ends what is under way and waits for it.
func (w *Watcher) Stop() {
	w.stop()
	w.done.Wait()
}

// Statuses is what was known after the last reading, by repository, with the
// drills up to now: a command may have run one a moment ago.
func (w *Watcher) Statuses() []Status {
	statuses := slices.Clone(*w.current.Load())
	if len(statuses) == 0 {
		return nil
	}
	histories, err := w.histories.Get()
	if err != nil {
		w.logger.Warn("the history of drills is not known", "err", err)
	}
	for i := range statuses {
		statuses[i].History = histories[statuses[i].Watched.Name]
	}
	return statuses
}

// readHistories reads the history of each repository; what can be read is there
// also when there is an error.
func (w *Watcher) readHistories() (map[string]History, error) {
	histories := make(map[string]History)
	var problems error
	for _, watched := range w.watched {
		history, err := LoadHistory(w.files, watched.Name)
		if err != nil {
			problems = errors.Join(problems, fmt.Errorf("repository %s: %w", watched.Name, err))
		}
		histories[watched.Name] = history
	}
	return histories, problems
}

// Observe tells where the WAL of the primary is.
func (w *Watcher) Observe(s Sample) {
	if len(w.watched) > 0 {
		w.positions.observe(s)
	}
}

func (w *Watcher) run(ctx context.Context) {
	ticker := time.NewTicker(w.interval)
	defer ticker.Stop()
	for {
		statuses := make([]Status, len(w.watched))
		for i, watched := range w.watched {
			statuses[i] = w.read(ctx, watched)
		}
		if ctx.Err() != nil {
			return
		}
		w.current.Store(&statuses)
		if err := w.files.Put(positionsKind, "primary", w.positions.all()); err != nil {
			w.logger.Warn("positions in the WAL are not kept", "err", err)
		}
		for i := range statuses {
			w.verify(ctx, &statuses[i])
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// read reads one repository and what is remembered of it.
func (w *Watcher) read(ctx context.Context, watched Watched) Status {
	began := time.Now()
	s := Status{Watched: watched, Inventory: ReadRepository(ctx, watched.Repository), LagBytes: -1}
	if _, err := w.files.Get(verificationsKind, watched.Name, &s.Verification); err != nil {
		w.logger.Warn("verifications are forgotten", "repository", watched.Name, "err", err)
	}
	s.Verification.forget(s.Inventory)
	w.judge(&s)
	s.Duration = time.Since(began)
	for _, p := range s.Problems() {
		w.logger.Debug("problem in a repository", "repository", watched.Name, "kind", p.Kind, "object", p.Object, "message", p.Message)
	}
	return s
}

// forget drops what was remembered of backups and segments that are gone.
func (r *VerificationRecord) forget(i *Inventory) {
	if !slices.ContainsFunc(i.Backups, func(b Backup) bool { return b.Label == r.Backup }) {
		r.Problems = nil
	}
	for name := range r.Segments {
		if i.Archive == nil || !slices.ContainsFunc(i.Archive.Segments, func(s ArchivedSegment) bool {
			return s.Name(i.Archive.SegmentSize) == name
		}) {
			delete(r.Segments, name)
		}
	}
}

// judge finds the recovery points, from the archive and where the primary is.
func (w *Watcher) judge(s *Status) {
	if samples := w.positions.all(); len(samples) > 0 {
		s.Inventory.checkSystem(samples[len(samples)-1].System)
	}
	earliest, latest, ok := s.Inventory.Points()
	if !ok {
		return
	}
	s.Earliest, s.RecoveryPoint = earliest.Time, latest.Time
	if latest.Position == 0 {
		return // a dump: what is behind it cannot be told in bytes
	}
	point, bytes, known := w.positions.loss(latest.Position)
	if known {
		s.RecoveryPoint = point
	}
	if known || bytes > 0 {
		s.LagBytes = bytes
	}
}

// checkSystem reports a repository of another cluster.
func (i *Inventory) checkSystem(system uint64) {
	if system == 0 {
		return
	}
	for n := range i.Backups {
		if b := &i.Backups[n]; b.System != 0 && b.System != system {
			b.problemf(ProblemDamaged, "is of another cluster: its system identifier is %d, that of the server %d", b.System, system)
		}
	}
	if i.Archive != nil && i.Archive.System != 0 && i.Archive.System != system {
		i.Problems = append(i.Problems, Problem{
			Kind: ProblemWALDamaged, Object: i.Archive.Path,
			Message: fmt.Sprintf("holds the WAL of another cluster: its system identifier is %d, that of the server %d", i.Archive.System, system),
		})
	}
}

// verify looks at the records of segments that are new, and at the newest
// backup when that is due, and keeps what it found.
func (w *Watcher) verify(ctx context.Context, s *Status) {
	if s.Watched.VerifyInterval <= 0 {
		return
	}
	record := s.Verification
	w.verifySegments(ctx, s.Inventory.Archive, &record)
	b, ok := s.Inventory.LastSuccess()
	if ok && (time.Since(record.Time) >= s.Watched.VerifyInterval || record.Backup != b.Label) {
		result, err := Verify(ctx, s.Inventory, b, VerifyOptions{
			Sample: s.Watched.Sample, Seed: uint64(time.Now().Unix()), Jobs: 1, RateLimit: w.rateLimit,
		})
		if ctx.Err() != nil {
			return
		}
		record.Backup, record.Time, record.Sample = b.Label, time.Now(), s.Watched.Sample
		record.Problems, record.Reason = result.Problems, ""
		switch {
		case err != nil:
			record.Reason = err.Error()
		case len(result.Problems) == 0:
			record.LastSuccess = record.Time
		default:
			w.logger.Error("the newest backup is damaged", "repository", s.Watched.Name, "backup", b.Label, "problem", result.Problems[0].String(), "problems", len(result.Problems))
		}
	}
	if err := w.files.Put(verificationsKind, s.Watched.Name, record); err != nil {
		w.logger.Warn("verifications are not kept", "repository", s.Watched.Name, "err", err)
	}
}

// verifySegments reads the segments behind the one read last. The first time it
// begins with the newest ones, because older ones are of older backups.
func (w *Watcher) verifySegments(ctx context.Context, a *Archive, record *VerificationRecord) {
	if a == nil || len(a.Segments) == 0 {
		return
	}
	const atOnce = 256
	began := time.Now()
	todo := a.Segments
	for i, s := range a.Segments {
		if s.Path == record.Through {
			todo = a.Segments[i+1:]
		}
	}
	if record.Through == "" {
		todo = todo[max(0, len(todo)-atOnce):]
	}
	for n, s := range todo {
		if n == atOnce {
			return
		}
		problem, err := a.VerifySegment(ctx, s)
		if ctx.Err() != nil {
			return
		}
		if err == nil && problem != "" {
			if record.Segments == nil {
				record.Segments = make(map[string]string)
			}
			record.Segments[s.Name(a.SegmentSize)] = problem
		}
		record.Through = s.Path
		if w.rateLimit > 0 {
			due := time.Duration(float64(int64(n+1)*a.SegmentSize) / float64(w.rateLimit) * float64(time.Second))
			select {
			case <-time.After(due - time.Since(began)):
			case <-ctx.Done():
				return
			}
		}
	}
}

// ErrNoManifest says that a backup cannot be verified without restoring it.
var ErrNoManifest = errors.New("the backup has no manifest to compare it with: only a drill can prove it")

// Verify compares one backup with its manifest, and the WAL that it needs with
// what there is.
func Verify(ctx context.Context, i *Inventory, b Backup, options VerifyOptions) (Verification, error) {
	if b.Path == "" || b.Kind == KindLogical {
		return Verification{}, ErrNoManifest
	}
	manifest, err := ReadManifest(manifestPath(b))
	if err != nil {
		return Verification{}, errors.Join(ErrNoManifest, err)
	}
	var result Verification
	if b.Tar {
		result, err = VerifyTar(ctx, b.Path, manifest, options)
	} else {
		result, err = VerifyDirectory(ctx, b.Path, manifest, options)
	}
	if err != nil {
		return result, err
	}
	result.Problems = append(result.Problems, verifyRanges(ctx, i, b, manifest)...)
	return result, nil
}
