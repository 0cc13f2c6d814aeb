package drill

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/recovery"
)

// DefaultScratch is where drills make their directories unless told otherwise: a
// place that survives a restart of the machine and is not kept in memory.
const DefaultScratch = "/var/tmp"

// Options say what a drill does.
type Options struct {
	Watched recovery.Watched
	// ConfigFile is the configuration file of pgBackRest; empty is none.
	ConfigFile string
	// FetchCommand restores a backup instead of what the type would do.
	FetchCommand string
	// RestoreCommand is the restore_command; empty is what the type needs.
	RestoreCommand string
	// Backup is the label of the backup; empty is the newest.
	Backup string
	Target Target
	// Scratch is where the drill makes its directory.
	Scratch        string
	BinDirectories []string
	// User is the user of the system that runs the server when this process is
	// root; Role the superuser to log in as, empty is found out.
	User, Role string
	Timeout    time.Duration
	// MinFree is how much of the scratch file system stays free.
	MinFree int64
	// RateLimit is how many bytes per second are written when a backup is copied, and
	// read by each check; 0 is no limit. Programs that restore have limits of their own.
	RateLimit int64
	// CompareRows is how many rows are compared with Primary; 0 is none.
	CompareRows int
	Settings    map[string]string
	Queries     []Query
	// Rules are what the configuration says of the data; of its lists the
	// invariants are held against the restored databases.
	Rules check.Rules
	// Primary is the living server; nil is none.
	Primary *pg.Target
	// Before chooses the newest backup that was finished before it; zero is any.
	Before time.Time
	// Keep is where the recovered cluster stays, a directory that does not exist
	// yet on the file system of Scratch; empty is that it is removed.
	Keep string
	// Prove looks at the recovered server in the caller's own way; its error is
	// why the backup is not proved.
	Prove func(ctx context.Context, recovered *pg.Target) error `json:"-"`
	// Begin is told of each phase that begins; nil is nobody.
	Begin  func(phase string) `json:"-"`
	Logger *slog.Logger
}

// drill is one drill under way.
type drill struct {
	options   Options
	logger    *slog.Logger
	inventory *recovery.Inventory
	scratch   *scratch
	pace      *recovery.Pace
	server    *server
	major     int
	// living are the places of the living server's tablespaces, and superusers its
	// superusers.
	living     map[string]bool
	superusers []string
	// recovered says that the server reached the target.
	recovered bool
	// silent are the databases that do not answer.
	silent map[string]bool
}

// refusal is why a drill does not begin.
type refusal struct{ error }

// Run runs one drill and always gives a report. Whatever happens, what it made
// is removed before it returns; what a kill leaves is removed by the next one.
func Run(ctx context.Context, options Options) *recovery.Report {
	d := &drill{options: options, logger: options.Logger, silent: make(map[string]bool)}
	report := &recovery.Report{
		Version: recovery.ReportVersion, Repository: options.Watched.Name, Started: time.Now().UTC(), Target: options.Target.String(),
		Phases: []recovery.PhaseReport{}, Checks: []check.Result{}, Findings: []check.Finding{},
	}
	limited, cancel := context.WithTimeoutCause(ctx, options.Timeout, fmt.Errorf("the drill took longer than %s (recovery.drill.timeout)", options.Timeout))
	defer cancel()
	err := d.run(limited, report)
	if err != nil && limited.Err() != nil {
		err = context.Cause(limited) // whatever else the end of the time broke
	}
	if removeErr := d.remove(ctx, report); removeErr != nil {
		err = errors.Join(err, removeErr)
	}
	report.Finished = time.Now().UTC()
	judge(report, err)
	return report
}

