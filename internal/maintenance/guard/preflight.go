package guard

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/datadir"
	"pg_integrity_exporter/internal/maintenance/script"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/recovery"
)

// rewriteRate is how many bytes a second a rewrite is estimated to write.
const rewriteRate = 64 << 20

// before is the part of a run that only looks.
type before struct {
	*run

	s session
	// system is the system identifier of the cluster.
	system uint64
}

// preflight looks whether now is a good moment, and says why not.
func (r *run) preflight(ctx context.Context, s session) (refusal string) {
	b := &before{run: r, s: s}
	r.sayf("looking whether now is a good moment")
	r.dataDirectory = datadir.Here(ctx, s.Conn)
	for _, look := range []func(context.Context) error{
		b.server, b.plan, b.policy, b.hazards, b.activity, b.replication, b.archive, b.recoverable, b.headroom, b.corruption, b.rules,
	} {
		if err := look(ctx); err != nil {
			b.answerf("question", "", Failed, "%s", oneLine(err))
		}
		if refusal := r.refusal(); refusal != "" {
			return refusal // what comes later may be harder on a server that is not well
		}
	}
	return ""
}

// refusal is the first reason not to go on.
func (r *run) refusal() string {
	for _, a := range r.report.Preflight {
		if a.State == Failed {
			return strings.TrimSpace(a.Check+" "+a.Object) + ": " + a.Message
		}
	}
	return ""
}

func (b *before) answerf(name, object string, state State, format string, args ...any) {
	b.report.Preflight = append(b.report.Preflight, Answer{name, object, state, fmt.Sprintf(format, args...)})
}

// busyf is a reason not to begin now that --allow=busy overrides.
func (b *before) busyf(name, object, format string, args ...any) {
	if b.settings().allows("busy") {
		b.answerf(name, object, Warning, format, args...)
		return
	}
	b.answerf(name, object, Failed, format+"; wait, or go on with --allow=busy", args...)
}

// server: it must be a primary that may be written to.
func (b *before) server(ctx context.Context) error {
	if b.s.Facts.InRecovery {
		b.answerf("server", "", Failed, "it is a standby: maintenance runs on the primary")
		return nil
	}
	var readOnly bool
	if err := b.s.QueryRow(ctx, "SELECT current_setting('transaction_read_only')::bool, system_identifier FROM pg_control_system()").Scan(&readOnly, &b.system); err != nil {
		return err
	}
	if readOnly {
		b.answerf("server", "", Failed, "the role or database is read only (default_transaction_read_only)")
		return nil
	}
	if len(b.options.Command) > 0 {
		if _, err := exec.LookPath(b.options.Command[0]); err != nil {
			b.answerf("command", "", Failed, "%v", err)
			return nil
		}
	}
	b.answerf("server", "", OK, "PostgreSQL %s, primary", b.s.Facts.Version)
	return nil
}

// plan finds what the script names and says what each statement will do.
func (b *before) plan(ctx context.Context) error {
	for _, step := range b.steps {
		for _, statement := range step.statements {
			p, err := b.planStatement(ctx, step, statement)
			if err != nil {
				return err
			}
			b.report.Plan = append(b.report.Plan, p)
		}
	}
	if len(b.options.Command) > 0 {
		b.report.Plan = append(b.report.Plan, PlanStep{
			Command: "command", Statement: strings.Join(b.options.Command, " "),
			Undo: "inverse actions for the schema, triggers, constraints, indexes and settings; rows of the tables given with --protect; nothing else",
		})
	}
	return nil
}

