package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"pg_integrity_exporter/internal/maintenance/script"
)

// Recovery is a cluster that was recovered to the restore point of a run, beside
// the damaged one.
type Recovery struct {
	Run       string `json:"run"`
	Directory string `json:"directory,omitempty"`
	// Damaged is where the damaged cluster is kept whose place Directory is; empty
	// is that it was not touched.
	Damaged string `json:"damaged,omitempty"`
	Backup  string `json:"backup,omitempty"`
	Target  string `json:"recovery_target"`
	// Proved says that it was restored, checked, and holds what was there before
	// the run.
	Proved bool `json:"proved"`
	// Reason says in one line why it is not proved.
	Reason  string   `json:"reason,omitempty"`
	Answers []Answer `json:"answers"`
}

// Summary is the recovery in one line.
func (r Recovery) Summary() string {
	switch {
	case r.Directory == "":
		return "not recovered: " + r.Reason
	case r.Proved && r.Damaged != "":
		return fmt.Sprintf("recovered to %s from the backup %s: it holds what was there before run %s, and is in %s now; the damaged cluster is kept in %s", r.Target, r.Backup, r.Run, r.Directory, r.Damaged)
	case r.Proved && r.Reason != "":
		return fmt.Sprintf("recovered to %s from the backup %s into %s: it holds what was there before run %s, but has NOT taken the place of the damaged one: %s", r.Target, r.Backup, r.Directory, r.Run, r.Reason)
	case r.Proved:
		return fmt.Sprintf("recovered to %s from the backup %s into %s: it holds what was there before run %s", r.Target, r.Backup, r.Directory, r.Run)
	}
	return fmt.Sprintf("recovered to %s from the backup %s into %s, NOT proved: %s", r.Target, r.Backup, r.Directory, r.Reason)
}

// Text is the recovery for people.
func (r Recovery) Text() string {
	var b strings.Builder
	writeAnswers(&b, "recovered", r.Answers)
	b.WriteString("\n" + r.Summary() + "\n")
	if r.Directory == "" {
		return b.String()
	}
	if r.Damaged != "" {
		writeList(&b, "next", []string{
			"start it, unless start_command has: it is on a timeline of its own, so take a full backup at once",
			"what others have committed since " + r.Target + " is only in " + r.Damaged + ": pg_ctl --pgdata=" + r.Damaged + " --options='-p 5433 -c archive_mode=off' start",
			"remove " + r.Damaged + " when nobody needs it any more",
		})
		return b.String()
	}
	writeList(&b, "next", []string{
		"look at it on another port, without archiving: pg_ctl --pgdata=" + r.Directory + " --options='-p 5433 -c archive_mode=off' start",
		"the damaged cluster was not touched and goes on: what others have committed since " + r.Target + " is only there",
		"to take its place: stop what writes, stop the damaged cluster, keep its directory, start this one in its place, take a full backup",
	})
	return b.String()
}

// Recovered compares a server that was recovered to the restore point of a run,
// which is the target of the options, with what the run wrote down before it
// began: the schema and the rows of the tables that it read. What others wrote
// between that and the restore point is a warning.
func Recovered(ctx context.Context, options Options, state RunState) ([]Answer, error) {
	content, err := os.ReadFile(strings.TrimSuffix(state.path, ".jsonl") + ".baseline.json")
	if err != nil {
		return nil, fmt.Errorf("reading the baseline of the run: %w", err)
	}
	options.Database, options.Settings.Expect = state.Database, nil
	r := &run{options: options, report: Report{ID: state.ID}}
	if err := json.Unmarshal(content, &r.baseline); err != nil {
		return nil, fmt.Errorf("reading the baseline of the run: %w", err)
	}
	s, err := r.open(ctx, "recovered")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	answers, err := r.recoveredSchema(ctx, s)
	if err != nil {
		return answers, err
	}
	answers = append(answers, r.recoveredRows(ctx, s)...)
	answers = append(answers, r.verifyInvariants(ctx, s, r.baseline.Broken)...)
	for _, a := range answers {
		if a.State == Failed {
			return answers, fmt.Errorf("it is not what was there before: %s: %s", strings.TrimSpace(a.Check+" "+a.Object), a.Message)
		}
	}
	return answers, nil
}

