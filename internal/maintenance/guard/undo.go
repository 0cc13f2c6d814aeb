package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

// takeBack brings the state before back, proves that it is, and decides how the
// run ended. It may run again after it was interrupted: every action looks
// first whether it is still needed.
func (r *run) takeBack(ctx context.Context, why error) {
	reason := oneLine(why)
	r.sayf("taking back: %s", reason)
	if err := r.journal.write(Record{Event: EventUndo, Reason: reason}); err != nil {
		r.options.Logger.Error("what is taken back is not in the journal", "err", err)
	}
	s, err := r.reopen(ctx, "undo")
	if err != nil {
		r.notRolledBackf("%s; the server cannot be used to take it back: %v; when it is back run `pg_integrity_exporter guard resume`", reason, err)
		return
	}
	defer s.Close()
	if err := r.endSessions(ctx, s); err != nil {
		r.notRolledBackf("%s; its sessions cannot be ended: %v", reason, err)
		return
	}
	var problems []string
	if r.permanent {
		problems = append(problems, "it was committed before the damage was seen")
	}
	problems = append(problems, r.undoTables(ctx, s)...)
	problems = append(problems, r.undoSchema(ctx, s)...)
	problems = append(problems, r.undoRows(ctx, s)...)
	problems = append(problems, r.prove(ctx, s)...)
	r.takenBack(reason, problems)
	err = r.journal.write(Record{Event: EventJudged, Outcome: r.report.Outcome, Summary: r.report.Summary})
	if err == nil {
		err = r.unprotect(ctx, s)
	}
	if err != nil {
		r.takenBack(reason, append(problems, oneLine(err)))
	}
	if r.report.Outcome == OutcomeNotRolledBack {
		r.report.Recover = append(r.swapped(ctx, s), r.report.Recover...)
	}
}

// takenBack says how taking back ended.
func (r *run) takenBack(reason string, problems []string) {
	if len(problems) > 0 {
		r.notRolledBackf("%s; not everything could be taken back: %s", reason, strings.Join(problems, "; "))
		return
	}
	r.endf(OutcomeRolledBack, "%s; everything is as it was before", reason)
}

// notRolledBackf ends the run with what somebody has to do.
func (r *run) notRolledBackf(format string, args ...any) {
	r.endf(OutcomeNotRolledBack, format, args...)
	r.report.Recover = r.recoveryCommands()
}

// recoveryCommands are the way back that is left: point-in-time recovery into
// another directory, with the damaged one kept.
func (r *run) recoveryCommands() []string {
	p := r.report.RestorePoint
	if p == nil {
		return []string{"no restore point could be made: restore the newest backup from before " + r.report.Started.Format(time.RFC3339)}
	}
	target, how := "recovery_target_lsn = '"+p.LSN+"'", "--type=lsn --target="+p.LSN
	if p.Name != "" {
		target, how = "recovery_target_name = '"+p.Name+"'", "--type=name --target="+p.Name
	}
	return []string{
		"keep the data directory as it is, and stop backups and WAL from expiring",
		"`pg_integrity_exporter guard recover --into=NEW_DIRECTORY " + r.report.ID + "` restores the repository of the configuration there and proves it; or by hand:",
		"with pgBackRest, into another directory: pgbackrest --stanza=STANZA --pg1-path=NEW_DIRECTORY " + how + " --target-action=pause restore",
		"with a base backup from before " + r.report.Started.Format(time.RFC3339) + ": unpack it into NEW_DIRECTORY, set restore_command, " + target + " and recovery_target_action = 'pause' there, touch NEW_DIRECTORY/recovery.signal, start it on another port",
		"there, compare with what others have committed since: COPY the tables listed under touched, or promote it and switch over",
	}
}

// endSessions ends every session of the run but the one given, and waits until
// they are gone: nothing of the run may go on while it is taken back.
func (r *run) endSessions(ctx context.Context, s session) error {
	r.endProcess()
	deadline := time.Now().Add(time.Minute)
	for {
		var left int
		err := s.QueryRow(ctx, `SELECT count(*)::int FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name LIKE $1 || '%' AND pid <> pg_backend_pid()) x`, pg.GuardApplicationName+" "+r.report.ID).Scan(&left)
		if err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("they do not end")
		}
		wait(ctx, 100*time.Millisecond)
	}
}

