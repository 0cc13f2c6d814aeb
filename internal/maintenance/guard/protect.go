package guard

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/maintenance/script"
	"pg_integrity_exporter/internal/pg"
)

// runSetting marks the sessions of the command: the triggers on protected
// tables record what such sessions change, and nothing else.
const runSetting = "pgintegrity.run"

// protectSQL makes the table of changes and the functions that fill it. Rows
// are kept as text, which every type reads back as it was.
const protectSQL = `CREATE SCHEMA ` + guardSchema + `;
CREATE TABLE ` + guardSchema + `.change (id bigint GENERATED ALWAYS AS IDENTITY, relation oid NOT NULL, old text, new text);
CREATE INDEX ON ` + guardSchema + `.change (relation);
CREATE TABLE ` + guardSchema + `.undone (relation oid PRIMARY KEY, conflicts bigint NOT NULL);
CREATE FUNCTION ` + guardSchema + `.record() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET extra_float_digits = 3 SET bytea_output = 'hex' AS $record$
BEGIN
	IF current_setting('` + runSetting + `', true) IS DISTINCT FROM TG_ARGV[0] THEN
		RETURN NULL;
	END IF;
	IF TG_OP = 'TRUNCATE' THEN
		EXECUTE format('INSERT INTO ` + guardSchema + `.change (relation, old) SELECT %s, t::text FROM ONLY %I.%I t', TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME);
	ELSIF TG_OP = 'INSERT' THEN
		INSERT INTO ` + guardSchema + `.change (relation, new) VALUES (TG_RELID, NEW::text);
	ELSIF TG_OP = 'DELETE' THEN
		INSERT INTO ` + guardSchema + `.change (relation, old) VALUES (TG_RELID, OLD::text);
	ELSE
		INSERT INTO ` + guardSchema + `.change (relation, old, new) VALUES (TG_RELID, OLD::text, NEW::text);
	END IF;
	RETURN NULL;
END $record$`

// protectTableSQL puts the triggers on one table. ALWAYS: a command that sets
// session_replication_role is recorded too.
const protectTableSQL = `CREATE TRIGGER ` + guardSchema + `_rows AFTER INSERT OR UPDATE OR DELETE ON %[1]s FOR EACH ROW EXECUTE FUNCTION ` + guardSchema + `.record(%[2]s);
CREATE TRIGGER ` + guardSchema + `_truncate BEFORE TRUNCATE ON %[1]s FOR EACH STATEMENT EXECUTE FUNCTION ` + guardSchema + `.record(%[2]s);
ALTER TABLE %[1]s ENABLE ALWAYS TRIGGER ` + guardSchema + `_rows;
ALTER TABLE %[1]s ENABLE ALWAYS TRIGGER ` + guardSchema + `_truncate`

// maxProtected bounds the tables that are protected without having been named.
const maxProtected = 500

// protect begins to record what the command changes: in the tables that the
// user names, and without names in all of them when they are not too many or
// too large. A program that must keep the rows is not recorded, its result is
// compared. SHARE ROW EXCLUSIVE on each table for a moment, one after the other.
func (r *run) protect(ctx context.Context, s session) error {
	if len(r.options.Command) == 0 {
		return nil
	}
	tables, must, err := r.toProtect(ctx, s)
	if err != nil || len(tables) == 0 {
		return err
	}
	if err := s.exec(ctx, protectSQL); err != nil {
		if pg.SQLState(err) == "42P06" {
			return fmt.Errorf("schema %s exists already: an earlier run left it; when no guard is running drop it with DROP SCHEMA %s CASCADE", guardSchema, guardSchema)
		}
		return fmt.Errorf("preparing to record changes: %w", err)
	}
	if err := r.follow(ctx, s); err != nil {
		return errors.Join(err, r.unprotect(ctx, s))
	}
	for _, t := range tables {
		err := r.inverse(ctx, s, fmt.Sprintf(protectTableSQL, t.sql(), literal(r.report.ID)))
		switch {
		case err == nil:
			r.protected = append(r.protected, t.name().String())
		case must:
			return errors.Join(fmt.Errorf("preparing to record the changes of %s: %w", t, err), r.unprotect(ctx, s))
		default:
			r.report.Preflight = append(r.report.Preflight, Answer{"protection", t.String(), Unknown, "its rows could not be put back: " + pg.Message(err)})
		}
	}
	return nil
}

func (t table) name() script.Name { return script.Name{Schema: t.Schema, Name: t.Name} }

