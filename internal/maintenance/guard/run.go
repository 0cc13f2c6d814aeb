package guard

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/user"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/maintenance/script"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/recovery"
	"pg_integrity_exporter/internal/state"
)

// guardSchema holds what the guard keeps in the database while a command runs.
const guardSchema = "pgintegrity_guard"

// Options are what a run is about.
type Options struct {
	Target   *pg.Target
	Database string
	Files    *state.Files
	Settings Settings
	// Invariants are the user's rules.
	Invariants []Invariant
	// Policies say which maintenance may run; none is no limit.
	Policies []Policy
	// Repositories are where backups are that could bring back what cannot be
	// rolled back.
	Repositories []recovery.Watched
	// Window says that a maintenance window is open.
	Window bool
	// Statements are the script, or Command the command; the other is empty.
	Statements []script.Statement
	Command    []string
	// What names the script or command for people.
	What string
	// DryRun looks and plans, and changes nothing.
	DryRun bool
	// Progress takes lines for people while it runs.
	Progress io.Writer
	// Checking is told how far the physical checks are; nil is nobody.
	Checking func(check.Result)
	Logger   *slog.Logger
}

// Baseline is how everything was before.
type Baseline struct {
	Facts []Fact `json:"facts"`
	// Fingerprints are of the tables that could be read, by name.
	Fingerprints map[string]Fingerprint `json:"fingerprints"`
	// Storage is the file and the counters of each table, by name.
	Storage map[string]storage `json:"storage"`
	// Broken are invariants that were violated before.
	Broken map[string]bool `json:"broken"`
	// Findings are the fingerprints of what was damaged before.
	Findings map[string]bool `json:"findings"`
}

// storage is where a table is and what was written to it.
type storage struct {
	OID      uint32 `json:"oid"`
	Filenode uint32 `json:"filenode"`
	Writes   writes `json:"writes"`
}

// run is one run of the guard.
type run struct {
	options  Options
	report   Report
	journal  *Journal
	baseline Baseline
	// named are the tables that the script names.
	named []table
	steps []step
	// dataDirectory is the data directory when it is on this host.
	dataDirectory string
	usualErrors   float64
	blockedMost   time.Duration
	// kinds are the kinds of facts that it can have changed outside of a
	// transaction: only these are ever taken back by inverse actions.
	kinds []string
	// protected are the tables whose changes are recorded, as SQL has their names.
	protected []string
	// permanent says that something was committed.
	permanent bool
}

func (r *run) settings() Settings { return r.options.Settings }

