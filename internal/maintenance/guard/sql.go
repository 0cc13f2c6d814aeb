package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/maintenance/script"
	"pg_integrity_exporter/internal/pg"
)

const (
	// retryPause is the pause before a statement is tried again; it grows.
	retryPause = 300 * time.Millisecond
	// reconnectPatience is how long the guard waits for a server that went away.
	reconnectPatience = 2 * time.Minute
)

func noRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

// runSteps runs the script.
func (r *run) runSteps(ctx context.Context) error {
	s, err := r.open(ctx, "work")
	if err != nil {
		return err
	}
	defer func() { s.Close() }()
	for i, step := range r.steps {
		if err := r.journal.write(Record{Event: EventStep, Step: i + 1, Text: step.statements[0].Text}); err != nil {
			return err
		}
		if step.transactional {
			err = r.runTransaction(ctx, s, i+1, step)
		} else {
			err = r.runAlone(ctx, s, step.statements[0])
		}
		if err != nil {
			return err
		}
		r.permanent = r.permanent || step.transactional && !step.harmless()
		if err := r.journal.write(Record{Event: EventStepDone, Step: i + 1}); err != nil {
			return err
		}
		if s.IsClosed() {
			if s, err = r.reopen(ctx, "work"); err != nil {
				return err
			}
		}
	}
	return r.verifyAfter(ctx)
}

// reopen opens a session again, as soon as the server is back.
func (r *run) reopen(ctx context.Context, name string) (session, error) {
	deadline := time.Now().Add(reconnectPatience)
	for {
		s, err := r.open(ctx, name)
		if err == nil || time.Now().After(deadline) || ctx.Err() != nil {
			return s, err
		}
		wait(ctx, time.Second)
	}
}

// lineError says which statement failed.
type lineError struct {
	line int
	err  error
}

// Error has the server's own words.
func (e *lineError) Error() string {
	text := fmt.Sprintf("line %d: %s", e.line, pg.Message(e.err))
	if state := pg.SQLState(e.err); state != "" {
		text += " (SQLSTATE " + state + ")"
	}
	return text
}

func (e *lineError) Unwrap() error { return e.err }

// runAlone runs a statement that the server refuses in a transaction. One that
// waits for old transactions must wait: giving up would leave an invalid index.
func (r *run) runAlone(ctx context.Context, s session, statement script.Statement) error {
	r.sayf("line %d: %s", statement.Line, shorten(statement.Text))
	patient := strings.HasSuffix(statement.Class.Command, "CONCURRENTLY")
	if patient {
		if err := s.exec(ctx, "SET lock_timeout = 0"); err != nil {
			return err
		}
		defer func() {
			if !s.IsClosed() {
				// The next statement sets it again if this fails.
				_ = s.exec(context.WithoutCancel(ctx), fmt.Sprintf("SET lock_timeout = %d", r.settings().LockTimeout.Milliseconds()))
			}
		}()
	}
	for attempt := 1; ; attempt++ {
		rows, err := s.command(ctx, statement)
		if err == nil {
			return expectRows(statement, rows)
		}
		if patient || !retryable(err) || attempt >= r.settings().LockRetries || ctx.Err() != nil {
			return &lineError{statement.Line, err}
		}
		r.sayf("line %d: %s, trying again", statement.Line, pg.Message(err))
		wait(ctx, time.Duration(attempt)*retryPause)
	}
}

// runTransaction runs statements in one transaction, verifies what they did,
// and commits.
func (r *run) runTransaction(ctx context.Context, s session, number int, step step) (err error) {
	if err := s.exec(ctx, "BEGIN"); err != nil {
		return err
	}
	defer func() {
		if err == nil || s.IsClosed() {
			return
		}
		if rollback := s.exec(context.WithoutCancel(ctx), "ROLLBACK"); rollback != nil {
			r.options.Logger.Debug("the transaction ended with its session", "err", rollback)
			s.Close()
		}
	}()
	exact, err := r.lockAndRead(ctx, s, step)
	if err != nil {
		return err
	}
	var total int64
	for _, statement := range step.statements {
		rows, err := r.statement(ctx, s, statement)
		if err != nil {
			return err
		}
		if statement.Class.ChangesRows || statement.Class.Opaque {
			total += rows
		}
	}
	if want := r.settings().ExpectRows; want != nil && !want.Contains(total) {
		return fmt.Errorf("%d rows were changed, %s were expected (--expect-rows)", total, want)
	}
	r.sayf("verifying before the commit")
	if err := r.verifyInside(ctx, s, step, exact); err != nil {
		return err
	}
	return r.commit(ctx, s, number)
}