// toProtect lists the tables to record; must says that each of them must be.
func (r *run) toProtect(ctx context.Context, s session) (tables []table, must bool, err error) {
	names := append(slices.Clone(r.settings().Protect), r.settings().Unchanged...)
	if len(names) > 0 || r.settings().NoProtection {
		tables, err = r.protectedTables(ctx, s, names)
		return tables, true, err
	}
	if slices.Contains(keepers, filepath.Base(r.options.Command[0])) {
		return nil, false, nil
	}
	tables, err = r.protectedTables(ctx, s, []script.Name{{Name: "*"}})
	if err != nil {
		return nil, false, err
	}
	var bytes int64
	for _, t := range tables {
		bytes += t.Bytes
	}
	if len(tables) > maxProtected || bytes > r.settings().FingerprintLimit {
		r.report.Preflight = append(r.report.Preflight, Answer{"protection", "", Unknown, fmt.Sprintf("%d tables of %s are too much to record without being named: rows are not put back, name tables with --protect", len(tables), size(bytes))})
		return nil, false, nil
	}
	return tables, false, nil
}

// protectedTables finds tables by name; the name * is every one.
func (r *run) protectedTables(ctx context.Context, s session, names []script.Name) ([]table, error) {
	var tables []table
	seen := make(map[uint32]bool)
	for _, name := range names {
		if name.Schema == "" && name.Name == "*" {
			all, err := s.tables(ctx)
			if err != nil {
				return nil, err
			}
			for _, t := range all {
				if t.Kind == "r" && !seen[t.OID] {
					seen[t.OID] = true
					tables = append(tables, t)
				}
			}
			continue
		}
		t, ok, err := s.find(ctx, name)
		if err != nil {
			return nil, err
		}
		if !ok || t.Kind != "r" {
			return nil, fmt.Errorf("there is no table %s whose changes could be recorded", name)
		}
		if !seen[t.OID] {
			seen[t.OID] = true
			tables = append(tables, t)
		}
	}
	return tables, nil
}

// unprotect removes everything that protect made.
func (r *run) unprotect(ctx context.Context, s session) error {
	if r.report.Task != TaskCommand {
		return nil
	}
	if err := r.inverse(ctx, s, "SET client_min_messages = warning; DROP SCHEMA IF EXISTS "+guardSchema+" CASCADE"); err != nil {
		return fmt.Errorf("removing what recorded the changes: %w (drop it with DROP SCHEMA %s CASCADE)", err, guardSchema)
	}
	return nil
}

// recorded says whether the changes of a table were recorded.
func (r *run) recorded(t table) bool { return slices.Contains(r.protected, t.name().String()) }

// ownWrites are what the command wrote to a protected table, and what the guard
// wrote to take it back.
func (r *run) ownWrites(ctx context.Context, s session, t table) writes {
	var w writes
	if !r.recorded(t) {
		return w
	}
	err := s.QueryRow(ctx, `SELECT count(*) FILTER (WHERE old IS NULL), count(*) FILTER (WHERE old IS NOT NULL AND new IS NOT NULL), count(*) FILTER (WHERE new IS NULL)
		FROM `+guardSchema+`.change WHERE relation = $1::oid`, t.OID).Scan(&w.Inserted, &w.Updated, &w.Deleted)
	if err != nil {
		return writes{}
	}
	return w
}

// verifyProtected looks whether the command changed what it must not.
func (r *run) verifyProtected(ctx context.Context, s session) []Answer {
	if len(r.options.Command) == 0 {
		return nil
	}
	var answers []Answer
	for _, name := range r.settings().Unchanged {
		t, ok, err := s.find(ctx, name)
		if err != nil || !ok {
			answers = append(answers, Answer{"unchanged", name.String(), Failed, "is gone"})
			continue
		}
		w := r.ownWrites(ctx, s, t)
		if own := w.since(writes{}); own > 0 {
			answers = append(answers, Answer{"unchanged", t.String(), Failed, fmt.Sprintf("the command inserted %d, updated %d and deleted %d rows", w.Inserted, w.Updated, w.Deleted)})
		} else {
			answers = append(answers, Answer{"unchanged", t.String(), OK, "the command changed no row"})
		}
	}
	return answers
}