// judge decides the outcome.
func judge(report *recovery.Report, err error) {
	refused, isRefusal := errors.AsType[refusal](err)
	failed := slices.IndexFunc(report.Queries, func(q recovery.QueryReport) bool { return !q.OK })
	serious := slices.IndexFunc(report.Findings, func(f check.Finding) bool { return f.Severity != check.SeverityInfo })
	unlooked := slices.IndexFunc(report.Checks, func(r check.Result) bool { return r.Outcome == check.OutcomeFailed })
	looked := slices.ContainsFunc(report.Checks, func(r check.Result) bool { return r.Outcome != check.OutcomeSkipped })
	report.Outcome = recovery.OutcomeFailed
	switch {
	case isRefusal:
		report.Outcome, report.Reason = recovery.OutcomeRefused, refused.Error()
	case err != nil && len(report.Problems) > 0:
		report.Reason = fmt.Sprintf("%v; %s", err, report.Problems[0])
	case err != nil && serious >= 0:
		report.Reason = fmt.Sprintf("%v; %s", err, told(report.Findings[serious]))
	case err != nil:
		report.Reason = err.Error()
	case len(report.Problems) > 0:
		report.Reason = fmt.Sprintf("%s (%d problems)", report.Problems[0], len(report.Problems))
	case serious >= 0:
		report.Reason = fmt.Sprintf("%s (%d findings)", told(report.Findings[serious]), len(report.Findings))
	case failed >= 0:
		report.Reason = fmt.Sprintf("the query %s: %s", report.Queries[failed].Name, report.Queries[failed].Message)
	case unlooked >= 0:
		c := report.Checks[unlooked]
		report.Reason = fmt.Sprintf("the check %s could not look at everything in %s: %s", c.Check, c.Database, c.Reason)
	case !looked:
		report.Reason = "no check could look at the restored databases"
	default:
		report.Outcome = recovery.OutcomeProved
	}
	report.Reason = strings.Join(strings.Fields(report.Reason), " ")
}

// told is a finding in one line.
func told(f check.Finding) string { return fmt.Sprintf("%s: %s: %s", f.Check, f.Object(), f.Message) }

// phase runs one phase and notes how long it took.
func (d *drill) phase(report *recovery.Report, name string, do func() error) error {
	began, level := time.Now(), slog.LevelInfo
	if d.options.Begin != nil {
		level = slog.LevelDebug // somebody sees it already
		d.options.Begin(name)
	}
	err := do()
	took := time.Since(began)
	report.Phases = append(report.Phases, recovery.PhaseReport{Phase: name, Seconds: took.Seconds()})
	d.logger.Log(context.Background(), level, "drill", "phase", name, "seconds", fmt.Sprintf("%.1f", took.Seconds()), "ok", err == nil)
	return err
}

func (d *drill) run(ctx context.Context, report *recovery.Report) error {
	var b recovery.Backup
	err := d.phase(report, recovery.PhasePrepare, func() (err error) {
		b, err = d.prepare(ctx, report)
		return err
	})
	if err != nil {
		return err
	}
	ctx, stop := d.watchDisk(ctx)
	defer stop()
	began := time.Now()
	var r restored
	err = d.phase(report, recovery.PhaseRestore, func() (err error) {
		d.pace = recovery.NewPace(d.options.RateLimit)
		r, err = d.restore(ctx, b)
		return err
	})
	report.Bytes, report.Verified, report.Problems = r.bytes, r.verified, append(report.Problems, r.problems...)
	report.Notes = append(report.Notes, r.notes...)
	if report.Verified != nil && report.Verified.Seconds == 0 {
		report.Verified.Seconds = time.Since(began).Seconds()
	}
	if err != nil {
		return because(ctx, err)
	}
	var reached recovered
	err = d.phase(report, recovery.PhaseRecover, func() (err error) {
		if d.major == 0 { // a tool restored it: only now is the version known
			if err := d.findServer(ctx); err != nil {
				return err
			}
		}
		reached, err = d.recover(ctx, r)
		return err
	})
	if err != nil && d.server.accepts && ctx.Err() == nil {
		err = errors.Join(err, d.phase(report, recovery.PhaseCheck, func() error { return d.readFiles(ctx, report) }))
	}
	if err != nil {
		return because(ctx, err)
	}
	d.recovered = true
	report.RecoverySeconds = time.Since(began).Seconds()
	if d.options.Keep == "" {
		if err := d.server.relax(); err != nil {
			return fmt.Errorf("the recovered server: %w", err)
		}
	}
	report.ServerVersion, report.Timeline = reached.version, b.Timeline
	if reached.position != 0 {
		report.Position = reached.position.String()
	}
	report.RecoveryPoint = reached.point
	if report.RecoveryPoint == nil && !b.Finished.IsZero() {
		report.RecoveryPoint = &b.Finished
	}
	if objective := d.options.Watched.Objectives.RecoveryTime; objective > 0 && report.RecoverySeconds > objective.Seconds() {
		report.Notes = append(report.Notes, fmt.Sprintf("recovery took %.0f s, the objective is %s", report.RecoverySeconds, objective))
	}
	return because(ctx, d.prove(ctx, b, reached, report))
}

