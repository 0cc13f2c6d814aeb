package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"pg_integrity_exporter/internal/maintenance/script"
)

// Resume ends a run whose guard died: it finds out how far it came, and either
// verifies what was committed or takes everything back. The options give the
// target, the files and the invariants; what was to be done is in the journal.
func Resume(ctx context.Context, options Options, state RunState) (Report, error) {
	journal, err := openJournal(state.path)
	if err != nil {
		return Report{}, err
	}
	defer journal.Close() //nolint:errcheck // every record is on disk already
	// Between looking and locking somebody else may have resumed it.
	again, err := readRun(state.path)
	if err != nil {
		return Report{}, err
	}
	if !again.Finished.IsZero() {
		return Report{}, fmt.Errorf("run %s has ended meanwhile: %s", again.ID, again.Summary)
	}
	options.Database = again.Database
	options.Settings.Allow = again.Allow
	options.Settings.Expect = again.Expect
	r := &run{options: options, journal: journal, protected: again.protected, report: Report{
		Version: 1, ID: again.ID, Target: again.Target, Database: again.Database, Task: again.Task, What: again.What,
		Started: again.Started, RestorePoint: again.RestorePoint, Preflight: []Answer{}, Plan: []PlanStep{}, Touched: []Touched{}, Verification: []Answer{},
	}}
	if again.Task == TaskCommand {
		r.options.Command = []string{again.What}
	}
	if err := r.resume(ctx, again); err != nil {
		return Report{}, err
	}
	return r.report, nil
}

// Settle notes that somebody has dealt with what a run left that could not be
// rolled back. Nothing is done to the server.
func Settle(state RunState, how string) error {
	if !state.Owed() {
		return fmt.Errorf("run %s has left nothing to settle: %s", state.ID, state.Summary)
	}
	journal, err := openJournal(state.path)
	if err != nil {
		return err
	}
	return errors.Join(journal.write(Record{Event: EventSettled, Reason: how, By: userName()}), journal.Close())
}

func (r *run) resume(ctx context.Context, state RunState) error {
	content, err := os.ReadFile(r.journal.beside(".baseline.json"))
	switch {
	case err == nil:
		if err := json.Unmarshal(content, &r.baseline); err != nil {
			return fmt.Errorf("reading the baseline of the run: %w", err)
		}
	case state.Ready || !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("reading the baseline of the run: %w", err)
	}
	s, err := r.reopen(ctx, "resume")
	if err != nil {
		return err
	}
	defer s.Close()
	if err := r.endSessions(ctx, s); err != nil {
		return err
	}
	if !state.Ready {
		if err := r.unprotect(ctx, s); err != nil {
			return err
		}
		r.endf(OutcomeRolledBack, "the guard died before it changed anything")
		r.close()
		return nil
	}
	if state.judged != nil {
		if err := r.unprotect(ctx, s); err != nil {
			return err
		}
		r.endf(state.judged.Outcome, "%s", state.judged.Summary)
		if r.report.Outcome == OutcomeNotRolledBack {
			r.report.Recover = r.recoveryCommands()
		}
		r.close()
		return nil
	}
	r.kinds = state.Kinds
	for _, name := range state.Created {
		created := parseName(name)
		r.steps = append(r.steps, step{statements: []script.Statement{{Class: script.Class{Command: "CREATE INDEX CONCURRENTLY", NonTransactional: true, Created: created}}}})
	}
	why := errors.New("the guard died while it ran")
	if state.Undoing != "" {
		why = errors.New(state.Undoing + " (the guard died while it took that back)")
	}
	committed, last, err := r.progress(ctx, s, state)
	if err != nil {
		return err
	}
	if committed && last && state.Undoing == "" {
		// Everything was done, and verified as far as that goes before a commit.
		s.Close()
		if err := r.verifyAfterDeath(ctx); err == nil {
			r.endf(OutcomeDone, "the guard died after the commit; verified now")
			r.close()
			return nil
		}
		why = errors.New("the guard died after the commit, and what was committed is not right")
	}
	r.permanent = committed
	r.takeBack(ctx, why)
	r.close()
	return nil
}

// progress says whether a transaction of the run was committed, and whether it
// was the last thing to do.
func (r *run) progress(ctx context.Context, s session, state RunState) (committed, last bool, err error) {
	if len(state.Steps) == 0 {
		return false, false, nil
	}
	final := state.Steps[len(state.Steps)-1]
	switch {
	case final.Event == EventStepDone && state.Task == TaskSQL:
		transactional := false
		for _, record := range state.Steps {
			transactional = transactional || record.Event == EventCommitting && record.Step == final.Step
		}
		return transactional, transactional, nil
	case final.Event == EventCommitting && final.Transaction != 0:
		committed, err = s.committed(ctx, final.Transaction)
		return committed, committed, err
	}
	return false, false, nil
}

// verifyAfterDeath is verifyAfter for a run whose script is not known any more.
func (r *run) verifyAfterDeath(ctx context.Context) error {
	s, err := r.reopen(ctx, "verify")
	if err != nil {
		return err
	}
	defer s.Close()
	now, err := readStorage(ctx, s)
	if err != nil {
		return err
	}
	all, err := s.tables(ctx)
	if err != nil {
		return err
	}
	var changed []table
	for _, t := range all {
		if was, known := r.baseline.Storage[t.String()]; !known || was != now[t.String()] {
			changed = append(changed, t)
		}
	}
	answers := r.verifyConstraints(ctx, s, nil, changed)
	answers = append(answers, r.verifyInvariants(ctx, s, r.baseline.Broken)...)
	if err := r.judge(answers); err != nil {
		return err
	}
	s.Close()
	physical, _ := r.physical(ctx, changed, r.baseline.Findings)
	return r.judge(physical)
}

// parseName reads a name as Name.String writes it.
func parseName(text string) script.Name {
	name, err := script.ParseName(text)
	if err != nil {
		return script.Name{Name: text}
	}
	return name
}