// undoRows takes back what the command changed in protected tables, row by row,
// and leaves what others wrote. All tables together are one transaction, which
// notes that they are done: a guard that resumes must not do it twice.
func (r *run) undoRows(ctx context.Context, s session) (problems []string) {
	if len(r.protected) == 0 {
		return nil
	}
	var tables []table
	for _, name := range r.protected {
		t, ok, err := s.find(ctx, parseName(name))
		if err != nil {
			return []string{oneLine(err)}
		}
		if !ok {
			problems = append(problems, "table "+name+" is gone")
			continue
		}
		var changed bool
		if err := s.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+guardSchema+".change WHERE relation = $1::oid)", t.OID).Scan(&changed); err != nil {
			return []string{oneLine(err)}
		}
		if changed {
			tables = append(tables, t)
		}
	}
	if len(tables) == 0 {
		return problems
	}
	conflicts := 0
	work := func() error {
		if err := s.exec(ctx, "BEGIN; "+strings.ReplaceAll(outputSettings, "lock_timeout = '5s'", "lock_timeout = '30s'")); err != nil {
			return err
		}
		// Triggers and foreign keys shall not run for what never was; without the
		// right to say so they do, and the constraints are validated afterwards.
		if err := s.exec(ctx, "SAVEPOINT replica; SET LOCAL session_replication_role = replica"); err != nil {
			if err := s.exec(ctx, "ROLLBACK TO SAVEPOINT replica; SET CONSTRAINTS ALL DEFERRED"); err != nil {
				return err
			}
		}
		for _, t := range tables {
			left, err := undoTableOnce(ctx, s, t)
			if err != nil {
				return fmt.Errorf("taking back the rows of %s: %w", t, err)
			}
			if left > 0 {
				conflicts++
				problems = append(problems, fmt.Sprintf("%d rows of %s were changed by others after the command had changed them: they were left as others wrote them", left, t))
			}
		}
		return s.exec(ctx, "COMMIT")
	}
	if err := work(); err != nil {
		problems = append(problems, oneLine(err))
		if err := s.exec(ctx, "ROLLBACK"); err != nil {
			problems = append(problems, oneLine(err))
		}
		return problems
	}
	for _, a := range r.verifyConstraints(ctx, s, nil, tables) {
		if a.State == Failed {
			problems = append(problems, a.Object+": "+a.Message)
		}
	}
	r.report.Undone = append(r.report.Undone, fmt.Sprintf("the command's rows in %d protected tables", len(tables)))
	return problems
}

// The rows that the command left in a table and those that it took away, each
// as often as it did: a row that it changed twice counts once.
const (
	addedSQL = `SELECT v, count(*) AS n FROM (SELECT new AS v FROM ` + guardSchema + `.change WHERE relation = %[1]d AND new IS NOT NULL
		EXCEPT ALL SELECT old FROM ` + guardSchema + `.change WHERE relation = %[1]d AND old IS NOT NULL) x GROUP BY v`
	removedSQL = `SELECT old AS v FROM ` + guardSchema + `.change WHERE relation = %[1]d AND old IS NOT NULL
		EXCEPT ALL SELECT new FROM ` + guardSchema + `.change WHERE relation = %[1]d AND new IS NOT NULL`
)

// undoTableOnce is undoTable, or what came of it when the guard died behind it.
func undoTableOnce(ctx context.Context, s session, t table) (left int64, err error) {
	err = s.QueryRow(ctx, "SELECT conflicts FROM "+guardSchema+".undone WHERE relation = $1::oid", t.OID).Scan(&left)
	if !noRows(err) {
		return left, err
	}
	if left, err = undoTable(ctx, s, t); err != nil {
		return left, err
	}
	_, err = s.Exec(ctx, "INSERT INTO "+guardSchema+".undone VALUES ($1::oid, $2)", t.OID, left)
	return left, err
}

// undoTable takes back the changes of one table and counts the rows for which
// that was not possible, because others had changed them since.
func undoTable(ctx context.Context, s session, t table) (left int64, err error) {
	var columns []string
	rows, err := s.Query(ctx, `SELECT attname::text FROM pg_attribute WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum`, t.OID)
	if err != nil {
		return 0, err
	}
	if columns, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return 0, err
	}
	if err := s.exec(ctx, "LOCK TABLE "+t.sql()+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
		return 0, err
	}
	added, removed := fmt.Sprintf(addedSQL, t.OID), fmt.Sprintf(removedSQL, t.OID)
	var wanted, done int64
	if err := s.QueryRow(ctx, "SELECT coalesce(sum(n), 0)::bigint FROM ("+added+") a").Scan(&wanted); err != nil {
		return 0, err
	}
	tag, err := s.Exec(ctx, fmt.Sprintf(`WITH added AS MATERIALIZED (%s),
		found AS MATERIALIZED (SELECT t.ctid AS place, t::text AS v, row_number() OVER (PARTITION BY t::text) AS i FROM ONLY %s t WHERE t::text IN (SELECT v FROM added))
		DELETE FROM ONLY %s t USING found JOIN added USING (v) WHERE t.ctid = found.place AND found.i <= added.n`, added, t.sql(), t.sql()))
	if err != nil {
		return 0, err
	}
	done = tag.RowsAffected()
	left = wanted - done
	if err := s.QueryRow(ctx, "SELECT count(*) FROM ("+removed+") r").Scan(&wanted); err != nil {
		return 0, err
	}
	tag, err = s.Exec(ctx, fmt.Sprintf(`INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM (SELECT v::%s AS t FROM (%s) r) x ON CONFLICT DO NOTHING`,
		t.sql(), list("", columns), list("(t).", columns), t.sql(), removed))
	if err != nil {
		return 0, err
	}
	return max(left, wanted-tag.RowsAffected()), nil
}