// because gives the reason why a context ended instead of the errors that this
// made.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// prove looks at what was recovered.
func (d *drill) prove(ctx context.Context, b recovery.Backup, reached recovered, report *recovery.Report) error {
	err := d.phase(report, recovery.PhaseCheck, func() error {
		problems, err := d.lost(ctx, b, reached)
		report.Problems = append(report.Problems, problems...)
		return errors.Join(err, d.check(ctx, report))
	})
	if err != nil {
		return err
	}
	if len(d.options.Queries) > 0 {
		_ = d.phase(report, recovery.PhaseQueries, func() error { // how each ended is in the report
			report.Queries = d.query(ctx)
			return nil
		})
	}
	if d.options.Primary != nil && d.options.CompareRows > 0 {
		_ = d.phase(report, recovery.PhaseCompare, func() error { // what could not be compared is in the report
			c := d.compare(ctx)
			report.Comparison = &c.report
			report.Problems = append(report.Problems, c.problems...)
			return nil
		})
	}
	if d.options.Prove != nil {
		target, err := d.server.target()
		if err == nil {
			err = d.options.Prove(ctx, target)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// prepare chooses the backup, and refuses what cannot be done safely.
func (d *drill) prepare(ctx context.Context, report *recovery.Report) (recovery.Backup, error) {
	if err := d.options.Target.Validate(); err != nil {
		return recovery.Backup{}, refusal{err}
	}
	r, err := newRunner(d.options.User)
	if err != nil {
		return recovery.Backup{}, refusal{err}
	}
	if err := d.vacant(); err != nil {
		return recovery.Backup{}, refusal{err}
	}
	removed, err := Clean(d.options.Scratch)
	if err != nil {
		return recovery.Backup{}, refusal{err}
	}
	for _, path := range removed {
		report.Notes = append(report.Notes, "removed what a drill left that was killed: "+path)
	}
	d.inventory = recovery.ReadSettled(ctx, d.options.Watched.Repository)
	b, err := d.choose()
	if err != nil {
		return b, err
	}
	report.Backup, report.Kind = b.Label, b.Kind
	if !b.Finished.IsZero() {
		report.BackupTime = &b.Finished
	}
	if !b.Usable() {
		report.Problems = append(report.Problems, b.Problems...)
		return b, errors.New("the backup cannot be restored")
	}
	if d.scratch, err = newScratch(d.options.Scratch, d.options.Watched.Name, r); err != nil {
		return b, refusal{err}
	}
	d.server = &server{scratch: d.scratch}
	if b.Major != 0 {
		d.major = b.Major
		if d.server.bin, err = findServer(ctx, r, d.options.BinDirectories, b.Major); err != nil {
			return b, refusal{err}
		}
	}
	d.askLiving(ctx)
	return b, d.headroom(b)
}

// choose finds the backup to restore.
func (d *drill) choose() (recovery.Backup, error) {
	if d.inventory.Err != nil {
		return recovery.Backup{}, d.inventory.Err
	}
	var b recovery.Backup
	var err error
	switch {
	case d.options.Backup != "":
		b, err = d.inventory.Find(d.options.Backup)
		if err != nil {
			return b, refusal{err}
		}
	case d.options.Target.Time != "" || !d.options.Before.IsZero():
		b, err = d.before()
	default:
		b, err = d.inventory.Newest()
	}
	if err == nil && b.Kind == recovery.KindLogical {
		return b, refusal{errors.New("a dump of pg_dump is no physical backup: restore it with pg_restore into a new cluster; here only its completeness is watched")}
	}
	return b, err
}

// before is the newest backup that was finished before the target time, or
// before the time that is asked for.
func (d *drill) before() (recovery.Backup, error) {
	moment := d.options.Before
	if d.options.Target.Time != "" {
		var err error
		if moment, err = d.options.Target.moment(); err != nil {
			return recovery.Backup{}, refusal{err}
		}
	}
	if b, ok := d.inventory.Before(moment); ok {
		return b, nil
	}
	return recovery.Backup{}, refusal{fmt.Errorf("no backup was finished before %s", moment.Format(time.RFC3339))}
}

// findServer reads the version of what was restored and finds its programs.
func (d *drill) findServer(ctx context.Context) error {
	content, err := os.ReadFile(filepath.Join(d.scratch.data(), "PG_VERSION"))
	if err != nil {
		return fmt.Errorf("what was restored is no data directory: %w", err)
	}
	if _, err := fmt.Sscan(string(content), &d.major); err != nil {
		return fmt.Errorf("what was restored has the PG_VERSION %q", content)
	}
	d.server.bin, err = findServer(ctx, d.scratch.runner, d.options.BinDirectories, d.major)
	return err
}

// headroom refuses to begin when the scratch file system is too small.
func (d *drill) headroom(b recovery.Backup) error {
	free, err := freeBytes(d.options.Scratch)
	if err != nil {
		return refusal{err}
	}
	need := b.Size
	if need == 0 && b.Path != "" {
		if need, err = treeSize(b.Path); err != nil {
			return refusal{err}
		}
	}
	for _, path := range b.Tablespaces {
		if b.Size == 0 {
			size, err := treeSize(path)
			if err != nil {
				return refusal{err}
			}
			need += size
		}
	}
	if free < need+d.options.MinFree {
		return refusal{fmt.Errorf("the scratch file system at %s has %d MB free, the drill needs %d MB for the backup and leaves %d MB free: choose another with --scratch",
			d.options.Scratch, free>>20, need>>20, d.options.MinFree>>20)}
	}
	return nil
}

func treeSize(path string) (int64, error) {
	var size int64
	err := filepath.WalkDir(path, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return nil
	})
	return size, err
}

func freeBytes(path string) (int64, error) {
	var stat syscall.Statfs_t
	for {
		err := syscall.Statfs(path, &stat)
		if errors.Is(err, fs.ErrNotExist) && path != "/" {
			path = filepath.Dir(path)
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("looking at the scratch file system: %w", err)
		}
		return int64(stat.Bavail) * stat.Bsize, nil
	}
}

// diskInterval is how often the free space is looked at.
const diskInterval = 500 * time.Millisecond

// watchDisk ends the context when the scratch file system gets too full: replay
// may need far more than the backup.
func (d *drill) watchDisk(ctx context.Context) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(diskInterval)
		defer ticker.Stop()
		for {
			select {
			case <-watched.Done():
				return
			case <-ticker.C:
			}
			if free, err := freeBytes(d.scratch.path); err == nil && free < d.options.MinFree {
				cancel(fmt.Errorf("%w: %d MB are free, %d MB must stay so (recovery.drill.min_free)", errFull, free>>20, d.options.MinFree>>20))
				return
			}
		}
	}()
	return watched, func() {
		cancel(nil)
		<-done
	}
}