// sayf tells people what happens.
func (r *run) sayf(format string, args ...any) {
	if r.options.Progress != nil {
		fmt.Fprintf(r.options.Progress, "%s guard: %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
	}
}

// newID names a run; names sort by time.
func newID() string {
	random := make([]byte, 3)
	_, _ = rand.Read(random)
	return time.Now().UTC().Format("20060102T150405.000") + "-" + hex.EncodeToString(random)
}

// Run runs maintenance under guard. It always ends with a report.
func Run(ctx context.Context, options Options) Report {
	task := TaskSQL
	if len(options.Command) > 0 {
		task = TaskCommand
	}
	if options.Database == "" {
		options.Database = options.Target.Database()
	}
	r := &run{options: options, report: Report{
		Version: 1, ID: newID(), Target: options.Target.Name(), Database: options.Database, Task: task, What: options.What,
		DryRun: options.DryRun, Started: time.Now().UTC(), Preflight: []Answer{}, Plan: []PlanStep{}, Touched: []Touched{}, Verification: []Answer{},
	}}
	r.guarded(ctx)
	return r.report
}

// endf completes the report, once.
func (r *run) endf(outcome Outcome, format string, args ...any) {
	r.report.Outcome = outcome
	r.report.ExitCode = outcome.ExitCode()
	r.report.Summary = fmt.Sprintf(format, args...)
	r.report.Finished = time.Now().UTC()
}

// guarded is the one way through a run.
func (r *run) guarded(ctx context.Context) {
	s, err := r.open(ctx, "")
	if err != nil {
		r.refusef("the server cannot be used: %v (%s)", err, pg.FailureOf(err).Advice())
		return
	}
	defer s.Close()
	if r.steps, err = plan(r.options.Statements, r.settings()); err != nil {
		r.refusef("%v", err)
		return
	}
	r.kinds = kindsOf(r.steps, r.report.Task)
	if !r.options.DryRun {
		if err := r.begin(s); err != nil {
			r.refusef("%v", err)
			return
		}
		defer r.journal.Close() //nolint:errcheck // every record is on disk already
	}
	if refusal := r.preflight(ctx, s); refusal != "" {
		r.refusef("%s", refusal)
		return
	}
	if r.options.DryRun {
		r.endf(OutcomeDone, "nothing was changed: it would run as planned")
		return
	}
	if err := r.prepare(ctx, s); err != nil {
		r.refusef("the state before cannot be written down: %v", err)
		return
	}
	s.Close() // its snapshots and caches shall not stand in anybody's way

	working, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	watching, stopWatching := context.WithCancel(ctx)
	go func() {
		defer close(watched)
		r.watch(watching, cancel)
	}()
	if len(r.options.Command) > 0 {
		err = r.runCommand(working)
	} else {
		err = r.runSteps(working)
	}
	if cause, ok := errors.AsType[*abortError](context.Cause(working)); ok && err != nil {
		err = cause
	} else if err != nil && ctx.Err() != nil {
		err = errors.New("the guard was told to stop")
	}
	stopWatching()
	<-watched
	cancel(nil)
	r.finish(context.WithoutCancel(ctx), err)
}

// refusef ends a run before it changed anything.
func (r *run) refusef(format string, args ...any) {
	r.endf(OutcomeRefused, format, args...)
	r.close()
}

// begin opens the journal.
func (r *run) begin(s session) error {
	runs, err := Runs(r.options.Files)
	if err != nil {
		return err
	}
	for _, other := range runs {
		switch other.Outcome {
		case "":
			return fmt.Errorf("the guard already runs %s (run %s)", other.What, other.ID)
		case OutcomeInterrupted:
			return fmt.Errorf("run %s (%s) was interrupted and nobody knows yet how it ended: run `pg_integrity_exporter guard resume` first", other.ID, other.What)
		case OutcomeDone, OutcomeNotRolledBack, OutcomeRefused, OutcomeRolledBack:
		}
	}
	if r.journal, err = newJournal(r.options.Files, r.report.ID); err != nil {
		return err
	}
	begin := &Begin{
		ID: r.report.ID, Target: r.report.Target, Database: r.report.Database, Task: r.report.Task, What: r.report.What,
		By: userName(), Role: s.Facts.User, Allow: r.settings().Allow, Expect: r.settings().Expect, Kinds: r.kinds,
	}
	for _, step := range r.steps {
		for _, statement := range step.statements {
			if !step.transactional && statement.Class.Created.Name != "" {
				begin.Created = append(begin.Created, statement.Class.Created.String())
			}
		}
	}
	return r.journal.write(Record{Event: EventBegin, Begin: begin})
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// prepare writes down how everything is, and marks the place in the WAL.
func (r *run) prepare(ctx context.Context, s session) error {
	r.sayf("writing down how everything is")
	if err := r.readBaseline(ctx, s); err != nil {
		return err
	}
	if err := writeFile(r.journal.beside(".baseline.json"), r.baseline); err != nil {
		return err
	}
	r.report.RestorePoint = r.restorePoint(ctx, s)
	if err := r.protect(ctx, s); err != nil {
		return err
	}
	return r.journal.write(Record{Event: EventReady, RestorePoint: r.report.RestorePoint, Protected: r.protected})
}

// restorePoint names the place in the WAL where point-in-time recovery would
// stop. Without the right to name it, its position is noted.
func (r *run) restorePoint(ctx context.Context, s session) *RestorePoint {
	name := "pgintegrity_guard_" + r.report.ID
	p := &RestorePoint{Name: name}
	if err := s.QueryRow(ctx, "SELECT pg_create_restore_point($1)::text", name).Scan(&p.LSN); err == nil {
		return p
	}
	p.Name = ""
	if err := s.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&p.LSN); err != nil {
		return nil
	}
	return p
}

// readBaseline reads facts, invariants and fingerprints.
func (r *run) readBaseline(ctx context.Context, s session) (err error) {
	b := &r.baseline
	if b.Facts, err = readFacts(ctx, s, s.Facts); err != nil {
		return err
	}
	if b.Storage, err = readStorage(ctx, s); err != nil {
		return err
	}
	b.Fingerprints = make(map[string]Fingerprint)
	tables, err := r.fingerprinted(ctx, s)
	if err != nil {
		return err
	}
	budget := r.settings().FingerprintLimit
	for _, t := range tables {
		if t.Bytes > budget {
			r.report.Preflight = append(r.report.Preflight, Answer{"fingerprint", t.String(), Unknown, "not read: " + size(t.Bytes) + " is over fingerprint_limit"})
			continue
		}
		budget -= t.Bytes
		f, err := fingerprint(ctx, s, t, nil)
		if err != nil {
			r.report.Preflight = append(r.report.Preflight, Answer{"fingerprint", t.String(), Unknown, oneLine(err)})
			continue
		}
		b.Fingerprints[t.String()] = f
	}
	return nil
}

// fingerprinted lists the tables whose rows are written down: those that the
// script names and those that the user does; of a command, all.
func (r *run) fingerprinted(ctx context.Context, s session) ([]table, error) {
	if len(r.options.Command) > 0 || slices.ContainsFunc(r.steps, func(s step) bool { return s.whole() }) {
		return s.tables(ctx)
	}
	tables := slices.Clone(r.named)
	for _, name := range r.settings().Unchanged {
		t, ok, err := s.find(ctx, name)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("there is no table %s", name)
		}
		if !slices.Contains(tables, t) {
			tables = append(tables, t)
		}
	}
	return tables, nil
}