// commit commits; when the connection breaks meanwhile, the server is asked
// how it ended.
func (r *run) commit(ctx context.Context, s session, number int) error {
	var transaction *uint64
	if err := s.QueryRow(ctx, "SELECT pg_current_xact_id_if_assigned()::text::bigint").Scan(&transaction); err != nil {
		return err
	}
	record := Record{Event: EventCommitting, Step: number}
	if transaction != nil {
		record.Transaction = *transaction
	}
	if err := s.exec(ctx, "SET LOCAL synchronous_commit = "+atLeastLocal(ctx, s)); err != nil {
		return err
	}
	if err := r.journal.write(record); err != nil {
		return err
	}
	err := s.exec(context.WithoutCancel(ctx), "COMMIT")
	if err == nil || !lostConnection(err) || transaction == nil {
		return err
	}
	r.sayf("the connection broke during the commit: asking the server how it ended")
	other, again := r.reopen(context.WithoutCancel(ctx), "status")
	if again != nil {
		return fmt.Errorf("the connection broke during the commit and the server is not back: %w", again)
	}
	defer other.Close()
	committed, status := other.committed(ctx, *transaction)
	if status != nil {
		return status
	}
	if !committed {
		return err
	}
	s.Close()
	return nil
}

// atLeastLocal keeps what the session has, but never off: what was reported as
// done must survive a crash.
func atLeastLocal(ctx context.Context, s session) string {
	var value string
	if err := s.QueryRow(ctx, "SELECT current_setting('synchronous_commit')").Scan(&value); err != nil || value == "off" {
		return "local"
	}
	return value
}

// committed asks how a transaction ended; it waits for one that is still open.
func (s session) committed(ctx context.Context, transaction uint64) (bool, error) {
	for {
		var status string
		if err := s.QueryRow(ctx, "SELECT coalesce(pg_xact_status($1::text::xid8), 'unknown')", strconv.FormatUint(transaction, 10)).Scan(&status); err != nil {
			return false, fmt.Errorf("asking how transaction %d ended: %w", transaction, err)
		}
		if status != "in progress" || ctx.Err() != nil {
			return status == "committed", nil //nolint:nilerr // the server answered; a context that ended only stops the waiting
		}
		wait(ctx, 200*time.Millisecond)
	}
}

// statement runs one statement of a transaction within a savepoint, so that
// waiting too long for a lock does not lose what was done before.
func (r *run) statement(ctx context.Context, s session, statement script.Statement) (int64, error) {
	r.sayf("line %d: %s", statement.Line, shorten(statement.Text))
	bare := statement.Class.Control == script.Savepoint || statement.Class.Command == "SET" || statement.Class.Command == "RESET"
	for attempt := 1; ; attempt++ {
		if !bare {
			if err := s.exec(ctx, "SAVEPOINT "+statementPoint); err != nil {
				return 0, err
			}
		}
		rows, err := s.command(ctx, statement)
		if err == nil && !bare {
			err = s.exec(ctx, "RELEASE SAVEPOINT "+statementPoint)
		}
		if err == nil {
			return rows, expectRows(statement, rows)
		}
		if bare || !retryable(err) || attempt >= r.settings().LockRetries || ctx.Err() != nil {
			return 0, &lineError{statement.Line, err}
		}
		if err := s.exec(ctx, "ROLLBACK TO SAVEPOINT "+statementPoint); err != nil {
			return 0, err
		}
		r.sayf("line %d: %s, trying again", statement.Line, pg.Message(err))
		wait(ctx, time.Duration(attempt)*retryPause)
	}
}

// expectRows compares with the comment before the statement.
func expectRows(s script.Statement, rows int64) error {
	if s.Rows != nil && !s.Rows.Contains(rows) {
		return fmt.Errorf("line %d: %s changed %d rows, the comment before it expects %s", s.Line, s.Class.Command, rows, s.Rows)
	}
	return nil
}

