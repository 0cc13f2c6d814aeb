package activity

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"pg_integrity_exporter/internal/check"
	"pg_integrity_exporter/internal/pg"
	"pg_integrity_exporter/internal/secret"
)

// catalogue is what one look found in the target's own database: it shows what
// was too quick to be seen while it ran.
type catalogue struct {
	changed  []file                        // since the look before
	horizon  string                        // transactions from this one on may be new to the next look
	triggers map[string]check.RelationName // disabled ones
	versions map[string]string             // of extensions
	settings string                        // what ALTER SYSTEM wrote
	version  int
}

// file is the file of a table or index. An index stands for its table.
type file struct {
	oid, filenode uint32
	relation      check.RelationName
}

// The files of the relations: all, and those whose row in pg_class was written
// by a transaction from a given one on, so that a look at many relations costs
// little when nothing has changed. ACCESS SHARE on catalogues, no privilege.
const (
	ofInterest = "i.relkind IN ('r', 'm', 'i') AND i.relpersistence <> 't' AND n.nspname !~ '^pg_'"
	filesSQL   = `SELECT i.oid, i.relfilenode FROM pg_class i JOIN pg_namespace n ON n.oid = i.relnamespace WHERE ` + ofInterest + ` ORDER BY i.oid LIMIT $1`
	changedSQL = `SELECT i.oid, i.relfilenode, n.nspname::text, c.relname::text
		FROM (SELECT oid, relfilenode, relkind, relpersistence FROM pg_class WHERE age(xmin) <= age($1::text::xid) OFFSET 0) i
		JOIN pg_class c ON c.oid = coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = i.oid), i.oid)
		JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE ` + ofInterest + ` ORDER BY i.oid LIMIT $2`
	// horizonSQL is the oldest transaction that is under way.
	horizonSQL = "SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::numeric % 4294967296)::text"
)

const (
	triggersSQL = `SELECT n.nspname::text, c.relname::text, t.tgname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE t.tgenabled = 'D' AND n.nspname !~ '^pg_' ORDER BY t.oid LIMIT 1000`
	// What ALTER SYSTEM wrote is seen when it was read; the source is hidden from
	// roles without pg_read_all_settings.
	systemSQL = `SELECT coalesce(string_agg(name || '=' || setting, ' ' ORDER BY name), '') FROM pg_settings WHERE sourcefile LIKE '%postgresql.auto.conf'`
)

// readFiles gives the files of all relations.
func readFiles(ctx context.Context, conn *pg.Conn) (map[uint32]uint32, error) {
	rows, err := conn.Query(ctx, filesSQL, maxRelations)
	if err != nil {
		return nil, fmt.Errorf("reading the files of the relations: %w", err)
	}
	files := make(map[uint32]uint32)
	var oid, filenode uint32
	if _, err := pgx.ForEachRow(rows, []any{&oid, &filenode}, func() error {
		files[oid] = filenode
		return nil
	}); err != nil {
		return nil, fmt.Errorf("reading the files of the relations: %w", err)
	}
	return files, nil
}

// read looks at the catalogue; before is the look before, nil at the first.
func read(ctx context.Context, conn *pg.Conn, before *catalogue) (*catalogue, error) {
	c := &catalogue{triggers: make(map[string]check.RelationName), versions: make(map[string]string), version: conn.Facts.VersionNum}
	if err := conn.QueryRow(ctx, horizonSQL).Scan(&c.horizon); err != nil {
		return nil, fmt.Errorf("asking which transactions are under way: %w", err)
	}
	if before != nil {
		rows, err := conn.Again(ctx, changedSQL, before.horizon, maxRelations)
		if err != nil {
			return nil, fmt.Errorf("reading the files of the relations: %w", err)
		}
		var f file
		if _, err := pgx.ForEachRow(rows, []any{&f.oid, &f.filenode, &f.relation.Schema, &f.relation.Name}, func() error {
			c.changed = append(c.changed, f)
			return nil
		}); err != nil {
			return nil, fmt.Errorf("reading the files of the relations: %w", err)
		}
	}
	var name check.RelationName
	rows, err := conn.Again(ctx, triggersSQL)
	if err != nil {
		return nil, fmt.Errorf("reading disabled triggers: %w", err)
	}
	var trigger string
	if _, err := pgx.ForEachRow(rows, []any{&name.Schema, &name.Name, &trigger}, func() error {
		c.triggers[name.String()+"."+trigger] = name
		return nil
	}); err != nil {
		return nil, fmt.Errorf("reading disabled triggers: %w", err)
	}
	if rows, err = conn.Query(ctx, "SELECT extname::text, extversion FROM pg_extension"); err != nil {
		return nil, fmt.Errorf("reading the versions of extensions: %w", err)
	}
	var extension, version string
	if _, err := pgx.ForEachRow(rows, []any{&extension, &version}, func() error {
		c.versions[extension] = version
		return nil
	}); err != nil {
		return nil, fmt.Errorf("reading the versions of extensions: %w", err)
	}
	if err := conn.QueryRow(ctx, systemSQL).Scan(&c.settings); err != nil {
		return nil, fmt.Errorf("reading the settings of ALTER SYSTEM: %w", err)
	}
	return c, nil
}