func (b *before) planStatement(ctx context.Context, step step, s script.Statement) (PlanStep, error) {
	c := s.Class
	p := PlanStep{
		Line: s.Line, Command: c.Command, Statement: shorten(s.Text), Transactional: step.transactional,
		Lock: string(c.Lock), Blocks: c.Lock.Blocks(), Undo: undoOf(s),
	}
	for _, name := range c.Relations {
		t, ok, err := b.s.find(ctx, name)
		if pg.SQLState(err) == "55P03" {
			return p, b.held(ctx, name)
		}
		if err != nil {
			return p, err
		}
		if !ok {
			p.Note = fmt.Sprintf("%s does not exist yet", name)
			continue
		}
		p.Relations = append(p.Relations, t.String())
		bytes := t.Bytes
		if strings.HasPrefix(c.Command, "REINDEX") {
			if err := b.s.QueryRow(ctx, "SELECT pg_indexes_size($1::oid)", t.OID).Scan(&bytes); err != nil {
				return p, err
			}
		}
		p.Bytes += bytes
		if !slices.Contains(b.named, t) {
			b.named = append(b.named, t)
		}
	}
	switch {
	case c.Rewrites:
		p.Rewrites = writesNewFiles
		p.Seconds = float64(p.Bytes) / rewriteRate
	case c.MayRewrite:
		p.Rewrites = "may write new files"
		p.Seconds = float64(p.Bytes) / rewriteRate
	case strings.HasPrefix(c.Command, "CREATE") && strings.Contains(c.Command, " INDEX"), c.Command == "REFRESH MATERIALIZED VIEW":
		p.Rewrites = "writes a new copy of what changed"
		if strings.HasPrefix(c.Command, "CREATE") {
			p.Rewrites = "writes a new index"
		}
		p.Seconds = float64(p.Bytes) / rewriteRate
	case c.ChangesRows || strings.HasSuffix(c.Command, "CONCURRENTLY"):
		p.Seconds = float64(p.Bytes) / rewriteRate
	}
	if c.Opaque && c.Command != "SELECT" {
		p.Note = "only the server knows what it touches: it is found out while it runs, before the commit"
	}
	return p, nil
}

// writesNewFiles is said of what needs the room for a second copy for sure.
const writesNewFiles = "writes new files"

// held says who holds a table, or is about to, so that it cannot even be looked at.
func (b *before) held(ctx context.Context, name script.Name) error {
	var who string
	err := b.s.QueryRow(ctx, `SELECT coalesce(string_agg(concat_ws(' ', 'process', a.pid, a.usename, nullif(a.application_name, '')), ', '), 'somebody')
		FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.relation = to_regclass($1) AND l.mode = 'AccessExclusiveLock'`, name.String()).Scan(&who)
	if err == nil {
		b.answerf("locks", name.String(), Failed, "%s holds ACCESS EXCLUSIVE on it or waits for that, so that it cannot even be looked at; wait", who)
	}
	return err
}

func shorten(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > 200 {
		return string(runes[:200]) + "..."
	}
	return text
}

// statements lists all statements of the plan.
func (r *run) statements() []script.Statement {
	var all []script.Statement
	for _, step := range r.steps {
		all = append(all, step.statements...)
	}
	return all
}

// hazards refuses statements that are nearly always a mistake.
func (b *before) hazards(context.Context) error {
	for _, s := range b.statements() {
		object := fmt.Sprintf("line %d", s.Line)
		switch {
		case s.Class.NoUndo && !b.settings().allows("no-undo"):
			b.answerf("hazard", object, Failed, "%s cannot be taken back; say --allow=no-undo when that is meant", s.Class.Command)
		case s.Class.Command == "DELETE" && s.Class.NoWhere && s.Rows == nil && b.settings().ExpectRows == nil && !b.settings().allows("no-where"):
			b.answerf("hazard", object, Failed, "DELETE without WHERE removes every row; say --allow=no-where or how many with --expect-rows")
		case s.Class.Command == "UPDATE" && s.Class.NoWhere && s.Rows == nil && b.settings().ExpectRows == nil:
			b.answerf("hazard", object, Warning, "UPDATE without WHERE changes every row; --expect-rows or a comment `-- expect-rows: N` before the statement makes that certain")
		}
	}
	if len(b.options.Invariants)+len(b.settings().Expect) == 0 && slices.ContainsFunc(b.statements(), func(s script.Statement) bool { return s.Class.ChangesRows || s.Class.Opaque }) {
		b.answerf("invariants", "", Warning, "none is configured: whether the new rows are right can only be judged by constraints and by the number of rows")
	}
	return nil
}