// lockAndRead takes the locks that the statements need anyway and writes down
// the rows of tables that must stay the same, so that nobody can change them
// between then and the end. Tables that are too large to be read while they
// are locked have been read before.
func (r *run) lockAndRead(ctx context.Context, s session, step step) (map[string]Fingerprint, error) {
	exact := make(map[string]Fingerprint)
	changed := make(map[uint32]bool)
	for _, statement := range step.statements {
		c := statement.Class
		if c.Command == "DO" || c.Command == "CALL" {
			return exact, nil // nobody knows what else they change
		}
		if c.KeepsRows {
			continue
		}
		for _, name := range c.Relations {
			if t, ok, err := s.find(ctx, name); err == nil && ok {
				changed[t.OID] = true
			}
		}
	}
	for _, statement := range step.statements {
		c := statement.Class
		if !c.KeepsRows || c.Lock.Strength() < script.Share.Strength() {
			continue
		}
		for _, name := range c.Relations {
			t, ok, err := s.find(ctx, name)
			if err != nil || !ok || t.Kind == "m" || changed[t.OID] || t.Bytes > r.settings().LockedLimit {
				continue
			}
			if _, done := exact[t.String()]; done {
				continue
			}
			lock := script.Statement{Line: statement.Line, Text: fmt.Sprintf("LOCK TABLE %s IN %s MODE", t.sql(), c.Lock), Class: script.Class{Command: "LOCK"}}
			if _, err := r.statement(ctx, s, lock); err != nil {
				return nil, err
			}
			f, err := fingerprint(ctx, s, t, nil)
			if err != nil {
				return nil, err
			}
			exact[t.String()] = f
		}
	}
	return exact, nil
}

// verifyInside proves the result before anybody else can see it.
func (r *run) verifyInside(ctx context.Context, s session, step step, exact map[string]Fingerprint) error {
	if err := s.exec(ctx, "SAVEPOINT "+statementPoint+"; SET CONSTRAINTS ALL IMMEDIATE; RELEASE SAVEPOINT "+statementPoint); err != nil {
		return fmt.Errorf("a deferred constraint is broken: %w", err)
	}
	touched, err := s.touched(ctx)
	if err != nil {
		return err
	}
	var tables []table
	for _, t := range touched {
		was, known := r.baseline.Storage[t.String()]
		r.report.Touched = append(r.report.Touched, Touched{
			Relation: t.String(), Lock: t.lock, Rewrote: known && was.OID == t.OID && was.Filenode != t.filenode,
			Inserted: t.own.Inserted, Updated: t.own.Updated, Deleted: t.own.Deleted,
		})
		if t.lock != string(script.ShareUpdateExclusive) {
			tables = append(tables, t.table)
		}
	}
	var answers []Answer
	answers = append(answers, r.verifyFacts(ctx, s)...)
	answers = append(answers, r.verifyEmptied(ctx, s, touched)...)
	var earlier *session
	if other, err := r.open(ctx, "before"); err == nil {
		defer other.Close()
		earlier = &other
	}
	answers = append(answers, r.verifyConstraints(ctx, s, earlier, tables)...)
	answers = append(answers, r.verifyInvariants(ctx, s, r.baseline.Broken)...)
	answers = append(answers, r.verifyRows(ctx, s, step, exact)...)
	answers = append(answers, r.verifyIndexes(ctx, s, tables)...)
	return r.judge(answers)
}

// judge keeps answers, and makes an error of the first that is bad.
func (r *run) judge(answers []Answer) error {
	r.report.Verification = append(r.report.Verification, answers...)
	for _, a := range answers {
		if a.State == Failed {
			return fmt.Errorf("verification failed: %s: %s", strings.TrimSpace(a.Check+" "+a.Object), a.Message)
		}
	}
	return nil
}

// intent is what the script says it wants.
func (r *run) intent() intent {
	meant := intent{named: make(map[string]bool), settings: len(r.steps) > 0}
	for _, t := range r.named {
		meant.named[t.String()] = true
	}
	for _, statement := range r.statements() {
		switch command := statement.Class.Command; {
		case command == "GRANT", command == "REVOKE":
			meant.grants = true
		case command != "ALTER SYSTEM" && command != "SET" && command != "ALTER ROLE" && command != "ALTER DATABASE" && command != "SELECT":
			meant.settings = false
		}
		for _, name := range statement.Class.Relations {
			schema := name.Schema
			if schema == "" {
				// What it named may be gone: it was in the first schema that has it.
				for _, f := range r.baseline.Facts {
					if f.Kind == "relation" && f.Relation == name.Name {
						meant.named[f.Schema+"."+f.Relation] = true
					}
				}
				continue
			}
			meant.named[schema+"."+name.Name] = true
		}
	}
	return meant
}