// versionKind is the kind of the document that remembers the server's version:
// pg_upgrade replaces the server while nobody is connected.
const versionKind = "server_version"

// catalogue compares with the last look. What is new while a restore runs is
// checked next.
func (w *Watcher) catalogue(ctx context.Context, conn *pg.Conn, restoring bool) error {
	before := w.before
	now, err := read(ctx, conn, before)
	if err != nil {
		return err
	}
	if before == nil || time.Since(w.filenodesRead) > filesInterval {
		if err := w.rememberFiles(ctx, conn); err != nil {
			return err
		}
	}
	w.before = now
	if before == nil {
		w.mu.Lock()
		w.ready = true
		w.mu.Unlock()
		return w.upgraded(now.version)
	}
	database := conn.Facts.Database
	found := changes(before, now, w.filenodes)
	for _, f := range now.changed {
		if _, known := w.filenodes[f.oid]; !known && restoring {
			w.touch(Operation{Kind: Restore, Database: database, Relation: f.relation})
		}
		w.filenodes[f.oid] = f.filenode
	}
	for _, o := range found {
		o.Database, o.Started, o.Fraction, o.source = database, time.Now(), -1, catalogueSource
		w.touch(o)
		w.hold(held{Operation: o, ended: o.Started})
	}
	return nil
}

// catalogueSource is the source of what shows in the catalogue.
const catalogueSource = "the catalogue"

// filesInterval is how often the files of dropped relations are forgotten.
const filesInterval = 10 * time.Minute

// rememberFiles notes the files of all relations. Of those known already it notes
// nothing new: what changed since the look is for the next one to find.
func (w *Watcher) rememberFiles(ctx context.Context, conn *pg.Conn) error {
	files, err := readFiles(ctx, conn)
	if err != nil {
		return err
	}
	for oid := range files {
		if filenode, known := w.filenodes[oid]; known {
			files[oid] = filenode
		}
	}
	w.filenodes, w.filenodesRead = files, time.Now()
	return nil
}

// changes lists what happened between two looks; files are those known before.
func changes(before, now *catalogue, files map[uint32]uint32) []Operation {
	var found []Operation
	rewritten := make(map[check.RelationName]bool)
	for _, f := range now.changed {
		if old, known := files[f.oid]; known && old != f.filenode && !rewritten[f.relation] {
			rewritten[f.relation] = true
			found = append(found, Operation{Kind: Rewrite, Relation: f.relation, Statement: "new files: TRUNCATE, VACUUM FULL, CLUSTER, REINDEX, ALTER TABLE or a repack"})
		}
	}
	for trigger, name := range now.triggers {
		if _, known := before.triggers[trigger]; !known {
			found = append(found, Operation{Kind: DisabledTrigger, Relation: name, Statement: "trigger " + trigger + " was disabled"})
		}
	}
	for extension, version := range now.versions {
		if old, known := before.versions[extension]; known && old != version {
			found = append(found, Operation{Kind: Extension, Statement: fmt.Sprintf("extension %s went from version %s to %s", extension, old, version)})
		}
	}
	if before.settings != now.settings {
		found = append(found, Operation{Kind: AlterSystem, Statement: "ALTER SYSTEM changed settings: " + secret.Mask(now.settings)})
	}
	return found[:min(len(found), maxChanged)]
}

// upgraded tells that the server has another major version than when it was
// last seen.
func (w *Watcher) upgraded(version int) error {
	var old int
	if _, err := w.files.Get(versionKind, "seen", &old); err != nil {
		return err
	}
	if old != 0 && old/10000 != version/10000 {
		w.mu.Lock()
		w.seen[Upgrade]++
		w.mu.Unlock()
		now := time.Now()
		w.tell(Operation{Kind: Upgrade, Started: now, source: "the server's version", Statement: fmt.Sprintf("the server went from version %d to %d", old/10000, version/10000)}, now)
	}
	if old == version {
		return nil
	}
	return w.files.Put(versionKind, "seen", version)
}