// askLiving learns from the living server what the restored one must not touch,
// and who can log in. Without it the drill does without.
func (d *drill) askLiving(ctx context.Context) {
	d.living = make(map[string]bool)
	if d.options.Primary == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := d.options.Primary.Connect(ctx, "", pg.Purpose{Name: "drill", StatementTimeout: connectTimeout, LockTimeout: time.Second})
	if err != nil {
		d.logger.Warn("the living server cannot be asked", "err", err)
		return
	}
	defer conn.Close()
	rows, err := conn.Query(ctx, `SELECT 't', pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''
		UNION ALL (SELECT 'r', rolname::text FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 10)`)
	if err != nil {
		return
	}
	for rows.Next() {
		var kind, name string
		if rows.Scan(&kind, &name) != nil {
			continue
		}
		if kind == "r" {
			d.superusers = append(d.superusers, name)
			continue
		}
		d.living[name] = true
		if real, err := filepath.EvalSymlinks(name); err == nil {
			d.living[real] = true
		}
	}
}

// roles are the superusers to try, the likeliest first.
func (d *drill) roles() []string {
	if d.options.Role != "" {
		return []string{d.options.Role}
	}
	return append(slices.Clone(d.superusers), "postgres")
}

// remove ends the server and removes everything but what is to be kept.
func (d *drill) remove(ctx context.Context, report *recovery.Report) error {
	if d.scratch == nil {
		return nil
	}
	return d.phase(report, recovery.PhaseRemove, func() error {
		var err error
		if d.options.Keep != "" && d.recovered && ctx.Err() == nil {
			if err = d.keep(); err == nil {
				report.Kept = d.options.Keep
			}
		}
		if d.server != nil {
			d.server.stop()
		}
		return errors.Join(err, d.scratch.remove())
	})
}