// undoSchema runs the inverse actions: what promised more before promises it
// again.
func (r *run) undoSchema(ctx context.Context, s session) (problems []string) {
	now, err := readFacts(ctx, s, s.Facts)
	if err != nil {
		return []string{oneLine(err)}
	}
	weaker := compareFacts(r.baseline.Facts, now, intent{})
	weaker = append(weaker, r.createdIndexes(now)...)
	weaker = append(weaker, droppedIndexes(r.baseline.Facts, now)...)
	weaker = slices.DeleteFunc(weaker, func(w Weakening) bool { return !r.mine(w.Before.Kind) })
	// Indexes and keys before the foreign keys that need them.
	slices.SortStableFunc(weaker, func(a, b Weakening) int { return undoOrder(a) - undoOrder(b) })
	for _, w := range weaker {
		statements := inverse(w)
		if len(statements) == 0 {
			problems = append(problems, fmt.Sprintf("%s %s %s", w.Before.Kind, w.Before.object(), w.Message))
			continue
		}
		for _, sql := range statements {
			if err := r.inverse(ctx, s, sql); err != nil {
				problems = append(problems, fmt.Sprintf("%s: %s", sql, pg.Message(err)))
				break
			}
			r.report.Undone = append(r.report.Undone, sql)
		}
	}
	return problems
}

// inverse runs one inverse action, and tries again when it has to wait for a
// lock.
func (r *run) inverse(ctx context.Context, s session, sql string) error {
	if strings.Contains(sql, "CONCURRENTLY") {
		if err := s.exec(ctx, "SET lock_timeout = 0"); err != nil {
			return err
		}
		defer func() {
			// The session is closed when this fails.
			_ = s.exec(ctx, fmt.Sprintf("SET lock_timeout = %d", r.settings().LockTimeout.Milliseconds()))
		}()
	}
	for attempt := 1; ; attempt++ {
		err := s.exec(ctx, sql)
		if err == nil || !retryable(err) || attempt >= r.settings().LockRetries {
			return err
		}
		wait(ctx, time.Duration(attempt)*retryPause)
	}
}

// createdIndexes are indexes that the script made outside of a transaction and
// that are whole, though the run failed later.
func (r *run) createdIndexes(now []Fact) []Weakening {
	var created []Weakening
	for _, s := range r.statements() {
		c := s.Class
		if !c.NonTransactional || c.Created.Name == "" || !strings.Contains(c.Command, "INDEX") {
			continue
		}
		before := slices.ContainsFunc(r.baseline.Facts, func(f Fact) bool {
			return f.Kind == "index" && f.Name == c.Created.Name && (c.Created.Schema == "" || f.Schema == c.Created.Schema)
		})
		for i, f := range now {
			if !before && f.Kind == "index" && f.Name == c.Created.Name && (c.Created.Schema == "" || f.Schema == c.Created.Schema) && strings.HasPrefix(f.State, "valid") {
				created = append(created, Weakening{Before: Fact{Kind: "index", Schema: f.Schema, Relation: f.Relation, Name: f.Name}, After: &now[i], Kind: "constraint", Message: "was made"})
			}
		}
	}
	return created
}

// droppedIndexes are indexes that are gone though their table is there, and
// that no constraint will bring back.
func droppedIndexes(before, now []Fact) []Weakening {
	keys := make(map[string]bool)
	for _, f := range now {
		keys[f.key()] = true
	}
	var dropped []Weakening
	for _, f := range before {
		if f.Kind != "index" || keys[f.key()] || strings.Contains(f.State, "unique") || !keys[Fact{Kind: "relation", Schema: f.Schema, Relation: f.Relation}.key()] {
			continue
		}
		dropped = append(dropped, Weakening{Before: f, Kind: "constraint", Message: "is gone"})
	}
	return dropped
}

func undoOrder(w Weakening) int {
	switch {
	case w.Before.Kind == "index":
		return 0
	case w.Before.Kind == "column":
		return 1
	case w.Before.Kind == "constraint" && !strings.HasPrefix(w.Before.State, "f"):
		return 2
	case w.Before.Kind == "constraint":
		return 3
	}
	return 4
}