// verifyFacts compares what the schema and the settings promise.
func (r *run) verifyFacts(ctx context.Context, s session) []Answer {
	now, err := readFacts(ctx, s, s.Facts)
	if err != nil {
		return []Answer{{"schema", "", Failed, oneLine(err)}}
	}
	var answers []Answer
	for _, w := range compareFacts(r.baseline.Facts, now, r.intent()) {
		state, advice := Failed, "; say --allow="+w.Kind+" when that is meant"
		if r.settings().allows(w.Kind) {
			state, advice = Warning, ""
		}
		answers = append(answers, Answer{w.Before.Kind, w.Before.object(), state, w.Message + advice})
	}
	if len(answers) == 0 {
		answers = append(answers, Answer{"schema", "", OK, fmt.Sprintf("%d facts of schema and settings promise no less than before", len(r.baseline.Facts))})
	}
	return answers
}

// verifyEmptied looks for tables that were emptied without being named, as
// TRUNCATE ... CASCADE does.
func (r *run) verifyEmptied(ctx context.Context, s session, touched []touchedTable) []Answer {
	var answers []Answer
	meant := r.intent()
	for _, t := range touched {
		was, known := r.baseline.Storage[t.String()]
		if !known || meant.named[t.String()] || was.OID != t.OID || was.Filenode == t.filenode {
			continue
		}
		var empty bool
		if err := s.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM "+t.sql()+")").Scan(&empty); err != nil {
			answers = append(answers, Answer{"emptied", t.String(), Failed, oneLine(err)})
			return answers
		}
		if !empty {
			continue
		}
		if was.Writes.Inserted == 0 && r.baseline.Fingerprints[t.String()].Rows == 0 && t.Rows <= 0 {
			continue // it never held anything
		}
		state := Failed
		if r.settings().allows("cascade") {
			state = Warning
		}
		answers = append(answers, Answer{"emptied", t.String(), state, "was emptied without being named; say --allow=cascade when that is meant"})
	}
	return answers
}

// verifyRows compares the rows of what must hold the same.
func (r *run) verifyRows(ctx context.Context, s session, step step, exact map[string]Fingerprint) []Answer {
	var answers []Answer
	compare := func(t table, f Fingerprint) {
		answers = append(answers, compareFingerprint(ctx, s, t, f, writes{}))
	}
	done := make(map[string]bool)
	for name, f := range exact {
		if t, ok, err := s.find(ctx, script.Name{Schema: f.Schema, Name: f.Name}); err == nil && ok {
			compare(t, f)
			done[name] = true
		}
	}
	keeps := slices.Clone(r.settings().Unchanged)
	for _, statement := range step.statements {
		if statement.Class.KeepsRows && !slices.ContainsFunc(step.statements, func(s script.Statement) bool { return !s.Class.KeepsRows && s.Class.Command != "SET" }) {
			keeps = append(keeps, statement.Class.Relations...)
		}
	}
	if step.whole() {
		for _, f := range r.baseline.Fingerprints {
			keeps = append(keeps, script.Name{Schema: f.Schema, Name: f.Name})
		}
	}
	for _, name := range keeps {
		t, ok, err := s.find(ctx, name)
		if err != nil || !ok || done[t.String()] {
			continue
		}
		done[t.String()] = true
		if f, ok := r.baseline.Fingerprints[t.String()]; ok {
			compare(t, f)
		}
	}
	return answers
}

// amcheckSQL finds the function that compares an index with its table, and the
// B-tree indexes of a table.
const (
	amcheckSQL = `SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
		JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = 'bt_index_check' AND p.pronargs = 2
		WHERE e.extname = 'amcheck' AND has_function_privilege(p.oid, 'EXECUTE')`
	btreeSQL = `SELECT i.indexrelid, c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
		WHERE i.indrelid = $1::oid AND a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid AND i.indisready`
)