// activitySQL lists what stands in the way: old transactions, prepared ones
// included. pg_monitor sees all.
const activitySQL = `SELECT coalesce(pid::text, gid), seconds, what FROM (
		SELECT pid, NULL AS gid, extract(epoch FROM clock_timestamp() - xact_start)::float8, coalesce(usename, backend_type) || ' ' || coalesce(application_name, '') || ' ' || coalesce(state, '')
		FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type IN ('client backend', 'autovacuum worker')
			AND (datname = current_database() OR backend_xmin IS NOT NULL) AND application_name NOT LIKE 'pg_integrity_%'
		UNION ALL SELECT NULL, gid, extract(epoch FROM clock_timestamp() - prepared)::float8, 'prepared transaction of ' || owner FROM pg_prepared_xacts
	) x(pid, gid, seconds, what) WHERE seconds > $1 ORDER BY seconds DESC LIMIT 1`

// queueSQL lists the tables with locks that are waited for, or held by somebody
// who does not step back.
const queueSQL = `SELECT c.relname::text, count(*) FILTER (WHERE NOT l.granted)::int,
		coalesce(max(a.query) FILTER (WHERE a.query LIKE 'autovacuum:%to prevent wraparound%'), '')
	FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_stat_activity a ON a.pid = l.pid
	WHERE l.relation = ANY($1::oid[]) AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.pid <> pg_backend_pid()
	GROUP BY c.relname HAVING count(*) FILTER (WHERE NOT l.granted) > 0 OR max(a.query) FILTER (WHERE a.query LIKE 'autovacuum:%to prevent wraparound%') IS NOT NULL`

// activity: no old transactions and no lock queues in the way.
func (b *before) activity(ctx context.Context) error {
	first, err := readPressure(ctx, b.s.Conn, pg.GuardApplicationName+" "+b.report.ID)
	if err != nil {
		return err
	}
	var who, what string
	var seconds float64
	row := b.s.QueryRow(ctx, activitySQL, b.settings().MaxTransactionAge.Seconds())
	switch err := row.Scan(&who, &seconds, &what); {
	case noRows(err):
		b.answerf("transactions", "", OK, "none is older than %s", b.settings().MaxTransactionAge)
	case err != nil:
		return err
	default:
		b.busyf("transactions", who, "%s has had a transaction open for %s: it holds locks and keeps VACUUM and CONCURRENTLY waiting", strings.TrimSpace(what), time.Duration(seconds*float64(time.Second)).Round(time.Second))
	}
	var oids []uint32
	for _, t := range b.named {
		oids = append(oids, t.OID)
	}
	rows, err := b.s.Query(ctx, queueSQL, oids)
	if err != nil {
		return err
	}
	defer rows.Close()
	free := true
	for rows.Next() {
		var relation, wraparound string
		var waiting int
		if err := rows.Scan(&relation, &waiting, &wraparound); err != nil {
			return err
		}
		free = false
		if wraparound != "" {
			b.busyf("locks", relation, "%s is running, which does not step back for anybody", wraparound)
		} else {
			b.busyf("locks", relation, "%d sessions wait for a lock on it", waiting)
		}
	}
	if free {
		b.answerf("locks", "", OK, "nobody waits for a lock on what is to be touched")
	}
	wait(ctx, 300*time.Millisecond)
	if second, err := readPressure(ctx, b.s.Conn, pg.GuardApplicationName+" "+b.report.ID); err == nil {
		b.usualErrors = 4 * float64(second.rollbacks-first.rollbacks) / second.at.Sub(first.at).Seconds()
	}
	return rows.Err()
}

// replication: standbys near, no slot that was lost.
func (b *before) replication(ctx context.Context) error {
	var standbys, lost int
	var lag int64
	err := b.s.QueryRow(ctx, `SELECT (SELECT count(*)::int FROM pg_stat_replication), coalesce((SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))::bigint FROM pg_stat_replication), 0),
		(SELECT count(*)::int FROM pg_replication_slots WHERE wal_status = 'lost')`).Scan(&standbys, &lag, &lost)
	switch {
	case err != nil:
		return err
	case lag > b.settings().MaxReplicationLag:
		b.busyf("replication", "", "a standby is %s behind", size(lag))
	case lost > 0:
		b.answerf("replication", "", Warning, "%d replication slots have lost WAL that they need", lost)
	default:
		b.answerf("replication", "", OK, "%d standbys, at most %s behind", standbys, size(lag))
	}
	return nil
}