// inverse gives the statements that take a weakening back; none means that
// there are none.
func inverse(w Weakening) []string { //nolint:gocyclo // one case for each kind
	f := w.Before
	name := pgx.Identifier{f.Name}.Sanitize()
	table := "ALTER TABLE " + f.relation()
	on := map[bool]string{true: "ENABLE", false: "DISABLE"}
	switch f.Kind {
	case "index":
		index := pgx.Identifier{f.Schema, f.Name}.Sanitize()
		switch {
		case w.After != nil && f.Definition == "": // new and not valid, or made by a script that failed
			return []string{"DROP INDEX CONCURRENTLY IF EXISTS " + index}
		case w.After != nil:
			return []string{"REINDEX INDEX CONCURRENTLY " + index}
		default:
			return []string{strings.Replace(f.Definition, "INDEX ", "INDEX CONCURRENTLY ", 1)}
		}
	case "constraint":
		add := fmt.Sprintf("%s ADD CONSTRAINT %s %s", table, name, f.Definition)
		switch {
		case f.Definition == "" && w.After != nil: // new and not validated
			return []string{table + " DROP CONSTRAINT " + name}
		case w.After != nil:
			return []string{table + " VALIDATE CONSTRAINT " + name}
		case strings.HasPrefix(f.State, "c") || strings.HasPrefix(f.State, "f"):
			if strings.HasSuffix(f.Definition, "NOT VALID") {
				return []string{add}
			}
			return []string{add + " NOT VALID", table + " VALIDATE CONSTRAINT " + name}
		}
		return []string{add}
	case "column":
		return []string{table + " ALTER COLUMN " + name + " SET NOT NULL"}
	case "trigger", "internal_trigger":
		var statements []string
		if w.After == nil {
			statements = append(statements, f.Definition)
		}
		words := map[string]string{"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA", "D": "DISABLE"}
		return append(statements, fmt.Sprintf("%s %s TRIGGER %s", table, words[f.State], name))
	case "rule":
		var statements []string
		if w.After == nil {
			statements = append(statements, f.Definition)
		}
		words := map[string]string{"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA", "D": "DISABLE"}
		return append(statements, fmt.Sprintf("%s %s RULE %s", table, words[f.State], name))
	case "event_trigger":
		if w.After != nil {
			words := map[string]string{"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA", "D": "DISABLE"}
			return []string{fmt.Sprintf("ALTER EVENT TRIGGER %s %s", name, words[f.State])}
		}
	case "row_security":
		return []string{table + " " + on[f.State == "true"] + " ROW LEVEL SECURITY"}
	case "force_row_security":
		return []string{table + " FORCE ROW LEVEL SECURITY"}
	case "persistence":
		return []string{table + " SET LOGGED"}
	case "autovacuum":
		return []string{table + " RESET (autovacuum_enabled)"}
	case "replica_identity":
		words := map[string]string{"d": "DEFAULT", "f": "FULL"}
		if word, ok := words[f.State]; ok {
			return []string{table + " REPLICA IDENTITY " + word}
		}
	case "publication":
		return []string{fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s", name, f.relation())}
	case "grant":
		grantee, privilege, ok := cutLast(f.Name)
		if grantee != "PUBLIC" {
			grantee = pgx.Identifier{grantee}.Sanitize()
		}
		if ok {
			return []string{fmt.Sprintf("GRANT %s ON TABLE %s TO %s", privilege, f.relation(), grantee)}
		}
	case "sequence":
		return []string{fmt.Sprintf("SELECT setval(%s::regclass, %s)", literal(f.relation()), f.State)}
	case "system_setting":
		if f.State == "" && f.Definition == "" && w.After != nil {
			return []string{"ALTER SYSTEM RESET " + settingName(f.Name), "SELECT pg_reload_conf()"}
		}
		return []string{"ALTER SYSTEM SET " + settingName(f.Name) + " = " + literal(f.State), "SELECT pg_reload_conf()"}
	case "role_setting":
		return undoRoleSetting(w)
	}
	return nil
}

// cutLast cuts at the last space.
func cutLast(text string) (before, after string, ok bool) {
	i := strings.LastIndexByte(text, ' ')
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+1:], true
}