// verifyIndexes compares B-tree indexes with their tables inside the
// transaction, with amcheck where it is installed.
func (r *run) verifyIndexes(ctx context.Context, s session, tables []table) []Answer {
	var schema string
	switch err := s.QueryRow(ctx, amcheckSQL).Scan(&schema); {
	case noRows(err):
		return nil
	case err != nil:
		return []Answer{{"index", "", Unknown, oneLine(err)}}
	}
	type index struct {
		OID  uint32
		Name string
	}
	count := 0
	for _, t := range tables {
		if t.Bytes > r.settings().LockedLimit {
			continue
		}
		rows, err := s.Query(ctx, btreeSQL, t.OID)
		if err != nil {
			return []Answer{{"index", t.String(), Unknown, oneLine(err)}}
		}
		indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[index])
		if err != nil {
			return []Answer{{"index", t.String(), Unknown, oneLine(err)}}
		}
		for _, i := range indexes {
			err := s.aside(ctx, "SET LOCAL lock_timeout = '2s'", func() error {
				return s.exec(ctx, fmt.Sprintf("SELECT %s.bt_index_check(%d::regclass, true)", schema, i.OID))
			})
			if strings.HasPrefix(pg.SQLState(err), "XX") {
				return []Answer{{"index", t.Schema + "." + i.Name, Failed, "does not agree with its table: " + pg.Message(err)}}
			}
			if err != nil {
				return []Answer{{"index", t.Schema + "." + i.Name, Unknown, oneLine(err)}}
			}
			count++
		}
	}
	if count == 0 {
		return nil
	}
	return []Answer{{"index", "", OK, fmt.Sprintf("%d B-tree indexes agree with their tables", count)}}
}

// verifyAfter proves what could not be proved before it was permanent.
func (r *run) verifyAfter(ctx context.Context) error {
	s, err := r.reopen(ctx, "verify")
	if err != nil {
		return err
	}
	defer s.Close()
	changed, err := r.changed(ctx, s)
	if err != nil {
		return err
	}
	alone := len(r.options.Command) > 0 || slices.ContainsFunc(r.steps, func(s step) bool { return !s.transactional })
	if alone {
		r.sayf("verifying %d tables", len(changed))
		answers := r.verifyFacts(ctx, s)
		answers = append(answers, r.verifySystemSettings(ctx, s)...)
		answers = append(answers, r.verifyConstraints(ctx, s, nil, changed)...)
		answers = append(answers, r.verifyInvariants(ctx, s, r.baseline.Broken)...)
		answers = append(answers, r.verifyProtected(ctx, s)...)
		for _, step := range r.steps {
			answers = append(answers, r.verifyRows(ctx, s, step, nil)...)
		}
		if len(r.options.Command) > 0 {
			answers = append(answers, r.verifyCommandRows(ctx, s, changed)...)
		}
		if err := r.judge(answers); err != nil {
			return err
		}
	}
	s.Close()
	answers, _ := r.physical(ctx, changed, r.baseline.Findings)
	return r.judge(answers)
}

// verifySystemSettings looks for lines of the configuration files that the
// server does not accept: it would not start with them.
func (r *run) verifySystemSettings(ctx context.Context, s session) []Answer {
	if !s.Facts.Superuser {
		return nil
	}
	rows, err := s.Query(ctx, "SELECT coalesce(name, ''), error FROM pg_file_settings WHERE error IS NOT NULL AND error NOT LIKE '%cannot be changed without restarting%'")
	if err != nil {
		return []Answer{{"configuration files", "", Unknown, oneLine(err)}}
	}
	var name, problem string
	var answers []Answer
	if _, err := pgx.ForEachRow(rows, []any{&name, &problem}, func() error {
		answers = append(answers, Answer{"configuration files", name, Failed, "the server does not accept the setting: " + problem})
		return nil
	}); err != nil {
		return []Answer{{"configuration files", "", Unknown, oneLine(err)}}
	}
	return answers
}

// changed lists the tables whose files or counters are not what they were, and
// those that the script names.
func (r *run) changed(ctx context.Context, s session) ([]table, error) {
	now, err := readStorage(ctx, s)
	if err != nil {
		return nil, err
	}
	all, err := s.tables(ctx)
	if err != nil {
		return nil, err
	}
	var changed []table
	for _, t := range all {
		was, known := r.baseline.Storage[t.String()]
		is := now[t.String()]
		named := slices.ContainsFunc(r.named, func(n table) bool { return n.OID == t.OID })
		touched := slices.ContainsFunc(r.report.Touched, func(x Touched) bool { return x.Relation == t.String() })
		if known && was == is && !named && !touched {
			continue
		}
		if len(r.options.Command) == 0 && !named && !touched && !slices.ContainsFunc(r.steps, func(s step) bool { return s.whole() }) {
			continue // others' writes
		}
		changed = append(changed, t)
		if !touched {
			r.report.Touched = append(r.report.Touched, Touched{
				Relation: t.String(), Rewrote: known && was.Filenode != is.Filenode,
				Inserted: is.Writes.Inserted - was.Writes.Inserted, Updated: is.Writes.Updated - was.Writes.Updated, Deleted: is.Writes.Deleted - was.Writes.Deleted,
			})
		}
	}
	return changed, nil
}