// archive: WAL must reach the archive, or there is no way back to before.
func (b *before) archive(ctx context.Context) error {
	var mode string
	var failing bool
	var age *float64
	err := b.s.QueryRow(ctx, `SELECT current_setting('archive_mode'), coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false),
		extract(epoch FROM clock_timestamp() - last_archived_time)::float8 FROM pg_stat_archiver`).Scan(&mode, &failing, &age)
	if err != nil {
		return err
	}
	limit := b.settings().MaxArchiveAge
	refuse := Warning
	if limit > 0 {
		refuse = Failed
	}
	switch {
	case mode == "off":
		b.answerf("archive", "", refuse, "archive_mode is off: point-in-time recovery to before the maintenance is not possible")
	case failing:
		b.answerf("archive", "", refuse, "the last WAL segment could not be archived: mend archive_command first")
	case limit > 0 && (age == nil || *age > limit.Seconds()):
		b.answerf("archive", "", Failed, "no WAL segment was archived within %s (max_archive_age)", limit)
	default:
		b.answerf("archive", "", OK, "WAL is archived")
	}
	return nil
}

// headroom: a rewrite needs the size of the table once more. Of an index nobody
// knows beforehand how large it will be, only that it is smaller than its table.
func (b *before) headroom(ctx context.Context) error {
	var need, perhaps int64
	for _, p := range b.report.Plan {
		if p.Rewrites == "" || p.Command == "TRUNCATE" { // its new files are empty
			continue
		}
		if p.Rewrites != writesNewFiles {
			perhaps = max(perhaps, p.Bytes)
			continue
		}
		need = max(need, p.Bytes)
		if strings.HasPrefix(p.Command, "REINDEX") {
			continue // its indexes may be anywhere
		}
		if err := b.tablespaces(ctx, p); err != nil {
			return err
		}
	}
	free, _, known := datadir.Space(b.dataDirectory)
	switch {
	case !known:
		b.answerf("disk", "", Unknown, "the data directory is not on this host: see to it that %s are free", size(need))
	case free < need+need/10+b.settings().MinFree:
		b.answerf("disk", "", Failed, "%s are free, %s are needed for new files and %s must stay free (min_free)", size(free), size(need+need/10), size(b.settings().MinFree))
	case free < perhaps+perhaps/10+b.settings().MinFree:
		b.answerf("disk", "", Warning, "%s are free, up to %s may be needed for new files; it is stopped when less than %s are left (min_free)", size(free), size(perhaps+perhaps/10), size(b.settings().MinFree))
	default:
		b.answerf("disk", "", OK, "%s are free, %s are needed for new files", size(free), size(max(need, perhaps)*11/10))
	}
	return nil
}

// tablespaces looks at the room where the tables of a rewrite are, when that is
// not the data directory.
func (b *before) tablespaces(ctx context.Context, p PlanStep) error {
	for _, t := range b.named {
		if !slices.Contains(p.Relations, t.String()) {
			continue
		}
		var location string
		var bytes int64
		err := b.s.QueryRow(ctx, "SELECT coalesce(pg_tablespace_location(nullif(reltablespace, 0)), ''), pg_table_size(oid) FROM pg_class WHERE oid = $1::oid", t.OID).Scan(&location, &bytes)
		if err != nil {
			return err
		}
		if free, _, known := datadir.Space(location); known && free < bytes+bytes/10 {
			b.answerf("disk", location, Failed, "%s are free, %s needs %s for new files", size(free), t, size(bytes+bytes/10))
		}
	}
	return nil
}

// physicalChecks are the checks that find damage in one relation.
func physicalChecks() []check.Check {
	return slices.DeleteFunc(check.All(), func(c check.Check) bool {
		return c.Server || !slices.ContainsFunc(c.Kinds, func(k check.Kind) bool { return k.Class == check.ClassCorruption })
	})
}