// storageSQL needs no privilege; ACCESS SHARE on catalogues.
const storageSQL = `SELECT n.nspname::text, c.relname::text, c.oid, coalesce(pg_relation_filenode(c.oid), 0),
		pg_stat_get_tuples_inserted(c.oid), pg_stat_get_tuples_updated(c.oid), pg_stat_get_tuples_deleted(c.oid)
	FROM (SELECT pg_stat_clear_snapshot()) x, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') AND ` + userSchemas

func readStorage(ctx context.Context, q querier) (map[string]storage, error) {
	rows, err := q.Query(ctx, storageSQL)
	if err != nil {
		return nil, fmt.Errorf("reading files and counters of the tables: %w", err)
	}
	defer rows.Close()
	all := make(map[string]storage)
	for rows.Next() {
		var schema, name string
		var st storage
		if err := rows.Scan(&schema, &name, &st.OID, &st.Filenode, &st.Writes.Inserted, &st.Writes.Updated, &st.Writes.Deleted); err != nil {
			return nil, fmt.Errorf("reading files and counters of the tables: %w", err)
		}
		all[schema+"."+name] = st
	}
	return all, rows.Err()
}

// verified is the summary of a run that ended well.
const verified = "done and verified"

// finish decides how the run ended. err is what went wrong; nil is that
// everything was done and verified.
func (r *run) finish(ctx context.Context, err error) {
	if err == nil {
		r.endf(OutcomeDone, verified)
	} else {
		r.takeBack(ctx, err)
	}
	r.close()
}

// close writes the end of the run down.
func (r *run) close() {
	if r.journal == nil {
		return
	}
	if err := r.journal.write(Record{Event: EventEnd, Outcome: r.report.Outcome, Summary: r.report.Summary}); err != nil {
		r.options.Logger.Error("the end of the run is not in its journal", "err", err)
	}
	if err := writeFile(r.journal.beside(".report.json"), r.report); err != nil {
		r.options.Logger.Error("the report of the run is not kept", "err", err)
	}
	event := state.Event{
		Time: r.report.Started, Ended: r.report.Finished, Kind: state.EventGuard, Database: r.report.Database, Source: "guard " + r.report.ID,
		Message: fmt.Sprintf("guard: %s: %s: %s", r.report.What, strings.ReplaceAll(string(r.report.Outcome), "_", " "), r.report.Summary),
		Details: map[string]string{"run": r.report.ID, "task": string(r.report.Task), "outcome": string(r.report.Outcome)},
	}
	if relations := r.relations(); len(relations) > 0 {
		event.Details["relations"] = strings.Join(relations, ", ")
	}
	if err := r.options.Files.Record(event); err != nil {
		r.options.Logger.Error("the run is not in the log of events", "err", err)
	}
	r.count()
}

// maxEventRelations bounds the relations that the event of a run names.
const maxEventRelations = 100

// relations are what the run named or touched.
func (r *run) relations() []string {
	var names []string
	for _, step := range r.report.Plan {
		names = append(names, step.Relations...)
	}
	for _, t := range r.report.Touched {
		names = append(names, t.Relation)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), maxEventRelations)]
}