// undoRoleSetting puts ALTER ROLE and ALTER DATABASE ... SET back.
func undoRoleSetting(w Weakening) []string {
	f := w.Before
	var what string
	switch {
	case f.Relation == "" && f.Schema == "":
		what = "ALTER ROLE ALL"
	case f.Relation == "":
		what = "ALTER DATABASE " + pgx.Identifier{f.Schema}.Sanitize()
	default:
		what = "ALTER ROLE " + pgx.Identifier{f.Relation}.Sanitize()
		if f.Schema != "" {
			what += " IN DATABASE " + pgx.Identifier{f.Schema}.Sanitize()
		}
	}
	if f.State == "" && w.After != nil {
		return []string{what + " RESET " + settingName(f.Name)}
	}
	value := literal(f.State)
	if f.Name == "search_path" || strings.HasSuffix(f.Name, "_libraries") {
		value = f.State // a list of names, quoted already
	}
	return []string{what + " SET " + settingName(f.Name) + " = " + value}
}

func settingName(name string) string {
	return pgx.Identifier(strings.Split(name, ".")).Sanitize()
}

// literal is a string as SQL has it, whatever standard_conforming_strings is.
func literal(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		quoted = " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// prove compares with the state before: the schema, the settings, and the rows
// of every table that was read.
func (r *run) prove(ctx context.Context, s session) (problems []string) {
	now, err := readFacts(ctx, s, s.Facts)
	if err != nil {
		return []string{oneLine(err)}
	}
	for _, w := range compareFacts(r.baseline.Facts, now, intent{}) {
		if r.mine(w.Before.Kind) {
			problems = append(problems, fmt.Sprintf("%s %s %s", w.Before.Kind, w.Before.object(), w.Message))
		}
	}
	if len(r.options.Command) > 0 {
		problems = append(problems, r.changedFacts(now)...)
	}
	compared, equal := 0, 0
	for name, f := range r.baseline.Fingerprints {
		tables, err := s.tables(ctx)
		if err != nil {
			return append(problems, oneLine(err))
		}
		i := slices.IndexFunc(tables, func(t table) bool { return t.String() == name })
		if i < 0 {
			continue // told as a fact
		}
		compared++
		a := compareFingerprint(ctx, s, tables[i], f, r.ownWrites(ctx, s, tables[i]))
		switch {
		case a.State == OK && !strings.Contains(a.Message, "the same as before") && len(r.options.Command) > 0 && !r.recorded(tables[i]):
			problems = append(problems, fmt.Sprintf("%s: its rows changed while the command ran, and who changed them is not known (--protect=%s would tell and take them back)", name, name))
		case a.State == OK:
			equal++
		case a.State == Unknown, a.State == Warning, a.State == Failed:
			problems = append(problems, name+": "+a.Message)
		}
	}
	if compared > 0 {
		state := OK
		if equal < compared {
			state = Failed
		}
		r.report.Verification = append(r.report.Verification, Answer{"as before", "", state, fmt.Sprintf("%d of %d tables hold what they held, but for what others wrote", equal, compared)})
	}
	return problems
}

// changedFacts are objects and definitions that are new or different after a
// command failed: nobody knows whether it or somebody else made them.
func (r *run) changedFacts(now []Fact) (problems []string) {
	before := make(map[string]Fact)
	for _, f := range r.baseline.Facts {
		before[f.key()] = f
	}
	for _, f := range now {
		was, known := before[f.key()]
		switch {
		case f.Kind == "sequence" || f.Kind == "internal_trigger" || f.Kind == "trigger" && strings.HasPrefix(f.Name, guardSchema) || f.Kind == "relation" && known:
		case !known:
			problems = append(problems, fmt.Sprintf("%s %s is new", f.Kind, f.object()))
		case was.Definition != f.Definition:
			problems = append(problems, fmt.Sprintf("%s %s is different: %s", f.Kind, f.object(), f.Definition))
		}
		delete(before, f.key())
	}
	for _, f := range before {
		if f.Kind == "column" || f.Kind == "relation" {
			problems = append(problems, fmt.Sprintf("%s %s is gone", f.Kind, f.object()))
		}
	}
	if len(problems) > 5 {
		problems = append(problems[:5], fmt.Sprintf("and %d more changes of the schema", len(problems)-5))
	}
	return problems
}