// physical runs the physical checks on tables. A finding whose fingerprint is
// known is not new.
func (r *run) physical(ctx context.Context, tables []table, known map[string]bool) (answers []Answer, findings map[string]bool) {
	findings = make(map[string]bool)
	if !r.settings().PhysicalChecks || len(tables) == 0 {
		return nil, findings
	}
	options := check.Options{Checks: physicalChecks(), Databases: []string{r.report.Database}, Jobs: 1, Logger: r.options.Logger, Progress: r.options.Checking}
	for _, t := range tables {
		options.Relations = append(options.Relations, check.RelationName{Schema: t.Schema, Name: t.Name})
	}
	document, err := check.Sweep(ctx, r.options.Target, options)
	if err != nil {
		return []Answer{{"physical", "", Unknown, oneLine(err)}}, findings
	}
	for _, f := range document.Findings {
		findings[f.Fingerprint] = true
		state := Failed
		if known[f.Fingerprint] || f.Severity != check.SeverityCritical {
			state = Warning
		}
		answers = append(answers, Answer{"physical " + f.Check, f.Object(), state, f.Message})
	}
	var looked []string
	for _, c := range document.Checks {
		switch c.Outcome {
		case check.OutcomeOK, check.OutcomeFindings:
			looked = append(looked, c.Check)
		case check.OutcomeFailed, check.OutcomeSkipped:
			answers = append(answers, Answer{"physical " + c.Check, "", Unknown, c.Reason})
		}
	}
	if len(looked) > 0 {
		answers = append(answers, Answer{"physical", "", OK, "looked at " + strconv.Itoa(len(tables)) + " tables with " + strings.Join(looked, ", ")})
	}
	return answers, findings
}

// corruption: nothing that is to be touched may be damaged already: a rewrite
// would lose the evidence, or crash the server.
func (b *before) corruption(ctx context.Context) error {
	answers, findings := b.physical(ctx, b.named, nil)
	b.baseline.Findings = findings
	for i, a := range answers {
		if a.State == Failed {
			answers[i].Message += "; it is damaged already: no maintenance before it is mended, see pg_integrity_exporter check"
		}
	}
	b.report.Preflight = append(b.report.Preflight, answers...)
	return b.knownDamage()
}

// knownDamage is what a running exporter has found and no later look has cleared. A
// script names what it touches, which was just looked at; what a command touches
// nobody knows.
func (b *before) knownDamage() error {
	now := time.Now()
	events, err := b.options.Files.Events(now.AddDate(-1, 0, 0), now)
	if err != nil {
		return err
	}
	for _, d := range recovery.DamagedNow(events) {
		if d.Database != "" && d.Database != b.report.Database {
			continue
		}
		told := fmt.Sprintf("the check %s has found damage since %s, and nobody has mended it", d.Check, d.Found.Format(time.RFC3339))
		if len(b.options.Command) == 0 || b.settings().allows("damaged") {
			b.answerf("known damage", d.Object, Warning, "%s", told)
		} else {
			b.answerf("known damage", d.Object, Failed, "%s; mend it first, or go on with --allow=damaged", told)
		}
	}
	return nil
}

// rules: constraints and invariants must hold, or nobody could say afterwards
// who broke them.
func (b *before) rules(ctx context.Context) error {
	allowed := b.settings().allows("violated")
	for _, a := range b.verifyConstraints(ctx, b.s, nil, b.named) {
		if a.State == Failed {
			a.Message += "; mend that first, or go on with --allow=violated"
			if allowed {
				a.State = Warning
			}
		}
		b.report.Preflight = append(b.report.Preflight, a)
	}
	b.baseline.Broken = make(map[string]bool)
	for _, invariant := range b.options.Invariants {
		ok, evidence, err := b.s.invariant(ctx, invariant)
		switch {
		case err != nil:
			b.answerf("invariant", invariant.Name, Failed, "cannot be evaluated: %s", oneLine(err))
		case !ok && allowed:
			b.baseline.Broken[invariant.Name] = true
			b.answerf("invariant", invariant.Name, Warning, "is violated already: %s", evidence)
		case !ok:
			b.answerf("invariant", invariant.Name, Failed, "is violated already: %s; mend that first, or go on with --allow=violated", evidence)
		default:
			b.answerf("invariant", invariant.Name, OK, "holds")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(Allowances())) {
		if b.settings().allows(name) {
			b.answerf("allowed", name, Warning, "accepted: %s", Allowances()[name])
		}
	}
	return nil
}