// recoveredSchema compares facts; the scratch server has settings of its own.
func (r *run) recoveredSchema(ctx context.Context, s session) ([]Answer, error) {
	now, err := readFacts(ctx, s, s.Facts)
	if err != nil {
		return nil, err
	}
	facts := slices.DeleteFunc(slices.Clone(r.baseline.Facts), func(f Fact) bool { return f.Kind == "system_setting" })
	var answers []Answer
	for _, w := range compareFacts(facts, now, intent{}) {
		answers = append(answers, Answer{w.Before.Kind, w.Before.object(), Failed, w.Message})
	}
	if len(answers) == 0 {
		answers = append(answers, Answer{"schema", "", OK, fmt.Sprintf("%d facts of the schema promise no less than before", len(facts))})
	}
	return answers, nil
}

// recoveredRows compares fingerprints.
func (r *run) recoveredRows(ctx context.Context, s session) []Answer {
	var answers []Answer
	for _, before := range r.baseline.Fingerprints {
		name := before.Schema + "." + before.Name
		t, ok, err := s.find(ctx, script.Name{Schema: before.Schema, Name: before.Name})
		if err == nil && !ok {
			err = errors.New("the table is not there")
		}
		var after Fingerprint
		if err == nil {
			after, err = fingerprint(ctx, s, t, &before)
		}
		switch {
		case err != nil:
			answers = append(answers, Answer{"fingerprint", name, Failed, oneLine(err)})
		case after.Digest == before.Digest:
			answers = append(answers, Answer{"fingerprint", name, OK, fmt.Sprintf("%d rows, the same as before (%s)", after.Rows, after.Digest)})
		default:
			answers = append(answers, Answer{"fingerprint", name, Warning, fmt.Sprintf(
				"%d rows, %d before, at least %d are different: right only if others wrote to it between the look and the restore point", after.Rows, before.Rows, after.difference(before))})
		}
	}
	slices.SortFunc(answers, func(a, b Answer) int { return strings.Compare(a.Object, b.Object) })
	return answers
}

// archivePatience is how long the archive may take for the segment with the
// restore point.
const archivePatience = time.Minute

// FlushWAL makes the damaged server, when it still runs, finish the segment of
// WAL that holds the restore point, and waits until that is archived.
func FlushWAL(ctx context.Context, options Options, state RunState) error {
	options.Database = state.Database
	r := &run{options: options, report: Report{ID: state.ID}}
	s, err := r.open(ctx, "archive")
	if err != nil {
		return fmt.Errorf("the server cannot be asked to archive its WAL: %w", err)
	}
	defer s.Close()
	// A switch at the start of a segment does nothing; the one before it is meant.
	if _, err := s.Exec(ctx, "SELECT pg_switch_wal()"); err != nil {
		return fmt.Errorf("the server cannot be asked to archive its WAL: %w", err)
	}
	const archived = `SELECT current_setting('archive_mode') = 'off'
		OR coalesce((SELECT right(last_archived_wal, 16) FROM pg_stat_archiver WHERE last_archived_wal ~ '^[0-9A-F]{24}$'), '') >= right(pg_walfile_name($1::pg_lsn), 16)`
	for deadline := time.Now().Add(archivePatience); ; wait(ctx, 200*time.Millisecond) {
		var done bool
		if err := s.QueryRow(ctx, archived, state.RestorePoint.LSN).Scan(&done); err != nil {
			return fmt.Errorf("asking what is archived: %w", err)
		}
		if done {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("the segment with the restore point at %s is not archived after %s", state.RestorePoint.LSN, archivePatience)
		}
	}
}
