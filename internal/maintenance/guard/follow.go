package guard

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/pg"
)

// followSQL notes the tables that the command makes, and whether others write to
// them: a table that took the place of another can then be taken away again
// without losing what others committed. An event trigger needs a superuser.
var followSQL = strings.NewReplacer("GUARD", guardSchema, "SETTING", runSetting).Replace(`
CREATE TABLE GUARD.made (relation oid PRIMARY KEY);
CREATE TABLE GUARD.written_by_others (relation oid NOT NULL);
CREATE FUNCTION GUARD.others() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $others$
BEGIN
	IF current_setting('SETTING', true) IS DISTINCT FROM TG_ARGV[0] THEN
		INSERT INTO GUARD.written_by_others VALUES (TG_RELID);
	END IF;
	RETURN NULL;
END $others$;
CREATE FUNCTION GUARD.follow() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $follow$
DECLARE
	made record;
BEGIN
	IF current_setting('SETTING', true) IS DISTINCT FROM THIS_ID THEN
		RETURN;
	END IF;
	FOR made IN SELECT c.oid, n.nspname, c.relname FROM pg_event_trigger_ddl_commands() d JOIN pg_class c ON c.oid = d.objid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE d.classid = 'pg_class'::regclass AND c.relkind = 'r' AND c.relpersistence <> 't' AND NOT EXISTS (SELECT FROM GUARD.made m WHERE m.relation = c.oid)
	LOOP
		INSERT INTO GUARD.made VALUES (made.oid);
		EXECUTE format('CREATE TRIGGER GUARD_others AFTER INSERT OR UPDATE OR DELETE ON %I.%I FOR EACH ROW EXECUTE FUNCTION GUARD.others(%L)', made.nspname, made.relname, THIS_ID);
		EXECUTE format('CREATE TRIGGER GUARD_others_truncate BEFORE TRUNCATE ON %I.%I FOR EACH STATEMENT EXECUTE FUNCTION GUARD.others(%L)', made.nspname, made.relname, THIS_ID);
		EXECUTE format('ALTER TABLE %I.%I ENABLE ALWAYS TRIGGER GUARD_others', made.nspname, made.relname);
		EXECUTE format('ALTER TABLE %I.%I ENABLE ALWAYS TRIGGER GUARD_others_truncate', made.nspname, made.relname);
	END LOOP;
END $follow$;
CREATE EVENT TRIGGER GUARD_follow ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO') EXECUTE FUNCTION GUARD.follow();
ALTER EVENT TRIGGER GUARD_follow ENABLE ALWAYS`)

// follow begins to note what tables the command makes.
func (r *run) follow(ctx context.Context, s session) error {
	if !s.Facts.Superuser {
		r.report.Preflight = append(r.report.Preflight, Answer{"protection", "new tables", Unknown, "tables that the command makes, or puts in the place of others, are not taken away again: that needs a superuser"})
		return nil
	}
	if err := s.exec(ctx, strings.ReplaceAll(followSQL, "THIS_ID", literal(r.report.ID))); err != nil {
		return fmt.Errorf("preparing to note new tables: %w", err)
	}
	return nil
}

// newTable is a table that the command made.
type newTable struct {
	OID          uint32
	Schema, Name string
}

// undoTables takes away the tables that the command made, and gives those in
// whose place they were put their names back, unless others have written to them.
func (r *run) undoTables(ctx context.Context, s session) (problems []string) {
	if len(r.options.Command) == 0 {
		return nil
	}
	var following bool
	if err := s.QueryRow(ctx, "SELECT to_regclass('"+guardSchema+".made') IS NOT NULL").Scan(&following); err != nil || !following {
		return nil // nothing was noted
	}
	rows, err := s.Query(ctx, "SELECT c.oid, n.nspname::text, c.relname::text FROM "+guardSchema+".made m JOIN pg_class c ON c.oid = m.relation JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY c.oid DESC")
	if err != nil {
		return []string{oneLine(err)}
	}
	made, err := pgx.CollectRows(rows, pgx.RowToStructByPos[newTable])
	if err != nil {
		return []string{oneLine(err)}
	}
	now, err := readFacts(ctx, s, s.Facts)
	if err != nil {
		return []string{oneLine(err)}
	}
	renames := r.renames(now)
	for _, t := range made {
		name := pgx.Identifier{t.Schema, t.Name}.Sanitize()
		// Each statement sees what was committed before the lock was given.
		statements := append([]string{
			"LOCK TABLE " + name, fmt.Sprintf("DO $$ BEGIN IF EXISTS (SELECT FROM %s.written_by_others WHERE relation = %d) THEN RAISE 'others have written to it since' USING ERRCODE = '55000'; END IF; END $$", guardSchema, t.OID),
			"DROP TABLE " + name,
		}, renames[name]...)
		if err := r.inverse(ctx, s, "BEGIN; "+strings.Join(statements, "; ")+"; COMMIT"); err != nil {
			_ = s.exec(ctx, "ROLLBACK") // the session is closed when this fails
			problems = append(problems, fmt.Sprintf("the command made %s, which stays: %s", name, pg.Message(err)))
			continue
		}
		r.report.Undone = append(r.report.Undone, append([]string{"DROP TABLE " + name}, renames[name]...)...)
	}
	return problems
}

// renames are the statements that give tables their names back, by the name as SQL
// has it.
func (r *run) renames(now []Fact) map[string][]string {
	at := make(map[string]Fact)
	for _, f := range now {
		if f.Kind == "relation" {
			at[f.Definition] = f
		}
	}
	renames := make(map[string][]string)
	for _, f := range r.baseline.Facts {
		moved, there := at[f.Definition]
		if f.Kind != "relation" || !there || moved.relation() == f.relation() {
			continue
		}
		var sql []string
		if moved.Relation != f.Relation {
			sql = append(sql, fmt.Sprintf("ALTER TABLE %s RENAME TO %s", moved.relation(), pgx.Identifier{f.Relation}.Sanitize()))
		}
		if moved.Schema != f.Schema {
			sql = append(sql, fmt.Sprintf("ALTER TABLE %s SET SCHEMA %s", pgx.Identifier{moved.Schema, f.Relation}.Sanitize(), pgx.Identifier{f.Schema}.Sanitize()))
		}
		renames[f.relation()] = sql
	}
	return renames
}

// swapped are the statements for a person to give tables their names back: what
// others have written to those in their place must not get lost.
func (r *run) swapped(ctx context.Context, s session) (told []string) {
	now, err := readFacts(ctx, s, s.Facts)
	if err != nil {
		return nil
	}
	for name, statements := range r.renames(now) {
		told = append(told, "the table that was "+name+" has another name; when the one in its place was renamed or dropped: "+strings.Join(statements, "; ")+"; what others have written to the one in its place is only there")
	}
	return told
}
